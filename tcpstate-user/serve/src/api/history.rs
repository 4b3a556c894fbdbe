//! The figures of the past: an hour by second and a day by minute, in bounded memory.
//!
//! An interval is kept packed: the figures over all, then those of each service port and role. All together takes
//! 64 MiB at most; where there is not room for all, the oldest go. An hour of 128 busy ports fits.

mod packed;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
};

use tcpstate_core::{
    filter::PortSet,
    model::{By, Figures, GroupFigures, GroupKey, Interval},
    names::Names,
    origin::Origin,
    present::RunSnapshot,
    service::ServicePort,
};
use tcpstate_text::rates::Intervals;

/// Intervals of a second that are kept: an hour.
const SECONDS: usize = 3_600;
/// Intervals of a minute that are kept: a day.
const MINUTES: usize = 1_440;
/// The most bytes of the seconds.
const SECOND_BYTES: usize = 40 << 20;
/// The most bytes of the minutes.
const MINUTE_BYTES: usize = 16 << 20;
/// The length of a minute.
const MINUTE_NS: u64 = 60_000_000_000;

/// The length of the intervals that are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// A second.
    Second,
    /// A minute.
    Minute,
}

/// The part of the history that is wanted.
#[derive(Clone, Debug)]
pub struct Past {
    /// The length of its intervals.
    pub resolution: Resolution,
    /// Only the last so many nanoseconds.
    pub last_ns: Option<u64>,
    /// The service ports whose own figures are wanted.
    pub ports: Option<PortSet>,
}

/// An interval, packed.
#[derive(Clone)]
struct Kept {
    start_ns: u64,
    end_ns: u64,
    figures: Arc<[u8]>,
}

impl Kept {
    fn bytes(&self) -> usize {
        // With the counts of references.
        size_of::<Self>() + 2 * size_of::<usize>() + self.figures.len()
    }
}

/// Intervals, the oldest first.
struct Series {
    kept: VecDeque<Kept>,
    bytes: usize,
    most: usize,
    most_bytes: usize,
}

impl Series {
    const fn new(most: usize, most_bytes: usize) -> Self {
        Self {
            kept: VecDeque::new(),
            bytes: 0,
            most,
            most_bytes,
        }
    }

    /// With the room of the list that is free.
    fn memory(&self) -> usize {
        self.bytes + (self.kept.capacity() - self.kept.len()) * size_of::<Kept>()
    }

    fn push(&mut self, interval: &Interval) {
        let kept = Kept {
            start_ns: interval.start_ns,
            end_ns: interval.end_ns,
            figures: packed::pack(interval).into(),
        };
        self.bytes += kept.bytes();
        self.kept.push_back(kept);
        while self.kept.len() > self.most || self.bytes > self.most_bytes {
            let Some(oldest) = self.kept.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes();
        }
    }
}

/// The minute that is not over.
struct Minute {
    start_ns: u64,
    end_ns: u64,
    all: Figures,
    groups: BTreeMap<GroupKey, Figures>,
}

impl Minute {
    fn of(interval: &Interval) -> Self {
        let groups = interval.groups.iter();
        Self {
            start_ns: interval.start_ns,
            end_ns: interval.end_ns,
            all: interval.all.clone(),
            groups: groups
                .map(|group| (group.key, group.figures.clone()))
                .collect(),
        }
    }

    fn add(&mut self, interval: &Interval) {
        self.end_ns = interval.end_ns;
        self.all.go_on(&interval.all);
        // A group that is not in the interval has no socket left.
        for figures in self.groups.values_mut() {
            figures.states.clear();
        }
        for group in &interval.groups {
            self.groups
                .entry(group.key)
                .or_default()
                .go_on(&group.figures);
        }
    }

    fn interval(self) -> Interval {
        let groups = self.groups.into_iter();
        Interval {
            start_ns: self.start_ns,
            end_ns: self.end_ns,
            all: self.all,
            groups: groups
                .map(|(key, figures)| GroupFigures { key, figures })
                .collect(),
            dwell: Vec::new(),
        }
    }
}

