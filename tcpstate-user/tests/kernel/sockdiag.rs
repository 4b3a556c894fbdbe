//! `tcpstate ls` beside `ss`: the same sockets in the same states, in a namespace at rest.
//!
//! What `ss` does not tell is compared with what the sockets themselves say (`getsockopt`) and with
//! `/proc`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::{
    net::{AddressFamily, sockopt},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use serde_json::Value;
use tcpstate_common::State;
use tcpstate_user::capture::host::Host;

use crate::{
    need::{Need, trial},
    net::{Connection, Netns, await_fin, await_state, shutdown_write, socket, unused_port},
    privileges::{as_user, copy_of_the_binary},
    process::{BINARY, Output, run, state},
    ss::{Line, await_states, by_state, compare},
    traffic::start_connecting,
};

pub fn add(trials: &mut Vec<Trial>) {
    let (ss, nft) = (Need::Program("ss"), Need::Program("nft"));
    let ip = Need::Program("ip");
    trials.push(trial("ls::every_state", &[ss, nft, ip], every_state));
    trials.push(trial("ls::half_open", &[ss, nft, ip], half_open));
    trials.push(trial("ls::many", &[ss, ip], many));
    trials.push(trial("ls::bound_only", &[ip], bound_only));
    trials.push(trial("ls::cookies", &[ip], cookies));
    trials.push(trial("ls::owners", &[ip], owners));
    trials.push(trial("ls::info", &[ip], info));
    trials.push(trial("ls::namespaces", &[ip], namespaces));
    trials.push(trial(
        "ls::ordinary_user",
        &[ip, ss, Need::Program("setpriv")],
        ordinary_user,
    ));
}

/// Whether a filter wants it.
type Wanted = fn(&Line) -> bool;

/// The lines of `tcpstate ls --json` in the namespace of the calling thread, and the summary.
pub fn list(args: &[&str]) -> Result<(Vec<Value>, Value)> {
    read_list(&run(BINARY, &[&["ls", "--json"], args].concat())?)
}

fn read_list(output: &Output) -> Result<(Vec<Value>, Value)> {
    ensure!(
        output.status.code() == Some(0) && output.stderr.is_empty(),
        "{}: {}",
        output.status,
        output.stderr
    );
    let lines = output
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()));
    let mut lines = lines.collect::<Result<Vec<Value>>>()?;
    let summary = lines.pop().context("no output at all")?;
    ensure!(summary["type"] == "summary", "no summary: {summary}");
    let of = |name: &str| {
        let value = summary["accounting"][name].as_u64();
        value.with_context(|| format!("no {name} in {summary}"))
    };
    let gone = of("filtered")? + of("superseded")?;
    ensure!(
        of("rejected")? == 0 && of("seen")? == lines.len() as u64 + gone,
        "{summary}"
    );
    for line in &lines {
        ensure!(line["type"] == "socket", "not a socket: {line}");
    }
    Ok((lines, summary))
}

fn lines(values: &[Value]) -> Result<Vec<Line>> {
    let mut lines = values
        .iter()
        .map(|value| {
            let end = |addr: &str, port: &str| -> Result<SocketAddr> {
                let addr: IpAddr = value[addr].as_str().context("no address")?.parse()?;
                Ok((
                    addr,
                    u16::try_from(value[port].as_u64().context("no port")?)?,
                )
                    .into())
            };
            let (local, remote) = (end("laddr", "lport")?, end("raddr", "rport")?);
            Ok((state(&value["state"])?, local, remote))
        })
        .collect::<Result<Vec<_>>>()?;
    lines.sort_unstable();
    Ok(lines)
}

/// Drops what matches these rules on its way in.
pub fn drop_incoming(rules: &[&str]) -> Result<()> {
    let rules: String = rules.iter().flat_map(|rule| [rule, " drop;\n"]).collect();
    let script =
        format!("table inet t {{ chain i {{ type filter hook input priority 0;\n{rules}}}\n}}\n");
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    nft.stdin
        .take()
        .context("stdin")?
        .write_all(script.as_bytes())?;
    let status = nft.wait()?;
    ensure!(status.success(), "nft: {status}: {script}");
    Ok(())
}

