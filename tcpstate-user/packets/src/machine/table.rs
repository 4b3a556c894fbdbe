//! The connections, by their addresses: bounded, without an allocation per packet.

use std::hash::{BuildHasher as _, Hash, Hasher};

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use super::connection::{Connection, Stray};
use crate::segment::Segment;

/// The unit of [`Slot::last`], as a power of two: 4.3 s, so that four bytes have any time.
const UNIT_BITS: u32 = 32;

/// The time after which a connection that is over is forgotten. As long as its last segments may be under way: two maximum
/// segment lifetimes of RFC 9293, section 3.4.3, are four minutes, and no system waits longer.
///
/// *Units:* that of [`Slot::last`], rounded up.
const KEPT: u32 = (240_000_000_000_u64 >> UNIT_BITS) as u32 + 1;

/// Slots that are looked at for connections to forget when one begins: more than one, so that they are found sooner than others
/// begin.
const LOOKED_AT: usize = 2;

/// Segments that are looked up at a time.
pub(crate) const AT_ONCE: usize = 32;

/// The addresses of a connection, the same for both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    addresses: [u128; 2],
    ports: [u16; 2],
    domain: u64,
}

/// In words: byte by byte, hashing is a large part of the time that a packet takes.
impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let ([a, b], [c, d]) = (self.addresses, self.ports);
        hasher.write_u128(a);
        hasher.write_u128(b);
        let ports = u64::from(c) << 16 | u64::from(d);
        hasher.write_u128(u128::from(self.domain) << 64 | u128::from(ports));
    }
}

impl Key {
    /// The key, and whether the sender is the second of its sides.
    #[inline]
    fn of(segment: &Segment) -> (Self, bool) {
        let (from, to) = (&segment.from, &segment.to);
        let (a, b) = (
            u128::from_be_bytes(from.address),
            u128::from_be_bytes(to.address),
        );
        let is_second = a > b || a == b && from.port > to.port;
        // Nobody can foretell which end sends, so there is no branch on it.
        let address = (a ^ b) & u128::from(is_second).wrapping_neg();
        let port = (from.port ^ to.port) & u16::from(is_second).wrapping_neg();
        let key = Self {
            addresses: [a ^ address, b ^ address],
            ports: [from.port ^ port, to.port ^ port],
            domain: segment.domain,
        };
        (key, is_second)
    }
}

/// Stands for a key, in less memory: two hashes of it, with random seeds, 96 bits together. Two keys of a capture
/// do not have the same by chance; the hash is not a cryptographic one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digest([u32; 3]);

impl Digest {
    /// That of a free slot.
    const NONE: Self = Self([0; 3]);

    #[inline]
    const fn hash(self) -> u64 {
        let [low, high, _] = self.0;
        (high as u64) << 32 | low as u64
    }
}

/// A segment's connection, before it is looked up or after that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sought {
    digest: Digest,
    /// Its place when it was looked up, if it had one.
    at: u32,
    /// The end that has sent the segment: 0 or 1, as in [`Connection::ends`].
    pub(crate) x: usize,
}

impl Sought {
    /// Not looked up, or not found: there is no such slot.
    const NOWHERE: u32 = u32::MAX;

    pub(crate) const NOTHING: Self = Self {
        digest: Digest::NONE,
        at: Self::NOWHERE,
        x: 0,
    };
}

/// A connection with what its place in the table needs: one cache line.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Slot {
    digest: Digest,
    /// The time of its last segment, in units of 2 to the power of [`UNIT_BITS`] nanoseconds.
    last: u32,
    /// Its serial number, and whether it had a segment since the hand came by.
    number: u64,
    pub(crate) connection: Connection,
}

const _: () = assert!(size_of::<Slot>() == 64);

impl Slot {
    const USED: u64 = 1 << 63;

    /// The number of the connection, from 0 on: no two have the same.
    #[inline]
    pub(crate) const fn serial(&self) -> u64 {
        self.number & !Self::USED
    }

    /// It has a segment.
    #[inline]
    pub(crate) const fn touch(&mut self, now_ns: u64) {
        self.number |= Self::USED;
        self.last = in_units(now_ns);
    }

    /// Whether it had a segment since the last call.
    const fn take_used(&mut self) -> bool {
        let is_used = self.number & Self::USED != 0;
        self.number &= !Self::USED;
        is_used
    }

    fn is_free(&self) -> bool {
        self.digest == Digest::NONE
    }
}

#[inline]
const fn in_units(ns: u64) -> u32 {
    (ns >> UNIT_BITS) as u32
}

/// All slots, on pages that never move: a `Vec` of many connections would be copied each time it grows, with both copies in memory.
#[derive(Default)]
struct Slots(Vec<Vec<Slot>>);

impl Slots {
    const ON_PAGE: usize = 1 << 10;

    fn len(&self) -> usize {
        let (last, full) = match self.0.split_last() {
            Some((last, full)) => (last.len(), full.len()),
            None => (0, 0),
        };
        full * Self::ON_PAGE + last
    }

    #[inline]
    fn get(&self, at: usize) -> Option<&Slot> {
        self.0.get(at / Self::ON_PAGE)?.get(at % Self::ON_PAGE)
    }