/// The past of a run.
pub struct History {
    seconds: Series,
    minutes: Series,
    minute: Option<Minute>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            seconds: Series::new(SECONDS, SECOND_BYTES),
            minutes: Series::new(MINUTES, MINUTE_BYTES),
            minute: None,
        }
    }
}

impl History {
    /// Keeps an interval, the one behind those that were kept.
    pub fn keep(&mut self, interval: &Interval) {
        self.seconds.push(interval);
        match &mut self.minute {
            // Behind a snapshot that was skipped, a minute is at its end too: it says nothing of the time between.
            Some(minute) if minute.end_ns == interval.start_ns => minute.add(interval),
            minute => {
                if let Some(before) = minute.replace(Minute::of(interval)) {
                    self.minutes.push(&before.interval());
                }
            }
        }
        let is_over = |minute: &mut Minute| minute.end_ns - minute.start_ns >= MINUTE_NS;
        if let Some(minute) = self.minute.take_if(is_over) {
            self.minutes.push(&minute.interval());
        }
    }

    /// The memory that it takes, bytes, but for what the allocator adds to each interval.
    pub fn bytes(&self) -> usize {
        self.seconds.memory() + self.minutes.memory()
    }

    /// The intervals of a second that are kept, and those of a minute.
    pub fn intervals(&self) -> (usize, usize) {
        (self.seconds.kept.len(), self.minutes.kept.len())
    }

    /// The part that is wanted, to be written bit by bit.
    pub(crate) fn past(&self, wanted: Past, snapshot: &RunSnapshot) -> Written {
        let series = match wanted.resolution {
            Resolution::Second => &self.seconds,
            Resolution::Minute => &self.minutes,
        };
        let now_ns = snapshot.tracker.now_ns;
        let from_ns = wanted.last_ns.map_or(0, |last| now_ns.saturating_sub(last));
        let kept = series.kept.iter().filter(|kept| kept.start_ns >= from_ns);
        Written {
            left: kept.cloned().collect(),
            step: Step::Begin,
            ports: wanted.ports,
            intervals: Intervals::of_the_past(By::Port),
            origin: Arc::clone(&snapshot.origin),
            names: snapshot.names.clone(),
        }
    }
}

/// The parts of an answer that were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// None.
    Begin,
    /// At least one interval.
    Middle,
    /// All.
    End,
}

/// An answer, in parts that are written when the client has read those before. It holds the packed intervals only.
pub(crate) struct Written {
    left: VecDeque<Kept>,
    step: Step,
    ports: Option<PortSet>,
    intervals: Intervals,
    origin: Arc<Origin>,
    names: Names,
}

impl Written {
    /// The most bytes of a part, roughly.
    const PART_BYTES: usize = 16 << 10;

    fn push(&mut self, kept: &Kept, text: &mut Vec<u8>) -> io::Result<()> {
        let ports = self.ports.as_ref();
        let is_wanted = |key: GroupKey| match key {
            GroupKey::Port(ServicePort::Port(port), _) => {
                ports.is_some_and(|ports| ports.contains(port))
            }
            _ => false,
        };
        let (all, groups) = packed::unpack(&kept.figures, is_wanted);
        let interval = Interval {
            start_ns: kept.start_ns,
            end_ns: kept.end_ns,
            all,
            groups,
            dwell: Vec::new(),
        };
        self.intervals
            .write(&interval, None, &self.origin, &self.names, text)?;
        text.pop();
        Ok(())
    }

    /// The next part of the answer; `None` behind its end.
    pub(super) fn part(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut text = Vec::new();
        match self.step {
            Step::Begin => text.extend_from_slice(b"{\"type\":\"history\",\"intervals\":["),
            Step::Middle => {}
            Step::End => return Ok(None),
        }
        while let Some(kept) = self.left.pop_front() {
            if self.step == Step::Middle {
                text.push(b',');
            }
            self.step = Step::Middle;
            self.push(&kept, &mut text)?;
            if text.len() >= Self::PART_BYTES {
                return Ok(Some(text));
            }
        }
        self.step = Step::End;
        text.extend_from_slice(b"]}\n");
        Ok(Some(text))
    }
}
