//! `-r FILE --from --to --last`: what is shown is what the whole output has of that time, line by line. And `-q`.

#[expect(dead_code, reason = "other tests use other traffic")]
#[path = "support/stream.rs"]
mod stream;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tcpstate_core::{books::Accounting, event::Event, origin::Origin};
use tcpstate_recording::{Options, Writer};

use self::stream::Traffic;

/// 2026-01-31 11:11:36.
const WALL_NS: i64 = 1_769_857_896_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// A recording of a web server, slowed down to a few seconds.
struct Recording {
    _directory: tempfile::TempDir,
    path: PathBuf,
    events: Vec<Event>,
}

impl Recording {
    fn new() -> Self {
        let events = stream::events(Traffic::WebServer, 20_000, 5);
        let begin_ns = events[0].ts_ns();
        let slower = |event: &Event| {
            let mut record = *event.record();
            record.ts_ns = begin_ns + (record.ts_ns - begin_ns) * 20;
            Event::try_from(record).unwrap()
        };
        let events: Vec<Event> = events.iter().map(slower).collect();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recording");
        write(&path, &events);
        Self {
            _directory: directory,
            path,
            events,
        }
    }

    /// The times at which the third and the sixth of seven parts begin.
    fn times(&self) -> (u64, u64) {
        let at = |seventh: usize| self.events[self.events.len() * seventh / 7].ts_ns();
        (at(2), at(5))
    }
}

