use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use serde_json::{Value, json};
use tcpstate_common::State;
use tcpstate_core::{
    books::{Accounting, Cost, Selection},
    diagnosis::{Group, GroupKey, ListenerNow, Top},
    event::Process,
    inventory::Age,
    origin::Evidence,
    service::Role,
};

use super::*;

const S: u64 = 1_000_000_000;

/// Looks that are taken in turn, one a tick.
#[derive(Clone, Default)]
struct Given(Rc<RefCell<VecDeque<Look>>>);

impl Looks for Given {
    fn newest(&mut self) -> Option<Look> {
        self.0.borrow_mut().pop_front()
    }

    fn last(&mut self) -> Option<Look> {
        self.0.borrow_mut().pop_front()
    }
}

/// A host with so many sockets left behind in `CLOSE_WAIT`.
fn look(left_behind: u64) -> Look {
    let key = GroupKey {
        netns: 7,
        port: Some(8080),
        role: Role::Server,
        state: State::CLOSE_WAIT,
    };
    let (mut owners, mut peers) = (Top::default(), Top::default());
    owners.add(Process {
        pid: 42,
        comm: *b"a\x1b[1m web\0\0\0\0\0\0\0",
    });
    peers.add([10, 0, 0, 9].into());
    let group = Group {
        count: left_behind,
        stale: left_behind,
        oldest: Some(Age::at_least(75 * S)),
        peers,
        owners,
        ..Group::default()
    };
    let mut sockets = Survey::default();
    sockets.has_queues = true;
    sockets.groups.insert(key, group);
    Look {
        sockets: Some(sockets),
        facts: vec![NetnsFacts {
            netns: 7,
            name: "blue".into(),
            ..NetnsFacts::default()
        }],
        ..Look::default()
    }
}

fn origin() -> Origin {
    Origin {
        host: "host".into(),
        kernel: "6.18".into(),
        attach: "btf".into(),
        wall_at_monotonic_zero_ns: 0,
        started_ns: S,
        filters: String::new(),
        live: true,
        sample_interval_ns: None,
    }
}

fn end(now_ns: u64) -> End {
    End {
        now_ns,
        accounting: Accounting::default(),
        selection: Selection::default(),
        cost: Cost::default(),
        damaged: false,
        verbose: false,
        part: None,
        evidence: Evidence::Kernel,
        packets: None,
    }
}

/// The text that a run writes to standard output and standard error, with a look a second.
fn run(
    format: Format,
    follow: Option<u64>,
    first: Look,
    later: Vec<Look>,
) -> (String, String, bool) {
    let seconds = later.len() as u64;
    let looks = Given(Rc::new(RefCell::new(later.into())));
    let options = Options {
        settings: Settings::plain(format),
        thresholds: Thresholds::default(),
        follow,
        all: true,
        length_ns: Some(30 * S),
        count: None,
    };
    let mut view = Diagnose::new(options, first, Some(Box::new(looks)));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    view.so_far(&mut out).unwrap();
    view.start(&origin(), &mut out).unwrap();
    for second in 2..=1 + seconds {
        let flow = view.tick(second * S, &mut out).unwrap();
        assert_eq!(flow, Flow::Continue);
    }
    let end = end((seconds + 2) * S);
    view.finish(&end, &mut out, &mut err).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(out), text(err), view.has_findings())
}

