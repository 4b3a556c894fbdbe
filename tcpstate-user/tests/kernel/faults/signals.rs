//! Signals at random moments of a run.

use std::{
    collections::BTreeSet,
    env, fs,
    io::Read as _,
    os::unix::{fs::OpenOptionsExt as _, process::ExitStatusExt as _},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use rustix::{
    process::{Pid, Signal, kill_process},
    pty::OpenptFlags,
};
use serde_json::Value;

use super::Random;
use crate::{
    need::{HANGS, Need, trial, trial_within},
    net::{Netns, await_that, joined, unused_port},
    process::{BINARY, Output, Running, await_exit, bpf_ids, run},
    traffic::storm,
};

/// The variable with the number of signals to send: 1,000 in the full run.
const COUNT: &str = "TCPSTATE_FAULT_SIGNALS";
/// The default number of signals.
const FEW: u64 = 30;
/// The maximum time until the signal, in which a process attaches and writes.
const LONGEST: Duration = Duration::from_millis(600);

const SIGNALS: [Signal; 5] = [
    Signal::KILL,
    Signal::TERM,
    Signal::INT,
    Signal::HUP,
    Signal::PIPE,
];

pub fn add(trials: &mut Vec<Trial>) {
    let count = count();
    let portions = count.as_ref().map_or(1, |count| count.div_ceil(FEW).max(1));
    let limit = HANGS.saturating_mul(u32::try_from(portions).unwrap_or(u32::MAX));
    trials.push(trial_within(
        limit,
        "faults::signals_at_random",
        &[Need::Program("bpftool")],
        move || {
            let count = count.as_ref();
            at_random(*count.map_err(|error| anyhow::anyhow!("{error:#}"))?)
        },
    ));
    trials.push(trial("faults::terminal_as_before", &[], terminal));
}

/// The commands that watch; `FILE` stands for a recording of their own.
const COMMANDS: [&[&str]; 6] = [
    &["trace", "--json"],
    &["life", "--json"],
    &["hist", "--json"],
    &["rates", "100ms", "--json"],
    &["record", "-w", "FILE"],
    &["record", "--ring", "1m", "-w", "FILE"],
];

/// The number of signals to send.
fn count() -> Result<u64> {
    env::var(COUNT).map_or(Ok(FEW), |count| count.parse().context(COUNT))
}

fn at_random(count: u64) -> Result<()> {
    let before = programs()?;
    let (netns, ended) = (Netns::new()?, AtomicBool::new(false));
    thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            netns.run(|| {
                while !ended.load(Ordering::Relaxed) {
                    storm(unused_port(), 10)?;
                    // Few enough to be shown in time on a slow machine.
                    thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            })
        });
        let result = (0..count).try_for_each(|seed| {
            one(seed).with_context(|| format!("the run with seed {seed} of {count}"))
        });
        ended.store(true, Ordering::Relaxed);
        result.and(joined(traffic.join()).context("the traffic"))
    })?;
    // The kernel frees them a little later, when no CPU can be running them any more.
    await_that("no program of tcpstate is left", || {
        let now = programs()?;
        let left: BTreeSet<_> = now.difference(&before).collect();
        // Others may run on this machine, and hold theirs.
        Ok(left.is_empty() || held()?.is_superset(&left.into_iter().copied().collect()))
    })
}

/// The programs that a process holds.
fn held() -> Result<BTreeSet<u64>> {
    let mut held = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process may have ended meanwhile.
        for id in bpf_ids(pid, "prog_id:").unwrap_or_default() {
            held.insert(id.parse()?);
        }
    }
    Ok(held)
}

/// The programs in the kernel with tcpstate's names, by bpftool.
fn programs() -> Result<BTreeSet<u64>> {
    let output = run("bpftool", &["--json", "prog", "list"])?;
    let all: Vec<Value> = serde_json::from_str(&output.stdout).context("bpftool prog list")?;
    let ours = all.iter().filter(|program| {
        let name = program["name"].as_str().unwrap_or_default();
        name.starts_with("tcpstate")
    });
    ours.map(|program| program["id"].as_u64().context("a program without an id"))
        .collect()
}

/// Starts a command and sends it a signal; the seed selects the command, the signal and the time.
fn one(seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let mut pick = |bound: usize| usize::try_from(random.below(bound as u64));
    let (command, signal) = (
        COMMANDS[pick(COMMANDS.len())?],
        SIGNALS[pick(SIGNALS.len())?],
    );
    let wait = LONGEST * u32::try_from(pick(1000)?)? / 1000;
    let folder = tempfile::tempdir()?;
    let recording = folder.path().join("recording");
    let (stdout, stderr) = (folder.path().join("stdout"), folder.path().join("stderr"));
    let arguments = command.iter().map(|&argument| match argument {
        "FILE" => recording.as_os_str(),
        argument => argument.as_ref(),
    });
    let mut child = Running::new(
        // If the tests run under `nohup` or in the background of a shell, SIGHUP or SIGINT are ignored, and before there is a
        // handler they would have no effect.
        Command::new("env")
            .args(["--default-signal=HUP,INT,TERM", BINARY])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&stdout)?)
            .stderr(fs::File::create(&stderr)?),
    )?;
    let pid = Pid::from_child(&child);
    // No event is awaited here, because the signal must come at a random moment.
    thread::sleep(wait);
    // Its process ID is still valid: it is a child that has not been reaped.
    kill_process(pid, signal)?;
    if signal == Signal::PIPE {
        // Rust's runtime ignores SIGPIPE, so the process continues.
        kill_process(pid, Signal::TERM)?;
    }
    let output = Output {
        status: await_exit(&mut child)?,
        stdout: fs::read_to_string(&stdout)?,
        stderr: fs::read_to_string(&stderr)?,
    };
    check(&output, signal)
        .and_then(|()| check_recording(&recording))
        .with_context(|| format!("{command:?}, {signal:?} after {wait:?}: {output:?}"))
}

