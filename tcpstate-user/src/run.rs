//! The one loop that drives an event source into a view.
//!
//! It owns what all views share: waiting, signals, `--duration`, the filter on sockets, intervals,
//! flushing, the closed pipe and the summary at the end. It knows neither the kernel nor what a view
//! prints.
//!
//! # The end of a run
//!
//! | because of                        | then                                                        |
//! |-----------------------------------|-------------------------------------------------------------|
//! | `SIGINT`, `SIGTERM`, `SIGHUP`     | stop the source, show what is on its way, [`View::finish`]  |
//! | `--duration`, live                | the same                                                    |
//! | `--duration`, recording           | the events from that time on are not shown, `finish`        |
//! | the source's end                  | `finish`                                                    |
//! | [`Flow::Done`]                    | stop the source, count what is on its way, `finish`         |
//! | the source or the output failed   | the same, and the error is returned                         |
//! | the reader of our output is gone  | nothing more: nobody is there to be told                    |
//! | a second `SIGINT`                 | the process dies of it (`signals`)                          |
//!
//! # Intervals
//!
//! They are counted from the start of the capture. An interval ends before the first event at or
//! after its end; live it also ends by the clock, a little late ([`GRACE`]), so that events that
//! are still on their way from the ring buffer land where they belong. With `--duration` the last
//! interval takes everything that came until the source had stopped: a run of five intervals of a
//! second that ends after five seconds counts every event that was received.

mod clock;
mod cost;
mod counters;
pub mod descriptors;
mod driver;
mod gate;
pub mod progress;
pub mod signals;
pub mod stdout;

use std::{
    io::{self, Write},
    task::{Context, Poll},
    time::Duration,
};

use tcpstate_core::{
    filter::{Filter, OwnerFilter},
    model::Limits,
    source::{EventSource, SourceError},
    view::View,
};

pub use self::cost::own_cost;
use self::driver::Driver;

/// How long after its end an interval is closed by the clock, where events did not close it.
pub const GRACE: Duration = Duration::from_millis(100);

/// Events that a view is told of before they come: enough for their cache misses to overlap, few enough
/// for what they bring to stay in the nearest cache.
pub const LOOK_AHEAD: usize = 32;

/// What can come in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// End the run with its summary.
    Stop,
    /// `SIGUSR1`.
    Usr1,
    /// Whoever read our output has closed it.
    ReaderGone,
}

/// Where interrupts come from.
pub trait Interrupts {
    /// Ready with the next interrupt; else the waker is kept and woken.
    fn poll_interrupt(&mut self, cx: &mut Context<'_>) -> Poll<Interrupt>;
}

/// What the command line asks of the loop.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// End this long after the start of the capture.
    pub duration: Option<Duration>,
    /// The sockets that the view is to see.
    pub filter: Filter,
    /// Of these, the ones whose owner the view is to see.
    pub owner: OwnerFilter,
    /// The bounds of what is kept to tell whose a connection is.
    pub limits: Limits,
    /// Write out each batch at once, as a live source always does.
    pub interactive: bool,
}

/// Where a view writes.
pub struct Outputs<'a> {
    /// Data: standard output.
    pub out: &'a mut dyn Write,
    /// All else: standard error.
    pub err: &'a mut dyn Write,
}

/// How a run ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With its summary.
    Finished,
    /// Whoever read our output has closed it. There is no summary.
    ReaderGone,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The output could not be written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// The source of the events failed.
    #[error("the events broke off")]
    Source(#[source] SourceError),
}

/// Drives `source` into `view` until one of them, the clock or the user ends it.
pub async fn drive<'a>(
    source: &'a mut dyn EventSource,
    view: &'a mut dyn View,
    outputs: Outputs<'a>,
    interrupts: &mut dyn Interrupts,
    options: &Options,
) -> Result<Outcome, RunError> {
    Driver::new(source, view, outputs, options)
        .run(interrupts)
        .await
}

#[cfg(test)]
mod tests;
