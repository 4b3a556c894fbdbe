//! The thread that reads the ring buffer, and the queue behind it.
//!
//! It does nothing but copy and decode, so that the ring is emptied at the kernel's pace however slow
//! the output is. The queue is bounded; what does not fit is counted.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use aya::maps::{Array, MapData};
use hashbrown::HashSet;
use rustix::event::{EventfdFlags, epoll, eventfd};
use tcpstate_common::{State, record::Reset};
use tcpstate_core::{
    census::{Census, Kind},
    event::Event,
    outlet::Outlet,
};
use tokio::sync::mpsc;

use super::{
    clock::monotonic_ns,
    ends::{Ends, LONGEST_HOLD_NS},
    error::CaptureError,
    exchange::{self, Exchange, Taken},
    loader::Loaded,
    ring::Ring,
};

/// Time between two reads of the ring while events arrive, where each is shown as it comes. The events in between form a
/// batch: a longer time makes them cheaper, and lines later.
const TICK: Duration = Duration::from_millis(10);
/// The same where events are shown together, later. Shorter than the run's `DELIVERY`: otherwise each interval would wake the reader.
const LONG_TICK: Duration = Duration::from_millis(60);
/// After this time without events, the reader sleeps until it is woken.
const AWAKE: Duration = Duration::from_millis(100);
/// The longest sleep. In theory the reader can miss the wakeup (a program read the flag just before it was set);
/// this bounds the delay.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// Events in one batch at most: what the reader holds before it hands over.
const BATCH: usize = 8192;
/// Events in the queue at most: 64 MiB.
const QUEUE: usize = (64 << 20) / size_of::<Event>();
/// Namespaces reported between two times of [`REPORT_AGAIN`], at most; beyond, only the sampler's regular
/// search finds one.
const MAX_NAMESPACES: usize = 65_536;
/// Time after which a namespace with minisockets is reported again: before the sampler forgets one that it cannot
/// find, because nothing else would end the minisockets there.
const REPORT_AGAIN: Duration = Duration::from_mins(1);
const _: () = assert!(REPORT_AGAIN.as_secs() < exchange::FORGET.as_secs());

/// Whether a minisocket may take the place of this event's socket, which is destroyed.
fn leaves_minisocket(event: &Event) -> bool {
    event.newstate() == State::CLOSE
        && matches!(event.oldstate(), State::FIN_WAIT2 | State::CLOSING)
}

/// An element of the queue, in the order of the stream.
pub(super) enum Item {
    Events(Vec<Event>),
    Census(Box<Census>),
    /// The seed is complete.
    Settled,
}

/// State shared by the reader thread and its owner.
pub(super) struct Shared {
    /// Events in the queue.
    pub(super) queued: AtomicUsize,
    /// Records decoded and queued.
    pub(super) received: AtomicU64,
    pub(super) malformed: AtomicU64,
    pub(super) queue_full: AtomicU64,
    pub(super) ring_high_water_bytes: AtomicU64,
    /// The most that has waited since somebody took this.
    pub(super) ring_fill_bytes: AtomicU64,
    /// Records submitted before this time have been read and queued; monotonic nanoseconds.
    pub(super) read_until_ns: AtomicU64,
    /// The exchange in which the sampler publishes censuses.
    pub(super) exchange: Arc<Exchange>,
    stop: AtomicBool,
    /// Wakes the reader thread.
    wake: OwnedFd,
}

impl Shared {
    /// Lets the reader empty the ring once more and end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Wakes the reader.
    pub(super) fn wake(&self) {
        // Fails only if the counter is full, that is, if the reader is awake anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Whether [`Shared::stop`] was called.
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// A reader thread, what is shared with it, and what it reads.
pub(super) type Started = (JoinHandle<()>, Arc<Shared>, mpsc::UnboundedReceiver<Item>);

/// Starts the reader thread for an attached program. It ends once [`Shared::stop`] was called and the
/// ring is empty, and closes the queue.
///
/// With `prompt`, each event is shown as it comes. With `settles`, events wait until the seed has been made.
pub(super) fn spawn(
    loaded: &mut Loaded,
    bpf_log: bool,
    prompt: bool,
    settles: bool,
) -> Result<Started, CaptureError> {
    let failed = |what| {
        move |error: rustix::io::Errno| CaptureError::System {
            what,
            source: error.into(),
        }
    };
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(failed("make an eventfd"))?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("make an epoll"))?;
    // Edge-triggered: a wakeup from the program wakes the reader, but records already in the ring do not.
    let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&poll, loaded.ring_fd()?, epoll::EventData::new_u64(0), edge)
        .map_err(failed("watch the ring buffer"))?;
    epoll::add(&poll, &wake, epoll::EventData::new_u64(1), edge)
        .map_err(failed("watch an eventfd"))?;

