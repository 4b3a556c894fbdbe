//! `tcpstate hist`: its output is compared with `tests/golden`, and its figures with those computed from
//! every state change that `tcpstate trace` prints.

#[path = "support/golden.rs"]
mod support;

#[expect(dead_code, reason = "other tests use other traffic")]
#[path = "support/stream.rs"]
mod stream;

use std::{collections::BTreeMap, path::Path, process::Command, sync::Arc, time::Duration};

use jiff::tz::TimeZone;
use serde_json::Value;
use tcpstate_core::{
    books::Accounting,
    event::Event,
    model::By,
    names::{Cgroup, NameBook, Names, Pod},
    options::{Format, HistogramOf},
    origin::Origin,
    view::{Flow, View},
};
use tcpstate_recording::{self, Writer};
use tcpstate_text::{
    hist::{Hist, Options},
    settings::Settings,
};

use self::{
    stream::Traffic,
    support::{compare, end, events, names, origin},
};

fn options(format: Format, of: HistogramOf) -> Options {
    Options {
        settings: Settings {
            zone: TimeZone::fixed(jiff::tz::offset(1)),
            ..Settings::plain(format)
        },
        of,
        by: By::Port,
        states: None,
        causes: None,
        interval: None,
        count: None,
        unicode: false,
    }
}

/// Standard output and standard error of a whole run, with ticks at these seconds.
fn run(options: &Options, ticks_s: &[u64]) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut hist = Hist::new(options);
    hist.set_names(names());
    hist.start(&origin(), &mut out).unwrap();
    let mut ticks = ticks_s
        .iter()
        .map(|seconds| origin().started_ns + seconds * 1_000_000_000)
        .peekable();
    let mut flow = Flow::Continue;
    for event in events() {
        while let Some(tick_ns) = ticks.next_if(|&ns| ns <= event.ts_ns()) {
            flow = hist.tick(tick_ns, &mut out).unwrap();
        }
        if flow == Flow::Done {
            break;
        }
        assert_eq!(hist.event(&event, &mut out).unwrap(), Flow::Continue);
    }
    if flow == Flow::Continue {
        for tick_ns in ticks {
            hist.tick(tick_ns, &mut out).unwrap();
        }
    }
    hist.finish(&end(), &mut out, &mut err).unwrap();
    (
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    )
}

const FORMATS: [(Format, &str); 3] = [
    (Format::Text, "txt"),
    (Format::Json, "jsonl"),
    (Format::Csv, "csv"),
];

#[test]
fn of_dwell() {
    for (format, name) in FORMATS {
        let (out, err) = run(&options(format, HistogramOf::Dwell), &[]);
        compare(&format!("hist.{name}"), &out);
        if format != Format::Json {
            compare("hist.stderr.txt", &err);
        }
    }
}

#[test]
fn of_transitions() {
    for (format, name) in FORMATS {
        let (out, _) = run(&options(format, HistogramOf::Transitions), &[]);
        compare(&format!("hist-transitions.{name}"), &out);
    }
}

#[test]
fn of_lifetime_and_handshake() {
    let (lifetime, _) = run(&options(Format::Text, HistogramOf::Lifetime), &[]);
    let (handshake, _) = run(&options(Format::Text, HistogramOf::Handshake), &[]);
    compare("hist-others.txt", &format!("{lifetime}\n{handshake}"));
}

#[test]
fn text_by_others() {
    let by = |by| {
        let mut options = options(Format::Text, HistogramOf::Lifetime);
        options.by = by;
        format!("by {by:?}\n{}\n", run(&options, &[]).0)
    };
    compare("hist-by.txt", &By::ALL.map(by).concat());
}

/// Each group has as many lifetimes as `life` has connections with its property.
#[test]
fn groups_are_those_of_the_connections() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("recording");
    record(
        &path,
        &stream::events(Traffic::WebServer, 20_000, 3),
        names(),
    );
    check_groups(
        &path,
        &[
            ("role", &["role"]),
            ("comm", &["owner.comm"]),
            ("pid", &["owner.pid", "owner.comm"]),
            ("cgroup", &["cgroup_id"]),
            ("netns", &["netns"]),
            ("raddr", &["raddr"]),
            ("cause", &["cause"]),
        ],
    );
}

