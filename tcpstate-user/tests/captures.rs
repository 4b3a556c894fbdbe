//! The program with a packet capture in place of the kernel. The captures are those of `tcpstate-packets`.
#![cfg(feature = "pcap")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

fn capture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packets/tests/captures")
        .join(name)
}

fn tcpstate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcpstate"));
    command.args(arguments).env("TZ", "UTC");
    command
}

/// Standard output and standard error of a run that succeeds.
fn run(command: &mut Command) -> (String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let (out, err) = (
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    );
    assert!(status.success(), "{status}\n{out}\n{err}");
    (out, err)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The old and new states of an end's transitions.
fn way(lines: &[Value], lport: u16) -> Vec<String> {
    let of_end = lines.iter().filter(|line| line["lport"] == lport);
    of_end
        .map(|line| format!("{} {}", line["oldstate"], line["newstate"]).replace('"', ""))
        .collect()
}

const CLOSING: [&str; 5] = [
    "CLOSE SYN_SENT",
    "SYN_SENT ESTABLISHED",
    "ESTABLISHED FIN_WAIT1",
    "FIN_WAIT1 CLOSING",
    "CLOSING CLOSE",
];

#[test]
fn trace_shows_both_ends_and_invents_nothing() {
    let path = capture("03-simultaneous-close.pcap");
    let (out, _) = run(tcpstate(&["trace", "--json", "-r"]).arg(&path));
    let lines = lines(&out);
    assert_eq!(way(&lines, 53_595), CLOSING);
    let last = &lines[lines.len() - 2];
    for field in ["netns", "uid", "cgroup"] {
        assert!(last[field].is_null(), "{field}: {last}");
    }
    assert_eq!(
        (&last["role"], &last["cause"]),
        (&"client".into(), &"fin".into())
    );
    let packet = &last["packet"];
    assert_eq!(packet["number"], 13, "{packet}");
    assert_eq!(
        (&packet["direction"], &packet["flags"], &packet["inferred"]),
        (&"received".into(), &"ACK".into(), &false.into())
    );
    let summary = lines.last().unwrap();
    assert_eq!(summary["evidence"], "packets");
    assert_eq!(summary["complete"], true);
    assert_eq!(summary["packets"]["seen"], 14);
    assert_eq!(summary["packets"]["tcp"], 14);
}

#[test]
fn a_capture_is_read_from_standard_input_and_compressed() {
    let path = capture("03-simultaneous-close.pcap");
    let expected = run(tcpstate(&["trace", "-r"]).arg(&path));
    let folder = tempfile::tempdir().unwrap();
    // No name tells what it is.
    let compressed = folder.path().join("capture");
    let bytes = zstd::bulk::compress(&fs::read(&path).unwrap(), 1).unwrap();
    fs::write(&compressed, bytes).unwrap();
    let found = run(tcpstate(&["trace", "-r"]).arg(&compressed));
    assert_eq!(found, expected);
    for file in [&path, &compressed] {
        let stdin = Stdio::from(File::open(file).unwrap());
        let found = run(tcpstate(&["trace", "-r", "-"]).stdin(stdin));
        assert_eq!(found, expected);
    }
    let (_, err) = expected;
    assert!(
        err.ends_with("rebuilt from packets: 14 = TCP 14 + not TCP 0 + unreadable 0\n"),
        "{err}"
    );
}

/// The recording of a capture, in this folder.
fn recorded(capture: &Path, folder: &Path) -> PathBuf {
    let recording = folder.join("web.rec");
    run(tcpstate(&["record", "-r"])
        .arg(capture)
        .arg("-w")
        .arg(&recording));
    recording
}

#[test]
fn a_capture_becomes_a_recording_that_says_so() {
    let path = capture("03-simultaneous-close.pcap");
    let folder = tempfile::tempdir().unwrap();
    let recording = recorded(&path, folder.path());
    let (of_capture, _) = run(tcpstate(&["trace", "--json", "-r"]).arg(&path));
    let (out, _) = run(tcpstate(&["trace", "--json", "-r"]).arg(&recording));
    let of_capture = self::lines(&of_capture);
    let lines = lines(&out);
    assert_eq!(way(&lines, 53_595), CLOSING);
    // With the packets of the events.
    assert!(lines[0]["packet"]["number"].is_u64());
    assert_eq!(lines[..10], of_capture[..10]);
    let summary = lines.last().unwrap();
    assert_eq!(summary["evidence"], "packets");
    assert!(summary.get("packets").is_none());
}

#[test]
fn every_view_takes_a_capture() {
    let path = capture("16-tfo-sll.pcap");
    let ends = |end: &str| {
        let arguments = ["life", "--json", "--end", end, "-r"];
        lines(&run(tcpstate(&arguments).arg(&path)).0)
    };
    assert_eq!(ends("both").len(), 2 * 2 + 1);
    let lives = ends("server");
    assert_eq!(lives.len(), 2 + 1);
    for life in &lives[..2] {
        assert_eq!(
            (&life["role"], &life["lport"]),
            (&"server".into(), &12_345.into())
        );
        assert_eq!(life["cause"], "fin");
    }
    for view in ["hist", "rates"] {
        let (out, _) = run(tcpstate(&[view, "--json", "-r"]).arg(&path));
        let all = lines(&out);
        assert!(all.len() > 1, "{view}");
        assert_eq!(all.last().unwrap()["evidence"], "packets", "{view}");
    }
}

#[test]
fn packets_come_with_the_states_of_both_ends() {
    let path = capture("03-simultaneous-close.pcap");
    let (out, _) = run(tcpstate(&["trace", "--packets", "--json", "-r"]).arg(&path));
    let lines = lines(&out);
    assert_eq!(lines.len(), 14 + 1);
    let states = |line: &Value| {
        (
            line["client"]["state"].clone(),
            line["server"]["state"].clone(),
        )
    };
    assert_eq!(states(&lines[0]), ("SYN_SENT".into(), Value::Null));
    assert_eq!(states(&lines[13]), ("TIME_WAIT".into(), "TIME_WAIT".into()));
    for (at, line) in lines[..14].iter().enumerate() {
        assert_eq!(
            (&line["type"], &line["number"]),
            (&"packet".into(), &(at + 1).into())
        );
    }
    let summary = &lines[14];
    assert_eq!(
        (&summary["type"], &summary["shown"]),
        (&"summary".into(), &14.into())
    );
    assert_eq!(summary["complete"], true);
}

#[test]
fn packets_of_a_pipe_are_interleaved_and_those_of_a_file_are_not() {
    let path = capture("08-refused-then-open-null-v6.pcap");
    let (of_file, _) = run(tcpstate(&["trace", "--packets", "-r"]).arg(&path));
    let stdin = Stdio::from(File::open(&path).unwrap());
    let (of_pipe, _) = run(tcpstate(&["trace", "--packets", "-r", "-"]).stdin(stdin));
    let (interleaved, _) = run(tcpstate(&["trace", "--packets=interleaved", "-r"]).arg(&path));
    assert_ne!(of_file, of_pipe);
    assert_eq!(of_pipe, interleaved);
    let mut numbers = interleaved.lines().filter_map(|line| {
        let word = line.split_whitespace().next()?;
        word.parse::<u64>().ok()
    });
    assert!((1..=28).all(|number| numbers.next() == Some(number)));
}

#[test]
fn packets_are_chosen_by_filters_and_times() {
    let path = capture("08-refused-then-open-null-v6.pcap");
    let shown = |words: &[&str]| {
        let arguments = ["trace", "--packets", "--json", "-r", path.to_str().unwrap()];
        let (out, _) = run(&mut tcpstate(&[&arguments, words].concat()));
        let mut lines = lines(&out);
        lines.pop();
        lines
    };
    assert_eq!(shown(&[]).len(), 28);
    // By its ends, whatever its events.
    let of_port = shown(&["port", "=", ":62283"]);
    assert!(of_port.len() > 5);
    assert!(of_port.iter().all(|line| line["client"]["port"] == 62_283));
    // By what only its events tell, from the one on that does.
    let refused = shown(&["cause", "refused"]);
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(
        refused
            .iter()
            .all(|line| line["client"]["cause"] == "refused")
    );
    let last = shown(&["--last", "1ms"]);
    assert!(!last.is_empty() && last.len() < 28);
    // A connection as a whole, in text.
    let (out, _) = run(tcpstate(&["trace", "--packets", "-r"])
        .arg(&path)
        .args(["cause", "refused"]));
    let headings = out.lines().filter(|line| line.starts_with("connection "));
    assert_eq!(headings.count(), 2, "{out}");
    let syns = out.lines().filter(|line| line.contains(" SYN "));
    assert_eq!(syns.count(), 2, "{out}");
}

#[test]
fn packets_read_well_in_a_hundred_columns() {
    let folder = capture("");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_none_or(|extension| extension != "pcap" && extension != "pcapng")
        {
            continue;
        }
        for order in ["--packets=connection", "--packets=interleaved"] {
            let output = tcpstate(&["trace", order, "-r"])
                .arg(&path)
                .output()
                .unwrap();
            let out = String::from_utf8(output.stdout).unwrap();
            for line in out.lines().filter(|line| !line.starts_with("connection ")) {
                assert!(line.len() <= 100, "{}: {line}", path.display());
            }
        }
    }
}

