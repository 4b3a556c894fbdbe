//! Other users of the same tracepoint: further instances of tcpstate, and other tools.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    need::{Need, trial},
    net::{await_that, unused_port},
    oracle::{NEEDS, Oracle, difference, until_all_is_seen},
    process::{Running, Tcpstate, multiset, nested, run},
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
    let needs = [
        &NEEDS[..],
        &[Need::Program("tcpstates"), Need::Program("bpftool")],
    ]
    .concat();
    trials.push(trial("faults::other_tools", &needs, other_tools));
}

fn scenario() -> Result<&'static Scenario> {
    let named = |scenario: &&Scenario| scenario.name == "two_hundred_connections";
    SCENARIOS.iter().find(named).context("the scenario")
}

/// Every instance sees all transitions, as if it were alone.
fn side_by_side(instances: usize) -> Result<()> {
    let scenario = scenario()?;
    until_all_is_seen(|| {
        let port = unused_port();
        let start = |_| Tcpstate::start(&["trace", "--json", "-P", &port.to_string()]);
        let started = (0..instances).map(start).collect::<Result<Vec<_>>>()?;
        let paths = (scenario.run)(port)?;
        let made: usize = paths.iter().map(|path| path.split(' ').count() - 1).sum();
        let mut all_seen = true;
        let mut first = None;
        for tcpstate in started {
            let (lines, summary) = tcpstate.stop()?.transitions()?;
            let nested = nested(&summary)?;
            ensure!(
                summary["accounting"]["lost"] == nested,
                "lost some: {summary}"
            );
            all_seen &= nested == 0;
            let seen = multiset(&lines)?;
            if nested == 0 {
                ensure!(lines.len() == made, "{} of {made}: {summary}", lines.len());
                let first = first.get_or_insert_with(|| seen.clone());
                ensure!(*first == seen, "{}", difference(first, &seen));
            }
        }
        Ok(all_seen.then_some(()))
    })
}

/// With bpftrace and `tcpstates` attached too, tcpstate and bpftrace see the same.
fn other_tools() -> Result<()> {
    let scenario = scenario()?;
    until_all_is_seen(|| {
        let port = unused_port();
        let _tcpstates = tcpstates()?;
        let oracle = Oracle::start(port, 10_000)?;
        let tcpstate = Tcpstate::start(&["trace", "--json", "-P", &port.to_string()])?;
        (scenario.run)(port)?;
        let (lines, summary) = tcpstate.stop()?.transitions()?;
        let (oracle, missed) = oracle.stop()?;
        let nested = nested(&summary)?;
        ensure!(
            summary["accounting"]["lost"] == nested,
            "lost some: {summary}"
        );
        if (missed, nested) != (0, 0) {
            return Ok(None);
        }
        let ours = multiset(&lines)?;
        ensure!(oracle == ours, "{}", difference(&oracle, &ours));
        Ok(Some(()))
    })
}

/// A running `tcpstates`, attached.
fn tcpstates() -> Result<Running> {
    let before = tcpstates_links()?;
    let mut command = Command::new("tcpstates");
    // It reports its own losses there, which do not matter here.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = Running::new(&mut command)?;
    await_that("tcpstates is attached", || {
        Ok(!tcpstates_links()?.is_subset(&before))
    })?;
    Ok(child)
}

/// The BPF links of `tcpstates`, by bpftool.
fn tcpstates_links() -> Result<BTreeSet<u64>> {
    let list = |kind: &str| -> Result<Vec<Value>> {
        let output = run("bpftool", &["--json", kind, "list"])?;
        serde_json::from_str(&output.stdout).with_context(|| format!("bpftool {kind} list"))
    };
    let number = |value: &Value| value.as_u64();
    let programs = list("prog")?;
    let programs: BTreeSet<_> = programs
        .iter()
        .filter(|program| program["name"] == "handle_set_state")
        .filter_map(|program| number(&program["id"]))
        .collect();
    let links = list("link")?;
    let links = links
        .iter()
        .filter(|link| number(&link["prog_id"]).is_some_and(|id| programs.contains(&id)));
    Ok(links.filter_map(|link| number(&link["id"])).collect())
}
