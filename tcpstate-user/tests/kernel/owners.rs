//! Owners of connections: forking processes, users, cgroups and namespaces, on a machine that is busy with
//! other work; and the filters on owners.
//!
//! The oracle is the test itself, which made the processes and their connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::{
    cgroup::Cgroup,
    need::{ATTACH_MODES, Need, attach_needs, trial},
    net::{Netns, await_that, ip, unused_port},
    oracle::{self, Oracle},
    process::{BINARY, Tcpstate, nested, run},
    programs::{Client, Identity, Server, client, start_flood},
};

pub fn add(trials: &mut Vec<Trial>) {
    for mode in ATTACH_MODES {
        // The user, the cgroup and the namespace come from fields of the socket, which either mode locates by BTF.
        let needs = [attach_needs(mode), &[Need::Btf]].concat();
        trials.push(trial(
            format!("{mode}::owners_of_a_thousand_connections"),
            &[&needs[..], &oracle::NEEDS, &[Need::Program("ip")]].concat(),
            move || owners_of_a_thousand_connections(mode),
        ));
        trials.push(trial(
            format!("{mode}::filters_by_owner"),
            &needs,
            move || filters_by_owner(mode),
        ));
    }
    // Events are joined with seeded sockets by the cookie, which the other mode lacks.
    trials.push(trial(
        "btf::owner_of_a_server_that_was_there",
        // Without it there is no seeding.
        &[Need::Btf, Need::Cookie],
        owner_of_a_server_that_was_there,
    ));
    trials.push(trial(
        "btf::owner_of_a_server_that_was_there_by_default",
        &[Need::Btf, Need::Cookie],
        owner_by_default,
    ));
    trials.push(trial("ls::filters_by_owner", &[], filters_of_ls));
}

const CONNECTIONS: u32 = 1_000;
/// Number of transitions of both ends of a connection.
const PER_CONNECTION: u64 = 10;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

/// The setting for the CPUs that handle packets received by new interfaces of a namespace. Since Linux 6.3.
const RPS_DEFAULT_MASK: &str = "/proc/sys/net/core/rps_default_mask";

/// Spreads the packets that arrive in the thread's namespace over two CPUs, so that they are processed
/// during unrelated tasks. Returns whether that is possible.
fn spread_packets() -> Result<bool> {
    if !Path::new(RPS_DEFAULT_MASK).exists() || thread::available_parallelism()?.get() < 2 {
        return Ok(false);
    }
    fs::write(RPS_DEFAULT_MASK, "3").context(RPS_DEFAULT_MASK)?;
    Ok(true)
}

/// Makes two namespaces joined by a veth pair. Returns also whether packets are spread.
fn joined_by_veth() -> Result<(Netns, Netns, bool)> {
    let (first, second) = (Netns::new()?, Netns::new()?);
    let spread = first.run(spread_packets)? && second.run(spread_packets)?;
    let path = second.path();
    let path = path.to_str().context("no text")?;
    first.run(|| {
        ip(&[
            "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", path,
        ])?;
        ip(&["address", "add", &format!("{SERVER}/24"), "dev", "veth0"])?;
        ip(&["link", "set", "veth0", "up"])
    })?;
    second.run(|| {
        ip(&["address", "add", &format!("{CLIENT}/24"), "dev", "veth0"])?;
        ip(&["link", "set", "veth0", "up"])
    })?;
    Ok((first, second, spread))
}

/// The expected fields of one side of all connections.
struct Side {
    role: &'static str,
    owner: Value,
    who: Identity,
    cgroup: Cgroup,
    netns: u64,
}