#[test]
fn a_finding_says_what_where_whose_and_what_to_do() {
    let (out, err, found) = run(Format::Text, None, look(5), vec![look(8)]);
    for line in [
        "So far, from the kernel's lists; watching for 30.0 s more:",
        "warning  close_wait_leak: server port 8080, netns 7 (blue): 5 sockets left behind in CLOSE_WAIT",
        "CRITICAL close_wait_leak: sockets left behind in CLOSE_WAIT",
        "          8 sockets left behind in CLOSE_WAIT; 3 more are in that state than at",
        "Where     server port 8080, netns 7 (blue)",
        "Peers     10.0.0.9 (1)",
        r"Whose     a\u{1b}[1m web 42 (1)",
        "Since     more than 1m 15s",
        "See       tcpstate ls --netns blue state close-wait 'sport = :8080'",
        "not found  accept_queue_full: a listener's accept queue is full",
    ] {
        assert!(out.lines().any(|one| one == line), "{line}\n{out}");
    }
    // Only the short lines may be longer: they are one for each finding.
    let full = out.lines().skip_while(|line| !line.starts_with("CRITICAL"));
    assert!(full.clone().count() > 15);
    for line in full {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(err.starts_with("1 finding; "), "{err}");
    assert!(found);
}

#[test]
fn what_was_explained_is_not_explained_again() {
    let both = |count| {
        let mut look = look(count);
        let groups = &mut look.sockets.as_mut().unwrap().groups;
        let (mut key, group) = groups
            .iter()
            .map(|(key, group)| (*key, group.clone()))
            .next()
            .unwrap();
        key.port = Some(8081);
        groups.insert(key, group);
        look
    };
    let (out, _, _) = run(Format::Text, None, both(5), vec![both(8)]);
    assert_eq!(out.matches("\nCRITICAL ").count(), 2, "{out}");
    assert_eq!(out.matches("\nMeaning ").count(), 1, "{out}");
    let explain = "          tcpstate explain close_wait_leak";
    assert!(out.lines().any(|line| line == explain), "{out}");
}

#[test]
fn what_is_over_is_said() {
    let (out, _, found) = run(Format::Text, None, look(5), vec![look(0)]);
    let over = "no longer: warning  close_wait_leak: server port 8080, netns 7 (blue): 5 sockets left behind in CLOSE_WAIT";
    assert!(out.lines().any(|line| line == over), "{out}");
    assert!(!found);
}

#[test]
fn nothing_is_said_to_be_nothing() {
    let (out, err, found) = run(Format::Text, None, look(1), vec![look(1)]);
    assert!(
        out.starts_with("So far: nothing in the kernel's lists; watching"),
        "{out}"
    );
    assert!(out.lines().any(|line| line == "Nothing found."), "{out}");
    assert!(err.starts_with("0 findings; ") && !found, "{err}");
}

#[test]
fn json_has_the_figures_with_their_evidence() {
    let (out, _, _) = run(Format::Json, None, look(5), vec![look(8)]);
    let lines: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [finding, summary] = &lines[..] else {
        panic!("{lines:?}");
    };
    for (name, value) in [
        ("type", json!("finding")),
        ("name", json!("close_wait_leak")),
        ("severity", json!("critical")),
        ("netns", json!(7)),
        ("netns_name", json!("blue")),
        ("role", json!("server")),
        ("service_port", json!(8080)),
        ("since_ns", Value::Null),
        ("since_at_least_ns", json!(75 * S)),
        ("peers", json!([{"addr": "10.0.0.9", "count": 1}])),
    ] {
        assert_eq!(finding[name], value, "{name}");
    }
    assert_eq!(
        finding["figures"]["risen"],
        json!({"value": 3, "evidence": "sampled"})
    );
    assert_eq!(finding["owners"][0]["comm"], json!(r"a\u{1b}[1m web"));
    assert_eq!(summary["critical"], json!(1));
    let not_found = summary["not_found"].as_array().unwrap();
    assert!(not_found.contains(&json!("accept_queue_full")), "{summary}");
}

/// The same host, whose listener at this port has a full queue: none of the sockets was ever accepted.
fn with_full_queue(mut look: Look) -> Look {
    let sockets = look.sockets.as_mut().unwrap();
    for group in sockets.groups.values_mut() {
        group.unaccepted = group.stale;
    }
    sockets.listeners.push(ListenerNow {
        cookie: 0,
        netns: 7,
        laddr: [0, 0, 0, 0].into(),
        port: 8080,
        waiting: Some(9),
        backlog: Some(8),
        drops: None,
        half_open: 0,
        half_open_peers: Top::default(),
        resent: 0,
        synack_retransmits: 0,
        deferred: 0,
        owner: None,
    });
    look
}

#[test]
fn a_finding_points_to_the_one_that_explains_it() {
    let later = vec![with_full_queue(look(8))];
    let (out, ..) = run(Format::Text, None, with_full_queue(look(5)), later.clone());
    let because = "Because   of accept_queue_full: read that first.";
    assert!(out.lines().any(|line| line == because), "{out}");
    // It is not explained as if it were another trouble.
    assert!(!out.contains("To end it now, restart the process"), "{out}");
    let in_short =
        "8080, netns 7 (blue): 5 sockets left behind in CLOSE_WAIT; because of accept_queue_full";
    assert!(out.lines().any(|line| line.ends_with(in_short)), "{out}");
    let at = |name: &str| out.find(&format!("CRITICAL {name}")).unwrap();
    assert!(at("accept_queue_full") < at("close_wait_leak"), "{out}");

    let (out, ..) = run(Format::Json, None, with_full_queue(look(5)), later);
    let lines = out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let see: Vec<_> = lines
        .filter(|line| line["type"] == "finding")
        .map(|line| (line["name"].clone(), line["see"].clone()))
        .collect();
    let full = json!([{
        "name": "accept_queue_full",
        "netns": 7,
        "role": "server",
        "service_port": 8080,
        "peer": null,
    }]);
    assert_eq!(
        see,
        [
            (json!("accept_queue_full"), json!([])),
            (json!("close_wait_leak"), full)
        ]
    );
}

#[test]
fn a_finding_is_followed_from_its_beginning_to_its_end() {
    let none = || look(0);
    let later = vec![
        none(),
        look(5),
        look(5),
        look(9),
        none(),
        none(),
        none(),
        none(),
    ];
    let (out, _, found) = run(Format::Json, Some(2 * S), none(), later.clone());
    let changes: Vec<(String, u64)> = out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["type"] == "finding")
        .map(|line| {
            let change = line["change"].as_str().unwrap().to_owned();
            (change, line["mono_ns"].as_u64().unwrap() / S)
        })
        .collect();
    let names: Vec<_> = changes.iter().map(|(change, _)| change.as_str()).collect();
    assert_eq!(names.first(), Some(&"appeared"), "{changes:?}");
    assert_eq!(names.last(), Some(&"ended"), "{changes:?}");
    assert_eq!(names.iter().filter(|name| **name == "ended").count(), 1);
    // It is over when the run ends, but it was there.
    assert!(found);
    let (text, ..) = run(Format::Text, Some(2 * S), none(), later);
    assert!(text.contains(" ended: "), "{text}");
}
