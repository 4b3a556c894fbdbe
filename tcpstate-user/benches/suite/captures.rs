//! `captures`: the rate at which packet captures are read, beside tshark and tcptrace, and the memory of a connection.
//!
//! Two captures of 1 GiB are written, of small packets and of large ones. Each program reads them from the memory of the
//! kernel, on one core. The CPU time is counted, of user and system, because the machine may have other work. tshark is
//! slower, so it reads only the first packets.

mod traffic;

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::Value;

use self::traffic::{Amounts, Size};
use crate::{
    Options,
    process::{Ran, TCPSTATE, run_to_end},
    report::{Row, ratios},
};

const FIGURE: &str = "packets/s of CPU time";
/// The case to which the other programs are compared.
const LIFE: &str = "tcpstate life";

/// A program that reads a capture.
struct Case {
    name: &'static str,
    /// The words before the file's name.
    words: &'static [&'static str],
    /// The Debian package of a peer.
    package: Option<&'static str>,
    /// Whether it reads the first packets only.
    reads_first: bool,
    /// Checks that it has read them.
    check: fn(&Ran, Amounts) -> Result<()>,
}

/// The first is ours that prints most.
const CASES: [Case; 4] = [
    Case {
        name: LIFE,
        words: &[TCPSTATE, "life", "-r"],
        package: None,
        reads_first: false,
        check: check_life,
    },
    Case {
        name: "tcpstate hist",
        words: &[TCPSTATE, "hist", "--json", "-r"],
        package: None,
        reads_first: false,
        check: check_hist,
    },
    Case {
        name: "tcptrace",
        words: &["tcptrace", "-n"],
        package: Some("tcptrace"),
        reads_first: false,
        check: check_tcptrace,
    },
    Case {
        name: "tshark -z conv,tcp",
        words: &["tshark", "-n", "-q", "-z", "conv,tcp", "-r"],
        package: Some("tshark"),
        reads_first: true,
        check: check_tshark,
    },
];

pub fn run(options: &Options) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for size in [Size::Small, Size::Large] {
        rows.extend(speed(options, size)?);
    }
    rows.extend(memory(options)?);
    Ok(rows)
}

/// The programs that are compared, as packages of Debian.
pub const PACKAGES: [&str; 2] = ["tshark", "tcptrace"];

fn speed(options: &Options, size: Size) -> Result<Vec<Row>> {
    let bytes = options.pick(1 << 30, 1 << 22);
    let first = options.pick(1_000_000, 10_000);
    // Where there is a disk for it: the folder for temporary files may be in memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let path = dir.path().join("bench.pcap");
    eprintln!("captures: writing {bytes} bytes, {}", size.name());
    let (all, first) = traffic::write(&path, size, options.pick(size.live(), 100), bytes, first)?;
    let mut per_second = CASES.map(|_| Vec::new());
    let missing = CASES.map(|case| case.missing());
    let rounds = options.rounds(5);
    for round in 1..=rounds {
        eprintln!("captures: round {round} of {rounds}");
        let cases = CASES.iter().zip(&mut per_second).zip(&missing);
        for ((case, per_second), _) in cases.filter(|(_, missing)| missing.is_none()) {
            let amounts = if case.reads_first { first } else { all };
            per_second.push(case.read(&path, amounts)?);
        }
    }
    let [life, ..] = &per_second;
    let rows = CASES.iter().zip(&per_second).zip(missing);
    Ok(rows
        .map(|((case, values), missing)| {
            let what = format!("{}, {}", case.name, size.name());
            if let Some(missing) = missing {
                return Row::missing(what, FIGURE, missing);
            }
            let row = Row::new(what, FIGURE, values).note(format!(
                "{} packets of {} bytes in the mean, {} connections",
                if case.reads_first { first } else { all }.packets,
                all.bytes / all.packets,
                if case.reads_first { first } else { all }.connections,
            ));
            if case.name == LIFE {
                row
            } else {
                row.ratio(LIFE, &ratios(values, life))
            }
        })
        .collect())
}

impl Case {
    fn missing(&self) -> Option<String> {
        let package = self.package?;
        let [program, ..] = self.words else {
            return None;
        };
        let found = Command::new(program).arg("--version").output();
        found
            .is_err()
            .then(|| format!("not installed (Debian: {package})"))
    }

