//! Root privileges for the parts that need them; the commands themselves run as the caller.

use std::{fs, os::unix::fs::MetadataExt as _, process::Command};

use anyhow::{Context as _, Result, ensure};

/// Whether this process is root.
pub fn is_root() -> Result<bool> {
    // The owner of a process's directory in /proc is its effective user.
    Ok(fs::metadata("/proc/self").context("/proc/self")?.uid() == 0)
}

/// Whether `sudo` is installed.
pub fn has_sudo() -> bool {
    Command::new("sudo")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Arguments that make `cargo run` or `cargo test` start its binary as root and keep these environment
/// variables. None if this process is root already, or if there is no `sudo`: then the binary itself
/// reports the privileges that it lacks.
pub fn runner(keep: &[&str]) -> Result<Vec<String>> {
    if is_root()? || !has_sudo() {
        return Ok(Vec::new());
    }
    let keep = keep.join(",");
    let runner = format!(r#"target."cfg(all())".runner = ["sudo", "--preserve-env={keep}"]"#);
    Ok(vec!["--config".into(), runner])
}

/// A command that runs as root, by `sudo` if needed.
pub fn as_root(program: &str) -> Result<Command> {
    if is_root()? {
        return Ok(Command::new(program));
    }
    let mut sudo = Command::new("sudo");
    sudo.arg(program);
    Ok(sudo)
}

/// Runs a command; an exit status other than 0 is an error.
pub fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
