//! `bench`: the project's measurements, each a program of its own in `tcpstate-user/benches`.
//!
//! They print what they measured and never judge it: a machine has its own pace, so only ratios out of
//! one run mean something.

use anyhow::Result;
use clap::ValueEnum as _;

use crate::{
    cargo,
    privileges::{self, succeed},
    workspace,
};

/// What to measure.
#[derive(clap::Args)]
pub struct Bench {
    /// Which measurements; none: all
    which: Vec<Which>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    /// One run of the BPF program beside an empty one (needs root)
    Probe,
    /// Decoding, tracker and histograms: events per second, bytes per connection
    Ingest,
    /// Recordings: events per second written and read, bytes per event
    Recording,
}

impl Which {
    const fn target(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Ingest => "ingest",
            Self::Recording => "recording",
        }
    }
}

/// Runs the chosen measurements, one after the other.
pub fn run(Bench { which }: &Bench) -> Result<()> {
    let all = Which::value_variants();
    for which in if which.is_empty() { all } else { which } {
        println!("\n## {}\n", which.target());
        let mut cargo = cargo();
        cargo
            .args(["bench", "--bench", which.target(), "--manifest-path"])
            .arg(workspace().join("tcpstate-user/Cargo.toml"));
        if *which == Which::Probe {
            cargo.args(privileges::runner(&[])?);
        }
        succeed(&mut cargo)?;
    }
    Ok(())
}
