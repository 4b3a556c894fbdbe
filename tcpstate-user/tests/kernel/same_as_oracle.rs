//! What `tcpstate trace` reports is what bpftrace sees, transition by transition, in both attach modes;
//! and what both see is what the traffic claims to be.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use tcpstate_common::State;

use crate::{
    ATTACH_MODES, attach_needs,
    need::{Need, alone, trial},
    net::unused_port,
    oracle::{self, Multiset, Oracle, by_states, difference},
    process::{Tcpstate, multiset, state},
    traffic::{SCENARIOS, Scenario, churn, on_loopback, steps},
};

pub fn add(trials: &mut Vec<Trial>) {
    for mode in ATTACH_MODES {
        for scenario in SCENARIOS {
            let needs = [&oracle::NEEDS, attach_needs(mode), scenario.needs].concat();
            trials.push(trial(
                format!("{mode}::{}", scenario.name),
                &needs,
                move || run_scenario(mode, scenario),
            ));
        }
        let needs: Vec<Need> = [&oracle::NEEDS, attach_needs(mode)].concat();
        trials.push(alone(format!("{mode}::churn"), &needs, move || {
            run_churn(mode)
        }));
    }
}

/// What both observers report of the same traffic.
struct Observed<T> {
    value: T,
    oracle: Multiset,
    lines: Vec<Value>,
    books: Value,
}

/// Has both observers watch the port while `make_traffic` runs.
fn observe<T>(
    mode: &str,
    keys: u32,
    make_traffic: impl FnOnce(u16) -> Result<T>,
) -> Result<Observed<T>> {
    let port = unused_port();
    let oracle = Oracle::start(port, keys)?;
    let tcpstate = Tcpstate::start(&[
        "trace",
        "--json",
        "--attach",
        mode,
        "--port",
        &port.to_string(),
    ])?;
    let value = make_traffic(port)?;
    let output = tcpstate.stop()?;
    let oracle = oracle.stop()?;
    let (lines, summary) = output.transitions()?;
    let books = summary["accounting"].clone();
    ensure!(
        books["lost"] == 0 && books["rejected"] == 0,
        "lost some: {books}"
    );
    ensure!(
        summary["selection"]["passed"] == lines.len(),
        "{} lines: {summary}",
        lines.len()
    );
    if let Some(difference) = difference(&oracle, &multiset(&lines)?) {
        bail!("{difference}");
    }
    Ok(Observed {
        value,
        oracle,
        lines,
        books,
    })
}

fn run_scenario(mode: &str, scenario: &Scenario) -> Result<()> {
    let observed = observe(mode, 10_000, scenario.run)?;
    let paths: Vec<_> = observed.value.iter().map(|path| steps(path)).collect();
    let mut claimed = BTreeMap::<(State, State), u64>::new();
    for step in paths.iter().flatten() {
        *claimed.entry(*step).or_default() += 1;
    }
    let mut seen = by_states(&observed.oracle);
    if scenario.repeats {
        seen.retain(|(oldstate, newstate), _| oldstate != newstate);
    }
    ensure!(
        seen == claimed,
        "the traffic is not what it claims\nclaimed {claimed:?}\nseen {seen:?}"
    );
    if scenario.needs.contains(&Need::Mptcp) {
        let others = observed.books["filtered_by_reason"]["protocol"].as_u64();
        ensure!(
            others > Some(0),
            "MPTCP's own sockets did not pass by: {}",
            observed.books
        );
    }
    // The classic tracepoint knows no cookie.
    if mode == "btf" {
        check_paths(&observed.lines, paths, scenario.repeats)?;
    }
    Ok(())
}

/// Each cookie's transitions, in the order reported, are the path of one of the sockets.
fn check_paths(
    lines: &[Value],
    mut claimed: Vec<Vec<(State, State)>>,
    repeats: bool,
) -> Result<()> {
    let mut by_cookie = BTreeMap::<Option<u64>, Vec<(State, State)>>::new();
    for line in lines {
        let step = (state(&line["oldstate"])?, state(&line["newstate"])?);
        if !(repeats && step.0 == step.1) {
            by_cookie
                .entry(line["cookie"].as_u64())
                .or_default()
                .push(step);
        }
    }
    // Older kernels give a child its cookie right after its birth.
    let birth = (State::LISTEN, State::SYN_RECV);
    let without = by_cookie.remove(&None).unwrap_or_default();
    ensure!(
        without.iter().all(|step| *step == birth),
        "without a cookie: {without:?}"
    );
    let mut seen: Vec<_> = by_cookie.into_values().collect();
    if !without.is_empty() {
        for path in claimed
            .iter_mut()
            .filter(|path| path.first() == Some(&birth))
        {
            path.remove(0);
        }
    }
    seen.sort();
    claimed.sort();
    ensure!(
        seen == claimed,
        "the paths differ\nclaimed {claimed:?}\nseen {seen:?}"
    );
    Ok(())
}

fn run_churn(mode: &str) -> Result<()> {
    let observed = observe(mode, 400_000, |port| {
        on_loopback(|| churn(port, Duration::from_secs(5)))
    })?;
    let connections = observed.value;
    let opened = by_states(&observed.oracle)
        .get(&(State::CLOSE, State::SYN_SENT))
        .copied();
    ensure!(
        opened == Some(connections),
        "{connections} connections, the oracle saw {opened:?}"
    );
    Ok(())
}
