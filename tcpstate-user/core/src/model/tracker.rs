//! The tracker: its state, and the queries on it.
//!
//! The effect of an event is in [`super::on_event`], that of a census in [`super::on_census`].

use hashbrown::HashSet;
use tcpstate_common::State;

use super::{
    By, Connection, Connections, Ended, Include, Interval, Limits, Memory, Snapshot,
    address::from_wire,
    by_netns::ByNetns,
    group::{Groups, Traits},
    histograms::Histograms,
    listeners::{Listeners, Place},
    minisockets::Minisockets,
    missing,
    rates::Rates,
    services::LASTING_NS,
    snapshot::{Books, ListenerInfo},
    table::Table,
};
use crate::{
    cause::Cause,
    event::{Event, SocketId},
    filter::PortSet,
    handshakes::Parts,
    hash::BuildMixer,
    names::Names,
    options::HistogramOf,
    owner::{Holder, Holders, Owner},
    service::Role,
    tally::Tally,
};

/// The age from which on a transition gives way to a dump that contradicts it: a socket that connects
/// changes its state a moment before the kernel can dump it.
pub const SETTLED_NS: u64 = 10_000_000;

/// Connections, rates and histograms, fed event by event ([`Tracker::apply`]) and census by census
/// ([`Tracker::census`]).
///
/// A clone knows the same, and takes as much memory ([`Tracker::memory`]).
#[derive(Clone)]
pub struct Tracker {
    pub(super) table: Table,
    pub(super) listeners: Listeners,
    pub(super) groups: Groups,
    pub(super) rates: Option<Rates>,
    pub(super) histograms: Option<Histograms>,
    /// The causes whose connections' lifetimes are kept; `None` is all.
    pub(super) lifetimes_of: Option<Vec<Cause>>,
    /// Whether connections are followed beyond their transition to CLOSE.
    pub(super) follows: bool,
    pub(super) minisockets: Minisockets,
    /// The age from which on a transition gives way to a dump, nanoseconds.
    pub(super) settles_after_ns: u64,
    /// The cookies of the dump that comes in, part by part.
    pub(super) listed: HashSet<u64, BuildMixer>,
    /// The slots of connections by network namespace, for the censuses of a dump.
    pub(super) by_netns: ByNetns<u32>,
    /// The half-open connections of the census that comes in, part by part.
    pub(super) half_open: Parts,
    /// Whether a census is from before the beginning.
    pub(super) recalls: bool,
    pub(super) limits: Limits,
    pub(super) books: Books,
    /// The owner of the listener of the last event, if it was a listener's.
    pub(super) listener: Owner,
    /// The processes that have to do with it.
    pub(super) listener_holders: Option<Holders>,
    /// Whether to note the process that closes a connection.
    pub(super) notes_closers: bool,
    pub(super) now_ns: u64,
    /// The begin of the interval; `None` before the first event or tick.
    pub(super) interval_ns: Option<u64>,
    /// The time since when there are these groups; `None`: since the beginning.
    pub(super) by_since_ns: Option<u64>,
}

impl Tracker {
    /// A tracker that keeps everything, by port.
    pub fn new(limits: Limits) -> Self {
        Self {
            table: Table::new(&limits),
            listeners: Listeners::new(limits.max_listeners),
            groups: Groups::new(By::default(), &limits),
            rates: Some(Rates::default()),
            histograms: Some(Histograms::new(&limits, None)),
            lifetimes_of: None,
            follows: false,
            minisockets: Minisockets::new(limits.max_connections),
            settles_after_ns: SETTLED_NS,
            listed: HashSet::default(),
            by_netns: ByNetns::default(),
            half_open: Parts::default(),
            recalls: false,
            limits,
            books: Books::default(),
            listener: Owner::UNKNOWN,
            listener_holders: None,
            notes_closers: false,
            now_ns: 0,
            interval_ns: None,
            by_since_ns: None,
        }
    }

    /// Groups rates and histograms in another way. Call it before the first event; later there is
    /// [`Tracker::group_by`].
    #[must_use]
    pub fn by(mut self, by: By) -> Self {
        self.groups = Groups::new(by, &self.limits);
        self
    }

