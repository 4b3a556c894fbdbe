//! The oracle: bpftrace counting in the kernel on the same tracepoint.
//!
//! It shares only the tracepoint with `tcpstate`, and reads the fields of the classic record by their
//! names in the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener},
    process::{Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tcpstate_common::State;

use crate::{
    need::{ATTEMPTS, Need},
    net::{Netns, PATIENCE, await_that, unused_port},
    process::{Running, add_skipped},
    transitions::{Multiset, Transition},
};

/// The requirements of the oracle.
pub const NEEDS: [Need; 2] = [Need::Tracefs, Need::Program("bpftrace")];

/// A running bpftrace.
pub struct Oracle {
    child: Running,
    lines: Receiver<io::Result<String>>,
    /// A transition on this port ends it. A signal is not reliable: bpftrace 0.17 notices signals only while
    /// it waits, and loses one that comes a moment earlier.
    stop: Bell,
}

/// A port of the oracle, on which transitions are messages to the script.
struct Bell {
    netns: Netns,
    port: u16,
}

impl Bell {
    fn new() -> Result<Self> {
        Ok(Self {
            netns: Netns::new()?,
            port: unused_port(),
        })
    }

    fn ring(&self) -> Result<()> {
        self.netns
            .run(|| Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, self.port))?))
            .map(drop)
    }
}

