//! Less memory than a run needs.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::{number, write_recording};
use crate::{
    need::{Need, trial},
    net::{Netns, unused_port},
    process::{BINARY, Output, Tcpstate},
    traffic::churn,
};

pub fn add(trials: &mut Vec<Trial>) {
    for (name, test) in [
        (
            "faults::memory_limit_on_a_recording",
            on_a_recording as fn() -> Result<()>,
        ),
        ("faults::memory_limit_live", live),
    ] {
        trials.push(trial(name, &[Need::MemoryLimit], test));
    }
}

/// A cgroup with a memory limit, removed when this is dropped.
struct Limit {
    folder: PathBuf,
}

impl Limit {
    fn new(bytes: u64) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (parent, file) = Need::memory_cgroups().context("no memory controller")?;
        let folder = parent.join(format!("tcpstate-test-{}-{number}", std::process::id()));
        fs::create_dir(&folder)?;
        let this = Self { folder };
        fs::write(this.folder.join(file), bytes.to_string())?;
        Ok(this)
    }

    /// A command that runs the binary in the cgroup.
    fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ >\"$0\" && exec \"$@\""])
            .arg(self.folder.join("cgroup.procs"))
            .arg(BINARY)
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // Its processes have been reaped. An error cannot be reported here.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// More connections than the memory can hold: with a bound on the table the run succeeds and reports the
/// number of evicted connections; without, the kernel kills it, which proves that the limit is effective.
fn on_a_recording() -> Result<()> {
    const CONNECTIONS: u64 = 300_000;
    const KEPT: u64 = 10_000;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("a.rec");
    write_recording(&file, CONNECTIONS, |_| ())?;
    let limit = Limit::new(32 << 20)?;
    let run = |bound: u64| -> Result<Output> {
        let output = limit
            .command()
            .args([
                "life",
                "--json",
                "--max-connections",
                &bound.to_string(),
                "-r",
            ])
            .arg(&file)
            .output()?;
        Ok(Output {
            status: output.status,
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8(output.stderr)?,
        })
    };
    let (_, summary) = run(KEPT)?.json()?;
    ensure!(
        number(&summary, &["connections", "evicted"])? == CONNECTIONS - KEPT,
        "{summary}"
    );
    let unbounded = run(CONNECTIONS)?;
    ensure!(
        unbounded.status.code().is_none(),
        "the limit has no effect: {unbounded:?}"
    );
    Ok(())
}

/// The same live, in little more than the memory that the program needs for itself.
fn live() -> Result<()> {
    let (netns, port) = (Netns::new()?, unused_port());
    let path = netns.path();
    let limit = Limit::new(48 << 20)?;
    let mut command = limit.command();
    command.args([
        "life",
        "--json",
        "--max-connections",
        "1000",
        "--ring-bytes",
        "1M",
        // Not all namespaces: their sockets take memory too.
        "--netns",
        path.to_str().context("a path in UTF-8")?,
        "-P",
        &port.to_string(),
    ]);
    let tcpstate = Tcpstate::start_command(command)?;
    let connections =
        netns.run_until_quiet(|| churn(port, std::time::Duration::from_millis(500)))?;
    let (lines, summary) = tcpstate.stop()?.json()?;
    let lost = number(&summary, &["accounting", "lost"])?;
    // Two ends for each connection, and two listeners.
    ensure!(
        lines.len() as u64 + lost >= 2 * connections,
        "{connections} connections, {} lines: {summary}",
        lines.len()
    );
    Ok(())
}
