//! The text of a run that is made here, and the table.

use std::{collections::BTreeSet, io};

use tcpstate_common::{
    Record, State,
    record::{AF_INET, flags},
};
use tcpstate_core::{
    books::{Accounting, LostByReason, RunBooks},
    event::Event,
    model::{By, Connections, Include, Limits},
    origin::Origin,
    present::{Options, Publisher},
    view::View as _,
};

use super::*;
use crate::exposition::{Format, write};

mod looked;
mod size;
mod workloads;

const SECOND: u64 = 1_000_000_000;

/// A publisher whose run has started, with labels for two ports.
pub(crate) fn publisher() -> Publisher {
    with(Limits {
        max_ports: 2,
        ..Limits::default()
    })
}

/// A publisher whose run has started.
fn with(limits: Limits) -> Publisher {
    let ports = "1-30000".parse().unwrap();
    let mut publisher = Publisher::new(&Options {
        interval_ns: SECOND,
        by: By::Port,
        include: Include {
            connections: Connections::None,
            histograms: true,
        },
        in_kernel: false,
        limits,
    })
    .with_ports(&ports);
    publisher.start(&origin(), &mut io::sink()).unwrap();
    publisher
}

fn origin() -> Origin {
    Origin {
        host: "host".into(),
        kernel: "6.18".into(),
        attach: "btf".into(),
        wall_at_monotonic_zero_ns: 0,
        started_ns: 0,
        filters: String::new(),
        live: true,
        sample_interval_ns: Some(SECOND),
    }
}

fn change(publisher: &mut Publisher, rport: u16, (cookie, ts_ns): (u64, u64), to: (State, State)) {
    let event = Event::try_from(Record {
        ts_ns,
        cookie,
        rport,
        oldstate: to.0,
        newstate: to.1,
        family: AF_INET,
        flags: flags::COOKIE,
        ..Record::default()
    });
    publisher
        .event(&event.expect("AF_INET"), &mut io::sink())
        .unwrap();
}

/// A client begins to connect to port 80.
pub(crate) fn transition(publisher: &mut Publisher, cookie: u64) {
    let opens = (State::CLOSE, State::SYN_SENT);
    change(publisher, 80, (cookie, cookie), opens);
}

/// The second ends, and `lost` events have been lost since the start.
pub(crate) fn tick(publisher: &mut Publisher, second: u64, lost: u64) {
    publisher.books(&RunBooks {
        accounting: Accounting {
            seen: 10 + lost,
            submitted: 10,
            received: 10,
            lost,
            lost_by_reason: LostByReason {
                ring_full: lost,
                nested: None,
            },
            ..Accounting::default()
        },
        ..RunBooks::default()
    });
    publisher.tick(second * SECOND, &mut io::sink()).unwrap();
}

fn text(publisher: &Publisher, format: Format) -> String {
    text_with(publisher, &mut Default::default(), format)
}

/// The text, with these findings and drops of before.
fn text_with(publisher: &Publisher, before: &mut (Findings, Drops), format: Format) -> String {
    write(exposed(publisher, before), format).unwrap()
}

fn exposed(publisher: &Publisher, (findings, drops): &mut (Findings, Drops)) -> Exposed {
    let snapshot = publisher.subscribe().latest().unwrap();
    let ports = Ports::of(&snapshot);
    findings.take(&snapshot, &ports);
    drops.take(&snapshot, &ports);
    Exposed {
        snapshot,
        ports,
        findings: findings.clone(),
        drops: drops.counts.clone(),
        workloads: None,
        buckets: Buckets::default(),
        ring_bytes: 65_536,
        resident_bytes: None,
        pushes: None,
    }
}

/// Clients that are refused after 1 ms: at a port with figures of its own, at others.
pub(crate) fn refused(publisher: &mut Publisher, ports: impl IntoIterator<Item = u16>) {
    for (cookie, port) in (1_000..).zip(ports) {
        let (begin, end) = (cookie * 10_000_000, cookie * 10_000_000 + 1_000_000);
        let opens = (State::CLOSE, State::SYN_SENT);
        let closes = (State::SYN_SENT, State::CLOSE);
        change(publisher, port, (cookie, begin), opens);
        change(publisher, port, (cookie, end), closes);
    }
}

