//! Tools as processes: starts one, waits until it watches, ends it, and measures its cost meanwhile.
//!
//! The figures are the same for tcpstate and the peers: those of the kernel for the process and for its BPF
//! programs, never a tool's own.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileExt as _, OpenOptionsExt as _},
            process::ExitStatusExt as _,
        },
    },
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

/// The tcpstate binary of the same build as this benchmark.
pub const TCPSTATE: &str = env!("CARGO_BIN_EXE_tcpstate");
/// The limit for every wait: it turns a hang into a message.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// The time within which a tool has counted what happened before.
const COUNTED: Duration = Duration::from_millis(200);
/// The interval of polling where the kernel has no event to wait for.
const LOOK: Duration = Duration::from_millis(5);

/// The sign that a tool watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// Its BPF program runs when there is a transition.
    Runs,
    /// It writes this to standard error.
    Says(&'static str),
}

/// A running tool.
pub struct Running {
    child: Child,
    name: String,
    output: File,
    errors: File,
    ready: Ready,
    /// Whether the tool may miss a signal at a bad moment, as bpftrace does. tcpstate must not get a second
    /// signal, which ends it without a summary.
    overhears: bool,
    cpu_when_ready: Duration,
    ended: bool,
}

/// The results of a tool that has ended.
pub struct Ended {
    /// CPU time from the moment it watched to its end, including its last output.
    pub cpu: Duration,
    pub output: String,
    pub errors: String,
}

/// The figures of one BPF program, or the sums over those of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramRuns {
    pub run_ns: u64,
    pub run_count: u64,
    /// Number of runs that the kernel skipped because the program was already running on that CPU.
    pub recursion_misses: u64,
}

impl Running {
    /// Starts it with its output in unnamed files, and waits until it watches.
    pub fn start(name: &str, mut command: Command, ready: Ready) -> Result<Self> {
        let output = tempfile::tempfile()?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?);
        Self::watching(name, command, ready, output)
    }

    /// Starts it on a terminal of its own, which takes what is drawn on it, and waits until it watches. It has no output.
    #[cfg(feature = "top")]
    pub fn start_on_terminal(name: &str, mut command: Command, ready: Ready) -> Result<Self> {
        let terminal = terminal()?;
        command
            .env("TERM", "xterm")
            .stdin(terminal.try_clone()?)
            .stdout(terminal);
        Self::watching(name, command, ready, tempfile::tempfile()?)
    }

    fn watching(name: &str, mut command: Command, ready: Ready, output: File) -> Result<Self> {
        let errors = tempfile::tempfile()?;
        command.stderr(errors.try_clone()?);
        let child = command
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let mut running = Self {
            child,
            name: name.to_owned(),
            output,
            errors,
            ready,
            overhears: command.get_program() != TCPSTATE,
            cpu_when_ready: Duration::ZERO,
            ended: false,
        };
        running.await_ready()?;
        running.cpu_when_ready = running.cpu()?;
        Ok(running)
    }

    /// Its CPU time during this work, in percent of a core, until it has counted what the work made: without its start, and
    /// without what it does once, at its end. `work` returns the time that it took.
    pub fn percent_during(
        &self,
        work: impl FnOnce() -> Result<Duration>,
    ) -> Result<(f64, Duration)> {
        let before = self.cpu()?;
        let took = work()?;
        thread::sleep(COUNTED);
        let spent = self.cpu()?.saturating_sub(before);
        Ok((100.0 * spent.as_secs_f64() / took.as_secs_f64(), took))
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn await_ready(&mut self) -> Result<()> {
        // Only while waiting, because counting has a cost of its own.
        let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime)
            .context("make the kernel count the runs of BPF programs (requires root)")?;
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.ended = true;
                let errors = contents(&self.errors)?;
                bail!("{} ended before it watched: {status}: {errors}", self.name);
            }
            match self.ready {
                Ready::Runs => {
                    let before = program_runs(self.id())?;
                    // Listening and closing are transitions.
                    drop(TcpListener::bind("127.0.0.1:0")?);
                    if program_runs(self.id())?.run_count > before.run_count {
                        return Ok(());
                    }
                }
                Ready::Says(words) => {
                    if contents(&self.errors)?.contains(words) {
                        return Ok(());
                    }
                }
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "{} does not watch after {PATIENCE:?}",
                self.name
            );
            thread::sleep(LOOK);
        }
    }

    /// The CPU time of all its threads up to now.
    pub fn cpu(&self) -> Result<Duration> {
        let mut sum_ns = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.id()))? {
            let path = thread?.path().join("schedstat");
            // A thread may have just ended.
            let text = fs::read_to_string(path).unwrap_or_default();
            let ran = text.split_ascii_whitespace().next();
            sum_ns += ran.and_then(|ran| ran.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(sum_ns))
    }

    /// The number of wakeups of its threads up to now.
    pub fn wakeups(&self) -> Result<u64> {
        let mut sum = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.id()))? {
            let text = fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
            let count = text
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            sum += count
                .and_then(|count| count.trim().parse::<u64>().ok())
                .unwrap_or(0);
        }
        Ok(sum)
    }

    /// Waits until it has processed all events: until it hardly uses CPU any more.
    pub fn await_quiet(&self) -> Result<()> {
        const WINDOW: Duration = Duration::from_millis(50);
        // A packet capture delivers its packets once a second.
        let enough = match self.ready {
            Ready::Runs => 3,
            Ready::Says(_) => 25,
        };
        let start = Instant::now();
        let (mut before, mut quiet) = (self.cpu()?, 0);
        while quiet < enough && start.elapsed() < PATIENCE {
            thread::sleep(WINDOW);
            let now = self.cpu()?;
            let busy = now.saturating_sub(before) > WINDOW / 50;
            quiet = if busy { 0 } else { quiet + 1 };
            before = now;
        }
        Ok(())
    }

    /// Ends it like Ctrl-C, after it has processed all events.
    pub fn end(mut self) -> Result<Ended> {
        self.await_quiet()?;
        let used = self.reap()?;
        Ok(Ended {
            cpu: used.saturating_sub(self.cpu_when_ready),
            output: contents(&self.output)?,
            errors: contents(&self.errors)?,
        })
    }

    /// Interrupts it, waits for its end, and returns its CPU time from its start.
    fn reap(&mut self) -> Result<Duration> {
        /// The time after which a signal counts as missed.
        const SOON: Duration = Duration::from_secs(1);
        let start = Instant::now();
        let mut interrupted = 0;
        loop {
            if interrupted == 0 || (self.overhears && start.elapsed() > interrupted * SOON) {
                kill_process(Pid::from_child(&self.child), Signal::INT)?;
                interrupted += 1;
            }
            if let Some((_, cpu)) = reaped(&self.child, libc::WNOHANG)
                .with_context(|| format!("wait for {}", self.name))?
            {
                self.ended = true;
                return Ok(cpu);
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "{} does not end at SIGINT",
                self.name
            );
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            // An error is being returned already.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The process's side of a new terminal of 80 columns and 24 rows.
#[cfg(feature = "top")]
fn terminal() -> Result<OwnedFd> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let size = Winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&master, size)?;
    let name = ptsname(&master, Vec::new())?;
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NOCTTY);
    let own = options.open(name.to_str()?)?;
    let mut other_side = File::from(master);
    // It ends when nobody has the process's side any more.
    thread::spawn(move || {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(1..) = other_side.read(&mut bytes) {}
    });
    Ok(own.into())
}

