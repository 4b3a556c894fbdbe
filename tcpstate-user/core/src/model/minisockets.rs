//! The minisockets, after a connection's transition to CLOSE, and the half-open connections, before there
//! is a socket: no tracepoint shows them.
//!
//! They begin with an event (a connection that continues) or with a census; they end with a census. Here
//! they are stored; the effect of a census on the rest of the tracker is in `on_census`.

use std::collections::VecDeque;

use hashbrown::HashMap;
use tcpstate_common::State;

use super::{
    connection::Ended,
    held_back::{Handle, HeldBack},
    snapshot::OldestMinisocket,
    state_exit::StateExit,
};
use crate::{by_cookie::ByCookie, census::Request, handshakes::MAX_PLACES, hash::BuildMixer};

/// The time after which a minisocket is forgotten that no dump has had: its namespace cannot be dumped.
/// The kernel keeps none that long with the usual settings.
const FORGET_NS: u64 = 180_000_000_000;
/// Time between two searches for these, nanoseconds.
const SWEEP_NS: u64 = 1_000_000_000;

/// The dumps that must be without a minisocket that none has had yet, before it counts as gone: a dump
/// in pieces can miss a single socket.
const MISSES: u8 = 2;

const MS: u64 = 1_000_000;

/// The number of minisockets from which on looking ahead costs less than the misses of the cache.
const LOOK_AHEAD_FROM: usize = 4_096;

/// The most numbers of half-open connections, one for each place where they come in.
const MAX_COUNTED: usize = MAX_PLACES;

/// A minisocket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mini {
    /// The time at which the connection entered this state; [`Mini::NO_TIME`] where it is not known.
    since_ns: u64,
    /// The time at which the minisocket was made; of one that a dump was the first to show, a time at which it was there
    /// already. The connection can have been in its state as a socket long before.
    pub(super) there_ns: u64,
    pub(super) netns: u32,
    /// The connection, where a view holds it back.
    held: Handle,
    /// From when it was there to the begin of the first dump that should have had it and did not, milliseconds.
    missed_after_ms: u32,
    pub(super) group: u16,
    pub(super) state: State,
    /// Dumps that should have had it and did not; [`Mini::FOUND`] once one has.
    misses: u8,
}

// With the cookie 40 bytes: there can be a million.
const _: () = assert!(size_of::<Mini>() == 32);

impl Mini {
    const FOUND: u8 = u8::MAX;
    /// No time of an event: that would be after 584 years.
    const NO_TIME: u64 = u64::MAX;

    pub(super) const fn new(
        state: State,
        since_ns: Option<u64>,
        there_ns: u64,
        netns: u32,
        group: u16,
    ) -> Self {
        let since_ns = match since_ns {
            Some(since_ns) => since_ns,
            None => Self::NO_TIME,
        };
        Self {
            since_ns,
            there_ns,
            netns,
            held: Handle::NONE,
            missed_after_ms: 0,
            group,
            state,
            misses: 0,
        }
    }

    /// The time at which the connection entered this state.
    pub(super) const fn since_ns(&self) -> Option<u64> {
        if self.since_ns == Self::NO_TIME {
            None
        } else {
            Some(self.since_ns)
        }
    }

    /// The connection entered this state at that time.
    pub(super) const fn enter(&mut self, state: State, since_ns: u64) {
        self.state = state;
        self.since_ns = since_ns;
    }

    /// It is not known when the connection entered this state.
    pub(super) const fn forget_since(&mut self) {
        self.since_ns = Self::NO_TIME;
    }

    /// Whether it counts as gone because samples were without it, and none ever had it.
    pub(super) const fn is_never_found(&self) -> bool {
        self.misses >= MISSES && self.misses != Self::FOUND
    }

    /// The time from when it was there to the first dump without it, nanoseconds, where a dump should have had it. After
    /// a stall of the output that is long.
    pub(super) fn missed_after_ns(&self) -> u64 {
        u64::from(self.missed_after_ms) * MS
    }

