//! Rates: the count of each transition by group, in the interval and in total, and the number of
//! connections in each state.

#![expect(
    clippy::indexing_slicing,
    reason = "by slot of a state, bucket of a time and place of a cause, which the tables are made for; by group, after room for it is made"
)]

use std::collections::BTreeMap;

use tcpstate_common::{
    State,
    transition::{closes, opens},
};

use super::{
    group::{GroupKey, Groups},
    slots::{SLOTS, slot_of, state_of},
};
use crate::{
    cause::Cause,
    histogram::{BUCKETS, Histogram, bucket_number, bucket_of},
    transition::TransitionCount,
};

/// The transitions that Linux makes. They are counted in an array; any other is too, but slower.
pub(super) const USUAL: [(State, State); 31] = [
    (State::CLOSE, State::SYN_SENT),
    (State::SYN_SENT, State::ESTABLISHED),
    (State::ESTABLISHED, State::FIN_WAIT1),
    (State::FIN_WAIT1, State::FIN_WAIT2),
    (State::FIN_WAIT2, State::CLOSE),
    (State::LISTEN, State::SYN_RECV),
    (State::SYN_RECV, State::ESTABLISHED),
    (State::ESTABLISHED, State::CLOSE_WAIT),
    (State::CLOSE_WAIT, State::LAST_ACK),
    (State::LAST_ACK, State::CLOSE),
    (State::ESTABLISHED, State::CLOSE),
    (State::CLOSE_WAIT, State::CLOSE),
    (State::SYN_SENT, State::CLOSE),
    (State::SYN_RECV, State::CLOSE),
    (State::FIN_WAIT1, State::CLOSE),
    (State::FIN_WAIT1, State::CLOSING),
    (State::CLOSING, State::CLOSE),
    (State::CLOSE, State::LISTEN),
    (State::LISTEN, State::CLOSE),
    (State::SYN_SENT, State::SYN_RECV),
    (State::SYN_RECV, State::FIN_WAIT1),
    (State::SYN_RECV, State::CLOSE_WAIT),
    (State::CLOSE, State::CLOSE),
    (State::CLOSE, State::ESTABLISHED),
    (State::FIN_WAIT1, State::TIME_WAIT),
    (State::FIN_WAIT2, State::TIME_WAIT),
    (State::CLOSING, State::TIME_WAIT),
    (State::TIME_WAIT, State::CLOSE),
    (State::CLOSE, State::SYN_RECV),
    (State::SYN_RECV, State::LISTEN),
    (State::ESTABLISHED, State::LAST_ACK),
];

/// The place in [`USUAL`] of a transition, by the slots of its states; the length of it for others.
#[expect(clippy::cast_possible_truncation, reason = "USUAL is short")]
const PLACES: [[u8; SLOTS]; SLOTS] = {
    let mut places = [[USUAL.len() as u8; SLOTS]; SLOTS];
    let mut at = 0;
    while at < USUAL.len() {
        places[slot_of(USUAL[at].0)][slot_of(USUAL[at].1)] = at as u8;
        at += 1;
    }
    places
};

/// The count of each transition.
#[derive(Clone, Debug, Default)]
struct Matrix {
    usual: [u64; USUAL.len()],
    unusual: BTreeMap<(State, State), u64>,
}

impl Matrix {
    #[inline]
    fn add(&mut self, from: State, to: State, count: u64) {
        let (from, to) = (slot_of(from), slot_of(to));
        match self.usual.get_mut(usize::from(PLACES[from][to])) {
            Some(counted) => *counted += count,
            None => {
                *self
                    .unusual
                    .entry((state_of(from), state_of(to)))
                    .or_default() += count;
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = TransitionCount> + '_ {
        let usual = USUAL
            .iter()
            .zip(&self.usual)
            .map(|(&pair, &count)| (pair, count));
        usual
            .chain(self.unusual.iter().map(|(&pair, &count)| (pair, count)))
            .filter(|&(_, count)| count != 0)
            .map(|((from, to), count)| TransitionCount { from, to, count })
    }
}

/// The count of each cause that ended a connection.
#[derive(Clone, Debug, Default)]
struct Causes {
    named: [u64; Cause::NAMED.len()],
    errnos: BTreeMap<u16, u64>,
}

impl Causes {
    fn add(&mut self, cause: Cause, count: u64) {
        match cause.place() {
            Ok(place) => self.named[place] += count,
            Err(errno) => *self.errnos.entry(errno).or_default() += count,
        }
    }

    fn iter(&self) -> impl Iterator<Item = (Cause, u64)> + '_ {
        let named = Cause::NAMED
            .into_iter()
            .zip(self.named)
            .filter(|&(_, count)| count != 0);
        named.chain(
            self.errnos
                .iter()
                .map(|(&errno, &count)| (Cause::Errno(errno), count)),
        )
    }
}

/// The transitions of some connections over some time, and their states at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// The count of each transition, those that are not 0.
    pub transitions: Vec<TransitionCount>,
    /// Connections that began: out of CLOSE (not to LISTEN), or a child of a listener.
    pub opened: u64,
    /// Connections that completed the handshake.
    pub established: u64,
    /// Connections that ended, for any cause.
    pub closed: u64,
    /// Those of `closed` that ended before they were established.
    pub failed: u64,
    /// `closed` by cause, those that are not 0.
    pub causes: Vec<(Cause, u64)>,
    /// Sockets in each state at the end, those that are not 0. Listeners are in LISTEN.
    pub states: Vec<(State, u64)>,
}

