//! What a distribution can be made for, what that takes, and how it is built.
//!
//! Static, so that it runs on any Linux; against glibc, which the compiler of the system has for static
//! binaries as well. Against musl it would be half as fast where much is written (`trace`, `life`): musl
//! copies the few bytes of a field by an instruction that is made for many. What is hard to have in a
//! static glibc, that it loads code by name for users and hosts, tcpstate does not ask for.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use object::elf;

use super::output_of;
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

    const fn architecture(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// The architecture as Debian calls it.
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

    /// The C compiler, which links too, and the package that brings it together with a C library. The
    /// build of zstd, which is written in C, finds it by the same name.
    fn c_compiler(self) -> [String; 2] {
        if self.is_native() {
            return ["cc", "build-essential"].map(str::to_owned);
        }
        [
            format!("{}-linux-gnu-gcc", self.architecture()),
            format!("crossbuild-essential-{}", self.debian()),
        ]
    }

    /// What is missing here to build for it, and how to install that.
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
        // Of a library that it does not find it repeats the name.
        let library = path_from(&compiler, &["-print-file-name=libc.a"]);
        (!library.is_ok_and(|library| library.is_file())).then(|| {
            format!("there is no {compiler} with a static C library: apt-get install {package}")
        })
    }

    /// What the compiler is told beside the profile, as `CARGO_ENCODED_RUSTFLAGS` takes it.
    fn rust_flags(self) -> Result<String> {
        let sysroot = path_from("rustc", &["--print", "sysroot"])?;
        let mut flags = vec![
            "-Ctarget-feature=+crt-static".to_owned(),
            paths::remapped(&sysroot)?,
        ];
        if self == Self::Aarch64 {
            // Here the compiler links what is static to a fixed address. The linker can do otherwise, if
            // it is told so, and gets the start that relocates itself: `-static`, which it is told too,
            // would choose the other.
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

    /// Builds the binary and says where it is.
    pub fn build(self) -> Result<PathBuf> {
        let (triple, root) = (self.to_string(), workspace());
        let mut cargo = cargo();
        cargo
            .current_dir(&root)
            .args(["build", "--quiet", "--locked", "--profile", "hardened"])
            .args(["--package", "tcpstate", "--bin", "tcpstate"])
            .args(["--target", &triple, "--target-dir"])
            .arg(root.join("target"))
            // In place of the flags of somebody's environment and configuration.
            .env("CARGO_ENCODED_RUSTFLAGS", self.rust_flags()?)
            // What is handed out has the committed object.
            .env_remove("TCPSTATE_BPF_OBJECT");
        if !self.is_native() {
            let name = triple.replace('-', "_").to_uppercase();
            let [linker, _] = self.c_compiler();
            cargo.env(format!("CARGO_TARGET_{name}_LINKER"), linker);
        }
        succeed(&mut cargo)?;
        let binary = root.join("target").join(triple).join("hardened/tcpstate");
        ensure!(binary.is_file(), "the build left no {}", binary.display());
        Ok(binary)
    }

    /// A command that runs a binary built for it, by QEMU where this machine is of another kind. None
    /// where there is no QEMU.
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

/// A path that a program names.
fn path_from(program: &str, arguments: &[&str]) -> Result<PathBuf> {
    Ok(output_of(Command::new(program).args(arguments))?
        .trim()
        .into())
}

/// Whether there is a program of this name.
fn runs(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
