//! A long run under mixed load: nothing grows, and the books are exact at the end.
//!
//! `cargo xtask soak --minutes N` runs it; without [`MINUTES`] it is skipped, whatever else is required.
//!
//! Growth is allowed in the first third of the time, in which tables fill and `TIME_WAIT` reaches its number
//! of sockets. In the last third the memory in use must not exceed that of the second third by more than a
//! twentieth and [`SLACK_BYTES`]. The memory in use is the level that is exceeded only for [`PEAKS`], and by at
//! most half, because the result of dumping many minisockets is queued for a moment. The minimum numbers of
//! files, threads and maps must be the same in the last third as in the second; the minimum counts because
//! the sampler has a namespace and a socket open during a dump.
//!
//! `life --until gone` keeps each connection that `life` has shown, until it is gone. Each may take at most
//! [`WAITING_BYTES`], and no more may wait than are in `TIME_WAIT` or left it in [`SAMPLED`].

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{ChildStderr, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::{
    net::{Netns, drop_incoming, joined, reset, unused_port},
    process::{BINARY, Running, await_exit, check_books, has_result, interrupt},
    traffic::storm,
};

/// The variable with the duration.
const MINUTES: &str = "TCPSTATE_SOAK_MINUTES";
/// The variation of memory that is always allowed, for the allocator's free lists.
const SLACK_BYTES: u64 = 2 << 20;
/// The time in each third of the run for which more memory may be in use.
const PEAKS: Duration = Duration::from_secs(4);
/// The memory that each connection may take that waits to be shown, in the sampler, the tracker and the view together.
/// Those are the connections in `TIME_WAIT` and `FIN_WAIT2`, and those that have left it since the last sample.
const WAITING_BYTES: u64 = 200;
/// The memory of another kind that it may take: a thread, and a dump.
const SAMPLING_BYTES: u64 = 4 << 20;
/// The longest time between two samples: with a million in `TIME_WAIT`, one takes the fiftieth part of that.
const SAMPLED: Duration = Duration::from_mins(1);
/// The interval at which the holdings of the processes are read.
const READ_INTERVAL: Duration = Duration::from_millis(500);

pub fn add(trials: &mut Vec<Trial>) {
    let Ok(minutes) = env::var(MINUTES) else {
        eprintln!("soak: skipped: `cargo xtask soak` runs it");
        trials.push(Trial::test("soak", || Ok(())).with_ignored_flag(true));
        return;
    };
    // Not a `trial`, whose time limit would end it.
    trials.push(Trial::test("soak", move || {
        let minutes: u64 = minutes.parse().map_err(|_| Failed::from(MINUTES))?;
        soak(Duration::from_secs(60 * minutes)).map_err(|error| Failed::from(format!("{error:#}")))
    }));
}

/// A load, which repeats an action at a rate, and counts its repetitions.
struct Load {
    name: &'static str,
    /// Repetitions per second.
    rate: u32,
    done: AtomicU64,
}

impl Load {
    const fn new(name: &'static str, rate: u32) -> Self {
        Self {
            name,
            rate,
            done: AtomicU64::new(0),
        }
    }

    /// Repeats the action at its rate until `ended`. Delays are not made up for, so that a slow machine is not
    /// driven harder.
    fn run(&self, ended: &AtomicBool, mut go: impl FnMut(u64) -> Result<()>) -> Result<()> {
        let interval = Duration::from_secs(1) / self.rate;
        let mut next = Instant::now();
        while !ended.load(Ordering::Relaxed) {
            go(self.done.fetch_add(1, Ordering::Relaxed)).context(self.name)?;
            next = (next + interval).max(Instant::now());
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }
}

/// The loopback address with this number. Many addresses are used, so that a new connection seldom meets
/// the `TIME_WAIT` of an earlier one.
fn address(number: u64) -> Ipv4Addr {
    Ipv4Addr::new(
        127,
        0,
        1,
        u8::try_from(number % 200).unwrap_or_default() + 1,
    )
}

/// Connects, accepts and closes, from either end in turn, and every twentieth connection by a reset.
fn churn(load: &Load, ended: &AtomicBool, port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    load.run(ended, |number| {
        let client = TcpStream::connect((address(number), port))?;
        let (server, _) = listener.accept()?;
        match number % 20 {
            0 => reset(client),
            1..10 => {
                drop((client, server));
                Ok(())
            }
            _ => {
                drop((server, client));
                Ok(())
            }
        }
    })
}

/// Makes half-open connections: the last ACK of each handshake is dropped, and so is the reset after it.
fn half_open(load: &Load, ended: &AtomicBool, port: u16) -> Result<()> {
    drop_incoming(&[&format!("tcp dport {port} tcp flags & (syn|ack) == ack")])?;
    // They are closed after a second: the backlog must not fill, or `connect` would wait.
    fs::write("/proc/sys/net/ipv4/tcp_synack_retries", "0")?;
    let listener = crate::net::socket(rustix::net::AddressFamily::INET, None)?;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    rustix::net::bind(&listener, &addr)?;
    rustix::net::listen(&listener, 4096)?;
    load.run(ended, |_| reset(TcpStream::connect(addr)?))
}

/// The memory, files, threads and maps of a process.
#[derive(Clone, Copy, Debug)]
struct Holdings {
    rss_bytes: u64,
    /// Without the links of BPF programs: the second program is attached and detached as the load asks for it.
    files: usize,
    threads: usize,
    maps: usize,
}

impl Holdings {
    fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss_kib: u64 = rss
            .and_then(|rss| rss.trim().strip_suffix(" kB"))
            .context("VmRSS")?
            .parse()?;
        let count = |folder: &str| -> Result<usize> {
            Ok(fs::read_dir(format!("/proc/{pid}/{folder}"))?.count())
        };
        let mut maps = BTreeSet::new();
        let mut links = 0;
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // A file may have been closed meanwhile.
            let info = fs::read_to_string(entry?.path()).unwrap_or_default();
            links += usize::from(info.lines().any(|line| line.starts_with("link_type:")));
            let id = info.lines().find_map(|line| line.strip_prefix("map_id:"));
            maps.extend(id.map(str::to_owned));
        }
        Ok(Self {
            rss_bytes: rss_kib << 10,
            files: count("fd")?.saturating_sub(links),
            threads: count("task")?,
            maps: maps.len(),
        })
    }
}