fn write(path: &Path, events: &[Event]) {
    let origin = Origin {
        host: "web-1".into(),
        kernel: "6.18.0".into(),
        attach: "btf".into(),
        wall_at_monotonic_zero_ns: WALL_NS,
        started_ns: events[0].ts_ns(),
        filters: String::new(),
        live: false,
        sample_interval_ns: None,
    };
    let mut writer = Writer::create(path, &origin, Options::default()).unwrap();
    for block in events.chunks(1_000) {
        writer.append(block, block.last().unwrap().ts_ns()).unwrap();
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

/// As `--from` takes it.
fn written(ts_ns: u64) -> String {
    let wall_ns = WALL_NS.checked_add_unsigned(ts_ns).unwrap();
    jiff::Timestamp::from_nanosecond(wall_ns.into())
        .unwrap()
        .to_string()
}

fn run(path: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tcpstate"))
        .args(arguments)
        .arg("-r")
        .arg(path)
        .env("TZ", "UTC")
        .output()
        .unwrap()
}

/// The lines of JSON, and the summary.
fn json(path: &Path, arguments: &[&str]) -> (Vec<Value>, Value) {
    let output = run(path, &[arguments, &["--json"]].concat());
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {err}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let summary = lines.pop().unwrap();
    assert_eq!(summary["type"], "summary");
    (lines, summary)
}

/// The lines that `jq 'select(.ts_ns >= $from and .ts_ns < $to)'` leaves.
fn select(lines: Vec<Value>, from_ns: u64, to_ns: u64) -> Vec<Value> {
    let is_in = |line: &Value| (from_ns..to_ns).contains(&line["ts_ns"].as_u64().unwrap());
    lines.into_iter().filter(is_in).collect()
}

/// Owners, roles, times and causes that follow from what happened before are there too.
#[test]
fn a_part_is_that_part_of_the_whole() {
    let recording = Recording::new();
    let (from_ns, to_ns) = recording.times();
    let (from, to) = (written(from_ns), written(to_ns));
    for arguments in [
        &["trace"][..],
        &["life"],
        &["trace", "--state", "CLOSE_WAIT"],
        &["trace", "-P", "443", "--role", "server"],
        &["life", "-L", "443"],
    ] {
        let path = &recording.path;
        let all = json(path, arguments).0;
        let parts = [
            (&["--from", &from, "--to", &to][..], from_ns, to_ns),
            (&["--from", &from], from_ns, u64::MAX),
            (&["--to", &to], 0, to_ns),
        ];
        let parts_of_it = if arguments.len() == 1 { 3 } else { 1 };
        for (words, from_ns, to_ns) in parts.into_iter().take(parts_of_it) {
            let (part, summary) = json(path, &[arguments, words].concat());
            let expected = select(all.clone(), from_ns, to_ns);
            assert!(!expected.is_empty() && expected.len() < all.len());
            assert_eq!(part.len(), expected.len(), "{arguments:?} {words:?}");
            for (part, expected) in part.iter().zip(&expected) {
                assert_eq!(part, expected, "{arguments:?} {words:?}");
            }
            let selection = &summary["selection"];
            let count = |name: &str| selection[name].as_u64().unwrap_or(0);
            let sum = ["passed", "filtered", "undecided", "unread", "earlier"].map(count);
            let received = &summary["accounting"]["received"];
            assert_eq!(*received, sum.iter().sum::<u64>(), "{summary}");
            let begin = (from_ns > 0).then_some(from_ns);
            assert_eq!(summary["part"]["from_ns"].as_u64(), begin);
        }
    }
}

/// Each transition of the part, and no other, is counted.
#[test]
fn counts_are_those_of_the_part() {
    let recording = Recording::new();
    let (from_ns, to_ns) = recording.times();
    let (from, to) = (written(from_ns), written(to_ns));
    let part = ["--from", &from, "--to", &to];
    let mut expected = BTreeMap::<(String, String), u64>::new();
    let all = json(&recording.path, &["trace"]).0;
    for line in select(all.clone(), from_ns, to_ns) {
        let key = (line["oldstate"].to_string(), line["newstate"].to_string());
        *expected.entry(key).or_default() += 1;
    }
    for arguments in [&["rates", "100ms"][..], &["hist", "--of", "transitions"]] {
        let mut counted = BTreeMap::new();
        for line in json(&recording.path, &[arguments, &part].concat()).0 {
            for one in line["transitions"].as_array().unwrap() {
                let key = (one["from"].to_string(), one["to"].to_string());
                *counted.entry(key).or_default() += one["count"].as_u64().unwrap();
            }
        }
        assert_eq!(counted, expected, "{arguments:?}");
    }
    // The times in the states that were left in the part, which may have begun before it.
    let dwells = select(all, from_ns, to_ns);
    let dwells = dwells.iter().filter(|line| !line["dwell_ns"].is_null());
    let histograms = json(&recording.path, &[&["hist"][..], &part].concat()).0;
    let counts = histograms
        .iter()
        .map(|line| line["count"].as_u64().unwrap());
    assert_eq!(counts.sum::<u64>(), dwells.count() as u64);
}

#[test]
fn a_copy_of_a_part_shows_what_the_part_shows() {
    let recording = Recording::new();
    let (from_ns, to_ns) = recording.times();
    let (from, to) = (written(from_ns), written(to_ns));
    let copy = recording.path.with_file_name("copy");
    let name = copy.to_str().unwrap();
    let words = ["record", "-w", name, "--from", &from, "--to", &to];
    let output = run(&recording.path, &words);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let part = ["trace", "--from", &from, "--to", &to];
    let expected = json(&recording.path, &part).0;
    let copied = json(&copy, &["trace"]).0;
    assert_eq!(copied.len(), expected.len());
    for (copied, expected) in copied.iter().zip(&expected) {
        assert_eq!(copied, expected);
    }
}

/// It has no history but that of the sockets that were there.
#[test]
fn a_copy_of_a_short_part_is_small() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copy) = (directory.path().join("all"), directory.path().join("copy"));
    let events = stream::events(Traffic::Churn, 20_000, 5);
    write(&path, &events);
    let from = written(events[events.len() * 9 / 10].ts_ns());
    let words = ["record", "-w", copy.to_str().unwrap(), "--from", &from];
    let output = run(&path, &words);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let bytes = |path: &Path| std::fs::metadata(path).unwrap().len();
    let (all, part) = (bytes(&path), bytes(&copy));
    assert!(part < all / 4, "{part} of {all} bytes");
}

#[test]
fn the_last_part_ends_with_the_recording() {
    let recording = Recording::new();
    let end_ns = recording.events.last().unwrap().ts_ns();
    let all = json(&recording.path, &["trace"]).0;
    let expected = select(all, end_ns - SECOND_NS / 2, u64::MAX);
    for words in [["--last", "500ms"], ["--from", "-500ms"]] {
        let (part, _) = json(&recording.path, &[&["trace"][..], &words].concat());
        assert!(part == expected, "{words:?}");
    }
}

