//! A snapshot of the tracker, owned: nothing of it changes while it is shown.

use std::net::IpAddr;

use serde::Serialize;
use tcpstate_common::State;

use super::{
    connection::Connection,
    group::By,
    histograms::Series,
    rates::{Figures, GroupFigures},
};
use crate::{
    event::SocketId,
    owner::{Holders, Owner},
};

/// The open connections of a [`Snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// None of them, no listeners and no minisockets.
    None,
    /// Of each state those that have been in it longest, at most so many; all listeners, and the oldest minisockets.
    Longest(usize),
    /// All of them, all listeners, and the oldest minisockets.
    All,
}

/// The parts of a [`Snapshot`] beside the figures. A million connections are worth leaving out where
/// they are not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Include {
    /// The open connections and the listeners, one by one.
    pub connections: Connections,
    /// The histograms.
    pub histograms: bool,
}

impl Include {
    /// Everything.
    pub const ALL: Self = Self {
        connections: Connections::All,
        histograms: true,
    };
    /// Only the figures.
    pub const FIGURES: Self = Self {
        connections: Connections::None,
        histograms: false,
    };
}

/// The state of the tracker at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Monotonic time of the latest event or tick.
    pub now_ns: u64,
    /// The tracker's own books.
    pub books: Books,
    /// The figures since the beginning, over all.
    pub all: Figures,
    /// The property that the groups have in common.
    pub by: By,
    /// Monotonic time since when the figures and histograms are counted by group; `None`: since the beginning.
    pub by_since_ns: Option<u64>,
    /// The figures by group. Where they are counted since the beginning, their sums are `all`.
    pub groups: Vec<GroupFigures>,
    /// The histograms, by group and kind.
    pub histograms: Vec<Series>,
    /// The open connections that are included, the oldest first; of [`Connections::Longest`], by state, those longest
    /// in it first.
    pub connections: Vec<Connection>,
    /// The listeners, the oldest first.
    pub listeners: Vec<ListenerInfo>,
    /// The oldest minisocket of each state that has any, where connections are included. None of them is among
    /// `connections`.
    pub oldest_minisockets: Vec<OldestMinisocket>,
}

/// The tracker's own books: what it did, and what it could not know.
///
/// `opened + first_seen + seeded = all.closed + superseded + evicted + live`
///
/// Serialized, it is `connections` in the last line of JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Books {
    /// Events applied: the sum of all transitions. Views have a count of their own.
    #[serde(skip)]
    pub events: u64,
    /// Connections open now.
    pub live: u64,
    /// Connections whose first transition was seen.
    pub opened: u64,
    /// Connections that were there before their first event, so that their beginning is not known.
    pub first_seen: u64,
    /// Connections that a dump had before any event of theirs, whose beginning is not known either.
    pub seeded: u64,
    /// Events that did not join the known state of their connection: others in between are missing.
    pub gaps: u64,
    /// Transitions that `gaps` and `superseded` prove to be missing: the least number of transitions from the
    /// state that was held to the one that was left next, or to CLOSE. A lower bound.
    pub missing_inferred: u64,
    /// Connections whose end was not seen: the kernel used the socket for another one, or a census did
    /// not find it any more.
    pub superseded: u64,
    /// Connections evicted because of [`Limits::max_connections`](super::Limits::max_connections) or
    /// [`Limits::max_embryos`](super::Limits::max_embryos).
    pub evicted: u64,
    /// Listeners not kept because of [`Limits::max_listeners`](super::Limits::max_listeners), or kept without
    /// the processes that hold them, as there were too many.
    pub listeners_refused: u64,
    /// Minisockets now.
    pub minisockets: u64,
    /// Minisockets whose end is unknown: there were more than the limits allow, or their namespace could
    /// not be dumped. Also half-open connections that are not counted, as they came in at too many places.
    pub unfollowed: u64,
}

impl Books {
    /// All connections that were there at some time.
    pub const fn connections(&self) -> u64 {
        self.opened
            .saturating_add(self.first_seen)
            .saturating_add(self.seeded)
    }

    /// Whether no transition is known to be missing, and no connection was evicted.
    pub const fn is_complete(&self) -> bool {
        self.gaps == 0 && self.missing_inferred == 0 && self.evicted == 0
    }
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerInfo {
    /// The identity of its socket.
    pub id: SocketId,
    /// Inode number of the network namespace.
    pub netns: Option<u32>,
    /// The address that it listens on; `None` is any.
    pub laddr: Option<IpAddr>,
    /// The port that it listens on.
    pub lport: u16,
    /// The process that it belongs to.
    pub owner: Owner,
    /// The processes that have to do with it, where that was looked up.
    pub holders: Option<Holders>,
    /// The user that the socket belongs to.
    pub uid: Option<u32>,
    /// Id of its cgroup.
    pub cgroup: Option<u64>,
    /// Monotonic time at which it began to listen; `None` if that was before the capture.
    pub since_ns: Option<u64>,
}

/// Since when there has been a minisocket in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldestMinisocket {
    /// The state.
    pub state: State,
    /// Monotonic time by which the oldest was in it, nanoseconds.
    pub since_ns: u64,
    /// Whether it entered it just then; otherwise perhaps earlier.
    pub is_exact: bool,
}

/// Bytes that the tracker holds, by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The connections and their indexes.
    pub connections: usize,
    /// The listeners.
    pub listeners: usize,
    /// Minisockets and half-open connections.
    pub minisockets: usize,
    /// The rates and the keys of their groups.
    pub rates: usize,
    /// The histograms.
    pub histograms: usize,
}

impl Memory {
    /// The sum.
    pub const fn total(&self) -> usize {
        self.connections + self.listeners + self.minisockets + self.rates + self.histograms
    }
}
