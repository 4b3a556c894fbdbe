//! `package`: makes the packages for a registry, and builds them as their users would.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::{cargo, privileges::succeed, workspace};

/// The folder of the binary's package.
const BINARY: &str = "tcpstate-user";
/// The documents that each package must contain. A package cannot contain a file from outside its folder, so
/// the licences are symbolic links there; cargo adds the README by itself.
const DOCUMENTS: [&str; 3] = ["LICENSE-APACHE", "LICENSE-MIT", "README.md"];

/// The part of `cargo metadata` that is used here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    /// The registries to which it may be published; `None` means all of them.
    publish: Option<Vec<String>>,
}

/// Makes and builds each package, and installs the binary from the workspace.
pub fn run() -> Result<()> {
    let members = members()?;
    let (published, kept): (Vec<_>, Vec<_>) = members
        .into_iter()
        .partition(|member| member.publish.as_ref().is_none_or(|all| !all.is_empty()));
    forget(&published)?;
    package(&kept)?;
    for package in &published {
        let name = format!("{}-{}", package.name, package.version);
        let folder = workspace().join("target/package").join(&name);
        for document in DOCUMENTS {
            ensure!(
                folder.join(document).is_file(),
                "there is no {document} in {name}"
            );
        }
        eprintln!("{name}: complete");
    }
    install()
}

fn members() -> Result<Vec<Package>> {
    let mut metadata = cargo();
    metadata.current_dir(workspace()).args([
        "metadata",
        "--locked",
        "--no-deps",
        "--format-version=1",
    ]);
    let output = metadata.output()?;
    ensure!(
        output.status.success(),
        "{metadata:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    Ok(metadata.packages)
}

/// Removes what cargo keeps of packages made earlier. To cargo a version never changes once it is in a registry, be
/// it the temporary one of `cargo package`: it would build new packages with the old ones of the same version.
fn forget(published: &[Package]) -> Result<()> {
    let home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?)
            .join(".cargo"),
    };
    let built = workspace().join("target/debug/.fingerprint");
    let mut kept = Vec::new();
    // A registry in a folder has no host in its name.
    for registry in entries(&home.join("registry/src"))? {
        if file_name(&registry).starts_with('-') {
            kept.extend(entries(&registry)?);
        }
    }
    for unit in entries(&built)? {
        if is_never_checked(&unit)? {
            kept.push(unit);
        }
    }
    for path in kept {
        let (name, last) = file_name(&path).rsplit_once('-').unwrap_or_default();
        let is_ours = |package: &Package| {
            let is_hash = last.len() == 16 && last.bytes().all(|byte| byte.is_ascii_hexdigit());
            package.name == name && (last == package.version || is_hash)
        };
        if published.iter().any(is_ours) {
            fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// Whether cargo takes what it built there for what the sources are, without a look at them, as it does where they are from a
/// registry: then its list of them is empty. What comes from a folder is built again when it changes, and the steps after
/// this one need it.
fn is_never_checked(unit: &Path) -> Result<bool> {
    for file in entries(unit)? {
        if file_name(&file).starts_with("dep-") {
            let sources = fs::read(&file).with_context(|| file.display().to_string())?;
            return Ok(!sources.windows(3).any(|name| name == b".rs"));
        }
    }
    Ok(false)
}

/// The entries of a folder; none if it is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<_>>()?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| folder.display().to_string()),
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

/// Makes all packages except those in `kept`. One command makes all of them, so that each is built with the
/// others' new packages instead of those in a registry; in the common target folder, which contains the built
/// dependencies.
fn package(kept: &[Package]) -> Result<()> {
    let mut package = cargo();
    package
        .current_dir(workspace())
        .args(["package", "--workspace", "--locked", "--allow-dirty"])
        .arg("--target-dir")
        .arg(workspace().join("target"));
    for Package { name, .. } in kept {
        package.args(["--exclude", name]);
    }
    succeed(&mut package)
}

/// Installs the binary from its folder and runs it; as a debug build, most of which has been built already.
fn install() -> Result<()> {
    let root = workspace().join("target/installed");
    let mut install = cargo();
    install
        .current_dir(workspace())
        .args(["install", "--quiet", "--locked", "--debug", "--force"])
        .args(["--path", BINARY, "--target-dir"])
        .arg(workspace().join("target"))
        .arg("--root")
        .arg(&root);
    succeed(&mut install)?;
    let mut version = Command::new(root.join("bin/tcpstate"));
    let output = version
        .arg("--version")
        .output()
        .with_context(|| format!("{version:?}"))?;
    let expected = concat!("tcpstate ", env!("CARGO_PKG_VERSION"), "\n");
    ensure!(
        output.status.success() && output.stdout == expected.as_bytes(),
        "{version:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(())
}
