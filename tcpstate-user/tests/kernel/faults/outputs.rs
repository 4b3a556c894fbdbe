//! Outputs that are full, have vanished, or never existed.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{ChildStderr, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{Random, number, write_recording};
use crate::{
    need::trial,
    net::{await_that, unused_port},
    process::{BINARY, Output, Running, Tcpstate, await_exit, has_result, interrupt, run},
    traffic::{on_loopback, storm},
};

pub fn add(trials: &mut Vec<Trial>) {
    for (name, test) in [
        ("faults::disk_full", disk_full as fn() -> Result<()>),
        ("faults::disk_full_at_a_dump", disk_full_at_a_dump),
        ("faults::disk_full_at_the_end", disk_full_at_the_end),
        ("faults::file_size_limit", file_size_limit),
        ("faults::disk_read_only", disk_read_only),
        ("faults::file_replaced", file_replaced),
        ("faults::file_cut_while_read", file_cut_while_read),
        ("faults::stdout_full", stdout_full),
        ("faults::stdout_slow", stdout_slow),
        ("faults::stdout_closed", stdout_closed),
    ] {
        trials.push(trial(name, &[], test));
    }
}

/// A small file system in memory, unmounted when this is dropped.
struct Disk(TempDir);

impl Disk {
    fn new(options: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]);
        let status = mount.arg(folder.path()).status().context("mount")?;
        ensure!(status.success(), "mount: {status}");
        Ok(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A lazy unmount works even if files are open. An error cannot be reported here.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// Starts the binary, which gets `-v` among its arguments, with pipes for its output, and waits until it is
/// attached. Its standard output is not read yet.
fn start(arguments: &[&str]) -> Result<(Running, BufReader<ChildStderr>)> {
    let mut command = Command::new(BINARY);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = Running::new(&mut command)?;
    let mut stderr = BufReader::new(child.stderr.take().context("stderr")?);
    let mut messages = String::new();
    stderr.read_line(&mut messages)?;
    ensure!(messages.contains("attached"), "{messages}");
    Ok((child, stderr))
}

fn path(file: &Path) -> Result<&str> {
    file.to_str().context("a path in UTF-8")
}

/// Reads a recording. Returns the output and its summary.
fn read(file: &Path) -> Result<(Output, Value)> {
    let output = run(BINARY, &["rates", "--json", "-r", path(file)?])?;
    let (_, summary) = output.json().with_context(|| format!("{output:?}"))?;
    Ok((output, summary))
}

/// The disk gets full: the recording ends there, reports that, and is readable; the run fails, with its
/// books.
fn disk_full() -> Result<()> {
    // Three blocks, some 65,400 bytes, and the books, but no fourth block.
    for size in ["size=76k", "size=80k", "size=84k"] {
        let disk = Disk::new(size)?;
        let file = disk.path().join("a.rec");
        let mut record = Command::new(BINARY);
        record.args(["record", "-w"]).arg(&file);
        let words = ["No space left on device", "rejected"];
        let Some(summary) = broken_off(record, &file, words)? else {
            continue;
        };
        let [received, not_in_file] = [&["received"][..], &["rejected_by_reason", "not_in_file"]]
            .map(|path| number(&summary, &[&["accounting"], path].concat()));
        ensure!(
            received? > 0 && not_in_file? > 0,
            "not a part of the capture: {summary}"
        );
        return Ok(());
    }
    bail!("no disk had room for the books");
}

/// Records a storm to a file for which there is no room, with these words in the message. Returns the summary of what is in
/// it; `None` where there was no room for the books either: on a busy machine times differ more, so that blocks are larger.
fn broken_off(mut record: Command, file: &Path, words: [&str; 2]) -> Result<Option<Value>> {
    const ROUNDS: u32 = 150_000;
    let port = unused_port();
    record.args(["-P", &port.to_string()]);
    let tcpstate = Tcpstate::start_command(record)?;
    on_loopback(|| storm(port, ROUNDS))?;
    let output = tcpstate.stop()?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let others = ["--max-bytes", "events found no room", " = received "];
    for words in words.into_iter().chain(others) {
        ensure!(output.stderr.contains(words), "no `{words}`: {output:?}");
    }
    let messages = run(BINARY, &["rates", "--json", "-r", path(file)?])?;
    if messages.stderr.contains("cut at byte") {
        return Ok(None);
    }
    let (messages, summary) = read(file)?;
    ensure!(messages.stderr.contains("was broken off"), "{messages:?}");
    Ok(Some(summary))
}

/// A flight recorder without room on the disk reports that and keeps its events: when there is room, it
/// writes all of them.
fn disk_full_at_a_dump() -> Result<()> {
    const ROUNDS: u32 = 50_000;
    let disk = Disk::new("size=1m")?;
    let [file, other] = ["a.rec", "other"].map(|name| disk.path().join(name));
    fs::write(&other, vec![0; 1020 << 10])?;
    let port = unused_port();
    let record = ["record", "-v", "--ring", "5m", "-w", path(&file)?];
    let (mut child, mut stderr) = start(&[&record[..], &["-P", &port.to_string()]].concat())?;
    on_loopback(|| storm(port, ROUNDS))?;
    kill_process(Pid::from_child(&child), Signal::USR1)?;
    // On a busy machine a notice of lost events may come first.
    let mut messages = String::new();
    while !messages.contains("No space left on device") {
        ensure!(stderr.read_line(&mut messages)? > 0, "it ended: {messages}");
    }
    ensure!(messages.contains("still in memory"), "{messages}");
    ensure!(!file.exists(), "a partial file was left");
    fs::remove_file(&other)?;
    interrupt(&child)?;
    let status = await_exit(&mut child)?;
    let messages = io::read_to_string(stderr)?;
    ensure!(has_result(status), "{status}: {messages}");
    let (_, summary) = read(&file)?;
    let counted = number(&summary, &["transitions"])? + number(&summary, &["accounting", "lost"])?;
    ensure!(counted >= u64::from(ROUNDS) * 2, "{summary}");
    Ok(())
}

/// At the end a flight recorder writes the newest events for which there is room, and says how many are lost.
fn disk_full_at_the_end() -> Result<()> {
    const ROUNDS: u32 = 100_000;
    const DISK_BYTES: usize = 1 << 20;
    let disk = Disk::new("size=1m")?;
    let [file, other] = ["a.rec", "other"].map(|name| disk.path().join(name));
    let port = unused_port();
    let record = ["record", "-v", "--ring", "5m", "-w", path(&file)?];
    let (mut child, stderr) = start(&[&record[..], &["-P", &port.to_string()]].concat())?;
    on_loopback(|| storm(port, ROUNDS))?;
    // The size of the same events depends on the machine: steady times compress better. So a dump shows how much room half
    // of them need.
    kill_process(Pid::from_child(&child), Signal::USR1)?;
    await_that("the dump is written", || Ok(file.exists()))?;
    let dumped_bytes = usize::try_from(fs::metadata(&file)?.len())?;
    fs::remove_file(&file)?;
    fs::write(&other, vec![0; DISK_BYTES - dumped_bytes / 2])?;
    interrupt(&child)?;
    let status = await_exit(&mut child)?;
    let messages = io::read_to_string(stderr)?;
    ensure!(
        status.code() == Some(1)
            && messages.contains("No space left on device")
            && messages.contains("oldest events in memory are lost")
            && messages.contains(" = received ")
            && !messages.contains("still in memory"),
        "{status}: {messages}"
    );
    let (_, summary) = read(&file)?;
    let kept = number(&summary, &["transitions"])?;
    ensure!(
        kept > 0 && messages.contains(&format!("the {kept} newest are in the file")),
        "{messages}{summary}"
    );
    Ok(())
}

/// The limit of a file's size (`ulimit -f`) is a full disk, and no signal that kills.
fn file_size_limit() -> Result<()> {
    // In units of 512 or of 1,024 bytes: three blocks or less.
    for limit in [64, 68, 72] {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("a.rec");
        let mut limited = Command::new("sh");
        let script = format!("ulimit -f {limit}; exec \"$@\"");
        limited.args(["-c", &script, "sh", BINARY, "record", "-w"]);
        limited.arg(&file);
        if let Some(summary) = broken_off(limited, &file, ["File too large", "rejected"])? {
            ensure!(number(&summary, &["transitions"])? > 0, "{summary}");
            return Ok(());
        }
    }
    bail!("no limit had room for the books");
}

fn disk_read_only() -> Result<()> {
    let disk = Disk::new("size=64k,ro")?;
    let file = disk.path().join("a.rec");
    for more in [
        &[][..],
        &["--ring", "1m"],
        &["--max-bytes", "64M", "--rotate", "2"],
    ] {
        let record = ["record", "--duration", "1ms", "-w", path(&file)?];
        let output = run(BINARY, &[&record[..], more].concat())?;
        ensure!(
            output.status.code() == Some(1) && output.stderr.contains("Read-only file system"),
            "{more:?}: {output:?}"
        );
    }
    Ok(())
}

/// The recording is renamed and replaced by another file: the complete recording is in the renamed file, and
/// the other file is unchanged.
fn file_replaced() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let [file, moved] = ["a.rec", "b.rec"].map(|name| folder.path().join(name));
    let port = unused_port();
    let tcpstate = Tcpstate::start(&["record", "-w", path(&file)?, "-P", &port.to_string()])?;
    on_loopback(|| storm(port, 1_000))?;
    fs::rename(&file, &moved)?;
    fs::write(&file, "not yours")?;
    on_loopback(|| storm(port, 1_000))?;
    let output = tcpstate.stop()?;
    ensure!(has_result(output.status), "{output:?}");
    ensure!(
        fs::read(&file)? == b"not yours",
        "the other file was changed"
    );
    let (_, summary) = read(&moved)?;
    let (all, nested) = (
        number(&summary, &["transitions"])?,
        crate::process::nested(&summary)?,
    );
    ensure!(all + nested >= 4_000 && all <= 4_000, "{summary}");
    Ok(())
}

