//! Findings that the queues of sockets show.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process, thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rustix::net::AddressFamily;

use super::{Diagnosis, ensure_at, ensure_owner, first_words};
use crate::{
    need::{Need, trial},
    net::{Netns, await_fin, shutdown_write, socket},
};

pub fn add(trials: &mut Vec<Trial>) {
    let needs = [Need::Btf, Need::Cookie];
    trials.push(trial("diagnose::close_wait_leak", &needs, close_wait_leak));
    trials.push(trial(
        "diagnose::close_wait_before_an_earlier_run",
        &needs,
        close_wait_before_an_earlier_run,
    ));
    trials.push(trial(
        "diagnose::close_wait_in_use",
        &needs,
        close_wait_in_use,
    ));
    trials.push(trial(
        "diagnose::accept_queue_full",
        &needs,
        accept_queue_full,
    ));
}

/// A second is long here.
const CLOSE_WAIT: &str = "close_wait_age = \"1s\"";

/// Connections to a listener whose clients have closed: what the server has of them.
fn closed_by_clients(listener: &TcpListener, count: usize) -> Result<Vec<TcpStream>> {
    let one = |_| -> Result<TcpStream> {
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        drop(client);
        await_fin(&server)?;
        Ok(server)
    };
    (0..count).map(one).collect()
}

/// A server that never closes leaks; its port and its process are named, at once if it is so already.
fn close_wait_leak() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let mut leaked = closed_by_clients(&listener, 5)?;
        thread::sleep(Duration::from_millis(1_500));
        let diagnosis = Diagnosis::of("1s", CLOSE_WAIT, || Ok(()))?;
        let finding = diagnosis.only("close_wait_leak")?;
        ensure_owner(finding, process::id())?;
        diagnosis.is("close_wait_before")?;
        let diagnosis = Diagnosis::of("3s", CLOSE_WAIT, || {
            leaked.extend(closed_by_clients(&listener, 3)?);
            Ok(())
        })?;
        let finding = diagnosis.only("close_wait_leak")?;
        ensure_at(finding, "server", port)?;
        ensure_owner(finding, process::id())?;
        ensure!(
            finding["since_at_least_ns"].as_u64() > Some(1_000_000_000),
            "{finding}"
        );
        ensure!(
            diagnosis.summary["not_checked"] == serde_json::json!({}),
            "{}",
            diagnosis.summary
        );
        diagnosis.is("close_wait_grows")
    })
}

/// It is in the first words of a later run, whose end is an hour away: an earlier run has changed nothing about it.
fn close_wait_before_an_earlier_run() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let _leaked = closed_by_clients(&listener, 5)?;
        thread::sleep(Duration::from_millis(1_500));
        Diagnosis::of("1s", CLOSE_WAIT, || Ok(()))?.is("close_wait_before")?;
        let words = first_words(CLOSE_WAIT)?;
        let port = listener.local_addr()?.port();
        let found = format!("warning  close_wait_leak: server port {port}, netns ");
        ensure!(
            words.starts_with("So far, from the kernel's lists; watching for ")
                && words.lines().any(|line| line.starts_with(&found)),
            "{words}"
        );
        Ok(())
    })
}

/// A half close in use is none: bytes still leave. Nor are two sockets.
fn close_wait_in_use() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let _few = closed_by_clients(&listener, 2)?;
        let half_closed = |_| -> Result<(TcpStream, TcpStream)> {
            let client = TcpStream::connect(address)?;
            let (mut server, _) = listener.accept()?;
            shutdown_write(&client)?;
            await_fin(&server)?;
            server.set_nonblocking(true)?;
            // More than fits: the rest waits for a client that reads slowly.
            while server.write(&[0; 8_192]).is_ok() {}
            Ok((client, server))
        };
        let _busy = (0..4).map(half_closed).collect::<Result<Vec<_>>>()?;
        thread::sleep(Duration::from_millis(1_500));
        let diagnosis = Diagnosis::of("1s", CLOSE_WAIT, || Ok(()))?;
        diagnosis.is("close_wait_in_use")
    })
}

/// A server that does not accept; the listener and its process are named.
fn accept_queue_full() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = socket(AddressFamily::INET, None)?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        rustix::net::bind(&listener, &any)?;
        rustix::net::listen(&listener, 2)?;
        let listener = TcpListener::from(listener);
        let address = listener.local_addr()?;
        let _waiting = (0..3)
            .map(|_| Ok(TcpStream::connect(address)?))
            .collect::<Result<Vec<_>>>()?;
        let diagnosis = Diagnosis::of("2s", "", || {
            // It finds no room.
            let refused = TcpStream::connect_timeout(&address, Duration::from_millis(1_500));
            ensure!(refused.is_err(), "the queue has room");
            Ok(())
        })?;
        let finding = diagnosis.only("accept_queue_full")?;
        ensure_at(finding, "server", address.port())?;
        ensure_owner(finding, process::id())?;
        ensure!(
            finding["figures"]["overflows"]["value"].as_u64() > Some(0),
            "{finding}"
        );
        diagnosis.is("accept_queue_full")
    })
}
