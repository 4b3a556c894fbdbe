//! Durations in nanoseconds, the unit of all times here.

use std::time::Duration;

/// A duration in nanoseconds, at most `u64::MAX` (584 years).
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
