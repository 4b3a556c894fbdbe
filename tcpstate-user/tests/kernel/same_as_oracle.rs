//! `tcpstate trace` reports the transitions that bpftrace sees, in both attach modes; and both see the
//! transitions that the scenario claims.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use tcpstate_common::State;

use crate::{
    need::{ATTACH_MODES, Need, attach_needs, trial},
    net::unused_port,
    oracle::{self, Oracle, by_states, union},
    process::{Tcpstate, multiset, nested, state},
    traffic::{SCENARIOS, Scenario, churn, on_loopback, steps},
    transitions::Multiset,
};

pub fn add(trials: &mut Vec<Trial>) {
    for mode in ATTACH_MODES {
        for scenario in SCENARIOS {
            let needs = [&oracle::NEEDS, attach_needs(mode), scenario.needs].concat();
            trials.push(trial(
                format!("{mode}::same_as_oracle::{}", scenario.name),
                &needs,
                move || run_scenario(mode, scenario),
            ));
        }
        let needs: Vec<Need> = [&oracle::NEEDS, attach_needs(mode)].concat();
        trials.push(trial(
            format!("{mode}::same_as_oracle::churn"),
            &needs,
            move || run_churn(mode),
        ));
    }
}

/// The reports of both observers about the same traffic.
struct Observed<T> {
    value: T,
    oracle: Multiset,
    /// The number of transitions that the oracle knows it missed.
    missed: u64,
    lines: Vec<Value>,
    summary: Value,
}

/// Runs `make_traffic` while both observers watch the port.
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
    let (oracle, missed) = oracle.stop()?;
    let (lines, summary) = output.transitions()?;
    ensure!(
        summary["selection"]["passed"] == lines.len(),
        "{} lines: {summary}",
        lines.len()
    );
    Ok(Observed {
        value,
        oracle,
        missed,
        lines,
        summary,
    })
}

impl<T> Observed<T> {
    /// Checks that both saw the same, except for runs of BPF programs that the kernel skipped and counted. Returns what
    /// at least one of them saw.
    fn check_agree(&self) -> Result<Multiset> {
        let (books, nested) = (&self.summary["accounting"], nested(&self.summary)?);
        ensure!(
            books["lost"] == nested && books["rejected"] == 0,
            "lost some: {books}"
        );
        let ours = multiset(&self.lines)?;
        oracle::check_agree(&self.oracle, self.missed, &ours, nested)?;
        Ok(union(&self.oracle, &ours))
    }
}

fn run_scenario(mode: &str, scenario: &Scenario) -> Result<()> {
    let observed = observe(mode, 10_000, scenario.run)?;
    let seen = observed.check_agree()?;
    check_claims(mode, scenario, &observed, &seen)
}

fn check_claims(
    mode: &str,
    scenario: &Scenario,
    observed: &Observed<Vec<&'static str>>,
    seen: &Multiset,
) -> Result<()> {
    let paths: Vec<_> = observed.value.iter().map(|path| steps(path)).collect();
    let mut claimed = BTreeMap::<(State, State), u64>::new();
    for step in paths.iter().flatten() {
        *claimed.entry(*step).or_default() += 1;
    }
    let mut seen = by_states(seen);
    if scenario.repeats {
        seen.retain(|(oldstate, newstate), _| oldstate != newstate);
    }
    ensure!(
        seen == claimed,
        "the traffic is not the claimed one\nclaimed {claimed:?}\nseen {seen:?}"
    );
    if scenario.needs.contains(&Need::Mptcp) {
        let books = &observed.summary["accounting"];
        let others = books["filtered_by_reason"]["protocol"].as_u64();
        ensure!(
            others > Some(0),
            "MPTCP's own sockets were not seen: {books}"
        );
    }
    // The classic tracepoint has no cookie, and an older kernel gives none to tracing programs.
    if mode == "btf" && Need::Cookie.missing().is_none() {
        check_paths(&observed.lines, paths, scenario.repeats)?;
    }
    Ok(())
}

/// Checks that the transitions of each cookie, in reported order, are the path of one of the sockets.
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
    // Older kernels set the cookie of a child right after its first transition.
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
    observed.check_agree()?;
    // For each connection there was an attempt that the oracle saw or knows it missed.
    let opened = by_states(&observed.oracle)
        .get(&(State::CLOSE, State::SYN_SENT))
        .copied();
    let opened = opened.unwrap_or_default();
    let connections = observed.value;
    ensure!(
        (connections.saturating_sub(observed.missed)..=connections).contains(&opened),
        "{connections} connections, the oracle saw {opened}"
    );
    Ok(())
}
