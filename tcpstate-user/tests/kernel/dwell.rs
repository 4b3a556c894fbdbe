//! Sockets held in each state for a while, and the dwell times that `tcpstate` reports for them.
//!
//! The oracle is the test's clock. Each transition happens between two readings of it, so a dwell time lies
//! between two exact bounds, however slow the machine is, and no tolerance is needed.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    ops::RangeInclusive,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use tcpstate_common::State;

use crate::{
    need::{ATTACH_MODES, Need, attach_needs, trial},
    net::{Netns, await_fin, await_state, await_that, shutdown_write, unused_port},
    process::Tcpstate,
    traffic::{connect_over, crossing, over_wire, start_connecting},
    wire::Wire,
};

/// The time for which a socket is held in a state: long compared with the distance of the bounds, and short
/// compared with the kernel's timeouts.
pub const HOLD: Duration = Duration::from_millis(50);

pub fn add(trials: &mut Vec<Trial>) {
    for mode in ATTACH_MODES {
        let needs = [attach_needs(mode), &[Need::Tun]].concat();
        for (name, hold) in [
            ("one_after_the_other", in_turn as Hold),
            ("at_once", at_once),
        ] {
            trials.push(trial(
                format!("{mode}::dwell_closing_{name}"),
                &needs,
                move || dwell_agrees_with_the_clock(mode, hold),
            ));
        }
        trials.push(trial(
            format!("{mode}::dwell_shutdown_then_close_is_one_stay"),
            &needs,
            move || shutdown_then_close_is_one_stay(mode),
        ));
    }
    trials.push(trial(
        "btf::dwell_simultaneous_open_is_a_handshake",
        &[attach_needs("btf"), &[Need::Tun]].concat(),
        simultaneous_open_is_a_handshake,
    ));
    trials.push(trial(
        "in_kernel::dwell_shutdown_then_close_is_one_stay",
        &[attach_needs("btf"), &[Need::Tun]].concat(),
        shutdown_then_close_is_one_stay_in_the_kernel,
    ));
}

/// Makes a connection on this port, holds it in states, and returns its stays.
pub type Hold = fn(u16) -> Result<Vec<Stay>>;

/// Two readings of the clock in nanoseconds, between which something happened.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    not_before_ns: u64,
    not_after_ns: u64,
}

impl Moment {
    /// The possible durations in nanoseconds between this moment and a later one.
    pub fn until(self, later: Self) -> RangeInclusive<u64> {
        later.not_before_ns - self.not_after_ns..=later.not_after_ns - self.not_before_ns
    }

    /// The maximum duration in nanoseconds of anything within this moment.
    pub fn longest_ns(self) -> u64 {
        self.not_after_ns - self.not_before_ns
    }

    /// Whether a part of it lies in the time from `begin_ns` until before `end_ns`.
    pub fn is_in(self, begin_ns: u64, end_ns: u64) -> bool {
        self.not_before_ns < end_ns && begin_ns <= self.not_after_ns
    }

    /// From the beginning of this moment to the end of a later one.
    pub fn through(self, later: Self) -> Self {
        Self {
            not_after_ns: later.not_after_ns,
            ..self
        }
    }
}

/// Performs an action between two readings of the clock.
pub fn moment<T>(act: impl FnOnce() -> Result<T>) -> Result<(Moment, T)> {
    let not_before_ns = monotonic_ns()?;
    let value = act()?;
    Ok((
        Moment {
            not_before_ns,
            not_after_ns: monotonic_ns()?,
        },
        value,
    ))
}

fn monotonic_ns() -> Result<u64> {
    let time = clock_gettime(ClockId::Monotonic);
    Ok(u64::try_from(time.tv_sec)? * 1_000_000_000 + u64::try_from(time.tv_nsec)?)
}

/// A stay of one socket in a state, as made by the test.
#[derive(Debug)]
pub struct Stay {
    pub state: State,
    pub next: State,
    /// Whether the socket is the one whose local port is the server port.
    pub at_server: bool,
    pub entered: Moment,
    pub left: Moment,
}