/// A forking server, a client in another cgroup and namespace, and unrelated processes, during whose work
/// the kernel makes many of the transitions.
fn owners_of_a_thousand_connections(mode: &str) -> Result<()> {
    let port = unused_port();
    let cgroup = |name| Cgroup::new(&format!("tcpstate-test-{port}-{name}"));
    let (at_server, at_client, at_flood) = (cgroup("server")?, cgroup("client")?, cgroup("flood")?);
    let server_is = Identity::new("prefork", 54_321, &at_server);
    let client_is = Identity::new("customer", 54_322, &at_client);
    let flood_is = Identity::new("arsonist", 54_323, &at_flood);

    let directory = tempfile::tempdir()?;
    let file = directory.path().join("recording");
    let file = file.to_str().context("no text")?;
    let of = port.to_string();
    let recorder = Tcpstate::start(&["record", "--json", "-w", file, "--attach", mode, "-P", &of])?;
    let oracle = Oracle::start(port, 10_000)?;
    let (near, far, spread) = joined_by_veth()?;
    let flooded = Netns::new()?;
    let cpus = thread::available_parallelism()?.get();
    let floods = flooded.run(|| {
        let floods = (0..cpus).map(|_| start_flood(&flood_is));
        floods.collect::<Result<Vec<_>>>()
    })?;
    let (server_pid, customer) = near.run_until_quiet(|| {
        let server = Server::start(&server_is, SERVER, port)?;
        let customer = far.run_until_quiet(|| client(&client_is, SERVER, port, CONNECTIONS))?;
        let pid = server.pid();
        server.stop()?;
        Ok((pid, customer))
    })?;
    drop(floods);
    let oracle::Stopped { seen, tasks, .. } = oracle.stop_with_tasks()?;
    let shown: u64 = seen.values().sum();
    ensure!(
        !spread || tasks.contains_key("arsonist"),
        "no transition was made during an unrelated task: {tasks:?}"
    );
    let (_, summary) = recorder.stop()?.json()?;
    // The kernel sometimes skips more than it counts: in tracepoint mode, and on some machines while certain tasks are
    // the current one. The oracle on the same tracepoint misses those transitions too. The listener has two further
    // transitions.
    let happened = u64::from(CONNECTIONS) * PER_CONNECTION + 2;
    let left_out = happened.checked_sub(shown).context("the oracle saw more")?;
    let skipped = nested(&summary)?.max(left_out);

    let sides = [
        Side {
            role: "client",
            owner: json!({"pid": customer.pid, "comm": "customer", "how": "exact"}),
            who: client_is,
            cgroup: at_client,
            netns: far.inode()?,
        },
        Side {
            role: "server",
            owner: json!({"pid": server_pid, "comm": "prefork", "how": "listener"}),
            who: server_is,
            cgroup: at_server,
            netns: near.inode()?,
        },
    ];
    let (life, _) = run(BINARY, &["life", "--json", "-r", file])?.json()?;
    let (trace, _) = run(BINARY, &["trace", "--json", "-r", file])?.json()?;
    check_ends(&life, &trace, &sides, &customer, skipped)
        .with_context(|| format!("shown to the oracle {shown}; {}", summary["accounting"]))?;
    check_changes(&trace, &customer, skipped)
}

/// Checks that both ends of all connections are there, with the fields of their side.
///
/// A transition that the kernel did not show, because the program was already running on that CPU, can
/// leave one end unknown or without its line. It must not give an end another owner.
fn check_ends(
    life: &[Value],
    trace: &[Value],
    sides: &[Side],
    customer: &Client,
    skipped: u64,
) -> Result<()> {
    let made = customer.ports.len();
    ensure!(made == CONNECTIONS as usize, "{made} connections");
    // On a slow machine the kernel assigns a port twice, because it changes its start offset every ten seconds.
    let mut expected = BTreeMap::<(&str, u16), u32>::new();
    for &port in &customer.ports {
        for side in sides {
            *expected.entry((side.role, port)).or_default() += 1;
        }
    }
    let mut found = 0;
    let mut unknown = 0;
    for line in life {
        if line["owner"].is_null() {
            unknown += 1;
            continue;
        }
        let side = sides.iter().find(|side| line["role"] == side.role);
        let side = side.with_context(|| format!("unknown side: {line}"))?;
        ensure!(
            line["owner"] == side.owner
                && line["uid"] == side.who.uid
                && line["cgroup"] == side.cgroup.path()
                && line["cgroup_id"] == side.cgroup.id()?
                && line["netns"] == side.netns,
            "expected {}, {:?}, in {}: {line}",
            side.owner,
            side.who,
            side.netns
        );
        let port = customers_port(line)?;
        let left = expected.get_mut(&(side.role, port));
        let left = left.with_context(|| format!("not a connection of the test: {line}"))?;
        *left = left
            .checked_sub(1)
            .with_context(|| format!("a duplicate: {line}"))?;
        found += 1;
    }
    let ends: u64 = found + unknown;
    let missing = (2 * u64::from(CONNECTIONS)).checked_sub(ends);
    let missing = missing.context("more ends than there were")?;
    ensure!(
        missing + unknown <= skipped,
        "{missing} ends are missing and {unknown} unknown, with {skipped} transitions not shown; missing: {}",
        changes_of_missing(&expected, trace)
    );
    Ok(())
}

