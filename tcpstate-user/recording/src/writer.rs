//! The writer of a recording, to one file or to a rotation of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tcpstate_core::{
    books::{Accounting, CaptureCost},
    census::Census,
    event::Event,
    names::Names,
    origin::Origin,
    recalled::Recalled,
};

use crate::{
    block::{
        self, BLOCK_HEADER, BlockHeader, Encoder, EndReason, Footer, Kind, MAX_BLOCK_RECORDS,
        MAX_FOOTER,
    },
    header::Metadata,
    memory::{Beginning, Memory},
    names::{self, Namer},
    output::{self, Access, OpenStream, Output, WriteError},
};

/// The choices for writing a recording.
#[derive(Clone, Debug)]
pub struct Options {
    /// Events in a full block, 1 to [`MAX_BLOCK_RECORDS`]. A larger block compresses better: more
    /// events find an earlier one of their own socket in it.
    pub block_records: usize,
    /// The age at which a block is written, full or not, nanoseconds: a crash can lose as much.
    pub max_block_age_ns: u64,
    /// The most bytes of a file.
    pub max_bytes: Option<u64>,
    /// The number of files that are kept: `FILE` and the older `FILE.1` to `FILE.(files - 1)`. 1 is no
    /// rotation: the recording ends when the file has reached its size.
    pub files: u32,
    /// The most bytes of memory for what a rotation's next file begins with: what is known of the sockets that are
    /// there.
    pub recall_bytes: u64,
    /// Opens an output that is no regular file.
    pub open_stream: OpenStream,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            block_records: 16_384,
            max_block_age_ns: 1_000_000_000,
            max_bytes: None,
            files: 1,
            recall_bytes: 128 << 20,
            open_stream: output::open_stream,
        }
    }
}

/// The room for more events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is.
    Left,
    /// The file has reached its size and there is no rotation.
    Full,
}

/// The amounts that have been written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Events, in whole blocks.
    pub events: u64,
    /// Blocks of events.
    pub blocks: u64,
    /// Bytes, all files together.
    pub bytes: u64,
    /// Files begun, including those that a rotation has dropped.
    pub files: u32,
    /// Events that were appended and are in no file: there was no room, or the disk failed.
    pub not_written: u64,
}

/// Writes a recording.
///
/// After an error the file ends with its last whole block; [`Writer::finish`] still tries to append
/// the books.
pub struct Writer {
    path: PathBuf,
    origin: Origin,
    options: Options,
    encoder: Encoder,
    namer: Namer,
    pending: Vec<Event>,
    /// The time at which the oldest pending event was appended.
    pending_since_ns: u64,
    file: RecordingFile,
    /// The history that the next file begins with; `None` if there is no next file.
    memory: Option<Memory>,
    /// The recalled part that is not in the file yet.
    recalled: Option<Memory>,
    /// The latest time in a block that has been written.
    latest_ns: u64,
    /// The amounts in the files before this one.
    before: Written,
    not_written: u64,
    failed: bool,
    /// When the capture ended.
    end_ns: Option<u64>,
}

impl Writer {
    /// Starts a recording at `path`; `-` is standard output.
    ///
    /// A file that exists is overwritten, as `tcpdump -w` does; with a rotation it becomes the first of
    /// the older files. A new file is its owner's alone to read; one in the place of another of the same owner has
    /// that one's mode.
    pub fn create(path: &Path, origin: &Origin, mut options: Options) -> Result<Self, WriteError> {
        options.block_records = options.block_records.clamp(1, MAX_BLOCK_RECORDS);
        options.files = options.files.max(1);
        let metadata = Metadata::new(origin, 0, 0);
        if let Some(max_bytes) = options.max_bytes {
            // The next parts' headers are longer: by the digits of their numbers, and by when they begin.
            let least = (metadata.to_bytes().len()
                + 96
                + block::max_block_bytes(options.block_records)
                + FOOTER_RESERVE) as u64;
            if max_bytes < least {
                return Err(WriteError::TooSmall { max_bytes, least });
            }
        }
        if options.files > 1 && !output::is_rotatable(path) {
            return Err(WriteError::NotRotatable {
                path: path.to_owned(),
            });
        }
        let file = if options.files > 1 {
            next_file(path, options.files, &metadata)?
        } else {
            RecordingFile::begin(Output::create(path, options.open_stream)?, &metadata)?
        };
        Ok(Self {
            path: path.to_owned(),
            origin: origin.clone(),
            memory: (options.files > 1).then(|| Memory::new(origin, options.recall_bytes)),
            recalled: None,
            latest_ns: origin.started_ns,
            encoder: Encoder::new().map_err(WriteError::Compress)?,
            namer: Namer::default(),
            pending: Vec::with_capacity(options.block_records),
            pending_since_ns: 0,
            options,
            file,
            before: Written::default(),
            not_written: 0,
            failed: false,
            end_ns: None,
        })
    }

