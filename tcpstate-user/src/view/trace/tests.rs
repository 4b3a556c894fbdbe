use tcpstate_common::{Record, record::AF_INET};

use super::*;

fn event(ts_ns: u64, oldstate: State, newstate: State, edit: impl FnOnce(&mut Record)) -> Event {
    let mut record = Record {
        ts_ns,
        cookie: 7,
        skaddr: 0xffff_8881_0000_1000,
        lport: 40_000,
        rport: 80,
        family: AF_INET,
        oldstate,
        newstate,
        flags: flags::SOCKET | flags::COOKIE,
        ..Record::default()
    };
    edit(&mut record);
    Event::try_from(record).unwrap()
}

fn plain(ts_ns: u64, oldstate: State, newstate: State) -> Event {
    event(ts_ns, oldstate, newstate, |_| ())
}

/// A child as it is cloned from its listener: without a cookie.
fn child(ts_ns: u64) -> Event {
    event(ts_ns, State::LISTEN, State::SYN_RECV, |record| {
        (record.cookie, record.flags) = (0, flags::SOCKET);
        (record.lport, record.rport) = (80, 0);
    })
}

fn dwells(events: &[Event]) -> Vec<Option<u64>> {
    let mut sockets = Sockets::default();
    let dwells = events
        .iter()
        .map(|event| sockets.apply(event).dwell_ns)
        .collect();
    let open = events
        .last()
        .is_some_and(|event| event.newstate() != State::CLOSE);
    assert_eq!(
        sockets.0.len(),
        usize::from(open),
        "an ended socket is forgotten"
    );
    dwells
}

#[test]
fn a_dwell_is_the_time_between_two_changes_of_a_socket() {
    let life = [
        plain(100, State::CLOSE, State::SYN_SENT),
        plain(150, State::SYN_SENT, State::ESTABLISHED),
        plain(450, State::ESTABLISHED, State::FIN_WAIT1),
        plain(450, State::FIN_WAIT1, State::CLOSE),
    ];
    assert_eq!(dwells(&life), [None, Some(50), Some(300), Some(0)]);
}

#[test]
fn a_socket_seen_first_in_the_middle_of_its_life_has_unknown_time() {
    let life = [
        plain(100, State::ESTABLISHED, State::CLOSE_WAIT),
        plain(130, State::CLOSE_WAIT, State::LAST_ACK),
    ];
    assert_eq!(dwells(&life), [None, Some(30)]);
}

#[test]
fn a_child_is_found_by_its_address_until_it_has_its_cookie() {
    let life = [
        child(100),
        plain(110, State::SYN_RECV, State::ESTABLISHED),
        plain(200, State::ESTABLISHED, State::CLOSE),
    ];
    assert_eq!(dwells(&life), [None, Some(10), Some(90)]);
}

#[test]
fn without_a_cookie_the_address_must_do() {
    let bare = |event: Event| {
        let mut record = *event.record();
        (record.cookie, record.flags) = (0, 0);
        Event::try_from(record).unwrap()
    };
    let life = [
        bare(plain(100, State::CLOSE, State::SYN_SENT)),
        bare(plain(150, State::SYN_SENT, State::ESTABLISHED)),
        // Its end was lost, and the address is used again.
        bare(plain(900, State::CLOSE, State::SYN_SENT)),
        bare(plain(910, State::SYN_SENT, State::CLOSE)),
    ];
    assert_eq!(dwells(&life), [None, Some(50), None, Some(10)]);
}

#[test]
fn a_gap_makes_the_time_unknown() {
    let other = |record: &mut Record| record.cookie = 8;
    for next in [
        // A change in between is missing.
        plain(900, State::FIN_WAIT1, State::FIN_WAIT2),
        // Another socket at the same address.
        event(900, State::ESTABLISHED, State::CLOSE_WAIT, other),
        // A clock that went backwards.
        plain(1, State::ESTABLISHED, State::CLOSE_WAIT),
    ] {
        let mut sockets = Sockets::default();
        sockets.apply(&plain(100, State::SYN_SENT, State::ESTABLISHED));
        assert_eq!(sockets.apply(&next).dwell_ns, None, "{next:?}");
    }
}

#[test]
fn roles_and_service_ports_are_those_of_the_opening() {
    let cases = [
        (
            vec![plain(1, State::CLOSE, State::SYN_SENT)],
            Some(Role::Client),
            Some(80),
        ),
        (
            vec![plain(1, State::SYN_SENT, State::ESTABLISHED)],
            Some(Role::Client),
            Some(80),
        ),
        (vec![child(1)], Some(Role::Server), Some(80)),
        (
            vec![plain(1, State::LISTEN, State::CLOSE)],
            Some(Role::Server),
            Some(40_000),
        ),
        (vec![plain(1, State::ESTABLISHED, State::CLOSE)], None, None),
        // A simultaneous open is no server.
        (
            vec![
                plain(1, State::CLOSE, State::SYN_SENT),
                plain(2, State::SYN_SENT, State::SYN_RECV),
                plain(3, State::SYN_RECV, State::ESTABLISHED),
            ],
            Some(Role::Client),
            Some(80),
        ),
        (
            vec![plain(1, State::SYN_RECV, State::ESTABLISHED)],
            None,
            None,
        ),
        // Listening on a port that the kernel has not chosen yet.
        (
            vec![event(1, State::CLOSE, State::LISTEN, |record| {
                record.lport = 0;
            })],
            Some(Role::Server),
            None,
        ),
    ];
    for (events, role, service_port) in cases {
        let mut sockets = Sockets::default();
        let known = events
            .iter()
            .map(|event| sockets.apply(event))
            .last()
            .unwrap();
        assert_eq!(
            (known.role, known.service_port),
            (role, service_port),
            "{events:?}"
        );
    }
}

#[test]
fn the_owner_is_who_acted_on_the_socket_last() {
    let by = |pid| {
        move |record: &mut Record| {
            record.flags |= flags::PROCESS;
            record.pid = pid;
        }
    };
    let mut sockets = Sockets::default();
    let mut owner = |event| sockets.apply(&event).owner.map(|process| process.pid);
    assert_eq!(
        owner(event(1, State::CLOSE, State::SYN_SENT, by(10))),
        Some(10)
    );
    assert_eq!(
        owner(plain(2, State::SYN_SENT, State::ESTABLISHED)),
        Some(10)
    );
    assert_eq!(
        owner(event(3, State::ESTABLISHED, State::FIN_WAIT1, by(11))),
        Some(11)
    );
    assert_eq!(owner(plain(4, State::FIN_WAIT1, State::CLOSE)), Some(11));
    assert_eq!(owner(plain(5, State::ESTABLISHED, State::CLOSE_WAIT)), None);
}
