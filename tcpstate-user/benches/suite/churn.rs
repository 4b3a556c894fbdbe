//! `churn`: the rate of connections with each tool, the tool's cost, and its losses.
//!
//! In each round the untraced loop runs before the first tool, between any two, and after the last, and a
//! tool's rate is compared with the mean of the two untraced runs beside it. The same is done for four
//! floors: no tool at all, which shows the error of the comparison, and BPF programs without a reader.

use anyhow::{Context as _, Result, ensure};

use tcpstate_capture::{
    host::Host,
    loader::{self, Job, Plan},
};
use tcpstate_core::mode::Mode;

use crate::{
    Options,
    generator::{Churn, FIRST_HOST, PER_CONNECTION},
    probe,
    process::Running,
    report::Row,
    tool::{self, Tool, UNTRACED},
};

/// The results of one tool.
#[derive(Default)]
struct Measured {
    per_second: Vec<f64>,
    kept: Vec<f64>,
    cpu_us: Vec<f64>,
    lost_percent: Vec<f64>,
    reported_lost: u64,
}

pub fn run(options: &Options) -> Result<Vec<Row>> {
    let connections = options.pick(20_000, 1_000);
    let churn = Churn::new()?;
    let tools: Vec<Tool> = tool::views().into_iter().chain(tool::peers()).collect();
    let mut measured: Vec<Measured> = tools.iter().map(|_| Measured::default()).collect();
    let mut untraced = Vec::new();
    // The very first connections run with cold caches.
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
            measured.reported_lost += counted.reported_lost;
            before = after;
        }
    }
    let mut rows = vec![Row::new(UNTRACED, "connections/s", &untraced)];
    rows.extend(FLOORS.iter().zip(&floors).map(|(floor, (rates, kept))| {
        Row::new(floor.name, "connections/s", rates).ratio(UNTRACED, kept)
    }));
    for (tool, measured) in tools.iter().zip(&measured) {
        if let Some(why) = tool.missing() {
            rows.push(Row::missing(tool.name, "connections/s", why));
            continue;
        }
        rows.push(
            Row::new(tool.name, "connections/s", &measured.per_second)
                .ratio(UNTRACED, &measured.kept),
        );
        rows.push(Row::new(
            tool.name,
            "CPU of its process, us per connection",
            &measured.cpu_us,
        ));
        rows.push(
            Row::new(tool.name, "events missing, %", &measured.lost_percent).note(format!(
                "{} reported lost in all rounds",
                measured.reported_lost
            )),
        );
    }
    rows.extend(paced(options, &churn, &tools)?);
    drop(churn);
    rows.extend(one_host(options, &host)?);
    Ok(rows)
}

/// The number of hosts of which a filter selects one.
const HOSTS: u32 = 1_000;

/// The rate of connections to many hosts, where the program selects one of them, beside that with the empty program.
fn one_host(options: &Options, host: &Host) -> Result<Vec<Row>> {
    const EMPTY: &str = "empty program, 1,000 hosts";
    const SELECTED: &str = "dst one of 1,000 hosts, no reader";
    let expression = format!("dst {FIRST_HOST}");
    let empty = Floor {
        name: EMPTY,
        job: Some(Job::Nothing),
        filter: "",
        stands_by: false,
    };
    let selected = Floor {
        name: SELECTED,
        job: Some(Job::Stream),
        filter: &expression,
        stands_by: false,
    };
    let connections = options.pick(20_000, 1_000);
    let churn = Churn::to_hosts(HOSTS)?;
    churn.run(connections / 4, None)?;
    let (mut floor, mut rates, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    let rounds = options.rounds(10);
    for round in 1..=rounds {
        eprintln!("churn: {HOSTS} hosts, round {round} of {rounds}");
        let before = empty.rate(host, &churn, connections)?;
        let rate = selected.rate(host, &churn, connections)?;
        let after = empty.rate(host, &churn, connections)?;
        floor.extend([before, after]);
        rates.push(rate);
        kept.push(rate / f64::midpoint(before, after));
    }
    Ok(vec![
        Row::new(EMPTY, "connections/s", &floor),
        Row::new(SELECTED, "connections/s", &rates).ratio(EMPTY, &kept),
    ])
}

/// A BPF program without a reader.
struct Floor<'a> {
    name: &'static str,
    /// The program's job; `None` for no program.
    job: Option<Job>,
    /// The filter of the program, an expression.
    filter: &'a str,
    /// Whether the second program stands by, as it does not for long in a churn.
    stands_by: bool,
}

