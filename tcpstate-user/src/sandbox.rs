//! The privileges that a service gives up, once its BPF programs are attached.
//!
//! # Order
//!
//! 1. Open: the socket to listen on is bound, and the service manager is reached.
//! 2. Load and attach the BPF programs.
//! 3. [`enter`], while there is one thread: the user, the capabilities, no new privileges, and the list of system calls. All threads
//!    inherit that. Where metrics are pushed, a thread starts that does so, [`confine_to`] its collector, and all other threads
//!    [`forbid_sockets`].
//! 4. Start the threads that read and sample.
//! 5. [`confine`] the main thread, and with it those that it starts later: fewer capabilities, and Landlock.
//! 6. [`drop_capabilities`] in the thread that serves, and only then listen.
//!
//! # Landlock, and who looks at other processes
//!
//! Landlock forbids a thread to look at any process outside of its domain, with every capability: `/proc/PID/ns/net` and
//! `/proc/PID/fd` of others cannot be followed (`hook_ptrace_access_check` in `security/landlock/task.c`). Those are how namespaces and
//! owners are found, so the thread that samples is outside of it.

mod calls;
mod files;
mod user;

use std::{
    fs, io,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{DumpableBehavior, set_dumpable_behavior},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};

pub use self::user::User;

/// The objects that sampling looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Other network namespaces.
    pub other_netns: bool,
    /// The processes that hold sockets.
    pub owners: bool,
    /// Reads of BPF maps take a capability: before Linux 5.19, where unprivileged users may not use BPF.
    pub maps_take_bpf: bool,
}

impl Sampling {
    /// The capabilities that it takes, all of the thread that samples.
    pub fn capabilities(self) -> CapabilitySet {
        let mut needed = self.of_main();
        if self.other_netns {
            // To follow /proc/PID/ns/net, and to enter what it leads to.
            needed |= CapabilitySet::SYS_PTRACE | CapabilitySet::SYS_ADMIN;
        }
        if self.owners {
            // To list /proc/PID/fd, and to follow what is in it.
            needed |= CapabilitySet::DAC_READ_SEARCH | CapabilitySet::SYS_PTRACE;
        }
        needed
    }

    /// Those that the main thread keeps.
    pub fn of_main(self) -> CapabilitySet {
        // For the names of cgroups (`open_by_handle_at`) and the file of the configuration.
        let mut needed = CapabilitySet::DAC_READ_SEARCH;
        if self.maps_take_bpf {
            needed |= CapabilitySet::BPF;
        }
        needed
    }
}

/// The sockets that a process may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sockets {
    /// Those of netlink.
    OfNetlink,
    /// TCP too.
    Tcp,
    /// TCP, and UDP to look up an address.
    TcpByName,
}

