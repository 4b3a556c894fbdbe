//! Close causes. The cause that `tcpstate` reports for each end is compared with the `errno` that the
//! application got and, without an error, with the segments that tcpdump saw.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use rustix::{io::Errno, net::sockopt};
use serde_json::Value;
use tcpstate_common::State;

use crate::{
    need::{ATTACH_MODES, Need, attach_needs, trial},
    net::{Connection, Netns, await_fin, await_that, reset, shutdown_write, unused_port},
    packets::{Packets, Tcpdump},
    process::{BINARY, Output, Tcpstate, run},
    traffic::{SCENARIOS, start_connecting},
    views::sockets,
};

pub fn add(trials: &mut Vec<Trial>) {
    // The cause comes from fields of the socket, which either mode locates by BTF.
    for mode in ATTACH_MODES {
        for &(name, ends) in CASES {
            let programs = [Need::Program("nft"), Need::Program("tcpdump")];
            let needs = [attach_needs(mode), &[Need::Btf], &programs].concat();
            trials.push(trial(
                format!("{mode}::causes::{name}"),
                &needs,
                move || causes(mode, ends).with_context(|| name),
            ));
        }
        let needs = [attach_needs(mode), &[Need::Btf, Need::Tun]].concat();
        trials.push(trial(
            format!("{mode}::causes::simultaneous_close"),
            &needs,
            move || simultaneous_close(mode),
        ));
    }
}

/// One end of a connection that has ended.
#[derive(Debug)]
struct End {
    role: &'static str,
    /// The last error that the application got.
    errno: Option<Errno>,
    /// The cause that follows from the test's actions.
    cause: &'static str,
}

const fn client(errno: Option<Errno>, cause: &'static str) -> End {
    End {
        role: "client",
        errno,
        cause,
    }
}

const fn server(errno: Option<Errno>, cause: &'static str) -> End {
    End {
        role: "server",
        errno,
        cause,
    }
}

/// Makes connections to this port end in one way, and returns the expected result of each end.
type Ends = fn(u16) -> Result<Vec<End>>;

const CASES: &[(&str, Ends)] = &[
    ("client_closes", client_closes),
    ("server_closes", server_closes),
    ("client_closes_with_linger_0", client_closes_with_linger_0),
    ("server_closes_with_linger_0", server_closes_with_linger_0),
    ("unread_data", unread_data),
    ("disconnected", disconnected),
    ("write_to_a_closed_peer", write_to_a_closed_peer),
    ("never_accepted", never_accepted),
    ("refused", refused),
    ("given_up", given_up),
    ("connect_timed_out", connect_timed_out),
    ("peer_vanished", peer_vanished),
    ("peer_vanished_while_idle", peer_vanished_while_idle),
    ("last_fin_lost", last_fin_lost),
    ("host_unreachable", host_unreachable),
    ("network_unreachable", network_unreachable),
    ("prohibited", prohibited),
    ("port_unreachable", port_unreachable),
    ("no_route_by_ipv6", no_route_by_ipv6),
    ("prohibited_by_ipv6", prohibited_by_ipv6),
    ("established_then_unreachable", established_then_unreachable),
    ("only_a_listener", only_a_listener),
];

fn causes(mode: &str, make: Ends) -> Result<()> {
    let port = unused_port();
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("recording");
    let tcpstate = record(mode, port, &file)?;
    let netns = Netns::new()?;
    let tcpdump = netns.run(|| Tcpdump::start(port))?;
    let ends = netns.run_until_quiet(|| make(port))?;
    let packets = netns.run(|| tcpdump.stop())?;
    let (_, summary) = tcpstate.stop()?.json()?;
    for end in &ends {
        let oracle = by_oracle(end, &packets)?;
        ensure!(
            oracle == end.cause,
            "{end:?}: by the oracle {oracle}: {packets:?}"
        );
    }
    check(&ends, &file).with_context(|| format!("{}", summary["accounting"]))
}

fn record(mode: &str, port: u16, file: &Path) -> Result<Tcpstate> {
    let file = file.to_str().context("no text")?;
    let port = port.to_string();
    Tcpstate::start(&[
        "record", "--json", "-w", file, "--attach", mode, "-P", &port,
    ])
}

