//! The run behind the screens of `top`: what its snapshots have in them, and the last minutes, for a recording on request.

use std::{
    error::Error as _,
    io,
    path::Path,
    task::{Context, Poll, ready},
};

use tcpstate_core::{
    census::Census,
    event::Event,
    model::{By, Connections, Include, Limits},
    names::Names,
    origin::Origin,
    present,
    units::{Bytes, Counted, Span},
};
use tcpstate_recording::{FlightOptions, FlightRing, WriteError};
use tcpstate_top::{
    file,
    terminal::{Keeper, Wish},
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The connections of each state that are listed.
pub const LONGEST: usize = 500;

/// Bytes of the histograms: those of a few hundred services.
const HISTOGRAM_BYTES: usize = 8 << 20;

/// The options of the snapshots, one after each such time in nanoseconds.
pub const fn published(interval_ns: u64, by: By, limits: Limits) -> present::Options {
    present::Options {
        interval_ns,
        by,
        include: Include {
            connections: Connections::Longest(LONGEST),
            histograms: true,
        },
        in_kernel: false,
        limits: Limits {
            max_histogram_bytes: HISTOGRAM_BYTES,
            ..limits
        },
    }
}

/// The age up to which events are kept.
const KEEP_NS: u64 = 300_000_000_000;

/// The most memory for them. At 10,000 connections a second it holds half a minute.
const MEMORY_BYTES: u64 = 16 << 20;

/// Events in a block: fewer than in a file, since a block that is being filled takes its memory at once.
const BLOCK: usize = 4_096;

/// The last minutes of a run, in memory: a flight recorder.
pub struct LastMinutes {
    /// `None` before the run has begun; an error is why nothing is kept any more.
    ring: Option<Result<Box<FlightRing>, String>>,
    names: Names,
    wishes: UnboundedReceiver<Wish>,
}

/// The way to them from another thread.
#[derive(Debug)]
struct Wishes(UnboundedSender<Wish>);

impl Keeper for Wishes {
    fn record(&self, wish: Wish) {
        // Whoever has ended answers nobody.
        let _ = self.0.send(wish);
    }
}

impl LastMinutes {
    /// Of a run that has not begun, with the way to them.
    pub fn new() -> (Self, Box<dyn Keeper>) {
        let (send, wishes) = unbounded_channel();
        let this = Self {
            ring: None,
            names: Names::default(),
            wishes,
        };
        (this, Box::new(Wishes(send)))
    }

    /// Also keeps the names of the numbers in the events.
    pub fn set_names(&mut self, names: Names) {
        self.names = names;
    }

    /// The run begins.
    pub fn start(&mut self, origin: &Origin) {
        let options = FlightOptions {
            keep_ns: KEEP_NS,
            memory_bytes: MEMORY_BYTES,
            block_records: BLOCK,
            ..FlightOptions::default()
        };
        let ring = FlightRing::new(origin, options);
        let ring = ring.map(|ring| Box::new(ring.naming(self.names.clone())));
        self.ring = Some(ring.map_err(|error| error.to_string()));
    }

    /// Takes an event.
    #[inline]
    pub fn event(&mut self, event: &Event) {
        self.take(|ring| ring.append(std::slice::from_ref(event)));
    }

    /// Takes a census.
    pub fn census(&mut self, census: &Census) {
        self.take(|ring| ring.append_census(census));
    }

    /// Drops what is too old at this time.
    pub fn tick(&mut self, now_ns: u64) {
        self.take(|ring| ring.tick(now_ns));
    }

    /// The screens go on without it.
    #[inline]
    fn take(&mut self, take: impl FnOnce(&mut FlightRing) -> Result<(), WriteError>) {
        if let Some(Ok(ring)) = &mut self.ring
            && let Err(error) = take(ring)
        {
            self.ring = Some(Err(error.to_string()));
        }
    }

    /// Fulfils a wish. Pending where there is none.
    pub fn poll_wish(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut cx = Context::from_waker(cx.waker());
        let Some(Wish { stem, answer }) = ready!(self.wishes.poll_recv(&mut cx)) else {
            // The screen has ended.
            return Poll::Pending;
        };
        if let Some(ring) = &mut self.ring {
            answer(match ring {
                Ok(ring) => write(ring, &stem),
                Err(why) => Err(why.clone()),
            });
        }
        Poll::Ready(())
    }
}

/// Writes them to a new file in the current directory. Returns its name, with what it holds.
fn write(ring: &mut FlightRing, stem: &str) -> Result<String, String> {
    let created = file::create(Path::new("."), stem, "rec", |path| {
        ring.dump_new(path).map_err(WriteError::into_io)
    });
    match created {
        Ok((name, written)) => Ok(format!(
            "{name} written: {} of {}, {}",
            Counted(written.events, "event"),
            Span(ring.end_ns().saturating_sub(ring.begin_ns())),
            Bytes(written.bytes)
        )),
        Err(error) => Err(reason(&error)),
    }
}

/// The system's reason: the name of the file says nothing here, and the advice is that of `record`.
fn reason(error: &io::Error) -> String {
    error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string)
}
