//! The histograms: dwell by state, lifetime and handshake, each by group.
//!
//! Each has buckets only from the first to the last power of two that it has seen, because most only
//! see a few. A histogram is admitted only while it and all admitted before would fit in the bound
//! with every bucket in use. So an admitted one is never cut short, and all durations of one that is not
//! admitted go to the group `other`. The number of groups with histograms is bounded too: each makes a text longer
//! that shows all of them.

#![expect(
    clippy::indexing_slicing,
    reason = "by numbers that were given out here and by `Services`, after room for them is made; by buckets between the first and the last of a histogram"
)]

use hashbrown::HashMap;
use tcpstate_common::State;

use super::{
    Limits,
    group::{GroupKey, Groups},
    slots::{SLOTS, slot_of, state_of},
};
use crate::{
    hash::BuildMixer,
    histogram::{DIVISIONS, Histogram, LONGEST_NS, OCTAVES, SHORTEST_NS, bucket_number, bucket_of},
    options::HistogramOf,
};

/// The kind of durations in a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Of {
    /// The time in this state. Numbers from 15 on, which no kernel uses, are counted together as 255.
    Dwell(State),
    /// The time from the first transition to the last.
    Lifetime,
    /// A client's time in `SYN_SENT` and, where both ends connected at once, in `SYN_RECV`; a server's smoothed round
    /// trip time when it was established,
    /// because its handshake is over before there is a socket to see.
    Handshake,
}

impl Of {
    const KINDS: usize = SLOTS + 2;

    /// Whether histograms of this subject have it.
    const fn is_in(self, subject: HistogramOf) -> bool {
        matches!(
            (self, subject),
            (Self::Dwell(_), HistogramOf::Dwell)
                | (Self::Lifetime, HistogramOf::Lifetime)
                | (Self::Handshake, HistogramOf::Handshake)
        )
    }

    const fn kind(self) -> usize {
        match self {
            Self::Dwell(state) => slot_of(state),
            Self::Lifetime => SLOTS,
            Self::Handshake => SLOTS + 1,
        }
    }

    const fn from_kind(kind: usize) -> Self {
        match kind {
            SLOTS => Self::Lifetime,
            kind if kind > SLOTS => Self::Handshake,
            kind => Self::Dwell(state_of(kind)),
        }
    }
}

/// One histogram of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// The kind of durations.
    pub of: Of,
    /// The connections' group.
    pub key: GroupKey,
    /// The durations.
    pub histogram: Histogram,
}

/// No histogram: numbers start at 1.
const NONE: u32 = 0;

/// One histogram: a cache line and, elsewhere, its buckets.
#[derive(Clone)]
#[repr(align(64))]
struct Kept {
    sum_ns: u128,
    min_ns: u64,
    max_ns: u64,
    /// The buckets of whole powers of two. Small counters, so that more of them are in the cache.
    buckets: Box<[u16]>,
    /// The power of two that the buckets begin with.
    first: usize,
}

const _: () = assert!(size_of::<Kept>() == 64);

/// A duration that is not in its histogram yet.
#[derive(Clone, Copy)]
struct Pending {
    duration_ns: u64,
    group: u16,
    kind: u8,
}

/// The most durations that wait.
const PENDING: usize = 256;

#[derive(Clone)]
pub(super) struct Histograms {
    /// The only durations that are kept; `None`: all.
    only: Option<HistogramOf>,
    /// Durations are put into their histograms many at a time: each of them misses the cache two or
    /// three times, and these misses overlap only in a loop that does nothing else.
    pending: Vec<Pending>,
    /// The numbers of the histograms, by group.
    groups: Vec<[u32; Of::KINDS]>,
    kept: Vec<Kept>,
    /// The counts of durations that were too short and too long for the buckets, by histogram.
    outside: HashMap<u32, (u64, u64), BuildMixer>,
    /// The number of times that a bucket has wrapped.
    wraps: HashMap<(u32, u16), u64, BuildMixer>,
    bucket_bytes: usize,
    /// Histograms of groups that may still be admitted.
    room: usize,
    /// The bounds, for a copy without durations.
    bounds: Bounds,
    /// Groups that may still have their first histogram.
    room_for_groups: usize,
    /// Whether a group has histograms of its own.
    has_own: Vec<bool>,
}

