//! The effect of an event: a connection begins, continues or ends, a listener comes or goes.
//!
//! The effect of a census is in [`super::on_census`].

use tcpstate_common::{
    State,
    record::flags,
    transition::{closes, opens},
};

use super::{
    Tracker,
    applied::{Applied, Subject},
    group::Traits,
    histograms::Of,
    minisockets::Mini,
    missing,
    packed::{Known, Opening},
    services::{LASTING_NS, Services},
    step::{Dwell, Step},
    table::may_be_embryo,
};
use crate::{
    cause::{Cause, goes_on},
    event::{Event, SocketId},
    owner::Owner,
    service::Role,
};

/// The states of an event, where a request socket counts as `SYN_RECV`.
const fn folded(event: &Event) -> (State, State) {
    (event.oldstate().folded(), event.newstate().folded())
}

impl Tracker {
    /// Takes one event.
    pub fn apply<'a>(&'a mut self, event: &'a Event) -> Applied<'a> {
        self.books.events += 1;
        if self.interval_ns.is_none() {
            self.interval_ns = Some(event.ts_ns());
        }
        let (old, new) = folded(event);
        let step = self.take(event, old, new);
        self.count(event, old, new, &step);
        self.applied(event, &step)
    }

    /// Takes one event from before the beginning: it changes what is known of its socket, and counts nowhere.
    pub fn recall_event<'a>(&'a mut self, event: &'a Event) -> Applied<'a> {
        let before = self.before_recall();
        let (old, new) = folded(event);
        let step = self.take(event, old, new);
        self.after_recall(&before);
        self.applied(event, &step)
    }

    /// The effect of an event on connections and listeners.
    #[inline]
    fn take(&mut self, event: &Event, old: State, new: State) -> Step {
        self.table.release();
        self.now_ns = self.now_ns.max(event.ts_ns());
        let superseded = self.books.superseded;
        let mut step = if opens(old, new) {
            self.open(event, new)
        } else if new == State::LISTEN {
            self.listen(event)
        } else if old == State::LISTEN && new == State::CLOSE {
            self.unlisten(event)
        } else {
            self.go_on(event, old, new)
        };
        step.gap |= self.books.superseded != superseded;
        self.books.gaps += u64::from(step.gap);
        step
    }

    #[inline]
    fn applied<'a>(&'a self, event: &'a Event, step: &Step) -> Applied<'a> {
        Applied {
            dwell_ns: step.dwell.get(),
            gap: step.gap,
            subject: step.subject,
            table: &self.table,
            listeners: &self.listeners,
            listener: &self.listener,
            listener_holders: self.listener_holders.as_ref(),
            event,
        }
    }

    /// Begins a connection: out of CLOSE, or as a listener's child.
    fn open(&mut self, event: &Event, new: State) -> Step {
        let child = event.oldstate() == State::LISTEN;
        let id = event.id();
        let held = self.table.find(id);
        self.supersede(held);
        let embryo = self.table.find_embryo(event.record().skaddr);
        self.supersede(embryo);
        let gap = held.is_some() || embryo.is_some();
        let (role, owner) = if child {
            (Role::Server, self.listeners.accept(event))
        } else if new == State::SYN_SENT {
            (Role::Client, Owner::exact(event.process()))
        } else {
            (Role::Unknown, Owner::UNKNOWN)
        };
        let embryo = child && matches!(id, SocketId::Address(_));
        self.by_netns.forget();
        self.insert(event, new, (role, owner), Known::Opened { embryo }, gap)
    }

    /// Takes in a connection that was there before its first event.
    #[cold]
    fn first_seen(&mut self, event: &Event, old: State, new: State) -> Step {
        self.books.first_seen += 1;
        let (role, owner) = if old == State::SYN_SENT {
            // Only a socket that connects is ever in this state.
            (Role::Client, Owner::UNKNOWN)
        } else if self.listeners.is_listening(event) {
            (
                Role::Server,
                self.listeners.find(event).unwrap_or(Owner::UNKNOWN),
            )
        } else {
            (Role::Unknown, Owner::UNKNOWN)
        };
        let known = if old == new {
            Known::InState {
                there_ns: event.ts_ns(),
            }
        } else {
            Known::Midway { old }
        };
        self.by_netns.forget();
        self.insert(event, new, (role, owner), known, false)
    }

