//! The claims that `tcpstate explain` calls wrong, and the effects of settings: shown on the real kernel, with `ss` and `getsockopt`.

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd as _},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::net::{AddressFamily, sockopt};
use serde_json::Value;
use tcpstate_common::State;

use crate::{
    need::{Need, trial},
    net::{
        Connection, Netns, await_fin, await_state, await_that, counter, drop_incoming, ip, joined,
        socket, state_of, unused_port,
    },
    process::{BINARY, run},
};

pub fn add(trials: &mut Vec<Trial>) {
    let (ss, nft) = (Need::Program("ss"), Need::Program("nft"));
    trials.push(trial("lore::time_wait", &[ss], time_wait));
    trials.push(trial("lore::fin_wait2", &[ss], fin_wait2));
    trials.push(trial("lore::fin_wait1", &[ss, nft], fin_wait1));
    trials.push(trial("lore::close_wait", &[nft], close_wait));
    trials.push(trial("lore::port_in_time_wait", &[ss], port_in_time_wait));
    trials.push(trial("lore::closing_held", &[ss, nft], closing_held));
    trials.push(trial("lore::syn_retries", &[nft], syn_retries));
    trials.push(trial("lore::synack_retries", &[ss, nft], synack_retries));
    trials.push(trial(
        "lore::port_used_again",
        &[Need::Program("ip")],
        port_used_again,
    ));
    trials.push(trial("lore::keepalive_interval", &[ss], keepalive_interval));
    trials.push(trial("lore::overflow", &[ss, nft], overflow));
    trials.push(trial("explain::rates", &[], rates_of_the_diagram));
}

/// Changes a setting of the calling thread's namespace.
fn set(setting: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/{setting}");
    fs::write(&path, value).with_context(|| path)
}

/// A setting of the calling thread's namespace.
fn get(setting: &str) -> Result<String> {
    let path = format!("/proc/sys/net/ipv4/{setting}");
    let text = fs::read_to_string(&path).with_context(|| path)?;
    Ok(text.trim().to_owned())
}

/// A new connection over loopback.
fn connection() -> Result<Connection> {
    Connection::new((Ipv4Addr::LOCALHOST, unused_port()))
}

/// The lines of `ss` for the sockets in a state.
fn ss(state: &str) -> Result<Vec<String>> {
    let output = run("ss", &["-HOtanope", "state", state])?.stdout;
    Ok(output.lines().map(str::to_owned).collect())
}

/// Waits for the only socket in a state. Returns its line in `ss`, and the kind and the rest of its timer.
fn only(state: &str) -> Result<(String, String, Duration)> {
    await_that(&format!("one socket is in {state}"), || {
        Ok(ss(state)?.len() == 1)
    })?;
    let line = ss(state)?.pop().context("it is gone")?;
    let (_, timer) = line.split_once("timer:(").context("no timer")?;
    let mut parts = timer.split([',', ')']);
    let (kind, rest) = (parts.next(), parts.next());
    let (kind, rest) = (
        kind.context("no kind")?.to_owned(),
        rest.context("no time")?,
    );
    let rest = time(rest).with_context(|| line.clone())?;
    Ok((line, kind, rest))
}

/// A time as `ss` writes it: `1min2sec`, `59sec`, `200ms`, and 1.5 s as `1.500ms`.
fn time(text: &str) -> Option<Duration> {
    let (minutes, rest) = match text.split_once("min") {
        Some((minutes, rest)) => (minutes.parse().ok()?, rest),
        None => (0, text),
    };
    let millis = match (rest.strip_suffix("sec"), rest.strip_suffix("ms")) {
        _ if rest.is_empty() => 0,
        (Some(seconds), _) => seconds.parse::<u64>().ok()? * 1_000,
        (_, Some(millis)) => match millis.split_once('.') {
            Some((seconds, millis)) => {
                seconds.parse::<u64>().ok()? * 1_000 + millis.parse::<u64>().ok()?
            }
            None => millis.parse().ok()?,
        },
        _ => return None,
    };
    Some(Duration::from_millis(minutes * 60_000 + millis))
}