    /// Also writes the names of the numbers in the events.
    #[must_use]
    pub fn naming(mut self, names: Names) -> Self {
        self.namer = Namer::new(names);
        self
    }

    /// Takes events. `now_ns` is the present time on the clock of the events.
    pub fn append(&mut self, events: &[Event], now_ns: u64) -> Result<Room, WriteError> {
        let mut rest = events;
        while !rest.is_empty() {
            if self.pending.is_empty() {
                self.pending_since_ns = now_ns;
            }
            let room = self.options.block_records - self.pending.len();
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.pending.extend_from_slice(now);
            rest = later;
            if self.pending.len() == self.options.block_records {
                let written = self.flush();
                if !matches!(written, Ok(Room::Left)) {
                    self.not_written += rest.len() as u64;
                    return written;
                }
            }
        }
        self.tick(now_ns)
    }

    /// Takes what was known before the recording that is copied here, or before the part of it.
    pub fn recall(&mut self, recalled: &Recalled) {
        // Only of the sockets that are there when the copy begins something is written: no bound is needed.
        self.recalled
            .get_or_insert_with(|| Memory::new(&self.origin, u64::MAX))
            .recall(recalled);
        if let Some(memory) = &mut self.memory {
            memory.recall(recalled);
        }
    }

    /// Writes what was recalled since the last block.
    fn write_recalled(&mut self) -> Result<(), WriteError> {
        let Some(memory) = self.recalled.take() else {
            return Ok(());
        };
        let room = self.options.max_bytes.map(|bytes| bytes / 4);
        let room = room.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let beginning = memory.encode(room).map_err(WriteError::Compress)?;
        let cgroups = names::distinct(beginning.cgroups.iter().copied());
        let names = names::to_blocks(self.namer.learn(&cgroups), self.file.next_event());
        self.file.names(&names)?;
        self.file.recalled(&beginning)
    }

    /// Takes a census. It keeps its place in the stream.
    pub fn append_census(&mut self, census: &Census) -> Result<Room, WriteError> {
        self.write_recalled()?;
        let written = self.flush();
        if !matches!(written, Ok(Room::Left)) {
            return written;
        }
        let written = self.write_census(census);
        match (&written, &mut self.memory) {
            (Ok(Room::Left), Some(memory)) => memory.census(census),
            (Err(_), _) => self.failed = true,
            _ => {}
        }
        written
    }

    /// Writes the block that is being filled if it is old enough.
    pub fn tick(&mut self, now_ns: u64) -> Result<Room, WriteError> {
        let age_ns = now_ns.saturating_sub(self.pending_since_ns);
        if self.pending.is_empty() || age_ns < self.options.max_block_age_ns {
            return Ok(Room::Left);
        }
        self.flush()
    }

    /// Writes the block that is being filled, full or not.
    pub fn flush(&mut self) -> Result<Room, WriteError> {
        if !self.pending.is_empty() {
            let result = self.write_pending();
            if !matches!(result, Ok(Room::Left)) {
                self.not_written += self.pending.len() as u64;
                self.failed |= result.is_err();
            } else if let Some(memory) = &mut self.memory {
                memory.events(&self.pending);
            }
            self.pending.clear();
            if !matches!(result, Ok(Room::Left)) {
                return result;
            }
        }
        Ok(Room::Left)
    }

