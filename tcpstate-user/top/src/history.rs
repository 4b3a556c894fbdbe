//! The figures of the last intervals, for the sparklines.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
};

use tcpstate_common::State;
use tcpstate_core::{
    cause::Cause,
    model::GroupKey,
    origin::{Evidence, Origin},
    present::RunSnapshot,
    transition::TransitionCount,
};

use tcpstate_text::explain::edge_of;

use crate::{group_times::GroupTimes, kept::Kept};

/// The intervals that are kept.
const KEPT: usize = 600;

/// The states that are shown, in the order of a connection's life.
pub(crate) const STATES: [State; 11] = [
    State::LISTEN,
    State::SYN_SENT,
    State::SYN_RECV,
    State::ESTABLISHED,
    State::FIN_WAIT1,
    State::FIN_WAIT2,
    State::CLOSING,
    State::TIME_WAIT,
    State::CLOSE_WAIT,
    State::LAST_ACK,
    State::CLOSE,
];

/// Whether a count of 0 says that no socket is in this state: else nothing shows those that are.
pub(crate) fn shows_none(origin: &Origin, state: State) -> bool {
    let is_sampled = origin.sample_interval_ns.is_some();
    match (state, origin.evidence()) {
        // No event shows the sockets that are not connected, and no list has them.
        (State::CLOSE, _) | (State::TIME_WAIT | State::LISTEN, Evidence::Packets) => false,
        // No event shows these, but a list does.
        (State::TIME_WAIT | State::SYN_RECV, Evidence::Kernel) => is_sampled,
        _ => true,
    }
}

/// A rate of the overview.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rate {
    Opened,
    Established,
    Closed,
    Failed,
    Resets,
    SynAcksResent,
}

impl Rate {
    pub(crate) const ALL: [Self; 6] = [
        Self::Opened,
        Self::Established,
        Self::Closed,
        Self::Failed,
        Self::Resets,
        Self::SynAcksResent,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Established => "established",
            Self::Closed => "closed",
            Self::Failed => "failed",
            Self::Resets => "resets",
            Self::SynAcksResent => "SYN-ACK resent",
        }
    }
}

/// An interval.
#[derive(Clone, Debug, Default)]
struct Point {
    /// Monotonic time of its begin.
    start_ns: u64,
    length_ns: u64,
    rates: [Option<u64>; Rate::ALL.len()],
    states: [u64; STATES.len()],
    cpu_ns: u64,
    transitions: Vec<TransitionCount>,
    /// The times in each state that connections left: the lower bound of each power of two, with its count.
    dwell: Vec<(State, Vec<(u64, u64)>)>,
}

/// The last intervals, the oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    points: VecDeque<Point>,
    /// Of the same intervals.
    by_group: GroupTimes,
}

impl History {
    /// Adds the interval of a snapshot, unless it is empty.
    pub(crate) fn push(&mut self, snapshot: &RunSnapshot) {
        let interval = &snapshot.interval;
        let figures = &interval.all;
        let resets = figures
            .causes
            .iter()
            .filter(|(cause, _)| matches!(cause, Cause::ResetByPeer | Cause::ResetLocally));
        let handshakes = snapshot.handshakes.as_ref();
        let of = |state| {
            let found = figures.states.iter().find(|(known, _)| *known == state);
            found.map_or(0, |&(_, count)| count)
        };
        let length_ns = interval.end_ns.saturating_sub(interval.start_ns);
        let mut again = Vec::new();
        // A look at an interval that goes on is replaced by a later one; after a jump it is another time.
        if self
            .points
            .back()
            .is_some_and(|last| last.start_ns == interval.start_ns)
        {
            self.points.pop_back();
            again = self.by_group.pop_back();
        }
        let end_ns = |last: &Point| last.start_ns.saturating_add(last.length_ns);
        if self
            .points
            .back()
            .is_some_and(|last| end_ns(last) != interval.start_ns)
        {
            self.points.clear();
            self.by_group.clear();
        }
        if length_ns == 0 {
            return;
        }
        if self.points.len() == KEPT {
            self.points.pop_front();
            self.by_group.pop_front();
        }
        self.by_group.push(snapshot, again);
        self.points.push_back(Point {
            start_ns: interval.start_ns,
            length_ns,
            rates: [
                Some(figures.opened),
                Some(figures.established),
                Some(figures.closed),
                Some(figures.failed),
                Some(resets.map(|&(_, count)| count).sum()),
                handshakes.and_then(|handshakes| handshakes.listen.synack_retransmits),
            ],
            states: STATES.map(of),
            cpu_ns: snapshot.books.cost.cpu_ns,
            transitions: figures.transitions.clone(),
            dwell: interval
                .dwell
                .iter()
                .map(|(state, times)| {
                    let octaves = times.octaves().into_iter();
                    let octaves = octaves.filter(|octave| octave.count > 0);
                    let octaves = octaves.map(|octave| (octave.lower_ns, octave.count));
                    (*state, octaves.collect())
                })
                .collect(),
        });
    }

