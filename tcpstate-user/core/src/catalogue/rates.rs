//! The fields of an interval of `rates`, of the groups in it, and of their transitions.

use tcpstate_common::State;

use super::{
    column::{Column, Formats, Kind, Table, Value},
    common::{Stamp, stamp},
    group::{Group, by_port, tables_by},
};
use crate::{
    census::ListenFigures,
    handshakes::HalfOpenAt,
    histogram::Histogram,
    model::{By, Figures},
    transition::TransitionCount,
};

/// The counts of an interval, over all or of one group.
#[derive(Clone, Debug)]
pub struct FiguresRow {
    /// The figures.
    pub figures: Figures,
    /// Length of the interval.
    pub interval_ns: u64,
    /// Whether minisockets and request sockets are sampled.
    pub sampled: bool,
}

/// An interval.
#[derive(Clone, Debug)]
pub struct RatesRow {
    /// The interval.
    pub stamp: Stamp,
    /// The interval between samples; `None`: nothing is sampled.
    pub sample_interval_ns: Option<u64>,
    /// The counts over all.
    pub all: FiguresRow,
    /// How long connections were in the states that they left.
    pub dwell: Vec<(State, Histogram)>,
    /// Half-open connections by place; `None` where they are not sampled.
    pub half_open: Option<Vec<HalfOpenAt>>,
    /// The counts of listeners.
    pub listen: ListenFigures,
}

/// A group in an interval.
#[derive(Clone, Debug)]
pub struct GroupRow {
    /// The group.
    pub group: Group,
    /// Its part of all transitions; `None` where there were none.
    pub share: Option<f64>,
    /// Its counts.
    pub figures: FiguresRow,
}

/// One transition of a group in an interval.
#[derive(Clone, Debug)]
pub struct GroupTransitionRow {
    /// The interval.
    pub stamp: Stamp,
    /// The group.
    pub group: Group,
    /// The transition.
    pub transition: TransitionCount,
}

impl AsRef<Stamp> for RatesRow {
    fn as_ref(&self) -> &Stamp {
        &self.stamp
    }
}

impl AsRef<FiguresRow> for RatesRow {
    fn as_ref(&self) -> &FiguresRow {
        &self.all
    }
}

impl AsRef<FiguresRow> for GroupRow {
    fn as_ref(&self) -> &FiguresRow {
        &self.figures
    }
}

impl AsRef<Group> for GroupRow {
    fn as_ref(&self) -> &Group {
        &self.group
    }
}

impl AsRef<Stamp> for GroupTransitionRow {
    fn as_ref(&self) -> &Stamp {
        &self.stamp
    }
}

impl AsRef<Group> for GroupTransitionRow {
    fn as_ref(&self) -> &Group {
        &self.group
    }
}

impl FiguresRow {
    const fn per_second(&self, count: u64) -> Value<'_> {
        Value::PerSecond {
            count,
            interval_ns: self.interval_ns,
        }
    }
}

const fn figures<R: AsRef<FiguresRow>>() -> [Column<R>; 11] {
    const NO_TIME: &str = "the interval has no length";
    [
        Column::<R>::new(
            "transitions",
            Kind::Nested("list of `{from, to, count, rate}`"),
            |row| {
                let row = row.as_ref();
                Value::Transitions {
                    counts: &row.figures.transitions,
                    interval_ns: Some(row.interval_ns),
                }
            },
            "The transitions that happened; `rate` is per second",
        ),
        Column::<R>::new(
            "states",
            Kind::Nested("map from state to count"),
            |row| {
                let row = row.as_ref();
                Value::States {
                    now: &row.figures.states,
                    sampled: row.sampled,
                }
            },
            "Sockets in each state at the end of the interval; `null` for a state that no transition \
             shows and that is not sampled",
        ),
        Column::<R>::new(
            "opened",
            Kind::Count,
            |row| row.as_ref().figures.opened.into(),
            "Connections that began",
        ),
        Column::<R>::new(
            "established",
            Kind::Count,
            |row| row.as_ref().figures.established.into(),
            "Connections that were established",
        ),
        Column::<R>::new(
            "closed",
            Kind::Count,
            |row| row.as_ref().figures.closed.into(),
            "Connections that ended",
        ),
        Column::<R>::new(
            "failed",
            Kind::Count,
            |row| row.as_ref().figures.failed.into(),
            "Connections that ended without having been established",
        ),
        Column::<R>::new(
            "per_second.opened",
            Kind::PerSecond,
            |row| row.as_ref().per_second(row.as_ref().figures.opened),
            "`opened` as a rate",
        )
        .unknown(NO_TIME),
        Column::<R>::new(
            "per_second.established",
            Kind::PerSecond,
            |row| row.as_ref().per_second(row.as_ref().figures.established),
            "`established` as a rate",
        )
        .unknown(NO_TIME),
        Column::<R>::new(
            "per_second.closed",
            Kind::PerSecond,
            |row| row.as_ref().per_second(row.as_ref().figures.closed),
            "`closed` as a rate",
        )
        .unknown(NO_TIME),
        Column::<R>::new(
            "per_second.failed",
            Kind::PerSecond,
            |row| row.as_ref().per_second(row.as_ref().figures.failed),
            "`failed` as a rate",
        )
        .unknown(NO_TIME),
        Column::<R>::new(
            "causes",
            Kind::Nested("map from cause to count"),
            |row| Value::Causes(&row.as_ref().figures.causes),
            "Connections that ended, by cause",
        ),
    ]
}

