//! Situations in which connections end, and what each application got.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{AddressFamily, Shutdown, sockopt},
};
use tcpstate_common::State;

use crate::{
    net::{Connection, await_fin, await_state, await_that, reset, shutdown_write, socket},
    traffic::start_connecting,
    views::sockets,
};

/// One end of a connection that has ended.
#[derive(Debug)]
pub struct End {
    pub role: &'static str,
    /// The last error that the application got.
    pub errno: Option<Errno>,
    /// The cause that follows from the test's actions.
    pub cause: &'static str,
}

pub const fn client(errno: Option<Errno>, cause: &'static str) -> End {
    End {
        role: "client",
        errno,
        cause,
    }
}

pub const fn server(errno: Option<Errno>, cause: &'static str) -> End {
    End {
        role: "server",
        errno,
        cause,
    }
}

fn connection(port: u16) -> Result<Connection> {
    Connection::new((Ipv4Addr::LOCALHOST, port))
}

/// The error of a call that must fail.
fn error<T>(result: io::Result<T>) -> Result<Errno> {
    let Err(error) = result else {
        bail!("it did not fail")
    };
    let errno = error.raw_os_error().with_context(|| error.to_string())?;
    Ok(Errno::from_raw_os_error(errno))
}

/// Runs nft in the namespace of the calling thread.
fn nft(script: &str) -> Result<()> {
    let output = Command::new("nft").arg(script).output().context("nft")?;
    ensure!(
        output.status.success(),
        "nft {script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Adds a rule for arriving packets.
pub fn on_arrival(rule: &str) -> Result<()> {
    nft(&format!(
        "add table inet test; \
         add chain inet test arriving {{ type filter hook input priority 0; }}; \
         add rule inet test arriving {rule}"
    ))
}

/// Removes these rules.
pub fn as_before() -> Result<()> {
    nft("delete table inet test")
}

/// Sets a setting of the calling thread's namespace, by its path below `/proc/sys/net`.
pub fn sysctl(name: &str, value: &str) -> Result<()> {
    fs::write(Path::new("/proc/sys/net").join(name), value).with_context(|| name.to_owned())
}

pub fn client_closes(port: u16) -> Result<Vec<End>> {
    let Connection {
        listener,
        client: first,
        server: second,
    } = connection(port)?;
    drop(first);
    await_fin(&second)?;
    drop((second, listener));
    Ok(vec![client(None, "fin"), server(None, "fin")])
}

pub fn server_closes(port: u16) -> Result<Vec<End>> {
    let Connection {
        listener,
        client: second,
        server: first,
    } = connection(port)?;
    shutdown_write(&first)?;
    await_fin(&second)?;
    drop(second);
    await_fin(&first)?;
    drop((first, listener));
    Ok(vec![client(None, "fin"), server(None, "fin")])
}

/// `SO_LINGER` 0.
pub fn client_closes_with_linger_0(port: u16) -> Result<Vec<End>> {
    let Connection {
        listener: _listener,
        client: first,
        server: mut second,
    } = connection(port)?;
    reset(first)?;
    let errno = error(second.read(&mut [0]))?;
    Ok(vec![
        client(None, "reset_locally"),
        server(Some(errno), "reset_by_peer"),
    ])
}

pub fn server_closes_with_linger_0(port: u16) -> Result<Vec<End>> {
    let Connection {
        listener: _listener,
        client: mut second,
        server: first,
    } = connection(port)?;
    reset(first)?;
    let errno = error(second.read(&mut [0]))?;
    Ok(vec![
        client(Some(errno), "reset_by_peer"),
        server(None, "reset_locally"),
    ])
}

pub fn unread_data(port: u16) -> Result<Vec<End>> {
    let Connection {
        listener: _listener,
        client: mut second,
        server: first,
    } = connection(port)?;
    second.write_all(b"nobody reads this")?;
    first.peek(&mut [0])?;
    drop(first);
    let errno = error(second.read(&mut [0]))?;
    Ok(vec![
        client(Some(errno), "reset_by_peer"),
        server(None, "reset_locally"),
    ])
}

/// `connect` to nowhere.
pub fn disconnected(port: u16) -> Result<Vec<End>> {
    let Connection {
        listener: _listener,
        client: first,
        server: mut second,
    } = connection(port)?;
    rustix::net::connect_unspec(&first)?;
    let errno = error(second.read(&mut [0]))?;
    Ok(vec![
        client(None, "reset_locally"),
        server(Some(errno), "reset_by_peer"),
    ])
}

/// The race behind every proxy: the server closes an idle connection while a request is on its way.
pub fn data_after_close(port: u16) -> Result<Vec<End>> {
    let Connection {
        listener: _listener,
        client: mut second,
        server: first,
    } = connection(port)?;
    // The request is older than the FIN, which it does not acknowledge.
    on_arrival(&format!("tcp sport {port} tcp flags & fin == fin drop"))?;
    drop(first);
    second.write_all(b"a request")?;
    let errno = error(second.read(&mut [0]))?;
    Ok(vec![
        client(Some(errno), "reset_by_peer"),
        server(None, "reset_locally"),
    ])
}

pub fn data_after_the_clients_close(port: u16) -> Result<Vec<End>> {
    let Connection {
        listener: _listener,
        client: first,
        server: mut second,
    } = connection(port)?;
    on_arrival(&format!("tcp dport {port} tcp flags & fin == fin drop"))?;
    drop(first);
    second.write_all(b"an answer")?;
    let errno = error(second.read(&mut [0]))?;
    Ok(vec![
        client(None, "reset_locally"),
        server(Some(errno), "reset_by_peer"),
    ])
}

/// The same, but the data also acknowledges the FIN: the full socket leaves `FIN_WAIT2` at once, as to a
/// minisocket.
pub fn data_that_acknowledges_the_fin(port: u16) -> Result<Vec<End>> {
    let Connection {
        listener: _listener,
        client: first,
        server: mut second,
    } = connection(port)?;
    // No ACK without data arrives: with its time stamps it has 52 bytes.
    on_arrival(&format!("tcp sport {port} meta length < 60 drop"))?;
    drop(first);
    await_state(&second, State::CLOSE_WAIT)?;
    second.write_all(b"an answer that comes too late")?;
    await_that("the reset has come", || {
        Ok(sockets(State::CLOSE_WAIT)?.is_empty())
    })?;
    let errno = sockopt::socket_error(&second)?.err();
    Ok(vec![
        client(None, "reset_locally"),
        server(Some(errno.context("no error")?), "reset_by_peer"),
    ])
}

/// The peer's reset finds the socket in the same state as late data does.
pub fn reset_after_close(port: u16) -> Result<Vec<End>> {
    let Connection {
        listener: _listener,
        client: first,
        server: second,
    } = connection(port)?;
    on_arrival(&format!("tcp dport {port} tcp flags & fin == fin drop"))?;
    drop(first);
    reset(second)?;
    Ok(vec![
        client(None, "reset_by_peer"),
        server(None, "reset_locally"),
    ])
}

/// `TCP_LINGER2`: an orphan does not wait for the peer's FIN.
pub fn negative_linger2(port: u16) -> Result<Vec<End>> {
    /// `TCP_LINGER2` in `include/uapi/linux/tcp.h`.
    const TCP_LINGER2: libc::c_int = 8;
    let Connection {
        listener: _listener,
        client: first,
        server: second,
    } = connection(port)?;
    set_tcp_option(&first, TCP_LINGER2, -1)?;
    shutdown_write(&first)?;
    await_state(&first, State::FIN_WAIT2)?;
    drop(first);
    await_that("the reset has come", || {
        Ok(sockets(State::CLOSE_WAIT)?.is_empty())
    })?;
    let errno = sockopt::socket_error(&second)?.err();
    Ok(vec![
        client(None, "reset_locally"),
        server(Some(errno.context("no error")?), "reset_by_peer"),
    ])
}

/// `TCP_REPAIR`: a connection that continues on another host. Its sockets close here, and send nothing.
pub fn moved_elsewhere(port: u16) -> Result<Vec<End>> {
    /// `TCP_REPAIR` in `include/uapi/linux/tcp.h`.
    const TCP_REPAIR: libc::c_int = 19;
    let Connection {
        listener: _listener,
        client: first,
        server: second,
    } = connection(port)?;
    for socket in [first, second] {
        set_tcp_option(&socket, TCP_REPAIR, 1)?;
    }
    Ok(vec![client(None, "unknown"), server(None, "unknown")])
}

fn set_tcp_option(socket: impl AsFd, option: libc::c_int, value: libc::c_int) -> Result<()> {
    let len = libc::socklen_t::try_from(size_of_val(&value))?;
    // SAFETY: the kernel reads `len` bytes of `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            len,
        )
    };
    ensure!(
        result == 0,
        "setsockopt {option}: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

/// The client has closed in order, and the server's data comes too late: the server gets a broken pipe. The
/// reset comes from the client's minisocket; the client's own close was orderly.
pub fn write_to_a_closed_peer(port: u16) -> Result<Vec<End>> {
    let Connection {
        listener: _listener,
        client: first,
        server: mut second,
    } = connection(port)?;
    shutdown_write(&first)?;
    // Otherwise the server's data could also acknowledge the client's FIN. If that happens during the
    // close, the kernel keeps the full socket, and the data resets it.
    await_that("the client's FIN is acknowledged", || {
        Ok(!sockets(State::FIN_WAIT2)?.is_empty())
    })?;
    drop(first);
    second.write_all(b"are you there?")?;
    await_that("the reset has come", || {
        Ok(sockets(State::CLOSE_WAIT)?.is_empty())
    })?;
    let errno = sockopt::socket_error(&second)?.err();
    Ok(vec![
        client(None, "fin"),
        server(Some(errno.context("no error")?), "reset_by_peer"),
    ])
}

/// The listener closes before it has accepted.
pub fn never_accepted(port: u16) -> Result<Vec<End>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let mut second = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    drop(listener);
    let errno = error(second.read(&mut [0]))?;
    Ok(vec![
        client(Some(errno), "reset_by_peer"),
        server(None, "reset_locally"),
    ])
}

pub fn refused(port: u16) -> Result<Vec<End>> {
    let errno = error(TcpStream::connect((Ipv4Addr::LOCALHOST, port)))?;
    Ok(vec![client(Some(errno), "refused")])
}

/// The application does not wait for an answer.
pub fn given_up(port: u16) -> Result<Vec<End>> {
    on_arrival(&format!("tcp dport {port} drop"))?;
    drop(start_connecting(None, (Ipv4Addr::LOCALHOST, port).into())?);
    Ok(vec![client(None, "abandoned")])
}

/// Nothing has been established that could be reset.
pub fn given_up_with_linger_0(port: u16) -> Result<Vec<End>> {
    on_arrival(&format!("tcp dport {port} drop"))?;
    reset(start_connecting(None, (Ipv4Addr::LOCALHOST, port).into())?)?;
    Ok(vec![client(None, "abandoned")])
}

/// As a thread does that wakes another one from its `connect`.
pub fn given_up_by_shutdown(port: u16) -> Result<Vec<End>> {
    on_arrival(&format!("tcp dport {port} drop"))?;
    let socket = start_connecting(None, (Ipv4Addr::LOCALHOST, port).into())?;
    rustix::net::shutdown(&socket, Shutdown::Both)?;
    Ok(vec![client(None, "abandoned")])
}

pub fn given_up_by_disconnecting(port: u16) -> Result<Vec<End>> {
    on_arrival(&format!("tcp dport {port} drop"))?;
    let socket = start_connecting(None, (Ipv4Addr::LOCALHOST, port).into())?;
    rustix::net::connect_unspec(&socket)?;
    Ok(vec![client(None, "abandoned")])
}

/// The only ephemeral port is in use to the same server.
pub fn no_port_left(port: u16) -> Result<Vec<End>> {
    sysctl("ipv4/ip_local_port_range", "40000 40000")?;
    let held = connection(port)?;
    let errno = error(TcpStream::connect((Ipv4Addr::LOCALHOST, port)))?;
    drop(held.client);
    await_fin(&held.server)?;
    Ok(vec![
        client(Some(errno), "no_port"),
        client(None, "fin"),
        server(None, "fin"),
    ])
}

/// The port that the socket is bound to is in use to the same server.
pub fn port_in_use(port: u16) -> Result<Vec<End>> {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let bound = || -> Result<OwnedFd> {
        let socket = socket(AddressFamily::INET, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000)))?;
        Ok(socket)
    };
    let (first, second) = (bound()?, bound()?);
    let listener = TcpListener::bind(to)?;
    rustix::net::connect(&first, &to)?;
    let (accepted, _) = listener.accept()?;
    let errno = rustix::net::connect(&second, &to).err();
    drop(first);
    await_fin(&accepted)?;
    Ok(vec![
        client(Some(errno.context("it was connected")?), "no_port"),
        client(None, "fin"),
        server(None, "fin"),
    ])
}

