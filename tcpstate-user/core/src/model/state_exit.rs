//! The end of a time in a state that no event shows.

use tcpstate_common::State;

/// The exit of a connection from a state without an event. Its time is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateExit {
    /// The connection, by the cookie that its socket had.
    pub cookie: u64,
    /// The state.
    pub state: State,
    /// The time in it, where its beginning is known.
    pub dwell_ns: Option<u64>,
    /// The next state; `None`: the connection is gone.
    pub then: Option<State>,
    /// The time of the exit, monotonic nanoseconds.
    pub at_ns: u64,
    /// Samples were taken, and none had it in that state. The kernel kept nothing at all, or for less than an
    /// interval: its table of minisockets was full, `TCP_LINGER2` is negative, or the address was needed again.
    pub never_found: bool,
    /// The uncertainty of the time: the length of the interval in which it happened. It is longer where a sample was
    /// late, as after a stall of the output.
    pub interval_ns: Option<u64>,
}
