//! The fields of `tcpstate ls` that `ss` lacks or hides, compared with `getsockopt` and `/proc`; other
//! namespaces, and an ordinary user.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::net::sockopt;
use serde_json::{Value, json};
use tcpstate_capture::host::Host;
use tcpstate_common::State;

use crate::{
    every_state::OPEN,
    ls::{lines, list, read_list},
    need::{Need, trial},
    net::{Connection, Named, Netns, await_fin},
    privileges::{as_user, copy_of_the_binary},
    process::{BINARY, Output, run},
    ss::{await_states, compare},
};

pub fn add(trials: &mut Vec<Trial>) {
    let ip = Need::Program("ip");
    trials.push(trial("ls::cookies", &[ip], cookies));
    let ss = Need::Program("ss");
    trials.push(trial("ls::owners", &[ip, ss], owners));
    trials.push(trial("ls::info", &[ip], info));
    trials.push(trial("ls::namespaces", &[ip], namespaces));
    trials.push(trial(
        "ls::ordinary_user",
        &[ip, Need::Program("ss"), Need::Program("setpriv")],
        ordinary_user,
    ));
}

/// The cookie is that of `getsockopt`, also after the socket's end.
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

/// The process that holds a socket or, before it is accepted, the one that listens.
fn owners() -> Result<()> {
    Netns::new()?.run(|| {
        let connection = Connection::new((Ipv4Addr::LOCALHOST, OPEN))?;
        let waiting = TcpStream::connect((Ipv4Addr::LOCALHOST, OPEN))?;
        let client = |stream: &TcpStream| stream.local_addr().map(|addr| addr.port());
        let (client, waiting) = (client(&connection.client)?, client(&waiting)?);
        let me = std::process::id();
        let comm = fs::read_to_string(format!("/proc/{me}/comm"))?;
        let (values, _) = list(&[])?;
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
            let accepted = match value["rport"].as_u64() {
                Some(rport) if rport == u64::from(waiting) => json!(false),
                Some(rport) if rport == u64::from(client) => json!(true),
                _ => Value::Null,
            };
            ensure!(
                value["accepted"] == accepted,
                "accepted: {accepted}: {value}"
            );
        }
        not_accepted(client, waiting)?;
        // This end was passed to another process.
        let holder = Holder::start(Some(connection.client.into()))?;
        let (values, _) = list(&["-L", &client.to_string()])?;
        ensure!(values.len() == 1, "{values:?}");
        let owner = &values[0]["owner"];
        ensure!(
            owner["pid"] == holder.0.id() && owner["comm"] == "cat",
            "{owner}"
        );
        drop(holder);
        let (values, _) = list(&["--resolve-owners=no"])?;
        ensure!(
            values.iter().all(|value| value["owner"].is_null()),
            "{values:?}"
        );
        Ok(())
    })
}

/// Nobody is called the owner of a connection that waits to be accepted: `ss` shows no process either.
fn not_accepted(client: u16, waiting: u16) -> Result<()> {
    for (port, is_accepted) in [(client, true), (waiting, false)] {
        let filter = format!("dport = :{port}");
        let ss = run("ss", &["-HOtnp", &filter])?.stdout;
        ensure!(ss.contains("pid=") == is_accepted, "ss: {ss}");
        let remote = port.to_string();
        let text = run(BINARY, &["ls", "--netns", "self", "-D", &remote])?.stdout;
        let line = text.lines().nth(1).context("no line")?;
        ensure!(line.contains("not accepted") != is_accepted, "{line}");
    }
    Ok(())
}

/// A waiting process in the namespace of the thread that started it, which may hold a socket.
struct Holder(Child);

impl Holder {
    fn start(socket: Option<OwnedFd>) -> Result<Self> {
        // It waits for the end of its standard input, a pipe from this process.
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped());
        command.stdout(socket.map_or_else(Stdio::null, Stdio::from));
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It ends with its input, and is reaped here.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The bytes sent and received, and the socket's cgroup and user.
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

/// Another namespace by path, by number and by name, and all namespaces at once.
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

    // All of them are the default.
    let all = ["ls", "--json", "-L", &OPEN.to_string()];
    let (values, summary) = read_list(&run(BINARY, &all)?)?;
    let ours = |value: &&Value| value["netns"] == inode;
    ensure!(values.iter().filter(ours).count() == 1, "{values:?}");
    let asked = summary["namespaces"].as_array().context("namespaces")?;
    ensure!(asked.iter().filter(ours).count() == 1, "{summary}");
    ensure!(asked.iter().any(|one| one["name"] == *named.0), "{summary}");
    Ok(())
}

/// An ordinary user gets the same lines for its own namespace, and a notice about the parts that it cannot
/// see in others.
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
        let own = ["ls", "--json", "--netns", "self"];
        compare(|| lines(&read_list(&run(&own)?)?.0), &[])?;
        let (_, summary) = read_list(&run(&["ls", "--json"])?)?;
        ensure!(summary["complete"] == false, "{summary}");
        let missing = summary["missing"].to_string();
        ensure!(missing.contains(&format!("({})", named.0)), "{missing}");
        ensure!(missing.contains("processes of other users"), "{missing}");
        let text = run(&["ls", "--netns", &named.0])?;
        ensure!(
            text.status.code() == Some(1) && text.stdout.is_empty(),
            "{text:?}"
        );
        ensure!(text.stderr.contains("CAP_SYS_ADMIN"), "{}", text.stderr);
        let text = run(&["ls", "--netns", "self"])?;
        ensure!(text.stdout.lines().count() == 4, "{}", text.stdout);
        ensure!(text.stderr.contains("AGE is `-`"), "{}", text.stderr);
        ensure!(text.status.code() == Some(0), "{text:?}");
        // However many cannot be entered.
        let _another = Named::new()?;
        let text = run(&["ls"])?;
        let missing = text.stderr.lines();
        let missing = missing.filter(|line| line.starts_with("MISSING")).count();
        ensure!(
            missing == 1 && text.status.code() == Some(3),
            "{missing}: {}: {}",
            text.status,
            text.stderr
        );
        Ok(())
    })
}