#[test]
fn times_are_local_and_the_summary_says_which() {
    let recording = Recording::new();
    let words = ["trace", "--to", "11:11:38", "--csv"];
    let begin_ns = recording.events[0].ts_ns();
    let begin = jiff::Timestamp::from_nanosecond((WALL_NS + begin_ns.cast_signed()).into());
    let time = (begin.unwrap() + jiff::SignedDuration::from_millis(300))
        .to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::offset(5)));
    let to = time.strftime("%H:%M:%S%.f").to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
        .args([words[0], words[1], &to, words[3], "-r"])
        .arg(&recording.path)
        .env("TZ", "<+05>-5")
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    let said = time.strftime("up to %Y-%m-%d %H:%M:%S%.f").to_string();
    assert!(err.contains(&said), "{err}");
    let expected = recording
        .events
        .iter()
        .filter(|event| event.ts_ns() < begin_ns + 300_000_000);
    let rows = String::from_utf8(output.stdout).unwrap().lines().count();
    assert_eq!(rows - 1, expected.count());
}

#[test]
fn a_part_with_nothing_in_it_is_an_error() {
    let recording = Recording::new();
    for words in [
        ["--from", "2027-01-01T00:00"],
        ["--to", "2025-01-01"],
        ["--last", "0"],
    ] {
        let output = run(&recording.path, &[&["trace", "--csv"][..], &words].concat());
        let err = String::from_utf8(output.stderr).unwrap();
        if words[0] == "--last" {
            assert_eq!(output.status.code(), Some(2), "{err}");
            continue;
        }
        assert_eq!(output.status.code(), Some(1), "{words:?}: {err}");
        assert!(output.stdout.is_empty());
        assert!(
            err.contains(" has nothing ") && err.contains("it covers 2026-"),
            "{err}"
        );
    }
    let words = ["trace", "--from", "2026-02-03", "--to", "2026-02-02"];
    let output = run(&recording.path, &words);
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains("--to must be later than --from"), "{err}");
}

#[test]
fn a_date_that_is_too_far_is_refused_in_plain_words() {
    let recording = Recording::new();
    for words in [["--from", "9999-12-31T23:59:59"], ["--to", "9999-12-31"]] {
        let output = run(&recording.path, &[&["trace"][..], &words].concat());
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {err}");
        assert_eq!(
            err,
            format!(
                "tcpstate: cannot tell which part of {} is meant: it is too far from now: the years go to 9999\n",
                recording.path.display()
            )
        );
    }
}

#[test]
fn quiet_says_only_what_is_missing() {
    let recording = Recording::new();
    for arguments in [
        &["trace", "-q"][..],
        &["life", "--csv", "--quiet"],
        &["hist", "-q"],
        &["rates", "100ms", "-q", "--last", "200ms"],
        &["record", "-q", "-w", "/dev/null"],
    ] {
        let output = run(&recording.path, arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(err, "", "{arguments:?}");
    }
    // It is not the last line of JSON that is meant.
    assert!(!json(&recording.path, &["trace", "-q"]).0.is_empty());

    let whole = std::fs::read(&recording.path).unwrap();
    let cut = recording.path.with_file_name("cut");
    std::fs::write(&cut, &whole[..whole.len() * 2 / 3]).unwrap();
    let loud = run(&cut, &["trace", "--csv"]);
    let quiet = run(&cut, &["trace", "--csv", "-q"]);
    assert_eq!(quiet.status.code(), Some(3));
    let lines = |output: &Output| {
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        err.lines()
            .filter(|line| !line.starts_with("cost:"))
            .map(str::to_owned)
            .collect()
    };
    let (loud, quiet): (Vec<String>, Vec<String>) = (lines(&loud), lines(&quiet));
    assert_eq!(quiet, loud);
    assert!(quiet.len() > 1, "{quiet:?}");

    let both = run(&recording.path, &["trace", "-q", "-v"]);
    assert_eq!(both.status.code(), Some(2));
}

/// The sockets of this process's own namespace can be listed by anybody.
#[test]
fn a_quiet_list_comes_alone() {
    let list = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
            .args(["ls", "--netns", "self", "--resolve-owners=no"])
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_ne!(list(&[]), "");
    assert_eq!(list(&["-q"]), "");
}
