//! Metrics by what connections belong to (`--labels`).

use std::fmt::{self, Display};

use super::{Exposed, Kind, Metric, samples::Samples};

pub(super) static METRICS: &[Metric] = &[
    Metric {
        stem: "tcpstate_workload_transitions",
        kind: Kind::Counter,
        unit: None,
        labels: &[
            "from",
            "to",
            "unit",
            "container",
            "pod",
            "namespace",
            "comm",
        ],
        meaning: "State changes by old state, new state and those of the last five labels that --labels names; without it there are \
            none",
        read: transitions,
    },
    Metric {
        stem: "tcpstate_workload_connections_closed",
        kind: Kind::Counter,
        unit: None,
        labels: &[
            "cause",
            "role",
            "unit",
            "container",
            "pod",
            "namespace",
            "comm",
        ],
        meaning: "Connections that ended, by cause, role and those of the last five labels that --labels names; without it there are \
            none",
        read: closed,
    },
    Metric {
        stem: "tcpstate_workload_connections",
        kind: Kind::Gauge,
        unit: None,
        labels: &["state", "unit", "container", "pod", "namespace", "comm"],
        meaning: "Sockets by state and those of the last five labels that --labels names, at the latest look; in TIME_WAIT the cgroup and \
            the process are not known; without it there are none",
        read: states,
    },
];

fn transitions(exposed: &Exposed, samples: &mut Samples<'_>) -> fmt::Result {
    let Some(counts) = &exposed.workloads else {
        return Ok(());
    };
    samples.label(counts.labels.transitions);
    for place in &counts.places {
        for ((from, to), count) in &place.transitions {
            let own: [&dyn Display; 2] = [from, to];
            samples.counter(&with(&own, &place.values), *count)?;
        }
    }
    Ok(())
}

fn closed(exposed: &Exposed, samples: &mut Samples<'_>) -> fmt::Result {
    let Some(counts) = &exposed.workloads else {
        return Ok(());
    };
    samples.label(counts.labels.closed);
    for place in &counts.places {
        for ((cause, role), count) in &place.closed {
            let (cause, role) = (cause.name(), role.name());
            let own: [&dyn Display; 2] = [&cause, &role];
            samples.counter(&with(&own, &place.values), *count)?;
        }
    }
    Ok(())
}

fn states(exposed: &Exposed, samples: &mut Samples<'_>) -> fmt::Result {
    let Some(counts) = &exposed.workloads else {
        return Ok(());
    };
    samples.label(counts.labels.states);
    for place in &counts.places {
        for (state, count) in &place.states {
            let own: [&dyn Display; 1] = [state];
            samples.gauge(&with(&own, &place.values), *count)?;
        }
    }
    Ok(())
}

/// The values of a metric's own labels, and those of the chosen ones.
fn with<'a>(own: &[&'a dyn Display], values: &'a [Box<str>]) -> Vec<&'a dyn Display> {
    let chosen = values.iter().map(|value| value as &dyn Display);
    own.iter().copied().chain(chosen).collect()
}
