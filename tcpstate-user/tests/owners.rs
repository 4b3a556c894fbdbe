//! The filters on owners, on a recording: every view gets exactly the events of the selected connections,
//! and the books count the others.

#[path = "support/golden.rs"]
#[expect(dead_code, reason = "these tests compare no files")]
mod support;

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use tcpstate_common::record::flags;
use tcpstate_core::{books::Accounting, event::Event};
use tcpstate_recording::{self, Writer};

use self::support::{end, events, names, origin};

fn write(path: &Path) {
    let mut writer = Writer::create(path, &origin(), tcpstate_recording::Options::default())
        .unwrap()
        .naming(names());
    let events = events();
    writer.append(&events, end().now_ns).unwrap();
    let received = events.len() as u64;
    let books = Accounting {
        seen: received,
        submitted: received,
        received,
        ..Accounting::default()
    };
    writer.finish(Some(&books), None).unwrap();
}

fn tcpstate(file: &Path, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tcpstate"))
        .args(arguments.split(' '))
        .arg("-r")
        .arg(file)
        .output()
        .unwrap()
}

/// The lines of a run, and its summary.
fn lines(file: &Path, arguments: &str) -> (Vec<Value>, Value) {
    let output = tcpstate(file, arguments);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let summary = lines.pop().unwrap();
    (lines, summary)
}

/// False for the events in which the client's cookie appears again, whose owner is unknown.
fn is_known(event: &Event) -> bool {
    event.oldstate().0 <= 12
}

fn is_nginx(event: &Event) -> bool {
    event.lport() == 80
}

fn is_curl(event: &Event) -> bool {
    event.rport() == 443 && is_known(event)
}

/// The events of the clients whose role is known.
fn is_client(event: &Event) -> bool {
    is_curl(event) || event.rport() == 9
}

fn has_socket(event: &Event) -> bool {
    event.has(flags::SOCKET)
}

type Keeps = fn(&Event) -> bool;

const CASES: &[(&str, Keeps)] = &[
    ("--comm nginx", is_nginx),
    ("--comm nginx,curl", |event| {
        is_nginx(event) || is_curl(event)
    }),
    ("--comm ngin", |_| false),
    ("--pid 1234", is_curl),
    ("--pid 800", is_nginx),
    // A process that acts on a connection without owning it.
    ("--pid 812", |_| false),
    ("--pid 1234,4000", |event| {
        is_client(event) && event.lport() != 40_003
    }),
    ("--uid 33", has_socket),
    ("--uid 0,1000", |_| false),
    ("--cgroup /", has_socket),
    ("--cgroup /system.slice", has_socket),
    (
        "--cgroup /sys/fs/cgroup/system.slice/nginx.service/",
        has_socket,
    ),
    ("--cgroup /system.slice/nginx", |_| false),
    ("--role client", is_client),
    ("--role server", is_nginx),
    ("--role client --comm nginx", |_| false),
    (
        "--role client --uid 33 --comm curl --cgroup /system.slice",
        is_curl,
    ),
    ("--comm nginx -P 80", is_nginx),
];

#[test]
fn each_filter_keeps_exactly_the_events_of_its_connections() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.rec");
    write(&file);
    for (filter, keeps) in CASES {
        let expected: Vec<u64> = events()
            .iter()
            .filter(|event| keeps(event))
            .map(Event::ts_ns)
            .collect();
        let (lines, summary) = lines(&file, &format!("trace --json {filter}"));
        let found: Vec<u64> = lines
            .iter()
            .map(|line| line["ts_ns"].as_u64().unwrap())
            .collect();
        assert_eq!(found, expected, "{filter}");
        let selection = &summary["selection"];
        assert_eq!(selection["passed"], expected.len() as u64, "{filter}");
        // An unknown owner is neither the one asked for nor another.
        let left_out = ["filtered", "undecided"].map(|name| selection[name].as_u64().unwrap());
        assert_eq!(
            left_out.iter().sum::<u64>(),
            (events().len() - expected.len()) as u64,
            "{filter}"
        );
    }
}

#[test]
fn a_connection_is_shown_whole() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.rec");
    write(&file);
    let cookies = |filter: &str| {
        let (lines, _) = lines(&file, &format!("life --json --live {filter}"));
        let cookies = lines.iter().map(|line| line["cookie"].as_u64());
        cookies.collect::<Vec<_>>()
    };
    let clients = [Some(4_101), Some(4_103), Some(4_106)];
    assert_eq!(cookies("--role client"), clients);
    assert_eq!(cookies("--comm nginx"), [Some(4_102), Some(4_105)]);
    let all = |arguments: &str| lines(&file, arguments).0;
    let nginx = |line: &Value| line["owner"]["comm"] == "nginx";
    let mut expected = all("life --json");
    expected.retain(nginx);
    assert_eq!(all("life --json --comm nginx"), expected);
}

