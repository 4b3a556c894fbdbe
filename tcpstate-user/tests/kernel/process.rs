//! The binary under test as a running process, and its output.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::IpAddr,
    ops::{Deref, DerefMut},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tcpstate_common::State;

use crate::{
    net::{PATIENCE, joined},
    transitions::{Multiset, Transition},
};

/// The binary that was built with this test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_tcpstate");

/// The number of runs of BPF programs that the kernel skipped since [`take_skipped`].
static SKIPPED: AtomicU64 = AtomicU64::new(0);

/// Adds to the skipped runs, by the count of an observer.
pub fn add_skipped(count: u64) {
    SKIPPED.fetch_add(count, Ordering::Relaxed);
}

/// Returns the number of skipped runs, and starts again at 0.
pub fn take_skipped() -> u64 {
    SKIPPED.swap(0, Ordering::Relaxed)
}

/// Sends SIGINT, as Ctrl-C does.
pub fn interrupt(child: &Child) -> Result<()> {
    Ok(kill_process(Pid::from_child(child), Signal::INT)?)
}

/// Whether this is the exit status of a run with a result. On a busy machine any run may lose a transition, and then
/// says that its result is incomplete.
pub fn has_result(status: ExitStatus) -> bool {
    matches!(status.code(), Some(0 | 3))
}

/// Waits for a process to end by itself.
pub fn await_exit(child: &mut Child) -> Result<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > PATIENCE {
            let threads = threads(child.id());
            child.kill()?;
            bail!("it did not end within {PATIENCE:?}; its threads: {threads:#?}");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The activity of each thread of a process: its name, state and signals, its system call and its kernel
/// stack.
fn threads(pid: u32) -> Vec<String> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        .map(|thread| {
            let read = |name: &str| {
                fs::read_to_string(thread.path().join(name))
                    .unwrap_or_else(|error| error.to_string())
            };
            let status = read("status");
            let status = status.lines().filter(|line| {
                ["Name", "State", "SigPnd", "ShdPnd", "SigBlk", "SigCgt"]
                    .iter()
                    .any(|name| line.starts_with(name))
            });
            format!(
                "{:?}, syscall {}, stack {:?}",
                status.collect::<Vec<_>>(),
                read("syscall").trim(),
                read("stack")
            )
        })
        .collect()
}

/// The numbers of the BPF objects that a process holds, by a key of `/proc/PID/fdinfo`, such as `prog_id:`.
pub fn bpf_ids(pid: u32, key: &str) -> Result<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may have been closed meanwhile.
        let info = fs::read_to_string(entry?.path()).unwrap_or_default();
        ids.extend(
            info.lines()
                .filter_map(|line| line.strip_prefix(key))
                .map(|id| id.trim().to_owned()),
        );
    }
    Ok(ids)
}

/// A process that is killed when the test ends, however it ends.
pub struct Running(Child);

impl Running {
    pub fn new(command: &mut Command) -> Result<Self> {
        Ok(Self(
            command.spawn().with_context(|| format!("{command:?}"))?,
        ))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both do nothing if it has ended and was reaped. Other errors cannot be reported here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

/// A running `tcpstate`, attached.
pub struct Tcpstate {
    pub child: Running,
    stdout: tempfile::NamedTempFile,
    /// Its messages up to now.
    said: Arc<Mutex<String>>,
    stderr: JoinHandle<Result<()>>,
}

impl Tcpstate {
    /// Starts it with these arguments and `-v`, and returns when it reports that it is attached.
    pub fn start(args: &[&str]) -> Result<Self> {
        let mut command = Command::new(BINARY);
        command.args(args);
        Self::start_command(command)
    }

    /// The same for any command that finally executes `tcpstate`.
    pub fn start_command(mut command: Command) -> Result<Self> {
        // Its output goes to a file, so that the test is never the slow reader, at any rate.
        let stdout = tempfile::NamedTempFile::new()?;
        command
            .arg("-v")
            .stdin(Stdio::null())
            .stdout(stdout.reopen()?)
            .stderr(Stdio::piped());
        let mut child = Running::new(&mut command)?;
        let (sender, attached) = channel();
        let stderr = child.stderr.take().context("no stderr")?;
        let said = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&said);
        let stderr = thread::spawn(move || -> Result<()> {
            for line in BufReader::new(stderr).lines() {
                let line = line?;
                if line.starts_with("tcpstate: attached") {
                    // The receiver is gone after the first report.
                    let _ = sender.send(());
                }
                let mut all = heard.lock().unwrap_or_else(PoisonError::into_inner);
                all.push_str(&line);
                all.push('\n');
            }
            Ok(())
        });
        let mut this = Self {
            child,
            stdout,
            said,
            stderr,
        };
        if let Err(error) = await_attached(&attached) {
            this.child.kill()?;
            let status = this.child.wait()?;
            let stderr = this.said();
            return Err(error).with_context(|| format!("{command:?} ({status}): {stderr}"));
        }
        Ok(this)
    }

    /// Its output up to now.
    pub fn written(&self) -> Result<String> {
        Ok(fs::read_to_string(self.stdout.path())?)
    }

    /// Its messages up to now.
    pub fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.clone()
    }

    /// Its resident memory, bytes.
    pub fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.context("no VmRSS")?.trim().trim_end_matches(" kB");
        Ok(number.parse::<u64>()? * 1_024)
    }

    /// Its process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGINT and waits for the end.
    pub fn stop(self) -> Result<Output> {
        interrupt(&self.child)?;
        self.finish()
    }

    /// Waits until it ends by itself.
    pub fn finish(mut self) -> Result<Output> {
        let status = await_exit(&mut self.child)?;
        joined(self.stderr.join())?;
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let stderr = said.clone();
        let mut stdout = String::new();
        fs::File::open(self.stdout.path())?.read_to_string(&mut stdout)?;
        Ok(Output {
            status,
            stdout,
            stderr,
        })
    }
}