/// A process whose holdings are watched.
struct Watched {
    command: &'static str,
    child: Running,
    stderr: BufReader<ChildStderr>,
    /// The number of lines that it has written.
    lines: Arc<AtomicU64>,
    /// The last of them.
    output: JoinHandle<Result<String>>,
    seen: Vec<Holdings>,
}

impl Watched {
    fn start(command: &'static str, more: &[&str], netns: &str) -> Result<Self> {
        let mut child = Running::new(
            Command::new(BINARY)
                .args(command.split(' '))
                .args(more)
                .args(["--json", "-v", "--netns", netns])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        )?;
        let stdout = child.stdout.take().context("stdout")?;
        let lines = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lines);
        let output = thread::spawn(move || {
            let mut last = String::new();
            for line in BufReader::new(stdout).lines() {
                last = line?;
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(last)
        });
        let mut stderr = BufReader::new(child.stderr.take().context("stderr")?);
        let mut messages = String::new();
        stderr.read_line(&mut messages)?;
        ensure!(messages.contains("attached"), "{command}: {messages}");
        Ok(Self {
            command,
            child,
            stderr,
            lines,
            output,
            seen: Vec::new(),
        })
    }

    fn read_holdings(&mut self) -> Result<()> {
        let holdings = Holdings::of(self.child.id());
        self.seen.push(holdings.context(self.command)?);
        Ok(())
    }

    /// Ends it. Returns its summary and its standard error.
    fn end(mut self) -> Result<(Value, String)> {
        interrupt(&self.child)?;
        let status = await_exit(&mut self.child)?;
        let stderr = std::io::read_to_string(self.stderr)?;
        let last = joined(self.output.join())?;
        let lines = self.lines.load(Ordering::Relaxed);
        let context = || format!("{}: {status}, {lines} lines: {last} {stderr}", self.command);
        ensure!(has_result(status), "{}", context());
        let summary = serde_json::from_str(&last).with_context(context)?;
        check_books(&summary).with_context(context)?;
        check_flat(&self.seen).with_context(|| self.command.to_owned())?;
        Ok((summary, stderr))
    }
}

