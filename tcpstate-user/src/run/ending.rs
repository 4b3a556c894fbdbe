//! When the run was told to end, and how long its outputs may wait for their readers from then on.
//!
//! It belongs to the process, as its signals do, and to no run: an output that waits can ask it.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tcpstate_core::duration::nanoseconds;

/// The time after which a run that was told to end gives up an output that takes nothing: within a second it has ended.
const PATIENCE: Duration = Duration::from_millis(750);

/// The time at which the run is told to end, on the clock of [`now_ns`].
static TOLD_NS: AtomicU64 = AtomicU64::new(u64::MAX);

/// Whether an output was given up: the others then do not wait as long again.
static GAVE_UP: AtomicBool = AtomicBool::new(false);

/// Tells the run to end after this time, unless it is told earlier.
pub fn end_after(duration: Duration) {
    end_at(now_ns().saturating_add(nanoseconds(duration)));
}

/// Tells the run to end at this time. A signal handler may call it.
pub(super) fn end_at(ns: u64) {
    TOLD_NS.fetch_min(ns, Ordering::Relaxed);
}

/// Whether an output that has taken nothing since this time is given up.
pub(super) fn gives_up(since_ns: u64) -> bool {
    let since_ns = since_ns.max(TOLD_NS.load(Ordering::Relaxed));
    let waited = Duration::from_nanos(now_ns().saturating_sub(since_ns));
    GAVE_UP.fetch_or(waited >= PATIENCE, Ordering::Relaxed) || waited >= PATIENCE
}

/// The present time of a clock that only goes forward, nanoseconds. A signal handler may call it.
pub(super) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec.unsigned_abs())
        .saturating_mul(1_000_000_000)
        .saturating_add(now.tv_nsec.unsigned_abs())
}
