//! The cost of the second program, which stands by for transitions that interrupt the first.
//!
//! The kernel's own figures about programs do not show it: to them a program that does nothing takes as long as a
//! measurement. So it shows in the CPU time of the loop that makes the transitions, with the first program alone
//! and with both, in turns: one pair a round, and each round begins with the other one. The difference is small, so
//! each turn is made of short parts, of which the least disturbed one counts.

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};
use tcpstate_capture::{
    host::Host,
    loader::{self, Job, Plan},
};
use tcpstate_core::{filter::Filter, mode::Mode};

use crate::report::{Row, ratios};

/// Parts of a turn. The least disturbed one counts.
const PARTS: usize = 50;

/// Measures a load, which returns the number of its transitions. Returns a row for the first program alone, one for
/// both, and one for the difference.
pub fn rows(
    host: &Host,
    figure: &'static str,
    load: &dyn Fn() -> Result<u64>,
    rounds: usize,
) -> Result<[Row; 3]> {
    const ALONE: &str = "first program alone";
    let filter = Filter::default();
    let plan = Plan {
        mode: Mode::Btf,
        // It holds all records of a turn, so that no reader interferes.
        ring_bytes: 64 << 20,
        filter: filter.kernel(),
        bpf_log: false,
        job: Job::Stream,
    };
    let mut loaded = loader::load(host, &plan)?;
    let mut ring = loaded.ring()?;
    loaded.attach()?;
    load()?;
    let (mut alone, mut both) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        eprintln!("probe: {figure}, round {round} of {rounds}");
        for turn in 0..2 {
            let is_alone = (round + turn).is_multiple_of(2);
            loaded.set_stand_by(!is_alone)?;
            ring.drain(usize::MAX, |_| ());
            let mut ns = f64::INFINITY;
            for _ in 0..PARTS {
                let before = cpu_ns();
                let made = load()?;
                ns = ns.min((cpu_ns() - before) / made as f64);
            }
            if is_alone {
                alone.push(ns);
            } else {
                both.push(ns);
            }
        }
    }
    let more: Vec<_> = both
        .iter()
        .zip(&alone)
        .map(|(both, alone)| both - alone)
        .collect();
    Ok([
        Row::new(ALONE, figure, &alone),
        Row::new("first and second program", figure, &both).ratio(ALONE, &ratios(&both, &alone)),
        Row::new("the second program", figure, &more),
    ])
}

/// User and system time of this thread.
fn cpu_ns() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}
