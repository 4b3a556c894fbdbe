//! `build-ebpf` and `check-ebpf`: build the BPF object, and prove that the committed one was built from
//! the sources.
//!
//! Any compiler from the MSRV on that has the sources of its library can build the object. Only the
//! recorded compiler must give the same bytes.

#[path = "../../tcpstate-user/capture/prebuilt/sources.rs"]
pub mod sources;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use xshell::{Shell, cmd};

use crate::{paths, workspace};

/// The version of `bpf-linker` that the object is built with.
pub const LINKER_VERSION: &str = "0.10.3";
/// The major version of LLVM that this linker and the compilers share.
const LLVM_MAJOR: &str = "22";
const TARGET: &str = "bpfel-unknown-none";

/// The content of `prebuilt/MANIFEST.toml`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    /// SHA-256 of the object.
    object_sha256: String,
    /// [`sources::sources_sha256`] of the sources that it was built from.
    sources_sha256: String,
    /// `rustc --version` of its compiler.
    compiler: String,
    /// `bpf-linker --version` of its linker.
    linker: String,
    /// The file name of the LLVM library that the linker used.
    llvm: String,
}

/// A compiler that can build the object, with its tools.
#[derive(Debug, Clone)]
struct Toolchain {
    rustc: PathBuf,
    cargo: PathBuf,
    version: String,
    sysroot: PathBuf,
}

/// The LLVM library for the linker.
#[derive(Debug, Clone)]
struct Llvm {
    folder: PathBuf,
    name: String,
}

/// Builds the object and writes it to `tcpstate-user/capture/prebuilt`, with its manifest.
pub fn build() -> Result<()> {
    let sh = Shell::new()?;
    let recorded = read_manifest().ok();
    let toolchain = choose_toolchain(&sh, recorded.as_ref())?;
    let (object, linker, llvm) = compile(&sh, &toolchain)?;
    let bytes = fs::read(&object).with_context(|| format!("read {}", object.display()))?;
    let manifest = Manifest {
        object_sha256: sources::sha256(&bytes),
        sources_sha256: sources::sources_sha256(&workspace())?,
        compiler: toolchain.version,
        linker,
        llvm,
    };
    let prebuilt = prebuilt();
    fs::write(prebuilt.join("tcpstate.bpf.o"), &bytes)?;
    let header = "# Written by `cargo xtask build-ebpf`; compared by `cargo xtask check-ebpf`.\n";
    fs::write(
        prebuilt.join("MANIFEST.toml"),
        format!("{header}{}", toml::to_string(&manifest)?),
    )?;
    eprintln!(
        "tcpstate.bpf.o: {} bytes, SHA-256 {}",
        bytes.len(),
        manifest.object_sha256
    );
    Ok(())
}

/// Rebuilds the object and compares it with the committed one. Prints the path of the new object.
pub fn check() -> Result<()> {
    let sh = Shell::new()?;
    let recorded = read_manifest().context("read the manifest of the committed BPF object")?;
    let committed = fs::read(prebuilt().join("tcpstate.bpf.o"))?;
    ensure!(
        sources::sha256(&committed) == recorded.object_sha256,
        "the committed object is not the one that MANIFEST.toml describes: cargo xtask build-ebpf"
    );
    ensure!(
        sources::sources_sha256(&workspace())? == recorded.sources_sha256,
        "the BPF sources have changed since the committed object was built: cargo xtask build-ebpf"
    );
    let toolchain = choose_toolchain(&sh, Some(&recorded))?;
    let (object, linker, llvm) = compile(&sh, &toolchain)?;
    let same_tools = toolchain.version == recorded.compiler
        && linker == recorded.linker
        && llvm == recorded.llvm;
    let same_bytes = fs::read(&object)? == committed;
    match (same_tools, same_bytes) {
        (_, true) => eprintln!("check-ebpf: the committed object is the one that the sources give"),
        (true, false) => bail!(
            "the committed object differs from the one that {} builds: cargo xtask build-ebpf",
            recorded.compiler
        ),
        (false, false) => eprintln!(
            "check-ebpf: it builds, but cannot be compared: it was recorded with {}, {}, {}; \
             here are {}, {linker}, {llvm}",
            recorded.compiler, recorded.linker, recorded.llvm, toolchain.version
        ),
    }
    println!("{}", object.display());
    Ok(())
}

