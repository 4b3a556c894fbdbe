//! The reader of a recording, which is a source of events.
//!
//! A thread of its own reads, decompresses and unpacks a few blocks ahead: views do not wait for it,
//! and an interrupt is handled even while a pipe is silent.

// A file may have any numbers.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

use std::{
    fs::File,
    io::{self, Read},
    mem,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc as std_mpsc,
    },
    task::{Context, Poll, ready},
    thread,
};

use tcpstate_core::{
    books::{Accounting, CaptureCost},
    census::Census,
    event::Event,
    names::{NameBook, Names},
    origin::Origin,
    recalled::Recalled,
    source::{EventSource, Notice, Progress, SourceError, Step},
};
use tokio::sync::mpsc;

use crate::{
    header::HeaderError,
    names::Cgroups,
    scan::{Books, Scanned, Scanner},
};

/// Blocks that are read ahead.
const BLOCKS_AHEAD: usize = 2;

/// A failure to read a recording.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Reading failed.
    #[error("cannot read {name}: {source}")]
    Read {
        /// The file, or `standard input`.
        name: String,
        /// The cause.
        source: io::Error,
    },
    /// It is no recording, or not one that can be read here.
    #[error("{name} {reason}")]
    NotReadable {
        /// The file, or `standard input`.
        name: String,
        /// The reason.
        reason: HeaderError,
    },
}

/// A failure to read this file.
fn cannot_read(path: &Path) -> impl Fn(io::Error) -> ReadError {
    let name = path.display().to_string();
    move |source| ReadError::Read {
        name: name.clone(),
        source,
    }
}

/// Opens a file to look at it before it is shown; `None` of a pipe, which can be read only once.
fn look_into(path: &Path) -> Result<Option<Scanner<File>>, ReadError> {
    let open = |source| ReadError::Open {
        path: path.to_owned(),
        source,
    };
    let is_file = path.as_os_str() != "-" && std::fs::metadata(path).map_err(open)?.is_file();
    if !is_file {
        return Ok(None);
    }
    let file = File::open(path).map_err(open)?;
    match Scanner::open(file).map_err(cannot_read(path))? {
        Ok(scanner) => Ok(Some(scanner)),
        Err(reason) => Err(ReadError::NotReadable {
            name: path.display().to_string(),
            reason,
        }),
    }
}

/// Whether there are sockets of several network namespaces in a recording, as far as its first million events show. `None` of a
/// pipe, which can be read only once.
pub fn has_several_netns(path: &Path) -> Result<Option<bool>, ReadError> {
    const ENOUGH: usize = 1_000_000;
    let Some(mut scanner) = look_into(path)? else {
        return Ok(None);
    };
    let (mut events, mut seen, mut first) = (Vec::new(), 0usize, None);
    while seen < ENOUGH {
        events.clear();
        let step = scanner.step(&mut events).map_err(cannot_read(path))?;
        seen = seen.saturating_add(events.len());
        let census = scanner
            .take_census()
            .filter(|census| !census.found.is_empty());
        // Anything not taken would be kept.
        drop(scanner.take_recalled());
        drop((scanner.cgroups(), scanner.notices()));
        let of_events = events.iter().filter_map(Event::netns);
        for netns in of_events.chain(census.map(|census| census.netns)) {
            if *first.get_or_insert(netns) != netns {
                return Ok(Some(true));
            }
        }
        if step == Scanned::End {
            break;
        }
    }
    Ok(Some(false))
}

/// When a recording ends, monotonic nanoseconds: when its capture did, or else with its last event. `None` of a pipe,
/// which can be read only once.
pub fn end_of(path: &Path) -> Result<Option<u64>, ReadError> {
    let read = cannot_read(path);
    let Some(mut scanner) = look_into(path)? else {
        return Ok(None);
    };
    let (mut events, mut last_ns) = (Vec::new(), 0);
    loop {
        events.clear();
        let step = scanner.step(&mut events).map_err(&read)?;
        let latest_ns = events.iter().map(Event::ts_ns).max();
        last_ns = last_ns.max(latest_ns.unwrap_or(0));
        // Anything not taken would be kept.
        drop((scanner.take_census(), scanner.take_recalled()));
        drop((scanner.cgroups(), scanner.notices()));
        if step == Scanned::End {
            let begin_ns = scanner.metadata().origin.started_ns;
            let end_ns = scanner.books().end_ns;
            return Ok(Some(end_ns.unwrap_or(last_ns.max(begin_ns))));
        }
    }
}

/// The body of the thread that reads.
type Work = Box<dyn FnOnce() + Send>;

enum Message {
    Names(Cgroups),
    Events(Vec<Event>),
    Census(Box<Census>),
    Recalled(Box<Recalled>),
    Notice(Notice),
    End(Result<Books, io::Error>),
}