/// The memory in use in KiB, at about thirty times.
fn samples(seen: &[Holdings]) -> Vec<u64> {
    let some = seen.iter().step_by((seen.len() / 30).max(1));
    some.map(|one| one.rss_bytes >> 10).collect()
}

/// The memory in bytes that is exceeded only for [`PEAKS`], and the maximum.
fn in_use(seen: &[Holdings]) -> (u64, u64) {
    let mut bytes: Vec<_> = seen.iter().map(|one| one.rss_bytes).collect();
    bytes.sort_unstable();
    let peaks = usize::try_from(PEAKS.as_millis() / READ_INTERVAL.as_millis()).unwrap_or(0);
    let last = bytes.len() - 1;
    (bytes[last.saturating_sub(peaks)], bytes[last])
}

fn check_flat(seen: &[Holdings]) -> Result<()> {
    let third = seen.len() / 3;
    ensure!(third > 0, "too few readings");
    let (middle, _) = in_use(&seen[third..2 * third]);
    let (end, most) = in_use(&seen[2 * third..]);
    ensure!(
        end <= middle + middle / 20 + SLACK_BYTES && most <= end + end / 2,
        "the memory grows: {middle} bytes, then {end}, at most {most}; KiB: {:?}",
        samples(seen)
    );
    let [warm, last] = [&seen[third..2 * third], &seen[2 * third..]].map(|third| {
        let fewest = |count: fn(&Holdings) -> usize| third.iter().map(count).min();
        [
            fewest(|one| one.files),
            fewest(|one| one.threads),
            fewest(|one| one.maps),
        ]
    });
    ensure!(
        warm == last,
        "the files, threads and maps differ: {warm:?}, then {last:?}"
    );
    Ok(())
}

/// The number of sockets in `TIME_WAIT` in the namespace of the calling thread.
fn time_wait() -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/sockstat")?;
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"));
    let mut words = line.context("no TCP in sockstat")?.split_whitespace();
    words.find(|&word| word == "tw").context("no tw")?;
    Ok(words.next().context("no number")?.parse()?)
}

fn soak(length: Duration) -> Result<()> {
    let netns = Netns::new()?;
    // A short run has the number of sockets in `TIME_WAIT` that it reaches after a third of it; a long one has a
    // million if the machine makes 17,000 connections per second.
    let is_long = length > Duration::from_mins(3);
    let (time_waits, churn_rate) = if is_long {
        ("1000000", 12_000)
    } else {
        ("20000", 1_500)
    };
    netns.run(|| {
        // Many ports for clients, but none that `unused_port` returns: a client with such a port would keep a load
        // from binding it, or connect to itself.
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "30000 65535")?;
        Ok(fs::write(
            "/proc/sys/net/ipv4/tcp_max_tw_buckets",
            time_waits,
        )?)
    })?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("soak.rec");
    let mut watched = start_all(&file, &netns)?;
    let ports = [(); 5].map(|()| unused_port());
    let loads = [
        Load::new("churn", churn_rate),
        Load::new("churn from another thread", churn_rate),
        Load::new("ten listen and shutdown", 500),
        Load::new("half-open", 200),
        Load::new("refused", 500),
    ];
    let (ended, start) = (AtomicBool::new(false), Instant::now());
    let (most_in_time_wait, most_waiting) = thread::scope(|scope| {
        let (netns, ended) = (&netns, &ended);
        let threads: Vec<_> = loads
            .iter()
            .zip(ports)
            .enumerate()
            .map(|(which, (load, port))| {
                scope.spawn(move || {
                    netns.run(|| match which {
                        0 | 1 => churn(load, ended, port),
                        2 => load.run(ended, |_| storm(port, 10)),
                        3 => half_open(load, ended, port),
                        _ => load.run(ended, |number| {
                            let result = TcpStream::connect((address(number), port));
                            ensure!(result.is_err(), "a socket listens on the port");
                            Ok(())
                        }),
                    })
                })
            })
            .collect();
        let mut watch = || -> Result<(u64, u64)> {
            let (mut most, mut most_waiting) = (0, 0);
            while start.elapsed() < length {
                thread::sleep(READ_INTERVAL);
                watched.iter_mut().try_for_each(Watched::read_holdings)?;
                most = most.max(netns.run(time_wait)?);
                let lines =
                    |command| anyhow::Ok(find(&watched, command)?.lines.load(Ordering::Relaxed));
                if start.elapsed() > 2 * length / 3 {
                    let waiting = lines(LIFE)?.saturating_sub(lines(UNTIL_GONE)?);
                    most_waiting = most_waiting.max(waiting);
                }
                ensure!(
                    !threads.iter().any(thread::ScopedJoinHandle::is_finished),
                    "a load has ended"
                );
            }
            Ok((most, most_waiting))
        };
        let result = watch();
        ended.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .try_for_each(|thread| joined(thread.join()))?;
        result
    })?;
    for load in &loads {
        eprintln!("{}: {}", load.name, load.done.load(Ordering::Relaxed));
    }
    let left = 2 * u64::from(churn_rate) * SAMPLED.as_secs();
    check_waiting(&watched, most_waiting, most_in_time_wait, left)?;
    for process in watched {
        let (command, seen) = (process.command, process.seen.clone());
        let (summary, messages) = process.end()?;
        ensure!(
            messages.contains("is visible from here") == (command == OUT_OF_REACH),
            "{command}: {messages}"
        );
        eprintln!(
            "{command}: {}; KiB: {:?}",
            summary["accounting"],
            samples(&seen)
        );
    }
    Ok(())
}