pub const OPEN: u16 = 1000;
const NO_SYN: u16 = 1001;
pub const NO_ACK: u16 = 1002;
const NO_CLIENT_FIN: u16 = 1003;
const NO_SERVER_FIN: u16 = 1004;

pub fn weather() -> Result<()> {
    drop_incoming(&[
        &format!("tcp dport {NO_SYN} tcp flags & syn == syn"),
        &format!("tcp dport {NO_ACK} tcp flags & (syn|ack) == ack"),
        &format!("tcp dport {NO_CLIENT_FIN} tcp flags & fin == fin"),
        &format!("tcp sport {NO_SERVER_FIN} tcp flags & fin == fin"),
    ])
}

/// What [`one_of_each`] makes.
pub const ONE_OF_EACH: [(State, usize); 10] = [
    (State::ESTABLISHED, 4),
    (State::SYN_SENT, 1),
    (State::SYN_RECV, 1),
    (State::FIN_WAIT1, 1),
    (State::FIN_WAIT2, 4),
    (State::TIME_WAIT, 1),
    (State::CLOSE_WAIT, 2),
    (State::LAST_ACK, 1),
    (State::LISTEN, 4),
    (State::CLOSING, 1),
];

/// A socket in each state, on this address. They stay in it as long as what is returned.
pub fn one_of_each(addr: IpAddr) -> Result<Vec<OwnedFd>> {
    let mut kept: Vec<OwnedFd> = Vec::new();
    let connect = |port: u16| Connection::new((addr, port));

    // LISTEN, ESTABLISHED twice, and CLOSE_WAIT with FIN_WAIT2.
    let one = connect(OPEN)?;
    let other = TcpStream::connect((addr, OPEN))?;
    shutdown_write(&other)?;
    let (accepted, _) = one.listener.accept()?;
    await_fin(&accepted)?;
    await_state(&other, State::FIN_WAIT2)?;
    // TIME_WAIT, and a minisocket in FIN_WAIT2: an orphan.
    let client = TcpStream::connect((addr, OPEN))?;
    let (server, _) = one.listener.accept()?;
    drop(client);
    await_fin(&server)?;
    drop(server);
    let client = TcpStream::connect((addr, OPEN))?;
    let (server, _) = one.listener.accept()?;
    drop(client);
    await_fin(&server)?;
    kept.extend([accepted.into(), other.into(), server.into()]);
    kept.extend([one.listener.into(), one.client.into(), one.server.into()]);

    let syn_sent = start_connecting(None, (addr, NO_SYN).into())?;
    let listener = TcpListener::bind((addr, NO_ACK))?;
    let half_open = TcpStream::connect((addr, NO_ACK))?;
    kept.extend([syn_sent, listener.into(), half_open.into()]);

    // FIN_WAIT1, whose peer knows nothing of it; CLOSING: the same, but the peer's FIN came.
    let fin_wait1 = connect(NO_CLIENT_FIN)?;
    shutdown_write(&fin_wait1.client)?;
    let closing = TcpStream::connect((addr, NO_CLIENT_FIN))?;
    let (server, _) = fin_wait1.listener.accept()?;
    shutdown_write(&closing)?;
    shutdown_write(&server)?;
    await_state(&closing, State::CLOSING)?;
    await_state(&server, State::FIN_WAIT2)?;
    kept.extend([fin_wait1.listener.into(), fin_wait1.client.into()]);
    kept.extend([fin_wait1.server.into(), closing.into(), server.into()]);

    // LAST_ACK: the FIN of the side that closes second is lost.
    let last_ack = connect(NO_SERVER_FIN)?;
    shutdown_write(&last_ack.client)?;
    await_fin(&last_ack.server)?;
    shutdown_write(&last_ack.server)?;
    await_state(&last_ack.server, State::LAST_ACK)?;
    await_state(&last_ack.client, State::FIN_WAIT2)?;
    kept.extend([last_ack.listener.into(), last_ack.client.into()]);
    kept.push(last_ack.server.into());
    Ok(kept)
}

/// Raises the number of files that this process may have open.
pub fn allow_open_files(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: limit.maximum.map(|maximum| maximum.max(wanted)),
        };
        setrlimit(Resource::Nofile, raised).context("raise the number of open files")?;
    }
    Ok(())
}

