//! An ordinary user, with and without the two capabilities on the binary; and root with few capabilities.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use tempfile::TempDir;

use crate::{
    need::{Need, trial},
    net::{Named, Netns, unused_port},
    process::{BINARY, Output, Running, Tcpstate, has_result, run},
    traffic::{on_loopback, storm},
};

/// `nobody`.
const USER: &str = "65534";

/// Words of the refusal of tracefs: no capability by `setcap` opens it, but another mode works.
const TRACEFS: [&str; 3] = ["/sys/kernel/tracing", "root", "--attach btf"];

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
    trials.push(trial(
        "tracepoint_mode_takes_root_and_capabilities",
        &[Need::Tracefs, setpriv, Need::Program("setcap")],
        tracepoint_mode_takes_root_and_capabilities,
    ));
    trials.push(trial(
        "bpf_stats_takes_another_capability",
        &[Need::Btf, setpriv],
        bpf_stats_takes_another_capability,
    ));
    trials.push(trial(
        "other_namespaces_take_two_capabilities",
        &[setpriv],
        other_namespaces_take_two_capabilities,
    ));
    trials.push(trial(
        "namespaces_that_cannot_be_entered_take_a_line",
        &[
            Need::Btf,
            setpriv,
            Need::Program("setcap"),
            Need::Program("ip"),
        ],
        namespaces_that_cannot_be_entered_take_a_line,
    ));
    trials.push(trial(
        "commands_without_privileges",
        &[setpriv],
        commands_without_privileges,
    ));
}

fn ordinary_user_with_capabilities() -> Result<()> {
    let (_folder, binary) = copy_with("cap_bpf,cap_perfmon=ep")?;
    let port = unused_port();
    let mut command = as_user(&binary);
    // `auto` must select `btf` by itself, because tracefs is for root.
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
    let (_folder, binary) = copy_of_the_binary()?;
    for (mode, words) in [
        ("auto", CAPABILITIES),
        ("btf", CAPABILITIES),
        ("tracepoint", TRACEFS),
    ] {
        let output = run_as_user(&binary, &["trace", "--attach", mode])?;
        expect_refusal(&output, &words).context(mode)?;
    }
    // Some commands need no privileges.
    let Output { status, stderr, .. } = run_as_user(&binary, &["--version"])?;
    ensure!(status.success(), "{stderr}");
    Ok(())
}

/// Neither of the two capabilities suffices alone.
fn each_capability_is_needed() -> Result<()> {
    const COMMANDS: [&[&str]; 6] = [
        &["trace"],
        &["life"],
        &["rates"],
        &["hist"],
        &["record", "-w", "-"],
        &["serve"],
    ];
    for alone in ["cap_bpf=ep", "cap_perfmon=ep"] {
        let (_folder, binary) = copy_with(alone)?;
        for command in COMMANDS {
            let watch = [command, &["--attach", "btf", "--duration", "1"]].concat();
            let output = run_as_user(&binary, &watch)?;
            expect_refusal(&output, &["CAP_BPF", "CAP_PERFMON"])
                .with_context(|| format!("{alone}, {command:?}"))?;
        }
    }
    Ok(())
}

/// Tracefs is for root, and an event of a tracepoint may need a further capability.
fn tracepoint_mode_takes_root_and_capabilities() -> Result<()> {
    let watch = ["trace", "--attach", "tracepoint", "--duration", "100ms"];
    let enough = if perf_is_restricted()? {
        expect_refusal(&as_root_with("bpf,perfmon", &watch)?, &["CAP_SYS_ADMIN"])?;
        "bpf,perfmon,sys_admin"
    } else {
        "bpf,perfmon"
    };
    let output = as_root_with(enough, &watch)?;
    ensure!(has_result(output.status), "{}", output.stderr);
    for alone in ["bpf", "perfmon", ""] {
        let output = as_root_with(alone, &watch)?;
        expect_refusal(&output, &["CAP_BPF", "CAP_PERFMON"]).context(alone)?;
    }
    let (_folder, binary) = copy_with("cap_bpf,cap_perfmon=ep")?;
    let output = run_as_user(&binary, &watch)?;
    expect_refusal(&output, &TRACEFS)
}

/// Whether Debian's kernel patch restricts tracepoint events to `CAP_SYS_ADMIN`.
fn perf_is_restricted() -> Result<bool> {
    let level: i32 = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid")?
        .trim()
        .parse()?;
    Ok(level > 2)
}

fn bpf_stats_takes_another_capability() -> Result<()> {
    let watch = ["trace", "--bpf-stats", "--duration", "100ms"];
    let output = as_root_with("bpf,perfmon,sys_admin", &watch)?;
    ensure!(has_result(output.status), "{}", output.stderr);
    let output = as_root_with("bpf,perfmon", &watch)?;
    expect_refusal(&output, &["CAP_SYS_ADMIN"])
}

/// One capability to find the namespace of another user's process, and one to enter it.
fn other_namespaces_take_two_capabilities() -> Result<()> {
    let netns = Netns::new()?;
    let port = unused_port();
    let (_listener, _process) = netns.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let mut process = as_user("sleep".as_ref());
        Ok((listener, Running::new(process.arg("infinity"))?))
    })?;
    let inode = netns.inode()?.to_string();
    let list = ["ls", "--json", "--state", "listening", "--netns", &inode];
    let output = as_root_with("sys_admin,sys_ptrace", &list)?;
    let listens = format!("\"lport\":{port},");
    ensure!(
        output.status.success() && output.stdout.contains(&listens),
        "{} {}",
        output.stdout,
        output.stderr
    );
    expect_refusal(&as_root_with("sys_ptrace", &list)?, &["CAP_SYS_ADMIN"])?;
    for without in ["sys_admin", ""] {
        let output = as_root_with(without, &list)?;
        expect_refusal(&output, &[&inode, "CAP_SYS_PTRACE"]).context(without)?;
    }
    let all = as_root_with("sys_admin", &["ls", "--json", "--netns", "all"])?;
    ensure!(
        all.stdout.contains("this is root without CAP_SYS_PTRACE")
            && !all.stdout.contains("root sees them"),
        "{all:?}"
    );
    Ok(())
}