const FLOORS: [Floor<'_>; 5] = [
    Floor {
        name: "untraced again",
        job: None,
        filter: "",
        stands_by: false,
    },
    Floor {
        name: "empty program, no reader",
        job: Some(Job::Nothing),
        filter: "",
        stands_by: false,
    },
    Floor {
        name: "counter and clock only, no reader",
        job: Some(Job::Clock),
        filter: "",
        stands_by: false,
    },
    Floor {
        name: "tcpstate's program, no reader",
        job: Some(Job::Stream),
        filter: "",
        stands_by: false,
    },
    Floor {
        name: "both of tcpstate's programs, no reader",
        job: Some(Job::Stream),
        filter: "",
        stands_by: true,
    },
];

impl Floor<'_> {
    /// Returns the connections per second while it is attached. The ring holds every record.
    fn rate(&self, host: &Host, churn: &Churn, connections: u64) -> Result<f64> {
        let Some(job) = self.job else {
            return rate(churn, connections);
        };
        let filter = probe::of(self.filter);
        let plan = Plan {
            mode: Mode::Btf,
            ring_bytes: 64 << 20,
            filter: filter.kernel(),
            bpf_log: false,
            job,
        };
        let mut loaded = loader::load(host, &plan)?;
        loaded.attach()?;
        loaded.set_stand_by(self.stands_by)?;
        let rate = rate(churn, connections)?;
        loaded.detach()?;
        Ok(rate)
    }
}

/// The connections per second, as fast as possible.
pub fn rate(churn: &Churn, connections: u64) -> Result<f64> {
    let took = churn.run(connections, None)?;
    Ok(connections as f64 / took.as_secs_f64())
}

/// One transition in this many may be missing without being reported lost: some kernels run no BPF program
/// on top of certain tasks and count that nowhere. The kernel tests judge single transitions.
const UNCOUNTED_IN: u64 = 10_000;

/// tcpstate must report its losses; the tool that counts in the kernel must agree with the generator.
pub fn check(tool: &Tool, counted: tool::Counted, expected: u64) -> Result<()> {
    let tool::Counted {
        reported,
        reported_lost,
    } = counted;
    if tool.is_ours() {
        ensure!(
            reported <= expected
                && reported + reported_lost * tool.per_connection + expected / UNCOUNTED_IN
                    >= expected,
            "{}: reported {reported} of {expected}, and {reported_lost} as lost",
            tool.name
        );
    }
    if tool.name == tool::BPFTRACE_COUNT {
        ensure!(
            reported.abs_diff(expected) <= expected / UNCOUNTED_IN,
            "a connection is {} transitions, not {PER_CONNECTION}",
            reported as f64 * PER_CONNECTION as f64 / expected as f64
        );
    }
    Ok(())
}

/// The cost of each tool at a fixed load: 10,000 connections per second, 100,000 transitions.
fn paced(options: &Options, churn: &Churn, tools: &[Tool]) -> Result<Vec<Row>> {
    const PER_SECOND: u32 = 10_000;
    let seconds = options.pick(4, 1);
    let connections = u64::from(PER_SECOND) * seconds;
    let mut rows = Vec::new();
    // The peers' counts have been checked already.
    let wanted = |tool: &&Tool| tool.missing().is_none() && (tool.is_ours() || !options.quick);
    for tool in tools.iter().filter(wanted) {
        let mut percent = Vec::new();
        for _ in 0..options.rounds(3) {
            let running = Running::start(tool.name, tool.command(), tool.ready)?;
            let work = || churn.run(connections, Some(PER_SECOND));
            percent.push(running.percent_during(work)?.0);
            let ended = running.end()?;
            let counted = tool.count(&ended).context("at 10,000 connections/s")?;
            check(tool, counted, connections * tool.per_connection)?;
        }
        rows.push(Row::new(
            tool.name,
            "CPU of its process at 10,000 connections/s, % of a core",
            &percent,
        ));
    }
    Ok(rows)
}
