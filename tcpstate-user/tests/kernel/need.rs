//! What a test needs of the machine, and what happens where that is missing.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{PoisonError, RwLock},
};

use libtest_mimic::{Failed, Trial};

use crate::{net::socket, traffic::mptcp_protocol};

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
        }
    }
}

fn unreadable(path: &str, meaning: &str) -> Option<String> {
    let error = fs::File::open(Path::new(path)).err()?;
    Some(format!("{meaning} ({path}: {error})"))
}

/// Held for writing by a test that runs alone, for reading by all others.
static MACHINE: RwLock<()> = RwLock::new(());

/// A [`trial`] that needs the machine for itself: beside it no other test runs.
pub fn alone(
    name: impl Into<String>,
    needs: &[Need],
    test: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    make(name.into(), needs, || {
        let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
        test()
    })
}

/// A test that runs if the machine has what it needs, and otherwise says `skipped: why`. With
/// `TCPSTATE_REQUIRE_KERNEL=1` a skip is a failure.
pub fn trial(
    name: impl Into<String>,
    needs: &[Need],
    test: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    make(name.into(), needs, || {
        let _with_others = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
        test()
    })
}

fn make(
    name: String,
    needs: &[Need],
    test: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    let missing = [Need::Root]
        .iter()
        .chain(needs)
        .find_map(|need| need.missing());
    let required = std::env::var_os("TCPSTATE_REQUIRE_KERNEL").is_some_and(|value| value == "1");
    match missing {
        None => Trial::test(name, move || {
            test().map_err(|error| Failed::from(format!("{error:#}")))
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
