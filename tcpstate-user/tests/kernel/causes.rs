//! Close causes. The cause that `tcpstate` reports for each end is compared with the `errno` that the
//! application got and, without an error, with the segments that tcpdump saw.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{AddressFamily, Shutdown, sockopt},
};
use serde_json::Value;
use tcpstate_common::State;

use crate::{
    need::{ATTACH_MODES, Need, attach_needs, missing_name, trial},
    net::{
        Connection, Netns, await_fin, await_state, await_that, reset, shutdown_write, socket,
        unused_port,
    },
    packets::{Packets, Tcpdump},
    process::{BINARY, Output, Tcpstate, nested, run},
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
        let programs = [Need::Program("nft")];
        let needs = [attach_needs(mode), &[Need::ResetReason], &programs].concat();
        for &(name, make, reason) in REASONS {
            trials.push(trial(
                format!("{mode}::reset_reason::{name}"),
                &needs,
                move || reset_reason(mode, make, reason),
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
    ("data_after_close", data_after_close),
    ("data_after_the_clients_close", data_after_the_clients_close),
    (
        "data_that_acknowledges_the_fin",
        data_that_acknowledges_the_fin,
    ),
    ("reset_after_close", reset_after_close),
    ("negative_linger2", negative_linger2),
    ("moved_elsewhere", moved_elsewhere),
    ("write_to_a_closed_peer", write_to_a_closed_peer),
    ("never_accepted", never_accepted),
    ("refused", refused),
    ("given_up", given_up),
    ("given_up_with_linger_0", given_up_with_linger_0),
    ("given_up_by_shutdown", given_up_by_shutdown),
    ("given_up_by_disconnecting", given_up_by_disconnecting),
    ("no_port_left", no_port_left),
    ("port_in_use", port_in_use),
    ("connect_timed_out", connect_timed_out),
    ("peer_vanished", peer_vanished),
    ("peer_vanished_while_idle", peer_vanished_while_idle),
    ("last_fin_lost", last_fin_lost),
    ("host_unreachable", host_unreachable),
    ("network_unreachable", network_unreachable),
    ("prohibited", prohibited),
    (
        "unreachable_while_not_waiting",
        unreachable_while_not_waiting,
    ),
    ("refused_while_not_waiting", refused_while_not_waiting),
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
    // Counting in the kernel takes a BTF tracepoint.
    let counting = (mode == "btf").then(|| count(port)).transpose()?;
    let netns = Netns::new()?;
    let tcpdump = netns.run(|| Tcpdump::start(port))?;
    let ends = netns.run_until_quiet(|| make(port))?;
    let packets = netns.run(|| tcpdump.stop())?;
    let aborted = netns.run(aborts)?;
    let (_, summary) = tcpstate.stop()?.json()?;
    for end in &ends {
        let oracle = by_oracle(end, &packets, aborted)?;
        ensure!(
            oracle == end.cause,
            "{end:?}: by the oracle {oracle}: {packets:?}"
        );
    }
    if let Some(counting) = counting {
        let (lines, summary) = counting.stop()?.json()?;
        let [line] = &lines[..] else {
            bail!("expected one interval: {lines:?}")
        };
        let expected = serde_json::to_value(counts(&ends))?;
        ensure!(
            line["causes"] == expected || nested(&summary)? > 0,
            "counted in the kernel, expected {expected}: {line}"
        );
    }
    let check = check(&ends, &file, Some(&packets));
    check.with_context(|| format!("{}", summary["accounting"]))
}

/// The reason that the kernel's source gives for the RST of one end.
///
/// *Source:* `net/ipv4/tcp.c`, `tcp_input.c` and `tcp_timer.c`.
const REASONS: &[(&str, Ends, &str)] = &[
    ("linger_0", client_closes_with_linger_0, "tcp_state"),
    ("unread_data", unread_data, "tcp_abort_on_close"),
    ("data_after_close", data_after_close, "tcp_abort_on_data"),
    (
        "data_that_acknowledges_the_fin",
        data_that_acknowledges_the_fin,
        "tcp_abort_on_data",
    ),
    ("negative_linger2", negative_linger2, "tcp_abort_on_linger"),
    (
        "keepalive",
        peer_vanished_while_idle,
        "tcp_keepalive_timeout",
    ),
];

/// The one end that this kernel reset has the reason, the others have none.
fn reset_reason(mode: &str, make: Ends, reason: &str) -> Result<()> {
    let port = unused_port();
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("recording");
    let tcpstate = record(mode, port, &file)?;
    Netns::new()?.run_until_quiet(|| make(port))?;
    tcpstate.stop()?.json()?;
    // The first kernels with reasons had no name for some.
    let name = format!("SK_RST_REASON_{}", reason.to_uppercase());
    let expected = match missing_name(name.as_bytes(), "") {
        None => reason,
        Some(_) => "not_specified",
    };
    let file = file.to_str().context("no text")?;
    for view in ["life", "trace"] {
        let (lines, _) = run(BINARY, &[view, "--json", "-r", file])?.json()?;
        let reasons: Vec<_> = lines
            .iter()
            .filter_map(|line| line["reset_reason"].as_str())
            .collect();
        ensure!(reasons == [expected], "expected {expected}: {lines:#?}");
        let text = run(BINARY, &[view, "--reset-reason", "-r", file])?.stdout;
        ensure!(text.contains(expected), "{text}");
    }
    Ok(())
}

/// Starts to count in the kernel.
fn count(port: u16) -> Result<Tcpstate> {
    let port = port.to_string();
    Tcpstate::start(&["rates", "1h", "--json", "--in-kernel", "-P", &port])
}

/// How many connections this namespace's kernel reset after the application had closed them, by its own counters.
fn aborts() -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/netstat")?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next(), lines.next());
    let names = names.context("no names")?.split_whitespace();
    let values = values.context("no values")?.split_whitespace();
    names
        .zip(values)
        .filter(|(name, _)| ["TCPAbortOnData", "TCPAbortOnLinger"].contains(name))
        .map(|(_, value)| Ok(value.parse::<u64>()?))
        .sum()
}

fn record(mode: &str, port: u16, file: &Path) -> Result<Tcpstate> {
    let file = file.to_str().context("no text")?;
    let port = port.to_string();
    Tcpstate::start(&[
        "record", "--json", "-w", file, "--attach", mode, "-P", &port,
    ])
}

/// The cause of this end, found without `tcpstate`.
fn by_oracle(end: &End, packets: &Packets, aborted: u64) -> Result<&'static str> {
    match end.errno {
        Some(Errno::CONNRESET | Errno::PIPE) => return Ok("reset_by_peer"),
        Some(Errno::CONNREFUSED) => return Ok("refused"),
        Some(Errno::TIMEDOUT) => return Ok("timed_out"),
        Some(Errno::HOSTUNREACH | Errno::NETUNREACH) => return Ok("unreachable"),
        Some(Errno::ACCESS) => return Ok("EACCES"),
        Some(Errno::ADDRNOTAVAIL) => return Ok("no_port"),
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
        (Some(fin), Some(rst)) if fin < rst && aborted > 0 => "reset_locally",
        (None, Some(_)) => "reset_locally",
        (Some(fin), Some(rst)) if rst < fin => "reset_locally",
        (Some(fin), _) if came_after(fin, "R") => "reset_by_peer",
        (Some(fin), _) if came_after(fin, ".") => "fin",
        (Some(_), _) => "timed_out",
        (None, None) if came_after(0, "R") => "reset_by_peer",
        (None, None) if !came_after(0, "") => "abandoned",
        (None, None) => "unknown",
    })
}

