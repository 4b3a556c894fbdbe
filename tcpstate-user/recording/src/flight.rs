//! The flight recorder: the last minutes of events in memory, written on request.

use std::{collections::VecDeque, fs, mem, path::Path};

use tcpstate_core::{
    books::{Accounting, CaptureCost},
    census::Census,
    event::Event,
    names::Names,
    origin::Origin,
    recalled::Recalled,
};

use crate::{
    block::{self, BlockHeader, Decoder, Encoder, EndReason, Kind, MAX_BLOCK_RECORDS},
    header::Metadata,
    memory::Memory,
    names::{self, Cgroups, Namer},
    output::{self, OpenStream, Output, WriteError},
    writer::{RecordingFile, Written},
};

/// The bounds of a flight recorder.
#[derive(Clone, Debug)]
pub struct FlightOptions {
    /// The age up to which events are kept, nanoseconds, back from the newest. A block is dropped when
    /// its newest event is older, so that up to a block's age more is kept.
    pub keep_ns: u64,
    /// The most bytes of memory for the events; the oldest are dropped early rather than exceed it. Up to a
    /// quarter of it keeps the history of the sockets that were there when the events begin.
    pub memory_bytes: u64,
    /// Events in a full block, 1 to [`MAX_BLOCK_RECORDS`].
    pub block_records: usize,
    /// The number of files that are kept: `FILE` and the older `FILE.1` to `FILE.(files - 1)`.
    pub files: u32,
    /// Opens an output that is no regular file.
    pub open_stream: OpenStream,
}

impl Default for FlightOptions {
    fn default() -> Self {
        Self {
            keep_ns: 300_000_000_000,
            memory_bytes: 256 << 20,
            block_records: 16_384,
            files: 1,
            open_stream: output::open_stream,
        }
    }
}

/// Bytes of a name beside its text, roughly. The text may be shared, but is counted in full.
const NAME_BYTES: usize = 48;

/// The least number of blocks in the kept time. A block is closed after that part of it, so that old
/// events do not stay because newer ones are in their block.
const BLOCKS_AT_LEAST: u64 = 64;

/// Keeps the events of the last minutes, compressed.
pub struct FlightRing {
    origin: Origin,
    options: FlightOptions,
    encoder: Encoder,
    namer: Namer,
    pending: Vec<Event>,
    sealed: VecDeque<Sealed>,
    /// The memory of `sealed`.
    sealed_bytes: u64,
    /// Events that were dropped.
    dropped: u64,
    /// The latest time in what was dropped; `None`: nothing was.
    dropped_ns: Option<u64>,
    /// The state of knowledge when `sealed` begins.
    memory: Memory,
    decoder: Decoder,
    /// The events of a block that is dropped.
    unpacked: Vec<Event>,
    newest_ns: u64,
    /// The time of the latest event.
    event_ns: u64,
    /// The time of the latest tick: when a dump ends. A census may have begun later.
    ticked_ns: Option<u64>,
}

/// The books of a capture that has ended, as far as they are known.
type End<'a> = (Option<&'a Accounting>, Option<&'a CaptureCost>);

struct Sealed {
    header: BlockHeader,
    payload: Box<[u8]>,
    /// The names of all cgroups in it: the blocks before it may have been dropped when it is written.
    cgroups: Cgroups,
}

impl Sealed {
    fn memory_bytes(&self) -> u64 {
        let names = self.cgroups.values();
        let names_bytes: usize = names.map(|cgroup| NAME_BYTES + cgroup.bytes()).sum();
        (mem::size_of::<Self>() + self.payload.len() + names_bytes) as u64
    }
}

