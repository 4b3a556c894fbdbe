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
mod interrupts;
mod options;
pub mod progress;
pub mod signals;
pub mod stdout;

pub use self::{
    cost::own_cost,
    driver::drive,
    interrupts::{Interrupt, Interrupts},
    options::{GRACE, LOOK_AHEAD, Options, Outcome, Outputs, RunError},
};

#[cfg(test)]
mod tests;
