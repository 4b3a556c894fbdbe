//! `tcpstate` inside a pid namespace, where processes have other numbers, and inside a time namespace, where the
//! monotonic clock has another time; and beside more network namespaces than it may open files.
//!
//! The oracles are `ss` and the clocks outside.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use libtest_mimic::Trial;
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::{
    cgroup::Cgroup,
    holders::holders,
    need::{Need, trial},
    net::{Connection, Netns, PATIENCE, await_fin, await_that, unused_port},
    process::{BINARY, Tcpstate, run},
};

pub fn add(trials: &mut Vec<Trial>) {
    let unshare = Need::Program("unshare");
    trials.push(trial(
        "namespaces::pid",
        &[Need::Btf, Need::Cookie, Need::Program("ss"), unshare],
        inside_a_pid_namespace,
    ));
    trials.push(trial(
        "namespaces::time",
        &[Need::Btf, unshare, Need::TimeNamespace],
        inside_a_time_namespace,
    ));
    trials.push(trial(
        "namespaces::more_than_open_files",
        &[unshare],
        more_than_open_files,
    ));
}

/// Transitions of both ends of a connection.
const PER_CONNECTION: &str = "10";

/// A server that listens inside of the namespace has a number there, and another one on the host, which events
/// have. Only those of the host are shown.
fn inside_a_pid_namespace() -> Result<()> {
    let port = unused_port();
    let of = port.to_string();
    let cgroup = Cgroup::new(&format!("tcpstate-test-{port}"))?;
    let netns = Netns::new()?;
    let folder = tempfile::tempdir()?;
    // The server is there before `tcpstate`, which becomes the namespace's first process: its end ends them all.
    let script = r#"
        mkfifo "$3/ready" && mkfifo "$3/end" || exit 1
        "$1" prefork 0 "$2" 127.0.0.1 "$4" 0 <> "$3/end" > "$3/ready" &
        read -r line < "$3/ready" || exit 1
        shift 4
        unset TCPSTATE_TEST_PROGRAM
        exec "$@"
    "#;
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh"])
        .arg(env::current_exe()?)
        .arg(cgroup.processes())
        .arg(folder.path())
        .args([
            &of,
            BINARY,
            "trace",
            "--json",
            "-P",
            &of,
            "--count",
            PER_CONNECTION,
        ])
        .env("TCPSTATE_TEST_PROGRAM", "server");
    // Its processes are in the network namespace of this thread.
    let (trace, server) = netns.run(|| {
        let trace = Tcpstate::start_command(command)?;
        let server = holders(port, 5)?;
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        connection.set_read_timeout(Some(PATIENCE))?;
        // The server closes first.
        connection.write_all(&[1])?;
        connection.read_to_end(&mut Vec::new())?;
        Ok((trace, server))
    })?;
    let output = trace.finish()?;
    ensure!(
        output
            .stderr
            .contains("this pid namespace is not the host's"),
        "{}",
        output.stderr
    );
    let (lines, _) = output.transitions()?;
    let mut seen = 0;
    for line in &lines {
        let Some(pid) = line["owner"]["pid"].as_u64() else {
            continue;
        };
        let pid = u32::try_from(pid)?;
        let expected = match line["role"].as_str() {
            Some("client") => pid == std::process::id(),
            _ => server.contains(&pid),
        };
        ensure!(expected, "the server is {server:?} on the host: {line}");
        seen += 1;
    }
    ensure!(seen > 0, "no owner at all: {lines:?}");
    let doctor = doctor(&["--pid", "--fork", "--mount-proc"], "pid_namespace")?;
    ensure!(doctor["status"] == "degraded", "{doctor}");
    await_that("the processes of the cgroup end", || {
        Ok(fs::read_to_string(cgroup.processes())?.is_empty())
    })
}

/// The check of this name of a `doctor` inside.
fn doctor(namespace: &[&str], name: &str) -> Result<Value> {
    let output = run(
        "unshare",
        &[namespace, &[BINARY, "doctor", "--json"]].concat(),
    )?;
    let mut lines = output.stdout.lines().map(serde_json::from_str::<Value>);
    let check = lines.find(|line| line.as_ref().is_ok_and(|line| line["name"] == name));
    Ok(check.with_context(|| format!("no {name}: {output:?}"))??)
}

/// Events have the host's time, and the wall-clock time that follows from it.
fn inside_a_time_namespace() -> Result<()> {
    const NAMESPACE: [&str; 6] = [
        "--time",
        "--fork",
        "--monotonic",
        "1000000",
        "--boottime",
        "1000000",
    ];
    let port = unused_port();
    let of = port.to_string();
    let mut command = Command::new("unshare");
    command.args(NAMESPACE);
    command.args([
        BINARY,
        "trace",
        "--json",
        "-P",
        &of,
        "--count",
        PER_CONNECTION,
    ]);
    let trace = Tcpstate::start_command(command)?;
    let monotonic_ns = || {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
    };
    let before = (monotonic_ns(), Timestamp::now());
    Netns::new()?.run_until_quiet(|| {
        let connection = Connection::new((Ipv4Addr::LOCALHOST, port))?;
        drop(connection.client);
        await_fin(&connection.server)
    })?;
    let after = (monotonic_ns(), Timestamp::now());
    let (lines, _) = trace.finish()?.transitions()?;
    ensure!(!lines.is_empty(), "nothing");
    // The wall clock may be set, and the anchor has an error; the offset is eleven days.
    let slack = jiff::Span::new().minutes(1);
    let (first, last) = (before.1.checked_sub(slack)?, after.1.checked_add(slack)?);
    for line in &lines {
        let ts_ns = line["ts_ns"].as_u64().context("no ts_ns")?;
        let ts: Timestamp = line["ts"].as_str().context("no ts")?.parse()?;
        ensure!(
            (before.0..=after.0).contains(&ts_ns) && (first..=last).contains(&ts),
            "between {before:?} and {after:?}: {line}"
        );
    }
    let doctor = doctor(&NAMESPACE, "time_namespace")?;
    let detail = doctor["detail"].as_str().unwrap_or_default();
    ensure!(
        doctor["status"] == "ok" && detail.contains("1000000 s ahead"),
        "{doctor}"
    );
    Ok(())
}

/// All namespaces are listed where there are more of them than `tcpstate` may have files open. Their names are in a mount
/// namespace that ends with the process, so that they are in nobody's way.
fn more_than_open_files() -> Result<()> {
    const FILES: usize = 40;
    const NAMESPACES: usize = 60;
    let script = format!(
        "mount -t tmpfs none /run
        mkdir /run/netns
        for name in $(seq {NAMESPACES}); do
            : > /run/netns/many-$name
            unshare --net=/run/netns/many-$name true
        done
        ulimit -n {FILES}
        exec \"$0\" ls --json --resolve-owners=no state listening"
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec", &script, BINARY])
        .output()?;
    let (stdout, stderr) = (
        String::from_utf8(output.stdout)?,
        String::from_utf8(output.stderr)?,
    );
    let last = stdout.lines().last();
    let summary: Value = serde_json::from_str(last.with_context(|| stderr.clone())?)?;
    let namespaces = summary["namespaces"].as_array().context("namespaces")?;
    let is_ours = |one: &&Value| {
        let name = one["name"].as_str();
        name.is_some_and(|name| name.starts_with("many-"))
    };
    let listed = namespaces.iter().filter(is_ours).count();
    ensure!(
        listed == NAMESPACES,
        "{listed} of {NAMESPACES} namespaces: {summary} {stderr}"
    );
    Ok(())
}