/// Checks that it ended with its summary, or by the signal: before it had a handler for it, or because there
/// is none.
fn check(output: &Output, signal: Signal) -> Result<()> {
    match (output.status.code(), output.status.signal()) {
        (Some(0 | 3), None) if signal != Signal::KILL => {
            // A recording has its summary on standard error.
            if output.stdout.is_empty() {
                ensure!(output.stderr.contains("lost"));
            } else {
                output.json()?;
            }
            Ok(())
        }
        (None, Some(by)) => {
            let sent = [signal.as_raw(), Signal::TERM.as_raw()];
            let sent = if signal == Signal::PIPE {
                &sent[..]
            } else {
                &sent[..1]
            };
            ensure!(sent.contains(&by), "killed by {by}");
            Ok(())
        }
        other => bail!("{other:?}"),
    }
}

/// Checks that the recording can be read, or is reported as empty.
fn check_recording(path: &Path) -> Result<()> {
    let Ok(metadata) = fs::metadata(path) else {
        return Ok(());
    };
    let read = run(
        BINARY,
        &[
            "rates".as_ref(),
            "--json".as_ref(),
            "-r".as_ref(),
            path.as_os_str(),
        ],
    )?;
    if metadata.len() == 0 {
        ensure!(
            read.status.code() == Some(1) && read.stderr.contains("is empty"),
            "an empty recording: {read:?}"
        );
    } else if read.stdout.contains("\"partial\":true") {
        // It was killed: the recording is read up to its last complete block, and the missing end is
        // reported.
        ensure!(
            read.status.code() == Some(3) && !read.stderr.is_empty(),
            "a recording without its end: {read:?}"
        );
    } else {
        read.json().context("the recording")?;
    }
    Ok(())
}

/// A pseudo-terminal: the side of the user, and the side of the program.
pub fn terminal_pair() -> Result<(fs::File, fs::File)> {
    let person = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    rustix::pty::grantpt(&person)?;
    rustix::pty::unlockpt(&person)?;
    let name = rustix::pty::ptsname(&person, Vec::new())?;
    let program = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(name.to_str()?)?;
    Ok((person.into(), program))
}

/// After the run the terminal's modes are as before and its cursor is visible, whatever ended the run: live,
/// and with the progress bar of a recording.
fn terminal() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let recording = folder.path().join("a.rec");
    super::write_recording(&recording, 300_000, |_| ())?;
    let recording = recording.to_str().context("a path in UTF-8")?;
    let commands: [&[&str]; 3] = [
        &["rates", "50ms"],
        &["hist", "-r", recording],
        &["record", "-r", recording, "-w", "/dev/null"],
    ];
    let mut random = Random::new(1);
    for command in commands {
        for signal in SIGNALS {
            let (mut person, program) = terminal_pair()?;
            let before = rustix::termios::tcgetattr(&program)?;
            let mut child = Running::new(
                Command::new(BINARY)
                    .args(command)
                    .stdin(program.try_clone()?)
                    .stdout(program.try_clone()?)
                    .stderr(program.try_clone()?),
            )?;
            // It is read all the time, so that the program never blocks on the terminal.
            let reader = thread::spawn(move || {
                let (mut all, mut some) = (Vec::new(), [0; 4096]);
                // Reading ends with an error when the other side has been closed.
                while let Ok(count @ 1..) = person.read(&mut some) {
                    all.extend_from_slice(&some[..count]);
                }
                all
            });
            let pid = Pid::from_child(&child);
            // As in `one`: the signal must come at a random moment.
            thread::sleep(LONGEST * u32::try_from(random.below(1000))? / 1000);
            kill_process(pid, signal)?;
            kill_process(pid, Signal::TERM)?;
            await_exit(&mut child)?;
            let after = rustix::termios::tcgetattr(&program)?;
            drop(program);
            let shown = String::from_utf8_lossy(&joined(reader.join())).into_owned();
            ensure!(
                format!("{before:?}") == format!("{after:?}"),
                "{command:?}, {signal:?}: {before:?}, then {after:?}"
            );
            let (hidden, visible) = (shown.rfind("\x1b[?25l"), shown.rfind("\x1b[?25h"));
            ensure!(
                hidden <= visible && !shown.contains("\x1b[?1049h"),
                "{command:?}, {signal:?}: {shown:?}"
            );
        }
    }
    Ok(())
}