    /// Takes the names of the stream's cgroups, by which units, containers and pods are grouped. Call it before the
    /// first event.
    pub fn set_names(&mut self, names: Names) {
        self.groups.set_names(names);
    }

    /// Keeps figures of their own only for these service ports, as far as [`Limits::max_ports`] allows; those of all
    /// others are `other`. Call it after [`Tracker::by`] and before the first event.
    #[must_use]
    pub fn with_ports(mut self, ports: &PortSet) -> Self {
        self.groups.restrict(ports);
        self
    }

    /// Gives a service port one of the places of [`Limits::max_ports`] only when it has lasted (a listener, or an established
    /// connection, for a second, or found in a dump) or is frequent (eight ends of connections began within a minute or two). Until then
    /// its figures are those of `other`, where they stay. A place is never taken back. Call it after [`Tracker::by`] and
    /// before the first event.
    #[must_use]
    pub fn with_probation(mut self) -> Self {
        self.groups.services.put_on_probation();
        self
    }

    /// Keeps no rates: [`Tracker::tick`] and the figures of the snapshot are empty.
    #[must_use]
    pub fn without_rates(mut self) -> Self {
        self.rates = None;
        self
    }

    /// A tracker that gets no events: connections are those of the latest dump, and [`Tracker::add`] has
    /// the rest.
    pub fn without_events(limits: Limits) -> Self {
        // The bound is that of the kernel's table; here it would hide sockets that a dump has.
        let mut tracker = Self::new(Limits {
            max_connections: usize::MAX,
            ..limits
        });
        tracker.settles_after_ns = 0;
        tracker
    }

    /// Keeps no histograms.
    #[must_use]
    pub fn without_histograms(mut self) -> Self {
        self.histograms = None;
        self
    }

    /// Keeps only histograms of this subject: there is room for more groups.
    #[must_use]
    pub fn with_histograms_of(mut self, subject: HistogramOf) -> Self {
        self.histograms = Some(Histograms::new(&self.limits, Some(subject)));
        self
    }

    /// Notes which process closes each connection.
    #[must_use]
    pub const fn with_closers(mut self) -> Self {
        self.notes_closers = true;
        self
    }

    /// Keeps only the lifetimes of connections that end for one of these causes.
    #[must_use]
    pub fn with_lifetimes_of(mut self, causes: Vec<Cause>) -> Self {
        self.lifetimes_of = Some(causes);
        self
    }

    /// Follows connections beyond their transition to CLOSE until they are gone. Only a census shows
    /// that: without samples they would stay forever.
    pub const fn follow(&mut self) {
        self.follows = true;
    }

    /// The books before something that counts nowhere.
    pub(super) fn before_recall(&mut self) -> Books {
        self.table.release();
        self.books()
    }

    /// Restores the books: the connections that are known now were there at the beginning.
    pub(super) fn after_recall(&mut self, before: &Books) {
        let live = self.table.live() as u64;
        self.books = Books {
            seeded: (before.seeded + live).saturating_sub(before.live),
            ..*before
        };
    }

    /// Prepares for these events, which are applied next: a hint, for speed with many connections. A few
    /// dozen at a time are best.
    pub fn look_ahead(&self, events: &[Event]) {
        self.table.look_ahead(events);
        if self.follows {
            let ends = events
                .iter()
                .filter(|event| event.newstate() == State::CLOSE);
            self.minisockets
                .look_ahead(ends.map(|event| event.record().cookie));
        }
    }

    /// Ends an interval and returns its figures.
    pub fn tick(&mut self, now_ns: u64) -> Interval {
        self.now_ns = self.now_ns.max(now_ns);
        if self.groups.services.tick(now_ns) {
            self.review_listeners(now_ns);
        }
        let start_ns = self.interval_ns.replace(now_ns).unwrap_or(now_ns);
        let rates = self.rates.as_mut();
        figures(rates, &self.groups, start_ns, now_ns)
    }

