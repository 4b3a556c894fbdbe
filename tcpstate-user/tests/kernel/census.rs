//! Sockets that no transition shows: seeded sockets, minisockets and half-open connections, compared with
//! `ss`, the clock, and the test's own actions.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::net::{AddressFamily, sockopt};
use serde_json::Value;
use tcpstate_common::State;

use crate::{
    ages::SLACK,
    dwell::moment,
    every_state::{NO_ACK, ONE_OF_EACH, OPEN, drop_packets as drops, one_of_each},
    ls::list,
    need::{Need, trial},
    net::{
        Connection, Netns, allow_open_files, await_fin, await_that, joined, socket, unused_port,
    },
    oracle::attempts,
    process::{BINARY, Tcpstate, has_result, run, state},
    ss::{await_states, by_state, oracle},
    wire::Wire,
};

pub fn add(trials: &mut Vec<Trial>) {
    let needs = [
        Need::Cookie,
        Need::Program("ss"),
        Need::Program("nft"),
        Need::Program("ip"),
    ];
    trials.push(trial("census::every_state", &needs, every_state));
    trials.push(trial("census::orphan", &needs, orphan));
    trials.push(trial("census::nothing_kept", &needs, nothing_kept));
    trials.push(trial("census::half_open", &needs, half_open));
    trials.push(trial("census::ten_thousand", &needs, ten_thousand));
    trials.push(trial("census::recorded", &needs, recorded));
    trials.push(trial(
        "census::handshake",
        &[Need::Cookie, Need::Tun],
        handshake,
    ));
    trials.push(trial(
        "census::opened_before_the_list",
        &[Need::Cookie],
        opened_before_the_list,
    ));
}

/// Connections that open between the attaching and the first list of sockets, and stay, are whole. Five runs, as a change
/// of one of them may be one that no BPF program is shown.
fn opened_before_the_list() -> Result<()> {
    allow_open_files(4_096)?;
    let port = unused_port();
    let netns = Netns::new()?;
    let stop = AtomicBool::new(false);
    let open = || {
        netns.run(|| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
            let mut all = VecDeque::new();
            while !stop.load(Ordering::Acquire) {
                let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
                all.push_back((client, listener.accept()?));
                if all.len() > 1_000 {
                    all.pop_front();
                }
                thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        })
    };
    let watch = || -> Result<Vec<u64>> {
        let port = port.to_string();
        let args = ["hist", "--json", "--duration", "300ms", "-P", &port];
        (0..5)
            .map(|_| {
                let (_, summary) = run(BINARY, &args)?.json()?;
                let missing = &summary["connections"]["missing_inferred"];
                missing.as_u64().with_context(|| summary.to_string())
            })
            .collect()
    };
    let missing = thread::scope(|scope| {
        let opener = scope.spawn(open);
        let missing = watch();
        stop.store(true, Ordering::Release);
        joined(opener.join())?;
        missing
    })?;
    ensure!(
        missing.contains(&0),
        "changes missing in each run: {missing:?}"
    );
    Ok(())
}

/// The sample interval of the tests that need a short one.
const SHORT: &str = "50ms";

/// Starts `tcpstate` on one namespace.
fn start(netns: &Netns, args: &[&str]) -> Result<Tcpstate> {
    let path = netns.path();
    let path = path.to_str().context("a path that is no text")?;
    Tcpstate::start(&[args, &["--json", "--netns", path]].concat())
}

/// The number of sockets in each state, from the last line of `rates`.
fn last_states(tcpstate: Tcpstate) -> Result<BTreeMap<State, usize>> {
    let (lines, _) = tcpstate.stop()?.json()?;
    states(lines.last().context("no interval")?)
}

fn states(line: &Value) -> Result<BTreeMap<State, usize>> {
    let all = line["states"].as_object().context("no states")?;
    let mut found = BTreeMap::new();
    for (name, count) in all {
        // No connection is in CLOSE.
        let Some(count) = count.as_u64().filter(|&count| count > 0) else {
            continue;
        };
        found.insert(state(&Value::from(name.as_str()))?, usize::try_from(count)?);
    }
    Ok(found)
}

