//! The effect of a census: sockets that were there before the capture, and the ends that no event shows.
//!
//! Events have precedence over a census: facts from events stay, unless the census proves that events
//! of the socket were lost.

use tcpstate_common::{
    Record, State,
    record::{AF_INET, AF_INET6, flags},
};

use super::{
    Ended, Limits, StateExit, Tracker,
    address::to_wire,
    group::Traits,
    histograms::Of,
    listeners::Handover,
    minisockets::{Counted, Judged, Mini},
    missing,
    packed::Known,
};
use crate::{
    census::{Census, Found, HalfOpen, Held, Kind, Scope, TIME_WAIT_NS},
    event::{Event, SocketId},
    owner::{How, Owner},
    recalled::Recalled,
    service::Role,
};

/// The number of minisockets that are looked up together.
const LOOK_AHEAD: usize = 32;

impl Tracker {
    /// Takes a census, or a part of one. Calls `on_exit` for each state that a connection left without
    /// an event.
    pub fn census(&mut self, census: &Census, mut on_exit: impl FnMut(&StateExit)) {
        self.census_with_ends(census, |exit, _| on_exit(exit));
    }

    /// As [`Tracker::census`]; `on_exit` also gets each connection that was held back ([`Tracker::hold_back`]) and is
    /// gone with this exit.
    pub fn census_with_ends(
        &mut self,
        census: &Census,
        mut on_exit: impl FnMut(&StateExit, Option<Ended>),
    ) {
        self.table.release();
        self.now_ns = self.now_ns.max(census.begin_ns);
        for some in census.found.chunks(LOOK_AHEAD) {
            self.minisockets
                .look_ahead(some.iter().map(|found| found.cookie));
            for found in some {
                match found.kind {
                    Kind::Socket => self.found_socket(found, census),
                    Kind::Minisocket => self.found_minisocket(found, census, &mut on_exit),
                }
            }
        }
        for held in &census.held {
            self.hold(held);
        }
        if self.listed.len() < self.max_listed() {
            self.listed.extend(&census.known);
        }
        for some in census.gone.chunks(LOOK_AHEAD) {
            self.minisockets
                .look_ahead(some.iter().map(|gone| gone.cookie));
            for gone in some {
                if let Some(mini) = self.minisockets.remove(gone.cookie) {
                    self.leave(gone.cookie, mini, gone.at_ns, census, &mut on_exit);
                }
            }
        }
        for request in &census.requests {
            self.minisockets.note_request(request, census.netns);
        }
        for &cookie in &census.requests_gone {
            self.minisockets.take_request(cookie);
        }
        if !census.scope.is_of_sockets() {
            self.take_half_open(census);
        }
        if census.more {
            return;
        }
        match census.scope {
            Scope::Small => self.judge_minisockets(census, &mut on_exit),
            // A list that is not complete proves no end.
            Scope::All if self.listed.len() < self.max_listed() => {
                self.end_what_is_not_listed(census);
            }
            Scope::All | Scope::Some => {}
            Scope::Vanished | Scope::OutOfReach => {
                self.end_all_minisockets(census, &mut on_exit);
            }
        }
        self.listed.clear();
    }

    /// The most cookies of a census that are kept until its last part: far more than sockets are kept.
    const fn max_listed(&self) -> usize {
        let Limits {
            max_connections,
            max_listeners,
            ..
        } = self.limits;
        max_connections
            .saturating_add(max_listeners)
            .saturating_mul(2)
    }

    /// Takes what was known before the beginning: it changes what is known of the sockets, and counts nowhere.
    pub fn recall(&mut self, recalled: &Recalled) {
        match recalled {
            Recalled::Events(events) => {
                for event in events {
                    self.recall_event(event);
                }
            }
            Recalled::Census(census) => self.recall_census(census, |_| {}),
        }
    }

    /// As [`Tracker::census`], for what was known before the beginning: it counts nowhere.
    pub fn recall_census(&mut self, census: &Census, on_exit: impl FnMut(&StateExit)) {
        let before = self.before_recall();
        let histograms = self.histograms.take();
        self.recalls = true;
        self.census(census, on_exit);
        self.recalls = false;
        self.histograms = histograms;
        self.after_recall(&before);
    }

    fn end_all_minisockets(
        &mut self,
        census: &Census,
        on_exit: &mut impl FnMut(&StateExit, Option<Ended>),
    ) {
        for cookie in self.minisockets.vanish(census.netns) {
            let Some(mut mini) = self.minisockets.remove(cookie) else {
                continue;
            };
            if census.scope == Scope::OutOfReach {
                self.books.unfollowed += 1;
                mini.forget_since();
            }
            self.leave(cookie, mini, census.begin_ns, census, on_exit);
        }
    }

