//! The host's clocks, in nanoseconds.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// The relation between `CLOCK_MONOTONIC`, which the kernel side stamps events with, and wall-clock
/// time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockAnchor {
    /// Wall-clock nanoseconds since 1970 at monotonic 0.
    pub wall_at_monotonic_zero_ns: i64,
    /// The largest possible error, nanoseconds: half of the time taken to read the clocks.
    pub uncertainty_ns: u64,
    /// Monotonic nanoseconds just before it was taken.
    pub taken_at_ns: u64,
}

impl ClockAnchor {
    /// Reads the wall clock between two readings of the monotonic one, several times, and takes the least
    /// disturbed reading.
    pub fn read() -> Self {
        let samples = std::array::from_fn::<_, 8, _>(|_| {
            let before = now_ns(ClockId::Monotonic);
            let wall = now_ns(ClockId::Realtime);
            (before, wall, now_ns(ClockId::Monotonic))
        });
        Self::tightest(samples)
    }

    /// The best of samples (monotonic, wall, monotonic again), in the order in which they were taken.
    fn tightest(samples: [(i64, i64, i64); 8]) -> Self {
        let taken_at_ns = u64::try_from(samples[0].0).unwrap_or(0);
        let (mut width, mut offset) = (i64::MAX, 0);
        for (before, wall, after) in samples {
            let this = after.saturating_sub(before);
            if (0..width).contains(&this) {
                width = this;
                offset = wall.saturating_sub(before.saturating_add(this / 2));
            }
        }
        Self {
            wall_at_monotonic_zero_ns: offset,
            uncertainty_ns: width.unsigned_abs().div_ceil(2),
            taken_at_ns,
        }
    }
}

/// `CLOCK_MONOTONIC` now, nanoseconds: the clock that events are stamped with.
pub fn monotonic_ns() -> u64 {
    u64::try_from(now_ns(ClockId::Monotonic)).unwrap_or(0)
}

/// CPU time of this thread.
pub fn thread_cpu_time() -> Duration {
    Duration::from_nanos(u64::try_from(now_ns(ClockId::ThreadCPUTime)).unwrap_or(0))
}

/// Nanoseconds of a clock; good until the year 2262.
fn now_ns(clock: ClockId) -> i64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    tv_sec.saturating_mul(1_000_000_000).saturating_add(tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_anchor_is_the_sample_that_took_least() {
        let slow = (1_000, 50_900, 1_800);
        let mut samples = [slow; 8];
        samples[5] = (3_000, 53_010, 3_020);
        let anchor = ClockAnchor::tightest(samples);
        assert_eq!(anchor.wall_at_monotonic_zero_ns, 50_000);
        assert_eq!(anchor.uncertainty_ns, 10);
        assert_eq!(anchor.taken_at_ns, 1_000);
    }

    #[test]
    fn the_anchor_agrees_with_the_clocks() {
        let anchor = ClockAnchor::read();
        let before = now_ns(ClockId::Realtime);
        let monotonic = now_ns(ClockId::Monotonic);
        let after = now_ns(ClockId::Realtime);
        let converted = anchor.wall_at_monotonic_zero_ns + monotonic;
        // The clocks drift apart by at most 500 ppm between the two lines: nothing to speak of.
        let slack = i64::try_from(anchor.uncertainty_ns).unwrap() + 100_000;
        assert!((before - slack..=after + slack).contains(&converted));
        assert!(i64::try_from(anchor.taken_at_ns).unwrap() <= monotonic);
    }
}
