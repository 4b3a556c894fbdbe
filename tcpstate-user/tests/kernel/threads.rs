//! Processes that are not what the running task is called: threads with names of their own, and kernel
//! workers.
//!
//! The oracle is `/proc/PID/comm`, and the test itself, which made the processes.

use std::{
    io::{IoSlice, Read as _},
    mem::MaybeUninit,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};

use crate::{
    cgroup::Cgroup,
    need::{ATTACH_MODES, Need, attach_needs, trial},
    net::{Netns, unused_port},
    process::Tcpstate,
    programs::{Identity, Server, THREAD, threaded_client},
};

pub fn add(trials: &mut Vec<Trial>) {
    for mode in ATTACH_MODES {
        let needs = [attach_needs(mode), &[Need::Btf]].concat();
        trials.push(trial(
            format!("{mode}::a_thread_is_its_process"),
            &needs,
            move || a_thread_is_its_process(mode),
        ));
        trials.push(trial(
            format!("{mode}::a_kernel_worker_is_no_owner"),
            &needs,
            move || a_kernel_worker_is_no_owner(mode),
        ));
    }
}

/// Connections that a thread with a name of its own opens are its process's.
fn a_thread_is_its_process(mode: &str) -> Result<()> {
    let port = unused_port();
    let cgroup = Cgroup::new(&format!("tcpstate-test-{port}"))?;
    let server_is = Identity::new("server", 54_001, &cgroup);
    let java = Identity::new("java", 54_002, &cgroup);
    let of = port.to_string();
    let fixed = ["life", "--json", "--attach", mode, "-P", &of];
    let all = Tcpstate::start(&fixed)?;
    let by_name = Tcpstate::start(&[&fixed[..], &["--comm", "java"]].concat())?;
    let by_thread = Tcpstate::start(&[&fixed[..], &["--comm", THREAD]].concat())?;
    let client = Netns::new()?.run_until_quiet(|| {
        let server = Server::start(&server_is, Ipv4Addr::LOCALHOST, port)?;
        let client = threaded_client(&java, Ipv4Addr::LOCALHOST, port, 4)?;
        server.stop()?;
        Ok(client)
    })?;
    let (lines, _) = by_name.stop()?.json()?;
    ensure!(
        lines.len() == 4
            && lines.iter().all(|line| {
                line["role"] == "client"
                    && line["owner"]["pid"] == client.pid
                    && line["owner"]["comm"] == "java"
                    && line["owner"]["how"] == "exact"
            }),
        "not the four of {}: {lines:?}",
        client.pid
    );
    let (lines, _) = by_thread.stop()?.json()?;
    ensure!(lines.is_empty(), "a thread owns nothing: {lines:?}");
    let (lines, _) = all.stop()?.json()?;
    ensure!(lines.len() == 8, "{} ends", lines.len());
    Ok(())
}

/// A connection that only an unreachable Unix socket holds is closed by the kernel's collector, which is
/// a worker since Linux 6.10.
fn a_kernel_worker_is_no_owner(mode: &str) -> Result<()> {
    let port = unused_port();
    let of = port.to_string();
    let trace = Tcpstate::start(&["trace", "--json", "--attach", mode, "-P", &of])?;
    Netns::new()?.run_until_quiet(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        let (accepted, _) = listener.accept()?;
        leave_to_the_collector(accepted)?;
        // The end of the stream: the collector has closed the other side.
        let mut rest = Vec::new();
        client.set_read_timeout(Some(Duration::from_secs(20)))?;
        client
            .read_to_end(&mut rest)
            .context("the collector did not run")?;
        Ok(())
    })?;
    let (lines, _) = trace.stop()?.json()?;
    let closes = lines
        .iter()
        .find(|line| line["oldstate"] == "ESTABLISHED" && line["newstate"] == "FIN_WAIT1");
    let closes = closes.with_context(|| format!("nothing closes: {lines:?}"))?;
    ensure!(
        closes["role"] == "server" && closes["owner"]["pid"] == std::process::id(),
        "not who listened: {closes}"
    );
    for line in &lines {
        let comm = line["owner"]["comm"].as_str().unwrap_or_default();
        ensure!(!comm.starts_with("kworker"), "a worker owns it: {line}");
    }
    Ok(())
}

/// Puts a connection into the queue of a Unix socket that is in that queue itself, and closes all else.
fn leave_to_the_collector(connection: TcpStream) -> Result<()> {
    let pair = || {
        socketpair(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
    };
    let (to, queue) = pair()?;
    let files = [queue.as_fd(), connection.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ensure!(
        ancillary.push(SendAncillaryMessage::ScmRights(&files)),
        "no room"
    );
    sendmsg(
        &to,
        &[IoSlice::new(b"x")],
        &mut ancillary,
        SendFlags::empty(),
    )?;
    drop((to, queue, connection));
    // Closing a Unix socket starts the collector.
    thread::sleep(Duration::from_millis(10));
    drop(pair()?);
    Ok(())
}
