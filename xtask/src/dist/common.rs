//! Facts and helpers that all parts of the distribution use.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::workspace;

/// The version of tcpstate, which is that of the workspace.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The folder of man pages, completions and notices, which `[package.metadata.deb]` names too.
pub(super) fn manual() -> PathBuf {
    workspace().join("target/manual")
}

/// The output of a command.
pub(super) fn output_of(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// A `tar` that makes an archive with files of this date, independent of this machine: no times, no owners, and not the order of the
/// file system.
pub(super) fn tar(date: &str) -> Command {
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mode=u=rwX,go=rX",
    ])
    .arg(format!("--mtime=@{date}"));
    tar
}

/// Makes an empty folder with this name.
pub(super) fn fresh(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())
}

pub(super) fn print_made(file: &Path) -> Result<()> {
    let bytes = fs::metadata(file)?.len();
    eprintln!("made {} ({bytes} bytes)", file.display());
    Ok(())
}

/// The names of the files in a folder, sorted.
pub(super) fn files(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let name = entry?.file_name().into_string();
        names.push(name.map_err(|name| anyhow::anyhow!("not UTF-8: {}", name.display()))?);
    }
    names.sort();
    Ok(names)
}
