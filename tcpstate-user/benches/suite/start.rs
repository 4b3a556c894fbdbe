//! `start`: the time from exec to the first line, with few and many existing sockets.
//!
//! It is a black-box measurement: `tcpstate rates 100ms 1 --json` prints one line at the end of its first
//! interval. Before the interval it loads and attaches the program, and seeds with the existing sockets.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Options,
    holder::{EACH, Holder},
    process::TCPSTATE,
    report::{Row, ratios},
};

/// From exec to the first line of an interval of 100 ms.
const FIGURE: &str = "ms to the first line of `rates 100ms`";

pub fn run(options: &Options) -> Result<Vec<Row>> {
    let sizes: &[usize] = options.pick(&[0, 10_000, 100_000], &[0, 10_000]);
    let rounds = options.rounds(7);
    let mut rows = Vec::new();
    let mut none = Vec::new();
    let mut holders = Vec::new();
    for &sockets in sizes {
        eprintln!("start: {sockets} sockets");
        while holders.len() * EACH < sockets {
            holders.push(Holder::start(1 + u8::try_from(holders.len())?)?);
        }
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
            Row::new(format!("{sockets} existing sockets"), FIGURE, &first)
                .ratio("no sockets", &ratios(&first, &none))
                .note("all of them counted in that line"),
        );
        let what = format!("`ss -tan`, {sockets} existing sockets");
        rows.push(if ss.is_empty() {
            Row::missing(what, "ms", "not installed (Debian: iproute2)")
        } else {
            Row::new(what, "ms", &ss)
        });
    }
    Ok(rows)
}

/// Returns the milliseconds from exec to the first line, and the line's number of ESTABLISHED sockets.
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
    ensure!(
        matches!(status.code(), Some(0 | 3)),
        "tcpstate rates: {status}"
    );
    let rates: serde_json::Value = serde_json::from_str(&line).context("its first line")?;
    let established = rates["states"]["ESTABLISHED"].as_u64().unwrap_or(0);
    Ok((took.as_secs_f64() * 1e3, established))
}

/// Returns the milliseconds that `ss`, if installed, takes to list the same sockets.
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
