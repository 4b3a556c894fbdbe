//! `run`: builds the binary and runs it with the privileges that it needs.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};

use crate::{cargo, privileges, workspace};

/// Arguments of `run`.
#[derive(clap::Args)]
pub struct Run {
    /// Build it optimised, with the profile `release`. This takes minutes
    #[arg(long)]
    release: bool,
    /// Arguments of tcpstate [default: trace]
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Replaces this process by `cargo run`, which replaces itself by the binary: so Ctrl-C, a closed pipe
/// and the exit code pass directly between the binary and the shell.
pub fn run(
    Run {
        release,
        mut arguments,
    }: Run,
) -> Result<()> {
    if arguments.is_empty() {
        arguments.push("trace".into());
    }
    let mut cargo = cargo();
    // Runs in the caller's directory, because paths among the arguments are relative to it.
    cargo
        .args(["run", "--bin", "tcpstate", "--manifest-path"])
        .arg(workspace().join("tcpstate-user/Cargo.toml"))
        .args(release.then_some("--release"))
        .args(privileges::runner(&[], &[]))
        .arg("--")
        .args(arguments);
    Err(cargo.exec()).context("run cargo")
}
