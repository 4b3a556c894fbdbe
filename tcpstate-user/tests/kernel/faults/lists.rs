//! `ls` while sockets and namespaces come and go.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    need::{Need, trial},
    net::{Netns, joined, unused_port},
    process::{BINARY, has_result, run},
};

pub fn add(trials: &mut Vec<Trial>) {
    trials.push(trial("faults::list_while_sockets_churn", &[], churning));
    trials.push(trial(
        "faults::list_while_namespaces_vanish",
        &[Need::Program("ip")],
        vanishing,
    ));
}

/// The sockets and the summary of a successful `ls`.
pub(super) fn list(arguments: &[&str]) -> Result<(Vec<Value>, Value)> {
    let output = run(BINARY, &[&["ls", "--json"], arguments].concat())?;
    ensure!(has_result(output.status), "{output:?}");
    ensure!(!output.stderr.contains("panicked"), "{output:?}");
    let lines = output.stdout.lines().map(serde_json::from_str);
    let mut lines = lines.collect::<Result<Vec<Value>, _>>()?;
    let summary = lines.pop().context("no summary")?;
    ensure!(summary["type"] == "summary", "{summary}");
    Ok((lines, summary))
}

/// Runs `list` while a thread of its own repeats `disturb`.
fn meanwhile<T>(
    disturb: impl Fn() -> Result<()> + Sync,
    list: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let disturbing = scope.spawn(|| -> Result<()> {
            while !ended.load(Ordering::Relaxed) {
                disturb()?;
            }
            Ok(())
        });
        let result = list();
        ended.store(true, Ordering::Relaxed);
        joined(disturbing.join()).context("the disturbance")?;
        result
    })
}

/// Permanent sockets are in every list exactly once, while others come and go.
fn churning() -> Result<()> {
    const HELD: usize = 200;
    const LISTS: u32 = 20;
    let (netns, port, other) = (Netns::new()?, unused_port(), unused_port());
    netns.run(|| {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = TcpListener::bind(addr)?;
        let pairs = (0..HELD).map(|_| -> Result<_> {
            let client = TcpStream::connect(addr)?;
            Ok((client, listener.accept()?.0))
        });
        let _pairs = pairs.collect::<Result<Vec<_>>>()?;
        // Bound only once, so that no other socket can take the port.
        let churned = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), other));
        let churned = TcpListener::bind(churned)?;
        let disturb = || {
            netns.run(|| {
                let clients = (0..50).map(|_| -> Result<_> {
                    let client = TcpStream::connect(churned.local_addr()?)?;
                    Ok((client, churned.accept()?.0))
                });
                // Closed by a reset, otherwise the clients' ports would be used up.
                for (client, server) in clients.collect::<Result<Vec<_>>>()? {
                    crate::net::reset(client)?;
                    drop(server);
                }
                Ok(())
            })
        };
        meanwhile(disturb, || {
            for _ in 0..LISTS {
                let (lines, summary) = list(&["-P", &port.to_string()])?;
                let mut times = BTreeMap::<_, usize>::new();
                for line in &lines {
                    let cookie = line["cookie"].as_u64().context("a cookie")?;
                    *times.entry(cookie).or_default() += 1;
                }
                ensure!(
                    times.len() == 2 * HELD + 1 && times.values().all(|&times| times == 1),
                    "{} sockets, {} lines: {summary}",
                    times.len(),
                    lines.len()
                );
            }
            Ok(())
        })
    })
}

/// `ls --netns all` lists permanent namespaces while others are deleted.
fn vanishing() -> Result<()> {
    const LISTS: u32 = 20;
    let name = format!("tcpstate-test-{}", std::process::id());
    let (netns, port) = (Netns::new()?, unused_port());
    // A namespace is found by a process in it; this process reads from a pipe until that is closed.
    let _listener = netns.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let inside = crate::process::Running::new(
            std::process::Command::new("cat")
                .stdin(Stdio::piped())
                .stdout(Stdio::null()),
        )?;
        Ok((listener, inside))
    })?;
    let disturb = || {
        let ip = |action| crate::net::ip(&["netns", action, &name]);
        ip("add")?;
        ip("del")
    };
    meanwhile(disturb, || {
        for _ in 0..LISTS {
            let (lines, summary) = list(&["--netns", "all", "-P", &port.to_string()])?;
            ensure!(lines.len() == 1, "{lines:?}: {summary}");
        }
        Ok(())
    })
}
