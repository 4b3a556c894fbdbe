//! Findings about connections that do not end.

use std::{
    io::Write as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::net::sockopt;
use tcpstate_common::State;

use super::{Diagnosis, ensure_at, ensure_owner, set};
use crate::{
    need::{Need, trial},
    net::{Netns, await_fin, await_state, await_that, drop_incoming, shutdown_write, unused_port},
    process::run,
    traffic::{connect_over, crossing, over_wire},
};

pub fn add(trials: &mut Vec<Trial>) {
    let needs = [Need::Btf, Need::Cookie];
    trials.push(trial("diagnose::fin_wait2_held", &needs, fin_wait2_held));
    trials.push(trial(
        "diagnose::fin_wait2_in_use",
        &needs,
        fin_wait2_in_use,
    ));
    let needs = [
        Need::Btf,
        Need::Cookie,
        Need::Program("nft"),
        Need::Program("ss"),
    ];
    trials.push(trial("diagnose::closing_silent", &needs, closing_silent));
    trials.push(trial("diagnose::closing_blocked", &needs, closing_blocked));
    trials.push(trial("diagnose::silent_peer", &needs, silent_peer));
    trials.push(trial("diagnose::silent_clients", &needs, silent_clients));
    trials.push(trial(
        "diagnose::peer_does_not_read",
        &needs,
        peer_does_not_read,
    ));
    let needs = [Need::Btf, Need::Cookie, Need::Tun];
    trials.push(trial("diagnose::closing_both", &needs, closing_both));
}

/// Waits until `ss` shows so many sockets in a state with a timer of this kind that has expired so often.
pub fn await_timers(state: &str, kind: &str, sockets: usize, expiries: u32) -> Result<()> {
    await_that(&format!("{sockets} sockets in {state} time out"), || {
        let lines = run("ss", &["-HOtano", "state", state])?.stdout;
        let is_so = |line: &&str| {
            let Some((_, timer)) = line.split_once("timer:(") else {
                return false;
            };
            let mut parts = timer.trim_end().trim_end_matches(')').split(',');
            let is_kind = parts.next() == Some(kind);
            is_kind && parts.nth(1).and_then(|text| text.parse().ok()) >= Some(expiries)
        };
        Ok(lines.lines().filter(is_so).count() >= sockets)
    })
}

/// Connections, each with its client and its server.
fn connections(listener: &TcpListener, count: usize) -> Result<Vec<(TcpStream, TcpStream)>> {
    let one = |_| -> Result<(TcpStream, TcpStream)> {
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        Ok((client, server))
    };
    (0..count).map(one).collect()
}

/// Clients that only call `shutdown()`, with servers that do not close.
fn fin_wait2_held() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let held = connections(&listener, 3)?;
        for (client, _) in &held {
            shutdown_write(client)?;
            await_state(client, State::FIN_WAIT2)?;
        }
        // Their clients have closed them, and `tcp_fin_timeout` ends them: kept as something smaller, and whole.
        for timeout in ["60", "100"] {
            set("ipv4/tcp_fin_timeout", timeout)?;
            for (client, server) in connections(&listener, 4)? {
                drop(client);
                await_fin(&server)?;
                std::mem::forget(server);
            }
        }
        thread::sleep(Duration::from_millis(1_500));
        let diagnosis = Diagnosis::of("1s", "fin_wait2_age = \"1s\"", || Ok(()))?;
        let finding = diagnosis.only("fin_wait2_held")?;
        ensure!(finding["figures"]["sockets"]["value"] == 3, "{finding}");
        ensure_at(finding, "client", port)?;
        ensure_owner(finding, process::id())?;
        diagnosis.is("fin_wait2_held")
    })
}

/// A client that has sent its request with `shutdown()`, and reads a long answer.
fn fin_wait2_in_use() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut used = connections(&listener, 4)?;
        for (client, _) in &used {
            shutdown_write(client)?;
            await_state(client, State::FIN_WAIT2)?;
        }
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let answers = scope.spawn(|| -> Result<()> {
                while !is_over.load(Ordering::Relaxed) {
                    for (_, server) in &mut used {
                        server.write_all(b"more")?;
                    }
                    thread::sleep(Duration::from_millis(20));
                }
                Ok(())
            });
            thread::sleep(Duration::from_secs(4));
            let diagnosis = Diagnosis::of("1s", "fin_wait2_age = \"3s\"", || Ok(()));
            is_over.store(true, Ordering::Relaxed);
            crate::net::joined(answers.join())?;
            diagnosis?.is("fin_wait2_in_use")
        })
    })
}

