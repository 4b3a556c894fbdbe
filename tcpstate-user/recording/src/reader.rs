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
    path::Path,
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
    source::{self, EventSource, Mark, Notice, Progress, Seeking, SourceError, Step},
};
use tokio::sync::mpsc;

use crate::{
    file::FileFrom,
    header::{HeaderError, Metadata},
    names::Cgroups,
    scan::{Books, Place, Scanned, Scanner},
};

/// Blocks that are read ahead.
const BLOCKS_AHEAD: usize = 2;

/// A failure to read a recording.
pub type ReadError = source::ReadError<HeaderError>;

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

/// A message with where it comes from.
struct Sent {
    /// The place before the step that made it.
    place: Place,
    /// Its number among the messages of that step.
    number: usize,
    message: Message,
}

/// Events that were read before the thread was started: with the place before them, and the result of the step.
type First = (Place, Vec<Event>, io::Result<Scanned>);

/// A recording as a source of events.
///
/// The accounting is the capture's; events that the capture received and this file does not have are
/// `rejected` as `not_in_file`. Where the file has no books, because it was cut or is not the last
/// of a rotation, the accounting is that of the events that were read, and is marked as `partial`.
pub struct Reader {
    name: String,
    origin: Origin,
    intervals_from_ns: u64,
    /// The file, if it can be read again from any place.
    file: Option<Arc<File>>,
    metadata: Metadata,
    messages: mpsc::Receiver<Sent>,
    /// The offset of the last step of which something has been handed out.
    begun: Option<u64>,
    /// The place of the step that was handed out last, if it is the first one there.
    mark: Option<Place>,
    /// The events delivered before that.
    delivered_before: u64,
    /// The offset and the number of the furthest message received: up to there, names and notices are known.
    furthest: Option<(u64, usize)>,
    /// Whether it has been said that names were left out.
    has_told_left_out: bool,
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
        let name = path.display().to_string();
        if total_bytes.is_none() {
            return Self::new(file, name, None);
        }
        let file = Arc::new(file);
        let stream = FileFrom::new(Arc::clone(&file), 0);
        let reader = Self::new(stream, name, total_bytes)?;
        Ok(Self {
            file: Some(file),
            ..reader
        })
    }

    /// Reads a recording from a stream, which messages call by this name.
    pub fn new(
        stream: impl Read + Send + 'static,
        name: String,
        total_bytes: Option<u64>,
    ) -> Result<Self, ReadError> {
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
            let (place, step) = loop {
                let place = scanner.place();
                let step = scanner.step(&mut events);
                if !events.is_empty() || !matches!(step, Ok(Scanned::More)) {
                    break (place, step);
                }
                // A census before the first event is from an earlier time.
                drop(scanner.take_census());
                names.add_cgroups(scanner.cgroups());
            };
            if let Some(ts_ns) = events.iter().map(Event::ts_ns).min() {
                origin.started_ns = ts_ns;
                intervals_from_ns = ts_ns;
            }
            first = Some((place, events, step));
        }
        let (sender, messages) = mpsc::channel(ahead);
        let (used, to_use) = std_mpsc::channel();
        let read_bytes = Arc::new(AtomicU64::new(scanner.offset()));
        let offset = Arc::clone(&read_bytes);
        let metadata = scanner.metadata().clone();
        let work = move || read_ahead(scanner, first, &sender, &to_use, &offset);
        let thread = spawn(Box::new(work)).map_err(|source| ReadError::Read {
            name: name.clone(),
            source,
        })?;
        Ok(Self {
            name,
            origin,
            intervals_from_ns,
            file: None,
            metadata,
            messages,
            begun: None,
            mark: None,
            delivered_before: 0,
            furthest: None,
            has_told_left_out: false,
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

    /// Notes where a message comes from. Returns it, and whether it has come before.
    fn receive(&mut self, sent: Sent) -> (Option<Message>, bool) {
        let Sent {
            place,
            number,
            message,
        } = sent;
        let at = (place.offset, number);
        let is_known = self.furthest.is_some_and(|furthest| at <= furthest);
        self.furthest = self.furthest.max(Some(at));
        // The names are there for the events behind them, and are no step.
        if !matches!(message, Message::Names(_)) {
            self.mark = (self.begun != Some(place.offset)).then_some(place);
            self.begun = Some(place.offset);
            self.delivered_before = self.delivered;
        }
        (Some(message), is_known)
    }

    fn failure(&self, source: io::Error) -> ReadError {
        ReadError::Read {
            name: self.name.clone(),
            source,
        }
    }
}

/// Starts the thread.
fn spawn(work: Work) -> io::Result<Option<thread::JoinHandle<()>>> {
    let thread = thread::Builder::new().name("recording".to_owned());
    thread.spawn(work).map(Some)
}

/// The body of the thread: it ends with the file, or when the reader is gone.
fn read_ahead<R: Read>(
    mut scanner: Scanner<R>,
    mut first: Option<First>,
    sender: &mpsc::Sender<Sent>,
    to_use: &std_mpsc::Receiver<Vec<Event>>,
    offset: &AtomicU64,
) {
    loop {
        let (place, events, step) = first.take().unwrap_or_else(|| {
            let mut events: Vec<Event> = to_use.try_recv().unwrap_or_default();
            events.clear();
            let place = scanner.place();
            let step = scanner.step(&mut events);
            (place, events, step)
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
        for (number, message) in messages.enumerate() {
            let sent = Sent {
                place,
                number,
                message,
            };
            if sender.blocking_send(sent).is_err() {
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
        self.mark = None;
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
            let (message, is_known) = match ready!(self.messages.poll_recv(cx)) {
                Some(sent) => self.receive(sent),
                None => (None, false),
            };
            match message {
                Some(Message::Names(_) | Message::Notice(_)) if is_known => {}
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
                    if left_out > 0 && !mem::replace(&mut self.has_told_left_out, true) {
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

    fn seeking(&mut self) -> Option<&mut dyn Seeking> {
        self.file.is_some().then_some(self)
    }

    fn progress(&self) -> Option<Progress> {
        Some(Progress {
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            total_bytes: self.total_bytes,
        })
    }
}

impl Seeking for Reader {
    fn mark(&self) -> Option<Mark> {
        Some(Mark {
            events: self.delivered_before,
            place: Arc::new(self.mark?),
        })
    }

    /// *Errors:* no thread can be started.
    fn go_to(&mut self, mark: &Mark) -> Result<(), SourceError> {
        // Both are there: the mark is one of this reader.
        let (Some(file), Some(place)) = (&self.file, mark.place.downcast_ref::<Place>()) else {
            return Ok(());
        };
        let (sender, messages) = mpsc::channel(BLOCKS_AHEAD);
        let (used, to_use) = std_mpsc::channel();
        let read_bytes = Arc::new(AtomicU64::new(place.offset));
        let offset = Arc::clone(&read_bytes);
        let stream = FileFrom::new(Arc::clone(file), place.offset);
        let started = Scanner::resume(stream, self.metadata.clone(), place).and_then(|scanner| {
            let work = move || read_ahead(scanner, None, &sender, &to_use, &offset);
            spawn(Box::new(work))
        });
        // The thread before ends as soon as it finds its receiver gone.
        self.thread = started.map_err(|source| SourceError::new(self.failure(source)))?;
        self.messages = messages;
        self.used = used;
        self.read_bytes = read_bytes;
        self.delivered = mark.events;
        self.begun = None;
        self.mark = None;
        self.books = None;
        self.stopped = false;
        Ok(())
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