    /// A full socket in a dump of all sockets.
    fn found_socket(&mut self, found: &Found, census: &Census) {
        if self.listed.len() < self.max_listed() {
            self.listed.insert(found.cookie);
        }
        let Some(event) = as_event(found, census) else {
            return;
        };
        match found.state {
            State::LISTEN => self.found_listener(&event, found.owner),
            // Only bound; or a handshake that is counted by [`Census::half_open`].
            State::CLOSE | State::BOUND_INACTIVE | State::SYN_RECV | State::NEW_SYN_RECV => {}
            state => {
                if let Some(slot) = self.table.find(event.id()) {
                    self.correct(slot, state, census);
                } else {
                    self.books.seeded += 1;
                    let whose = (found.role, found.owner);
                    let there_ns = found.there_ns.unwrap_or(census.begin_ns);
                    let there_ns = there_ns.min(census.begin_ns);
                    self.insert(&event, state, whose, Known::InState { there_ns }, false);
                    if let Some(slot) = self.table.find(event.id()) {
                        self.by_netns.add(census.netns, slot);
                    }
                }
            }
        }
    }

    fn found_listener(&mut self, event: &Event, owner: Owner) {
        if self.listeners.get(event.id()).is_some() {
            return;
        }
        let services = &mut self.groups.services;
        let service = services.settle(Some(event.lport()), Role::Server);
        let traits = Traits::of(event, service, Role::Server, owner);
        let group = self.groups.id(traits);
        if self.listeners.open(event, owner, None, group)
            && let Some(rates) = &mut self.rates
        {
            rates.enter(group, State::LISTEN);
        }
    }

    /// Takes which processes hold a listener. If its opener has left it to others, the connections that came in
    /// through it, and are open, are theirs too.
    fn hold(&mut self, held: &Held) {
        let Some(Handover {
            place,
            before,
            after,
        }) = self.listeners.hold(held)
        else {
            return;
        };
        let service = self.groups.services.id(Some(held.lport), Role::Server);
        let listener = self.listeners.get(SocketId::Cookie(held.cookie));
        let group = self.groups.id(Traits {
            owner: after,
            cgroup: listener.and_then(|listener| listener.cgroup),
            netns: netns_of(place.netns()),
            ..Traits::of_service(service, Role::Server)
        });
        if let Some(before) = self.listeners.regroup(held.cookie, group) {
            self.change_group(before, group, State::LISTEN);
        }
        if before.how == How::Unknown {
            return;
        }
        let inherited: Vec<u32> = self
            .table
            .open_slots()
            .filter(|&slot| {
                let (hot, cold) = (self.table.hot(slot), self.table.cold(slot));
                hot.lport() == place.port()
                    && cold.netns() == place.netns()
                    && cold.owner(hot) == before.inherited()
            })
            .collect();
        for slot in inherited {
            self.table.hand_over(slot, &after);
            self.regroup(slot, self.group_of(slot), self.table.hot(slot).state);
        }
    }

    pub(super) fn change_group(&mut self, before: u16, after: u16, state: State) {
        if let Some(rates) = &mut self.rates
            && before != after
        {
            rates.leave(before, state);
            rates.enter(after, state);
        }
    }

    /// Corrects the state of a connection: events of it are missing if the census has another state.
    fn correct(&mut self, slot: u32, state: State, census: &Census) {
        let hot = self.table.hot(slot);
        let held = hot.state;
        if held == state
            || !hot.is_older_than(census.begin_ns.saturating_sub(self.settles_after_ns))
        {
            return;
        }
        self.books.gaps += 1;
        self.books.missing_inferred += missing::least(held, state);
        if let Some(stay) = self.table.hot_mut(slot).put_into(state, census.begin_ns) {
            self.table.spill(slot, stay);
        }
        let group = self.group_of(slot);
        if let Some(rates) = &mut self.rates {
            rates.leave(group, held);
            rates.enter(group, state);
        }
    }

