//! `ci`: the checks that every change must pass. `.ci/run` prepares a machine and calls it.

use std::{ffi::OsString, process::Command, time::Instant};

use anyhow::Result;

use crate::{build_ebpf, cargo, dist, fuzz, miri, privileges::succeed, vm, workspace};

/// Runs every check, the quick ones first, and stops at the first failure.
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
    step("documentation", &["doc", "--no-deps", "--locked"])?;
    public_api()?;
    step(
        "licences, bans, sources",
        &["deny", "check", "licenses", "bans", "sources"],
    )?;
    advisories()?;
    step("the committed BPF object", &["xtask", "check-ebpf"])?;
    step("all tests", &["xtask", "test"])?;
    step("the Kubernetes manifests", &["xtask", "check-manifests"])?;
    memory_ordering()?;
    step("the packages", &["xtask", "package"])?;
    // A step of its own, because another member that needs a feature would enable it again. The step of the
    // packages has built much of it already.
    step(
        "units without default features",
        &[
            "test",
            "--locked",
            "--package",
            "tcpstate",
            "--no-default-features",
            "--lib",
            "--bins",
        ],
    )?;
    distribution()?;
    step("a minute under load", &["xtask", "soak", "--minutes", "1"])?;
    fuzz()?;
    step(
        "benchmarks, for their counts",
        &["xtask", "bench", "--quick"],
    )?;
    rebuilt_object()?;
    guests()?;
    guests_of_aarch64()
}

/// The API of the libraries, and the tool that lists it, which is not a default member.
fn public_api() -> Result<()> {
    const TOOL: [&str; 3] = ["--locked", "--package", "xtask-public-api"];
    let deny_warnings = ["--all-targets", "--", "--deny", "warnings"];
    step(
        "lints of what lists the public API",
        &[&["clippy"], &TOOL[..], &deny_warnings].concat(),
    )?;
    step(
        "tests of what lists the public API",
        &[&["test"], &TOOL[..]].concat(),
    )?;
    step("the public API", &["xtask", "public-api"])
}

/// The kernel tests again with an object built from source, if it differs from the committed one.
fn rebuilt_object() -> Result<()> {
    const WHAT: &str = "kernel tests of the BPF object just built";
    if build_ebpf::built_is_committed()? {
        eprintln!("\n== {WHAT}: skipped: it is the committed one, byte for byte");
        return Ok(());
    }
    let object = build_ebpf::built_object().into_os_string();
    let rebuilt = ["xtask", "test", "--kernel", "--bpf-object"].map(OsString::from);
    // The reaction of user space to faults is the same with either object.
    let but_faults = ["--", "--skip", "faults::"].map(OsString::from);
    step(WHAT, &[&rebuilt[..], &[object], &but_faults].concat())
}

/// `doctor` and the tests of dwell times on other kernels, emulated if necessary: on each of Debian's in the
/// plain set-up, and on the oldest and the newest in the others. A kernel that cannot be fetched is skipped
/// with a message.
///
/// Not all kernel tests run here. On an emulated machine an interrupt occurs during a BPF program every few
/// thousand runs, and a kernel that skips the inner run without counting it (`tracepoint` mode before Linux
/// 6.7) leaves a test without a transition and without an explanation. `cargo xtask vm` runs them all, for a
/// developer who reads the results.
fn guests() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        eprintln!("\n== dwell times on Debian's kernels: skipped: the guests are of x86_64");
        return Ok(());
    }
    step(
        "dwell times on Debian's kernels",
        &[
            "xtask",
            "vm",
            "--skip-unfetched",
            "5.10",
            "6.1",
            "6.12",
            "newest",
            "--",
            "dwell",
        ],
    )?;
    let variants = "integrity,confidentiality,no-btf,no-tracefs";
    step(
        "dwell times on them, in other set-ups",
        &[
            "xtask",
            "vm",
            "--skip-unfetched",
            "5.10",
            "newest",
            "--variant",
            variants,
            "--",
            "dwell",
        ],
    )
}

/// The same tests on an emulated machine of the other kind, on the newest kernel only, since each takes minutes; if
/// what builds and runs them is installed.
fn guests_of_aarch64() -> Result<()> {
    const WHAT: &str = "dwell times on aarch64";
    if let Some(missing) = vm::missing_for_aarch64() {
        eprintln!("\n== {WHAT}: skipped: {missing}");
        return Ok(());
    }
    let arguments = ["--arch", "aarch64", "--skip-unfetched", "newest"];
    step(
        WHAT,
        &[&["xtask", "vm"], &arguments[..], &["--", "dwell"]].concat(),
    )
}

/// The orders of memory accesses that `x86_64` keeps by itself, and arm64 does not, if Miri is installed.
fn memory_ordering() -> Result<()> {
    const WHAT: &str = "memory ordering";
    if miri::is_possible() {
        step(WHAT, &["xtask", "miri"])
    } else {
        eprintln!("\n== {WHAT}: skipped: there is no nightly compiler with Miri");
        Ok(())
    }
}

/// Advisories, if their database can be reached: they change independently of the project.
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

/// Some fuzzing of each parser, if the tools are installed: long enough for the seeds and what lies near them.
fn fuzz() -> Result<()> {
    if fuzz::is_possible() {
        step("fuzzing", &["xtask", "fuzz", "--seconds", "20"])
    } else {
        eprintln!("\n== fuzzing: skipped: there is no nightly compiler, or no cargo-fuzz");
        Ok(())
    }
}

/// The release files for this kind of machine, and the units of its Debian package in a guest, if the tools are installed.
fn distribution() -> Result<()> {
    let target = match dist::native() {
        Ok(target) => target.to_string(),
        Err(missing) => {
            eprintln!("\n== the distribution: skipped: {missing:#}");
            return Ok(());
        }
    };
    step(
        "the distribution",
        &[
            "xtask",
            "dist",
            "--try-deb",
            "--try-image",
            "--target",
            &target,
        ],
    )?;
    if !cfg!(target_arch = "x86_64") {
        eprintln!("\n== the systemd units: skipped: the guests are of x86_64");
        return Ok(());
    }
    step(
        "the systemd units",
        &["xtask", "try-unit", "--skip-unfetched"],
    )
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
