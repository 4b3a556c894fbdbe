//! `soak`: a long run under mixed load, during which nothing may grow.

use anyhow::Result;

use crate::{
    cargo,
    privileges::{self, succeed},
    workspace,
};

/// The environment variable that gives the test its duration.
const MINUTES: &str = "TCPSTATE_SOAK_MINUTES";

/// Arguments of `soak`.
#[derive(clap::Args)]
pub struct Soak {
    /// Duration of the run, in minutes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Test the release build, whose tests take a while to build
    #[arg(long)]
    release: bool,
}

/// Runs `soak`, one of the kernel tests, which defines what may not grow.
pub fn run(soak: &Soak) -> Result<()> {
    let mut cargo = cargo();
    cargo
        .current_dir(workspace())
        .args(["test", "--package", "tcpstate", "--test", "kernel"])
        .args(soak.release.then_some("--release"))
        .args(privileges::runner(&[MINUTES], &[]))
        .args(["--", "--exact", "soak"])
        .env(MINUTES, soak.minutes.to_string());
    succeed(&mut cargo)
}