    /// The figures of the interval up to now. Unlike [`Tracker::tick`] it ends nothing: the next tick has them again.
    pub fn interval_so_far(&self, now_ns: u64) -> Interval {
        let start_ns = self.interval_ns.unwrap_or(now_ns);
        let mut rates = self.rates.clone();
        figures(rates.as_mut(), &self.groups, start_ns, now_ns)
    }

    /// Takes counts of the kernel instead of events. The rates are the same as if the events had been given
    /// to [`Tracker::apply`]; there is nothing else, as single connections are not known.
    pub fn add(&mut self, tally: &Tally) {
        let Some(rates) = &mut self.rates else {
            return;
        };
        for service in &tally.services {
            let number = self.groups.services.number(service.port, service.role);
            let group = self.groups.id(Traits::of_service(number, service.role));
            rates.add(group, &service.transitions, &service.causes);
        }
        for (state, times) in &tally.dwell {
            rates.add_dwell(*state, times);
        }
    }

    /// Everything as it is now.
    pub fn snapshot(&mut self) -> Snapshot {
        self.snapshot_of(Include::ALL)
    }

    /// As [`Tracker::snapshot`], with only the parts that are included.
    pub fn snapshot_of(&mut self, include: Include) -> Snapshot {
        let (all, groups) = self
            .rates
            .as_ref()
            .map(|rates| rates.total(&self.groups))
            .unwrap_or_default();
        let mut snapshot = Snapshot {
            now_ns: self.now_ns,
            books: self.books(),
            all,
            by: self.groups.by(),
            by_since_ns: self.by_since_ns,
            groups,
            ..Snapshot::default()
        };
        match include.connections {
            Connections::None => {}
            Connections::Longest(most) => {
                let longest = self.table.longest(most);
                snapshot.connections = self.show(longest.into_iter());
                snapshot.listeners = self.show_listeners();
            }
            Connections::All => {
                snapshot.connections = self.show(self.table.open_slots());
                let since = |connection: &Connection| (connection.first_ns, connection.id);
                snapshot.connections.sort_by_key(since);
                snapshot.listeners = self.show_listeners();
            }
        }
        if include.connections != Connections::None {
            snapshot.oldest_minisockets = self.minisockets.oldest();
        }
        if let Some(histograms) = self.histograms.as_mut().filter(|_| include.histograms) {
            histograms.flush(&self.groups);
            snapshot.histograms = histograms.show(&self.groups);
        }
        snapshot
    }

    /// Empties the histograms.
    pub fn clear_histograms(&mut self) {
        if let Some(histograms) = &mut self.histograms {
            *histograms = histograms.emptied();
        }
    }

    /// Holds back a connection that continues as a minisocket until [`Tracker::census_with_ends`] hands it out: it
    /// is kept in few bytes, since there can be a million. Returns one that cannot be held back: it has no minisocket,
    /// an earlier connection of its socket is held back, or there is no room.
    pub fn hold_back(&mut self, ended: Ended) -> Option<Ended> {
        match ended.connection.id {
            SocketId::Cookie(cookie) if self.minisockets.hold_back(cookie, &ended) => None,
            _ => Some(ended),
        }
    }

    /// The number of connections that are held back.
    pub fn count_held_back(&self) -> usize {
        self.minisockets.count_held_back()
    }

    /// The connections that are held back, by cookie, in the order of their last transitions.
    pub fn held_back(&self) -> Vec<u64> {
        self.minisockets.held_back()
    }

    /// Hands out a connection that is held back, before it is gone.
    pub fn take_held_back(&mut self, cookie: u64) -> Option<Ended> {
        self.minisockets.take_held_back(cookie)
    }

    /// The tracker's own books.
    pub fn books(&self) -> Books {
        Books {
            live: self.table.live() as u64,
            minisockets: self.minisockets.len() as u64,
            listeners_refused: self.listeners.refused(),
            ..self.books
        }
    }

    /// Bytes held, all tables counted.
    pub fn memory(&self) -> Memory {
        Memory {
            connections: self.table.memory() + self.by_netns.memory(),
            listeners: self.listeners.memory(),
            minisockets: self.minisockets.memory()
                + self.listed.allocation_size()
                + self.half_open.memory(),
            rates: self.rates.as_ref().map_or(0, Rates::memory) + self.groups.memory(),
            histograms: self.histograms.as_ref().map_or(0, Histograms::memory),
        }
    }

