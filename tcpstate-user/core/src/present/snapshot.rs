//! The snapshot of a run: that of the tracker, and the books, rates and origin beside it.

use std::sync::Arc;

use crate::{
    books::RunBooks,
    diagnosis::{Finding, NetnsFacts, Survey},
    handshakes::Handshakes,
    model::{Connections, Counters, Interval, Memory, Snapshot},
    names::Names,
    origin::Origin,
};

/// A run at one tick, owned: nothing in it changes while it is shown.
///
/// [`Snapshot`] is the part that the tracker knows. The rates since the tick before, the books and the
/// origin of the events stand beside it.
///
/// Of a recording that is played, one may come between two ticks, and after a jump the next one is of another time. Who
/// keeps the intervals of several snapshots looks at their begin: an interval with the begin of the one before
/// replaces it, and where it is not the end of the one before, a jump lies between.
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
    /// The open connections that [`RunSnapshot::tracker`] has.
    pub connections: Connections,
    /// Half-open connections and the listeners' counters; `None` where they are not sampled, so
    /// that they are unknown.
    pub handshakes: Option<Handshakes>,
    /// Connections whose time in their state was forgotten, where the kernel counts; `None` where the
    /// events are handed on.
    pub forgotten: Option<u64>,
    /// The books of the run, as of this tick. Those of a recording are
    /// [`partial`](crate::books::Accounting::partial) before its end.
    pub books: RunBooks,
    /// The memory that the tracker holds.
    pub memory: Memory,
    /// The findings, the worst first; `None` where nobody looks for any.
    pub findings: Option<Vec<Finding>>,
    /// The kernel's counters of the connections in [`RunSnapshot::tracker`], as the latest look at the host's sockets
    /// found them. It lacks those that were not shown yet when it was taken, and has none where nobody looks.
    pub counters: Arc<Counters>,
    /// The counters and settings of each network namespace, as of the look that the findings rest on; empty where there was none.
    pub facts: Arc<[NetnsFacts]>,
    /// The sockets at the latest look at the host; `None` where nobody looks, or where they could not be listed.
    pub survey: Option<Arc<Survey>>,
}
