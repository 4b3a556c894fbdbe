//! Counts by what a connection belongs to: its unit, container, pod, or process.
//!
//! The run's own thread counts, without a lock, and publishes once a second. Nothing is counted where nobody has chosen a label.
//!
//! There are places for so many combinations of labels. Unlike ports, pods and containers come and go: so a combination that
//! has had no event and no socket for an hour loses its place to a new one, and its series end. Without such a one, the new one
//! is `other`.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tcpstate_common::{State, transition::closes};
use tcpstate_core::{
    cause::Cause,
    diagnosis::Survey,
    event::Event,
    model::Applied,
    names::{Cgroup, Names, Pod},
    options::WorkloadLabel,
    owner::Comm,
    service::Role,
};

/// The time without an event or a socket after which a combination may lose its place.
const IDLE_NS: u64 = 3_600_000_000_000;

/// The most combinations of a cgroup and a process whose place is remembered until the next second.
const MAX_KNOWN: usize = 1 << 16;

/// The place of all that have none.
const OTHER: usize = 0;

/// The counts of a combination of labels.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The values of the labels, in the order of [`LabelNames`].
    pub(crate) values: Vec<Box<str>>,
    /// State changes: from, to.
    pub(crate) transitions: BTreeMap<(State, State), u64>,
    /// Connections that ended.
    pub(crate) closed: BTreeMap<(Cause, Role), u64>,
    /// Sockets in each state at the latest look.
    pub(crate) states: BTreeMap<State, u64>,
    last_ns: u64,
}

/// The names of the labels of each metric.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LabelNames {
    /// Those of state changes.
    pub(crate) transitions: &'static [&'static str],
    /// Those of ends.
    pub(crate) closed: &'static [&'static str],
    /// Those of sockets.
    pub(crate) states: &'static [&'static str],
}

/// All counts of a moment.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) labels: LabelNames,
    pub(crate) places: Vec<Arc<Place>>,
}

/// The latest counts, for those who show them. A clone is the same.
#[derive(Clone, Default)]
pub struct WorkloadCounts(Arc<Mutex<Option<Arc<Counts>>>>);

impl WorkloadCounts {
    /// `None`: nothing is counted.
    pub(crate) fn latest(&self) -> Option<Arc<Counts>> {
        // A holder of the lock replaces the whole.
        let latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        latest.clone()
    }
}

impl fmt::Debug for WorkloadCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkloadCounts")
    }
}

/// The source of a combination; a part that no label takes is absent.
type Key = (Option<u64>, Option<Comm>);

/// Counts the state changes and the ends of a run by labels.
#[derive(Debug)]
pub struct Workloads {
    chosen: Vec<WorkloadLabel>,
    labels: LabelNames,
    max: usize,
    names: Names,
    /// Shared with the latest counts that were shown, until they change.
    places: Vec<Arc<Place>>,
    by_values: HashMap<Vec<Box<str>>, usize>,
    /// The places of this second's connections.
    known: HashMap<Key, usize>,
    /// No place is idle before this time.
    none_idle_until_ns: u64,
    /// The time of the latest look.
    look_ns: Option<u64>,
    latest: WorkloadCounts,
}

