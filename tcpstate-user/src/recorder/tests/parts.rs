//! A later file of a rotation, and what a flight recorder kept, show of their time what the whole stream shows.

use std::{collections::BTreeMap, path::PathBuf, sync::LazyLock};

use tcpstate_common::State;
use tcpstate_core::{
    cause::goes_on,
    census::{Found, Gone, HalfOpen, Held, Kind, Scope},
    event::Process,
    expression::Expression,
    model::By,
    options::{HistogramOf, Until},
    owner::{Comm, How, Owner},
    service::Role,
    source::SourceError,
    view::Part,
};
use tcpstate_text::{hist, rates, trace};

use super::*;
use crate::stream;

const MILLISECOND: u64 = 1_000_000;
/// Minisockets go after this time.
const GONE_NS: u64 = 9 * MILLISECOND;
const NETNS: u32 = 4_026_531_840;

/// A stream that has been made up.
#[derive(Clone)]
struct Stream {
    origin: Origin,
    steps: Vec<Step>,
    events: Vec<Vec<Event>>,
    settled: bool,
    taken: u64,
}

impl EventSource for Stream {
    fn poll_step(
        &mut self,
        _cx: &mut Context<'_>,
        batch: &mut Vec<Event>,
    ) -> Poll<Result<Step, SourceError>> {
        if !std::mem::replace(&mut self.settled, true) {
            return Poll::Ready(Ok(Step::Settled));
        }
        if self.steps.is_empty() {
            return Poll::Ready(Ok(Step::End));
        }
        let step = self.steps.remove(0);
        if step == Step::Events {
            let mut events = self.events.remove(0);
            self.taken += events.len() as u64;
            batch.append(&mut events);
        }
        Poll::Ready(Ok(step))
    }

    fn stop(&mut self) {
        self.steps.clear();
    }