    /// Ends the sockets that were there before the dump began and are not in it: events of theirs are
    /// missing.
    fn end_what_is_not_listed(&mut self, census: &Census) {
        let listed = std::mem::take(&mut self.listed);
        let settled_ns = census.begin_ns.saturating_sub(self.settles_after_ns);
        let table = &self.table;
        let is_missing = |&slot: &u32| match table.hot(slot).id() {
            SocketId::Cookie(cookie) => !listed.contains(&cookie),
            // A dump has no addresses of sockets.
            SocketId::Address(_) => false,
        };
        let all = table.open_slots().filter(is_missing);
        let all = all.map(|slot| (table.cold(slot).netns(), slot));
        let ended: Vec<u32> = self
            .by_netns
            .take(census.netns, all)
            .into_iter()
            .filter(|&slot| table.is_open(slot))
            .filter(is_missing)
            .filter(|&slot| {
                let hot = table.hot(slot);
                // Half-open connections are counted elsewhere.
                hot.state != State::SYN_RECV
                    && table.cold(slot).netns() == census.netns
                    && hot.is_older_than(settled_ns)
            })
            .collect();
        for slot in ended {
            self.end_unseen(slot);
        }
        let ended = self.listeners.not_listed(census, settled_ns, &listed);
        for group in ended {
            self.books.missing_inferred += missing::least(State::LISTEN, State::CLOSE);
            if let Some(rates) = &mut self.rates {
                rates.leave(group, State::LISTEN);
            }
        }
    }

    fn found_minisocket(
        &mut self,
        found: &Found,
        census: &Census,
        on_exit: &mut impl FnMut(&StateExit, Option<Ended>),
    ) {
        if let Some(mini) = self.minisockets.get_mut(found.cookie) {
            mini.mark_found();
            if mini.state == found.state {
                return;
            }
            let before = *mini;
            // The kernel's timer can be a tick before our clock.
            let at_ns = found
                .since_ns
                .unwrap_or(census.begin_ns)
                .max(before.since_ns().unwrap_or(0))
                .min(census.begin_ns);
            mini.enter(found.state, at_ns);
            if let Some(rates) = &mut self.rates {
                rates.enter(before.group, found.state);
            }
            self.exit_state(
                found.cookie,
                before,
                at_ns,
                Some(found.state),
                census,
                on_exit,
            );
            return;
        }
        if self.table.find(SocketId::Cookie(found.cookie)).is_some() {
            // Its transition to CLOSE is on its way: the minisocket is there a moment earlier.
            return;
        }
        let role = self.role_of_minisocket(found, census.netns);
        let service = role.service_port(found.lport, found.rport);
        let service = self.groups.services.id(service, role);
        let group = self.groups.id(Traits {
            cgroup: found.cgroup,
            netns: netns_of(census.netns),
            raddr: to_wire(found.raddr),
            ..Traits::of_service(service, role)
        });
        // No more than a bound: a FIN that came again has restarted the timer.
        let there_ns = found.since_ns.or(found.there_ns);
        let there_ns = there_ns.unwrap_or(census.begin_ns).min(census.begin_ns);
        let mut mini = Mini::new(found.state, None, there_ns, census.netns, group);
        mini.mark_found();
        if !self.minisockets.insert(found.cookie, mini) {
            self.books.unfollowed += 1;
        } else if let Some(rates) = &mut self.rates {
            rates.enter(group, found.state);
        }
    }

    /// The role of a minisocket of which no event was seen. A sample has no listeners, the tracker has.
    fn role_of_minisocket(&self, found: &Found, netns: u32) -> Role {
        let with_itself = found.raddr == found.laddr || found.raddr.is_loopback();
        if self.listeners.is_listening_on(netns, found.lport) {
            Role::Server
        } else if with_itself && self.listeners.is_listening_on(netns, found.rport) {
            Role::Client
        } else {
            found.role
        }
    }

    /// A minisocket is gone.
    fn leave(
        &mut self,
        cookie: u64,
        mini: Mini,
        at_ns: u64,
        census: &Census,
        on_exit: &mut impl FnMut(&StateExit, Option<Ended>),
    ) {
        self.exit_state(cookie, mini, at_ns, None, census, on_exit);
    }

    fn exit_state(
        &mut self,
        cookie: u64,
        mini: Mini,
        at_ns: u64,
        then: Option<State>,
        census: &Census,
        on_exit: &mut impl FnMut(&StateExit, Option<Ended>),
    ) {
        if let Some(rates) = &mut self.rates {
            rates.leave(mini.group, mini.state);
        }
        let is_unobserved = is_unobserved(&mini);
        let never_found = mini.is_never_found() && !is_unobserved;
        // A state that no sample found, and no event, is none.
        let was_in_it = !never_found || mini.state == State::FIN_WAIT2;
        let since_ns = mini.since_ns().filter(|_| was_in_it && !is_unobserved);
        let dwell_ns = since_ns.map(|since_ns| at_ns.saturating_sub(since_ns));
        if let (Some(rates), Some(dwell_ns), false) = (&mut self.rates, dwell_ns, self.recalls) {
            rates.dwelt(mini.state, dwell_ns);
        }
        if let (Some(histograms), Some(dwell_ns)) = (&mut self.histograms, dwell_ns) {
            histograms.record(Of::Dwell(mini.state), mini.group, &self.groups, dwell_ns);
        }
        let exit = StateExit {
            cookie,
            state: mini.state,
            dwell_ns,
            then,
            at_ns,
            never_found,
            interval_ns: if mini.is_never_found() {
                Some(mini.missed_after_ns())
            } else {
                census.interval_ns()
            },
        };
        let ended = self.minisockets.exit(&mini, &exit);
        on_exit(&exit, ended);
    }

