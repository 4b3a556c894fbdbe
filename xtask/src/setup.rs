//! `setup`: installs the tools that build the BPF object, by rustup or from Debian's packages.
//!
//! Using tcpstate or changing its user-space side does not need them, because the object is committed.

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

use crate::build_ebpf::{self, LINKER_VERSION};

/// The compiler that `MANIFEST.toml` records for the committed object, as rustup names it.
const RUSTUP_TOOLCHAIN: &str = "1.96.0";
/// The same from Debian 12: a compiler with the sources of its library, installed beside rustup's.
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "rust-web-llvm"];

/// Installs the tools that are missing and leaves the others alone.
pub fn run() -> Result<()> {
    let sh = Shell::new()?;
    if !build_ebpf::has_toolchain(&sh) {
        install_compiler(&sh)?;
    }
    if !build_ebpf::has_linker(&sh) {
        eprintln!("installing bpf-linker {LINKER_VERSION}");
        cmd!(
            sh,
            "cargo install --locked bpf-linker --version {LINKER_VERSION}"
        )
        .run()
        .context("install bpf-linker")?;
    }
    build_ebpf::require(&sh)?;
    eprintln!("the BPF toolchain is complete: cargo xtask build-ebpf");
    Ok(())
}

fn install_compiler(sh: &Shell) -> Result<()> {
    eprintln!("installing a Rust compiler with the sources of its library");
    let by_rustup = cmd!(
        sh,
        "rustup toolchain install {RUSTUP_TOOLCHAIN} --profile minimal --component rust-src"
    )
    .run();
    if by_rustup.is_ok() {
        return Ok(());
    }
    eprintln!("rustup cannot install it; trying the distribution's packages");
    let (program, arguments) = if is_root(sh) {
        ("apt-get", &[][..])
    } else {
        ("sudo", &["apt-get"][..])
    };
    if cmd!(sh, "apt-get --version")
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()
        .is_err()
    {
        bail!(
            "neither rustup nor apt-get can install a compiler here. Install Rust \
             {RUSTUP_TOOLCHAIN} or newer with the sources of its library (rust-src) by other means \
             and name it with TCPSTATE_BPF_RUSTC=/path/to/rustc"
        );
    }
    cmd!(sh, "{program} {arguments...} update").run()?;
    cmd!(
        sh,
        "{program} {arguments...} install -y --no-install-recommends {DEBIAN_PACKAGES...}"
    )
    .env("DEBIAN_FRONTEND", "noninteractive")
    .run()
    .context("install Debian's Rust compiler")?;
    Ok(())
}

fn is_root(sh: &Shell) -> bool {
    cmd!(sh, "id -u")
        .quiet()
        .read()
        .is_ok_and(|uid| uid.trim() == "0")
}