#[test]
fn a_scrape_has_every_metric_with_its_labels() {
    let mut publisher = publisher();
    refused(&mut publisher, [80, 80, 443, 8_080, 40_000]);
    tick(&mut publisher, 1, 3);
    let text = text(&publisher, Format::Prometheus);
    for line in [
        "tcpstate_transitions_total{from=\"CLOSE\",to=\"SYN_SENT\",port=\"80\"} 2",
        "tcpstate_transitions_total{from=\"SYN_SENT\",to=\"CLOSE\",port=\"443\"} 1",
        // The third port, and an ephemeral one.
        "tcpstate_transitions_total{from=\"CLOSE\",to=\"SYN_SENT\",port=\"other\"} 2",
        "tcpstate_state_duration_seconds_count{state=\"SYN_SENT\",port=\"80\"} 2",
        "tcpstate_state_duration_seconds_sum{state=\"SYN_SENT\",port=\"80\"} 0.002",
        "tcpstate_state_duration_seconds_bucket{state=\"SYN_SENT\",port=\"80\",le=\"0.00025\"} 0",
        "tcpstate_state_duration_seconds_bucket{state=\"SYN_SENT\",port=\"80\",le=\"0.005\"} 2",
        "tcpstate_state_duration_seconds_bucket{state=\"SYN_SENT\",port=\"80\",le=\"+Inf\"} 2",
        "tcpstate_connection_duration_seconds_count{role=\"client\",port=\"other\"} 2",
        "tcpstate_connections{state=\"CLOSE_WAIT\"} 0",
        "tcpstate_events_seen_total 13",
        "tcpstate_events_lost_total{reason=\"ring_full\"} 3",
        "tcpstate_ring_bytes 65536",
        concat!(
            "tcpstate_build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1"
        ),
    ] {
        assert!(text.contains(&format!("\n{line}\n")), "no {line} in {text}");
    }
    // An unknown figure is left out.
    for absent in [
        "reason=\"nested\"",
        "\nprocess_resident_memory_bytes ",
        "\ntcpstate_bpf_run_seconds_total ",
    ] {
        assert!(!text.contains(absent), "{absent} in {text}");
    }
    for port in ["8080", "40000"] {
        assert!(
            !text.contains(&format!("port=\"{port}\"")),
            "{port} in {text}"
        );
    }
}

#[test]
fn all_states_are_there_from_the_start() {
    let mut publisher = publisher();
    tick(&mut publisher, 1, 0);
    let text = text(&publisher, Format::Prometheus);
    for state in State::ALL {
        let line = format!("\ntcpstate_connections{{state=\"{state}\"}} 0\n");
        assert!(text.contains(&line), "{line}: {text}");
    }
}

/// Every line belongs to the metric above it and has the labels of the table, and no others.
#[test]
fn lines_are_as_the_table_says() {
    let mut publisher = publisher();
    refused(&mut publisher, [80, 443, 8_080]);
    tick(&mut publisher, 1, 1);
    for format in [Format::OpenMetrics, Format::Prometheus] {
        let text = text(&publisher, format);
        let mut metric = None;
        let mut seen = BTreeSet::new();
        for line in text.lines().filter(|line| *line != "# EOF") {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, _) = rest.split_once(' ').unwrap();
                let named = |one: &&Metric| {
                    one.name() == name || one.name().starts_with(&format!("{name}_"))
                };
                // In OpenMetrics the name of a family lacks `_total`, and another one may begin with it.
                let exact = tables().find(|one| one.name() == name);
                metric = exact.or_else(|| tables().find(named));
                assert!(metric.is_some(), "{name}");
            } else if !line.starts_with('#') {
                let metric = metric.unwrap();
                let (name, labels) = line
                    .rsplit_once(' ')
                    .unwrap()
                    .0
                    .split_once('{')
                    .unwrap_or((line.split(' ').next().unwrap(), "}"));
                let base = match metric.kind {
                    Kind::Histogram => name.rsplit_once('_').unwrap().0,
                    _ => name,
                };
                assert_eq!(base, metric.name(), "{line}");
                let labels = labels.strip_suffix('}').unwrap();
                let names = labels
                    .split(',')
                    .filter_map(|label| Some(label.split_once('=')?.0));
                let names: Vec<&str> = names.filter(|name| *name != "le").collect();
                assert_eq!(names, metric.labels, "{line}");
                assert!(
                    seen.insert(line.rsplit_once(' ').unwrap().0.to_owned()),
                    "twice: {line}"
                );
            }
        }
        assert!(seen.len() > 100, "{text}");
    }
}

#[test]
fn names_follow_the_rules() {
    let mut names = BTreeSet::new();
    for metric in tables() {
        let name = metric.name();
        let is_plain = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(name.chars().all(is_plain), "{name}");
        assert!(name.starts_with("tcpstate_") || name.starts_with("process_"));
        assert!(!metric.meaning.ends_with('.'), "{name}");
        assert!(names.insert(name));
    }
}
