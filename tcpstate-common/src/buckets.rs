//! How durations are put in buckets.
//!
//! Log-linear: every power of two is divided into 128 equal buckets, so a bucket is never wider than
//! 1/128 (0.8 %) of the values in it. What is shorter than a microsecond or longer than a day is
//! put in the first or the last bucket.

/// Buckets to a power of two, as a power of two.
const DIVISIONS_LOG2: u32 = 7;
/// Buckets to a power of two.
pub const DIVISIONS: usize = 1 << DIVISIONS_LOG2;
/// The shortest duration that has a bucket of its own: a microsecond.
pub const SHORTEST_NS: u64 = 1_000;
/// The longest duration that has a bucket of its own: a day.
pub const LONGEST_NS: u64 = 24 * 60 * 60 * 1_000_000_000;
const FIRST_OCTAVE: u32 = SHORTEST_NS.ilog2();
/// Powers of two that the buckets span.
pub const OCTAVES: usize = (LONGEST_NS.ilog2() - FIRST_OCTAVE + 1) as usize;
/// All buckets.
pub const BUCKETS: usize = OCTAVES * DIVISIONS;

/// The bucket of a duration between [`SHORTEST_NS`] and [`LONGEST_NS`]: which power of two, which
/// part of it.
#[inline]
pub const fn bucket_of(duration_ns: u64) -> (usize, usize) {
    let octave = octave_of(duration_ns);
    #[expect(clippy::cast_possible_truncation, reason = "at most 2 * DIVISIONS")]
    let part = (duration_ns >> (octave - DIVISIONS_LOG2)) as usize % DIVISIONS;
    ((octave - FIRST_OCTAVE) as usize, part)
}

/// The power of two below.
#[cfg(not(target_arch = "bpf"))]
#[inline]
const fn octave_of(duration_ns: u64) -> u32 {
    duration_ns.ilog2()
}

/// The same for a machine without an instruction for it, and without a way to panic at 0: what `ilog2` would
/// be made of takes longer than six branches that are nearly always taken the same way.
#[cfg(target_arch = "bpf")]
#[inline]
const fn octave_of(duration_ns: u64) -> u32 {
    let (mut rest, mut octave) = (duration_ns, 0);
    let mut half = u64::BITS / 2;
    while half > 0 {
        if rest >> half != 0 {
            rest >>= half;
            octave += half;
        }
        half /= 2;
    }
    octave
}

/// The shortest duration of a bucket and the shortest that no longer is in it; the bucket's number is
/// `octave * DIVISIONS + part`.
pub const fn bounds_of(bucket: usize) -> (u64, u64) {
    #[expect(clippy::cast_possible_truncation, reason = "a bucket's number fits")]
    let octave = (bucket / DIVISIONS) as u32 + FIRST_OCTAVE;
    let width = 1 << (octave - DIVISIONS_LOG2);
    let lower = (1 << octave) + (bucket % DIVISIONS) as u64 * width;
    (lower, lower + width)
}
