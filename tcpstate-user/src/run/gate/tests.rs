use std::net::Ipv4Addr;

use tcpstate_common::{
    Record,
    record::{AF_INET, AF_INET6, flags},
};
use tcpstate_core::{
    census::{HalfOpen, Held, Kind, Scope},
    event::Process,
    expression::NoNames,
    owner::Owner,
    service::Role,
};

use super::*;

const CURL: &[u8; 16] = b"curl\0\0\0\0\0\0\0\0\0\0\0\0";

fn gate(text: &str) -> Gate {
    let expression = Expression::parse(text, &NoNames).unwrap();
    Gate::new(&expression, Names::default(), Limits::default(), true)
}

fn of_curl() -> Gate {
    gate("comm curl")
}

/// Whether the gate passes an event, and shows it.
fn passes(gate: &mut Gate, event: &Event) -> bool {
    let passed = gate.push(event);
    assert!(passed.earlier.is_none());
    passed.event == Some(true)
}

/// An event of a client, by a process of this name.
fn event(cookie: u64, name: &[u8; 16], (oldstate, newstate): (State, State)) -> Event {
    let opens = oldstate == State::CLOSE;
    let process = if opens { flags::PROCESS } else { 0 };
    Event::try_from(Record {
        ts_ns: cookie,
        cookie,
        pid: if opens { 7 } else { 0 },
        comm: *name,
        netns: 1,
        lport: 40_000,
        rport: 443,
        family: AF_INET,
        flags: flags::SOCKET | flags::COOKIE | flags::DEAD | process,
        oldstate,
        newstate,
        ..Record::default()
    })
    .unwrap()
}

fn found(cookie: u64, state: State, kind: Kind) -> Found {
    Found {
        cookie,
        state,
        kind,
        since_ns: None,
        there_ns: None,
        family: 2,
        laddr: [127, 0, 0, 1].into(),
        lport: 40_000,
        raddr: [127, 0, 0, 1].into(),
        rport: 443,
        role: Role::Unknown,
        uid: None,
        cgroup: None,
        owner: Owner::UNKNOWN,
    }
}

fn left(gate: &mut Gate, scope: Scope, found: Vec<Found>) -> Vec<u64> {
    let mut census = Census {
        netns: 1,
        begin_ns: 1_000,
        scope,
        found,
        ..Census::default()
    };
    gate.census(&mut census);
    census.found.iter().map(|found| found.cookie).collect()
}

const OPENS: (State, State) = (State::CLOSE, State::SYN_SENT);

/// A dump does not say who opened a connection, but its events did. A connection that is missing from a
/// dump has ended, so removing a selected one would end it.
#[test]
fn a_dump_keeps_connections_selected_by_their_events() {
    let mut gate = of_curl();
    assert!(passes(&mut gate, &event(1, CURL, OPENS)));
    assert!(!passes(
        &mut gate,
        &event(2, b"wget\0\0\0\0\0\0\0\0\0\0\0\0", OPENS)
    ));
    let socket = |cookie| found(cookie, State::SYN_SENT, Kind::Socket);
    let all = vec![socket(1), socket(2), socket(3)];
    assert_eq!(left(&mut gate, Scope::All, all), [1]);
    assert_eq!(gate.settled().filtered, 1);
}

