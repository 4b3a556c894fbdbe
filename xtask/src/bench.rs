//! `bench`: runs the project's benchmarks, `tcpstate-user/benches/suite`.
//!
//! They print their measurements and never judge a time: every machine is differently fast, so only
//! ratios within one run are meaningful.

use std::path::{self, PathBuf};

use anyhow::Result;

use crate::{
    cargo,
    privileges::{self, succeed},
    test::mounts,
    workspace,
};

/// Arguments of `bench`.
#[derive(clap::Args)]
pub struct Bench {
    /// Benchmarks to run [default: all]. `cargo xtask bench -- --help` lists them
    which: Vec<String>,
    /// Short and unoptimised, to check the counts, as CI does. The times mean little
    #[arg(long)]
    quick: bool,
    /// Number of interleaved rounds of each comparison
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Also write the rows to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Replace the tables in docs/overhead-notebook.md
    #[arg(long)]
    write_docs: bool,
}

/// Builds tcpstate and the benchmarks, and runs them as root, which most of them need.
pub fn run(bench: &Bench) -> Result<()> {
    // Other tools need it too.
    let mounts = mounts();
    let mounts: Vec<&str> = mounts.iter().map(String::as_str).collect();
    let mut cargo = cargo();
    cargo
        .args(["bench", "--bench", "suite", "--manifest-path"])
        .arg(workspace().join("tcpstate-user/Cargo.toml"))
        .args(privileges::runner(&[], &mounts));
    if bench.quick {
        // The profile of the tests: times mean little here, so an optimised build is not worth the minutes.
        cargo.args(["--profile", "dev"]);
    }
    cargo.arg("--").args(&bench.which);
    if bench.quick {
        cargo.arg("--quick");
    }
    if let Some(rounds) = bench.rounds {
        cargo.args(["--rounds", &rounds.to_string()]);
    }
    if let Some(file) = &bench.json {
        // Cargo runs it from the package's directory, but the path is relative to the caller's.
        cargo.arg("--json").arg(path::absolute(file)?);
    }
    if bench.write_docs {
        cargo.arg("--write-docs");
    }
    succeed(&mut cargo)
}
