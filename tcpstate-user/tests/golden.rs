//! The output, compared byte for byte with the files in `tests/golden`.
//!
//! `TCPSTATE_BLESS=1 cargo test --test golden` rewrites those files; read the difference before you commit
//! it.

#[path = "support/golden.rs"]
mod support;

use std::{
    fs::File,
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use clap::{CommandFactory, error::ErrorKind};
use jiff::tz::TimeZone;
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tcpstate_cli::{Cli, HELP_WIDTH};
use tcpstate_common::Record;
use tcpstate_core::{
    books::Accounting,
    event::Event,
    names::{Cgroup, NameBook, Names, Pod},
    options::{Format, TimeForm},
    view::{Flow, View},
};
use tcpstate_recording::{self, Writer};
use tcpstate_text::{
    format::text::Columns,
    settings::Settings,
    trace::{LAYOUT, Options, Trace},
};

use self::support::{compare, end, events, names, origin};

#[test]
fn help() {
    let names = Cli::command()
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect::<Vec<_>>();
    for name in ["tcpstate"]
        .into_iter()
        .chain(names.iter().map(String::as_str))
    {
        let words = match name {
            "tcpstate" => vec!["tcpstate", "--help"],
            name => vec!["tcpstate", name, "--help"],
        };
        let error = Cli::command()
            .term_width(HELP_WIDTH)
            .try_get_matches_from(words)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DisplayHelp);
        let text = error.to_string();
        for line in text.lines() {
            assert!(line.chars().count() <= HELP_WIDTH, "{name}: {line}");
        }
        compare(&format!("help/{name}.txt"), &text);
    }
    let help = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
        .args(["help", "filter"])
        .output()
        .unwrap();
    assert!(help.status.success(), "{help:?}");
    compare("help/filter.txt", &String::from_utf8(help.stdout).unwrap());
}

fn options(format: Format) -> Options {
    Options {
        settings: Settings {
            zone: TimeZone::fixed(jiff::tz::offset(1)),
            ..Settings::plain(format)
        },
        states: None,
        count: None,
        columns: Columns::Usual,
        time: false,
        reset_reason: false,
        timestamp: false,
    }
}

/// Standard output and standard error of a whole run.
fn run(options: &Options) -> (String, String) {
    run_with(options, names())
}

fn run_with(options: &Options, names: Names) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut trace = Trace::new(options);
    trace.set_names(names);
    trace.start(&origin(), &mut out).unwrap();
    for event in events() {
        if trace.event(&event, &mut out).unwrap() == Flow::Done {
            break;
        }
    }
    trace.finish(&end(), &mut out, &mut err).unwrap();
    (
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    )
}

#[test]
fn trace_text() {
    let (out, err) = run(&options(Format::Text));
    compare("trace.txt", &out);
    compare("trace.stderr.txt", &err);
}

#[test]
fn trace_text_with_times() {
    let options = Options {
        time: true,
        timestamp: true,
        ..options(Format::Text)
    };
    compare("trace-times.txt", &run(&options).0);
    let dated = |width| {
        let mut options = Options {
            time: true,
            count: Some(2),
            ..self::options(Format::Text)
        };
        options.settings.time_form = TimeForm::Full;
        options.settings.width = width;
        run(&options).0
    };
    for width in [None, Some(80)] {
        let text = dated(width);
        assert!(text.starts_with(&format!("{:26} ", "TIME")), "{text}");
        assert!(text.contains("\n2026-01-31 13:34:56.000010 "), "{text}");
    }
    let only = Options {
        timestamp: true,
        count: Some(2),
        ..self::options(Format::Text)
    };
    compare("trace-timestamp.txt", &run(&only).0);
}

fn on_a_terminal(width: usize) -> String {
    let mut options = options(Format::Text);
    options.settings.width = Some(width);
    run(&options).0
}