/// The peer is silent: closed sockets wait for `tcp_orphan_retries`, held ones for `tcp_retries2`.
fn closing_silent() -> Result<()> {
    Netns::new()?.run(|| {
        set("ipv4/tcp_orphan_retries", "9")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, unused_port()))?;
        let port = listener.local_addr()?.port();
        let mut closed = connections(&listener, 8)?;
        let held = closed.split_off(5);
        let late = connections(&listener, 4)?;
        // Their servers know that the clients have closed, and get no ACK of their own FIN.
        for (client, server) in &late {
            shutdown_write(client)?;
            await_fin(server)?;
        }
        drop_incoming(&[&format!("tcp dport {port}")])?;
        let late: Vec<_> = late.into_iter().map(|(client, _)| client).collect();
        let _servers: Vec<_> = closed.into_iter().map(|(_, server)| server).collect();
        for (client, _) in &held {
            shutdown_write(client)?;
        }
        await_timers("fin-wait-1", "on", 8, 3)?;
        await_timers("last-ack", "on", 4, 3)?;
        let diagnosis = Diagnosis::of("1s", "closing_age = \"1s\"\nclosing_count = 4", || Ok(()))?;
        let mut found = diagnosis.all("stuck_closing");
        found.sort_by_key(|finding| finding["role"].to_string());
        let [client, server] = &found[..] else {
            anyhow::bail!("{}", diagnosis.words())
        };
        ensure_at(client, "client", port)?;
        ensure_at(server, "server", port)?;
        let figures = |finding: &serde_json::Value| {
            ["sockets", "silent", "not_reading", "orphans"]
                .map(|name| finding["figures"][name]["value"].clone())
        };
        ensure!(figures(client) == [8, 8, 0, 5], "{client}");
        ensure!(figures(server) == [4, 4, 0, 4], "{server}");
        ensure_owner(client, process::id())?;
        let advice = client["advice"].to_string();
        ensure!(
            advice.contains("tcp_orphan_retries ends them, which is 9 here")
                && advice.contains("tcp_retries2 ends them, which is 15 here: not before 15m 24s"),
            "{advice}"
        );
        drop(late);
        diagnosis.is("closing_silent")
    })
}

/// Clients with more to send than the server reads. Returned: both ends.
fn unread(listener: &TcpListener, count: usize) -> Result<Vec<(TcpStream, TcpStream)>> {
    let all = connections(listener, count)?;
    for (client, _) in &all {
        client.set_nonblocking(true)?;
        let mut client = client;
        let data = vec![0; 65_536];
        while client.write(&data).is_ok() {}
    }
    Ok(all)
}

/// A listener whose connections take little without being read.
fn small_listener() -> Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    sockopt::set_socket_recv_buffer_size(&listener, 4_096)?;
    Ok(listener)
}

/// The peer lives and does not read: no FIN leaves before the data that waits.
fn closing_blocked() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = small_listener()?;
        let port = listener.local_addr()?.port();
        let mut held = unread(&listener, 5)?;
        let mut closed = held.split_off(2);
        for (client, _) in &held {
            shutdown_write(client)?;
        }
        let servers: Vec<_> = closed.drain(..).map(|(_, server)| server).collect();
        // The answers set the count of probes to 0, but not the time between them.
        let diagnosis = await_finding("closing_age = \"1s\"", "stuck_closing", "not_reading", 5)?;
        let finding = diagnosis.only("stuck_closing")?;
        ensure_at(finding, "client", port)?;
        ensure!(finding["figures"]["silent"]["value"] == 0, "{finding}");
        ensure!(finding["figures"]["orphans"]["value"] == 3, "{finding}");
        let summary = finding["summary"].to_string();
        ensure!(
            summary.contains("5 in FIN_WAIT1; the peer lives and does not read"),
            "{summary}"
        );
        drop(servers);
        diagnosis.is("closing_blocked")
    })
}

