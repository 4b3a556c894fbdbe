//! The end of a run: by itself, by Ctrl-C, by a closed pipe, by SIGKILL.

use std::{
    collections::BTreeSet,
    io::{self, BufRead as _, BufReader},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    need::{ATTACH_MODES, Need, attach_needs, trial},
    net::{await_that, joined, unused_port},
    process::{BINARY, Running, Tcpstate, await_exit, bpf_ids, has_result, nested, run},
    traffic::{on_loopback, storm},
};

pub fn add(trials: &mut Vec<Trial>) {
    let bpftool = Need::Program("bpftool");
    for mode in ATTACH_MODES {
        let needs = [attach_needs(mode), &[bpftool]].concat();
        trials.push(trial(format!("{mode}::killed"), &needs, move || {
            killed(mode)
        }));
    }
    trials.push(trial("bpf_stats", &[Need::Root], bpf_stats));
    trials.push(trial("interrupted", &[], interrupted));
    trials.push(trial("count", &[], count));
    // Without it there is a message.
    trials.push(trial("duration", &[Need::Btf], duration));
    trials.push(trial("closed_pipe", &[Need::Btf], closed_pipe));
}

/// After SIGKILL the kernel frees all programs and maps.
fn killed(mode: &str) -> Result<()> {
    let mut tcpstate = Tcpstate::start(&["trace", "--attach", mode])?;
    let programs = bpf_ids(tcpstate.child.id(), "prog_id:")?;
    let maps = bpf_ids(tcpstate.child.id(), "map_id:")?;
    ensure!(
        !programs.is_empty() && !maps.is_empty(),
        "it is attached, but holds no programs or maps"
    );
    ensure!(
        programs.iter().all(|id| exists("prog", id)),
        "bpftool does not see {programs:?}"
    );
    ensure!(
        maps.iter().all(|id| exists("map", id)),
        "bpftool does not see {maps:?}"
    );
    tcpstate.child.kill()?;
    tcpstate.child.wait()?;
    // The kernel frees them a little later, when no CPU can be running them any more.
    await_that("the programs and maps are gone", || {
        let gone = |kind, ids: &BTreeSet<String>| ids.iter().all(|id| !exists(kind, id));
        Ok(gone("prog", &programs) && gone("map", &maps))
    })
}

fn exists(kind: &str, id: &str) -> bool {
    let show = Command::new("bpftool")
        .args([kind, "show", "id", id])
        .output();
    show.is_ok_and(|output| output.status.success())
}

/// With `--bpf-stats` the kernel counts and times the program's runs, and the summary contains the result.
fn bpf_stats() -> Result<()> {
    let tcpstate = Tcpstate::start(&["trace", "--json", "--bpf-stats"])?;
    on_loopback(|| storm(unused_port(), 500))?;
    let (_, summary) = tcpstate.stop()?.transitions()?;
    let (books, cost) = (&summary["accounting"], &summary["self"]);
    let seen = books["seen"].as_u64().context("seen")? - nested(&summary)?;
    let runs = cost["bpf_run_count"].as_u64();
    ensure!(seen >= 1_000 && runs == Some(seen), "{summary}");
    ensure!(cost["bpf_run_ns"].as_u64() > Some(seen), "{summary}");
    for own in ["cpu_ns", "max_rss_bytes", "ring_high_water_bytes"] {
        ensure!(cost[own].as_u64() > Some(0), "{own}: {summary}");
    }
    Ok(())
}

/// Ctrl-C ends the run with the summary: in text on standard error, in JSON as the last line.
fn interrupted() -> Result<()> {
    let port = unused_port();
    let text = Tcpstate::start(&["trace", "-P", &port.to_string()])?;
    let json = Tcpstate::start(&["trace", "--json", "-P", &port.to_string()])?;
    on_loopback(|| storm(port, 5))?;
    let text = text.stop()?;
    ensure!(has_result(text.status), "{text:?}");
    ensure!(
        text.stdout
            .lines()
            .filter(|line| line.contains("LISTEN"))
            .count()
            == 10,
        "{text:?}"
    );
    for word in [
        "seen",
        "filtered",
        "submitted",
        "lost",
        "received",
        "rejected",
    ] {
        ensure!(
            text.stderr.contains(word),
            "no `{word}` in the summary: {text:?}"
        );
        ensure!(
            !text.stdout.contains(word),
            "the summary is among the data: {text:?}"
        );
    }
    let (lines, _) = json.stop()?.transitions()?;
    ensure!(lines.len() == 10, "{lines:?}");
    Ok(())
}

/// `--count 10` prints ten lines, even if there are more events.
fn count() -> Result<()> {
    let port = unused_port();
    let tcpstate = Tcpstate::start(&["trace", "--json", "--count", "10", "-P", &port.to_string()])?;
    on_loopback(|| storm(port, 1000))?;
    let (lines, _) = tcpstate.finish()?.transitions()?;
    ensure!(lines.len() == 10, "{} lines", lines.len());
    Ok(())
}

/// Whether standard error is empty, except for the notice on kernels without socket cookies.
fn says_nothing(stderr: &str) -> bool {
    let mut lines = stderr.lines();
    let notice = Need::Cookie.missing().and_then(|_| lines.next());
    notice.is_none_or(|line| line.contains("no socket cookie")) && lines.next().is_none()
}

/// `--duration` ends the run by itself, also without events.
fn duration() -> Result<()> {
    let port = unused_port().to_string();
    let output = run(
        BINARY,
        &["trace", "--json", "--duration", "100ms", "-P", &port],
    )?;
    let (lines, _) = output.transitions()?;
    ensure!(lines.is_empty(), "{lines:?}");
    ensure!(says_nothing(&output.stderr), "{}", output.stderr);
    Ok(())
}

/// `tcpstate trace | head -3` ends at once and without a message.
fn closed_pipe() -> Result<()> {
    for format in [&[][..], &["--json"], &["--csv"]] {
        let port = unused_port();
        let mut command = Command::new(BINARY);
        command
            .args(["trace", "-P", &port.to_string()])
            .args(format)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = Running::new(&mut command)?;
        let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        let pid = Pid::from_child(&child);
        let ended = AtomicBool::new(false);
        let status = thread::scope(|scope| {
            // Transitions never stop, so the reader leaves in the middle of them.
            let traffic = scope.spawn(|| {
                let result = on_loopback(|| {
                    while !ended.load(Ordering::Relaxed) {
                        storm(port, 10)?;
                        // Few enough to be read in time on a busy machine: a loss would be reported.
                        thread::sleep(Duration::from_millis(1));
                    }
                    Ok(())
                });
                if result.is_err() {
                    // Without traffic there are no lines to wait for.
                    kill_process(pid, Signal::KILL)?;
                }
                result
            });
            let read_three_and_leave = || {
                for _ in 0..3 {
                    lines.next().context("it ended too early")??;
                }
                drop(lines);
                await_exit(&mut child)
            };
            let status = read_three_and_leave();
            ended.store(true, Ordering::Relaxed);
            joined(traffic.join()).context("the traffic")?;
            status
        })?;
        let stderr = child.stderr.take().map(io::read_to_string).transpose()?;
        ensure!(
            status.code() == Some(0) && stderr.as_deref().is_some_and(says_nothing),
            "{format:?}: {status}: {stderr:?}"
        );
    }
    Ok(())
}
