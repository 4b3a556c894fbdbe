//! Hosts whose events go through the tracker, for the tests of rules; and tests of what is counted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tcpstate_common::{
    Record,
    record::{AF_INET, end, flags},
};

use super::{super::*, *};
use crate::{
    cause::reset_code,
    model::{Limits, Tracker},
};

pub const NETNS: u32 = 4_026_531_840;
pub const S: u64 = 1_000_000_000;
pub const MS: u64 = 1_000_000;

/// Address number `n` of another host.
pub fn peer(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n).into()
}

/// A host, and what `diagnose` knows of it.
pub struct Host {
    tracker: Tracker,
    pub observed: Observed,
    pub thresholds: Thresholds,
    pub sockets: Option<Survey>,
    pub earlier: Option<Survey>,
    pub facts: Vec<NetnsFacts>,
    pub earlier_facts: Vec<NetnsFacts>,
    /// Monotonic time, nanoseconds. The run begins at 100 s.
    pub now_ns: u64,
    cookie: u64,
}

impl Host {
    pub fn new() -> Self {
        let mut observed = Observed::default();
        observed.begin(100 * S);
        Self {
            tracker: Tracker::new(Limits::default()),
            observed,
            thresholds: Thresholds::default(),
            sockets: None,
            earlier: None,
            facts: Vec::new(),
            earlier_facts: Vec::new(),
            now_ns: 100 * S,
            cookie: 0,
        }
    }

