//! The host's clocks, in nanoseconds.
//!
//! Inside a time namespace `CLOCK_MONOTONIC` is ahead of the host's, or behind it, by a constant, which is taken
//! off: the kernel stamps events with the host's.

use std::{fs, io, path::Path, sync::OnceLock, time::Duration};

use rustix::time::{ClockId, Timespec, clock_gettime};

use super::namespaces::Namespace;

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
            let before = hosts_monotonic_ns();
            let wall = now_ns(ClockId::Realtime);
            (before, wall, hosts_monotonic_ns())
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

/// The host's `CLOCK_MONOTONIC` now, nanoseconds: the clock that events are stamped with.
pub fn monotonic_ns() -> u64 {
    u64::try_from(hosts_monotonic_ns()).unwrap_or(0)
}

fn hosts_monotonic_ns() -> i64 {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    // Where it cannot be read, a capture is refused.
    let offset = OFFSET.get_or_init(|| offset_ns().unwrap_or(0));
    now_ns(ClockId::Monotonic).saturating_sub(*offset)
}

/// By how much `CLOCK_MONOTONIC` is ahead of the host's in the time namespace of this process.
///
/// *Errors:* it is not the host's, and its offset cannot be read.
pub fn offset_ns() -> io::Result<i64> {
    match Namespace::Time.is_initial() {
        Ok(false) => {}
        // Without a file of it the kernel has no time namespaces.
        Ok(true) | Err(_) => return Ok(0),
    }
    // That file has the offsets of the namespace that children get.
    let own = fs::read_link("/proc/self/ns/time")?;
    let of_children = fs::read_link("/proc/self/ns/time_for_children")?;
    // One is `time:[N]`, the other may be called `time_for_children:[N]`.
    let number = |link: &Path| link.to_string_lossy().rsplit(':').next().map(str::to_owned);
    let text = fs::read_to_string("/proc/self/timens_offsets")?;
    let is_own = number(&own) == number(&of_children);
    is_own
        .then(|| parse_offset(&text))
        .flatten()
        .ok_or_else(|| {
            io::Error::other("/proc/self/timens_offsets does not have the offset of this namespace")
        })
}

/// The offset of the monotonic clock, in nanoseconds, in lines such as `monotonic -86400 0`.
fn parse_offset(text: &str) -> Option<i64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("monotonic"))?;
    let mut words = line.split_ascii_whitespace();
    let seconds: i64 = words.next()?.parse().ok()?;
    let nanoseconds: i64 = words.next()?.parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
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
    fn an_offset_is_the_one_of_the_monotonic_clock() {
        let text = "monotonic           -2 500000000\nboottime         7         0\n";
        assert_eq!(parse_offset(text), Some(-1_500_000_000));
        assert_eq!(
            parse_offset("boottime 7 0\nmonotonic 86400 0\n"),
            Some(86_400_000_000_000)
        );
        for text in [
            "",
            "boottime 7 0",
            "monotonic 1",
            "monotonic x 0",
            "monotonic 9223372036854775807 0",
        ] {
            assert_eq!(parse_offset(text), None, "{text}");
        }
        assert!(offset_ns().is_ok());
    }

    #[test]
    fn the_anchor_agrees_with_the_clocks() {
        let anchor = ClockAnchor::read();
        let before = now_ns(ClockId::Realtime);
        let monotonic = hosts_monotonic_ns();
        let after = now_ns(ClockId::Realtime);
        let converted = anchor.wall_at_monotonic_zero_ns + monotonic;
        // The clocks drift apart by at most 500 ppm between the two lines: nothing to speak of.
        let slack = i64::try_from(anchor.uncertainty_ns).unwrap() + 100_000;
        assert!((before - slack..=after + slack).contains(&converted));
        assert!(i64::try_from(anchor.taken_at_ns).unwrap() <= monotonic);
    }
}