    let shared = Arc::new(Shared {
        queued: AtomicUsize::new(0),
        received: AtomicU64::new(0),
        malformed: AtomicU64::new(0),
        queue_full: AtomicU64::new(0),
        ring_high_water_bytes: AtomicU64::new(0),
        ring_fill_bytes: AtomicU64::new(0),
        read_until_ns: AtomicU64::new(0),
        exchange: Arc::new(if settles {
            Exchange::with_seed()
        } else {
            Exchange::default()
        }),
        stop: AtomicBool::new(false),
        wake,
    });
    let (sender, queue) = mpsc::unbounded_channel();
    if !settles {
        // The other end of the queue is right here.
        let _ = sender.send(Item::Settled);
    }
    let reader = Reader {
        ring: loaded.ring()?,
        sleeping: loaded.take_reader_sleeps()?,
        logger: if bpf_log {
            Some(loaded.take_logger(StderrLog)?)
        } else {
            None
        },
        poll,
        tick: if prompt { TICK } else { LONG_TICK },
        sender,
        ends: Ends::new(loaded.watches_resets(), loaded.reset_codes().copied()),
        noted: None,
        held: settles.then(Vec::new),
        with_minisockets: HashSet::new(),
        last_with_minisocket: 0,
        reports_cleared: Instant::now(),
        shared: Arc::clone(&shared),
    };
    let thread = std::thread::Builder::new()
        .name("tcpstate-ring".into())
        .spawn(move || reader.run())
        .map_err(|source| CaptureError::System {
            what: "start the reader thread",
            source,
        })?;
    Ok((thread, shared, queue))
}

/// The reader thread.
struct Reader {
    ring: Ring,
    sleeping: Array<MapData, u32>,
    logger: Option<aya_log::EbpfLogger<StderrLog>>,
    poll: OwnedFd,
    /// Time between two reads of the ring while events arrive.
    tick: Duration,
    sender: mpsc::UnboundedSender<Item>,
    /// Events that have been read and not queued.
    ends: Ends,
    /// During a full dump, the sockets that had events.
    noted: Option<HashSet<u64>>,
    /// Events that wait for the seed, so that it comes first; `None` once it has come.
    held: Option<Vec<Event>>,
    /// Namespaces reported to the sampler for their minisockets, and the last of them, which is checked
    /// first.
    with_minisockets: HashSet<u32>,
    last_with_minisocket: u32,
    /// Time when these were last cleared.
    reports_cleared: Instant,
    shared: Arc<Shared>,
}

impl Reader {
    fn run(mut self) {
        let mut quiet = Duration::ZERO;
        loop {
            // In this order: records submitted before the stop are drained after it is seen.
            let stopping = self.shared.stopped();
            let begin_ns = monotonic_ns();
            let records = self.read(begin_ns);
            if let Some(logger) = &mut self.logger {
                logger.flush();
            }
            if stopping && self.ring.waiting_bytes() == 0 && self.ends.len() == 0 {
                return;
            }
            if records == BATCH {
                continue;
            }
            // The ring had no more.
            let handed_on_ns = self.ends.earliest_ns().unwrap_or(begin_ns).min(begin_ns);
            self.shared
                .read_until_ns
                .store(handed_on_ns, Ordering::Release);
            quiet = if records == 0 {
                quiet + self.tick
            } else {
                Duration::ZERO
            };
            if quiet > AWAKE && self.logger.is_none() && self.ends.len() == 0 {
                self.sleep();
            } else {
                self.wait(self.tick);
            }
        }
    }

    /// Reads up to a batch; or, if there are censuses, the records that must come before them, and queues both.
    /// It is `begin_ns` now.
    fn read(&mut self, begin_ns: u64) -> usize {
        let Taken {
            censuses,
            noting,
            seeded,
        } = self.shared.exchange.take();
        if noting {
            self.noted.get_or_insert_default();
        }
        if self.reports_cleared.elapsed() >= REPORT_AGAIN {
            self.with_minisockets.clear();
            self.last_with_minisocket = 0;
            self.reports_cleared = Instant::now();
        }
        let mut records = self.fill();
        if !censuses.is_empty() {
            // Records that were in the ring when the censuses were taken come first. One that is still being written
            // is newer than the censuses.
            let until = self.ring.position() + self.ring.waiting_bytes();
            while self.ring.position() < until {
                let more = self.fill();
                if more == 0 {
                    break;
                }
                records += more;
            }
            records += self.settle(begin_ns);
            for census in censuses {
                self.queue_census(census);
            }
        }
        self.release(begin_ns);
        if !noting {
            self.noted = None;
        }
        if seeded && let Some(held) = self.held.take() {
            // Fails only when the run is ending.
            let _ = self.sender.send(Item::Events(held));
            let _ = self.sender.send(Item::Settled);
        }
        records
    }

    /// Queues a census, without the sockets that had an event since its dump began: the event is newer.
    fn queue_census(&mut self, mut census: Census) {
        if let Some(noted) = &self.noted {
            let known = &mut census.known;
            census.found.retain(|found| {
                let has_event = found.kind == Kind::Socket && noted.contains(&found.cookie);
                if has_event {
                    known.push(found.cookie);
                }
                !has_event
            });
        }
        // Fails only when the run is ending.
        let _ = self.sender.send(Item::Census(Box::new(census)));
    }

