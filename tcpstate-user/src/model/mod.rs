//! From a stream of transitions to answers: connections with their dwell times, rates, histograms.
//!
//! Pure: no I/O, no clock (time comes in with the events and as an argument), nothing of the kernel
//! or of what is printed. Everything is bounded by [`Limits`]; what a bound costs is counted.
//!
//! ```text
//! Event ─> Tracker::apply ─> Applied        what this event meant: dwell, owner, a connection's end
//!               │
//!               ├─ connections, listeners   who is there now
//!               ├─ rates                    what happened, by service port (or role, comm, cgroup)
//!               └─ histograms               how long it took
//! Census ─> Tracker::census ─> Left         when a connection left a state that no event shows
//!          Tracker::tick     ─> Interval    the rates since the last tick
//!          Tracker::snapshot ─> Snapshot    all of it, owned
//! ```

mod applied;
mod by_cookie;
mod cause;
mod connection;
mod found;
mod group;
mod happened;
mod hash;
mod histogram;
mod histograms;
mod listeners;
mod owner;
mod packed;
mod pages;
mod rates;
mod snapshot;
mod table;
mod tracker;
mod unseen;

pub use applied::Applied;
pub(crate) use by_cookie::ByCookie;
pub use cause::{Cause, goes_on};
pub use connection::{Connection, Ended, Stay, Traffic};
pub use found::Left;
pub use group::{By, GroupKey, Role, ServicePort};
pub use histogram::{Bucket, Histogram};
pub use histograms::{Of, Series};
pub use owner::{Comm, How, Owner};
pub use rates::{Figures, GroupFigures, Interval, TransitionCount, closes};
pub use snapshot::{Books, Include, ListenerInfo, Memory, Snapshot};
pub use tracker::{Limits, Tracker};
