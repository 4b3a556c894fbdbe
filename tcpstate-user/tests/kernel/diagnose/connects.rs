//! Connects that fail or are slow, and what looks like them.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    process, thread,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, sockopt},
    process::Signal,
};
use serde_json::Value;
use tcpstate_common::State;

use super::{Diagnosis, ensure_at, ensure_owner};
use crate::{
    causes::situations::{on_arrival, sysctl},
    need::{Need, trial},
    net::{Netns, await_fin, await_that, counter, joined, shutdown_write, socket},
    servers::Server,
    traffic::start_connecting,
    views::sockets,
};

type Test = fn() -> Result<()>;

pub fn add(trials: &mut Vec<Trial>) {
    let needs = [Need::Btf, Need::Cookie, Need::Program("nft")];
    let tests: &[(&str, Test)] = &[
        ("ports_exhausted", ports_exhausted),
        ("bound_port_in_use", bound_port_in_use),
        ("connects_fail", connects_fail),
        ("lost_races_of_connects", lost_races_of_connects),
        ("listener_that_nobody_misses", listener_that_nobody_misses),
        ("syn_loss", syn_loss),
        ("slow_accept_is_no_syn_loss", slow_accept_is_no_syn_loss),
        (
            "old_connection_is_no_syn_loss",
            old_connection_is_no_syn_loss,
        ),
    ];
    for &(name, test) in tests {
        trials.push(trial(format!("diagnose::{name}"), &needs, test));
    }
    let needs = [Need::Btf, Need::Cookie, Need::Program("redis-server")];
    trials.push(trial(
        "diagnose::listener_vanished",
        &needs,
        listener_vanished,
    ));
}

const PORT: u16 = 8_080;

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT);

/// A figure of a finding.
pub fn figure(finding: &Value, name: &str) -> Result<u64> {
    let figure = finding["figures"][name]["value"].as_u64();
    figure.with_context(|| format!("no {name}: {finding}"))
}

/// Four ports, all held in connections to the same server.
fn ports_exhausted() -> Result<()> {
    Netns::new()?.run(|| {
        sysctl("ipv4/ip_local_port_range", "40000 40003")?;
        let listener = TcpListener::bind(SERVER)?;
        let _held = (0..4)
            .map(|_| Ok((TcpStream::connect(SERVER)?, listener.accept()?)))
            .collect::<Result<Vec<_>>>()?;
        let diagnosis = Diagnosis::during("", || {
            for _ in 0..2 {
                let error = TcpStream::connect(SERVER).err().context("a fifth port")?;
                ensure!(error.raw_os_error() == Some(libc::EADDRNOTAVAIL), "{error}");
            }
            Ok(())
        })?;
        let finding = diagnosis.only("ports_exhausted")?;
        ensure_at(finding, "client", PORT)?;
        ensure_owner(finding, process::id())?;
        ensure!(figure(finding, "without_port")? == 2, "{finding}");
        ensure!(figure(finding, "tuple_taken")? == 0, "{finding}");
        ensure!(figure(finding, "ports")? == 4, "{finding}");
        ensure!(finding["peers"][0]["addr"] == "127.0.0.1", "{finding}");
        ensure!(
            finding["advice"]
                .to_string()
                .contains("Most belong to connections that are not over"),
            "{finding}"
        );
        diagnosis.is("ports_exhausted")
    })
}

/// The application binds the port itself, and this very connection exists.
fn bound_port_in_use() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = TcpListener::bind(SERVER)?;
        let bound = || -> Result<OwnedFd> {
            let socket = socket(AddressFamily::INET, None)?;
            sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000)))?;
            Ok(socket)
        };
        let (first, second) = (bound()?, bound()?);
        rustix::net::connect(&first, &SERVER)?;
        let _accepted = listener.accept()?;
        let diagnosis = Diagnosis::during("", || {
            let failed = rustix::net::connect(&second, &SERVER).is_err();
            ensure!(failed, "it was connected");
            Ok(())
        })?;
        let finding = diagnosis.only("ports_exhausted")?;
        ensure!(figure(finding, "without_port")? == 0, "{finding}");
        ensure!(figure(finding, "tuple_taken")? == 1, "{finding}");
        diagnosis.is("bound_port_in_use")
    })
}