/// However many namespaces the user may not enter, there is a line about them; `-v` has a line for each.
fn namespaces_that_cannot_be_entered_take_a_line() -> Result<()> {
    let (_folder, binary) = copy_with("cap_bpf,cap_perfmon=ep")?;
    let named = [Named::new()?, Named::new()?, Named::new()?];
    let port = unused_port().to_string();
    for command in [
        &["trace", "--duration", "200ms", "-P", &port][..],
        &["rates", "100ms", "2", "-P", &port],
    ] {
        let about = |more: &[&str]| -> Result<Vec<String>> {
            let output = run_as_user(&binary, &[command, more].concat())?;
            ensure!(has_result(output.status), "{output:?}");
            let lines = output.stderr.lines();
            let about = lines.filter(|line| line.contains("cannot enter"));
            Ok(about.map(str::to_owned).collect())
        };
        let lines = about(&[])?;
        ensure!(lines.len() == 1, "{command:?}: {lines:#?}");
        let each = about(&["-v"])?;
        for named in &named {
            let name = format!("({})", named.0);
            let is_named = each.iter().any(|line| line.contains(&name));
            ensure!(is_named, "no {name}: {each:#?}");
        }
    }
    Ok(())
}

fn commands_without_privileges() -> Result<()> {
    let (folder, binary) = copy_of_the_binary()?;
    let recording = folder.path().join("recording");
    let recording = recording.to_str().context("a path in UTF-8")?;
    let made = run(BINARY, &["record", "-w", recording, "--duration", "100ms"])?;
    ensure!(has_result(made.status), "{}", made.stderr);
    fs::set_permissions(recording, fs::Permissions::from_mode(0o644))?;
    let commands: [&[&str]; 6] = [
        &["ls"],
        &["trace", "-r", recording],
        &["life", "-r", recording],
        &["rates", "-r", recording],
        &["hist", "-r", recording],
        &["record", "-r", recording, "-w", "/dev/null"],
    ];
    for command in commands {
        let output = run_as_user(&binary, command)?;
        ensure!(has_result(output.status), "{command:?}: {}", output.stderr);
    }
    let doctor = run_as_user(&binary, &["doctor", "--json"])?;
    let finds_them_missing = doctor.stdout.lines().any(|line| {
        line.contains(r#""name":"capabilities","status":"missing""#)
            && line.contains("setcap cap_bpf,cap_perfmon")
    });
    ensure!(
        doctor.status.code() == Some(1) && finds_them_missing,
        "{}",
        doctor.stdout
    );
    Ok(())
}

/// Runs the binary as root with only these capabilities.
fn as_root_with(capabilities: &str, arguments: &[&str]) -> Result<Output> {
    let names = capabilities.split(',').filter(|name| !name.is_empty());
    let set = names.fold("-all".to_owned(), |set, name| set + ",+" + name);
    // The build folders may be inaccessible to root without CAP_DAC_OVERRIDE.
    let (_folder, binary) = copy_of_the_binary()?;
    let binary = binary.to_str().context("a path in UTF-8")?;
    let few = ["--bounding-set", &set, "--inh-caps", &set, "--", binary];
    run("setpriv", &[&few, arguments].concat())
}

/// Checks that it failed, with these words and with no output on standard output.
fn expect_refusal(output: &Output, words: &[&str]) -> Result<()> {
    let Output {
        status,
        stdout,
        stderr,
    } = output;
    ensure!(status.code() == Some(1), "{status}: {stderr}");
    ensure!(stdout.is_empty(), "{stdout}");
    for word in words {
        ensure!(stderr.contains(word), "no `{word}` in: {stderr}");
    }
    Ok(())
}

/// A copy of the binary that every user may run, because the build folders may be inaccessible to others.
pub fn copy_of_the_binary() -> Result<(TempDir, PathBuf)> {
    copy_of(Path::new(BINARY))
}

/// The same of any program.
pub fn copy_of(program: &Path) -> Result<(TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let binary = folder.path().join("tcpstate");
    fs::copy(program, &binary)?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    Ok((folder, binary))
}

/// That copy with these capabilities, in the format of `setcap`.
fn copy_with(capabilities: &str) -> Result<(TempDir, PathBuf)> {
    let (folder, binary) = copy_of_the_binary()?;
    let output = Command::new("setcap")
        .arg(capabilities)
        .arg(&binary)
        .output()?;
    ensure!(output.status.success(), "setcap: {output:?}");
    Ok((folder, binary))
}

/// A command that runs that binary as `nobody`.
pub fn as_user(binary: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(user_arguments(binary, &[])).current_dir("/");
    command
}

/// Runs that binary as `nobody`, until it ends by itself.
fn run_as_user(binary: &Path, arguments: &[&str]) -> Result<Output> {
    run("setpriv", &user_arguments(binary, arguments))
}

fn user_arguments(binary: &Path, more: &[&str]) -> Vec<std::ffi::OsString> {
    ["--reuid", USER, "--regid", USER, "--clear-groups", "--"]
        .iter()
        .map(Into::into)
        .chain([binary.into()])
        .chain(more.iter().map(Into::into))
        .collect()
}