/// nginx listens as process 7, which forks 9, which forks 8; 7 ends. A dump finds out; from then on 8 selects
/// its connections, and each stays selected when the listener is gone.
#[test]
fn a_process_that_holds_the_listener_selects_its_connections() {
    const NGINX: &[u8; 16] = b"nginx\0\0\0\0\0\0\0\0\0\0\0";
    let mut gate = gate("pid 8");
    let server = |cookie, rport, step| {
        let record = Record {
            lport: 80,
            rport,
            ..*event(cookie, NGINX, step).record()
        };
        Event::try_from(record).unwrap()
    };
    let listens = server(1, 0, (State::CLOSE, State::LISTEN));
    assert!(!passes(&mut gate, &listens));
    assert!(!passes(
        &mut gate,
        &server(2, 1_000, (State::LISTEN, State::SYN_RECV))
    ));
    let mut census = Census {
        netns: 1,
        begin_ns: 1_000,
        more: true,
        held: vec![Held {
            cookie: 1,
            laddr: [0, 0, 0, 0].into(),
            lport: 80,
            by: [9, 8].map(|pid| Process { pid, comm: *NGINX }).into(),
        }],
        ..Census::default()
    };
    gate.census(&mut census);
    assert_eq!(census.held.len(), 1);
    let listener = census.found.first().unwrap();
    assert_eq!((listener.cookie, listener.state), (1, State::LISTEN));
    assert_eq!(listener.owner.pid, Some(9));
    for step in [
        (State::LISTEN, State::SYN_RECV),
        (State::SYN_RECV, State::ESTABLISHED),
    ] {
        assert!(passes(&mut gate, &server(3, 1_001, step)));
    }
    assert!(passes(
        &mut gate,
        &server(1, 0, (State::LISTEN, State::CLOSE))
    ));
    assert!(passes(
        &mut gate,
        &server(3, 1_001, (State::ESTABLISHED, State::CLOSE))
    ));
    assert!(!passes(
        &mut gate,
        &server(4, 1_002, (State::LISTEN, State::SYN_RECV))
    ));
    assert!(gate.selection.by_holder.is_empty());
}

#[test]
fn a_minisocket_is_selected_with_its_connection() {
    let mut gate = of_curl();
    let steps = [
        OPENS,
        (State::SYN_SENT, State::ESTABLISHED),
        (State::ESTABLISHED, State::FIN_WAIT1),
        (State::FIN_WAIT1, State::FIN_WAIT2),
        (State::FIN_WAIT2, State::CLOSE),
    ];
    for step in steps {
        assert!(passes(&mut gate, &event(1, CURL, step)));
        assert!(!passes(&mut gate, &event(2, &[b'x'; 16], step)));
    }
    let mini = |cookie| found(cookie, State::FIN_WAIT2, Kind::Minisocket);
    let both = || vec![mini(1), mini(2)];
    assert_eq!(left(&mut gate, Scope::Small, both()), [1]);
    // Found again in TIME_WAIT.
    assert_eq!(left(&mut gate, Scope::Small, both()), [1]);
}

const SECOND: u64 = 1_000_000_000;
const CONNECTED: (State, State) = (State::SYN_SENT, State::ESTABLISHED);
const CHILD: (State, State) = (State::LISTEN, State::SYN_RECV);
const ACCEPTED: (State, State) = (State::SYN_RECV, State::ESTABLISHED);
const CLOSES: (State, State) = (State::ESTABLISHED, State::CLOSE_WAIT);
const ACKS: (State, State) = (State::CLOSE_WAIT, State::LAST_ACK);
const CLOSED: (State, State) = (State::LAST_ACK, State::CLOSE);

/// An event of socket 1, at a second of its own, from 10.0.0.1 to 192.0.2.1.
fn at(second: u64, step: (State, State), lport: u16, rport: u16) -> Event {
    let mapped = |address: [u8; 4]| Ipv4Addr::from(address).to_ipv6_mapped().octets();
    let record = Record {
        ts_ns: second * SECOND,
        skaddr: 1,
        laddr: mapped([10, 0, 0, 1]),
        raddr: mapped([192, 0, 2, 1]),
        lport,
        rport,
        ..*event(1, CURL, step).record()
    };
    Event::try_from(record).unwrap()
}

/// A child as older kernels show it: with the addresses of its listener, and without a cookie.
fn cloned(second: u64) -> Event {
    let record = Record {
        cookie: 0,
        flags: flags::SOCKET,
        laddr: [0; 16],
        raddr: [0; 16],
        family: AF_INET6,
        ..*at(second, CHILD, 80, 0).record()
    };
    Event::try_from(record).unwrap()
}