/// The bounds of all histograms.
#[derive(Clone, Copy)]
struct Bounds {
    max_bytes: usize,
    max_groups: usize,
}

/// Bytes of a histogram with every bucket in use.
const FULL_BYTES: usize = size_of::<Kept>() + OCTAVES * DIVISIONS * size_of::<u16>();

impl Histograms {
    /// The bytes that the histograms of `other` and of unknown ports take at most, beside the bound.
    #[cfg(test)]
    const RESERVED_BYTES: usize =
        super::services::Services::FIRST_PORT as usize * Of::KINDS * FULL_BYTES;

    pub(super) fn new(limits: &Limits, only: Option<HistogramOf>) -> Self {
        Self::within(
            Bounds {
                max_bytes: limits.max_histogram_bytes,
                max_groups: limits.max_histogram_groups,
            },
            only,
        )
    }

    fn within(bounds: Bounds, only: Option<HistogramOf>) -> Self {
        Self {
            only,
            pending: Vec::with_capacity(PENDING),
            groups: Vec::new(),
            kept: Vec::new(),
            outside: HashMap::default(),
            wraps: HashMap::default(),
            bucket_bytes: 0,
            room: bounds.max_bytes / FULL_BYTES,
            bounds,
            room_for_groups: bounds.max_groups,
            has_own: Vec::new(),
        }
    }