/// IPv4 and IPv6; no line is wider than the terminal.
#[test]
fn trace_on_a_terminal() {
    for width in [40, 80, 200] {
        compare(&format!("trace-{width}.txt"), &on_a_terminal(width));
    }
    for width in 1..300 {
        let out = on_a_terminal(width);
        let widest = out.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(width), "{width}:\n{out}");
    }
}

#[test]
fn trace_with_the_columns_that_are_named() {
    let columns = |words: &str| {
        let words: Vec<String> = words.split(',').map(str::to_owned).collect();
        LAYOUT.columns(false, &words)
    };
    let of_columns = |columns| {
        let options = Options {
            columns,
            count: Some(4),
            ..options(Format::Text)
        };
        run(&options).0
    };
    let some = columns("newstate,REMOTE,owner.pid,error,bytes_sent,cookie").unwrap();
    let out = of_columns(some);
    let mut lines = out.lines();
    let words = |line: Option<&str>| {
        line.unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        words(lines.next()),
        "NEWSTATE REMOTE PID error bytes_sent COOKIE"
    );
    assert_eq!(
        words(lines.nth(1)),
        "SYN_SENT 198.51.100.20:443 1234 0 0 B sk:1005"
    );
    compare(
        "trace-wide.txt",
        &of_columns(LAYOUT.columns(true, &[]).unwrap()),
    );

    let error = columns("pid,remot").unwrap_err().to_string();
    let start =
        "`remot` is not a column of trace; did you mean `remote`? columns: time, seconds, packet, ";
    assert!(error.starts_with(start), "{error}");
    let error = columns("help").unwrap_err().to_string();
    assert!(
        error.starts_with("`help` is not a column of trace; columns: time"),
        "{error}"
    );
}

/// A pod and a container are shown by their names or, where these are not known, by what identifies them.
#[test]
fn columns_of_units_containers_and_pods() {
    const ID: &str = "34dc0b5e626f2c5c4c5170e34b10e7654ce36f0fcd532739f4445baabea03376";
    const UID: &str = "74c13223-5a00-11e9-b385-42010a80018d";
    let slice = format!("kubepods-pod{}.slice", UID.replace('-', "_"));
    let unnamed = Cgroup::of(format!("/kubepods.slice/{slice}/crio-{ID}.scope"));
    let named = unnamed
        .clone()
        .with_container_name(Some("we\u{1b}b".into()))
        .with_pod(Some(Pod::new("shop", "web-1")));
    let scope = format!("crio-{ID}.scope");
    let words = ["unit", "container", "pod", "container_name", "pod_uid"].map(str::to_owned);
    for (cgroup, expected) in [
        (unnamed, [&*scope, "34dc0b5e626f", UID, "-", UID]),
        (
            named,
            [&*scope, "we\\u{1b}b", "shop/web-1", "we\\u{1b}b", UID],
        ),
    ] {
        let book = NameBook::default();
        book.add_cgroups([(support::CGROUP, Arc::new(cgroup))]);
        let options = Options {
            columns: LAYOUT.columns(false, &words).unwrap(),
            ..options(Format::Text)
        };
        let (out, _) = run_with(&options, Names::new(Arc::new(book)));
        let mut lines = out.lines().map(str::split_whitespace);
        let titles = lines.next().unwrap().collect::<Vec<_>>();
        assert_eq!(
            titles,
            ["UNIT", "CONTAINER", "POD", "container_name", "pod_uid"]
        );
        // Some events have no cgroup.
        let mut named = lines.filter(|line| !line.clone().eq(["-"; 5])).peekable();
        assert!(named.peek().is_some(), "{out}");
        assert!(named.all(|line| line.eq(expected)), "{out}");
    }
}

#[test]
fn trace_json() {
    let (out, err) = run(&options(Format::Json));
    compare("trace.jsonl", &out);
    assert_eq!(err, "");
}

#[test]
fn trace_csv() {
    let (out, err) = run(&options(Format::Csv));
    compare("trace.csv", &out);
    // Only the first words differ from those in text.
    assert_eq!(err, run(&options(Format::Text)).1);
}