/// So many connects to this port, none of which the application waits in; returns when all have an error.
fn connect_in_vain(port: u16, count: usize) -> Result<()> {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let sockets = (0..count)
        .map(|_| start_connecting(None, to))
        .collect::<Result<Vec<_>>>()?;
    for socket in &sockets {
        poll(&mut [PollFd::new(socket, PollFlags::OUT)], None)?;
        let error = sockopt::socket_error(socket)?.err();
        ensure!(error.is_some(), "connected to port {port}");
    }
    Ok(())
}

/// Each reason at a port of its own.
fn connects_fail() -> Result<()> {
    Netns::new()?.run(|| {
        sysctl("ipv4/tcp_syn_retries", "1")?;
        on_arrival("tcp dport { 8001, 8004 } drop")?;
        on_arrival("tcp dport 8003 reject with icmp type host-unreachable")?;
        let diagnosis = Diagnosis::during("given_up_least = \"50ms\"", || {
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 8004));
            let given_up = (0..3)
                .map(|_| start_connecting(None, to))
                .collect::<Result<Vec<_>>>()?;
            for port in [8001, 8003] {
                connect_in_vain(port, 3)?;
            }
            for _ in 0..3 {
                let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, 8002));
                ensure!(refused.is_err(), "connected to port 8002");
            }
            drop(given_up);
            // One that is refused is no trouble.
            let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, 8005));
            ensure!(refused.is_err(), "connected to port 8005");
            Ok(())
        })?;
        for (port, name) in [
            (8001, "timed_out"),
            (8002, "refused_here"),
            (8003, "unreachable"),
        ] {
            let finding = diagnosis.at("connects_fail", port)?;
            ensure_at(finding, "client", port)?;
            ensure_owner(finding, process::id())?;
            ensure!(figure(finding, name)? == 3, "{finding}");
            ensure!(figure(finding, "failed")? == 3, "{finding}");
        }
        // Those that were given up had timed out meanwhile, or not.
        let finding = diagnosis.at("connects_fail", 8004)?;
        ensure!(figure(finding, "failed")? == 3, "{finding}");
        ensure!(
            diagnosis.at("connects_fail", 8005).is_err(),
            "one is enough"
        );
        diagnosis.is("connects_fail")
    })
}

/// The slower one of two connects is given up soon.
fn lost_races_of_connects() -> Result<()> {
    Netns::new()?.run(|| {
        on_arrival("tcp dport 8004 drop")?;
        let diagnosis = Diagnosis::during("given_up_least = \"1h\"", || {
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 8004));
            for _ in 0..10 {
                drop(start_connecting(None, to)?);
            }
            Ok(())
        })?;
        diagnosis.is("lost_races")
    })
}

/// A server is killed, and its clients come again.
fn listener_vanished() -> Result<()> {
    Netns::new()?.run(|| {
        let redis = Server::redis(PORT, &[])?;
        let pid = redis.pid();
        let diagnosis = Diagnosis::during("", || {
            redis.connect()?;
            redis.end(Signal::KILL)?;
            for _ in 0..3 {
                ensure!(TcpStream::connect(SERVER).is_err(), "it is still there");
            }
            Ok(())
        })?;
        let finding = diagnosis.only("listener_vanished")?;
        ensure_at(finding, "server", PORT)?;
        ensure_owner(finding, pid)?;
        ensure!(figure(finding, "refused")? == 3, "{finding}");
        diagnosis.is("listener_vanished")
    })
}

/// It ends, and nobody comes; and where somebody comes, nothing has listened.
fn listener_that_nobody_misses() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = TcpListener::bind(SERVER)?;
        let diagnosis = Diagnosis::during("", || {
            drop(listener);
            for _ in 0..3 {
                let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT + 1));
                ensure!(refused.is_err(), "connected");
            }
            Ok(())
        })?;
        let finding = diagnosis.only("connects_fail")?;
        ensure_at(finding, "client", PORT + 1)?;
        diagnosis.is("listener_that_nobody_misses")
    })
}

/// Connects, and accepts what came.
fn handshakes(listener: &TcpListener, count: usize) -> Result<()> {
    for _ in 0..count {
        let client = TcpStream::connect(SERVER)?;
        let (server, _) = listener.accept()?;
        drop(client);
        await_fin(&server)?;
    }
    Ok(())
}

