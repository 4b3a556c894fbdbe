//! The contents of the snapshots.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    task::{Context, Waker},
};

use tcpstate_common::{
    Record, State,
    record::{AF_INET, flags},
};
use tcpstate_core::{
    census::{Census, Found, HalfOpen, Kind, ListenFigures, Scope},
    diagnosis::{Look, Looks, Thresholds},
    event::Event,
    model::{By, Connections, GroupKey, Include, Limits},
    owner::Owner,
    present::{Options, Publisher, RunSnapshot, Subscriber},
    service::{Role, ServicePort},
    view::View as _,
};

use crate::{Count, SECOND, finish, open, options, origin, refused, start, started, tick};

#[test]
fn findings_are_those_of_half_a_minute_and_stay_for_another() {
    let mut publisher = Publisher::new(&options(Include::FIGURES)).diagnosing(
        Thresholds::default(),
        Look::default(),
        None,
    );
    let origin = origin(None);
    publisher.start(&origin, &mut io::sink()).unwrap();
    let subscriber = publisher.subscribe();
    let mut found = Vec::new();
    for second in 1..=70 {
        if second <= 20 {
            refused(&mut publisher, second, (second - 1) * SECOND);
        }
        tick(&mut publisher, second);
        let snapshot = subscriber.latest().unwrap();
        let findings = snapshot.findings.as_ref().expect("they are looked for");
        let names = findings.iter().map(|finding| finding.text.name);
        if names.clone().any(|name| name == "connects_fail") {
            found.push(second);
        }
    }
    assert_eq!(found, (30..=60).collect::<Vec<_>>());
    // Nobody looks where nobody asked.
    let mut publisher = started(Include::FIGURES, None);
    let subscriber = publisher.subscribe();
    tick(&mut publisher, 1);
    assert!(subscriber.latest().unwrap().findings.is_none());
}

/// A host that has nothing new to see.
struct Unchanged;

impl Looks for Unchanged {
    fn newest(&mut self) -> Option<Look> {
        None
    }

    fn last(&mut self) -> Option<Look> {
        None
    }
}

/// A window that has just begun replaces no finding of the one before that is as bad: it says less, and nothing where the
/// run ends with a window.
#[test]
fn findings_of_a_whole_window_stay_until_the_next_one_is_long_enough() {
    let last_words = |second: u64, refused_later: u64| {
        let mut publisher = Publisher::new(&options(Include::FIGURES)).diagnosing(
            Thresholds::default(),
            Look::default(),
            Some(Box::new(Unchanged)),
        );
        publisher.start(&origin(None), &mut io::sink()).unwrap();
        let subscriber = publisher.subscribe();
        for number in 0..20 {
            refused(&mut publisher, 100 + number, number * SECOND);
        }
        tick(&mut publisher, 30);
        for number in 0..refused_later {
            refused(&mut publisher, 200 + number, 30 * SECOND + number);
        }
        finish(&mut publisher, second);
        let snapshot = subscriber.latest().unwrap();
        let findings = snapshot.findings.as_deref().unwrap();
        assert_eq!(findings.len(), 1);
        findings[0].summary.clone()
    };
    for (second, refused_later, wanted) in [
        (30, 0, "20 connects failed"),
        (31, 15, "20 connects failed"),
        (40, 15, "15 connects failed"),
    ] {
        let words = last_words(second, refused_later);
        assert!(words.starts_with(wanted), "{second}: {words}");
    }
}

#[test]
fn another_grouping_is_published_when_it_is_asked_for() {
    let mut publisher = started(Include::FIGURES, None);
    let asker = publisher.asker();
    let subscriber = publisher.subscribe();
    let rings = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&rings));
    let cx = Context::from_waker(&waker);
    assert!(publisher.poll_asked(&cx).is_pending());
    open(&mut publisher, 1);
    tick(&mut publisher, 1);
    open(&mut publisher, SECOND + 2);
    asker.group_by(By::Netns);
    asker.clone().group_by(By::Role);
    assert_eq!(rings.0.load(Ordering::Relaxed), 1, "it has not looked yet");
    assert!(publisher.poll_asked(&cx).is_ready());
    assert!(publisher.poll_asked(&cx).is_pending());
    let snapshot = subscriber.latest().unwrap();
    let tracker = &snapshot.tracker;
    assert_eq!((snapshot.number, tracker.by), (2, By::Role));
    assert_eq!(tracker.by_since_ns, Some(SECOND + 2));
    assert_eq!(tracker.all.opened, 2);
    let [group] = tracker.groups.as_slice() else {
        panic!("{:?}", tracker.groups);
    };
    assert_eq!(group.key, GroupKey::Role(Role::Client));
    assert_eq!(group.figures.states, [(State::SYN_SENT, 2)]);
    assert_eq!(group.figures.opened, 0, "both opened before");
    // The interval that was published last, without groups.
    assert_eq!(
        (snapshot.interval.end_ns, snapshot.interval.all.opened),
        (SECOND, 1)
    );
    assert!(snapshot.interval.groups.is_empty());
    // The next one has what follows in groups, and all of it over all.
    open(&mut publisher, SECOND + 3);
    tick(&mut publisher, 2);
    let snapshot = subscriber.latest().unwrap();
    assert_eq!(snapshot.interval.all.opened, 2);
    let opened: Vec<u64> = snapshot
        .interval
        .groups
        .iter()
        .map(|group| group.figures.opened)
        .collect();
    assert_eq!(opened, [1]);
    // After the end nothing follows.
    finish(&mut publisher, 3);
    asker.group_by(By::Port);
    assert!(publisher.poll_asked(&cx).is_ready());
    assert!(subscriber.latest().unwrap().is_final);
}

