//! The publisher of the present, driven: its snapshots are what `rates` prints of the same stream.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use serde_json::Value;
use tcpstate_core::{
    census::Census,
    model::{By, Figures, GroupKey, Include, Limits, Tracker},
    names::Names,
    options::Format,
    origin::Origin,
    present::{Options as PublisherOptions, Publisher, RunSnapshot, Subscriber},
    recalled::Recalled,
    service::{Role, ServicePort},
    view::{End, Flow, Rewind},
};
use tcpstate_text::{
    rates::{self, Rates},
    settings::Settings,
};

use super::*;

/// A publisher of whose snapshots none is missed: each is taken as soon as it is there.
pub(super) struct Witness {
    publisher: Publisher,
    subscriber: Subscriber,
    pub(super) all: Vec<Arc<RunSnapshot>>,
}

impl Witness {
    pub(super) fn new(publisher: Publisher) -> Self {
        Self {
            subscriber: publisher.subscribe(),
            publisher,
            all: Vec::new(),
        }
    }

    fn look(&mut self) {
        self.all
            .push(self.subscriber.latest().expect("one was published"));
    }
}

impl View for Witness {
    fn set_names(&mut self, names: Names) {
        self.publisher.set_names(names);
    }

    fn start(&mut self, origin: &Origin, out: &mut dyn Write) -> io::Result<()> {
        self.publisher.start(origin, out)
    }

    fn event(&mut self, event: &Event, out: &mut dyn Write) -> io::Result<Flow> {
        self.publisher.event(event, out)
    }

    fn census(&mut self, census: &Census, out: &mut dyn Write) -> io::Result<Flow> {
        self.publisher.census(census, out)
    }

    fn recall(&mut self, recalled: &Recalled) -> io::Result<Flow> {
        self.publisher.recall(recalled)
    }

    fn poll_asked(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.publisher.poll_asked(cx)
    }

    fn rewind(&mut self) -> Option<&mut dyn Rewind> {
        self.publisher.rewind()
    }

    fn interval_ns(&self) -> Option<u64> {
        self.publisher.interval_ns()
    }

    fn wants_books(&self) -> bool {
        self.publisher.wants_books()
    }

    fn books(&mut self, books: &RunBooks) {
        self.publisher.books(books);
    }

    fn tick(&mut self, now_ns: u64, out: &mut dyn Write) -> io::Result<Flow> {
        let flow = self.publisher.tick(now_ns, out)?;
        self.look();
        Ok(flow)
    }

    fn finish(&mut self, end: &End, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
        self.publisher.finish(end, out, err)?;
        self.look();
        Ok(())
    }
}

fn publisher() -> Publisher {
    Publisher::new(&PublisherOptions {
        interval_ns: SECOND,
        by: By::Port,
        include: Include::ALL,
        in_kernel: false,
        limits: Limits::default(),
    })
}

/// Clients of two ports that open, and some that end, over four seconds; one second is empty.
fn events() -> Vec<Event> {
    let record = |ts_ns, cookie, change: (State, State)| Record {
        ts_ns,
        skaddr: cookie,
        lport: 40_000,
        rport: if cookie % 3 == 0 { 443 } else { 80 },
        oldstate: change.0,
        newstate: change.1,
        family: AF_INET,
        ..Record::default()
    };
    let mut records = Vec::new();
    for cookie in 1..=60_u64 {
        let mut ts_ns = cookie * SECOND / 40;
        if ts_ns >= SECOND {
            ts_ns += SECOND;
        }
        let mut change = |after_ns, old, new| {
            records.push(record(ts_ns + after_ns, cookie, (old, new)));
        };
        change(0, State::CLOSE, State::SYN_SENT);
        change(20_000, State::SYN_SENT, State::ESTABLISHED);
        if cookie % 2 == 0 {
            change(SECOND, State::ESTABLISHED, State::CLOSE_WAIT);
            change(SECOND + 1, State::CLOSE_WAIT, State::LAST_ACK);
            change(SECOND + 9, State::LAST_ACK, State::CLOSE);
        }
    }
    records.sort_by_key(|record| record.ts_ns);
    let events = records.into_iter().map(Event::try_from);
    events.collect::<Result<_, _>>().unwrap()
}