/// The cause of this end, found without `tcpstate`.
fn by_oracle(end: &End, packets: &Packets) -> Result<&'static str> {
    match end.errno {
        Some(Errno::CONNRESET | Errno::PIPE) => return Ok("reset_by_peer"),
        Some(Errno::CONNREFUSED) => return Ok("refused"),
        Some(Errno::TIMEDOUT) => return Ok("timed_out"),
        Some(Errno::HOSTUNREACH | Errno::NETUNREACH) => return Ok("unreachable"),
        Some(Errno::ACCESS) => return Ok("EACCES"),
        Some(other) => bail!("unexpected {other}"),
        None => {}
    }
    // Without an error, the first segment by which it ended the connection decides, and the answer.
    let is_server = end.role == "server";
    let segments = &packets.segments;
    let sent = |flag| {
        segments
            .iter()
            .position(|segment| segment.from_server == is_server && segment.flags.contains(flag))
    };
    let (fin, rst) = (sent('F'), sent('R'));
    // A reset after a FIN answers the segment just before it, which came too late for the socket.
    let heard = match (fin, rst) {
        (Some(fin), Some(rst)) if fin < rst => &segments[..rst - 1],
        _ => segments,
    };
    let came_after = |at: usize, flag: &str| {
        heard[at..]
            .iter()
            .any(|segment| segment.from_server != is_server && segment.flags.contains(flag))
    };
    Ok(match (fin, rst) {
        (None, Some(_)) => "reset_locally",
        (Some(fin), Some(rst)) if rst < fin => "reset_locally",
        (Some(fin), _) if came_after(fin, "R") => "reset_by_peer",
        (Some(fin), _) if came_after(fin, ".") => "fin",
        (Some(_), _) => "timed_out",
        (None, None) if came_after(0, "R") => "reset_by_peer",
        (None, None) if !came_after(0, "") => "reset_locally",
        (None, None) => bail!("{end:?} has not ended: {packets:?}"),
    })
}

/// Checks that all views report the causes of these ends.
fn check(ends: &[End], file: &Path) -> Result<()> {
    let read = |view: &[&str]| -> Result<Vec<Value>> {
        let file = file.to_str().context("no text")?;
        let output: Output = run(BINARY, &[view, &["--json", "-r", file]].concat())?;
        Ok(output.json()?.0)
    };
    let mut expected: Vec<(&str, &str)> = ends.iter().map(|end| (end.role, end.cause)).collect();
    expected.sort_unstable();

    let life = read(&["life"])?;
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or("-").to_owned();
    let pairs = |lines: &[Value]| {
        let mut pairs: Vec<_> = lines
            .iter()
            .map(|line| (text(line, "role"), text(line, "cause")))
            .collect();
        pairs.sort_unstable();
        pairs
    };
    let same = |found: &[(String, String)]| {
        found.len() == expected.len()
            && found
                .iter()
                .zip(&expected)
                .all(|(found, expected)| (found.0.as_str(), found.1.as_str()) == *expected)
    };
    ensure!(same(&pairs(&life)), "expected {expected:?}: {life:#?}");

    let mut trace = read(&["trace"])?;
    trace.retain(|line| line["newstate"] == "CLOSE");
    let (listeners, closes): (Vec<Value>, Vec<Value>) = trace
        .into_iter()
        .partition(|line| line["oldstate"] == "LISTEN");
    ensure!(same(&pairs(&closes)), "expected {expected:?}: {closes:#?}");
    ensure!(
        listeners.iter().all(|line| line["cause"].is_null()),
        "a listener has a cause: {listeners:?}"
    );

    let rates = read(&["rates", "1h"])?;
    let [rates] = &rates[..] else {
        bail!("expected one interval: {rates:?}")
    };
    let mut counts = BTreeMap::<&str, u64>::new();
    for end in ends {
        *counts.entry(end.cause).or_default() += 1;
    }
    ensure!(
        rates["causes"] == serde_json::to_value(&counts)?,
        "expected {counts:?}: {rates}"
    );
    let failed = life.iter().filter(|line| {
        let states = line["states"].as_array();
        states.is_some_and(|states| states.len() == 1)
    });
    ensure!(rates["failed"] == failed.count(), "{rates}");
    ensure!(rates["closed"] == ends.len(), "{rates}");

    // The filter on causes selects each of them.
    for (cause, count) in counts {
        let chosen = read(&["life", "--cause", cause])?;
        ensure!(chosen.len() as u64 == count, "{cause}: {chosen:?}");
        let lifetimes = read(&["hist", "--of", "lifetime", "--cause", cause])?;
        let sum: Option<u64> = lifetimes.iter().map(|line| line["count"].as_u64()).sum();
        ensure!(sum == Some(count), "{cause}: {lifetimes:?}");
    }
    Ok(())
}