/// Every state, in both families and v4-mapped: counts, addresses and ports, and what the filters on
/// states and ports leave of them.
fn every_state() -> Result<()> {
    Netns::new()?.run(|| {
        weather()?;
        let _v4 = one_of_each(Ipv4Addr::LOCALHOST.into())?;
        let _v6 = one_of_each(Ipv6Addr::LOCALHOST.into())?;
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 2000))?;
        let _client = TcpStream::connect((Ipv4Addr::LOCALHOST, 2000))?;
        let _mapped = listener.accept()?;

        let mut count = BTreeMap::from(ONE_OF_EACH.map(|(state, n)| (state, 2 * n)));
        *count.entry(State::LISTEN).or_default() += 1;
        *count.entry(State::ESTABLISHED).or_default() += 2;
        await_states("all states are reached", |ss| *ss == count)?;
        let all = compare(|| lines(&list(&[])?.0), &[])?;
        ensure!(by_state(&all) == count, "{:?}", by_state(&all));
        let (_, summary) = list(&[])?;
        for (state, n) in &count {
            ensure!(
                summary["states"][state.to_string()] == *n,
                "{state}: {summary}"
            );
        }
        for group in ["all", "connected", "synchronized", "bucket", "big"] {
            compare(|| lines(&list(&["--state", group])?.0), &["state", group])
                .with_context(|| group.to_owned())?;
        }
        let listed = |args: &[&str]| lines(&list(args)?.0);
        let of_all = |wanted: &dyn Fn(&Line) -> bool| -> Vec<Line> {
            all.iter().filter(|line| wanted(line)).copied().collect()
        };
        let filters: [(&[&str], Wanted); 6] = [
            (&["-4"], |(_, local, _)| local.is_ipv4()),
            (&["-6"], |(_, local, _)| local.is_ipv6()),
            (&["-L", "1002,1004"], |(_, local, _)| {
                [1002, 1004].contains(&local.port())
            }),
            (&["-D", "1000-1001"], |(_, _, remote)| {
                (1000..=1001).contains(&remote.port())
            }),
            (&["-P", "1003"], |(_, local, remote)| {
                local.port() == 1003 || remote.port() == 1003
            }),
            (
                &["--state", "fin-wait-1,CLOSING", "-6"],
                |(state, local, _)| {
                    [State::FIN_WAIT1, State::CLOSING].contains(state) && local.is_ipv6()
                },
            ),
        ];
        for (args, wanted) in filters {
            let (ours, expected) = (listed(args)?, of_all(&wanted));
            ensure!(
                !expected.is_empty() && ours == expected,
                "{args:?}: {ours:?}"
            );
        }
        roles(&list(&[])?.0)
    })
}

/// All listeners are still there, so every role is known, and the service port is below 32768.
fn roles(values: &[Value]) -> Result<()> {
    for value in values {
        let service = |port: u64| port < 32_768 && port != 0;
        let lport = value["lport"].as_u64().context("lport")?;
        let (role, port) = if service(lport) {
            ("server", &value["lport"])
        } else {
            ("client", &value["rport"])
        };
        ensure!(
            value["role"] == role && value["service_port"] == *port,
            "{value}"
        );
    }
    Ok(())
}

