//! The model: connections with their dwell times, rates and histograms, from a stream of transitions.
//!
//! Pure: it knows neither I/O nor a clock (time comes in with the events and as an argument), neither
//! the kernel nor output. Everything is bounded by [`Limits`]; what a bound costs is counted.
//!
//! ```text
//! Event  ─> Tracker::apply    ─> Applied     the meaning of the event: dwell, owner, a connection's end
//! Census ─> Tracker::census   ─> StateExit   the end of a time in a state that no event shows
//! Tally  ─> Tracker::add                     counts of the kernel, instead of events
//!               │
//!               ├─ connections, listeners    the sockets that are there now
//!               ├─ rates                     the count of each transition, by service port (or role,
//!               │                            comm, cgroup)
//!               └─ histograms                the time in each state, of a life, of a handshake
//!
//!           Tracker::tick     ─> Interval    the rates since the last tick
//!           Tracker::snapshot ─> Snapshot    all of it, owned
//! ```

mod address;
mod applied;
mod by_netns;
mod connection;
mod group;
mod held_back;
mod histograms;
mod known;
mod limits;
mod listeners;
mod minisockets;
mod missing;
mod on_census;
mod on_event;
mod packed;
mod pages;
mod prefix;
mod rates;
mod regroup;
mod services;
mod slots;
mod snapshot;
mod state_exit;
mod step;
mod table;
mod tracker;

pub use self::{
    applied::Applied,
    connection::{Connection, Counters, Ended, Stay, Traffic},
    group::{By, GroupKey},
    histograms::{Of, Series},
    limits::Limits,
    prefix::Prefix,
    rates::{Figures, GroupFigures, Interval},
    snapshot::{Books, Connections, Include, ListenerInfo, Memory, OldestMinisocket, Snapshot},
    state_exit::StateExit,
    tracker::{SETTLED_NS, Tracker},
};