    fn miss(&mut self, begin_ns: u64) {
        if self.misses == 0 {
            let after_ms = begin_ns.saturating_sub(self.there_ns).div_ceil(MS);
            self.missed_after_ms = u32::try_from(after_ms).unwrap_or(u32::MAX);
        }
        self.misses += 1;
    }

    /// Notes that a dump has it.
    pub(super) const fn mark_found(&mut self) {
        self.misses = Self::FOUND;
    }
}

/// A half-open connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Embryonic {
    /// Time by which its SYN had come.
    pub(super) since_ns: u64,
    /// By how much earlier it may have come; `None`: by any time.
    pub(super) interval_ns: Option<u64>,
    netns: u32,
}

/// The number of half-open connections of one group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    pub(super) group: u16,
    pub(super) count: u32,
}

/// The result of a dump for the minisockets that it should have had, by cookie.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    /// Two dumps were without them.
    pub(super) gone: Vec<u64>,
    /// Their namespace cannot be dumped.
    pub(super) forgotten: Vec<u64>,
}

/// The minisockets, by cookie, and the numbers of half-open connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Minisockets {
    minis: ByCookie<Mini>,
    /// Connections that are shown when they are gone.
    held: HeldBack,
    /// Those that no dump had when they were put here, by namespace, the oldest first.
    awaited: HashMap<u32, VecDeque<u64>, BuildMixer>,
    half_open: HashMap<u32, Vec<Counted>, BuildMixer>,
    /// The number of entries in `half_open`, at most [`MAX_COUNTED`].
    counted: usize,
    /// Time of the next search for those whose namespace cannot be dumped.
    sweep_ns: u64,
    /// The half-open connections that may become sockets.
    requests: ByCookie<Embryonic>,
    max: usize,
}

