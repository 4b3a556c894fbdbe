//! The output of `rates`, byte for byte, live and from a recording; and the consistency of its numbers.

#[path = "support/golden.rs"]
#[expect(dead_code, reason = "these tests have events of their own")]
mod golden;
#[path = "support/stream.rs"]
#[expect(dead_code, reason = "these tests use one kind of traffic")]
mod stream;

use std::{
    collections::BTreeMap,
    process::Command,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use golden::compare;
use jiff::tz::TimeZone;
use serde_json::Value;
use stream::{Traffic, events};
use tcpstate::run::{self, Interrupt, Interrupts, Outputs};
use tcpstate_core::{
    books::Accounting,
    event::Event,
    model::{By, Limits},
    names::{NameBook, Names},
    options::Format,
    origin::Origin,
    source::{EventSource, SourceError, Step},
};
use tcpstate_recording::{self, FlightOptions, FlightRing, Writer};
use tcpstate_text::{
    rates::{Options, Rates},
    settings::Settings,
};

/// An origin 3 ms before the streams of `support/stream.rs` begin.
const STARTED_NS: u64 = 86_399_997_000_000;
const INTERVAL_NS: u64 = 50_000_000;

fn origin(live: bool) -> Origin {
    Origin {
        host: "web-1".into(),
        kernel: "6.18.0".into(),
        attach: "btf".into(),
        wall_at_monotonic_zero_ns: 1_769_857_896_000_000_000,
        started_ns: STARTED_NS,
        filters: String::new(),
        live,
        sample_interval_ns: None,
    }
}

struct Events {
    origin: Origin,
    rest: Vec<Event>,
    received: u64,
}

impl EventSource for Events {
    fn poll_step(
        &mut self,
        _cx: &mut Context<'_>,
        batch: &mut Vec<Event>,
    ) -> Poll<Result<Step, SourceError>> {
        let some = self.rest.len().min(1_000);
        batch.extend(self.rest.drain(..some));
        Poll::Ready(Ok(if some > 0 { Step::Events } else { Step::End }))
    }

    fn stop(&mut self) {
        self.rest.clear();
    }

    fn accounting(&mut self) -> Result<Accounting, SourceError> {
        Ok(Accounting {
            seen: self.received,
            submitted: self.received,
            received: self.received,
            ..Accounting::default()
        })
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn names(&self) -> Names {
        names()
    }
}

/// The name of the streams' cgroup.
fn names() -> Names {
    let book = NameBook::default();
    book.add_paths([(7_411, "/system.slice/web.service")]);
    Names::new(Arc::new(book))
}

struct Never;

impl Interrupts for Never {
    fn poll_interrupt(&mut self, _cx: &mut Context<'_>) -> Poll<Interrupt> {
        Poll::Pending
    }
}

fn options(format: Format, by: By) -> Options {
    Options {
        settings: Settings {
            limits: Limits {
                max_ports: 2,
                ..Limits::default()
            },
            zone: TimeZone::fixed(jiff::tz::offset(1)),
            ..Settings::plain(format)
        },
        interval_ns: INTERVAL_NS,
        by,
        in_kernel: false,
    }
}

/// Standard output and standard error of a run over these events.
fn show(options: &Options, events: &[Event], duration: Option<Duration>) -> (String, String) {
    let mut source = Events {
        origin: origin(false),
        rest: events.to_vec(),
        received: events.len() as u64,
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let outputs = Outputs {
        out: &mut out,
        err: &mut err,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let run_options = run::Options {
        duration,
        ..run::Options::default()
    };
    let mut view = Rates::new(options);
    runtime
        .block_on(run::drive(
            &mut source,
            &mut view,
            outputs,
            &mut Never,
            &run_options,
        ))
        .unwrap();
    (
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    )
}

/// A few intervals of a stream that is slowed down fifty times.
fn web_server() -> Vec<Event> {
    let slower = |event: &Event| {
        let mut record = *event.record();
        let since_ns = record.ts_ns - 86_400_000_000_000;
        record.ts_ns = 86_400_000_000_000 + since_ns * 50;
        Event::try_from(record).unwrap()
    };
    events(Traffic::WebServer, 12_000, 7)
        .iter()
        .map(slower)
        .collect()
}

/// Removes the cost of the process, which differs from run to run.
fn without_cost(err: &str) -> String {
    let lines = err.lines().filter(|line| !line.starts_with("cost: "));
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn without_summary(out: &str) -> (&str, Value) {
    let (lines, summary) = out.trim_end().rsplit_once('\n').unwrap();
    (lines, serde_json::from_str(summary).unwrap())
}

#[test]
fn text() {
    let (out, err) = show(&options(Format::Text, By::Port), &web_server(), None);
    for line in out.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    compare("rates.txt", &out);
    compare("rates.stderr.txt", &without_cost(&err));
}

/// As wide as the terminal: on a narrow one the groups stand below, a wide one has room for the path of a cgroup.
#[test]
fn text_on_a_terminal() {
    for (by, width, name) in [
        (By::Port, 40, "rates-40.txt"),
        (By::Port, 80, "rates.txt"),
        (By::Cgroup, 200, "rates-cgroup-200.txt"),
        (By::Raddr, 80, "rates-raddr-80.txt"),
        (By::Raddr, 110, "rates-raddr-110.txt"),
        (By::Pid, 80, "rates-pid-80.txt"),
    ] {
        let mut options = options(Format::Text, by);
        options.settings.width = Some(width);
        let (out, _) = show(&options, &web_server(), None);
        for line in out.lines() {
            assert!(line.chars().count() <= width, "{line}");
        }
        compare(name, &out);
    }
}

#[test]
fn text_by_others() {
    for (by, name) in [
        (By::Role, "role"),
        (By::Comm, "comm"),
        (By::Cgroup, "cgroup"),
        (By::Unit, "unit"),
        (By::Pid, "pid"),
        (By::Netns, "netns"),
        (By::Prefix, "prefix"),
        (By::Cause, "cause"),
    ] {
        let out = show(&options(Format::Text, by), &web_server(), None).0;
        compare(&format!("rates-{name}.txt"), &out);
    }
}

#[test]
fn json() {
    let (out, err) = show(&options(Format::Json, By::Port), &web_server(), None);
    compare("rates.jsonl", &format!("{}\n", without_summary(&out).0));
    assert_eq!(err, "");
}

#[test]
fn csv() {
    let out = show(&options(Format::Csv, By::Port), &web_server(), None).0;
    compare("rates.csv", &out);
}

#[test]
fn cgroups_have_their_paths_and_their_numbers() {
    let events = web_server();
    let csv = show(&options(Format::Csv, By::Cgroup), &events, None).0;
    let mut rows = csv.lines().map(|row| row.split(',').collect::<Vec<_>>());
    assert_eq!(rows.next().unwrap()[3..6], ["cgroup", "cgroup_id", "other"]);
    assert!(rows.all(|row| row[3..6] == ["/system.slice/web.service", "7411", "false"]));
    let json = show(&options(Format::Json, By::Cgroup), &events, None).0;
    let line: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    let group = &line["cgroups"][0];
    assert_eq!(group["cgroup"], "/system.slice/web.service");
    assert_eq!(group["cgroup_id"], 7_411);
}

fn counts(transitions: &Value) -> u64 {
    let counts = transitions.as_array().unwrap().iter();
    counts.map(|one| one["count"].as_u64().unwrap()).sum()
}

/// Every event is in one interval and in one group of it, in CSV too.
#[test]
fn all_intervals_together_are_all_events() {
    let events = web_server();
    for by in By::ALL {
        let out = show(&options(Format::Json, by), &events, None).0;
        let (lines, summary) = without_summary(&out);
        let lines: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let total: u64 = lines.iter().map(|line| counts(&line["transitions"])).sum();
        assert_eq!(total, events.len() as u64);
        assert_eq!(summary["accounting"]["received"], total);
        assert_eq!(summary["selection"]["passed"], total);
        assert_eq!(summary["intervals"], lines.len());
        let length_ns: u64 = lines
            .iter()
            .map(|line| line["interval_ns"].as_u64().unwrap())
            .sum();
        assert_eq!(length_ns, events.last().unwrap().ts_ns() - STARTED_NS);

        let csv = show(&options(Format::Csv, by), &events, None).0;
        let mut rows = csv::Reader::from_reader(csv.as_bytes());
        let at = rows
            .headers()
            .unwrap()
            .iter()
            .position(|title| title == "count");
        let total: u64 = rows
            .records()
            .map(|row| row.unwrap()[at.unwrap()].parse::<u64>().unwrap())
            .sum();
        assert_eq!(total, events.len() as u64);
    }
}

/// The figures of the groups sum to the totals, state by state.
#[test]
fn groups_add_up() {
    let out = show(&options(Format::Json, By::Port), &web_server(), None).0;
    for line in without_summary(&out).0.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let groups = line["ports"].as_array().unwrap();
        for name in ["opened", "established", "closed", "failed"] {
            let sum: u64 = groups
                .iter()
                .map(|group| group[name].as_u64().unwrap())
                .sum();
            assert_eq!(line[name], sum, "{name}");
        }
        let mut states: BTreeMap<&str, u64> = BTreeMap::new();
        for group in groups {
            for (state, now) in group["states"].as_object().unwrap() {
                *states.entry(state).or_default() += now.as_u64().unwrap_or_default();
            }
        }
        for (state, now) in line["states"].as_object().unwrap() {
            assert_eq!(
                now.as_u64().unwrap_or_default(),
                states[state.as_str()],
                "{state}"
            );
        }
        assert_eq!(states.len(), 11);
    }
}

/// `rates 50ms 3` ends at the end of the third interval, with nothing after it.
#[test]
fn an_end_at_an_intervals_end_leaves_no_rest() {
    let options = options(Format::Json, By::Port);
    let duration = Duration::from_nanos(3 * INTERVAL_NS);
    let events = web_server();
    let out = show(&options, &events, Some(duration)).0;
    let (lines, summary) = without_summary(&out);
    let before = |event: &&Event| event.ts_ns() < STARTED_NS + 3 * INTERVAL_NS;
    let expected = events.iter().filter(before).count();
    assert_eq!(lines.lines().count(), 3);
    assert_eq!(summary["transitions"], expected);
    assert_eq!(summary["selection"]["passed"], expected);
    let all = show(&options, &events, None).0;
    assert!(all.starts_with(lines), "not the beginning of a longer run");
}

/// Without events and without time there is nothing to show.
#[test]
fn nothing_gives_only_the_summary() {
    let (out, err) = show(&options(Format::Text, By::Port), &[], None);
    assert_eq!(out, "");
    assert!(err.starts_with("0 intervals; 0 changes, "), "{err}");
}

/// The output of the binary for a recording is that of the view for the events, without a bar on a pipe.
#[test]
fn a_recording_gives_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("recording");
    let events = web_server();
    let mut writer =
        Writer::create(&path, &origin(true), tcpstate_recording::Options::default()).unwrap();
    let last_ns = events.last().unwrap().ts_ns();
    writer.append(&events, last_ns).unwrap();
    let received = events.len() as u64;
    let accounting = Accounting {
        seen: received,
        submitted: received,
        received,
        ..Accounting::default()
    };
    writer.finish(Some(&accounting), None).unwrap();
    for (flag, format) in [("--json", Format::Json), ("--csv", Format::Csv)] {
        let output = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
            .args(["rates", "50ms", "--max-ports", "2", flag, "-r"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success());
        let shown = String::from_utf8(output.stdout).unwrap();
        let expected = show(&options(format, By::Port), &events, None).0;
        if format == Format::Json {
            assert_eq!(without_summary(&shown).0, without_summary(&expected).0);
            assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        } else {
            assert_eq!(shown, expected);
        }
    }
}

/// The recording of a flight recorder after days does not begin with days of empty intervals.
#[test]
fn a_part_of_a_capture_begins_when_the_rest_ends() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("recording");
    let events = web_server();
    let options = FlightOptions {
        keep_ns: INTERVAL_NS,
        block_records: 100,
        ..FlightOptions::default()
    };
    let days_before = Origin {
        started_ns: 0,
        ..origin(true)
    };
    let mut ring = FlightRing::new(&days_before, options).unwrap();
    ring.append(&events).unwrap();
    let kept = ring.held();
    assert!(kept > 0 && ring.dropped() > 0);
    ring.dump(&path).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
        .args(["rates", "50ms", "--json", "-r"])
        .arg(&path)
        .output()
        .unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let (lines, summary) = without_summary(&out);
    assert_eq!(summary["transitions"], kept);
    // In the first interval, which those of the capture cut.
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    let begin_ns = first["ts_ns"].as_u64().unwrap() - first["interval_ns"].as_u64().unwrap();
    let at = usize::try_from(events.len() as u64 - kept).unwrap();
    assert_eq!(begin_ns, events[at - 1].ts_ns());
}
