//! The times in each state that ended in each of the last intervals, by group of the services.
//!
//! A snapshot has them from the beginning on, so that those of an interval are the difference of two snapshots.

use std::collections::{BTreeMap, HashMap, VecDeque};

use tcpstate_common::State;
use tcpstate_core::{
    model::{GroupKey, Of},
    present::RunSnapshot,
};

/// Times by powers of two: the lower bound of each, nanoseconds, with its count. Those without any are left out.
pub(crate) type Octaves = Vec<(u64, u64)>;

type Key = (GroupKey, State);

/// The most counts that are kept over all intervals, a few MB of them.
const MAX_COUNTS: usize = 200_000;

/// The last intervals, the oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupTimes {
    /// In the order of their keys.
    intervals: VecDeque<Vec<(Key, Octaves)>>,
    /// The number of counts in them.
    counts: usize,
    /// The times from the beginning to the end of the last interval.
    before: HashMap<Key, Octaves>,
    /// The time since when these are counted; `None`: there is no last interval.
    since_ns: Option<u64>,
}

impl GroupTimes {
    /// Adds the interval of a snapshot, which follows the last one. `again`: what an earlier look at it had.
    pub(crate) fn push(&mut self, snapshot: &RunSnapshot, again: Vec<(Key, Octaves)>) {
        let tracker = &snapshot.tracker;
        let since_ns = tracker.by_since_ns.unwrap_or(snapshot.origin.started_ns);
        let is_counted_anew = self.since_ns != Some(since_ns);
        if is_counted_anew {
            self.before.clear();
        }
        // Else the times of earlier intervals are among them.
        let is_known = !is_counted_anew || since_ns >= snapshot.interval.start_ns;
        self.since_ns = Some(since_ns);
        let mut times: BTreeMap<Key, Octaves> = again.into_iter().collect();
        for series in &tracker.histograms {
            let Of::Dwell(state) = series.of else {
                continue;
            };
            let key = (series.key, state);
            let octaves = series.histogram.octaves().into_iter();
            let octaves = octaves.filter(|octave| octave.count > 0);
            let now: Octaves = octaves
                .map(|octave| (octave.lower_ns, octave.count))
                .collect();
            let before = self.before.insert(key, now.clone()).unwrap_or_default();
            if is_known {
                let more = difference(now, &before);
                if !more.is_empty() {
                    add(times.entry(key).or_default(), more);
                }
            }
        }
        let times: Vec<_> = times.into_iter().collect();
        self.counts += count(&times);
        self.intervals.push_back(times);
        self.thin_out();
    }

    /// Leaves out what is oldest, where there is too much.
    fn thin_out(&mut self) {
        for times in &mut self.intervals {
            if self.counts <= MAX_COUNTS {
                break;
            }
            self.counts -= count(times);
            *times = Vec::new();
        }
    }

    /// Takes back the last interval, of which a later look follows.
    pub(crate) fn pop_back(&mut self) -> Vec<(Key, Octaves)> {
        let times = self.intervals.pop_back().unwrap_or_default();
        self.counts -= count(&times);
        times
    }

    /// Forgets the oldest interval.
    pub(crate) fn pop_front(&mut self) {
        let times = self.intervals.pop_front().unwrap_or_default();
        self.counts -= count(&times);
    }

    /// Forgets all: the next interval follows none of them.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The times of a group in a state that ended in each of the last intervals.
    pub(crate) fn last(
        &self,
        group: GroupKey,
        state: State,
        intervals: usize,
    ) -> Vec<&[(u64, u64)]> {
        let first = self.intervals.len().saturating_sub(intervals);
        let last = self.intervals.range(first..);
        let of_group = last.map(|times| {
            let found = times.binary_search_by_key(&(group, state), |&(key, _)| key);
            let times = found.ok().and_then(|at| times.get(at));
            times.map_or(&[][..], |(_, octaves)| octaves.as_slice())
        });
        of_group.collect()
    }
}

fn count(times: &[(Key, Octaves)]) -> usize {
    times.iter().map(|(_, octaves)| octaves.len()).sum()
}

/// The counts that have come to those of before.
fn difference(mut now: Octaves, before: &Octaves) -> Octaves {
    for (lower_ns, count) in &mut now {
        let earlier = before.iter().find(|(lower, _)| lower == lower_ns);
        *count = count.saturating_sub(earlier.map_or(0, |&(_, count)| count));
    }
    now.retain(|&(_, count)| count > 0);
    now
}

/// Adds counts to others.
fn add(octaves: &mut Octaves, more: Octaves) {
    for (lower_ns, count) in more {
        match octaves.iter_mut().find(|(lower, _)| *lower == lower_ns) {
            Some((_, known)) => *known += count,
            None => octaves.push((lower_ns, count)),
        }
    }
}
