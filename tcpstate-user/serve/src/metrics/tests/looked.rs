//! The metrics of looks at the host's sockets: what they show, and what they find.

use std::collections::VecDeque;

use tcpstate_core::{
    census::{Census, HalfOpen},
    diagnosis::{Group, GroupKey, ListenerNow, Look, Looks, Survey, Thresholds, Top},
    inventory::Age,
    service::Role,
};

use super::*;

/// Looks that are given.
struct Given(VecDeque<Look>);

impl Looks for Given {
    fn newest(&mut self) -> Option<Look> {
        self.0.pop_front()
    }

    fn last(&mut self) -> Option<Look> {
        self.newest()
    }
}

fn listener(port: u16, waiting: u32, backlog: u32) -> ListenerNow {
    ListenerNow {
        cookie: 0,
        netns: 1,
        laddr: [0, 0, 0, 0].into(),
        port,
        waiting: Some(waiting),
        backlog: Some(backlog),
        drops: None,
        half_open: 0,
        half_open_peers: Top::default(),
        resent: 0,
        synack_retransmits: 0,
        deferred: 0,
        owner: None,
    }
}

fn look(ts_ns: u64, listeners: Vec<ListenerNow>, groups: &[(u16, State, Group)]) -> Look {
    let mut survey = Survey::default();
    (survey.ts_ns, survey.has_queues, survey.listeners) = (ts_ns, true, listeners);
    for (port, state, group) in groups {
        let key = GroupKey {
            netns: 1,
            port: Some(*port),
            role: Role::Server,
            state: *state,
        };
        survey.groups.insert(key, group.clone());
    }
    Look {
        sockets: Some(survey),
        ..Look::default()
    }
}

fn old(count: u64, stale: u64, oldest_ns: u64) -> Group {
    Group {
        count,
        stale,
        oldest: Some(Age::at_least(oldest_ns)),
        ..Group::default()
    }
}

#[test]
fn queues_ages_and_findings_are_those_of_the_latest_look() {
    let first = look(SECOND / 2, Vec::new(), &[]);
    let full = look(
        SECOND,
        vec![
            listener(80, 129, 128),
            listener(80, 0, 128),
            listener(9_999, 3, 4),
        ],
        &[
            (80, State::CLOSE_WAIT, old(9, 7, 100 * SECOND)),
            (9_999, State::LAST_ACK, old(1, 0, SECOND)),
            (80, State::ESTABLISHED, old(1, 0, SECOND)),
        ],
    );
    let empty = look(3 * SECOND, vec![listener(80, 0, 128)], &[]);
    let looks = Given([full, empty].into());
    let mut publisher = publisher().diagnosing(Thresholds::default(), first, Some(Box::new(looks)));
    publisher.start(&origin(), &mut io::sink()).unwrap();
    refused(&mut publisher, [80, 443]);
    let half_open = HalfOpen {
        laddr: [10, 0, 0, 1].into(),
        lport: 443,
        count: 2,
        oldest_ns: None,
        oldest_at_least_ns: None,
        synack_retransmits: 0,
    };
    let census = Census {
        netns: 1,
        begin_ns: SECOND,
        half_open: vec![half_open],
        ..Census::default()
    };
    publisher.census(&census, &mut io::sink()).unwrap();
    let mut before = <(Findings, Drops)>::default();
    tick(&mut publisher, 11, 0);
    let text = text_with(&publisher, &mut before, Format::Prometheus);
    for line in [
        "tcpstate_half_open_connections{port=\"443\"} 2",
        "tcpstate_half_open_connections{port=\"80\"} 0",
        "tcpstate_accept_queue_length{port=\"80\"} 129",
        "tcpstate_accept_queue_limit{port=\"80\"} 256",
        "tcpstate_accept_queue_fullest_ratio{port=\"80\"} 1.0078125",
        // It has no figures of its own.
        "tcpstate_accept_queue_fullest_ratio{port=\"other\"} 0.75",
        "tcpstate_oldest_connection_seconds{state=\"CLOSE_WAIT\",port=\"80\"} 100.0",
        "tcpstate_oldest_connection_seconds{state=\"LAST_ACK\",port=\"other\"} 1.0",
        "tcpstate_stale_connections{state=\"CLOSE_WAIT\",port=\"80\"} 7",
        "tcpstate_stale_connections{state=\"LAST_ACK\",port=\"other\"} 0",
        "tcpstate_finding{name=\"accept_queue_full\",severity=\"critical\",port=\"80\"} 1",
        "tcpstate_look_age_seconds 10.0",
    ] {
        assert!(text.contains(&format!("\n{line}\n")), "no {line} in {text}");
    }
    for absent in ["state=\"ESTABLISHED\",port=\"80\"} 1.0", "9999"] {
        assert!(!text.contains(absent), "{absent} in {text}");
    }
    // Findings of before stay, as 0; others never appear.
    tick(&mut publisher, 40, 0);
    tick(&mut publisher, 80, 0);
    let text = text_with(&publisher, &mut before, Format::Prometheus);
    let line = "tcpstate_finding{name=\"accept_queue_full\",severity=\"critical\",port=\"80\"} 0";
    assert!(text.contains(&format!("\n{line}\n")), "no {line} in {text}");
    assert!(!text.contains("name=\"accept_queue_full\",severity=\"warning\",port=\"80\""));
    assert!(text.contains("\ntcpstate_accept_queue_length{port=\"80\"} 0\n"));
    assert!(!text.contains("tcpstate_stale_connections{"), "{text}");
}

