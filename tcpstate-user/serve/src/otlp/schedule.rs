//! The time of the next push: pure, with chance as an argument.

use std::time::Duration;

/// The pause after the first push that failed, at most.
const FIRST: Duration = Duration::from_secs(1);

/// The longest pause between two attempts, unless the interval is longer: so soon it is noticed that a collector is back.
const LONGEST: Duration = Duration::from_mins(1);

/// The longest time that a collector can ask for.
const LONGEST_ASKED: Duration = Duration::from_hours(1);

/// The result of a push, as far as it decides about the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// The collector has answered, and the same again would be answered the same.
    Answered,
    /// It failed, and may work later: not before this time, if the collector has said one.
    Failed(Option<Duration>),
}

/// The time of the next push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This time after the last one began.
    AfterBegin(Duration),
    /// This time after the last one failed.
    AfterEnd(Duration),
}

/// The interval, and the failures since the last answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    interval: Duration,
    failures: u32,
}

impl Schedule {
    pub(super) const fn new(interval: Duration) -> Self {
        Self {
            interval,
            failures: 0,
        }
    }

    /// Whether the last push failed.
    pub(super) const fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// The time of the next push. The pause after a failure doubles each time, and is between half of that and the whole, by chance: collectors
    /// that come back are not asked by all at once.
    pub(super) fn next(&mut self, last: Last, chance: u32) -> Next {
        let Last::Failed(asked) = last else {
            self.failures = 0;
            return Next::AfterBegin(self.interval);
        };
        let longest = self.interval.max(LONGEST);
        let doubled = 2_u32.saturating_pow(self.failures);
        let pause = FIRST.saturating_mul(doubled).min(longest);
        self.failures = self.failures.saturating_add(1);
        let half = pause / 2;
        let part = half.mul_f64(f64::from(chance) / f64::from(u32::MAX));
        let asked = asked.unwrap_or_default().min(LONGEST_ASKED);
        Next::AfterEnd((half + part).max(asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    #[test]
    fn pauses_double_until_there_is_an_answer() {
        let mut schedule = Schedule::new(INTERVAL);
        for _ in 0..2 {
            assert_eq!(schedule.next(Last::Answered, 7), Next::AfterBegin(INTERVAL));
            assert!(!schedule.is_failing());
            for seconds in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
                let (mut least, whole) = (schedule, Duration::from_secs(seconds));
                let half = least.next(Last::Failed(None), 0);
                assert_eq!(half, Next::AfterEnd(whole / 2));
                let most = schedule.next(Last::Failed(None), u32::MAX);
                assert_eq!(most, Next::AfterEnd(whole));
                assert!(schedule.is_failing());
            }
        }
    }

    #[test]
    fn a_long_interval_is_the_longest_pause() {
        let interval = Duration::from_mins(5);
        let mut schedule = Schedule::new(interval);
        let mut last = Next::AfterEnd(Duration::ZERO);
        for _ in 0..1_000 {
            last = schedule.next(Last::Failed(None), u32::MAX);
        }
        assert_eq!(last, Next::AfterEnd(interval));
    }

    #[test]
    fn a_collector_can_ask_for_more_time_and_not_for_ever() {
        let asked = |seconds| {
            let asked = Some(Duration::from_secs(seconds));
            Schedule::new(INTERVAL).next(Last::Failed(asked), u32::MAX)
        };
        assert_eq!(asked(0), Next::AfterEnd(FIRST));
        assert_eq!(asked(45), Next::AfterEnd(Duration::from_secs(45)));
        assert_eq!(asked(u64::MAX), Next::AfterEnd(LONGEST_ASKED));
    }
}
