//! The current time, on the clock of the events.

use std::time::Duration;

use tcpstate_capture::clock::monotonic_ns;
use tcpstate_core::duration::nanoseconds;
use tokio::time::Instant;

/// The host's `CLOCK_MONOTONIC`, tied to the runtime's clock, so that a test that pauses one pauses both.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    instant: Instant,
    monotonic_ns: u64,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            instant: Instant::now(),
            monotonic_ns: monotonic_ns(),
        }
    }

    /// The current time in monotonic nanoseconds.
    pub(super) fn now_ns(&self) -> u64 {
        self.monotonic_ns
            .saturating_add(nanoseconds(self.instant.elapsed()))
    }

    /// The instant of a monotonic time: now for the past, in a year for the far future.
    pub(super) fn instant(&self, ns: u64) -> Instant {
        const YEAR: Duration = Duration::from_hours(365 * 24);
        let ahead = Duration::from_nanos(ns.saturating_sub(self.monotonic_ns));
        self.instant + ahead.min(YEAR)
    }
}
