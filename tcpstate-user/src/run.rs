//! The one loop that drives an event source into a view.
//!
//! It owns what all views share: waiting, signals, `--duration`, intervals, flushing, the closed
//! pipe and the summary at the end. It knows neither the kernel nor what a view prints.

use std::io::{self, Write};

use crate::{
    event::Event,
    source::{Accounting, CaptureCost, Origin},
};

/// What a view wants of the loop next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// More events.
    Continue,
    /// It has shown all that it was asked for (`--count`).
    Done,
}

/// A subcommand that watches: it is fed events and writes to standard output.
///
/// Times are monotonic nanoseconds of the host that the events come from. For a recording they
/// follow the events, so that every view gives on a file what it gave live.
pub trait View {
    /// Called once, before the first event.
    fn start(&mut self, origin: &Origin, out: &mut dyn Write) -> io::Result<()>;

    /// Takes one event.
    fn event(&mut self, event: &Event, out: &mut dyn Write) -> io::Result<Flow>;

    /// The end of an interval, for a view that has one ([`View::interval_ns`]): called before the
    /// first event at or after `now_ns`, and on a live source also without events.
    fn tick(&mut self, _now_ns: u64, _out: &mut dyn Write) -> io::Result<Flow> {
        Ok(Flow::Continue)
    }

    /// The length of an interval; `None`: never call [`View::tick`].
    fn interval_ns(&self) -> Option<u64> {
        None
    }

    /// Called once, after the last event, with the final books. JSON writes its `summary` line here
    /// (to `out`), text writes it to `err`.
    fn finish(&mut self, end: &End, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()>;
}

/// How a run ended.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Monotonic time of the end.
    pub now_ns: u64,
    /// The books.
    pub accounting: Accounting,
    /// What it cost.
    pub cost: Cost,
}

/// Our own cost over the run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// The capture's part.
    pub capture: CaptureCost,
    /// CPU time of this process, user and system, nanoseconds.
    pub cpu_ns: u64,
    /// The largest resident set, bytes.
    pub max_rss_bytes: u64,
}
