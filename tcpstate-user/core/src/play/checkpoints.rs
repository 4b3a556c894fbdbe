//! Checkpoints: copies of a state, from which a jump begins.

#[derive(Debug)]
struct Checkpoint<T> {
    /// Events of the recording before it.
    events: u64,
    /// The first position for which it is right.
    from_ns: u64,
    bytes: usize,
    kept: T,
}

/// States of a run in the order of the recording, as many as a bound in bytes allows.
///
/// Where a further one would exceed the bound, the distance doubles and those between go. So they stay spread
/// over all that has been read, and a jump takes at most the reading of two distances. The first one, the state of
/// nothing, always stays. A state that is itself large raises the bound to twice its size: with a million
/// connections there are few checkpoints, and not none.
#[derive(Debug)]
pub struct Checkpoints<T> {
    all: Vec<Checkpoint<T>>,
    spacing: u64,
    max_bytes: usize,
}

impl<T> Checkpoints<T> {
    /// None yet. They may take so many bytes, and have at least so many events between them.
    pub const fn new(max_bytes: usize, spacing: u64) -> Self {
        Self {
            all: Vec::new(),
            spacing,
            max_bytes,
        }
    }

    /// Whether one after so many events would be worth its memory: there is none near it.
    pub fn wants(&self, events: u64) -> bool {
        let next = self.all.partition_point(|one| one.events <= events);
        let before = next.checked_sub(1).and_then(|at| self.all.get(at));
        let is_far = |one: &Checkpoint<T>| one.events.abs_diff(events) >= self.spacing;
        before.is_none_or(is_far) && self.all.get(next).is_none_or(is_far)
    }

    /// Adds a state of so many bytes, which is that after so many events, and right for positions from `from_ns` on.
    pub fn add(&mut self, events: u64, from_ns: u64, bytes: usize, kept: T) {
        let at = self.all.partition_point(|one| one.events <= events);
        let checkpoint = Checkpoint {
            events,
            from_ns,
            bytes,
            kept,
        };
        self.all.insert(at, checkpoint);
        while self.bytes() > self.bound() && self.all.len() > 2 {
            self.spacing = self.spacing.saturating_mul(2);
            let spacing = self.spacing;
            let mut last = None;
            self.all.retain(|one| {
                let stays = last.is_none_or(|last| one.events.saturating_sub(last) >= spacing);
                if stays {
                    last = Some(one.events);
                }
                stays
            });
        }
    }

    /// The last state that is right for this position, with the number of events before it. The first one is that
    /// of nothing, which is right for all. `None` where there is none at all.
    pub fn before(&self, position_ns: u64) -> Option<(u64, &T)> {
        let mut all = self.all.iter().rev();
        all.find(|one| one.from_ns <= position_ns)
            .or_else(|| self.all.first())
            .map(|one| (one.events, &one.kept))
    }

    /// Bytes of all states.
    pub fn bytes(&self) -> usize {
        self.all
            .iter()
            .fold(0, |sum, one| sum.saturating_add(one.bytes))
    }

    fn bound(&self) -> usize {
        let largest = self.all.iter().map(|one| one.bytes).max().unwrap_or(0);
        self.max_bytes.max(largest.saturating_mul(2))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPACING: u64 = 1 << 18;

    /// Reads events from one number to another in blocks, and adds where it is wanted.
    fn read(checkpoints: &mut Checkpoints<u64>, from: u64, to: u64, bytes: impl Fn(u64) -> usize) {
        for events in (from..to).step_by(16_384) {
            if checkpoints.wants(events) {
                checkpoints.add(events, events * 10, bytes(events), events);
            }
        }
    }

    /// The most events from a checkpoint to the next one, or to the end.
    fn longest_way(checkpoints: &Checkpoints<u64>, end: u64) -> u64 {
        let all: Vec<u64> = checkpoints.all.iter().map(|one| one.events).collect();
        assert!(all.is_sorted() && all[0] == 0);
        let ends = all.iter().skip(1).chain([&end]);
        all.iter()
            .zip(ends)
            .map(|(from, to)| to - from)
            .max()
            .unwrap()
    }

    #[test]
    fn they_stay_within_the_bound_and_spread_over_all_that_was_read() {
        const END: u64 = 100_000_000;
        let mut checkpoints = Checkpoints::new(64 << 20, SPACING);
        read(&mut checkpoints, 0, END, |_| 1 << 20);
        assert!(checkpoints.bytes() <= 64 << 20);
        assert!(checkpoints.all.len() > 20, "{}", checkpoints.all.len());
        let way = longest_way(&checkpoints, END);
        assert!(way < END / 12, "{way}");
        // Whoever reads it again adds none.
        let before = checkpoints.all.len();
        read(&mut checkpoints, 30_000_000, 60_000_000, |_| 1 << 20);
        assert_eq!(checkpoints.all.len(), before);
    }

    #[test]
    fn large_states_are_few() {
        let mut checkpoints = Checkpoints::new(64 << 20, SPACING);
        // A million connections come in over ten million events.
        let bytes = |events: u64| usize::try_from(events).unwrap() * 20;
        read(&mut checkpoints, 0, 10_000_000, bytes);
        assert!(checkpoints.bytes() <= 2 * bytes(10_000_000));
        assert!(checkpoints.all.len() > 2, "more than the first");
        assert!(longest_way(&checkpoints, 10_000_000) < 6_000_000);
    }

    #[test]
    fn a_jump_begins_at_the_last_one_that_is_right() {
        let mut checkpoints = Checkpoints::new(64 << 20, SPACING);
        assert!(checkpoints.before(0).is_none());
        // The state of nothing is right even for a time before the recording.
        checkpoints.add(0, 50, 1, 'a');
        checkpoints.add(300_000, 70, 1, 'b');
        checkpoints.add(600_000, 70, 1, 'c');
        let at = |position_ns| checkpoints.before(position_ns).map(|(_, kept)| *kept);
        assert_eq!([at(0), at(50), at(69)], [Some('a'); 3]);
        assert_eq!([at(70), at(u64::MAX)], [Some('c'); 2]);
    }

    proptest! {
        #[test]
        fn any_jumps_and_sizes_keep_the_bound(
            reads in proptest::collection::vec((0_u64..50_000_000, 0_u64..20_000_000), 1..12),
            most in 0_usize..200_000_000,
        ) {
            let mut checkpoints = Checkpoints::new(64 << 20, SPACING);
            checkpoints.add(0, 0, 100, 0);
            for (from, length) in reads {
                let bytes = |events: u64| usize::try_from(events).unwrap() * 7_919 % (most + 1);
                read(&mut checkpoints, from, from + length, bytes);
                prop_assert!(checkpoints.bytes() <= (64 << 20).max(2 * most + 100));
                prop_assert!(checkpoints.all.is_sorted_by(|one, next| one.events < next.events));
                prop_assert_eq!(checkpoints.all[0].events, 0);
            }
        }
    }
}
