//! What a test needs of the machine, and what happens where that is missing.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};

use crate::{
    net::{joined, socket},
    traffic::mptcp_protocol,
};

/// Something that a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// User id 0, with what a container may have taken from it.
    Root,
    /// The kernel's BTF, for `--attach btf`.
    Btf,
    /// tracefs, for `--attach tracepoint` and for bpftrace.
    Tracefs,
    /// A program on the PATH.
    Program(&'static str),
    /// `/dev/net/tun`, for a wire between namespaces.
    Tun,
    /// `CONFIG_MPTCP`, switched on.
    Mptcp,
    /// A memory controller of cgroups, whichever version.
    MemoryLimit,
}

impl Need {
    /// Why it is not met; `None` if it is.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!rustix::process::geteuid().is_root()).then(|| "needs root".to_owned()),
            Self::Btf => unreadable("/sys/kernel/btf/vmlinux", "the kernel has no BTF"),
            Self::Tracefs => unreadable(
                "/sys/kernel/tracing/events/sock/inet_sock_set_state/format",
                "tracefs is not mounted or lacks the tracepoint",
            ),
            Self::Program(name) => {
                // Any exit code will do: it is there.
                Command::new(name)
                    .arg("--version")
                    .output()
                    .err()
                    .map(|error| format!("{name}: {error}"))
            }
            Self::Tun => fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/net/tun")
                .err()
                .map(|error| format!("/dev/net/tun: {error}")),
            Self::Mptcp => socket(rustix::net::AddressFamily::INET, Some(mptcp_protocol()))
                .err()
                .map(|error| format!("no MPTCP sockets: {error}")),
            Self::MemoryLimit => Self::memory_cgroups()
                .is_none()
                .then(|| "no memory controller of cgroups is mounted".to_owned()),
        }
    }

    /// Where cgroups with a limit to their memory can be made, and the file that sets it.
    pub fn memory_cgroups() -> Option<(PathBuf, &'static str)> {
        const FIRST: &str = "/sys/fs/cgroup/memory";
        let first = Path::new(FIRST).join("memory.limit_in_bytes").exists();
        if first {
            return Some((FIRST.into(), "memory.limit_in_bytes"));
        }
        let second = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        let folder = second.into_iter().find(|folder| {
            let handed_down = fs::read_to_string(Path::new(folder).join("cgroup.subtree_control"));
            handed_down.is_ok_and(|list| list.split_whitespace().any(|word| word == "memory"))
        })?;
        Some((folder.into(), "memory.max"))
    }
}

fn unreadable(path: &str, meaning: &str) -> Option<String> {
    let error = fs::File::open(Path::new(path)).err()?;
    Some(format!("{meaning} ({path}: {error})"))
}

/// A test that runs if the machine has what it needs, and otherwise says `skipped: why`. With
/// `TCPSTATE_REQUIRE_KERNEL=1` a skip is a failure.
pub fn trial(
    name: impl Into<String>,
    needs: &[Need],
    test: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    let name = name.into();
    let missing = [Need::Root]
        .iter()
        .chain(needs)
        .find_map(|need| need.missing());
    let required = env::var_os("TCPSTATE_REQUIRE_KERNEL").is_some_and(|value| value == "1");
    match missing {
        None => Trial::test(name, move || {
            watched(test).map_err(|error| Failed::from(format!("{error:#}")))
        }),
        Some(why) if required => Trial::test(name, move || {
            Err(Failed::from(format!(
                "skipped: {why}, and TCPSTATE_REQUIRE_KERNEL=1 forbids to skip"
            )))
        }),
        Some(why) => {
            eprintln!("{name}: skipped: {why}");
            Trial::test(name, || Ok(())).with_ignored_flag(true)
        }
    }
}

/// No test takes as long as this, on any machine.
const HANGS: Duration = Duration::from_mins(4);

/// Runs a test on a thread of its own, so that one that hangs fails, and says where it hangs.
fn watched(test: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> anyhow::Result<()> {
    let (sender, ended) = channel();
    let thread = thread::spawn(move || {
        let result = test();
        // Nobody waits any more for one that was given up.
        let _ = sender.send(());
        result
    });
    match ended.recv_timeout(HANGS) {
        Ok(()) | Err(RecvTimeoutError::Disconnected) => joined(thread.join()),
        Err(RecvTimeoutError::Timeout) => {
            anyhow::bail!("it hangs; the threads wait in: {}", waits().join(", "))
        }
    }
}

/// The kernel functions in which this process's threads wait.
fn waits() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("wchan")).ok())
        .collect()
}
