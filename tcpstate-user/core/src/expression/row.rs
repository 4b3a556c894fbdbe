//! The facts of what is shown: of a socket that is listed, and of a connection.

use std::{net::IpAddr, ops::Deref};

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

/// A connection that is open, as a list has it: in its present state, for so long.
#[derive(Clone, Copy, Debug)]
pub struct OpenConnection<'a>(pub &'a ConnectionRow);

impl Deref for OpenConnection<'_> {
    type Target = ConnectionRow;

    fn deref(&self) -> &ConnectionRow {
        self.0
    }
}

impl Facts for OpenConnection<'_> {
    fn address(&self, side: Side) -> Option<IpAddr> {
        self.0.address(side)
    }

    fn port(&self, side: Side) -> Option<u16> {
        self.0.port(side)
    }

    facts_of_common!();

    fn is_in(&self, states: StateSet) -> Truth {
        let present = self.states.last();
        Truth::of(present.map(|stay| states.contains(stay.state)))
    }

    fn number(&self, field: Field) -> Option<Bounds> {
        if field != Field::Dwell {
            return self.0.number(field);
        }
        let present = self.states.last()?;
        let exactly = present.dwell_ns.map(Bounds::exactly);
        exactly.or_else(|| {
            Some(Bounds {
                least: present.at_least_ns?,
                most: u64::MAX,
            })
        })
    }

    fn has(&self, field: Field) -> bool {
        self.0.has(field)
    }

    fn ended_by(&self, causes: &CauseSet) -> Truth {
        self.0.ended_by(causes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::SocketId,
        expression::{Expression, Moment, NoNames},
        model::{Connection, Stay},
        owner::Owner,
    };

    /// One that was established 10 s ago, and half-closed by its peer 4 s ago.
    fn open(last_ns: Option<u64>, there_ns: Option<u64>) -> ConnectionRow {
        let stay = |state| Stay {
            state,
            dwell_ns: None,
            at_least_ns: None,
            sampled: false,
            interval_ns: None,
        };
        let connection = Connection {
            id: SocketId::Cookie(1),
            netns: None,
            family: 2,
            laddr: None,
            lport: None,
            raddr: None,
            rport: None,
            role: Role::Unknown,
            service_port: None,
            owner: Owner::UNKNOWN,
            processes: None,
            uid: None,
            cgroup: None,
            states: vec![stay(State::ESTABLISHED), stay(State::CLOSE_WAIT)],
            truncated: false,
            first_ns: 10_000_000_000,
            opened: true,
            last_ns,
            there_ns,
            handshake_ns: None,
        };
        ConnectionRow::open(connection, 20_000_000_000)
    }

    fn judge(text: &str, row: &ConnectionRow) -> Truth {
        let expression = Expression::parse_for(Moment::List, text, &NoNames).unwrap();
        expression.judge(&OpenConnection(row))
    }

    #[test]
    fn an_open_connection_is_in_its_last_state_only() {
        let row = open(Some(16_000_000_000), None);
        for (text, truth) in [
            ("state close-wait", Truth::Yes),
            ("state established", Truth::No),
            ("exclude established", Truth::Yes),
            ("dwell = 4s", Truth::Yes),
            ("dwell > 4s", Truth::No),
            // Its counters are not known.
            ("bytes_sent > 0", Truth::Unknown),
            ("not srtt < 1s", Truth::Unknown),
        ] {
            assert_eq!(judge(text, &row), truth, "{text}");
        }
        // One that has ended was in all of them.
        let state = Expression::parse("state established", &NoNames).unwrap();
        assert_eq!(state.judge(&row), Truth::Yes);
    }

    #[test]
    fn a_time_of_which_the_beginning_was_not_seen_is_a_bound() {
        let row = open(None, Some(18_000_000_000));
        for (text, truth) in [
            ("dwell >= 2s", Truth::Yes),
            ("dwell < 2s", Truth::No),
            ("dwell > 3s", Truth::Unknown),
        ] {
            assert_eq!(judge(text, &row), truth, "{text}");
        }
        assert_eq!(judge("dwell > 0", &open(None, None)), Truth::Unknown);
    }
}
