//! Properties of the model for any events: nothing panics, and the books add up.

use std::collections::{BTreeMap, HashSet};

use proptest::{collection::vec, prelude::*, sample::select};
use tcpstate_common::{
    Record, State,
    record::{AF_INET, flags},
};
use tcpstate_core::{
    census::{Census, Found, Gone, HalfOpen, Held, Kind, Request, Scope},
    event::{Event, Process},
    histogram::Histogram,
    model::{
        By, Connection, Connections, Ended, Figures, GroupFigures, Include, Limits, Snapshot,
        Tracker,
    },
    owner::Owner,
    service::Role,
};

/// An input of the tracker.
#[derive(Clone, Debug)]
enum Input {
    Event(Box<Record>),
    Census(Box<Census>),
    Tick,
}

/// The longest of each state are the first of all that are sorted by the time since which they are in it.
fn check_longest(tracker: &mut Tracker, mut all: Vec<Connection>) {
    const MOST: usize = 2;
    // Numbers from 15 on are no states, and count as one.
    let state = |one: &Connection| {
        let present = one.states.last();
        present.map(|stay| stay.state.folded().0.min(15))
    };
    let in_state_ns = |one: &Connection| one.last_ns.or(one.there_ns);
    let longest = tracker.snapshot_of(Include {
        connections: Connections::Longest(MOST),
        histograms: false,
    });
    let key = |one: &Connection| (state(one), in_state_ns(one));
    all.sort_by_key(key);
    let mut of_state = BTreeMap::new();
    all.retain(|one| {
        let number = of_state.entry(key(one).0).or_insert(0);
        *number += 1;
        *number <= MOST
    });
    let mut shown = longest.connections;
    shown.sort_by_key(key);
    let keys = |list: &[Connection]| list.iter().map(key).collect::<Vec<_>>();
    assert_eq!(keys(&shown), keys(&all));
}

/// Censuses that match the events, and many that do not.
fn censuses() -> impl Strategy<Value = Input> {
    let state = select(vec![
        State::ESTABLISHED,
        State::FIN_WAIT2,
        State::TIME_WAIT,
        State::LISTEN,
        State::CLOSE_WAIT,
        State::SYN_RECV,
    ]);
    let found = (0..6u64, state, any::<bool>(), 0..3u16, any::<Option<u32>>()).prop_map(
        |(cookie, state, mini, port, since)| Found {
            cookie,
            state,
            kind: if mini { Kind::Minisocket } else { Kind::Socket },
            since_ns: since.map(u64::from),
            there_ns: since.map(u64::from),
            family: 2,
            laddr: [1; 4].into(),
            lport: port,
            raddr: [0; 4].into(),
            rport: 1,
            role: [Role::Unknown, Role::Client, Role::Server][usize::from(port)],
            uid: None,
            cgroup: None,
            owner: Owner::UNKNOWN,
        },
    );
    let gone = (0..6u64, 0..2_000_000_000u64).prop_map(|(cookie, at_ns)| Gone { cookie, at_ns });
    let half_open = (0..3u16, 0..5u64).prop_map(|(lport, count)| HalfOpen {
        laddr: [1; 4].into(),
        lport,
        count,
        oldest_ns: None,
        oldest_at_least_ns: None,
        synack_retransmits: 0,
    });
    let process = |pid| Process {
        pid,
        comm: [b'a'; 16],
    };
    let held = (0..6u64, 0..3u16, vec((1..4u32).prop_map(process), 0..3)).prop_map(
        |(cookie, lport, by)| Held {
            cookie,
            laddr: [1; 4].into(),
            lport,
            by,
        },
    );
    let request = (0..6u64, 0..2_000_000_000u64, any::<Option<u32>>()).prop_map(
        |(cookie, since_ns, interval)| Request {
            cookie,
            since_ns,
            interval_ns: interval.map(u64::from),
        },
    );
    let requests = (vec(request, 0..3), vec(0..6u64, 0..2));
    let what = (
        vec(found, 0..4),
        vec(gone, 0..3),
        vec(half_open, 0..3),
        (vec(held, 0..3), requests),
    );
    let when = (0..4_000_000_000u64, any::<Option<u32>>(), 0..2u32);
    let scope = select(vec![
        Scope::Small,
        Scope::Small,
        Scope::All,
        Scope::Some,
        Scope::Vanished,
        Scope::OutOfReach,
    ]);
    let how = (scope, any::<bool>());
    (what, when, how).prop_map(
        |(
            (found, gone, half_open, (held, requests)),
            (begin_ns, previous, netns),
            (scope, more),
        )| {
            Input::Census(Box::new(Census {
                netns,
                // Far enough apart that a minisocket which is in no dump is forgotten.
                begin_ns: begin_ns * 100,
                previous_ns: previous.map(u64::from),
                found,
                gone,
                half_open,
                held,
                requests: requests.0,
                requests_gone: requests.1,
                scope,
                more,
                ..Census::default()
            }))
        },
    )
}