/// `TIME_WAIT` lasts a minute, whatever `tcp_fin_timeout` is, and no process holds it.
fn time_wait() -> Result<()> {
    Netns::new()?.run(|| {
        set("tcp_fin_timeout", "3")?;
        let Connection { client, server, .. } = connection()?;
        drop(client);
        await_fin(&server)?;
        drop(server);
        let (line, kind, rest) = only("time-wait")?;
        ensure!(
            kind == "timewait" && rest > Duration::from_secs(30) && rest <= Duration::from_mins(1),
            "{line}"
        );
        ensure!(!line.contains("users:"), "{line}");
        Ok(())
    })
}

/// `tcp_fin_timeout` ends an orphan in `FIN_WAIT2`, but nothing ends one that a process holds.
fn fin_wait2() -> Result<()> {
    Netns::new()?.run(|| {
        set("tcp_fin_timeout", "20")?;
        let Connection { client, .. } = &connection()?;
        crate::net::shutdown_write(client)?;
        await_state(client, State::FIN_WAIT2)?;
        let held = ss("fin-wait-2")?;
        ensure!(
            held.len() == 1 && held.iter().all(|line| !line.contains("timer:")),
            "{held:?}"
        );
        Ok(())
    })?;
    Netns::new()?.run(|| {
        set("tcp_fin_timeout", "20")?;
        let Connection { client, server, .. } = connection()?;
        drop(client);
        await_fin(&server)?;
        let (line, kind, rest) = only("fin-wait-2")?;
        ensure!(
            kind == "timewait" && rest <= Duration::from_secs(20),
            "{line}"
        );
        set("tcp_fin_timeout", "1")?;
        let Connection { client, server, .. } = connection()?;
        let port = client.local_addr()?.port();
        drop(client);
        await_fin(&server)?;
        await_that("tcp_fin_timeout ends an orphan", || {
            let of_it = |line: &String| line.contains(&format!(":{port} "));
            Ok(!ss("fin-wait-2")?.iter().any(of_it))
        })
    })
}

/// `tcp_fin_timeout` does not end `FIN_WAIT1`, `tcp_orphan_retries` does.
fn fin_wait1() -> Result<()> {
    Netns::new()?.run(|| {
        set("tcp_fin_timeout", "1")?;
        let Connection { client, server, .. } = connection()?;
        let port = server.local_addr()?.port();
        // The peer is silent from now on.
        drop_incoming(&[&format!("tcp dport {port}")])?;
        drop(client);
        only("fin-wait-1")?;
        // Longer than that time-out, and only a lower bound.
        thread::sleep(Duration::from_millis(2_500));
        let (line, kind, _) = only("fin-wait-1")?;
        ensure!(kind == "on", "{line}");
        set("tcp_orphan_retries", "1")?;
        await_that("tcp_orphan_retries ends FIN_WAIT1", || {
            Ok(ss("fin-wait-1")?.is_empty())
        })
    })
}

/// Keepalive ends `CLOSE_WAIT` once the peer is gone; the descriptor stays with the application.
fn close_wait() -> Result<()> {
    Netns::new()?.run(|| {
        let Connection { client, server, .. } = connection()?;
        sockopt::set_tcp_keepidle(&server, Duration::from_secs(1))?;
        sockopt::set_tcp_keepintvl(&server, Duration::from_secs(1))?;
        sockopt::set_tcp_keepcnt(&server, 1)?;
        sockopt::set_socket_keepalive(&server, true)?;
        crate::net::shutdown_write(&client)?;
        await_fin(&server)?;
        await_state(&server, State::CLOSE_WAIT)?;
        drop_incoming(&[&format!("tcp dport {}", client.local_addr()?.port())])?;
        await_state(&server, State::CLOSE)?;
        let link = fs::read_link(format!("/proc/self/fd/{}", server.as_fd().as_raw_fd()))?;
        ensure!(
            link.to_string_lossy().starts_with("socket:"),
            "{}",
            link.display()
        );
        Ok(())
    })
}

