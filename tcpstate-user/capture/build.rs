//! Puts the BPF object where `capture::loader` embeds it from.
//!
//! That is the committed object, unless `TCPSTATE_BPF_OBJECT` names another. The build fails if the committed
//! object was not made from the sources beside it: nothing is worse than debugging a program other than the one
//! in the editor.

#[path = "prebuilt/sources.rs"]
mod sources;

use std::{env, fs, path::Path, process::exit};

fn main() {
    println!("cargo::rerun-if-env-changed=TCPSTATE_BPF_OBJECT");
    println!("cargo::rerun-if-changed=prebuilt");
    if let Err(message) = embed() {
        // `cargo::error` keeps the message free of a backtrace.
        println!("cargo::error={message}");
        exit(1);
    }
}

fn embed() -> Result<(), String> {
    let package = env::var("CARGO_MANIFEST_DIR").map_err(|error| error.to_string())?;
    let out = env::var("OUT_DIR").map_err(|error| error.to_string())?;
    let target = Path::new(&out).join("tcpstate.bpf.o");
    if let Ok(object) = env::var("TCPSTATE_BPF_OBJECT") {
        println!("cargo::rerun-if-changed={object}");
        return copy(Path::new(&object), &target);
    }
    let prebuilt = Path::new(&package).join("prebuilt");
    let object = prebuilt.join("tcpstate.bpf.o");
    // A package unpacked by itself has no sources to compare with.
    if let Some(workspace) = Path::new(&package)
        .ancestors()
        .nth(2)
        .filter(|dir| dir.join("tcpstate-ebpf").is_dir())
    {
        for input in sources::INPUTS {
            println!(
                "cargo::rerun-if-changed={}",
                workspace.join(input).display()
            );
        }
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join("Cargo.toml").display()
        );
        check(&prebuilt, &object, workspace)?;
    }
    copy(&object, &target)
}

fn copy(object: &Path, target: &Path) -> Result<(), String> {
    fs::copy(object, target)
        .map(drop)
        .map_err(|error| format!("cannot copy the BPF object {}: {error}", object.display()))
}

/// The part of `MANIFEST.toml` that a build checks.
#[derive(serde::Deserialize)]
struct Manifest {
    object_sha256: String,
    sources_sha256: String,
}

/// Compares the object and the sources with the manifest beside the object.
fn check(prebuilt: &Path, object: &Path, workspace: &Path) -> Result<(), String> {
    let path = prebuilt.join("MANIFEST.toml");
    let fail = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let text = fs::read_to_string(&path).map_err(|error| fail(&error))?;
    let manifest: Manifest = toml::from_str(&text).map_err(|error| fail(&error))?;
    let bytes = fs::read(object).map_err(|error| format!("{}: {error}", object.display()))?;
    if sources::sha256(&bytes) != manifest.object_sha256 {
        return Err(format!(
            "{} is not the object that MANIFEST.toml describes: run `cargo xtask build-ebpf`",
            object.display()
        ));
    }
    let sources = sources::sources_sha256(workspace).map_err(|error| error.to_string())?;
    if sources != manifest.sources_sha256 {
        return Err(
            "the BPF sources have changed since tcpstate-user/capture/prebuilt/tcpstate.bpf.o was \
                    built: run `cargo xtask build-ebpf` (and `cargo xtask setup` once before)"
                .into(),
        );
    }
    Ok(())
}