    fn show(&self, slots: impl Iterator<Item = u32>) -> Vec<Connection> {
        let show = |slot| Connection {
            processes: self.processes(slot),
            ..self.table.show(slot)
        };
        slots.map(show).collect()
    }

    /// The processes that have to do with a connection, where more is known than its owner.
    fn processes(&self, slot: u32) -> Option<Holders> {
        let (hot, cold) = (self.table.hot(slot), self.table.cold(slot));
        let place = Place::new(cold.netns(), cold.laddr(), hot.lport());
        let is_server = hot.role() == Role::Server;
        let holders = self.listeners.holders_at(place).filter(|_| is_server);
        Holder::beside(&cold.owner(hot), holders, cold.closer())
    }

    /// The group of a connection.
    #[inline]
    pub(super) fn group_of(&self, slot: u32) -> u16 {
        if self.groups.are_services() {
            // Without a cache miss for the other half of it.
            return self.table.hot(slot).service;
        }
        self.table.cold(slot).group
    }

    /// Takes a connection in this state from one group to that which follows from what is known of it now.
    #[cold]
    pub(super) fn regroup(&mut self, slot: u32, before: u16, state: State) {
        let after = self.groups.id(self.traits(slot));
        self.table.cold_mut(slot).group = after;
        self.change_group(before, after, state);
    }

    /// Drops a connection whose end no event showed.
    #[cold]
    pub(super) fn end_unseen(&mut self, slot: u32) {
        self.books.superseded += 1;
        self.books.missing_inferred += missing::least(self.table.hot(slot).state, State::CLOSE);
        self.drop_connection(slot);
    }

    #[cold]
    pub(super) fn drop_connection(&mut self, slot: u32) {
        let (group, state) = (self.group_of(slot), self.table.hot(slot).state);
        if let Some(rates) = &mut self.rates {
            rates.leave(group, state);
        }
        self.table.remove(slot);
        self.table.release();
    }

    /// Gives a place to the ports of listeners that have lasted.
    fn review_listeners(&mut self, now_ns: u64) {
        if !self.groups.are_services() {
            return;
        }
        for listener in self.listeners.iter_mut() {
            let has_lasted = listener
                .since_ns
                .is_none_or(|since_ns| now_ns.saturating_sub(since_ns) >= LASTING_NS);
            let before = listener.group;
            let port = listener.port();
            if port == 0 || !has_lasted || !self.groups.services.is_on_probation(before) {
                continue;
            }
            listener.group = self.groups.services.settle(Some(port), Role::Server);
            if let Some(rates) = &mut self.rates
                && before != listener.group
            {
                rates.leave(before, State::LISTEN);
                rates.enter(listener.group, State::LISTEN);
            }
        }
    }

    fn show_listeners(&self) -> Vec<ListenerInfo> {
        let mut listeners: Vec<ListenerInfo> = self
            .listeners
            .iter()
            .map(|(id, listener)| ListenerInfo {
                id,
                netns: (listener.netns() != 0).then_some(listener.netns()),
                laddr: from_wire(listener.laddr()),
                lport: listener.port(),
                owner: listener.owner,
                holders: listener.holders.clone(),
                uid: listener.uid,
                cgroup: listener.cgroup,
                since_ns: listener.since_ns,
            })
            .collect();
        listeners.sort_by_key(|listener| (listener.since_ns, listener.id));
        listeners
    }
}

/// The figures of the interval that ends now.
fn figures(rates: Option<&mut Rates>, groups: &Groups, start_ns: u64, end_ns: u64) -> Interval {
    let ((all, groups), dwell) = rates
        .map(|rates| {
            let figures = rates.end_interval(groups);
            (figures, rates.end_dwell())
        })
        .unwrap_or_default();
    Interval {
        start_ns,
        end_ns,
        all,
        groups,
        dwell,
    }
}
