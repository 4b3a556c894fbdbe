//! Ages of which only a bound is known, beside the test's clock: the test makes the beginning itself, after one
//! reading of the clock, so that no bound may exceed the time since then.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use tcpstate_common::State;

use crate::{
    dwell::moment,
    every_state::{drop_packets, one_of_each},
    ls::list,
    need::{Need, trial},
    net::{Connection, Netns, await_state, await_that, drop_incoming, shutdown_write, unused_port},
    process::{BINARY, Output, Tcpstate, run},
    traffic::start_connecting,
};

pub fn add(trials: &mut Vec<Trial>) {
    let (nft, ip) = (Need::Program("nft"), Need::Program("ip"));
    trials.push(trial(
        "ages::syn_repeated",
        &[Need::Cookie, nft, ip],
        syn_repeated,
    ));
    trials.push(trial(
        "ages::half_open_then_established",
        &[Need::Cookie],
        half_open_then_established,
    ));
    trials.push(trial("ages::ls_bounds", &[nft, ip], ls_bounds));
    trials.push(trial(
        "ages::life_finds_a_leak_from_before",
        &[Need::Cookie],
        life_finds_a_leak_from_before,
    ));
}

/// The largest lag of the kernel's clock for timers: on a virtual machine it stops while its CPU does not run.
pub const SLACK: Duration = Duration::from_millis(500);

/// Checks an age, exact or a bound, of which one is there at most, against the time since before it began.
fn check_age(exact: &Value, at_least: &Value, began: Instant, unit: Duration) -> Result<u64> {
    let of = |value: &Value| value.as_u64();
    let age = match (of(exact), of(at_least)) {
        (Some(_), Some(_)) => anyhow::bail!("an age and a bound: {exact}, {at_least}"),
        (age, bound) => age.or(bound).unwrap_or(0),
    };
    let longest = began.elapsed() + SLACK;
    ensure!(
        unit.as_nanos() * u128::from(age) <= longest.as_nanos(),
        "{age} x {unit:?} is more than {longest:?}"
    );
    Ok(age)
}

/// The client gets no SYN-ACK and repeats its SYN. The kernel answers each at once, and starts the timer of the
/// SYN-ACK again: neither `ls` nor `rates` takes that for the expiries that would make it much older.
fn syn_repeated() -> Result<()> {
    const NS: Duration = Duration::from_nanos(1);
    const MS: Duration = Duration::from_millis(1);
    let port = unused_port();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let netns = Netns::new()?;
    let path = netns.path();
    let path = path.to_str().context("a path that is no text")?;
    let tcpstate = Tcpstate::start(&[
        "rates",
        "1h",
        "--sample-interval",
        "50ms",
        "--json",
        "--netns",
        path,
    ])?;
    let (began, _client, listener) = netns.run(|| {
        drop_incoming(&[&format!(
            "tcp sport {port} tcp flags & (syn|ack) == syn|ack"
        )])?;
        let listener = TcpListener::bind(addr)?;
        let began = Instant::now();
        let client = start_connecting(None, addr)?;
        await_that("the SYN is repeated three times", || {
            let (sockets, _) = list(&["--state", "syn-recv,listen"])?;
            let with = |state: &str| sockets.iter().find(|socket| socket["state"] == state);
            let listening = with("LISTEN").context("no listener")?;
            let (exact, at_least) = ("half_open_oldest_ms", "half_open_oldest_at_least_ms");
            check_age(&listening[exact], &listening[at_least], began, MS)?;
            let Some(request) = with("SYN_RECV") else {
                return Ok(false);
            };
            check_age(&request["age_ns"], &request["age_at_least_ns"], began, NS)
                .with_context(|| request.to_string())?;
            let again = request["timer"]["retransmits"].as_u64();
            ensure!(
                again == Some(0) || request["age_ns"].is_null(),
                "exact, though the timer does not tell: {request}"
            );
            Ok(again >= Some(3))
        })?;
        Ok((began, client, listener))
    })?;
    let repeated = began.elapsed();
    let (lines, _) = tcpstate.stop()?.json()?;
    let line = lines.last().context("no interval")?;
    let place = &line["half_open"][0];
    ensure!(place["lport"] == port && place["count"] == 1, "{line}");
    let age_ns = check_age(&place["oldest_ns"], &place["oldest_at_least_ns"], began, NS)?;
    // It has been sampled since.
    ensure!(age_ns > 0, "{place}, after {repeated:?}");
    drop(listener);
    Ok(())
}

