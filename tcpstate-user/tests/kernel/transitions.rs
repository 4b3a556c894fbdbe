//! Transitions, as `tcpstate` and the oracle are compared by them.

use std::{collections::BTreeMap, net::SocketAddr};

use tcpstate_common::State;

/// The compared fields of a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Transition {
    pub oldstate: State,
    pub newstate: State,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// The number of times that each transition was seen.
pub type Multiset = BTreeMap<Transition, u64>;
