//! More transitions than the ring has room for, or than its reader takes.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::number;
use crate::{
    need::{Need, trial},
    net::{Connection, Netns, await_fin, await_that, unused_port},
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

/// How many transitions of `made` the summary accounts for: no more than were made, and missing are
/// only runs of the program that the kernel skipped, which have no namespace by which to tell whose
/// they were.
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

/// A ring of 64 KiB under a storm, with connections in the midst of it: what is lost is counted to the
/// transition, and connections that begin after it are whole again, up to their end.
fn ring_full() -> Result<()> {
    const ROUNDS: u32 = 100_000;
    const CONNECTIONS: u64 = 50;
    // By its path from LISTEN or CLOSE to CLOSE: five and five, as in `traffic`, and the listener's two.
    const TRANSITIONS_EACH: u64 = 10;
    let netns = Netns::new()?;
    let [noisy, busy, quiet] = [(); 3].map(|()| unused_port());
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
    netns.run_until_quiet(|| {
        std::thread::scope(|scope| {
            let storm = scope.spawn(|| netns.run(|| storm(noisy, ROUNDS)));
            let met_the_storm = connect_and_close(busy, CONNECTIONS);
            crate::net::joined(storm.join()).and(met_the_storm)
        })
    })?;
    netns.run_until_quiet(|| connect_and_close(quiet, CONNECTIONS))?;
    let (lines, summary) = tcpstate.stop()?.json()?;
    // Each of the two series has a listener of its own.
    let made = u64::from(ROUNDS) * 2 + 2 * (CONNECTIONS * TRANSITIONS_EACH + 2);
    check_all_are_counted(&summary, made)?;
    ensure!(
        number(&summary, &["accounting", "lost_by_reason", "ring_full"])? > 0,
        "nothing was lost: this is no storm: {summary}"
    );
    let healed: Vec<_> = lines
        .iter()
        .filter(|line| line["service_port"] == quiet)
        .collect();
    ensure!(
        healed.len() as u64 == 2 * CONNECTIONS,
        "{} ends of {CONNECTIONS} connections",
        healed.len()
    );
    for line in healed {
        let states = line["states"].as_array().context("states")?;
        ensure!(
            line["ended"] == true
                && line["cause"] == "fin"
                && states.iter().all(|state| state["dwell_ns"].is_u64()),
            "not whole: {line}"
        );
    }
    Ok(())
}

/// So many connections one after the other, each closed by its client first.
fn connect_and_close(port: u16, connections: u64) -> Result<()> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let Connection {
        listener,
        client,
        server,
    } = Connection::new(addr)?;
    drop(client);
    await_fin(&server)?;
    for _ in 1..connections {
        let client = std::net::TcpStream::connect(addr)?;
        let (server, _) = listener.accept()?;
        drop(client);
        await_fin(&server)?;
    }
    Ok(())
}

/// A `tcpstate` that does not run for as long as a storm lasts misses what its ring has no room for,
/// and no more: all else is shown once it goes on.
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
        "all found room: {summary}"
    );
    // A record takes its 128 bytes and a header of 8, so the ring kept at least so many.
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