/// All states, in both families: a run that saw the transitions and a run that seeded with the sockets both
/// count them as `ss` does.
fn every_state() -> Result<()> {
    let netns = Netns::new()?;
    netns.run(drops)?;
    let witness = start(&netns, &["rates", "1h", "--sample-interval", SHORT])?;
    let (_kept, expected) = netns.run(|| {
        let kept = [
            one_of_each(Ipv4Addr::LOCALHOST.into())?,
            one_of_each(Ipv6Addr::LOCALHOST.into())?,
        ];
        let expected = BTreeMap::from(ONE_OF_EACH.map(|(state, n)| (state, 2 * n)));
        await_states("all states are reached", |count| *count == expected)?;
        Ok((kept, expected))
    })?;
    let finder = start(&netns, &["rates", "1h", "--sample-interval", SHORT])?;
    for (who, tcpstate) in [("witness", witness), ("finder", finder)] {
        let found = last_states(tcpstate)?;
        let of_ss = netns.run(|| Ok(by_state(&oracle(&[])?)))?;
        ensure!(of_ss == expected, "the namespace is not at rest: {of_ss:?}");
        ensure!(found == of_ss, "{who}: {found:?}, of ss: {of_ss:?}");
    }
    Ok(())
}

/// The dwell of a sampled stay in a state, and what it is exact to.
fn stay(line: &Value, name: &str) -> Result<(Duration, Duration)> {
    let states = line["states"].as_array().context("no states")?;
    let stay = states.iter().find(|stay| stay["state"] == name);
    let stay = stay.with_context(|| format!("no {name}: {line}"))?;
    let dwell_ns = stay["dwell_ns"].as_u64();
    let dwell_ns = dwell_ns.with_context(|| format!("no time in {name}: {line}"))?;
    ensure!(stay["sampled"] == true, "{name} was sampled: {line}");
    let interval_ns = stay["interval_ns"].as_u64();
    let interval_ns = interval_ns.context("a sampled time has its interval")?;
    Ok((
        Duration::from_nanos(dwell_ns),
        Duration::from_nanos(interval_ns),
    ))
}

/// Orphans whose peer closes after 2 s: 2 s in `FIN_WAIT2`, and then `TIME_WAIT` for a minute, or until
/// the next connection takes the port over.
fn orphan() -> Result<()> {
    const HELD: Duration = Duration::from_secs(2);
    const INTERVAL: Duration = Duration::from_secs(1);
    const REUSED: u16 = 40_001;
    const LEFT: u16 = 40_002;
    let netns = Netns::new()?;
    let tcpstate = start(&netns, &["life", "--until", "gone", "--role", "client"])?;
    let (fin_wait2, ends) = netns.run(|| {
        fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, OPEN))?;
        let to = listener.local_addr()?;
        let connect = |port: u16| -> Result<TcpStream> {
            let client = socket(AddressFamily::INET, None)?;
            sockopt::set_socket_reuseaddr(&client, true)?;
            rustix::net::bind(&client, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
            rustix::net::connect(&client, &to)?;
            Ok(client.into())
        };
        let mut servers = Vec::new();
        let (closed, ()) = moment(|| {
            for port in [REUSED, LEFT] {
                let client = connect(port)?;
                servers.push(listener.accept()?.0);
                drop(client);
            }
            servers.iter().try_for_each(await_fin)
        })?;
        thread::sleep(HELD);
        let time_wait = Instant::now();
        let (freed, ()) = moment(|| {
            drop(servers);
            await_states("both are in TIME_WAIT", |count| {
                count.get(&State::TIME_WAIT) == Some(&2)
            })
        })?;
        let fin_wait2 = closed.until(freed);
        // Long enough to be sampled in that state.
        thread::sleep(HELD + INTERVAL);
        let again = connect(REUSED)?;
        let reused_after = time_wait.elapsed();
        let second = listener.accept()?.0;
        // An orderly close by the other side, so that no minisocket is left here.
        drop(second);
        await_fin(&again)?;
        drop(again);
        let mut there_until = Duration::ZERO;
        await_minutes("the other one is gone", || {
            let before = time_wait.elapsed();
            let is_there = oracle(&[])?
                .iter()
                .any(|(_, local, _)| local.port() == LEFT);
            if is_there {
                there_until = before;
            }
            Ok(!is_there)
        })?;
        let ends = [
            (REUSED, reused_after, reused_after),
            (LEFT, there_until, time_wait.elapsed()),
        ];
        Ok((fin_wait2, ends))
    })?;
    let (lines, summary) = tcpstate.stop()?.json()?;
    let of = |port: u16| {
        let found = lines
            .iter()
            .find(|line| line["lport"] == port && line["states"].to_string().contains("TIME_WAIT"));
        found.with_context(|| format!("no line for {port}: {lines:?} {summary}"))
    };
    for (port, at_least, at_most) in ends {
        let line = of(port)?;
        let bounds = [fin_wait2.start(), fin_wait2.end()];
        let [shortest, longest] = bounds.map(|&ns| Duration::from_nanos(ns));
        let (dwell, interval) = stay(line, "FIN_WAIT2")?;
        ensure!(
            dwell + interval + SLACK > shortest && dwell < longest + interval + SLACK,
            "{shortest:?} to {longest:?} in FIN_WAIT2: {line}"
        );
        let (dwell, interval) = stay(line, "TIME_WAIT")?;
        // Its beginning was sampled too.
        let interval = 2 * interval + SLACK;
        ensure!(
            dwell + interval > at_least && dwell < at_most + interval,
            "{at_least:?} to {at_most:?} in TIME_WAIT: {line}"
        );
        ensure!(
            line["goes_on"].is_null() && line["cause"] == "fin",
            "{line}"
        );
        let sum: u64 = line["states"]
            .as_array()
            .context("states")?
            .iter()
            .filter_map(|stay| stay["dwell_ns"].as_u64())
            .sum();
        ensure!(line["lifetime_ns"] == sum, "{line}");
    }
    Ok(())
}