    pub(super) fn insert(
        &mut self,
        event: &Event,
        state: State,
        (role, owner): (Role, Owner),
        known: Known,
        gap: bool,
    ) -> Step {
        if let Some(victim) = self.table.victim() {
            self.books.evicted += 1;
            self.drop_connection(victim);
        }
        if let Known::Opened { .. } = known {
            self.books.opened += 1;
        }
        if let Known::Opened { embryo: true } = known
            && let Some(oldest) = self.table.surplus_embryo()
        {
            self.books.evicted += 1;
            self.drop_connection(oldest);
        }
        let port = role.service_port(event.lport(), event.rport());
        let services = &mut self.groups.services;
        let service = match known {
            // A dump has it: it is no mere attempt.
            Known::InState { .. } if state != State::SYN_SENT => services.settle(port, role),
            _ => services.begin(port, role),
        };
        let group = self.groups.id(Traits::of(event, service, role, owner));
        let opening = Opening {
            state,
            known,
            role,
            owner,
            service,
            group,
        };
        let slot = self.table.insert(event, &opening);
        let subject = self.enter(event, slot, group, state, None);
        Step {
            subject,
            group,
            dwell: Dwell::UNKNOWN,
            stays: false,
            gap,
        }
    }

    /// Puts the connection in this slot into a state, perhaps CLOSE, after another one that it had since
    /// `since_ns`.
    #[inline]
    fn enter(
        &mut self,
        event: &Event,
        slot: u32,
        group: u16,
        new: State,
        since_ns: Option<u64>,
    ) -> Subject {
        if new == State::CLOSE {
            if self.follows {
                self.follow_on(event, slot, group, since_ns);
            }
            self.table.remove(slot);
            return Subject::Ended(slot);
        }
        if let Some(rates) = &mut self.rates {
            rates.enter(group, new);
        }
        Subject::Connection(slot)
    }

    /// Follows the connection in this slot beyond its transition to CLOSE, if it continues as a minisocket.
    fn follow_on(&mut self, event: &Event, slot: u32, group: u16, since_ns: Option<u64>) {
        let (Some(state), SocketId::Cookie(cookie)) = (goes_on(event), self.table.hot(slot).id())
        else {
            return;
        };
        let since_ns = if state == State::FIN_WAIT2 {
            // It stays in its state.
            since_ns
        } else {
            Some(event.ts_ns())
        };
        let cold = self.table.cold(slot);
        let mini = Mini::new(state, since_ns, event.ts_ns(), cold.netns(), group);
        if !self.minisockets.await_found(cookie, mini) {
            self.books.unfollowed += 1;
        } else if let Some(rates) = &mut self.rates {
            rates.enter(group, state);
        }
    }

    /// Takes a connection from one state to another, or to its end.
    #[inline]
    fn go_on(&mut self, event: &Event, old: State, new: State) -> Step {
        if old == State::LISTEN {
            // A listener that does not become CLOSE.
            self.forget_listener(event);
        }
        let Some(slot) = self.held(event, old) else {
            return if old == State::CLOSE {
                self.nothing(event, false)
            } else {
                self.first_seen(event, old, new)
            };
        };
        if old == State::CLOSE {
            // CLOSE -> CLOSE of a connection in another state: its end was not seen.
            self.supersede(Some(slot));
            return self.nothing(event, true);
        }
        let hot = self.table.hot_mut(slot);
        let (held, since_ns) = (hot.state, hot.since_ns());
        let was_bound = hot.lport() != 0;
        hot.learn_lport(event.lport());
        let gap = held != old;
        if gap {
            self.books.missing_inferred += missing::least(held, old);
        }
        if old == State::SYN_RECV && !self.minisockets.has_no_requests() {
            self.join_request(slot);
        }
        let mut dwell_ns = None;
        let stays = old == new;
        let hot = self.table.hot_mut(slot);
        if gap {
            self.step_over_gap(slot, old, new, event.ts_ns());
        } else if stays {
            // `shutdown`, then `close`: the kernel sets the state that the socket is in.
            dwell_ns = hot.touch(event.ts_ns());
        } else {
            // An orphan's socket goes at once; the connection stays in FIN_WAIT2.
            let unseen = new == State::CLOSE && goes_on(event) == Some(State::FIN_WAIT2);
            let (dwell, spilled) = hot.step(new, event.ts_ns(), unseen);
            dwell_ns = dwell;
            if let Some(stay) = spilled {
                self.table.spill(slot, stay);
            }
        }
        if !self.table.hot(slot).is_addressed() {
            self.learn(slot, event, held);
        }
        if (old, new) == (State::SYN_RECV, State::ESTABLISHED)
            && self.table.hot(slot).role() != Role::Client
        {
            self.table.cold_mut(slot).learn_handshake(event);
        }
        if (old, new) == (State::SYN_SENT, State::ESTABLISHED) && was_bound && is_restored(event) {
            self.forget_role(slot, held);
        }
        if self.notes_closers {
            self.table.cold_mut(slot).learn_closer(event);
        }
        let services = &self.groups.services;
        if services.is_on_probation(self.table.hot(slot).service) {
            let has_lasted = old == State::ESTABLISHED && dwell_ns >= Some(LASTING_NS);
            self.review_service(slot, event, held, has_lasted);
        }
        let group = self.group_of(slot);
        if let Some(rates) = &mut self.rates {
            rates.leave(group, held);
        }
        let since_ns = since_ns.filter(|_| !gap);
        let subject = self.enter(event, slot, group, new, since_ns);
        Step {
            subject,
            group,
            dwell: dwell_ns.into(),
            stays,
            gap,
        }
    }

