//! A second oracle: ftrace, in an instance of its own on the same tracepoint.
//!
//! It is no BPF program, so the kernel never skips it. It names the task on top of which each transition was made.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{ErrorKind, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tcpstate_common::State;

use crate::{
    net::{await_that, joined},
    transitions::{Multiset, Transition},
};

const TRACEFS: &str = "/sys/kernel/tracing";

/// A running instance.
pub struct Ftrace {
    instance: Instance,
    progress: Arc<Progress>,
    reader: JoinHandle<Result<Seen>>,
}

/// The transitions that it saw.
#[derive(Default)]
pub struct Seen {
    pub visible: Multiset,
    /// Those made on top of a thread of PID 1: on some machines the kernel runs no BPF program there, and counts none
    /// as skipped.
    pub hidden: Multiset,
}

impl Seen {
    pub fn all(&self) -> Multiset {
        let mut all = self.visible.clone();
        for (transition, count) in &self.hidden {
            *all.entry(*transition).or_default() += count;
        }
        all
    }
}

/// The reader's news while it reads.
#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    /// Transitions read.
    counted: AtomicU64,
    /// The number of times that nothing was left to read.
    emptied: AtomicU64,
}

/// A directory in `instances`, removed in the end.
struct Instance(PathBuf);

impl Instance {
    fn write(&self, file: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let path = self.0.join(file);
        fs::write(&path, text).with_context(|| path.display().to_string())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.write("events/enable", "0");
        let _ = fs::remove_dir(&self.0);
    }
}

/// Removes the instances of processes that were killed: they cost time at every transition of the host.
fn remove_left_behind() {
    let entries = fs::read_dir(Path::new(TRACEFS).join("instances"));
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| {
            let (pid, _) = name.strip_prefix("tcpstate-")?.split_once('-')?;
            pid.parse::<u32>().ok()
        });
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            drop(Instance(entry.path()));
        }
    }
}

const EVENT: &str = "events/sock/inet_sock_set_state";

impl Ftrace {
    /// Watches the TCP transitions with this port on either side, with a buffer of this size on each CPU.
    pub fn start(port: u16, buffer_kib: u32) -> Result<Self> {
        remove_left_behind();
        let pid = std::process::id();
        let path = Path::new(TRACEFS).join(format!("instances/tcpstate-{pid}-{port}"));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let instance = Instance(path);
        instance.write("buffer_size_kb", buffer_kib.to_string())?;
        let filter = format!("protocol == 6 && (sport == {port} || dport == {port})");
        instance.write(&format!("{EVENT}/filter"), filter)?;
        instance.write(&format!("{EVENT}/enable"), "1")?;
        let pipe = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(instance.0.join("trace_pipe"))?;
        let progress = Arc::<Progress>::default();
        let reader = thread::spawn({
            let progress = Arc::clone(&progress);
            move || read(pipe, &progress)
        });
        Ok(Self {
            instance,
            progress,
            reader,
        })
    }

    /// Reads everything up to now, so that the buffer never overflows. Returns the number of transitions read.
    pub fn catch_up(&self) -> Result<u64> {
        let emptied = || self.progress.emptied.load(Ordering::Acquire);
        // The one that is under way may have begun before.
        let enough = emptied() + 2;
        await_that("ftrace has been read", || {
            Ok(emptied() >= enough || self.reader.is_finished())
        })?;
        Ok(self.progress.counted.load(Ordering::Relaxed))
    }

    /// Stops, and returns everything it saw.
    pub fn stop(self) -> Result<Seen> {
        self.instance.write(&format!("{EVENT}/enable"), "0")?;
        self.progress.stop.store(true, Ordering::Release);
        let seen = joined(self.reader.join())?;
        for entry in fs::read_dir(self.instance.0.join("per_cpu"))? {
            let stats = fs::read_to_string(entry?.path().join("stats"))?;
            for name in ["overrun", "dropped events"] {
                let none = format!("\n{name}: 0\n");
                ensure!(stats.contains(&none), "ftrace lost some itself: {stats}");
            }
        }
        Ok(seen)
    }
}

/// A count of the transitions of the host that are made on top of a thread of PID 1: see [`Seen::hidden`].
pub struct Hidden(Instance);

