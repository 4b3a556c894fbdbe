//! `fuzz`: runs each fuzz target of `tcpstate-user/fuzz` for a while, from its committed seeds.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Mutex,
    thread,
};

use anyhow::{Context as _, Result, ensure};

use crate::{privileges::succeed, workspace};

/// Arguments of `fuzz`.
#[derive(clap::Args)]
pub struct Fuzz {
    /// Duration for each target, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Number of targets that run at the same time [default: the number of processors]
    #[arg(long)]
    jobs: Option<usize>,
    /// Memory checker; `none` is several times as fast, and only zstd is not written in Rust
    #[arg(long, default_value = "address", value_parser = ["address", "none"])]
    sanitizer: String,
    /// Targets to run [default: all]
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

/// Runs the targets, some at the same time. Reports each crash, and fails if there was one.
pub fn run(arguments: &Fuzz) -> Result<()> {
    let targets = if arguments.targets.is_empty() {
        all_targets()?
    } else {
        arguments.targets.clone()
    };
    // One build for all targets, so that no run spends its time on building.
    succeed(&mut fuzz(arguments, "build"))?;
    let jobs = arguments
        .jobs
        .or_else(|| thread::available_parallelism().ok().map(Into::into))
        .unwrap_or(1);
    let queue = Mutex::new(targets.into_iter());
    let next = || queue.lock().ok()?.next();
    let failed: usize = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1))
            .map(|_| {
                scope.spawn(|| {
                    let failures = std::iter::from_fn(next).filter(|target| {
                        let result = run_one(arguments, target);
                        if let Err(error) = &result {
                            eprintln!("{target}: {error:#}");
                        }
                        result.is_err()
                    });
                    failures.count()
                })
            })
            .collect();
        let workers = workers.into_iter();
        workers.map(|worker| worker.join().unwrap_or(1)).sum()
    });
    ensure!(failed == 0, "{failed} targets failed");
    Ok(())
}

/// Runs a target and prints the number of its inputs.
fn run_one(arguments: &Fuzz, target: &str) -> Result<()> {
    let corpus = format!("fuzz/corpus/{target}");
    fs::create_dir_all(package().join(&corpus)).with_context(|| corpus.clone())?;
    let output = fuzz(arguments, "run")
        .args([target, &corpus])
        .arg(format!("fuzz/seeds/{target}"))
        .arg("--")
        .arg(format!("-max_total_time={}", arguments.seconds))
        .arg("-print_final_stats=1")
        .stdin(Stdio::null())
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}\n{stderr}", output.status);
    let inputs = stderr
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .context("its output has no number of inputs")?;
    eprintln!("{target}: {} inputs, no crash", inputs.trim());
    Ok(())
}

fn all_targets() -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(package().join("fuzz/fuzz_targets"))? {
        if let Some(name) = entry?.path().file_stem().and_then(|name| name.to_str()) {
            targets.push(name.to_owned());
        }
    }
    targets.sort();
    Ok(targets)
}

/// Whether a nightly compiler and cargo-fuzz are installed; fuzzing needs both.
pub fn is_possible() -> bool {
    nightly()
        .args(["fuzz", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// A subcommand of cargo-fuzz, with the directory and options common to all.
fn fuzz(arguments: &Fuzz, subcommand: &str) -> Command {
    let mut fuzz = nightly();
    fuzz.current_dir(package())
        .args(["fuzz", subcommand, "--sanitizer", &arguments.sanitizer]);
    fuzz
}

fn nightly() -> Command {
    let mut rustup = Command::new("rustup");
    rustup.args(["run", "nightly", "cargo"]);
    rustup
}

fn package() -> PathBuf {
    workspace().join("tcpstate-user")
}