/// Transitions that happen, and some that do not.
fn changes() -> impl Strategy<Value = (State, State)> {
    let usual = select(vec![
        (State::CLOSE, State::SYN_SENT),
        (State::SYN_SENT, State::ESTABLISHED),
        (State::LISTEN, State::SYN_RECV),
        (State::SYN_RECV, State::ESTABLISHED),
        (State::ESTABLISHED, State::FIN_WAIT1),
        (State::FIN_WAIT1, State::FIN_WAIT2),
        (State::FIN_WAIT2, State::CLOSE),
        (State::ESTABLISHED, State::CLOSE_WAIT),
        (State::CLOSE_WAIT, State::LAST_ACK),
        (State::LAST_ACK, State::CLOSE),
        (State::CLOSE, State::LISTEN),
        (State::LISTEN, State::CLOSE),
        (State::ESTABLISHED, State::CLOSE),
        (State::CLOSE, State::CLOSE),
    ]);
    prop_oneof![4 => usual, 1 => any::<(u8, u8)>().prop_map(|(old, new)| (State(old), State(new)))]
}

fn inputs(len: usize) -> impl Strategy<Value = Vec<Input>> {
    // Few sockets, ports and namespaces, so that they meet.
    let who = (0..6u64, 0..3u16, 0..3u16, 0..2u32, 0..3u8);
    let what = (
        changes(),
        any::<u8>(),
        prop_oneof![3 => Just(0), 1 => 1..120u16],
        any::<u64>(),
    );
    let event = (who, what, 0..2_000_000_000u64).prop_map(
        |(
            (socket, lport, rport, netns, comm),
            ((oldstate, newstate), flag, error, bytes),
            ts_ns,
        )| {
            Input::Event(Box::new(Record {
                ts_ns,
                cookie: if flag & flags::COOKIE == 0 { 0 } else { socket },
                skaddr: socket,
                cgroup: u64::from(comm),
                bytes_sent: bytes,
                laddr: [u8::from(lport == 1); 16],
                raddr: [u8::from(rport == 1); 16],
                netns,
                pid: u32::from(comm),
                srtt_us: (bytes & 0xff) as u32,
                lport,
                rport,
                error,
                oldstate,
                newstate,
                family: AF_INET,
                flags: flag,
                comm: [comm; 16],
                ..Record::default()
            }))
        },
    );
    vec(
        prop_oneof![20 => event, 4 => censuses(), 1 => Just(Input::Tick)],
        1..len,
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    (
        1..5usize,
        1..3usize,
        0..3usize,
        1..3usize,
        select(vec![0, 200_000]),
    )
        .prop_map(
            |(max_connections, max_ports, max_listeners, max_embryos, max_histogram_bytes)| {
                Limits {
                    max_connections,
                    max_ports,
                    max_listeners,
                    max_embryos,
                    max_histogram_bytes,
                    ..Limits::default()
                }
            },
        )
}

/// Adds up figures. `states` has the sockets of the end and is taken from the last ones.
fn sum<'a>(figures: impl IntoIterator<Item = &'a Figures>) -> Figures {
    let (mut transitions, mut causes) = (BTreeMap::new(), BTreeMap::new());
    let mut total = Figures::default();
    for figures in figures {
        for transition in &figures.transitions {
            let mut counted = *transition;
            counted.count = 0;
            transitions.entry(counted).or_insert(0);
            *transitions.entry(counted).or_default() += transition.count;
        }
        for &(cause, count) in &figures.causes {
            *causes.entry(cause).or_default() += count;
        }
        total.opened += figures.opened;
        total.established += figures.established;
        total.closed += figures.closed;
        total.failed += figures.failed;
        total.states.clone_from(&figures.states);
    }
    for (mut transition, count) in transitions {
        transition.count = count;
        total.transitions.push(transition);
    }
    total.causes = causes.into_iter().collect();
    total
}

