//! Histograms for machines.
//!
//! JSON has the buckets as they are kept, no wider than 1/128 of what is in them, so that another
//! program can add them up over time and hosts. CSV has a row for each histogram, without buckets, or
//! for each transition.

use std::{
    fmt::Display,
    io::{self, Write},
};

use serde::{Serialize, Serializer};
use tcpstate_common::State;

use super::{Item, What};
use crate::format::{
    csv::{OrEmpty, Rows},
    json::{self, Lines, state},
    time::Rfc3339,
};
use tcpstate_core::{
    histogram::Histogram, model::Of, service::ServicePort, transition::TransitionCount,
};

/// When: the end of an interval, and its length.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Stamp<'a> {
    pub(super) ts: Rfc3339<'a>,
    pub(super) ts_ns: u64,
    pub(super) interval_ns: u64,
}

/// Which columns a CSV file has.
#[derive(Clone, Copy)]
pub(super) enum Columns {
    Durations,
    Transitions,
}

impl Columns {
    pub(super) fn titles(self, rows: &mut Rows, out: &mut dyn Write) -> io::Result<()> {
        const SERVICE: [&str; 6] = ["ts", "ts_ns", "interval_ns", "of", "service_port", "role"];
        let more: &[&str] = match self {
            Self::Durations => &[
                "state", "count", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns",
            ],
            Self::Transitions => &["from", "to", "count"],
        };
        let titles: Vec<&dyn Display> = SERVICE
            .iter()
            .chain(more)
            .map(|title| title as &dyn Display)
            .collect();
        rows.row(&titles, out)
    }
}

pub(super) fn csv(
    item: &Item,
    stamp: Stamp<'_>,
    rows: &mut Rows,
    out: &mut dyn Write,
) -> io::Result<()> {
    let port: Box<dyn Display> = match item.service_port {
        ServicePort::Port(port) => Box::new(port),
        ServicePort::Other => Box::new(OTHER),
        ServicePort::Unknown => Box::new(""),
    };
    let role = OrEmpty(json::role(item.role));
    let service = |of| -> [Box<dyn Display + '_>; 4] {
        [
            Box::new(stamp.ts),
            Box::new(stamp.ts_ns),
            Box::new(stamp.interval_ns),
            Box::new(of),
        ]
    };
    match &item.what {
        What::Durations { of, histogram } => {
            let figures = Figures::new(histogram);
            let before = service(name_of(*of));
            let more: [&dyn Display; 9] = [
                &port,
                &role,
                &OrEmpty(state_of(*of)),
                &figures.count,
                &OrEmpty(figures.p50_ns),
                &OrEmpty(figures.p90_ns),
                &OrEmpty(figures.p99_ns),
                &OrEmpty(figures.p999_ns),
                &OrEmpty(figures.max_ns),
            ];
            let cells: Vec<&dyn Display> =
                before.iter().map(|cell| &**cell as _).chain(more).collect();
            rows.row(&cells, out)
        }
        What::Transitions(transitions) => {
            let before = service(TRANSITIONS);
            for TransitionCount { from, to, count } in transitions {
                let more: [&dyn Display; 5] = [&port, &role, from, to, count];
                let cells: Vec<&dyn Display> =
                    before.iter().map(|cell| &**cell as _).chain(more).collect();
                rows.row(&cells, out)?;
            }
            Ok(())
        }
    }
}

pub(super) fn json(
    item: &Item,
    stamp: Stamp<'_>,
    lines: &mut Lines,
    out: &mut dyn Write,
) -> io::Result<()> {
    let line = |of, what| Line {
        kind: "histogram",
        stamp,
        of,
        service_port: item.service_port,
        role: json::role(item.role),
        what,
    };
    match &item.what {
        What::Durations { of, histogram } => {
            let what = Durations {
                state: state_of(*of).map(Name),
                figures: Figures::new(histogram),
                buckets: buckets(histogram),
            };
            lines.write(&line(name_of(*of), Content::Durations(what)), out)
        }
        What::Transitions(transitions) => {
            let what = Transitions {
                count: item.count(),
                transitions: transitions
                    .iter()
                    .map(|&TransitionCount { from, to, count }| Transition { from, to, count })
                    .collect(),
            };
            lines.write(&line(TRANSITIONS, Content::Transitions(what)), out)
        }
    }
}

const OTHER: &str = "other";
const TRANSITIONS: &str = "transitions";

const fn name_of(of: Of) -> &'static str {
    match of {
        Of::Dwell(_) => "dwell",
        Of::Lifetime => "lifetime",
        Of::Handshake => "handshake",
    }
}

const fn state_of(of: Of) -> Option<State> {
    match of {
        Of::Dwell(state) => Some(state),
        Of::Lifetime | Of::Handshake => None,
    }
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    stamp: Stamp<'a>,
    of: &'static str,
    #[serde(serialize_with = "service_port")]
    service_port: ServicePort,
    role: Option<&'static str>,
    #[serde(flatten)]
    what: Content,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content {
    Durations(Durations),
    Transitions(Transitions),
}

#[derive(Serialize)]
struct Durations {
    state: Option<Name>,
    #[serde(flatten)]
    figures: Figures,
    buckets: Vec<Range>,
}

#[derive(Serialize)]
struct Transitions {
    count: u64,
    transitions: Vec<Transition>,
}

#[derive(Serialize)]
struct Transition {
    #[serde(serialize_with = "state")]
    from: State,
    #[serde(serialize_with = "state")]
    to: State,
    count: u64,
}

#[derive(Serialize)]
struct Name(#[serde(serialize_with = "state")] State);

/// What is told of the durations without their buckets.
#[derive(Serialize)]
struct Figures {
    count: u64,
    p50_ns: Option<u64>,
    p90_ns: Option<u64>,
    p99_ns: Option<u64>,
    p999_ns: Option<u64>,
    max_ns: Option<u64>,
}

impl Figures {
    fn new(histogram: &Histogram) -> Self {
        Self {
            count: histogram.count(),
            p50_ns: histogram.quantile(0.5),
            p90_ns: histogram.quantile(0.9),
            p99_ns: histogram.quantile(0.99),
            p999_ns: histogram.quantile(0.999),
            max_ns: histogram.max_ns(),
        }
    }
}

/// The durations from `lower_ns` up to, and without, `upper_ns`.
#[derive(Serialize)]
struct Range {
    lower_ns: u64,
    upper_ns: u64,
    count: u64,
}

/// The buckets that are not empty. The first and the last one reach as far as what was too short or
/// too long for any.
fn buckets(histogram: &Histogram) -> Vec<Range> {
    let mut ranges: Vec<Range> = histogram
        .buckets()
        .map(|bucket| Range {
            lower_ns: bucket.lower_ns,
            upper_ns: bucket.upper_ns,
            count: bucket.count,
        })
        .collect();
    if let (Some(first), Some(min_ns)) = (ranges.first_mut(), histogram.min_ns()) {
        first.lower_ns = first.lower_ns.min(min_ns);
    }
    if let (Some(last), Some(max_ns)) = (ranges.last_mut(), histogram.max_ns()) {
        last.upper_ns = last.upper_ns.max(max_ns.saturating_add(1));
    }
    ranges
}

/// A number, `other`, or null where it is not known.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn service_port<S: Serializer>(port: &ServicePort, serializer: S) -> Result<S::Ok, S::Error> {
    match port {
        ServicePort::Port(port) => serializer.serialize_u16(*port),
        ServicePort::Other => serializer.serialize_str(OTHER),
        ServicePort::Unknown => serializer.serialize_none(),
    }
}