fn script() -> Script {
    // In batches that end in the middle of intervals.
    let batches = events()
        .chunks(7)
        .map(|chunk| Act::Batch(chunk.to_vec()))
        .collect::<Vec<_>>();
    Script::new(false, 0, batches)
}

async fn drive_all(source: &mut Script, view: &mut dyn View, options: &Options) -> String {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let outputs = Outputs {
        out: &mut out,
        err: &mut err,
    };
    let outcome = drive(source, view, outputs, &mut Timed::none(), options).await;
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    String::from_utf8(out).unwrap()
}

fn check_books(snapshot: &RunSnapshot) {
    let RunBooks {
        accounting,
        selection,
        cost,
        ..
    } = snapshot.books;
    assert_eq!(
        accounting.seen,
        accounting.filtered + accounting.submitted + accounting.lost
    );
    assert_eq!(
        accounting.submitted,
        accounting.received + accounting.rejected
    );
    let Selection {
        settled,
        unread,
        earlier: _,
    } = selection;
    let decided = settled.passed + settled.filtered + settled.undecided + unread;
    assert!(decided <= accounting.received);
    if snapshot.is_final {
        assert_eq!(decided, accounting.received, "every event is somewhere");
    }
    assert_eq!(snapshot.tracker.books.events, settled.passed);
    assert_eq!(snapshot.tracker.all.total(), settled.passed);
    let (books, all) = (&snapshot.tracker.books, &snapshot.tracker.all);
    assert_eq!(
        all.opened + books.first_seen + books.seeded,
        all.closed + books.superseded + books.evicted + books.live
    );
    assert_eq!(snapshot.tracker.connections.len() as u64, books.live);
    assert!(cost.cpu_ns > 0 && cost.max_rss_bytes.is_some());
}

/// The figures as `rates` writes them.
fn numbers(figures: &Figures) -> Value {
    let transitions: Vec<Value> = figures
        .transitions
        .iter()
        .map(|transition| {
            serde_json::json!({
                "from": transition.from.to_string(),
                "to": transition.to.to_string(),
                "count": transition.count,
            })
        })
        .collect();
    serde_json::json!({
        "transitions": transitions,
        "opened": figures.opened,
        "established": figures.established,
        "closed": figures.closed,
        "failed": figures.failed,
    })
}

/// The same of a line or a group that `rates` wrote.
fn printed(line: &Value) -> Value {
    let transitions: Vec<Value> = line["transitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|transition| {
            serde_json::json!({
                "from": transition["from"],
                "to": transition["to"],
                "count": transition["count"],
            })
        })
        .collect();
    serde_json::json!({
        "transitions": transitions,
        "opened": line["opened"],
        "established": line["established"],
        "closed": line["closed"],
        "failed": line["failed"],
    })
}

