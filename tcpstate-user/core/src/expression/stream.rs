//! The facts of the stream: of an event, and of an entry of a census.

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hashbrown::HashMap;
use tcpstate_common::{
    State,
    filter::Key,
    record::AF_INET,
    transition::{closes, opens},
};

use super::{
    facts::{Bounds, Facts, Field, Side, Wanted, WantedCgroup, any_process, count, is_cause},
    truth::Truth,
};
use crate::{
    cause::Cause,
    census::{Found, HalfOpen, Held},
    event::Event,
    filter::{CauseSet, CgroupTree, StateSet},
    model::{Applied, Traffic},
    names::{Cgroup, Names},
    owner::{Holder, Owner},
    service::Role,
};

/// The most cgroups whose names are remembered.
const MAX_KNOWN: usize = 1 << 16;

/// The names of cgroups, looked up once.
#[derive(Clone, Debug, Default)]
pub struct Cgroups {
    names: Names,
    known: RefCell<HashMap<u64, Arc<Cgroup>>>,
}

impl Cgroups {
    /// The names of a source's cgroups.
    pub fn new(names: Names) -> Self {
        Self {
            names,
            known: RefCell::default(),
        }
    }

    /// Judges a cgroup by its names; `None`: it has none, or is not known.
    fn judge(&self, id: Option<u64>, is_true: impl FnOnce(Option<&Cgroup>) -> Truth) -> Truth {
        let Some(number) = id else {
            return is_true(None);
        };
        let mut known = self.known.borrow_mut();
        if let Some(cgroup) = known.get(&number) {
            return is_true(Some(cgroup));
        }
        let cgroup = self.names.cgroup(id);
        let truth = is_true(cgroup.as_deref());
        // The name of a pod may become known later.
        if let Some(cgroup) = cgroup.filter(|cgroup| !cgroup.lacks_pod()) {
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
            known.insert(number, cgroup);
        }
        truth
    }

    fn is_below(&self, id: Option<u64>, tree: &CgroupTree) -> Truth {
        self.judge(id, |cgroup| {
            Truth::of(tree.has(id, cgroup.map(Cgroup::path)))
        })
    }

    fn judge_cgroup(&self, id: Option<u64>, is_wanted: WantedCgroup<'_>) -> Truth {
        self.judge(id, |cgroup| cgroup.map_or(Truth::Unknown, is_wanted))
    }
}

/// The facts at an event.
pub struct EventFacts<'a> {
    /// The event that is judged.
    pub event: &'a Event,
    /// The latest event of its socket: it or, where it has been held, the one that settles it.
    pub latest: &'a Event,
    /// The meaning of `latest`, where the stream is tracked.
    pub applied: Option<&'a Applied<'a>>,
    /// The names of cgroups.
    pub cgroups: &'a Cgroups,
    /// Whether every process that has to do with the socket counts, not only its owner.
    pub with_holders: bool,
}

impl EventFacts<'_> {
    /// Whether the kernel sets something only after the latest event that a filter may test.
    pub fn is_pending(&self) -> bool {
        key(self.latest).pending_ports().either()
            || [Side::Local, Side::Remote]
                .map(|side| self.address(side))
                .contains(&None)
    }
}

/// The key of an event for the rule that the BPF programs share.
pub(super) const fn key(event: &Event) -> Key {
    Key {
        family: event.record().family,
        lport: event.lport(),
        rport: event.rport(),
        oldstate: event.oldstate(),
        newstate: event.newstate(),
    }
}

impl Facts for EventFacts<'_> {
    fn address(&self, side: Side) -> Option<IpAddr> {
        let event = self.latest;
        let address = match side {
            Side::Local => event.laddr(),
            Side::Remote => event.raddr(),
        };
        let is_any = address.is_unspecified();
        let is_pending = match side {
            Side::Local => key(event).is_laddr_pending(is_any),
            Side::Remote => key(event).is_raddr_pending(is_any),
        };
        (!is_pending).then_some(address)
    }

    fn port(&self, side: Side) -> Option<u16> {
        let event = self.latest;
        let pending = key(event).pending_ports();
        let (port, is_pending) = match side {
            Side::Local => (event.lport(), pending.lport),
            Side::Remote => (event.rport(), pending.rport),
        };
        (!is_pending).then_some(port)
    }

    fn is_ipv4(&self) -> Option<bool> {
        let event = self.latest;
        let are_any = (
            event.laddr().is_unspecified(),
            event.raddr().is_unspecified(),
        );
        let is_ipv4 = event.is_ipv4();
        let is_pending = !is_ipv4 && key(event).is_family_pending(are_any.0, are_any.1);
        (!is_pending).then_some(is_ipv4)
    }

    fn service_port(&self) -> Option<u16> {
        self.applied?.service_port()
    }

    fn is_in(&self, states: StateSet) -> Truth {
        states.touches(self.event).into()
    }

    fn role(&self) -> Option<Role> {
        Some(self.applied?.role()).filter(|&role| role != Role::Unknown)
    }

    fn netns(&self) -> Option<u32> {
        self.latest.netns()
    }

    fn uid(&self) -> Option<u32> {
        self.applied?.uid()
    }

    fn is_below(&self, tree: &CgroupTree) -> Truth {
        let cgroup = self.applied.and_then(Applied::cgroup);
        self.cgroups.is_below(cgroup, tree)
    }

    fn judge_cgroup(&self, is_wanted: WantedCgroup<'_>) -> Truth {
        let cgroup = self.applied.and_then(Applied::cgroup);
        self.cgroups.judge_cgroup(cgroup, is_wanted)
    }

    fn any_process(&self, is_wanted: Wanted<'_>) -> Truth {
        let Some(applied) = self.applied else {
            return Truth::Unknown;
        };
        let owner = applied.owner();
        let by_owner = any_process(&owner, &[], is_wanted);
        if by_owner == Truth::Yes || !self.with_holders {
            return by_owner;
        }
        let holders = applied.holders().map_or(&[][..], |all| all);
        any_process(&owner, holders, is_wanted)
    }

    fn number(&self, field: Field) -> Option<Bounds> {
        let time = match field {
            Field::Dwell => self.applied?.dwell_ns,
            Field::Lifetime => self.applied?.lifetime_ns(),
            Field::Handshake => self.applied?.handshake_ns(),
            _ => return count(&Traffic::of(self.event)?, field),
        };
        time.map(Bounds::exactly)
    }

    fn has(&self, field: Field) -> bool {
        let (old, new) = (self.event.oldstate(), self.event.newstate());
        match field {
            Field::Dwell => old != State::CLOSE && !opens(old, new),
            Field::Lifetime => closes(old, new),
            Field::Handshake => {
                new == State::ESTABLISHED && matches!(old, State::SYN_SENT | State::SYN_RECV)
            }
            _ => true,
        }
    }

    fn oldstate(&self) -> Option<State> {
        Some(self.event.oldstate())
    }

    fn newstate(&self) -> Option<State> {
        Some(self.event.newstate())
    }

    fn ended_by(&self, causes: &CauseSet) -> Truth {
        is_cause(Cause::of(self.event), causes)
    }
}

