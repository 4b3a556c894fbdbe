//! Scenarios of TCP traffic, with the path through the states of each socket.
//!
//! A scenario makes its own namespaces, uses the given server port, and returns when the last of its sockets
//! is gone. Its paths are a claim about the kernel, which the oracle checks: a scenario that does not produce
//! the behaviour in its name fails its test.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd as _, OwnedFd},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    io::Errno,
    net::{AddressFamily, Shutdown, SocketFlags, sockopt},
};
use tcpstate_common::State;

use crate::{
    need::Need,
    net::{self, Connection, Netns, await_fin, joined, mptcp_protocol, shutdown_write, socket},
    wire::{Segment, Wire},
};

/// One behaviour of TCP.
pub struct Scenario {
    pub name: &'static str,
    pub needs: &'static [Need],
    /// Runs it with this server port; returns the path of every socket in the format of [`steps`].
    pub run: fn(u16) -> Result<Vec<&'static str>>,
    /// Whether the kernel may also set a state that a socket has already. The number of times depends on
    /// timing, so the paths leave this out.
    pub repeats: bool,
}

/// A scenario over the loopback with complete paths.
const fn plain(name: &'static str, run: fn(u16) -> Result<Vec<&'static str>>) -> Scenario {
    Scenario {
        name,
        needs: &[],
        run,
        repeats: false,
    }
}

/// A scenario over a [`Wire`].
const fn wired(name: &'static str, run: fn(u16) -> Result<Vec<&'static str>>) -> Scenario {
    Scenario {
        name,
        needs: &[Need::Tun],
        run,
        repeats: false,
    }
}

/// Every scenario.
pub const SCENARIOS: &[Scenario] = &[
    plain("client_closes", client_closes),
    plain("server_closes", server_closes),
    plain("half_close", half_close),
    plain("shutdown_then_close", shutdown_then_close),
    plain("client_resets", client_resets),
    plain("server_resets", server_resets),
    plain("close_with_unread_data", close_with_unread_data),
    plain("refused", refused),
    plain("listen_and_close", listen_and_close),
    plain("ipv6", ipv6),
    plain("v4_mapped", v4_mapped),
    Scenario {
        name: "mptcp",
        needs: &[Need::Mptcp],
        run: mptcp,
        repeats: true,
    },
    plain("connect_to_itself", connect_to_itself),
    plain("socket_used_twice", socket_used_twice),
    plain("two_hundred_connections", two_hundred_connections),
    wired("simultaneous_open", simultaneous_open),
    wired("simultaneous_close", simultaneous_close),
    wired("connect_given_up", connect_given_up),
    wired("connect_timed_out", connect_timed_out),
];

/// The transitions of a path.
pub fn steps(path: &str) -> Vec<(State, State)> {
    let states: Vec<_> = path
        .split(' ')
        .map(|name| State::from_name(name).unwrap_or_else(|| panic!("no state {name}")))
        .collect();
    states.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

const LISTENER: &str = "CLOSE LISTEN CLOSE";
const CLIENT_FIRST: &str = "CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE";
const CLIENT_SECOND: &str = "CLOSE SYN_SENT ESTABLISHED CLOSE_WAIT LAST_ACK CLOSE";
const CLIENT_RESET: &str = "CLOSE SYN_SENT ESTABLISHED CLOSE";
const SERVER_FIRST: &str = "LISTEN SYN_RECV ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE";
const SERVER_SECOND: &str = "LISTEN SYN_RECV ESTABLISHED CLOSE_WAIT LAST_ACK CLOSE";
const SERVER_RESET: &str = "LISTEN SYN_RECV ESTABLISHED CLOSE";
const NOT_CONNECTED: &str = "CLOSE SYN_SENT CLOSE";

/// Runs a scenario over the loopback of a new namespace.
pub fn on_loopback<T: Send>(run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    Netns::new()?.run_until_quiet(run)
}

/// Runs a scenario over a wire between two new namespaces.
pub fn over_wire<T: Send>(
    run: impl FnOnce(&Wire, &Netns, &Netns) -> Result<T> + Send,
) -> Result<T> {
    let (near, far) = (Netns::new()?, Netns::new()?);
    let wire = Wire::new(&near, &far)?;
    // The wire must outlive the sockets, which need it for closing.
    far.run_until_quiet(|| near.run_until_quiet(|| run(&wire, &near, &far)))
}

fn client_closes(port: u16) -> Result<Vec<&'static str>> {
    on_loopback(|| {
        close_one_after_the_other((Ipv4Addr::LOCALHOST, port).into(), true)?;
        Ok(vec![LISTENER, CLIENT_FIRST, SERVER_SECOND])
    })
}