#[tokio::test(start_paused = true)]
async fn the_snapshots_are_what_rates_prints_and_what_a_tracker_knows() {
    let mut witness = Witness::new(publisher());
    let out = drive_all(&mut script(), &mut witness, &Options::default()).await;
    assert_eq!(out, "", "it writes nothing");
    let all = &witness.all;

    let mut rates = Rates::new(&rates::Options {
        settings: Settings::plain(Format::Json),
        interval_ns: SECOND,
        by: By::Port,
        in_kernel: false,
    });
    let out = drive_all(&mut script(), &mut rates, &Options::default()).await;
    let lines: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (summary, lines) = lines.split_last().unwrap();
    assert_eq!(lines.len(), all.len());
    for (line, snapshot) in lines.iter().zip(all) {
        assert_eq!(line["ts_ns"], snapshot.interval.end_ns);
        assert_eq!(printed(line), numbers(&snapshot.interval.all));
        let ports = line["ports"].as_array().unwrap();
        assert_eq!(ports.len(), snapshot.interval.groups.len());
        for group in &snapshot.interval.groups {
            let GroupKey::Port(ServicePort::Port(port), Role::Client) = group.key else {
                panic!("{:?}", group.key);
            };
            let is_it = |line: &&Value| line["service_port"] == port;
            let line = ports.iter().find(is_it).expect("its line");
            assert_eq!(printed(line), numbers(&group.figures));
        }
    }

    // The same events, straight into a tracker, ticked where the driver did.
    let mut tracker = Tracker::new(Limits::default());
    tracker.tick(0);
    let events = events();
    let mut rest = events.as_slice();
    for snapshot in all {
        let is_in = |event: &&Event| snapshot.is_final || event.ts_ns() < snapshot.interval.end_ns;
        let (now, later) = rest.split_at(rest.iter().take_while(is_in).count());
        rest = later;
        for event in now {
            tracker.apply(event);
        }
        assert_eq!(tracker.tick(snapshot.interval.end_ns), snapshot.interval);
        assert_eq!(tracker.snapshot(), snapshot.tracker);
    }
    assert!(rest.is_empty());

    let numbered: Vec<u64> = all.iter().map(|snapshot| snapshot.number).collect();
    assert_eq!(numbered, (1..=all.len() as u64).collect::<Vec<_>>());
    for snapshot in all {
        check_books(snapshot);
    }
    let last = all.last().unwrap();
    assert!(last.is_final && all.iter().filter(|snapshot| snapshot.is_final).count() == 1);
    let sum = |of: fn(&Figures) -> u64| {
        let intervals = all.iter().map(|snapshot| of(&snapshot.interval.all));
        assert_eq!(intervals.sum::<u64>(), of(&last.tracker.all));
        of(&last.tracker.all)
    };
    assert_eq!(summary["transitions"], sum(Figures::total));
    assert_eq!(summary["opened"], sum(|figures| figures.opened));
    assert_eq!(summary["closed"], sum(|figures| figures.closed));
    assert_eq!(last.tracker.all.total(), events.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn the_books_of_a_snapshot_know_of_the_filters() {
    let mut witness = Witness::new(publisher());
    let options = Options {
        expression: Expression::parse("dport 443", &NoNames).unwrap(),
        ..Options::default()
    };
    drive_all(&mut script(), &mut witness, &options).await;
    for snapshot in &witness.all {
        check_books(snapshot);
    }
    let first = witness.all.first().unwrap().books.selection.settled;
    assert!(
        first.passed > 0 && first.filtered > first.passed,
        "{first:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_consumer_beside_the_driver_sees_the_run_and_its_end() {
    let mut view = publisher();
    let mut subscriber = view.subscribe();
    let consumer = async {
        let mut numbers = Vec::new();
        let mut last = None;
        while let Some(snapshot) = subscriber.next().await {
            numbers.push(snapshot.number);
            last = Some(snapshot);
        }
        (numbers, last.expect("a last one"))
    };
    let (mut source, options) = (script(), Options::default());
    let driver = drive_all(&mut source, &mut view, &options);
    let ((numbers, last), _) = tokio::join!(consumer, driver);
    assert!(numbers.len() > 1 && numbers.is_sorted_by(|one, next| one < next));
    assert!(last.is_final);
    check_books(&last);
}

/// A source whose books cannot be read while it runs.
#[tokio::test(start_paused = true)]
async fn a_source_without_books_fails_the_run_at_the_tick() {
    let mut source = script();
    source.fails_to_account = true;
    let mut view = publisher();
    let mut subscriber = view.subscribe();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let outputs = Outputs {
        out: &mut out,
        err: &mut err,
    };
    let options = Options::default();
    let result = drive(
        &mut source,
        &mut view,
        outputs,
        &mut Timed::none(),
        &options,
    )
    .await;
    assert!(matches!(result, Err(RunError::Source(_))), "{result:?}");
    assert!(source.stopped);
    drop(view);
    assert!(!subscriber.next().await.unwrap().is_final);
    assert!(subscriber.next().await.is_none());
}
