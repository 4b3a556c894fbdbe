//! `test`: every test, those on the kernel included.

use std::{ffi::OsString, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    cargo,
    privileges::{self, as_root, has_sudo, is_root, succeed},
    workspace,
};

/// With `1`, a kernel test that cannot run fails.
const REQUIRE_KERNEL: &str = "TCPSTATE_REQUIRE_KERNEL";

/// Which tests to run.
#[derive(clap::Args)]
pub struct Test {
    /// Only the tests on the kernel
    #[arg(long)]
    kernel: bool,
    /// Embed this BPF object instead of the committed one
    #[arg(long, value_name = "FILE")]
    bpf_object: Option<PathBuf>,
    /// Arguments of the test binaries, such as the part of a test's name
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Runs them: as whoever calls, but what needs root through `sudo`.
pub fn run(test: &Test) -> Result<()> {
    let root = is_root()?;
    if root || has_sudo() {
        mount_what_is_missing()?;
    }
    // Root runs all in one go. For others, plain `cargo test` shows the kernel tests as skipped, and
    // sudo then runs them.
    if !test.kernel {
        let mut cargo = test.cargo()?;
        if !root && has_sudo() {
            cargo.env_remove(REQUIRE_KERNEL);
        }
        succeed(cargo.arg("--").args(&test.arguments))?;
        if root {
            return Ok(());
        }
        if !has_sudo() {
            eprintln!("skipped: the kernel tests, which need root, and there is no sudo");
            return Ok(());
        }
    }
    let mut cargo = test.cargo()?;
    cargo
        .args(["--package", "tcpstate", "--test", "kernel"])
        .args(privileges::runner(&[REQUIRE_KERNEL])?)
        .arg("--")
        .args(&test.arguments);
    succeed(&mut cargo)
}

impl Test {
    fn cargo(&self) -> Result<Command> {
        let mut cargo = cargo();
        cargo.current_dir(workspace()).arg("test");
        // A failure in one binary shall not hide those of the next; cargo fails all the same.
        cargo.arg("--no-fail-fast");
        if let Some(object) = &self.bpf_object {
            let object = object
                .canonicalize()
                .with_context(|| object.display().to_string())?;
            cargo.env("TCPSTATE_BPF_OBJECT", object);
        }
        Ok(cargo)
    }
}

/// Mounts what the kernel has and a bare machine has not mounted.
fn mount_what_is_missing() -> Result<()> {
    for (kind, path) in [
        ("tracefs", "/sys/kernel/tracing"),
        ("securityfs", "/sys/kernel/security"),
    ] {
        // Unreadable is mounted, and not for us; absent is a kernel without it.
        if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none()) {
            eprintln!("mounting {kind} on {path}");
            // In a container it may be forbidden. What is missing then, the tests say.
            if let Err(error) = succeed(as_root("mount")?.args(["-t", kind, kind, path])) {
                eprintln!("{error:#}");
            }
        }
    }
    Ok(())
}
