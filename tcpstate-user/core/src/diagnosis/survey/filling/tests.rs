use tcpstate_common::record::AF_INET;

use super::*;
use crate::inventory::{Listening, TcpInfo, Timer};

const NETNS: u32 = 7;

fn socket(number: u32, state: State, lport: u16, rport: u16) -> Socket {
    Socket {
        netns: NETNS,
        cookie: number.into(),
        family: AF_INET,
        state,
        laddr: [10, 0, 0, 1].into(),
        lport,
        raddr: [10, 0, 0, 2].into(),
        rport,
        interface: None,
        timer: None,
        rqueue: 0,
        wqueue: 0,
        uid: None,
        inode: Some(number),
        cgroup: None,
        shutdown: None,
        v6only: None,
        drops: None,
        info: None,
    }
}

fn with_timer(kind: TimerKind, retransmits: u8, mut socket: Socket) -> Socket {
    let info = TcpInfo {
        last_ack_received_ms: Some(90_000),
        timeout_us: Some(12_800_000),
        backoffs: Some(6),
        ..TcpInfo::default()
    };
    socket.timer = Some(Timer {
        kind,
        expires_ms: 900,
        retransmits,
    });
    socket.info = Some(info);
    socket
}

fn inventory(sockets: Vec<Socket>) -> Inventory {
    let owner = |pid| Process {
        pid,
        comm: [b'a'; 16],
    };
    Inventory {
        listening: Listening::new(&sockets, [(NETNS, 32_768..=60_999)], |one| one.age(true)),
        // Each socket is of a process of its own.
        holders: Some((0..100).map(|inode| (inode, vec![owner(inode)])).collect()),
        sockets,
        ..Inventory::default()
    }
}

fn group(survey: &Survey, port: u16, role: Role, state: State) -> &Group {
    let key = GroupKey {
        netns: NETNS,
        port: Some(port),
        role,
        state,
    };
    &survey.groups[&key]
}

#[test]
fn every_socket_is_counted_in_its_group() {
    use State as S;
    let survey = Survey::of(
        &inventory(vec![
            socket(1, S::LISTEN, 80, 0),
            socket(2, S::ESTABLISHED, 80, 40_000),
            socket(3, S::ESTABLISHED, 80, 40_001),
            with_timer(
                TimerKind::Retransmit,
                6,
                socket(4, S::ESTABLISHED, 80, 40_002),
            ),
            socket(5, S::TIME_WAIT, 80, 40_003),
            socket(6, S::CLOSE_WAIT, 80, 40_004),
            socket(7, S::ESTABLISHED, 40_000, 443),
            socket(8, S::TIME_WAIT, 40_001, 443),
            socket(9, S::CLOSE, 40_002, 0),
        ]),
        &Thresholds::default(),
    );
    let (client, server) = (Role::Client, Role::Server);
    for (port, role, state, count) in [
        (80, server, S::ESTABLISHED, 3),
        (80, server, S::TIME_WAIT, 1),
        (80, server, S::CLOSE_WAIT, 1),
        (443, client, S::ESTABLISHED, 1),
        (443, client, S::TIME_WAIT, 1),
    ] {
        assert_eq!(group(&survey, port, role, state).count, count, "{state}");
    }
    assert_eq!(survey.groups.len(), 5);
    assert_eq!(survey.listeners.len(), 1);
    let routes: Vec<_> = survey.routes.iter().map(|(_, route)| route).collect();
    let [route] = routes[..] else {
        panic!("{routes:?}");
    };
    assert_eq!((route.sockets, route.time_wait), (2, 1));
    assert_eq!(survey.client_ports[&NETNS].count(), 2);
}

#[test]
fn what_waits_for_its_peer_is_named_with_its_own_process() {
    use State as S;
    let probing = TimerKind::Probe;
    let survey = Survey::of(
        &inventory(vec![
            socket(1, S::LISTEN, 80, 0),
            with_timer(
                TimerKind::Retransmit,
                2,
                socket(2, S::ESTABLISHED, 80, 40_001),
            ),
            with_timer(
                TimerKind::Retransmit,
                6,
                socket(3, S::ESTABLISHED, 80, 40_002),
            ),
            with_timer(probing, 0, socket(4, S::ESTABLISHED, 80, 40_003)),
            with_timer(
                TimerKind::Retransmit,
                6,
                socket(5, S::FIN_WAIT1, 80, 40_004),
            ),
            with_timer(
                TimerKind::Keepalive,
                0,
                socket(6, S::CLOSE_WAIT, 80, 40_005),
            ),
            with_timer(
                TimerKind::Keepalive,
                0,
                socket(7, S::ESTABLISHED, 80, 40_006),
            ),
        ]),
        &Thresholds::default(),
    );
    let pids = |owners: &Top<Process>| -> Vec<u32> {
        let first = owners.first(9).into_iter();
        first.map(|(process, _)| process.pid).collect()
    };
    let established = group(&survey, 80, Role::Server, S::ESTABLISHED);
    assert_eq!((established.count, established.retransmitting), (4, 1));
    assert_eq!(established.probing, 1);
    assert_eq!(pids(&established.owners), [3]);
    assert_eq!(pids(&established.probing_owners), [4]);
    assert_eq!(established.oldest, None);
    let closing = group(&survey, 80, Role::Server, S::FIN_WAIT1);
    assert_eq!((closing.stale, closing.silent), (1, 1));
    assert_eq!(pids(&closing.owners), [5]);
    let left_behind = group(&survey, 80, Role::Server, S::CLOSE_WAIT);
    assert_eq!(left_behind.stale, 1);
    assert_eq!(pids(&left_behind.owners), [6]);
    // All but CLOSE_WAIT and FIN_WAIT1 have been idle, with what the kernel says of their packets.
    let mut idle: Vec<_> = survey.idle.keys().map(|&(_, cookie)| cookie).collect();
    idle.sort_unstable();
    assert_eq!(idle, [2, 3, 4, 7]);
}

#[test]
fn namespaces_may_come_in_any_order() {
    // More of each than are looked at together, one after the other and in turns.
    let sockets = (0..300_u32).map(|number| Socket {
        netns: if number < 150 {
            number / 100
        } else {
            number % 3
        },
        ..socket(
            number,
            State::SYN_SENT,
            40_000 + u16::try_from(number).unwrap(),
            443,
        )
    });
    let sockets: Vec<Socket> = sockets.collect();
    let survey = Survey::of(&inventory(sockets.clone()), &Thresholds::default());
    for netns in 0..3 {
        let count = sockets.iter().filter(|one| one.netns == netns).count();
        let found = survey.count_of(netns, Role::Client, Some(443));
        assert_eq!(found, count as u64, "{netns}");
        assert_eq!(survey.client_ports[&netns].count() as usize, count);
    }
    assert_eq!(survey.client_ports.len(), 3);
    let routes: u32 = survey.routes.iter().map(|(_, route)| route.sockets).sum();
    assert_eq!(routes, 300);
}