/// Two of the cgroups are of one unit, two of one pod, and one has no name.
#[test]
fn units_containers_and_pods_are_those_of_the_connections() {
    const ID: &str = "34dc0b5e626f2c5c4c5170e34b10e7654ce36f0fcd532739f4445baabea03376";
    const UID: &str = "74c13223-5a00-11e9-b385-42010a80018d";
    let pod = |id: String| {
        let cgroup = Cgroup::of(format!("/kubepods/pod{UID}/{id}"));
        Arc::new(cgroup.with_pod(Some(Pod::new("shop", "web-1"))))
    };
    let docker = Cgroup::of(format!("/system.slice/docker-{ID}.scope"));
    let book = NameBook::default();
    book.add_paths([
        (1, "/system.slice/web.service"),
        (2, "/system.slice/web.service/worker"),
    ]);
    book.add_cgroups([
        (3, pod(ID.replace('3', "5"))),
        (4, pod(ID.replace('3', "6"))),
        (5, Arc::new(docker.with_container_name(Some("db".into())))),
    ]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("recording");
    let events = stream::events(Traffic::WebServer, 20_000, 3);
    let in_cgroup = |event: Event| {
        let mut record = *event.record();
        // All events of a socket are of one.
        record.cgroup = (record.skaddr >> 6) % 6 + 1;
        Event::try_from(record).unwrap()
    };
    let events: Vec<Event> = events.into_iter().map(in_cgroup).collect();
    record(&path, &events, Names::new(Arc::new(book)));
    let found = check_groups(
        &path,
        &[
            ("unit", &["unit"]),
            ("container", &["container", "container_name"]),
            ("pod", &["pod", "pod_namespace", "pod_uid"]),
        ],
    );
    // The one unit, the scope of the container, and none; three containers, and none; the pod, and none.
    assert_eq!(found, [3, 4, 2]);
}

/// Compares lifetimes by each of these words with the fields of connections; returns the number of groups.
fn check_groups(path: &Path, groupings: &[(&str, &[&str])]) -> Vec<usize> {
    let lines = |arguments: &[&str], kind: &str| -> Vec<Value> {
        let json = output(&[arguments, &["--json"]].concat(), path);
        let lines = json
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["type"] == kind).collect()
    };
    let mut groups = Vec::new();
    let connections = lines(&["life"], "connection");
    for &(by, fields) in groupings {
        let arguments = ["hist", "--of", "lifetime", "--max-ports=16384", "--by", by];
        let mut actual = BTreeMap::new();
        for line in lines(&arguments, "histogram") {
            let name = |field: &&str| line[field.trim_start_matches("owner.")].to_string();
            let key: Vec<String> = fields.iter().map(name).collect();
            let before = actual.insert(key, line["count"].as_u64().unwrap());
            assert_eq!(before, None, "{by}: {line}");
        }
        let mut expected = BTreeMap::<Vec<String>, u64>::new();
        for line in connections
            .iter()
            .filter(|line| !line["lifetime_ns"].is_null())
        {
            let value = |field: &&str| match field.split_once('.') {
                Some((object, field)) => line[object][field].to_string(),
                None => line[*field].to_string(),
            };
            *expected
                .entry(fields.iter().map(value).collect())
                .or_default() += 1;
        }
        assert!(!expected.is_empty());
        assert_eq!(actual, expected, "{by}");
        groups.push(actual.len());
    }
    groups
}

#[test]
fn groups_beyond_the_bound_are_other() {
    let mut options = options(Format::Json, HistogramOf::Transitions);
    options.by = By::Raddr;
    options.settings.limits.max_ports = 1;
    let (out, _) = run(&options, &[]);
    let lines = out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let found: Vec<Value> = lines.filter(|line| line["type"] == "histogram").collect();
    assert_eq!(found.len(), 2);
    let others = found.iter().filter(|line| line["other"] == true);
    assert!(
        others
            .map(|line| line["count"].as_u64().unwrap())
            .sum::<u64>()
            > 0
    );
    let counts = found.iter().map(|line| line["count"].as_u64().unwrap());
    assert_eq!(counts.sum::<u64>(), events().len() as u64);
}

#[test]
fn lifetimes_of_some_causes() {
    let count = |causes: Option<&str>| {
        let options = Options {
            causes: causes.map(|causes| causes.parse().unwrap()),
            ..options(Format::Json, HistogramOf::Lifetime)
        };
        let (out, _) = run(&options, &[]);
        let lines = out
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter_map(|line| line["count"].as_u64()).sum::<u64>()
    };
    assert_eq!(count(None), 4);
    assert_eq!(count(Some("fin")), 2);
    assert_eq!(count(Some("refused")), 1);
    assert_eq!(count(Some("refused,reset_by_peer")), 2);
    assert_eq!(count(Some("timed_out")), 0);
}