/// A recording as a source of events.
///
/// The accounting is the capture's; events that the capture received and this file does not have are
/// `rejected` as `not_in_file`. Where the file has no books, because it was cut or is not the last
/// of a rotation, the accounting is that of the events that were read, and is marked as `partial`.
pub struct Reader {
    name: String,
    origin: Origin,
    intervals_from_ns: u64,
    messages: mpsc::Receiver<Message>,
    used: std_mpsc::Sender<Vec<Event>>,
    /// `None` after its last message.
    thread: Option<thread::JoinHandle<()>>,
    read_bytes: Arc<AtomicU64>,
    total_bytes: Option<u64>,
    delivered: u64,
    books: Option<Books>,
    names: Arc<NameBook>,
    /// Whether [`Step::Settled`] has been handed out.
    settled: bool,
    stopped: bool,
}

impl Reader {
    /// Opens a recording; `-` is standard input.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        if path.as_os_str() == "-" {
            return Self::new(io::stdin(), "standard input".to_owned(), None);
        }
        let open = |path: &Path| -> io::Result<(File, Option<u64>)> {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            Ok((file, metadata.is_file().then_some(metadata.len())))
        };
        let (file, total_bytes) = open(path).map_err(|source| ReadError::Open {
            path: path.to_owned(),
            source,
        })?;
        Self::new(file, path.display().to_string(), total_bytes)
    }

    /// Reads a recording from a stream, which messages call by this name.
    pub fn new(
        stream: impl Read + Send + 'static,
        name: String,
        total_bytes: Option<u64>,
    ) -> Result<Self, ReadError> {
        let spawn = |work| {
            let thread = thread::Builder::new().name("recording".to_owned());
            thread.spawn(work).map(Some)
        };
        Self::on(stream, name, total_bytes, BLOCKS_AHEAD, spawn)
    }

    /// Reads all of a recording at once, in this thread. For fuzz targets: a thread for each input would make
    /// them a hundred times slower.
    #[cfg(fuzzing)]
    pub fn in_place(bytes: Vec<u8>) -> Result<Self, ReadError> {
        // Each block takes more bytes than it makes messages.
        let (name, ahead) = ("FILE".to_owned(), bytes.len() + 100);
        let run = |work: Work| {
            work();
            Ok(None)
        };
        Self::on(io::Cursor::new(bytes), name, None, ahead, run)
    }

    /// Reads with a thread that `spawn` starts, up to `ahead` messages ahead.
    fn on(
        stream: impl Read + Send + 'static,
        name: String,
        total_bytes: Option<u64>,
        ahead: usize,
        spawn: impl FnOnce(Work) -> io::Result<Option<thread::JoinHandle<()>>>,
    ) -> Result<Self, ReadError> {
        let mut scanner = match Scanner::open(stream) {
            Ok(Ok(scanner)) => scanner,
            Ok(Err(reason)) => return Err(ReadError::NotReadable { name, reason }),
            Err(source) => return Err(ReadError::Read { name, source }),
        };
        let mut origin = scanner.metadata().origin.clone();
        let names = Arc::<NameBook>::default();
        let mut first = None;
        let mut intervals_from_ns = origin.started_ns;
        if let Some(begin_ns) = scanner.metadata().begin_ns {
            // A later part of a rotation, or the contents of a flight recorder: the capture may have
            // begun days before, but `--duration` begins with the file.
            origin.started_ns = begin_ns;
        } else if scanner.metadata().first_event > 0 {
            // An older version wrote it.
            let mut events = Vec::new();
            let step = loop {
                let step = scanner.step(&mut events);
                if !events.is_empty() || !matches!(step, Ok(Scanned::More)) {
                    break step;
                }
                // A census before the first event is from an earlier time.
                drop(scanner.take_census());
                names.add_cgroups(scanner.cgroups());
            };
            if let Some(ts_ns) = events.iter().map(Event::ts_ns).min() {
                origin.started_ns = ts_ns;
                intervals_from_ns = ts_ns;
            }
            first = Some((events, step));
        }
        let (sender, messages) = mpsc::channel(ahead);
        let (used, to_use) = std_mpsc::channel();
        let read_bytes = Arc::new(AtomicU64::new(scanner.offset()));
        let offset = Arc::clone(&read_bytes);
        let work = move || read_ahead(scanner, first, &sender, &to_use, &offset);
        let thread = spawn(Box::new(work)).map_err(|source| ReadError::Read {
            name: name.clone(),
            source,
        })?;
        Ok(Self {
            name,
            origin,
            intervals_from_ns,
            messages,
            used,
            thread,
            read_bytes,
            total_bytes,
            delivered: 0,
            books: None,
            names,
            settled: false,
            stopped: false,
        })
    }

    fn failure(&self, source: io::Error) -> ReadError {
        ReadError::Read {
            name: self.name.clone(),
            source,
        }
    }
}

