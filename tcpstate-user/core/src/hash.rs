//! The hash of the tables: one multiplication.
//!
//! Live, keys are numbers that the kernel chooses (cookies, addresses, inode numbers, ports), not a
//! process or a peer; names that a process chooses are hashed with a random key (`model/group`). The
//! author of a forged recording chooses all numbers in it, and can make them collide: reading that
//! file is then slow, for each event at worst as many steps as the model's limits allow connections or
//! listeners. It takes no more memory than another file, and can be interrupted.

use std::hash::{BuildHasherDefault, Hasher};

/// An odd number without pattern: 2^64 divided by the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes one word. The low and the high bits are both well mixed: the tables use the low ones for the
/// place and the high ones for the tag.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the two halves of the product"
)]
pub(crate) const fn mix(word: u64) -> u64 {
    let product = word as u128 * FACTOR as u128;
    (product as u64) ^ ((product >> 64) as u64)
}

/// [`mix`] as a [`Hasher`], for keys of more than one word.
#[derive(Default)]
pub(crate) struct Mixer(u64);

/// For `HashMap<_, _, BuildMixer>`.
pub(crate) type BuildMixer = BuildHasherDefault<Mixer>;

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
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
        self.0 = mix(self.0.rotate_left(5) ^ number);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number.cast_unsigned() as u64);
    }
}
