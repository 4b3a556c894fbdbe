//! Outputs whose reader does not read, or never came: a run ends all the same, and says what is lost.
//!
//! That it does so within a second is more than a test can ask of a busy machine: [`await_exit`] finds a hang.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    os::{fd::AsFd, unix::process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{ChildStderr, Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{Pid, Signal, kill_process},
    termios::{Action, tcflow},
};
use tempfile::TempDir;

use super::{number, signals::terminal_pair};
use crate::{
    need::trial,
    net::{await_that, joined, unused_port},
    process::{BINARY, Running, await_exit, run},
    traffic::{on_loopback, storm},
};

pub fn add(trials: &mut Vec<Trial>) {
    for (name, test) in [
        (
            "faults::stdout_not_read",
            stdout_not_read as fn() -> Result<()>,
        ),
        ("faults::fifo_not_read", fifo_not_read),
        ("faults::fifo_without_reader", fifo_without_reader),
        ("faults::terminal_stopped", terminal_stopped),
    ] {
        trials.push(trial(name, &[], test));
    }
}

/// Writes until nothing more fits, so that whoever writes next has to wait.
fn fill(output: impl AsFd) -> Result<()> {
    let flags = fcntl_getfl(&output)?;
    fcntl_setfl(&output, flags | OFlags::NONBLOCK)?;
    while rustix::io::write(&output, &[0; 512]).is_ok() {}
    Ok(fcntl_setfl(&output, flags)?)
}

/// Starts the binary with this standard output. Returns when it has written a line with these words to standard error.
fn start(
    arguments: &[&str],
    stdout: impl Into<Stdio>,
    words: &str,
) -> Result<(Running, BufReader<ChildStderr>)> {
    let mut child = Running::new(
        Command::new(BINARY)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped()),
    )?;
    let mut stderr = BufReader::new(child.stderr.take().context("stderr")?);
    let mut messages = String::new();
    while !messages.contains(words) {
        ensure!(stderr.read_line(&mut messages)? > 0, "it ended: {messages}");
    }
    Ok((child, stderr))
}

/// Makes traffic, then ends the run by a signal, or waits for the end of its `--duration`: it fails, and says what is
/// lost. Returns its messages.
fn ends(
    (mut child, stderr): (Running, BufReader<ChildStderr>),
    port: u16,
    signal: Option<Signal>,
) -> Result<String> {
    on_loopback(|| storm(port, 1_000))?;
    if let Some(signal) = signal {
        kill_process(Pid::from_child(&child), signal)?;
    }
    let status = await_exit(&mut child)?;
    let messages = io::read_to_string(stderr)?;
    ensure!(
        status.code() == Some(1) && messages.contains("its reader does not read on"),
        "{signal:?}: {status}: {messages}"
    );
    Ok(messages)
}

/// The ends of a run, with the arguments for them.
const ENDS: [(&[&str], Option<Signal>); 3] = [
    (&[], Some(Signal::TERM)),
    (&[], Some(Signal::INT)),
    (&["--duration", "500ms"], None),
];

fn stdout_not_read() -> Result<()> {
    for (more, signal) in ENDS {
        let (_reader, writer) = io::pipe()?;
        fill(&writer)?;
        let port = unused_port();
        let trace = ["trace", "-v", "-P", &port.to_string()];
        let started = start(&[&trace[..], more].concat(), writer, "attached")?;
        let messages = ends(started, port, signal)?;
        ensure!(messages.contains(" = received "), "{messages}");
    }
    Ok(())
}

/// A FIFO in a folder of its own.
fn fifo() -> Result<(TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("fifo");
    let made = run("mkfifo", &[&path])?;
    ensure!(made.status.success(), "{made:?}");
    Ok((folder, path))
}

fn path(file: &Path) -> Result<&str> {
    file.to_str().context("a path in UTF-8")
}

fn fifo_not_read() -> Result<()> {
    for (more, signal) in ENDS {
        let (_folder, fifo) = fifo()?;
        let reader = fs::File::options().read(true).write(true).open(&fifo)?;
        fill(&reader)?;
        let port = unused_port();
        let record = ["record", "-v", "-w", path(&fifo)?, "-P", &port.to_string()];
        let started = start(&[&record[..], more].concat(), Stdio::null(), "attached")?;
        ends(started, port, signal)?;
    }
    Ok(())
}

/// Nothing is attached before there is a reader. A signal ends the wait, and so does the end of `--duration`; with a reader
/// the recording begins.
fn fifo_without_reader() -> Result<()> {
    let (folder, fifo) = fifo()?;
    let record = ["record", "-v", "-w", path(&fifo)?];
    for signal in [Signal::TERM, Signal::INT] {
        let (mut child, stderr) = start(&record, Stdio::null(), "waiting for a reader")?;
        kill_process(Pid::from_child(&child), signal)?;
        let status = await_exit(&mut child)?;
        let messages = io::read_to_string(stderr)?;
        ensure!(
            status.signal() == Some(signal.as_raw()) && messages.is_empty(),
            "{status}: {messages}"
        );
    }
    let output = run(BINARY, &[&record[..], &["--duration", "100ms"]].concat())?;
    ensure!(
        output.status.code() == Some(1)
            && output.stderr.contains("nothing was recorded")
            && !output.stderr.contains("attached"),
        "{output:?}"
    );
    let port = unused_port().to_string();
    let (mut child, mut stderr) = start(
        &[&record[..], &["-P", &port]].concat(),
        Stdio::null(),
        "waiting for a reader",
    )?;
    let copy = folder.path().join("copy");
    thread::scope(|scope| {
        let reader = scope.spawn(|| -> Result<u64> {
            Ok(io::copy(
                &mut fs::File::open(&fifo)?,
                &mut fs::File::create(&copy)?,
            )?)
        });
        let mut messages = String::new();
        while !messages.contains("attached") {
            ensure!(stderr.read_line(&mut messages)? > 0, "it ended: {messages}");
        }
        on_loopback(|| storm(port.parse()?, 100))?;
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        let status = await_exit(&mut child)?;
        ensure!(
            status.success(),
            "{status}: {}",
            io::read_to_string(stderr)?
        );
        joined(reader.join())
    })?;
    let (_, summary) = run(BINARY, &["rates", "--json", "-r", path(&copy)?])?.json()?;
    let counted = number(&summary, &["transitions"])? + crate::process::nested(&summary)?;
    ensure!(counted >= 200, "{summary}");
    Ok(())
}

/// With the progress bar on a terminal that is stopped (Ctrl-S).
fn terminal_stopped() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let recording = folder.path().join("a.rec");
    super::write_recording(&recording, 100_000, |_| ())?;
    let (_person, program) = terminal_pair()?;
    tcflow(&program, Action::OOff)?;
    let mut child = Running::new(
        Command::new(BINARY)
            .args(["hist", "-r", path(&recording)?])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(program),
    )?;
    let status = format!("/proc/{}/status", child.id());
    // It cannot say that it handles the signal.
    await_that("it handles SIGTERM", || {
        let status = fs::read_to_string(&status)?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let mask = u64::from_str_radix(mask.context("SigCgt")?.trim(), 16)?;
        Ok(mask >> (Signal::TERM.as_raw() - 1) & 1 == 1)
    })?;
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    // Its summary is lost, which is the end of a run that failed.
    let status = await_exit(&mut child)?;
    ensure!(status.code() == Some(1), "{status}");
    Ok(())
}