/// The transitions that were shown of some of the missing ends.
fn changes_of_missing(missing: &BTreeMap<(&str, u16), u32>, trace: &[Value]) -> String {
    let mut changes = BTreeMap::<_, Vec<String>>::new();
    for line in trace {
        let role = line["role"].as_str().unwrap_or("unknown");
        let change = format!("{} > {}", line["oldstate"], line["newstate"]);
        // The first transition of a client has no port yet.
        if let Ok(port) = customers_port(line) {
            changes.entry((role, port)).or_default().push(change);
        }
    }
    let missing = missing.iter().filter(|(_, left)| **left > 0).take(20);
    let lines = missing.map(|(end, _)| format!("{end:?}: {:?}", changes.get(end)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Checks that no transition has another owner.
fn check_changes(trace: &[Value], customer: &Client, skipped: u64) -> Result<()> {
    for line in trace {
        let owner = &line["owner"];
        let is_theirs = if line["role"] == "client" {
            owner["comm"] == "customer" && owner["pid"] == customer.pid
        } else {
            // The process that listens, or a child of it that acts on the connection.
            owner["comm"] == "prefork"
        };
        ensure!(
            is_theirs || (skipped > 0 && owner.is_null()),
            "another owner: {line}"
        );
    }
    Ok(())
}

/// The client's port, for an end of either side.
fn customers_port(line: &Value) -> Result<u16> {
    let name = if line["role"] == "client" {
        "lport"
    } else {
        "rport"
    };
    let port = line[name].as_u64().context("no port")?;
    Ok(u16::try_from(port)?)
}

/// One end of a connection, as made by the test.
#[derive(Clone, Debug)]
struct Known {
    role: &'static str,
    /// The client's port.
    port: u16,
    pid: u32,
    comm: &'static str,
    uid: u32,
    cgroup: String,
}

/// Two nested cgroups, each for two programs.
struct Cgroups {
    // Dropped in this order: the inner one before the outer one.
    inner: Cgroup,
    outer: Cgroup,
    other: Cgroup,
}

impl Cgroups {
    fn new(port: u16) -> Result<Self> {
        let name = format!("tcpstate-test-{port}");
        let outer = Cgroup::new(&name)?;
        Ok(Self {
            inner: Cgroup::new(&format!("{name}/inner"))?,
            outer,
            // Its name begins with the name of the other one.
            other: Cgroup::new(&format!("{name}-other"))?,
        })
    }
}

/// The programs in the cgroups.
struct Cast {
    first: Identity,
    second: Identity,
    alice: Identity,
    bob: Identity,
}

impl Cast {
    fn new(cgroups: &Cgroups) -> Self {
        Self {
            first: Identity::new("first", 54_001, &cgroups.outer),
            second: Identity::new("second", 54_002, &cgroups.inner),
            alice: Identity::new("alice", 54_002, &cgroups.other),
            bob: Identity::new("bob", 54_003, &cgroups.inner),
        }
    }
}

/// Whether a filter selects an end.
type Keeps = fn(&Known, &Cgroups) -> bool;

fn filters(cgroups: &Cgroups) -> Result<Vec<(String, Keeps)>> {
    let (outer, inner) = (cgroups.outer.path(), cgroups.inner.path());
    let directory = cgroups.inner.processes();
    let directory = directory.parent().and_then(Path::to_str);
    let directory = directory.context("no text")?;
    let is_inner: Keeps = |end, cgroups| end.cgroup == cgroups.inner.path();
    Ok(vec![
        ("--comm first".to_owned(), |end, _| end.comm == "first"),
        ("--comm alice,second".to_owned(), |end, _| {
            ["alice", "second"].contains(&end.comm)
        }),
        ("--comm fir".to_owned(), |_, _| false),
        ("--uid 54002".to_owned(), |end, _| end.uid == 54_002),
        ("--uid 54001,54003".to_owned(), |end, _| end.uid != 54_002),
        (format!("--cgroup {outer}"), |end, cgroups| {
            end.cgroup != cgroups.other.path()
        }),
        (format!("--cgroup {inner}"), is_inner),
        (format!("--cgroup {directory}"), is_inner),
        ("--role client".to_owned(), |end, _| end.role == "client"),
        (
            format!("--role server --cgroup {outer} --uid 54001"),
            |end, _| end.comm == "first",
        ),
    ])
}

fn filters_by_owner(mode: &str) -> Result<()> {
    let [first_port, second_port] = [unused_port(), unused_port()];
    let cgroups = Cgroups::new(first_port)?;
    let cast = Cast::new(&cgroups);
    let ports = format!("{first_port},{second_port}");
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("recording");
    let file = file.to_str().context("no text")?;
    let recorder = Tcpstate::start(&[
        "record", "--json", "-w", file, "--attach", mode, "-P", &ports,
    ])?;
    let filters = filters(&cgroups)?;
    let live = filters.iter().map(|(filter, _)| {
        let fixed = ["life", "--json", "--attach", mode, "-P", &ports];
        let words: Vec<&str> = fixed.into_iter().chain(filter.split(' ')).collect();
        Tcpstate::start(&words)
    });
    let live = live.collect::<Result<Vec<_>>>()?;

    let known =
        Netns::new()?.run_until_quiet(|| traffic(&cast, &cgroups, first_port, second_port))?;

    recorder.stop()?.json()?;
    let outputs = live.into_iter().map(|tcpstate| tcpstate.stop()?.json());
    let outputs = outputs.collect::<Result<Vec<_>>>()?;
    let chosen = |keeps: &dyn Fn(&Known) -> bool| {
        let ends = known.iter().filter(|end| keeps(end));
        ends.cloned().collect::<Vec<Known>>()
    };
    for ((filter, keeps), (lines, summary)) in filters.iter().zip(outputs) {
        let in_kernel = &summary["accounting"]["filtered_by_reason"]["cgroup"];
        ensure!(
            in_kernel.is_u64() == (mode == "btf" && filter.contains("--cgroup")),
            "{filter}: in btf mode the kernel side must filter by cgroup: {summary}"
        );
        let expected = chosen(&|end| keeps(end, &cgroups));
        check(&expected, &lines).with_context(|| filter.clone())?;
        check(&expected, &read(file, filter)?).with_context(|| format!("-r {filter}"))?;
    }
    // The process ID is not known before the run, but can be given afterwards.
    for pid in known.iter().map(|end| end.pid).collect::<BTreeSet<_>>() {
        let filter = format!("--pid {pid}");
        check(&chosen(&|end| end.pid == pid), &read(file, &filter)?).context(filter)?;
    }
    Ok(())
}

/// Two clients connect to two servers, each pair a different number of times. Returns all ends.
fn traffic(
    cast: &Cast,
    cgroups: &Cgroups,
    first_port: u16,
    second_port: u16,
) -> Result<Vec<Known>> {
    let address = Ipv4Addr::LOCALHOST;
    let first = Server::start(&cast.first, address, first_port)?;
    let second = Server::start(&cast.second, address, second_port)?;
    let mut known = Vec::new();
    for (client_is, server_is, server, port, count) in [
        (&cast.alice, &cast.first, &first, first_port, 3),
        (&cast.alice, &cast.second, &second, second_port, 4),
        (&cast.bob, &cast.first, &first, first_port, 5),
        (&cast.bob, &cast.second, &second, second_port, 6),
    ] {
        let client = client(client_is, address, port, count)?;
        known.extend(both_ends(
            &client,
            client_is,
            server.pid(),
            server_is,
            cgroups,
        )?);
    }
    first.stop()?;
    second.stop()?;
    Ok(known)
}

fn both_ends(
    client: &Client,
    client_is: &Identity,
    server_pid: u32,
    server_is: &Identity,
    cgroups: &Cgroups,
) -> Result<Vec<Known>> {
    let path = |who: &Identity| {
        let all = [&cgroups.inner, &cgroups.outer, &cgroups.other];
        let found = all
            .into_iter()
            .find(|cgroup| cgroup.processes() == who.cgroup_processes);
        Ok::<_, anyhow::Error>(found.context("no such cgroup")?.path().to_owned())
    };
    let mut ends = Vec::new();
    for &port in &client.ports {
        for (role, pid, who) in [
            ("client", client.pid, client_is),
            ("server", server_pid, server_is),
        ] {
            ends.push(Known {
                role,
                port,
                pid,
                comm: who.comm,
                uid: who.uid,
                cgroup: path(who)?,
            });
        }
    }
    Ok(ends)
}

fn read(file: &str, filter: &str) -> Result<Vec<Value>> {
    let fixed = ["life", "--json", "-r", file];
    let words: Vec<&str> = fixed.into_iter().chain(filter.split(' ')).collect();
    Ok(run(BINARY, &words)?.json()?.0)
}

/// Checks that the lines are these ends, each once, with the expected fields.
fn check(expected: &[Known], lines: &[Value]) -> Result<()> {
    ensure!(
        lines.len() == expected.len(),
        "{} lines, expected {}: {lines:?}",
        lines.len(),
        expected.len()
    );
    for end in expected {
        let line = lines.iter().find(|line| {
            line["role"] == end.role && customers_port(line).is_ok_and(|port| port == end.port)
        });
        let line = line.with_context(|| format!("{end:?} is missing: {lines:?}"))?;
        ensure!(
            line["owner"]["pid"] == end.pid
                && line["owner"]["comm"] == end.comm
                && line["uid"] == end.uid
                && line["cgroup"] == end.cgroup,
            "{end:?}: {line}"
        );
    }
    Ok(())
}

/// A filter on a server's connections also selects those of a server that already listened. Its processes
/// share the listener: its owner is the one that made the others.
fn owner_of_a_server_that_was_there() -> Result<()> {
    let port = unused_port();
    let cgroups = Cgroups::new(port)?;
    let cast = Cast::new(&cgroups);
    let netns = Netns::new()?;
    let server = netns.run(|| Server::start(&cast.first, Ipv4Addr::LOCALHOST, port))?;
    let of = port.to_string();
    let mut tcpstate = Tcpstate::start(&[
        "life", "--json", "--attach", "btf", "-P", &of, "--comm", "first", "--count", "1",
    ])?;
    // It seeds while it watches already; the owner is unknown until then.
    await_that("a connection is the server's", || {
        netns.run(|| client(&cast.alice, Ipv4Addr::LOCALHOST, port, 1))?;
        Ok(tcpstate.child.try_wait()?.is_some())
    })?;
    let pid = server.pid();
    netns.run(|| server.stop())?;
    let (lines, _) = tcpstate.finish()?.json()?;
    let owner = json!({"pid": pid, "comm": "first", "how": "listener"});
    ensure!(
        lines.len() == 1 && lines[0]["role"] == "server" && lines[0]["owner"] == owner,
        "not the server's: {lines:?}"
    );
    Ok(())
}

/// Without any option too, the owner of a server that listened before is known, and is recorded.
fn owner_by_default() -> Result<()> {
    let port = unused_port();
    let cgroups = Cgroups::new(port)?;
    let cast = Cast::new(&cgroups);
    let netns = Netns::new()?;
    let server = netns.run(|| Server::start(&cast.first, Ipv4Addr::LOCALHOST, port))?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("recording");
    let file = file.to_str().context("no text")?;
    let of = port.to_string();
    let record = Tcpstate::start(&["record", "--json", "-w", file, "-P", &of])?;
    let life = Tcpstate::start(&["life", "--json", "-P", &of, "--role", "server"])?;
    let unresolved = ["life", "--json", "-P", &of, "--resolve-owners=no"];
    let unresolved = Tcpstate::start(&unresolved)?;
    netns.run_until_quiet(|| client(&cast.alice, Ipv4Addr::LOCALHOST, port, 3))?;
    netns.run(|| server.stop())?;
    record.stop()?.json()?;
    let (streamed, _) = life.stop()?.json()?;
    let replay = ["life", "--json", "-r", file, "--role", "server"];
    let (replayed, _) = run(BINARY, &replay)?.json()?;
    for lines in [streamed, replayed] {
        ensure!(
            lines.len() == 3 && lines.iter().all(|line| line["owner"]["comm"] == "first"),
            "not the server's: {lines:?}"
        );
    }
    let (unresolved, _) = unresolved.stop()?.json()?;
    let mut servers = unresolved.iter().filter(|line| line["role"] == "server");
    ensure!(
        servers.all(|line| line["owner"].is_null()) && unresolved.len() == 6,
        "looked up all the same: {unresolved:?}"
    );
    Ok(())
}

/// `ls` has the same filters for existing sockets. Of a long name the kernel keeps the beginning, and so does the
/// filter.
fn filters_of_ls() -> Result<()> {
    const LONG: &str = "a-name-of-more-than-15-bytes";
    let [first_port, second_port, long_port] = [unused_port(), unused_port(), unused_port()];
    let cgroups = Cgroups::new(first_port)?;
    let cast = Cast::new(&cgroups);
    Netns::new()?.run_until_quiet(|| {
        let first = Server::start(&cast.first, Ipv4Addr::LOCALHOST, first_port)?;
        let second = Server::start(&cast.second, Ipv4Addr::LOCALHOST, second_port)?;
        let long = Identity::new(LONG, 54_004, &cgroups.other);
        let long = Server::start(&long, Ipv4Addr::LOCALHOST, long_port)?;
        let outer = format!("--cgroup {}", cgroups.outer.path());
        let inner = format!("--cgroup {}", cgroups.inner.path());
        let long_or_first = format!("--comm {LONG},first");
        for (filter, expected) in [
            ("--comm first", &[first_port][..]),
            ("--comm second,first", &[first_port, second_port]),
            (&long_or_first, &[first_port, long_port]),
            ("--uid 54002", &[second_port]),
            (&outer, &[first_port, second_port]),
            (&inner, &[second_port]),
            ("--role server", &[first_port, second_port, long_port]),
            ("--role client", &[]),
        ] {
            let words: Vec<&str> = ["ls", "--json", "--netns", "self"]
                .into_iter()
                .chain(filter.split(' '))
                .collect();
            let output = Command::new(BINARY)
                .args(&words)
                .stdin(Stdio::null())
                .output()?;
            let notices = String::from_utf8(output.stderr)?;
            ensure!(
                notices.contains("15 bytes") == filter.contains(LONG),
                "{filter}: {notices}"
            );
            let text = String::from_utf8(output.stdout)?;
            let mut ports = BTreeSet::new();
            for line in text.lines() {
                let line: Value = serde_json::from_str(line)?;
                if line["type"] == "socket" {
                    ports.insert(u16::try_from(line["lport"].as_u64().context("no port")?)?);
                }
            }
            let expected = expected.iter().copied().collect();
            if ports != expected {
                bail!("{filter}: {ports:?}, expected {expected:?}");
            }
        }
        first.stop()?;
        second.stop()?;
        long.stop()
    })
}
