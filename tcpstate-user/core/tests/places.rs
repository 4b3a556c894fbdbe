//! Which service ports get figures of their own, where ports are on probation: those that last or are frequent. Nothing that
//! was counted is taken back.

use std::collections::{BTreeMap, BTreeSet};

use tcpstate_common::{
    Record, State,
    record::{AF_INET, flags},
};
use tcpstate_core::{
    census::{Census, Found, Kind, Scope},
    event::Event,
    model::{GroupKey, Limits, Snapshot, Tracker},
    owner::Owner,
    service::{Role, ServicePort},
};

const SECOND: u64 = 1_000_000_000;

/// A host that is watched.
struct Watched {
    tracker: Tracker,
    now_ns: u64,
    next: u64,
    events: u64,
    /// The counts at the tick before.
    before: BTreeMap<(GroupKey, State, State), u64>,
}

impl Watched {
    fn new(max_ports: usize) -> Self {
        let tracker = Tracker::new(Limits {
            max_ports,
            ..Limits::default()
        });
        Self {
            tracker: tracker.with_probation(),
            now_ns: 0,
            next: 0,
            events: 0,
            before: BTreeMap::new(),
        }
    }

    fn event(&mut self, cookie: u64, (lport, rport): (u16, u16), (old, new): (State, State)) {
        self.now_ns += 1_000;
        let event = Event::try_from(Record {
            ts_ns: self.now_ns,
            cookie,
            lport,
            rport,
            oldstate: old,
            newstate: new,
            family: AF_INET,
            flags: flags::COOKIE,
            ..Record::default()
        });
        self.tracker.apply(&event.expect("AF_INET"));
        self.events += 1;
    }

    /// A client's connection to a port, established for so long.
    fn connection(&mut self, port: u16, lasts_ns: u64) {
        self.next += 1;
        let (cookie, ports) = (self.next, (40_000, port));
        self.event(cookie, ports, (State::CLOSE, State::SYN_SENT));
        self.event(cookie, ports, (State::SYN_SENT, State::ESTABLISHED));
        self.now_ns += lasts_ns;
        self.event(cookie, ports, (State::ESTABLISHED, State::CLOSE_WAIT));
        self.event(cookie, ports, (State::CLOSE_WAIT, State::LAST_ACK));
        self.event(cookie, ports, (State::LAST_ACK, State::CLOSE));
    }

    /// A connect that is refused.
    fn attempt(&mut self, port: u16) {
        self.next += 1;
        let (cookie, ports) = (self.next, (40_000, port));
        self.event(cookie, ports, (State::CLOSE, State::SYN_SENT));
        self.event(cookie, ports, (State::SYN_SENT, State::CLOSE));
    }

    /// The ports with figures of their own, at the next tick; no count may be lower than before, and together they are all.
    fn tick(&mut self) -> BTreeSet<u16> {
        self.now_ns = self.now_ns.next_multiple_of(SECOND) + SECOND;
        self.tracker.tick(self.now_ns);
        let Snapshot { groups, .. } = self.tracker.snapshot();
        let counts: BTreeMap<_, u64> = groups
            .iter()
            .flat_map(|group| {
                let all = group.figures.transitions.iter();
                all.map(|one| ((group.key, one.from, one.to), one.count))
            })
            .collect();
        for (key, before) in &self.before {
            assert!(counts.get(key) >= Some(before), "{key:?}");
        }
        assert_eq!(counts.values().sum::<u64>(), self.events);
        self.before = counts;
        let ports = groups.iter().filter_map(|group| match group.key {
            GroupKey::Port(ServicePort::Port(port), _) => Some(port),
            _ => None,
        });
        ports.collect()
    }

    /// The sockets of each group in this state.
    fn in_state(&mut self, wanted: State) -> Vec<(GroupKey, u64)> {
        let Snapshot { groups, .. } = self.tracker.snapshot();
        let all = groups.iter().filter_map(|group| {
            let mut states = group.figures.states.iter();
            let (_, count) = states.find(|(state, _)| *state == wanted)?;
            Some((group.key, *count))
        });
        all.collect()
    }
}

fn client(port: ServicePort) -> GroupKey {
    GroupKey::Port(port, Role::Client)
}

fn server(port: ServicePort) -> GroupKey {
    GroupKey::Port(port, Role::Server)
}