/// The kernel keeps nothing of two connections, for want of room for minisockets and by a negative `TCP_LINGER2`:
/// neither is shown in a state that it never was in.
fn nothing_kept() -> Result<()> {
    let netns = Netns::new()?;
    let every = ["--sample-interval", SHORT];
    let gone = ["life", "--until", "gone", "--role", "client"];
    let tcpstate = start(&netns, &[&gone[..], &every].concat())?;
    let ports = netns.run(|| {
        fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "0")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, OPEN))?;
        let to = listener.local_addr()?;
        let connect = || -> Result<(TcpStream, TcpStream, u16)> {
            let client = TcpStream::connect(to)?;
            let port = client.local_addr()?.port();
            Ok((client, listener.accept()?.0, port))
        };
        let (client, server, no_room) = connect()?;
        drop(client);
        await_fin(&server)?;
        let (client, server, no_linger) = connect()?;
        set_linger2(&client, -1)?;
        drop(client);
        await_fin(&server)?;
        // The server may delay its acknowledgement of the FIN.
        await_that("both are shown", || {
            Ok(tcpstate.written()?.lines().count() >= 2)
        })?;
        let kept = oracle(&["dport", &format!("= :{OPEN}")])?;
        ensure!(kept.is_empty(), "{kept:?}");
        Ok([no_room, no_linger])
    })?;
    let (lines, summary) = tcpstate.stop()?.json()?;
    ensure!(summary["not_gone"] == 0, "{summary}");
    for port in ports {
        let line = lines.iter().find(|line| line["lport"] == port);
        let line = line.with_context(|| format!("no line for {port}: {lines:?}"))?;
        let states = line["states"].as_array().context("states")?;
        let times: Vec<Option<u64>> = states
            .iter()
            .map(|stay| stay["dwell_ns"].as_u64())
            .collect();
        ensure!(
            states
                .last()
                .is_some_and(|stay| stay["state"] == "FIN_WAIT2")
                && line["goes_on"].is_null()
                && line["lifetime_ns"].as_u64() == times.into_iter().sum(),
            "{line}"
        );
    }
    Ok(())
}

/// Sets how long the kernel keeps the socket in `FIN_WAIT2` after it was closed; negative is not at all.
fn set_linger2(socket: &TcpStream, seconds: libc::c_int) -> Result<()> {
    let size = libc::socklen_t::try_from(size_of_val(&seconds))?;
    // SAFETY: the option's value is an int, whose address and size these are.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_LINGER2,
            (&raw const seconds).cast(),
            size,
        )
    };
    ensure!(result == 0, "setsockopt: {}", io::Error::last_os_error());
    Ok(())
}

