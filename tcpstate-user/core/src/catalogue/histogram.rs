//! The fields of a histogram.

use tcpstate_common::State;

use super::{
    column::{Column, Formats, Kind, Table, Value},
    common::{Stamp, stamp},
    group::{Group, role, tables_by},
};
use crate::{
    histogram::Histogram,
    model::{By, Of},
    transition::TransitionCount,
};

/// The fields that every record of `hist` has.
#[derive(Clone, Debug)]
pub struct HistogramHead {
    /// The interval.
    pub stamp: Stamp,
    /// The connections.
    pub group: Group,
}

/// A histogram of durations.
#[derive(Clone, Debug)]
pub struct HistogramRow {
    /// The interval, and whose it is.
    pub head: HistogramHead,
    /// The durations' kind.
    pub of: Of,
    /// The durations.
    pub histogram: Histogram,
}

/// How often each transition happened.
#[derive(Clone, Debug)]
pub struct HistogramTransitionsRow {
    /// The interval, and whose they are.
    pub head: HistogramHead,
    /// The transitions.
    pub transitions: Vec<TransitionCount>,
}

/// How often one transition happened.
#[derive(Clone, Debug)]
pub struct HistogramTransitionRow {
    /// The interval, and whose it is.
    pub head: HistogramHead,
    /// The transition.
    pub transition: TransitionCount,
}

/// Rows with a [`HistogramHead`].
trait Headed: AsRef<Stamp> + AsRef<Group> {
    /// The word for what is in the histogram.
    fn of(&self) -> &'static str;
}

impl HistogramRow {
    const fn state(&self) -> Option<State> {
        match self.of {
            Of::Dwell(state) => Some(state),
            Of::Lifetime | Of::Handshake => None,
        }
    }
}

impl Headed for HistogramRow {
    fn of(&self) -> &'static str {
        match self.of {
            Of::Dwell(_) => "dwell",
            Of::Lifetime => "lifetime",
            Of::Handshake => "handshake",
        }
    }
}

impl Headed for HistogramTransitionsRow {
    fn of(&self) -> &'static str {
        TRANSITIONS
    }
}

impl Headed for HistogramTransitionRow {
    fn of(&self) -> &'static str {
        TRANSITIONS
    }
}

const TRANSITIONS: &str = "transitions";

impl AsRef<Stamp> for HistogramRow {
    fn as_ref(&self) -> &Stamp {
        &self.head.stamp
    }
}

impl AsRef<Group> for HistogramRow {
    fn as_ref(&self) -> &Group {
        &self.head.group
    }
}

impl AsRef<Stamp> for HistogramTransitionsRow {
    fn as_ref(&self) -> &Stamp {
        &self.head.stamp
    }
}

impl AsRef<Group> for HistogramTransitionsRow {
    fn as_ref(&self) -> &Group {
        &self.head.group
    }
}

impl AsRef<Stamp> for HistogramTransitionRow {
    fn as_ref(&self) -> &Stamp {
        &self.head.stamp
    }
}

impl AsRef<Group> for HistogramTransitionRow {
    fn as_ref(&self) -> &Group {
        &self.head.group
    }
}

const fn of<R: Headed>() -> [Column<R>; 1] {
    [Column::<R>::new(
        "of",
        Kind::Word(&["dwell", "lifetime", "handshake", TRANSITIONS]),
        |row| Value::Word(row.of()),
        "The subject of the histogram",
    )]
}

const fn by_port<R: AsRef<Group>>() -> [Column<R>; 2] {
    [
        Column::<R>::new(
            "service_port",
            Kind::Port,
            |row| Value::ServicePort(row.as_ref().service_port()),
            "Service port; the string `other` for the ports beyond `--max-ports` together",
        )
        .unknown("the role is unknown"),
        role(),
    ]
}

