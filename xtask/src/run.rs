//! `run`: builds the release binary and runs it, with the privileges that it needs.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};

use crate::{cargo, privileges, workspace};

/// What to run.
#[derive(clap::Args)]
pub struct Run {
    /// Arguments of tcpstate; none: trace
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Replaces this process by `cargo run`, which replaces itself by the binary: Ctrl-C, a closed pipe
/// and the exit code are then between the binary and the shell.
pub fn run(Run { mut arguments }: Run) -> Result<()> {
    if arguments.is_empty() {
        arguments.push("trace".into());
    }
    let mut cargo = cargo();
    // Not from the workspace's directory: a file among the arguments is relative to the caller's.
    cargo
        .args(["run", "--release", "--bin", "tcpstate", "--manifest-path"])
        .arg(workspace().join("tcpstate-user/Cargo.toml"))
        .args(privileges::runner(&[])?)
        .arg("--")
        .args(arguments);
    Err(cargo.exec()).context("run cargo")
}
