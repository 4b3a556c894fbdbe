//! `rates --in-kernel`: the kernel's counts, compared with the streamed events of the same traffic, and with
//! `ss`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::net::Shutdown;
use serde_json::{Value, json};
use tcpstate_common::State;

use crate::{
    need::{Need, attach_needs, trial},
    net::{Connection, Netns, await_fin, await_that, joined, unused_port},
    oracle::attempts,
    process::{Output, Tcpstate, nested},
    ss,
    traffic::{SCENARIOS, Scenario, churn, storm},
};

pub fn add(trials: &mut Vec<Trial>) {
    let needs = attach_needs("btf");
    for scenario in SCENARIOS {
        trials.push(trial(
            format!("in_kernel::same_as_streamed::{}", scenario.name),
            &[needs, scenario.needs].concat(),
            move || same_as_streamed(&|port| (scenario.run)(port).map(drop)),
        ));
    }
    for (name, make) in [
        ("churn", a_churn as fn(u16) -> Result<()>),
        ("storm", a_storm),
    ] {
        trials.push(trial(
            format!("in_kernel::same_as_streamed::{name}"),
            needs,
            move || same_as_streamed(&make),
        ));
    }
    trials.push(trial("in_kernel::chooses_as_streamed", needs, chooses));
    trials.push(trial("in_kernel::intervals_add_up", needs, intervals));
    trials.push(trial("in_kernel::states_are_those_of_ss", needs, states));
    // With streaming, their roles are known by their cookies.
    trials.push(trial(
        "in_kernel::there_before",
        &[needs, &[Need::Cookie]].concat(),
        there_before,
    ));
    trials.push(trial(
        "in_kernel::resets_of_others_are_theirs",
        needs,
        resets_of_others,
    ));
    trials.push(trial(
        "in_kernel::nothing_is_lost_without_room",
        needs,
        no_room,
    ));
}

fn a_churn(port: u16) -> Result<()> {
    Netns::new()?.run_until_quiet(|| churn(port, Duration::from_millis(700)).map(drop))
}

fn a_storm(port: u16) -> Result<()> {
    Netns::new()?.run(|| storm(port, 20_000))
}

/// Starts `rates` with one interval for the whole run.
fn rates(more: &[&str]) -> Result<Tcpstate> {
    Tcpstate::start(&[&["rates", "1h", "--json"], more].concat())
}

/// Runs both ways of counting while traffic is made, and interrupts them.
fn both(arguments: &[&str], make: &dyn Fn() -> Result<()>) -> Result<[Output; 2]> {
    let streamed = rates(arguments)?;
    let counted = rates(&[arguments, &["--in-kernel"]].concat())?;
    make()?;
    Ok([streamed.stop()?, counted.stop()?])
}

/// The line of the one interval, and the summary.
fn one_interval(output: &Output) -> Result<(Value, Value)> {
    let (mut lines, summary) = output.json()?;
    let line = lines.pop().context("no interval")?;
    ensure!(lines.is_empty(), "several intervals: {}", output.stdout);
    Ok((line, summary))
}

/// The fields of a line about its interval, without those about its end.
fn happened(line: &Value) -> Value {
    let names = [
        "transitions",
        "opened",
        "established",
        "closed",
        "failed",
        "causes",
    ];
    let of = |value: &Value| -> BTreeMap<String, Value> {
        let all = names.iter().map(|&name| {
            let mut value = value[name].clone();
            for transition in value.as_array_mut().into_iter().flatten() {
                // Rates differ because the intervals are not equally long.
                if let Some(fields) = transition.as_object_mut() {
                    fields.remove("rate");
                }
            }
            (name.to_owned(), value)
        });
        all.collect()
    };
    let ports = line["ports"].as_array().into_iter().flatten();
    let mut ports: Vec<_> = ports
        .filter(|port| port["transitions"] != json!([]))
        .map(|port| {
            (
                port["service_port"].to_string(),
                port["role"].to_string(),
                of(port),
            )
        })
        .collect();
    ports.sort_by_key(|(port, role, _)| (port.clone(), role.clone()));
    json!([of(line), ports])
}