    fn judge_minisockets(
        &mut self,
        census: &Census,
        on_exit: &mut impl FnMut(&StateExit, Option<Ended>),
    ) {
        let Judged { gone, forgotten } = self.minisockets.judge(census.netns, census.begin_ns);
        for cookie in gone {
            let Some(mini) = self.minisockets.remove(cookie) else {
                continue;
            };
            if is_unobserved(&mini) {
                let at_ns = mini.there_ns.saturating_add(mini.missed_after_ns());
                self.leave(cookie, mini, at_ns, census, on_exit);
                continue;
            }
            // No sample had it: if the kernel kept anything of it, then until the first of them at most. Only its
            // end as a socket is certain.
            self.leave(cookie, mini, mini.there_ns, census, on_exit);
        }
        for cookie in forgotten {
            let Some(mut mini) = self.minisockets.remove(cookie) else {
                continue;
            };
            self.books.unfollowed += 1;
            mini.forget_since();
            self.leave(cookie, mini, census.begin_ns, census, on_exit);
        }
    }

    /// Counts the half-open connections, once the last part of a census has come.
    fn take_half_open(&mut self, census: &Census) {
        let Some((half_open, beyond)) = self.half_open.take(census) else {
            return;
        };
        let now = half_open
            .iter()
            .map(|half_open| Counted {
                group: self.group_of_half_open(half_open, census),
                count: u32::try_from(half_open.count).unwrap_or(u32::MAX),
            })
            .collect::<Vec<_>>();
        let Some(rates) = &mut self.rates else {
            return;
        };
        for Counted { group, count } in self.minisockets.take_half_open(census.netns) {
            rates.leave_all(group, State::SYN_RECV, count);
        }
        if beyond.places == 0 && self.minisockets.put_half_open(census.netns, now.clone()) {
            for Counted { group, count } in now {
                rates.enter_all(group, State::SYN_RECV, count);
            }
        } else {
            let left_out = now.iter().map(|counted| u64::from(counted.count));
            let left_out = left_out.chain([beyond.connections]);
            self.books.unfollowed = left_out.fold(self.books.unfollowed, u64::saturating_add);
        }
    }

    fn group_of_half_open(&mut self, half_open: &HalfOpen, census: &Census) -> u16 {
        let service = self.groups.services.id(Some(half_open.lport), Role::Server);
        if self.groups.are_services() {
            return service;
        }
        let owner = self.listener_of(half_open, census.netns);
        self.groups.id(Traits {
            owner,
            netns: netns_of(census.netns),
            ..Traits::of_service(service, Role::Server)
        })
    }
}

/// Whether a minisocket can have lasted as usual before any dump could have it: after a stall, of the output perhaps,
/// nothing is known of its end.
fn is_unobserved(mini: &Mini) -> bool {
    mini.is_never_found() && mini.missed_after_ns() >= TIME_WAIT_NS
}

/// The number of a network namespace, where it has one.
const fn netns_of(number: u32) -> Option<u32> {
    if number == 0 { None } else { Some(number) }
}

/// A socket of a dump in the form of an event, as the tables take it.
fn as_event(found: &Found, census: &Census) -> Option<Event> {
    let uid = found.uid.map_or(0, |_| flags::SOCKET);
    Event::try_from(Record {
        ts_ns: census.begin_ns,
        cookie: found.cookie,
        cgroup: found.cgroup.unwrap_or(0),
        laddr: to_wire(found.laddr),
        raddr: to_wire(found.raddr),
        netns: census.netns,
        uid: found.uid.unwrap_or(0),
        lport: found.lport,
        rport: found.rport,
        newstate: found.state,
        family: if found.family == AF_INET {
            AF_INET
        } else {
            AF_INET6
        },
        flags: flags::COOKIE | uid,
        ..Record::default()
    })
    .ok()
}
