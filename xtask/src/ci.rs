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
    rebuilt_object()?;
    guests()
}

/// The kernel tests once more, against an object built from source, where it is not the one that they had
/// already.
fn rebuilt_object() -> Result<()> {
    const WHAT: &str = "kernel tests of the BPF object just built";
    if build_ebpf::built_is_committed()? {
        eprintln!("\n== {WHAT}: skipped: it is the committed one, byte for byte");
        return Ok(());
    }
    let object = build_ebpf::built_object().into_os_string();
    let rebuilt = ["xtask", "test", "--kernel", "--bpf-object"].map(OsString::from);
    // What user space does when something breaks is the same with either.
    let but_faults = ["--", "--skip", "faults::"].map(OsString::from);
    step(WHAT, &[&rebuilt[..], &[object], &but_faults].concat())
}

/// The kernel tests on other kernels, emulated where there is nothing better. All but the comparisons,
/// scenario by scenario, with bpftrace and of what is streamed with what is counted, which take half of the
/// time, on each kernel as Debian boots it; and on the oldest and the newest, set up otherwise, what `doctor`
/// says and the dwell times. A failure fails; a kernel that cannot be fetched is left out, and that is said.
fn guests() -> Result<()> {
    const VM: [&str; 3] = ["xtask", "vm", "--skip-unfetched"];
    if !cfg!(target_arch = "x86_64") {
        eprintln!("\n== kernel tests on Debian's kernels: skipped: the guests are of x86_64");
        return Ok(());
    }
    let plain = [
        "5.10",
        "6.1",
        "6.12",
        "newest",
        "--",
        "--skip",
        "same_as_oracle",
        "--skip",
        "same_as_streamed",
    ];
    step(
        "kernel tests on Debian's kernels",
        &[&VM[..], &plain].concat(),
    )?;
    let variants = "integrity,confidentiality,no-btf,no-tracefs";
    let variants = ["5.10", "newest", "--variant", variants, "--", "dwell"];
    step(
        "dwell times on them, set up otherwise",
        &[&VM[..], &variants].concat(),
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