#[test]
fn ports_that_only_opened_and_closed_take_no_place() {
    let mut watched = Watched::new(1);
    for port in 1..1_000 {
        watched.attempt(port);
        watched.connection(port, 1_000);
        watched.event(1 << 40, (port, 0), (State::CLOSE, State::LISTEN));
        watched.event(1 << 40, (port, 0), (State::LISTEN, State::CLOSE));
    }
    assert_eq!(watched.tick(), BTreeSet::new());
    // The place is still there for one that lasts.
    watched.connection(5_432, SECOND);
    assert_eq!(watched.tick(), BTreeSet::from([5_432]));
    watched.connection(5_433, SECOND);
    assert_eq!(watched.tick(), BTreeSet::from([5_432]), "there is but one");
}

#[test]
fn a_port_that_is_frequent_has_its_place_from_then_on() {
    let mut watched = Watched::new(10);
    for _ in 0..7 {
        watched.attempt(80);
    }
    assert_eq!(watched.tick(), BTreeSet::new());
    for _ in 0..3 {
        watched.attempt(80);
    }
    assert_eq!(watched.tick(), BTreeSet::from([80]));
    let opens = |port| (client(port), State::CLOSE, State::SYN_SENT);
    assert_eq!(watched.before.get(&opens(ServicePort::Other)), Some(&7));
    assert_eq!(watched.before.get(&opens(ServicePort::Port(80))), Some(&3));
}

#[test]
fn what_comes_now_and_then_never_adds_up() {
    let mut watched = Watched::new(10);
    for _ in 0..100 {
        for _ in 0..3 {
            watched.attempt(80);
        }
        watched.now_ns += 60 * SECOND;
        assert_eq!(watched.tick(), BTreeSet::new());
    }
}

#[test]
fn a_connection_that_lasts_counts_at_its_port_from_then_on() {
    let mut watched = Watched::new(10);
    watched.connection(5_432, 10 * SECOND);
    watched.tick();
    let other = client(ServicePort::Other);
    let own = client(ServicePort::Port(5_432));
    let keys: Vec<_> = watched.before.keys().copied().collect();
    assert_eq!(
        keys,
        [
            (own, State::ESTABLISHED, State::CLOSE_WAIT),
            (own, State::CLOSE_WAIT, State::LAST_ACK),
            (own, State::LAST_ACK, State::CLOSE),
            (other, State::SYN_SENT, State::ESTABLISHED),
            (other, State::CLOSE, State::SYN_SENT),
        ]
    );
    // Nothing is left in a state that nobody is in.
    for state in State::ALL {
        assert_eq!(watched.in_state(state), [], "{state}");
    }
}

#[test]
fn a_listener_that_lasts_has_its_place_before_anybody_comes() {
    let mut watched = Watched::new(10);
    watched.event(1, (80, 0), (State::CLOSE, State::LISTEN));
    assert_eq!(
        watched.in_state(State::LISTEN),
        [(server(ServicePort::Other), 1)]
    );
    assert_eq!(watched.tick(), BTreeSet::from([80]));
    let own = server(ServicePort::Port(80));
    assert_eq!(watched.in_state(State::LISTEN), [(own, 1)]);
    watched.event(1, (80, 0), (State::LISTEN, State::CLOSE));
    watched.tick();
    assert_eq!(
        watched.before.get(&(own, State::LISTEN, State::CLOSE)),
        Some(&1)
    );
    assert_eq!(watched.in_state(State::LISTEN), []);
}

#[test]
fn what_a_dump_finds_has_its_place_at_once() {
    let mut watched = Watched::new(10);
    let found = |cookie, state, (lport, rport), role| Found {
        cookie,
        state,
        kind: Kind::Socket,
        since_ns: None,
        there_ns: None,
        family: 2,
        laddr: [10, 0, 0, 1].into(),
        lport,
        raddr: [10, 0, 0, 2].into(),
        rport,
        role,
        uid: None,
        cgroup: None,
        owner: Owner::UNKNOWN,
    };
    let census = Census {
        netns: 1,
        begin_ns: SECOND,
        scope: Scope::All,
        found: vec![
            found(1, State::LISTEN, (22, 0), Role::Unknown),
            found(2, State::ESTABLISHED, (22, 50_000), Role::Server),
            found(3, State::ESTABLISHED, (50_000, 5_432), Role::Client),
            found(4, State::SYN_SENT, (50_001, 81), Role::Client),
        ],
        ..Census::default()
    };
    watched.tracker.census(&census, |_| {});
    assert_eq!(watched.tick(), BTreeSet::from([22, 5_432]));
}
