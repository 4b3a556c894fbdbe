//! The fields of a line about its socket, compared with other interfaces of the kernel.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use rustix::{net::sockopt, process::Uid};
use serde_json::Value;

use crate::{
    cgroup::Cgroup,
    need::{ATTACH_MODES, Need, attach_needs, trial},
    net::{Connection, Netns, await_fin, reset, unused_port},
    process::{BINARY, Tcpstate},
};

pub fn add(trials: &mut Vec<Trial>) {
    for mode in ATTACH_MODES {
        trials.push(trial(
            format!("{mode}::nested_is_known_where_it_is_counted"),
            attach_needs(mode),
            move || nested_is_known_where_it_is_counted(mode),
        ));
        // Both modes read the socket at offsets from BTF.
        let needs = [attach_needs(mode), &[Need::Btf]].concat();
        trials.push(trial(
            format!("{mode}::cookie_namespace_and_user"),
            &needs,
            move || cookie_namespace_and_user(mode),
        ));
        trials.push(trial(
            format!("{mode}::cause_and_traffic"),
            &needs,
            move || cause_and_traffic(mode),
        ));
        let needs = [&needs[..], &[Need::Program("bash")]].concat();
        trials.push(trial(
            format!("{mode}::cgroup_and_owner"),
            &needs,
            move || cgroup_and_owner(mode),
        ));
    }
    trials.push(trial(
        "tracepoint::unknown_is_null",
        &[Need::Tracefs, Need::Program("unshare")],
        unknown_is_null,
    ));
}

/// A BTF tracepoint counts skipped runs, or skips none; a classic one counts since Linux 6.7. The program
/// decides by the kernel's types, this test by its release.
fn nested_is_known_where_it_is_counted(mode: &str) -> Result<()> {
    let tcpstate = Tcpstate::start(&["trace", "--json", "--attach", mode])?;
    let (_, summary) = tcpstate.stop()?.transitions()?;
    let nested = &summary["accounting"]["lost_by_reason"]["nested"];
    let uname = rustix::system::uname();
    let release = uname.release().to_str()?;
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        bail!("no version: {release}");
    };
    let known = mode == "btf" || (major, minor) >= (6, 7) && Need::Btf.missing().is_none();
    ensure!(
        nested.is_u64() == known && nested.is_null() != known,
        "{mode} on {release}: {summary}"
    );
    Ok(())
}

