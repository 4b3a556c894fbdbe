//! Transitions, counted.

use tcpstate_common::State;

/// A transition and its count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransitionCount {
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// The count.
    pub count: u64,
}