    fn accounting(&mut self) -> Result<Accounting, SourceError> {
        Ok(end(self.taken).accounting)
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl Stream {
    fn from(started_ns: u64) -> Self {
        Self {
            origin: Origin {
                started_ns,
                live: false,
                sample_interval_ns: Some(2 * MILLISECOND),
                ..origin()
            },
            steps: Vec::new(),
            events: Vec::new(),
            settled: false,
            taken: 0,
        }
    }

    fn events(&mut self, events: Vec<Event>) {
        self.steps.push(Step::Events);
        self.events.push(events);
    }

    fn census(&mut self, census: Census) {
        self.steps.push(Step::Census(Box::new(census)));
    }
}

fn found(cookie: u64, state: State, kind: Kind, lport: u16) -> Found {
    Found {
        cookie,
        state,
        kind,
        since_ns: None,
        there_ns: None,
        family: 2,
        laddr: [10, 0, 3, 17].into(),
        lport,
        raddr: [10, 0, 3, 18].into(),
        rport: 50_000,
        role: Role::Server,
        uid: Some(33),
        cgroup: None,
        owner: Owner::UNKNOWN,
    }
}

/// The owner of the listener: a connection has it as long as the listener was there when it came in.
fn nginx() -> Owner {
    Owner {
        pid: Some(7),
        comm: Some(Comm(*b"nginx\0\0\0\0\0\0\0\0\0\0\0")),
        how: How::Seeded,
    }
}

/// The listener, held by these processes.
fn held(by: &[u32]) -> Held {
    let by = by.iter().map(|&pid| Process {
        pid,
        comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
    });
    Held {
        cookie: 1,
        laddr: [0, 0, 0, 0].into(),
        lport: 443,
        by: by.collect(),
    }
}

/// The census of a look-up that found new holders of a listener.
fn a_look(begin_ns: u64, held: Held) -> Census {
    Census {
        netns: NETNS,
        begin_ns,
        more: true,
        held: vec![held],
        ..Census::default()
    }
}

/// An event of a socket of the server.
fn server(ts_ns: u64, cookie: u64, oldstate: State, newstate: State) -> Event {
    let record = tcpstate_common::Record {
        ts_ns,
        cookie,
        skaddr: cookie,
        netns: NETNS,
        lport: 443,
        oldstate,
        newstate,
        family: record::AF_INET,
        flags: record::flags::COOKIE | record::flags::SOCKET,
        ..tcpstate_common::Record::default()
    };
    Event::try_from(record).unwrap()
}

fn web_server() -> Stream {
    static STREAM: LazyLock<Stream> = LazyLock::new(make_web_server);
    STREAM.clone()
}

/// A web server that was there before: its listener, which ends in the middle, and connections that no event shows
/// before they end late. Minisockets are sampled; some are never found.
fn make_web_server() -> Stream {
    let is_kept = |event: &Event| (event.record().skaddr & 0x7fff) < 2_368;
    let mut events = stream::events(stream::Traffic::WebServer, 260_000, 5);
    events.retain(is_kept);
    let started_ns = events[0].ts_ns() - MILLISECOND;
    let mut stream = Stream::from(started_ns);
    let listener = Found {
        owner: nginx(),
        laddr: [0, 0, 0, 0].into(),
        raddr: [0, 0, 0, 0].into(),
        rport: 0,
        ..found(1, State::LISTEN, Kind::Socket, 443)
    };
    let old = (2..40).map(|cookie| found(cookie, State::ESTABLISHED, Kind::Socket, 443));
    stream.census(Census {
        netns: NETNS,
        begin_ns: started_ns,
        scope: Scope::All,
        found: [listener].into_iter().chain(old).collect(),
        held: vec![held(&[7, 8])],
        ..Census::default()
    });
    let last = events.len();
    let ends_listening = last / 2;
    let mut minis: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
    let mut batch = Vec::new();
    let mut sampled_ns = started_ns;
    for (index, event) in events.into_iter().enumerate() {
        let ts_ns = event.ts_ns();
        if ts_ns > sampled_ns + 2 * MILLISECOND {
            stream.events(std::mem::take(&mut batch));
            let is_gone = |(_, mini): &(&u64, &(u64, bool))| mini.0 + GONE_NS < ts_ns;
            let gone = minis.iter().filter(is_gone);
            let gone: Vec<Gone> = gone
                .filter(|(_, (_, was_found))| *was_found)
                .map(|(&cookie, &(since_ns, _))| Gone {
                    cookie,
                    at_ns: since_ns + GONE_NS,
                })
                .collect();
            minis.retain(|_, (since_ns, _)| *since_ns + GONE_NS >= ts_ns);
            let new = minis
                .iter_mut()
                .filter(|(cookie, (_, was_found))| !was_found && *cookie % 3 != 0);
            let new = new.map(|(&cookie, (_, was_found))| {
                *was_found = true;
                found(cookie, State::TIME_WAIT, Kind::Minisocket, 443)
            });
            let found = new.collect();
            stream.census(Census {
                netns: NETNS,
                begin_ns: ts_ns,
                previous_ns: Some(sampled_ns),
                found,
                gone,
                half_open: vec![HalfOpen {
                    laddr: [10, 0, 3, 17].into(),
                    lport: 443,
                    count: ts_ns % 7 + 1,
                    oldest_ns: None,
                    oldest_at_least_ns: None,
                    synack_retransmits: 0,
                }],
                ..Census::default()
            });
            sampled_ns = ts_ns;
        }
        if goes_on(&event).is_some() {
            minis.insert(event.record().cookie, (ts_ns, false));
        }
        batch.push(event);
        if index == last / 4 {
            // A worker has been replaced.
            stream.events(std::mem::take(&mut batch));
            stream.census(a_look(ts_ns, held(&[7, 9])));
        }
        if index == ends_listening {
            batch.push(server(ts_ns, 1, State::LISTEN, State::CLOSE));
        }
        // Some of the old connections change their state in the middle and end at the end.
        if let Some(at) = index.checked_sub(ends_listening)
            && at < 10
        {
            batch.push(server(
                ts_ns,
                2 + at as u64,
                State::ESTABLISHED,
                State::CLOSE_WAIT,
            ));
        }
        if index + 20 > last {
            let cookie = 2 + (last - index) as u64;
            let state = if cookie < 12 {
                State::CLOSE_WAIT
            } else {
                State::ESTABLISHED
            };
            batch.push(server(ts_ns, cookie, state, State::CLOSE));
        }
    }
    stream.events(batch);
    stream
}

fn run(source: &mut dyn EventSource, view: &mut dyn View) -> (String, String) {
    run_part(source, view, None)
}

fn run_part(
    source: &mut dyn EventSource,
    view: &mut dyn View,
    part: Option<Part>,
) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let outputs = Outputs {
        out: &mut out,
        err: &mut err,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let options = RunOptions {
        part,
        ..RunOptions::default()
    };
    let outcome = runtime.block_on(drive(source, view, outputs, &mut Undisturbed, &options));
    assert_ne!(outcome.unwrap(), Outcome::ReaderGone);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(out), text(err))
}

/// The lines that a view shows, without its summary.
fn lines(source: &mut dyn EventSource, view: Box<dyn View>) -> Vec<String> {
    lines_of(source, view, None)
}

fn lines_of(
    source: &mut dyn EventSource,
    mut view: Box<dyn View>,
    part: Option<Part>,
) -> Vec<String> {
    let (out, err) = run_part(source, &mut *view, part);
    assert!(!err.contains("not known"), "{err}");
    let mut lines: Vec<String> = out.lines().map(str::to_owned).collect();
    assert!(lines.pop().unwrap().contains("summary"));
    lines
}

fn settings() -> Settings {
    Settings::plain(Format::Json)
}

fn a_life(until: Until, live: bool) -> Box<dyn View> {
    Box::new(Life::new(&life::Options {
        settings: settings(),
        live,
        until,
        expression: Expression::default(),
        states: None,
        causes: None,
        longer_than: None,
        count: None,
        columns: tcpstate_text::format::text::Columns::Usual,
        time: false,
        timestamp: false,
        reset_reason: false,
    }))
}

fn a_trace() -> Box<dyn View> {
    Box::new(trace::Trace::new(&trace::Options {
        settings: settings(),
        states: None,
        count: None,
        columns: tcpstate_text::format::text::Columns::Usual,
        time: false,
        timestamp: false,
        reset_reason: false,
    }))
}

fn some_rates(by: By) -> Box<dyn View> {
    Box::new(rates::Rates::new(&rates::Options {
        settings: settings(),
        interval_ns: 3 * MILLISECOND,
        by,
        in_kernel: false,
    }))
}

fn a_hist(of: HistogramOf) -> Box<dyn View> {
    Box::new(hist::Hist::new(&hist::Options {
        settings: settings(),
        of,
        by: By::Port,
        states: None,
        causes: None,
        interval: Some(std::time::Duration::from_millis(3)),
        count: None,
        unicode: false,
    }))
}

type MakeView<'a> = &'a dyn Fn() -> Box<dyn View>;

/// The file shows the end of the stream as the whole stream does.
fn shows_the_end(path: &Path) {
    is_the_end(&|view| lines(&mut Reader::open(path).unwrap(), view));
}

/// These lines of each view are the end of those of the whole stream.
fn is_the_end(lines_of_part: &dyn Fn(Box<dyn View>) -> Vec<String>) {
    let views: [(&str, MakeView<'_>); 9] = [
        ("trace", &a_trace),
        ("life", &|| a_life(Until::Close, true)),
        ("life until gone", &|| a_life(Until::Gone, true)),
        ("rates by port", &|| some_rates(By::Port)),
        ("rates by comm", &|| some_rates(By::Comm)),
        ("dwell", &|| a_hist(HistogramOf::Dwell)),
        ("lifetime", &|| a_hist(HistogramOf::Lifetime)),
        ("handshake", &|| a_hist(HistogramOf::Handshake)),
        ("transitions", &|| a_hist(HistogramOf::Transitions)),
    ];
    for (name, view) in views {
        let whole = lines(&mut web_server(), view());
        let mut part = lines_of_part(view());
        if !["trace", "life", "life until gone"].contains(&name) {
            // The part begins within an interval.
            let of = |line: &str| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                line["ts_ns"].as_u64().unwrap()
            };
            let first = of(&part[0]);
            part.retain(|line| of(line) != first);
        }
        assert!(part.len() > 3, "{name}: {part:?}");
        let same = whole.ends_with(&part);
        let from = whole.len().saturating_sub(part.len());
        let differs = whole[from..]
            .iter()
            .zip(&part)
            .find(|(whole, part)| whole != part);
        assert!(
            same,
            "{name}, {} of {}: {differs:#?}",
            part.len(),
            whole.len()
        );
    }
}

fn record(to: To, path: &Path) -> String {
    let mut view = Record::new(Options {
        path: path.to_owned(),
        format: Format::Text,
        to,
    });
    run(&mut web_server(), &mut view).1
}

#[test]
fn the_files_of_a_rotation_show_together_what_the_whole_shows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let to = To::File(WriterOptions {
        block_records: 100,
        max_bytes: Some(140_000),
        files: 100,
        ..WriterOptions::default()
    });
    record(to, &path);
    let older = (1..).map(|number| PathBuf::from(format!("{}.{number}", path.display())));
    let mut parts: Vec<PathBuf> = older.take_while(|path| path.exists()).collect();
    parts.reverse();
    assert!(parts.len() >= 2, "{parts:?}");
    for (name, view) in [
        ("trace", &a_trace as MakeView<'_>),
        ("life", &|| a_life(Until::Close, false)),
    ] {
        let whole = lines(&mut web_server(), view());
        let all = parts.iter().chain([&path]);
        let together: Vec<String> = all
            .flat_map(|path| lines(&mut Reader::open(path).unwrap(), view()))
            .collect();
        let differs = whole.iter().zip(&together).find(|(a, b)| a != b);
        assert!(whole == together, "{name}: {differs:#?}");
    }
    shows_the_end(&path);
    for path in parts {
        // As the whole one, up to there.
        let rates = lines(&mut Reader::open(&path).unwrap(), some_rates(By::Port));
        let whole = lines(&mut web_server(), some_rates(By::Port));
        let inner = rates.get(1..rates.len() - 1).unwrap();
        assert!(!inner.is_empty());
        assert!(inner.iter().all(|line| whole.contains(line)), "{inner:?}");
    }
}

/// With the censuses before the part, and those in it.
#[test]
fn a_part_shows_of_its_time_what_the_whole_shows() {
    let whole = lines(&mut web_server(), a_trace());
    let middle: serde_json::Value = serde_json::from_str(&whole[whole.len() / 2]).unwrap();
    let part = Part {
        from_ns: middle["ts_ns"].as_u64(),
        ..Part::default()
    };
    let lines_of_part = |view| lines_of(&mut web_server(), view, Some(part.clone()));
    assert!(lines_of_part(a_trace()).len() < whole.len());
    is_the_end(&lines_of_part);
}

#[test]
fn a_flight_recorder_shows_of_its_time_what_the_whole_shows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let to = To::Memory(FlightOptions {
        keep_ns: 30 * MILLISECOND,
        block_records: 100,
        ..FlightOptions::default()
    });
    let err = record(to, &path);
    assert!(err.contains("older events had left the memory"), "{err}");
    shows_the_end(&path);
    // A copy is as good.
    let copy = dir.path().join("copy.rec");
    let mut view = Record::new(Options {
        path: copy.clone(),
        format: Format::Text,
        to: to_file(),
    });
    run(&mut Reader::open(&path).unwrap(), &mut view);
    let of = |path: &Path| lines(&mut Reader::open(path).unwrap(), a_life(Until::Gone, true));
    assert_eq!(of(&copy), of(&path));
}
