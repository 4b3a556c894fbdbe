//! Counts by key, bounded: the keys that came first, and all others together.

use std::{cmp::Reverse, hash::Hash};

use hashbrown::HashMap;

/// The most keys that are counted one by one. Those that make trouble are among the first of so many.
const MOST: usize = 256;

/// Counts by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Top<K: Eq + Hash> {
    by_key: HashMap<K, u64>,
    others: u64,
}

impl<K: Eq + Hash> Default for Top<K> {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            others: 0,
        }
    }
}

impl<K: Copy + Eq + Hash + Ord> Top<K> {
    /// Counts one more of a key.
    pub fn add(&mut self, key: K) {
        self.add_many(key, 1);
    }

    fn add_many(&mut self, key: K, more: u64) {
        if let Some(count) = self.by_key.get_mut(&key) {
            *count = count.saturating_add(more);
        } else if self.by_key.len() < MOST {
            self.by_key.insert(key, more);
        } else {
            self.others = self.others.saturating_add(more);
        }
    }

    /// The count of a key; `None` where it may be one of those that are counted together.
    pub fn count(&self, key: &K) -> Option<u64> {
        let none = (self.others == 0).then_some(0);
        self.by_key.get(key).copied().or(none)
    }

    /// Adds the counts of another one.
    pub fn extend(&mut self, other: &Self) {
        for (&key, &count) in &other.by_key {
            self.add_many(key, count);
        }
        self.others = self.others.saturating_add(other.others);
    }

    /// The keys with the largest counts, at most `most`.
    pub fn first(&self, most: usize) -> Vec<(K, u64)> {
        let mut all: Vec<_> = self
            .by_key
            .iter()
            .map(|(&key, &count)| (key, count))
            .collect();
        all.sort_unstable_by_key(|&(key, count)| (Reverse(count), key));
        all.truncate(most);
        all
    }

    /// The number of keys; at least this, where there were too many.
    pub fn keys(&self) -> usize {
        self.by_key.len() + usize::from(self.others > 0)
    }

    /// The sum of all counts.
    pub fn total(&self) -> u64 {
        let sum = self.by_key.values().copied().fold(0, u64::saturating_add);
        sum.saturating_add(self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_bounded_and_none_is_lost() {
        let mut top = Top::default();
        for key in 0..1_000_u32 {
            top.add(key);
            top.add(7);
        }
        assert_eq!(top.total(), 2_000);
        assert_eq!(top.first(1), [(7, 1_001 - 7 + 7)]);
        assert_eq!(top.keys(), MOST + 1);
        let mut twice = top.clone();
        twice.extend(&top);
        assert_eq!((twice.total(), twice.count(&7)), (4_000, Some(2_002)));
        assert_eq!(twice.count(&999), None);
        assert_eq!(Top::default().count(&1), Some(0));
    }
}
