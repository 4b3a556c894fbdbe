//! Transitions, counted.

use tcpstate_common::State;

/// A transition and how often it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransitionCount {
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// How often.
    pub count: u64,
}