fn cookie_namespace_and_user(mode: &str) -> Result<()> {
    const USER: u32 = 54_321;
    let port = unused_port();
    let netns = Netns::new()?;
    let tcpstate =
        Tcpstate::start(&["trace", "--json", "--attach", mode, "-P", &port.to_string()])?;
    let (listener, client, server) = netns.run_until_quiet(|| {
        // Only for this thread, which ends with the closure.
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
        // Only a BTF tracepoint may call the helper.
        if has_cookies && mode == "btf" {
            ensure!(
                line["cookie"] == cookie || birth && cookie_is_late(line),
                "SO_COOKIE is {cookie}: {line}"
            );
        } else {
            ensure!(
                line["cookie"].is_null(),
                "a cookie without the helper: {line}"
            );
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

/// Whether the cookie is missing because older kernels set a child's cookie and peer right after its first
/// transition.
fn cookie_is_late(line: &Value) -> bool {
    line["cookie"].is_null() && line["rport"] == 0
}

/// A process in a cgroup of its own connects.
fn cgroup_and_owner(mode: &str) -> Result<()> {
    let port = unused_port();
    let netns = Netns::new()?;
    let cgroup = Cgroup::new(&format!("tcpstate-test-{port}"))?;
    let tcpstate =
        Tcpstate::start(&["trace", "--json", "--attach", mode, "-D", &port.to_string()])?;
    let pid = netns.run_until_quiet(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        // `exec` keeps the process ID.
        let script = format!(
            "echo $$ > {} && exec bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'",
            cgroup.processes().display()
        );
        let mut child = Command::new("sh").args(["-ec", &script]).spawn()?;
        let (server, _) = listener.accept()?;
        await_fin(&server)?;
        ensure!(child.wait()?.success(), "the client failed");
        Ok(child.id())
    })?;
    let (lines, _) = tcpstate.stop()?.transitions()?;
    let client: Vec<_> = lines.iter().filter(|line| line["rport"] == port).collect();
    ensure!(client.len() == 5, "{lines:?}");
    for line in client {
        ensure!(
            line["cgroup_id"] == cgroup.id()? && line["cgroup"] == cgroup.path(),
            "the cgroup is {}: {line}",
            cgroup.path()
        );
        let owner = &line["owner"];
        ensure!(
            owner["pid"] == pid && owner["comm"] == "bash",
            "the owner is {pid}, bash: {line}"
        );
    }
    Ok(())
}

/// The close cause, the traffic and the round-trip time come from fields of the socket.
fn cause_and_traffic(mode: &str) -> Result<()> {
    const REQUEST: &[u8] = &[1; 1000];
    const ANSWER: &[u8] = &[2; 300];
    let port = unused_port();
    let tcpstate = Tcpstate::start(&["life", "--json", "--attach", mode, "-P", &port.to_string()])?;
    Netns::new()?.run_until_quiet(|| {
        let sockets = Connection::new((Ipv4Addr::LOCALHOST, port))?;
        let (mut client, mut server) = (sockets.client, sockets.server);
        client.write_all(REQUEST)?;
        server.read_exact(&mut [0; REQUEST.len()])?;
        server.write_all(ANSWER)?;
        client.read_exact(&mut [0; ANSWER.len()])?;
        reset(client)?;
        let error = server.read(&mut [0]).err().context("no reset arrived")?;
        ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
        Ok(())
    })?;
    let (lines, _) = tcpstate.stop()?.json()?;
    ensure!(lines.len() == 2, "expected two ends: {lines:?}");
    for line in &lines {
        let (cause, sent, received) = if line["role"] == "client" {
            ("reset_locally", REQUEST.len(), ANSWER.len())
        } else {
            ("reset_by_peer", ANSWER.len(), REQUEST.len())
        };
        ensure!(line["cause"] == cause, "the cause is {cause}: {line}");
        ensure!(
            line["bytes_sent"] == sent && line["bytes_received"] == received,
            "{sent} bytes were sent, {received} received: {line}"
        );
        ensure!(line["retransmits"] == 0, "retransmits on loopback: {line}");
        ensure!(
            line["srtt_us"].as_u64().is_some_and(|srtt_us| srtt_us > 0),
            "no round-trip time, though data was acknowledged: {line}"
        );
    }
    Ok(())
}

/// Without the kernel's BTF the classic tracepoint has only the fields of its record. Unknown fields are
/// null, not 0; a filter that needs one is refused with a reason.
fn unknown_is_null() -> Result<()> {
    let port = unused_port();
    let ports = port.to_string();
    let arguments = ["trace", "--json", "--attach", "tracepoint", "-P", &ports];
    let mut command = without_btf();
    command.args(arguments);
    let tcpstate = Tcpstate::start_command(command)?;
    Netns::new()?.run_until_quiet(|| {
        let Connection {
            listener: _listener,
            client,
            server,
        } = Connection::new((Ipv4Addr::LOCALHOST, port))?;
        drop(client);
        await_fin(&server)
    })?;
    let output = tcpstate.stop()?;
    ensure!(
        output.stderr.contains("cannot read the sockets") && output.stderr.contains("vmlinux"),
        "it does not report what is missing and why: {}",
        output.stderr
    );
    let (lines, summary) = output.transitions()?;
    ensure!(lines.len() == 12, "{lines:?}");
    let nested = summary["accounting"]["lost_by_reason"].get("nested");
    ensure!(nested == Some(&Value::Null), "nested: {summary}");
    for line in &lines {
        for field in ["cookie", "netns", "uid", "cgroup", "cgroup_id"] {
            ensure!(line.get(field) == Some(&Value::Null), "{field}: {line}");
        }
    }

    let refused = without_btf()
        .args(arguments)
        .args(["--netns", "self"])
        .output()?;
    let stderr = String::from_utf8(refused.stderr)?;
    ensure!(
        !refused.status.success() && stderr.contains("--netns does not work"),
        "{}: {stderr}",
        refused.status
    );
    Ok(())
}

/// A command that runs `tcpstate` without the kernel's BTF: an empty file hides it, in a mount namespace
/// that ends with the process.
fn without_btf() -> Command {
    let mut command = Command::new("unshare");
    let script = "btf=/sys/kernel/btf/vmlinux
        [ ! -e $btf ] || mount --bind /dev/null $btf
        exec \"$0\" \"$@\"";
    command.args(["--mount", "sh", "-ec", script, BINARY]);
    command
}
