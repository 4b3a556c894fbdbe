//! The view that records: it writes the stream to a file, for any view to read again with `-r`; or, as a
//! flight recorder, keeps it in memory, and writes the file on request.
//!
//! When the file cannot be written any more the view is done: the run ends in good order, prints its
//! books, and fails with the reason.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;
use tcpstate_core::{
    books::Accounting,
    census::Census,
    event::Event,
    names::Names,
    options::Format,
    origin::Origin,
    recalled::Recalled,
    view::{End, Flow, View},
};
use tcpstate_recording::{
    FlightOptions, FlightRing, Options as WriterOptions, Room, WriteError, Writer, Written,
};
use tcpstate_text::{
    books::{Losses, write_books},
    format::{
        json::{Lines, Summary},
        units::{Bytes, Count},
    },
};

use crate::run::stream::Stream;

/// Interval at which unwritten blocks are flushed. Twice this time bounds the loss of a crash.
const INTERVAL_NS: u64 = 1_000_000_000;

/// The options of a recording.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// The format of the summary. CSV has none.
    pub format: Format,
    /// The first destination of the events.
    pub to: To,
}

/// The first destination of events.
#[derive(Clone, Debug)]
pub enum To {
    /// The file.
    File(WriterOptions),
    /// Memory; the file on `SIGUSR1` and at the end.
    Memory(FlightOptions),
}

/// The view.
pub struct Record {
    options: Options,
    sink: Option<Sink>,
    names: Names,
    /// The number of events after which the recording ends.
    count: Option<u64>,
    taken: u64,
    quiet: bool,
    dumps: u64,
    /// The failure that ended the recording.
    failure: Option<WriteError>,
}

enum Sink {
    // Boxed, as it is much the larger: it keeps the state for the next file of a rotation.
    File(Box<Writer>),
    Memory(Box<FlightRing>),
}

impl Record {
    /// A view with these options. It creates nothing yet.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            sink: None,
            names: Names::default(),
            count: None,
            taken: 0,
            quiet: false,
            dumps: 0,
            failure: None,
        }
    }

    /// Ends after this number of events.
    #[must_use]
    pub const fn ending_after(mut self, count: u64) -> Self {
        self.count = Some(count);
        self
    }

    /// Says nothing about what it has written before the end.
    #[must_use]
    pub const fn quietly(mut self, quiet: bool) -> Self {
        self.quiet = quiet;
        self
    }

    /// The flow after a write: a full file ends the recording, and so does a failure.
    fn flow(&mut self, written: Result<Room, WriteError>) -> Flow {
        match written {
            Ok(Room::Left) => Flow::Continue,
            Ok(Room::Full) => Flow::Done,
            Err(error) => {
                self.failure.get_or_insert(error);
                Flow::Done
            }
        }
    }
}

impl View for Record {
    fn set_names(&mut self, names: Names) {
        self.names = names;
    }

    fn start(&mut self, origin: &Origin, _out: &mut dyn Write) -> io::Result<()> {
        let sink = match self.options.to.clone() {
            To::File(mut options) => {
                options.open_stream = open_stream;
                Writer::create(&self.options.path, origin, options)
                    .map(|writer| Sink::File(Box::new(writer.naming(self.names.clone()))))
            }
            To::Memory(mut options) => {
                options.open_stream = open_stream;
                FlightRing::check(&self.options.path, &options)
                    .and_then(|()| FlightRing::new(origin, options))
                    .map(|ring| Sink::Memory(Box::new(ring.naming(self.names.clone()))))
            }
        };
        self.sink = Some(sink.map_err(WriteError::into_io)?);
        Ok(())
    }

    fn event(&mut self, event: &Event, _out: &mut dyn Write) -> io::Result<Flow> {
        let (ts_ns, event) = (event.ts_ns(), std::slice::from_ref(event));
        let written = match &mut self.sink {
            Some(Sink::File(writer)) => writer.append(event, ts_ns),
            Some(Sink::Memory(ring)) => ring.append(event).map(|()| Room::Left),
            None => Ok(Room::Left),
        };
        self.taken += 1;
        let done = self.count.is_some_and(|count| self.taken >= count);
        Ok(match self.flow(written) {
            Flow::Continue if done => Flow::Done,
            flow => flow,
        })
    }

    fn census(&mut self, census: &Census, _out: &mut dyn Write) -> io::Result<Flow> {
        let written = match &mut self.sink {
            Some(Sink::File(writer)) => writer.append_census(census),
            Some(Sink::Memory(ring)) => ring.append_census(census).map(|()| Room::Left),
            None => Ok(Room::Left),
        };
        Ok(self.flow(written))
    }

    fn recall(&mut self, recalled: &Recalled) -> io::Result<Flow> {
        match &mut self.sink {
            Some(Sink::File(writer)) => writer.recall(recalled),
            Some(Sink::Memory(ring)) => ring.recall(recalled),
            None => {}
        }
        Ok(Flow::Continue)
    }

    fn wants_samples(&self) -> bool {
        true
    }

    fn is_silent_until_finish(&self) -> bool {
        // Otherwise standard output is the recording, and no terminal.
        true
    }

    fn interval_ns(&self) -> Option<u64> {
        Some(INTERVAL_NS)
    }