/// How many ends have each cause.
fn counts(ends: &[End]) -> BTreeMap<&str, u64> {
    let mut counts = BTreeMap::new();
    for end in ends {
        *counts.entry(end.cause).or_default() += 1;
    }
    counts
}

/// Checks that whoever is said to have reset has a RST of theirs on the wire.
fn check_resets(life: &[Value], packets: &Packets) -> Result<()> {
    for line in life {
        let is_server = line["role"] == "server";
        let by_server = match line["cause"].as_str() {
            Some("reset_locally") => is_server,
            Some("reset_by_peer" | "refused") if packets.unreachable == 0 => !is_server,
            _ => continue,
        };
        let client_port = if is_server { "rport" } else { "lport" };
        ensure!(
            packets.segments.iter().any(|segment| {
                segment.from_server == by_server
                    && line[client_port] == segment.client_port
                    && segment.flags.contains('R')
            }),
            "no RST on the wire: {line}: {packets:?}"
        );
    }
    Ok(())
}

/// Checks that all views report the causes of these ends.
fn check(ends: &[End], file: &Path, packets: Option<&Packets>) -> Result<()> {
    let read = |view: &[&str]| -> Result<Vec<Value>> {
        let file = file.to_str().context("no text")?;
        let output: Output = run(BINARY, &[view, &["--json", "-r", file]].concat())?;
        Ok(output.json()?.0)
    };
    let shown = |end: &End| {
        (
            end.role,
            if end.cause == "unknown" {
                "-"
            } else {
                end.cause
            },
        )
    };
    let mut expected: Vec<(&str, &str)> = ends.iter().map(shown).collect();
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
    if let Some(packets) = packets {
        check_resets(&life, packets)?;
    }

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
    let counts = counts(ends);
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
    check(&[client(None, "fin"), server(None, "fin")], &file, None)
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

/// The race behind every proxy: the server closes an idle connection while a request is on its way.
fn data_after_close(port: u16) -> Result<Vec<End>> {
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

fn data_after_the_clients_close(port: u16) -> Result<Vec<End>> {
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
fn data_that_acknowledges_the_fin(port: u16) -> Result<Vec<End>> {
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
fn reset_after_close(port: u16) -> Result<Vec<End>> {
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
fn negative_linger2(port: u16) -> Result<Vec<End>> {
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
fn moved_elsewhere(port: u16) -> Result<Vec<End>> {
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
    Ok(vec![client(None, "abandoned")])
}

/// Nothing has been established that could be reset.
fn given_up_with_linger_0(port: u16) -> Result<Vec<End>> {
    on_arrival(&format!("tcp dport {port} drop"))?;
    reset(start_connecting(None, (Ipv4Addr::LOCALHOST, port).into())?)?;
    Ok(vec![client(None, "abandoned")])
}

/// As a thread does that wakes another one from its `connect`.
fn given_up_by_shutdown(port: u16) -> Result<Vec<End>> {
    on_arrival(&format!("tcp dport {port} drop"))?;
    let socket = start_connecting(None, (Ipv4Addr::LOCALHOST, port).into())?;
    rustix::net::shutdown(&socket, Shutdown::Both)?;
    Ok(vec![client(None, "abandoned")])
}

fn given_up_by_disconnecting(port: u16) -> Result<Vec<End>> {
    on_arrival(&format!("tcp dport {port} drop"))?;
    let socket = start_connecting(None, (Ipv4Addr::LOCALHOST, port).into())?;
    rustix::net::connect_unspec(&socket)?;
    Ok(vec![client(None, "abandoned")])
}

/// The only ephemeral port is in use to the same server.
fn no_port_left(port: u16) -> Result<Vec<End>> {
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
fn port_in_use(port: u16) -> Result<Vec<End>> {
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

/// The error of a `connect` that the application does not wait in.
fn rejected_later(port: u16, with: &str, cause: &'static str) -> Result<Vec<End>> {
    on_arrival(&format!("tcp dport {port} reject with {with}"))?;
    let socket = start_connecting(None, (Ipv4Addr::LOCALHOST, port).into())?;
    let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
    poll(&mut fds, None)?;
    let errno = sockopt::socket_error(&socket)?.err();
    Ok(vec![client(Some(errno.context("no error")?), cause)])
}

fn unreachable_while_not_waiting(port: u16) -> Result<Vec<End>> {
    rejected_later(port, "icmp type host-unreachable", "unreachable")
}

fn refused_while_not_waiting(port: u16) -> Result<Vec<End>> {
    rejected_later(port, "icmp type port-unreachable", "refused")
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