/// The seconds of the events that are shown.
fn shown(gate: &mut Gate, events: &[Event]) -> Vec<u64> {
    let mut shown = Vec::new();
    for event in events {
        let passed = gate.push(event);
        let earlier = passed.earlier.filter(|pass| pass.is_shown);
        let itself = (passed.event == Some(true)).then_some(*event);
        let all = earlier.map(|pass| pass.event).into_iter().chain(itself);
        shown.extend(all.map(|event| event.ts_ns() / SECOND));
    }
    gate.finish();
    let Settled {
        passed,
        filtered,
        undecided,
    } = gate.settled();
    assert_eq!(passed + filtered + undecided, events.len() as u64);
    assert_eq!(passed, shown.len() as u64);
    shown
}

fn client() -> [Event; 5] {
    [
        at(1, OPENS, 0, 443),
        at(2, CONNECTED, 40_000, 443),
        at(4, CLOSES, 40_000, 443),
        at(8, ACKS, 40_000, 443),
        at(9, CLOSED, 40_000, 443),
    ]
}

#[test]
fn a_connection_is_passed_whole_or_not_at_all() {
    let server = [
        cloned(1),
        at(2, ACCEPTED, 80, 9_000),
        at(4, CLOSES, 80, 9_000),
        at(8, ACKS, 80, 9_000),
        at(9, CLOSED, 80, 9_000),
    ];
    let all = [1, 2, 4, 8, 9];
    for (text, of_client, of_server) in [
        ("src 10.0.0.0/8", true, true),
        ("not src 10.0.0.0/8", false, false),
        ("dst 192.0.2.1", true, true),
        ("not dst 192.0.2.1", false, false),
        ("sport 40000", true, false),
        ("sport != 40000", false, true),
        ("sport != 40000 or dport 443", true, true),
        ("dst 192.0.2.0/24:9000", false, true),
        ("host 192.0.2.0/24 and not portrange 8000-9000", true, false),
        ("family ipv4", true, true),
        ("family ipv6", false, false),
        // The owner is known at once, the port is not.
        ("sport 40000 or comm curl", true, false),
        ("comm curl and sport 40000", true, false),
        ("not ( comm curl and sport 40000 )", false, true),
        ("comm wget or sport 40000", true, false),
        ("service 443 or sport 80", true, true),
        ("role server", false, true),
        ("not role server", true, false),
    ] {
        for (events, is_wanted) in [(client(), of_client), (server, of_server)] {
            let mut gate = gate(text);
            let shown = shown(&mut gate, &events);
            let is_unknown = gate.settled().undecided > 0;
            assert_eq!(shown == all, is_wanted, "{text}: {shown:?}");
            assert!(is_wanted || shown.is_empty(), "{text}: {shown:?}");
            // A server whose listener is not known has no owner.
            let asks_for_owner = text.contains("comm") && events[0].oldstate() == State::LISTEN;
            assert!(!is_unknown || asks_for_owner, "{text}");
        }
    }
}

#[test]
fn single_changes_are_shown_of_connections_that_are_followed_whole() {
    for (text, expected) in [
        ("newstate established", &[2][..]),
        ("oldstate established or newstate close", &[4, 9]),
        ("state syn-sent", &[1, 2]),
        ("not state syn-sent", &[4, 8, 9]),
        ("dwell > 3s", &[8]),
        ("dwell >= 1s dwell <= 2s", &[2, 4, 9]),
        ("lifetime = 8s", &[9]),
        ("cause fin", &[9]),
        ("not cause fin", &[1, 2, 4, 8]),
        ("handshake = 1s", &[2]),
        // The held event is judged by what the next one shows, but by its own change.
        ("sport 40000 and newstate syn-sent", &[1]),
        ("sport 40000 and oldstate syn-sent", &[2]),
        ("sport 1 or newstate syn-sent", &[1]),
        ("sport != 40000 and newstate syn-sent", &[]),
        ("sport 40000 or newstate close", &[1, 2, 4, 8, 9]),
        ("sport 1 or newstate close", &[9]),
        ("comm curl newstate syn-sent,close", &[1, 9]),
    ] {
        let mut gate = gate(text);
        assert_eq!(shown(&mut gate, &client()), expected, "{text}");
        assert_eq!(gate.settled().undecided, 0, "{text}");
    }
    // All of it reaches the view.
    let mut gate = gate("dport 443 dwell > 3s");
    let mut passed = 0;
    for event in &client() {
        let all = gate.push(event);
        passed += all.earlier.iter().count() + all.event.iter().count();
    }
    assert_eq!(passed, 5);
}

