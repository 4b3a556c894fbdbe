//! `test`: runs every test, including the kernel tests.

use std::{ffi::OsString, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    cargo,
    privileges::{self, as_root, has_sudo, is_root, succeed},
    workspace,
};

/// If this variable is `1`, a kernel test that cannot run fails instead of being skipped.
const REQUIRE_KERNEL: &str = "TCPSTATE_REQUIRE_KERNEL";

/// Arguments of `test`.
#[derive(clap::Args)]
pub struct Test {
    /// Run only the kernel tests
    #[arg(long)]
    kernel: bool,
    /// Embed this BPF object instead of the committed one
    #[arg(long, value_name = "FILE")]
    bpf_object: Option<PathBuf>,
    /// Arguments of the test binaries, such as a part of a test's name
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Runs the tests as the caller, and those that need root by `sudo`.
pub fn run(test: &Test) -> Result<()> {
    let root = is_root();
    let mounts = mounts();
    let mounts: Vec<&str> = mounts.iter().map(String::as_str).collect();
    // Root runs all of them at once. For another user `cargo test` shows the kernel tests as skipped, and
    // sudo then runs them.
    if !test.kernel {
        let mut cargo = test.cargo()?;
        if root {
            cargo.args(privileges::runner(&[], &mounts));
        } else if has_sudo() {
            cargo.env_remove(REQUIRE_KERNEL);
        }
        succeed(cargo.arg("--").args(&test.arguments))?;
        if root {
            return Ok(());
        }
        if !has_sudo() {
            eprintln!("skipped: the kernel tests need root, and there is no sudo");
            return Ok(());
        }
    }
    let mut cargo = test.cargo()?;
    cargo
        .args(["--package", "tcpstate", "--test", "kernel"])
        .args(privileges::runner(&[REQUIRE_KERNEL], &mounts))
        .arg("--")
        .args(&test.arguments);
    succeed(&mut cargo)
}

impl Test {
    fn cargo(&self) -> Result<Command> {
        let mut cargo = cargo();
        cargo.current_dir(workspace()).arg("test");
        // A failure in one binary must not hide those of the next. Cargo fails all the same.
        cargo.arg("--no-fail-fast");
        if let Some(object) = &self.bpf_object {
            let object = object
                .canonicalize()
                .with_context(|| object.display().to_string())?;
            cargo.env("TCPSTATE_BPF_OBJECT", object);
        }
        Ok(cargo)
    }
}

/// A command that mounts the file systems which the kernel has and a bare machine has not mounted, and then executes its
/// arguments. They are mounted only for that program: nothing is left of them on the machine.
pub fn mounts() -> Vec<String> {
    let mut script = String::new();
    for (kind, path) in [
        ("tracefs", "/sys/kernel/tracing"),
        ("securityfs", "/sys/kernel/security"),
    ] {
        // An empty folder is not mounted. An unreadable one is mounted, and an absent one means that the
        // kernel has no such file system.
        if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none()) {
            eprintln!("mounting {kind} on {path}, for this run only");
            // A container may forbid it. The tests then report what is missing.
            script.extend(["mount -t ", kind, " ", kind, " ", path, " || true; "]);
        }
    }
    // What the tests mount elsewhere, as the names of `ip netns`, is shared with other runs as before.
    let private = ["unshare", "--mount", "--propagation", "unchanged"];
    let is_allowed = || as_root("unshare").args(&private[1..]).arg("true").status();
    if script.is_empty() || !is_allowed().is_ok_and(|status| status.success()) {
        return Vec::new();
    }
    let script = format!("mount --make-private /sys; {script}exec \"$@\"");
    let words = private.into_iter().chain(["sh", "-c", &script, "sh"]);
    words.map(str::to_owned).collect()
}
