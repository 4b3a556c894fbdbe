//! `scale`: a host with very many listeners, cgroups or network namespaces: the time until a command has something to
//! say, and what it takes meanwhile and later.
//!
//! They are made for real, one crowd after the other, and given back. tcpstate runs with the usual limit of 1,024 open
//! files, which is far below their number.

mod crowd;

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit},
    thread::{CapabilitySet, remove_capability_from_bounding_set},
};
use serde_json::Value;

use self::crowd::Crowd;
pub use self::crowd::{Kind, hold_here};
use crate::{
    Options,
    process::{TCPSTATE, contents, reaped},
    report::{Row, ratios},
};

/// The number of files that a process may have open, as usual.
const FILES: u64 = 1_024;
/// The limit for every wait.
const PATIENCE: Duration = Duration::from_mins(5);
/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(2);
/// The most files that it has open at any time, whatever the number of namespaces and sockets.
const MOST_FILES: usize = 64;
/// The case to which the others are compared.
const NOTHING: &str = "nothing";

/// A host with a crowd, or without one.
struct Host {
    what: String,
    kind: Option<Kind>,
    number: usize,
    /// The least number of listeners that there are then.
    listeners: usize,
    /// The least number of network namespaces.
    namespaces: usize,
}

/// A command that is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Rates,
    Ls,
    /// Where the kernel does not tell the name of a cgroup.
    LsWalking,
    Diagnose,
    Serve,
}

/// What one run of a command took.
struct Took {
    ms: f64,
    /// CPU time of the whole run, of `serve` up to then, milliseconds.
    cpu_ms: f64,
    rss_mib: f64,
    files: usize,
}

pub fn run(options: &Options) -> Result<Vec<Row>> {
    let hosts = hosts(options)?;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(FILES),
            ..limit
        },
    )?;
    let rows = crowd::in_own_mounts(|| rows(options, &hosts));
    setrlimit(Resource::Nofile, limit)?;
    rows
}

fn hosts(options: &Options) -> Result<Vec<Host>> {
    let listeners = options.pick(10_000, 400);
    let (namespaces, cgroups) = (options.pick(10_000, 100), options.pick(100_000, 1_000));
    // In KiB, measured: the kernel's memory.
    let namespaces = fitting(namespaces, 400)?;
    let cgroups = fitting(cgroups, 16)?;
    let host = |what, kind, number, listeners, namespaces| Host {
        what,
        kind,
        number,
        listeners,
        namespaces,
    };
    Ok(vec![
        host(NOTHING.to_owned(), None, 0, 0, 1),
        host(
            format!("{listeners} listeners"),
            Some(Kind::Listeners),
            listeners,
            listeners,
            1,
        ),
        host(
            format!("{listeners} listeners in as many of {cgroups} cgroups"),
            Some(Kind::Cgroups),
            cgroups,
            listeners,
            1,
        ),
        host(
            format!("{namespaces} network namespaces with a listener each"),
            Some(Kind::Namespaces),
            namespaces,
            namespaces,
            1 + namespaces,
        ),
    ])
}

/// As many of this number as take a half of the memory that is left, at this many KiB each.
fn fitting(number: usize, each: usize) -> Result<usize> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let left = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.strip_suffix(" kB"))
        .context("MemAvailable")?;
    Ok(number.min(left.trim().parse::<usize>()? / 2 / each))
}

fn rows(options: &Options, hosts: &[Host]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut of_nothing: Vec<Vec<f64>> = Vec::new();
    for host in hosts {
        eprintln!("scale: {}", host.what);
        let crowd = host
            .kind
            .map(|kind| Crowd::start(kind, host.number, host.listeners));
        let _crowd = crowd.transpose()?;
        let mut cases = vec![Case::Rates, Case::Ls, Case::Diagnose, Case::Serve];
        if host.kind == Some(Kind::Cgroups) {
            cases.push(Case::LsWalking);
        }
        let mut took: Vec<Vec<Took>> = cases.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.rounds(3) {
            for (case, took) in cases.iter().zip(&mut took) {
                took.push(case.measure(host)?);
            }
        }
        for (at, (case, took)) in cases.iter().zip(&took).enumerate() {
            let ms: Vec<f64> = took.iter().map(|one| one.ms).collect();
            let row = Row::new(
                format!("{}, {}", case.name(), host.what),
                case.figure(),
                &ms,
            )
            .note(note(took));
            rows.push(match of_nothing.get(at) {
                Some(nothing) => row.ratio(NOTHING, &ratios(&ms, nothing)),
                None => row,
            });
            if host.kind.is_none() {
                of_nothing.push(ms);
            }
        }
        rows.extend(later(host)?);
    }
    Ok(rows)
}

