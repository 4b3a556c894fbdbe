//! A part of the state diagram.

use std::fmt;

use tcpstate_common::State;
use tcpstate_text::explain::edge_of;

/// The part of the diagram that all screens are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    State(State),
    Edge(State, State),
}

impl Kept {
    /// Whether this state is a part of it.
    pub(crate) fn has(self, state: State) -> bool {
        match self {
            Self::State(kept) => kept == state,
            Self::Edge(from, to) => [from, to].contains(&state),
        }
    }

    /// Whether this transition is a part of it.
    pub(crate) fn has_transition(self, from: State, to: State) -> bool {
        match self {
            Self::State(kept) => [from, to].contains(&kept),
            Self::Edge(kept_from, kept_to) => edge_of(from, to) == (kept_from, kept_to),
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(state) => state.fmt(f),
            Self::Edge(from, to) => write!(f, "{from} -> {to}"),
        }
    }
}
