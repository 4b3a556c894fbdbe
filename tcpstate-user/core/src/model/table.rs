//! The table of open connections: how they are stored, found by the identity of their sockets, and
//! bounded. The effect of an event is the tracker's business.

use std::collections::{BinaryHeap, VecDeque};

use hashbrown::{HashMap, HashTable};
use tcpstate_common::State;

use super::{
    Connection, Ended, Limits,
    connection::handshake_ns,
    minisockets::Embryonic,
    packed::{Cold, Hot, MAX_PAST, Opening, PackedStay},
    pages::Pages,
    slots::{SLOTS, slot_of},
};
use crate::{
    event::{Event, SocketId},
    hash::{BuildMixer, Key},
    owner::Owner,
    service::Role,
};

/// The number of connections from which on looking ahead costs less than the misses: fewer are in the
/// cache anyway.
const LOOK_AHEAD_FROM: usize = 4_096;

#[derive(Clone)]
pub(super) struct Table {
    pages: Pages<Hot, Cold>,
    /// All but the embryos, by cookie or address.
    index: HashTable<u32>,
    /// That of `index` and of `embryos`.
    key: Key,
    /// The number of those by address: 0 where the kernel has cookies.
    by_address: usize,
    /// Embryos: listeners' children after LISTEN -> `SYN_RECV` and before their next event, by address.
    ///
    /// The kernel gives the child its final cookie right after that first event. So the second event, and
    /// only that one, is matched by the address of the socket: addresses are reused.
    embryos: HashTable<u32>,
    /// Slot and address of embryos, the oldest first, mixed with former embryos.
    embryo_order: VecDeque<(u32, u64)>,
    /// The part of the past that does not fit into [`Hot`], of a few connections.
    long: HashMap<u32, Vec<PackedStay>, BuildMixer>,
    /// A connection that has ended and is not found any more, but readable until [`Table::release`].
    ended: Option<u32>,
    /// The slot where the search for a victim stopped.
    hand: u32,
    max: usize,
    max_embryos: usize,
}

const fn hash_of(key: Key, id: SocketId) -> u64 {
    match id {
        SocketId::Cookie(number) | SocketId::Address(number) => key.mix(number),
    }
}

