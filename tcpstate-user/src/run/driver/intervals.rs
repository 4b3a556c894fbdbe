//! Intervals: when they end, who closes them, and when the clock has to act.

use std::io;

use tcpstate_core::{duration::nanoseconds, view::Flow};

use super::{Driver, GRACE, Intake, RunError, Supply, TICKS_AT_ONCE};
use crate::run::counters::Counters;

/// The end of the interval that a run is in when it starts: one begins at `from_ns`, and each has this length.
pub(super) const fn first_end(from_ns: u64, started_ns: u64, length_ns: u64) -> Option<u64> {
    let Some(past) = started_ns.saturating_sub(from_ns).checked_rem(length_ns) else {
        return None;
    };
    started_ns.checked_add(length_ns - past)
}

impl Driver<'_> {
    /// Closes the intervals that end at `ts_ns` or before, up to `budget` of them.
    pub(super) fn close_intervals(&mut self, ts_ns: u64, budget: &mut u32) -> io::Result<Flow> {
        while let Some(end_ns) = self.next_tick_ns
            && end_ns <= ts_ns
            && self.is_before_limit(end_ns)
            && *budget > 0
        {
            *budget -= 1;
            let by_ns = self
                .limit_ns
                .map_or(ts_ns, |limit_ns| ts_ns.min(limit_ns.saturating_sub(1)));
            let end_ns = self.last_end(end_ns, by_ns);
            if self.tick(end_ns)? == Flow::Done {
                return Ok(Flow::Done);
            }
        }
        Ok(Flow::Continue)
    }

    /// Closes the intervals that end by `now_ns` and flushes, so that all output precedes the summary.
    ///
    /// Signals are not checked meanwhile. All events have been shown, so every interval but the first is
    /// empty, and those beyond the budget are closed as one.
    pub(super) fn close_last_intervals(&mut self, now_ns: u64) -> io::Result<()> {
        let mut budget = TICKS_AT_ONCE;
        while let Some(end_ns) = self.next_tick_ns.filter(|&end_ns| end_ns <= now_ns)
            && self.intake != Intake::Nothing
        {
            let end_ns = match self.interval_ns {
                Some(ns) if budget == 0 => now_ns - (now_ns - end_ns) % ns,
                _ => self.last_end(end_ns, now_ns),
            };
            budget = budget.saturating_sub(1);
            if self.tick(end_ns)? == Flow::Done {
                self.intake = Intake::Nothing;
            }
        }
        self.out.flush()
    }

    /// The end of the interval that is closed at `now_ns`, when the next end is `end_ns`.
    fn last_end(&mut self, end_ns: u64, now_ns: u64) -> u64 {
        let Some(interval_ns) = self.interval_ns else {
            return end_ns;
        };
        if self.counters.is_none() {
            if self.origin.live || !self.is_empty {
                return end_ns;
            }
            let further = now_ns.saturating_sub(end_ns) / interval_ns;
            if further < self.empty_intervals {
                self.empty_intervals -= 1;
                return end_ns;
            }
        }
        Counters::interval_end(end_ns, now_ns, interval_ns)
    }

    /// Passes the counted transitions to the view, if the source counts.
    pub(super) fn read_counters(&mut self) {
        let now_ns = self.now_ns();
        let Some(counters) = &mut self.counters else {
            return;
        };
        let settled = &mut self.selection.settled;
        if let Err(error) = counters.read(now_ns, self.source, self.view, settled) {
            self.failure.get_or_insert(RunError::Source(error));
            self.stop(now_ns);
        }
    }

    pub(super) fn is_before_limit(&self, ns: u64) -> bool {
        self.limit_ns.is_none_or(|limit_ns| ns < limit_ns)
    }

    fn tick(&mut self, end_ns: u64) -> io::Result<Flow> {
        self.read_counters();
        self.is_empty = true;
        self.next_tick_ns = self.interval_ns.and_then(|ns| end_ns.checked_add(ns));
        if self.passes_ticks()
            && let Some(view) = self.view.rewind()
        {
            view.pass_tick(end_ns);
            return Ok(Flow::Continue);
        }
        self.tell_books();
        self.view.tick(end_ns, self.out)
    }

    /// Passes the books to the view, if it wants them.
    pub(super) fn tell_books(&mut self) {
        if !self.view.wants_books() {
            return;
        }
        match self.books() {
            Ok(books) => self.view.books(&books),
            Err(error) => {
                self.failure.get_or_insert(RunError::Source(error));
                self.stop(self.now_ns());
            }
        }
    }

    /// The time for which an interval waits for pending events.
    fn grace_ns(&self) -> u64 {
        if self.counters.is_some() {
            0
        } else {
            nanoseconds(GRACE)
        }
    }

    /// The next time at which the clock must act; `None` for a recording, whose clock is its events, unless it is played.
    pub(super) fn due_ns(&self) -> Option<u64> {
        if self.player.is_some() {
            return self.play_due_ns();
        }
        if !self.origin.live || self.supply != Supply::Flowing {
            return None;
        }
        let tick_ns = self
            .next_tick_ns
            .filter(|&ns| self.is_before_limit(ns) && self.settled);
        let tick_ns = tick_ns.map(|ns| ns.saturating_add(self.grace_ns()).max(self.retry_ns));
        let usr1_ns = self
            .usr1_ns
            .filter(|_| self.settled)
            .map(|ns| ns.saturating_add(nanoseconds(GRACE)).max(self.retry_ns));
        let all = self.limit_ns.into_iter().chain(tick_ns).chain(usr1_ns);
        all.chain(self.counters.as_ref().map(Counters::due_ns))
            .min()
    }

    /// Whether the clock has something to do that no event can change: to end the run, or to read counters.
    pub(super) fn waits_for_no_event(&self) -> bool {
        self.player.is_some() || self.counters.is_some() || !self.is_before_limit(self.now_ns())
    }

    pub(super) fn by_clock(&mut self) -> io::Result<Flow> {
        if self.player.is_some() {
            return self.play_on();
        }
        let now_ns = self.now_ns();
        if !self.is_before_limit(now_ns) {
            self.stop(now_ns);
            return Ok(Flow::Continue);
        }
        if self
            .counters
            .as_ref()
            .is_some_and(|counters| counters.due_ns() <= now_ns)
        {
            self.read_counters();
        }
        let end_ns = match self.counters {
            Some(_) => now_ns,
            // After a stall of this process, events of intervals that ended meanwhile have to come first.
            None => self.shown_ns,
        };
        let mut budget = TICKS_AT_ONCE;
        let flow = self.close_intervals(end_ns, &mut budget)?;
        self.out.flush()?;
        if flow == Flow::Done {
            return Ok(flow);
        }
        self.usr1()
    }
}