/// The figures over all are the sums of those of the groups.
fn check_groups(all: &Figures, groups: &[GroupFigures]) {
    let mut total = sum(groups.iter().map(|group| &group.figures));
    let mut states = BTreeMap::new();
    for &(state, count) in groups.iter().flat_map(|group| &group.figures.states) {
        *states.entry(state).or_default() += count;
    }
    total.states = states.into_iter().collect();
    assert_eq!(&total, all);
    let mut keys: Vec<_> = groups.iter().map(|group| group.key).collect();
    keys.dedup();
    assert_eq!(keys.len(), groups.len());
}

fn check_books(snapshot: &Snapshot, limits: &Limits, half_open: u64) {
    let (books, all) = (&snapshot.books, &snapshot.all);
    assert_eq!(all.total(), books.events);
    assert_eq!(
        all.opened + books.first_seen + books.seeded,
        all.closed + books.superseded + books.evicted + books.live,
        "{books:?} {all:?}"
    );
    assert!(books.live <= limits.max_connections as u64);
    assert_eq!(snapshot.connections.len() as u64, books.live);
    let ids: HashSet<_> = snapshot
        .connections
        .iter()
        .map(|connection| connection.id)
        .collect();
    assert_eq!(
        ids.len() as u64,
        books.live,
        "two connections of the same name"
    );
    assert_eq!(
        all.causes.iter().map(|&(_, count)| count).sum::<u64>(),
        all.closed
    );
    let here = (snapshot.connections.len() + snapshot.listeners.len()) as u64;
    assert_eq!(
        all.states.iter().map(|&(_, count)| count).sum::<u64>(),
        here + books.minisockets + half_open
    );
    assert!(books.minisockets <= limits.max_connections as u64);
    for connection in &snapshot.connections {
        let now = connection
            .states
            .last()
            .expect("an open connection is in a state");
        assert_eq!(now.dwell_ns, None);
        assert!(
            connection
                .last_ns
                .is_none_or(|last_ns| connection.first_ns <= last_ns)
        );
    }
    check_groups(all, &snapshot.groups);
}