fn server_closes(port: u16) -> Result<Vec<&'static str>> {
    on_loopback(|| {
        close_one_after_the_other((Ipv4Addr::LOCALHOST, port).into(), false)?;
        Ok(vec![LISTENER, CLIENT_SECOND, SERVER_FIRST])
    })
}

fn ipv6(port: u16) -> Result<Vec<&'static str>> {
    on_loopback(|| {
        close_one_after_the_other((Ipv6Addr::LOCALHOST, port).into(), true)?;
        Ok(vec![LISTENER, CLIENT_FIRST, SERVER_SECOND])
    })
}

fn close_one_after_the_other(addr: SocketAddr, client_first: bool) -> Result<()> {
    let Connection {
        listener: _listener,
        client,
        server,
    } = Connection::new(addr)?;
    let (first, second) = if client_first {
        (client, server)
    } else {
        (server, client)
    };
    drop(first);
    await_fin(&second)
}

/// Two clients of a dual-stack listener: an IPv4 socket, whose child is an IPv6 one, and an IPv6
/// socket that connects to a v4-mapped address.
fn v4_mapped(port: u16) -> Result<Vec<&'static str>> {
    on_loopback(|| {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
        for addr in [
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port)),
        ] {
            let client = TcpStream::connect(addr)?;
            let (server, peer) = listener.accept()?;
            ensure!(
                peer.is_ipv6(),
                "the child of a dual-stack listener is an IPv6 socket: {peer}"
            );
            drop(client);
            await_fin(&server)?;
        }
        Ok(vec![
            LISTENER,
            CLIENT_FIRST,
            SERVER_SECOND,
            CLIENT_FIRST,
            SERVER_SECOND,
        ])
    })
}

fn half_close(port: u16) -> Result<Vec<&'static str>> {
    on_loopback(|| {
        let Connection {
            listener: _listener,
            mut client,
            mut server,
        } = Connection::new((Ipv4Addr::LOCALHOST, port))?;
        shutdown_write(&client)?;
        await_fin(&server)?;
        server.write_all(b"still here")?;
        drop(server);
        let mut text = String::new();
        client.read_to_string(&mut text)?;
        ensure!(text == "still here");
        Ok(vec![LISTENER, CLIENT_FIRST, SERVER_SECOND])
    })
}

/// `close` after `shutdown`: the kernel sets, and reports, the state that the socket has already.
///
/// *Source:* `tcp_close_state`, whose table maps `FIN_WAIT2` to itself.
fn shutdown_then_close(port: u16) -> Result<Vec<&'static str>> {
    on_loopback(|| {
        let Connection {
            listener: _listener,
            client,
            server,
        } = Connection::new((Ipv4Addr::LOCALHOST, port))?;
        shutdown_write(&client)?;
        await_fin(&server)?;
        net::await_state(&client, State::FIN_WAIT2)?;
        drop(client);
        Ok(vec![
            LISTENER,
            "CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 FIN_WAIT2 FIN_WAIT2 CLOSE",
            SERVER_SECOND,
        ])
    })
}

fn client_resets(port: u16) -> Result<Vec<&'static str>> {
    reset_by(port, true)
}

fn server_resets(port: u16) -> Result<Vec<&'static str>> {
    reset_by(port, false)
}

fn reset_by(port: u16, client_first: bool) -> Result<Vec<&'static str>> {
    on_loopback(|| {
        let Connection {
            listener: _listener,
            client,
            server,
        } = Connection::new((Ipv4Addr::LOCALHOST, port))?;
        let (first, second) = if client_first {
            (client, server)
        } else {
            (server, client)
        };
        net::reset(first)?;
        await_reset(second)?;
        Ok(vec![LISTENER, CLIENT_RESET, SERVER_RESET])
    })
}

