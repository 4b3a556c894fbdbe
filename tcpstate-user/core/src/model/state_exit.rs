//! The end of a time in a state that no event shows.

use tcpstate_common::State;

/// A connection has left a state without an event. The time is a sampled one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateExit {
    /// The connection, by the cookie that its socket had.
    pub cookie: u64,
    /// The state.
    pub state: State,
    /// The time in it, where its beginning is known.
    pub dwell_ns: Option<u64>,
    /// The state after it; `None`: the connection is gone.
    pub then: Option<State>,
    /// When, monotonic nanoseconds.
    pub at_ns: u64,
    /// How exact the time is: the length of the interval in which it was seen to have happened.
    pub interval_ns: Option<u64>,
}
