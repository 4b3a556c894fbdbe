use Role::{Client, Server, Unknown};
use State as S;
use tcpstate_common::record::{AF_INET, AF_INET6};

use super::{
    super::socket::{Timer, TimerKind},
    *,
};

const NETNS: u32 = 1;

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
        info: None,
    }
}

fn listening(sockets: &[Socket]) -> Listening {
    Listening::new(sockets, [(NETNS, 32_768..=60_999)])
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
    let blind = Listening::new(&listeners, []);
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
    let sockets = [
        half_open("10.0.0.1:80", 900, 0),
        any.clone(),
        one.clone(),
        other.clone(),
        half_open("10.0.0.3:80", 500, 0),
        half_open("10.0.0.3:80", 1_500, 1),
        half_open("10.0.0.1:99", 500, 0),
    ];
    let listening = listening(&sockets);
    let of = |socket| {
        let all = listening.half_open(socket);
        (all.count, all.oldest_ms)
    };
    assert_eq!(of(&one), (1, Some(100)));
    assert_eq!(of(&any), (2, Some(1_500)));
    assert_eq!(of(&other), (0, None));
    assert_eq!(listening.listener_of(&sockets[0]), one.inode);
    assert_eq!(listening.listener_of(&sockets[6]), None);
}

#[test]
fn the_age_of_a_handshake_follows_from_its_timer() {
    let age = |expires_ms, retransmits| {
        half_open("10.0.0.1:80", expires_ms, retransmits).half_open_age_ms()
    };
    assert_eq!(age(1_000, 0), Some(0));
    assert_eq!(age(4, 0), Some(996));
    assert_eq!(age(2_000, 1), Some(1_000));
    assert_eq!(age(0, 5), Some(63_000));
    // 1 + 2 + ... + 64 seconds, then 120 each.
    assert_eq!(age(0, 8), Some((127 + 120 + 120) * 1_000));
    assert!(age(0, 255).is_some());
    // Not a timer that could be.
    assert_eq!(age(1_001, 0), None);
    let established = Socket {
        state: State::ESTABLISHED,
        ..half_open("10.0.0.1:80", 500, 0)
    };
    assert_eq!(established.half_open_age_ms(), None);
    let without = Socket {
        timer: None,
        ..half_open("10.0.0.1:80", 500, 0)
    };
    assert_eq!(without.half_open_age_ms(), None);
}