/// A thousand handshakes without their last ACK; then they expire.
fn half_open() -> Result<()> {
    const COUNT: usize = 1000;
    // Asked for one state only, `ss` does not write it.
    const OF_SS: [&str; 4] = ["state", "syn-recv", "state", "listening"];
    Netns::new()?.run(|| {
        weather()?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, NO_ACK));
        let listener = socket(AddressFamily::INET, None)?;
        rustix::net::bind(&listener, &addr)?;
        // The backlog bounds them.
        rustix::net::listen(&listener, 4096)?;
        let before_first = Instant::now();
        let mut clients = vec![TcpStream::connect(addr)?];
        let after_first = Instant::now();
        for _ in 1..COUNT {
            clients.push(TcpStream::connect(addr)?);
        }
        let both = compare(|| lines(&list(&["--state", "syn-recv,listen"])?.0), &OF_SS)?;
        let expected = BTreeMap::from([(State::SYN_RECV, COUNT), (State::LISTEN, 1)]);
        ensure!(by_state(&both) == expected, "{:?}", by_state(&both));
        let ours = || lines(&list(&["--state", "syn-recv", "-L", &NO_ACK.to_string()])?.0);
        ensure!(ours()?.len() == COUNT, "{}", ours()?.len());

        let at_least = after_first.elapsed();
        let (values, _) = list(&[])?;
        let at_most = before_first.elapsed();
        let listening = values.iter().find(|value| value["state"] == "LISTEN");
        let listening = listening.context("no listener")?;
        ensure!(listening["half_open"] == COUNT, "{listening}");
        let oldest_ms = listening["half_open_oldest_ms"]
            .as_u64()
            .context("no age")?;
        let oldest_ms = u128::from(oldest_ms);
        // A jiffy of at most 10 ms at each end; an expired timer was late by an eighth at most.
        ensure!(
            oldest_ms <= at_most.as_millis() + 20 && oldest_ms * 8 / 7 + 20 >= at_least.as_millis(),
            "{oldest_ms} ms is not between {at_least:?} and {at_most:?}"
        );

        fs::write("/proc/sys/net/ipv4/tcp_synack_retries", "0")?;
        await_states("the half-open connections expire", |count| {
            !count.contains_key(&State::SYN_RECV)
        })?;
        let left = ours()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

/// Ten thousand connections, both ends; nobody accepts, which saves half of the file descriptors.
fn many() -> Result<()> {
    const COUNT: usize = 10_000;
    allow_open_files(COUNT as u64 + 500)?;
    Netns::new()?.run(|| {
        fs::write("/proc/sys/net/core/somaxconn", "20000")?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, OPEN));
        let listener = socket(AddressFamily::INET, None)?;
        rustix::net::bind(&listener, &addr)?;
        rustix::net::listen(&listener, 20_000)?;
        let clients = (0..COUNT).map(|_| TcpStream::connect(addr));
        let _clients = clients.collect::<Result<Vec<_>, _>>()?;
        let expected = BTreeMap::from([(State::ESTABLISHED, 2 * COUNT), (State::LISTEN, 1)]);
        await_states("all are established", |count| *count == expected)?;
        let all = compare(|| lines(&list(&[])?.0), &[])?;
        ensure!(by_state(&all) == expected, "{:?}", by_state(&all));
        let (values, summary) = list(&["--state", "established", "-L", &OPEN.to_string()])?;
        ensure!(values.len() == COUNT, "{summary}");
        let cookies: BTreeSet<_> = values
            .iter()
            .map(|value| value["cookie"].as_u64())
            .collect();
        ensure!(cookies.len() == COUNT, "{} cookies", cookies.len());
        let (values, _) = list(&["--state", "listen"])?;
        ensure!(values[0]["recv_queue"] == COUNT, "{}", values[0]);
        Ok(())
    })
}

