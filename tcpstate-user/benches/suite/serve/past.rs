//! The memory of a day's history: figures of as many ports as have a label by default, each second other ones, kept as the
//! server keeps them, in a process of its own.
//!
//! Their form is that of a second of the publisher; the counts in it are of 20,000 connections a second.

use std::{env, io, process::Command};

use anyhow::{Context as _, Result, ensure};
use tcpstate_core::{
    model::{Figures, Interval},
    view::View as _,
};
use tcpstate_serve::api::History;

use super::{SECOND, WHOLE, connection, publisher};
use crate::{Options, ingest::memory::resident, report::Row};

/// As many as have a label by default.
const PORTS: u16 = 128;

/// Connections a second, of all ports.
const PER_SECOND: u64 = 20_000;

/// The most bytes, as the documents state.
const MOST: f64 = (64 << 20) as f64;

pub fn run(options: &Options) -> Result<Vec<Row>> {
    let seconds: u64 = options.pick(86_400, 600);
    let output = Command::new(env::current_exe()?)
        .args(["--keep-history", &seconds.to_string()])
        .output()?;
    ensure!(
        output.status.success(),
        "keeping a history: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let [bytes, resident]: [f64; 2] = serde_json::from_slice(&output.stdout)?;
    ensure!(bytes <= MOST, "a history has {bytes} bytes");
    let minutes = seconds / 60;
    let what = format!("the history of {minutes} min, {PORTS} ports, 20,000 connections/s");
    Ok(vec![
        Row::new(&what, "bytes, as it counts them", &[bytes]),
        Row::new(&what, "resident bytes", &[resident])
            .note("the last hour by second, all of it by minute"),
    ])
}

/// The main function of that process: prints the figures.
pub fn measure_here(seconds: u64) -> Result<()> {
    let form = second()?;
    let before = resident("VmRSS")?;
    let mut history = History::default();
    for number in 0..seconds {
        history.keep(&busy(&form, number));
    }
    let expected = (3_600.min(seconds as usize), (seconds / 60) as usize);
    let kept = history.intervals();
    ensure!(kept == expected, "{kept:?} intervals, not {expected:?}");
    let bytes = history.bytes();
    let resident = resident("VmRSS")?.saturating_sub(before);
    println!("[{bytes}, {resident}]");
    Ok(())
}

/// A second in which each port has both ends of a connection that ends in order, of one that stays open, and of one that begins to end.
fn second() -> Result<Interval> {
    let mut publisher = publisher(PORTS)?;
    for port in 1..=PORTS {
        for (round, steps) in [(0, WHOLE), (1, 2), (2, 3)] {
            connection(&mut publisher, port, round, steps)?;
        }
    }
    publisher.tick(SECOND, &mut io::sink())?;
    let snapshot = publisher.subscribe().latest().context("no snapshot")?;
    let groups = snapshot.interval.groups.len();
    ensure!(groups == 2 * usize::from(PORTS), "{groups} groups");
    Ok(snapshot.interval.clone())
}

/// The same with the counts of this second of a busy host.
fn busy(form: &Interval, second: u64) -> Interval {
    let mut interval = form.clone();
    interval.start_ns = second * SECOND;
    interval.end_ns = interval.start_ns + SECOND;
    let each = PER_SECOND / u64::from(PORTS);
    multiply(&mut interval.all, each);
    for (place, group) in (0..).zip(&mut interval.groups) {
        // Some of them have more, some fewer, and it changes.
        multiply(
            &mut group.figures,
            each / 2 + (7 * second + 31 * place) % each,
        );
    }
    interval
}

fn multiply(figures: &mut Figures, by: u64) {
    let transitions = figures.transitions.iter_mut().map(|one| &mut one.count);
    let causes = figures.causes.iter_mut().map(|(_, count)| count);
    let states = figures.states.iter_mut().map(|(_, count)| count);
    for count in transitions.chain(causes).chain(states) {
        *count *= by;
    }
}
