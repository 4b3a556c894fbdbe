//! `fuzz`: runs the fuzz targets of `tcpstate-user/fuzz` for a while each, from their committed seeds.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};

use crate::{privileges::succeed, workspace};

/// How long to fuzz.
#[derive(clap::Args)]
pub struct Fuzz {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Runs every target there is, one after the other; the first crash ends it.
pub fn run(Fuzz { seconds }: &Fuzz) -> Result<()> {
    let package = workspace().join("tcpstate-user");
    let mut targets = Vec::new();
    for entry in fs::read_dir(package.join("fuzz/fuzz_targets"))? {
        if let Some(name) = entry?.path().file_stem().and_then(|name| name.to_str()) {
            targets.push(name.to_owned());
        }
    }
    targets.sort();
    for target in targets {
        let corpus = format!("fuzz/corpus/{target}");
        fs::create_dir_all(package.join(&corpus)).with_context(|| corpus.clone())?;
        let mut fuzz = nightly();
        fuzz.current_dir(&package)
            .args(["fuzz", "run", &target, &corpus])
            .arg(format!("fuzz/seeds/{target}"))
            .arg("--")
            .arg(format!("-max_total_time={seconds}"))
            .arg("-print_final_stats=1");
        succeed(&mut fuzz)?;
    }
    Ok(())
}

/// Whether a nightly compiler and cargo-fuzz are here, which fuzzing takes.
pub fn is_possible() -> bool {
    nightly()
        .args(["fuzz", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
}

fn nightly() -> Command {
    let mut rustup = Command::new("rustup");
    rustup.args(["run", "nightly", "cargo"]);
    rustup
}
