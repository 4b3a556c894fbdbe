//! `idle`: the cost of each view without events: CPU, and the rate of wakeups.
//!
//! The host may not be idle, but the network namespace of the benchmark is, and only that is watched.

use std::{process::Command, thread, time::Duration};

use anyhow::Result;

use crate::{
    Options,
    process::{Ready, Running, TCPSTATE},
    report::Row,
    tool,
};

const VIEWS: [&[&str]; 5] = [
    &["trace"],
    &["life"],
    &["rates", "--json"],
    &["hist"],
    &["record", "-w", "/dev/null"],
];

pub fn run(options: &Options) -> Result<Vec<Row>> {
    let duration = options.pick(Duration::from_secs(30), Duration::from_secs(2));
    // They run at the same time, and each is measured separately.
    let mut running = Vec::new();
    for view in VIEWS {
        let name = format!("tcpstate {}", view[0]);
        let mut command = Command::new(TCPSTATE);
        command.args(view).args(["--netns", "self"]);
        running.push((Running::start(&name, command, Ready::Runs)?, name));
    }
    let mut rows = Vec::new();
    for peer in tool::peers() {
        match peer.missing() {
            None => {
                let peer_runs = Running::start(peer.name, peer.command(), peer.ready)?;
                running.push((peer_runs, peer.name.to_owned()));
            }
            Some(why) => rows.push(Row::missing(peer.name, "CPU, % of a core", why)),
        }
    }
    for (running, _) in &running {
        running.await_quiet()?;
    }
    // The start of the last one has woken the others.
    thread::sleep(Duration::from_millis(500));
    let read = |running: &Running| anyhow::Ok((running.cpu()?, running.wakeups()?));
    let before = running
        .iter()
        .map(|(running, _)| read(running))
        .collect::<Result<Vec<_>>>()?;
    thread::sleep(duration);
    let mut measured = Vec::new();
    for ((running, name), (cpu, wakeups)) in running.iter().zip(before) {
        let (cpu_now, wakeups_now) = read(running)?;
        let percent = 100.0 * cpu_now.saturating_sub(cpu).as_secs_f64() / duration.as_secs_f64();
        let per_second = (wakeups_now - wakeups) as f64 / duration.as_secs_f64();
        measured.push(Row::new(name, "CPU, % of a core", &[percent]));
        measured.push(Row::new(name, "wakeups/s", &[per_second]));
    }
    measured.extend(rows);
    Ok(measured)
}