#[test]
fn trace_of_some_states_still_knows_the_times() {
    let states = Some("close_wait,listen".parse().unwrap());
    compare(
        "trace-states.txt",
        &run(&Options {
            states,
            ..options(Format::Text)
        })
        .0,
    );
}

#[test]
fn trace_shows_as_many_lines_as_asked_for() {
    let options = Options {
        count: Some(3),
        ..options(Format::Csv)
    };
    let (out, err) = run(&options);
    assert_eq!(out.lines().count(), 1 + 3);
    assert!(err.contains("\nseen "), "{err}");
}

/// Records the run, and returns its books.
fn record(path: &Path) -> Accounting {
    write(path, &events())
}

/// Records these events.
fn write(path: &Path, events: &[Event]) -> Accounting {
    let mut writer = Writer::create(path, &origin(), tcpstate_recording::Options::default())
        .unwrap()
        .naming(names());
    let received = events.len() as u64;
    writer.append(events, end().now_ns).unwrap();
    let accounting = Accounting {
        seen: received + 1,
        filtered: 1,
        submitted: received,
        received,
        ..Accounting::default()
    };
    writer.finish(Some(&accounting), None).unwrap();
    accounting
}

/// The size of a real terminal is found, and its lines are as wide.
#[test]
fn a_terminal_is_asked_for_its_width() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("recording");
    record(&path);
    for (columns, golden) in [(40, "trace-40.txt"), (80, "trace-80.txt")] {
        compare(golden, &shown_on_a_terminal(columns, &path));
    }
}

/// The output of `tcpstate trace -r` on a terminal of this width.
fn shown_on_a_terminal(columns: u16, path: &Path) -> String {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let size = Winsize {
        ws_row: 24,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&master, size).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = File::options()
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(name.to_str().unwrap())
        .unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
        .args(["trace", "-r"])
        .arg(path)
        .env("NO_COLOR", "1")
        .stdout(slave)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Its end is an error: nobody has the other side open any more.
    let mut out = Vec::new();
    let _ = File::from(master).read_to_end(&mut out);
    assert!(child.wait().unwrap().success());
    String::from_utf8(out).unwrap().replace("\r\n", "\n")
}

#[test]
fn the_network_namespace_is_shown_where_a_recording_has_several() {
    let directory = tempfile::tempdir().unwrap();
    let one: Vec<Event> = events()
        .iter()
        .map(|event| {
            let record = Record {
                netns: 4_026_531_840,
                ..*event.record()
            };
            Event::try_from(record).unwrap()
        })
        .collect();
    let mut two = one.clone();
    let last = two.last_mut().unwrap();
    *last = Event::try_from(Record {
        netns: 4_026_532_177,
        ..*last.record()
    })
    .unwrap();
    for (events, is_shown) in [(one, false), (two, true)] {
        let path = directory.path().join("recording");
        write(&path, &events);
        let out = shown_on_a_terminal(250, &path);
        assert_eq!(out.contains("NETNS"), is_shown, "{out}");
        assert_eq!(out.contains("4026531840"), is_shown, "{out}");
    }
}

/// `-r` shows a recording as it was shown live, and takes the books from it.
#[test]
fn trace_of_a_recording() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("recording");
    let accounting = record(&path);
    let output = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
        .args(["trace", "--json", "-r"])
        .arg(&path)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert!(output.status.success());
    let out = String::from_utf8(output.stdout).unwrap();
    let without_last = |text: &str| {
        let (lines, last) = text.trim_end().rsplit_once('\n').unwrap();
        (lines.to_owned(), last.to_owned())
    };
    let (lines, summary) = without_last(&out);
    assert_eq!(lines, without_last(&run(&options(Format::Json)).0).0);
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(
        summary["accounting"],
        serde_json::to_value(accounting).unwrap()
    );
    assert_eq!(summary["selection"]["passed"], accounting.received);
}