pub fn dwell_agrees_with_the_clock(mode: &str, hold: Hold) -> Result<()> {
    let port = unused_port();
    let tcpstate =
        Tcpstate::start(&["trace", "--json", "--attach", mode, "-P", &port.to_string()])?;
    let stays = hold(port)?;
    let (lines, _) = tcpstate.stop()?.transitions()?;
    for stay in stays {
        let line = the_line(&lines, &stay, port)?;
        let dwell_ns = line["dwell_ns"]
            .as_u64()
            .with_context(|| format!("no dwell in {line}"))?;
        let bounds = stay.entered.until(stay.left);
        ensure!(
            bounds.contains(&dwell_ns),
            "{dwell_ns} ns is outside {bounds:?}: {stay:?}, {line}"
        );
        let ts_ns = line["ts_ns"]
            .as_u64()
            .with_context(|| format!("no ts_ns in {line}"))?;
        ensure!(
            (stay.left.not_before_ns..=stay.left.not_after_ns).contains(&ts_ns),
            "{ts_ns} is not the time of the transition: {stay:?}, {line}"
        );
    }
    Ok(())
}

fn the_line<'a>(lines: &'a [Value], stay: &Stay, port: u16) -> Result<&'a Value> {
    let mut found = lines.iter().filter(|line| {
        line["oldstate"] == stay.state.to_string()
            && line["newstate"] == stay.next.to_string()
            && (line["lport"] == port) == stay.at_server
    });
    let line = found
        .next()
        .with_context(|| format!("{stay:?} is missing in {lines:?}"))?;
    ensure!(
        found.next().is_none(),
        "{stay:?} appears twice in {lines:?}"
    );
    Ok(line)
}

/// Two ends that connect to each other: their handshakes begin with their SYNs, which are on their way for a while.
fn simultaneous_open_is_a_handshake() -> Result<()> {
    let port = unused_port();
    let arguments = |view| [view, "--json", "--attach", "btf", "-P"];
    let number = port.to_string();
    let trace = Tcpstate::start(&[&arguments("trace")[..], &[&number]].concat())?;
    let life = Tcpstate::start(&[&arguments("life")[..], &[&number]].concat())?;
    let bounds = over_wire(|wire, near, far| {
        let near_addr = SocketAddr::from((Wire::FIRST, port));
        let far_addr = SocketAddr::from((Wire::SECOND, port));
        wire.hold(|segment| segment.syn);
        let (sent, (first, second)) = moment(|| {
            let first = near.run(|| start_connecting(Some(near_addr), far_addr))?;
            let second = far.run(|| start_connecting(Some(far_addr), near_addr))?;
            Ok((first, second))
        })?;
        wire.await_held(|held| crossing(held, |segment| segment.syn))?;
        thread::sleep(HOLD);
        let (established, ()) = moment(|| {
            wire.release()?;
            await_state(&first, State::ESTABLISHED)?;
            await_state(&second, State::ESTABLISHED)
        })?;
        Ok(sent.until(established))
    })?;
    let (changes, _) = trace.stop()?.transitions()?;
    let (lives, _) = life.stop()?.json()?;
    let of = |lines: &[Value]| -> Vec<u64> {
        let all = lines
            .iter()
            .filter_map(|line| line["handshake_ns"].as_u64());
        all.collect()
    };
    for handshakes in [of(&changes), of(&lives)] {
        ensure!(
            handshakes.len() == 2 && handshakes.iter().all(|ns| bounds.contains(ns)),
            "{handshakes:?} are not two times in {bounds:?}: {changes:?}, {lives:?}"
        );
    }
    Ok(())
}