    /// The count of this rate in the latest interval that has one, and the length of that, nanoseconds: one without a
    /// sample lacks those that samples show. `None`: it is not known.
    pub(crate) fn latest(&self, rate: Rate) -> Option<(u64, u64)> {
        self.points.iter().rev().find_map(|point| {
            let count = point.rates.get(rate as usize).copied().flatten()?;
            Some((count, point.length_ns))
        })
    }

    /// This rate in each interval, in thousandths a second: a short interval is no low one.
    pub(crate) fn rates(&self, rate: Rate) -> Vec<u64> {
        let mut known = 0;
        let per_second = |point: &Point| {
            if let Some(count) = point.rates.get(rate as usize).copied().flatten() {
                known = thousandths(count, point.length_ns);
            }
            known
        };
        self.points.iter().map(per_second).collect()
    }

    /// The edges of this part of the diagram that were taken, by their count over all intervals, the most first.
    pub(crate) fn edges(&self, part: Kept) -> Vec<(State, State)> {
        if let Kept::Edge(from, to) = part {
            return vec![(from, to)];
        }
        let mut counts = HashMap::<_, u64>::new();
        for one in self.points.iter().flat_map(|point| &point.transitions) {
            if part.has_transition(one.from, one.to) {
                *counts.entry(edge_of(one.from, one.to)).or_default() += one.count;
            }
        }
        let mut edges: Vec<_> = counts.into_iter().collect();
        edges.sort_by_key(|&(edge, count)| (Reverse(count), edge));
        edges.into_iter().map(|(edge, _)| edge).collect()
    }

    /// The number of times that an edge was taken in the latest interval, with the length of that, nanoseconds; and in each interval, in
    /// thousandths a second.
    pub(crate) fn edge(&self, wanted: (State, State)) -> (Option<(u64, u64)>, Vec<u64>) {
        let count = |point: &Point| -> u64 {
            let taken = point.transitions.iter();
            let taken = taken.filter(|one| edge_of(one.from, one.to) == wanted);
            taken.map(|one| one.count).sum()
        };
        let latest = self.points.back();
        let rates = self
            .points
            .iter()
            .map(|point| thousandths(count(point), point.length_ns));
        (
            latest.map(|point| (count(point), point.length_ns)),
            rates.collect(),
        )
    }

    /// The sockets in a state at the end of each interval, by its place in [`STATES`].
    pub(crate) fn state(&self, place: usize) -> Vec<u64> {
        let count = |point: &Point| point.states.get(place).copied().unwrap_or(0);
        self.points.iter().map(count).collect()
    }

    /// The times in a state, of one group or of all, that ended in each of the last intervals: the lower bound of each power of two, nanoseconds,
    /// with its count.
    pub(crate) fn dwell(
        &self,
        state: State,
        group: Option<GroupKey>,
        intervals: usize,
    ) -> Vec<&[(u64, u64)]> {
        if let Some(group) = group {
            return self.by_group.last(group, state, intervals);
        }
        let first = self.points.len().saturating_sub(intervals);
        let last = self.points.range(first..);
        let times = last.map(|point| {
            let known = point.dwell.iter().find(|(of, _)| *of == state);
            known.map_or(&[][..], |(_, times)| times.as_slice())
        });
        times.collect()
    }

    /// The processor time of the latest interval as a part of its length; `None` with less than two of them.
    pub(crate) fn own_share(&self) -> Option<f64> {
        let mut latest = self.points.iter().rev();
        let (now, before) = (latest.next()?, latest.next()?);
        if now.length_ns == 0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a share needs few digits")]
        Some(now.cpu_ns.saturating_sub(before.cpu_ns) as f64 / now.length_ns as f64)
    }
}

/// A rate in thousandths a second.
fn thousandths(count: u64, length_ns: u64) -> u64 {
    let thousandths = u128::from(count) * 1_000_000_000_000;
    let rate = thousandths.checked_div(length_ns.into()).unwrap_or(0);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_without_a_sample_keeps_the_rate_before() {
        let mut history = History::default();
        let rate = Rate::SynAcksResent;
        assert_eq!(history.latest(rate), None);
        for resent in [None, Some(3), None, Some(0)] {
            let mut rates = [Some(1); Rate::ALL.len()];
            rates[rate as usize] = resent;
            history.points.push_back(Point {
                length_ns: 1_000_000_000,
                rates,
                ..Point::default()
            });
            let latest = history.latest(rate).map(|(count, _)| count);
            let known = history.rates(rate).last().map(|rate| rate / 1_000);
            assert_eq!(known, Some(latest.unwrap_or(0)), "{resent:?}");
        }
        assert_eq!(history.rates(rate), [0, 3_000, 3_000, 0]);
    }
}
