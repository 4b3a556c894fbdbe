use Role::{Client, Server, Unknown};
use State as S;
use tcpstate_common::record::{AF_INET, AF_INET6};

use super::{
    super::socket::{TICK_NS, Timer, TimerKind},
    *,
};

const NETNS: u32 = 1;
const MS: u64 = 1_000_000;

fn socket(state: State, local: &str, remote: &str) -> Socket {
    let local: std::net::SocketAddr = local.parse().unwrap();
    let remote: std::net::SocketAddr = remote.parse().unwrap();
    Socket {
        state,
        laddr: local.ip(),
        lport: local.port(),
        raddr: remote.ip(),
        rport: remote.port(),
        timer: None,
        inode: Some(u32::from(local.port())),
        cookie: u64::from(local.port()),
        netns: NETNS,
        family: if local.is_ipv4() { AF_INET } else { AF_INET6 },
        interface: None,
        rqueue: 0,
        wqueue: 0,
        uid: None,
        cgroup: None,
        shutdown: None,
        v6only: None,
        drops: None,
        info: None,
    }
}

fn listening(sockets: &[Socket]) -> Listening {
    Listening::new(sockets, [(NETNS, 32_768..=60_999)], |one| one.age(true))
}

#[test]
fn roles_are_told_where_they_can_be() {
    let listeners = [
        socket(State::LISTEN, "0.0.0.0:80", "0.0.0.0:0"),
        socket(State::LISTEN, "[::]:443", "[::]:0"),
        socket(State::LISTEN, "127.0.0.1:40000", "0.0.0.0:0"),
        Socket {
            v6only: Some(true),
            ..socket(State::LISTEN, "[::]:8080", "[::]:0")
        },
    ];
    let listening = listening(&listeners);
    for (state, local, remote, role) in [
        (S::ESTABLISHED, "10.0.0.1:80", "10.0.0.2:50000", Server),
        (S::TIME_WAIT, "10.0.0.1:80", "10.0.0.2:50000", Server),
        // A dual-stack listener serves both.
        (S::ESTABLISHED, "10.0.0.1:443", "10.0.0.2:50000", Server),
        (
            S::ESTABLISHED,
            "[2001:db8::1]:443",
            "[2001:db8::2]:50000",
            Server,
        ),
        // One for IPv6 only does not.
        (
            S::ESTABLISHED,
            "[2001:db8::1]:8080",
            "[2001:db8::2]:50000",
            Server,
        ),
        (S::ESTABLISHED, "10.0.0.1:8080", "10.0.0.2:50000", Unknown),
        // Listened on, but on another address.
        (S::ESTABLISHED, "127.0.0.1:40000", "127.0.0.1:50000", Server),
        (S::ESTABLISHED, "10.0.0.1:40000", "10.0.0.2:22", Client),
        // Both ports are of the kernel's choice, but the peer is on this host and listens.
        (S::ESTABLISHED, "127.0.0.1:50000", "127.0.0.1:40000", Client),
        (S::ESTABLISHED, "10.0.0.1:50000", "10.0.0.2:40000", Unknown),
        (S::ESTABLISHED, "10.0.0.1:50000", "10.0.0.1:80", Client),
        (S::CLOSE_WAIT, "10.0.0.1:50000", "10.0.0.2:5432", Client),
        // The listener has gone.
        (S::CLOSE_WAIT, "10.0.0.1:22", "10.0.0.2:50000", Unknown),
        // The state says it.
        (S::SYN_SENT, "10.0.0.1:80", "10.0.0.2:50000", Client),
        (S::SYN_RECV, "10.0.0.1:22", "10.0.0.2:50000", Server),
        (S::LISTEN, "10.0.0.1:22", "0.0.0.0:0", Server),
        (S::CLOSE, "10.0.0.1:80", "0.0.0.0:0", Unknown),
    ] {
        let one = socket(state, local, remote);
        assert_eq!(listening.role(&one), role, "{state} {local} {remote}");
    }
    let elsewhere = Socket {
        netns: 2,
        ..socket(State::ESTABLISHED, "10.0.0.1:80", "10.0.0.2:50000")
    };
    assert_eq!(listening.role(&elsewhere), Role::Unknown);
    // Without the range of ports nothing follows from a port.
    let blind = Listening::new(&listeners, [], |_| None);
    let one = socket(State::ESTABLISHED, "10.0.0.1:50000", "10.0.0.2:5432");
    assert_eq!(blind.role(&one), Role::Unknown);
}

fn half_open(local: &str, expires_ms: u32, retransmits: u8) -> Socket {
    Socket {
        timer: Some(Timer {
            kind: TimerKind::Retransmit,
            expires_ms,
            retransmits,
        }),
        inode: None,
        ..socket(State::SYN_RECV, local, "10.0.0.2:50000")
    }
}