#[test]
fn a_part_of_a_recording_is_a_recording() {
    let directory = tempfile::tempdir().unwrap();
    let [whole, part] = ["whole", "part"].map(|name| directory.path().join(name));
    write(&whole);
    let arguments = format!("record --comm nginx -w {}", part.display());
    assert!(tcpstate(&whole, &arguments).status.success());
    let (expected, _) = lines(&whole, "trace --json --comm nginx");
    let (found, summary) = lines(&part, "trace --json");
    assert_eq!(found, expected);
    assert_eq!(found[0]["cgroup"], "/system.slice/nginx.service");
    let left_out = &summary["accounting"]["filtered_by_reason"]["settled"];
    assert_eq!(*left_out, (events().len() - found.len()) as u64);
}

#[test]
fn a_cgroup_that_is_no_path_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.rec");
    write(&file);
    let output = tcpstate(&file, "trace --cgroup system.slice");
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.starts_with("tcpstate: there is no cgroup `system.slice`; give its path as"),
        "{message}"
    );
}

/// With neither is a program attached, or a recording read.
#[test]
fn a_filter_is_explained_or_refused_before_anything_is_watched() {
    let run = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
            .args(words)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    for (words, in_kernel, in_user_space) in [
        (
            "life --explain-filter -L 80 --pid 5 dst 10.0.0.0/8 or cause fin",
            "sport 80",
            "pid = 5 and ( dst 10.0.0.0/8 or cause fin )",
        ),
        (
            "trace --explain-filter -4 src 10.0.0.0/8 or dst 10.0.0.0/8",
            "family ipv4 and host 10.0.0.0/8",
            "nothing",
        ),
        // The listeners tell the owners of the connections.
        (
            "hist --explain-filter --comm nginx not dst [fd00::]/8",
            "not dst [fd00::]/8, but for listeners, which tell the owners",
            "comm \"nginx\"",
        ),
        (
            "rates --in-kernel --explain-filter sport 80 role server",
            "sport 80",
            "role server",
        ),
    ] {
        let (status, stdout, stderr) = run(&words.split(' ').collect::<Vec<_>>());
        assert_eq!((status, &*stderr), (Some(0), ""));
        let expected = format!("in the kernel: {in_kernel}\nin user space: {in_user_space}\n");
        assert_eq!(stdout, expected, "{words}");
    }
    let (_, stdout, _) = run(&["rates", "--explain-filter", "-r", "-"]);
    assert_eq!(
        stdout,
        "in the kernel: nothing, it is a recording\nin user space: nothing\n"
    );
    let (_, stdout, _) = run(&["ls", "--explain-filter"]);
    assert_eq!(stdout, "in the kernel: nothing\nin user space: nothing\n");
    let words =
        "ls --explain-filter -6 --state established pid 5 not ( dst [fd00::/8]:80 or comm a )";
    let (status, stdout, stderr) = run(&words.split(' ').collect::<Vec<_>>());
    assert_eq!((status, &*stderr), (Some(0), ""));
    assert_eq!(
        stdout,
        "in the kernel: state ESTABLISHED and family ipv6 and ( dport <= 79 or dport >= 81 or not dst [fd00::]/8 ), \
         and all listeners\n\
         in user space: state ESTABLISHED and family ipv6 and pid = 5 and not ( dst [fd00::]/8:80 or comm \"a\" )\n"
    );
    for (words, message) in [
        (
            "record -w /nowhere/a not cause fin",
            "this command does not know `cause`; known to `tcpstate trace`, `tcpstate life`\n    not cause fin\n        ^^^^^",
        ),
        ("rates 5 2 sprot 1", "did you mean `sport`?"),
        ("hist oldstate close", "known to `tcpstate trace`"),
        (
            "life dwell > 1s",
            "known to `tcpstate ls`, `tcpstate trace`",
        ),
        ("trace -r - sport", "a value is missing here"),
        (
            "rates --in-kernel 5 dst 10.0.0.0/8 role client",
            "--in-kernel cannot be used with `role client`: the kernel cannot decide it, and no events are streamed",
        ),
    ] {
        let (status, stdout, stderr) = run(&words.split(' ').collect::<Vec<_>>());
        assert_eq!((status, &*stdout), (Some(2), ""), "{words}");
        assert!(stderr.contains(message), "{words}: {stderr}");
    }
}