/// Diagnoses until a figure of a finding is so large: the kernel shows nobody when its probes were far apart enough.
fn await_finding(thresholds: &str, name: &str, figure: &str, value: u64) -> Result<Diagnosis> {
    let mut last = None;
    await_that(&format!("{name} with {figure} = {value}"), || {
        let diagnosis = Diagnosis::of("1s", thresholds, || Ok(()))?;
        let is_so = diagnosis
            .only(name)
            .is_ok_and(|finding| finding["figures"][figure]["value"] == value)
            // Its last look is another one.
            && diagnosis.ensure_on_top(name).is_ok();
        last = Some(diagnosis);
        Ok(is_so)
    })?;
    last.context("none")
}

/// Both sides close at the same moment, and no ACK arrives.
fn closing_both() -> Result<()> {
    let port = unused_port();
    over_wire(|wire, near, far| {
        let (listener, client, server) = connect_over(near, far, port)?;
        wire.hold(|segment| segment.fin);
        shutdown_write(&client)?;
        shutdown_write(&server)?;
        wire.await_held(|held| crossing(held, |segment| segment.fin))?;
        wire.release_and_hold(|_| true)?;
        await_state(&client, State::CLOSING)?;
        let diagnosis =
            near.run(|| await_finding("closing_age = \"1s\"", "stuck_closing", "sockets", 1))?;
        let finding = diagnosis.only("stuck_closing")?;
        let advice = finding["advice"].to_string();
        ensure!(
            finding["summary"].to_string().contains("1 in CLOSING")
                && advice.contains("CLOSING is rare"),
            "{finding}"
        );
        wire.release()?;
        drop((listener, client, server));
        diagnosis.is("closing_both")
    })
}

/// A server that is gone: the client's data is sent again and again. A server that is busy is none.
fn silent_peer() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, unused_port()))?;
        let port = listener.local_addr()?.port();
        let mut silent = connections(&listener, 2)?;
        let well = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut busy = connections(&well, 2)?;
        drop_incoming(&[&format!("tcp dport {port}")])?;
        for (client, _) in silent.iter_mut().chain(&mut busy) {
            client.write_all(b"anybody there?")?;
        }
        await_timers("established", "on", 2, 3)?;
        let diagnosis = Diagnosis::of("1s", "", || Ok(()))?;
        let finding = diagnosis.only("silent_peer")?;
        ensure_at(finding, "client", port)?;
        ensure_owner(finding, process::id())?;
        ensure!(finding["peer"] == "127.0.0.1", "{finding}");
        ensure!(finding["figures"]["silent"]["value"] == 2, "{finding}");
        diagnosis.is("silent_peer")
    })
}

/// One client of thirty that has vanished is usual; three are not.
fn silent_clients() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, unused_port()))?;
        let mut all = connections(&listener, 30)?;
        for (vanished, situation) in [(0..1, "one_silent_client"), (1..3, "silent_clients")] {
            let count = vanished.end;
            for (client, server) in &mut all[vanished] {
                let table = client.local_addr()?.port();
                drop_more(table)?;
                server.write_all(b"anybody there?")?;
            }
            await_timers("established", "on", count, 3)?;
            let diagnosis = Diagnosis::of("1s", "", || Ok(()))?;
            let finding = diagnosis.only("silent_peer")?;
            ensure_at(finding, "server", listener.local_addr()?.port())?;
            diagnosis.is(situation)?;
        }
        Ok(())
    })
}

/// Drops what comes to this port from now on, beside what is dropped already.
fn drop_more(port: u16) -> Result<()> {
    let rules = format!(
        "add table inet t{port}; add chain inet t{port} i {{ type filter hook input priority 0; }}; \
         add rule inet t{port} i tcp dport {port} drop"
    );
    let output = run("nft", &[&rules])?;
    ensure!(output.status.success(), "{}", output.stderr);
    Ok(())
}

/// Servers that do not read, and live.
fn peer_does_not_read() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = small_listener()?;
        let all = unread(&listener, 3)?;
        let diagnosis = await_finding(
            "zero_window_age = \"1s\"",
            "peer_does_not_read",
            "not_reading",
            3,
        )?;
        let finding = diagnosis.only("peer_does_not_read")?;
        ensure_at(finding, "client", listener.local_addr()?.port())?;
        ensure_owner(finding, process::id())?;
        drop(all);
        diagnosis.is("peer_does_not_read")
    })
}