impl Figures {
    fn new(counts: &Counts, now: &[u64; SLOTS]) -> Self {
        let mut transitions: Vec<TransitionCount> = counts.matrix.iter().collect();
        transitions.sort_unstable();
        let mut causes: Vec<(Cause, u64)> = counts.causes.iter().collect();
        causes.sort_unstable();
        let states = now.iter().enumerate().filter(|&(_, &count)| count != 0);
        let states = states.map(|(slot, &count)| (state_of(slot), count));
        Self::of(transitions, causes, states.collect())
    }

    /// The figures with these counts, each once.
    pub fn of(
        transitions: Vec<TransitionCount>,
        causes: Vec<(Cause, u64)>,
        states: Vec<(State, u64)>,
    ) -> Self {
        let mut figures = Self {
            causes,
            states,
            ..Self::default()
        };
        for &TransitionCount { from, to, count } in &transitions {
            if opens(from, to) {
                figures.opened += count;
            }
            if to == State::ESTABLISHED && matches!(from, State::SYN_SENT | State::SYN_RECV) {
                figures.established += count;
            }
            if closes(from, to) {
                figures.closed += count;
                if matches!(from, State::SYN_SENT | State::SYN_RECV) {
                    figures.failed += count;
                }
            }
        }
        figures.transitions = transitions;
        figures
    }

    /// Adds the figures of the time behind this one.
    pub fn go_on(&mut self, next: &Self) {
        let mut transitions: BTreeMap<(State, State), u64> = BTreeMap::new();
        for &TransitionCount { from, to, count } in self.transitions.iter().chain(&next.transitions)
        {
            *transitions.entry((from, to)).or_default() += count;
        }
        let mut causes: BTreeMap<Cause, u64> = BTreeMap::new();
        for &(cause, count) in self.causes.iter().chain(&next.causes) {
            *causes.entry(cause).or_default() += count;
        }
        let transitions = transitions.into_iter();
        *self = Self::of(
            transitions
                .map(|((from, to), count)| TransitionCount { from, to, count })
                .collect(),
            causes.into_iter().collect(),
            next.states.clone(),
        );
    }

    /// The sum of all transitions.
    pub fn total(&self) -> u64 {
        self.transitions
            .iter()
            .map(|transition| transition.count)
            .sum()
    }
}

/// The figures of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupFigures {
    /// The group.
    pub key: GroupKey,
    /// Its figures.
    pub figures: Figures,
}

/// The figures between two ticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Monotonic time of its begin: the tick before, or the first event.
    pub start_ns: u64,
    /// Monotonic time of its end.
    pub end_ns: u64,
    /// The figures over all.
    pub all: Figures,
    /// The figures by group. Their sums are `all`, without what came before a
    /// [`Tracker::group_by`](super::Tracker::group_by). Groups without a transition and without a socket are left out.
    pub groups: Vec<GroupFigures>,
    /// The time in each state that connections left, where it is known.
    pub dwell: Vec<(State, Histogram)>,
}

/// The counters of some time.
#[derive(Clone, Debug, Default)]
struct Counts {
    matrix: Matrix,
    causes: Causes,
}

impl Counts {
    fn add(&mut self, more: &Self) {
        for TransitionCount { from, to, count } in more.matrix.iter() {
            self.matrix.add(from, to, count);
        }
        for (cause, count) in more.causes.iter() {
            self.causes.add(cause, count);
        }
    }

    fn is_empty(&self) -> bool {
        self.matrix.iter().next().is_none()
    }
}

#[derive(Clone, Debug, Default)]
struct Group {
    /// The time since the last tick.
    interval: Counts,
    /// The time up to the last tick.
    before: Counts,
    now: [u64; SLOTS],
}

impl Group {
    fn is_deserted(&self) -> bool {
        self.now.iter().all(|&count| count == 0)
    }

    fn total(&self) -> Counts {
        let mut total = self.before.clone();
        total.add(&self.interval);
        total
    }
}

/// The times of one state in an interval, by bucket.
type Times = Box<[u64]>;

/// The rates of all groups. The figures over all are their sums.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    groups: Vec<Group>,
    /// The counts from before the groups were chosen: they are in the figures over all, and in those of no group.
    earlier: Group,
    /// The times by state, over all groups; `None` where there are none.
    dwell: [Option<Times>; SLOTS],
}