/// Checks the number of connections that wait to be shown, where so many may have `left` `TIME_WAIT` since the last
/// sample, and the memory that they take.
fn check_waiting(watched: &[Watched], waiting: u64, in_time_wait: u64, left: u64) -> Result<()> {
    eprintln!("at most {in_time_wait} in TIME_WAIT, {waiting} waiting to be shown");
    ensure!(
        waiting <= in_time_wait + left,
        "{waiting} wait, of which {in_time_wait} are in TIME_WAIT"
    );
    let end_of = |command| {
        let seen = &find(watched, command)?.seen;
        anyhow::Ok(in_use(&seen[2 * seen.len() / 3..]).0)
    };
    let bytes = end_of(UNTIL_GONE)?.saturating_sub(end_of(LIFE)?);
    eprintln!("{UNTIL_GONE}: {bytes} bytes more than {LIFE}");
    ensure!(
        bytes <= waiting * WAITING_BYTES + SAMPLING_BYTES,
        "{UNTIL_GONE} takes {bytes} bytes more than {LIFE} for {waiting} connections that wait"
    );
    Ok(())
}

fn find<'a>(watched: &'a [Watched], command: &str) -> Result<&'a Watched> {
    let process = watched.iter().find(|one| one.command == command);
    process.context("a command that is watched")
}

/// The command that cannot dump sockets.
const OUT_OF_REACH: &str = "rates 1s --by role";

/// The command that shows a connection at its transition to CLOSE, and that which shows it when it is gone.
const LIFE: &str = "life";
const UNTIL_GONE: &str = "life --until gone";

/// Starts all commands, and `rates` again without access to the namespace: only a file and single threads
/// hold it, so that a process that knows only its number cannot find it.
fn start_all(file: &Path, netns: &Netns) -> Result<Vec<Watched>> {
    let file = file.to_str().context("a path in UTF-8")?;
    let (path, inode) = (netns.path(), netns.inode()?.to_string());
    let netns = path.to_str().context("a path in UTF-8")?;
    Ok(vec![
        Watched::start(OUT_OF_REACH, &[], &inode)?,
        Watched::start("rates 1s", &[], netns)?,
        Watched::start(LIFE, &[], netns)?,
        Watched::start(UNTIL_GONE, &[], netns)?,
        Watched::start(
            "record",
            &["-w", file, "--max-bytes", "4M", "--rotate", "2"],
            netns,
        )?,
    ])
}
