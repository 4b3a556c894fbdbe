//! The views that summarize, on real connections: to a real nginx, and to sockets that are held in states.
//!
//! The oracle is the test's clock, read before and after each action that changes a state, and the kernel's
//! own list of sockets (`/proc/net/tcp`).

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    ops::RangeInclusive,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tcpstate_common::State;

use crate::{
    dwell::moment,
    need::{ATTACH_MODES, Need, attach_needs, trial},
    net::{Connection, Netns, await_fin, await_state, await_that, shutdown_write, unused_port},
    process::{Tcpstate, await_exit},
    traffic::on_loopback,
};

/// The time for which the client of nginx stays connected.
const HOLD: Duration = Duration::from_millis(300);
/// The time for which a socket is left in `CLOSE_WAIT`.
const LEAK: Duration = Duration::from_millis(50);

pub fn add(trials: &mut Vec<Trial>) {
    for mode in ATTACH_MODES {
        let needs = [
            attach_needs(mode),
            &[Need::Program("ip"), Need::Program("nginx")],
        ]
        .concat();
        trials.push(trial(
            format!("{mode}::life_of_a_connection_to_nginx"),
            &needs,
            move || life_of_a_connection_to_nginx(mode),
        ));
        let needs = [attach_needs(mode), &[Need::Program("ip")]].concat();
        trials.push(trial(
            format!("{mode}::life_finds_a_leak_in_close_wait"),
            &needs,
            move || life_finds_a_leak_in_close_wait(mode),
        ));
        trials.push(trial(
            format!("{mode}::hist_counts_every_stay"),
            &needs,
            move || hist_counts_every_stay(mode),
        ));
    }
}

/// A running nginx with its own configuration and files.
struct Nginx {
    child: Child,
    _files: tempfile::TempDir,
}

impl Nginx {
    /// Starts it in the namespace of the calling thread, and returns when it listens.
    fn start(port: u16) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let root = files.path().display();
        let configuration = format!(
            "daemon off;\n\
             pid {root}/pid;\n\
             error_log {root}/error.log;\n\
             worker_processes 2;\n\
             events {{}}\n\
             http {{\n\
               access_log off;\n\
               client_body_temp_path {root}/body;\n\
               proxy_temp_path {root}/proxy;\n\
               fastcgi_temp_path {root}/fastcgi;\n\
               uwsgi_temp_path {root}/uwsgi;\n\
               scgi_temp_path {root}/scgi;\n\
               server {{ listen 127.0.0.1:{port}; }}\n\
             }}\n"
        );
        let path = files.path().join("nginx.conf");
        fs::write(&path, configuration)?;
        let child = Command::new("nginx")
            .args([Path::new("-p"), files.path(), Path::new("-c"), &path])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("nginx")?;
        let nginx = Self {
            child,
            _files: files,
        };
        await_that("nginx listens", || {
            Ok(sockets(State::LISTEN)?.contains(&(port, 0)))
        })?;
        Ok(nginx)
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it finish its work, and waits for its end.
    fn quit(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::QUIT)?;
        await_exit(&mut self.child)?;
        Ok(())
    }
}

/// The local and remote ports of the IPv4 sockets in this state in the calling thread's namespace, as
/// listed by the kernel.
pub fn sockets(state: State) -> Result<Vec<(u16, u16)>> {
    let text = fs::read_to_string("/proc/thread-self/net/tcp")?;
    let port = |address: &str| -> Result<u16> {
        let (_, port) = address.split_once(':').context("no port")?;
        Ok(u16::from_str_radix(port, 16)?)
    };
    let mut found = Vec::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, number, ..] = fields[..] else {
            continue;
        };
        if u8::from_str_radix(number, 16)? == state.0 {
            found.push((port(local)?, port(remote)?));
        }
    }
    Ok(found)
}

