//! Hosts on which nothing is wrong: no finding is more than a note.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::Result;
use libtest_mimic::Trial;
use rustix::process::Signal;

use super::Diagnosis;
use crate::{
    need::{Need, trial},
    net::{Netns, allow_open_files},
    servers::{Server, ping, wrk},
};

type Test = fn() -> Result<()>;

pub fn add(trials: &mut Vec<Trial>) {
    const NGINX: &[Need] = &[Need::Program("nginx"), Need::Program("wrk")];
    const REDIS: &[Need] = &[Need::Program("redis-server")];
    let tests: &[(&str, &[Need], Test)] = &[
        ("at_rest", &[], at_rest),
        ("nginx_with_keepalive", NGINX, || {
            nginx("keepalive_timeout 60s;", "nginx_with_keepalive")
        }),
        ("nginx_without_keepalive", NGINX, || {
            nginx("keepalive_timeout 0;", "nginx_without_keepalive")
        }),
        ("redis_pool", REDIS, redis_pool),
        ("a_thousand_idle", &[], a_thousand_idle),
        ("careful_deploy", REDIS, careful_deploy),
    ];
    for &(name, needs, test) in tests {
        let needs = [&[Need::Btf, Need::Cookie], needs].concat();
        trials.push(trial(format!("diagnose::healthy::{name}"), &needs, test));
    }
}

const PORT: u16 = 8_080;

fn at_rest() -> Result<()> {
    Netns::new()?.run(|| {
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))?;
        let diagnosis = Diagnosis::of("2s", "", || Ok(()))?;
        diagnosis.is("at_rest")
    })
}

fn nginx(keepalive: &str, situation: &str) -> Result<()> {
    Netns::new()?.run(|| {
        let _nginx = Server::nginx(PORT, keepalive)?;
        let diagnosis = Diagnosis::during("", || wrk(PORT, "5s"))?;
        diagnosis.is(situation)
    })
}

/// Ten connections that are used again and again.
fn redis_pool() -> Result<()> {
    Netns::new()?.run(|| {
        let redis = Server::redis(PORT, &[])?;
        let mut pool = (0..10)
            .map(|_| redis.connect())
            .collect::<Result<Vec<_>>>()?;
        let diagnosis = Diagnosis::during("", || {
            for _ in 0..200 {
                pool.iter_mut().try_for_each(ping)?;
            }
            Ok(())
        })?;
        diagnosis.is("redis_pool")
    })
}

fn a_thousand_idle() -> Result<()> {
    allow_open_files(4_096)?;
    Netns::new()?.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))?;
        let address = listener.local_addr()?;
        let _idle = (0..1_000)
            .map(|_| Ok((TcpStream::connect(address)?, listener.accept()?)))
            .collect::<Result<Vec<_>>>()?;
        let diagnosis = Diagnosis::of("2s", "idle_time = \"100ms\"", || Ok(()))?;
        diagnosis.is("a_thousand_idle")
    })
}

/// The clients have closed before the process is replaced.
fn careful_deploy() -> Result<()> {
    Netns::new()?.run(|| {
        let old = Server::redis(PORT, &[])?;
        let mut new = None;
        let diagnosis = Diagnosis::during("", || {
            ping(&mut old.connect()?)?;
            old.end(Signal::TERM)?;
            let server = new.insert(Server::redis(PORT, &[])?);
            ping(&mut server.connect()?)
        })?;
        diagnosis.is("careful_deploy")
    })
}
