//! The contract of the present: a snapshot of the run at each tick, for any number of consumers.
//!
//! [`crate::view`] is the contract of the stream: a view is called for every event, and the stream
//! waits for it. Here the stream waits for no one. The [`Publisher`] is itself a view; it applies the
//! events to a [`Tracker`](crate::model::Tracker) and at each tick hands out what is known then as an
//! immutable [`RunSnapshot`]. A consumer holds a [`Subscriber`], in any thread or task:
//!
//! ```text
//! driver ─> Publisher ─> Arc<RunSnapshot> ─┬─> Subscriber::latest   the snapshot of now, without waiting
//!   (a View with a Tracker)   each tick    └─> Subscriber::next     each newer snapshot, then the end
//! ```
//!
//! - A consumer that is slow, or absent, holds nothing up: it gets the latest snapshot, and its
//!   number says how many it has skipped.
//! - The last snapshot of a run is marked ([`RunSnapshot::is_final`]); its books are exact. After it,
//!   or after a run that broke off without one, [`Subscriber::next`] gives `None`.
//! - An event costs what the tracker costs. All else is done once a tick, and what it costs there is
//!   the consumer's choice ([`Include`](crate::model::Include)).

mod channel;
mod handshakes;
mod publisher;

use std::sync::Arc;

pub use self::{
    channel::Subscriber,
    handshakes::{HalfOpenAt, Handshakes},
    publisher::{Options, Publisher},
};
use crate::{
    books::RunBooks,
    model::{Interval, Memory, Snapshot},
    names::Names,
    origin::Origin,
};

/// A run at one tick, owned: nothing in it changes while it is shown.
///
/// [`Snapshot`] is the part that the tracker knows. The rates since the tick before, the books and the
/// origin of the events stand beside it.
#[derive(Clone, Debug)]
pub struct RunSnapshot {
    /// The number of the snapshot, from 1 on without gaps: a consumer that got number 3 and then
    /// number 7 has skipped three.
    pub number: u64,
    /// Whether it is the last one of the run, so that its books are exact.
    pub is_final: bool,
    /// The host and the capture that the events come from.
    pub origin: Arc<Origin>,
    /// The names of the numbers in the snapshot.
    pub names: Names,
    /// The figures since the tick before. Those of all snapshots of a run add up to the totals in
    /// [`RunSnapshot::tracker`].
    pub interval: Interval,
    /// Everything that the tracker knows: totals, histograms, connections, listeners and its own books.
    pub tracker: Snapshot,
    /// Half-open connections and the listeners' counters; `None` where they are not sampled, so
    /// that they are unknown.
    pub handshakes: Option<Handshakes>,
    /// Connections whose time in their state was forgotten, where the kernel counts; `None` where the
    /// events are handed on.
    pub forgotten: Option<u64>,
    /// The books of the run, as of this tick.
    pub books: RunBooks,
    /// The memory that the tracker holds.
    pub memory: Memory,
}