#[test]
fn of_some_states_in_unicode() {
    let options = Options {
        states: Some("CLOSE_WAIT".parse().unwrap()),
        unicode: true,
        ..options(Format::Text, HistogramOf::Dwell)
    };
    compare("hist-states.txt", &run(&options, &[]).0);
    for width in [40, 120] {
        let mut options = options.clone();
        options.settings.width = Some(width);
        let (out, _) = run(&options, &[]);
        for line in out.lines() {
            assert!(line.chars().count() <= width, "{line}");
        }
        compare(&format!("hist-{width}.txt"), &out);
    }
}

#[test]
fn every_interval_begins_anew() {
    for (of, name) in [
        (HistogramOf::Dwell, "hist-interval.txt"),
        (HistogramOf::Transitions, "hist-interval-transitions.txt"),
    ] {
        let options = Options {
            interval: Some(Duration::from_secs(30)),
            states: Some("CLOSE_WAIT".parse().unwrap()),
            ..options(Format::Text, of)
        };
        compare(name, &run(&options, &[30, 60]).0);
    }
}

#[test]
fn as_many_intervals_as_asked_for() {
    let options = Options {
        interval: Some(Duration::from_secs(30)),
        count: Some(1),
        ..options(Format::Csv, HistogramOf::Transitions)
    };
    let (out, _) = run(&options, &[30, 60]);
    let all = run(
        &Options {
            count: None,
            ..options
        },
        &[30, 60],
    );
    assert!(all.0.starts_with(&out) && out.len() < all.0.len(), "{out}");
}

/// An interval that ends with the run is not followed by an empty one.
#[test]
fn no_interval_is_shown_twice() {
    let options = Options {
        interval: Some(Duration::from_secs(65)),
        ..options(Format::Text, HistogramOf::Transitions)
    };
    let (out, _) = run(&options, &[65]);
    assert_eq!(out.matches("== ").count(), 1, "{out}");
}

#[test]
fn charts_fit_into_80_columns() {
    for of in [HistogramOf::Dwell, HistogramOf::Transitions] {
        for unicode in [false, true] {
            let options = Options {
                unicode,
                ..options(Format::Text, of)
            };
            for line in run(&options, &[]).0.lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
        }
    }
}

#[test]
fn a_run_without_events_says_so() {
    let of_nothing = |options: &Options| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut hist = Hist::new(options);
        hist.start(&origin(), &mut out).unwrap();
        hist.finish(&end(), &mut out, &mut err).unwrap();
        (
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    };
    for (of, text) in [
        (
            HistogramOf::Dwell,
            "No time in a state became known: there was no state change.\n",
        ),
        (
            HistogramOf::Transitions,
            "Nothing happened: there was no state change.\n",
        ),
    ] {
        let (out, err) = of_nothing(&options(Format::Text, of));
        assert_eq!(out, text);
        assert!(err.starts_with("0 histograms of "), "{err}");
        let (out, _) = of_nothing(&options(Format::Csv, of));
        assert_eq!(out.lines().count(), 1, "only the header: {out}");
        let (out, _) = of_nothing(&options(Format::Json, of));
        let summary: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (&summary["type"], &summary["shown"]),
            (&"summary".into(), &0.into())
        );
    }
    let unchosen = Options {
        states: Some("CLOSING".parse().unwrap()),
        ..options(Format::Text, HistogramOf::Dwell)
    };
    let (out, _) = run(&unchosen, &[]);
    let rest = out.strip_prefix("None of the ").unwrap();
    assert!(
        rest.ends_with(" histograms is of the states asked for.\n"),
        "{out}"
    );
}

/// The key of a histogram: state, service port, role.
type Key = (String, String, String);

/// Writes these events to a recording.
fn record(path: &Path, events: &[Event], names: Names) {
    let origin = Origin {
        started_ns: events[0].ts_ns(),
        ..origin()
    };
    let mut writer = Writer::create(path, &origin, tcpstate_recording::Options::default())
        .unwrap()
        .naming(names);
    let last_ns = events.last().unwrap().ts_ns();
    for block in events.chunks(10_000) {
        writer.append(block, last_ns).unwrap();
    }
    let received = events.len() as u64;
    let accounting = Accounting {
        seen: received,
        submitted: received,
        received,
        ..Accounting::default()
    };
    writer.finish(Some(&accounting), None).unwrap();
}