/// What the runs took beside time.
fn note(took: &[Took]) -> String {
    let most = |figure: fn(&Took) -> f64| took.iter().map(figure).fold(0.0, f64::max);
    format!(
        "at most {:.0} ms of CPU, {:.1} MiB, {:.0} files open",
        most(|one| one.cpu_ms),
        most(|one| one.rss_mib),
        most(|one| one.files as f64)
    )
}

impl Case {
    const fn name(self) -> &'static str {
        match self {
            Self::Rates => "`rates`",
            Self::Ls => "`ls`",
            Self::LsWalking => "`ls` without CAP_DAC_READ_SEARCH",
            Self::Diagnose => "`diagnose`",
            Self::Serve => "`serve`",
        }
    }

    const fn figure(self) -> &'static str {
        match self {
            Self::Rates => "ms to the first line of `rates 100ms`",
            Self::Ls | Self::LsWalking => "ms",
            Self::Diagnose => "ms, of which 1,000 are --duration",
            Self::Serve => "ms to the first scrape",
        }
    }

    fn measure(self, host: &Host) -> Result<Took> {
        let mut command = Command::new(TCPSTATE);
        match self {
            Self::Rates => {
                command.args(["rates", "100ms", "1", "--json"]);
                let has_line =
                    |output: &File| contents(output).is_ok_and(|text| text.contains('\n'));
                let (took, lines) = watch(command, Some(&has_line), None)?;
                let line = lines.first().context("no line")?;
                let listen = line["states"]["LISTEN"].as_u64().unwrap_or(0);
                ensure!(listen >= host.listeners as u64, "listeners: {line}");
                Ok(took)
            }
            Self::Ls | Self::LsWalking => {
                command.args(["ls", "--json"]);
                if self == Self::LsWalking {
                    without_dac_read_search(&mut command);
                }
                let (took, lines) = watch(command, None, None)?;
                // Of very many directories a walk visits some.
                listed(host, &lines, self == Self::Ls)?;
                Ok(took)
            }
            Self::Diagnose => {
                command.args(["diagnose", "--duration", "1s", "--json"]);
                Ok(watch(command, None, None)?.0)
            }
            Self::Serve => {
                let address = unused_address()?;
                command.args(["serve", "--json", "--listen", &address.to_string()]);
                let answers = |_: &File| scrape(address).is_ok();
                // Its end would take as long as its start.
                Ok(watch(command, Some(&answers), Some(Signal::KILL))?.0)
            }
        }
    }
}

/// Checks the list of `ls`.
fn listed(host: &Host, lines: &[Value], has_all_names: bool) -> Result<()> {
    let (summary, sockets) = lines.split_last().context("no summary")?;
    let listeners = sockets
        .iter()
        .filter(|socket| socket["state"] == "LISTEN")
        .count();
    ensure!(listeners >= host.listeners, "{listeners} listeners");
    let namespaces = summary["namespaces"].as_array().map_or(0, Vec::len);
    ensure!(namespaces >= host.namespaces, "{namespaces} namespaces");
    if host.kind == Some(Kind::Cgroups) && has_all_names {
        let named = sockets.iter().filter(|socket| {
            let name = socket["cgroup"].as_str();
            name.is_some_and(|name| name.starts_with("/tcpstate-bench/part-"))
        });
        let named = named.count();
        ensure!(
            named == host.listeners,
            "{named} listeners in a cgroup with a name"
        );
    }
    Ok(())
}

/// Has the process that this starts lack the capability by which the kernel opens a cgroup by its id.
fn without_dac_read_search(command: &mut Command) {
    let drop = || {
        Ok(remove_capability_from_bounding_set(
            CapabilitySet::DAC_READ_SEARCH,
        )?)
    };
    // SAFETY: between fork and exec it makes one system call, and allocates nothing.
    unsafe { command.pre_exec(drop) };
}