    /// Reads up to a batch.
    fn fill(&mut self) -> usize {
        if self.ring.waiting_bytes() == 0 {
            return 0;
        }
        let before = self.ends.len();
        let mut malformed = 0;
        let (last, others) = (&mut self.last_with_minisocket, &mut self.with_minisockets);
        let (exchange, ends) = (&self.shared.exchange, &mut self.ends);
        let mut listened = false;
        let records = self.ring.drain(BATCH, |bytes| match Event::decode(bytes) {
            Ok(event) => {
                if leaves_minisocket(&event) && event.record().netns != *last {
                    *last = event.record().netns;
                    if others.len() < MAX_NAMESPACES && others.insert(*last) {
                        exchange.report_minisockets(*last);
                    }
                }
                listened |= event.newstate() == State::LISTEN;
                ends.push(event);
            }
            Err(_) => match bytes.try_into() {
                Ok(bytes) => ends.reset(Reset::from_bytes(bytes)),
                Err(_) => malformed += 1,
            },
        });
        if listened {
            exchange.report_listener();
        }
        let shared = &*self.shared;
        shared
            .ring_high_water_bytes
            .store(self.ring.high_water_bytes(), Ordering::Release);
        shared
            .ring_fill_bytes
            .fetch_max(self.ring.found_bytes(), Ordering::AcqRel);
        shared.malformed.fetch_add(malformed, Ordering::AcqRel);
        if let Some(noted) = &mut self.noted {
            let events = self.ends.since(before).iter();
            noted.extend(events.filter_map(Event::cookie));
        }
        records
    }

    /// Queues all events that have been read, once those ends among them that wait for a RST have waited long enough.
    /// Returns the number of records that it has read.
    fn settle(&mut self, begin_ns: u64) -> usize {
        let read = self.ends.len();
        let queued = self.release(begin_ns);
        if queued == read {
            return 0;
        }
        let mut records = 0;
        let begin = Instant::now();
        while self.ends.waits_before(read - queued)
            && begin.elapsed() < Duration::from_nanos(LONGEST_HOLD_NS)
        {
            std::thread::sleep(TICK / 2);
            records += self.fill();
        }
        let late = (read - queued).saturating_sub(self.release(monotonic_ns()));
        let events = self.ends.take_first(late);
        self.queue(events);
        records
    }

    /// Queues the events that wait for nothing any more. Returns their number. Records from before `begin_ns` have
    /// been read, unless the ring still has some.
    fn release(&mut self, begin_ns: u64) -> usize {
        let read_until_ns = if self.ring.waiting_bytes() == 0 {
            begin_ns
        } else {
            self.ends.latest_ns().unwrap_or(0).min(begin_ns)
        };
        let events = self.ends.take(read_until_ns);
        let count = events.len();
        self.queue(events);
        count
    }

    /// Queues events.
    fn queue(&mut self, mut events: Vec<Event>) {
        let shared = &*self.shared;
        let count = events.len();
        if count > 0 {
            let room = shared.queued.load(Ordering::Acquire) + count <= QUEUE;
            if room {
                shared.queued.fetch_add(count, Ordering::AcqRel);
            }
            let queued = match &mut self.held {
                _ if !room => false,
                Some(held) => {
                    held.append(&mut events);
                    true
                }
                None => self.sender.send(Item::Events(events)).is_ok(),
            };
            if queued {
                shared.received.fetch_add(count as u64, Ordering::AcqRel);
            } else {
                shared.queue_full.fetch_add(count as u64, Ordering::AcqRel);
            }
        }
    }

    /// Tells the program that the reader sleeps, then waits until the program or the owner wakes it.
    fn sleep(&mut self) {
        if self.sleeping.set(0, 1, 0).is_err() {
            // Nothing would wake the reader.
            self.wait(self.tick);
            return;
        }
        // A program that ran too early to see the flag has reserved its record by now, so the ring is not empty,
        // whether the record is complete or not.
        if self.ring.waiting_bytes() == 0 && !self.shared.stopped() {
            self.wait(LONGEST_SLEEP);
        }
        // A flag that stays set costs one needless wakeup.
        let _ = self.sleeping.set(0, 0, 0);
    }

    fn wait(&self, timeout: Duration) {
        let timeout = rustix::time::Timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 2];
        // An interrupted wait is a short one: the loop reads the ring either way.
        let _ = epoll::wait(&self.poll, &mut events, Some(&timeout));
    }
}

/// Prints what the BPF programs log.
struct StderrLog;

impl log::Log for StderrLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        use io::Write as _;
        // It fails only when standard error is closed.
        #[expect(clippy::disallowed_methods, reason = "it goes through the outlet")]
        let mut err = Outlet::new(io::stderr(), false);
        let _ = writeln!(err, "tcpstate: bpf: {}", record.args());
    }

    fn flush(&self) {}
}