    /// With these counters, which were 0 at first, and settings.
    pub fn with_facts(
        mut self,
        counters: &[(&'static str, u64)],
        settings: &[(&'static str, &str)],
    ) -> Self {
        let facts = |all: &dyn Fn(u64) -> u64| NetnsFacts {
            netns: NETNS,
            name: String::new(),
            counters: counters
                .iter()
                .map(|&(name, count)| (name, all(count)))
                .collect(),
            settings: settings
                .iter()
                .map(|&(path, text)| (path, text.to_owned()))
                .collect(),
        };
        self.facts = vec![facts(&|count| count)];
        self.earlier_facts = vec![facts(&|_| 0)];
        self
    }

    /// With so many sockets in this group.
    pub fn with_group(mut self, role: Role, port: u16, state: State, count: u64) -> Self {
        let key = GroupKey {
            netns: NETNS,
            port: Some(port),
            role,
            state,
        };
        let group = Group {
            count,
            ..Group::default()
        };
        let sockets = self.sockets.get_or_insert_default();
        sockets.groups.insert(key, group);
        self
    }

    pub fn wait(&mut self, ns: u64) {
        self.now_ns += ns;
        self.observed.tick(self.now_ns);
    }

    /// A client's socket, to this address and port.
    pub fn client(&mut self, to: IpAddr, port: u16) -> Life {
        self.life(40_000, to, port)
    }

    /// A server's socket at this port, of a client at this address.
    pub fn server(&mut self, port: u16, from: IpAddr) -> Life {
        self.life(port, from, 50_000)
    }

    fn life(&mut self, lport: u16, to: IpAddr, rport: u16) -> Life {
        self.cookie += 1;
        let mapped = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let own = if to.is_loopback() { to } else { peer(200) };
        let (laddr, raddr): (Ipv6Addr, Ipv6Addr) = (mapped(own), mapped(to));
        Life(Record {
            cookie: self.cookie,
            skaddr: 0xffff_8881_0000_0000 + self.cookie * 4_096,
            netns: NETNS,
            laddr: laddr.octets(),
            raddr: raddr.octets(),
            lport,
            rport,
            family: AF_INET,
            flags: flags::SOCKET | flags::COOKIE | flags::TCP,
            srtt_us: 100,
            newstate: State::CLOSE,
            ..Record::default()
        })
    }

    /// Takes a socket to its next state after this time.
    pub fn goes(&mut self, life: &mut Life, after_ns: u64, to: State) {
        self.now_ns += after_ns;
        let record = &mut life.0;
        record.ts_ns = self.now_ns;
        (record.oldstate, record.newstate) = (record.newstate, to);
        let event = Event::try_from(*record).unwrap();
        let applied = self.tracker.apply(&event);
        let sockets = self.sockets.as_ref();
        self.observed
            .event(&event, &applied, sockets, &self.thresholds);
    }

    /// Opens a listener of this process at this port.
    pub fn listens(&mut self, port: u16, pid: u32) -> Life {
        let mut life = self.life(port, Ipv4Addr::UNSPECIFIED.into(), 0);
        life.0.pid = pid;
        life.0.comm[0] = b'a';
        life.0.flags |= flags::PROCESS;
        self.goes(&mut life, MS, State::LISTEN);
        life
    }

    /// A client's connection that is established.
    pub fn connected(&mut self, to: IpAddr, port: u16) -> Life {
        let mut life = self.client(to, port);
        self.goes(&mut life, MS, State::SYN_SENT);
        self.goes(&mut life, MS, State::ESTABLISHED);
        life
    }

    /// A server's connection that is established.
    pub fn accepted(&mut self, port: u16, from: IpAddr) -> Life {
        let mut life = self.server(port, from);
        life.0.newstate = State::LISTEN;
        self.goes(&mut life, MS, State::SYN_RECV);
        self.goes(&mut life, 0, State::ESTABLISHED);
        life
    }

    /// A connect that ends with this error.
    pub fn fails(&mut self, to: IpAddr, port: u16, errno: u16) {
        let mut life = self.client(to, port);
        self.goes(&mut life, MS, State::SYN_SENT);
        life.0.error = errno;
        life.0.pid = end::SYN_SENT;
        self.goes(&mut life, MS, State::CLOSE);
    }

    /// A connect that the application gives up after this time.
    pub fn gives_up(&mut self, to: IpAddr, port: u16, after_ns: u64) {
        let mut life = self.client(to, port);
        self.goes(&mut life, MS, State::SYN_SENT);
        life.0.pid = end::SYN_SENT;
        life.0.flags |= flags::RCV_SHUTDOWN | flags::SEND_SHUTDOWN | flags::DEAD;
        self.goes(&mut life, after_ns, State::CLOSE);
    }

    /// A connection of this client that both sides close, this one first.
    pub fn closes_first(&mut self, mut life: Life, after_ns: u64) {
        self.goes(&mut life, after_ns, State::FIN_WAIT1);
        self.goes(&mut life, 0, State::FIN_WAIT2);
        life.0.flags |= flags::DEAD | flags::DONE | flags::RCV_SHUTDOWN | flags::SEND_SHUTDOWN;
        self.goes(&mut life, MS, State::CLOSE);
    }

    /// The same, closed by the peer first.
    pub fn closes_second(&mut self, mut life: Life, after_ns: u64) {
        self.goes(&mut life, after_ns, State::CLOSE_WAIT);
        self.goes(&mut life, 0, State::LAST_ACK);
        life.0.flags |= flags::DEAD | flags::DONE | flags::RCV_SHUTDOWN | flags::SEND_SHUTDOWN;
        self.goes(&mut life, MS, State::CLOSE);
    }

    /// The findings of a rule.
    pub fn check(&self, rule: &Rule) -> Vec<Finding> {
        let snapshot = self.snapshot();
        assert_eq!(rule.missing(&snapshot), None);
        rule.check(&snapshot)
    }

    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot {
            now_ns: self.now_ns,
            sockets: self.sockets.as_ref(),
            earlier: self.earlier.as_ref(),
            observed: &self.observed,
            facts: &self.facts,
            earlier_facts: &self.earlier_facts,
            thresholds: &self.thresholds,
        }
    }
}

/// A socket, as its latest record has it.
pub struct Life(pub Record);

impl Life {
    /// The peer has reset it: the error that the socket gets.
    pub fn is_reset(&mut self) {
        let is_closed = self.0.newstate == State::CLOSE_WAIT;
        self.0.error = if is_closed { 32 } else { 104 };
    }

    /// This kernel resets it because of data after the close.
    pub fn gets_late_data(&mut self) {
        self.0.error = 104;
        let code = reset_code("SK_RST_REASON_TCP_ABORT_ON_DATA").unwrap();
        self.0.pid = end::with_reason(end::RESET_SENT, code);
        self.0.flags |= flags::DEAD | flags::RCV_SHUTDOWN | flags::SEND_SHUTDOWN;
    }

    /// This side resets it.
    pub fn resets(&mut self) {
        self.0.pid = end::RESET_SENT;
    }
}

/// The one finding, with its severity.
pub fn only(findings: Vec<Finding>, severity: Severity) -> Finding {
    let [finding] = <[Finding; 1]>::try_from(findings).unwrap();
    assert_eq!(finding.severity, severity, "{}", finding.summary);
    assert!(!finding.figures.is_empty());
    finding
}

/// A listener on any address.
pub fn listener(port: u16) -> ListenerNow {
    ListenerNow {
        cookie: 0,
        netns: NETNS,
        laddr: Ipv4Addr::UNSPECIFIED.into(),
        port,
        waiting: Some(0),
        backlog: Some(128),
        drops: None,
        half_open: 0,
        half_open_peers: Top::default(),
        resent: 0,
        synack_retransmits: 0,
        deferred: 0,
        owner: None,
    }
}

fn service(host: &Host, role: Role, port: u16) -> &Service {
    let key = ServiceKey {
        netns: Some(NETNS),
        port: Some(port),
        role,
    };
    host.observed.service(&key).unwrap()
}

#[test]
fn connects_that_fail_are_told_apart() {
    let mut host = Host::new();
    let localhost = Ipv4Addr::LOCALHOST.into();
    for (to, errno) in [
        (peer(1), 110),
        (peer(1), 111),
        (localhost, 111),
        (peer(1), 113),
        (peer(1), 101),
        (peer(1), 13),
    ] {
        host.fails(to, 80, errno);
    }
    host.gives_up(peer(2), 80, 2 * S);
    // It lost a race.
    host.gives_up(peer(2), 80, 300 * MS);
    for lport in [0, 40_000] {
        let mut life = host.client(peer(2), 80);
        life.0.lport = lport;
        host.goes(&mut life, MS, State::SYN_SENT);
        life.0.pid = end::NO_PORT;
        host.goes(&mut life, 0, State::CLOSE);
    }
    let service = service(&host, Role::Client, 80);
    for (trouble, count) in [
        (Trouble::ConnectTimedOut, 1),
        (Trouble::Refused, 1),
        (Trouble::RefusedHere, 1),
        (Trouble::Unreachable, 2),
        (Trouble::ConnectFailed, 1),
        (Trouble::GivenUp, 1),
        (Trouble::NoPort, 1),
        (Trouble::TupleTaken, 1),
    ] {
        assert_eq!(service.count(trouble), count, "{trouble:?}");
    }
    assert_eq!((service.opened, service.established), (10, 0));
    assert_eq!(service.peers.total(), 10);
    // Not those without a port, and not the race.
    assert_eq!(service.troubled_peers.total(), 7);
    assert_eq!(service.failed_by(Cause::Unreachable), 2);
}

#[test]
fn only_data_after_the_peers_close_is_a_use() {
    let mut host = Host::new();
    for more in [0, 1] {
        let mut life = host.connected(peer(1), 6379);
        life.0.bytes_sent = 100;
        host.goes(&mut life, S, State::CLOSE_WAIT);
        life.0.bytes_sent += more;
        life.is_reset();
        host.goes(&mut life, S, State::CLOSE);
    }
    let service = service(&host, Role::Client, 6379);
    assert_eq!(service.count(Trouble::ResetWhenReused), 1);
    assert_eq!(service.ended_by(Cause::ResetByPeer), 2);
}

#[test]
fn late_data_is_distinguished_by_lifetime_and_state() {
    let mut host = Host::new();
    for (lifetime_ns, is_acknowledged) in [(10 * MS, false), (5 * S, false), (5 * S, true)] {
        let mut life = host.accepted(80, peer(1));
        host.goes(&mut life, lifetime_ns, State::FIN_WAIT1);
        if is_acknowledged {
            host.goes(&mut life, MS, State::FIN_WAIT2);
        }
        life.gets_late_data();
        host.goes(&mut life, MS, State::CLOSE);
    }
    let service = service(&host, Role::Server, 80);
    assert_eq!(service.count(Trouble::LateData), 1);
    assert_eq!(service.count(Trouble::EarlyClose), 1);
    assert_eq!(service.count(Trouble::DataAfterFin), 1);
    // It is no fault of the peer.
    assert_eq!(service.troubled_peers.total(), 0);
}

#[test]
fn a_handshake_near_a_second_was_repeated() {
    let mut host = Host::new();
    for handshake_ns in [MS, 300 * MS, 700 * MS, 1_020 * MS, 3_050 * MS, 1_500 * MS] {
        let mut life = host.client(peer(1), 80);
        host.goes(&mut life, MS, State::SYN_SENT);
        host.goes(&mut life, handshake_ns, State::ESTABLISHED);
    }
    let service = service(&host, Role::Client, 80);
    assert_eq!(service.handshakes, 6);
    assert_eq!(service.count(Trouble::SlowHandshake), 2);
}

#[test]
fn a_reset_knows_how_long_its_connection_was_idle() {
    let mut host = Host::new();
    let mut life = host.connected(peer(1), 80);
    let mut busy = host.connected(peer(1), 80);
    let mut sockets = Survey {
        ts_ns: host.now_ns,
        ..Survey::default()
    };
    sockets.idle.insert((NETNS, life.0.cookie), 40 * S);
    host.sockets = Some(sockets);
    for life in [&mut life, &mut busy] {
        life.is_reset();
        host.goes(life, 2 * S, State::CLOSE);
    }
    let endings = &service(&host, Role::Client, 80).endings;
    let idle: Vec<_> = endings.iter().map(|ending| ending.idle_ns).collect();
    assert_eq!(idle, [Some(42 * S), None]);
}

#[test]
fn services_beyond_the_bound_are_counted() {
    let mut host = Host::new();
    for port in 1..=5_000 {
        host.fails(peer(1), port, 111);
    }
    assert_eq!(host.observed.services().count(), MAX_SERVICES);
    // Two events each.
    assert_eq!(host.observed.left_out(), 2 * (5_000 - MAX_SERVICES as u64));
}

#[test]
fn listeners_begin_and_end() {
    let mut host = Host::new();
    let mut listener = host.listens(80, 7);
    host.goes(&mut listener, S, State::CLOSE);
    let pids = |ends: Vec<&ListenerEnd>| -> Vec<_> {
        ends.iter()
            .map(|end| (end.port, end.owner.map(|owner| owner.pid)))
            .collect()
    };
    let observed = &host.observed;
    assert_eq!(pids(observed.listeners_began().collect()), [(80, Some(7))]);
    assert_eq!(pids(observed.listeners_ended().collect()), [(80, Some(7))]);
    assert_eq!(observed.services().count(), 0);
    assert!(observed.has_ended(Some(NETNS), 80));
    assert!(!observed.has_ended(Some(NETNS), 81));
}

#[test]
fn a_listener_from_before_has_the_owner_of_the_look() {
    let mut host = Host::new();
    let owner = Process {
        pid: 9,
        comm: [b'a'; 16],
    };
    let listeners = [(81, 8), (80, 9)].map(|(port, pid)| ListenerNow {
        owner: Some(Process { pid, ..owner }),
        ..listener(port)
    });
    host.sockets = Some(Survey {
        listeners: listeners.to_vec(),
        ..Survey::default()
    });
    let mut life = host.life(80, Ipv4Addr::UNSPECIFIED.into(), 0);
    life.0.newstate = State::LISTEN;
    host.goes(&mut life, S, State::CLOSE);
    let ended = host.observed.listeners_ended().next().unwrap();
    assert_eq!(ended.owner, Some(owner));
}

#[test]
fn one_of_two_listeners_at_a_port_remains() {
    let mut host = Host::new();
    let listeners = |host: &Host, count| Survey {
        ts_ns: host.now_ns,
        listeners: vec![listener(80); count],
        ..Survey::default()
    };
    let before = listeners(&host, 2);
    let ends = |host: &mut Host| {
        let mut life = host.life(80, Ipv4Addr::UNSPECIFIED.into(), 0);
        life.0.newstate = State::LISTEN;
        host.goes(&mut life, S, State::CLOSE);
    };
    let is_there = |host: &Host, sockets| {
        let observed = &host.observed;
        observed.is_listening(Some(sockets), Some(NETNS), 80)
    };
    assert!(is_there(&host, &before));
    ends(&mut host);
    assert!(is_there(&host, &before));
    let after = listeners(&host, 1);
    assert!(is_there(&host, &after));
    ends(&mut host);
    assert!(!is_there(&host, &before));
    assert!(!is_there(&host, &after));
    host.listens(80, 7);
    assert!(is_there(&host, &after));
}
