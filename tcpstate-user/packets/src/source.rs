//! A capture as a source of events.
//!
//! A thread of its own reads and rebuilds a few batches ahead: views do not wait for it, and an interrupt is handled even
//! while a pipe is silent.

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
    books::{Accounting, Packets as Books},
    event::Event,
    origin::{Origin, PACKETS},
    packet::ConnectionPacket,
    source::{self, EventSource, Notice, Progress, SourceError, Step},
};
use tokio::sync::mpsc;

use crate::{
    decode::{Skip, decode, decode_verified},
    format::{FormatError, Packets},
    machine::{Annotator, Machine},
    segment::Segment,
};

/// Batches that are read ahead.
const BATCHES_AHEAD: usize = 2;

/// Events in a batch.
const BATCH: usize = 4096;

/// Packets that are decoded before the first of them is taken.
const LOOK_AHEAD: usize = 32;

/// As many times packets are decoded for a batch that has no events, so that the progress is seen.
const ROUNDS: u32 = 1 << 11;

/// A failure to read a capture.
pub type ReadError = source::ReadError<FormatError>;

/// The terms of rebuilding.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Connections that are followed at a time.
    pub max_connections: usize,
    /// Whether the packets come too ([`Step::Packets`]).
    pub packets: bool,
    /// Whether packets with wrong checksums are left out and counted. On the host that sent them, many are not made yet.
    pub verify_checksums: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 1_000_000,
            packets: false,
            verify_checksums: false,
        }
    }
}

/// Packets, with the number of bytes that were read for them.
type Stream = Packets<Box<dyn Read + Send>>;