impl FlightRing {
    /// An empty flight recorder.
    ///
    /// *Errors:* the memory does not hold a block that is being filled and another one.
    pub fn new(origin: &Origin, mut options: FlightOptions) -> Result<Self, WriteError> {
        options.block_records = options.block_records.clamp(1, MAX_BLOCK_RECORDS);
        options.files = options.files.max(1);
        let least = working_bytes(options.block_records)
            + block::max_block_bytes(options.block_records) as u64;
        if options.memory_bytes < least {
            return Err(WriteError::TooLittleMemory {
                memory_bytes: options.memory_bytes,
                least,
            });
        }
        Ok(Self {
            origin: origin.clone(),
            memory: Memory::new(
                origin,
                (options.memory_bytes - working_bytes(options.block_records)) / 4,
            ),
            encoder: Encoder::new().map_err(WriteError::Compress)?,
            namer: Namer::default(),
            pending: Vec::with_capacity(options.block_records),
            options,
            sealed: VecDeque::new(),
            sealed_bytes: 0,
            dropped: 0,
            dropped_ns: None,
            decoder: Decoder::new().map_err(WriteError::Compress)?,
            unpacked: Vec::new(),
            newest_ns: 0,
            event_ns: 0,
            ticked_ns: None,
        })
    }

    /// Also keeps the names of the numbers in the events.
    #[must_use]
    pub fn naming(mut self, names: Names) -> Self {
        self.namer = Namer::new(names);
        self
    }

    /// Takes what was known before the recording that is copied here. It comes before all events.
    pub fn recall(&mut self, recalled: &Recalled) {
        self.memory.recall(recalled);
    }

    /// Takes events.
    pub fn append(&mut self, events: &[Event]) -> Result<(), WriteError> {
        for event in events {
            self.pending.push(*event);
            self.event_ns = self.event_ns.max(event.ts_ns());
            self.newest_ns = self.newest_ns.max(event.ts_ns());
            if self.pending.len() == self.options.block_records || self.pending_is_old() {
                self.seal()?;
            }
        }
        Ok(())
    }

    /// Takes a census.
    pub fn append_census(&mut self, census: &Census) -> Result<(), WriteError> {
        self.newest_ns = self.newest_ns.max(census.begin_ns);
        self.seal()?;
        let encoded = self.encoder.encode_census(census);
        if let Some((header, payload)) = encoded.map_err(WriteError::Compress)? {
            let payload = payload.into();
            let cgroups = names::distinct(census.found.iter().map(|found| found.cgroup));
            self.namer.forget();
            let cgroups = self.namer.learn(&cgroups);
            self.keep(Sealed {
                header,
                payload,
                cgroups,
            });
        }
        Ok(())
    }

    fn pending_is_old(&self) -> bool {
        let age_ns = self
            .pending
            .first()
            .map_or(0, |oldest| self.newest_ns.saturating_sub(oldest.ts_ns()));
        age_ns > self.options.keep_ns / BLOCKS_AT_LEAST
    }

    /// Drops the events that are too old at this time, at which a dump ends that follows.
    pub fn tick(&mut self, now_ns: u64) -> Result<(), WriteError> {
        self.newest_ns = self.newest_ns.max(now_ns);
        self.ticked_ns = Some(now_ns);
        if self.pending_is_old() {
            self.seal()?;
        }
        self.evict();
        Ok(())
    }

