//! Close causes. The cause that `tcpstate` reports for each end is compared with the `errno` that the
//! application got and, without an error, with the segments that tcpdump saw.

pub mod situations;

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use rustix::io::Errno;
use serde_json::Value;

use self::situations::{
    End, client, client_closes, client_closes_with_linger_0, connect_timed_out, data_after_close,
    data_after_the_clients_close, data_that_acknowledges_the_fin, disconnected,
    established_then_unreachable, given_up, given_up_by_disconnecting, given_up_by_shutdown,
    given_up_with_linger_0, host_unreachable, last_fin_lost, moved_elsewhere, negative_linger2,
    network_unreachable, never_accepted, no_port_left, no_route_by_ipv6, only_a_listener,
    peer_vanished, peer_vanished_while_idle, port_in_use, port_unreachable, prohibited,
    prohibited_by_ipv6, refused, refused_while_not_waiting, reset_after_close, server,
    server_closes, server_closes_with_linger_0, unreachable_while_not_waiting, unread_data,
    write_to_a_closed_peer,
};
use crate::{
    need::{ATTACH_MODES, Need, attach_needs, missing_name, trial},
    net::{Netns, unused_port},
    packets::{Packets, Tcpdump},
    process::{BINARY, Output, Tcpstate, nested, run},
    traffic::SCENARIOS,
};

pub fn add(trials: &mut Vec<Trial>) {
    // The cause comes from fields of the socket, which either mode locates by BTF.
    for mode in ATTACH_MODES {
        for &(name, ends) in CASES {
            let programs = [Need::Program("nft"), Need::Program("tcpdump")];
            let needs = [attach_needs(mode), &[Need::Btf], &programs].concat();
            trials.push(trial(
                format!("{mode}::causes::{name}"),
                &needs,
                move || causes(mode, ends).with_context(|| name),
            ));
        }
        let programs = [Need::Program("nft")];
        let needs = [attach_needs(mode), &[Need::ResetReason], &programs].concat();
        for &(name, make, reason) in REASONS {
            trials.push(trial(
                format!("{mode}::reset_reason::{name}"),
                &needs,
                move || reset_reason(mode, make, reason),
            ));
        }
        let needs = [attach_needs(mode), &[Need::Btf, Need::Tun]].concat();
        trials.push(trial(
            format!("{mode}::causes::simultaneous_close"),
            &needs,
            move || simultaneous_close(mode),
        ));
    }
}

/// Makes connections to this port end in one way, and returns the expected result of each end.
type Ends = fn(u16) -> Result<Vec<End>>;

const CASES: &[(&str, Ends)] = &[
    ("client_closes", client_closes),
    ("server_closes", server_closes),
    ("client_closes_with_linger_0", client_closes_with_linger_0),
    ("server_closes_with_linger_0", server_closes_with_linger_0),
    ("unread_data", unread_data),
    ("disconnected", disconnected),
    ("data_after_close", data_after_close),
    ("data_after_the_clients_close", data_after_the_clients_close),
    (
        "data_that_acknowledges_the_fin",
        data_that_acknowledges_the_fin,
    ),
    ("reset_after_close", reset_after_close),
    ("negative_linger2", negative_linger2),
    ("moved_elsewhere", moved_elsewhere),
    ("write_to_a_closed_peer", write_to_a_closed_peer),
    ("never_accepted", never_accepted),
    ("refused", refused),
    ("given_up", given_up),
    ("given_up_with_linger_0", given_up_with_linger_0),
    ("given_up_by_shutdown", given_up_by_shutdown),
    ("given_up_by_disconnecting", given_up_by_disconnecting),
    ("no_port_left", no_port_left),
    ("port_in_use", port_in_use),
    ("connect_timed_out", connect_timed_out),
    ("peer_vanished", peer_vanished),
    ("peer_vanished_while_idle", peer_vanished_while_idle),
    ("last_fin_lost", last_fin_lost),
    ("host_unreachable", host_unreachable),
    ("network_unreachable", network_unreachable),
    ("prohibited", prohibited),
    (
        "unreachable_while_not_waiting",
        unreachable_while_not_waiting,
    ),
    ("refused_while_not_waiting", refused_while_not_waiting),
    ("port_unreachable", port_unreachable),
    ("no_route_by_ipv6", no_route_by_ipv6),
    ("prohibited_by_ipv6", prohibited_by_ipv6),
    ("established_then_unreachable", established_then_unreachable),
    ("only_a_listener", only_a_listener),
];

