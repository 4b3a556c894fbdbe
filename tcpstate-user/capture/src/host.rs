//! Facts about this host: small readers, one for each fact, that change nothing.
//!
//! Must not know the purpose of the facts: `probe` judges them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use btf_rs::{Backend, Btf};
use rustix::thread::CapabilitySet;
use tcpstate_core::origin::Origin;

use super::{
    clock::ClockAnchor,
    error::{BtfError, CaptureError},
};

/// The kernel's own types.
pub const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// The tracepoint's description below the mount point of tracefs.
const FORMAT_PATH: &str = "events/sock/inet_sock_set_state/format";

/// The facts about its host that a capture needs, read once at its start.
#[derive(Clone, Debug)]
pub struct Host {
    /// Host name, as `uname -n` prints it.
    pub name: String,
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// The mount point of tracefs, if it is mounted.
    pub tracefs: Option<PathBuf>,
    /// From monotonic to wall-clock time.
    pub clock: ClockAnchor,
}

impl Host {
    /// Reads all facts. This is the start of the capture, as in [`Origin::started_ns`].
    pub fn read() -> Self {
        let uname = rustix::system::uname();
        Self {
            name: uname.nodename().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            tracefs: tracefs(),
            clock: ClockAnchor::read(),
        }
    }

    /// Major and minor number of the kernel's version.
    pub fn kernel_version(&self) -> Option<(u32, u32)> {
        parse_version(&self.kernel)
    }

    /// The origin of this host's events. The capture fills in the attach mode and the filters.
    pub fn origin(&self) -> Origin {
        Origin {
            host: self.name.clone(),
            kernel: self.kernel.clone(),
            attach: String::new(),
            wall_at_monotonic_zero_ns: self.clock.wall_at_monotonic_zero_ns,
            started_ns: self.clock.taken_at_ns,
            filters: String::new(),
            live: true,
            sample_interval_ns: None,
        }
    }

    /// Reads the kernel's types.
    ///
    /// *Errors:* they are missing, unreadable or malformed.
    pub fn kernel_btf(&self) -> Result<Btf, CaptureError> {
        // Mapping is several times cheaper than parsing into tables. Since: Linux 6.16.
        Btf::from_file_with_backend(BTF_PATH, Backend::Mmap)
            .or_else(|_| Btf::from_file(BTF_PATH))
            .map_err(|source| CaptureError::NoBtf {
                path: BTF_PATH.into(),
                source: BtfError::Parse(source),
            })
    }

    /// Reads the description of the classic tracepoint's record.
    ///
    /// *Errors:* tracefs is not mounted, may not be read, or has no such tracepoint.
    pub fn tracepoint_format(&self) -> Result<String, CaptureError> {
        let tracefs = self
            .tracefs
            .as_deref()
            .unwrap_or(Path::new(TRACEFS_PATHS[0]));
        let path = tracefs.join(FORMAT_PATH);
        fs::read_to_string(&path).map_err(|source| CaptureError::NoTracefs { path, source })
    }
}

/// Major and minor number of a kernel release such as `6.1.0-49-amd64`.
pub fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.splitn(3, '.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?;
    let digits = minor
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(minor.len());
    Some((major, minor.get(..digits)?.parse().ok()?))
}

/// The places to look for tracefs, the usual one first.
pub const TRACEFS_PATHS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// The mount point of tracefs. If it is hidden from this user, it counts as not mounted.
fn tracefs() -> Option<PathBuf> {
    /// *Source:* `TRACEFS_MAGIC` in `include/uapi/linux/magic.h`.
    const TRACEFS_MAGIC: i64 = 0x7472_6163;
    TRACEFS_PATHS
        .iter()
        .map(PathBuf::from)
        .find(|path| is_file_system(path, TRACEFS_MAGIC))
}

fn is_file_system(path: &Path, magic: i64) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == magic)
}

/// The kernel's lockdown mode: how much it denies even to root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// It denies nothing, or the kernel has no lockdown.
    None,
    /// Changes to the running kernel are denied.
    Integrity,
    /// Reading its memory is denied too: tracefs is closed, and BPF programs get no
    /// `bpf_probe_read_kernel` (ours need none).
    Confidentiality,
    /// It cannot be read.
    Unknown,
}

impl Lockdown {
    /// Reads it from the kernel.
    pub fn read() -> Self {
        /// *Source:* `SECURITYFS_MAGIC` in `include/uapi/linux/magic.h`.
        const SECURITYFS_MAGIC: i64 = 0x7363_6673;
        let securityfs = Path::new("/sys/kernel/security");
        match fs::read_to_string(securityfs.join("lockdown")) {
            Ok(text) => Self::parse(&text),
            // The file belongs to the lockdown module: no file, no module.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && is_file_system(securityfs, SECURITYFS_MAGIC) =>
            {
                Self::None
            }
            Err(_) => Self::Unknown,
        }
    }

