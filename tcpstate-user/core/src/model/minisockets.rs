//! The minisockets, after a connection's transition to CLOSE, and the half-open connections, before there
//! is a socket: no tracepoint shows them.
//!
//! They begin with an event (a connection that continues) or with a census; they end with a census. Here
//! they are stored; the effect of a census on the rest of the tracker is in `on_census`.

use std::collections::VecDeque;

use hashbrown::HashMap;
use tcpstate_common::State;

use crate::{by_cookie::ByCookie, census::Request, hash::BuildMixer};

/// The time after which a minisocket is forgotten that no dump has had: its namespace cannot be dumped.
/// The kernel keeps none that long with the usual settings.
const FORGET_NS: u64 = 180_000_000_000;

/// The dumps that must be without a minisocket that none has had yet, before it counts as gone: a dump
/// in pieces can miss a single socket.
const MISSES: u8 = 2;

/// The most numbers of half-open connections, one for each place where they come in: more than a host has.
const MAX_COUNTED: usize = 65_536;

/// A minisocket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mini {
    /// The time at which the connection entered this state.
    pub(super) since_ns: Option<u64>,
    /// The time at which the minisocket was made, or first dumped: the connection can have been in its
    /// state as a socket long before.
    pub(super) there_ns: u64,
    pub(super) netns: u32,
    pub(super) group: u16,
    pub(super) state: State,
    /// Dumps that should have had it and did not; [`Mini::FOUND`] once one has.
    misses: u8,
}

impl Mini {
    const FOUND: u8 = u8::MAX;

    pub(super) const fn new(
        state: State,
        since_ns: Option<u64>,
        there_ns: u64,
        netns: u32,
        group: u16,
    ) -> Self {
        Self {
            since_ns,
            there_ns,
            netns,
            group,
            state,
            misses: 0,
        }
    }

    /// Whether it counts as gone because samples were without it, and none ever had it.
    pub(super) const fn is_never_found(&self) -> bool {
        self.misses >= MISSES && self.misses != Self::FOUND
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

/// The minisockets, by cookie, and the numbers of half-open connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Minisockets {
    minis: ByCookie<Mini>,
    /// Those that no dump had when they were put here, by namespace, the oldest first.
    awaited: HashMap<u32, VecDeque<u64>, BuildMixer>,
    half_open: HashMap<u32, Vec<Counted>, BuildMixer>,
    /// The number of entries in `half_open`, at most [`MAX_COUNTED`].
    counted: usize,
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

    pub(super) fn contains(&self, cookie: u64) -> bool {
        self.minis.get(cookie).is_some()
    }

    pub(super) fn get_mut(&mut self, cookie: u64) -> Option<&mut Mini> {
        self.minis.get_mut(cookie)
    }

    pub(super) fn remove(&mut self, cookie: u64) -> Option<Mini> {
        self.minis.remove(cookie)
    }

    /// Removes the minisockets that this dump and one before should have had and did not (`gone`), and
    /// those whose namespace cannot be dumped (`forgotten`).
    pub(super) fn judge(
        &mut self,
        netns: u32,
        begin_ns: u64,
        mut gone: impl FnMut(u64, Mini),
        mut forgotten: impl FnMut(u64, Mini),
    ) {
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
                mini.misses += 1;
                if mini.misses < MISSES {
                    return true;
                }
                let mini = *mini;
                minis.remove(cookie);
                gone(cookie, mini);
                false
            });
        }
        for awaited in self.awaited.values_mut() {
            while let Some(&cookie) = awaited.front() {
                let is_old = minis
                    .get(cookie)
                    .is_none_or(|mini| mini.there_ns.saturating_add(FORGET_NS) < begin_ns);
                if !is_old {
                    break;
                }
                awaited.pop_front();
                if let Some(mini) = minis.get(cookie).copied()
                    && mini.misses != Mini::FOUND
                {
                    minis.remove(cookie);
                    forgotten(cookie, mini);
                }
            }
        }
        self.awaited.retain(|_, awaited| !awaited.is_empty());
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

    /// Removes a half-open connection, which has become a socket or is gone.
    pub(super) fn take_request(&mut self, cookie: u64) -> Option<Embryonic> {
        self.requests.remove(cookie)
    }

    /// Removes all minisockets and half-open connections of a namespace.
    pub(super) fn vanish(&mut self, netns: u32, mut gone: impl FnMut(u64, Mini)) {
        self.requests.retain(|_, request| request.netns != netns);
        self.awaited.remove(&netns);
        self.minis.retain(|cookie, mini| {
            let is_there = mini.netns != netns;
            if !is_there {
                gone(cookie, *mini);
            }
            is_there
        });
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

    fn mini(since_ns: u64) -> Mini {
        Mini::new(State::TIME_WAIT, Some(since_ns), since_ns, 1, 0)
    }

    fn judged(minisockets: &mut Minisockets, netns: u32, begin_ns: u64) -> (Vec<u64>, Vec<u64>) {
        let (mut gone, mut forgotten) = (Vec::new(), Vec::new());
        minisockets.judge(
            netns,
            begin_ns,
            |cookie, _| gone.push(cookie),
            |cookie, _| forgotten.push(cookie),
        );
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
        let mut gone = Vec::new();
        minisockets.vanish(1, |cookie, _| gone.push(cookie));
        assert_eq!((gone, minisockets.len()), (vec![1], 0));
    }
}