    /// Forgets the role of a connection in this state.
    #[cold]
    fn forget_role(&mut self, slot: u32, state: State) {
        let before = self.group_of(slot);
        let hot = self.table.hot_mut(slot);
        hot.set_role(Role::Unknown);
        hot.service = Services::UNKNOWN;
        self.regroup(slot, before, state);
    }

    /// Looks whether the port of a connection in this state has a place by now.
    #[cold]
    fn review_service(&mut self, slot: u32, event: &Event, state: State, has_lasted: bool) {
        let before = self.group_of(slot);
        let role = self.table.hot(slot).role();
        let port = role.service_port(event.lport(), event.rport());
        let services = &mut self.groups.services;
        let service = if has_lasted {
            services.settle(port, role)
        } else {
            services.id(port, role)
        };
        if service != self.table.hot(slot).service {
            self.table.hot_mut(slot).service = service;
            self.regroup(slot, before, state);
        }
    }

    /// Learns the addresses of a connection in this state.
    fn learn(&mut self, slot: u32, event: &Event, state: State) {
        self.table.learn(slot, event);
        if self.groups.are_addresses() {
            self.regroup(slot, self.group_of(slot), state);
        }
    }

    /// Joins a server's socket, which is made at the end of the handshake, with the half-open connection that
    /// samples found before: its time in `SYN_RECV` began there.
    #[cold]
    fn join_request(&mut self, slot: u32) {
        let SocketId::Cookie(cookie) = self.table.hot(slot).id() else {
            return;
        };
        if let Some(request) = self.minisockets.take_request(cookie) {
            self.table.begin_half_open(slot, &request);
        }
    }

    #[cold]
    fn step_over_gap(&mut self, slot: u32, old: State, new: State, ts_ns: u64) {
        let spilled = self.table.hot_mut(slot).step_over_gap(old, new, ts_ns);
        for stay in spilled.into_iter().flatten() {
            self.table.spill(slot, stay);
        }
    }

    /// An event that has no effect on any connection: CLOSE -> CLOSE.
    #[cold]
    fn nothing(&mut self, event: &Event, gap: bool) -> Step {
        let traits = Traits::of(event, Services::UNKNOWN, Role::Unknown, Owner::UNKNOWN);
        Step {
            subject: Subject::Nothing,
            group: self.groups.id(traits),
            dwell: Dwell::UNKNOWN,
            stays: false,
            gap,
        }
    }

    /// The connection that this event belongs to, if it is known.
    #[inline]
    fn held(&mut self, event: &Event, old: State) -> Option<u32> {
        let address = event.record().skaddr;
        let id = event.id();
        let named = if may_be_embryo(old) {
            None
        } else {
            self.find(event)
        };
        if named.is_some() {
            return named;
        }
        if let Some(slot) = self.table.find_embryo(address) {
            // A child never connects.
            if old == State::SYN_SENT || self.table.is_of_another(slot, event) {
                self.supersede(Some(slot));
            } else {
                if may_be_embryo(old) {
                    let namesake = self.table.find(id);
                    self.supersede(namesake);
                }
                self.table.name_embryo(slot, id);
                self.learn(slot, event, self.table.hot(slot).state);
                return Some(slot);
            }
        }
        if may_be_embryo(old) {
            self.find(event)
        } else {
            None
        }
    }

    /// The connection of this event's identity; no embryo.
    ///
    /// The kernel reuses an address at once: where an end and a beginning were lost, only the ports
    /// distinguish one connection from the next.
    #[inline]
    fn find(&mut self, event: &Event) -> Option<u32> {
        let id = event.id();
        let slot = self.table.find(id)?;
        if matches!(id, SocketId::Address(_)) && self.table.is_of_another(slot, event) {
            self.supersede(Some(slot));
            return None;
        }
        Some(slot)
    }

