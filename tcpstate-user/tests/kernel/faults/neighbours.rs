//! Other users of the same tracepoint: further instances of tcpstate, and other tools.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use crate::{
    need::{Need, trial},
    net::{await_that, unused_port},
    oracle::{NEEDS, Oracle, check_agree, difference, union},
    process::{Running, Tcpstate, add_skipped, bpf_ids, multiset, nested},
    traffic::{SCENARIOS, Scenario},
};

pub fn add(trials: &mut Vec<Trial>) {
    for instances in [2, 20] {
        trials.push(trial(
            format!("faults::instances_{instances}"),
            &[Need::Btf],
            move || side_by_side(instances),
        ));
    }
    let needs = [&NEEDS[..], &[Need::Program("tcpstates")]].concat();
    trials.push(trial("faults::other_tools", &needs, other_tools));
}

fn scenario() -> Result<&'static Scenario> {
    let named = |scenario: &&Scenario| scenario.name == "two_hundred_connections";
    SCENARIOS.iter().find(named).context("the scenario")
}

/// Every instance sees all transitions, as if it were alone.
fn side_by_side(instances: usize) -> Result<()> {
    let scenario = scenario()?;
    let port = unused_port();
    let start = |_| Tcpstate::start(&["trace", "--json", "-P", &port.to_string()]);
    let started = (0..instances).map(start).collect::<Result<Vec<_>>>()?;
    let made = made(&(scenario.run)(port)?);
    let outputs = started
        .into_iter()
        .map(|tcpstate| tcpstate.stop()?.transitions());
    let outputs = outputs.collect::<Result<Vec<_>>>()?;
    let least = outputs.iter().map(|(lines, _)| lines.len() as u64).min();
    if outputs
        .iter()
        .all(|(lines, _)| Some(lines.len() as u64) == least)
    {
        // None of them was shown what all lack.
        add_skipped(made.saturating_sub(least.unwrap_or(made)));
    }
    let mut first = None;
    for (lines, summary) in outputs {
        ensure!(
            summary["accounting"]["lost"] == nested(&summary)?,
            "lost some: {summary}"
        );
        let shown = lines.len() as u64;
        ensure!(shown == made, "{shown} of {made}: {summary}");
        let seen = multiset(&lines)?;
        let first = first.get_or_insert_with(|| seen.clone());
        ensure!(*first == seen, "{}", difference(first, &seen));
    }
    Ok(())
}

/// With bpftrace and `tcpstates` attached too, tcpstate and bpftrace see the same.
fn other_tools() -> Result<()> {
    let scenario = scenario()?;
    let port = unused_port();
    let _tcpstates = tcpstates()?;
    let oracle = Oracle::start(port, 10_000)?;
    let tcpstate = Tcpstate::start(&["trace", "--json", "-P", &port.to_string()])?;
    let paths = (scenario.run)(port)?;
    let output = tcpstate.stop()?;
    let (oracle, missed) = oracle.stop()?;
    let (lines, summary) = output.transitions()?;
    let nested = nested(&summary)?;
    ensure!(
        summary["accounting"]["lost"] == nested,
        "lost some: {summary}"
    );
    let ours = multiset(&lines)?;
    check_agree(&oracle, missed, &ours, nested)?;
    let seen: u64 = union(&oracle, &ours).values().sum();
    ensure!(seen == made(&paths), "{seen} seen: {paths:?}");
    Ok(())
}

/// The number of transitions on these paths.
fn made(paths: &[&str]) -> u64 {
    let each = paths.iter().map(|path| path.split(' ').count() as u64 - 1);
    each.sum()
}

/// A running `tcpstates`, attached.
fn tcpstates() -> Result<Running> {
    let mut command = Command::new("tcpstates");
    // It reports its own losses there, which do not matter here.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = Running::new(&mut command)?;
    // Others may run on this machine, so by what this one holds.
    await_that("tcpstates is attached", || {
        Ok(!bpf_ids(child.id(), "link_id:")?.is_empty())
    })?;
    Ok(child)
}