/// Scripts learn from the exit status whether anything is missing.
#[test]
fn the_exit_status_says_when_a_recording_is_cut() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("recording");
    let options = tcpstate_recording::Options::default();
    let mut writer = Writer::create(&path, &origin(), options).unwrap();
    let first = &events()[..1];
    writer.append(first, end().now_ns).unwrap();
    let accounting = Accounting {
        seen: 1,
        submitted: 1,
        received: 1,
        ..Accounting::default()
    };
    writer.finish(Some(&accounting), None).unwrap();
    let read = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
            .args(arguments)
            .args(["--state", "listen", "-r"])
            .arg(&path)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (code, _, err) = read(&["trace"]);
    let summary = "0 connections, 1 line shown; 1 change, none known to be lost\n";
    assert_eq!((code, err.as_str()), (Some(0), summary));

    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    let (code, out, err) = read(&["trace"]);
    assert_eq!((code, out.lines().count()), (Some(3), 2), "{out}{err}");
    assert!(err.contains("losses unknown"), "{err}");
    let (code, out, _) = read(&["trace", "--json"]);
    let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!((code, &last["complete"]), (Some(3), &false.into()));
}

#[test]
fn a_file_that_is_no_recording_is_named_in_the_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
        .args(["trace", "-r", "/dev/null"])
        .output()
        .unwrap();
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(1), &b""[..])
    );
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.starts_with("tcpstate: /dev/null "), "{message}");
}

/// CSV and JSON have the same values under the same names.
#[test]
fn csv_has_the_fields_of_json() {
    let json = run(&options(Format::Json)).0;
    let csv = run(&options(Format::Csv)).0;
    let mut rows = csv::Reader::from_reader(csv.as_bytes());
    let titles = rows.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = rows.records().map(Result::unwrap).collect();
    let lines: Vec<serde_json::Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len() + 1, lines.len(), "JSON has a summary too");
    for (row, line) in rows.iter().zip(&lines) {
        let mut fields = 0;
        for (title, value) in titles.iter().zip(row) {
            let expected = match title.strip_prefix("owner_") {
                Some(inner) => &line["owner"][inner],
                None => &line[title],
            };
            match expected {
                serde_json::Value::Null => assert_eq!(value, "", "{title}"),
                // Has an escape syntax of its own.
                serde_json::Value::String(_) if title == "owner_comm" => assert_ne!(value, ""),
                serde_json::Value::String(text) => assert_eq!(value, text, "{title}"),
                other => assert_eq!(value, other.to_string(), "{title}"),
            }
            fields += 1;
        }
        let object = line.as_object().unwrap();
        // CSV has no `type`, and has `owner` in three columns and `packet` in seven.
        assert_eq!(fields, object.len() - 1 + 2 + 6);
    }
}

/// The picture of packets and states, from real captures.
#[cfg(feature = "pcap")]
#[test]
fn packets() {
    let shown = |name: &str, order: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("packets/tests/captures")
            .join(name);
        let output = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
            .args(["trace", order, "-r"])
            .arg(path)
            .env("TZ", "UTC")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for (name, capture) in [
        ("close", "02-clean-server-close.pcap"),
        ("simultaneous-close", "03-simultaneous-close.pcap"),
        ("half-close", "05-half-close-dns.pcap"),
        ("refused", "08-refused-then-open-null-v6.pcap"),
        ("fast-open", "15-tfo-3-conns.pcap"),
        ("reset-injected", "22-rst-injection.pcap"),
        ("retransmits", "23-retransmit-fast-snap.pcap"),
        ("middle", "31-midstream-missing-syn.pcap"),
        (
            "simultaneous-open",
            "92-real-linux-simultaneous-open-close.pcap",
        ),
    ] {
        let text = shown(capture, "--packets");
        compare(&format!("packets/{name}.txt"), &text);
    }
    let text = shown("08-refused-then-open-null-v6.pcap", "--packets=interleaved");
    compare("packets/interleaved.txt", &text);
}
