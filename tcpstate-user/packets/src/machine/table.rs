//! The connections, by their addresses: bounded, without an allocation per packet.

use std::{
    hash::{BuildHasher as _, Hash, Hasher},
    hint::black_box,
};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::connection::Connection;
use crate::segment::{Segment, Side};

/// The time after which a connection that is over is forgotten, nanoseconds. As long as its last segments may be under way:
/// two maximum segment lifetimes of RFC 9293, section 3.4.3, are four minutes, and no system waits longer.
const KEPT_NS: u64 = 240_000_000_000;

/// Slots that are looked at for connections to forget when one begins: more than one, so that they are found sooner than others
/// begin.
const LOOKED_AT: usize = 2;

/// Connections from which on the table is not in the caches of a processor.
const LOOK_AHEAD_FROM: usize = 1_000;

/// Segments that are looked up at a time.
const AT_ONCE: usize = 32;

/// The addresses of a connection, the same for both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    sides: [Side; 2],
    domain: u64,
}

/// In words: byte by byte, hashing is a large part of the time that a packet takes.
impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let [a, b] = &self.sides;
        hasher.write_u128(u128::from_ne_bytes(a.address));
        hasher.write_u128(u128::from_ne_bytes(b.address));
        let ports = u64::from(a.port) << 16 | u64::from(b.port);
        hasher.write_u128(u128::from(self.domain) << 64 | u128::from(ports));
    }
}

/// As [`Side`] is ordered, in two numbers.
#[inline]
const fn is_behind(a: &Side, b: &Side) -> bool {
    let (x, y) = (
        u128::from_be_bytes(a.address),
        u128::from_be_bytes(b.address),
    );
    x > y || x == y && a.port > b.port
}

/// Stands for a key, in less memory: two hashes of it, with random seeds, 128 bits together. Two keys of a capture
/// do not have the same by chance; the hash is not a cryptographic one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest([u64; 2]);

impl Digest {
    #[inline]
    const fn hash(self) -> u64 {
        self.0[0]
    }
}

impl Key {
    /// The key, and whether the sender is the second of its sides.
    #[inline]
    pub(crate) fn of(segment: &Segment) -> (Self, bool) {
        let is_second = is_behind(&segment.from, &segment.to);
        let sides = if is_second {
            [segment.to, segment.from]
        } else {
            [segment.from, segment.to]
        };
        let domain = segment.domain;
        (Self { sides, domain }, is_second)
    }

    /// The sides, in the order of [`Connection::ends`].
    pub(crate) const fn sides(&self) -> &[Side; 2] {
        &self.sides
    }
}

/// A connection with what its place in the table needs.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    digest: Digest,
    pub(crate) connection: Connection,
    /// The number of the connection, from 0 on: no two have the same.
    pub(crate) serial: u64,
    /// The time of its last segment.
    pub(crate) last_ns: u64,
    /// Whether it had a segment since the hand came by.
    is_used: bool,
    is_free: bool,
}

/// The table.
pub(crate) struct Table {
    index: HashTable<u32>,
    hashers: [DefaultHashBuilder; 2],
    slots: Vec<Slot>,
    free: Vec<u32>,
    most: usize,
    hand: usize,
    begun: u64,
    evicted: u64,
}