#[test]
fn what_is_never_known_matches_nothing_and_is_counted() {
    // It ends before its port is known, or nothing follows.
    for (events, undecided) in [
        (&[at(1, OPENS, 0, 443)][..], 1),
        // Another socket at the same address, whose port is not known either.
        (&[at(1, OPENS, 0, 443), at(2, OPENS, 0, 443)], 2),
    ] {
        for text in ["sport 40000", "sport != 40000"] {
            let mut gate = gate(text);
            assert!(shown(&mut gate, events).is_empty(), "{text}");
            assert_eq!(gate.settled().undecided, undecided, "{text}");
        }
    }
    // The record has no counters, and no owner is known of one that was there before.
    for text in ["bytes_sent > 0", "not bytes_sent > 0", "pid 7", "not pid 7"] {
        let mut gate = gate(text);
        assert!(shown(&mut gate, &client()[2..3]).is_empty(), "{text}");
        assert_eq!(gate.settled().undecided, 1, "{text}");
    }
}

#[test]
fn what_is_recalled_is_held_too_and_counts_nowhere() {
    let mut gate = gate("sport 40000");
    let [opens, connected, ..] = client();
    assert!(gate.recall(&opens).event.is_none());
    let passed = gate.push(&connected);
    assert!(passed.is_recalled && passed.earlier.is_some() && passed.event.is_some());
    gate.finish();
    let settled = Settled {
        passed: 1,
        ..Settled::default()
    };
    assert_eq!(gate.settled(), settled);
}

#[test]
fn a_census_keeps_what_certainly_matches() {
    let mini = |cookie, lport| Found {
        lport,
        ..found(cookie, State::TIME_WAIT, Kind::Minisocket)
    };
    let kept = |text: &str| {
        let mut census = Census {
            netns: 1,
            found: vec![mini(1, 80), mini(2, 81)],
            half_open: vec![HalfOpen {
                laddr: [127, 0, 0, 1].into(),
                lport: 80,
                count: 1,
                oldest_ns: None,
                oldest_at_least_ns: None,
                synack_retransmits: 0,
            }],
            held: vec![Held {
                cookie: 3,
                laddr: [127, 0, 0, 1].into(),
                lport: 80,
                by: Vec::new(),
            }],
            ..Census::default()
        };
        gate(text).census(&mut census);
        let found = census.found.iter().map(|found| found.cookie);
        (
            found.collect::<Vec<_>>(),
            census.half_open.len(),
            census.held.len(),
        )
    };
    for (text, found, half_open, held) in [
        ("sport 80", &[1][..], 1, 1),
        ("sport != 80", &[2], 0, 0),
        ("src 127.0.0.0/8", &[1, 2], 1, 1),
        ("not src 127.0.0.0/8", &[], 0, 0),
        // The peers of half-open connections are not in it.
        ("dst 127.0.0.1", &[1, 2], 0, 0),
        ("not dst 127.0.0.1", &[], 0, 1),
        ("sport 80 or dst 127.0.0.1", &[1, 2], 1, 1),
        ("netns 1 family ipv4", &[1, 2], 1, 1),
        ("netns 2", &[], 0, 0),
        // Only on single changes.
        ("newstate close", &[1, 2], 1, 1),
    ] {
        assert_eq!(kept(text), (found.to_vec(), half_open, held), "{text}");
    }
}