fn close_with_unread_data(port: u16) -> Result<Vec<&'static str>> {
    on_loopback(|| {
        let Connection {
            listener: _listener,
            mut client,
            server,
        } = Connection::new((Ipv4Addr::LOCALHOST, port))?;
        client.write_all(b"nobody reads this")?;
        server.peek(&mut [0])?;
        drop(server);
        await_reset(client)?;
        Ok(vec![LISTENER, CLIENT_RESET, SERVER_RESET])
    })
}

fn await_reset(mut socket: TcpStream) -> Result<()> {
    match socket.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => anyhow::bail!("expected a reset, got {other:?}"),
    }
}

fn refused(port: u16) -> Result<Vec<&'static str>> {
    on_loopback(|| {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            other => anyhow::bail!("expected a refusal, got {other:?}"),
        }
        Ok(vec![NOT_CONNECTED])
    })
}

fn listen_and_close(port: u16) -> Result<Vec<&'static str>> {
    on_loopback(|| {
        drop(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?);
        drop(TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?);
        storm(port, 2)?;
        Ok(vec![LISTENER, LISTENER, "CLOSE LISTEN CLOSE LISTEN CLOSE"])
    })
}

/// The MPTCP socket (protocol 262) passes the same tracepoint; the user sees the TCP sockets below it,
/// once each.
fn mptcp(port: u16) -> Result<Vec<&'static str>> {
    on_loopback(|| {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = socket(AddressFamily::INET, Some(mptcp_protocol()))?;
        rustix::net::bind(&listener, &addr)?;
        rustix::net::listen(&listener, 8)?;
        let client = socket(AddressFamily::INET, Some(mptcp_protocol()))?;
        rustix::net::connect(&client, &addr)?;
        let server = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC)?;
        // An MPTCP connection is complete when data has come back from the other side.
        let (mut client, mut server) = (TcpStream::from(client), TcpStream::from(server));
        client.write_all(b"a")?;
        server.read_exact(&mut [0])?;
        server.write_all(b"b")?;
        client.read_exact(&mut [0])?;
        drop(client);
        await_fin(&server)?;
        drop(server);
        Ok(vec![LISTENER, CLIENT_FIRST, SERVER_SECOND])
    })
}

/// A socket that connects to itself: simultaneous open and simultaneous close by one socket.
fn connect_to_itself(port: u16) -> Result<Vec<&'static str>> {
    on_loopback(|| {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let socket = socket(AddressFamily::INET, None)?;
        rustix::net::bind(&socket, &addr)?;
        rustix::net::connect(&socket, &addr)?;
        Ok(vec![
            "CLOSE SYN_SENT SYN_RECV ESTABLISHED FIN_WAIT1 CLOSING CLOSE",
        ])
    })
}

/// A socket that is disconnected and connected again stays the same socket.
fn socket_used_twice(port: u16) -> Result<Vec<&'static str>> {
    on_loopback(|| {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = TcpListener::bind(addr)?;
        let socket = socket(AddressFamily::INET, None)?;
        rustix::net::connect(&socket, &addr)?;
        let (server, _) = listener.accept()?;
        rustix::net::connect_unspec(&socket)?;
        await_reset(server)?;
        rustix::net::connect(&socket, &addr)?;
        let (server, _) = listener.accept()?;
        drop(socket);
        await_fin(&server)?;
        Ok(vec![
            LISTENER,
            "CLOSE SYN_SENT ESTABLISHED CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE",
            SERVER_RESET,
            SERVER_SECOND,
        ])
    })
}

