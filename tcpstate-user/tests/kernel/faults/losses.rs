//! More transitions than the ring can hold, or than its reader can read.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::number;
use crate::{
    need::{Need, trial},
    net::{Netns, PATIENCE, await_fin, await_that, joined, shutdown_write, unused_port},
    process::Tcpstate,
    traffic::storm,
};

pub fn add(trials: &mut Vec<Trial>) {
    trials.push(trial("faults::ring_full", &[Need::Btf], ring_full));
    trials.push(trial(
        "faults::reader_stopped",
        &[Need::Btf],
        reader_stopped,
    ));
}

/// Checks that the summary accounts for all transitions made: no more than `made`, and fewer only by the runs
/// of the program that the kernel skipped, whose namespace is unknown.
fn check_all_are_counted(summary: &Value, made: u64) -> Result<()> {
    let submitted = number(summary, &["accounting", "submitted"])?;
    let ring_full = number(summary, &["accounting", "lost_by_reason", "ring_full"])?;
    let nested = number(summary, &["accounting", "lost_by_reason", "nested"])?;
    let counted = submitted + ring_full;
    ensure!(
        counted <= made && made <= counted + nested,
        "{made} were made: {summary}"
    );
    Ok(())
}

/// Transitions of a connection from LISTEN or CLOSE to CLOSE: five of the client and five of the server.
const TRANSITIONS_EACH: u64 = 10;
/// Transitions of a listener.
const LISTENER: u64 = 2;

/// A ring of 64 KiB under a storm, with connections in the middle of it: losses are counted exactly, and
/// connections that begin afterwards are complete, up to their end.
fn ring_full() -> Result<()> {
    const ROUNDS: u32 = 100_000;
    // More than the ring has room for.
    const FILLS: u32 = 2_000;
    // The ring has room for all connections after the storm, even if its reader is delayed.
    const CONNECTIONS: u64 = 20;
    let netns = Netns::new()?;
    let [noisy, busy, probe, quiet] = [(); 4].map(|()| unused_port());
    let tcpstate = Tcpstate::start(&[
        "life",
        "--json",
        "--attach",
        "btf",
        "--ring-bytes",
        "65536",
        "--netns",
        &netns.inode()?.to_string(),
    ])?;
    // On a busy machine the storm is slower, and its reader might keep up with it: so it finds the ring full.
    let reader = Pid::from_child(&tcpstate.child);
    kill_process(reader, Signal::STOP)?;
    let filled = netns.run_until_quiet(|| storm(noisy, FILLS));
    kill_process(reader, Signal::CONT)?;
    filled?;
    netns.run_until_quiet(|| {
        std::thread::scope(|scope| {
            let storm = scope.spawn(|| netns.run(|| storm(noisy, ROUNDS)));
            let met_the_storm = connect_and_close(Ipv4Addr::LOCALHOST, busy, CONNECTIONS);
            joined(storm.join()).and(met_the_storm)
        })
    })?;
    let probes = netns.run_until_quiet(|| await_room(&tcpstate, probe))?;
    netns.run_until_quiet(|| connect_and_close(Ipv4Addr::LOCALHOST, quiet, CONNECTIONS))?;
    let (lines, summary) = tcpstate.stop()?.json()?;
    let made = u64::from(FILLS + ROUNDS) * 2
        + 2 * (CONNECTIONS * TRANSITIONS_EACH + LISTENER)
        + probes * (TRANSITIONS_EACH + LISTENER);
    check_all_are_counted(&summary, made)?;
    ensure!(
        number(&summary, &["accounting", "lost_by_reason", "ring_full"])? > 0,
        "nothing was lost, so this was no storm: {summary}"
    );
    let healed: Vec<_> = lines
        .iter()
        .filter(|line| line["service_port"] == quiet)
        .collect();
    ensure!(
        healed.len() as u64 == 2 * CONNECTIONS,
        "{} ends of {CONNECTIONS} connections: {summary}",
        healed.len()
    );
    for line in healed {
        let states = line["states"].as_array().context("states")?;
        ensure!(
            line["ended"] == true
                && line["cause"] == "fin"
                && states.iter().all(|state| state["dwell_ns"].is_u64()),
            "not complete: {line}"
        );
    }
    Ok(())
}

/// Waits until the reader has emptied the ring, by making connections until both ends of the last one are
/// shown. Returns the number of connections; the ring had no room for all but the last.
fn await_room(tcpstate: &Tcpstate, port: u16) -> Result<u64> {
    const A_WHILE: Duration = Duration::from_millis(200);
    let start = Instant::now();
    for probe in 1..=u8::MAX {
        let address = Ipv4Addr::new(127, 0, 1, probe);
        connect_and_close(address, port, 1)?;
        let end = format!("\"{address}\"");
        let made = Instant::now();
        while made.elapsed() < A_WHILE {
            let written = tcpstate.written()?;
            // A line is complete when its end has been written.
            let whole = written.rsplit_once('\n').map_or("", |(whole, _)| whole);
            if whole.lines().filter(|line| line.contains(&end)).count() == 2 {
                return Ok(probe.into());
            }
            thread::sleep(Duration::from_millis(2));
        }
        ensure!(start.elapsed() < PATIENCE, "the ring stays full");
    }
    anyhow::bail!("the ring stays full")
}

/// Makes connections one after the other, each closed by its client first.
fn connect_and_close(address: Ipv4Addr, port: u16, connections: u64) -> Result<()> {
    let addr = SocketAddr::from((address, port));
    let listener = TcpListener::bind(addr)?;
    for _ in 0..connections {
        let client = TcpStream::connect(addr)?;
        let (server, _) = listener.accept()?;
        // Not by `close`: an orphan would continue in FIN_WAIT2 if the other FIN arrives a moment later.
        shutdown_write(&client)?;
        await_fin(&server)?;
        drop(server);
        await_fin(&client)?;
    }
    Ok(())
}

/// A `tcpstate` that is stopped during a storm loses only the transitions for which its ring has no room;
/// the others are shown when it continues.
fn reader_stopped() -> Result<()> {
    const ROUNDS: u32 = 60_000;
    let (netns, port) = (Netns::new()?, unused_port());
    let tcpstate = Tcpstate::start(&[
        "trace",
        "--json",
        "--attach",
        "btf",
        "--ring-bytes",
        "1M",
        "--netns",
        &netns.inode()?.to_string(),
    ])?;
    let pid = Pid::from_child(&tcpstate.child);
    kill_process(pid, Signal::STOP)?;
    await_that("it is stopped", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid()))?;
        let (_, after_the_name) = stat.rsplit_once(')').context("a name in brackets")?;
        Ok(after_the_name.trim_start().starts_with('T'))
    })?;
    netns.run_until_quiet(|| storm(port, ROUNDS))?;
    kill_process(pid, Signal::CONT)?;
    let (lines, summary) = tcpstate.stop()?.transitions()?;
    check_all_are_counted(&summary, u64::from(ROUNDS) * 2)?;
    ensure!(
        number(&summary, &["accounting", "lost_by_reason", "ring_full"])? > 0,
        "the ring had room for all: {summary}"
    );
    // A record takes its 128 bytes and a header of 8, so the ring kept at least this number.
    ensure!(
        lines.len() >= (1 << 20) / 136 - 1,
        "only {} are shown: {summary}",
        lines.len()
    );
    ensure!(
        lines.len() as u64 == number(&summary, &["accounting", "submitted"])?,
        "{} lines: {summary}",
        lines.len()
    );
    Ok(())
}