    #[inline]
    fn get_mut(&mut self, at: usize) -> Option<&mut Slot> {
        let page = self.0.get_mut(at / Self::ON_PAGE)?;
        page.get_mut(at % Self::ON_PAGE)
    }

    /// Adds a slot behind the others.
    fn push(&mut self, slot: Slot) {
        match self.0.last_mut() {
            Some(page) if page.len() < Self::ON_PAGE => page.push(slot),
            _ => {
                let mut page = Vec::with_capacity(Self::ON_PAGE);
                page.push(slot);
                self.0.push(page);
            }
        }
    }
}

/// The table.
pub(crate) struct Table {
    index: HashTable<u32>,
    hashers: [DefaultHashBuilder; 2],
    slots: Slots,
    /// SYNs that fit nothing, by the slots of their connections: few have one, and there are many connections.
    strays: HashMap<u32, Stray>,
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
            slots: Slots::default(),
            strays: HashMap::new(),
            free: Vec::new(),
            most: most.clamp(1, Sought::NOWHERE as usize),
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

    /// The connection of a segment, not looked up.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the halves of one, and a half of the other"
    )]
    pub(crate) fn seek(&self, segment: &Segment) -> Sought {
        let (key, is_second) = Key::of(segment);
        let [a, b] = &self.hashers;
        let (a, b) = (a.hash_one(key), b.hash_one(key));
        Sought {
            digest: Digest([a as u32, (a >> 32) as u32, b as u32]),
            at: Sought::NOWHERE,
            x: usize::from(is_second),
        }
    }

    /// The place of a connection.
    #[inline]
    fn find(&self, digest: Digest) -> Option<u32> {
        let is_it = |&at: &u32| {
            let slot = self.slots.get(at as usize);
            slot.is_some_and(|slot| slot.digest == digest)
        };
        self.index.find(digest.hash(), is_it).copied()
    }

    /// Looks up the connections of these segments, of which there are at most [`AT_ONCE`]: all at a time instead of one after the
    /// other, because where there are many connections, most of the time that a segment takes is waiting for memory.
    #[inline]
    pub(crate) fn look_up(&self, segments: &[Segment], sought: &mut [Sought; AT_ONCE]) {
        // The digests first: the less there is to do for each, the more the processor looks up at a time.
        for (sought, segment) in sought.iter_mut().zip(segments) {
            *sought = self.seek(segment);
        }
        for sought in sought.iter_mut().take(segments.len()) {
            sought.at = self.find(sought.digest).unwrap_or(Sought::NOWHERE);
        }
    }

    /// The place of a connection: that at which it was when it was looked up, if it is still there.
    #[inline]
    fn place(&self, sought: &Sought) -> Option<u32> {
        match self.slots.get(sought.at as usize) {
            Some(slot) if slot.digest == sought.digest => Some(sought.at),
            _ => self.find(sought.digest),
        }
    }

    /// A connection, with its place.
    pub(crate) fn get(&self, sought: &Sought) -> Option<(u32, &Slot)> {
        let at = self.place(sought)?;
        Some((at, self.slots.get(at as usize)?))
    }

    /// The same.
    #[inline]
    pub(crate) fn get_mut(&mut self, sought: &Sought) -> Option<(u32, &mut Slot)> {
        let at = self.place(sought)?;
        Some((at, self.slots.get_mut(at as usize)?))
    }

    /// Keeps a SYN that does not fit the connection at this place, instead of another one.
    pub(crate) fn keep_stray(&mut self, at: u32, stray: Stray) {
        self.strays.insert(at, stray);
    }

    /// The SYN that did not fit the connection at this place.
    pub(crate) fn stray(&self, at: u32) -> Option<Stray> {
        self.strays.get(&at).copied()
    }

    /// Puts another connection in the place of this one, with this number of [`Table::renew`].
    pub(crate) fn replace(&mut self, at: u32, connection: Connection, serial: u64) {
        self.strays.remove(&at);
        if let Some(slot) = self.slots.get_mut(at as usize) {
            slot.connection = connection;
            slot.number = serial | slot.number & Slot::USED;
        }
    }

    /// Adds a connection, of which there is none yet.
    pub(crate) fn insert(&mut self, sought: &Sought, connection: Connection, now_ns: u64) {
        for _ in 0..LOOKED_AT {
            self.look_at_next(now_ns);
        }
        while self.index.len() >= self.most {
            self.evict(now_ns);
        }
        let digest = sought.digest;
        let slot = Slot {
            digest,
            last: in_units(now_ns),
            number: self.begun,
            connection,
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
        let is_old = in_units(now_ns).saturating_sub(slot.last) > KEPT;
        if is_old && !slot.is_free() && slot.connection.is_over() {
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
            if slot.is_free() {
                continue;
            }
            let is_over = slot.connection.is_over();
            // A time behind all others would keep it for ever.
            if is_over || !slot.take_used() || slot.last > in_units(now_ns) {
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
        let hash = slot.digest.hash();
        slot.digest = Digest::NONE;
        let is_it = |&other: &u32| other as usize == at;
        if let Ok(found) = self.index.find_entry(hash, is_it) {
            let (number, _) = found.remove();
            self.strays.remove(&number);
            self.free.push(number);
        }
    }
}
