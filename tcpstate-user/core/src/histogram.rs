//! Histograms. The buckets are those of [`tcpstate_common::buckets`]; durations shorter than a
//! microsecond or longer than a day are in the first or the last of them, and counted as such.

use std::ops::Range;

use tcpstate_common::buckets::{self, bounds_of};
pub(crate) use tcpstate_common::buckets::{
    BUCKETS, DIVISIONS, LONGEST_NS, OCTAVES, SHORTEST_NS, bucket_of,
};

/// A bucket as one number.
#[expect(clippy::cast_possible_truncation, reason = "there are less than 2^13")]
pub(crate) const fn bucket_number(octave: usize, part: usize) -> u16 {
    buckets::bucket_number(octave, part) as u16
}

/// The durations of a bucket.
const fn range_of(bucket: usize) -> Range<u64> {
    let (lower, upper) = bounds_of(bucket);
    lower..upper
}

/// Durations of one kind, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Number of the bucket and count, in order, none of them 0.
    buckets: Vec<(u16, u64)>,
    count: u64,
    below: u64,
    above: u64,
    /// Meaningless while `count` is 0.
    min_ns: u64,
    max_ns: u64,
    sum_ns: u128,
}

/// The durations from `lower_ns` up to, but not including, `upper_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The shortest duration in it.
    pub lower_ns: u64,
    /// The shortest duration beyond it.
    pub upper_ns: u64,
    /// The number of durations.
    pub count: u64,
}

impl Histogram {
    /// A histogram with these buckets, which are in order and not empty.
    pub(crate) fn from_parts(
        buckets: Vec<(u16, u64)>,
        (below, above): (u64, u64),
        (min_ns, max_ns): (u64, u64),
        sum_ns: u128,
    ) -> Self {
        let count = buckets.iter().map(|&(_, count)| count).sum();
        Self {
            buckets,
            count,
            below,
            above,
            min_ns,
            max_ns,
            sum_ns,
        }
    }

    /// A histogram with these counts, from the first bucket on. The shortest, the longest and the sum
    /// are as exact as the buckets, which is enough for [`Histogram::quantile`].
    pub fn from_counts(counts: impl IntoIterator<Item = u64>) -> Self {
        let buckets: Vec<(u16, u64)> = (0..).zip(counts).filter(|&(_, count)| count > 0).collect();
        let range = |&(bucket, _): &(u16, u64)| range_of(bucket.into());
        let min_ns = buckets.first().map_or(0, |first| range(first).start);
        let max_ns = buckets.last().map_or(0, |last| range(last).end);
        let sum_ns = buckets.iter().map(|bucket| {
            let Range { start, end } = range(bucket);
            u128::from(start.midpoint(end)) * u128::from(bucket.1)
        });
        let sum_ns = sum_ns.sum();
        Self::from_parts(buckets, (0, 0), (min_ns, max_ns), sum_ns)
    }

    /// Counts one duration.
    pub fn record(&mut self, duration_ns: u64) {
        let (octave, part) = bucket_of(duration_ns);
        let bucket = bucket_number(octave, part);
        self.merge(&Self {
            buckets: vec![(bucket, 1)],
            count: 1,
            below: u64::from(duration_ns < SHORTEST_NS),
            above: u64::from(duration_ns > LONGEST_NS),
            min_ns: duration_ns,
            max_ns: duration_ns,
            sum_ns: duration_ns.into(),
        });
    }

