//! What an ordinary user can do, with and without the two capabilities on the binary.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use tempfile::TempDir;

use crate::{
    need::{Need, trial},
    net::unused_port,
    process::{BINARY, Output, Tcpstate, run},
    traffic::{on_loopback, storm},
};

/// `nobody`.
const USER: &str = "65534";

pub fn add(trials: &mut Vec<Trial>) {
    let setpriv = Need::Program("setpriv");
    trials.push(trial(
        "ordinary_user_with_capabilities",
        &[Need::Btf, setpriv, Need::Program("setcap")],
        ordinary_user_with_capabilities,
    ));
    trials.push(trial(
        "ordinary_user_without_capabilities",
        &[Need::Btf, setpriv],
        ordinary_user_without_capabilities,
    ));
    trials.push(trial(
        "each_capability_is_needed",
        &[Need::Btf, setpriv, Need::Program("setcap")],
        each_capability_is_needed,
    ));
}

fn ordinary_user_with_capabilities() -> Result<()> {
    let (_folder, binary) = copy_of_the_binary()?;
    let status = Command::new("setcap")
        .arg("cap_bpf,cap_perfmon=ep")
        .arg(&binary)
        .status()?;
    ensure!(status.success(), "setcap: {status}");
    let port = unused_port();
    let mut command = as_user(&binary);
    // `auto` has to find by itself that it is `btf` that works here: tracefs is for root.
    command.args(["trace", "--json", "-P", &port.to_string()]);
    let tcpstate = Tcpstate::start_command(command)?;
    let status = fs::read_to_string(format!("/proc/{}/status", tcpstate.child.id()))?;
    let uids = status
        .lines()
        .find(|line| line.starts_with("Uid:"))
        .context("no Uid")?;
    ensure!(
        uids.split_whitespace().skip(1).all(|uid| uid == USER),
        "not an ordinary user: {uids}"
    );
    on_loopback(|| storm(port, 5))?;
    let (lines, summary) = tcpstate.stop()?.transitions()?;
    ensure!(lines.len() == 10, "{} lines, {summary}", lines.len());
    Ok(())
}

fn ordinary_user_without_capabilities() -> Result<()> {
    const CAPABILITIES: [&str; 3] = ["CAP_BPF", "CAP_PERFMON", "setcap cap_bpf,cap_perfmon"];
    // No capability that `setcap` could give opens tracefs, but there is another way.
    const TRACEFS: [&str; 3] = ["/sys/kernel/tracing", "root", "--attach btf"];
    let (_folder, binary) = copy_of_the_binary()?;
    for (mode, words) in [
        ("auto", CAPABILITIES),
        ("btf", CAPABILITIES),
        ("tracepoint", TRACEFS),
    ] {
        let output = as_user(&binary)
            .args(["trace", "--attach", mode])
            .output()?;
        let (code, stderr) = (output.status.code(), String::from_utf8(output.stderr)?);
        ensure!(code == Some(1), "{mode}: exit {code:?}: {stderr}");
        ensure!(output.stdout.is_empty(), "{mode}: {:?}", output.stdout);
        for word in words {
            ensure!(stderr.contains(word), "{mode}: no `{word}` in: {stderr}");
        }
    }
    // Not everything takes privileges.
    let Output { status, stderr, .. } = run("setpriv", &user_arguments(&binary, &["--version"]))?;
    ensure!(status.success(), "{stderr}");
    Ok(())
}

/// The two capabilities suffice (above), and neither does alone.
fn each_capability_is_needed() -> Result<()> {
    const COMMANDS: [&[&str]; 5] = [
        &["trace"],
        &["life"],
        &["rates"],
        &["hist"],
        &["record", "-w", "-"],
    ];
    let (_folder, binary) = copy_of_the_binary()?;
    for alone in ["cap_bpf=ep", "cap_perfmon=ep"] {
        let status = Command::new("setcap").arg(alone).arg(&binary).status()?;
        ensure!(status.success(), "setcap: {status}");
        for command in COMMANDS {
            let output = as_user(&binary)
                .args(command)
                .args(["--attach", "btf", "--duration", "1"])
                .output()?;
            let (code, stderr) = (output.status.code(), String::from_utf8(output.stderr)?);
            ensure!(
                code == Some(1),
                "{alone}, {command:?}: exit {code:?}: {stderr}"
            );
            for word in ["CAP_BPF", "CAP_PERFMON"] {
                ensure!(
                    stderr.contains(word),
                    "{alone}, {command:?}: no `{word}` in: {stderr}"
                );
            }
        }
    }
    Ok(())
}

/// A copy that anybody may run: the build's folders may be closed to others.
pub fn copy_of_the_binary() -> Result<(TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let binary = folder.path().join("tcpstate");
    fs::copy(BINARY, &binary)?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    Ok((folder, binary))
}

/// That binary as `nobody`.
pub fn as_user(binary: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(user_arguments(binary, &[])).current_dir("/");
    command
}

fn user_arguments(binary: &Path, more: &[&str]) -> Vec<std::ffi::OsString> {
    ["--reuid", USER, "--regid", USER, "--clear-groups", "--"]
        .iter()
        .map(Into::into)
        .chain([binary.into()])
        .chain(more.iter().map(Into::into))
        .collect()
}