/// The results of a process that ran to its end.
pub struct Ran {
    /// CPU time of all its threads, user and system.
    pub cpu: Duration,
    pub output: String,
    pub errors: String,
}

/// Runs a process to its end, with its output in unnamed files: neither waits for the other.
///
/// *Errors:* it fails.
pub fn run_to_end(mut command: Command) -> Result<Ran> {
    let (output, errors) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(errors.try_clone()?);
    let child = command
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let ended = reaped(&child, 0).with_context(|| format!("wait for {command:?}"))?;
    let (status, cpu) = ended.context("no process")?;
    let (output, errors) = (contents(&output)?, contents(&errors)?);
    ensure!(status.success(), "{command:?}: {status}: {errors}");
    Ok(Ran {
        cpu,
        output,
        errors,
    })
}

/// The status and the CPU time of a process that has ended; `None` if it has not, with `WNOHANG`.
pub fn reaped(child: &Child, options: libc::c_int) -> Result<Option<(ExitStatus, Duration)>> {
    let mut status = 0;
    // SAFETY: all bytes zero is a `struct rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let pid = libc::pid_t::try_from(child.id())?;
    // SAFETY: `wait4` writes to both pointers, and both are to variables of the right type.
    let reaped = unsafe { libc::wait4(pid, &raw mut status, options, &raw mut usage) };
    if reaped == 0 {
        return Ok(None);
    }
    ensure!(reaped == pid, "{}", std::io::Error::last_os_error());
    let of = |time: libc::timeval| {
        Duration::new(time.tv_sec.cast_unsigned(), 1_000 * time.tv_usec as u32)
    };
    let cpu = of(usage.ru_utime) + of(usage.ru_stime);
    Ok(Some((ExitStatus::from_raw(status), cpu)))
}

/// Returns all output up to now. Reads by position, because the process writes at the position that it
/// shares with this file.
pub fn contents(file: &File) -> Result<String> {
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len())?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Sums the kernel's figures of the BPF programs that a process holds, each program once.
pub fn program_runs(pid: u32) -> Result<ProgramRuns> {
    let mut sum = ProgramRuns::default();
    for runs in programs(pid)?.into_values() {
        sum.run_ns += runs.run_ns;
        sum.run_count += runs.run_count;
        sum.recursion_misses += runs.recursion_misses;
    }
    Ok(sum)
}

/// The kernel's figures of each BPF program that a process holds, by the program's id.
pub fn programs(pid: u32) -> Result<BTreeMap<u64, ProgramRuns>> {
    let mut programs = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may have just been closed.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|value| value.trim().parse::<u64>().ok())
        };
        if let (Some(id), Some(run_ns), Some(run_count)) =
            (field("prog_id:"), field("run_time_ns:"), field("run_cnt:"))
        {
            let runs = ProgramRuns {
                run_ns,
                run_count,
                recursion_misses: field("recursion_misses:").unwrap_or(0),
            };
            programs.insert(id, runs);
        }
    }
    Ok(programs)
}
