//! A map by cookie for very many sockets that come and go: a dense list and an index.
//!
//! Its memory depends on the number of entries, not on how long the map has been in use. A hash map that
//! holds the values itself has a place for each entry that it has room for. Where more than half of it is
//! in use it doubles once more, however long after it was filled: removed entries leave tombstones, which
//! it clears in place only up to half. Here the table holds numbers of four bytes, up to four fifths of its room;
//! where tombstones have taken the rest, it is filled again from the list.

#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a number in the index is that of an entry; 2^32 entries do not fit into memory"
)]

use hashbrown::{HashTable, hash_table::Entry};

use crate::hash::Key;

/// Entries of room that are not worth giving back.
const SMALL: usize = 4096;

/// Entries for which there is room from the start.
const MIN_ROOM: usize = 14;

/// Values by cookie. The module's documentation describes the layout.
#[derive(Clone, Debug)]
pub struct ByCookie<V> {
    /// The positions in `entries`, by cookie.
    index: HashTable<u32>,
    entries: Vec<(u64, V)>,
    key: Key,
}

impl<V> Default for ByCookie<V> {
    fn default() -> Self {
        Self {
            index: HashTable::new(),
            entries: Vec::new(),
            key: Key::default(),
        }
    }
}

impl<V> ByCookie<V> {
    /// The number of entries.
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of this cookie.
    pub fn get(&self, cookie: u64) -> Option<&V> {
        self.find(cookie).map(|at| &self.entries[at].1)
    }

    /// The value of this cookie, mutable.
    pub fn get_mut(&mut self, cookie: u64) -> Option<&mut V> {
        self.find(cookie).map(|at| &mut self.entries[at].1)
    }

    /// All cookies and their values.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        self.entries.iter().map(|(cookie, value)| (*cookie, value))
    }

    /// All values, mutable.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.iter_mut().map(|(_, value)| value)
    }

    /// All values.
    pub fn into_values(self) -> impl Iterator<Item = V> {
        self.entries.into_iter().map(|(_, value)| value)
    }

    /// The value of this cookie, made by `make` where there is none, and whether it is new.
    pub fn get_or_insert_with(&mut self, cookie: u64, make: impl FnOnce() -> V) -> (&mut V, bool) {
        let (entries, key) = (&mut self.entries, self.key);
        make_room(&mut self.index, entries, key);
        let place = self.index.entry(
            key.mix(cookie),
            |&at| entries[at as usize].0 == cookie,
            |&at| key.mix(entries[at as usize].0),
        );
        let (at, is_new) = match place {
            Entry::Occupied(place) => (*place.get() as usize, false),
            Entry::Vacant(place) => {
                place.insert(entries.len() as u32);
                (entries.len(), true)
            }
        };
        if is_new {
            entries.push((cookie, make()));
        }
        (&mut entries[at].1, is_new)
    }

    /// Removes the value of this cookie.
    pub fn remove(&mut self, cookie: u64) -> Option<V> {
        let at = self.find(cookie)?;
        let value = self.take_out(at);
        self.shrink();
        Some(value)
    }

    /// Removes the values that `keep` rejects.
    pub fn retain(&mut self, mut keep: impl FnMut(u64, &mut V) -> bool) {
        let mut at = 0;
        while let Some((cookie, value)) = self.entries.get_mut(at) {
            if keep(*cookie, value) {
                at += 1;
            } else {
                // The last entry is here now.
                self.take_out(at);
            }
        }
        self.shrink();
    }

    /// Bytes held.
    pub fn memory(&self) -> usize {
        self.index.allocation_size() + self.entries.capacity() * size_of::<(u64, V)>()
    }

    fn find(&self, cookie: u64) -> Option<usize> {
        let is_it = |&at: &u32| self.entries[at as usize].0 == cookie;
        self.index
            .find(self.key.mix(cookie), is_it)
            .map(|&at| at as usize)
    }

    /// Removes an entry; the last one takes its place.
    fn take_out(&mut self, at: usize) -> V {
        let last = self.entries.len() - 1;
        if let Ok(place) = self
            .index
            .find_entry(self.key.mix(self.entries[at].0), |&number| {
                number as usize == at
            })
        {
            place.remove();
        }
        if last != at
            && let Some(number) = self
                .index
                .find_mut(self.key.mix(self.entries[last].0), |&number| {
                    number as usize == last
                })
        {
            *number = at as u32;
        }
        self.entries.swap_remove(at).1
    }

    /// Gives memory back where an eighth of it would do.
    fn shrink(&mut self) {
        let Self {
            index,
            entries,
            key,
        } = self;
        let room = 2 * entries.len();
        if entries.capacity() > SMALL && entries.capacity() / 4 > room {
            entries.shrink_to(room);
            index.shrink_to(room, |&at| key.mix(entries[at as usize].0));
        }
    }
}