pub fn connect_timed_out(port: u16) -> Result<Vec<End>> {
    sysctl("ipv4/tcp_syn_retries", "1")?;
    on_arrival(&format!("tcp dport {port} drop"))?;
    let errno = error(TcpStream::connect((Ipv4Addr::LOCALHOST, port)))?;
    Ok(vec![client(Some(errno), "timed_out")])
}

/// The server sends to a client that no longer exists.
fn comes_back(mut second: TcpStream) -> Result<End> {
    as_before()?;
    // On a busy machine the reset of the client, which has given up, may come only now, and before the answer to this.
    let written = second.write_all(b"are you there?");
    let errno = error(written.and_then(|()| second.read(&mut [0])))?;
    Ok(server(Some(errno), "reset_by_peer"))
}

/// The client's data is not acknowledged.
pub fn peer_vanished(port: u16) -> Result<Vec<End>> {
    let Connection {
        listener: _listener,
        client: mut first,
        server: second,
    } = connection(port)?;
    sockopt::set_tcp_user_timeout(&first, 300)?;
    on_arrival(&format!("tcp dport {port} drop"))?;
    first.write_all(b"are you there?")?;
    let errno = error(first.read(&mut [0]))?;
    Ok(vec![client(Some(errno), "timed_out"), comes_back(second)?])
}