/// A run of a command. It is ended where an error is on its way.
struct Run {
    child: Child,
    ended: bool,
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs a command until it ends, looks at it again and again, and returns what it took and its lines of JSON. `until`
/// decides at what time it has done what is timed; `None`: at its end. Then it gets this signal, if any.
fn watch(
    mut command: Command,
    until: Option<&dyn Fn(&File) -> bool>,
    signal: Option<Signal>,
) -> Result<(Took, Vec<Value>)> {
    let (output, errors) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(errors.try_clone()?);
    let begin = Instant::now();
    let child = command
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let mut run = Run {
        child,
        ended: false,
    };
    let mut took = Took {
        ms: f64::NAN,
        cpu_ms: f64::NAN,
        rss_mib: 0.0,
        files: 0,
    };
    let (status, cpu) = loop {
        let now_ms = begin.elapsed().as_secs_f64() * 1e3;
        if took.ms.is_nan() && until.is_some_and(|until| until(&output)) {
            took.ms = now_ms;
            if let Some(signal) = signal {
                kill_process(Pid::from_child(&run.child), signal)?;
            }
        }
        took.look_at(run.child.id());
        if let Some(ended) = reaped(&run.child, libc::WNOHANG)? {
            if until.is_none() {
                took.ms = now_ms;
            }
            break ended;
        }
        ensure!(begin.elapsed() < PATIENCE, "{command:?} takes too long");
        thread::sleep(LOOK);
    };
    run.ended = true;
    took.cpu_ms = cpu.as_secs_f64() * 1e3;
    let is_ended = matches!(status.code(), Some(0 | 3)) || signal.is_some();
    ensure!(
        is_ended && !took.ms.is_nan(),
        "{command:?}: {status}: {}",
        contents(&errors)?
    );
    ensure!(
        took.files <= MOST_FILES,
        "{command:?} has {} files open",
        took.files
    );
    let output = contents(&output)?;
    let lines = output.lines().map(serde_json::from_str);
    Ok((took, lines.collect::<Result<_, _>>().context("its lines")?))
}

impl Took {
    /// Notes how much memory a process has had, and how many files it has open.
    fn look_at(&mut self, pid: u32) {
        // It may have just ended.
        let files = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        self.files = self.files.max(files);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kib = status.lines().find_map(|line| {
            let size = line.strip_prefix("VmHWM:")?.strip_suffix(" kB")?;
            size.trim().parse::<u32>().ok()
        });
        self.rss_mib = self.rss_mib.max(f64::from(kib.unwrap_or(0)) / 1024.0);
    }
}

/// An address of this namespace at which nobody listens.
fn unused_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// The text of the metrics.
fn scrape(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok(body.to_owned())
}

/// What `serve` takes when it has started: the CPU of one sampling, and a scrape when it has looked at the host.
fn later(host: &Host) -> Result<[Row; 2]> {
    /// The most bytes that a scrape may have.
    const MOST: usize = 4 << 20;
    let address = unused_address()?;
    let mut command = Command::new(TCPSTATE);
    command
        .args(["serve", "--listen", &address.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _run = Run {
        child: command.spawn().context("start tcpstate")?,
        ended: false,
    };
    let begin = Instant::now();
    let (mut seconds, mut text) = (Vec::new(), String::new());
    // After the seed, and after the first sampling.
    while seconds.len() < 2 || number(&text, "tcpstate_look_age_seconds ").is_none() {
        ensure!(begin.elapsed() < PATIENCE, "no sampling or no look: {text}");
        thread::sleep(Duration::from_millis(100));
        text = scrape(address).unwrap_or_default();
        let now = number(&text, "tcpstate_sampling_seconds_total ").filter(|&now| now > 0.0);
        if let Some(now) = now.filter(|now| seconds.last() != Some(now)) {
            seconds.push(now);
        }
    }
    ensure!(text.len() <= MOST, "a scrape has {} bytes", text.len());
    let what = format!("`serve`, {}", host.what);
    let sampling = (seconds[1] - seconds[0]) * 1e3;
    Ok([
        Row::new(&what, "ms of CPU for a sampling", &[sampling]),
        Row::new(&what, "bytes of a scrape", &[text.len() as f64]),
    ])
}

/// The number behind these words at the beginning of a line.
fn number(text: &str, words: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(words)?.parse().ok())
}