/// A recording that is truncated during reading is read up to its new end, without a crash, and its books
/// are partial.
fn file_cut_while_read() -> Result<()> {
    const EVENTS: u64 = 100_000;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("a.rec");
    let mut random = Random::new(1);
    // The addresses do not compress, so that the file is much longer than one read.
    write_recording(&file, EVENTS, |record| {
        record.skaddr = random.next();
        record.bytes_sent = random.next();
        record.bytes_received = random.next();
    })?;
    let mut child = Running::new(
        Command::new(BINARY)
            .args(["trace", "--csv", "-r", path(&file)?])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    )?;
    let mut stdout = child.stdout.take().context("stdout")?;
    // It has begun, and waits because its output is not read.
    stdout.read_exact(&mut [0; 10])?;
    let length = file.metadata()?.len();
    fs::OpenOptions::new()
        .write(true)
        .open(&file)?
        .set_len(length / 2)?;
    let lines = io::read_to_string(stdout)?.lines().count() as u64;
    let status = await_exit(&mut child)?;
    let stderr = child.stderr.take().map(io::read_to_string).transpose()?;
    ensure!(
        status.code() == Some(3) && (1..EVENTS).contains(&lines),
        "{status}, {lines} lines: {stderr:?}"
    );
    Ok(())
}