const fn listen(
    name: &'static str,
    get: for<'a> fn(&'a RatesRow) -> Value<'a>,
    doc: &'static str,
) -> Column<RatesRow> {
    Column::<RatesRow>::new(name, Kind::Count, get, doc)
        .unknown("the kernel does not count it, or nothing is sampled")
}

/// The fields of an interval. In JSON a list of the groups follows, under the name that [`plural`](super::plural) gives;
/// [`group_table`] has its fields.
pub static RATES: Table<RatesRow> = Table {
    name: "rates",
    doc: "What happened in one interval. The kernel counts `listen` by network namespace: filters on sockets \
          do not apply to it.",
    sections: &[
        &stamp(),
        &[Column::<RatesRow>::new(
            "sample_interval_ns",
            Kind::Nanoseconds,
            |row| row.sample_interval_ns.into(),
            "The interval between samples of minisockets and half-open connections",
        )
        .unknown("nothing is sampled")],
        &figures(),
        &[
            Column::<RatesRow>::new(
                "dwell",
                Kind::Nested("map from state to `{count, p50_ns, p90_ns, p99_ns}`"),
                |row| Value::Dwell(&row.dwell),
                "How long connections were in the states that they left in the interval",
            ),
            Column::<RatesRow>::new(
                "half_open",
                Kind::Nested(
                    "list of `{netns, laddr, lport, count, oldest_ns, oldest_at_least_ns, \
                     synack_retransmits}`",
                ),
                |row| {
                    let places = row.half_open.as_deref();
                    places.map_or(Value::Unknown, Value::HalfOpen)
                },
                "Half-open connections by the local address and port that they came to. Where the age of \
                 the oldest is not known, `oldest_ns` is `null` and `oldest_at_least_ns` is a lower bound",
            )
            .unknown("nothing is sampled"),
            listen(
                "listen.overflows",
                |row| row.listen.overflows.into(),
                "Connections that the accept queue had no room for (`ListenOverflows`)",
            ),
            listen(
                "listen.drops",
                |row| row.listen.drops.into(),
                "SYNs and handshakes that were dropped, for any reason (`ListenDrops`)",
            ),
            listen(
                "listen.request_queue_full_drops",
                |row| row.listen.request_queue_full_drops.into(),
                "SYNs that were dropped because the SYN queue was full and SYN cookies are off \
                 (`TCPReqQFullDrop`)",
            ),
            listen(
                "listen.cookies_sent",
                |row| row.listen.cookies_sent.into(),
                "SYN cookies sent (`SyncookiesSent`)",
            ),
            listen(
                "listen.synack_retransmits",
                |row| row.listen.synack_retransmits.into(),
                "SYN-ACKs that were sent again",
            ),
        ],
    ],
};

/// The fields of an interval of the past: those of [`RATES`] that a history keeps.
pub static PAST: Table<RatesRow> = Table {
    name: "rates",
    doc: "What happened in one interval of the past.",
    sections: &[&stamp(), &figures()],
};

const fn share() -> [Column<GroupRow>; 1] {
    [Column::<GroupRow>::new(
        "share",
        Kind::Share,
        |row| row.share.map_or(Value::Unknown, Value::Share),
        "The group's part of all transitions of the interval",
    )
    .unknown("nothing happened in the interval")
    .only(Formats::Json)]
}

const fn counted() -> [Column<GroupTransitionRow>; 4] {
    [
        Column::<GroupTransitionRow>::new(
            "from",
            Kind::State,
            |row| row.transition.from.into(),
            "State before the transition",
        ),
        Column::<GroupTransitionRow>::new(
            "to",
            Kind::State,
            |row| row.transition.to.into(),
            "State after the transition",
        ),
        Column::<GroupTransitionRow>::new(
            "count",
            Kind::Count,
            |row| row.transition.count.into(),
            "How often it happened",
        ),
        Column::<GroupTransitionRow>::new(
            "rate",
            Kind::PerSecond,
            |row| Value::PerSecond {
                count: row.transition.count,
                interval_ns: row.stamp.interval_ns,
            },
            "How often it happened per second",
        )
        .unknown("the interval has no length"),
    ]
}

/// The fields of a group in a line of JSON.
pub const fn group_table(by: By) -> &'static Table<GroupRow> {
    tables_by!(
        by,
        GroupRow,
        "group",
        "What happened to one group in one interval.",
        [],
        by_port,
        [share(), figures()]
    )
}

/// The fields of a row of CSV: one transition of one group. What did not happen has no row.
pub const fn group_transition_table(by: By) -> &'static Table<GroupTransitionRow> {
    tables_by!(
        by,
        GroupTransitionRow,
        "rates",
        "One transition of one group in one interval.",
        [stamp()],
        by_port,
        [counted()]
    )
}
