//! `storm`: the maximum rate of transitions without the network, and the rate at which loss begins, by the
//! size of the ring.
//!
//! A binary search between zero and the maximum finds the rate at which loss begins: each step is a run with
//! a storm of fixed rate on one core, and `tcpstate rates` on the others.

use std::{process::Command, sync::Barrier, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Options,
    generator::Storm,
    process::{Ready, Running, TCPSTATE},
    report::{Row, ratios},
    tool::{self, UNTRACED},
};

/// The results of a storm that tcpstate watches.
struct Traced {
    per_second: f64,
    lost_percent: f64,
}

pub fn run(options: &Options) -> Result<Vec<Row>> {
    let mut rows = on_every_core(options)?;
    rows.extend(sustained(options)?);
    rows.extend(where_loss_begins(options)?);
    Ok(rows)
}

/// One storm on each core, so that no core is free for the reader.
fn on_every_core(options: &Options) -> Result<Vec<Row>> {
    let cores = thread::available_parallelism()?.get();
    let duration = options.pick(Duration::from_secs(3), Duration::from_millis(500));
    let (mut alone, mut traced_rates, mut lost) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds(10) {
        let (made, took) = storm(cores, duration, None)?;
        alone.push(made as f64 / took.as_secs_f64());
        let traced = traced(cores, duration, None, "8M")?;
        traced_rates.push(traced.per_second);
        lost.push(traced.lost_percent);
    }
    let case = |what| format!("{what}, storms on all {cores} cores");
    Ok(vec![
        Row::new(case(UNTRACED), "transitions/s", &alone),
        Row::new(case("tcpstate rates"), "transitions/s", &traced_rates)
            .ratio(UNTRACED, &ratios(&traced_rates, &alone)),
        Row::new(case("tcpstate rates"), "lost, %", &lost)
            .note("no core is free for the reader; every loss is counted"),
    ])
}

/// The target: no loss at 600,000 transitions per second for half a minute.
fn sustained(options: &Options) -> Result<Vec<Row>> {
    let duration = options.pick(Duration::from_secs(30), Duration::from_secs(2));
    let traced = traced(1, duration, Some(600_000.0), "8M")?;
    let what = format!(
        "tcpstate rates, 600,000/s requested on one core for {} s, ring of 8 MiB",
        duration.as_secs()
    );
    Ok(vec![
        Row::new(&what, "transitions/s", &[traced.per_second]),
        Row::new(what, "lost, %", &[traced.lost_percent]),
    ])
}

fn where_loss_begins(options: &Options) -> Result<Vec<Row>> {
    let sizes: &[&str] = if options.quick {
        &["64K", "8M"]
    } else {
        &["64K", "256K", "1M", "4M", "8M", "16M", "64M"]
    };
    let (duration, steps) =
        options.pick((Duration::from_secs(2), 7), (Duration::from_millis(300), 2));
    let mut rows = Vec::new();
    for &size in sizes {
        eprintln!("storm: ring of {size}");
        let (number, unit) = size.split_at(size.len() - 1);
        let what = format!("highest rate without loss, ring of {number} {unit}iB");
        let figure = "transitions/s";
        let all = traced(1, duration, None, size)?;
        if all.lost_percent == 0.0 {
            let row = Row::new(what, figure, &[all.per_second]);
            rows.push(row.note("the maximum of one core"));
            continue;
        }
        let (mut kept, mut lost) = (0.0, all.per_second);
        for _ in 0..steps {
            let pace = f64::midpoint(kept, lost);
            if traced(1, duration, Some(pace), size)?.lost_percent == 0.0 {
                kept = pace;
            } else {
                lost = pace;
            }
        }
        rows.push(Row::new(what, figure, &[kept]).note(format!("loss at {lost:.0}/s")));
    }
    Ok(rows)
}

/// Runs storms on this number of cores while `tcpstate rates` watches. Returns the losses that it reports,
/// after checking its books against the number of transitions made.
fn traced(
    cores: usize,
    duration: Duration,
    per_second: Option<f64>,
    ring_bytes: &str,
) -> Result<Traced> {
    let mut command = Command::new(TCPSTATE);
    command.args([
        "rates",
        "--json",
        "--netns",
        "self",
        "--ring-bytes",
        ring_bytes,
    ]);
    let running = Running::start("tcpstate rates", command, Ready::Runs)?;
    let (made, took) = storm(cores, duration, per_second)?;
    let ended = running.end()?;
    let summary = tool::summary(&ended.output)?;
    let number = |name: &str| {
        summary["accounting"][name]
            .as_u64()
            .with_context(|| name.to_owned())
    };
    let (seen, lost, rejected) = (number("seen")?, number("lost")?, number("rejected")?);
    ensure!(seen >= made, "{seen} of {made} transitions were seen");
    Ok(Traced {
        per_second: made as f64 / took.as_secs_f64(),
        lost_percent: 100.0 * (lost + rejected) as f64 / made as f64,
    })
}

/// Runs storms on this number of cores at the same time, each pinned to its core. Returns the number of
/// transitions and the time that they took.
fn storm(cores: usize, duration: Duration, per_second: Option<f64>) -> Result<(u64, Duration)> {
    let barrier = Barrier::new(cores);
    thread::scope(|scope| {
        let storms: Vec<_> = (0..cores)
            .map(|core| {
                let barrier = &barrier;
                scope.spawn(move || -> Result<(u64, Duration)> {
                    let mut cpus = rustix::thread::CpuSet::new();
                    cpus.set(core);
                    rustix::thread::sched_setaffinity(None, &cpus).context("pin to a core")?;
                    let storm = Storm::new();
                    barrier.wait();
                    Ok(storm?.run(duration, per_second))
                })
            })
            .collect();
        let mut sum = (0, Duration::ZERO);
        for storm in storms {
            let (made, took) = storm.join().expect("a storm does not panic")?;
            sum = (sum.0 + made, took.max(sum.1));
        }
        Ok(sum)
    })
}
