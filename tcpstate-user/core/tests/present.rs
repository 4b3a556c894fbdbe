//! The contract of the present: consumers in other threads, slow ones, absent ones, and the end.

#![allow(
    clippy::disallowed_methods,
    reason = "consumers are threads; the core has none"
)]

use std::{
    future::Future,
    io,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use tcpstate_common::{
    Record, State,
    record::{AF_INET, flags},
};
use tcpstate_core::{
    books::{Accounting, Cost, RunBooks, Selection},
    census::{Census, Found, HalfOpen, Kind, ListenFigures, Scope},
    diagnosis::{Look, Thresholds},
    event::Event,
    model::{By, Connections, GroupKey, Include, Limits},
    origin::{Evidence, Origin},
    owner::Owner,
    present::{Options, Publisher, RunSnapshot, Subscriber},
    service::{Role, ServicePort},
    view::{End, View as _},
};

const SECOND: u64 = 1_000_000_000;

fn options(include: Include) -> Options {
    Options {
        interval_ns: SECOND,
        by: By::Port,
        include,
        in_kernel: false,
        limits: Limits::default(),
    }
}

fn started(include: Include, sample_interval_ns: Option<u64>) -> Publisher {
    start(&options(include), sample_interval_ns)
}

fn origin(sample_interval_ns: Option<u64>) -> Origin {
    Origin {
        host: "host".into(),
        kernel: "6.18".into(),
        attach: "btf".into(),
        wall_at_monotonic_zero_ns: 0,
        started_ns: 0,
        filters: String::new(),
        live: true,
        sample_interval_ns,
    }
}

fn start(options: &Options, sample_interval_ns: Option<u64>) -> Publisher {
    let mut publisher = Publisher::new(options);
    let origin = origin(sample_interval_ns);
    publisher.start(&origin, &mut io::sink()).unwrap();
    publisher
}

/// A connection to port 80 opens.
fn open(publisher: &mut Publisher, cookie: u64) {
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
    publisher
        .event(&event.expect("AF_INET"), &mut io::sink())
        .unwrap();
}

fn accounting(received: u64) -> Accounting {
    Accounting {
        seen: received,
        submitted: received,
        received,
        ..Accounting::default()
    }
}

fn tick(publisher: &mut Publisher, second: u64) {
    publisher.books(&RunBooks {
        accounting: accounting(second),
        ..RunBooks::default()
    });
    publisher.tick(second * SECOND, &mut io::sink()).unwrap();
}

fn finish(publisher: &mut Publisher, second: u64) {
    let end = End {
        now_ns: second * SECOND,
        accounting: accounting(second),
        selection: Selection::default(),
        cost: Cost::default(),
        damaged: false,
        verbose: false,
        part: None,
        evidence: Evidence::Kernel,
        packets: None,
    };
    publisher
        .finish(&end, &mut io::sink(), &mut io::sink())
        .unwrap();
}

/// A connection to port 80 is refused, this long after the start.
fn refused(publisher: &mut Publisher, cookie: u64, ts_ns: u64) {
    for (after_ns, oldstate, newstate, error) in [
        (0, State::CLOSE, State::SYN_SENT, 0),
        (9, State::SYN_SENT, State::CLOSE, 111),
    ] {
        let event = Event::try_from(Record {
            ts_ns: ts_ns + after_ns,
            cookie,
            rport: 80,
            oldstate,
            newstate,
            error,
            family: AF_INET,
            netns: 1,
            flags: flags::COOKIE | flags::SOCKET,
            ..Record::default()
        });
        publisher
            .event(&event.expect("AF_INET"), &mut io::sink())
            .unwrap();
    }
}

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

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits in this thread, as a consumer without a runtime does.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// A waker that counts.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn ready(subscriber: &mut Subscriber) -> Option<Arc<RunSnapshot>> {
    match subscriber.poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(next) => next,
        Poll::Pending => panic!("there is a snapshot or an end"),
    }
}

fn is_pending(subscriber: &mut Subscriber) -> bool {
    subscriber
        .poll_next(&mut Context::from_waker(Waker::noop()))
        .is_pending()
}

