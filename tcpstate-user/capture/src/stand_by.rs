//! When the second program stands by for transitions that interrupt the first (`tcpstate-ebpf/src/nested.rs`).
//!
//! With two programs on a tracepoint the kernel goes through a list of them at each transition, by indirect calls, which
//! are dear where it guards them (retpolines): 71 to 85 ns for each transition of a loop (`bench probe`), where
//! the first takes 180 to 250. So the second stands by where that is little in all, or where it has had something
//! to catch. Transitions that it would have caught otherwise are counted as lost (`nested`), and bring it back.

use std::time::{Duration, Instant};

/// Time between two reviews.
pub const PERIOD: Duration = Duration::from_millis(200);
/// So many transitions a second are few: together they cost less than a thousandth of a CPU.
const FEW_PER_SECOND: u64 = 10_000;
/// After a skipped run, more are likely for so long.
const USEFUL: Duration = Duration::from_mins(1);

/// Decides it.
#[derive(Debug)]
pub struct StandBy {
    stands_by: bool,
    reviewed: Instant,
    /// The transitions until then.
    seen: u64,
    /// The runs of the first program that the kernel had skipped by then.
    skipped: u64,
    last_skipped: Option<Instant>,
}

impl StandBy {
    /// It stands by from the start.
    pub const fn new(now: Instant) -> Self {
        Self {
            stands_by: true,
            reviewed: now,
            seen: 0,
            skipped: 0,
            last_skipped: None,
        }
    }

    /// Whether the second program stands by.
    pub const fn stands_by(&self) -> bool {
        self.stands_by
    }

    /// Whether a review is due.
    pub fn is_due(&self, now: Instant) -> bool {
        now.duration_since(self.reviewed) >= PERIOD
    }

    /// Decides anew, from the transitions and the skipped runs since the start. Returns whether that changes something.
    pub fn review(&mut self, now: Instant, seen: u64, skipped: u64) -> bool {
        let time_ns = now.duration_since(self.reviewed).as_nanos();
        let transitions = u128::from(seen.saturating_sub(self.seen));
        if skipped > self.skipped {
            self.last_skipped = Some(now);
        }
        let is_useful = self
            .last_skipped
            .is_some_and(|last| now.duration_since(last) < USEFUL);
        // So that a rate near the limit does not make it come and go.
        let limit = if self.stands_by {
            FEW_PER_SECOND
        } else {
            FEW_PER_SECOND / 2
        };
        let are_few = transitions * 1_000_000_000 <= u128::from(limit) * time_ns;
        let before = std::mem::replace(&mut self.stands_by, is_useful || are_few);
        (self.reviewed, self.seen, self.skipped) = (now, seen, skipped);
        before != self.stands_by
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host, reviewed at every period.
    struct Run {
        now: Instant,
        seen: u64,
        skipped: u64,
        stand_by: StandBy,
    }

    impl Run {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                now,
                seen: 0,
                skipped: 0,
                stand_by: StandBy::new(now),
            }
        }

        /// Returns whether the second program stands by after a period with so many transitions and skipped runs.
        fn after(&mut self, transitions: u64, skipped: u64) -> bool {
            self.now += PERIOD;
            self.seen += transitions;
            self.skipped += skipped;
            assert!(self.stand_by.is_due(self.now));
            let before = self.stand_by.stands_by();
            let changes = self.stand_by.review(self.now, self.seen, self.skipped);
            assert!(!self.stand_by.is_due(self.now));
            let after = self.stand_by.stands_by();
            assert_eq!(changes, before != after);
            after
        }
    }

    #[test]
    fn stands_by_where_transitions_are_few() {
        let mut run = Run::new();
        assert!(run.stand_by.stands_by());
        assert!(run.after(2_000, 0));
        assert!(!run.after(2_001, 0));
        assert!(!run.after(1_001, 0), "near the limit it stays as it was");
        assert!(run.after(1_000, 0));
        assert!(run.after(1_001, 0));
    }

    #[test]
    fn stands_by_for_a_minute_after_a_skipped_run() {
        let mut run = Run::new();
        assert!(!run.after(100_000, 0));
        assert!(run.after(100_000, 1));
        let periods = USEFUL.as_millis() / PERIOD.as_millis();
        assert!((1..periods).all(|_| run.after(100_000, 0)));
        assert!(!run.after(100_000, 0));
        assert!(run.after(100_000, 20));
    }
}
