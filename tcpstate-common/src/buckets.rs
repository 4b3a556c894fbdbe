//! Buckets for durations.
//!
//! Log-linear: every power of two is divided into 128 equal buckets, so no bucket is wider than 1/128
//! (0.8 %) of the values in it. Durations below a microsecond or above a day count as a microsecond or
//! a day.

/// Base-2 logarithm of [`DIVISIONS`].
const DIVISIONS_LOG2: u32 = 7;
/// Buckets per power of two.
pub const DIVISIONS: usize = 1 << DIVISIONS_LOG2;
/// The shortest duration that has a bucket of its own: a microsecond.
pub const SHORTEST_NS: u64 = 1_000;
/// The longest duration that has a bucket of its own: a day.
pub const LONGEST_NS: u64 = 24 * 60 * 60 * 1_000_000_000;
const FIRST_OCTAVE: u32 = SHORTEST_NS.ilog2();
/// Powers of two that the buckets span.
pub const OCTAVES: usize = (LONGEST_NS.ilog2() - FIRST_OCTAVE + 1) as usize;
/// Number of buckets.
pub const BUCKETS: usize = OCTAVES * DIVISIONS;

/// The bucket of a duration: the index of its power of two, and the index within that. Durations outside
/// [`SHORTEST_NS`] to [`LONGEST_NS`] are clamped.
#[inline]
pub const fn bucket_of(duration_ns: u64) -> (usize, usize) {
    let duration_ns = clamped(duration_ns);
    let octave = octave_of(duration_ns);
    #[expect(clippy::cast_possible_truncation, reason = "at most 2 * DIVISIONS")]
    let part = (duration_ns >> (octave - DIVISIONS_LOG2)) as usize % DIVISIONS;
    ((octave - FIRST_OCTAVE) as usize, part)
}

/// The bucket's number: both indices as one.
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

/// The exponent of the largest power of two that is not above the duration.
#[cfg(not(target_arch = "bpf"))]
#[inline]
const fn octave_of(duration_ns: u64) -> u32 {
    duration_ns.ilog2()
}

/// The same for the BPF target, which has no instruction to count leading zeros and must not panic at 0. The
/// code generated for `ilog2` takes longer than these six branches, which nearly always go the same way.
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

/// The bounds of a bucket, by its [number](bucket_number): from the first, inclusive, to the second, exclusive.
///
/// *Units:* nanoseconds.
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
    fn buckets_have_neither_gaps_nor_overlaps() {
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
    fn durations_out_of_range_are_clamped() {
        assert_eq!(number_of(0), number_of(SHORTEST_NS));
        assert_eq!(number_of(u64::MAX), number_of(LONGEST_NS));
    }
}