fn life_of_a_connection_to_nginx(mode: &str) -> Result<()> {
    let port = unused_port();
    let tcpstate = Tcpstate::start(&["life", "--json", "--attach", mode, "-P", &port.to_string()])?;
    let netns = Netns::new()?;
    let (nginx_pid, at_client, at_server) = netns.run(|| {
        let nginx = Nginx::start(port)?;
        let (connected, client) = moment(|| Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port))?))?;
        let start = Instant::now();
        let from = client.local_addr()?.port();
        let (established, ()) = moment(|| {
            await_that("the server's end is established", || {
                Ok(sockets(State::ESTABLISHED)?.contains(&(port, from)))
            })
        })?;
        thread::sleep(HOLD.saturating_sub(start.elapsed()));
        // Not `close`: an orphan that waits for the server's FIN becomes a minisocket, and no transition shows
        // its later end.
        let (closed, ()) = moment(|| shutdown_write(&client))?;
        await_fin(&client)?;
        drop(client);
        let (gone, ()) = moment(|| {
            await_that("the server's end is gone", || {
                let mut is_gone = true;
                for state in [State::ESTABLISHED, State::CLOSE_WAIT, State::LAST_ACK] {
                    is_gone &= !sockets(state)?.contains(&(port, from));
                }
                Ok(is_gone)
            })
        })?;
        let pid = nginx.pid();
        nginx.quit()?;
        Ok((
            pid,
            connected.until(closed),
            connected.through(established).until(closed.through(gone)),
        ))
    })?;
    let (lines, _) = tcpstate.stop()?.json()?;
    ensure!(lines.len() == 2, "expected two ends: {lines:?}");
    let end = |role: &str| {
        lines
            .iter()
            .find(|line| line["role"] == role)
            .with_context(|| format!("no {role} in {lines:?}"))
    };
    let (client, server) = (end("client")?, end("server")?);
    check_life(
        client,
        port,
        &["SYN_SENT", "ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2"],
        &at_client,
    )?;
    check_life(
        server,
        port,
        &["SYN_RECV", "ESTABLISHED", "CLOSE_WAIT", "LAST_ACK"],
        &at_server,
    )?;
    ensure!(
        client["rport"] == port && server["lport"] == port && client["lport"] == server["rport"],
        "not the two ends of one connection: {lines:?}"
    );
    let owner = &client["owner"];
    ensure!(
        owner["pid"] == std::process::id() && owner["how"] == "exact",
        "the client is not this process: {client}"
    );
    // The kernel does not say which worker it was; the listener belongs to the master.
    ensure!(
        server["owner"] == json!({"pid": nginx_pid, "comm": "nginx", "how": "listener"}),
        "the server is not nginx {nginx_pid}: {server}"
    );
    Ok(())
}

/// Checks an ended connection: its states, and its dwell in ESTABLISHED.
fn check_life(line: &Value, port: u16, path: &[&str], bounds: &RangeInclusive<u64>) -> Result<()> {
    ensure!(
        line["type"] == "connection"
            && line["ended"] == true
            // The cause comes from fields of the socket, which are located by BTF.
            && (line["cause"] == "fin" || line["cause"].is_null() && Need::Btf.missing().is_some()),
        "no end: {line}"
    );
    ensure!(
        line["service_port"] == port,
        "another service port than {port}: {line}"
    );
    let stays = line["states"].as_array().context("no states")?;
    let states: Vec<_> = stays.iter().map(|stay| &stay["state"]).collect();
    ensure!(states == path, "another path than {path:?}: {line}");
    let dwells: Option<Vec<u64>> = stays.iter().map(|stay| stay["dwell_ns"].as_u64()).collect();
    let dwells = dwells.with_context(|| format!("an unknown time: {line}"))?;
    ensure!(
        line["lifetime_ns"] == dwells.iter().sum::<u64>(),
        "the times do not sum to the lifetime: {line}"
    );
    let held_ns = dwells[1];
    ensure!(
        bounds.contains(&held_ns),
        "{held_ns} ns is outside {bounds:?}: {line}"
    );
    Ok(())
}