    fn write_pending(&mut self) -> Result<Room, WriteError> {
        self.write_recalled()?;
        let (header, _) = self
            .encoder
            .encode(&self.pending, self.file.next_event())
            .map_err(WriteError::Compress)?;
        let cgroups = names::distinct(self.pending.iter().map(Event::cgroup));
        self.write_block(header, &cgroups)
    }

    fn write_census(&mut self, census: &Census) -> Result<Room, WriteError> {
        let encoded = self.encoder.encode_census(census);
        match encoded.map_err(WriteError::Compress)? {
            Some((header, _)) => {
                let cgroups = names::distinct(census.found.iter().map(|found| found.cgroup));
                self.write_block(header, &cgroups)
            }
            None => Ok(Room::Left),
        }
    }

    /// Writes the names of the cgroups in the block that the encoder has just made, and then the block; to
    /// the next file if this one has no room.
    fn write_block(&mut self, header: BlockHeader, cgroups: &[u64]) -> Result<Room, WriteError> {
        let mut names = names::to_blocks(self.namer.learn(cgroups), self.file.next_event());
        if let Some(max_bytes) = self.options.max_bytes {
            let block_bytes = (BLOCK_HEADER + self.encoder.payload().len() + FOOTER_RESERVE) as u64;
            let fits = |file: &RecordingFile, names: &[u8]| {
                file.output.written_bytes() + block_bytes + names.len() as u64 <= max_bytes
            };
            if self.file.ended || !fits(&self.file, &names) {
                if self.options.files == 1 {
                    return Ok(Room::Full);
                }
                self.rotate(max_bytes, block_bytes)?;
                names = names::to_blocks(self.namer.learn(cgroups), self.file.next_event());
                if !fits(&self.file, &names) {
                    names.clear();
                }
            }
        }
        self.file.names(&names)?;
        self.file.block(header, self.encoder.payload())?;
        self.latest_ns = self.latest_ns.max(header.last_ts_ns);
        Ok(Room::Left)
    }

    /// Ends the file and begins the next one with what is known, so that a block of so many bytes fits after it.
    fn rotate(&mut self, max_bytes: u64, block_bytes: u64) -> Result<(), WriteError> {
        self.file
            .end(EndReason::Rotated, None, None, Some(self.latest_ns))?;
        let before = self.file.add_to(self.before);
        let metadata = Metadata::new(&self.origin, before.files, self.file.next_event());
        // Its length with the greatest numbers.
        let metadata_bytes = metadata
            .clone()
            .beginning_at(u64::MAX, u64::MAX)
            .to_bytes()
            .len();
        let free = max_bytes.saturating_sub(block_bytes + metadata_bytes as u64);
        // Most of a file is for what is new: otherwise files would be rotated because of what they begin with.
        let room = usize::try_from(free.min(max_bytes / 4)).unwrap_or(usize::MAX);
        let beginning = match &self.memory {
            Some(memory) => memory.encode(Some(room)).map_err(WriteError::Compress)?,
            None => Beginning::default(),
        };
        let metadata = metadata.beginning_at(self.latest_ns, beginning.left_out);
        self.file = next_file(&self.path, self.options.files, &metadata)?;
        // Not sooner: up to here `written` counts that file by itself.
        self.before = before;
        self.namer.forget();
        let cgroups = names::distinct(beginning.cgroups.iter().copied());
        let names = names::to_blocks(self.namer.learn(&cgroups), self.file.next_event());
        if names.len() + beginning.bytes() <= room {
            self.file.names(&names)?;
        } else {
            self.namer.forget();
        }
        self.file.recalled(&beginning)
    }

    /// Notes the end of the capture, in monotonic nanoseconds, for the file.
    pub const fn ends_at(&mut self, end_ns: u64) {
        self.end_ns = Some(end_ns);
    }