/// Every second SYN is lost.
fn syn_loss() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = TcpListener::bind(SERVER)?;
        on_arrival(&format!(
            "tcp dport {PORT} tcp flags & syn == syn numgen inc mod 2 == 0 drop"
        ))?;
        let diagnosis = Diagnosis::during("", || handshakes(&listener, 3))?;
        let finding = diagnosis.only("syn_loss")?;
        ensure_at(finding, "client", PORT)?;
        ensure_owner(finding, process::id())?;
        ensure!(figure(finding, "slow")? == 3, "{finding}");
        ensure!(figure(finding, "repeated_syns")? >= 3, "{finding}");
        diagnosis.is("syn_loss")
    })
}

/// The server of this host drops the SYNs, because its accept queue is full.
fn slow_accept_is_no_syn_loss() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = socket(AddressFamily::INET, None)?;
        rustix::net::bind(&listener, &SERVER)?;
        rustix::net::listen(&listener, 0)?;
        let listener = TcpListener::from(listener);
        let first = TcpStream::connect(SERVER)?;
        let diagnosis = Diagnosis::during("", || {
            let to = SERVER;
            let waiting = (0..3)
                .map(|_| start_connecting(None, to))
                .collect::<Result<Vec<_>>>()?;
            await_that("the SYNs were dropped", || {
                Ok(counter("ListenOverflows")? >= 3)
            })?;
            // The kernel drops the last ACK too where there is no room: not every handshake ends in accept().
            listener.set_nonblocking(true)?;
            let mut accepted = Vec::new();
            let done = Some(Timespec::default());
            await_that("the handshakes are complete", || {
                accepted.extend(listener.accept().ok());
                let mut fds: Vec<_> = waiting
                    .iter()
                    .map(|socket| PollFd::new(socket, PollFlags::OUT))
                    .collect();
                Ok(poll(&mut fds, done.as_ref())? == waiting.len())
            })
        })?;
        drop(first);
        let finding = diagnosis.only("syn_loss")?;
        let advice = finding["advice"][0].as_str().unwrap_or_default();
        ensure!(advice.contains("full accept queue"), "{finding}");
        diagnosis.is("slow_accept")
    })
}

/// A SYN that meets `TIME_WAIT` at the server, with a number that is too low: the client repeats it at once.
fn old_connection_is_no_syn_loss() -> Result<()> {
    Netns::new()?.run(|| {
        // Otherwise the time stamps show that it is new.
        sysctl("ipv4/tcp_timestamps", "0")?;
        let listener = TcpListener::bind(SERVER)?;
        let from = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let connect = |port: u16| -> Result<TcpStream> {
            let socket = socket(AddressFamily::INET, None)?;
            sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &from(port))?;
            rustix::net::connect(&socket, &SERVER)?;
            Ok(TcpStream::from(socket))
        };
        for port in 40_000..40_003 {
            let mut client = connect(port)?;
            let (mut server, _) = listener.accept()?;
            let reader = thread::spawn(move || -> Result<()> {
                let mut bytes = vec![0; 1 << 20];
                // Sequence numbers rise by 16 MB a second by themselves: this is ahead of them for many seconds.
                let mut left = 400_u64 << 20;
                while left > 0 {
                    left = left.saturating_sub(server.read(&mut bytes)? as u64);
                }
                // It closes first.
                shutdown_write(&server)?;
                await_fin(&server)
            });
            let bytes = vec![0; 1 << 20];
            for _ in 0..400 {
                client.write_all(&bytes)?;
            }
            await_fin(&client)?;
            drop(client);
            joined(reader.join())?;
            await_that("the server is in TIME_WAIT", || {
                Ok(sockets(State::TIME_WAIT)?.contains(&(PORT, port)))
            })?;
        }
        let diagnosis = Diagnosis::during("", || {
            for port in 40_000..40_003 {
                let _client = connect(port)?;
                listener.accept()?;
            }
            Ok(())
        })?;
        ensure!(
            counter("TCPSynRetrans")? >= 3,
            "no SYN met an old connection"
        );
        diagnosis.is("old_connection")
    })
}
