//! The one loop that drives an event source into a view.
//!
//! It implements the parts common to all views: waiting, signals, `--duration`, the filter on sockets,
//! intervals, flushing, the closed pipe and the summary at the end. It knows neither the kernel nor the
//! output of a view.
//!
//! # The end of a run
//!
//! | cause                             | effect                                                      |
//! |-----------------------------------|-------------------------------------------------------------|
//! | `SIGINT`, `SIGTERM`, `SIGHUP`     | stop the source, show pending events, [`View::finish`]      |
//! | `--duration`, live                | the same                                                    |
//! | `--duration`, recording           | show no events from that time on, `finish`                  |
//! | the source's end                  | `finish`; one that is played waits for commands             |
//! | [`Flow::Done`]                    | stop the source, count pending events, `finish`             |
//! | the source or the output failed   | the same, and return the error                              |
//! | the output was closed             | end without a summary, which would have no reader           |
//! | a second `SIGINT`                 | it kills the process (`signals`)                            |
//!
//! An output whose reader does not read is given up, as one that failed, less than a second after a signal or the end
//! of `--duration` (`ending`).
//!
//! # Intervals
//!
//! Intervals begin at the start of the capture. An interval is closed before the first event at or after
//! its end; live it is also closed by the clock, a little late ([`GRACE`]), so that events that are still
//! in the ring buffer are counted in their interval. With `--duration` the last interval takes all events
//! until the source has stopped: a run of five intervals of a second that ends after five seconds counts
//! every event that was received. Of a recording, a very long row of empty intervals is closed as one.
//!
//! [`View::finish`]: tcpstate_core::view::View::finish
//! [`Flow::Done`]: tcpstate_core::view::Flow::Done

mod clock;
mod cost;
mod counters;
pub mod descriptors;
mod driver;
pub mod ending;
mod gate;
mod interrupts;
mod options;
pub mod progress;
pub mod signals;
pub mod stderr;
pub mod stdout;
pub mod stream;

pub use self::{
    cost::own_cost,
    driver::{drive, play},
    interrupts::{Interrupt, Interrupts},
    options::{GRACE, LOOK_AHEAD, Options, Outcome, Outputs, Playing, RunError},
};

#[cfg(test)]
mod tests;
