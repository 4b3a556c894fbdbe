//! `start`: from exec to the first line, with few and many sockets there.
//!
//! A black box: `tcpstate rates 100ms 1 --json` prints one line at the end of its first interval. What
//! comes before the interval is loading, attaching and taking in the sockets that are there.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    Options,
    report::{Row, ratios},
    tool::TCPSTATE,
};

/// From exec to the first line of an interval of 100 ms.
const FIGURE: &str = "ms to the first line of `rates 100ms`";

/// Sockets that are open.
struct Open {
    /// What was accepted stays open without them, but their address would be free.
    listeners: Vec<TcpListener>,
    sockets: Vec<TcpStream>,
}

pub fn run(options: &Options) -> Result<Vec<Row>> {
    allow_files(options.pick(110_000, 12_000))?;
    let sizes: &[usize] = options.pick(&[0, 10_000, 100_000], &[0, 10_000]);
    let rounds = options.rounds(7);
    let mut rows = Vec::new();
    let mut none = Vec::new();
    let mut open = Open {
        listeners: Vec::new(),
        sockets: Vec::new(),
    };
    for &sockets in sizes {
        eprintln!("start: {sockets} sockets");
        open.grow(sockets)?;
        let (mut first, mut known, mut ss) = (Vec::new(), 0, Vec::new());
        for _ in 0..rounds {
            let (ms, established) = first_line()?;
            first.push(ms);
            known = established;
            ss.extend(ss_takes()?);
        }
        ensure!(
            known == sockets as u64,
            "{known} established sockets of {sockets} in the first line"
        );
        if none.is_empty() {
            none.clone_from(&first);
        }
        rows.push(
            Row::new(format!("{sockets} sockets there"), FIGURE, &first)
                .ratio("no sockets", &ratios(&first, &none))
                .note("all of them in that line"),
        );
        let what = format!("`ss -tan`, {sockets} sockets there");
        rows.push(if ss.is_empty() {
            Row::missing(what, "ms", "not installed (Debian: iproute2)")
        } else {
            Row::new(what, "ms", &ss)
        });
    }
    Ok(rows)
}

/// Milliseconds from exec to the first line, and how many sockets it says are ESTABLISHED.
fn first_line() -> Result<(f64, u64)> {
    let start = Instant::now();
    let mut child = Command::new(TCPSTATE)
        .args(["rates", "100ms", "1", "--json", "--netns", "self"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("start tcpstate")?;
    let mut output = BufReader::new(child.stdout.take().context("its output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    let took = start.elapsed();
    output.read_to_string(&mut String::new())?;
    let status = child.wait()?;
    ensure!(status.success(), "tcpstate rates: {status}");
    let rates: serde_json::Value = serde_json::from_str(&line).context("its first line")?;
    let established = rates["states"]["ESTABLISHED"].as_u64().unwrap_or(0);
    Ok((took.as_secs_f64() * 1e3, established))
}

/// How long `ss` takes to list the same, where it is installed.
fn ss_takes() -> Result<Option<f64>> {
    let start = Instant::now();
    match Command::new("ss").arg("-tan").output() {
        Ok(output) => {
            ensure!(output.status.success(), "ss: {}", output.status);
            Ok(Some(start.elapsed().as_secs_f64() * 1e3))
        }
        Err(_) => Ok(None),
    }
}

impl Open {
    /// Opens connections until there are so many sockets, both ends counted.
    fn grow(&mut self, sockets: usize) -> Result<()> {
        /// Connections to one address: fewer than there are ports.
        const EACH: usize = 10_000;
        while self.sockets.len() < sockets {
            let host = 1 + u8::try_from(self.sockets.len() / 2 / EACH)?;
            let address = SocketAddr::from((Ipv4Addr::new(127, 0, 1, host), 4_999));
            let listener = TcpListener::bind(address).with_context(|| format!("bind {address}"))?;
            let missing = (sockets - self.sockets.len()) / 2;
            for _ in 0..missing.min(EACH) {
                self.sockets.push(TcpStream::connect(address)?);
                self.sockets.push(listener.accept()?.0);
            }
            self.listeners.push(listener);
        }
        Ok(())
    }
}

/// Raises the limit on open files.
fn allow_files(files: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.current.map(|current| current.max(files)),
        maximum: limit.maximum.map(|maximum| maximum.max(files)),
    };
    setrlimit(Resource::Nofile, raised)
        .with_context(|| format!("allow {files} open files (it takes root)"))
}