fn causes(mode: &str, make: Ends) -> Result<()> {
    let port = unused_port();
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("recording");
    let netns = Netns::new()?;
    let inode = netns.inode()?.to_string();
    let here = ["-P", &port.to_string(), "--netns", &inode];
    let tcpstate = record(mode, &here, &file)?;
    // Counting in the kernel takes a BTF tracepoint.
    let counting = (mode == "btf").then(|| count(&here)).transpose()?;
    let tcpdump = netns.run(|| Tcpdump::start(port))?;
    let ends = netns.run_until_quiet(|| make(port))?;
    let packets = netns.run(|| tcpdump.stop())?;
    let aborted = netns.run(aborts)?;
    let (_, summary) = tcpstate.stop()?.json()?;
    for end in &ends {
        let oracle = by_oracle(end, &packets, aborted)?;
        ensure!(
            oracle == end.cause,
            "{end:?}: by the oracle {oracle}: {packets:?}"
        );
    }
    if let Some(counting) = counting {
        let (lines, summary) = counting.stop()?.json()?;
        let [line] = &lines[..] else {
            bail!("expected one interval: {lines:?}")
        };
        let expected = serde_json::to_value(counts(&ends))?;
        ensure!(
            line["causes"] == expected || nested(&summary)? > 0,
            "counted in the kernel, expected {expected}: {line}"
        );
    }
    let check = check(&ends, &file, Some(&packets));
    check.with_context(|| format!("{}", summary["accounting"]))
}

/// The reason that the kernel's source gives for the RST of one end.
///
/// *Source:* `net/ipv4/tcp.c`, `tcp_input.c` and `tcp_timer.c`.
const REASONS: &[(&str, Ends, &str)] = &[
    ("linger_0", client_closes_with_linger_0, "tcp_state"),
    ("unread_data", unread_data, "tcp_abort_on_close"),
    ("data_after_close", data_after_close, "tcp_abort_on_data"),
    (
        "data_that_acknowledges_the_fin",
        data_that_acknowledges_the_fin,
        "tcp_abort_on_data",
    ),
    ("negative_linger2", negative_linger2, "tcp_abort_on_linger"),
    (
        "keepalive",
        peer_vanished_while_idle,
        "tcp_keepalive_timeout",
    ),
];

/// The one end that this kernel reset has the reason, the others have none.
fn reset_reason(mode: &str, make: Ends, reason: &str) -> Result<()> {
    let port = unused_port();
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("recording");
    let netns = Netns::new()?;
    let inode = netns.inode()?.to_string();
    let here = ["-P", &port.to_string(), "--netns", &inode];
    let tcpstate = record(mode, &here, &file)?;
    netns.run_until_quiet(|| make(port))?;
    tcpstate.stop()?.json()?;
    // The first kernels with reasons had no name for some.
    let name = format!("SK_RST_REASON_{}", reason.to_uppercase());
    let expected = match missing_name(name.as_bytes(), "") {
        None => reason,
        Some(_) => "not_specified",
    };
    let file = file.to_str().context("no text")?;
    for view in ["life", "trace"] {
        let (lines, _) = run(BINARY, &[view, "--json", "-r", file])?.json()?;
        let reasons: Vec<_> = lines
            .iter()
            .filter_map(|line| line["reset_reason"].as_str())
            .collect();
        ensure!(reasons == [expected], "expected {expected}: {lines:#?}");
        let text = run(BINARY, &[view, "--reset-reason", "-r", file])?.stdout;
        ensure!(text.contains(expected), "{text}");
    }
    Ok(())
}

