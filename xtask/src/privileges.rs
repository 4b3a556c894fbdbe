//! Root privileges for the parts that need them; the commands themselves run as the caller.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether `sudo` is installed.
pub fn has_sudo() -> bool {
    Command::new("sudo")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Arguments that make `cargo run` or `cargo test` start its binary as root, by a command that is put before it, and keep
/// these environment variables. None if nothing has to be put before it, or if this process is not root and there is no
/// `sudo`: then the binary itself reports the privileges that it lacks.
pub fn runner(keep: &[&str], before: &[&str]) -> Vec<String> {
    let keep = format!("--preserve-env={}", keep.join(","));
    let sudo: &[&str] = match (is_root(), has_sudo()) {
        (true, _) => &[],
        (false, true) => &["sudo", &keep],
        (false, false) => return Vec::new(),
    };
    let words = [sudo, before].concat();
    if words.is_empty() {
        return Vec::new();
    }
    // Rust's notation of these words is TOML's too.
    vec![
        "--config".into(),
        format!(r#"target."cfg(all())".runner = {words:?}"#),
    ]
}

/// A command that runs as root, by `sudo` if needed.
pub fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.arg(program);
    sudo
}

/// Runs a command; an exit status other than 0 is an error.
pub fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_is_valid_toml() {
        let words = ["sh", "-c", r#"mount it; exec "$@""#, "sh"];
        let arguments = runner(&["KEPT"], &words);
        // Without root and `sudo` there is none.
        if let [_, config] = &arguments[..] {
            let config: toml::Table = toml::from_str(config).unwrap();
            let runner = config["target"]["cfg(all())"]["runner"].as_array().unwrap();
            let runner: Vec<_> = runner.iter().filter_map(toml::Value::as_str).collect();
            assert!(runner.ends_with(&words), "{runner:?}");
        }
    }
}
