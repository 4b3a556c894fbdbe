//! The states that are rebuilt from a capture are the kernel's: `trace` watches a namespace while tcpdump captures the
//! same traffic.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::net::{AddressFamily, bind, connect, sockopt};
use serde_json::Value;
use tcpstate_common::State;

use crate::{
    need::{Need, trial},
    net::{
        Connection, Netns, await_fin, await_state, await_that, joined, reset, shutdown_write,
        socket, unused_port,
    },
    process::{BINARY, Running, Tcpstate, await_exit, interrupt, run},
};

pub fn add(trials: &mut Vec<Trial>) {
    trials.push(trial(
        "packets::live_truth",
        &[Need::Cookie, Need::Program("tcpdump")],
        live_truth,
    ));
}

/// Threads that connect at a time, and connections of each.
const THREADS: u8 = 20;
const EACH: u8 = 25;

/// The last packet of a capture.
const BELL: &[u8] = b"this is the last packet of the capture";

/// tcpdump that writes what is on the loopback of the calling thread's namespace to a file.
struct Writing {
    child: Running,
    bell: UdpSocket,
}

impl Writing {
    /// Returns when it captures.
    fn start(path: &Path) -> Result<Self> {
        let bell = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut command = Command::new("tcpdump");
        command
            .args(["-i", "lo", "-s", "96", "-B", "16384", "-U", "-Z", "root"])
            .args(["--immediate-mode", "-w"])
            .arg(path)
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = Running::new(&mut command)?;
        let stderr = child.stderr.take().context("tcpdump without a stderr")?;
        let mut messages = BufReader::new(stderr).lines();
        while !messages
            .next()
            .context("tcpdump ended before it captured")??
            .contains("listening on")
        {}
        // Drains the rest of its messages, so that it never blocks.
        thread::spawn(move || messages.by_ref().for_each(drop));
        Ok(Self { child, bell })
    }

    /// Ends it when it has written all packets up to now.
    fn stop(mut self, path: &Path) -> Result<()> {
        self.bell.send_to(BELL, self.bell.local_addr()?)?;
        await_that("tcpdump writes the last packet", || {
            let file = fs::read(path)?;
            Ok(file.windows(BELL.len()).any(|bytes| bytes == BELL))
        })?;
        interrupt(&self.child)?;
        let status = await_exit(&mut self.child)?;
        ensure!(status.success(), "tcpdump: {status}");
        Ok(())
    }
}

/// A socket's transitions, in order.
type Way = Vec<String>;

/// The ways of all sockets but listeners, by local and remote port.
fn ways(lines: &[Value]) -> BTreeMap<(u64, u64), Vec<Way>> {
    let mut by_cookie: BTreeMap<u64, Vec<&Value>> = BTreeMap::new();
    for line in lines {
        let cookie = line["cookie"].as_u64().unwrap_or(0);
        by_cookie.entry(cookie).or_default().push(line);
    }
    let mut ways: BTreeMap<_, Vec<Way>> = BTreeMap::new();
    for lines in by_cookie.into_values() {
        let last = lines.last().expect("each has a line");
        let port = |name: &str| last[name].as_u64().unwrap_or(0);
        if port("rport") == 0 {
            continue;
        }
        let ports = (port("lport"), port("rport"));
        let way = lines.iter().map(|line| step(line)).collect();
        ways.entry(ports).or_default().push(way);
    }
    // The same ports again are in no order: the cookies are not the kernel's.
    for of_ports in ways.values_mut() {
        of_ports.sort_unstable();
    }
    ways
}

/// The states of a transition, with the cause where packets can tell it: an orphan's socket goes when its FIN is
/// acknowledged, and what then ends the connection is not seen in the kernel.
fn step(line: &Value) -> String {
    let (old, new) = (&line["oldstate"], &line["newstate"]);
    if old == "FIN_WAIT2" {
        return format!("{old} {new}");
    }
    format!("{old} {new} {}", line["cause"])
}

