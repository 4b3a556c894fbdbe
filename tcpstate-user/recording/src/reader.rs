//! The reader of a recording, which is a source of events.
//!
//! A thread of its own reads, decompresses and unpacks a few blocks ahead: views do not wait for it,
//! and an interrupt is handled even while a pipe is silent.

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
    source::{EventSource, Progress, SourceError, Step},
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

enum Message {
    Names(Cgroups),
    Events(Vec<Event>),
    Census(Box<Census>),
    Recalled(Box<Recalled>),
    Notice(String),
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
        let mut scanner = match Scanner::open(stream) {
            Ok(Ok(scanner)) => scanner,
            Ok(Err(reason)) => return Err(ReadError::NotReadable { name, reason }),
            Err(source) => return Err(ReadError::Read { name, source }),
        };
        let mut origin = scanner.metadata().origin.clone();
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
            };
            if let Some(ts_ns) = events.iter().map(Event::ts_ns).min() {
                origin.started_ns = ts_ns;
                intervals_from_ns = ts_ns;
            }
            first = Some((events, step));
        }
        let (sender, messages) = mpsc::channel(BLOCKS_AHEAD);
        let (used, to_use) = std_mpsc::channel();
        let read_bytes = Arc::new(AtomicU64::new(scanner.offset()));
        let offset = Arc::clone(&read_bytes);
        let thread = thread::Builder::new()
            .name("recording".to_owned())
            .spawn(move || read_ahead(scanner, first, &sender, &to_use, &offset))
            .map_err(|source| ReadError::Read {
                name: name.clone(),
                source,
            })?;
        Ok(Self {
            name,
            origin,
            intervals_from_ns,
            messages,
            used,
            thread: Some(thread),
            read_bytes,
            total_bytes,
            delivered: 0,
            books: None,
            names: Arc::default(),
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

/// Reads all of a recording in this thread. Returns the most events of a block, the books and the
/// notices. For the fuzz target: a thread for each input would make it a hundred times slower.
#[cfg(fuzzing)]
pub fn read_in_place(bytes: &[u8]) -> Result<(usize, Accounting, Vec<String>), ReadError> {
    let failed = |source| ReadError::Read {
        name: "FILE".to_owned(),
        source,
    };
    let mut scanner =
        Scanner::open(bytes)
            .map_err(failed)?
            .map_err(|reason| ReadError::NotReadable {
                name: "FILE".to_owned(),
                reason,
            })?;
    let (mut most, mut delivered, mut batch) = (0, 0, Vec::new());
    loop {
        batch.clear();
        let step = scanner.step(&mut batch).map_err(failed)?;
        drop(scanner.take_census());
        drop(scanner.take_recalled());
        most = most.max(batch.len());
        delivered += batch.len() as u64;
        assert!(
            scanner.offset() <= bytes.len() as u64,
            "no byte is read twice"
        );
        if matches!(step, Scanned::End) {
            return Ok((most, account(scanner.books(), delivered), scanner.notices()));
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
        loop {
            if self.books.is_some() {
                return Poll::Ready(Ok(Step::End));
            }
            match ready!(self.messages.poll_recv(cx)) {
                Some(Message::Events(mut events)) => {
                    self.delivered += events.len() as u64;
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
                    return Poll::Ready(Ok(Step::Notice(format!("{}: {notice}", self.name))));
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
                }
                None => {
                    self.books = Some(Books::default());
                    if !self.stopped {
                        let source = io::Error::other("the thread that reads it has died");
                        return Poll::Ready(Err(SourceError::new(self.failure(source))));
                    }
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
    let read = delivered + books.malformed;
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
    let not_in_file = capture.received - read;
    capture.received = delivered;
    capture.rejected = capture
        .rejected
        .saturating_add(not_in_file + books.malformed);
    let reasons = &mut capture.rejected_by_reason;
    reasons.malformed = reasons.malformed.saturating_add(books.malformed);
    reasons.not_in_file = reasons.not_in_file.saturating_add(not_in_file);
    capture
}
