//! `miri`: runs the tests of memory that several threads share under Miri, which knows the memory model of the language
//! and not that of this machine: it finds an ordering that is missing, though no processor here needs it.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{privileges::succeed, workspace};

/// The tests that call nothing that Miri lacks, by package.
const TESTS: [(&str, &str); 1] = [("tcpstate-capture", "ring::tests")];

/// Runs them.
pub fn run() -> Result<()> {
    ensure!(
        is_possible(),
        "there is no Miri: rustup component add --toolchain nightly miri rust-src"
    );
    for (package, test) in TESTS {
        // Threads change at any moment, differently for each seed.
        succeed(
            cargo_miri()
                .args(["test", "--locked", "--lib", "--package", package, test])
                .env("MIRIFLAGS", "-Zmiri-many-seeds=0..8"),
        )?;
    }
    Ok(())
}

/// Whether a nightly compiler with Miri is installed.
pub fn is_possible() -> bool {
    cargo_miri()
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

fn cargo_miri() -> Command {
    let mut rustup = Command::new("rustup");
    rustup
        .args(["run", "nightly", "cargo", "miri"])
        .current_dir(workspace());
    rustup
}
