//! `probe`: the cost of one run of each BPF program, beside the floor: an empty program on the same
//! tracepoint.
//!
//! The kernel measures (`BPF_ENABLE_STATS`); the floor includes the cost of measuring. This process loads
//! tcpstate's programs, with a ring that holds everything, so that no reader interferes: the work of the program itself. A
//! user pays more, since a process reads what it writes: so tcpstate also runs as processes, as the other tools do.
//! There are two loads: a storm without the network, and a churn of connections.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use tcpstate_capture::{
    host::Host,
    loader::{self, Job, Loaded, Plan},
    ring::Ring,
};
use tcpstate_core::{
    expression::{Expression, Necessary, NoNames},
    mode::Mode,
    tally::TallySize,
};

use crate::{
    Options,
    generator::{Churn, PER_CONNECTION, Storm},
    process::{ProgramRuns, Ready, Running, programs},
    report::{Row, ratios},
    second,
    tool::{self, Tool},
};

/// One case to measure.
struct Case {
    name: String,
    what: What,
}

enum What {
    Ours {
        mode: Mode,
        job: Job,
        filter: Necessary,
    },
    /// A process that loads programs and reads what they write: tcpstate as it is used, or a peer.
    Process(Tool),
}

/// The first two cases: the floor for tcpstate's programs, and tcpstate's program, to which the peers are
/// compared.
const EMPTY: &str = "empty, btf";
const FULL: &str = "full record, btf";
/// The figures of the second program.
const SECOND_STORM: &str = "ns of CPU per transition, storm";
const SECOND_CHURN: &str = "ns of CPU per transition, churn";

pub fn run(options: &Options) -> Result<Vec<Row>> {
    let host = Host::read();
    let cases = cases();
    let churn = Churn::new()?;
    let storm = Storm::new()?;
    let (turns, connections) = options.pick((50_000, 2_000), (2_000, 200));
    let churned = || -> Result<u64> {
        churn.run(connections, None)?;
        Ok(connections * PER_CONNECTION)
    };
    let stormed = || -> Result<u64> {
        for _ in 0..turns {
            storm.turn();
        }
        Ok(2 * turns)
    };
    let loads: [(&str, &dyn Fn() -> Result<u64>); 2] = [
        ("ns per run, storm", &stormed),
        ("ns per run, churn", &churned),
    ];
    let rounds = options.rounds(11);
    let mut rows = Vec::new();
    let churned_a_little = || -> Result<u64> {
        churn.run(connections / 20, None)?;
        Ok(connections / 20 * PER_CONNECTION)
    };
    let stormed_a_little = || -> Result<u64> {
        for _ in 0..turns / 50 {
            storm.turn();
        }
        Ok(turns / 50 * 2)
    };
    let little: [(&str, &dyn Fn() -> Result<u64>); 2] = [
        (SECOND_STORM, &stormed_a_little),
        (SECOND_CHURN, &churned_a_little),
    ];
    for (figure, load) in little {
        rows.extend(second::rows(&host, figure, load, rounds)?);
    }
    // Not before: measuring costs more than the second program.
    let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime)
        .context("make the kernel measure BPF programs (requires root)")?;
    for (figure, load) in loads {
        let mut costs: Vec<Vec<f64>> = cases.iter().map(|_| Vec::new()).collect();
        for round in 1..=rounds {
            eprintln!("probe: {figure}, round {round} of {rounds}");
            for (case, costs) in cases.iter().zip(&mut costs) {
                if case.missing().is_none() {
                    costs.push(
                        case.measure(&host, load)
                            .with_context(|| case.name.clone())?,
                    );
                }
            }
        }
        for (case, values) in cases.iter().zip(&costs) {
            if let Some(why) = case.missing() {
                rows.push(Row::missing(&case.name, figure, why));
                continue;
            }
            let (of, floor) = match &case.what {
                What::Process(tool) if !tool.is_ours() => (FULL, 1),
                What::Ours { .. } | What::Process(_) => (EMPTY, 0),
            };
            rows.push(
                Row::new(&case.name, figure, values).ratio(of, &ratios(values, &costs[floor])),
            );
        }
    }
    Ok(rows)
}

/// Matches what no load makes.
const ONE_OTHER_HOST: &str = "dst 192.0.2.1";
/// All that the loads make has none of these.
const ONE_OTHER_NET: &str = "not dst 192.0.2.0/24";
/// As many conditions as there is room for, all true.
const EIGHT_OTHER_NETS: &str = "not dst 192.0.2.0/24 not dst 198.51.100.0/24 not dst 203.0.113.0/24 \
    not src 192.0.2.0/24 not src 198.51.100.0/24 not src 203.0.113.0/25 \
    not dst [2001:db8::]/32 not src [2001:db8:1::]/48";

