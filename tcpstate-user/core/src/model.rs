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
//! Census ─> Tracker::census ─> StateExit    when a connection left a state that no event shows
//!          Tracker::tick     ─> Interval    the rates since the last tick
//!          Tracker::snapshot ─> Snapshot    all of it, owned
//! ```

mod address;
mod applied;
mod connection;
mod group;
mod histograms;
mod limits;
mod listeners;
mod minisockets;
mod on_census;
mod on_event;
mod packed;
mod pages;
mod rates;
mod slots;
mod snapshot;
mod state_exit;
mod table;
mod tracker;

pub use self::{
    applied::Applied,
    connection::{Connection, Ended, Stay, Traffic},
    group::{By, GroupKey},
    histograms::{Of, Series},
    limits::Limits,
    rates::{Figures, GroupFigures, Interval},
    snapshot::{Books, Include, ListenerInfo, Memory, Snapshot},
    state_exit::StateExit,
    tracker::Tracker,
};