#[test]
fn packets_are_asked_of_captures_only() {
    let path = capture("03-simultaneous-close.pcap");
    let folder = tempfile::tempdir().unwrap();
    let recording = recorded(&path, folder.path());
    for option in ["--packets", "--verify-checksums"] {
        let output = tcpstate(&["trace", option, "-r"])
            .arg(&recording)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let err = String::from_utf8(output.stderr).unwrap();
        let expected = format!(
            "web.rec is a recording, which has no packets: {option} takes a packet capture (pcap, pcapng)\n"
        );
        assert!(err.ends_with(&expected), "{err}");
    }
}

#[test]
fn wrong_checksums_are_left_out_where_that_is_asked_for() {
    // It was made on the sending host, whose card makes checksums.
    let path = capture("81-checksum-offload.pcap");
    let (out, _) = run(tcpstate(&["trace", "--json", "-r"]).arg(&path));
    let all = lines(&out).pop().unwrap()["packets"].clone();
    assert_eq!(all["unreadable"], 0);
    let output = tcpstate(&["trace", "--json", "--verify-checksums", "-r"])
        .arg(&path)
        .output()
        .unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let verified = lines(&out).pop().unwrap()["packets"].clone();
    let wrong = verified["unreadable_by_reason"]["tcp_checksum"]
        .as_u64()
        .unwrap();
    assert!(wrong > 0, "{verified}");
    assert_eq!(
        verified["tcp"].as_u64().unwrap() + wrong,
        all["tcp"].as_u64().unwrap()
    );
}

