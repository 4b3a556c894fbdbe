//! Another grouping while the tracker runs.

use tcpstate_common::State;

use super::{By, Tracker, group::Traits};
use crate::service::Role;

impl Tracker {
    /// Groups rates and histograms in another way from now on.
    ///
    /// Connections that are open, and listeners, are in their new groups at once. Counts and histograms by group begin
    /// anew ([`Snapshot::by_since_ns`](super::Snapshot::by_since_ns)), for what has ended is not known one by one; the
    /// figures over all go on. Of a minisocket only the service and the namespace are kept, so that its owner, cgroup
    /// and remote address are unknown; the same holds for half-open connections until the next sample.
    ///
    /// It looks at each connection once.
    pub fn group_by(&mut self, by: By) {
        if by == self.groups.by() {
            return;
        }
        self.table.release();
        let groups = &self.groups;
        self.minisockets
            .regroup(|group, _| groups.service_of(group));
        self.groups.group_by(by, &self.limits);
        self.by_since_ns = Some(self.now_ns);
        self.clear_histograms();
        if let Some(rates) = &mut self.rates {
            rates.begin_groups();
        }
        let slots: Vec<u32> = self.table.open_slots().collect();
        for slot in slots {
            let group = self.groups.id(self.traits(slot));
            self.table.cold_mut(slot).group = group;
            if let Some(rates) = &mut self.rates {
                rates.enter(group, self.table.hot(slot).state);
            }
        }
        let groups = &mut self.groups;
        for listener in self.listeners.iter_mut() {
            let port = Some(listener.port()).filter(|&port| port != 0);
            let service = groups.services.id(port, Role::Server);
            listener.group = groups.id(Traits {
                owner: listener.owner,
                cgroup: listener.cgroup,
                netns: Some(listener.netns()).filter(|&netns| netns != 0),
                ..Traits::of_service(service, Role::Server)
            });
            if let Some(rates) = &mut self.rates {
                rates.enter(listener.group, State::LISTEN);
            }
        }
        self.minisockets.regroup(|service, netns| {
            let (_, role) = groups.services.key(service);
            groups.id(Traits {
                netns: Some(netns).filter(|&netns| netns != 0),
                ..Traits::of_service(service, role)
            })
        });
        let rates = &mut self.rates;
        self.minisockets.count(|group, state, count| {
            if let Some(rates) = rates {
                rates.enter_all(group, state, count);
            }
        });
    }

    /// The properties of a connection.
    pub(super) fn traits(&self, slot: u32) -> Traits {
        let (hot, cold) = (self.table.hot(slot), self.table.cold(slot));
        Traits {
            service: hot.service,
            role: hot.role(),
            owner: cold.owner(hot),
            cgroup: cold.cgroup(),
            netns: Some(cold.netns()).filter(|&netns| netns != 0),
            raddr: cold.raddr(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tcpstate_common::{
        Record,
        record::{AF_INET, flags},
    };

    use super::*;
    use crate::{
        event::Event,
        model::{GroupKey, Limits},
        owner::Comm,
        service::ServicePort,
    };

    fn apply(tracker: &mut Tracker, cookie: u64, (lport, rport): (u16, u16), record: Record) {
        let event = Event::try_from(Record {
            ts_ns: cookie,
            cookie,
            lport,
            rport,
            netns: 7,
            raddr: [9; 16],
            family: AF_INET,
            flags: flags::COOKIE | flags::PROCESS,
            ..record
        });
        tracker.apply(&event.unwrap());
    }

    fn change(oldstate: State, newstate: State) -> Record {
        Record {
            oldstate,
            newstate,
            ..Record::default()
        }
    }

    /// nginx listens and has a connection; curl has one.
    fn host() -> Tracker {
        let mut tracker = Tracker::new(Limits::default());
        let mut comm = [0; 16];
        comm[..5].copy_from_slice(b"nginx");
        let listens = Record {
            pid: 80,
            comm,
            ..change(State::CLOSE, State::LISTEN)
        };
        apply(&mut tracker, 1, (443, 0), listens);
        let child = change(State::LISTEN, State::SYN_RECV);
        apply(&mut tracker, 2, (443, 40_000), child);
        comm[..5].copy_from_slice(b"curl\0");
        let connects = Record {
            pid: 90,
            comm,
            ..change(State::CLOSE, State::SYN_SENT)
        };
        apply(&mut tracker, 3, (50_000, 5_432), connects);
        tracker
    }

    fn groups(tracker: &mut Tracker) -> Vec<(GroupKey, Vec<(State, u64)>)> {
        let groups = tracker.snapshot().groups.into_iter();
        groups
            .map(|group| (group.key, group.figures.states))
            .collect()
    }

    #[test]
    fn connections_and_listeners_are_in_their_new_groups_at_once() {
        let mut tracker = host();
        let nginx = vec![(State::LISTEN, 1), (State::SYN_RECV, 1)];
        let curl = vec![(State::SYN_SENT, 1)];
        let comm = |name: &[u8]| {
            let mut comm = [0; 16];
            comm[..name.len()].copy_from_slice(name);
            GroupKey::Comm(Some(Comm(comm)))
        };
        let sorted = |mut groups: Vec<(GroupKey, Vec<(State, u64)>)>| {
            for (_, states) in &mut groups {
                states.sort_by_key(|(state, _)| (*state != State::LISTEN, state.0));
            }
            groups
        };
        tracker.group_by(By::Comm);
        assert_eq!(
            sorted(groups(&mut tracker)),
            [
                (comm(b"curl"), curl.clone()),
                (comm(b"nginx"), nginx.clone())
            ]
        );
        tracker.group_by(By::Port);
        let port = |port, role| GroupKey::Port(ServicePort::Port(port), role);
        assert_eq!(
            sorted(groups(&mut tracker)),
            [
                (port(443, Role::Server), nginx),
                (port(5_432, Role::Client), curl)
            ]
        );
        // Connections that begin and end now are counted there.
        apply(
            &mut tracker,
            4,
            (50_001, 5_432),
            change(State::CLOSE, State::SYN_SENT),
        );
        apply(
            &mut tracker,
            3,
            (50_000, 5_432),
            change(State::SYN_SENT, State::CLOSE),
        );
        let snapshot = tracker.snapshot();
        let clients = snapshot
            .groups
            .iter()
            .find(|group| group.key == port(5_432, Role::Client));
        let figures = &clients.unwrap().figures;
        assert_eq!((figures.opened, figures.closed), (1, 1));
        assert_eq!(figures.states, [(State::SYN_SENT, 1)]);
        assert_eq!((snapshot.all.opened, snapshot.all.closed), (3, 1));
        assert_eq!(snapshot.by_since_ns, Some(3));
    }

    #[test]
    fn the_same_grouping_changes_nothing() {
        let mut tracker = host();
        let before = tracker.snapshot();
        tracker.group_by(By::Port);
        assert_eq!(tracker.snapshot(), before);
    }
}
