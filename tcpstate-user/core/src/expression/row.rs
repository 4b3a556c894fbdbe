//! The facts of what is shown: of a socket that is listed, and of a connection.

use std::net::IpAddr;

use tcpstate_common::State;

use super::{
    facts::{Bounds, Facts, Field, Side, Wanted, WantedCgroup, any_process, count, is_cause},
    truth::Truth,
};
use crate::{
    catalogue::{ConnectionRow, SocketRow},
    filter::{CauseSet, CgroupTree, StateSet},
    inventory::Age,
    service::Role,
};

/// The facts that every row has in common.
macro_rules! facts_of_common {
    () => {
        fn is_ipv4(&self) -> Option<bool> {
            Some(self.common.is_ipv4)
        }

        fn service_port(&self) -> Option<u16> {
            self.common.service_port
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

        fn is_below(&self, tree: &CgroupTree) -> Truth {
            let common = &self.common;
            let path = common.cgroup.as_ref().map(|cgroup| cgroup.path());
            Truth::of(tree.has(common.cgroup_id, path))
        }

        fn judge_cgroup(&self, is_wanted: WantedCgroup<'_>) -> Truth {
            let cgroup = self.common.cgroup.as_deref();
            cgroup.map_or(Truth::Unknown, is_wanted)
        }

        fn any_process(&self, is_wanted: Wanted<'_>) -> Truth {
            let holders = self.processes.as_deref().unwrap_or_default();
            any_process(&self.common.owner, holders, is_wanted)
        }
    };
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

    facts_of_common!();

    fn is_in(&self, states: StateSet) -> Truth {
        let is_bound = self.state == State::CLOSE;
        (states.contains(self.state) || is_bound && states.contains(State::BOUND_INACTIVE)).into()
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
            Field::Lifetime | Field::Handshake => None,
        }
    }
}

/// At the end of a connection, or at that of the run.
impl Facts for ConnectionRow {
    fn address(&self, side: Side) -> Option<IpAddr> {
        match side {
            Side::Local => self.laddr,
            Side::Remote => self.raddr,
        }
    }

    fn port(&self, side: Side) -> Option<u16> {
        match side {
            Side::Local => self.lport,
            Side::Remote => self.rport,
        }
    }

    facts_of_common!();

    fn is_in(&self, states: StateSet) -> Truth {
        if self.states.iter().any(|stay| states.contains(stay.state)) {
            return Truth::Yes;
        }
        // Those that are not kept may have been.
        Truth::of((!self.truncated).then_some(false))
    }

    fn number(&self, field: Field) -> Option<Bounds> {
        match field {
            Field::Lifetime => Some(match self.lifetime_ns {
                Some(lifetime_ns) => Bounds::exactly(lifetime_ns),
                // It began before the first transition that was seen.
                None => Bounds {
                    least: self.common.ts_ns.saturating_sub(self.first_ns),
                    most: u64::MAX,
                },
            }),
            Field::Handshake => self.handshake_ns.map(Bounds::exactly),
            _ => count(self.traffic.as_ref()?, field),
        }
    }

    fn has(&self, field: Field) -> bool {
        let was_established = || self.is_in(StateSet::of(State::ESTABLISHED)) != Truth::No;
        field != Field::Handshake || self.handshake_ns.is_some() || was_established()
    }

    fn ended_by(&self, causes: &CauseSet) -> Truth {
        is_cause(self.cause, causes)
    }
}