    fn tick(&mut self, now_ns: u64, _out: &mut dyn Write) -> io::Result<Flow> {
        let written = match &mut self.sink {
            // However young: at the next tick it would be too old.
            Some(Sink::File(writer)) => writer.flush(),
            Some(Sink::Memory(ring)) => ring.tick(now_ns).map(|()| Room::Left),
            None => Ok(Room::Left),
        };
        Ok(self.flow(written))
    }

    fn ends_with_reader(&self) -> bool {
        is_stdout(&self.options.path)
    }

    fn takes_usr1(&self) -> bool {
        matches!(self.options.to, To::Memory(_))
    }

    /// Writes the memory to the file. A failure is reported and ends nothing: the events are still there. Nor does it end
    /// anything that nobody reads the message.
    fn usr1(&mut self, now_ns: u64, _out: &mut dyn Write, err: &mut dyn Write) -> io::Result<Flow> {
        if let Some(Sink::Memory(ring)) = &mut self.sink {
            let dumped = ring
                .tick(now_ns)
                .and_then(|()| ring.dump(&self.options.path));
            match dumped {
                Ok(written) => {
                    self.dumps += 1;
                    if !self.quiet {
                        let _ = report_written(&self.options.path, &written, None, err);
                    }
                }
                Err(error) => {
                    let _ = writeln!(err, "tcpstate: {error}");
                }
            }
        }
        Ok(Flow::Continue)
    }

    fn finish(&mut self, end: &End, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
        let books = books_of_file(end);
        let (books, cost) = (Some(&books), Some(&end.cost.capture));
        let (written, failure, older) = match &mut self.sink {
            Some(Sink::File(writer)) => {
                writer.ends_at(end.now_ns);
                let failure = writer.finish(books, cost).err();
                // Whole blocks are in the file even where the books found no room.
                (writer.written(), failure, 0)
            }
            Some(Sink::Memory(ring)) => {
                let ticked = ring.tick(end.now_ns);
                let older = ring.dropped();
                let (written, failure) = ring.finish(&self.options.path, books, cost);
                (written, ticked.err().or(failure), older)
            }
            None => return Ok(()),
        };
        if let Some(error) = failure {
            self.failure.get_or_insert(error);
        }
        // Standard output may be the recording itself.
        let mut told = Ok(());
        if matches!(self.options.format, Format::Json) && !is_stdout(&self.options.path) {
            let recorded = Recorded {
                file: self.options.path.to_string_lossy().into_owned(),
                files: written.files,
                events: written.events,
                bytes: written.bytes,
                dropped: older + written.not_written,
                dumps: self.dumps,
            };
            told = Lines::default().write(&Summary::new(end, None, recorded), out);
        } else {
            let has_failed = self.failure.is_some();
            let losses = (!has_failed).then_some(Losses(end, None));
            let _ = report_written(&self.options.path, &written, losses, err);
            if written.not_written > 0 {
                let _ = writeln!(err, "{} events found no room", Count(written.not_written));
            }
            if older > 0 {
                let _ = writeln!(err, "{} older events had left the memory", Count(older));
            }
            let end = End {
                verbose: end.verbose || has_failed,
                ..end.clone()
            };
            // If standard error is closed, nobody misses them.
            let _ = write_books(&end, None, err);
        }
        self.failure
            .take()
            .map_or(told, |error| Err(error.into_io()))
    }
}

/// Whether the file is standard output.
fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Opens a pipe or a device, whose reader may stop reading.
fn open_stream(path: &Path) -> io::Result<Box<dyn tcpstate_recording::Stream>> {
    Ok(Box::new(if is_stdout(path) {
        Stream::stdout()
    } else {
        Stream::open(path)?
    }))
}

/// The books as the file has them: events that a filter in user space removed, or that are not in the part that was
/// asked for, count as filtered, since they were never to be in it.
fn books_of_file(end: &End) -> Accounting {
    let mut books = end.accounting;
    let settled = end.selection.settled;
    let mut left_out = settled.filtered.saturating_add(settled.undecided);
    if end.part.is_some() {
        left_out = left_out
            .saturating_add(end.selection.earlier)
            .saturating_add(end.selection.unread);
    }
    let left_out = left_out.min(books.received);
    // A recording's books may have any numbers.
    let filtered = &mut books.filtered_by_reason.settled;
    *filtered = filtered.saturating_add(left_out);
    books.filtered = books.filtered.saturating_add(left_out);
    books.submitted -= left_out.min(books.submitted);
    books.received -= left_out;
    books
}

/// The summary's fields besides the books.
#[derive(Serialize)]
struct Recorded {
    /// The file; the newest of a rotation.
    file: String,
    /// Files begun, including those that the rotation has removed.
    files: u32,
    /// Events in the files.
    events: u64,
    /// Their bytes.
    bytes: u64,
    /// Events in no file: no room, or older than the flight recorder keeps.
    dropped: u64,
    /// Files written on `SIGUSR1`.
    dumps: u64,
}

fn report_written(
    path: &Path,
    written: &Written,
    losses: Option<Losses<'_>>,
    err: &mut dyn Write,
) -> io::Result<()> {
    let plural = if written.events == 1 { "" } else { "s" };
    write!(
        err,
        "{} event{plural} in {}, {}",
        Count(written.events),
        path.display(),
        Bytes(written.bytes)
    )?;
    if written.files > 1 {
        write!(
            err,
            " in {} files, as many of them kept as the rotation has",
            written.files
        )?;
    }
    if let Some(losses) = losses {
        write!(err, "; {losses}")?;
    }
    writeln!(err)
}

#[cfg(test)]
mod tests;