/// `life` and `trace` of a connection whose ends call `shutdown` and then `close`.
fn shutdown_then_close_is_one_stay(mode: &str) -> Result<()> {
    let port = unused_port().to_string();
    let arguments = |view| [view, "--json", "--attach", mode, "-P", &port];
    let trace = Tcpstate::start(&arguments("trace"))?;
    let life = Tcpstate::start(&[&arguments("life")[..], &["--until", "close"]].concat())?;
    let stays = shutdown_then_close(port.parse()?)?;
    let (changes, _) = trace.stop()?.transitions()?;
    let (lives, _) = life.stop()?.json()?;
    for (state, whole, until_close) in stays {
        let found: Vec<u64> = lives
            .iter()
            .filter_map(|line| line["states"].as_array())
            .flatten()
            .filter(|stay| stay["state"] == state.to_string())
            .filter_map(|stay| stay["dwell_ns"].as_u64())
            .collect();
        ensure!(
            matches!(found[..], [dwell_ns] if whole.contains(&dwell_ns)),
            "{state}: {found:?} is not one time in {whole:?}: {lives:?}"
        );
        // The transition is shown all the same, with the time in the state so far.
        let into_itself: Vec<u64> = changes
            .iter()
            .filter(|line| {
                line["oldstate"] == state.to_string() && line["oldstate"] == line["newstate"]
            })
            .filter_map(|line| line["dwell_ns"].as_u64())
            .collect();
        ensure!(
            matches!(into_itself[..], [dwell_ns] if until_close.contains(&dwell_ns)),
            "{state}: {into_itself:?} is not one time in {until_close:?}: {changes:?}"
        );
    }
    Ok(())
}

/// The same, counted in the kernel.
fn shutdown_then_close_is_one_stay_in_the_kernel() -> Result<()> {
    let port = unused_port().to_string();
    let rates = ["rates", "1h", "--json", "--in-kernel", "-P", &port];
    let tcpstate = Tcpstate::start(&rates)?;
    let stays = shutdown_then_close(port.parse()?)?;
    let (lines, _) = tcpstate.stop()?.json()?;
    for (state, whole, _) in stays {
        let dwell = &lines[0]["dwell"][state.to_string()];
        let p50_ns = dwell["p50_ns"].as_u64().context("no p50_ns")?;
        // Times are counted in buckets, of which the middle is shown.
        ensure!(
            dwell["count"] == 1
                && p50_ns > *whole.start() * 9 / 10
                && p50_ns < *whole.end() * 11 / 10,
            "{state}: {dwell} is not one time in {whole:?}"
        );
    }
    Ok(())
}

/// A state, the bounds of the time in it, and of the time until the socket was closed, nanoseconds.
type Between = (State, RangeInclusive<u64>, RangeInclusive<u64>);

/// First the client and then the server shuts down its sending side, and closes the socket while its FIN is
/// still on its way. Returns the state that each is in then, the bounds of the time in it, and of the time until
/// the socket was closed.
fn shutdown_then_close(port: u16) -> Result<[Between; 2]> {
    over_wire(|wire, near, far| {
        let (listener, client, server) = connect_over(near, far, port)?;
        let hold_between = |socket: TcpStream, netns: &Netns, state: State| {
            wire.hold(|segment| segment.fin);
            let (entered, ()) = moment(|| shutdown_write(&socket))?;
            wire.await_held(|held| held.iter().any(|segment| segment.fin))?;
            thread::sleep(HOLD);
            let (closed, ()) = moment(|| {
                drop(socket);
                Ok(())
            })?;
            thread::sleep(HOLD);
            let (left, ()) = moment(|| {
                wire.release()?;
                netns.run(|| await_none_in(state))
            })?;
            anyhow::Ok((state, entered.until(left), entered.until(closed)))
        };
        let client = hold_between(client, near, State::FIN_WAIT1)?;
        await_fin(&server)?;
        let server = hold_between(server, far, State::LAST_ACK)?;
        drop(listener);
        Ok([client, server])
    })
}

/// Waits until the kernel lists no socket of this namespace in this state.
fn await_none_in(state: State) -> Result<()> {
    let number = format!("{:02X}", state.0);
    await_that("the sockets leave their state", || {
        let list = fs::read_to_string("/proc/thread-self/net/tcp")?;
        let mut states = list
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3));
        Ok(!states.any(|state| state == number))
    })
}

