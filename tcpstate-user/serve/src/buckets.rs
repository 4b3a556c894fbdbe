//! The buckets of histograms, as metrics have them: the tracker's much finer ones, added up.

use std::time::Duration;

use tcpstate_core::{duration::nanoseconds, histogram::Histogram};

/// The upper bounds of a metric's buckets, in order. The last bucket, without a bound, is not among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets(Vec<u64>);

/// Why bounds cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BucketsError {
    /// A bound is not above the one before.
    #[error("the bounds of buckets must go up, each once")]
    Order,
    /// A bound is outside of what a histogram tells apart.
    #[error("the bound of a bucket must be from 1us to 1d")]
    Range,
    /// There are too many: each is a line for each histogram in every scrape.
    #[error("there can be at most {} buckets", Buckets::MAX)]
    TooMany,
}

impl Buckets {
    /// The most bounds.
    pub const MAX: usize = 64;

    /// Buckets with these upper bounds.
    pub fn new(bounds: &[Duration]) -> Result<Self, BucketsError> {
        const RANGE: std::ops::RangeInclusive<Duration> =
            Duration::from_micros(1)..=Duration::from_hours(24);
        if bounds.len() > Self::MAX {
            return Err(BucketsError::TooMany);
        }
        if bounds.iter().any(|bound| !RANGE.contains(bound)) {
            return Err(BucketsError::Range);
        }
        if !bounds.is_sorted_by(|bound, next| bound < next) {
            return Err(BucketsError::Order);
        }
        Ok(Self(bounds.iter().copied().map(nanoseconds).collect()))
    }

    /// The upper bound, in seconds, and the count of each bucket, the last one without a bound.
    ///
    /// A bucket never has a duration that is longer than its bound. It may lack some that are shorter by less than
    /// 1 %: the tracker's own buckets are that wide, and each is counted as a whole.
    pub fn counts(&self, histogram: &Histogram) -> Vec<(f64, u64)> {
        let mut counts: Vec<(f64, u64)> = self.0.iter().map(|&bound| (seconds(bound), 0)).collect();
        counts.push((f64::INFINITY, 0));
        for bucket in histogram.buckets() {
            let at = self.0.partition_point(|&bound| bound < bucket.upper_ns);
            if let Some((_, count)) = counts.get_mut(at) {
                *count += bucket.count;
            }
        }
        counts
    }
}

impl Default for Buckets {
    /// From 10 us, a handshake on the loopback, over a minute in `TIME_WAIT`, to an hour. Few, since each is a line for each
    /// histogram: up to seconds, one is four or five times the one before.
    fn default() -> Self {
        let us = [
            10, 50, 250, 1_000, 5_000, 25_000, 100_000, 500_000, 2_000_000,
        ];
        let seconds = [10, 30, 65, 300, 3_600].map(|seconds: u64| seconds * 1_000_000);
        let bounds = us.into_iter().chain(seconds);
        Self(bounds.map(|us| us * 1_000).collect())
    }
}

/// Nanoseconds as seconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "a double has 15 digits, and a duration of a day in nanoseconds 14"
)]
pub(crate) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_bounds_can_be_used() {
        let Buckets(bounds) = Buckets::default();
        let durations: Vec<_> = bounds.iter().copied().map(Duration::from_nanos).collect();
        assert_eq!(Buckets::new(&durations), Ok(Buckets::default()));
    }

    #[test]
    fn bounds_that_cannot_be_used_are_refused() {
        let us = |numbers: &[u64]| {
            let bounds = numbers.iter().copied().map(Duration::from_micros);
            Buckets::new(&bounds.collect::<Vec<_>>())
        };
        assert_eq!(us(&[2, 1]), Err(BucketsError::Order));
        assert_eq!(us(&[1, 1]), Err(BucketsError::Order));
        assert_eq!(us(&[0]), Err(BucketsError::Range));
        assert_eq!(us(&[1, 24 * 3_600_000_001]), Err(BucketsError::Range));
        let many: Vec<u64> = (1..).take(Buckets::MAX + 1).collect();
        assert_eq!(us(&many), Err(BucketsError::TooMany));
        assert!(us(many.get(1..).unwrap()).is_ok());
    }

    /// Against a count of the durations themselves.
    #[test]
    fn a_bucket_has_what_is_not_longer_but_for_one_percent() {
        let buckets = Buckets::default();
        let durations: Vec<u64> = (0..400)
            .map(|at| 1_000 * 105_u64.pow(at % 8) / 100_u64.pow(at % 8) * (1 << (at % 33)))
            .collect();
        let mut histogram = Histogram::default();
        for &ns in &durations {
            histogram.record(ns);
        }
        let not_longer = |bound: f64| {
            let count = durations.iter().filter(|&&ns| seconds(ns) <= bound);
            count.count() as u64
        };
        let mut sum = 0;
        for (bound, count) in buckets.counts(&histogram) {
            sum += count;
            assert!(sum <= not_longer(bound), "{bound}: {sum}");
            assert!(sum >= not_longer(bound * 0.99), "{bound}: {sum}");
        }
        assert_eq!(sum, 400);
    }
}
