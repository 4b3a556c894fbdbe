//! `check-manifests`: compares the Kubernetes manifests of `deploy/` with Kubernetes' own schemas.
//!
//! They come from a Python package, which is installed in a folder of `target/`. Where it cannot be fetched, the check is skipped
//! with a message, as it is where there is no Python.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{privileges::succeed, workspace};

/// The package, and its version, which is that of the newest schemas in it.
const PACKAGE: &str = "kubernetes-validate==1.37.0";
/// The oldest Kubernetes with all the fields that are used, and the newest that is known.
const VERSIONS: [&str; 2] = ["1.30.0", "1.37.0"];

/// Checks them, or says why not.
pub fn run() -> Result<()> {
    let folder = workspace().join("deploy/kubernetes");
    let files = resources(&folder)?;
    let validator = match validator() {
        Ok(validator) => validator,
        Err(error) => {
            eprintln!("skipped: {PACKAGE} cannot be installed: {error:#}");
            return Ok(());
        }
    };
    let mut all = files;
    all.extend(built(&folder)?);
    for version in VERSIONS {
        succeed(
            Command::new(&validator)
                .args(["--strict", "--quiet", "--kubernetes-version", version])
                .args(&all),
        )?;
    }
    eprintln!(
        "the manifests are valid in Kubernetes {}",
        VERSIONS.join(" and ")
    );
    Ok(())
}

/// The files that the kustomization lists.
fn resources(folder: &Path) -> Result<Vec<PathBuf>> {
    let path = folder.join("kustomization.yaml");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let list = text
        .lines()
        .skip_while(|line| *line != "resources:")
        .skip(1);
    let names = list.map_while(|line| line.strip_prefix("  - "));
    let files: Vec<PathBuf> = names.map(|name| folder.join(name)).collect();
    ensure!(!files.is_empty(), "{} lists no files", path.display());
    Ok(files)
}

/// All of them as kubectl builds them from the kustomization; `None`: there is no kubectl, and it says so.
fn built(folder: &Path) -> Result<Option<PathBuf>> {
    let mut kubectl = Command::new("kubectl");
    let Ok(output) = kubectl.arg("kustomize").arg(folder).output() else {
        eprintln!("skipped: the kustomization is not built: there is no kubectl");
        return Ok(None);
    };
    ensure!(
        output.status.success(),
        "{kubectl:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let file = workspace().join("target/manifests.yaml");
    fs::write(&file, output.stdout)?;
    Ok(Some(file))
}

/// The program that checks, installed if it is not there.
fn validator() -> Result<PathBuf> {
    let folder = workspace().join("target").join(PACKAGE.replace("==", "-"));
    let program = folder.join("bin/kubernetes-validate");
    if !program.is_file() {
        let python = Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&folder)
            .output()
            .context("python3")?;
        // Debian says on standard output that its package python3-venv is missing.
        let said = String::from_utf8_lossy(&python.stdout);
        ensure!(python.status.success(), "python3 -m venv: {said}");
        succeed(Command::new(folder.join("bin/pip")).args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            PACKAGE,
        ]))?;
    }
    Ok(program)
}