impl Rates {
    #[inline]
    fn group(&mut self, group: u16) -> &mut Group {
        let at = usize::from(group);
        if at >= self.groups.len() {
            self.groups.resize_with(at + 1, Group::default);
        }
        &mut self.groups[at]
    }

    /// Counts a transition.
    #[inline]
    pub(super) fn transition(&mut self, group: u16, from: State, to: State) {
        self.group(group).interval.matrix.add(from, to, 1);
    }

    /// Counts the cause of a connection's end.
    pub(super) fn ended(&mut self, group: u16, cause: Cause) {
        self.group(group).interval.causes.add(cause, 1);
    }

    /// Counts a time in a state.
    #[inline]
    pub(super) fn dwelt(&mut self, state: State, dwell_ns: u64) {
        let (octave, part) = bucket_of(dwell_ns);
        self.times(state)[usize::from(bucket_number(octave, part))] += 1;
    }

    fn times(&mut self, state: State) -> &mut Times {
        self.dwell[slot_of(state)].get_or_insert_with(|| vec![0; BUCKETS].into())
    }

    /// Adds counts that were made elsewhere.
    pub(super) fn add(
        &mut self,
        group: u16,
        transitions: &[TransitionCount],
        causes: &[(Cause, u64)],
    ) {
        let counts = &mut self.group(group).interval;
        for &TransitionCount { from, to, count } in transitions {
            counts.matrix.add(from, to, count);
        }
        for &(cause, count) in causes {
            counts.causes.add(cause, count);
        }
    }

    /// Adds times in a state that were counted elsewhere.
    pub(super) fn add_dwell(&mut self, state: State, times: &Histogram) {
        let counts = self.times(state);
        for (bucket, count) in times.counts() {
            counts[usize::from(bucket)] += count;
        }
    }

    /// The times in the states that connections have left since the last call.
    pub(super) fn end_dwell(&mut self) -> Vec<(State, Histogram)> {
        let states = self.dwell.iter_mut().enumerate();
        states
            .filter_map(|(slot, times)| {
                let times = times.take()?;
                Some((state_of(slot), Histogram::from_counts(times)))
            })
            .collect()
    }

    /// Counts a socket as in this state from now on.
    #[inline]
    pub(super) fn enter(&mut self, group: u16, state: State) {
        self.enter_all(group, state, 1);
    }

    /// Counts `count` sockets as in this state from now on.
    #[inline]
    pub(super) fn enter_all(&mut self, group: u16, state: State, count: u32) {
        self.group(group).now[slot_of(state)] += u64::from(count);
    }

    /// Counts `count` sockets as no longer in this state.
    pub(super) fn leave_all(&mut self, group: u16, state: State, count: u32) {
        self.group(group).now[slot_of(state)] -= u64::from(count);
    }

    /// Counts a socket as no longer in this state.
    #[inline]
    pub(super) fn leave(&mut self, group: u16, state: State) {
        self.leave_all(group, state, 1);
    }

    /// Begins with other groups, which have no sockets yet.
    pub(super) fn begin_groups(&mut self) {
        for group in std::mem::take(&mut self.groups) {
            self.earlier.interval.add(&group.interval);
            self.earlier.before.add(&group.before);
        }
    }

    /// The figures since the last call, over all and by group. Begins a new interval.
    pub(super) fn end_interval(&mut self, groups: &Groups) -> (Figures, Vec<GroupFigures>) {
        let shown = self.show(groups, |group| group.interval.clone());
        for group in self.groups.iter_mut().chain([&mut self.earlier]) {
            let interval = std::mem::take(&mut group.interval);
            group.before.add(&interval);
        }
        shown
    }

    /// The figures since the beginning, over all and by group.
    pub(super) fn total(&self, groups: &Groups) -> (Figures, Vec<GroupFigures>) {
        self.show(groups, Group::total)
    }

    /// The figures, without groups that have neither a transition nor a socket.
    fn show(
        &self,
        groups: &Groups,
        counts: impl Fn(&Group) -> Counts,
    ) -> (Figures, Vec<GroupFigures>) {
        let (mut all, mut all_now) = (counts(&self.earlier), [0; SLOTS]);
        let mut shown = Vec::new();
        for (id, group) in (0u16..).zip(&self.groups) {
            let counts = counts(group);
            if counts.is_empty() && group.is_deserted() {
                continue;
            }
            all.add(&counts);
            for (all, now) in all_now.iter_mut().zip(&group.now) {
                *all += now;
            }
            let figures = Figures::new(&counts, &group.now);
            shown.push(GroupFigures {
                key: groups.key(id),
                figures,
            });
        }
        shown.sort_by_key(|group| group.key);
        (Figures::new(&all, &all_now), shown)
    }

    /// Bytes held, without the few of transitions that Linux never makes.
    pub(super) fn memory(&self) -> usize {
        self.groups.capacity() * size_of::<Group>()
            + self.dwell.iter().flatten().count() * BUCKETS * size_of::<u64>()
    }
}