/// Starts to count these sockets in the kernel.
fn count(sockets: &[&str]) -> Result<Tcpstate> {
    Tcpstate::start(&[&["rates", "1h", "--json", "--in-kernel"], sockets].concat())
}

/// The number of connections that the kernel reset after their close, by the counters of this namespace.
fn aborts() -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/netstat")?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next(), lines.next());
    let names = names.context("no names")?.split_whitespace();
    let values = values.context("no values")?.split_whitespace();
    names
        .zip(values)
        .filter(|(name, _)| ["TCPAbortOnData", "TCPAbortOnLinger"].contains(name))
        .map(|(_, value)| Ok(value.parse::<u64>()?))
        .sum()
}

/// Starts to record these sockets.
fn record(mode: &str, sockets: &[&str], file: &Path) -> Result<Tcpstate> {
    let file = file.to_str().context("no text")?;
    let fixed = ["record", "--json", "-w", file, "--attach", mode];
    Tcpstate::start(&[&fixed, sockets].concat())
}

/// The cause of this end, found without `tcpstate`.
fn by_oracle(end: &End, packets: &Packets, aborted: u64) -> Result<&'static str> {
    match end.errno {
        Some(Errno::CONNRESET | Errno::PIPE) => return Ok("reset_by_peer"),
        Some(Errno::CONNREFUSED) => return Ok("refused"),
        Some(Errno::TIMEDOUT) => return Ok("timed_out"),
        Some(Errno::HOSTUNREACH | Errno::NETUNREACH) => return Ok("unreachable"),
        Some(Errno::ACCESS) => return Ok("EACCES"),
        Some(Errno::ADDRNOTAVAIL) => return Ok("no_port"),
        Some(other) => bail!("unexpected {other}"),
        None => {}
    }
    // Without an error, the first segment by which it ended the connection decides, and the answer.
    let is_server = end.role == "server";
    let segments = &packets.segments;
    let sent = |flag| {
        segments
            .iter()
            .position(|segment| segment.from_server == is_server && segment.flags.contains(flag))
    };
    let (fin, rst) = (sent('F'), sent('R'));
    // A reset after a FIN answers the segment just before it, which came too late for the socket.
    let heard = match (fin, rst) {
        (Some(fin), Some(rst)) if fin < rst => &segments[..rst - 1],
        _ => segments,
    };
    let came_after = |at: usize, flag: &str| {
        heard[at..]
            .iter()
            .any(|segment| segment.from_server != is_server && segment.flags.contains(flag))
    };
    Ok(match (fin, rst) {
        (Some(fin), Some(rst)) if fin < rst && aborted > 0 => "reset_locally",
        (None, Some(_)) => "reset_locally",
        (Some(fin), Some(rst)) if rst < fin => "reset_locally",
        (Some(fin), _) if came_after(fin, "R") => "reset_by_peer",
        (Some(fin), _) if came_after(fin, ".") => "fin",
        (Some(_), _) => "timed_out",
        (None, None) if came_after(0, "R") => "reset_by_peer",
        (None, None) if !came_after(0, "") => "abandoned",
        (None, None) => "unknown",
    })
}

/// The number of ends by cause.
fn counts(ends: &[End]) -> BTreeMap<&str, u64> {
    let mut counts = BTreeMap::new();
    for end in ends {
        *counts.entry(end.cause).or_default() += 1;
    }
    counts
}

