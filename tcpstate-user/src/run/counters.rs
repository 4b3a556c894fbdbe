//! The part of the loop for a source that counts transitions where they happen ([`Counting`]): its counters
//! are read at the end of each interval, and in between if intervals are long.
//!
//! [`Counting`]: tcpstate_core::source::Counting

use std::time::Duration;

use tcpstate_core::{
    books::Settled,
    duration::nanoseconds,
    source::{EventSource, SourceError},
    view::View,
};

/// The longest time between two reads: the counters have 32 bits.
const MAX_AGE: Duration = Duration::from_mins(1);

/// The schedule of reading the counters.
pub(super) struct Counters {
    due_ns: u64,
}

impl Counters {
    pub(super) fn new(started_ns: u64) -> Self {
        Self {
            due_ns: started_ns.saturating_add(nanoseconds(MAX_AGE)),
        }
    }

    /// The latest time for the next read.
    pub(super) const fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Reads the counters and passes them to the view.
    pub(super) fn read(
        &mut self,
        now_ns: u64,
        source: &mut dyn EventSource,
        view: &mut dyn View,
        settled: &mut Settled,
    ) -> Result<(), SourceError> {
        self.due_ns = now_ns.saturating_add(nanoseconds(MAX_AGE));
        let Some(counting) = source.counting() else {
            return Ok(());
        };
        let tally = counting.take_tally()?;
        settled.passed += tally.total();
        settled.undecided = tally.undecided;
        view.tally(&tally);
        Ok(())
    }

    /// The end of the interval that is closed at `now_ns`, when the open one ends at `end_ns`: missed intervals
    /// become one long interval, as counts have no times.
    pub(super) const fn interval_end(end_ns: u64, now_ns: u64, interval_ns: u64) -> u64 {
        let missed = now_ns.saturating_sub(end_ns) / interval_ns;
        end_ns.saturating_add(missed.saturating_mul(interval_ns))
    }
}
