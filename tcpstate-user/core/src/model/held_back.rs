//! Connections beyond their transition to CLOSE that a view shows only when they are gone, in as few bytes as
//! possible: there can be a million in `TIME_WAIT`.
//!
//! Each is a record of variable length, in a list of records of about that length. The lists have no gaps and consist
//! of pages of one size, so that their memory depends on the number of records and not on the time. The facts that
//! many connections have in common, such as the owner, are kept once.

mod codec;
mod whose;

use std::ops::Range;

use self::whose::Shared;
use super::connection::Ended;

/// A record begins with the cookie of its connection, by which the owner of a record that moves is found.
const COOKIE_BYTES: usize = 8;

/// The lengths of records are multiples of this, bytes.
const STEP: usize = 8;

/// The number of lists. The longest record that [`codec`] makes is far shorter than the longest of these.
const LISTS: usize = 1 << (u32::BITS - Handle::AT_BITS);

/// Bytes of a page. A `Vec` of all records would be copied each time it grows, and keep its greatest size.
const PAGE: usize = 16 * 1024;
const _: () = assert!(LISTS * STEP <= PAGE, "a page holds a record of any length");

/// The place of a record: its list, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle(u32);

impl Handle {
    /// There is no record.
    pub(super) const NONE: Self = Self(u32::MAX);
    const AT_BITS: u32 = 25;

    /// `None` where the list is full: after 33 million records.
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
    /// For a record that is put in or moves.
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
        let list = self.lists.get_mut(number);
        let handle = list.and_then(|list| {
            let handle = Handle::new(number, list.len)?;
            list.push(&self.scratch);
            Some(handle)
        });
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
        let moved = list.remove(handle.at(), length, &mut self.scratch);
        Some(Taken { ended, moved })
    }

    /// The cookies of all connections, in the order of their last transitions.
    pub(super) fn by_end(&self) -> Vec<u64> {
        let records = self.lists.iter().enumerate().flat_map(|(number, list)| {
            let records = list.records((number + 1) * STEP);
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
        self.lists.iter().map(|list| list.len).sum()
    }

    /// Bytes held.
    pub(super) fn memory(&self) -> usize {
        let lists = self.lists.iter().map(List::memory);
        lists.sum::<usize>()
            + self.lists.capacity() * size_of::<List>()
            + self.shared.memory()
            + self.scratch.capacity()
    }
}

/// Records of one length, one behind the other.
#[derive(Clone, Debug, Default)]
struct List {
    /// Full but for the last one with records. An empty one may follow, so that a record that comes and goes costs no
    /// allocation.
    pages: Vec<Box<[u8]>>,
    /// Records.
    len: usize,
}

impl List {
    fn push(&mut self, record: &[u8]) {
        if self.len / (PAGE / record.len()) == self.pages.len() {
            self.pages.push(vec![0; PAGE].into_boxed_slice());
        }
        if let Some(place) = self.place(self.len, record.len()) {
            place.copy_from_slice(record);
            self.len += 1;
        }
    }

    /// All records, which have this length.
    fn records(&self, length: usize) -> impl Iterator<Item = &[u8]> {
        let pages = self.pages.iter();
        let records = pages.flat_map(move |page| page.chunks_exact(length));
        records.take(self.len)
    }

    fn get(&self, at: usize, length: usize) -> Option<&[u8]> {
        if at >= self.len {
            return None;
        }
        let (page, place) = place_of(at, length);
        self.pages.get(page)?.get(place)
    }

    fn place(&mut self, at: usize, length: usize) -> Option<&mut [u8]> {
        let (page, place) = place_of(at, length);
        self.pages.get_mut(page)?.get_mut(place)
    }

    /// Removes a record; the last one takes its place. Returns the cookie of that one. `scratch` is overwritten.
    fn remove(&mut self, at: usize, length: usize, scratch: &mut Vec<u8>) -> Option<u64> {
        let last = self.len.checked_sub(1)?;
        let moved = if last == at {
            None
        } else {
            scratch.clear();
            scratch.extend_from_slice(self.get(last, length)?);
            self.place(at, length)?.copy_from_slice(scratch);
            scratch.first_chunk::<COOKIE_BYTES>()
        };
        self.len = last;
        self.pages.truncate(self.len.div_ceil(PAGE / length) + 1);
        moved.map(|cookie| u64::from_le_bytes(*cookie))
    }

    fn memory(&self) -> usize {
        self.pages.len() * PAGE + self.pages.capacity() * size_of::<Box<[u8]>>()
    }
}

/// The page of a record of this length, and its place there.
const fn place_of(at: usize, length: usize) -> (usize, Range<usize>) {
    let per_page = PAGE / length;
    let begin = at % per_page * length;
    (at / per_page, begin..begin + length)
}

#[cfg(test)]
mod tests;