fn prebuilt() -> PathBuf {
    workspace().join("tcpstate-user/capture/prebuilt")
}

fn read_manifest() -> Result<Manifest> {
    Ok(toml::from_str(&fs::read_to_string(
        prebuilt().join("MANIFEST.toml"),
    )?)?)
}

/// The path at which `compile` leaves the object.
pub fn built_object() -> PathBuf {
    workspace()
        .join("target/bpf")
        .join(TARGET)
        .join("bpf/tcpstate")
}

/// Whether the object that `compile` left is the committed one, byte for byte.
pub fn built_is_committed() -> Result<bool> {
    let read = |path: PathBuf| fs::read(&path).with_context(|| path.display().to_string());
    Ok(read(built_object())? == read(prebuilt().join("tcpstate.bpf.o"))?)
}

fn compile(sh: &Shell, toolchain: &Toolchain) -> Result<(PathBuf, String, String)> {
    let linker = find_linker(sh)?;
    let llvm = find_llvm(sh, toolchain)?;
    eprintln!(
        "building the BPF object with {}, {linker}, {}",
        toolchain.version, llvm.name
    );
    let Toolchain {
        rustc,
        cargo,
        sysroot,
        ..
    } = toolchain;
    let root = workspace();
    let flags = paths::remapped(sysroot)?;
    let target_dir = root.join("target/bpf");
    let mut library_path = llvm.folder.clone().into_os_string();
    if let Some(more) = env::var_os("LD_LIBRARY_PATH") {
        library_path.push(":");
        library_path.push(more);
    }
    let _dir = sh.push_dir(&root);
    cmd!(
        sh,
        "{cargo} build --quiet --locked -Z build-std=core --target {TARGET} --profile bpf
         --package tcpstate-ebpf --target-dir {target_dir}"
    )
    .env("RUSTC", rustc)
    .env("RUSTC_BOOTSTRAP", "1")
    .env("CARGO_ENCODED_RUSTFLAGS", flags)
    .env("LD_LIBRARY_PATH", library_path)
    // Set by an outer `cargo xtask`, and wrong for this compiler.
    .env_remove("RUSTUP_TOOLCHAIN")
    .env_remove("RUSTC_WRAPPER")
    .env_remove("RUSTC_WORKSPACE_WRAPPER")
    .quiet()
    .run()
    .context("build the BPF programs")?;
    let object = built_object();
    ensure!(object.is_file(), "the build left no {}", object.display());
    Ok((object, linker, llvm.name))
}

/// The recorded compiler if it is installed, otherwise the newest that can build the object.
fn choose_toolchain(sh: &Shell, recorded: Option<&Manifest>) -> Result<Toolchain> {
    let mut found: Vec<Toolchain> = candidates(sh)
        .into_iter()
        .filter_map(|rustc| inspect(sh, &rustc))
        .collect();
    if let Some(recorded) = recorded
        && let Some(same) = found
            .iter()
            .find(|toolchain| toolchain.version == recorded.compiler)
    {
        return Ok(same.clone());
    }
    found.sort_by_key(|toolchain| numbers(&toolchain.version));
    found.pop().context(
        "no installed Rust compiler has the sources of its library, which the BPF target needs: run \
         `cargo xtask setup`",
    )
}

/// The numbers in a compiler's version, such as `rustc 1.96.0 (...)`.
fn numbers(version: &str) -> Vec<u32> {
    let number = version.split_whitespace().nth(1).unwrap_or_default();
    number
        .split(['.', '-'])
        .map_while(|part| part.parse().ok())
        .collect()
}

