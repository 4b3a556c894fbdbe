//! What `tcpstate trace` reports is what bpftrace sees, transition by transition.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use tcpstate_common::State;

use crate::{
    need::trial,
    net::unused_port,
    oracle::{self, Oracle, by_states},
    traffic::{SCENARIOS, Scenario, steps},
};

pub fn add(trials: &mut Vec<Trial>) {
    for scenario in SCENARIOS {
        let needs = [&oracle::NEEDS, scenario.needs].concat();
        trials.push(trial(format!("kernel::{}", scenario.name), &needs, || {
            really_happens(scenario)
        }));
    }
}

fn really_happens(scenario: &Scenario) -> Result<()> {
    let port = unused_port();
    let oracle = Oracle::start(port)?;
    let paths = (scenario.run)(port)?;
    let seen = oracle.stop()?;
    let mut claimed = BTreeMap::<(State, State), u64>::new();
    for step in paths.iter().flat_map(|path| steps(path)) {
        *claimed.entry(step).or_default() += 1;
    }
    let mut seen = by_states(&seen);
    if scenario.repeats {
        seen.retain(|(oldstate, newstate), _| oldstate != newstate);
    }
    ensure!(seen == claimed, "claimed {claimed:?}\nseen {seen:?}");
    Ok(())
}