    /// Parses `none [integrity] confidentiality`.
    pub fn parse(text: &str) -> Self {
        let chosen = text
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'));
        match chosen {
            Some(("none", _)) => Self::None,
            Some(("integrity", _)) => Self::Integrity,
            Some(("confidentiality", _)) => Self::Confidentiality,
            _ => Self::Unknown,
        }
    }

    /// As the kernel spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Integrity => "integrity",
            Self::Confidentiality => "confidentiality",
            Self::Unknown => "unknown",
        }
    }
}

/// The capabilities that anything here may use, with their names.
pub const CAPABILITIES: [(&str, CapabilitySet); 6] = [
    ("CAP_BPF", CapabilitySet::BPF),
    ("CAP_PERFMON", CapabilitySet::PERFMON),
    ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
    ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN),
    ("CAP_SYS_PTRACE", CapabilitySet::SYS_PTRACE),
    ("CAP_DAC_READ_SEARCH", CapabilitySet::DAC_READ_SEARCH),
];

/// The capabilities in force in this thread.
pub fn capabilities() -> Result<CapabilitySet, io::Error> {
    Ok(rustix::thread::capabilities(None)?.effective)
}

/// Whether `CAP_BPF` is needed to read a BPF map that is open: before Linux 5.19, where unprivileged users may not use BPF.
///
/// *Source:* `__sys_bpf` in `kernel/bpf/syscall.c`, changed by commit `c8644cd0efe7`.
pub fn maps_take_bpf() -> bool {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let is_new = parse_version(&release).is_some_and(|version| version >= (5, 19));
    !is_new && sysctl("kernel/unprivileged_bpf_disabled") != Some(0)
}

/// The text of a setting below `/proc/sys`; `None` where it is not, or may not be read.
pub fn setting(name: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
    // A range has a tab between its ends.
    Some(text.trim().replace('\t', " "))
}

/// A number below `/proc/sys`; `None` where it is not, or may not be read.
pub fn sysctl(name: &str) -> Option<u64> {
    setting(name)?.parse().ok()
}

/// CPUs that can make transitions; 1 where the kernel does not say.
pub(super) fn online_cpus() -> u32 {
    aya::util::online_cpus().map_or(1, |cpus| u32::try_from(cpus.len()).unwrap_or(u32::MAX))
}

/// One more than the highest possible CPU number: each CPU has its own part of some maps.
pub(super) fn possible_cpus() -> Result<u32, CaptureError> {
    let read = || {
        let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
        // Such as `0-3,8-11`.
        let highest = text.trim().rsplit([',', '-']).next();
        let highest: Option<u32> = highest.and_then(|number| number.parse().ok());
        highest
            .and_then(|number| number.checked_add(1))
            .ok_or_else(|| io::Error::other(format!("`{}` is no list of CPUs", text.trim())))
    };
    read().map_err(|source| CaptureError::System {
        what: "count the CPUs",
        source,
    })
}

/// The page size, bytes.
pub(super) fn page_bytes() -> u32 {
    u32::try_from(rustix::param::page_size()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_any_release() {
        assert_eq!(parse_version("6.18.44-test"), Some((6, 18)));
        assert_eq!(parse_version("5.10.0-49-amd64"), Some((5, 10)));
        assert_eq!(parse_version("6.1.0-rc3"), Some((6, 1)));
        assert_eq!(parse_version("6.12-rc1"), Some((6, 12)));
        assert_eq!(parse_version("7.0"), Some((7, 0)));
        for not in ["", "6", "6.", "a.b", ".5", "6.x", "99999999999.1"] {
            assert_eq!(parse_version(not), None, "{not:?}");
        }
    }

    #[test]
    fn lockdown_is_the_word_in_brackets() {
        assert_eq!(
            Lockdown::parse("[none] integrity confidentiality\n"),
            Lockdown::None
        );
        assert_eq!(
            Lockdown::parse("none [integrity] confidentiality\n"),
            Lockdown::Integrity
        );
        assert_eq!(
            Lockdown::parse("none integrity [confidentiality]\n"),
            Lockdown::Confidentiality
        );
        for not in ["", "none", "[", "]none[", "[else]"] {
            assert_eq!(Lockdown::parse(not), Lockdown::Unknown, "{not:?}");
        }
    }
}
