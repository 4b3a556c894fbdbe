//! `bench`: runs the project's measurements, `tcpstate-user/benches/suite`.
//!
//! They print what they measured and never judge a time: a machine has its own pace, so only ratios out
//! of one run mean something.

use std::path::{self, PathBuf};

use anyhow::Result;

use crate::{
    cargo,
    privileges::{self, succeed},
    workspace,
};

/// What to measure.
#[derive(clap::Args)]
pub struct Bench {
    /// What to measure; nothing named: all. `cargo xtask bench -- --help` lists them
    which: Vec<String>,
    /// Short and not optimised, for its counts: what CI runs. Its times mean little
    #[arg(long)]
    quick: bool,
    /// Interleaved rounds of each comparison
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Write the rows to this file as well, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Put the tables into docs/overhead.md in place of those that are there
    #[arg(long)]
    write_docs: bool,
}

/// Builds what is measured and what measures, and runs it as root: most of it needs that.
pub fn run(bench: &Bench) -> Result<()> {
    let mut cargo = cargo();
    cargo
        .args(["bench", "--bench", "suite", "--manifest-path"])
        .arg(workspace().join("tcpstate-user/Cargo.toml"))
        .args(privileges::runner(&[])?);
    if bench.quick {
        // As the tests are built: where times mean little, an optimised build is not worth its minutes.
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
        // Cargo runs it from the package's directory; the file is relative to the caller's.
        cargo.arg("--json").arg(path::absolute(file)?);
    }
    if bench.write_docs {
        cargo.arg("--write-docs");
    }
    succeed(&mut cargo)
}
