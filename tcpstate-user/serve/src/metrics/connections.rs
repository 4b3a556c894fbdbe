//! Metrics of connections: transitions, states, durations, ends, and what the samples know of listeners.

use std::{collections::BTreeMap, fmt};

use tcpstate_common::State;
use tcpstate_core::{
    census::ListenFigures,
    histogram::Histogram,
    model::{Figures, GroupKey, Of},
    service::Role,
};

use super::{
    Exposed, Kind, Metric, Unit,
    samples::{PortLabel, Samples},
};

pub(super) static METRICS: &[Metric] = &[
    Metric {
        stem: "tcpstate_transitions",
        kind: Kind::Counter,
        unit: None,
        labels: &["from", "to", "port"],
        meaning: "State changes by old state, new state and service port",
        read: transitions,
    },
    Metric {
        stem: "tcpstate_state_duration",
        kind: Kind::Histogram,
        unit: Some(Unit::Seconds),
        labels: &["state", "port"],
        meaning: "Time that connections spent in a state, counted when they left it; where the time is not known, \
            nothing is counted",
        read: state_durations,
    },
    Metric {
        stem: "tcpstate_connections",
        kind: Kind::Gauge,
        unit: None,
        labels: &["state"],
        meaning: "Sockets in each state now, in all 11 states; CLOSE is always 0, since a closed socket is not counted; \
            listeners are in LISTEN, half-open connections in SYN_RECV; TIME_WAIT and half-open connections are sampled",
        read: states,
    },
    Metric {
        stem: "tcpstate_handshake_duration",
        kind: Kind::Histogram,
        unit: Some(Unit::Seconds),
        labels: &["role", "port"],
        meaning: "Time of handshakes: of a client from SYN to ESTABLISHED, of a server its first smoothed round trip",
        read: handshakes,
    },
    Metric {
        stem: "tcpstate_connection_duration",
        kind: Kind::Histogram,
        unit: Some(Unit::Seconds),
        labels: &["role", "port"],
        meaning: "Time from a connection's first transition to its last, counted when it ends; only of those whose \
            beginning was seen",
        read: lifetimes,
    },
    Metric {
        stem: "tcpstate_connections_closed",
        kind: Kind::Counter,
        unit: None,
        labels: &["cause", "role", "port"],
        meaning: "Connections that ended, by cause, role and service port",
        read: closed,
    },
    Metric {
        stem: "tcpstate_synack_retransmits",
        kind: Kind::Counter,
        unit: None,
        labels: &[],
        meaning: "SYN-ACKs that were sent again",
        read: |exposed, samples| samples.known(&[], listen(exposed).synack_retransmits),
    },
    Metric {
        stem: "tcpstate_listen_overflows",
        kind: Kind::Counter,
        unit: None,
        labels: &[],
        meaning: "Connections that an accept queue had no room for (ListenOverflows)",
        read: |exposed, samples| samples.known(&[], listen(exposed).overflows),
    },
    Metric {
        stem: "tcpstate_listen_drops",
        kind: Kind::Counter,
        unit: None,
        labels: &[],
        meaning: "SYNs and handshakes that listeners dropped for any reason (ListenDrops)",
        read: |exposed, samples| samples.known(&[], listen(exposed).drops),
    },
    Metric {
        stem: "tcpstate_request_queue_full_drops",
        kind: Kind::Counter,
        unit: None,
        labels: &[],
        meaning: "SYNs that were dropped because a SYN queue was full and cookies are off (TCPReqQFullDrop)",
        read: |exposed, samples| samples.known(&[], listen(exposed).request_queue_full_drops),
    },
    Metric {
        stem: "tcpstate_syn_cookies_sent",
        kind: Kind::Counter,
        unit: None,
        labels: &[],
        meaning: "SYN cookies that were sent (SyncookiesSent)",
        read: |exposed, samples| samples.known(&[], listen(exposed).cookies_sent),
    },
];

/// The counters of listeners since the start, as far as they are known.
fn listen(exposed: &Exposed) -> ListenFigures {
    let handshakes = exposed.snapshot.handshakes.as_ref();
    handshakes.map_or_else(ListenFigures::default, |known| known.listen_total)
}

/// The figures of each service port and role.
fn services(exposed: &Exposed) -> impl Iterator<Item = (PortLabel, Role, &Figures)> {
    let groups = exposed.snapshot.tracker.groups.iter();
    groups.filter_map(|group| match group.key {
        GroupKey::Port(port, role) => Some((PortLabel(port), role, &group.figures)),
        _ => None,
    })
}

fn transitions(exposed: &Exposed, samples: &mut Samples<'_>) -> fmt::Result {
    let mut counts: BTreeMap<_, u64> = BTreeMap::new();
    for (port, _, figures) in services(exposed) {
        for change in &figures.transitions {
            *counts.entry((port, change.from, change.to)).or_default() += change.count;
        }
    }
    for ((port, from, to), count) in counts {
        samples.counter(&[&from, &to, &port], count)?;
    }
    Ok(())
}

fn states(exposed: &Exposed, samples: &mut Samples<'_>) -> fmt::Result {
    let mut counts: BTreeMap<State, u64> = State::ALL.map(|state| (state, 0)).into();
    for &(state, count) in &exposed.snapshot.tracker.all.states {
        *counts.entry(state.folded()).or_default() += count;
    }
    for (state, count) in counts {
        samples.gauge(&[&state], count)?;
    }
    Ok(())
}

fn closed(exposed: &Exposed, samples: &mut Samples<'_>) -> fmt::Result {
    for (port, role, figures) in services(exposed) {
        for (cause, count) in &figures.causes {
            samples.counter(&[&cause.name(), &role.name(), &port], *count)?;
        }
    }
    Ok(())
}

/// The histograms of each service port and role.
fn histograms(exposed: &Exposed) -> impl Iterator<Item = (Of, PortLabel, Role, &Histogram)> {
    let all = exposed.snapshot.tracker.histograms.iter();
    all.filter_map(|series| match series.key {
        GroupKey::Port(port, role) => Some((series.of, PortLabel(port), role, &series.histogram)),
        _ => None,
    })
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a sum of seconds is as exact as a double"
)]
fn sum_of(histogram: &Histogram) -> f64 {
    histogram.sum_ns() as f64 / 1e9
}

fn state_durations(exposed: &Exposed, samples: &mut Samples<'_>) -> fmt::Result {
    let mut merged: BTreeMap<(PortLabel, State), Histogram> = BTreeMap::new();
    for (of, port, _, histogram) in histograms(exposed) {
        if let Of::Dwell(state) = of {
            merged.entry((port, state)).or_default().merge(histogram);
        }
    }
    for ((port, state), histogram) in merged {
        let counts = exposed.buckets.counts(&histogram);
        samples.histogram(&[&state, &port], sum_of(&histogram), &counts)?;
    }
    Ok(())
}

fn handshakes(exposed: &Exposed, samples: &mut Samples<'_>) -> fmt::Result {
    by_role(exposed, samples, Of::Handshake)
}

fn lifetimes(exposed: &Exposed, samples: &mut Samples<'_>) -> fmt::Result {
    by_role(exposed, samples, Of::Lifetime)
}

fn by_role(exposed: &Exposed, samples: &mut Samples<'_>, wanted: Of) -> fmt::Result {
    for (of, port, role, histogram) in histograms(exposed) {
        if of == wanted {
            let counts = exposed.buckets.counts(histogram);
            samples.histogram(&[&role.name(), &port], sum_of(histogram), &counts)?;
        }
    }
    Ok(())
}
