//! Compiler flags that keep this machine's folders out of what is built, so that a build does not depend
//! on its place.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::workspace;

/// Flags for a compiler with this sysroot, in the format of `CARGO_ENCODED_RUSTFLAGS`.
pub fn remapped(sysroot: &Path) -> Result<String> {
    let library = sysroot.join("lib/rustlib/src/rust");
    let places = [
        (workspace(), "/tcpstate"),
        (cargo_home()?, "/cargo"),
        (library, "/rustc"),
    ];
    let flags = places.map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    Ok(flags.join("\x1f"))
}

/// The folder in which cargo keeps the sources of crates.
pub fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    let home = env::home_dir().context("no home directory, and CARGO_HOME is not set")?;
    Ok(home.join(".cargo"))
}