const fn quantile<const PER_MILLE: u16>(
    name: &'static str,
    doc: &'static str,
) -> Column<HistogramRow> {
    Column::<HistogramRow>::new(
        name,
        Kind::Nanoseconds,
        |row| {
            let quantile = f64::from(PER_MILLE) / 1_000.0;
            row.histogram.quantile(quantile).into()
        },
        doc,
    )
    .unknown("the histogram is empty")
}

const fn durations() -> [Column<HistogramRow>; 8] {
    [
        Column::<HistogramRow>::new(
            "state",
            Kind::State,
            |row| row.state().into(),
            "The state, where the histogram is of the time in a state",
        )
        .unknown("it is of lifetimes or handshakes"),
        Column::<HistogramRow>::new(
            "count",
            Kind::Count,
            |row| row.histogram.count().into(),
            "Durations in the histogram",
        ),
        quantile::<500>("p50_ns", "Median, exact to 1/128"),
        quantile::<900>("p90_ns", "90th percentile, exact to 1/128"),
        quantile::<990>("p99_ns", "99th percentile, exact to 1/128"),
        quantile::<999>("p999_ns", "99.9th percentile, exact to 1/128"),
        Column::<HistogramRow>::new(
            "max_ns",
            Kind::Nanoseconds,
            |row| row.histogram.max_ns().into(),
            "The longest duration, exactly",
        )
        .unknown("the histogram is empty"),
        Column::<HistogramRow>::new(
            "buckets",
            Kind::Nested("list of `{lower_ns, upper_ns, count}`"),
            |row| Value::Buckets(&row.histogram),
            "The buckets that are not empty: the durations from `lower_ns` up to, and without, \
             `upper_ns`. Bounds are fixed, so that buckets can be added up over time and hosts; only \
             durations below 1 µs or above a day widen the first or the last one",
        )
        .only(Formats::Json),
    ]
}

const fn transitions() -> [Column<HistogramTransitionsRow>; 2] {
    [
        Column::<HistogramTransitionsRow>::new(
            "count",
            Kind::Count,
            |row| {
                let counts = row.transitions.iter().map(|one| one.count);
                counts.sum::<u64>().into()
            },
            "Transitions, all together",
        ),
        Column::<HistogramTransitionsRow>::new(
            "transitions",
            Kind::Nested("list of `{from, to, count}`"),
            |row| Value::Transitions {
                counts: &row.transitions,
                interval_ns: None,
            },
            "How often each transition happened",
        ),
    ]
}

const fn transition() -> [Column<HistogramTransitionRow>; 3] {
    [
        Column::<HistogramTransitionRow>::new(
            "from",
            Kind::State,
            |row| row.transition.from.into(),
            "State before the transition",
        ),
        Column::<HistogramTransitionRow>::new(
            "to",
            Kind::State,
            |row| row.transition.to.into(),
            "State after the transition",
        ),
        Column::<HistogramTransitionRow>::new(
            "count",
            Kind::Count,
            |row| row.transition.count.into(),
            "How often it happened",
        ),
    ]
}

/// The fields of a histogram of durations.
pub const fn histogram_table(by: By) -> &'static Table<HistogramRow> {
    tables_by!(
        by,
        HistogramRow,
        "histogram",
        "The durations of one kind of one group in one interval. A group is a service port in one role, or what `--by` says.",
        [stamp(), of()],
        by_port,
        [durations()]
    )
}

/// The fields of a line of `hist --of transitions` in JSON.
pub const fn histogram_transitions_table(by: By) -> &'static Table<HistogramTransitionsRow> {
    tables_by!(
        by,
        HistogramTransitionsRow,
        "histogram",
        "The transitions of one group in one interval.",
        [stamp(), of()],
        by_port,
        [transitions()]
    )
}

/// The fields of a row of `hist --of transitions` in CSV.
pub const fn histogram_transition_table(by: By) -> &'static Table<HistogramTransitionRow> {
    tables_by!(
        by,
        HistogramTransitionRow,
        "histogram",
        "One transition of one group in one interval.",
        [stamp(), of()],
        by_port,
        [transition()]
    )
}
