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

#[test]
fn a_capture_becomes_a_recording_that_says_so() {
    let path = capture("03-simultaneous-close.pcap");
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("web.rec");
    run(tcpstate(&["record", "-r"])
        .arg(&path)
        .arg("-w")
        .arg(&recording));
    let (out, _) = run(tcpstate(&["trace", "--json", "-r"]).arg(&recording));
    let lines = lines(&out);
    assert_eq!(way(&lines, 53_595), CLOSING);
    let summary = lines.last().unwrap();
    assert_eq!(summary["evidence"], "packets");
    assert!(summary.get("packets").is_none());
}

#[test]
fn every_view_takes_a_capture() {
    let path = capture("16-tfo-sll.pcap");
    let (out, _) = run(tcpstate(&["life", "--json", "--role", "server", "-r"]).arg(&path));
    let lives = lines(&out);
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