    /// Reads the capture. Returns its packets per second of CPU time.
    fn read(&self, path: &Path, amounts: Amounts) -> Result<f64> {
        let [program, words @ ..] = self.words else {
            anyhow::bail!("no program");
        };
        let mut command = Command::new(program);
        command.args(words).arg(path);
        if self.reads_first {
            command.args(["-c", &amounts.packets.to_string()]);
        }
        let ran = on_one_core(|| run_to_end(command))?;
        (self.check)(&ran, amounts)
            .with_context(|| format!("{}: {:.500} {:.500}", self.name, ran.output, ran.errors))?;
        Ok(amounts.packets as f64 / ran.cpu.as_secs_f64())
    }
}

/// Keeps this thread on one core, and the processes that it starts.
fn on_one_core<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    let all = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    let core = (0..CpuSet::MAX_CPU).rev().find(|&core| all.is_set(core));
    one.set(core.context("no core")?);
    sched_setaffinity(None, &one).context("stay on a core")?;
    let result = run();
    sched_setaffinity(None, &all).context("leave the core")?;
    result
}

/// A line for each end of a connection, after the titles.
fn check_life(ran: &Ran, amounts: Amounts) -> Result<()> {
    let lines = ran.output.lines().count() as u64;
    ensure!(lines == 1 + 2 * amounts.connections, "{lines} lines");
    let packets = amounts.packets;
    let books = format!("rebuilt from packets: {packets} = TCP {packets} + ");
    ensure!(ran.errors.replace(',', "").contains(&books), "no {books}");
    Ok(())
}

/// Five changes of each end.
fn check_hist(ran: &Ran, amounts: Amounts) -> Result<()> {
    let summary = summary(ran)?;
    let changes = summary["selection"]["passed"].as_u64();
    ensure!(
        changes == Some(10 * amounts.connections),
        "{changes:?} changes"
    );
    let packets = (&summary["packets"]["seen"], &summary["packets"]["tcp"]);
    let expected = Value::from(amounts.packets);
    ensure!(packets == (&expected, &expected), "{packets:?} packets");
    Ok(())
}

fn check_tcptrace(ran: &Ran, amounts: Amounts) -> Result<()> {
    let packets = amounts.packets;
    let words = format!("{packets} packets seen, {packets} TCP packets traced");
    ensure!(ran.output.contains(&words), "not {words}");
    Ok(())
}

/// A line for each conversation.
fn check_tshark(ran: &Ran, amounts: Amounts) -> Result<()> {
    let lines = ran.output.lines();
    let found = lines.filter(|line| line.contains("<->")).count() as u64;
    ensure!(found == amounts.connections, "{found} conversations");
    Ok(())
}

fn summary(ran: &Ran) -> Result<Value> {
    let last = ran.output.lines().last().context("no output")?;
    serde_json::from_str(last).context("its summary")
}

/// The memory of a connection that is open: the difference between many and few.
fn memory(options: &Options) -> Result<Vec<Row>> {
    const FEW: usize = 1_000;
    let many = options.pick(400_000, 20_000);
    let of_few = peak(FEW)?;
    let of_many = peak(many)?;
    let each = (of_many - of_few) / (many - FEW) as f64;
    let what = format!("tcpstate hist, {many} open connections");
    Ok(vec![
        Row::new(&what, "resident bytes per connection", &[each])
            .note("its two ends, and all that is rebuilt and counted of them"),
        Row::new(
            what,
            "peak resident memory, MiB",
            &[of_many / f64::from(1 << 20)],
        ),
    ])
}

/// The most memory that reading a capture of so many open connections takes, bytes.
fn peak(connections: usize) -> Result<f64> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let path = dir.path().join("open.pcap");
    let amounts = traffic::write_open(&path, connections)?;
    let mut command = Command::new(TCPSTATE);
    command.args(["hist", "--json", "-r"]).arg(&path);
    let summary = summary(&run_to_end(command)?)?;
    let live = &summary["connections"]["live"];
    ensure!(live == 2 * amounts.connections, "{live} ends: {summary}");
    let peak = summary["self"]["max_rss_bytes"].as_f64();
    peak.context("no max_rss_bytes")
}
