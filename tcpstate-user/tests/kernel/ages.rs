//! Ages of which only a bound is known, beside the test's clock: the test makes the beginning itself, after one
//! reading of the clock, so that no bound may exceed the time since then.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    ls::list,
    need::{Need, trial},
    net::{Netns, await_that, drop_incoming, unused_port},
    process::Tcpstate,
    traffic::start_connecting,
};

pub fn add(trials: &mut Vec<Trial>) {
    let (nft, ip) = (Need::Program("nft"), Need::Program("ip"));
    trials.push(trial(
        "ages::syn_repeated",
        &[Need::Cookie, nft, ip],
        syn_repeated,
    ));
}

/// How far the kernel's clock for timers may be behind: on a virtual machine it stops while its CPU does not run.
const SLACK: Duration = Duration::from_millis(500);

/// Checks an age, exact or a bound, of which one is there at most, against the time since before it began.
fn check_age(exact: &Value, at_least: &Value, began: Instant, unit: Duration) -> Result<u64> {
    let of = |value: &Value| value.as_u64();
    let age = match (of(exact), of(at_least)) {
        (Some(_), Some(_)) => anyhow::bail!("an age and a bound: {exact}, {at_least}"),
        (age, bound) => age.or(bound).unwrap_or(0),
    };
    let longest = began.elapsed() + SLACK;
    ensure!(
        unit.as_nanos() * u128::from(age) <= longest.as_nanos(),
        "{age} x {unit:?} is more than {longest:?}"
    );
    Ok(age)
}

/// The client gets no SYN-ACK and repeats its SYN. The kernel answers each at once, and starts the timer of the
/// SYN-ACK again: neither `ls` nor `rates` takes that for the expiries that would make it much older.
fn syn_repeated() -> Result<()> {
    const NS: Duration = Duration::from_nanos(1);
    const MS: Duration = Duration::from_millis(1);
    let port = unused_port();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let netns = Netns::new()?;
    let path = netns.path();
    let path = path.to_str().context("a path that is no text")?;
    let tcpstate = Tcpstate::start(&[
        "rates",
        "1h",
        "--sample-interval",
        "50ms",
        "--json",
        "--netns",
        path,
    ])?;
    let (began, _client, listener) = netns.run(|| {
        drop_incoming(&[&format!(
            "tcp sport {port} tcp flags & (syn|ack) == syn|ack"
        )])?;
        let listener = TcpListener::bind(addr)?;
        let began = Instant::now();
        let client = start_connecting(None, addr)?;
        await_that("the SYN is repeated three times", || {
            let (sockets, _) = list(&["--state", "syn-recv,listen"])?;
            let with = |state: &str| sockets.iter().find(|socket| socket["state"] == state);
            let listening = with("LISTEN").context("no listener")?;
            let (exact, at_least) = ("half_open_oldest_ms", "half_open_oldest_at_least_ms");
            check_age(&listening[exact], &listening[at_least], began, MS)?;
            let Some(request) = with("SYN_RECV") else {
                return Ok(false);
            };
            check_age(&request["age_ns"], &request["age_at_least_ns"], began, NS)
                .with_context(|| request.to_string())?;
            let again = request["timer"]["retransmits"].as_u64();
            ensure!(
                again == Some(0) || request["age_ns"].is_null(),
                "exact, though the timer does not tell: {request}"
            );
            Ok(again >= Some(3))
        })?;
        Ok((began, client, listener))
    })?;
    let repeated = began.elapsed();
    let (lines, _) = tcpstate.stop()?.json()?;
    let line = lines.last().context("no interval")?;
    let place = &line["half_open"][0];
    ensure!(place["lport"] == port && place["count"] == 1, "{line}");
    let age_ns = check_age(&place["oldest_ns"], &place["oldest_at_least_ns"], began, NS)?;
    // It has been sampled since.
    ensure!(age_ns > 0, "{place}, after {repeated:?}");
    drop(listener);
    Ok(())
}