    /// Counts one duration.
    #[inline]
    pub(super) fn record(&mut self, of: Of, group: u16, groups: &Groups, duration_ns: u64) {
        if self.only.is_some_and(|only| !of.is_in(only)) {
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "below KINDS")]
        self.pending.push(Pending {
            duration_ns,
            group,
            kind: of.kind() as u8,
        });
        if self.pending.len() == PENDING {
            self.flush(groups);
        }
    }

    /// Puts the pending durations into their histograms.
    ///
    /// In two passes, the second as short as possible: the buckets miss the cache, and the shorter the
    /// loop, the more misses are under way at a time.
    pub(super) fn flush(&mut self, groups: &Groups) {
        let mut pending = std::mem::take(&mut self.pending);
        let mut places = [(0, 0); PENDING];
        for (place, pending) in places.iter_mut().zip(&pending) {
            let kind = usize::from(pending.kind);
            let number = match self.groups.get(usize::from(pending.group)) {
                Some(numbers) if numbers[kind] != NONE => numbers[kind],
                _ => self.admit(kind, pending.group, groups),
            };
            *place = (number, self.bucket(number, pending.duration_ns));
        }
        for &(number, bucket) in &places[..pending.len()] {
            let kept = &mut self.kept[number as usize - 1];
            let counter = &mut kept.buckets[usize::from(bucket) - kept.first * DIVISIONS];
            let (count, wrapped) = counter.overflowing_add(1);
            *counter = count;
            if wrapped {
                *self.wraps.entry((number, bucket)).or_default() += 1;
            }
        }
        pending.clear();
        self.pending = pending;
    }

    /// Adds a duration to everything but its bucket; ensures that the bucket exists.
    #[inline]
    fn bucket(&mut self, number: u32, duration_ns: u64) -> u16 {
        let kept = &mut self.kept[number as usize - 1];
        kept.sum_ns += u128::from(duration_ns);
        kept.min_ns = kept.min_ns.min(duration_ns);
        kept.max_ns = kept.max_ns.max(duration_ns);
        if !(SHORTEST_NS..=LONGEST_NS).contains(&duration_ns) {
            let (below, above) = self.outside.entry(number).or_default();
            *below += u64::from(duration_ns < SHORTEST_NS);
            *above += u64::from(duration_ns > LONGEST_NS);
        }
        let (octave, part) = bucket_of(duration_ns);
        // An octave before the first is far behind the last, because the subtraction wraps.
        if octave.wrapping_sub(kept.first) >= kept.buckets.len() / DIVISIONS {
            self.bucket_bytes += kept.extend(octave);
        }
        bucket_number(octave, part)
    }

    /// Gives a number to a histogram that has none.
    #[cold]
    fn admit(&mut self, kind: usize, group: u16, groups: &Groups) -> u32 {
        if self.groups.len() <= usize::from(group) {
            self.groups
                .resize(usize::from(group) + 1, [NONE; Of::KINDS]);
        }
        let is_reserved = groups.is_reserved(group);
        let number = if !is_reserved && !self.has_room_for(group) {
            // Recursion ends here: `other` is reserved.
            let other = groups.other(group);
            match self.groups[usize::from(other)][kind] {
                NONE => self.admit(kind, other, groups),
                number => number,
            }
        } else {
            if !is_reserved {
                self.room -= 1;
                if !std::mem::replace(&mut self.has_own[usize::from(group)], true) {
                    self.room_for_groups -= 1;
                }
            }
            self.kept.push(Kept {
                sum_ns: 0,
                min_ns: u64::MAX,
                max_ns: 0,
                buckets: Box::default(),
                first: 0,
            });
            number_of(self.kept.len())
        };
        self.groups[usize::from(group)][kind] = number;
        number
    }

    /// Whether a further histogram of this group can be admitted.
    fn has_room_for(&mut self, group: u16) -> bool {
        let at = usize::from(group);
        if self.has_own.len() <= at {
            self.has_own.resize(at + 1, false);
        }
        self.room > 0 && (self.has_own[at] || self.room_for_groups > 0)
    }

    /// All histograms, in the order of group and kind. Nothing may be pending.
    pub(super) fn show(&self, groups: &Groups) -> Vec<Series> {
        let mut series = Vec::new();
        let mut shown = vec![false; self.kept.len()];
        // The histograms of `other` have the lower numbers, so they are shown under their own name.
        for (group, numbers) in (0u16..).zip(&self.groups) {
            let key = groups.key(group);
            for (kind, &number) in numbers
                .iter()
                .enumerate()
                .filter(|&(_, &number)| number != NONE)
            {
                let at = number as usize - 1;
                if !std::mem::replace(&mut shown[at], true) {
                    let of = Of::from_kind(kind);
                    series.push(Series {
                        of,
                        key,
                        histogram: self.read(at),
                    });
                }
            }
        }
        series.sort_by_key(|series| (series.key, series.of));
        series
    }

    fn read(&self, at: usize) -> Histogram {
        let kept = &self.kept[at];
        let number = number_of(at + 1);
        let mut buckets = Vec::new();
        for (at, &count) in kept.buckets.iter().enumerate() {
            let bucket = bucket_number(kept.first + at / DIVISIONS, at % DIVISIONS);
            let wraps = self.wraps.get(&(number, bucket)).copied().unwrap_or(0);
            let count = u64::from(count) + (wraps << 16);
            if count != 0 {
                buckets.push((bucket, count));
            }
        }
        let outside = self.outside.get(&number).copied().unwrap_or_default();
        Histogram::from_parts(buckets, outside, (kept.min_ns, kept.max_ns), kept.sum_ns)
    }

    /// The same without any duration.
    pub(super) fn emptied(&self) -> Self {
        Self::within(self.bounds, self.only)
    }

    /// Bytes held.
    pub(super) fn memory(&self) -> usize {
        PENDING * size_of::<Pending>()
            + self.groups.capacity() * size_of::<[u32; Of::KINDS]>()
            + self.has_own.capacity()
            + self.kept.capacity() * size_of::<Kept>()
            + self.bucket_bytes
            + self.outside.allocation_size()
            + self.wraps.allocation_size()
    }
}

impl Kept {
    /// Makes buckets for this power of two and all between it and the present ones. Returns the bytes
    /// that were added.
    #[cold]
    fn extend(&mut self, octave: usize) -> usize {
        let len = self.buckets.len();
        let (first, end) = if len == 0 {
            (octave, octave + 1)
        } else {
            (
                self.first.min(octave),
                (self.first + len / DIVISIONS).max(octave + 1),
            )
        };
        let mut buckets = vec![0; (end - first) * DIVISIONS].into_boxed_slice();
        if len != 0 {
            let at = (self.first - first) * DIVISIONS;
            buckets[at..at + len].copy_from_slice(&self.buckets);
        }
        self.buckets = buckets;
        self.first = first;
        (self.buckets.len() - len) * size_of::<u16>()
    }
}

