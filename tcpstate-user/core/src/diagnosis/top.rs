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
        if let Some(count) = self.by_key.get_mut(&key) {
            *count += 1;
        } else if self.by_key.len() < MOST {
            self.by_key.insert(key, 1);
        } else {
            self.others += 1;
        }
    }

    /// Adds all of another one.
    pub fn merge(&mut self, other: &Self) {
        for (&key, &count) in &other.by_key {
            if self.by_key.len() < MOST || self.by_key.contains_key(&key) {
                let sum = self.by_key.entry(key).or_default();
                *sum = sum.saturating_add(count);
            } else {
                self.others = self.others.saturating_add(count);
            }
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
    }
}