/// A server accepts a new connection from a port that it remembers in `TIME_WAIT`, without `tcp_tw_reuse`.
fn port_in_time_wait() -> Result<()> {
    Netns::new()?.run(|| {
        set("tcp_tw_reuse", "0")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, unused_port()));
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, unused_port()));
        let listener = TcpListener::bind(address)?;
        let connect = || -> Result<TcpStream> {
            let client = socket(AddressFamily::INET, None)?;
            rustix::net::bind(&client, &local)?;
            rustix::net::connect(&client, &address)?;
            Ok(client.into())
        };
        let client = connect()?;
        // The server closes first, and remembers it.
        drop(listener.accept()?);
        await_fin(&client)?;
        drop(client);
        let (line, ..) = only("time-wait")?;
        ensure!(line.contains(&format!(":{} ", address.port())), "{line}");
        let client = connect()?;
        let _server = listener.accept()?;
        await_state(&client, State::ESTABLISHED)?;
        await_that("the old one is forgotten", || {
            Ok(ss("time-wait")?.is_empty())
        })
    })
}

/// `tcp_orphan_retries` ends what is closed, and `tcp_retries2` what a process holds; each leaves the other. 0 repetitions of
/// an orphan's FIN are not none.
fn closing_held() -> Result<()> {
    Netns::new()?.run(|| {
        ensure!(get("tcp_orphan_retries")? == "0", "not the default");
        let (held, orphan) = (connection()?, connection()?);
        let port_of_held = held.client.local_addr()?.port();
        let ports = [&held, &orphan].map(|one| one.listener.local_addr());
        let [first, second] = ports;
        drop_incoming(&[&format!(
            "tcp dport {{ {}, {} }}",
            first?.port(),
            second?.port()
        )])?;
        crate::net::shutdown_write(&held.client)?;
        drop(orphan.client);
        // The last number of the timer is that of the repetitions.
        let repeated = |line: &String| -> Option<u64> {
            let (_, timer) = line.split_once("timer:(")?;
            timer.split_once(')')?.0.rsplit(',').next()?.parse().ok()
        };
        await_that("both FINs were repeated, and repeated again", || {
            let lines = ss("fin-wait-1")?;
            Ok(lines.len() == 2 && lines.iter().all(|line| repeated(line) >= Some(2)))
        })?;
        set("tcp_orphan_retries", "1")?;
        await_that("tcp_orphan_retries ends the orphan", || {
            Ok(ss("fin-wait-1")?.len() < 2)
        })?;
        let (line, ..) = only("fin-wait-1")?;
        ensure!(line.contains(&format!(":{port_of_held} ")), "{line}");
        set("tcp_retries2", "1")?;
        await_state(&held.client, State::CLOSE)?;
        let error = sockopt::socket_error(&held.client)?;
        ensure!(error == Err(rustix::io::Errno::TIMEDOUT), "{error:?}");
        Ok(())
    })
}

/// A connect without an answer fails after `tcp_syn_retries` repetitions, and `tcp_syn_linear_timeouts` more where the kernel
/// has it (Linux 6.5).
fn syn_retries() -> Result<()> {
    const LINEAR: &str = "tcp_syn_linear_timeouts";
    Netns::new()?.run(|| {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, unused_port()));
        drop_incoming(&[&format!("tcp dport {}", address.port())])?;
        set("tcp_syn_retries", "1")?;
        let repeated = || -> Result<u64> {
            let before = counter("TCPSynRetrans")?;
            let error = TcpStream::connect(address).err().context("it connects")?;
            ensure!(error.kind() == ErrorKind::TimedOut, "{error}");
            Ok(counter("TCPSynRetrans")? - before)
        };
        if get(LINEAR).is_err() {
            ensure!(repeated()? == 1, "not tcp_syn_retries");
            return Ok(());
        }
        for (linear, expected) in [("0", 1), ("1", 2)] {
            set(LINEAR, linear)?;
            let count = repeated()?;
            ensure!(count == expected, "{linear}: {count}");
        }
        Ok(())
    })
}