/// `ls` bounds the age of a state that a packet began by the last packet. Here that state begins long after the
/// last data, which would give a longer time, and a wrong one.
fn ls_bounds() -> Result<()> {
    const QUIET: Duration = Duration::from_secs(2);
    const NS: Duration = Duration::from_nanos(1);
    Netns::new()?.run(|| {
        drop_packets()?;
        let port = unused_port();
        let Connection {
            listener: _listener,
            mut client,
            mut server,
        } = Connection::new((Ipv4Addr::LOCALHOST, port))?;
        client.write_all(b"request")?;
        server.read_exact(&mut [0; 7])?;
        server.write_all(b"response")?;
        client.read_exact(&mut [0; 8])?;
        thread::sleep(QUIET);
        let began = Instant::now();
        shutdown_write(&client)?;
        await_state(&server, State::CLOSE_WAIT)?;
        await_state(&client, State::FIN_WAIT2)?;
        let _kept = one_of_each(Ipv4Addr::LOCALHOST.into())?;
        await_that("`ls` has a bound for each", || {
            let (sockets, _) = list(&[])?;
            let mut are_bound = true;
            for socket in &sockets {
                let age_ns = check_age(&socket["age_ns"], &socket["age_at_least_ns"], began, NS)
                    .with_context(|| socket.to_string())?;
                match socket["state"].as_str() {
                    Some("ESTABLISHED" | "CLOSE_WAIT" | "CLOSING") => are_bound &= age_ns > 0,
                    // A minisocket has no such time.
                    Some("FIN_WAIT2") => are_bound &= age_ns > 0 || socket["inode"].is_null(),
                    Some("FIN_WAIT1" | "LAST_ACK" | "SYN_SENT" | "LISTEN") => {
                        ensure!(age_ns == 0, "nothing bounds it: {socket}");
                    }
                    _ => {}
                }
                let ours = socket["lport"] == port && socket["state"] == "CLOSE_WAIT";
                if ours {
                    let last_ms = socket["last_packet_ms"].as_u64().context("no packet")?;
                    let longest = (began.elapsed() + SLACK).as_millis();
                    ensure!(
                        u128::from(last_ms) <= longest,
                        "{socket}: over {longest} ms"
                    );
                }
            }
            let known = ["ESTABLISHED", "CLOSE_WAIT", "CLOSING", "FIN_WAIT2"];
            for state in known {
                ensure!(
                    sockets.iter().any(|socket| socket["state"] == state),
                    "the test has none in {state}"
                );
            }
            Ok(are_bound)
        })
    })
}

/// A connection that was in `CLOSE_WAIT` before the run is found by the time that it must have been there, live
/// and in a recording.
fn life_finds_a_leak_from_before() -> Result<()> {
    const HELD: Duration = Duration::from_secs(2);
    const LONGER_THAN: &str = "500ms";
    let port = unused_port();
    let netns = Netns::new()?;
    let path = netns.path();
    let path = path.to_str().context("a path that is no text")?;
    let made = || {
        let Connection {
            listener,
            client,
            server,
        } = Connection::new((Ipv4Addr::LOCALHOST, port))?;
        let began = Instant::now();
        shutdown_write(&client)?;
        await_state(&server, State::CLOSE_WAIT)?;
        // The time that the test is about.
        thread::sleep(HELD);
        Ok((listener, client, server, began))
    };
    let (listener, client, server, began) = netns.run(made)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("leak.tcpstate");
    let file = file.to_str().context("a path that is no text")?;
    let common = ["--netns", path, "-P", &port.to_string()];
    let filter = ["--state", "CLOSE_WAIT", "--longer-than", LONGER_THAN];
    let tcpstate =
        Tcpstate::start(&[&["life", "--json", "--live"], &filter[..], &common].concat())?;
    let record = Tcpstate::start(&[&["record", "-w", file], &common[..]].concat())?;
    let output = tcpstate.stop()?;
    let longest = began.elapsed() + SLACK;
    let bound = |output: &Output| -> Result<u64> {
        let (lines, summary) = output.json()?;
        ensure!(lines.len() == 1, "expected the leak: {lines:?}, {summary}");
        let line = &lines[0];
        ensure!(line["ended"] == false && line["lport"] == port, "{line}");
        let stay = &line["states"][0];
        ensure!(
            stay["state"] == "CLOSE_WAIT" && stay["dwell_ns"].is_null(),
            "{line}"
        );
        stay["dwell_at_least_ns"]
            .as_u64()
            .with_context(|| format!("no bound: {line}"))
    };
    let bound_ns = bound(&output)?;
    ensure!(u128::from(bound_ns) <= longest.as_nanos(), "{output:?}");

    record.stop()?;
    let longest = began.elapsed() + SLACK;
    let output = run(
        BINARY,
        &[&["life", "--json", "--live", "-r", file], &filter[..]].concat(),
    )?;
    let bound_ns = bound(&output)?;
    ensure!(u128::from(bound_ns) <= longest.as_nanos(), "{output:?}");
    drop((listener, client, server));
    Ok(())
}