/// Like [`await_that`], for kernel actions that take more than a minute.
fn await_minutes(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is_so()? {
        ensure!(
            start.elapsed() < Duration::from_mins(3),
            "waited in vain: {what}"
        );
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// A thousand handshakes without their last ACK: `rates` counts the same number as `ss`, by listener, and
/// they expire by the kernel's timers.
fn half_open() -> Result<()> {
    const COUNT: usize = 1000;
    let netns = Netns::new()?;
    let (_clients, _listener) = netns.run(|| {
        drops()?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, NO_ACK));
        let listener = socket(AddressFamily::INET, None)?;
        rustix::net::bind(&listener, &addr)?;
        rustix::net::listen(&listener, 4096)?;
        let clients = (0..COUNT).map(|_| TcpStream::connect(addr));
        Ok((clients.collect::<Result<Vec<_>, _>>()?, listener))
    })?;
    let tcpstate = start(&netns, &["rates", "1h", "--sample-interval", SHORT])?;
    let (lines, _) = tcpstate.stop()?.json()?;
    let line = lines.last().context("no interval")?;
    let of_ss = netns.run(|| Ok(by_state(&oracle(&[])?)))?;
    ensure!(of_ss[&State::SYN_RECV] == COUNT, "the test: {of_ss:?}");
    ensure!(states(line)? == of_ss, "of ss: {of_ss:?}: {line}");
    let half_open = line["half_open"].as_array().context("no half_open")?;
    ensure!(
        half_open.len() == 1
            && half_open[0]["lport"] == NO_ACK
            && half_open[0]["count"] == COUNT
            && ["oldest_ns", "oldest_at_least_ns"]
                .iter()
                .any(|name| half_open[0][name].as_u64() > Some(0)),
        "{line}"
    );
    let ports = line["ports"].as_array().context("no ports")?;
    let server = ports
        .iter()
        .find(|group| group["service_port"] == NO_ACK && group["role"] == "server");
    let server = server.context("no group of the listener")?;
    ensure!(server["states"]["SYN_RECV"] == COUNT, "{server}");

    let tcpstate = start(&netns, &["rates", "1h", "--sample-interval", SHORT])?;
    let of_ss = netns.run(|| {
        fs::write("/proc/sys/net/ipv4/tcp_synack_retries", "0")?;
        await_states("the half-open connections expire", |count| {
            !count.contains_key(&State::SYN_RECV)
        })?;
        Ok(by_state(&oracle(&[])?))
    })?;
    let (lines, _) = tcpstate.stop()?.json()?;
    let line = lines.last().context("no interval")?;
    let found = states(line)?;
    ensure!(found == of_ss, "{found:?}, of ss: {of_ss:?}");
    let again = line["listen"]["synack_retransmits"].as_u64();
    ensure!(again.is_some(), "it is not counted: {line}");
    Ok(())
}

/// 10,000 connections that exist at the start: known at once, with unknown ages. The counts stay right when
/// their clients close, also during the seeding.
fn ten_thousand() -> Result<()> {
    let counted = attempts(ten_thousand_are_counted)?;
    counted.context("the kernel gave up the clients in every attempt")
}

/// Returns `None` if the kernel may have given up the clients, which it does after a minute in `FIN_WAIT2`: a machine that
/// does much else may take as long for this.
fn ten_thousand_are_counted() -> Result<Option<()>> {
    const COUNT: usize = 10_000;
    const KEPT: Duration = Duration::from_secs(59);
    allow_open_files(COUNT as u64 + 500)?;
    let netns = Netns::new()?;
    // They are not accepted, so that the other ends need no file descriptors.
    let (_listener, clients) = netns.run(|| {
        fs::write("/proc/sys/net/core/somaxconn", "20000")?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, OPEN));
        let listener = socket(AddressFamily::INET, None)?;
        rustix::net::bind(&listener, &addr)?;
        rustix::net::listen(&listener, 20_000)?;
        let clients = (0..COUNT).map(|_| TcpStream::connect(addr));
        Ok((listener, clients.collect::<Result<Vec<_>, _>>()?))
    })?;
    let expected = BTreeMap::from([(State::ESTABLISHED, 2 * COUNT), (State::LISTEN, 1)]);
    let first = start(&netns, &["rates", "100ms", "--sample-interval", SHORT])?;
    let life = start(&netns, &["life", "--live"])?;
    let (lines, _) = life.stop()?.json()?;
    ensure!(lines.len() == 2 * COUNT, "{} lines", lines.len());
    for line in &lines {
        ensure!(
            line["lifetime_ns"].is_null() && line["states"][0]["dwell_ns"].is_null(),
            "it existed before: {line}"
        );
    }
    let (listed, _) = netns.run(|| list(&["--state", "established"]))?;
    ensure!(
        listed.len() == 2 * COUNT && listed.iter().all(|line| line["age_ns"].is_null()),
        "{} in ls",
        listed.len()
    );
    // It is attached, and seeding.
    let second = start(&netns, &["rates", "100ms", "--sample-interval", SHORT])?;
    let closed = Instant::now();
    drop(clients);
    let of_ss = BTreeMap::from([
        (State::LISTEN, 1),
        (State::CLOSE_WAIT, COUNT),
        (State::FIN_WAIT2, COUNT),
    ]);
    netns.run(|| {
        await_states("all clients are closed", |count| {
            *count == of_ss || closed.elapsed() > KEPT
        })
    })?;
    let outputs = [first.stop()?, second.stop()?];
    if closed.elapsed() > KEPT {
        return Ok(None);
    }
    for (who, output) in ["first", "second"].into_iter().zip(outputs) {
        let (lines, summary) = output.json()?;
        if who == "first" {
            let found = states(lines.first().context("no interval")?)?;
            ensure!(found == expected, "at once: {found:?}");
        }
        for line in &lines {
            for (state, count) in states(line)? {
                ensure!(count <= 2 * COUNT + 1, "{state} {count}: {line}");
            }
        }
        let found = states(lines.last().context("no interval")?)?;
        ensure!(
            found == of_ss,
            "{who}: {found:?}, of ss: {of_ss:?}: {summary}"
        );
    }
    Ok(Some(()))
}

