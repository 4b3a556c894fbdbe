//! The memory of a live connection: a process of its own opens a number of connections and closes none.

use std::{env, fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use tcpstate_core::{
    event::Event,
    model::{Limits, Tracker},
};

use super::stream::Stream;
use crate::{Options, report::Row};

/// Measures for few and many connections.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let numbers: &[u64] = options.pick(&[1_000, 100_000, 1_000_000], &[1_000, 100_000]);
    let mut rows = Vec::new();
    for &connections in numbers {
        let output = Command::new(env::current_exe()?)
            .args(["--live-memory", &connections.to_string()])
            .output()?;
        ensure!(
            output.status.success(),
            "measuring {connections} connections: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let measured: [f64; 3] = serde_json::from_slice(&output.stdout)?;
        let figures = [
            "resident bytes per connection",
            "table bytes per connection",
            "peak resident memory, MiB",
        ];
        let what = format!("{connections} live connections");
        for (figure, value) in figures.into_iter().zip(measured) {
            rows.push(Row::new(&what, figure, &[value]));
        }
    }
    Ok(rows)
}

/// The main function of that process: prints the figures.
pub fn measure_here(connections: usize) -> Result<()> {
    let before = resident("VmRSS")?;
    let mut tracker = Tracker::new(Limits::default());
    let mut stream = Stream::new(connections, 300);
    for at in 0..connections {
        // To ESTABLISHED.
        for _ in 0..2 {
            let record = stream.advance(at);
            tracker.apply(&Event::try_from(record).context("a record of this benchmark")?);
        }
    }
    ensure!(
        tracker.books().live == connections as u64,
        "{} connections of {connections}",
        tracker.books().live
    );
    let after = resident("VmRSS")?;
    // The benchmark's own memory is subtracted.
    let own = stream.memory();
    let each = |bytes: usize| bytes as f64 / connections as f64;
    let figures = [
        each((after - before).saturating_sub(own)),
        each(tracker.memory().connections),
        (resident("VmHWM")? - own) as f64 / f64::from(1 << 20),
    ];
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// A size of this process in bytes, as counted by the kernel.
pub fn resident(field: &str) -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line
        .and_then(|line| line.split_ascii_whitespace().nth(1))
        .context("/proc/self/status")?;
    Ok(kib.parse::<usize>()? * 1024)
}