/// Checks that whoever is said to have reset has a RST of theirs on the wire.
fn check_resets(life: &[Value], packets: &Packets) -> Result<()> {
    for line in life {
        let is_server = line["role"] == "server";
        let by_server = match line["cause"].as_str() {
            Some("reset_locally") => is_server,
            Some("reset_by_peer" | "refused") if packets.unreachable == 0 => !is_server,
            _ => continue,
        };
        let client_port = if is_server { "rport" } else { "lport" };
        ensure!(
            packets.segments.iter().any(|segment| {
                segment.from_server == by_server
                    && line[client_port] == segment.client_port
                    && segment.flags.contains('R')
            }),
            "no RST on the wire: {line}: {packets:?}"
        );
    }
    Ok(())
}

/// Checks that all views report the causes of these ends.
fn check(ends: &[End], file: &Path, packets: Option<&Packets>) -> Result<()> {
    let read = |view: &[&str]| -> Result<Vec<Value>> {
        let file = file.to_str().context("no text")?;
        let output: Output = run(BINARY, &[view, &["--json", "-r", file]].concat())?;
        Ok(output.json()?.0)
    };
    let shown = |end: &End| {
        (
            end.role,
            if end.cause == "unknown" {
                "-"
            } else {
                end.cause
            },
        )
    };
    let mut expected: Vec<(&str, &str)> = ends.iter().map(shown).collect();
    expected.sort_unstable();

    let life = read(&["life"])?;
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or("-").to_owned();
    let pairs = |lines: &[Value]| {
        let mut pairs: Vec<_> = lines
            .iter()
            .map(|line| (text(line, "role"), text(line, "cause")))
            .collect();
        pairs.sort_unstable();
        pairs
    };
    let same = |found: &[(String, String)]| {
        found.len() == expected.len()
            && found
                .iter()
                .zip(&expected)
                .all(|(found, expected)| (found.0.as_str(), found.1.as_str()) == *expected)
    };
    ensure!(same(&pairs(&life)), "expected {expected:?}: {life:#?}");
    if let Some(packets) = packets {
        check_resets(&life, packets)?;
    }

    let mut trace = read(&["trace"])?;
    trace.retain(|line| line["newstate"] == "CLOSE");
    let (listeners, closes): (Vec<Value>, Vec<Value>) = trace
        .into_iter()
        .partition(|line| line["oldstate"] == "LISTEN");
    ensure!(same(&pairs(&closes)), "expected {expected:?}: {closes:#?}");
    ensure!(
        listeners.iter().all(|line| line["cause"].is_null()),
        "a listener has a cause: {listeners:?}"
    );

    let rates = read(&["rates", "1h"])?;
    let [rates] = &rates[..] else {
        bail!("expected one interval: {rates:?}")
    };
    let counts = counts(ends);
    ensure!(
        rates["causes"] == serde_json::to_value(&counts)?,
        "expected {counts:?}: {rates}"
    );
    let failed = life.iter().filter(|line| {
        let states = line["states"].as_array();
        states.is_some_and(|states| states.len() == 1)
    });
    ensure!(rates["failed"] == failed.count(), "{rates}");
    ensure!(rates["closed"] == ends.len(), "{rates}");

    // The filter on causes selects each of them.
    for (cause, count) in counts {
        let chosen = read(&["life", "--cause", cause])?;
        ensure!(chosen.len() as u64 == count, "{cause}: {chosen:?}");
        let lifetimes = read(&["hist", "--of", "lifetime", "--cause", cause])?;
        let sum: Option<u64> = lifetimes.iter().map(|line| line["count"].as_u64()).sum();
        ensure!(sum == Some(count), "{cause}: {lifetimes:?}");
    }
    Ok(())
}

/// The FINs cross, so both ends go through CLOSING.
fn simultaneous_close(mode: &str) -> Result<()> {
    let port = unused_port();
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("recording");
    let tcpstate = record(mode, &["-P", &port.to_string()], &file)?;
    let scenario = SCENARIOS
        .iter()
        .find(|scenario| scenario.name == "simultaneous_close");
    (scenario.context("no such scenario")?.run)(port)?;
    tcpstate.stop()?.json()?;
    check(&[client(None, "fin"), server(None, "fin")], &file, None)
}
