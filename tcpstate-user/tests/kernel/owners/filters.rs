//! The filters on owners, live, on a recording and in `ls`.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{Cast, Cgroups, customers_port};
use crate::{
    net::{Netns, unused_port},
    process::{BINARY, Tcpstate, run},
    programs::{Client, Identity, Server, client},
};

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

pub(super) fn filters_by_owner(mode: &str) -> Result<()> {
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

/// `ls` has the same filters for existing sockets. Of a long name the kernel keeps the beginning, and so does the
/// filter.
pub(super) fn filters_of_ls() -> Result<()> {
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
