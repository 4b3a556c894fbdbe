//! `churn`: how many connections per second are left with each tool, what it costs, what it loses.
//!
//! In each round the untraced loop runs before the first tool, between any two, and after the last; a
//! tool's rate is compared with the mean of the two untraced runs beside it. So are four floors: what the
//! comparison makes of no tool at all, and what is left where only a BPF program runs and nobody reads.

use anyhow::{Context as _, Result, ensure};

use tcpstate_capture::{
    host::Host,
    loader::{self, Job, Plan},
};
use tcpstate_core::filter::Filter;
use tcpstate_core::mode::Mode;

use crate::{
    Options,
    generator::{Churn, PER_CONNECTION},
    process::Running,
    report::Row,
    tool::{self, Tool},
};

/// What is measured of one tool.
#[derive(Default)]
struct Measured {
    per_second: Vec<f64>,
    kept: Vec<f64>,
    cpu_us: Vec<f64>,
    lost_percent: Vec<f64>,
    said_lost: u64,
}

pub fn run(options: &Options) -> Result<Vec<Row>> {
    let connections = options.pick(20_000, 1_000);
    let churn = Churn::new()?;
    let tools: Vec<Tool> = tool::views().into_iter().chain(tool::peers()).collect();
    let mut measured: Vec<Measured> = tools.iter().map(|_| Measured::default()).collect();
    let mut untraced = Vec::new();
    // The first connections of all find caches cold.
    churn.run(connections / 4, None)?;
    let host = Host::read();
    let mut floors: Vec<(Vec<f64>, Vec<f64>)> = FLOORS.iter().map(|_| Default::default()).collect();
    let rounds = options.rounds(10);
    for round in 1..=rounds {
        eprintln!("churn: round {round} of {rounds}");
        let mut before = rate(&churn, connections)?;
        untraced.push(before);
        for (floor, (rates, kept)) in FLOORS.iter().zip(&mut floors) {
            let traced = floor.rate(&host, &churn, connections)?;
            let after = rate(&churn, connections)?;
            untraced.push(after);
            rates.push(traced);
            kept.push(traced / f64::midpoint(before, after));
            before = after;
        }
        for (tool, measured) in tools.iter().zip(&mut measured) {
            if tool.missing().is_some() {
                continue;
            }
            let running = Running::start(tool.name, tool.command(), tool.ready)?;
            let traced = rate(&churn, connections)?;
            let ended = running.end()?;
            let after = rate(&churn, connections)?;
            untraced.push(after);
            let counted = tool.count(&ended)?;
            let expected = connections * tool.per_connection;
            check(tool, counted, expected)?;
            measured.per_second.push(traced);
            measured.kept.push(traced / f64::midpoint(before, after));
            measured
                .cpu_us
                .push(ended.cpu.as_secs_f64() * 1e6 / connections as f64);
            let missed = expected.saturating_sub(counted.reported);
            measured
                .lost_percent
                .push(100.0 * missed as f64 / expected as f64);
            measured.said_lost += counted.said_lost;
            before = after;
        }
    }
    let mut rows = vec![Row::new("nothing", "connections/s", &untraced)];
    rows.extend(FLOORS.iter().zip(&floors).map(|(floor, (rates, kept))| {
        Row::new(floor.name, "connections/s", rates).ratio("nothing", kept)
    }));
    for (tool, measured) in tools.iter().zip(&measured) {
        if let Some(why) = tool.missing() {
            rows.push(Row::missing(tool.name, "connections/s", why));
            continue;
        }
        rows.push(
            Row::new(tool.name, "connections/s", &measured.per_second)
                .ratio("nothing", &measured.kept),
        );
        rows.push(Row::new(
            tool.name,
            "CPU of its process, us a connection",
            &measured.cpu_us,
        ));
        rows.push(
            Row::new(tool.name, "events missing, %", &measured.lost_percent).note(format!(
                "{} said to be lost in all rounds",
                measured.said_lost
            )),
        );
    }
    rows.extend(paced(options, &churn, &tools)?);
    Ok(rows)
}

/// A BPF program without a process that reads.
struct Floor {
    name: &'static str,
    /// What the program does; `None` where there is none.
    job: Option<Job>,
}

const FLOORS: [Floor; 4] = [
    Floor {
        name: "nothing, once more",
        job: None,
    },
    Floor {
        name: "an empty program alone",
        job: Some(Job::Nothing),
    },
    Floor {
        name: "a program that counts and reads the clock, alone",
        job: Some(Job::Clock),
    },
    Floor {
        name: "the program that streams, alone",
        job: Some(Job::Stream),
    },
];

impl Floor {
    /// Connections per second while it is attached. The ring holds every record.
    fn rate(&self, host: &Host, churn: &Churn, connections: u64) -> Result<f64> {
        let Some(job) = self.job else {
            return rate(churn, connections);
        };
        let filter = Filter::default();
        let plan = Plan {
            mode: Mode::Btf,
            ring_bytes: 64 << 20,
            filter: filter.kernel(),
            bpf_log: false,
            job,
        };
        let mut loaded = loader::load(host, &plan)?;
        loaded.attach()?;
        let rate = rate(churn, connections)?;
        loaded.detach()?;
        Ok(rate)
    }
}

fn rate(churn: &Churn, connections: u64) -> Result<f64> {
    let took = churn.run(connections, None)?;
    Ok(connections as f64 / took.as_secs_f64())
}

/// Ours must say what they lost; the one that counts in the kernel must find what the generator made.
fn check(tool: &Tool, counted: tool::Counted, expected: u64) -> Result<()> {
    let tool::Counted {
        reported,
        said_lost,
    } = counted;
    if tool.is_ours() {
        ensure!(
            reported <= expected && reported + said_lost * tool.per_connection >= expected,
            "{}: reported {reported} of {expected}, said to have lost {said_lost}",
            tool.name
        );
    }
    if tool.name == tool::BPFTRACE_COUNT {
        ensure!(
            reported == expected,
            "a connection is {} transitions, not {PER_CONNECTION}",
            reported as f64 * PER_CONNECTION as f64 / expected as f64
        );
    }
    Ok(())
}

/// What each costs where the load is given: 10,000 connections a second, 100,000 transitions.
fn paced(options: &Options, churn: &Churn, tools: &[Tool]) -> Result<Vec<Row>> {
    const PER_SECOND: u32 = 10_000;
    let seconds = options.pick(4, 1);
    let connections = u64::from(PER_SECOND) * seconds;
    let mut rows = Vec::new();
    // The peers' counts are seen by now.
    let wanted = |tool: &&Tool| tool.missing().is_none() && (tool.is_ours() || !options.quick);
    for tool in tools.iter().filter(wanted) {
        let mut percent = Vec::new();
        for _ in 0..options.rounds(3) {
            let running = Running::start(tool.name, tool.command(), tool.ready)?;
            let took = churn.run(connections, Some(PER_SECOND))?;
            let ended = running.end()?;
            let counted = tool.count(&ended).context("at 10,000 connections/s")?;
            check(tool, counted, connections * tool.per_connection)?;
            percent.push(100.0 * ended.cpu.as_secs_f64() / took.as_secs_f64());
        }
        rows.push(Row::new(
            tool.name,
            "CPU of its process at 10,000 connections/s, % of a core",
            &percent,
        ));
    }
    Ok(rows)
}
