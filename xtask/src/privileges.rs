//! Root, for what needs it: the commands themselves run as whoever calls them.

use std::{fs, os::unix::fs::MetadataExt as _, process::Command};

use anyhow::{Context as _, Result, ensure};

/// Whether this process is root.
pub fn is_root() -> Result<bool> {
    // The owner of a process's directory in /proc is its effective user.
    Ok(fs::metadata("/proc/self").context("/proc/self")?.uid() == 0)
}

/// Whether there is a `sudo` to ask.
pub fn has_sudo() -> bool {
    Command::new("sudo")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Arguments that make `cargo run` or `cargo test` start its binary as root, these variables of the
/// environment kept. None where this process is root already, or where there is no `sudo`: then the
/// binary says itself what it lacks.
pub fn runner(keep: &[&str]) -> Result<Vec<String>> {
    if is_root()? || !has_sudo() {
        return Ok(Vec::new());
    }
    let keep = keep.join(",");
    let runner = format!(r#"target."cfg(all())".runner = ["sudo", "--preserve-env={keep}"]"#);
    Ok(vec!["--config".into(), runner])
}

/// A command that runs as root, by `sudo` where needed.
pub fn as_root(program: &str) -> Result<Command> {
    if is_root()? {
        return Ok(Command::new(program));
    }
    let mut sudo = Command::new("sudo");
    sudo.arg(program);
    Ok(sudo)
}

/// Runs a command and fails if it does.
pub fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