/// 200 concurrent connections from 20 threads; every other one is closed by the server first.
fn two_hundred_connections(port: u16) -> Result<Vec<&'static str>> {
    const THREADS: usize = 20;
    const EACH: usize = 10;
    on_loopback(|| {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = TcpListener::bind(addr)?;
        let all_open = Barrier::new(THREADS + 1);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let all_open = &all_open;
                    scope.spawn(move || -> Result<()> {
                        let clients = (0..EACH).map(|_| TcpStream::connect(addr));
                        let clients = clients.collect::<std::io::Result<Vec<_>>>();
                        // Before any `?`, because the other threads would wait for a thread that returned early.
                        all_open.wait();
                        for mut client in clients? {
                            client.write_all(&[u8::from(thread % 2 == 0)])?;
                            if thread % 2 == 0 {
                                await_fin(&client)?;
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            let servers = (0..THREADS * EACH).map(|_| listener.accept());
            let servers = servers.collect::<std::io::Result<Vec<_>>>();
            all_open.wait();
            // Each connection closes on its own thread, and its client decides the order.
            let servers: Vec<_> = servers?
                .into_iter()
                .map(|(mut server, _)| {
                    scope.spawn(move || -> Result<()> {
                        let mut close_first = [0];
                        server.read_exact(&mut close_first)?;
                        if close_first == [0] {
                            await_fin(&server)
                        } else {
                            Ok(())
                        }
                    })
                })
                .collect();
            threads
                .into_iter()
                .chain(servers)
                .try_for_each(|thread| joined(thread.join()))
        })?;
        drop(listener);
        let half = THREADS * EACH / 2;
        let mut paths = vec![LISTENER];
        for path in [CLIENT_FIRST, SERVER_SECOND, SERVER_FIRST, CLIENT_SECOND] {
            paths.extend([path].repeat(half));
        }
        Ok(paths)
    })
}

/// Both ends connect, and the SYNs cross.
fn simultaneous_open(port: u16) -> Result<Vec<&'static str>> {
    over_wire(|wire, near, far| {
        wire.hold(|segment| segment.syn);
        let near_addr = SocketAddr::from((Wire::FIRST, port));
        let far_addr = SocketAddr::from((Wire::SECOND, port));
        let first = near.run(|| start_connecting(Some(near_addr), far_addr))?;
        let second = far.run(|| start_connecting(Some(far_addr), near_addr))?;
        wire.await_held(|held| crossing(held, |segment| segment.syn))?;
        wire.release()?;
        net::await_state(&first, State::ESTABLISHED)?;
        net::await_state(&second, State::ESTABLISHED)?;
        drop(first);
        await_fin_nonblocking(&second)?;
        drop(second);
        Ok(vec![
            "CLOSE SYN_SENT SYN_RECV ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE",
            "CLOSE SYN_SENT SYN_RECV ESTABLISHED CLOSE_WAIT LAST_ACK CLOSE",
        ])
    })
}

/// Both ends close, and the FINs cross.
fn simultaneous_close(port: u16) -> Result<Vec<&'static str>> {
    over_wire(|wire, near, far| {
        let (listener, client, server) = connect_over(near, far, port)?;
        wire.hold(|segment| segment.fin);
        shutdown_write(&client)?;
        shutdown_write(&server)?;
        wire.await_held(|held| crossing(held, |segment| segment.fin))?;
        wire.release()?;
        // Waits for the last acknowledgement: a close before it would report CLOSING -> CLOSING.
        net::await_state(&client, State::CLOSE)?;
        net::await_state(&server, State::CLOSE)?;
        drop((listener, client, server));
        Ok(vec![
            LISTENER,
            "CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 CLOSING CLOSE",
            "LISTEN SYN_RECV ESTABLISHED FIN_WAIT1 CLOSING CLOSE",
        ])
    })
}

/// A connection over the wire: listener, client in the first namespace, server in the second.
pub fn connect_over(
    near: &Netns,
    far: &Netns,
    port: u16,
) -> Result<(TcpListener, TcpStream, TcpStream)> {
    let listener = far.run(|| Ok(TcpListener::bind(Wire::second(port))?))?;
    let client = near.run(|| Ok(TcpStream::connect(Wire::second(port))?))?;
    let (server, _) = listener.accept()?;
    Ok((listener, client, server))
}

/// Whether there are matching segments in both directions.
pub fn crossing(held: &[Segment], which: impl Fn(&Segment) -> bool) -> bool {
    [true, false]
        .into_iter()
        .all(|forth| held.iter().any(|s| s.forth == forth && which(s)))
}