/// Compilers that may be installed: the one named by the caller, rustup's, the distribution's.
fn candidates(sh: &Shell) -> Vec<PathBuf> {
    if let Some(rustc) = env::var_os("TCPSTATE_BPF_RUSTC") {
        return vec![rustc.into()];
    }
    let mut all = Vec::new();
    if let Ok(list) = cmd!(sh, "rustup toolchain list")
        .quiet()
        .ignore_stderr()
        .read()
    {
        for name in list
            .lines()
            .filter_map(|line| line.split_whitespace().next())
        {
            // A nightly's `core` may need features that the MSRV does not have.
            if name.starts_with("nightly") {
                continue;
            }
            if let Ok(path) = cmd!(sh, "rustup which rustc --toolchain {name}")
                .quiet()
                .ignore_stderr()
                .read()
            {
                all.push(PathBuf::from(path));
            }
        }
    }
    all.push("/usr/bin/rustc".into());
    all
}

fn inspect(sh: &Shell, rustc: &Path) -> Option<Toolchain> {
    let read = |arg: &[&str]| {
        cmd!(sh, "{rustc} {arg...}")
            .env_remove("RUSTUP_TOOLCHAIN")
            .quiet()
            .ignore_stderr()
            .read()
            .ok()
    };
    let version = read(&["--version"])?;
    let sysroot = PathBuf::from(read(&["--print", "sysroot"])?);
    let cargo = rustc.with_file_name("cargo");
    let usable = cargo.is_file()
        && sysroot
            .join("lib/rustlib/src/rust/library/core/src/lib.rs")
            .is_file()
        && sysroot
            .join("lib/rustlib/src/rust/library/Cargo.lock")
            .is_file();
    usable.then(|| Toolchain {
        rustc: rustc.to_owned(),
        cargo,
        version,
        sysroot,
    })
}

/// Whether a compiler that can build the object is installed.
pub fn has_toolchain(sh: &Shell) -> bool {
    choose_toolchain(sh, None).is_ok()
}

/// Whether the right linker is installed.
pub fn has_linker(sh: &Shell) -> bool {
    find_linker(sh).is_ok()
}

/// Checks that the toolchain is complete; the error names the missing part.
pub fn require(sh: &Shell) -> Result<()> {
    let toolchain = choose_toolchain(sh, None)?;
    find_linker(sh)?;
    find_llvm(sh, &toolchain)?;
    Ok(())
}

fn find_linker(sh: &Shell) -> Result<String> {
    let version = cmd!(sh, "bpf-linker --version")
        .quiet()
        .ignore_stderr()
        .read()
        .context("bpf-linker is not installed: run `cargo xtask setup`")?;
    let version = version.trim().to_owned();
    ensure!(
        version.ends_with(LINKER_VERSION),
        "this is {version}; the object is built with {LINKER_VERSION}: run `cargo xtask setup`"
    );
    Ok(version)
}

/// Searches for LLVM, which the linker loads at run time, in the folders of the compilers and of Debian.
fn find_llvm(sh: &Shell, toolchain: &Toolchain) -> Result<Llvm> {
    let mut folders = vec![toolchain.sysroot.join("lib")];
    if let Ok(list) = cmd!(sh, "rustup toolchain list")
        .quiet()
        .ignore_stderr()
        .read()
    {
        for name in list
            .lines()
            .filter_map(|line| line.split_whitespace().next())
        {
            if let Ok(rustc) = cmd!(sh, "rustup which rustc --toolchain {name}")
                .quiet()
                .ignore_stderr()
                .read()
                && let Some(folder) = Path::new(&rustc).parent().and_then(Path::parent)
            {
                folders.push(folder.join("lib"));
            }
        }
    }
    folders.push(format!("/usr/lib/llvm-{LLVM_MAJOR}/lib").into());
    let prefix = format!("libLLVM.so.{LLVM_MAJOR}");
    for folder in folders {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(&prefix))
            .collect();
        names.sort();
        if let Some(name) = names.pop() {
            return Ok(Llvm { folder, name });
        }
    }
    bail!("{prefix} is not installed, and bpf-linker needs it: run `cargo xtask setup`")
}