/// The FINs cross, so both ends go through CLOSING.
fn simultaneous_close(mode: &str) -> Result<()> {
    let port = unused_port();
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("recording");
    let tcpstate = record(mode, port, &file)?;
    let scenario = SCENARIOS
        .iter()
        .find(|scenario| scenario.name == "simultaneous_close");
    (scenario.context("no such scenario")?.run)(port)?;
    tcpstate.stop()?.json()?;
    check(&[client(None, "fin"), server(None, "fin")], &file)
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
fn on_arrival(rule: &str) -> Result<()> {
    nft(&format!(
        "add table inet test; \
         add chain inet test arriving {{ type filter hook input priority 0; }}; \
         add rule inet test arriving {rule}"
    ))
}

fn as_before() -> Result<()> {
    nft("delete table inet test")
}

fn sysctl(name: &str, value: &str) -> Result<()> {
    fs::write(Path::new("/proc/sys/net").join(name), value).with_context(|| name.to_owned())
}

fn client_closes(port: u16) -> Result<Vec<End>> {
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

fn server_closes(port: u16) -> Result<Vec<End>> {
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
fn client_closes_with_linger_0(port: u16) -> Result<Vec<End>> {
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

fn server_closes_with_linger_0(port: u16) -> Result<Vec<End>> {
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

fn unread_data(port: u16) -> Result<Vec<End>> {
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
fn disconnected(port: u16) -> Result<Vec<End>> {
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

/// The client has closed in order, and the server's data comes too late: the server gets a broken pipe. The
/// reset comes from the client's minisocket; the client's own close was orderly.
fn write_to_a_closed_peer(port: u16) -> Result<Vec<End>> {
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
fn never_accepted(port: u16) -> Result<Vec<End>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let mut second = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    drop(listener);
    let errno = error(second.read(&mut [0]))?;
    Ok(vec![
        client(Some(errno), "reset_by_peer"),
        server(None, "reset_locally"),
    ])
}

fn refused(port: u16) -> Result<Vec<End>> {
    let errno = error(TcpStream::connect((Ipv4Addr::LOCALHOST, port)))?;
    Ok(vec![client(Some(errno), "refused")])
}

/// The application does not wait for an answer.
fn given_up(port: u16) -> Result<Vec<End>> {
    on_arrival(&format!("tcp dport {port} drop"))?;
    drop(start_connecting(None, (Ipv4Addr::LOCALHOST, port).into())?);
    Ok(vec![client(None, "reset_locally")])
}

fn connect_timed_out(port: u16) -> Result<Vec<End>> {
    sysctl("ipv4/tcp_syn_retries", "1")?;
    on_arrival(&format!("tcp dport {port} drop"))?;
    let errno = error(TcpStream::connect((Ipv4Addr::LOCALHOST, port)))?;
    Ok(vec![client(Some(errno), "timed_out")])
}

/// The server sends to a client that no longer exists.
fn comes_back(mut second: TcpStream) -> Result<End> {
    as_before()?;
    second.write_all(b"are you there?")?;
    let errno = error(second.read(&mut [0]))?;
    Ok(server(Some(errno), "reset_by_peer"))
}

/// The client's data is not acknowledged.
fn peer_vanished(port: u16) -> Result<Vec<End>> {
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
fn peer_vanished_while_idle(port: u16) -> Result<Vec<End>> {
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
fn last_fin_lost(port: u16) -> Result<Vec<End>> {
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

fn host_unreachable(port: u16) -> Result<Vec<End>> {
    let to = (Ipv4Addr::LOCALHOST, port).into();
    rejected(to, "icmp type host-unreachable", "unreachable")
}

fn network_unreachable(port: u16) -> Result<Vec<End>> {
    let to = (Ipv4Addr::LOCALHOST, port).into();
    rejected(to, "icmp type net-unreachable", "unreachable")
}

fn prohibited(port: u16) -> Result<Vec<End>> {
    let to = (Ipv4Addr::LOCALHOST, port).into();
    rejected(to, "icmp type admin-prohibited", "unreachable")
}

/// The kernel reports it with the error of a refusal.
fn port_unreachable(port: u16) -> Result<Vec<End>> {
    let to = (Ipv4Addr::LOCALHOST, port).into();
    rejected(to, "icmp type port-unreachable", "refused")
}

fn no_route_by_ipv6(port: u16) -> Result<Vec<End>> {
    let to = (Ipv6Addr::LOCALHOST, port).into();
    rejected(to, "icmpv6 type no-route", "unreachable")
}

fn prohibited_by_ipv6(port: u16) -> Result<Vec<End>> {
    let to = (Ipv6Addr::LOCALHOST, port).into();
    rejected(to, "icmpv6 type admin-prohibited", "EACCES")
}

/// For an established connection, the kernel reports the error only when it gives up.
fn established_then_unreachable(port: u16) -> Result<Vec<End>> {
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
fn only_a_listener(port: u16) -> Result<Vec<End>> {
    drop(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?);
    Ok(Vec::new())
}