/// The body of the thread: it ends with the file, or when the reader is gone.
fn read_ahead<R: Read>(
    mut scanner: Scanner<R>,
    mut first: Option<(Vec<Event>, io::Result<Scanned>)>,
    sender: &mpsc::Sender<Message>,
    to_use: &std_mpsc::Receiver<Vec<Event>>,
    offset: &AtomicU64,
) {
    loop {
        let (events, step) = first.take().unwrap_or_else(|| {
            let mut events: Vec<Event> = to_use.try_recv().unwrap_or_default();
            events.clear();
            let step = scanner.step(&mut events);
            (events, step)
        });
        offset.store(scanner.offset(), Ordering::Relaxed);
        let end = match step {
            Ok(Scanned::More) => None,
            Ok(Scanned::End) => Some(Ok(scanner.books())),
            Err(error) => Some(Err(error)),
        };
        let ended = end.is_some();
        let cgroups = scanner.cgroups();
        let messages = [
            (!cgroups.is_empty()).then_some(Message::Names(cgroups)),
            scanner.take_recalled().map(Box::new).map(Message::Recalled),
            (!events.is_empty()).then_some(Message::Events(events)),
            scanner.take_census().map(Box::new).map(Message::Census),
        ]
        .into_iter()
        .flatten()
        .chain(scanner.notices().into_iter().map(Message::Notice))
        .chain(end.map(Message::End));
        for message in messages {
            if sender.blocking_send(message).is_err() {
                return;
            }
        }
        if ended {
            return;
        }
    }
}

impl EventSource for Reader {
    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Event>,
    ) -> Poll<Result<Step, SourceError>> {
        if !mem::replace(&mut self.settled, true) {
            return Poll::Ready(Ok(Step::Settled));
        }
        if self.stopped {
            // The amount that the thread has read ahead is a matter of luck, so nothing of it counts.
            self.books.get_or_insert_default();
        }
        loop {
            if self.books.is_some() {
                return Poll::Ready(Ok(Step::End));
            }
            match ready!(self.messages.poll_recv(cx)) {
                Some(Message::Events(mut events)) => {
                    self.delivered = self.delivered.saturating_add(events.len() as u64);
                    if batch.is_empty() {
                        mem::swap(batch, &mut events);
                    } else {
                        batch.append(&mut events);
                    }
                    // The thread may have ended; then it does not need the buffer.
                    let _ = self.used.send(events);
                    return Poll::Ready(Ok(Step::Events));
                }
                Some(Message::Names(cgroups)) => self.names.add_cgroups(cgroups),
                Some(Message::Census(census)) => return Poll::Ready(Ok(Step::Census(census))),
                Some(Message::Recalled(recalled)) => {
                    return Poll::Ready(Ok(Step::Recalled(recalled)));
                }
                Some(Message::Notice(notice)) => {
                    let text = format!("{}: {}", self.name, notice.text);
                    return Poll::Ready(Ok(Step::Notice(Notice { text, ..notice })));
                }
                Some(Message::End(end)) => {
                    self.books = Some(*end.as_ref().unwrap_or(&Books::default()));
                    // The thread has nothing left to do: this does not wait for a disk or a pipe.
                    if let Some(thread) = self.thread.take() {
                        let _ = thread.join();
                    }
                    if let Err(source) = end {
                        return Poll::Ready(Err(SourceError::new(self.failure(source))));
                    }
                    let left_out = self.names.left_out();
                    if left_out > 0 {
                        return Poll::Ready(Ok(Step::Notice(Notice::damage(format!(
                            "{}: {left_out} names of cgroups are left out: there was no room for more",
                            self.name
                        )))));
                    }
                }
                None => {
                    self.books = Some(Books::default());
                    let source = io::Error::other("the thread that reads it has died");
                    return Poll::Ready(Err(SourceError::new(self.failure(source))));
                }
            }
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.messages.close();
    }

    fn accounting(&mut self) -> Result<Accounting, SourceError> {
        Ok(account(self.books.unwrap_or_default(), self.delivered))
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn intervals_from_ns(&self) -> u64 {
        self.intervals_from_ns
    }

    fn ended_ns(&self) -> Option<u64> {
        self.books.and_then(|books| books.end_ns)
    }

    fn names(&self) -> Names {
        Names::new(self.names.clone())
    }

    fn cost(&mut self) -> CaptureCost {
        self.books.unwrap_or_default().cost
    }

    fn progress(&self) -> Option<Progress> {
        Some(Progress {
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            total_bytes: self.total_bytes,
        })
    }
}

/// The capture's books, adjusted to a reader of `delivered` of its events.
fn account(books: Books, delivered: u64) -> Accounting {
    let read = delivered.saturating_add(books.malformed);
    // Books of fewer events than were read belong to another capture.
    let whole = books
        .accounting
        .filter(|capture| capture.received >= read && !capture.partial);
    let Some(mut capture) = whole else {
        let mut own = Accounting {
            seen: read,
            submitted: read,
            received: delivered,
            rejected: books.malformed,
            partial: true,
            ..Accounting::default()
        };
        own.rejected_by_reason.malformed = books.malformed;
        return own;
    };
    let not_in_file = capture.received.saturating_sub(read);
    capture.received = delivered;
    capture.rejected = capture
        .rejected
        .saturating_add(not_in_file)
        .saturating_add(books.malformed);
    let reasons = &mut capture.rejected_by_reason;
    reasons.malformed = reasons.malformed.saturating_add(books.malformed);
    reasons.not_in_file = reasons.not_in_file.saturating_add(not_in_file);
    capture
}