/// A socket that is bound and no more: `CLOSE`, which only newer kernels list.
fn bound_only() -> Result<()> {
    Netns::new()?.run(|| {
        let bound = socket(AddressFamily::INET, None)?;
        rustix::net::bind(&bound, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let local = SocketAddr::try_from(rustix::net::getsockname(&bound)?)?;
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let listed = Host::read().kernel_version() >= Some((6, 8));
        let expected = Vec::from_iter(listed.then_some((State::CLOSE, local, any)));
        for args in [
            &[][..],
            &["--state", "close"],
            &["--state", "bound_inactive"],
        ] {
            let ours = lines(&list(args)?.0)?;
            ensure!(ours == expected, "{args:?}: {ours:?}");
        }
        let ours = lines(&list(&["--state", "connected,listen"])?.0)?;
        ensure!(ours.is_empty(), "{ours:?}");
        Ok(())
    })
}

/// The cookie is the one that the socket itself says, also after its end.
fn cookies() -> Result<()> {
    Netns::new()?.run(|| {
        let Connection {
            listener,
            client,
            server,
        } = Connection::new((Ipv6Addr::LOCALHOST, OPEN))?;
        let cookie = |socket: &dyn AsFd| sockopt::socket_cookie(socket.as_fd());
        let expected = BTreeMap::from([
            (cookie(&listener)?, "LISTEN"),
            (cookie(&client)?, "ESTABLISHED"),
            (cookie(&server)?, "ESTABLISHED"),
        ]);
        let ours = || -> Result<BTreeMap<u64, String>> {
            let (values, _) = list(&[])?;
            let pair = |value: &Value| {
                let state = value["state"].as_str().context("no state")?;
                Ok((
                    value["cookie"].as_u64().context("no cookie")?,
                    state.to_owned(),
                ))
            };
            values.iter().map(pair).collect()
        };
        let same = |ours: BTreeMap<u64, String>, expected: &BTreeMap<u64, &str>| {
            ours.iter()
                .map(|(cookie, state)| (*cookie, state.as_str()))
                .eq(expected.iter().map(|(cookie, state)| (*cookie, *state)))
        };
        ensure!(
            same(ours()?, &expected),
            "{:?}, expected {expected:?}",
            ours()?
        );
        let expected = BTreeMap::from([
            (cookie(&listener)?, "LISTEN"),
            (cookie(&client)?, "TIME_WAIT"),
        ]);
        drop(client);
        await_fin(&server)?;
        drop(server);
        await_states("TIME_WAIT", |count| count.contains_key(&State::TIME_WAIT))?;
        ensure!(
            same(ours()?, &expected),
            "{:?}, expected {expected:?}",
            ours()?
        );
        Ok(())
    })
}

/// Who holds a socket; before it is accepted, who listens.
fn owners() -> Result<()> {
    Netns::new()?.run(|| {
        let connection = Connection::new((Ipv4Addr::LOCALHOST, OPEN))?;
        let waiting = TcpStream::connect((Ipv4Addr::LOCALHOST, OPEN))?;
        let client = |stream: &TcpStream| stream.local_addr().map(|addr| addr.port());
        let (client, waiting) = (client(&connection.client)?, client(&waiting)?);
        let me = std::process::id();
        let comm = fs::read_to_string(format!("/proc/{me}/comm"))?;
        let (values, _) = list(&["--resolve-owners"])?;
        ensure!(values.len() == 5, "{values:?}");
        for value in &values {
            let how = if value["rport"] == waiting {
                "listener"
            } else {
                "seeded"
            };
            let owner = &value["owner"];
            ensure!(
                owner["pid"] == me && owner["comm"] == comm.trim_end() && owner["how"] == how,
                "{value}"
            );
            ensure!(value["uid"].is_null() || value["uid"] == 0, "{value}");
        }
        // An end that was handed to another process.
        let holder = Holder::start(Some(connection.client.into()))?;
        let (values, _) = list(&["--resolve-owners", "-L", &client.to_string()])?;
        ensure!(values.len() == 1, "{values:?}");
        let owner = &values[0]["owner"];
        ensure!(
            owner["pid"] == holder.0.id() && owner["comm"] == "cat",
            "{owner}"
        );
        drop(holder);
        // Without being asked, nobody is looked for.
        let (values, _) = list(&[])?;
        ensure!(
            values.iter().all(|value| value["owner"].is_null()),
            "{values:?}"
        );
        Ok(())
    })
}

/// A process that waits, in the namespace of the thread that started it, and perhaps holds a socket.
struct Holder(Child);

impl Holder {
    fn start(socket: Option<OwnedFd>) -> Result<Self> {
        // Waits for the end of its standard input, which is this process's end of a pipe.
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped());
        command.stdout(socket.map_or_else(Stdio::null, Stdio::from));
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It ends with its input; then nothing is left of it.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Bytes as they were sent; and cgroup and uid of the socket.
fn info() -> Result<()> {
    Netns::new()?.run(|| {
        let Connection {
            listener: _listener,
            mut client,
            server: _server,
        } = Connection::new((Ipv4Addr::LOCALHOST, OPEN))?;
        client.write_all(&[7; 1234])?;
        let (values, _) = list(&["--info", "--state", "established"])?;
        let of = |port: &str| {
            values
                .iter()
                .find(|value| value[port] == OPEN)
                .context("no end")
        };
        let (sender, receiver) = (of("rport")?, of("lport")?);
        ensure!(sender["bytes_sent"] == 1234, "{sender}");
        ensure!(
            receiver["bytes_received"] == 1234 && receiver["recv_queue"] == 1234,
            "{receiver}"
        );
        ensure!(sender["srtt_us"].as_u64() > Some(0), "{sender}");
        let (values, _) = list(&["--state", "established"])?;
        ensure!(
            values.iter().all(|value| value["bytes_sent"].is_null()),
            "{values:?}"
        );
        if Host::read().kernel_version() >= Some((5, 9)) {
            let (path, id) = own_cgroup()?;
            let same = values
                .iter()
                .all(|value| value["cgroup"] == path && value["cgroup_id"] == id);
            ensure!(same, "expected cgroup {path}, {id}: {values:?}");
        }
        Ok(())
    })
}

/// The path of this process's cgroup, and its id: the inode number of its folder.
fn own_cgroup() -> Result<(String, u64)> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    let path = path.context("no cgroup v2")?;
    let below = path.trim_start_matches('/');
    let found = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .filter(|root| Path::new(root).join("cgroup.procs").exists())
        .find_map(|root| rustix::fs::stat(Path::new(root).join(below)).ok());
    let folder = found.context("cgroup v2 is not mounted")?;
    Ok((path.to_owned(), folder.st_ino))
}

/// A namespace with a name of `ip netns`, for as long as this lives.
struct Named(String);

impl Named {
    fn new() -> Result<Self> {
        let name = format!("tcpstate-test-{}", unused_port());
        crate::net::ip(&["netns", "add", &name])?;
        Ok(Self(name))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // Nobody is there to be told.
        let _ = crate::net::ip(&["netns", "del", &self.0]);
    }
}

/// Another namespace by path, by number and by name, and all of them at once.
fn namespaces() -> Result<()> {
    let netns = Netns::new()?;
    let inode = netns.inode()?;
    let (_listener, _holder) = netns.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, OPEN))?;
        Ok((listener, Holder::start(None)?))
    })?;
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, OPEN));
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let path = netns.path();
    for wanted in [path.to_str().context("path")?, &inode.to_string()] {
        let (values, summary) = list(&["--netns", wanted])?;
        ensure!(
            lines(&values)? == [(State::LISTEN, local, any)],
            "{wanted}: {values:?}"
        );
        ensure!(values[0]["netns"] == inode, "{}", values[0]);
        ensure!(summary["namespaces"][0]["netns"] == inode, "{summary}");
    }
    let named = Named::new()?;
    let (values, summary) = list(&["--netns", &named.0])?;
    ensure!(values.is_empty(), "{values:?}");
    ensure!(summary["namespaces"][0]["name"] == *named.0, "{summary}");

    let (values, summary) = list(&["--netns", "all", "-L", &OPEN.to_string()])?;
    let ours = |value: &&Value| value["netns"] == inode;
    ensure!(values.iter().filter(ours).count() == 1, "{values:?}");
    let asked = summary["namespaces"].as_array().context("namespaces")?;
    ensure!(asked.iter().filter(ours).count() == 1, "{summary}");
    ensure!(asked.iter().any(|one| one["name"] == *named.0), "{summary}");
    Ok(())
}