/// The facts about an entry of a census.
pub struct EntryFacts<'a> {
    netns: u32,
    is_ipv4: bool,
    local: (IpAddr, u16),
    /// `None`: not in the census.
    remote: Option<(IpAddr, u16)>,
    /// The names of cgroups.
    cgroups: &'a Cgroups,
    /// Which side it is.
    pub role: Role,
    /// The process that it belongs to.
    pub owner: Owner,
    /// The user that it belongs to.
    pub uid: Option<u32>,
    /// Id of its cgroup.
    pub cgroup: Option<u64>,
    /// The processes that have to do with it.
    pub holders: &'a [Holder],
}

impl<'a> EntryFacts<'a> {
    /// The facts about a socket, as the census has them.
    pub fn of(found: &Found, netns: u32, cgroups: &'a Cgroups) -> Self {
        let (laddr, raddr) = (found.laddr.to_canonical(), found.raddr.to_canonical());
        Self {
            netns,
            is_ipv4: found.family == AF_INET || laddr.is_ipv4() || raddr.is_ipv4(),
            local: (laddr, found.lport),
            remote: Some((raddr, found.rport)),
            cgroups,
            role: found.role,
            owner: found.owner,
            uid: found.uid,
            cgroup: found.cgroup,
            holders: &[],
        }
    }

    /// Those about a listener.
    pub fn of_listener(held: &Held, netns: u32, cgroups: &'a Cgroups) -> Self {
        let none = match held.laddr {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        Self::of_server((held.laddr, held.lport), Some((none, 0)), netns, cgroups)
    }

    /// Those about half-open connections, whose peers it does not have.
    pub fn of_half_open(half_open: &HalfOpen, netns: u32, cgroups: &'a Cgroups) -> Self {
        Self::of_server((half_open.laddr, half_open.lport), None, netns, cgroups)
    }

    fn of_server(
        (laddr, lport): (IpAddr, u16),
        remote: Option<(IpAddr, u16)>,
        netns: u32,
        cgroups: &'a Cgroups,
    ) -> Self {
        let laddr = laddr.to_canonical();
        Self {
            netns,
            is_ipv4: laddr.is_ipv4(),
            local: (laddr, lport),
            remote,
            cgroups,
            role: Role::Server,
            owner: Owner::UNKNOWN,
            uid: None,
            cgroup: None,
            holders: &[],
        }
    }

    fn end(&self, side: Side) -> Option<(IpAddr, u16)> {
        match side {
            Side::Local => Some(self.local),
            Side::Remote => self.remote,
        }
    }
}

impl Facts for EntryFacts<'_> {
    fn address(&self, side: Side) -> Option<IpAddr> {
        Some(self.end(side)?.0)
    }

    fn port(&self, side: Side) -> Option<u16> {
        Some(self.end(side)?.1)
    }

    fn is_ipv4(&self) -> Option<bool> {
        Some(self.is_ipv4)
    }

    fn service_port(&self) -> Option<u16> {
        let remote = self.remote.map_or(0, |(_, port)| port);
        self.role.service_port(self.local.1, remote)
    }

    fn is_in(&self, _states: StateSet) -> Truth {
        Truth::Unknown
    }

    fn role(&self) -> Option<Role> {
        Some(self.role).filter(|&role| role != Role::Unknown)
    }

    fn netns(&self) -> Option<u32> {
        Some(self.netns)
    }

    fn uid(&self) -> Option<u32> {
        self.uid
    }

    fn is_below(&self, tree: &CgroupTree) -> Truth {
        self.cgroups.is_below(self.cgroup, tree)
    }

    fn judge_cgroup(&self, is_wanted: WantedCgroup<'_>) -> Truth {
        self.cgroups.judge_cgroup(self.cgroup, is_wanted)
    }

    fn any_process(&self, is_wanted: Wanted<'_>) -> Truth {
        any_process(&self.owner, self.holders, is_wanted)
    }

    fn number(&self, _field: Field) -> Option<Bounds> {
        None
    }
}

#[cfg(test)]
mod tests;