#[test]
fn half_open_connections_belong_to_who_listens_most_closely() {
    let any = socket(State::LISTEN, "0.0.0.0:80", "0.0.0.0:0");
    let one = Socket {
        cookie: 7,
        ..socket(State::LISTEN, "10.0.0.1:80", "0.0.0.0:0")
    };
    let other = socket(State::LISTEN, "0.0.0.0:81", "0.0.0.0:0");
    let none = socket(State::LISTEN, "0.0.0.0:82", "0.0.0.0:0");
    let sockets = [
        half_open("10.0.0.1:80", 900, 0),
        any.clone(),
        one.clone(),
        other.clone(),
        none.clone(),
        half_open("10.0.0.3:80", 500, 0),
        half_open("10.0.0.3:80", 1_500, 1),
        half_open("10.0.0.4:81", 400, 0),
        half_open("10.0.0.4:81", 300, 0),
        half_open("10.0.0.1:99", 500, 0),
    ];
    let listening = listening(&sockets);
    let of = |socket| {
        let all = listening.half_open(socket);
        (all.count, all.oldest)
    };
    assert_eq!(of(&one), (1, Some(Age::exactly(100 * MS))));
    // One of them is older than that, but it is not known by how much.
    assert_eq!(of(&any), (2, Some(Age::at_least(1_000 * MS - TICK_NS))));
    assert_eq!(of(&other), (2, Some(Age::exactly(700 * MS))));
    assert_eq!(of(&none), (0, None));
    assert_eq!(listening.listener_of(&sockets[0]), one.inode);
    assert_eq!(listening.listener_of(&sockets[9]), None);
}

#[test]
fn the_age_of_a_handshake_is_exact_only_before_anything_was_repeated() {
    let age = |expires_ms, retransmits, never_deferred| {
        half_open("10.0.0.1:80", expires_ms, retransmits).age(never_deferred)
    };
    let at_least = |ms: u64| Some(Age::at_least((ms * MS).saturating_sub(TICK_NS)));
    assert_eq!(age(1_000, 0, true), Some(Age::exactly(0)));
    assert_eq!(age(4, 0, true), Some(Age::exactly(996 * MS)));
    // It has expired and is late, by how much is not known.
    assert_eq!(age(0, 0, true), at_least(1_000));
    // The client may have acknowledged, so that the timer sent nothing when it expired.
    assert_eq!(age(4, 0, false), at_least(996));
    // Either sent again by the timer, 2.996 s ago at most, or answered to a repeated SYN.
    assert_eq!(age(4, 1, true), at_least(996));
    assert_eq!(age(1_000, 200, true), at_least(0));
    // Only the timer can have made its time longer.
    assert_eq!(age(1_001, 0, true), at_least(1_000));
    assert_eq!(age(2_000, 1, true), at_least(1_000));
    assert_eq!(age(2_001, 9, true), at_least(3_000));
    // 1 + 2 + ... + 64 seconds, then 120.
    assert_eq!(age(120_000, 255, true), at_least(127_000));
    // Not a timer that could be.
    assert_eq!(age(120_001, 9, true), None);
    let established = Socket {
        state: State::ESTABLISHED,
        ..half_open("10.0.0.1:80", 500, 0)
    };
    assert_eq!(established.age(true), None);
    let without = Socket {
        timer: None,
        ..half_open("10.0.0.1:80", 500, 0)
    };
    assert_eq!(without.age(true), None);
}

#[test]
fn the_sets_of_ports_say_what_the_listeners_say() {
    let ports = [0, 1, 63, 64, 2_047, 2_048, 40_000, 65_535];
    let addresses = ["0.0.0.0", "[::]", "10.0.0.1", "[fd00::1]"];
    let mut listeners = Vec::new();
    // Each port has the listeners of other addresses.
    for (at, port) in ports.into_iter().enumerate() {
        for (bit, address) in addresses.iter().enumerate() {
            if at >> bit & 1 == 1 {
                listeners.push(Socket {
                    v6only: Some(at >= 4),
                    ..socket(State::LISTEN, &format!("{address}:{port}"), "0.0.0.0:0")
                });
            }
        }
    }
    let listening = listening(&listeners);
    let namespace = listening.namespace(NETNS);
    for port in ports.into_iter().chain([2, 62, 2_046, 39_999, 65_534]) {
        for address in ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"] {
            let address = address.parse().unwrap();
            let is_found = namespace.find(address, port).is_some();
            assert_eq!(
                namespace.has_listener(address, port),
                is_found,
                "{address} {port}"
            );
        }
    }
    assert!(namespace.has_listener([10, 0, 0, 9].into(), 1));
    assert!(
        !listening
            .namespace(NETNS + 1)
            .has_listener([10, 0, 0, 9].into(), 1)
    );
}