/// The standard output of a run on a recording.
fn output(arguments: &[&str], recording: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
        .args(arguments)
        .arg("-r")
        .arg(recording)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Every dwell time that trace prints, by the key of hist, sorted.
fn exact_dwells(recording: &Path) -> BTreeMap<Key, Vec<u64>> {
    let csv = output(&["trace", "--csv"], recording);
    let mut rows = csv::Reader::from_reader(csv.as_bytes());
    let titles = rows.headers().unwrap().clone();
    let at = |title| titles.iter().position(|other| other == title).unwrap();
    let (state, port, role, dwell) = (
        at("oldstate"),
        at("service_port"),
        at("role"),
        at("dwell_ns"),
    );
    let mut dwells: BTreeMap<Key, Vec<u64>> = BTreeMap::new();
    let mut row = csv::StringRecord::new();
    while rows.read_record(&mut row).unwrap() {
        if !row[dwell].is_empty() {
            let key = (
                row[state].to_owned(),
                row[port].to_owned(),
                row[role].to_owned(),
            );
            dwells
                .entry(key)
                .or_default()
                .push(row[dwell].parse().unwrap());
        }
    }
    for dwells in dwells.values_mut() {
        dwells.sort_unstable();
    }
    dwells
}

/// The exact quantile of sorted durations.
fn exact_quantile(sorted: &[u64], thousandths: usize) -> u64 {
    sorted[(sorted.len() * thousandths).div_ceil(1_000).max(1) - 1]
}

#[test]
fn percentiles_of_100_000_connections_are_within_1_percent_of_the_exact_ones() {
    const CONNECTIONS: u64 = 100_000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("recording");
    // There are five transitions per connection, and 4,000 connections are open at the end.
    record(
        &path,
        &stream::events(Traffic::WebServer, 530_000, 3),
        names(),
    );

    let exact = exact_dwells(&path);
    let lines = |of: &str| -> Vec<Value> {
        let json = output(&["hist", "--json", "--of", of], &path);
        let mut lines: Vec<Value> = json
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.pop().unwrap()["type"], "summary");
        lines
    };
    let ended: u64 = lines("lifetime")
        .iter()
        .map(|line| line["count"].as_u64().unwrap())
        .sum();
    assert!(ended >= CONNECTIONS, "only {ended} connections");

    let histograms = lines("dwell");
    assert_eq!(histograms.len(), exact.len());
    assert!(exact.len() >= 10, "{:?}", exact.keys());
    let mut worst: f64 = 0.0;
    for line in &histograms {
        let text = |name: &str| line[name].as_str().unwrap().to_owned();
        let key = (
            text("state"),
            line["service_port"].to_string(),
            text("role"),
        );
        let exact = &exact[&key];
        assert_eq!(line["count"], exact.len(), "{key:?}");
        assert_eq!(line["max_ns"], exact[exact.len() - 1], "{key:?}");
        for (name, thousandths) in [
            ("p50_ns", 500),
            ("p90_ns", 900),
            ("p99_ns", 990),
            ("p999_ns", 999),
        ] {
            let found = line[name].as_u64().unwrap();
            let exact = exact_quantile(exact, thousandths);
            assert!(
                found.abs_diff(exact) * 100 <= exact,
                "{key:?}: {name} is {found}, the exact value is {exact}"
            );
            #[expect(clippy::cast_precision_loss, reason = "it is only printed")]
            let error = found.abs_diff(exact) as f64 / exact as f64;
            worst = worst.max(error);
        }
        let buckets = line["buckets"].as_array().unwrap();
        let counted: u64 = buckets
            .iter()
            .map(|bucket| {
                let bound = |name: &str| bucket[name].as_u64().unwrap();
                let (lower, upper, count) = (bound("lower_ns"), bound("upper_ns"), bound("count"));
                let inside = |ns| exact.partition_point(|&dwell| dwell < ns) as u64;
                assert_eq!(inside(upper) - inside(lower), count, "{key:?}: {bucket}");
                count
            })
            .sum();
        assert_eq!(counted, exact.len() as u64);
    }
    println!(
        "{ended} connections, {} histograms: the worst percentile is {:.3} % off",
        exact.len(),
        worst * 100.0
    );
}