/// A recording contains the censuses, and shows them as they were shown live.
fn recorded() -> Result<()> {
    let netns = Netns::new()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("recording");
    let file = file.to_str().context("a path that is no text")?;
    let before: Vec<Connection> = netns.run(|| {
        drops()?;
        let connect = |port| Connection::new((Ipv4Addr::LOCALHOST, port));
        (3000..3005).map(connect).collect()
    })?;
    let recorder = start(&netns, &["record", "-w", file, "--sample-interval", SHORT])?;
    let after = netns.run(|| {
        drop(before);
        one_of_each(Ipv6Addr::LOCALHOST.into())
    })?;
    let of_ss = netns.run(|| {
        let mut expected = BTreeMap::from(ONE_OF_EACH);
        *expected.entry(State::TIME_WAIT).or_default() += 5;
        await_states("all states are reached", |count| *count == expected)?;
        Ok(expected)
    })?;
    ensure!(has_result(recorder.stop()?.status));
    let output = run(BINARY, &["rates", "1h", "--json", "-r", file])?;
    let (lines, _) = output.json()?;
    let line = lines.last().context("no interval")?;
    ensure!(line["sample_interval_ns"] == 50_000_000, "{line}");
    let found = states(line)?;
    ensure!(found == of_ss, "{found:?}, of ss: {of_ss:?}");
    drop(after);
    Ok(())
}

/// The duration of a server's handshake is the time for which the test held the last ACK.
fn handshake() -> Result<()> {
    // Its duration is unknown if the SYN-ACK was sent again, as on a machine too busy for this test, for a while.
    let measured = attempts(measured_handshake)?;
    measured.context("the SYN-ACK was retransmitted in every attempt")
}

/// Returns `None` if the kernel may have retransmitted the SYN-ACK, which it does after a second.
fn measured_handshake() -> Result<Option<()>> {
    const HOLD: Duration = Duration::from_millis(300);
    let (near, far) = (Netns::new()?, Netns::new()?);
    let wire = Wire::new(&near, &far)?;
    let server_life = start(&far, &["life", "--live"])?;
    let client_life = start(&near, &["life", "--live"])?;
    let listener = far.run(|| Ok(TcpListener::bind(Wire::second(OPEN))?))?;
    wire.hold(|segment| segment.forth && !segment.syn);
    let before = Instant::now();
    let client = thread::scope(|scope| {
        let client = scope.spawn(|| near.run(|| Ok(TcpStream::connect(Wire::second(OPEN))?)));
        wire.await_held(|held| !held.is_empty())?;
        joined(client.join())
    })?;
    thread::sleep(HOLD);
    wire.release()?;
    let server = listener.accept()?.0;
    let at_most = before.elapsed();
    let at_least = HOLD;
    if at_most >= Duration::from_secs(1) {
        return Ok(None);
    }
    let handshake = |tcpstate: Tcpstate, role: &str| -> Result<Duration> {
        let (lines, _) = tcpstate.stop()?.json()?;
        let line = lines.iter().find(|line| line["role"] == role);
        let line = line.with_context(|| format!("no {role}: {lines:?}"))?;
        let ns = line["handshake_ns"].as_u64();
        Ok(Duration::from_nanos(ns.with_context(|| line.to_string())?))
    };
    let of_server = handshake(server_life, "server")?;
    ensure!(
        of_server + Duration::from_millis(1) >= at_least && of_server <= at_most,
        "{of_server:?} is not between {at_least:?} and {at_most:?}"
    );
    // The client's SYN and its answer were not held.
    let of_client = handshake(client_life, "client")?;
    ensure!(of_client + HOLD <= at_most, "{of_client:?}");
    drop((client, server));
    Ok(Some(()))
}
