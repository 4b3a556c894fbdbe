//! The facts about a socket that an expression asks for.

use std::net::IpAddr;

use tcpstate_common::State;

use super::truth::Truth;
use crate::{
    cause::Cause,
    filter::{CauseSet, CgroupTree, StateSet},
    model::Traffic,
    names::Cgroup,
    owner::{Comm, Holder, How, Owner},
    service::Role,
};

/// An end of a connection, as this host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `src`.
    Local,
    /// `dst`.
    Remote,
}

/// A field that is a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Time in the present state; at a change, in the old one; nanoseconds.
    Dwell,
    /// Time from the first transition to the last, nanoseconds.
    Lifetime,
    /// Time to establish, nanoseconds.
    Handshake,
    /// Payload sent, retransmissions included.
    BytesSent,
    /// Payload received in order.
    BytesReceived,
    /// Segments retransmitted.
    Retransmits,
    /// Smoothed round-trip time, nanoseconds.
    Srtt,
}

/// The bounds of a number that may not be known exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// It is at least so much.
    pub least: u64,
    /// It is at most so much.
    pub most: u64,
}

impl Bounds {
    /// This number.
    pub const fn exactly(number: u64) -> Self {
        Self {
            least: number,
            most: number,
        }
    }
}

/// Whether a process is wanted. Of processes that share a listener, only what they have in common is known.
pub type Wanted<'a> = &'a dyn Fn(Option<u32>, Option<Comm>) -> Truth;

/// Whether a cgroup is wanted, by its names.
pub type WantedCgroup<'a> = &'a dyn Fn(&Cgroup) -> Truth;

/// The facts about a socket. `None`: it is not known.
pub trait Facts {
    /// The address of one end.
    fn address(&self, side: Side) -> Option<IpAddr>;
    /// The port of one end; 0 is none.
    fn port(&self, side: Side) -> Option<u16>;
    /// Whether IPv4 travels on the wire.
    fn is_ipv4(&self) -> Option<bool>;
    /// The port of the service.
    fn service_port(&self) -> Option<u16>;
    /// Whether it is in one of these states; a change leaves or enters one, a connection was in one.
    fn is_in(&self, states: StateSet) -> Truth;
    /// Which side it is.
    fn role(&self) -> Option<Role>;
    /// Inode number of the network namespace.
    fn netns(&self) -> Option<u32>;
    /// The user that it belongs to.
    fn uid(&self) -> Option<u32>;
    /// Whether its cgroup is this one or below it.
    fn is_below(&self, tree: &CgroupTree) -> Truth;
    /// Whether its cgroup is wanted, by its names. Unknown where it has none.
    fn judge_cgroup(&self, is_wanted: WantedCgroup<'_>) -> Truth;
    /// Whether a process that has to do with it, by its number and name, is wanted. Unknown where none is known.
    fn any_process(&self, is_wanted: Wanted<'_>) -> Truth;
    /// A field that is a number.
    fn number(&self, field: Field) -> Option<Bounds>;
    /// Whether there is such a number: a change that ends nothing has no lifetime.
    fn has(&self, _field: Field) -> bool {
        true
    }
    /// The state before a change.
    fn oldstate(&self) -> Option<State> {
        None
    }
    /// The state after it.
    fn newstate(&self) -> Option<State> {
        None
    }
    /// Whether the connection has ended for one of these causes.
    fn ended_by(&self, _causes: &CauseSet) -> Truth {
        Truth::Unknown
    }
}

/// Whether a cause is one of these; `None`: nothing has ended.
pub(super) fn is_cause(cause: Option<Cause>, causes: &CauseSet) -> Truth {
    match cause {
        Some(cause) if causes.contains(cause) => Truth::Yes,
        Some(Cause::Unknown) => Truth::Unknown,
        _ => Truth::No,
    }
}

/// Whether one of the processes is wanted: the owner, where it is known, or one of the others.
pub(super) fn any_process(owner: &Owner, others: &[Holder], is_wanted: Wanted<'_>) -> Truth {
    let owner = Some(owner).filter(|owner| owner.how != How::Unknown);
    let owner = owner.map(|owner| is_wanted(owner.pid, owner.comm));
    if owner.is_none() && others.is_empty() {
        return Truth::Unknown;
    }
    // A process that has only closed it decides nothing: that is not known before the end.
    let others = others.iter().filter(|other| other.opened || other.holds);
    let others = others.map(|other| is_wanted(Some(other.pid), other.comm));
    Truth::any(owner.into_iter().chain(others))
}

/// A number of the kernel's counters.
pub(super) fn count(traffic: &Traffic, field: Field) -> Option<Bounds> {
    Some(Bounds::exactly(match field {
        Field::BytesSent => traffic.bytes_sent,
        Field::BytesReceived => traffic.bytes_received,
        Field::Retransmits => traffic.retransmits.into(),
        Field::Srtt => u64::from(traffic.srtt_us?) * 1_000,
        Field::Dwell | Field::Lifetime | Field::Handshake => return None,
    }))
}
