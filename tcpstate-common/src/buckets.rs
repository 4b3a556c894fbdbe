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

/// The bucket of a duration: which power of two, which part of it. Below [`SHORTEST_NS`] it is that of
/// [`SHORTEST_NS`], above [`LONGEST_NS`] that of [`LONGEST_NS`].
#[inline]
pub const fn bucket_of(duration_ns: u64) -> (usize, usize) {
    let duration_ns = clamped(duration_ns);
    let octave = octave_of(duration_ns);
    #[expect(clippy::cast_possible_truncation, reason = "at most 2 * DIVISIONS")]
    let part = (duration_ns >> (octave - DIVISIONS_LOG2)) as usize % DIVISIONS;
    ((octave - FIRST_OCTAVE) as usize, part)
}

/// A bucket as one number.
#[inline]
pub const fn bucket_number(octave: usize, part: usize) -> usize {
    octave * DIVISIONS + part
}

/// The nearest duration that has a bucket of its own.
#[inline]
const fn clamped(duration_ns: u64) -> u64 {
    if duration_ns < SHORTEST_NS {
        SHORTEST_NS
    } else if duration_ns > LONGEST_NS {
        LONGEST_NS
    } else {
        duration_ns
    }
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

/// The shortest duration of a bucket, by its [number](bucket_number), and the shortest that no longer is in it.
pub const fn bounds_of(bucket: usize) -> (u64, u64) {
    #[expect(clippy::cast_possible_truncation, reason = "a bucket's number fits")]
    let octave = (bucket / DIVISIONS) as u32 + FIRST_OCTAVE;
    let width = 1 << (octave - DIVISIONS_LOG2);
    let lower = (1 << octave) + (bucket % DIVISIONS) as u64 * width;
    (lower, lower + width)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number_of(duration_ns: u64) -> usize {
        let (octave, part) = bucket_of(duration_ns);
        assert!(octave < OCTAVES && part < DIVISIONS);
        bucket_number(octave, part)
    }

    #[test]
    fn buckets_join_without_gap_or_overlap() {
        let (first, last) = (number_of(SHORTEST_NS), number_of(LONGEST_NS));
        for bucket in 0..BUCKETS {
            let (lower, upper) = bounds_of(bucket);
            assert!(upper - lower <= lower / 128);
            if bucket + 1 < BUCKETS {
                assert_eq!(upper, bounds_of(bucket + 1).0);
            }
            for duration_ns in [lower, upper - 1] {
                assert_eq!(number_of(duration_ns), bucket.clamp(first, last));
            }
        }
        assert!(bounds_of(0).0 <= SHORTEST_NS && LONGEST_NS < bounds_of(BUCKETS - 1).1);
    }

    #[test]
    fn what_is_out_of_range_is_in_the_first_or_the_last_bucket() {
        assert_eq!(number_of(0), number_of(SHORTEST_NS));
        assert_eq!(number_of(u64::MAX), number_of(LONGEST_NS));
    }
}