/// A stream that counts what is read from it.
struct Counted<R> {
    stream: R,
    read_bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Reads a capture up to its first packet. Returns whether there is one.
fn open(
    stream: impl Read + Send + 'static,
    name: &str,
) -> Result<(Stream, bool, Arc<AtomicU64>), ReadError> {
    let read_bytes = Arc::<AtomicU64>::default();
    let stream = Counted {
        stream,
        read_bytes: Arc::clone(&read_bytes),
    };
    let failure = |source| ReadError::Read {
        name: name.to_owned(),
        source,
    };
    let mut packets = match Packets::open(stream).map_err(failure)? {
        Ok(packets) => packets,
        Err(reason) => {
            return Err(ReadError::NotReadable {
                name: name.to_owned(),
                reason,
            });
        }
    };
    let has_first = packets.advance().map_err(failure)?;
    Ok((packets, has_first, read_bytes))
}

/// When the last packet of a capture was captured, nanoseconds since 1970. `None` of a pipe, which can be read only once.
pub fn end_of(path: &Path) -> Result<Option<u64>, ReadError> {
    let failure = |source| ReadError::Open {
        path: path.to_owned(),
        source,
    };
    let is_file = path.as_os_str() != "-" && std::fs::metadata(path).map_err(failure)?.is_file();
    if !is_file {
        return Ok(None);
    }
    let file = File::open(path).map_err(failure)?;
    let name = path.display().to_string();
    let (mut packets, mut has_more, _) = open(file, &name)?;
    let mut end_ns = 0;
    while has_more {
        end_ns = end_ns.max(packets.packet().map_or(0, |packet| packet.time_ns));
        // Nobody asks for its notices here, and there is a bounded number.
        has_more = packets.advance().map_err(|source| ReadError::Read {
            name: name.clone(),
            source,
        })?;
    }
    Ok(Some(end_ns))
}

enum Message {
    Events(Vec<Event>),
    Packets(Vec<ConnectionPacket>),
    Notice(Notice),
    End(Books, io::Result<()>),
}

/// A capture as a source of events: two sockets for each connection, with cookies of their own. Its times are those of its packets,
/// nanoseconds since 1970.
pub struct Capture {
    name: String,
    origin: Origin,
    messages: mpsc::Receiver<Message>,
    used: std_mpsc::Sender<Vec<Event>>,
    /// `None` after its last message.
    thread: Option<thread::JoinHandle<()>>,
    read_bytes: Arc<AtomicU64>,
    total_bytes: Option<u64>,
    delivered: u64,
    books: Option<Books>,
    has_ended: bool,
    /// Whether [`Step::Settled`] has been handed out.
    settled: bool,
    stopped: bool,
}

impl Capture {
    /// Reads a capture from a stream, which messages call by this name. `total_bytes` is its length, where that is known.
    ///
    /// It waits for the first packet, which says when the capture began.
    pub fn new(
        stream: impl Read + Send + 'static,
        name: String,
        total_bytes: Option<u64>,
        options: Options,
    ) -> Result<Self, ReadError> {
        let (packets, has_first, read_bytes) = open(stream, &name)?;
        let started_ns = packets.packet().map_or(0, |packet| packet.time_ns);
        let (sender, messages) = mpsc::channel(BATCHES_AHEAD);
        let (used, to_use) = std_mpsc::channel();
        let work = move || Rebuilding::new(packets, has_first, options).run(&sender, &to_use);
        let thread = thread::Builder::new().name("packets".to_owned());
        let thread = thread.spawn(work).map_err(|source| ReadError::Read {
            name: name.clone(),
            source,
        })?;
        Ok(Self {
            name,
            origin: Origin {
                host: String::new(),
                kernel: String::new(),
                attach: PACKETS.to_owned(),
                wall_at_monotonic_zero_ns: 0,
                started_ns,
                filters: String::new(),
                live: false,
                sample_interval_ns: None,
            },
            messages,
            used,
            thread: Some(thread),
            read_bytes,
            total_bytes,
            delivered: 0,
            books: None,
            has_ended: false,
            settled: false,
            stopped: false,
        })
    }
}

/// The work of the thread.
struct Rebuilding {
    packets: Stream,
    verify_checksums: bool,
    machine: Machine,
    /// Decoded, and not taken yet.
    ahead: Vec<Segment>,
    /// `None`: nobody wants the packets.
    annotator: Option<Annotator>,
    /// The packets of the batch.
    shown: Vec<ConnectionPacket>,
    books: Books,
    /// Whether the packet that is there has not been taken yet.
    is_at_packet: bool,
}

impl Rebuilding {
    fn new(packets: Stream, is_at_packet: bool, options: Options) -> Self {
        Self {
            packets,
            is_at_packet,
            machine: Machine::new(options.max_connections),
            ahead: Vec::with_capacity(LOOK_AHEAD),
            verify_checksums: options.verify_checksums,
            annotator: options.packets.then(Annotator::default),
            shown: Vec::new(),
            books: Books::default(),
        }
    }

    /// Sends all messages. It ends with the capture, or when the source is gone.
    fn run(mut self, sender: &mpsc::Sender<Message>, to_use: &std_mpsc::Receiver<Vec<Event>>) {
        let mut result = Ok(());
        let mut has_more = self.is_at_packet;
        loop {
            let mut events: Vec<Event> = to_use.try_recv().unwrap_or_default();
            events.clear();
            if has_more {
                (has_more, result) = match self.batch(&mut events) {
                    Ok(has_more) => (has_more, Ok(())),
                    Err(error) => (false, Err(error)),
                };
            }
            let notices = self.packets.take_notices().into_iter();
            // Empty ones too: they end the run if the source is gone.
            let packets = mem::take(&mut self.shown);
            let packets = (!packets.is_empty()).then_some(Message::Packets(packets));
            let messages = std::iter::once(Message::Events(events))
                .chain(packets)
                .chain(notices.map(Message::Notice));
            for message in messages {
                if sender.blocking_send(message).is_err() {
                    return;
                }
            }
            if !has_more {
                break;
            }
        }
        let evicted = self.machine.evicted();
        let text = format!("{evicted} connections were forgotten because there were too many");
        let notice = (evicted > 0).then(|| Message::Notice(Notice::damage(text)));
        for message in notice.into_iter().chain([Message::End(self.books, result)]) {
            if sender.blocking_send(message).is_err() {
                return;
            }
        }
    }

