//! The oracle of `tcpstate ls`: `ss`, run in the namespace of the calling thread.
//!
//! It uses the same kernel interface, with code of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context as _, Result, bail, ensure};
use tcpstate_common::State;

use crate::{net::await_that, process::run};

/// The compared fields of a socket.
pub type Line = (State, SocketAddr, SocketAddr);

/// Runs `ss -tan` in the namespace of the calling thread.
pub fn oracle(more: &[&str]) -> Result<Vec<Line>> {
    let output = run("ss", &[&["-HOtan"], more].concat())?;
    ensure!(output.status.success(), "ss: {}", output.stderr);
    let mut lines = output
        .stdout
        .lines()
        .map(|line| ss_line(line).with_context(|| format!("ss: {line}")))
        .collect::<Result<Vec<_>>>()?;
    lines.sort_unstable();
    Ok(lines)
}

/// *Source:* `sstate_name` in `misc/ss.c` of iproute2.
fn ss_line(line: &str) -> Result<Line> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [name, _, _, local, remote, ..] = words[..] else {
        bail!("too few columns");
    };
    let state = match name {
        "ESTAB" => State::ESTABLISHED,
        "SYN-SENT" => State::SYN_SENT,
        "SYN-RECV" => State::SYN_RECV,
        "FIN-WAIT-1" => State::FIN_WAIT1,
        "FIN-WAIT-2" => State::FIN_WAIT2,
        "TIME-WAIT" => State::TIME_WAIT,
        "UNCONN" => State::CLOSE,
        "CLOSE-WAIT" => State::CLOSE_WAIT,
        "LAST-ACK" => State::LAST_ACK,
        "LISTEN" => State::LISTEN,
        "CLOSING" => State::CLOSING,
        other => bail!("no state {other}"),
    };
    let end = |text: &str| -> Result<SocketAddr> {
        let (addr, port) = text.rsplit_once(':').context("no port")?;
        let addr = match addr {
            // The socket is not for IPv6 only.
            "*" => IpAddr::from(Ipv6Addr::UNSPECIFIED),
            addr => addr.trim_matches(['[', ']']).parse::<IpAddr>()?,
        };
        let port = if port == "*" { 0 } else { port.parse()? };
        Ok((addr.to_canonical(), port).into())
    };
    Ok((state, end(local)?, end(remote)?))
}

/// Checks that both agree, and that the namespace was at rest meanwhile.
pub fn compare(ours: impl FnOnce() -> Result<Vec<Line>>, ss: &[&str]) -> Result<Vec<Line>> {
    let before = oracle(ss)?;
    let ours = ours()?;
    let after = oracle(ss)?;
    ensure!(before == after, "the namespace is not at rest");
    if ours != after {
        let (a, b): (BTreeSet<_>, BTreeSet<_>) = (ours.iter().collect(), after.iter().collect());
        bail!(
            "{} sockets, {} in ss; only here: {:?}; only in ss: {:?}",
            ours.len(),
            after.len(),
            a.difference(&b).take(20).collect::<Vec<_>>(),
            b.difference(&a).take(20).collect::<Vec<_>>()
        );
    }
    Ok(ours)
}

pub fn by_state(lines: &[Line]) -> BTreeMap<State, usize> {
    let mut count = BTreeMap::new();
    for (state, ..) in lines {
        *count.entry(*state).or_default() += 1;
    }
    count
}

/// Waits until the counts of `ss` in the namespace meet a condition.
pub fn await_states(what: &str, is_so: impl Fn(&BTreeMap<State, usize>) -> bool) -> Result<()> {
    await_that(what, || Ok(is_so(&by_state(&oracle(&[])?))))
}