impl Table {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            pages: Pages::new(),
            index: HashTable::new(),
            key: Key::default(),
            by_address: 0,
            embryos: HashTable::new(),
            embryo_order: VecDeque::new(),
            long: HashMap::default(),
            ended: None,
            hand: 0,
            max: limits.max_connections.clamp(1, u32::MAX as usize / 2),
            max_embryos: limits.max_embryos.max(1),
        }
    }

    pub(super) fn hot(&self, slot: u32) -> &Hot {
        self.pages.hot(slot)
    }

    pub(super) fn hot_mut(&mut self, slot: u32) -> &mut Hot {
        self.pages.hot_mut(slot)
    }

    pub(super) fn cold(&self, slot: u32) -> &Cold {
        self.pages.cold(slot)
    }

    pub(super) fn cold_mut(&mut self, slot: u32) -> &mut Cold {
        self.pages.both_mut(slot).1
    }

    /// The slots of the connections that are open.
    pub(super) fn open_slots(&self) -> impl Iterator<Item = u32> + '_ {
        let is_open = |slot: &u32| self.pages.hot(*slot).is_live() && Some(*slot) != self.ended;
        self.pages.slots().filter(is_open)
    }

    /// Whether there is an open connection in a slot that had one.
    pub(super) fn is_open(&self, slot: u32) -> bool {
        self.pages.get_hot(slot).is_some_and(Hot::is_live) && Some(slot) != self.ended
    }

    /// The number of open connections.
    pub(super) fn live(&self) -> usize {
        self.pages.live() - usize::from(self.ended.is_some())
    }

    /// The open connection of this identity; no embryo.
    #[inline]
    pub(super) fn find(&self, id: SocketId) -> Option<u32> {
        if self.by_address == 0 && matches!(id, SocketId::Address(_)) {
            return None;
        }
        self.index
            .find(hash_of(self.key, id), |&slot| {
                self.pages.hot(slot).id() == id
            })
            .copied()
    }

    /// Brings the entries of these events' connections into the cache, all at a time.
    ///
    /// With many connections, each lookup misses the cache several times in a row; in a loop that does
    /// nothing else, the misses of one lookup overlap with those of the next ones.
    pub(super) fn look_ahead(&self, events: &[Event]) {
        if self.index.len() < LOOK_AHEAD_FROM {
            return;
        }
        for event in events {
            std::hint::black_box(self.find(event.id()));
        }
    }

    /// Whether the event's ports differ from those of the connection that has its address, where that has
    /// ports of its own. A socket that connects may still have an earlier local port; a child without a
    /// remote port has its listener's local port, which need not be the one that the client asked for.
    pub(super) fn is_of_another(&self, slot: u32, event: &Event) -> bool {
        let differ = |held: u16, said: u16| held != 0 && said != 0 && held != said;
        let (hot, rport) = (self.hot(slot), self.cold(slot).rport());
        let has_lport = hot.state != State::SYN_SENT && rport != 0;
        let record = event.record();
        differ(rport, record.rport) || (has_lport && differ(hot.lport(), record.lport))
    }

    /// The embryo at this address.
    pub(super) fn find_embryo(&self, address: u64) -> Option<u32> {
        if self.embryos.is_empty() {
            return None;
        }
        self.embryos
            .find(self.key.mix(address), |&slot| {
                self.pages.hot(slot).key() == address
            })
            .copied()
    }

    /// The connection that must be evicted before the next one comes, if one must.
    pub(super) fn victim(&mut self) -> Option<u32> {
        if self.live() < self.max {
            return None;
        }
        // The clock algorithm: a connection that was touched since the hand last passed stays for another turn.
        loop {
            self.hand = self.pages.after(self.hand);
            let hot = self.pages.hot_mut(self.hand);
            if hot.is_live() && Some(self.hand) != self.ended && !hot.take_touched() {
                return Some(self.hand);
            }
        }
    }

    /// Adds a connection at its first event. The caller has made room, and there is no other of that
    /// identity.
    #[inline]
    pub(super) fn insert(&mut self, event: &Event, opening: &Opening) -> u32 {
        let slot = self.pages.take();
        // In place, not by way of the stack, which would be a third of the cost of opening a connection.
        let (hot, cold) = self.pages.both_mut(slot);
        *hot = Hot::open(event, opening);
        *cold = Cold::open(event, opening);
        if hot.has(Hot::EMBRYO) {
            let address = hot.key();
            self.insert_embryo(slot, address);
        } else {
            let id = hot.id();
            self.index_slot(id, slot);
        }
        slot
    }

    fn insert_embryo(&mut self, slot: u32, address: u64) {
        let (pages, key) = (&self.pages, self.key);
        self.embryos.insert_unique(key.mix(address), slot, |&slot| {
            key.mix(pages.hot(slot).key())
        });
        let is_embryo = |&(slot, address): &(u32, u64)| {
            let hot = pages.get_hot(slot);
            hot.is_some_and(|hot| hot.has(Hot::EMBRYO) && hot.key() == address)
        };
        while self
            .embryo_order
            .front()
            .is_some_and(|front| !is_embryo(front))
        {
            self.embryo_order.pop_front();
        }
        if self.embryo_order.len() > 2 * self.max_embryos {
            self.embryo_order.retain(is_embryo);
        }
        self.embryo_order.push_back((slot, address));
    }

    /// The oldest embryo, if there are too many.
    pub(super) fn surplus_embryo(&mut self) -> Option<u32> {
        if self.embryos.len() < self.max_embryos {
            return None;
        }
        while let Some((slot, address)) = self.embryo_order.pop_front() {
            if self.find_embryo(address) == Some(slot) {
                return Some(slot);
            }
        }
        None
    }

    /// Gives an embryo its identity.
    pub(super) fn name_embryo(&mut self, slot: u32, id: SocketId) {
        self.forget_embryo(slot);
        let hot = self.pages.hot_mut(slot);
        hot.set(Hot::EMBRYO, false);
        hot.set_id(id);
        self.index_slot(id, slot);
    }

    /// Takes the facts about the socket from the event.
    pub(super) fn learn(&mut self, slot: u32, event: &Event) {
        let (hot, cold) = self.pages.both_mut(slot);
        cold.learn(event, hot);
    }

    /// The connection in this slot, a server's in `SYN_RECV`, was half-open before it had a socket.
    pub(super) fn begin_half_open(&mut self, slot: u32, request: &Embryonic) {
        let (hot, cold) = self.pages.both_mut(slot);
        cold.begin_half_open(hot, request);
    }

    /// The uncertainty of the time that this event ends, where it was sampled.
    #[inline]
    pub(super) fn dwell_interval_ns(&self, slot: u32, old: State) -> Option<u64> {
        if old == State::SYN_RECV {
            self.cold(slot).half_open_interval_ns()
        } else {
            None
        }
    }

    /// Puts a stay that has no place in [`Hot`] into the long past, up to a bound.
    pub(super) fn spill(&mut self, slot: u32, stay: PackedStay) {
        let long = self.long.entry(slot).or_default();
        let full = long.len() >= MAX_PAST;
        if full {
            // The beginning and the end matter most.
            long.remove(0);
        }
        long.push(stay);
        self.pages.hot_mut(slot).mark_spilled(full);
    }

    /// Removes a connection. It stays readable until [`Table::release`].
    pub(super) fn remove(&mut self, slot: u32) {
        self.release();
        let hot = self.pages.hot(slot);
        let id = hot.id();
        if hot.has(Hot::EMBRYO) {
            self.forget_embryo(slot);
        } else if let Ok(entry) = self
            .index
            .find_entry(hash_of(self.key, id), |&other| other == slot)
        {
            entry.remove();
            self.by_address -= usize::from(matches!(id, SocketId::Address(_)));
        }
        self.ended = Some(slot);
    }

    /// Frees the connection that [`Table::remove`] left readable.
    #[inline]
    pub(super) fn release(&mut self) {
        if self.ended.is_some() {
            self.release_ended();
        }
    }

    fn release_ended(&mut self) {
        if let Some(slot) = self.ended.take() {
            if self.pages.hot(slot).has(Hot::SPILLED) {
                self.long.remove(&slot);
            }
            self.pages.give(slot);
            let index_room = self.index.capacity();
            if index_room > 8 * 1024 && self.index.len() < index_room / 8 {
                let (pages, key) = (&self.pages, self.key);
                self.index.shrink_to(2 * self.index.len(), |&slot| {
                    hash_of(key, pages.hot(slot).id())
                });
            }
        }
    }

    /// A whole connection.
    pub(super) fn show(&self, slot: u32) -> Connection {
        self.pages
            .cold(slot)
            .show(self.pages.hot(slot), self.long_past(slot))
    }

    /// The time of the handshake that this transition to ESTABLISHED completes, where it is known.
    #[inline]
    pub(super) fn handshake_ns(
        &self,
        slot: u32,
        event: &Event,
        old: State,
        dwell_ns: Option<u64>,
    ) -> Option<u64> {
        match (old, self.hot(slot).role()) {
            (State::SYN_RECV, Role::Client) => return self.show(slot).handshake_ns,
            // It was restored.
            (State::SYN_SENT, Role::Unknown) => return None,
            _ => {}
        }
        handshake_ns(event, old, dwell_ns)
    }

    /// Gives a connection the owner that its listener was handed over to.
    pub(super) fn hand_over(&mut self, slot: u32, owner: &Owner) {
        let (hot, cold) = self.pages.both_mut(slot);
        cold.hand_over(owner, hot);
    }

    /// One connection at its end.
    pub(super) fn show_ended(&self, slot: u32, event: &Event) -> Ended {
        self.pages
            .cold(slot)
            .show_ended(self.pages.hot(slot), self.long_past(slot), event)
    }

    /// The open connections that have been longest in their state, at most `most` of each: by state, those first.
    pub(super) fn longest(&self, most: usize) -> Vec<u32> {
        // Of each state the latest on top, which gives way to an earlier one.
        let mut by_state: [BinaryHeap<(u64, u64, u32)>; SLOTS] = Default::default();
        for slot in self.open_slots() {
            let hot = self.pages.hot(slot);
            // The identity makes the choice the same on every run.
            let entry = (hot.in_state_ns(), hot.key(), slot);
            let Some(heap) = by_state.get_mut(slot_of(hot.state)) else {
                continue;
            };
            if heap.len() < most {
                heap.push(entry);
            } else if let Some(mut latest) = heap.peek_mut()
                && entry < *latest
            {
                *latest = entry;
            }
        }
        let sorted = by_state.into_iter().map(BinaryHeap::into_sorted_vec);
        sorted.flatten().map(|(.., slot)| slot).collect()
    }

    /// Bytes held.
    pub(super) fn memory(&self) -> usize {
        let long = self
            .long
            .values()
            .map(|long| long.capacity() * size_of::<PackedStay>());
        self.pages.memory()
            + self.index.allocation_size()
            + self.embryos.allocation_size()
            + self.embryo_order.capacity() * size_of::<(u32, u64)>()
            + self.long.allocation_size()
            + long.sum::<usize>()
    }

    fn index_slot(&mut self, id: SocketId, slot: u32) {
        self.by_address += usize::from(matches!(id, SocketId::Address(_)));
        let (pages, key) = (&self.pages, self.key);
        self.index.insert_unique(hash_of(key, id), slot, |&slot| {
            hash_of(key, pages.hot(slot).id())
        });
    }

    fn forget_embryo(&mut self, slot: u32) {
        let address = self.pages.hot(slot).key();
        if let Ok(entry) = self
            .embryos
            .find_entry(self.key.mix(address), |&other| other == slot)
        {
            entry.remove();
        }
    }

    fn long_past(&self, slot: u32) -> &[PackedStay] {
        if !self.pages.hot(slot).has(Hot::SPILLED) {
            return &[];
        }
        self.long.get(&slot).map_or(&[], Vec::as_slice)
    }
}

/// Whether an event out of this state can be an embryo's: that has just been made, so it is in
/// `SYN_RECV`.
pub(super) const fn may_be_embryo(oldstate: State) -> bool {
    matches!(oldstate, State::SYN_RECV)
}