fn live_truth() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("lo.pcap");
    let netns = Netns::new()?;
    let tcpdump = netns.run(|| Writing::start(&path))?;
    let inode = netns.inode()?.to_string();
    let trace = Tcpstate::start(&["trace", "--json", "--netns", &inode])?;
    netns.run_until_quiet(traffic)?;
    let (live, _) = trace.stop()?.transitions()?;
    netns.run(|| tcpdump.stop(&path))?;

    let path = path.to_str().context("a path in UTF-8")?;
    let output = run(BINARY, &["trace", "--json", "-r", path])?;
    let rebuilt = output.stdout.lines().map(serde_json::from_str);
    let mut rebuilt = rebuilt.collect::<Result<Vec<Value>, _>>()?;
    let summary = rebuilt.pop().context("no output")?;
    ensure!(summary["evidence"] == "packets", "{summary}");
    ensure!(summary["complete"] == true, "{summary}");

    let (live, rebuilt) = (ways(&live), ways(&rebuilt));
    let count: usize = live.values().map(Vec::len).sum();
    ensure!(
        count > 2 * usize::from(THREADS) * usize::from(EACH),
        "only {count} sockets"
    );
    for ports in live.keys().chain(rebuilt.keys()) {
        let (kernel, packets) = (live.get(ports), rebuilt.get(ports));
        ensure!(
            kernel == packets,
            "{ports:?}\nkernel  {kernel:#?}\npackets {packets:#?}"
        );
    }
    Ok(())
}

/// All ways to open and close a connection that the loopback can show.
fn traffic() -> Result<()> {
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let open = || Connection::new(local(unused_port()));

    // The client closes first; the server does.
    for client_first in [true, false] {
        let Connection { client, server, .. } = open()?;
        let (first, mut second) = if client_first {
            (client, server)
        } else {
            (server, client)
        };
        drop(first);
        ensure!(second.read(&mut [0])? == 0);
    }

    // Half closed: data still comes.
    let Connection {
        mut client,
        mut server,
        ..
    } = open()?;
    shutdown_write(&client)?;
    await_fin(&server)?;
    server.write_all(&[7; 5000])?;
    client.read_exact(&mut [0; 5000])?;
    drop(server);
    await_fin(&client)?;
    drop(client);

    // Refused.
    ensure!(TcpStream::connect(local(unused_port())).is_err());

    // Reset by either side, before and after a FIN of the other.
    for is_half_closed in [false, true] {
        for by_client in [true, false] {
            let Connection { client, server, .. } = open()?;
            let (first, second) = if by_client {
                (client, server)
            } else {
                (server, client)
            };
            if is_half_closed {
                shutdown_write(&second)?;
                await_fin(&first)?;
                await_state(&second, State::FIN_WAIT2)?;
            }
            reset(first)?;
            await_state(&second, State::CLOSE)?;
        }
    }

    // Data that nobody read.
    let Connection {
        mut client, server, ..
    } = open()?;
    client.write_all(b"unread")?;
    server.peek(&mut [0])?;
    drop(server);
    await_state(&client, State::CLOSE)?;

    // Data after the close.
    let Connection {
        client, mut server, ..
    } = open()?;
    drop(client);
    await_fin(&server)?;
    server.write_all(b"late")?;
    await_state(&server, State::CLOSE)?;

    // A connection that nobody accepts.
    let port = unused_port();
    let listener = TcpListener::bind(local(port))?;
    let client = TcpStream::connect(local(port))?;
    drop(listener);
    await_state(&client, State::CLOSE)?;

    // The same port again and again: the server closes first, so that the client's is free at once.
    let (port, from) = (unused_port(), unused_port());
    let listener = TcpListener::bind(local(port))?;
    for _ in 0..3 {
        let client: OwnedFd = socket(AddressFamily::INET, None)?;
        sockopt::set_socket_reuseaddr(&client, true)?;
        bind(&client, &local(from))?;
        connect(&client, &local(port))?;
        let (server, _) = listener.accept()?;
        drop(server);
        await_fin(&client)?;
    }
    crowd()
}

/// Many connections at a time, which close in any order.
fn crowd() -> Result<()> {
    let address = |thread: u8| SocketAddr::from((Ipv4Addr::new(127, 0, 0, thread + 1), 7000));
    let one = |thread: u8| -> Result<()> {
        let listener = TcpListener::bind(address(thread))?;
        for at in 0..EACH {
            let mut client = TcpStream::connect(address(thread))?;
            let (mut server, _) = listener.accept()?;
            client.write_all(&[at])?;
            server.read_exact(&mut [0])?;
            if at % 2 == 0 {
                drop((client, server));
            } else {
                drop((server, client));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || one(thread)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| joined(thread.join()))
    })
}
