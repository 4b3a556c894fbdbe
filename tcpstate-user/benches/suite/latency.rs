//! `latency`: the time from the kernel's timestamp until the line can be read from a pipe.

use std::{
    io::Read,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    process::{Pid, Signal, kill_process},
    time::{ClockId, clock_gettime},
};

use crate::{
    Options,
    generator::{Churn, PER_CONNECTION, PORTS},
    process::TCPSTATE,
    report::Row,
};

pub fn run(options: &Options) -> Result<Vec<Row>> {
    let churn = Churn::new()?;
    let loads: [(&str, u64, Option<u32>); 3] = [
        ("10 connections/s", options.pick(200, 10), Some(10)),
        (
            "1,000 connections/s",
            options.pick(10_000, 500),
            Some(1_000),
        ),
        (
            "as many connections as possible",
            options.pick(60_000, 2_000),
            None,
        ),
    ];
    let mut rows = Vec::new();
    for (load, connections, per_second) in loads {
        eprintln!("latency: {load}");
        let mut delays_ms = measure(&churn, connections, per_second)?;
        ensure!(
            delays_ms.len() as u64 == connections * PER_CONNECTION,
            "{} lines of {connections} connections",
            delays_ms.len()
        );
        delays_ms.sort_by(f64::total_cmp);
        let at = |part: f64| delays_ms[((delays_ms.len() - 1) as f64 * part) as usize];
        let what = format!("tcpstate trace --json, {load}");
        rows.push(Row::new(&what, "p50, ms", &[at(0.5)]));
        rows.push(Row::new(&what, "p99, ms", &[at(0.99)]));
        rows.push(Row::new(what, "maximum, ms", &[at(1.0)]));
    }
    Ok(rows)
}

/// Returns the delay of each line, in milliseconds.
fn measure(churn: &Churn, connections: u64, per_second: Option<u32>) -> Result<Vec<f64>> {
    let mut child = Command::new(TCPSTATE)
        .args(["trace", "--json", "-P"])
        .arg(format!("{}-{}", PORTS.start(), PORTS.end()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("start tcpstate")?;
    let watches = &AtomicBool::new(false);
    thread::scope(|scope| {
        let pipe = child.stdout.take().context("its output")?;
        let reader = scope.spawn(move || read_delays(pipe, watches));
        let load = load(&mut child, churn, watches, connections, per_second);
        if load.is_err() {
            // Otherwise the reader would wait for ever.
            let _ = child.kill();
            let _ = child.wait();
        }
        let delays = reader.join().expect("the reader does not panic");
        let (warming, mut delays) = (load?, delays?);
        // The first lines belong to the connections made before the load; only the last ones count.
        let of_load = (connections * PER_CONNECTION) as usize;
        let before = delays.len().checked_sub(of_load);
        let before = before.with_context(|| format!("{} lines of {of_load}", delays.len()))?;
        ensure!(
            before as u64 <= warming * PER_CONNECTION,
            "more lines than transitions"
        );
        delays.drain(..before);
        Ok(delays)
    })
}

/// Makes connections until tcpstate watches, then those of the load. Returns the number of the former.
fn load(
    child: &mut Child,
    churn: &Churn,
    watches: &AtomicBool,
    connections: u64,
    per_second: Option<u32>,
) -> Result<u64> {
    let mut before = 0;
    // One connection after the other, until the line of one has been read.
    while !watches.load(Ordering::Acquire) {
        ensure!(
            child.try_wait()?.is_none(),
            "tcpstate trace ended by itself"
        );
        churn.run(1, None)?;
        before += 1;
        thread::sleep(Duration::from_millis(20));
    }
    churn.run(connections, per_second)?;
    stop(child)?;
    Ok(before)
}

/// Ends it like Ctrl-C: pending events are still printed.
fn stop(child: &mut Child) -> Result<()> {
    kill_process(Pid::from_child(child), Signal::INT)?;
    let status = child.wait()?;
    ensure!(
        matches!(status.code(), Some(0 | 3)),
        "tcpstate trace: {status}"
    );
    Ok(())
}

/// Reads lines as they arrive. Returns the delay of each line except the summary.
fn read_delays(mut pipe: impl Read, watches: &AtomicBool) -> Result<Vec<f64>> {
    const TIME: &str = "\"ts_ns\":";
    let mut delays = Vec::new();
    let mut pending = Vec::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        let len = pipe.read(&mut chunk)?;
        let now = clock_gettime(ClockId::Monotonic);
        if len == 0 {
            return Ok(delays);
        }
        let now_ns = now.tv_sec * 1_000_000_000 + now.tv_nsec;
        pending.extend_from_slice(&chunk[..len]);
        let whole = pending
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        let text = std::str::from_utf8(&pending[..whole])?;
        for line in text.lines().filter(|line| line.contains("\"transition\"")) {
            let (_, rest) = line.split_once(TIME).context("a line without a time")?;
            let digits = rest.split(',').next().unwrap_or(rest);
            let ts_ns: i64 = digits.parse().context("the time of a line")?;
            delays.push((now_ns - ts_ns) as f64 / 1e6);
            watches.store(true, Ordering::Release);
        }
        pending.drain(..whole);
    }
}