/// Keepalive probes are not answered.
pub fn peer_vanished_while_idle(port: u16) -> Result<Vec<End>> {
    let Connection {
        listener: _listener,
        client: mut first,
        server: second,
    } = connection(port)?;
    sockopt::set_tcp_keepidle(&first, Duration::from_secs(1))?;
    sockopt::set_tcp_keepintvl(&first, Duration::from_secs(1))?;
    sockopt::set_tcp_keepcnt(&first, 1)?;
    sockopt::set_socket_keepalive(&first, true)?;
    on_arrival(&format!("tcp dport {port} drop"))?;
    let errno = error(first.read(&mut [0]))?;
    Ok(vec![client(Some(errno), "timed_out"), comes_back(second)?])
}

/// The client has closed, and its FIN is not acknowledged: the kernel gives up, and no application gets an
/// error.
pub fn last_fin_lost(port: u16) -> Result<Vec<End>> {
    sysctl("ipv4/tcp_orphan_retries", "1")?;
    let Connection {
        listener: _listener,
        client: first,
        server: second,
    } = connection(port)?;
    on_arrival(&format!("tcp dport {port} drop"))?;
    drop(first);
    await_that("the orphan is gone", || {
        Ok(sockets(State::FIN_WAIT1)?.is_empty())
    })?;
    Ok(vec![client(None, "timed_out"), comes_back(second)?])
}