    /// Takes packets until there are enough events, or the next packet has to be waited for. Returns whether there may be more.
    fn batch(&mut self, events: &mut Vec<Event>) -> io::Result<bool> {
        for _ in 0..ROUNDS {
            let has_more = self.read_ahead();
            match &mut self.annotator {
                None => self.machine.take_all(&self.ahead, events),
                Some(annotator) => {
                    for segment in &self.ahead {
                        annotator.take(&mut self.machine, segment, events, &mut self.shown);
                    }
                }
            }
            self.ahead.clear();
            if !has_more? {
                return Ok(false);
            }
            // The events so far go first where the next packet may be long in coming.
            let has_some = !events.is_empty() || !self.shown.is_empty();
            let waits = has_some && !self.packets.has_more_at_hand();
            if waits || events.len().max(self.shown.len()) >= BATCH {
                break;
            }
        }
        Ok(true)
    }

    /// Decodes the next packet, and those behind it that need not be waited for. Returns whether there may be more.
    #[inline]
    fn read_ahead(&mut self) -> io::Result<bool> {
        loop {
            if !mem::take(&mut self.is_at_packet) && !self.packets.advance()? {
                return Ok(false);
            }
            self.decode();
            if self.ahead.len() >= LOOK_AHEAD || !self.packets.has_more_at_hand() {
                return Ok(true);
            }
        }
    }

    /// Decodes the packet that is there.
    #[inline]
    fn decode(&mut self) {
        let Some(packet) = self.packets.packet() else {
            return;
        };
        self.books.seen += 1;
        let decoded = if self.verify_checksums {
            decode_verified(&packet)
        } else {
            decode(&packet)
        };
        match decoded {
            Ok(decoded) => {
                self.books.tcp += 1;
                self.books.tunnelled += u64::from(decoded.is_tunnelled);
                self.ahead.push(decoded.segment);
            }
            Err(Skip::NotTcp(kind)) => self.books.count_not_tcp(kind),
            Err(Skip::Unreadable(reason)) => self.books.count_unreadable(reason),
        }
    }
}

impl EventSource for Capture {
    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Event>,
    ) -> Poll<Result<Step, SourceError>> {
        if !mem::replace(&mut self.settled, true) {
            return Poll::Ready(Ok(Step::Settled));
        }
        // The amount that the thread has read ahead is a matter of luck, so nothing of it counts.
        if self.stopped || self.has_ended {
            self.has_ended = true;
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
                Poll::Ready(Ok(Step::Events))
            }
            Some(Message::Packets(packets)) => Poll::Ready(Ok(Step::Packets(packets))),
            Some(Message::Notice(notice)) => {
                let text = format!("{}: {}", self.name, notice.text);
                Poll::Ready(Ok(Step::Notice(Notice { text, ..notice })))
            }
            Some(Message::End(books, result)) => {
                self.books = Some(books);
                self.end(result)
            }
            None => self.end(Err(io::Error::other("the thread that reads it has died"))),
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.messages.close();
    }

    fn accounting(&mut self) -> Result<Accounting, SourceError> {
        Ok(Accounting {
            seen: self.delivered,
            submitted: self.delivered,
            received: self.delivered,
            ..Accounting::default()
        })
    }

    fn packets(&self) -> Option<Books> {
        self.books
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn progress(&self) -> Option<Progress> {
        Some(Progress {
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            total_bytes: self.total_bytes,
        })
    }
}

impl Capture {
    /// Ends with the thread, which has nothing left to do.
    fn end(&mut self, result: io::Result<()>) -> Poll<Result<Step, SourceError>> {
        self.has_ended = true;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        Poll::Ready(match result {
            Ok(()) => Ok(Step::End),
            Err(source) => Err(SourceError::new(ReadError::Read {
                name: self.name.clone(),
                source,
            })),
        })
    }
}

#[cfg(test)]
mod tests;
