//! Metrics of the latest look at the host's sockets: accept queues, half-open connections, ages.

use std::{collections::BTreeMap, fmt};

use tcpstate_common::State;
use tcpstate_core::diagnosis::ListenerNow;

use super::{
    Exposed, Kind, Metric, Unit,
    samples::{PortLabel, Samples},
};
use crate::buckets::seconds;

const fn gauge(
    stem: &'static str,
    unit: Option<Unit>,
    labels: &'static [&'static str],
    meaning: &'static str,
    read: fn(&Exposed, &mut Samples<'_>) -> fmt::Result,
) -> Metric {
    Metric {
        stem,
        kind: Kind::Gauge,
        unit,
        labels,
        meaning,
        read,
    }
}

pub(super) static METRICS: &[Metric] = &[
    gauge(
        "tcpstate_half_open_connections",
        None,
        &["port"],
        "Half-open connections by their listener's port, at the latest sample",
        half_open,
    ),
    gauge(
        "tcpstate_accept_queue_length",
        None,
        &["port"],
        "Connections that wait to be accepted, of all listeners at the port, at the latest look",
        |exposed, samples| sums(exposed, samples, |listener| listener.waiting),
    ),
    gauge(
        "tcpstate_accept_queue_limit",
        None,
        &["port"],
        "Connections that may wait to be accepted (the backlog), of all listeners at the port, at the latest look",
        |exposed, samples| sums(exposed, samples, |listener| listener.backlog),
    ),
    gauge(
        "tcpstate_accept_queue_fullest",
        Some(Unit::Ratio),
        &["port"],
        "Length by limit of the accept queue, of the listener at the port where it is largest, at the latest look; above 1 \
            the kernel drops further ones",
        fullest,
    ),
    gauge(
        "tcpstate_oldest_connection",
        Some(Unit::Seconds),
        &["state", "port"],
        "Time for which the oldest connection has been in its state, at least, at the latest look; of the states that pass, so \
            of neither ESTABLISHED nor TIME_WAIT",
        oldest,
    ),
    gauge(
        "tcpstate_stale_connections",
        None,
        &["state", "port"],
        "Connections that have been in their state for longer than its threshold (CLOSE_WAIT and FIN_WAIT2 60 s, FIN_WAIT1, \
            LAST_ACK and CLOSING 10 s, SYN_SENT 3 s, or as --rules says), at the latest look; in FIN_WAIT2 only those that a \
            process holds",
        stale,
    ),
    gauge(
        "tcpstate_look_age",
        Some(Unit::Seconds),
        &[],
        "Time since the latest look at the host's sockets; it takes at most a hundredth of a core, so that many sockets make it \
            rarer",
        |exposed, samples| match &exposed.snapshot.survey {
            Some(survey) => {
                let now_ns = exposed.snapshot.tracker.now_ns;
                samples.gauge(&[], seconds(now_ns.saturating_sub(survey.ts_ns)))
            }
            None => Ok(()),
        },
    ),
];

/// The listeners at the latest look.
fn listeners(exposed: &Exposed) -> impl Iterator<Item = (PortLabel, &ListenerNow)> {
    let survey = exposed.snapshot.survey.iter();
    let all = survey.flat_map(|survey| &survey.listeners);
    all.map(|listener| (exposed.ports.label(Some(listener.port)), listener))
}

fn half_open(exposed: &Exposed, samples: &mut Samples<'_>) -> fmt::Result {
    let Some(handshakes) = &exposed.snapshot.handshakes else {
        return Ok(());
    };
    // A listener without any has 0, so that its series goes on.
    let mut counts: BTreeMap<PortLabel, u64> =
        listeners(exposed).map(|(port, _)| (port, 0)).collect();
    for at in &handshakes.half_open {
        let port = exposed.ports.label(Some(at.half_open.lport));
        *counts.entry(port).or_default() += at.half_open.count;
    }
    for (port, count) in counts {
        samples.gauge(&[&port], count)?;
    }
    Ok(())
}

/// The sum of a figure over the listeners at each port, where it is known.
fn sums(
    exposed: &Exposed,
    samples: &mut Samples<'_>,
    figure: fn(&ListenerNow) -> Option<u32>,
) -> fmt::Result {
    let mut sums: BTreeMap<PortLabel, u64> = BTreeMap::new();
    for (port, listener) in listeners(exposed) {
        if let Some(figure) = figure(listener) {
            *sums.entry(port).or_default() += u64::from(figure);
        }
    }
    for (port, sum) in sums {
        samples.gauge(&[&port], sum)?;
    }
    Ok(())
}

fn fullest(exposed: &Exposed, samples: &mut Samples<'_>) -> fmt::Result {
    let mut fullest: BTreeMap<PortLabel, f64> = BTreeMap::new();
    for (port, listener) in listeners(exposed) {
        let (Some(waiting), Some(backlog)) = (listener.waiting, listener.backlog) else {
            continue;
        };
        // With a backlog of 0 one connection may wait.
        let ratio = f64::from(waiting) / f64::from(backlog.max(1));
        let largest = fullest.entry(port).or_default();
        *largest = largest.max(ratio);
    }
    for (port, ratio) in fullest {
        samples.gauge(&[&port], ratio)?;
    }
    Ok(())
}

/// Whether the kernel or an application should soon end this state.
fn passes(state: State) -> bool {
    !matches!(state, State::ESTABLISHED | State::TIME_WAIT)
}

fn oldest(exposed: &Exposed, samples: &mut Samples<'_>) -> fmt::Result {
    let mut oldest: BTreeMap<(PortLabel, State), u64> = BTreeMap::new();
    for (key, group) in exposed.snapshot.survey.iter().flat_map(|all| &all.groups) {
        if let Some(age) = group.oldest.filter(|_| passes(key.state)) {
            let at = (exposed.ports.label(key.port), key.state);
            let longest = oldest.entry(at).or_default();
            *longest = age.at_least_ns.max(*longest);
        }
    }
    for ((port, state), age_ns) in oldest {
        samples.gauge(&[&state, &port], seconds(age_ns))?;
    }
    Ok(())
}

/// The states with a threshold.
const WITH_THRESHOLD: [State; 6] = [
    State::SYN_SENT,
    State::FIN_WAIT1,
    State::FIN_WAIT2,
    State::CLOSE_WAIT,
    State::LAST_ACK,
    State::CLOSING,
];

fn stale(exposed: &Exposed, samples: &mut Samples<'_>) -> fmt::Result {
    let mut counts: BTreeMap<(PortLabel, State), u64> = BTreeMap::new();
    for (key, group) in exposed.snapshot.survey.iter().flat_map(|all| &all.groups) {
        if WITH_THRESHOLD.contains(&key.state) {
            let at = (exposed.ports.label(key.port), key.state);
            *counts.entry(at).or_default() += group.stale;
        }
    }
    for ((port, state), count) in counts {
        samples.gauge(&[&state, &port], count)?;
    }
    Ok(())
}