/// The client closes, later the server, each FIN and the SYN held on its way.
fn in_turn(port: u16) -> Result<Vec<Stay>> {
    over_wire(|wire, near, far| {
        let (listening, listener) =
            moment(|| far.run(|| Ok(TcpListener::bind(Wire::second(port))?)))?;
        wire.hold(|segment| segment.syn);
        let (syn_sent, client) =
            moment(|| near.run(|| start_connecting(None, Wire::second(port))))?;
        wire.await_held(|held| held.iter().any(|segment| segment.syn))?;
        thread::sleep(HOLD);
        // For both ends: the client is established a little before the server.
        let (established, server) = moment(|| {
            wire.release()?;
            Ok(listener.accept()?.0)
        })?;
        rustix::io::ioctl_fionbio(&client, false)?;
        thread::sleep(HOLD);

        wire.hold(|segment| segment.fin);
        let (fin_wait1, ()) = moment(|| shutdown_write(&client))?;
        wire.await_held(|held| held.iter().any(|segment| segment.fin))?;
        thread::sleep(HOLD);
        let (fin_acked, ()) = moment(|| {
            wire.release()?;
            await_fin(&server)?;
            await_state(&client, State::FIN_WAIT2)
        })?;
        thread::sleep(HOLD);

        wire.hold(|segment| segment.fin);
        let (last_ack, ()) = moment(|| shutdown_write(&server))?;
        wire.await_held(|held| held.iter().any(|segment| segment.fin))?;
        thread::sleep(HOLD);
        let (closed, ()) = moment(|| {
            wire.release()?;
            await_fin(&client)?;
            await_state(&client, State::CLOSE)?;
            await_state(&server, State::CLOSE)
        })?;
        let (not_listening, ()) = moment(|| {
            drop(listener);
            Ok(())
        })?;

        let client = |state, next, entered, left| Stay {
            state,
            next,
            at_server: false,
            entered,
            left,
        };
        let server = |state, next, entered, left| Stay {
            state,
            next,
            at_server: true,
            entered,
            left,
        };
        Ok(vec![
            server(State::LISTEN, State::CLOSE, listening, not_listening),
            client(State::SYN_SENT, State::ESTABLISHED, syn_sent, established),
            client(State::ESTABLISHED, State::FIN_WAIT1, established, fin_wait1),
            client(State::FIN_WAIT1, State::FIN_WAIT2, fin_wait1, fin_acked),
            client(State::FIN_WAIT2, State::CLOSE, fin_acked, closed),
            server(
                State::ESTABLISHED,
                State::CLOSE_WAIT,
                established,
                fin_acked,
            ),
            server(State::CLOSE_WAIT, State::LAST_ACK, fin_acked, last_ack),
            server(State::LAST_ACK, State::CLOSE, last_ack, closed),
        ])
    })
}

/// Both close at once; first the FINs are held on their way, then their acknowledgements.
fn at_once(port: u16) -> Result<Vec<Stay>> {
    over_wire(|wire, near, far| {
        let (listener, client, server) = connect_over(near, far, port)?;
        wire.hold(|segment| segment.fin);
        let (fin_wait1, ()) = moment(|| {
            shutdown_write(&client)?;
            shutdown_write(&server)
        })?;
        wire.await_held(|held| crossing(held, |segment| segment.fin))?;
        thread::sleep(HOLD);
        let (closing, ()) = moment(|| {
            wire.release_and_hold(|_| true)?;
            await_state(&client, State::CLOSING)?;
            await_state(&server, State::CLOSING)
        })?;
        wire.await_held(|held| crossing(held, |_| true))?;
        thread::sleep(HOLD);
        let (closed, ()) = moment(|| {
            wire.release()?;
            await_state(&client, State::CLOSE)?;
            await_state(&server, State::CLOSE)
        })?;
        drop((listener, client, server));
        let stay = |at_server, state, next, entered, left| Stay {
            state,
            next,
            at_server,
            entered,
            left,
        };
        Ok([false, true]
            .into_iter()
            .flat_map(|at_server| {
                [
                    stay(
                        at_server,
                        State::FIN_WAIT1,
                        State::CLOSING,
                        fin_wait1,
                        closing,
                    ),
                    stay(at_server, State::CLOSING, State::CLOSE, closing, closed),
                ]
            })
            .collect())
    })
}
