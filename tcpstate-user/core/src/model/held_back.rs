//! Connections beyond their transition to CLOSE that a view shows only when they are gone, in as few bytes as
//! possible: there can be a million in `TIME_WAIT`.
//!
//! Each is a record of variable length, in a list of records of about that length. The lists have no gaps, so that
//! their memory depends on the number of records and not on the time. The facts that many connections have in
//! common, such as the owner, are kept once.

mod codec;
mod whose;

use self::whose::Shared;
use super::connection::Ended;

/// A record begins with the cookie of its connection, by which the owner of a record that moves is found.
const COOKIE_BYTES: usize = 8;

/// The lengths of records are multiples of this, bytes.
const STEP: usize = 16;

/// The number of lists. The longest record that [`codec`] makes is far shorter than the longest of these.
const LISTS: usize = 1 << (u32::BITS - Handle::AT_BITS);

/// Bytes of room that are not worth giving back.
const SMALL: usize = 64 * 1024;

/// The place of a record: its list, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle(u32);

impl Handle {
    /// There is no record.
    pub(super) const NONE: Self = Self(u32::MAX);
    const AT_BITS: u32 = 26;

    /// `None` where the list is full: after 67 million records.
    fn new(list: usize, at: usize) -> Option<Self> {
        let is_there = list < LISTS && at < (1 << Self::AT_BITS) - 1;
        let number = u32::try_from((list << Self::AT_BITS) | at).ok();
        is_there.then_some(Self(number?))
    }

    const fn list(self) -> usize {
        (self.0 >> Self::AT_BITS) as usize
    }

    const fn at(self) -> usize {
        (self.0 & ((1 << Self::AT_BITS) - 1)) as usize
    }
}

/// The records.
#[derive(Clone, Debug, Default)]
pub(super) struct HeldBack {
    /// By length.
    lists: Vec<List>,
    shared: Shared,
    /// For the next record.
    scratch: Vec<u8>,
}

/// A record that was taken.
pub(super) struct Taken {
    pub(super) ended: Ended,
    /// The cookie of the record that has taken its place. The place is the one that was asked for.
    pub(super) moved: Option<u64>,
}

impl HeldBack {
    /// Keeps a connection. `None` where there is no room.
    pub(super) fn put(&mut self, cookie: u64, ended: &Ended) -> Option<Handle> {
        let whose = self.shared.put(whose::Whose::of(&ended.connection));
        self.scratch.clear();
        self.scratch.extend_from_slice(&cookie.to_le_bytes());
        codec::encode(ended, whose, &mut self.scratch);
        let length = self.scratch.len().next_multiple_of(STEP);
        self.scratch.resize(length, 0);
        let number = length / STEP - 1;
        if number >= self.lists.len() && number < LISTS {
            self.lists.resize_with(number + 1, List::default);
        }
        let handle = self
            .lists
            .get_mut(number)
            .and_then(|list| list.push(&self.scratch, number));
        if handle.is_none() {
            self.shared.release(whose);
        }
        handle
    }

    /// Removes a connection; another one of that length takes its place.
    pub(super) fn take(&mut self, handle: Handle) -> Option<Taken> {
        let list = self.lists.get_mut(handle.list())?;
        let length = (handle.list() + 1) * STEP;
        let record = list.get(handle.at(), length)?;
        let (cookie, record) = record.split_first_chunk::<COOKIE_BYTES>()?;
        let (ended, whose) = codec::decode(u64::from_le_bytes(*cookie), record, &self.shared);
        self.shared.release(whose);
        let moved = list.remove(handle.at(), length);
        Some(Taken { ended, moved })
    }

    /// The cookies of all connections, in the order of their last transitions.
    pub(super) fn by_end(&self) -> Vec<u64> {
        let records = self.lists.iter().enumerate().flat_map(|(number, list)| {
            let records = list.bytes.chunks_exact((number + 1) * STEP);
            records.filter_map(|record| record.split_first_chunk::<COOKIE_BYTES>())
        });
        let ends = records.map(|(cookie, record)| {
            let cookie = u64::from_le_bytes(*cookie);
            let (ended, _) = codec::decode(cookie, record, &self.shared);
            (ended.connection.last_ns, cookie)
        });
        let mut ends: Vec<_> = ends.collect();
        ends.sort_unstable();
        ends.into_iter().map(|(_, cookie)| cookie).collect()
    }

    /// The number of connections.
    pub(super) fn len(&self) -> usize {
        let lists = self.lists.iter().enumerate();
        lists
            .map(|(number, list)| list.bytes.len() / ((number + 1) * STEP))
            .sum()
    }

    /// Bytes held.
    pub(super) fn memory(&self) -> usize {
        let lists = self.lists.iter().map(|list| list.bytes.capacity());
        lists.sum::<usize>()
            + self.lists.capacity() * size_of::<List>()
            + self.shared.memory()
            + self.scratch.capacity()
    }
}

/// Records of one length, one behind the other.
#[derive(Clone, Debug, Default)]
struct List {
    bytes: Vec<u8>,
}

impl List {
    fn push(&mut self, record: &[u8], number: usize) -> Option<Handle> {
        let handle = Handle::new(number, self.bytes.len() / record.len())?;
        self.bytes.extend_from_slice(record);
        Some(handle)
    }

    fn get(&self, at: usize, length: usize) -> Option<&[u8]> {
        self.bytes.get(at * length..(at + 1) * length)
    }

    /// Removes a record; the last one takes its place. Returns the cookie of that one.
    fn remove(&mut self, at: usize, length: usize) -> Option<u64> {
        let last = self.bytes.len().checked_sub(length)?;
        let place = at * length;
        let moved = (last != place).then(|| {
            self.bytes.copy_within(last.., place);
            let cookie = self.get(at, length)?.first_chunk::<COOKIE_BYTES>()?;
            Some(u64::from_le_bytes(*cookie))
        });
        self.bytes.truncate(last);
        if self.bytes.capacity() > SMALL && self.bytes.capacity() / 8 > last {
            self.bytes.shrink_to(2 * last);
        }
        moved.flatten()
    }
}

#[cfg(test)]
mod tests;
