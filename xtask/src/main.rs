//! `cargo xtask`: the project's own commands.

mod build_ebpf;
mod setup;

use std::path::{Path, PathBuf};

use clap::Parser;

#[derive(Parser)]
enum Command {
    /// Build the BPF object
    BuildEbpf,
    /// Rebuild the BPF object and compare it with the committed one
    CheckEbpf,
    /// Install what builds the BPF object
    Setup,
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::BuildEbpf => build_ebpf::build(),
        Command::CheckEbpf => build_ebpf::check(),
        Command::Setup => setup::run(),
    }
}

/// The root of the workspace.
fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}
