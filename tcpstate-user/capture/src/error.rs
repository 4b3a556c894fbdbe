//! The errors of a capture.
//!
//! Each message says what was tried and why it failed; [`CaptureError::remedy`] says what to do.

use std::{io, os::unix::ffi::OsStrExt as _, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use tcpstate_core::{escape::Printable, mode::Mode};

use super::layout::LayoutError;

/// Why a capture could not start, or broke off.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The kernel wants capabilities that this process does not have.
    #[error("the kernel refused to load a BPF program")]
    Privileges(#[source] io::Error),
    /// The kernel has no BPF ring buffer.
    #[error("this kernel ({kernel}) has no BPF ring buffer, which came with Linux 5.8")]
    NoRingBuffer {
        /// `uname -r`.
        kernel: String,
    },
    /// A size that no ring buffer can have.
    #[error(
        "a ring buffer cannot be {bytes} bytes large: the size must be a power of two and a \
         multiple of the page size ({page_bytes} bytes)"
    )]
    RingBytes {
        /// The requested size.
        bytes: u32,
        /// The host's page size.
        page_bytes: u32,
    },
    /// The ring buffer could not be allocated.
    #[error("the kernel could not allocate a ring buffer of {bytes} bytes")]
    RingAllocation {
        /// The requested size.
        bytes: u32,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The kernel's type information cannot be read.
    #[error("cannot read the kernel's type information {}", path.display())]
    NoBtf {
        /// The path expected.
        path: PathBuf,
        /// Why it cannot be read.
        #[source]
        source: BtfError,
    },
    /// The kernel's structures are not laid out as the programs need them.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The description of the classic tracepoint cannot be read.
    #[error("cannot read the layout of the tracepoint in {}", path.display())]
    NoTracefs {
        /// The path expected.
        path: PathBuf,
        /// Why it cannot be read.
        #[source]
        source: io::Error,
    },
    /// The BPF object itself could not be loaded.
    #[error("cannot load the BPF object")]
    Object(#[source] EbpfError),
    /// The verifier refused the program.
    #[error("the kernel refused the {mode} program")]
    Load {
        /// Which one.
        mode: Mode,
        /// The kernel's error.
        #[source]
        source: ProgramError,
    },
    /// The program is loaded, but the kernel does not let it attach.
    #[error("the kernel refused to attach the {mode} program")]
    Attach {
        /// Which one.
        mode: Mode,
        /// The kernel's error.
        #[source]
        source: ProgramError,
    },
    /// A filter on a member of the socket, where sockets cannot be read.
    #[error(
        "--netns does not work with the classic tracepoint here: the namespace is a member of the socket, \
         which cannot be read: {why}"
    )]
    NoNetns {
        /// Why it cannot be read.
        why: String,
    },
    /// Neither attach mode works here.
    #[error("no attach mode works here: btf: {btf}; tracepoint: {tracepoint}")]
    NoMode {
        /// Why not `btf`, with all its causes.
        btf: String,
        /// Why not `tracepoint`, with all its causes.
        tracepoint: String,
        /// The remedy of the better mode.
        remedy: Option<String>,
    },
    /// A map for counting in the kernel could not be created.
    #[error("the kernel cannot create the map {name}, in which --in-kernel counts")]
    TallyAllocation {
        /// The map.
        name: String,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// A map that must be in the object is not, or cannot be used.
    #[error("cannot use the BPF map {name}")]
    Map {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: MapUseError,
    },
    /// The operating system refused something ordinary.
    #[error("cannot {what}")]
    System {
        /// The operation.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Why the kernel's type information cannot be read. Two libraries read it: one for us, one for the loader.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// It cannot be opened or parsed.
    #[error(transparent)]
    Parse(#[from] btf_rs::Error),
    /// The loader cannot use it.
    #[error(transparent)]
    Loader(#[from] aya::BtfError),
}

/// Why a part of the BPF object cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MapUseError {
    /// The object lacks it.
    #[error("it is not in the BPF object")]
    Missing,
    /// The map failed.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The program that it belongs to failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Values for it cannot be made.
    #[error(transparent)]
    Values(#[from] io::Error),
    /// The log of the BPF programs failed.
    #[error(transparent)]
    Log(#[from] aya_log::Error),
    /// The program that fills it cannot read the sockets, for this reason.
    #[error("{0}")]
    WithoutSocket(String),
}

impl CaptureError {
    /// Advice for the user; `None` if the user can do nothing about the error.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Privileges(_) => Some(privileges_remedy()),
            Self::NoRingBuffer { .. } => Some(
                "Run a kernel of 5.8 or newer; `ss -tan` shows the sockets of older ones.".into(),
            ),
            Self::RingBytes { .. } => Some("Try --ring-bytes 8M.".into()),
            Self::RingAllocation { .. } => Some(
                "Ask for a smaller one with --ring-bytes, or free memory; before Linux 5.11 the limit \
                 is `ulimit -l`."
                    .into(),
            ),
            Self::TallyAllocation { .. } => Some(
                "Ask for less with --max-connections and --max-ports, or free memory.".into(),
            ),
            Self::NoBtf { .. } | Self::Layout(_) => Some(
                "Try --attach tracepoint, which needs root but no BTF. A kernel built with \
                 CONFIG_DEBUG_INFO_BTF=y has BTF."
                    .into(),
            ),
            Self::NoTracefs { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some(
                    "Only root can read it: run as root, or use --attach btf, which does not need it."
                        .into(),
                )
            }
            Self::NoTracefs { .. } => Some(
                "Mount it (mount -t tracefs tracefs /sys/kernel/tracing) and run as root, or use \
                 --attach btf, which does not need it. A kernel that is locked down to \
                 `confidentiality` shows no tracepoints there."
                    .into(),
            ),
            Self::NoNetns { .. } => Some(
                "Omit --netns, or use --attach btf (`tcpstate doctor` shows what it lacks here)."
                    .into(),
            ),
            Self::NoMode { remedy, .. } => remedy.clone(),
            Self::Attach {
                mode: Mode::Tracepoint,
                ..
            } => Some(
                "If kernel.perf_event_paranoid is above 2 (the default on Debian and Ubuntu), attaching takes \
                 CAP_SYS_ADMIN: run as root with all capabilities, or use --attach btf, which does not."
                    .into(),
            ),
            Self::Load { .. } | Self::Attach { .. } => {
                Some("Run `tcpstate doctor` to see what this host allows.".into())
            }
            Self::Object(_) | Self::Map { .. } | Self::System { .. } => None,
        }
    }
}

/// Advice on how to get the privileges, with the command line for this very binary.
pub fn privileges_remedy() -> String {
    let path = std::env::current_exe().map_or_else(|_| "tcpstate".into(), PathBuf::into_os_string);
    // Here, as the text has lines of its own.
    let path = Printable(path.as_bytes());
    format!(
        "This takes CAP_BPF and CAP_PERFMON: run as root, or give them to the binary once with\n  \
         sudo setcap cap_bpf,cap_perfmon=ep {path}\n\
         If they are in force and the kernel still refuses, a user namespace, a container's seccomp \
         profile or a security module is in the way. On a `nosuid` mount or under `no_new_privs`, \
         setcap has no effect. `tcpstate doctor` shows the capabilities in force."
    )
}