impl Hidden {
    /// Counts from now on. `None`: there is no ftrace here.
    pub fn watch() -> Option<Self> {
        let pid = std::process::id();
        let path = Path::new(TRACEFS).join(format!("instances/tcpstate-{pid}-hidden"));
        fs::create_dir(&path).ok()?;
        let instance = Instance(path);
        let threads = threads_of_first().ok()?.into_iter();
        let threads: Vec<_> = threads.map(|id| format!("common_pid == {id}")).collect();
        let filter = format!("protocol == 6 && ({})", threads.join(" || "));
        instance.write("buffer_size_kb", "64").ok()?;
        instance.write(&format!("{EVENT}/filter"), filter).ok()?;
        instance.write(&format!("{EVENT}/enable"), "1").ok()?;
        Some(Self(instance))
    }

    /// The count up to now; as many as the buffer holds.
    pub fn count(&self) -> u64 {
        let trace = fs::read_to_string(self.0.0.join("trace")).unwrap_or_default();
        let lines = trace.lines();
        lines
            .filter(|line| line.contains(": inet_sock_set_state: "))
            .count() as u64
    }
}

/// Reads until it is told to stop and there is nothing left.
fn read(mut pipe: fs::File, progress: &Progress) -> Result<Seen> {
    let states = State::ALL.map(|state| (format!("TCP_{state}"), state));
    let states = BTreeMap::from(states);
    let mut first = BTreeSet::new();
    first.extend(threads_of_first()?);
    let mut seen = Seen::default();
    let (mut buffer, mut rest) = (vec![0; 1 << 16], String::new());
    loop {
        let stops = progress.stop.load(Ordering::Acquire);
        match pipe.read(&mut buffer) {
            Ok(0) => {}
            Ok(length) => {
                rest.push_str(&String::from_utf8_lossy(&buffer[..length]));
                let end = rest.rfind('\n').map_or(0, |at| at + 1);
                for line in rest[..end].lines() {
                    let (task, transition) =
                        parse(line, &states).with_context(|| line.to_owned())?;
                    let into = if first.contains(&task) {
                        &mut seen.hidden
                    } else {
                        &mut seen.visible
                    };
                    *into.entry(transition).or_default() += 1;
                    progress.counted.fetch_add(1, Ordering::Relaxed);
                }
                rest.drain(..end);
                continue;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("trace_pipe"),
        }
        if stops {
            return Ok(seen);
        }
        progress.emptied.fetch_add(1, Ordering::Release);
        first.extend(threads_of_first()?);
        thread::sleep(Duration::from_millis(2));
    }
}

fn threads_of_first() -> Result<Vec<u32>> {
    let names = fs::read_dir("/proc/1/task")?.map(|entry| Ok(entry?.file_name()));
    let names = names.collect::<Result<Vec<_>>>()?;
    Ok(names
        .iter()
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect())
}

/// `COMM-PID [CPU] FLAGS TIME: inet_sock_set_state: NAME=VALUE ...`, where COMM may contain anything.
fn parse(line: &str, states: &BTreeMap<String, State>) -> Option<(u32, Transition)> {
    let (head, fields) = line.split_once(": inet_sock_set_state: ")?;
    let (task, _) = head.rsplit_once(" [")?;
    let pid = task.rsplit_once('-')?.1.trim().parse().ok()?;
    let of = |name: &str| {
        let mut words = fields.split(' ').filter_map(|word| word.split_once('='));
        words.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let state = |name: &str| states.get(of(name)?).copied();
    let end = |port: &str, v4: &str, v6: &str| {
        let address: std::net::Ipv6Addr = match of("family")? {
            "AF_INET" => of(v4)?.parse::<std::net::Ipv4Addr>().ok()?.to_ipv6_mapped(),
            _ => of(v6)?.parse().ok()?,
        };
        Some((address.to_canonical(), of(port)?.parse().ok()?).into())
    };
    Some((
        pid,
        Transition {
            oldstate: state("oldstate")?,
            newstate: state("newstate")?,
            local: end("sport", "saddr", "saddrv6")?,
            remote: end("dport", "daddr", "daddrv6")?,
        },
    ))
}