/// An ordinary user sees the same of its own namespace, and is told what it does not see of others.
fn ordinary_user() -> Result<()> {
    let (_folder, binary) = copy_of_the_binary()?;
    let named = Named::new()?;
    Netns::new()?.run(|| {
        let _connection = Connection::new((Ipv4Addr::LOCALHOST, OPEN))?;
        let run = |args: &[&str]| -> Result<Output> {
            let output = as_user(&binary).args(args).output()?;
            Ok(Output {
                status: output.status,
                stdout: String::from_utf8(output.stdout)?,
                stderr: String::from_utf8(output.stderr)?,
            })
        };
        compare(|| lines(&read_list(&run(&["ls", "--json"])?)?.0), &[])?;
        let (_, summary) = read_list(&run(&["ls", "--json", "--netns", "all"])?)?;
        let missing = summary["missing"].to_string();
        ensure!(missing.contains(&format!("({})", named.0)), "{missing}");
        ensure!(missing.contains("processes of other users"), "{missing}");
        let text = run(&["ls", "--netns", &named.0])?;
        ensure!(
            text.status.code() == Some(1) && text.stdout.is_empty(),
            "{text:?}"
        );
        ensure!(text.stderr.contains("CAP_SYS_ADMIN"), "{}", text.stderr);
        let text = run(&["ls"])?;
        ensure!(text.stdout.lines().count() == 4, "{}", text.stdout);
        ensure!(text.stderr.contains("AGE is `-`"), "{}", text.stderr);
        Ok(())
    })
}