/// The dwell times by state. Stays that no transition ends are sampled, or unknown.
fn dwell(line: &Value) -> Result<BTreeMap<String, Value>> {
    let all = line["dwell"].as_object().context("no dwell")?;
    let known = all.iter().filter(|(state, _)| *state != "TIME_WAIT");
    Ok(known
        .map(|(state, times)| (state.clone(), times.clone()))
        .collect())
}

/// The number of times that each transition was seen.
fn transitions(line: &Value) -> Result<BTreeMap<String, u64>> {
    let all = line["transitions"].as_array().context("no transitions")?;
    all.iter()
        .map(|one| {
            let count = one["count"].as_u64().context("no count")?;
            Ok((format!("{} {}", one["from"], one["to"]), count))
        })
        .collect()
}

/// Compares both outputs. Returns `None` if they differ by no more than the runs of the programs that the kernel
/// skipped.
fn same_but_for_skipped(outputs: &[Output; 2]) -> Result<Option<()>> {
    let [(streamed, summary), (counted, in_kernel)] =
        [one_interval(&outputs[0])?, one_interval(&outputs[1])?];
    let skipped = nested(&summary)? + nested(&in_kernel)?;
    match same(outputs) {
        Err(error) if skipped > 0 => {
            let (expected, found) = (transitions(&streamed)?, transitions(&counted)?);
            let states: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
            let count = |counts: &BTreeMap<_, _>, states| counts.get(states).copied().unwrap_or(0);
            let apart = states
                .into_iter()
                .map(|states| count(&expected, states).abs_diff(count(&found, states)));
            ensure!(
                apart.sum::<u64>() <= skipped,
                "{skipped} skipped; streamed {expected:?}, counted {found:?}: {error:#}"
            );
            Ok(None)
        }
        result => result.map(Some),
    }
}

/// Checks that both outputs say the same.
fn same([streamed, counted]: &[Output; 2]) -> Result<()> {
    let ((streamed, summary), (counted, in_kernel)) =
        (one_interval(streamed)?, one_interval(counted)?);
    let (expected, found) = (happened(&streamed), happened(&counted));
    ensure!(
        expected == found,
        "streamed {expected:#}, counted {found:#}"
    );
    // Not `undecided`: what the kernel cannot decide is that of the whole host.
    ensure!(
        summary["selection"]["passed"] == in_kernel["selection"]["passed"],
        "passed: {summary}, {in_kernel}"
    );
    ensure!(in_kernel["connections"].is_null(), "{in_kernel}");
    let (expected, found) = (dwell(&streamed)?, dwell(&counted)?);
    for (state, times) in &expected {
        let other = found.get(state);
        if state == "FIN_WAIT2" {
            // With streaming, orphans are followed, and their ends are sampled.
            let count = |times: &Value| times["count"].as_u64().unwrap_or(0);
            ensure!(
                other.map_or(0, count) <= count(times),
                "{expected:?}, {found:?}"
            );
            continue;
        }
        let other = other.with_context(|| format!("no {state}: {found:?}"))?;
        ensure!(
            times["count"] == other["count"],
            "{state}: {times}, {other}"
        );
    }
    ensure!(
        found.keys().all(|state| expected.contains_key(state)),
        "{found:?}"
    );
    Ok(())
}

/// If the kernel skips some transitions in every attempt, as a slow machine does with many concurrent
/// connections and two programs, the outputs agreed up to the skipped ones in every attempt.
fn same_as_streamed(make: &dyn Fn(u16) -> Result<()>) -> Result<()> {
    attempts(|| {
        let port = unused_port();
        same_but_for_skipped(&both(&["-P", &port.to_string()], &|| make(port))?)
    })
    .map(drop)
}

/// The filters pass the same events, also if the kernel cannot decide at once.
fn chooses() -> Result<()> {
    let (port, other) = (unused_port(), unused_port());
    let made = || -> Result<()> {
        for name in [
            "client_closes",
            "ipv6",
            "v4_mapped",
            "refused",
            "client_resets",
        ] {
            let is_it = |scenario: &&Scenario| scenario.name == name;
            let scenario = SCENARIOS.iter().find(is_it).context("no such scenario")?;
            (scenario.run)(port)?;
            (scenario.run)(other)?;
        }
        Ok(())
    };
    let port = port.to_string();
    for filter in [
        &["-L", &port][..],
        &["-D", &port],
        &["-P", &port, "-4"],
        &["-P", &port, "-6"],
        &["-P", &port, "dst", "127.0.0.0/8"],
        &["-P", &port, "not", "src", "127.0.0.0/8"],
        &["-P", &port, "src", "[::]/0", "or", "dst", "127.0.0.1"],
        &["not", "host", "127.0.0.1", "sport", &port],
    ] {
        both(filter, &made)
            .and_then(|outputs| same(&outputs))
            .with_context(|| format!("{filter:?}"))?;
    }
    Ok(())
}