    fn seal(&mut self) -> Result<(), WriteError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let (header, payload) = self
            .encoder
            .encode(&self.pending, 0)
            .map_err(WriteError::Compress)?;
        let cgroups = names::distinct(self.pending.iter().map(Event::cgroup));
        self.namer.forget();
        let sealed = Sealed {
            header,
            payload: payload.into(),
            cgroups: self.namer.learn(&cgroups),
        };
        self.pending.clear();
        self.keep(sealed);
        Ok(())
    }

    fn keep(&mut self, sealed: Sealed) {
        self.sealed_bytes += sealed.memory_bytes();
        self.sealed.push_back(sealed);
        self.evict();
    }

    fn evict(&mut self) {
        let oldest_ns = self.newest_ns.saturating_sub(self.options.keep_ns);
        let memory_bytes = self.options.memory_bytes - working_bytes(self.options.block_records);
        while let Some(sealed) = self.sealed.pop_front_if(|sealed| {
            sealed.header.last_ts_ns < oldest_ns
                || self.sealed_bytes + self.memory.bytes() > memory_bytes
        }) {
            self.drop_block(&sealed);
        }
    }

    /// Forgets a block that was taken out.
    fn drop_block(&mut self, sealed: &Sealed) {
        self.sealed_bytes -= sealed.memory_bytes();
        self.dropped += u64::from(sealed.header.count);
        self.dropped_ns = self.dropped_ns.max(Some(sealed.header.last_ts_ns));
        self.remember(sealed);
    }

    /// Takes a block that is dropped into the memory.
    fn remember(&mut self, sealed: &Sealed) {
        let (header, payload) = (&sealed.header, &sealed.payload);
        if header.kind == Kind::CENSUS {
            if let Ok(census) = self.decoder.census(header, payload) {
                self.memory.census(&census);
            }
            return;
        }
        self.unpacked.clear();
        if self
            .decoder
            .decode(header, payload, &mut self.unpacked)
            .is_ok()
        {
            self.memory.events(&self.unpacked);
        }
    }

    /// The number of events that it holds.
    pub fn held(&self) -> u64 {
        self.sealed
            .iter()
            .map(|sealed| u64::from(sealed.header.count))
            .sum::<u64>()
            + self.pending.len() as u64
    }

    /// Monotonic time at which the events begin that it holds: the begin of the capture, until older ones were dropped.
    pub fn begin_ns(&self) -> u64 {
        let started_ns = self.origin.started_ns;
        self.dropped_ns
            .map_or(started_ns, |dropped_ns| dropped_ns.max(started_ns))
    }

    /// Monotonic time at which they end: that of the latest event or tick.
    pub fn end_ns(&self) -> u64 {
        let ticked_ns = self.ticked_ns.unwrap_or(self.origin.started_ns);
        self.event_ns.max(ticked_ns)
    }

    /// The number of events that it has dropped.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Bytes of memory for the events; the block that is being filled counts as full.
    pub fn memory_bytes(&self) -> u64 {
        self.sealed_bytes + self.memory.bytes() + working_bytes(self.options.block_records)
    }

    /// Checks that the events could be written there now, before hours of them are in memory.
    pub fn check(path: &Path, options: &FlightOptions) -> Result<(), WriteError> {
        if !output::is_rotatable(path) {
            // A device or a pipe; or a directory, which is refused.
            return if path.is_dir() {
                Output::create(path, options.open_stream).map(drop)
            } else {
                Ok(())
            };
        }
        let partial = Output::create_partial(path)?;
        fs::remove_file(partial.path()).map_err(|source| WriteError::Create {
            path: partial.path().to_owned(),
            source,
        })
    }

    /// Writes all events to a whole recording, and keeps them. The file appears at once and whole, or not
    /// at all: an earlier one stays until then, and the new one has its mode.
    ///
    /// This is a snapshot of a capture that continues: [`FlightRing::finish`] is for its end.
    pub fn dump(&mut self, path: &Path) -> Result<Written, WriteError> {
        let dumped = self.write_whole(path, None, None);
        dumped.map_err(|error| still_held(error, path))
    }

    /// As [`FlightRing::dump`], to a new file. Whatever exists is not touched, and no link is followed. It ends with the
    /// latest event, which may be later than the latest tick. A file that could not be written whole is removed.
    ///
    /// *Errors:* there is something of this name ([`AlreadyExists`](std::io::ErrorKind::AlreadyExists)), or as of [`FlightRing::dump`].
    pub fn dump_new(&mut self, path: &Path) -> Result<Written, WriteError> {
        self.ticked_ns = Some(self.end_ns());
        let written = self.seal().and_then(|()| {
            let output = Output::create_new(path, None)?;
            self.write(output, None, None).inspect_err(|_| {
                let _ = fs::remove_file(path);
            })
        });
        written.map_err(|error| still_held(error, path))
    }

    /// Writes the events at the end of the capture, with its books. If there is no room for all, as many of the newest
    /// as fit: that is an error too. [`Written::not_written`] is the number of those that were in memory and are lost.
    pub fn finish(
        &mut self,
        path: &Path,
        accounting: Option<&Accounting>,
        cost: Option<&CaptureCost>,
    ) -> (Written, Option<WriteError>) {
        let held = self.held();
        let (mut failure, mut room) = (None, None);
        let written = loop {
            match self.write_whole(path, room, Some((accounting, cost))) {
                Ok(written) => break written,
                Err(error) => {
                    let may_fit = error.is_for_room();
                    failure.get_or_insert(error);
                    room = may_fit.then(|| self.drop_older_half()).flatten();
                    if room.is_none() {
                        break Written::default();
                    }
                }
            }
        };
        let written = Written {
            not_written: held.saturating_sub(written.events),
            ..written
        };
        let failure = failure.map(|error| match error {
            WriteError::Write { source, .. } | WriteError::Create { source, .. } => {
                WriteError::LastDump {
                    path: path.to_owned(),
                    source,
                    written: written.events,
                    not_written: written.not_written,
                }
            }
            other => other,
        });
        (written, failure)
    }

    /// Drops the older half of the blocks. Returns the bytes that are left, `None` if there is nothing.
    fn drop_older_half(&mut self) -> Option<usize> {
        let keep = self.sealed.len() / 2;
        while self.sealed.len() > keep
            && let Some(sealed) = self.sealed.pop_front()
        {
            self.drop_block(&sealed);
        }
        let payloads = self.sealed.iter().map(|sealed| sealed.payload.len());
        (keep > 0).then(|| payloads.sum())
    }

    fn write_whole(
        &mut self,
        path: &Path,
        room: Option<usize>,
        end: Option<End<'_>>,
    ) -> Result<Written, WriteError> {
        self.seal()?;
        if !output::is_rotatable(path) {
            let output = Output::create(path, self.options.open_stream)?;
            return self.write(output, room, end);
        }
        let output = Output::create_partial(path)?;
        let partial = output.path().to_owned();
        let written = self.write(output, room, end).inspect_err(|_| {
            // It is of no use, and takes the space that is missing.
            let _ = fs::remove_file(&partial);
        })?;
        output::shift(path, self.options.files)?;
        fs::rename(&partial, path).map_err(|source| WriteError::Rename {
            from: partial,
            to: path.to_owned(),
            source,
        })?;
        Ok(written)
    }

    /// Writes the recording; at most `room` bytes of it are what was known before the events.
    fn write(
        &mut self,
        output: Output,
        room: Option<usize>,
        end: Option<End<'_>>,
    ) -> Result<Written, WriteError> {
        let beginning = self.memory.encode(room).map_err(WriteError::Compress)?;
        let mut metadata = Metadata::new(&self.origin, 0, self.dropped);
        if self.dropped_ns.is_some() {
            metadata = metadata.beginning_at(self.begin_ns(), beginning.left_out);
        }
        let mut file = RecordingFile::begin(output, &metadata)?;
        self.namer.forget();
        let recalled = names::distinct(beginning.cgroups.iter().copied());
        let mut cgroups = self.namer.learn(&recalled);
        for sealed in &self.sealed {
            let named = sealed.cgroups.iter();
            cgroups.extend(named.map(|(&id, cgroup)| (id, cgroup.clone())));
        }
        file.names(&names::to_blocks(cgroups, file.next_event()))?;
        file.recalled(&beginning)?;
        for sealed in &self.sealed {
            file.block(sealed.header, &sealed.payload)?;
        }
        let reason = if end.is_some() {
            EndReason::Finished
        } else {
            EndReason::Snapshot
        };
        let (accounting, cost) = end.unwrap_or_default();
        file.end(
            reason,
            accounting.copied(),
            cost.copied(),
            Some(self.ticked_ns.unwrap_or(self.newest_ns)),
        )?;
        if end.is_some() {
            // Not during the capture: the kernel's ring buffer would overflow meanwhile.
            file.sync()?;
        }
        Ok(file.add_to(Written::default()))
    }
}

/// The error of a dump: the events are still there.
fn still_held(error: WriteError, path: &Path) -> WriteError {
    match error {
        WriteError::Write { source, .. } | WriteError::Create { source, .. } => WriteError::Dump {
            path: path.to_owned(),
            source,
        },
        other => other,
    }
}

/// Bytes for a block that is being filled and compressed, and for one that is unpacked when it is dropped.
fn working_bytes(block_records: usize) -> u64 {
    (4 * block_records * mem::size_of::<Event>() + 2 * block::max_block_bytes(block_records)) as u64
}