/// All drops since the run began, whatever became of the listeners.
#[test]
fn drops_are_counted_from_look_to_look() {
    // Each listener: its cookie, its port, and its drops; whether others were not listed.
    let looks = [
        // Those of before the start do not count.
        (&[(1, 80, 100), (2, 9_999, u32::MAX)][..], false, 0, 0),
        (&[(1, 80, 103), (2, 9_999, 4)], false, 3, 5),
        // One that came, and two that are not there.
        (&[(3, 80, 10)], true, 13, 5),
        // One of them was only not listed, and so perhaps one that was not seen before.
        (&[(3, 80, 10), (1, 80, 104), (4, 80, 1_000)], false, 14, 5),
        (&[(4, 80, 1_002)], false, 16, 5),
    ];
    let look = |second: u64, listeners: &[(u64, u16, u32)], is_partial| {
        let listeners = listeners.iter().map(|&(cookie, port, drops)| ListenerNow {
            cookie,
            drops: Some(drops),
            ..listener(port, 0, 128)
        });
        let mut look = look(second * SECOND, listeners.collect(), &[]);
        if let Some(sockets) = &mut look.sockets {
            sockets.is_partial = is_partial;
        }
        look
    };
    let all = (1..).zip(looks);
    let all = all.map(|(second, (listeners, is_partial, ..))| look(second, listeners, is_partial));
    let given = Given(all.collect());
    // The first tick has the first of them.
    let (thresholds, none) = (Thresholds::default(), Look::default());
    let mut publisher = publisher().diagnosing(thresholds, none, Some(Box::new(given)));
    publisher.start(&origin(), &mut io::sink()).unwrap();
    refused(&mut publisher, [80]);
    let mut before = <(Findings, Drops)>::default();
    for (second, (.., of_port, of_others)) in (11..).zip(looks) {
        tick(&mut publisher, second, 0);
        let text = text_with(&publisher, &mut before, Format::Prometheus);
        for (port, count) in [("80", of_port), ("other", of_others)] {
            let line = format!("\ntcpstate_listener_drops_total{{port=\"{port}\"}} {count}\n");
            assert!(text.contains(&line), "no {line} at {second} in {text}");
        }
        // A look counts once.
        text_with(&publisher, &mut before, Format::Prometheus);
    }
}

#[test]
fn without_looks_nothing_is_said_of_them() {
    let mut publisher = publisher();
    tick(&mut publisher, 1, 0);
    let text = text(&publisher, Format::Prometheus);
    for name in [
        "finding",
        "listener_drops",
        "accept_queue",
        "oldest",
        "stale",
        "look_age",
    ] {
        let begin = format!("\ntcpstate_{name}");
        assert!(!text.contains(&begin), "{name} in {text}");
    }
}