/// The counts of all intervals sum to those of the whole run.
fn intervals() -> Result<()> {
    let port = unused_port();
    let port_argument = port.to_string();
    let short = Tcpstate::start(&[
        "rates",
        "50ms",
        "--in-kernel",
        "--json",
        "-P",
        &port_argument,
    ])?;
    let outputs = both(&["-P", &port_argument], &|| a_churn(port))?;
    let (lines, summary) = short.stop()?.json()?;
    same(&outputs)?;
    let (one, _) = one_interval(&outputs[1])?;
    add_up(&lines, &summary, &one)
}

fn add_up(lines: &[Value], summary: &Value, one: &Value) -> Result<()> {
    // Their number depends on the machine.
    ensure!(lines.len() > 1, "{} intervals", lines.len());
    let mut sums = BTreeMap::<(String, String), u64>::new();
    let (mut causes, mut without_cause) = (BTreeMap::<String, u64>::new(), 0);
    for line in lines {
        for transition in line["transitions"].as_array().context("no transitions")? {
            let key = (transition["from"].to_string(), transition["to"].to_string());
            *sums.entry(key).or_default() += transition["count"].as_u64().context("no count")?;
        }
        without_cause += line["closed"].as_i64().context("no closed")?;
        for (cause, count) in line["causes"].as_object().context("no causes")? {
            *causes.entry(cause.clone()).or_default() += count.as_u64().context("no count")?;
            // The cause of an end in the last moment of an interval may be counted in the next one.
            without_cause -= count.as_i64().context("no count")?;
        }
    }
    ensure!(without_cause == 0, "{without_cause} ends without a cause");
    ensure!(json!(causes) == one["causes"], "{causes:?}: {one}");
    let expected = one["transitions"].as_array().context("no transitions")?;
    ensure!(expected.len() == sums.len(), "{sums:?}, {expected:?}");
    for transition in expected {
        let key = (transition["from"].to_string(), transition["to"].to_string());
        ensure!(
            sums.get(&key).copied() == transition["count"].as_u64(),
            "{transition}: {sums:?}"
        );
    }
    for name in ["opened", "established", "closed", "failed"] {
        ensure!(summary[name] == one[name], "{name}: {summary}, {one}");
    }
    Ok(())
}

/// At rest, the number of sockets in each state is that of `ss`.
fn states() -> Result<()> {
    let netns = Netns::new()?;
    let path = netns.path();
    let path = path.to_str().context("a path in UTF-8")?;
    let counted = rates(&["--in-kernel", "--netns", path, "--sample-interval", "100ms"])?;
    let (output, expected) = netns.run(|| {
        let connections = (0..20)
            .map(|_| Connection::new((Ipv4Addr::LOCALHOST, unused_port())))
            .collect::<Result<Vec<_>>>()?;
        let mut held = Vec::new();
        for (at, connection) in connections.into_iter().enumerate() {
            let Connection {
                listener,
                client,
                server,
            } = connection;
            // A third is closed by the client only, and a third by both ends.
            match at % 3 {
                0 => held.push((listener, Some(client), Some(server))),
                1 => held.push((listener, None, Some(server))),
                _ => held.push((listener, None, None)),
            }
        }
        ss::await_states("they have closed", |states| {
            states.get(&State::CLOSE_WAIT) == Some(&7)
                && states.get(&State::FIN_WAIT2) == Some(&7)
                && states.get(&State::TIME_WAIT) == Some(&6)
        })?;
        let expected = ss::by_state(&ss::oracle(&[])?);
        Ok((counted.stop()?, expected))
    })?;
    let (line, _) = one_interval(&output)?;
    for (state, count) in expected {
        let found = &line["states"][state.name().context("no name")?];
        ensure!(found == count, "{state}: {found}, ss {count}: {line}");
    }
    Ok(())
}

