//! `oracle`: compares tcpstate with ftrace over many transitions.

use anyhow::Result;

use crate::{
    cargo,
    privileges::{self, succeed},
    workspace,
};

/// The environment variable that gives the tests their number of transitions.
const TRANSITIONS: &str = "TCPSTATE_ORACLE_TRANSITIONS";

/// Arguments of `oracle`.
#[derive(clap::Args)]
pub struct Oracle {
    /// Transitions in each situation
    #[arg(long, default_value_t = 10_000_000)]
    transitions: u64,
    /// Test the release build, whose tests take a while to build
    #[arg(long)]
    release: bool,
}

/// Runs `same_as_ftrace`, kernel tests that print what is missing in each situation.
pub fn run(oracle: &Oracle) -> Result<()> {
    let mut cargo = cargo();
    cargo
        .current_dir(workspace())
        .args(["test", "--package", "tcpstate", "--test", "kernel"])
        .args(oracle.release.then_some("--release"))
        .args(privileges::runner(&[TRANSITIONS], &[]))
        .args(["--", "--nocapture", "same_as_ftrace::"])
        .env(TRANSITIONS, oracle.transitions.to_string());
    succeed(&mut cargo)
}
