//! The kinds of machines that a guest can be, and the root file system of each.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{
    packages::{self, Source},
    qemu::Accelerator,
};
use crate::dist::Target;

/// A kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Machine {
    #[value(name = "x86_64")]
    X86_64,
    #[value(name = "aarch64")]
    Aarch64,
}

/// The Debian release of a root file system that is not this machine's.
const SUITE: &str = "trixie";

/// The packages of such a root file system: what a guest's scripts call, and what tests call that is small. bpftrace
/// would bring a compiler, and takes a minute to start where it is emulated.
const PACKAGES: &[&str] = &[
    "base-files",
    "base-passwd",
    "bash",
    "bpftool",
    "busybox-static",
    "coreutils",
    "dash",
    "iproute2",
    "kmod",
    "libcap2-bin",
    "mount",
    "netbase",
    "nftables",
    "sed",
    "tcpdump",
    "util-linux",
];

/// The programs that tests call and that it lacks.
const LACKS: &[&str] = &[
    "bpftrace",
    "haproxy",
    "nginx",
    "prometheus",
    "promtool",
    "python3",
    "redis-server",
    "tcpstates",
    "wrk",
];

impl Machine {
    pub const fn target(self) -> Target {
        match self {
            Self::X86_64 => Target::X86_64,
            Self::Aarch64 => Target::Aarch64,
        }
    }

    /// Its name on the command line and in those of folders.
    pub const fn name(self) -> &'static str {
        self.target().architecture()
    }

    /// QEMU's program, and the Debian package that has it.
    pub const fn qemu(self) -> [&'static str; 2] {
        match self {
            Self::X86_64 => ["qemu-system-x86_64", "qemu-system-x86"],
            Self::Aarch64 => ["qemu-system-aarch64", "qemu-system-arm"],
        }
    }

    /// The requirement for its guests that is missing here, and how to install it.
    pub fn missing(self) -> Option<String> {
        let [program, package] = self.qemu();
        let there = Command::new(program).arg("--version").output().is_ok();
        if !there {
            return Some(format!("there is no {program}: apt-get install {package}"));
        }
        let target = self.target();
        if target.is_native() {
            return None;
        }
        target.missing()
    }

    /// The arguments of QEMU that select the machine and its execution.
    pub const fn qemu_arguments(self, accelerator: Accelerator) -> &'static [&'static str] {
        match (self, accelerator) {
            (Self::X86_64, Accelerator::Kvm) => &["-accel", "kvm", "-cpu", "host"],
            // One thread for both processors. With two, one may still run the old translation of an
            // instruction that the other has replaced: a kernel that enables or disables a tracepoint
            // meanwhile crashes at a breakpoint that has been removed (seen on Linux 7.3).
            (Self::X86_64, Accelerator::Tcg) => &["-accel", "tcg,thread=single", "-cpu", "max"],
            (Self::Aarch64, Accelerator::Kvm) => &[
                "-machine",
                "virt,gic-version=max",
                "-accel",
                "kvm",
                "-cpu",
                "host",
            ],
            // Here the kernel replaces an instruction without a breakpoint, and either one is right for a
            // while. This processor has atomic instructions (LSE), as the servers in use have; the newest that
            // QEMU knows (`max`) has others that take it long, and page tables that Linux 5.10 does not know.
            (Self::Aarch64, Accelerator::Tcg) => &[
                "-machine",
                "virt",
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "neoverse-n1",
            ],
        }
    }

    /// The guest's first serial port, which is its console.
    pub const fn console(self) -> &'static str {
        match self {
            Self::X86_64 => "ttyS0",
            Self::Aarch64 => "ttyAMA0",
        }
    }

    /// The package that depends on the newest kernel of its suite: the one for any machine, since the one for
    /// virtual machines has no 9p.
    pub fn metapackage(self) -> String {
        format!("linux-image-{}", self.target().debian())
    }

    /// The folder with its kernels and the results of its guests.
    pub fn folder(self, vm: &Path) -> PathBuf {
        if self == Self::X86_64 {
            vm.to_owned()
        } else {
            vm.join(self.name())
        }
    }

    /// The root file system of its guests: this machine's, if its programs run there; else one of Debian's
    /// packages in `folder`, which are fetched if they are not there, or if `refresh` is set.
    ///
    /// *Errors:* [`packages::Unfetched`], among others.
    pub fn root(self, folder: &Path, refresh: bool) -> Result<PathBuf> {
        if self.target().is_native() {
            return Ok(PathBuf::from("/"));
        }
        let source = Source {
            name: self.name(),
            suites: &[SUITE],
            architecture: self.target().debian(),
        };
        let root = packages::system(&source, PACKAGES, &folder.join("system"), refresh)?;
        // No script of a package has run, so the users are only templates.
        for (template, file) in [("passwd.master", "passwd"), ("group.master", "group")] {
            let template = root.join("usr/share/base-passwd").join(template);
            fs::copy(&template, root.join("etc").join(file))
                .with_context(|| template.display().to_string())?;
        }
        Ok(root)
    }

    /// The programs that its guests lack.
    pub fn lacks(self) -> &'static [&'static str] {
        if self.target().is_native() {
            &[]
        } else {
            LACKS
        }
    }
}