impl Table {
    /// Room for so many connections.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            index: HashTable::new(),
            hashers: [DefaultHashBuilder::default(), DefaultHashBuilder::default()],
            slots: Vec::new(),
            free: Vec::new(),
            most: most.clamp(1, u32::MAX as usize),
            hand: 0,
            begun: 0,
            evicted: 0,
        }
    }

    /// Connections that have begun so far.
    pub(crate) const fn begun(&self) -> u64 {
        self.begun
    }

    /// Connections that were forgotten before they were over, for want of room.
    pub(crate) const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The connections that are held.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// The digest of a key, for the other calls.
    #[inline]
    pub(crate) fn digest(&self, key: &Key) -> Digest {
        let [a, b] = &self.hashers;
        Digest([a.hash_one(key), b.hash_one(key)])
    }

    /// The connection of this key.
    #[inline]
    pub(crate) fn find(&mut self, digest: Digest) -> Option<&mut Slot> {
        let slots = &self.slots;
        let is_it = |&at: &u32| {
            slots
                .get(at as usize)
                .is_some_and(|slot| slot.digest == digest)
        };
        let at = *self.index.find(digest.hash(), is_it)?;
        let slot = self.slots.get_mut(at as usize)?;
        slot.is_used = true;
        Some(slot)
    }

    /// The same, with its place in the table.
    pub(crate) fn place(&self, digest: Digest) -> Option<(usize, &Slot)> {
        let slots = &self.slots;
        let is_it = |&at: &u32| {
            slots
                .get(at as usize)
                .is_some_and(|slot| slot.digest == digest)
        };
        let at = *self.index.find(digest.hash(), is_it)? as usize;
        Some((at, slots.get(at)?))
    }

    /// Brings what [`Table::find`] needs of these segments into the caches, all at a time instead of one after the other. It
    /// changes nothing.
    pub(crate) fn look_ahead(&self, segments: &[Segment]) {
        if self.index.len() < LOOK_AHEAD_FROM {
            return;
        }
        // The digests first: the less there is to do for each, the more the processor looks up at a time.
        let mut digests = [Digest([0; 2]); AT_ONCE];
        for segments in segments.chunks(AT_ONCE) {
            for (digest, segment) in digests.iter_mut().zip(segments) {
                *digest = self.digest(&Key::of(segment).0);
            }
            for digest in digests.iter().take(segments.len()) {
                let is_it = |&at: &u32| {
                    self.slots.get(at as usize).is_some_and(|slot| {
                        // At its other end.
                        black_box(slot.last_ns);
                        slot.digest == *digest
                    })
                };
                black_box(self.index.find(digest.hash(), is_it));
            }
        }
    }

    /// Adds a connection. There is none of this key.
    pub(crate) fn insert(&mut self, digest: Digest, connection: Connection, now_ns: u64) -> &Slot {
        for _ in 0..LOOKED_AT {
            self.look_at_next(now_ns);
        }
        while self.index.len() >= self.most {
            self.evict(now_ns);
        }
        let slot = Slot {
            digest,
            connection,
            serial: self.begun,
            last_ns: now_ns,
            is_used: false,
            is_free: false,
        };
        self.begun += 1;
        let at = self.free.pop().map_or(self.slots.len(), |at| at as usize);
        let slots = &mut self.slots;
        if let Some(place) = slots.get_mut(at) {
            *place = slot;
        } else {
            slots.push(slot);
        }
        #[expect(clippy::cast_possible_truncation, reason = "`most` is no more")]
        let number = at as u32;
        let rehash = |&at: &u32| slots.get(at as usize).map_or(0, |slot| slot.digest.hash());
        self.index.insert_unique(digest.hash(), number, rehash);
        #[expect(clippy::indexing_slicing, reason = "it has just been put there")]
        &self.slots[at]
    }

    /// A new number for a connection that takes the place of another one.
    pub(crate) const fn renew(&mut self) -> u64 {
        let serial = self.begun;
        self.begun += 1;
        serial
    }

    /// Forgets the connection under the hand if it is over since long, and moves the hand.
    fn look_at_next(&mut self, now_ns: u64) {
        let at = self.next();
        let Some(slot) = self.slots.get(at) else {
            return;
        };
        let is_old = now_ns.saturating_sub(slot.last_ns) > KEPT_NS;
        if !slot.is_free && is_old && slot.connection.is_over() {
            self.remove(at);
        }
    }

    /// Forgets a connection: one that is over, or had no segment since the hand came by last.
    #[cold]
    fn evict(&mut self, now_ns: u64) {
        loop {
            let at = self.next();
            let Some(slot) = self.slots.get_mut(at) else {
                return;
            };
            if slot.is_free {
                continue;
            }
            let is_over = slot.connection.is_over();
            // A time behind all others would keep it for ever.
            if is_over || !std::mem::take(&mut slot.is_used) || slot.last_ns > now_ns {
                self.evicted += u64::from(!is_over);
                self.remove(at);
                return;
            }
        }
    }

    fn next(&mut self) -> usize {
        self.hand += 1;
        if self.hand >= self.slots.len() {
            self.hand = 0;
        }
        self.hand
    }

    fn remove(&mut self, at: usize) {
        let Some(slot) = self.slots.get_mut(at) else {
            return;
        };
        slot.is_free = true;
        let hash = slot.digest.hash();
        let is_it = |&other: &u32| other as usize == at;
        if let Ok(found) = self.index.find_entry(hash, is_it) {
            self.free.push(*found.get());
            found.remove();
        }
    }
}
