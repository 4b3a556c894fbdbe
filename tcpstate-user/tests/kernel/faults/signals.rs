//! Signals at any moment of a run.

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
    process::{BINARY, Output, Running, await_exit, run},
    traffic::storm,
};

/// The variable that says how many signals to send: 1,000 in the full run.
const COUNT: &str = "TCPSTATE_FAULT_SIGNALS";
/// How many otherwise.
const FEW: u64 = 30;
/// The longest that a process lives until its signal: it has attached and written by then.
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
        move || at_random(count?),
    ));
    trials.push(trial("faults::terminal_as_before", &[], terminal));
}

/// Commands that watch; `FILE` stands for a recording of their own.
const COMMANDS: [&[&str]; 6] = [
    &["trace", "--json"],
    &["life", "--json"],
    &["hist", "--json"],
    &["rates", "100ms", "--json"],
    &["record", "-w", "FILE"],
    &["record", "--ring", "1m", "-w", "FILE"],
];

/// How many signals to send.
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
                    // Not more than can be shown in time, however slow the machine.
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
    await_that("no program of ours is left", || {
        Ok(programs()?.is_subset(&before))
    })
}

/// The programs in the kernel that have a name of ours, by bpftool.
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

/// Starts a command and sends it a signal, which of them and when depending on the seed.
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
        // Who runs the tests with `nohup` leaves it ignored, and then it ends nothing.
        Command::new("env")
            .args(["--default-signal=HUP", BINARY])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&stdout)?)
            .stderr(fs::File::create(&stderr)?),
    )?;
    let pid = Pid::from_child(&child);
    // No event is awaited here: that it comes at any moment is the point.
    thread::sleep(wait);
    // It cannot have ended: it is our child, and nobody has waited for it.
    kill_process(pid, signal)?;
    if signal == Signal::PIPE {
        // Whoever runs Rust's `main` ignores it, and goes on.
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

/// It ended with its summary, or by the signal: before it had a handler for it, or because there is
/// none.
fn check(output: &Output, signal: Signal) -> Result<()> {
    match (output.status.code(), output.status.signal()) {
        (Some(0), None) if signal != Signal::KILL => {
            // A recording has its books on standard error.
            if output.stdout.is_empty() {
                ensure!(output.stderr.contains("submitted = received"));
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

/// What there is of a recording can be read, or it is said that there is nothing.
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
        // Killed: it reads up to its last whole block, and says that its end is missing.
        ensure!(
            read.status.code() == Some(0) && !read.stderr.is_empty(),
            "a recording without its end: {read:?}"
        );
    } else {
        read.json().context("the recording")?;
    }
    Ok(())
}

/// A terminal of our own: the end that a person sits at, and the one that a program gets.
fn terminal_pair() -> Result<(fs::File, fs::File)> {
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

/// A watched terminal's modes are as before, and its cursor is to be seen, whatever ended the run: live,
/// and while the bar shows how much of a recording has been read.
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
            // Read all the time, so that the program never waits for the person.
            let reader = thread::spawn(move || {
                let (mut all, mut some) = (Vec::new(), [0; 4096]);
                // It ends with an error once nobody has the other end open any more.
                while let Ok(count @ 1..) = person.read(&mut some) {
                    all.extend_from_slice(&some[..count]);
                }
                all
            });
            let pid = Pid::from_child(&child);
            // As in `one`: the moment is not to be a chosen one.
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