    /// Writes everything that is pending, then the books, and waits for the disk.
    ///
    /// Without `accounting` the file is marked as without books: the capture itself failed.
    pub fn finish(
        &mut self,
        accounting: Option<&Accounting>,
        cost: Option<&CaptureCost>,
    ) -> Result<Written, WriteError> {
        if !self.failed {
            self.write_recalled()?;
            self.flush()?;
        }
        let reason = if self.failed {
            EndReason::WriteError
        } else {
            EndReason::Finished
        };
        self.file
            .end(reason, accounting.copied(), cost.copied(), self.end_ns)?;
        self.file.output.sync()?;
        Ok(self.written())
    }

    /// The amounts that have been written up to now.
    pub fn written(&self) -> Written {
        Written {
            not_written: self.not_written,
            ..self.file.add_to(self.before)
        }
    }

    /// The path of the present file.
    pub fn path(&self) -> &Path {
        self.file.output.path()
    }
}

/// Renames the files of a rotation and begins the next one. Leaves no empty file behind.
fn next_file(path: &Path, files: u32, metadata: &Metadata) -> Result<RecordingFile, WriteError> {
    let access = Access::of(path);
    output::shift(path, files)?;
    let output = Output::create_new(path, access)?;
    RecordingFile::begin(output, metadata).inspect_err(|error| {
        // The file has just been created, and there was no room for the header.
        if matches!(error, WriteError::Write { .. }) {
            let _ = fs::remove_file(path);
        }
    })
}

/// Bytes that are reserved for the footer.
const FOOTER_RESERVE: usize = BLOCK_HEADER + MAX_FOOTER;

/// One file from its header to its footer.
pub(crate) struct RecordingFile {
    output: Output,
    first_event: u64,
    events: u64,
    blocks: u64,
    /// Whether it has its footer.
    ended: bool,
}

impl RecordingFile {
    pub(crate) fn begin(mut output: Output, metadata: &Metadata) -> Result<Self, WriteError> {
        output.write_piece([&metadata.to_bytes(), &[]])?;
        Ok(Self {
            output,
            first_event: metadata.first_event,
            events: 0,
            blocks: 0,
            ended: false,
        })
    }

    /// The number of the event that comes next.
    pub(crate) const fn next_event(&self) -> u64 {
        self.first_event + self.events
    }

    /// Writes blocks of names.
    pub(crate) fn names(&mut self, blocks: &[u8]) -> Result<(), WriteError> {
        if blocks.is_empty() {
            return Ok(());
        }
        self.output.write_piece([blocks, &[]])
    }

    /// Writes what was known before the file begins.
    pub(crate) fn recalled(&mut self, beginning: &Beginning) -> Result<(), WriteError> {
        for (header, payload) in &beginning.blocks {
            self.output
                .write_piece([&header.at(self.next_event()).to_bytes(), payload])?;
        }
        Ok(())
    }

    /// Writes a block of events, or of a census.
    pub(crate) fn block(&mut self, header: BlockHeader, payload: &[u8]) -> Result<(), WriteError> {
        self.output
            .write_piece([&header.at(self.next_event()).to_bytes(), payload])?;
        if header.kind == Kind::EVENTS {
            self.events += u64::from(header.count);
            self.blocks += 1;
        }
        Ok(())
    }

    /// Writes the footer, unless there is one already, after a rotation that failed.
    pub(crate) fn end(
        &mut self,
        reason: EndReason,
        accounting: Option<Accounting>,
        cost: Option<CaptureCost>,
        end_ns: Option<u64>,
    ) -> Result<(), WriteError> {
        if self.ended {
            return Ok(());
        }
        let footer = Footer {
            events: self.events,
            blocks: self.blocks,
            reason,
            accounting,
            cost,
            end_ns,
        };
        self.output
            .write_piece([&footer.to_bytes(self.next_event()), &[]])?;
        self.ended = true;
        Ok(())
    }

    /// Waits for the disk.
    pub(crate) fn sync(&mut self) -> Result<(), WriteError> {
        self.output.sync()
    }

    /// The amounts that have been written, with this file.
    pub(crate) const fn add_to(&self, before: Written) -> Written {
        Written {
            events: before.events + self.events,
            blocks: before.blocks + self.blocks,
            bytes: before.bytes + self.output.written_bytes(),
            files: before.files + 1,
            not_written: before.not_written,
        }
    }
}