/// Connections that existed before the program: their role follows from the listener.
fn there_before() -> Result<()> {
    let netns = Netns::new()?;
    let (connections, _listener) = netns.run(|| {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, unused_port()));
        let listener = TcpListener::bind(addr)?;
        let held = (0..50).map(|_| {
            let client = TcpStream::connect(addr)?;
            Ok((client, listener.accept()?.0))
        });
        Ok((held.collect::<Result<Vec<_>>>()?, listener))
    })?;
    let path = netns.path();
    // A process could not be found in it: it contains only sockets.
    let path = path.to_str().context("a path in UTF-8")?;
    let outputs = both(&["--netns", path], &|| {
        netns.run(|| {
            for (client, server) in &connections {
                rustix::net::shutdown(client, Shutdown::Both)?;
                await_fin(server)?;
                rustix::net::shutdown(server, Shutdown::Both)?;
            }
            // The last segment of the peer makes the other end's last transition.
            await_that("all are closed", || {
                Ok(!ss::by_state(&ss::oracle(&[])?).contains_key(&State::LAST_ACK))
            })
        })
    })?;
    same(&outputs)
}

/// Connections of another namespace are reset meanwhile, and their sockets take the memory, and so the addresses, of those
/// that have ended here: no end is taken for a reset.
fn resets_of_others() -> Result<()> {
    const MADE: u64 = 2_000;
    let (port, other) = (unused_port(), unused_port());
    let (netns, others) = (Netns::new()?, Netns::new()?);
    let counted = rates(&["--in-kernel", "-P", &port.to_string()])?;
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let resetting = scope.spawn(|| others.run(|| reset_until(&ended, other)));
        let made = netns.run_until_quiet(|| crate::rates::churn(port, |made| made < MADE));
        ended.store(true, Ordering::Relaxed);
        joined(resetting.join()).and(made)
    })?;
    let (line, _) = one_interval(&counted.stop()?)?;
    let causes = line["causes"].as_object().context("no causes")?;
    ensure!(causes.keys().eq(["fin"]), "{line}");
    Ok(())
}

/// Makes connections that are closed with unread data, one after the other.
fn reset_until(ended: &AtomicBool, port: u16) -> Result<()> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(addr)?;
    while !ended.load(Ordering::Relaxed) {
        let mut client = TcpStream::connect(addr)?;
        let (server, _) = listener.accept()?;
        client.write_all(b"nobody reads this")?;
        server.peek(&mut [0])?;
        drop(server);
    }
    Ok(())
}

/// Without room, connections are grouped less finely but still counted; connections that the filter excludes
/// take no room.
fn no_room() -> Result<()> {
    let bounds = ["--max-connections", "8", "--max-ports", "1"];
    let netns = Netns::new()?;
    let path = netns.path();
    let path = path.to_str().context("a path in UTF-8")?;
    let unwanted = rates(&[&["--in-kernel", "--netns", path, "-L", "1"], &bounds[..]].concat())?;
    let [streamed, counted] = both(&[&["--netns", path], &bounds[..]].concat(), &|| {
        netns.run_until_quiet(|| {
            let connections = (20_000..20_100)
                .map(|port| Connection::new((Ipv4Addr::LOCALHOST, port)))
                .collect::<Result<Vec<_>>>()?;
            drop(connections);
            Ok(())
        })
    })?;
    let (_, unwanted) = unwanted.stop()?.json()?;
    let ((streamed, _), (counted, summary)) = (one_interval(&streamed)?, one_interval(&counted)?);
    let all = |line: &Value| happened(line)[0].clone();
    ensure!(all(&streamed) == all(&counted), "{streamed:#}, {counted:#}");
    let ports = counted["ports"].as_array().context("no ports")?;
    ensure!(ports.len() <= 6, "{ports:#?}");
    ensure!(ports.iter().any(|port| port["other"] == true), "{ports:#?}");
    ensure!(summary["forgotten"].as_u64() > Some(0), "{summary}");
    // The filter could not decide at first on a hundred clients.
    ensure!(
        unwanted["forgotten"] == 0 && unwanted["selection"]["undecided"] == 100,
        "{unwanted}"
    );
    Ok(())
}
