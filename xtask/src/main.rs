//! `cargo xtask`: the project's own commands, one file for each.

mod bench;
mod build_ebpf;
mod ci;
mod dist;
mod fuzz;
mod manifests;
mod miri;
mod oracle;
mod package;
mod paths;
mod privileges;
mod public_api;
mod run;
mod scraped;
mod setup;
mod soak;
mod test;
mod try_unit;
mod vm;

use std::{
    env,
    path::{Path, PathBuf},
    process,
};

use clap::Parser;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "The project's own commands")]
enum Command {
    /// Build tcpstate and run it with the privileges it needs
    Run(run::Run),
    /// Run all tests, including the kernel tests
    Test(test::Test),
    /// Run the kernel tests on Debian's kernels, in virtual machines
    Vm(vm::Vm),
    /// Run the units of the Debian package under systemd, in a virtual machine
    TryUnit(try_unit::TryUnit),
    /// Measure what tcpstate costs
    Bench(bench::Bench),
    /// Fuzz the parsers
    Fuzz(fuzz::Fuzz),
    /// Check the memory ordering of what the kernel and tcpstate share
    Miri,
    /// Run for a long time under mixed load, and check that nothing grows
    Soak(soak::Soak),
    /// Compare tcpstate with ftrace over many transitions
    Oracle(oracle::Oracle),
    /// Build the release files: a static binary in an archive, a Debian package, checksums
    Dist(dist::Dist),
    /// Compare the public API of the libraries with the committed lists
    PublicApi(public_api::PublicApi),
    /// Make the packages for a registry, and build them
    Package,
    /// Compare the Kubernetes manifests with Kubernetes' schemas
    CheckManifests,
    /// Run every check that a change must pass
    Ci,
    /// Build the BPF object
    BuildEbpf,
    /// Rebuild the BPF object and compare it with the committed one
    CheckEbpf,
    /// Install the tools that build the BPF object
    Setup,
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Run(arguments) => run::run(arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Vm(arguments) => vm::run(&arguments),
        Command::TryUnit(arguments) => try_unit::run(&arguments),
        Command::Bench(which) => bench::run(&which),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Miri => miri::run(),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Oracle(arguments) => oracle::run(&arguments),
        Command::Dist(arguments) => dist::run(&arguments),
        Command::PublicApi(arguments) => public_api::run(&arguments),
        Command::Package => package::run(),
        Command::CheckManifests => manifests::run(),
        Command::Ci => ci::run(),
        Command::BuildEbpf => build_ebpf::build(),
        Command::CheckEbpf => build_ebpf::check(),
        Command::Setup => setup::run(),
    }
}

/// The cargo that started this process.
fn cargo() -> process::Command {
    process::Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The root of the workspace.
fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}