fn await_attached(attached: &Receiver<()>) -> Result<()> {
    match attached.recv_timeout(PATIENCE) {
        Ok(()) => Ok(()),
        Err(RecvTimeoutError::Timeout) => bail!("it did not print `tcpstate: attached`"),
        Err(RecvTimeoutError::Disconnected) => bail!("it ended before it was attached"),
    }
}

/// Runs a command that is expected to end by itself.
pub fn run<S: AsRef<OsStr>>(program: impl AsRef<Path>, args: &[S]) -> Result<Output> {
    let output = Command::new(program.as_ref())
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    Ok(Output {
        status: output.status,
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}

/// The results of a run.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The lines of a `--json` run with a result: the objects before the summary, and the summary, whose books
    /// were checked. The exit status has to agree with it.
    pub fn json(&self) -> Result<(Vec<Value>, Value)> {
        ensure!(has_result(self.status), "{}: {}", self.status, self.stderr);
        let lines = self
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()));
        let mut lines = lines.collect::<Result<Vec<Value>>>()?;
        let summary = lines.pop().context("no output at all")?;
        ensure!(
            summary["type"] == "summary",
            "the last line is no summary: {summary}"
        );
        check_books(&summary)?;
        let is_complete = self.status.success();
        ensure!(
            summary["complete"] == is_complete,
            "{}: {summary}",
            self.status
        );
        add_skipped(nested(&summary)?.max(shown_to_nobody(&summary)));
        Ok((lines, summary))
    }

    /// The transitions of a `trace --json` run, and the summary.
    pub fn transitions(&self) -> Result<(Vec<Value>, Value)> {
        let (lines, summary) = self.json()?;
        for line in &lines {
            ensure!(line["type"] == "transition", "not a transition: {line}");
        }
        Ok((lines, summary))
    }
}

/// Checks `seen = filtered + submitted + lost` and `submitted = received + rejected`, each with the sum of
/// its reasons, and `received = passed + filtered + undecided + unread`.
pub fn check_books(summary: &Value) -> Result<()> {
    let books = &summary["accounting"];
    let of = |name: &str| {
        books[name]
            .as_u64()
            .with_context(|| format!("no {name} in {books}"))
    };
    ensure!(
        of("seen")? == of("filtered")? + of("submitted")? + of("lost")?,
        "{books}"
    );
    ensure!(
        of("submitted")? == of("received")? + of("rejected")?,
        "{books}"
    );
    let selection = summary["selection"].as_object().context("no selection")?;
    let selected: Option<u64> = selection.values().map(Value::as_u64).sum();
    ensure!(
        selected == Some(of("received")?),
        "the selection is not the sum of its parts: {summary}"
    );
    for name in ["filtered", "lost", "rejected"] {
        let reasons = books[format!("{name}_by_reason")].as_object();
        let reasons = reasons.with_context(|| format!("no {name}_by_reason in {books}"))?;
        // An unknown count is not part of the sum.
        let known = reasons.values().filter(|value| !value.is_null());
        let sum: Option<u64> = known.map(Value::as_u64).sum();
        ensure!(
            sum == Some(of(name)?),
            "{name} is not the sum of its reasons: {books}"
        );
    }
    Ok(())
}

/// The number of transitions that the kernel did not show to `tcpstate`, by the kernel's count; 0 without
/// such a count, so that no test can excuse losses by it.
pub fn nested(summary: &Value) -> Result<u64> {
    let nested = summary["accounting"]["lost_by_reason"].get("nested");
    let nested = nested.with_context(|| format!("no lost_by_reason.nested in {summary}"))?;
    if nested.is_null() {
        return Ok(0);
    }
    let number = nested.as_u64();
    number.with_context(|| format!("nested is no number: {nested}"))
}

/// The number of transitions that connections prove to be missing and that nobody counted as lost. On some machines the
/// kernel runs no program at all while a thread of process 1 is the current task, and counts nothing then: `ftrace`
/// shows these transitions, no BPF tool does.
fn shown_to_nobody(summary: &Value) -> u64 {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let missing = number(&summary["connections"]["missing_inferred"]);
    missing.saturating_sub(number(&summary["accounting"]["lost"]))
}

/// The multiset of `transition` lines.
pub fn multiset(lines: &[Value]) -> Result<Multiset> {
    let mut set = Multiset::new();
    for line in lines {
        *set.entry(transition(line).with_context(|| line.to_string())?)
            .or_default() += 1;
    }
    Ok(set)
}

fn transition(line: &Value) -> Result<Transition> {
    let port = |name: &str| -> Result<u16> {
        // A port that has not been chosen yet is null here and 0 in the kernel.
        Ok(u16::try_from(line[name].as_u64().unwrap_or(0))?)
    };
    let addr = |name: &str| -> Result<IpAddr> {
        Ok(line[name]
            .as_str()
            .with_context(|| format!("no {name}"))?
            .parse()?)
    };
    Ok(Transition {
        oldstate: state(&line["oldstate"])?,
        newstate: state(&line["newstate"])?,
        local: (addr("laddr")?, port("lport")?).into(),
        remote: (addr("raddr")?, port("rport")?).into(),
    })
}

/// Parses a state from JSON.
pub fn state(value: &Value) -> Result<State> {
    let name = value
        .as_str()
        .with_context(|| format!("{value} is not a state"))?;
    State::from_name(name).with_context(|| format!("no state {name}"))
}