/// A half-open connection ends after `tcp_synack_retries` repetitions of its SYN-ACK.
fn synack_retries() -> Result<()> {
    for retries in [0, 2] {
        Netns::new()?.run(|| {
            set("tcp_synack_retries", &retries.to_string())?;
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, unused_port()))?;
            let address = listener.local_addr()?;
            // The handshake's last packet.
            let ack = "tcp flags & (syn | ack) == ack";
            drop_incoming(&[&format!("tcp dport {} {ack}", address.port())])?;
            let _client = TcpStream::connect(address)?;
            ensure!(ss("syn-recv")?.len() == 1, "not half-open");
            await_that("the half-open connection ends", || {
                Ok(ss("syn-recv")?.is_empty())
            })?;
            let repeated = counter("TCPSynRetrans")?;
            ensure!(repeated == retries, "{repeated} of {retries}");
            Ok(())
        })?;
    }
    Ok(())
}

/// A client takes its port out of `TIME_WAIT` where `tcp_tw_reuse` is 1, on loopback also where it is 2, and not before
/// `tcp_tw_reuse_delay` where the kernel has it (Linux 6.14), a second else.
fn port_used_again() -> Result<()> {
    const DELAY: &str = "tcp_tw_reuse_delay";
    const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
    Netns::new()?.run(|| {
        ip(&["addr", "add", &format!("{ELSEWHERE}/32"), "dev", "lo"])?;
        set("ip_local_port_range", "40000 40000")?;
        set("tcp_tw_reuse", "0")?;
        let has_delay = get(DELAY).is_ok();
        if has_delay {
            set(DELAY, "60000")?;
        }
        let listeners =
            [Ipv4Addr::LOCALHOST, ELSEWHERE].map(|at| TcpListener::bind((at, unused_port())));
        let [on_loopback, elsewhere] = listeners;
        let [on_loopback, elsewhere] = [on_loopback?, elsewhere?];
        for listener in [&on_loopback, &elsewhere] {
            let client = TcpStream::connect(listener.local_addr()?)?;
            let (server, _) = listener.accept()?;
            drop(client);
            await_fin(&server)?;
        }
        let has_port = |listener: &TcpListener| match TcpStream::connect(listener.local_addr()?) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Ok(false),
            Err(error) => Err(error.into()),
        };
        ensure!(!has_port(&on_loopback)?, "0 uses it again");
        set("tcp_tw_reuse", "2")?;
        if has_delay {
            ensure!(!has_port(&on_loopback)?, "it comes before its time");
            set(DELAY, "1")?;
        }
        await_that("2 uses it again on loopback", || has_port(&on_loopback))?;
        ensure!(!has_port(&elsewhere)?, "2 uses it again elsewhere");
        set("tcp_tw_reuse", "1")?;
        await_that("1 uses it again elsewhere", || has_port(&elsewhere))
    })
}

/// After the first keepalive probe the next one comes after `TCP_KEEPINTVL`, although the peer has answered: a short
/// `TCP_KEEPIDLE` alone does not keep a connection alive in what is between.
fn keepalive_interval() -> Result<()> {
    Netns::new()?.run(|| {
        let Connection { client, server, .. } = &connection()?;
        sockopt::set_tcp_keepidle(client, Duration::from_secs(1))?;
        sockopt::set_tcp_keepintvl(client, Duration::from_secs(100))?;
        sockopt::set_socket_keepalive(client, true)?;
        let port = server.local_addr()?.port();
        let timer = || -> Result<Duration> {
            let lines = ss("established")?;
            let mut lines = lines.iter();
            let line = lines.find(|line| line.contains("timer:(keepalive,"));
            let line = line.with_context(|| format!("no timer to {port}"))?;
            let (_, rest) = line.split_once("keepalive,").context("no time")?;
            let (rest, probes) = rest.split_once(',').context("no probes")?;
            ensure!(probes.starts_with("0)"), "not answered: {line}");
            time(rest).with_context(|| line.clone())
        };
        ensure!(timer()? <= Duration::from_secs(1), "it begins late");
        await_that("the next probe is far away", || {
            // Between a probe and its answer there is one that is not answered.
            Ok(timer().is_ok_and(|rest| rest > Duration::from_secs(50)))
        })
    })
}

