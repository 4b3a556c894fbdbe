//! The facts about a socket that an expression asks for.

use std::net::IpAddr;

use tcpstate_common::State;

use super::truth::Truth;
use crate::{
    catalogue::SocketRow,
    filter::StateSet,
    inventory::Age,
    owner::{Comm, How},
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
    /// Time in the present state, nanoseconds.
    Dwell,
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
    /// Whether it is in one of these states.
    fn is_in(&self, states: StateSet) -> Truth;
    /// Which side it is.
    fn role(&self) -> Option<Role>;
    /// Inode number of the network namespace.
    fn netns(&self) -> Option<u32>;
    /// The user that it belongs to.
    fn uid(&self) -> Option<u32>;
    /// Path of its cgroup.
    fn cgroup(&self) -> Option<&str>;
    /// Whether a process that has to do with it is one of those. Unknown where none is known.
    fn any_process(&self, is_wanted: &dyn Fn(u32, Option<Comm>) -> bool) -> Truth;
    /// A field that is a number.
    fn number(&self, field: Field) -> Option<Bounds>;
}

impl Facts for SocketRow {
    fn address(&self, side: Side) -> Option<IpAddr> {
        Some(match side {
            Side::Local => self.common.laddr,
            Side::Remote => self.common.raddr,
        })
    }

    fn port(&self, side: Side) -> Option<u16> {
        Some(match side {
            Side::Local => self.common.lport,
            Side::Remote => self.common.rport,
        })
    }

    fn is_ipv4(&self) -> Option<bool> {
        Some(self.common.is_ipv4)
    }

    fn service_port(&self) -> Option<u16> {
        self.common.service_port
    }

    fn is_in(&self, states: StateSet) -> Truth {
        let is_bound = self.state == State::CLOSE;
        (states.contains(self.state) || is_bound && states.contains(State::BOUND_INACTIVE)).into()
    }

    fn role(&self) -> Option<Role> {
        Some(self.common.role).filter(|&role| role != Role::Unknown)
    }

    fn netns(&self) -> Option<u32> {
        self.common.netns
    }

    fn uid(&self) -> Option<u32> {
        self.common.uid
    }

    fn cgroup(&self) -> Option<&str> {
        self.common.cgroup.as_deref()
    }

    fn any_process(&self, is_wanted: &dyn Fn(u32, Option<Comm>) -> bool) -> Truth {
        let owner = &self.common.owner;
        let holders = self.processes.as_deref().unwrap_or_default();
        let owner = Some(owner).filter(|owner| owner.how != How::Unknown);
        let owner = owner.and_then(|owner| Some((owner.pid?, owner.comm)));
        let holders = holders.iter().map(|holder| (holder.pid, holder.comm));
        let mut all = owner.into_iter().chain(holders).peekable();
        if all.peek().is_none() {
            return Truth::Unknown;
        }
        all.any(|(pid, comm)| is_wanted(pid, comm)).into()
    }

    fn number(&self, field: Field) -> Option<Bounds> {
        let exactly = |number: u64| Some(Bounds::exactly(number));
        match field {
            Field::Dwell => self.age.map(
                |Age {
                     at_least_ns,
                     is_exact,
                 }| Bounds {
                    least: at_least_ns,
                    most: if is_exact { at_least_ns } else { u64::MAX },
                },
            ),
            Field::BytesSent => exactly(self.bytes_sent?),
            Field::BytesReceived => exactly(self.bytes_received?),
            Field::Retransmits => exactly(self.retransmits?.into()),
            Field::Srtt => exactly(u64::from(self.srtt_us?) * 1_000),
        }
    }
}
