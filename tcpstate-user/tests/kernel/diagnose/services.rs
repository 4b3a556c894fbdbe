//! Services as a whole: short connections, who closes first, replaced processes.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;
use tcpstate_common::State;

use super::{Diagnosis, connects::figure, ensure_at, ensure_owner};
use crate::{
    causes::situations::sysctl,
    need::{Need, trial},
    net::{Netns, await_fin, await_that},
    servers::{Server, ping, wrk},
    views::sockets,
};

type Test = fn() -> Result<()>;

pub fn add(trials: &mut Vec<Trial>) {
    const NGINX: &[Need] = &[Need::Program("nginx"), Need::Program("wrk")];
    let tests: &[(&str, &[Need], Test)] = &[
        ("short_connections", NGINX, short_connections),
        ("short_connections_take_ports", &[], take_ports),
        (
            "deploy_that_resets",
            &[Need::Program("redis-server")],
            deploy,
        ),
    ];
    for &(name, needs, test) in tests {
        let needs = [&[Need::Btf, Need::Cookie], needs].concat();
        trials.push(trial(format!("diagnose::{name}"), &needs, test));
    }
}

const PORT: u16 = 8_080;

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT);

/// nginx without keep-alive: it closes first. Nothing of it is more than a note.
fn short_connections() -> Result<()> {
    Netns::new()?.run(|| {
        let nginx = Server::nginx(PORT, "keepalive_timeout 0;")?;
        // However slow this machine is.
        let thresholds =
            "short_time = \"1s\"\nshort_rate = 5\nshort_life = \"1s\"\ntime_wait_count = 20";
        let diagnosis = Diagnosis::during(thresholds, || wrk(PORT, "2s"))?;
        let is_of = |name: &str, role: &str| {
            let mut found = diagnosis.findings.iter();
            found
                .find(|finding| finding["name"] == name && finding["role"] == role)
                .ok_or_else(|| anyhow::anyhow!("no {name} of the {role}: {}", diagnosis.words()))
        };
        for role in ["server", "client"] {
            let finding = is_of("short_connections", role)?;
            ensure_at(finding, role, PORT)?;
            ensure!(finding["peers"][0]["addr"] == "127.0.0.1", "{finding}");
        }
        ensure_owner(is_of("short_connections", "server")?, nginx.pid())?;
        let finding = is_of("closes_first", "server")?;
        ensure_at(finding, "server", PORT)?;
        let share = finding["figures"]["closed_first_share"]["value"].as_f64();
        ensure!(share > Some(0.9), "{finding}");
        ensure!(
            is_of("closes_first", "client").is_err(),
            "{}",
            diagnosis.words()
        );
        diagnosis.is("short_connections")
    })
}

/// A client that closes first, and has few ports: they will run out.
fn take_ports() -> Result<()> {
    Netns::new()?.run(|| {
        sysctl("ipv4/ip_local_port_range", "40000 40019")?;
        sysctl("ipv4/tcp_tw_reuse", "0")?;
        let listener = TcpListener::bind(SERVER)?;
        let thresholds =
            "short_time = \"1s\"\nshort_rate = 0\nshort_life = \"10m\"\ntime_wait_count = 10";
        let diagnosis = Diagnosis::of("2s", thresholds, || {
            for _ in 0..17 {
                let client = TcpStream::connect(SERVER)?;
                let (server, _) = listener.accept()?;
                drop(client);
                await_fin(&server)?;
            }
            await_that("the client has 17 in TIME_WAIT", || {
                Ok(sockets(State::TIME_WAIT)?.len() == 17)
            })
        })?;
        let mut findings = diagnosis.findings.iter();
        let of_client = findings
            .find(|finding| finding["name"] == "short_connections" && finding["role"] == "client");
        let Some(finding) = of_client else {
            anyhow::bail!("no short connections: {}", diagnosis.words())
        };
        ensure!(finding["severity"] == "warning", "{finding}");
        let finding = diagnosis.only("closes_first")?;
        ensure_at(finding, "client", PORT)?;
        diagnosis.is("short_connections_take_ports")
    })
}

/// The process of a service is killed with a request that it has not read, and a client meets no listener.
fn deploy() -> Result<()> {
    Netns::new()?.run(|| {
        let old = Server::redis(PORT, &[])?;
        let mut new = None;
        let diagnosis = Diagnosis::during("", || {
            let mut client = old.connect()?;
            ping(&mut client)?;
            old.signal(Signal::STOP)?;
            client.write_all(b"PING\r\n")?;
            old.end(Signal::KILL)?;
            ensure!(ping(&mut client).is_err(), "it answers");
            ensure!(TcpStream::connect(SERVER).is_err(), "it listens");
            new = Some(Server::redis(PORT, &[])?);
            Ok(())
        })?;
        let finding = diagnosis.only("deploy")?;
        ensure_at(finding, "server", PORT)?;
        ensure_owner(finding, new.as_ref().map_or(0, Server::pid))?;
        ensure!(figure(finding, "reset")? == 1, "{finding}");
        ensure!(figure(finding, "refused")? == 1, "{finding}");
        diagnosis.is("deploy_that_resets")
    })
}