/// The part of an expression for the programs, which is all of it.
pub fn of(expression: &str) -> Necessary {
    let expression = Expression::parse(expression, &NoNames).expect("an expression");
    let necessary = expression.necessary();
    assert!(necessary.rest().wants_all(), "{expression}");
    necessary
}

/// [`EMPTY`], [`FULL`] and the other cases.
fn cases() -> Vec<Case> {
    let ours = |name: &str, mode, job, filter: &str| Case {
        name: name.to_owned(),
        what: What::Ours {
            mode,
            job,
            filter: of(filter),
        },
    };
    let stream = Job::Stream;
    let tally = Job::Tally(TallySize {
        services: 1_024,
        sockets: 1_000_000,
    });
    let (btf, tracepoint) = (Mode::Btf, Mode::Tracepoint);
    let mut cases = vec![
        ours(EMPTY, btf, Job::Nothing, ""),
        ours(FULL, btf, stream, ""),
        ours("counter and clock only, btf", btf, Job::Clock, ""),
        ours("counting in the kernel, btf", btf, tally, ""),
        ours("filter that passes, btf", btf, stream, "port 1-65535"),
        ours("filter that drops, btf", btf, stream, "port 1"),
        ours("prefix that passes, btf", btf, stream, ONE_OTHER_NET),
        ours("8 prefixes that pass, btf", btf, stream, EIGHT_OTHER_NETS),
        ours("prefix that drops, btf", btf, stream, ONE_OTHER_HOST),
        ours("empty, tracepoint", tracepoint, Job::Nothing, ""),
        ours("full record, tracepoint", tracepoint, stream, ""),
        ours(
            "filter that drops, tracepoint",
            tracepoint,
            stream,
            "port 1",
        ),
        ours(
            "prefix that drops, tracepoint",
            tracepoint,
            stream,
            ONE_OTHER_HOST,
        ),
    ];
    let peers = tool::peers().into_iter();
    let processes = tool::unfiltered()
        .into_iter()
        .chain(peers.filter(|peer| peer.ready == Ready::Runs));
    cases.extend(processes.map(|tool| Case {
        name: tool.name.to_owned(),
        what: What::Process(tool),
    }));
    cases
}

impl Case {
    fn missing(&self) -> Option<String> {
        match &self.what {
            What::Ours { .. } => None,
            What::Process(tool) => tool.missing(),
        }
    }

    /// Returns the nanoseconds per run of the program under a load. Fails unless the program ran for each
    /// transition that the load reports to have made.
    fn measure(&self, host: &Host, load: &dyn Fn() -> Result<u64>) -> Result<f64> {
        let (runs, made) = match &self.what {
            What::Ours { mode, job, filter } => measure_ours(host, (*mode, *job, filter), load)?,
            What::Process(tool) => {
                let running = Running::start(tool.name, tool.command(), tool.ready)?;
                let before = programs(running.id())?;
                let made = load()?;
                let after = programs(running.id())?;
                (busiest(&before, &after)?, made)
            }
        };
        ensure!(
            runs.run_count + runs.recursion_misses >= made,
            "{} runs for {made} transitions",
            runs.run_count
        );
        Ok(runs.run_ns as f64 / runs.run_count as f64)
    }
}

/// The runs in between of the program that took the most time: the second one of tcpstate does nothing at most
/// transitions (see `second` for its cost), and others are for other events.
fn busiest(
    before: &BTreeMap<u64, ProgramRuns>,
    after: &BTreeMap<u64, ProgramRuns>,
) -> Result<ProgramRuns> {
    let since = after.iter().map(|(id, now)| {
        let then = before.get(id).copied().unwrap_or_default();
        ProgramRuns {
            run_ns: now.run_ns - then.run_ns,
            run_count: now.run_count - then.run_count,
            ..*now
        }
    });
    since
        .max_by_key(|runs| runs.run_ns)
        .context("it holds no program")
}

/// Attaches tcpstate's program, or the empty one, while the load runs.
fn measure_ours(
    host: &Host,
    (attach, job, filter): (Mode, Job, &Necessary),
    load: &dyn Fn() -> Result<u64>,
) -> Result<(ProgramRuns, u64)> {
    let plan = Plan {
        mode: attach,
        ring_bytes: 64 << 20,
        filter: filter.kernel(),
        bpf_log: false,
        job,
    };
    let mut loaded: Loaded = loader::load(host, &plan)?;
    let mut ring: Ring = loaded.ring()?;
    loaded.attach()?;
    // As soon as it does under such a load: see `second` for what it costs.
    loaded.set_stand_by(false)?;
    let made = load()?;
    loaded.detach()?;
    // Nothing is read while it runs: the ring holds all records, and the reader's cost is not part of the
    // program's.
    ring.drain(usize::MAX, |_| ());
    let run = loaded.program_run()?;
    let runs = ProgramRuns {
        run_ns: run.run_ns,
        run_count: run.run_count,
        recursion_misses: run.recursion_misses,
    };
    Ok((runs, made))
}
