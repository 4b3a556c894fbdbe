//! The namespaces of this process that change what it sees of the host.

use std::{fs, io, os::linux::fs::MetadataExt as _};

/// A kind of namespace with an initial one on each host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Capabilities count only for what belongs to it.
    User,
    /// Numbers processes.
    Pid,
    /// Sets the monotonic clock.
    Time,
}

impl Namespace {
    /// Whether this process is in the initial namespace, that of the machine's process 1.
    pub fn is_initial(self) -> Result<bool, io::Error> {
        self.is_initial_of("self")
    }

    /// The same of another process of `/proc`.
    ///
    /// *Source:* `PROC_USER_INIT_INO` and the others in `include/linux/proc_ns.h`.
    fn is_initial_of(self, process: &str) -> Result<bool, io::Error> {
        let (name, first) = match self {
            Self::User => ("user", 0xEFFF_FFFD),
            Self::Pid => ("pid", 0xEFFF_FFFC),
            Self::Time => ("time", 0xEFFF_FFFA),
        };
        Ok(fs::metadata(format!("/proc/{process}/ns/{name}"))?.st_ino() == first)
    }
}

/// Whether `/proc` has the numbers that the host gives processes, as events do: those of a pid namespace are
/// others. `true` where that cannot be told.
pub fn has_hosts_pids() -> bool {
    // It may be the host's inside a pid namespace too.
    !matches!(Namespace::Pid.is_initial(), Ok(false))
        || matches!(Namespace::Pid.is_initial_of("1"), Ok(true))
}
