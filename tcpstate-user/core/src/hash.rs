//! The hash of the tables: one multiplication by a random number.
//!
//! Live, keys are numbers that the kernel chooses (cookies, addresses, inode numbers, ports). The author of a forged
//! recording or capture chooses all numbers in it. So each table has a key of its own that nobody knows beforehand: no
//! numbers collide with every key. Names that a process chooses are hashed with the standard library's hash
//! (`model/group`).

use std::hash::{BuildHasher, Hasher, RandomState};

/// The key of a table: an odd number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key(u64);

impl Default for Key {
    /// A random one.
    fn default() -> Self {
        Self(RandomState::new().hash_one(0) | 1)
    }
}

impl Key {
    /// Mixes one word. The low and the high bits are both well mixed: the tables use the low ones for the
    /// place and the high ones for the tag.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the two halves of the product"
    )]
    pub(crate) const fn mix(self, word: u64) -> u64 {
        let product = word as u128 * self.0 as u128;
        (product as u64) ^ ((product >> 64) as u64)
    }
}

/// [`Key::mix`] as a [`Hasher`], for what has more than one word.
pub(crate) struct Mixer {
    key: Key,
    state: u64,
}

/// For `HashMap<_, _, BuildMixer>`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BuildMixer(Key);

impl BuildHasher for BuildMixer {
    type Hasher = Mixer;

    fn build_hasher(&self) -> Mixer {
        Mixer {
            key: self.0,
            state: 0,
        }
    }
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.state
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "a chunk is at most as long as a word"
    )]
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.state = self.key.mix(self.state.rotate_left(5) ^ number);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number.cast_unsigned() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most words that have the same low bits.
    fn most(words: &[u64], hash: impl Fn(u64) -> u64) -> u32 {
        let mut counts = vec![0; 1 << 10];
        for &word in words {
            counts[usize::try_from(hash(word) % (1 << 10)).unwrap()] += 1;
        }
        counts.into_iter().max().unwrap()
    }

    /// Whether a property holds with random keys, all but one of ten: a key in ten thousand is a bad one.
    fn most_keys(has_it: impl Fn(Key) -> bool) -> bool {
        let keys = (0..10).map(|_| Key::default());
        keys.filter(|key| has_it(*key)).count() >= 9
    }

    #[test]
    fn numbers_that_collide_with_one_key_do_not_with_another() {
        let known = Key::default();
        let numbers = 1..1_u64 << 22;
        let made_up: Vec<u64> = numbers
            .filter(|&word| known.mix(word) % (1 << 10) == 0)
            .collect();
        assert!(made_up.len() > 1_000);
        assert_eq!(
            most(&made_up, |word| known.mix(word)) as usize,
            made_up.len()
        );
        // At random, five places in a thousand have more than a dozen.
        assert!(most_keys(|key| most(&made_up, |word| key.mix(word)) < 100));
        assert!(most_keys(|key| {
            most(&made_up, |word| BuildMixer(key).hash_one((word, 80_u16))) < 100
        }));
    }

    #[test]
    fn numbers_in_order_are_spread() {
        for (first, step) in [(1, 1), (0xffff_8880_0000_0000, 64), (1_000_000, 2)] {
            let words: Vec<u64> = (0..10_000).map(|number| first + number * step).collect();
            let are_spread = most_keys(|key| most(&words, |word| key.mix(word)) < 100);
            assert!(are_spread, "{first}, {step}");
        }
    }
}