/// A connection that is half-open for seconds, because its listener waits for data (`TCP_DEFER_ACCEPT`), has that
/// time in `SYN_RECV`, as exact as the samples: in every view, live and in a recording. If even the first sample
/// found it half-open, there is only a lower bound.
fn half_open_then_established() -> Result<()> {
    const HELD: Duration = Duration::from_secs(3);
    let port = unused_port();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let netns = Netns::new()?;
    let path = netns.path();
    let path = path.to_str().context("a path that is no text")?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("half-open.tcpstate");
    let file = file.to_str().context("a path that is no text")?;
    let lport = port.to_string();
    let common = ["--sample-interval", "50ms", "--netns", path, "-L", &lport];
    let start = |args: &[&str]| Tcpstate::start(&[args, &common].concat());
    let record = start(&["record", "-w", file])?;
    let life = start(&["life", "--json", "--live"])?;
    let trace = start(&["trace", "--json"])?;
    let (begin, end, _kept) = netns.run(|| {
        let listener = TcpListener::bind(addr)?;
        // Nothing is shown before the dump at the start, after which sampling begins.
        drop((TcpStream::connect(addr)?, listener.accept()?));
        await_that("a first connection is shown", || {
            Ok(!trace.written()?.is_empty() && !life.written()?.is_empty())
        })?;
        defer_accept(&listener)?;
        let (begin, mut client) = moment(|| Ok(TcpStream::connect(addr)?))?;
        // The time that the test is about.
        thread::sleep(HELD);
        let (end, server) = moment(|| {
            client.write_all(b"data")?;
            Ok(listener.accept()?)
        })?;
        Ok((begin, end, (listener, client, server)))
    })?;
    let bounds = begin.until(end);
    let slack_ns = u64::try_from(SLACK.as_nanos())?;
    // Returns whether it is more than a bound.
    let check = |dwell_ns: &Value, interval_ns: &Value, at_least_ns: &Value| -> Result<bool> {
        let (ns, longest_ns) = match (dwell_ns.as_u64(), interval_ns.as_u64()) {
            (Some(ns), Some(interval_ns)) => (ns, ns + interval_ns),
            (None, None) => (at_least_ns.as_u64().unwrap_or(0), u64::MAX - slack_ns),
            other => anyhow::bail!("neither sampled nor a bound: {other:?}"),
        };
        ensure!(
            ns <= bounds.end() + slack_ns && longest_ns + slack_ns >= *bounds.start(),
            "from {ns} to {longest_ns} ns is not in {bounds:?}"
        );
        Ok(dwell_ns.is_u64())
    };
    let shown = [trace.stop()?, life.stop()?];
    record.stop()?;
    let read = |args: &[&str]| run(BINARY, &[args, &["--json", "-r", file]].concat());
    let recorded = [read(&["trace"])?, read(&["life", "--live"])?];
    let mut is_sampled = false;
    for [trace, life] in [shown, recorded] {
        let (lines, _) = trace.json()?;
        let mut left = lines.iter().filter(|line| line["oldstate"] == "SYN_RECV");
        let left = left.next_back().context("no end of SYN_RECV")?;
        check(&left["dwell_ns"], &left["dwell_interval_ns"], &Value::Null)
            .with_context(|| left.to_string())?;
        let (lines, _) = life.json()?;
        let open = lines.iter().find(|line| line["ended"] == false);
        let stay = &open.context("no connection")?["states"][0];
        ensure!(stay["state"] == "SYN_RECV", "{stay}");
        is_sampled = check(
            &stay["dwell_ns"],
            &stay["interval_ns"],
            &stay["dwell_at_least_ns"],
        )
        .with_context(|| stay.to_string())?;
        ensure!(stay["sampled"] == is_sampled, "{stay}");
    }
    // A histogram has no bounds.
    let (lines, _) = read(&["hist", "--state", "SYN_RECV"])?.json()?;
    ensure!(lines.len() == 1, "{lines:?}");
    let longest_ns = lines[0]["max_ns"].as_u64().context("no max")?;
    ensure!(
        (longest_ns > u64::try_from(SLACK.as_nanos())?) == is_sampled,
        "{lines:?}"
    );
    Ok(())
}

/// Has a listener wait for data before it makes a connection of a handshake.
fn defer_accept(listener: &TcpListener) -> Result<()> {
    let seconds: libc::c_int = 30;
    let length = libc::socklen_t::try_from(size_of_val(&seconds))?;
    // SAFETY: the kernel reads `length` bytes of `seconds`, which is its size.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            length,
        )
    };
    ensure!(
        result == 0,
        "TCP_DEFER_ACCEPT: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}