/// Why privileges were not given up.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Other threads would keep theirs.
    #[error("cannot give up privileges: there are {0} threads already")]
    Threads(usize),
    /// It is not allowed to be somebody else.
    #[error("cannot become the user of --user (it takes CAP_SETUID and CAP_SETGID)")]
    User(#[source] io::Error),
    /// A capability cannot be dropped.
    #[error("cannot drop capabilities")]
    Capabilities(#[source] io::Error),
    /// System calls cannot be forbidden.
    #[error("cannot forbid system calls (seccomp)")]
    Calls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Files cannot be forbidden.
    #[error("cannot forbid files (Landlock)")]
    Files(#[source] landlock::RulesetError),
}

/// Gives up, for this process: the user, all capabilities but these, new privileges, and all system calls that a run does not
/// make. There must be one thread.
///
/// Capabilities that this process never had are not gained. Returns whether system calls are forbidden: a kernel without seccomp
/// forbids none.
pub fn enter(
    user: Option<User>,
    keep: CapabilitySet,
    sockets: Sockets,
) -> Result<bool, SandboxError> {
    await_one_thread()?;
    forget_bounding_set();
    if let Some(user) = user {
        user.enter().map_err(SandboxError::User)?;
    }
    keep_capabilities(keep).map_err(SandboxError::Capabilities)?;
    // The memory of this process is nobody's: no core dump, and no look of another process of the same user.
    let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    hidden
        .and_then(|()| set_no_new_privs(true))
        .map_err(|errno| SandboxError::Capabilities(errno.into()))?;
    calls::forbid(sockets).map_err(SandboxError::Calls)
}

/// Gives up, for this thread and for those that it starts, all sockets but those of netlink, after others were allowed.
pub fn forbid_sockets() -> Result<(), SandboxError> {
    calls::forbid(Sockets::OfNetlink)
        .map(drop)
        .map_err(SandboxError::Calls)
}

/// A thread that was joined may be there for another moment.
fn await_one_thread() -> Result<(), SandboxError> {
    const PATIENCE: Duration = Duration::from_secs(1);
    const PAUSE: Duration = Duration::from_millis(1);
    let begin = Instant::now();
    loop {
        let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        if threads == 1 {
            return Ok(());
        }
        if begin.elapsed() >= PATIENCE {
            return Err(SandboxError::Threads(threads));
        }
        thread::sleep(PAUSE);
    }
}

/// Gives up more, for this thread and for those that it starts: the capabilities that only other threads need, and the files that are
/// below none of these folders. Nor may it write to a file, execute one, or bind or connect a TCP socket.
///
/// A folder that does not exist is left out. Returns whether files are forbidden: before Linux 5.13, or without Landlock, they
/// are not; TCP is from Linux 6.7 on.
pub fn confine(sampling: Sampling, readable: &[PathBuf]) -> Result<bool, SandboxError> {
    keep_capabilities(sampling.of_main()).map_err(SandboxError::Capabilities)?;
    files::confine(readable, &[]).map_err(SandboxError::Files)
}

/// The port of DNS over TCP, for answers that are too long for UDP.
const DNS: u16 = 53;

/// Gives up, for this thread, which connects to a collector: all capabilities, all files but those below these folders, and TCP to any
/// port but this one. With a name, the port of DNS too.
///
/// Returns whether files are forbidden, as [`confine`] does.
pub fn confine_to(port: u16, by_name: bool, readable: &[PathBuf]) -> Result<bool, SandboxError> {
    drop_capabilities().map_err(SandboxError::Capabilities)?;
    let ports = if by_name { &[port, DNS][..] } else { &[port] };
    files::confine(readable, ports).map_err(SandboxError::Files)
}

/// Keeps only these capabilities in this thread, of those that it has.
///
/// *Errors:* never for a thread that has only to drop some.
fn keep_capabilities(keep: CapabilitySet) -> io::Result<()> {
    let kept = capabilities(None)?.permitted & keep;
    clear_ambient_capability_set()?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}

/// Drops the capabilities of this thread.
pub fn drop_capabilities() -> io::Result<()> {
    keep_capabilities(CapabilitySet::empty())
}

/// No program that this process might execute could have a capability. Without `CAP_SETPCAP` it stays as it is, and no new privileges
/// have the same effect.
fn forget_bounding_set() {
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // This kernel does not know it.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_that_nothing_takes() {
        let least = Sampling {
            other_netns: false,
            owners: false,
            maps_take_bpf: false,
        };
        assert_eq!(least.capabilities(), CapabilitySet::DAC_READ_SEARCH);
        let namespaces = Sampling {
            other_netns: true,
            ..least
        };
        assert!(namespaces.capabilities().contains(CapabilitySet::SYS_ADMIN));
        assert!(!namespaces.of_main().contains(CapabilitySet::SYS_ADMIN));
        let owners = Sampling {
            owners: true,
            maps_take_bpf: true,
            ..least
        };
        assert!(!owners.capabilities().contains(CapabilitySet::SYS_ADMIN));
        assert!(owners.of_main().contains(CapabilitySet::BPF));
    }
}