    /// Adds the durations of another histogram.
    #[expect(
        clippy::indexing_slicing,
        reason = "at the position that the search gave"
    )]
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            self.clone_from(other);
            return;
        }
        for &(bucket, count) in &other.buckets {
            match self
                .buckets
                .binary_search_by_key(&bucket, |&(number, _)| number)
            {
                Ok(at) => self.buckets[at].1 += count,
                Err(at) => self.buckets.insert(at, (bucket, count)),
            }
        }
        self.count += other.count;
        self.below += other.below;
        self.above += other.above;
        self.min_ns = self.min_ns.min(other.min_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
        self.sum_ns += other.sum_ns;
    }

    /// The number of durations.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The number of durations shorter than a microsecond; they are in the first bucket.
    pub const fn below(&self) -> u64 {
        self.below
    }

    /// The number of durations longer than a day; they are in the last bucket.
    pub const fn above(&self) -> u64 {
        self.above
    }

    /// The shortest duration, exact.
    pub fn min_ns(&self) -> Option<u64> {
        (self.count != 0).then_some(self.min_ns)
    }

    /// The longest duration, exact.
    pub fn max_ns(&self) -> Option<u64> {
        (self.count != 0).then_some(self.max_ns)
    }

    /// The sum of all durations, exact.
    pub const fn sum_ns(&self) -> u128 {
        self.sum_ns
    }

    /// The duration that the share `q` (0 to 1) of all does not exceed, within 1 % between a microsecond
    /// and a day. `None` where nothing is counted.
    ///
    /// It is the middle of the bucket that holds the duration number `ceil(q * count)`.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank that is off by one in 2^53 is in the same bucket; casts saturate"
        )]
        // 0.07 * 100 is a little more than 7, but stands for the seventh.
        let rank = ((q * self.count as f64 * (1.0 - 2.0 * f64::EPSILON)).ceil() as u64)
            .clamp(1, self.count);
        let mut seen = 0;
        let bucket = self.buckets.iter().find(|&&(_, count)| {
            seen += count;
            seen >= rank
        });
        let range = range_of(usize::from(bucket?.0));
        let middle = range.start + (range.end - range.start) / 2;
        Some(middle.clamp(self.min_ns, self.max_ns))
    }

    /// The buckets that are not empty, by number, in order.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.buckets.iter().copied()
    }

    /// The buckets that are not empty, in order.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> + '_ {
        self.buckets.iter().map(|&(bucket, count)| {
            let Range { start, end } = range_of(usize::from(bucket));
            Bucket {
                lower_ns: start,
                upper_ns: end,
                count,
            }
        })
    }

    /// The durations by whole powers of two, for a chart: from the first that is not empty to the last,
    /// including empty ones in between.
    #[expect(
        clippy::indexing_slicing,
        reason = "there is one for each from the first bucket to the last"
    )]
    pub fn octaves(&self) -> Vec<Bucket> {
        let octave = |&(bucket, _): &(u16, u64)| usize::from(bucket) / DIVISIONS;
        let (Some(first), Some(last)) = (self.buckets.first(), self.buckets.last()) else {
            return Vec::new();
        };
        let first = octave(first);
        let mut octaves: Vec<Bucket> = (first..=octave(last))
            .map(|octave| {
                let lower_ns = range_of(octave * DIVISIONS).start;
                Bucket {
                    lower_ns,
                    upper_ns: 2 * lower_ns,
                    count: 0,
                }
            })
            .collect();
        for bucket in &self.buckets {
            octaves[octave(bucket) - first].count += bucket.1;
        }
        octaves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_out_of_range_are_counted_as_such() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.quantile(0.5), histogram.max_ns()), (None, None));
        for duration in [0, 999, SHORTEST_NS, LONGEST_NS, LONGEST_NS + 1, u64::MAX] {
            histogram.record(duration);
        }
        assert_eq!(
            (histogram.count(), histogram.below(), histogram.above()),
            (6, 2, 2)
        );
        assert_eq!(
            (histogram.min_ns(), histogram.max_ns()),
            (Some(0), Some(u64::MAX))
        );
        assert_eq!(
            histogram
                .buckets()
                .map(|bucket| bucket.count)
                .collect::<Vec<_>>(),
            [3, 3]
        );
    }

    #[test]
    fn a_single_duration_is_every_quantile() {
        let mut histogram = Histogram::default();
        histogram.record(40_000_123);
        for q in [0.0, 0.5, 0.999, 1.0, -1.0, 2.0, f64::NAN] {
            assert_eq!(histogram.quantile(q), Some(40_000_123));
        }
    }

    #[test]
    fn ranks_are_not_off_by_a_rounding_error() {
        let mut histogram = Histogram::default();
        for at in 1..=100 {
            histogram.record(if at <= 7 { SHORTEST_NS } else { LONGEST_NS });
        }
        assert!(histogram.quantile(0.07) < Some(2 * SHORTEST_NS));
        assert!(histogram.quantile(0.071) > Some(LONGEST_NS / 2));
    }

    #[test]
    fn octaves_include_the_empty_ones_between() {
        let mut histogram = Histogram::default();
        for duration in [1_024, 2_047, 9_000] {
            histogram.record(duration);
        }
        assert_eq!(
            histogram.octaves(),
            [(1_024, 2), (2_048, 0), (4_096, 0), (8_192, 1)].map(|(lower_ns, count)| Bucket {
                lower_ns,
                upper_ns: 2 * lower_ns,
                count
            })
        );
    }
}
