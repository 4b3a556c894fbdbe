//! `soak`: a long run under mixed load, after which nothing may have grown.

use anyhow::Result;

use crate::{
    cargo,
    privileges::{self, succeed},
    workspace,
};

/// What the test itself reads.
const MINUTES: &str = "TCPSTATE_SOAK_MINUTES";

/// How long, and of which build.
#[derive(clap::Args)]
pub struct Soak {
    /// How long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Of the release build, whose tests take a while to build
    #[arg(long)]
    release: bool,
}

/// Runs the test `soak` of the kernel tests, which says what flat means.
pub fn run(soak: &Soak) -> Result<()> {
    let mut cargo = cargo();
    cargo
        .current_dir(workspace())
        .args(["test", "--package", "tcpstate", "--test", "kernel"])
        .args(soak.release.then_some("--release"))
        .args(privileges::runner(&[MINUTES])?)
        .args(["--", "--exact", "soak"])
        .env(MINUTES, soak.minutes.to_string());
    succeed(&mut cargo)
}