#[test]
fn ports_that_are_not_wanted_are_counted_as_other() {
    let figures = |ports: &str| {
        let mut publisher = Publisher::new(&options(Include::ALL));
        publisher = publisher.with_ports(&ports.parse().unwrap());
        publisher.start(&origin(None), &mut io::sink()).unwrap();
        open(&mut publisher, 1);
        open(&mut publisher, 2);
        tick(&mut publisher, 1);
        let snapshot = publisher.subscribe().latest().unwrap();
        let groups = snapshot.tracker.groups.iter();
        let shown = groups.map(|group| (group.key, group.figures.opened));
        shown.collect::<Vec<_>>()
    };
    let of = |port| vec![(GroupKey::Port(port, Role::Client), 2)];
    assert_eq!(figures("80"), of(ServicePort::Port(80)));
    assert_eq!(figures("79-81"), of(ServicePort::Port(80)));
    assert_eq!(figures("1-79,81-65535"), of(ServicePort::Other));
}

/// Whether a run is complete is decided by them, at its end, which is after the last tick.
#[test]
fn the_books_of_connections_are_of_now_and_not_of_the_last_tick() {
    let mut publisher = started(Include::FIGURES, None);
    tick(&mut publisher, 1);
    open(&mut publisher, 1);
    let opened = publisher.connections().map(|books| books.opened);
    assert_eq!(opened, Some(1));
    let in_kernel = Options {
        in_kernel: true,
        ..options(Include::FIGURES)
    };
    assert_eq!(start(&in_kernel, None).connections(), None);
}

#[test]
fn the_parts_that_cost_more_are_there_only_where_they_are_wanted() {
    for include in [Include::ALL, Include::FIGURES] {
        let mut publisher = started(include, None);
        open(&mut publisher, 1);
        let established = Event::try_from(Record {
            ts_ns: 5,
            cookie: 1,
            rport: 80,
            oldstate: State::SYN_SENT,
            newstate: State::ESTABLISHED,
            family: AF_INET,
            flags: flags::COOKIE,
            ..Record::default()
        });
        publisher
            .event(&established.unwrap(), &mut io::sink())
            .unwrap();
        finish(&mut publisher, 1);
        let snapshot = publisher.subscribe().latest().unwrap();
        assert_eq!(
            snapshot.tracker.connections.len(),
            usize::from(include.connections == Connections::All)
        );
        assert_eq!(
            snapshot.tracker.histograms.is_empty(),
            !include.histograms,
            "{include:?}"
        );
        assert_eq!(snapshot.tracker.all.established, 1);
        assert!(snapshot.memory.connections > 0);
    }
}

fn sample(netns: u32, half_open: &[(u16, u64)], drops: u64) -> Census {
    let laddr = IpAddr::from([127, 0, 0, 1]);
    let at = |&(lport, count): &(u16, u64)| HalfOpen {
        laddr,
        lport,
        count,
        oldest_ns: None,
        oldest_at_least_ns: None,
        synack_retransmits: 0,
    };
    Census {
        netns,
        half_open: half_open.iter().map(at).collect(),
        listen: ListenFigures {
            drops: Some(drops),
            ..ListenFigures::default()
        },
        ..Census::default()
    }
}

#[test]
fn counted_in_the_kernel_no_bound_hides_a_socket_of_a_dump() {
    let mut publisher = start(
        &Options {
            in_kernel: true,
            limits: Limits {
                max_connections: 2,
                ..Limits::default()
            },
            ..options(Include::ALL)
        },
        Some(SECOND),
    );
    let subscriber = publisher.subscribe();
    let laddr = IpAddr::from([127, 0, 0, 1]);
    let found = |cookie| Found {
        cookie,
        state: State::ESTABLISHED,
        kind: Kind::Socket,
        since_ns: None,
        there_ns: None,
        family: 2,
        laddr,
        lport: 80,
        raddr: laddr,
        rport: 40_000,
        role: Role::Server,
        uid: None,
        cgroup: None,
        owner: Owner::UNKNOWN,
    };
    let census = Census {
        netns: 1,
        scope: Scope::All,
        found: (1..=5).map(found).collect(),
        ..Census::default()
    };
    publisher.census(&census, &mut io::sink()).unwrap();
    tick(&mut publisher, 1);
    let snapshot = subscriber.latest().unwrap();
    assert_eq!(snapshot.tracker.connections.len(), 5);
}