fn stdout_full() -> Result<()> {
    let port = unused_port().to_string();
    for command in [
        &["trace", "--duration", "1ms", "-P", &port][..],
        &["life", "--json", "--duration", "1ms", "-P", &port],
        &["hist", "--json", "--duration", "1ms", "-P", &port],
        &["rates", "10ms", "1", "-P", &port],
        &[
            "record",
            "-w",
            "/dev/full",
            "--duration",
            "1ms",
            "-P",
            &port,
        ],
        &["ls"],
        &["doctor"],
    ] {
        let output = Command::new(BINARY)
            .args(command)
            .stdin(Stdio::null())
            .stdout(fs::File::create("/dev/full")?)
            .output()?;
        let stderr = String::from_utf8(output.stderr)?;
        ensure!(
            output.status.code() == Some(1) && stderr.contains("No space left on device"),
            "{command:?}: {}: {stderr}",
            output.status
        );
    }
    Ok(())
}

/// The pipe is not read during a storm: the queue takes the events for which it has room, the others are
/// counted, and all queued events arrive.
fn stdout_slow() -> Result<()> {
    // Twice the size of the queue.
    const ROUNDS: u32 = 500_000;
    let port = unused_port();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("a.rec");
    let (mut child, stderr) = start(&["record", "-v", "-w", "-", "-P", &port.to_string()])?;
    on_loopback(|| storm(port, ROUNDS))?;
    let mut stdout = child.stdout.take().context("stdout")?;
    let mut copy = fs::File::create(&file)?;
    // It is read again before the run ends: otherwise the output would be given up.
    io::copy(&mut (&mut stdout).take(4096), &mut copy)?;
    interrupt(&child)?;
    io::copy(&mut stdout, &mut copy)?;
    let status = await_exit(&mut child)?;
    let messages = io::read_to_string(stderr)?;
    ensure!(status.code() == Some(3), "{status}: {messages}");
    ensure!(
        messages.contains("REJECTED"),
        "nothing was rejected: {messages}"
    );
    let (_, summary) = read(&file)?;
    let books = ["submitted", "received", "rejected", "lost"]
        .map(|name| number(&summary, &["accounting", name]));
    let [submitted, received, rejected, lost] = books;
    ensure!(
        received? == number(&summary, &["transitions"])? && rejected? > 0,
        "{summary}"
    );
    ensure!(
        submitted? + lost? >= u64::from(ROUNDS) * 2,
        "{ROUNDS} rounds: {summary}"
    );
    Ok(())
}

/// With closed standard streams it works, or reports why not; no file that it opens gets the output
/// instead.
fn stdout_closed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file: PathBuf = folder.path().join("a.rec");
    let port = unused_port().to_string();
    for closed in [">&-", "2>&-", "<&- >&- 2>&-"] {
        let output = Command::new("sh")
            .args([
                "-c",
                &format!("\"$@\" {closed}"),
                "sh",
                BINARY,
                "record",
                "-w",
            ])
            .arg(&file)
            .args(["--duration", "1ms", "-P", &port])
            .output()?;
        ensure!(has_result(output.status), "{closed}: {output:?}");
        read(&file).with_context(|| closed.to_owned())?;
    }
    Ok(())
}
