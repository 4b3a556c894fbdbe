//! What a line says of its socket, compared with what the kernel tells by other ways.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::{net::sockopt, process::Uid};
use serde_json::Value;

use crate::{
    need::{Need, trial},
    net::{Connection, Netns, await_fin, unused_port},
    process::Tcpstate,
};

pub fn add(trials: &mut Vec<Trial>) {
    trials.push(trial(
        "btf::cookie_namespace_and_user",
        &[Need::Btf],
        cookie_namespace_and_user,
    ));
    trials.push(trial(
        "btf::cgroup_and_owner",
        &[Need::Btf, Need::Program("bash")],
        cgroup_and_owner,
    ));
    trials.push(trial(
        "tracepoint::unknown_is_null",
        &[Need::Tracefs],
        unknown_is_null,
    ));
}

fn cookie_namespace_and_user() -> Result<()> {
    const USER: u32 = 54_321;
    let port = unused_port();
    let netns = Netns::new()?;
    let tcpstate = Tcpstate::start(&[
        "trace",
        "--json",
        "--attach",
        "btf",
        "-P",
        &port.to_string(),
    ])?;
    let (listener, client, server) = netns.run_until_quiet(|| {
        // Of this thread alone, which ends with the closure.
        rustix::thread::set_thread_uid(Uid::from_raw(USER)).context("setuid")?;
        let sockets = Connection::new((Ipv4Addr::LOCALHOST, port))?;
        let cookies = (
            sockopt::socket_cookie(&sockets.listener)?,
            sockopt::socket_cookie(&sockets.client)?,
            sockopt::socket_cookie(&sockets.server)?,
        );
        drop(sockets.client);
        await_fin(&sockets.server)?;
        Ok(cookies)
    })?;
    let (lines, _) = tcpstate.stop()?.transitions()?;
    ensure!(lines.len() == 12, "{lines:?}");
    let has_cookies = Need::Cookie.missing().is_none();
    for line in &lines {
        let birth = line["oldstate"] == "LISTEN" && line["newstate"] == "SYN_RECV";
        let cookie =
            if line["newstate"] == "LISTEN" || line["newstate"] == "CLOSE" && line["rport"] == 0 {
                listener
            } else if line["lport"] == port {
                server
            } else {
                client
            };
        if has_cookies {
            ensure!(
                line["cookie"] == cookie || birth && cookie_is_late(line),
                "SO_COOKIE is {cookie}: {line}"
            );
        } else {
            ensure!(line["cookie"].is_null(), "there are no cookies: {line}");
        }
        ensure!(
            line["netns"] == netns.inode()?,
            "the namespace is {}: {line}",
            netns.inode()?
        );
        ensure!(line["uid"] == USER, "the user is {USER}: {line}");
    }
    Ok(())
}

/// Older kernels give a child its cookie, and its peer, right after its birth.
fn cookie_is_late(line: &Value) -> bool {
    line["cookie"].is_null() && line["rport"] == 0
}

/// A process in a cgroup of its own connects.
fn cgroup_and_owner() -> Result<()> {
    let port = unused_port();
    let netns = Netns::new()?;
    let cgroup = Cgroup::new(port)?;
    let tcpstate = Tcpstate::start(&[
        "trace",
        "--json",
        "--attach",
        "btf",
        "-D",
        &port.to_string(),
    ])?;
    let pid = netns.run_until_quiet(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        // The shell's number stays when it becomes bash.
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'",
            cgroup.folder.display()
        );
        let mut child = Command::new("sh").args(["-ec", &script]).spawn()?;
        let (server, _) = listener.accept()?;
        await_fin(&server)?;
        ensure!(child.wait()?.success(), "the client failed");
        Ok(child.id())
    })?;
    let inode = fs::metadata(&cgroup.folder)?.ino();
    let (lines, _) = tcpstate.stop()?.transitions()?;
    let client: Vec<_> = lines.iter().filter(|line| line["rport"] == port).collect();
    ensure!(client.len() == 5, "{lines:?}");
    for line in client {
        ensure!(line["cgroup"] == inode, "the cgroup is {inode}: {line}");
        let owner = &line["owner"];
        ensure!(
            owner["pid"] == pid && owner["comm"] == "bash",
            "the owner is {pid}, bash: {line}"
        );
    }
    Ok(())
}

/// A cgroup (v2) of the test's own.
struct Cgroup {
    folder: PathBuf,
}

impl Cgroup {
    fn new(port: u16) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mount = mounts
            .lines()
            .find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
                [_, folder, "cgroup2", ..] => Some(PathBuf::from(folder)),
                _ => None,
            });
        let folder = mount
            .context("no cgroup2 is mounted")?
            .join(format!("tcpstate-test-{port}"));
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self { folder })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.folder) {
            eprintln!("{}: {error}", self.folder.display());
        }
    }
}

/// What the classic tracepoint cannot know is null, not 0.
fn unknown_is_null() -> Result<()> {
    let port = unused_port();
    let tcpstate = Tcpstate::start(&[
        "trace",
        "--json",
        "--attach",
        "tracepoint",
        "-P",
        &port.to_string(),
    ])?;
    Netns::new()?.run_until_quiet(|| {
        let Connection {
            listener: _listener,
            client,
            server,
        } = Connection::new((Ipv4Addr::LOCALHOST, port))?;
        drop(client);
        await_fin(&server)
    })?;
    let (lines, _) = tcpstate.stop()?.transitions()?;
    ensure!(lines.len() == 12, "{lines:?}");
    for line in &lines {
        for field in ["cookie", "netns", "uid", "cgroup"] {
            ensure!(line.get(field) == Some(&Value::Null), "{field}: {line}");
        }
    }
    Ok(())
}
