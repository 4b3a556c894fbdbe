//! Snapshots built by hand, for the tests of rules.

use tcpstate_common::State;

use super::{
    Finding, Group, GroupKey, ListenerNow, NetnsFacts, Observed, Rule, Snapshot, Survey,
    Thresholds, Top,
};
use crate::service::Role;

/// The namespace of all that is built.
pub(super) const NETNS: u32 = 4_026_531_840;

/// A snapshot that owns its parts.
#[derive(Default)]
pub(super) struct Sample {
    pub sockets: Survey,
    pub earlier: Option<Survey>,
    pub observed: Observed,
    pub facts: Vec<NetnsFacts>,
    pub earlier_facts: Vec<NetnsFacts>,
    pub thresholds: Thresholds,
}

impl Sample {
    /// With a group of sockets, and their queues.
    pub fn with(mut self, key: GroupKey, group: Group) -> Self {
        self.sockets.has_queues = true;
        self.sockets.groups.insert(key, group);
        self
    }

    /// With a listener.
    pub fn with_listener(mut self, listener: ListenerNow) -> Self {
        self.sockets.has_queues = true;
        self.sockets.listeners.push(listener);
        self
    }

    /// With counters, or present numbers, now.
    pub fn counting(mut self, counters: &[(&'static str, u64)]) -> Self {
        let facts = self.facts_mut();
        facts.counters = counters.iter().copied().collect();
        self
    }

    /// With settings.
    pub fn set(mut self, settings: &[(&'static str, &str)]) -> Self {
        let settings = settings.iter();
        let facts = self.facts_mut();
        facts.settings = settings
            .map(|&(path, text)| (path, text.to_owned()))
            .collect();
        self
    }

    /// With this earlier look.
    pub fn after(mut self, earlier: Self) -> Self {
        self.earlier = Some(earlier.sockets);
        self.earlier_facts = earlier.facts;
        self
    }

    /// The findings of a rule, if it has its inputs.
    pub fn found(&self, rule: &'static Rule) -> Vec<Finding> {
        let mut found = Vec::new();
        self.with_snapshot(|snapshot| {
            if rule.missing(snapshot).is_none() {
                found = rule.check(snapshot);
            }
        });
        found
    }

    /// Hands out the snapshot.
    pub fn with_snapshot(&self, f: impl FnOnce(&Snapshot<'_>)) {
        f(&Snapshot {
            now_ns: 0,
            sockets: Some(&self.sockets),
            earlier: self.earlier.as_ref(),
            observed: &self.observed,
            facts: &self.facts,
            earlier_facts: &self.earlier_facts,
            thresholds: &self.thresholds,
        });
    }

    fn facts_mut(&mut self) -> &mut NetnsFacts {
        if self.facts.is_empty() {
            self.facts.push(NetnsFacts {
                netns: NETNS,
                ..NetnsFacts::default()
            });
        }
        &mut self.facts[0]
    }
}

/// A group of so many sockets.
pub(super) fn group(count: u64) -> Group {
    Group {
        count,
        ..Group::default()
    }
}

/// The key of a group.
pub(super) const fn key(port: u16, role: Role, state: State) -> GroupKey {
    GroupKey {
        netns: NETNS,
        port: Some(port),
        role,
        state,
    }
}

/// A listener at port 443 with nothing in its queues.
pub(super) fn listener(backlog: u32) -> ListenerNow {
    ListenerNow {
        cookie: 0,
        netns: NETNS,
        laddr: [0, 0, 0, 0].into(),
        port: 443,
        waiting: Some(0),
        backlog: Some(backlog),
        drops: None,
        half_open: 0,
        half_open_peers: Top::default(),
        resent: 0,
        synack_retransmits: 0,
        deferred: 0,
        owner: None,
    }
}

/// So many different addresses, each once.
pub(super) fn addresses(count: u8) -> Top<std::net::IpAddr> {
    let mut top = Top::default();
    for last in 0..count {
        top.add([192, 0, 2, last].into());
    }
    top
}
