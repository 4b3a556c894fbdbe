//! Whether the run is well: pure, with the time as an argument.

use std::time::{Duration, Instant};

/// Snapshots come once a second; after this time without one, nobody reads the events.
const STALLED: Duration = Duration::from_secs(10);

/// The time for which a loss counts as present.
const RECENT: Duration = Duration::from_mins(1);

/// Why a run is not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwell {
    /// The sockets that there are have not been listed yet.
    #[error("not ready: the sockets that exist are still being listed")]
    Starting,
    /// No snapshot comes.
    #[error("the reader has not reported for {seconds} s: tcpstate is stuck or was stopped")]
    Stalled {
        /// Since the latest snapshot.
        seconds: u64,
    },
    /// Events were lost lately.
    #[error("events were lost {seconds} s ago, {missed} since the start")]
    Losing {
        /// Since then.
        seconds: u64,
        /// Lost or rejected.
        missed: u64,
    },
    /// No snapshot follows.
    #[error("the run has ended")]
    Ended,
}

/// The facts that decide about the health of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Health {
    /// When the latest snapshot came.
    snapshot_at: Option<Instant>,
    /// The events that had been lost or rejected by then.
    missed: u64,
    /// When a snapshot with a loss came.
    loss_at: Option<Instant>,
    has_ended: bool,
}

impl Health {
    /// Takes the number of events that a new snapshot says are lost or rejected.
    pub(crate) fn take(&mut self, missed: u64, now: Instant) {
        if missed > self.missed {
            self.loss_at = Some(now);
        }
        self.missed = missed;
        self.snapshot_at = Some(now);
    }

    /// No snapshot follows.
    pub(crate) fn end(&mut self) {
        self.has_ended = true;
    }

    /// Whether the snapshot shows the present.
    pub(crate) fn is_present(&self, now: Instant) -> Result<(), Unwell> {
        if self.has_ended {
            return Err(Unwell::Ended);
        }
        let at = self.snapshot_at.ok_or(Unwell::Starting)?;
        let age = now.saturating_duration_since(at);
        if age >= STALLED {
            return Err(Unwell::Stalled {
                seconds: age.as_secs(),
            });
        }
        Ok(())
    }

    /// Whether the snapshot shows the present, and nothing was lost lately.
    pub(crate) fn is_well(&self, now: Instant) -> Result<(), Unwell> {
        self.is_present(now)?;
        let since = self.loss_at.map(|at| now.saturating_duration_since(at));
        match since {
            Some(since) if since < RECENT => Err(Unwell::Losing {
                seconds: since.as_secs(),
                missed: self.missed,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_well_while_snapshots_come_and_nothing_is_lost() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::default();
        assert_eq!(health.is_well(at(0)), Err(Unwell::Starting));
        health.take(0, at(1));
        assert_eq!(health.is_well(at(10)), Ok(()));
        assert_eq!(health.is_well(at(11)), Err(Unwell::Stalled { seconds: 10 }));
        health.take(5, at(12));
        let losing = |seconds, missed| Err(Unwell::Losing { seconds, missed });
        assert_eq!(health.is_well(at(13)), losing(1, 5));
        assert_eq!(health.is_present(at(13)), Ok(()));
        // The same losses are not lost again.
        health.take(5, at(71));
        assert_eq!(health.is_well(at(71)), losing(59, 5));
        assert_eq!(health.is_well(at(72)), Ok(()));
        health.take(6, at(73));
        assert_eq!(health.is_well(at(73)), losing(0, 6));
        health.end();
        assert_eq!(health.is_present(at(74)), Err(Unwell::Ended));
        assert_eq!(health.is_well(at(74)), Err(Unwell::Ended));
    }
}