#[test]
fn a_filter_on_what_packets_do_not_tell_is_refused() {
    let path = capture("03-simultaneous-close.pcap");
    for (words, field) in [
        (&["--pid", "1"][..], "pid"),
        (&["--comm", "curl"], "comm"),
        (&["not", "uid", "0"], "uid"),
        (
            &["port", "=", ":80", "or", "retransmits", ">", "1"],
            "retransmits",
        ),
    ] {
        let output = tcpstate(&["trace", "-r"])
            .arg(&path)
            .args(words)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(
            err.contains(&format!("`{field}` cannot be a filter of ")),
            "{err}"
        );
    }
}

#[test]
fn a_capture_of_milliseconds_has_no_rates_of_seconds() {
    let path = capture("03-simultaneous-close.pcap");
    let (out, _) = run(tcpstate(&["rates", "--json", "-r"]).arg(&path));
    let interval = &lines(&out)[0];
    assert_eq!(interval["interval_ns"], 1_000_000_000);
    let rate = interval["per_second"]["opened"].as_f64();
    assert_eq!(rate, interval["opened"].as_f64(), "{interval}");
}

#[test]
fn a_part_of_a_capture_is_chosen_by_time() {
    // Its two connections close within a second of each other.
    let path = capture("40-ipv6-refused-and-closed.pcap");
    let (out, _) = run(tcpstate(&["trace", "--json", "-r"]).arg(&path));
    let all = lines(&out).len();
    let (out, _) = run(tcpstate(&["trace", "--json", "--last", "1ms", "-r"]).arg(&path));
    let last = lines(&out).len();
    assert!(1 < last && last < all, "{last} of {all}");
}

#[test]
fn a_cut_capture_is_shown_up_to_there_with_exit_status_3() {
    let path = capture("39-truncated-file.pcap");
    let output = tcpstate(&["trace", "-r"]).arg(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("cut: what begins at byte 5035"), "{err}");
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 5);
}

#[test]
fn what_is_neither_capture_nor_recording_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let output = tcpstate(&["trace", "-r"]).arg(&path).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let message = String::from_utf8(output.stderr).unwrap();
        let of_file = format!("tcpstate: {} ", path.display());
        message.strip_prefix(&of_file).unwrap().to_owned()
    };
    let words = b"root:x:0:0:root:/root:/bin/bash\n";
    assert_eq!(
        refused("words", words),
        "is neither a recording of `tcpstate record` nor a packet capture (pcap, pcapng)\n"
    );
    let compress = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).unwrap();
    assert_eq!(
        refused("compressed", &compress(words)),
        "is compressed, and what is inside is no packet capture (neither pcap nor pcapng)\n"
    );
    assert_eq!(
        refused("nothing", &compress(b"")),
        "is compressed, and what is inside is empty\n"
    );
}

/// It has six connections that are open at the same time.
#[test]
fn max_connections_bounds_those_whose_packets_are_followed() {
    let path = capture("87-time-goes-back.pcap");
    let forgotten = |bound: &str| {
        let mut command = tcpstate(&["life", "--max-connections", bound, "-r"]);
        let output = command.arg(&path).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        let told = text.contains(": 5 connections were forgotten because there were too many");
        (told, output.status.code())
    };
    assert_eq!(forgotten("1"), (true, Some(3)));
    assert_eq!(forgotten("100"), (false, Some(0)));
}