#[test]
fn handshakes_are_those_of_the_latest_sample_of_each_namespace() {
    let mut publisher = started(Include::FIGURES, Some(SECOND));
    let subscriber = publisher.subscribe();
    let mut take = |census: Census| {
        publisher.census(&census, &mut io::sink()).unwrap();
    };
    take(sample(1, &[(80, 2), (443, 7)], 3));
    take(sample(2, &[(80, 5)], 1));
    // A part that is not the last one, and a dump of sockets, have nothing to say of them.
    take(Census {
        more: true,
        ..sample(1, &[], 100)
    });
    take(Census {
        scope: Scope::All,
        ..sample(1, &[], 100)
    });
    tick(&mut publisher, 1);
    let shown = |subscriber: &Subscriber| {
        let handshakes = subscriber.latest().unwrap().handshakes.clone().unwrap();
        let half_open = handshakes.half_open.iter();
        let half_open = half_open.map(|at| (at.netns, at.half_open.lport, at.half_open.count));
        (
            half_open.collect::<Vec<_>>(),
            handshakes.listen.drops,
            handshakes.listen_total.drops,
        )
    };
    let all = vec![(1, 443, 7), (2, 80, 5), (1, 80, 2)];
    assert_eq!(shown(&subscriber), (all, Some(4), Some(4)));
    publisher
        .census(&sample(1, &[], 2), &mut io::sink())
        .unwrap();
    tick(&mut publisher, 2);
    assert_eq!(
        shown(&subscriber),
        (vec![(2, 80, 5)], Some(2), Some(6)),
        "a namespace without any has none"
    );

    // Without samples they are unknown, not none.
    let mut publisher = started(Include::FIGURES, None);
    tick(&mut publisher, 1);
    assert!(publisher.subscribe().latest().unwrap().handshakes.is_none());
}

#[test]
fn a_look_between_two_ticks_changes_nothing_and_a_kept_state_comes_back() {
    let mut publisher = started(Include::ALL, Some(SECOND));
    let subscriber = publisher.subscribe();
    let show = |publisher: &mut Publisher, at_ns| {
        publisher.rewind().expect("it can go back").show(at_ns);
        subscriber.latest().unwrap()
    };
    open(&mut publisher, 1);
    tick(&mut publisher, 1);
    let rewind = publisher.rewind().unwrap();
    let kept = rewind.keep();
    assert!(rewind.kept_bytes() > 0);
    // All of this is forgotten later.
    let go_on = |publisher: &mut Publisher| {
        open(publisher, SECOND + 2);
        publisher
            .census(&sample(1, &[(80, 2)], 3), &mut io::sink())
            .unwrap();
        let between = show(publisher, SECOND + SECOND / 2);
        assert_eq!(between.interval.start_ns, SECOND);
        assert_eq!(between.interval.end_ns, SECOND + SECOND / 2);
        assert_eq!(between.tracker.now_ns, between.interval.end_ns);
        open(publisher, SECOND + 3);
        publisher.rewind().unwrap().pass_tick(2 * SECOND);
        let passed = show(publisher, 2 * SECOND);
        open(publisher, 2 * SECOND + 4);
        tick(publisher, 3);
        [between, passed, subscriber.latest().unwrap()]
    };
    let first = go_on(&mut publisher);
    publisher.rewind().unwrap().restore(kept.as_ref());
    let again = go_on(&mut publisher);
    for (one, other) in first.iter().zip(&again) {
        assert_eq!(one.interval, other.interval);
        assert_eq!(one.tracker, other.tracker);
        assert_eq!(one.handshakes, other.handshakes);
        assert!(one.number < other.number, "a later one is newer");
    }
    let opened = first
        .each_ref()
        .map(|one| (one.interval.all.opened, one.tracker.all.opened));
    assert_eq!(
        opened,
        [(1, 2), (2, 3), (1, 4)],
        "the tick has all of it again"
    );
    let drops = |one: &Arc<RunSnapshot>| one.handshakes.clone().unwrap().listen.drops;
    assert_eq!(first.each_ref().map(drops), [Some(3), Some(3), None]);
    // A tick that was shown is shown again as it was.
    let shown = show(&mut publisher, 3 * SECOND);
    assert_eq!(shown.interval, again[2].interval);
}
