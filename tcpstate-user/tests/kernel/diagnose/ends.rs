//! Connections that end badly, and what looks like them.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process, thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;
use tcpstate_common::State;

use super::{Diagnosis, connects::figure, ensure_at, ensure_owner};
use crate::{
    causes::situations::{as_before, on_arrival},
    need::{Need, trial},
    net::{Netns, await_fin, await_state, await_that, joined, reset},
    servers::{Server, get, get_path, ping},
    views::sockets,
};

type Test = fn() -> Result<()>;

pub fn add(trials: &mut Vec<Trial>) {
    let tests: &[(&str, &[Need], Test)] = &[
        ("stale_pool", &[Need::Program("redis-server")], stale_pool),
        (
            "keepalive_race",
            &[Need::Program("nginx"), Need::Program("nft")],
            keepalive_race,
        ),
        (
            "keepalive_race_behind_haproxy",
            &[
                Need::Program("haproxy"),
                Need::Program("python3"),
                Need::Program("nft"),
            ],
            keepalive_race_behind_haproxy,
        ),
        ("early_close", &[Need::Program("nft")], early_close),
        ("idle_reset", &[Need::Program("nft")], idle_reset),
        ("reset_of_all_at_once", &[], reset_of_all_at_once),
        (
            "health_checks",
            &[Need::Program("haproxy"), Need::Program("redis-server")],
            health_checks,
        ),
        ("failing_peer", &[Need::Program("nft")], failing_peer),
    ];
    for &(name, needs, test) in tests {
        let needs = [&[Need::Btf, Need::Cookie], needs].concat();
        trials.push(trial(format!("diagnose::{name}"), &needs, test));
    }
}

const PORT: u16 = 8_080;

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT);

/// redis closes what is idle for a second; one pool uses its connections again, another one closes them.
fn stale_pool() -> Result<()> {
    Netns::new()?.run(|| {
        let redis = Server::redis(PORT, &["--timeout", "1"])?;
        let connect = |_| -> Result<TcpStream> {
            let mut connection = redis.connect()?;
            ping(&mut connection)?;
            Ok(connection)
        };
        let careful = Diagnosis::during("", || {
            let pool = (0..4).map(connect).collect::<Result<Vec<_>>>()?;
            for connection in &pool {
                await_fin(connection)?;
            }
            Ok(())
        })?;
        careful.is("careful_pool")?;

        let diagnosis = Diagnosis::during("", || {
            let pool = (0..4).map(connect).collect::<Result<Vec<_>>>()?;
            for mut connection in pool {
                await_state(&connection, State::CLOSE_WAIT)?;
                ensure!(ping(&mut connection).is_err(), "it has not ended");
            }
            Ok(())
        })?;
        let finding = diagnosis.only("stale_pool")?;
        ensure_at(finding, "client", PORT)?;
        ensure_owner(finding, process::id())?;
        ensure!(figure(finding, "reset")? == 4, "{finding}");
        diagnosis.is("stale_pool")
    })
}

/// nginx closes what is idle for two seconds; its FIN is late, and the next requests are on their way already.
fn keepalive_race() -> Result<()> {
    Netns::new()?.run(|| {
        let nginx = Server::nginx(PORT, "keepalive_timeout 2s;")?;
        let diagnosis = Diagnosis::during("", || {
            let mut proxy = (0..3)
                .map(|_| {
                    let mut connection = nginx.connect()?;
                    get(&mut connection)?;
                    Ok(connection)
                })
                .collect::<Result<Vec<_>>>()?;
            on_arrival(&format!("tcp sport {PORT} tcp flags & fin == fin drop"))?;
            await_that("nginx closes", || Ok(sockets(State::FIN_WAIT1)?.len() == 3))?;
            for connection in &mut proxy {
                ensure!(get(connection).is_err(), "nginx answers");
            }
            as_before()
        })?;
        let finding = diagnosis.only("keepalive_race")?;
        ensure_at(finding, "server", PORT)?;
        ensure_owner(finding, nginx.pid())?;
        ensure!(figure(finding, "late_data")? == 3, "{finding}");
        ensure!(figure(finding, "aborts_on_data")? == 3, "{finding}");
        diagnosis.is("keepalive_race")
    })
}

/// haproxy keeps three connections to a server that closes what is idle for two seconds.
fn keepalive_race_behind_haproxy() -> Result<()> {
    Netns::new()?.run(|| {
        let upstream = Server::python(PORT)?;
        let haproxy = Server::http_proxy(PORT + 1, PORT)?;
        let diagnosis = Diagnosis::during("", || {
            let clients = (0..3)
                .map(|_| haproxy.connect())
                .collect::<Result<Vec<_>>>()?;
            thread::scope(|scope| {
                // None is answered before all are there, so that each has a connection to the server.
                let requests = clients
                    .into_iter()
                    .map(|mut client| scope.spawn(move || get_path(&mut client, "/three")));
                let requests: Vec<_> = requests.collect();
                requests
                    .into_iter()
                    .try_for_each(|request| joined(request.join()))
            })?;
            on_arrival(&format!("tcp sport {PORT} tcp flags & fin == fin drop"))?;
            await_that("the server closes", || {
                Ok(sockets(State::FIN_WAIT1)?.len() == 3)
            })?;
            for _ in 0..3 {
                let answer = get(&mut haproxy.connect()?);
                ensure!(answer.is_err(), "the server answers");
            }
            as_before()
        })?;
        let finding = diagnosis.only("keepalive_race")?;
        ensure_at(finding, "server", PORT)?;
        ensure_owner(finding, upstream.pid())?;
        ensure!(figure(finding, "late_data")? == 3, "{finding}");
        ensure!(figure(finding, "aborts_on_data")? == 3, "{finding}");
        diagnosis.is("keepalive_race_behind_haproxy")
    })
}

