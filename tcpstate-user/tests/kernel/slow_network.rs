//! Slow networks and long timeouts: dwell times stay right.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use tcpstate_common::State;

use crate::{
    dwell::{HOLD, Stay, dwell_agrees_with_the_clock, moment},
    need::{ATTACH_MODES, Need, attach_needs, trial},
    net::{Connection, Netns, await_fin, joined, shutdown_write, unused_port},
    netem::{AT_LEAST, FAR, LOSING, Link},
    process::Tcpstate,
    ss,
    traffic::on_loopback,
};

pub fn add(trials: &mut Vec<Trial>) {
    for mode in ATTACH_MODES {
        let needs = [attach_needs(mode), &[Need::Program("ss")]].concat();
        trials.push(trial(
            format!("{mode}::dwell_of_an_orphan"),
            &needs,
            move || dwell_agrees_with_the_clock(mode, orphan_that_stays),
        ));
        let needs = [
            attach_needs(mode),
            &[Need::Program("ip"), Need::Program("tc"), Need::Netem],
        ]
        .concat();
        trials.push(trial(
            format!("{mode}::dwell_in_netem"),
            &needs,
            move || dwell_in_netem(mode),
        ));
    }
}

/// With `tcp_fin_timeout` above a minute, an orphan stays a full socket in `FIN_WAIT2` for the excess over
/// a minute. Otherwise it becomes a minisocket at once, which the tracepoint shows as its end.
fn orphan_that_stays(port: u16) -> Result<Vec<Stay>> {
    on_loopback(|| {
        fs::write("/proc/sys/net/ipv4/tcp_fin_timeout", "120")?;
        let Connection {
            listener: _listener,
            client,
            server,
        } = Connection::new((Ipv4Addr::LOCALHOST, port))?;
        let (entered, ()) = moment(|| {
            drop(client);
            await_fin(&server)?;
            ss::await_states("the orphan is in FIN_WAIT2", |count| {
                count.get(&State::FIN_WAIT2) == Some(&1)
            })
        })?;
        thread::sleep(HOLD);
        let (left, ()) = moment(|| {
            drop(server);
            ss::await_states("the orphan has received the FIN", |count| {
                !count.contains_key(&State::FIN_WAIT2)
            })
        })?;
        Ok(vec![Stay {
            state: State::FIN_WAIT2,
            next: State::CLOSE,
            at_server: false,
            entered,
            left,
        }])
    })
}

/// A state that waits for an acknowledgement takes at least two delays of netem; and no dwell is longer
/// than the test's own clock allows.
fn dwell_in_netem(mode: &str) -> Result<()> {
    const BYTES: usize = 100_000;
    let port = unused_port();
    let tcpstate =
        Tcpstate::start(&["trace", "--json", "--attach", mode, "-P", &port.to_string()])?;
    let (near, far) = (Netns::new()?, Netns::new()?);
    let (all, ()) = moment(|| {
        far.run_until_quiet(|| {
            near.run_until_quiet(|| {
                let link = Link::new(&near, &far)?;
                let address = SocketAddr::from((IpAddr::from(FAR), port));
                let listener = far.run(|| Ok(TcpListener::bind(address)?))?;
                let mut client = TcpStream::connect(address)?;
                let (mut server, _) = listener.accept()?;
                link.netem("change", LOSING)?;
                thread::scope(|scope| {
                    let reader = scope.spawn(move || -> Result<usize> {
                        let mut received = Vec::new();
                        server.read_to_end(&mut received)?;
                        // The close is orderly only if all data was read.
                        drop(server);
                        Ok(received.len())
                    });
                    client.write_all(&vec![0; BYTES])?;
                    shutdown_write(&client)?;
                    await_fin(&client)?;
                    let received = joined(reader.join())?;
                    ensure!(received == BYTES, "{received} bytes arrived");
                    Ok(())
                })
            })
        })
    })?;
    let (lines, _) = tcpstate.stop()?.transitions()?;
    let at_least = u64::try_from(2 * AT_LEAST.as_nanos())?;
    let at_most = all.longest_ns();
    if mode == "btf" {
        // The child has measured the duration of the server's handshake.
        let born = lines
            .iter()
            .find(|line| line["oldstate"] == "SYN_RECV" && line["newstate"] == "ESTABLISHED");
        let srtt_us = born.and_then(|line| line["srtt_us"].as_u64());
        let measured_ns = srtt_us.with_context(|| format!("no srtt_us: {born:?}"))? * 1_000;
        ensure!(
            (at_least..=at_most).contains(&measured_ns),
            "{measured_ns} ns for a handshake that takes at least {at_least} ns: {lines:?}"
        );
    }
    for (state, at_server) in [
        (State::SYN_SENT, false),
        (State::FIN_WAIT1, false),
        (State::LAST_ACK, true),
    ] {
        let dwell_ns = dwell(&lines, state, at_server, port)?;
        ensure!(
            (at_least..=at_most).contains(&dwell_ns),
            "{state}: {dwell_ns} ns, but two ways through netem take at least {at_least} ns: {lines:?}"
        );
    }
    Ok(())
}

/// The socket's dwell in the state, from the only line on which it leaves it.
fn dwell(lines: &[Value], state: State, at_server: bool, port: u16) -> Result<u64> {
    let mut found = lines.iter().filter(|line| {
        line["oldstate"] == state.to_string()
            && line["newstate"] != state.to_string()
            && (line["lport"] == port) == at_server
    });
    let line = found
        .next()
        .with_context(|| format!("no line leaves {state}: {lines:?}"))?;
    ensure!(found.next().is_none(), "{state} left twice: {lines:?}");
    let dwell_ns = line["dwell_ns"].as_u64();
    dwell_ns.with_context(|| format!("no dwell in {line}"))
}