/// Makes room for an entry: enlarges the table if four fifths of its room are in use.
fn make_room<V>(index: &mut HashTable<u32>, entries: &[(u64, V)], key: Key) {
    let hash = |&at: &u32| key.mix(entries[at as usize].0);
    let room = index.num_buckets() / 8 * 7;
    if 5 * (index.len() + 1) > 4 * room {
        // More than the table can have, however it is used; otherwise nothing would be done now.
        let more = (room + 1).saturating_sub(index.len());
        index.reserve(more.max(MIN_ROOM), hash);
    } else if index.capacity() == index.len() {
        fill_again(index, entries, key);
    }
}

/// Rids the table of its tombstones, in the memory that it has.
#[cold]
fn fill_again<V>(index: &mut HashTable<u32>, entries: &[(u64, V)], key: Key) {
    index.clear();
    for (at, (cookie, _)) in entries.iter().enumerate() {
        let hash = |&at: &u32| key.mix(entries[at as usize].0);
        index.insert_unique(key.mix(*cookie), at as u32, hash);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn all(map: &mut ByCookie<u64>) -> BTreeMap<u64, u64> {
        let mut all = BTreeMap::new();
        map.retain(|cookie, value| {
            assert_eq!(all.insert(cookie, *value), None, "each once");
            true
        });
        all
    }

    #[test]
    fn it_behaves_as_a_map() {
        let (mut map, mut oracle) = (ByCookie::default(), BTreeMap::new());
        let mut random = 1_u64;
        for round in 0..50_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let cookie = (random >> 33) % 3_000;
            // More come than go, then more go than come.
            if (random >> 60 < 10) == (round < 30_000) {
                let (value, is_new) = map.get_or_insert_with(cookie, || round);
                assert_eq!(is_new, !oracle.contains_key(&cookie));
                assert_eq!(value, oracle.entry(cookie).or_insert(round));
            } else {
                assert_eq!(map.remove(cookie), oracle.remove(&cookie));
            }
            assert_eq!(map.len(), oracle.len());
            assert_eq!(map.get(cookie), oracle.get(&cookie));
        }
        assert_eq!(all(&mut map), oracle);
        map.retain(|cookie, _| cookie % 3 != 0);
        oracle.retain(|cookie, _| cookie % 3 != 0);
        assert_eq!(all(&mut map), oracle);
        for value in map.values_mut() {
            *value += 1;
        }
        for value in oracle.values_mut() {
            *value += 1;
        }
        assert_eq!(all(&mut map), oracle);
        assert!(!map.is_empty());
        let mut values: Vec<u64> = map.into_values().collect();
        values.sort_unstable();
        let mut expected: Vec<u64> = oracle.into_values().collect();
        expected.sort_unstable();
        assert_eq!(values, expected);
    }

    #[test]
    fn memory_depends_on_the_entries_and_not_on_the_time() {
        // At every load, also those at which a hash map would grow later, and the highest.
        for live in [9_000, 11_400, 13_000, 17_000, 21_000, 22_900] {
            let mut map = ByCookie::default();
            for cookie in 0..live {
                map.get_or_insert_with(cookie, || cookie);
            }
            let memory = map.memory();
            for cookie in live..15 * live {
                assert_eq!(map.remove(cookie - live), Some(cookie - live));
                map.get_or_insert_with(cookie, || cookie);
                assert_eq!(map.memory(), memory, "{live} live, after {cookie}");
            }
            map.retain(|cookie, _| cookie % 100 == 0);
            assert!(
                map.memory() < memory / 4,
                "{} bytes of {memory}",
                map.memory()
            );
        }
    }
}