/// A server that does not await the rest of a request has no idle time-out that is too short.
fn early_close() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = TcpListener::bind(SERVER)?;
        on_arrival(&format!("tcp sport {PORT} tcp flags & fin == fin drop"))?;
        // However slow this machine is.
        let diagnosis = Diagnosis::during("idle_timeout_least = \"10m\"", || {
            for _ in 0..3 {
                let mut client = TcpStream::connect(SERVER)?;
                let (server, _) = listener.accept()?;
                drop(server);
                client.write_all(b"the rest")?;
                ensure!(client.read(&mut [0]).is_err(), "no reset");
            }
            Ok(())
        })?;
        let finding = diagnosis.only("keepalive_race")?;
        ensure!(figure(finding, "young")? == 3, "{finding}");
        diagnosis.is("early_close")
    })
}

/// Half a second without a packet is idle here; a look finds it.
const IDLE: &str = "idle_time = \"500ms\"";

/// Connections to a server, both ends.
fn connections(listener: &TcpListener, count: usize) -> Result<Vec<(TcpStream, TcpStream)>> {
    let one = |_| Ok((TcpStream::connect(SERVER)?, listener.accept()?.0));
    (0..count).map(one).collect()
}

/// A firewall forgets what is idle, and answers the next packet with a RST.
fn idle_reset() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = TcpListener::bind(SERVER)?;
        let mut idle = connections(&listener, 3)?;
        thread::sleep(Duration::from_secs(1));
        let diagnosis = Diagnosis::during(IDLE, || {
            on_arrival(&format!("tcp dport {PORT} reject with tcp reset"))?;
            for (client, _) in &mut idle {
                // Each is used at another moment.
                thread::sleep(Duration::from_millis(1_100));
                client.write_all(b"are you there?")?;
                ensure!(client.read(&mut [0]).is_err(), "no reset");
            }
            Ok(())
        })?;
        let finding = diagnosis.only("idle_reset")?;
        ensure_at(finding, "client", PORT)?;
        ensure!(figure(finding, "cut")? == 3, "{finding}");
        ensure!(
            figure(finding, "shortest_idle_ns")? >= 1_000_000_000,
            "{finding}"
        );
        diagnosis.is("idle_reset")
    })
}

/// A server that ends resets its connections, idle ones too, at one moment.
fn reset_of_all_at_once() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = TcpListener::bind(SERVER)?;
        let idle = connections(&listener, 20)?;
        thread::sleep(Duration::from_secs(1));
        let diagnosis = Diagnosis::during(IDLE, || {
            let (clients, servers): (Vec<_>, Vec<_>) = idle.into_iter().unzip();
            for server in servers {
                reset(server)?;
            }
            for mut client in clients {
                ensure!(client.read(&mut [0]).is_err(), "no reset");
            }
            Ok(())
        })?;
        diagnosis.is("reset_of_all_at_once")
    })
}

/// haproxy asks redis whether it is there, and resets the connection when it has the answer.
fn health_checks() -> Result<()> {
    Netns::new()?.run(|| {
        let redis = Server::redis(PORT, &[])?;
        let checks =
            "  option tcp-check\n  tcp-check send PING\\r\\n\n  tcp-check expect string +PONG";
        let _haproxy = Server::haproxy(PORT + 1, PORT, checks)?;
        // However slow this machine is.
        let diagnosis = Diagnosis::during("short_life = \"900ms\"", || {
            thread::sleep(Duration::from_secs(8));
            Ok(())
        })?;
        let finding = diagnosis.only("health_checks")?;
        ensure_at(finding, "server", PORT)?;
        ensure_owner(finding, redis.pid())?;
        ensure!(finding["peer"] == "127.0.0.1", "{finding}");
        ensure!(figure(finding, "checks")? >= 4, "{finding}");
        diagnosis.is("health_checks")?;
        redis.end(Signal::TERM)
    })
}

/// One of four addresses refuses.
fn failing_peer() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        on_arrival(&format!(
            "ip daddr 127.0.0.4 tcp dport {PORT} reject with icmp type host-unreachable"
        ))?;
        let diagnosis = Diagnosis::during("", || {
            for round in 0..6 {
                for number in 1..=4 {
                    let to = (Ipv4Addr::new(127, 0, 0, number), PORT);
                    match TcpStream::connect(to) {
                        Ok(client) => {
                            let (server, _) = listener.accept()?;
                            drop(client);
                            await_fin(&server)?;
                        }
                        Err(error) => ensure!(number == 4, "round {round}, {to:?}: {error}"),
                    }
                }
            }
            Ok(())
        })?;
        let finding = diagnosis.only("failing_peer")?;
        ensure_at(finding, "client", PORT)?;
        ensure!(finding["peer"] == "127.0.0.4", "{finding}");
        ensure!(figure(finding, "failures")? == 6, "{finding}");
        ensure!(figure(finding, "addresses")? == 4, "{finding}");
        let finding = diagnosis.only("connects_fail")?;
        ensure!(finding["see"][0]["name"] == "failing_peer", "{finding}");
        diagnosis.is("failing_peer")
    })
}