/// A non-blocking socket that has sent its SYN.
pub fn start_connecting(from: Option<SocketAddr>, to: SocketAddr) -> Result<OwnedFd> {
    let family = if to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket(family, None)?;
    if let Some(from) = from {
        rustix::net::bind(&socket, &from)?;
    }
    rustix::io::ioctl_fionbio(&socket, true)?;
    match rustix::net::connect(&socket, &to) {
        Err(Errno::INPROGRESS) => Ok(socket),
        other => anyhow::bail!("expected a connect in progress, got {other:?}"),
    }
}

fn await_fin_nonblocking(socket: &OwnedFd) -> Result<()> {
    rustix::io::ioctl_fionbio(socket, false)?;
    await_fin(socket.as_fd())
}

/// The SYN is lost, and the application closes the socket.
fn connect_given_up(port: u16) -> Result<Vec<&'static str>> {
    over_wire(|wire, near, _far| {
        wire.hold(|segment| segment.syn);
        drop(near.run(|| start_connecting(None, Wire::second(port)))?);
        Ok(vec![NOT_CONNECTED])
    })
}

/// The SYN is lost, and the kernel gives up.
fn connect_timed_out(port: u16) -> Result<Vec<&'static str>> {
    over_wire(|wire, near, _far| {
        wire.hold(|segment| segment.syn);
        near.run(|| {
            let socket = socket(AddressFamily::INET, None)?;
            sockopt::set_tcp_user_timeout(&socket, 100)?;
            let result = rustix::net::connect(&socket, &Wire::second(port));
            ensure!(
                result == Err(Errno::TIMEDOUT),
                "expected a timeout, got {result:?}"
            );
            Ok(())
        })?;
        Ok(vec![NOT_CONNECTED])
    })
}

/// Transitions without a network: `rounds` times CLOSE -> LISTEN -> CLOSE on one bound socket.
pub fn storm(port: u16, rounds: u32) -> Result<()> {
    let socket = socket(AddressFamily::INET, None)?;
    // The socket of the previous storm may still be open for a moment, in a process that another test is
    // just starting.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port))).context("bind")?;
    for _ in 0..rounds {
        rustix::net::listen(&socket, 1).context("listen")?;
        rustix::net::shutdown(&socket, Shutdown::Read).context("shutdown")?;
    }
    Ok(())
}

/// Connections per second of a [`churn`].
const CHURN_RATE: u32 = 3_000;

/// Connects, accepts and closes at a steady rate for this duration, on two threads with a listener each.
/// Returns the number of connections.
pub fn churn(port: u16, length: Duration) -> Result<u64> {
    churn_at(port, length, Some(CHURN_RATE))
}

/// The same at this rate, or as fast as possible.
pub fn churn_at(port: u16, length: Duration, rate: Option<u32>) -> Result<u64> {
    const THREADS: u8 = 2;
    let interval = rate.map_or(Duration::ZERO, |rate| {
        Duration::from_secs(1) * u32::from(THREADS) / rate
    });
    let start = Instant::now();
    let churn = |thread: u8| -> Result<u64> {
        // There are few enough connections to one address that none meets the `TIME_WAIT` of another.
        let addr = SocketAddr::from((Ipv4Addr::new(127, 0, 0, thread + 1), port));
        let listener = TcpListener::bind(addr).context("listen")?;
        let mut connections = 0u32;
        while start.elapsed() < length {
            let client = TcpStream::connect(addr).context("connect")?;
            let (server, _) = listener.accept().context("accept")?;
            if connections.is_multiple_of(2) {
                drop((client, server));
            } else {
                drop((server, client));
            }
            connections += 1;
            thread::sleep((interval * connections).saturating_sub(start.elapsed()));
        }
        Ok(connections.into())
    };
    thread::scope(|scope| {
        let churn = &churn;
        let threads: Vec<_> = (0..THREADS)
            .map(|i| scope.spawn(move || churn(i)))
            .collect();
        threads.into_iter().try_fold(0, |sum, thread| {
            Ok(sum + joined(thread.join()).context("a churning thread")?)
        })
    })
}