impl Oracle {
    /// Starts to watch the TCP transitions with this port on either side, and returns when the probe is
    /// known to fire.
    ///
    /// It can count `keys` distinct transitions; a larger number costs memory and time at the start.
    pub fn start(port: u16, keys: u32) -> Result<Self> {
        let (start, stop) = (Bell::new()?, Bell::new()?);
        // The scalar shows whether the map was large enough for all.
        let script = format!(
            "tracepoint:sock:inet_sock_set_state /args->protocol == 6/ {{
                if (args->sport == {}) {{ printf(\"attached\\n\"); }}
                if (args->sport == {}) {{ exit(); }}
                if (args->sport == {port} || args->dport == {port}) {{
                    @total = count();
                    @tasks[comm] = count();
                    @transitions[args->oldstate, args->newstate, args->sport, args->dport,
                        ntop(10, args->saddr_v6), ntop(10, args->daddr_v6)] = count();
                }}
            }}",
            start.port, stop.port
        );
        let mut command = Command::new("bpftrace");
        command
            .args(["-B", "line", "-f", "json", "-e", &script])
            // The name has changed between versions.
            .env("BPFTRACE_MAP_KEYS_MAX", keys.to_string())
            .env("BPFTRACE_MAX_MAP_KEYS", keys.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = Running::new(&mut command)?;
        let stdout = child.stdout.take().context("bpftrace without a stdout")?;
        let (sender, lines) = channel();
        // Ends with the pipe, or when the receiver is gone.
        thread::spawn(move || {
            BufReader::new(stdout)
                .lines()
                .try_for_each(|line| sender.send(line))
        });
        let mut oracle = Self { child, lines, stop };
        oracle.await_attached(&start)?;
        Ok(oracle)
    }

    /// Rings until bpftrace reacts: its BEGIN fires, and it prints `Attaching`, before its probes are
    /// attached.
    fn await_attached(&mut self, bell: &Bell) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            bell.ring()?;
            match self.lines.recv_timeout(Duration::from_millis(20)) {
                Ok(line) => {
                    if line?.contains("attached\\n") {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.child.kill()?;
        bail!("the oracle did not start; bpftrace: {}", self.stderr()?)
    }

    fn stderr(&mut self) -> Result<String> {
        let stderr = self.child.stderr.take().map(io::read_to_string);
        Ok(stderr.transpose()?.unwrap_or_default())
    }

    /// Stops, and returns the transitions seen, and the number of transitions of the whole host that the
    /// kernel did not show to the oracle because another BPF program was running on that CPU.
    pub fn stop(self) -> Result<(Multiset, u64)> {
        let stopped = self.stop_with_tasks()?;
        Ok((stopped.seen, stopped.missed))
    }

    /// Like [`Oracle::stop`], and also returns the tasks during which the transitions were made.
    pub fn stop_with_tasks(mut self) -> Result<Stopped> {
        let missed = recursion_misses(self.child.id())?;
        add_skipped(missed);
        await_that("bpftrace ends", || {
            self.stop.ring()?;
            Ok(self.child.try_wait()?.is_some())
        })?;
        let stderr = self.stderr()?;
        let status = self.child.wait()?;
        ensure!(status.success(), "bpftrace ended with {status}: {stderr}");
        ensure!(
            !stderr.contains("Lost "),
            "the oracle itself lost events: {stderr}"
        );

        let (mut seen, mut total, mut tasks) = (Multiset::new(), 0, BTreeMap::new());
        for line in &self.lines {
            let line = line?;
            // bpftrace ends its output with empty lines.
            if line.is_empty() {
                continue;
            }
            let line: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
            if let Some(count) = line["data"]["@total"].as_u64() {
                total = count;
            }
            for (name, count) in line["data"]["@tasks"].as_object().into_iter().flatten() {
                tasks.insert(name.clone(), count.as_u64().context("no count")?);
            }
            for (key, count) in line["data"]["@transitions"]
                .as_object()
                .into_iter()
                .flatten()
            {
                let count = count.as_u64().with_context(|| format!("count of {key}"))?;
                let before = seen.insert(parse(key).with_context(|| key.clone())?, count);
                ensure!(before.is_none(), "{key} twice");
            }
        }
        let kept: u64 = seen.values().sum();
        ensure!(
            kept == total,
            "the oracle itself missed {} of {total}: its map is full",
            total - kept
        );
        Ok(Stopped {
            seen,
            missed,
            tasks,
        })
    }
}

/// The results of an oracle.
pub struct Stopped {
    pub seen: Multiset,
    /// The number of transitions of the whole host that it was not shown.
    pub missed: u64,
    /// The number of transitions made during each task.
    pub tasks: BTreeMap<String, u64>,
}

/// `oldstate,newstate,sport,dport,saddr,daddr`.
fn parse(key: &str) -> Result<Transition> {
    let fields: Vec<_> = key.split(',').map(str::trim).collect();
    let [old, new, sport, dport, saddr, daddr] = fields[..] else {
        bail!("six fields")
    };
    let addr = |text: &str| -> Result<IpAddr> { Ok(text.parse::<Ipv6Addr>()?.to_canonical()) };
    Ok(Transition {
        oldstate: State(old.parse()?),
        newstate: State(new.parse()?),
        local: (addr(saddr)?, sport.parse()?).into(),
        remote: (addr(daddr)?, dport.parse()?).into(),
    })
}

/// The number of times that the kernel skipped the process's BPF programs because one was already running.
/// Kernels that do not count this have no such line, and give 0.
pub fn recursion_misses(pid: u32) -> Result<u64> {
    let mut misses = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may have been closed meanwhile.
        let info = fs::read_to_string(entry?.path()).unwrap_or_default();
        for line in info.lines() {
            if let Some(count) = line.strip_prefix("recursion_misses:") {
                misses += count.trim().parse::<u64>()?;
            }
        }
    }
    Ok(misses)
}

/// Repeats an attempt that returns `None` if it could not come to a result, because the kernel skipped runs of a BPF
/// program for its traffic, or because the machine was too busy for it. Returns `None` if no attempt came to one.
///
/// Nothing else may cause a repetition: any other problem of an attempt is an error.
pub fn attempts<T>(mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    for _ in 0..ATTEMPTS {
        if let Some(seen) = attempt()? {
            return Ok(Some(seen));
        }
    }
    Ok(None)
}

/// Checks that two observers differ by no more than the transitions that the kernel did not show to one of them, by its
/// count of the whole host: `missed` to the oracle, `nested` to `tcpstate`.
pub fn check_agree(oracle: &Multiset, missed: u64, ours: &Multiset, nested: u64) -> Result<()> {
    ensure!(
        surplus(oracle, ours) <= nested && surplus(ours, oracle) <= missed,
        "not shown: to the oracle {missed}, to tcpstate {nested}; {}",
        difference(oracle, ours)
    );
    Ok(())
}

/// The transitions that at least one of two observers saw.
pub fn union(these: &Multiset, others: &Multiset) -> Multiset {
    let mut all = these.clone();
    for (key, &count) in others {
        let seen = all.entry(*key).or_default();
        *seen = count.max(*seen);
    }
    all
}

/// Lists the differences between two observers, one transition per line.
pub fn difference(oracle: &Multiset, ours: &Multiset) -> String {
    let count = |set: &Multiset, key| set.get(key).copied().unwrap_or(0);
    let keys: BTreeSet<_> = oracle.keys().chain(ours.keys()).collect();
    let lines: Vec<_> = keys
        .into_iter()
        .filter(|key| count(oracle, key) != count(ours, key))
        .map(|key| {
            format!(
                "{} -> {}, {} -> {}: oracle {}, tcpstate {}",
                key.local,
                key.remote,
                key.oldstate,
                key.newstate,
                count(oracle, key),
                count(ours, key)
            )
        })
        .collect();
    let shown = lines.iter().take(20).map(String::as_str);
    let shown = shown.collect::<Vec<_>>().join("\n");
    format!("{} transitions differ; the first are\n{shown}", lines.len())
}

/// The number of transitions in `these` that are not in `others`.
pub fn surplus(these: &Multiset, others: &Multiset) -> u64 {
    these
        .iter()
        .map(|(key, count)| count.saturating_sub(others.get(key).copied().unwrap_or(0)))
        .sum()
}

/// The same by states alone.
pub fn by_states(set: &Multiset) -> BTreeMap<(State, State), u64> {
    let mut states = BTreeMap::new();
    for (transition, count) in set {
        *states
            .entry((transition.oldstate, transition.newstate))
            .or_default() += count;
    }
    states
}