fn check_ended(ended: &Ended) {
    let connection = &ended.connection;
    assert_eq!(ended.lifetime_ns.is_some(), connection.opened);
    let dwells: Option<u64> = connection.states.iter().map(|stay| stay.dwell_ns).sum();
    if let (Some(lifetime), Some(dwells), false) = (ended.lifetime_ns, dwells, connection.truncated)
    {
        assert_eq!(dwells, lifetime, "{ended:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn books_add_up(
        inputs in inputs(200),
        limits in limits(),
        by in select(By::ALL.to_vec()),
    ) {
        let mut tracker = Tracker::new(limits).by(by);
        tracker.follow();
        let (mut now_ns, mut intervals, mut dwells) = (0, Vec::new(), 0);
        let mut half_open = BTreeMap::new();
        for input in &inputs {
            match input {
                Input::Event(record) => {
                    let event = Event::try_from(**record).expect("AF_INET");
                    now_ns = now_ns.max(event.ts_ns());
                    let applied = tracker.apply(&event);
                    // Of a transition into the same state it is the time so far, which its end has too.
                    let leaves = event.oldstate().folded() != event.newstate().folded();
                    dwells += u64::from(leaves && applied.dwell_ns.is_some());
                    let (connection, ended) = (applied.connection(), applied.ended());
                    prop_assert_eq!(ended.is_some(), applied.is_end());
                    if let Some(ended) = &ended {
                        check_ended(ended);
                    }
                    if let Some(connection) = connection {
                        prop_assert_eq!(connection.owner, applied.owner());
                        prop_assert_eq!(connection.role, applied.role());
                        prop_assert_eq!(connection.service_port, applied.service_port());
                    }
                }
                Input::Census(census) => {
                    now_ns = now_ns.max(census.begin_ns);
                    tracker.census(census, |left| dwells += u64::from(left.dwell_ns.is_some()));
                    if !census.more && !census.scope.is_of_sockets() {
                        let count = census.half_open.iter().map(|half_open| half_open.count);
                        half_open.insert(census.netns, count.sum::<u64>());
                    }
                }
                Input::Tick => intervals.push(tracker.tick(now_ns)),
            }
            let snapshot = tracker.snapshot_of(Include { connections: Connections::All, histograms: false });
            check_books(&snapshot, &limits, half_open.values().sum());
            check_longest(&mut tracker, snapshot.connections);
        }
        intervals.push(tracker.tick(now_ns));
        let snapshot = tracker.snapshot();
        for interval in &intervals {
            check_groups(&interval.all, &interval.groups);
        }
        prop_assert_eq!(&sum(intervals.iter().map(|interval| &interval.all)), &snapshot.all);
        let of_dwell = |series: &&tcpstate_core::model::Series| {
            matches!(series.of, tcpstate_core::model::Of::Dwell(_))
        };
        let recorded = snapshot.histograms.iter().filter(of_dwell);
        prop_assert_eq!(recorded.map(|series| series.histogram.count()).sum::<u64>(), dwells);
    }

    #[test]
    fn groups_change_at_any_time_and_nothing_else(
        inputs in inputs(200),
        limits in limits(),
        bys in vec(select(By::ALL.to_vec()), 1..5),
    ) {
        let new = || {
            let mut tracker = Tracker::new(limits);
            tracker.follow();
            tracker
        };
        let (mut fixed, mut changing) = (new(), new());
        let mut now_ns = 0;
        for (at, input) in inputs.iter().enumerate() {
            if at % 10 == 9 {
                changing.group_by(bys[at / 10 % bys.len()]);
            }
            for tracker in [&mut fixed, &mut changing] {
                match input {
                    Input::Event(record) => {
                        let event = Event::try_from(**record).expect("AF_INET");
                        now_ns = now_ns.max(event.ts_ns());
                        tracker.apply(&event);
                    }
                    Input::Census(census) => {
                        now_ns = now_ns.max(census.begin_ns);
                        tracker.census(census, |_| {});
                    }
                    Input::Tick => {}
                }
            }
            if let Input::Tick = input {
                let (one, other) = (fixed.tick(now_ns), changing.tick(now_ns));
                prop_assert_eq!((one.all, one.dwell), (other.all, other.dwell));
            }
            let include = Include { connections: Connections::All, histograms: false };
            let (one, other) = (fixed.snapshot_of(include), changing.snapshot_of(include));
            prop_assert_eq!(&one.all, &other.all);
            prop_assert_eq!((one.books, one.connections), (other.books, other.connections));
            // Every socket is in a group.
            let mut states = BTreeMap::new();
            for &(state, count) in other.groups.iter().flat_map(|group| &group.figures.states) {
                *states.entry(state).or_default() += count;
            }
            prop_assert_eq!(states.into_iter().collect::<Vec<_>>(), other.all.states);
        }
    }

    #[test]
    fn quantiles_are_within_a_percent(
        durations in vec(
            // Of all sizes alike, from a microsecond to a day.
            (10..46u32, any::<u64>()).prop_map(|(bits, noise)| (1 << bits) + noise % (1 << bits)),
            1..300,
        ),
        permille in 0..=1_000usize,
    ) {
        let mut histogram = Histogram::default();
        for &duration in &durations {
            histogram.record(duration);
        }
        let mut sorted = durations;
        sorted.sort_unstable();
        let rank = (permille * sorted.len()).div_ceil(1_000).max(1);
        let exact = sorted[rank - 1];
        let quantile = histogram.quantile(f64::from(u32::try_from(permille)?) / 1_000.0).expect("there are some");
        prop_assert!(quantile.abs_diff(exact) * 100 <= exact, "{quantile} for {exact}");
        prop_assert_eq!(histogram.min_ns(), sorted.first().copied());
        prop_assert_eq!(histogram.max_ns(), sorted.last().copied());
        prop_assert_eq!(histogram.sum_ns(), sorted.iter().map(|&ns| u128::from(ns)).sum::<u128>());
    }

    #[test]
    fn merging_is_counting_all(one in vec(any::<u64>(), 0..100), two in vec(any::<u64>(), 0..100)) {
        let of = |durations: &[u64]| {
            let mut histogram = Histogram::default();
            for &duration in durations {
                // Of all sizes alike.
                histogram.record(duration >> (duration % 64));
            }
            histogram
        };
        let mut merged = of(&one);
        merged.merge(&of(&two));
        prop_assert_eq!(&merged, &of(&[one, two].concat()));
        let by_octave: u64 = merged.octaves().iter().map(|bucket| bucket.count).sum();
        prop_assert_eq!(by_octave, merged.count());
        prop_assert_eq!(merged.buckets().map(|bucket| bucket.count).sum::<u64>(), merged.count());
    }
}

/// Opens connections to port 80, each by an event of its own.
fn open(tracker: &mut Tracker, connections: u64) {
    for cookie in 1..=connections {
        let event = Event::try_from(Record {
            ts_ns: cookie,
            cookie,
            rport: 80,
            oldstate: State::CLOSE,
            newstate: State::SYN_SENT,
            family: AF_INET,
            flags: flags::COOKIE,
            ..Record::default()
        });
        tracker.apply(&event.expect("AF_INET"));
    }
}

#[test]
fn a_live_connection_takes_at_most_200_bytes() {
    for connections in [10_000, 50_000, 200_000] {
        let mut tracker = Tracker::new(Limits::default());
        let empty = tracker.memory().total();
        open(&mut tracker, connections);
        assert_eq!(tracker.books().live, connections);
        let each = (tracker.memory().total() - empty) as u64 / connections;
        assert!(each <= 200, "{each} bytes for each of {connections}");
    }
}

#[test]
fn memory_is_freed_as_connections_end() {
    let mut tracker = Tracker::new(Limits::default());
    open(&mut tracker, 100_000);
    let full = tracker.memory().connections;
    for cookie in 1..=100_000 {
        let event = Event::try_from(Record {
            ts_ns: 1_000_000,
            cookie,
            oldstate: State::SYN_SENT,
            newstate: State::CLOSE,
            family: AF_INET,
            flags: flags::COOKIE,
            ..Record::default()
        });
        assert!(tracker.apply(&event.expect("AF_INET")).is_end());
    }
    assert_eq!(tracker.books().live, 0);
    let left = tracker.memory().connections;
    assert!(left < full / 10, "{left} of {full} bytes");
}

/// A transition of the listener's child at this address, whose cookie is the same number.
fn child(tracker: &mut Tracker, number: u64, oldstate: State, newstate: State) {
    let event = Event::try_from(Record {
        cookie: number,
        skaddr: number,
        lport: 80,
        oldstate,
        newstate,
        family: AF_INET,
        flags: if oldstate == State::LISTEN {
            0
        } else {
            flags::COOKIE
        },
        ..Record::default()
    });
    tracker.apply(&event.expect("AF_INET"));
}

#[test]
fn lost_children_are_forgotten() {
    let mut tracker = Tracker::new(Limits {
        max_embryos: 10,
        ..Limits::default()
    });
    for number in 0..10_000 {
        child(&mut tracker, number, State::LISTEN, State::SYN_RECV);
    }
    assert_eq!(
        (tracker.books().live, tracker.books().evicted),
        (10, 10_000 - 10)
    );
}

#[test]
fn a_child_that_stays_does_not_hold_up_those_that_come_and_go() {
    let max_embryos = 4_000;
    let mut tracker = Tracker::new(Limits {
        max_embryos,
        ..Limits::default()
    });
    child(&mut tracker, 1, State::LISTEN, State::SYN_RECV);
    // Bursts that fill several pages, which are given back when they have ended.
    for burst in 1..5 {
        let numbers = burst * 100_000..burst * 100_000 + 5_000;
        for number in numbers.clone() {
            child(&mut tracker, number, State::LISTEN, State::SYN_RECV);
            child(&mut tracker, number, State::SYN_RECV, State::ESTABLISHED);
        }
        for number in numbers {
            child(&mut tracker, number, State::ESTABLISHED, State::CLOSE);
        }
    }
    assert_eq!((tracker.books().live, tracker.books().evicted), (1, 0));
    child(&mut tracker, 1, State::SYN_RECV, State::ESTABLISHED);
    assert_eq!((tracker.books().live, tracker.books().first_seen), (1, 0));
}