/// With `tcp_abort_on_overflow`, a full accept queue refuses a client whose handshake is under way. A SYN that comes when it
/// is full is dropped all the same.
fn overflow() -> Result<()> {
    Netns::new()?.run(|| {
        set("tcp_abort_on_overflow", "1")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, unused_port()));
        let listener = socket(AddressFamily::INET, None)?;
        rustix::net::bind(&listener, &address)?;
        // There is room for three.
        rustix::net::listen(&listener, 2)?;
        let _waiting = [TcpStream::connect(address)?, TcpStream::connect(address)?];
        // The last packets of these handshakes wait until the SYN-ACKs are repeated.
        let ack = "tcp flags & (syn | ack) == ack";
        drop_incoming(&[&format!("tcp dport {} {ack}", address.port())])?;
        let clients = [TcpStream::connect(address)?, TcpStream::connect(address)?];
        ensure!(ss("syn-recv")?.len() == 2, "not half-open");
        run("nft", &["flush", "ruleset"])?;
        let is_refused = |client: &TcpStream| Ok(state_of(client.as_fd())? == State::CLOSE);
        await_that("one is refused", || {
            let [first, second] = &clients;
            Ok(is_refused(first)? || is_refused(second)?)
        })?;
        let refused = clients.iter().map(is_refused).collect::<Result<Vec<_>>>()?;
        ensure!(refused.contains(&false), "both are");
        ensure!(ss("syn-recv")?.is_empty(), "one is left");
        let late = socket(AddressFamily::INET, None)?;
        rustix::io::ioctl_fionbio(&late, true)?;
        let begun = rustix::net::connect(&late, &address);
        ensure!(begun == Err(rustix::io::Errno::INPROGRESS), "{begun:?}");
        let before = counter("TCPSynRetrans")?;
        await_that("its SYN is sent again", || {
            Ok(counter("TCPSynRetrans")? > before)
        })?;
        ensure!(state_of(late.as_fd())? == State::SYN_SENT, "it is answered");
        Ok(())
    })
}

/// The rates on the edges of the diagram are those of the transitions of a second, of the whole host.
fn rates_of_the_diagram() -> Result<()> {
    const A_SECOND: u64 = 30;
    let done = AtomicBool::new(false);
    let output = thread::scope(|scope| {
        let opening = scope.spawn(|| {
            Netns::new()?.run(|| {
                while !done.load(Ordering::Relaxed) {
                    drop(connection()?);
                    thread::sleep(Duration::from_millis(1_000 / A_SECOND / 3));
                }
                Ok(())
            })
        });
        let output = run(BINARY, &["explain", "--json"]);
        done.store(true, Ordering::Relaxed);
        joined(opening.join())?;
        output
    })?;
    let diagram: Value = serde_json::from_str(&output.stdout)?;
    let edges = diagram["edges"].as_array().context("no edges")?;
    let rate = |from: &str, to: &str| {
        let edge = edges
            .iter()
            .find(|edge| edge["from"] == from && edge["to"] == to);
        edge.and_then(|edge| edge["rate"].as_u64())
            .with_context(|| format!("no edge from {from} to {to}: {diagram}"))
    };
    for (from, to) in [
        ("CLOSE", "SYN_SENT"),
        ("SYN_SENT", "ESTABLISHED"),
        ("SYN_RECV", "ESTABLISHED"),
    ] {
        ensure!(rate(from, to)? >= A_SECOND, "{from} to {to}: {diagram}");
    }
    Ok(())
}