#[test]
fn consumers_in_threads_get_the_end_and_whatever_they_have_time_for() {
    const TICKS: u64 = 200;
    let mut publisher = started(Include::ALL, None);
    // Never asked: it holds nothing up.
    let absent = publisher.subscribe();
    let eager: Vec<_> = (0..3)
        .map(|_| {
            let mut subscriber = publisher.subscribe();
            thread::spawn(move || {
                let mut all = Vec::new();
                while let Some(snapshot) = block_on(subscriber.next()) {
                    all.push(snapshot);
                }
                all
            })
        })
        .collect();
    let (go_on, wait) = mpsc::channel::<()>();
    let (has_first, first) = mpsc::channel();
    let mut subscriber = publisher.subscribe();
    let slow = thread::spawn(move || {
        let before = block_on(subscriber.next()).expect("a first one");
        has_first.send(()).expect("the test waits for it");
        // Draws for as long as all the rest takes.
        wait.recv().expect("the test lets it go on");
        let after = block_on(subscriber.next()).expect("the last one");
        assert!(block_on(subscriber.next()).is_none());
        (before, after)
    });
    for second in 1..=TICKS {
        open(&mut publisher, second);
        tick(&mut publisher, second);
        if second == 1 {
            first.recv().expect("the slow one has its first");
        }
    }
    finish(&mut publisher, TICKS + 1);
    go_on.send(()).expect("the slow one waits for it");

    for consumer in eager {
        let all = consumer.join().unwrap();
        assert!(
            all.is_sorted_by(|one, next| one.number < next.number),
            "none comes twice"
        );
        let last = all.last().unwrap();
        assert!(last.is_final && last.number == TICKS + 1);
        assert_eq!(last.books.accounting.received, TICKS + 1);
        for snapshot in &all {
            // Each is whole, and of its own tick.
            let opened = snapshot.number.min(TICKS);
            assert_eq!(snapshot.tracker.all.opened, opened);
            assert_eq!(snapshot.tracker.connections.len() as u64, opened);
            assert_eq!(snapshot.interval.end_ns, snapshot.number * SECOND);
        }
    }
    let (before, after) = slow.join().unwrap();
    assert_eq!((before.number, after.number), (1, TICKS + 1));
    // The snapshot that it held all the time has not changed.
    assert_eq!(before.tracker.connections.len(), 1);
    assert_eq!(absent.latest().unwrap().number, TICKS + 1);
}

#[test]
fn a_consumer_gets_the_latest_and_its_number_says_how_many_it_skipped() {
    let mut publisher = started(Include::FIGURES, None);
    let mut subscriber = publisher.subscribe();
    assert!(subscriber.latest().is_none() && is_pending(&mut subscriber));
    open(&mut publisher, 1);
    tick(&mut publisher, 1);
    assert_eq!(ready(&mut subscriber).unwrap().number, 1);
    assert!(
        is_pending(&mut subscriber),
        "the same one does not come again"
    );
    assert_eq!(subscriber.latest().unwrap().number, 1, "but it can be had");
    for second in 2..=5 {
        open(&mut publisher, second);
        tick(&mut publisher, second);
    }
    let mut clone = subscriber.clone();
    let snapshot = ready(&mut subscriber).unwrap();
    assert_eq!(snapshot.number, 5);
    // The rates are those of its own interval, the totals of all.
    let opened = (snapshot.interval.all.opened, snapshot.tracker.all.opened);
    assert_eq!(opened, (1, 5));
    assert_eq!(ready(&mut clone).unwrap().number, 5, "each for itself");
    let mut late = publisher.subscribe();
    assert_eq!(ready(&mut late).unwrap().number, 5);
}

#[test]
fn one_who_waits_is_woken_once_a_tick_however_often_it_asked() {
    let mut publisher = started(Include::FIGURES, None);
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut cx = Context::from_waker(&waker);
    let mut subscriber = publisher.subscribe();
    let mut gone = publisher.subscribe();
    for _ in 0..10 {
        assert!(subscriber.poll_next(&mut cx).is_pending());
        assert!(gone.poll_next(&mut cx).is_pending());
    }
    drop(gone);
    tick(&mut publisher, 1);
    tick(&mut publisher, 2);
    assert_eq!(count.0.load(Ordering::Relaxed), 1, "it has not asked again");
    assert!(subscriber.poll_next(&mut cx).is_ready());
    assert!(subscriber.poll_next(&mut cx).is_pending());
    drop(publisher);
    assert_eq!(count.0.load(Ordering::Relaxed), 2, "of the end too");
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
fn a_run_that_breaks_off_ends_without_a_final_snapshot() {
    let mut publisher = started(Include::FIGURES, None);
    let mut subscriber = publisher.subscribe();
    tick(&mut publisher, 1);
    drop(publisher);
    assert!(!ready(&mut subscriber).unwrap().is_final);
    assert!(ready(&mut subscriber).is_none() && ready(&mut subscriber).is_none());
    assert_eq!(subscriber.latest().unwrap().number, 1);
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