/// `life --live` shows a leaked connection while its socket exists.
fn life_finds_a_leak_in_close_wait(mode: &str) -> Result<()> {
    let port = unused_port();
    // Shorter than the stay of the socket, so that it must be found.
    let longer_than = format!("{}ms", LEAK.as_millis());
    let tcpstate = Tcpstate::start(&[
        "life",
        "--json",
        "--attach",
        mode,
        "-P",
        &port.to_string(),
        "--live",
        "--state",
        "CLOSE_WAIT",
        "--longer-than",
        &longer_than,
    ])?;
    let (left, ended, output) = on_loopback(|| {
        let Connection {
            listener,
            client,
            server,
        } = Connection::new((Ipv4Addr::LOCALHOST, port))?;
        let (left, ()) = moment(|| {
            drop(client);
            await_state(&server, State::CLOSE_WAIT)
        })?;
        thread::sleep(LEAK);
        let (ended, output) = moment(|| tcpstate.stop())?;
        drop((listener, server));
        Ok((left, ended, output))
    })?;
    let (lines, summary) = output.json()?;
    ensure!(lines.len() == 1, "expected one line: {lines:?}, {summary}");
    let line = &lines[0];
    ensure!(
        line["ended"] == false && line["role"] == "server" && line["lport"] == port,
        "not the leaked connection: {line}"
    );
    let stay = line["states"]
        .as_array()
        .and_then(|stays| stays.last())
        .with_context(|| format!("no states: {line}"))?;
    ensure!(stay["state"] == "CLOSE_WAIT", "it is in {stay}: {line}");
    let age_ns = stay["dwell_ns"].as_u64().context("no age")?;
    let bounds = left.until(ended);
    ensure!(
        bounds.contains(&age_ns),
        "{age_ns} ns is outside {bounds:?}: {line}"
    );
    Ok(())
}

/// `hist` counts each state of each side once for each connection, and no time exceeds that of the test.
fn hist_counts_every_stay(mode: &str) -> Result<()> {
    const CONNECTIONS: u64 = 20;
    let port = unused_port();
    let tcpstate = Tcpstate::start(&["hist", "--json", "--attach", mode, "-P", &port.to_string()])?;
    let before = Instant::now();
    on_loopback(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        for _ in 0..CONNECTIONS {
            let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            let (server, _) = listener.accept()?;
            // Not `close`: an orphan that waits for the server's FIN becomes a minisocket, and no transition shows
            // its later end.
            shutdown_write(&client)?;
            await_state(&server, State::CLOSE_WAIT)?;
            drop(server);
            await_fin(&client)?;
        }
        Ok(())
    })?;
    let whole_ns = u64::try_from(before.elapsed().as_nanos())?;
    let (lines, _) = tcpstate.stop()?.json()?;
    let mut found: Vec<(String, String, u64)> = Vec::new();
    for line in &lines {
        ensure!(
            line["type"] == "histogram" && line["of"] == "dwell" && line["service_port"] == port,
            "not a histogram of {port}: {line}"
        );
        let longest_ns = line["max_ns"].as_u64().context("no max")?;
        ensure!(longest_ns <= whole_ns, "longer than the test: {line}");
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let count = line["count"].as_u64().context("no count")?;
        found.push((text("role"), text("state"), count));
    }
    found.sort();
    let mut expected: Vec<(String, String, u64)> = [
        (
            "client",
            &["SYN_SENT", "ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2"][..],
        ),
        (
            "server",
            &["SYN_RECV", "ESTABLISHED", "CLOSE_WAIT", "LAST_ACK"],
        ),
    ]
    .into_iter()
    .flat_map(|(role, states)| {
        states
            .iter()
            .map(move |&state| (role.to_owned(), state.to_owned(), CONNECTIONS))
    })
    .collect();
    expected.push(("server".to_owned(), "LISTEN".to_owned(), 1));
    expected.sort();
    ensure!(found == expected, "{found:?}, expected {expected:?}");
    Ok(())
}
