//! The targets of a distribution, their requirements, and their build.
//!
//! The binary is static, so that it runs on any Linux. It is linked with glibc, which the system's compiler
//! has for static binaries too. With musl it would be half as fast where it writes much (`trace`, `life`),
//! because musl copies the few bytes of a field by an instruction that is made for many. A static glibc
//! cannot easily look up users and hosts by name, but tcpstate does not do that.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use object::elf;

use super::common::output_of;
use crate::{cargo, paths, privileges::succeed, workspace};

/// A kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    #[value(name = "x86_64-unknown-linux-gnu")]
    X86_64,
    #[value(name = "aarch64-unknown-linux-gnu")]
    Aarch64,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-unknown-linux-gnu", self.architecture())
    }
}

impl Target {
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// Its name, as in `uname -m`.
    pub const fn architecture(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Debian's name of the architecture, which is also that of container images.
    pub const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The number of the machine in an ELF file.
    pub const fn machine(self) -> u16 {
        match self {
            Self::X86_64 => elf::EM_X86_64,
            Self::Aarch64 => elf::EM_AARCH64,
        }
    }

    /// Whether this machine is of this kind.
    pub fn is_native(self) -> bool {
        self.architecture() == env::consts::ARCH
    }

    /// The C compiler, which is also the linker, and the Debian package of it and a C library. The build of
    /// zstd, which is written in C, finds the compiler by the same name.
    fn c_compiler(self) -> [String; 2] {
        if self.is_native() {
            return ["cc", "build-essential"].map(str::to_owned);
        }
        [
            format!("{}-linux-gnu-gcc", self.architecture()),
            format!("crossbuild-essential-{}", self.debian()),
        ]
    }

    /// The requirement that is missing here, and how to install it.
    pub fn missing(self) -> Option<String> {
        let library = path_from(
            "rustc",
            &["--print", "target-libdir", "--target", &self.to_string()],
        );
        if !library.is_ok_and(|folder| folder.is_dir()) {
            return Some(format!(
                "there is no Rust standard library for it: rustup target add {self}"
            ));
        }
        let [compiler, package] = self.c_compiler();
        // If it does not find a library, it prints only the name.
        let library = path_from(&compiler, &["-print-file-name=libc.a"]);
        (!library.is_ok_and(|library| library.is_file())).then(|| {
            format!("there is no {compiler} with a static C library: apt-get install {package}")
        })
    }

    /// The compiler flags in addition to the profile, in the format of `CARGO_ENCODED_RUSTFLAGS`.
    fn rust_flags(self) -> Result<String> {
        let sysroot = path_from("rustc", &["--print", "sysroot"])?;
        let mut flags = vec![
            "-Ctarget-feature=+crt-static".to_owned(),
            paths::remapped(&sysroot)?,
        ];
        if self == Self::Aarch64 {
            // For this target the compiler links static binaries to a fixed address. The linker makes
            // them position-independent with these flags and the start file that relocates itself;
            // `-static`, which the compiler passes too, would select the other one.
            flags.push("-Crelocation-model=pic".to_owned());
            flags.extend(["-static-pie", "-nostartfiles"].map(|it| format!("-Clink-arg={it}")));
            let [compiler, _] = self.c_compiler();
            for object in ["rcrt1.o", "crti.o", "crtbeginS.o", "crtendS.o", "crtn.o"] {
                let object = path_from(&compiler, &[&format!("-print-file-name={object}")])?;
                flags.push(format!("-Clink-arg={}", object.display()));
            }
        }
        Ok(flags.join("\x1f"))
    }

    /// Builds the binary, and returns its path.
    pub fn build(self) -> Result<PathBuf> {
        let (triple, root) = (self.to_string(), workspace());
        let mut cargo = cargo();
        cargo
            .current_dir(&root)
            .args(["build", "--quiet", "--locked", "--profile", "hardened"])
            .args(["--package", "tcpstate", "--bin", "tcpstate"])
            .args(["--target", &triple, "--target-dir"])
            .arg(root.join("target"))
            // Replaces the flags of the caller's environment and configuration.
            .env("CARGO_ENCODED_RUSTFLAGS", self.rust_flags()?)
            // A release contains the committed object.
            .env_remove("TCPSTATE_BPF_OBJECT");
        self.select_linker(&mut cargo);
        succeed(&mut cargo)?;
        let binary = root.join("target").join(triple).join("hardened/tcpstate");
        ensure!(binary.is_file(), "the build left no {}", binary.display());
        Ok(binary)
    }

    /// Lets cargo link with the compiler of this kind of machine.
    pub fn select_linker(self, cargo: &mut Command) {
        if !self.is_native() {
            let name = self.to_string().replace('-', "_").to_uppercase();
            let [linker, _] = self.c_compiler();
            cargo.env(format!("CARGO_TARGET_{name}_LINKER"), linker);
        }
    }

    /// A command that runs a binary built for it, by QEMU if this machine is of another kind. `None` if there
    /// is no QEMU.
    pub fn command(self, binary: &Path) -> Option<Command> {
        if self.is_native() {
            return Some(Command::new(binary));
        }
        let emulator = format!("qemu-{}-static", self.architecture());
        runs(&emulator).then(|| {
            let mut command = Command::new(emulator);
            command.arg(binary);
            command
        })
    }
}

/// A path that a program prints.
fn path_from(program: &str, arguments: &[&str]) -> Result<PathBuf> {
    Ok(output_of(Command::new(program).args(arguments))?
        .trim()
        .into())
}

/// Whether a program is installed.
fn runs(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