impl Workloads {
    /// Counts by these labels, of at most `max` combinations; `None`: there are no labels.
    pub fn new(labels: &[WorkloadLabel], max: u32) -> Option<Self> {
        let chosen = WorkloadLabel::ALL.into_iter();
        let chosen: Vec<_> = chosen.filter(|label| labels.contains(label)).collect();
        if chosen.is_empty() {
            return None;
        }
        // They are needed until the process ends.
        let all = |own: &[&'static str]| -> &'static [&'static str] {
            let names = chosen.iter().map(|label| label.name());
            own.iter().copied().chain(names).collect::<Vec<_>>().leak()
        };
        let labels = LabelNames {
            transitions: all(&["from", "to"]),
            closed: all(&["cause", "role"]),
            states: all(&["state"]),
        };
        let other = Place::new(vec!["other".into(); chosen.len()]);
        Some(Self {
            by_values: HashMap::from([(other.values.clone(), OTHER)]),
            places: vec![Arc::new(other)],
            chosen,
            labels,
            max: usize::try_from(max).unwrap_or(usize::MAX),
            names: Names::default(),
            known: HashMap::new(),
            none_idle_until_ns: 0,
            look_ns: None,
            latest: WorkloadCounts::default(),
        })
    }

    /// The latest counts, as they will be.
    pub fn counts(&self) -> WorkloadCounts {
        self.latest.clone()
    }

    /// Takes the names of cgroups.
    pub fn set_names(&mut self, names: Names) {
        self.names = names;
    }

    /// Counts an event.
    pub fn count(&mut self, event: &Event, applied: &Applied<'_>) {
        let owner = applied.owner().comm;
        self.add(event, (applied.cgroup(), owner), applied.role());
    }

    fn add(&mut self, event: &Event, (cgroup, comm): Key, role: Role) {
        let Some(place) = self.place_of((cgroup, comm), event.ts_ns()) else {
            return;
        };
        let (from, to) = (event.oldstate().folded(), event.newstate().folded());
        *place.transitions.entry((from, to)).or_default() += 1;
        if closes(from, to) {
            let cause = Cause::of(event).unwrap_or(Cause::Unknown);
            *place.closed.entry((cause, role)).or_default() += 1;
        }
    }

    /// Whether the owners matter.
    pub fn takes_comm(&self) -> bool {
        self.chosen.contains(&WorkloadLabel::Comm)
    }

    /// The place for what has this combination now.
    fn place_of(&mut self, (cgroup, comm): Key, now_ns: u64) -> Option<&mut Place> {
        let takes_comm = self.takes_comm();
        let takes_cgroup = self.chosen.len() > usize::from(takes_comm);
        let key = (cgroup.filter(|_| takes_cgroup), comm.filter(|_| takes_comm));
        let at = match self.known.get(&key) {
            Some(&at) => at,
            None => self.find(key, now_ns),
        };
        let place = Arc::make_mut(self.places.get_mut(at)?);
        place.last_ns = place.last_ns.max(now_ns);
        Some(place)
    }

    /// The place for a combination, which may be new.
    fn find(&mut self, key: Key, now_ns: u64) -> usize {
        let values = self.values(key);
        let at = match self.by_values.get(&values) {
            Some(&at) => at,
            None => self.place(values, now_ns),
        };
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(key, at);
        at
    }

    fn values(&self, (cgroup, comm): Key) -> Vec<Box<str>> {
        let cgroup = self.names.cgroup(cgroup);
        let of = |name: fn(&Cgroup) -> Option<&str>| -> Box<str> {
            match &cgroup {
                Some(cgroup) => name(cgroup).unwrap_or("none").into(),
                None => "unknown".into(),
            }
        };
        let value = |label: &WorkloadLabel| match label {
            WorkloadLabel::Unit => of(Cgroup::unit),
            WorkloadLabel::Container => of(Cgroup::container_for_people),
            WorkloadLabel::Pod => of(|cgroup| cgroup.pod().map(Pod::name).or(cgroup.pod_uid())),
            WorkloadLabel::Namespace => of(|cgroup| match cgroup.pod() {
                Some(pod) => Some(pod.namespace()),
                None => cgroup.pod_uid().map(|_| "unknown"),
            }),
            WorkloadLabel::Comm => match &comm {
                Some(comm) => String::from_utf8_lossy(comm.as_bytes()).into(),
                None => "unknown".into(),
            },
        };
        self.chosen.iter().map(value).collect()
    }

    /// A place for a new combination.
    fn place(&mut self, values: Vec<Box<str>>, now_ns: u64) -> usize {
        let new = Arc::new(Place::new(values.clone()));
        let at = if self.places.len() <= self.max {
            self.places.push(new);
            self.places.len() - 1
        } else if let Some(at) = self.idle(now_ns) {
            if let Some(place) = self.places.get_mut(at) {
                let old = std::mem::replace(place, new);
                self.by_values.remove(&old.values);
            }
            self.known.clear();
            at
        } else {
            return OTHER;
        };
        self.by_values.insert(values, at);
        at
    }

    /// The place that has been idle for longest, if it has been for long enough.
    fn idle(&mut self, now_ns: u64) -> Option<usize> {
        if now_ns < self.none_idle_until_ns {
            return None;
        }
        let places = self.places.iter().enumerate().skip(OTHER + 1);
        let (at, place) = places.min_by_key(|(_, place)| place.last_ns)?;
        let idle_at_ns = place.last_ns.saturating_add(IDLE_NS);
        self.none_idle_until_ns = idle_at_ns;
        (now_ns >= idle_at_ns).then_some(at)
    }

    /// Takes the sockets of a look, if it is a new one. A combination with sockets is not idle.
    fn look(&mut self, survey: &Survey) {
        if self.look_ns.replace(survey.ts_ns) == Some(survey.ts_ns) {
            return;
        }
        for place in &mut self.places {
            if !place.states.is_empty() {
                Arc::make_mut(place).states.clear();
            }
        }
        let mut sockets: Vec<_> = survey.workloads.iter().collect();
        // Where there are too few places, those with the most sockets have them.
        sockets.sort_unstable_by_key(|&(key, count)| (Reverse(count), key));
        for (key, count) in sockets {
            if let Some(place) = self.place_of((key.cgroup, key.comm), survey.ts_ns) {
                *place.states.entry(key.state).or_default() += count;
            }
        }
    }

    /// Shows what was counted so far, and the sockets of the latest look. Names are asked for again: those of a new pod come late.
    pub fn publish(&mut self, survey: Option<&Survey>) {
        if let Some(survey) = survey {
            self.look(survey);
        }
        self.known.clear();
        let counts = Counts {
            labels: self.labels,
            places: self.places.clone(),
        };
        let mut latest = self.latest.0.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = Some(Arc::new(counts));
    }
}

impl Place {
    fn new(values: Vec<Box<str>>) -> Self {
        Self {
            values,
            transitions: BTreeMap::new(),
            closed: BTreeMap::new(),
            states: BTreeMap::new(),
            last_ns: 0,
        }
    }
}