/// The number of the last of `len` histograms.
fn number_of(len: usize) -> u32 {
    // There are at most 2^16 groups with 18 histograms each.
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{group::By, services::Services},
        *,
    };
    use crate::service::{Role, ServicePort};

    fn within(max_bytes: usize, max_groups: usize) -> Histograms {
        Histograms::within(
            Bounds {
                max_bytes,
                max_groups,
            },
            None,
        )
    }

    fn groups(max_ports: usize) -> Groups {
        let limits = Limits {
            max_ports,
            ..Limits::default()
        };
        Groups::new(By::Port, &limits)
    }

    #[test]
    fn the_bound_holds_and_nothing_is_lost() {
        let mut groups = groups(1_024);
        let max_bytes = 1 << 20;
        let mut histograms = within(max_bytes, usize::MAX);
        let mut expected = 0;
        for port in 1..=1_000 {
            for role in [Role::Client, Role::Server] {
                let group = groups.services.id(Some(port), role);
                for state in State::ALL {
                    for octave in 0..OCTAVES {
                        histograms.record(Of::Dwell(state), group, &groups, SHORTEST_NS << octave);
                        expected += 1;
                    }
                }
            }
        }
        histograms.flush(&groups);
        let shown = histograms.show(&groups);
        assert_eq!(
            shown
                .iter()
                .map(|series| series.histogram.count())
                .sum::<u64>(),
            expected
        );
        // Vectors grow by doubling; the numbers of a group are 72 bytes each.
        let bound = max_bytes + Histograms::RESERVED_BYTES;
        let slack = 2_005 * size_of::<[u32; Of::KINDS]>() * 2 + bound / 10;
        assert!(
            histograms.memory() <= bound + slack,
            "{}",
            histograms.memory()
        );
        // A port that was admitted has all its durations.
        let of_port = |wanted: ServicePort| {
            let key = GroupKey::Port(wanted, Role::Server);
            let of = |series: &&Series| series.key == key;
            shown
                .iter()
                .filter(of)
                .map(|series| series.histogram.count())
                .collect::<Vec<_>>()
        };
        assert_eq!(of_port(ServicePort::Port(1)), vec![OCTAVES as u64; 11]);
        assert_eq!(of_port(ServicePort::Port(1_000)), Vec::<u64>::new());
        assert_eq!(of_port(ServicePort::Other).len(), 11);
    }

    /// A group that has its first histogram has all others too, however late they come.
    #[test]
    fn so_many_groups_have_histograms_and_each_has_all() {
        let mut groups = groups(1_024);
        let mut histograms = within(1 << 30, 2);
        let ids: Vec<u16> = (1..=3)
            .map(|port| groups.services.id(Some(port), Role::Server))
            .collect();
        for of in [Of::Dwell(State::ESTABLISHED), Of::Lifetime, Of::Handshake] {
            for &id in &ids {
                histograms.record(of, id, &groups, 5_000);
            }
        }
        let again = histograms.emptied();
        histograms.flush(&groups);
        let shown: Vec<(GroupKey, u64)> = histograms
            .show(&groups)
            .iter()
            .map(|series| (series.key, series.histogram.count()))
            .collect();
        let of = |port| GroupKey::Port(port, Role::Server);
        let (first, second) = (ServicePort::Port(1), ServicePort::Port(2));
        let keys = [first, second, ServicePort::Other].map(of);
        let expected: Vec<(GroupKey, u64)> =
            keys.into_iter().flat_map(|key| [(key, 1); 3]).collect();
        assert_eq!(shown, expected);
        assert_eq!(again.room_for_groups, 2);
    }

    #[test]
    fn a_bucket_that_wraps_keeps_counting() {
        let groups = groups(1);
        let mut histograms = within(0, usize::MAX);
        histograms.record(Of::Lifetime, Services::UNKNOWN, &groups, 5_000);
        histograms.flush(&groups);
        let (_, part) = bucket_of(5_000);
        histograms.kept[0].buckets[part] = u16::MAX;
        histograms.record(Of::Lifetime, Services::UNKNOWN, &groups, 5_000);
        histograms.record(Of::Lifetime, Services::UNKNOWN, &groups, 5_000);
        histograms.flush(&groups);
        assert_eq!(histograms.show(&groups)[0].histogram.count(), (1 << 16) + 1);
    }
}
