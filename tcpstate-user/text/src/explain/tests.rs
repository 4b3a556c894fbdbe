use tcpstate_common::{
    Record, State,
    record::{AF_INET, flags},
};
use tcpstate_core::{
    event::Event,
    explain::{STATES, of},
    inventory::Age,
    owner::Comm,
    view::View as _,
};

use super::*;

fn text(topic: &Topic, here: &Here, width: usize) -> String {
    let mut out = Vec::new();
    write_text(topic, here, width, false, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn value(setting: Setting) -> Value {
    Value {
        setting,
        own: Some("60".into()),
        elsewhere: vec![("blue".into(), "30".into())],
    }
}

#[test]
fn a_state_with_its_settings_and_its_sockets() {
    let state = of(State::FIN_WAIT2).unwrap();
    let mut comm = Comm::default();
    comm.0[..5].copy_from_slice(b"nginx");
    let here = Here {
        values: state.settings.iter().copied().map(value).collect(),
        present: Some(Present {
            count: 1_200,
            oldest: Some(Age::at_least(61_000_000_000)),
            services: vec![(443, 1_199), (80, 1)],
            owners: vec![(comm, 1_200)],
            is_partial: true,
        }),
    };
    let text = text(&Topic::State(state), &here, 80);
    for line in [
        "FIN_WAIT2",
        "To        CLOSE: the peer's FIN came, and a small TIME_WAIT socket takes over;",
        "Settings  net.ipv4.tcp_fin_timeout = 60; 30 in blue",
        "            seconds that an orphan stays",
        "See       tcpstate ls --state fin-wait-2",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}\n{text}");
    }
    let now = "Now       1,200 sockets, the oldest for more than 1m 01s; service ports 443\n          \
               (1,199), 80 (1); processes nginx (1,200); those of other network\n          \
               namespaces take root";
    assert!(text.contains(now), "{text}");
}

#[test]
fn every_topic_fits_its_width() {
    for word in Topic::words() {
        let topic: Topic = word.parse().unwrap();
        let values = match &topic {
            Topic::State(text) => text.settings.iter().copied().map(value).collect(),
            _ => Vec::new(),
        };
        let here = Here {
            values,
            present: None,
        };
        let text = text(&topic, &here, 80);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{word}: {line}");
            assert!(!line.contains('`'), "{word}: {line}");
        }
        assert!(text.lines().count() >= 3, "{text}");
        let mut json = Vec::new();
        write_json(&topic, &here, &mut json).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert!(json["type"].is_string(), "{json}");
    }
}

#[test]
fn the_diagram_has_every_state_with_its_number() {
    let by_state = STATES
        .iter()
        .filter(|text| text.state != State::CLOSE)
        .zip(1_000..)
        .map(|(text, count)| (text.state, count));
    let counts = Counts {
        by_state: by_state.collect(),
        orphans: 3,
        is_partial: true,
    };
    let mut out = Vec::new();
    write_diagram(Some(&counts), None, &mut out).unwrap();
    let out = String::from_utf8(out).unwrap();
    for (state, count) in &counts.by_state {
        let text = format!("{state} {}", Count(*count));
        assert!(out.contains(&text), "{text}\n{out}");
    }
    assert!(
        out.contains("Sockets of other network namespaces take root"),
        "{out}"
    );
    let mut edges = Edges::default().over(2_000_000_000);
    for (oldstate, newstate, flags) in [
        (State::CLOSE, State::SYN_SENT, 0),
        (State::ESTABLISHED, State::FIN_WAIT1, 0),
        (State::ESTABLISHED, State::CLOSE, flags::SOCKET),
        (State::FIN_WAIT2, State::CLOSE, flags::SOCKET | flags::DONE),
    ] {
        let record = Record {
            oldstate,
            newstate,
            flags,
            family: AF_INET,
            ..Record::default()
        };
        let event = Event::try_from(record).unwrap();
        for _ in 0..3_000 {
            edges.event(&event, &mut io::sink()).unwrap();
        }
    }
    let drawn = |edges: &Edges| {
        let mut rates = Vec::new();
        write_diagram(Some(&counts), Some(edges), &mut rates).unwrap();
        String::from_utf8(rates).unwrap()
    };
    let without_orphans = drawn(&edges);
    assert!(
        !without_orphans.contains("makes no event"),
        "{without_orphans}"
    );
    let orphan = Record {
        oldstate: State::FIN_WAIT2,
        newstate: State::CLOSE,
        flags: flags::SOCKET | flags::DEAD,
        family: AF_INET,
        ..Record::default()
    };
    let orphan = Event::try_from(orphan).unwrap();
    for _ in 0..500 {
        edges.event(&orphan, &mut io::sink()).unwrap();
    }
    let rates = drawn(&edges);
    for line in [
        "250/s more leave FIN_WAIT2 as orphans: their way out makes no event.",
        "   1,500/s  connect()                |              listen() 0/s",
        "   1,500/s   close()                 |     |           FIN came 0/s",
        "   1,500/s  |  +---------------+                               v",
        "Rates are per second; 1,500 connections broke off (reset, time-out, error).",
    ] {
        assert!(rates.lines().any(|one| one == line), "{line}\n{rates}");
    }
    let mut plain = Vec::new();
    write_diagram(None, None, &mut plain).unwrap();
    let plain = String::from_utf8(plain).unwrap();
    for text in [&out, &plain, &rates] {
        assert!(text.lines().all(|line| line.len() <= 83), "{text}");
        let is_open = |state: State| text.contains(&format!("{state}:"));
        assert!(!State::ALL.into_iter().any(is_open), "{text}");
    }
}