impl Minisockets {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.minis.len()
    }

    /// Adds a minisocket that no dump has had yet. `false` where there is no room.
    pub(super) fn await_found(&mut self, cookie: u64, mini: Mini) -> bool {
        let awaited = self.awaited.get(&mini.netns).map_or(0, VecDeque::len);
        // Without a dump of its namespace, those that are gone stay in the list.
        if awaited >= self.max || !self.insert(cookie, mini) {
            return false;
        }
        self.awaited
            .entry(mini.netns)
            .or_default()
            .push_back(cookie);
        true
    }

    /// Adds a minisocket. `false` where there is no room, or it is there already.
    pub(super) fn insert(&mut self, cookie: u64, mini: Mini) -> bool {
        if self.minis.len() >= self.max {
            return false;
        }
        let (_, is_new) = self.minis.get_or_insert_with(cookie, || mini);
        is_new
    }

    /// Brings the places of these minisockets into the cache, all at a time.
    #[inline]
    pub(super) fn look_ahead(&self, cookies: impl Iterator<Item = u64>) {
        if self.minis.len() < LOOK_AHEAD_FROM {
            return;
        }
        for cookie in cookies {
            std::hint::black_box(self.minis.get(cookie).map(|mini| mini.misses));
        }
    }

    pub(super) fn get_mut(&mut self, cookie: u64) -> Option<&mut Mini> {
        self.minis.get_mut(cookie)
    }

    /// Removes a minisocket. A connection that is held back for it has to be taken, by [`Minisockets::exit`], before
    /// another one is removed.
    pub(super) fn remove(&mut self, cookie: u64) -> Option<Mini> {
        self.minis.remove(cookie)
    }

    /// Holds a connection back until its minisocket is gone. `false`: it has none, another connection is held back
    /// for that one, or there is no room.
    pub(super) fn hold_back(&mut self, cookie: u64, ended: &Ended) -> bool {
        let Some(mini) = self.minis.get_mut(cookie) else {
            return false;
        };
        if mini.held != Handle::NONE {
            return false;
        }
        let Some(held) = self.held.put(cookie, ended) else {
            return false;
        };
        mini.held = held;
        true
    }

    /// The connections that are held back, by cookie, in the order of their last transitions.
    pub(super) fn held_back(&self) -> Vec<u64> {
        self.held.by_end()
    }

    /// The number of connections that are held back.
    pub(super) fn count_held_back(&self) -> usize {
        self.held.len()
    }

    /// Takes the connection that is held back for this minisocket.
    pub(super) fn take_held_back(&mut self, cookie: u64) -> Option<Ended> {
        let mini = self.minis.get_mut(cookie)?;
        let held = std::mem::replace(&mut mini.held, Handle::NONE);
        self.take(held)
    }

    fn take(&mut self, held: Handle) -> Option<Ended> {
        if held == Handle::NONE {
            return None;
        }
        let taken = self.held.take(held)?;
        let moved = taken.moved.and_then(|cookie| self.minis.get_mut(cookie));
        if let Some(moved) = moved {
            moved.held = held;
        }
        Some(taken.ended)
    }

    /// Adds this exit to the connection that is held back for the minisocket as it was before. Returns a connection
    /// that is gone.
    pub(super) fn exit(&mut self, before: &Mini, exit: &StateExit) -> Option<Ended> {
        if before.held == Handle::NONE {
            return None;
        }
        if let Some(mini) = self.minis.get_mut(exit.cookie) {
            mini.held = Handle::NONE;
        }
        let mut ended = self.take(before.held)?;
        ended.add_exit(exit);
        if exit.then.is_some() && self.hold_back(exit.cookie, &ended) {
            return None;
        }
        Some(ended)
    }

    /// The minisockets that this dump and one before should have had and did not, and those whose namespace cannot
    /// be dumped. The caller removes them.
    pub(super) fn judge(&mut self, netns: u32, begin_ns: u64) -> Judged {
        let mut judged = Judged::default();
        let minis = &mut self.minis;
        if let Some(awaited) = self.awaited.get_mut(&netns) {
            awaited.retain(|&cookie| {
                let Some(mini) = minis.get_mut(cookie) else {
                    return false;
                };
                if mini.misses == Mini::FOUND {
                    return false;
                }
                // It may have been made during the dump.
                if mini.there_ns >= begin_ns {
                    return true;
                }
                mini.miss(begin_ns);
                if mini.misses < MISSES {
                    return true;
                }
                judged.gone.push(cookie);
                false
            });
        }
        if begin_ns < self.sweep_ns {
            return judged;
        }
        // Of all namespaces, so seldom: each may have a dump every second.
        self.sweep_ns = begin_ns.saturating_add(SWEEP_NS);
        for awaited in self.awaited.values_mut() {
            while let Some(&cookie) = awaited.front() {
                let is_old = minis
                    .get(cookie)
                    .is_none_or(|mini| mini.there_ns.saturating_add(FORGET_NS) < begin_ns);
                if !is_old {
                    break;
                }
                awaited.pop_front();
                if minis
                    .get(cookie)
                    .is_some_and(|mini| mini.misses != Mini::FOUND)
                {
                    judged.forgotten.push(cookie);
                }
            }
        }
        self.awaited.retain(|_, awaited| !awaited.is_empty());
        judged
    }

    /// Notes a half-open connection, or what is known of it now. Where there is no room, as under a flood, its time in
    /// `SYN_RECV` will be that of its socket.
    pub(super) fn note_request(&mut self, request: &Request, netns: u32) {
        let embryonic = Embryonic {
            since_ns: request.since_ns,
            interval_ns: request.interval_ns,
            netns,
        };
        if self.requests.len() >= self.max && self.requests.get(request.cookie).is_none() {
            return;
        }
        let (known, _) = self
            .requests
            .get_or_insert_with(request.cookie, || embryonic);
        *known = embryonic;
    }

    /// Whether no half-open connection is known.
    #[inline]
    pub(super) const fn has_no_requests(&self) -> bool {
        self.requests.is_empty()
    }

    /// Gives all minisockets and half-open connections the group that follows from the one before and their namespace.
    pub(super) fn regroup(&mut self, mut group: impl FnMut(u16, u32) -> u16) {
        for mini in self.minis.values_mut() {
            mini.group = group(mini.group, mini.netns);
        }
        for (&netns, counted) in &mut self.half_open {
            for counted in counted {
                counted.group = group(counted.group, netns);
            }
        }
    }

    /// Calls `count` with the group and the state of each minisocket and of all half-open connections, and their number.
    pub(super) fn count(&mut self, mut count: impl FnMut(u16, State, u32)) {
        for mini in self.minis.values_mut() {
            count(mini.group, mini.state, 1);
        }
        for counted in self.half_open.values().flatten() {
            count(counted.group, State::SYN_RECV, counted.count);
        }
    }

    /// Since when there is one in each state.
    pub(super) fn oldest(&self) -> Vec<OldestMinisocket> {
        let mut oldest: Vec<OldestMinisocket> = Vec::new();
        for (_, mini) in self.minis.iter() {
            let since_ns = mini.since_ns();
            let this = OldestMinisocket {
                state: mini.state,
                since_ns: since_ns.unwrap_or(mini.there_ns),
                is_exact: since_ns.is_some(),
            };
            match oldest.iter_mut().find(|one| one.state == this.state) {
                Some(one) => {
                    one.since_ns = one.since_ns.min(this.since_ns);
                    one.is_exact &= this.is_exact;
                }
                None => oldest.push(this),
            }
        }
        oldest.sort_by_key(|one| one.state.0);
        oldest
    }

    /// Removes a half-open connection, which has become a socket or is gone.
    pub(super) fn take_request(&mut self, cookie: u64) -> Option<Embryonic> {
        self.requests.remove(cookie)
    }

    /// Removes all half-open connections of a namespace. Returns its minisockets, by cookie, which the caller removes.
    pub(super) fn vanish(&mut self, netns: u32) -> Vec<u64> {
        self.requests.retain(|_, request| request.netns != netns);
        self.awaited.remove(&netns);
        let here = self.minis.iter().filter(|(_, mini)| mini.netns == netns);
        here.map(|(cookie, _)| cookie).collect()
    }

    /// Removes the half-open connections of a namespace, and returns them.
    pub(super) fn take_half_open(&mut self, netns: u32) -> Vec<Counted> {
        let before = self.half_open.remove(&netns).unwrap_or_default();
        self.counted = self.counted.saturating_sub(before.len());
        before
    }

    /// Takes the half-open connections of a namespace that has none yet. `false` where there is no room.
    pub(super) fn put_half_open(&mut self, netns: u32, now: Vec<Counted>) -> bool {
        let counted = self.counted.saturating_add(now.len());
        if counted > MAX_COUNTED {
            return false;
        }
        if !now.is_empty() {
            self.counted = counted;
            self.half_open.insert(netns, now);
        }
        true
    }

    /// Bytes held.
    pub(super) fn memory(&self) -> usize {
        let awaited = self
            .awaited
            .values()
            .map(|awaited| awaited.capacity() * size_of::<u64>());
        let half_open = self
            .half_open
            .values()
            .map(|counted| counted.capacity() * size_of::<Counted>());
        self.minis.memory()
            + self.held.memory()
            + self.requests.memory()
            + self.awaited.allocation_size()
            + self.half_open.allocation_size()
            + awaited.sum::<usize>()
            + half_open.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// The time is the earliest of each state, and exact where all are: one of before may be older by any time.
    #[test]
    fn the_oldest_of_each_state_is_found() {
        let mut minisockets = Minisockets::new(10);
        assert!(minisockets.oldest().is_empty());
        for (cookie, state, since_ns, there_ns) in [
            (1, State::TIME_WAIT, Some(30), 40),
            (2, State::TIME_WAIT, Some(20), 50),
            (3, State::FIN_WAIT2, Some(10), 15),
            (4, State::FIN_WAIT2, None, 10),
            (5, State::FIN_WAIT2, Some(9), 9),
        ] {
            let mini = Mini::new(state, since_ns, there_ns, 1, 0);
            assert!(minisockets.insert(cookie, mini));
        }
        let oldest = |state, since_ns, is_exact| OldestMinisocket {
            state,
            since_ns,
            is_exact,
        };
        let fin_wait2 = oldest(State::FIN_WAIT2, 9, false);
        assert_eq!(
            minisockets.oldest(),
            [fin_wait2, oldest(State::TIME_WAIT, 20, true)]
        );
        minisockets.remove(2);
        assert_eq!(
            minisockets.oldest(),
            [fin_wait2, oldest(State::TIME_WAIT, 30, true)]
        );
    }

    fn mini(since_ns: u64) -> Mini {
        Mini::new(State::TIME_WAIT, Some(since_ns), since_ns, 1, 0)
    }

    fn judged(minisockets: &mut Minisockets, netns: u32, begin_ns: u64) -> (Vec<u64>, Vec<u64>) {
        let Judged { gone, forgotten } = minisockets.judge(netns, begin_ns);
        for &cookie in gone.iter().chain(&forgotten) {
            assert!(minisockets.remove(cookie).is_some());
        }
        (gone, forgotten)
    }

    #[test]
    fn a_minisocket_that_two_dumps_miss_is_gone_and_a_new_one_is_not() {
        let mut minisockets = Minisockets::new(10);
        for (cookie, since_ns) in [(1, 1), (2, 2), (3, 10)] {
            assert!(minisockets.await_found(cookie, mini(since_ns)));
        }
        minisockets.get_mut(2).unwrap().mark_found();
        assert_eq!(judged(&mut minisockets, 1, 5), (vec![], vec![]));
        assert_eq!(judged(&mut minisockets, 2, 6), (vec![], vec![]));
        assert_eq!(judged(&mut minisockets, 1, 9), (vec![1], vec![]));
        assert_eq!(minisockets.len(), 2);
    }

    #[test]
    fn a_minisocket_that_cannot_be_dumped_is_forgotten() {
        let mut minisockets = Minisockets::new(10);
        assert!(minisockets.await_found(1, mini(SECOND)));
        assert_eq!(judged(&mut minisockets, 2, 181 * SECOND), (vec![], vec![]));
        assert_eq!(judged(&mut minisockets, 2, 182 * SECOND), (vec![], vec![1]));
        assert_eq!(minisockets.len(), 0);
    }

    #[test]
    fn half_open_connections_are_bounded_over_all_namespaces() {
        let mut minisockets = Minisockets::new(1);
        let half = vec![Counted { group: 0, count: 1 }; MAX_COUNTED / 2];
        for (netns, has_room) in [(1, true), (2, true), (3, false)] {
            assert_eq!(minisockets.put_half_open(netns, half.clone()), has_room);
        }
        assert_eq!(minisockets.take_half_open(1).len(), half.len());
        assert!(minisockets.put_half_open(3, half));
    }

    #[test]
    fn the_list_of_those_that_no_dump_had_is_bounded() {
        let mut minisockets = Minisockets::new(3);
        for cookie in 0..3 {
            assert!(minisockets.await_found(cookie, mini(1)));
            assert!(minisockets.remove(cookie).is_some());
        }
        assert!(!minisockets.await_found(4, mini(1)));
        assert_eq!(judged(&mut minisockets, 1, 5), (vec![], vec![]));
        assert!(minisockets.await_found(4, mini(1)));
    }

    #[test]
    fn minisockets_are_bounded() {
        let mut minisockets = Minisockets::new(1);
        assert!(minisockets.await_found(1, mini(1)));
        assert!(!minisockets.await_found(2, mini(1)));
        assert!(!minisockets.insert(1, mini(1)), "it is there already");
        assert!(minisockets.vanish(2).is_empty());
        assert_eq!(minisockets.vanish(1), [1]);
    }
}
