//! The facts of a change that left the stream: for whoever judges it later, or elsewhere.

use std::{net::IpAddr, sync::Arc};

use tcpstate_common::State;

use super::{
    facts::{Bounds, Facts, Field, Side, Wanted, WantedCgroup, any_process, count},
    stream::{Cgroups, EventFacts},
    truth::Truth,
};
use crate::{
    catalogue::TransitionRow,
    event::Event,
    filter::{CauseSet, CgroupTree, StateSet},
    model::Applied,
    names::Cgroup,
    owner::Holders,
    service::Role,
};

/// A change with all that a filter may ask of it, owned.
#[derive(Clone, Debug)]
pub struct Change {
    /// The event.
    pub event: Event,
    /// Its fields.
    pub row: TransitionRow,
    /// At the end of a connection, its lifetime.
    pub lifetime_ns: Option<u64>,
    /// The processes that have to do with the socket.
    pub holders: Option<Holders>,
}

impl Change {
    /// The change that an event is. Wall-clock time and the names of the cgroup come from outside.
    pub fn new(
        event: &Event,
        applied: &Applied<'_>,
        wall_ns: i64,
        cgroup: Option<Arc<Cgroup>>,
    ) -> Self {
        Self {
            event: *event,
            row: TransitionRow::new(event, applied, wall_ns, cgroup),
            lifetime_ns: applied.lifetime_ns(),
            holders: applied.holders().cloned(),
        }
    }
}

/// The facts at a change.
pub struct ChangeFacts<'a> {
    /// The change that is judged.
    pub change: &'a Change,
    /// The latest one of its socket: it or, where it has been held, the one that settles it.
    pub latest: &'a Change,
}

impl ChangeFacts<'_> {
    /// Whether the kernel sets something only after the latest change that a filter may test.
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method alone is of one lifetime only"
    )]
    pub fn is_pending(&self) -> bool {
        self.of_events(|facts| facts.is_pending())
    }

    /// The facts of the events alone.
    fn of_events<T>(&self, read: impl FnOnce(&EventFacts<'_>) -> T) -> T {
        read(&EventFacts {
            event: &self.change.event,
            latest: &self.latest.event,
            applied: None,
            cgroups: &Cgroups::default(),
            with_holders: false,
        })
    }
}

impl Facts for ChangeFacts<'_> {
    fn address(&self, side: Side) -> Option<IpAddr> {
        self.of_events(|facts| facts.address(side))
    }

    fn port(&self, side: Side) -> Option<u16> {
        self.of_events(|facts| facts.port(side))
    }

    fn is_ipv4(&self) -> Option<bool> {
        self.of_events(|facts| facts.is_ipv4())
    }

    fn service_port(&self) -> Option<u16> {
        self.latest.row.common.service_port
    }

    fn is_in(&self, states: StateSet) -> Truth {
        states.touches(&self.change.event).into()
    }

    fn role(&self) -> Option<Role> {
        Some(self.latest.row.common.role).filter(|&role| role != Role::Unknown)
    }

    fn netns(&self) -> Option<u32> {
        self.latest.event.netns()
    }

    fn uid(&self) -> Option<u32> {
        self.latest.row.common.uid
    }

    fn is_below(&self, tree: &CgroupTree) -> Truth {
        let common = &self.latest.row.common;
        let path = common.cgroup.as_ref().map(|cgroup| cgroup.path());
        Truth::of(tree.has(common.cgroup_id, path))
    }

    fn judge_cgroup(&self, is_wanted: WantedCgroup<'_>) -> Truth {
        let cgroup = self.latest.row.common.cgroup.as_deref();
        cgroup.map_or(Truth::Unknown, is_wanted)
    }

    fn any_process(&self, is_wanted: Wanted<'_>) -> Truth {
        let holders = self.latest.holders.as_deref().unwrap_or_default();
        any_process(&self.latest.row.common.owner, holders, is_wanted)
    }

    fn number(&self, field: Field) -> Option<Bounds> {
        let time = match field {
            Field::Dwell => self.change.row.dwell_ns,
            Field::Lifetime => self.change.lifetime_ns,
            Field::Handshake => self.change.row.handshake_ns,
            _ => return count(self.change.row.traffic.as_ref()?, field),
        };
        time.map(Bounds::exactly)
    }

    fn has(&self, field: Field) -> bool {
        self.of_events(|facts| facts.has(field))
    }

    fn oldstate(&self) -> Option<State> {
        Some(self.change.event.oldstate())
    }

    fn newstate(&self) -> Option<State> {
        Some(self.change.event.newstate())
    }

    fn ended_by(&self, causes: &CauseSet) -> Truth {
        self.of_events(|facts| facts.ended_by(causes))
    }
}
