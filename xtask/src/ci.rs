//! `ci`: what every change has to pass. `.ci/run` calls it on a machine that it has prepared.

use std::{ffi::OsString, process::Command, time::Instant};

use anyhow::Result;

use crate::{build_ebpf, cargo, dist, fuzz, privileges::succeed, workspace};

/// Runs every check, the quick ones first, and stops at the first that fails.
pub fn run() -> Result<()> {
    step("formatting", &["fmt", "--all", "--check"])?;
    step(
        "lints",
        &[
            "clippy",
            "--all-targets",
            "--locked",
            "--",
            "--deny",
            "warnings",
        ],
    )?;
    step(
        "licences, bans, sources",
        &["deny", "check", "licenses", "bans", "sources"],
    )?;
    advisories()?;
    step("the committed BPF object", &["xtask", "check-ebpf"])?;
    step("all tests", &["xtask", "test"])?;
    distribution()?;
    step("a minute under load", &["xtask", "soak", "--minutes", "1"])?;
    fuzz()?;
    step(
        "benchmarks, for their counts",
        &["xtask", "bench", "--quick"],
    )?;
    let object = build_ebpf::built_object().into_os_string();
    let rebuilt = ["xtask", "test", "--kernel", "--bpf-object"].map(OsString::from);
    // What user space does when something breaks is the same with either.
    let but_faults = ["--", "--skip", "faults::"].map(OsString::from);
    step(
        "kernel tests of the BPF object just built",
        &[&rebuilt[..], &[object], &but_faults].concat(),
    )
}

/// Advisories change without us: they count where their database can be reached.
fn advisories() -> Result<()> {
    if check(&["deny", "fetch", "db"])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        step("advisories", &["deny", "check", "advisories"])
    } else {
        eprintln!("\n== advisories: skipped: their database cannot be reached");
        Ok(())
    }
}

/// A minute for each parser, where there is what it takes.
fn fuzz() -> Result<()> {
    if fuzz::is_possible() {
        step("fuzzing", &["xtask", "fuzz"])
    } else {
        eprintln!("\n== fuzzing: skipped: there is no nightly compiler, or no cargo-fuzz");
        Ok(())
    }
}

/// What is handed out, for this kind of machine, where there is what it takes.
fn distribution() -> Result<()> {
    match dist::native() {
        Ok(target) => step(
            "the distribution",
            &[
                "xtask",
                "dist",
                "--try-deb",
                "--target",
                &target.to_string(),
            ],
        ),
        Err(missing) => {
            eprintln!("\n== the distribution: skipped: {missing:#}");
            Ok(())
        }
    }
}

fn step(what: &str, arguments: &[impl AsRef<std::ffi::OsStr>]) -> Result<()> {
    eprintln!("\n== {what}");
    let start = Instant::now();
    succeed(&mut check(arguments))?;
    eprintln!("== {what}: passed in {} s", start.elapsed().as_secs());
    Ok(())
}

fn check(arguments: &[impl AsRef<std::ffi::OsStr>]) -> Command {
    let mut cargo = cargo();
    cargo
        .current_dir(workspace())
        .args(arguments)
        .env("TCPSTATE_REQUIRE_KERNEL", "1");
    cargo
}
