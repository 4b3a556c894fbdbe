//! Transitions: what one means for its connection, and how often one happened.

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

/// Whether a transition begins a connection.
pub fn opens(from: State, to: State) -> bool {
    match from {
        State::CLOSE => !matches!(to, State::CLOSE | State::LISTEN),
        State::LISTEN => to == State::SYN_RECV,
        _ => false,
    }
}

/// Whether a transition ends a connection.
pub fn closes(from: State, to: State) -> bool {
    to == State::CLOSE && !matches!(from, State::CLOSE | State::LISTEN)
}