    /// Begins a listener.
    #[cold]
    fn listen(&mut self, event: &Event) -> Step {
        let held = self.held(event, event.oldstate());
        self.supersede(held);
        let listened = self.forget_listener(event);
        if listened {
            self.books.missing_inferred += missing::least(State::LISTEN, State::CLOSE);
        }
        let gap = listened || held.is_some();
        let port = event.record().lport;
        let service = self
            .groups
            .services
            .id((port != 0).then_some(port), Role::Server);
        let owner = Owner::exact(event.process());
        let traits = Traits::of(event, service, Role::Server, owner);
        let group = self.groups.id(traits);
        let since_ns = Some(event.ts_ns());
        self.listeners.forget_dump();
        if self.listeners.open(event, owner, since_ns, group)
            && let Some(rates) = &mut self.rates
        {
            rates.enter(group, State::LISTEN);
        }
        self.listener = owner;
        self.listener_holders = None;
        Step {
            subject: Subject::Listener,
            group,
            dwell: Dwell::UNKNOWN,
            stays: false,
            gap,
        }
    }

    /// Ends a listener.
    #[cold]
    fn unlisten(&mut self, event: &Event) -> Step {
        if let Some(listener) = self.listeners.get(event.id()) {
            self.listener = listener.owner;
            self.listener_holders.clone_from(&listener.holders);
            let step = Step {
                subject: Subject::Listener,
                group: listener.group,
                dwell: listener
                    .since_ns
                    .map(|since_ns| event.ts_ns().saturating_sub(since_ns))
                    .into(),
                stays: false,
                gap: false,
            };
            self.forget_listener(event);
            return step;
        }
        self.listeners.close_earlier(event);
        let port = event.record().lport;
        let service = self
            .groups
            .services
            .id((port != 0).then_some(port), Role::Server);
        let traits = Traits::of(event, service, Role::Server, Owner::UNKNOWN);
        let group = self.groups.id(traits);
        self.listener = Owner::UNKNOWN;
        self.listener_holders = None;
        Step {
            subject: Subject::Listener,
            group,
            dwell: Dwell::UNKNOWN,
            stays: false,
            gap: false,
        }
    }

    /// Removes the listener of this event. Returns whether there was one.
    fn forget_listener(&mut self, event: &Event) -> bool {
        let Some(listener) = self.listeners.close(event) else {
            return false;
        };
        if let Some(rates) = &mut self.rates {
            rates.leave(listener.group, State::LISTEN);
        }
        true
    }

    /// Drops a connection whose socket the kernel has reused: its end was not seen.
    fn supersede(&mut self, slot: Option<u32>) {
        if let Some(slot) = slot {
            self.end_unseen(slot);
        }
    }

    /// Counts the result of an event in the rates and the histograms.
    #[inline]
    fn count(&mut self, event: &Event, old: State, new: State, step: &Step) {
        let mut group = step.group;
        let cause = closes(old, new).then(|| Cause::of(event).unwrap_or(Cause::Unknown));
        if let Some(cause) = cause {
            group = self.groups.at_end(group, cause);
        }
        // A state that goes on is counted once, at its end.
        let dwell_ns = step.dwell.get().filter(|_| !step.stays);
        if let Some(rates) = &mut self.rates {
            rates.transition(group, old, new);
            if let Some(cause) = cause {
                rates.ended(group, cause);
            }
            if let Some(dwell_ns) = dwell_ns {
                rates.dwelt(old, dwell_ns);
            }
        }
        let Some(histograms) = &mut self.histograms else {
            return;
        };
        if let Some(dwell_ns) = dwell_ns {
            histograms.record(Of::Dwell(old), group, &self.groups, dwell_ns);
        }
        match step.subject {
            Subject::Ended(slot) => {
                let is_wanted = self.lifetimes_of.as_ref().is_none_or(|causes| {
                    Cause::of(event).is_some_and(|cause| causes.contains(&cause))
                });
                if let Some(lifetime_ns) = self.table.hot(slot).lifetime_ns().filter(|_| is_wanted)
                {
                    histograms.record(Of::Lifetime, group, &self.groups, lifetime_ns);
                }
            }
            Subject::Connection(slot) if new == State::ESTABLISHED => {
                let handshake_ns = self.table.handshake_ns(slot, event, old, step.dwell.get());
                if let Some(handshake_ns) = handshake_ns {
                    histograms.record(Of::Handshake, group, &self.groups, handshake_ns);
                }
            }
            Subject::Connection(_) | Subject::Nothing | Subject::Listener => {}
        }
    }
}

/// Whether a socket that leaves `SYN_SENT` for `ESTABLISHED` was put there by its process (`TCP_REPAIR`), as when
/// a container is restored: `connect` sends no SYN then, so that nothing was measured, and the socket may be
/// either side. It was bound to the port that it had.
///
/// *Source:* `tcp_connect` in `net/ipv4/tcp_output.c`; `tcp_rcv_synsent_state_process` in
/// `net/ipv4/tcp_input.c` takes the round trip of the SYN, unless it was sent again.
fn is_restored(event: &Event) -> bool {
    let record = event.record();
    event.has(flags::TCP) && record.srtt_us == 0 && record.retransmits == 0
}