fn rejected(to: SocketAddr, with: &str, cause: &'static str) -> Result<Vec<End>> {
    on_arrival(&format!("tcp dport {} reject with {with}", to.port()))?;
    let errno = error(TcpStream::connect(to))?;
    Ok(vec![client(Some(errno), cause)])
}

pub fn host_unreachable(port: u16) -> Result<Vec<End>> {
    let to = (Ipv4Addr::LOCALHOST, port).into();
    rejected(to, "icmp type host-unreachable", "unreachable")
}

pub fn network_unreachable(port: u16) -> Result<Vec<End>> {
    let to = (Ipv4Addr::LOCALHOST, port).into();
    rejected(to, "icmp type net-unreachable", "unreachable")
}

pub fn prohibited(port: u16) -> Result<Vec<End>> {
    let to = (Ipv4Addr::LOCALHOST, port).into();
    rejected(to, "icmp type admin-prohibited", "unreachable")
}

/// The error of a `connect` that the application does not wait in.
fn rejected_later(port: u16, with: &str, cause: &'static str) -> Result<Vec<End>> {
    on_arrival(&format!("tcp dport {port} reject with {with}"))?;
    let socket = start_connecting(None, (Ipv4Addr::LOCALHOST, port).into())?;
    let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
    poll(&mut fds, None)?;
    let errno = sockopt::socket_error(&socket)?.err();
    Ok(vec![client(Some(errno.context("no error")?), cause)])
}

pub fn unreachable_while_not_waiting(port: u16) -> Result<Vec<End>> {
    rejected_later(port, "icmp type host-unreachable", "unreachable")
}

pub fn refused_while_not_waiting(port: u16) -> Result<Vec<End>> {
    rejected_later(port, "icmp type port-unreachable", "refused")
}

/// The kernel reports it with the error of a refusal.
pub fn port_unreachable(port: u16) -> Result<Vec<End>> {
    let to = (Ipv4Addr::LOCALHOST, port).into();
    rejected(to, "icmp type port-unreachable", "refused")
}

pub fn no_route_by_ipv6(port: u16) -> Result<Vec<End>> {
    let to = (Ipv6Addr::LOCALHOST, port).into();
    rejected(to, "icmpv6 type no-route", "unreachable")
}

pub fn prohibited_by_ipv6(port: u16) -> Result<Vec<End>> {
    let to = (Ipv6Addr::LOCALHOST, port).into();
    rejected(to, "icmpv6 type admin-prohibited", "EACCES")
}

/// For an established connection, the kernel reports the error only when it gives up.
pub fn established_then_unreachable(port: u16) -> Result<Vec<End>> {
    let Connection {
        listener: _listener,
        client: mut first,
        server: second,
    } = connection(port)?;
    sockopt::set_tcp_user_timeout(&first, 300)?;
    on_arrival(&format!(
        "tcp dport {port} reject with icmp type host-unreachable"
    ))?;
    first.write_all(b"are you there?")?;
    let errno = error(first.read(&mut [0]))?;
    Ok(vec![
        client(Some(errno), "unreachable"),
        comes_back(second)?,
    ])
}

/// Closing a listener is no failure, and no connection has ended.
pub fn only_a_listener(port: u16) -> Result<Vec<End>> {
    drop(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?);
    Ok(Vec::new())
}
