//! The licences of the code that is linked into the binary, which must be distributed with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{
    common::{files, output_of},
    target::Target,
};
use crate::{cargo, workspace};

/// The name of the file with the licences.
pub const FILE: &str = "THIRD-PARTY.txt";

/// The head of the file, with the linked code that is not a crate.
const ABOUT: &str = "\
tcpstate contains the Rust crates below, each under the licence beside it, whose texts follow. btf-rs is
under the LGPL: the sources of tcpstate, with which it can be linked anew with a changed btf-rs, are free
to everybody. The same goes for the GNU C library (LGPL-2.1-or-later), which is linked in statically. The
standard library of Rust is MIT OR Apache-2.0.
";

/// The part of `cargo metadata` that is used here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// `None` for the packages of the workspace.
    source: Option<String>,
    manifest_path: PathBuf,
    targets: Vec<Kinds>,
}

#[derive(Deserialize)]
struct Kinds {
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// `None` for a normal dependency, not one of tests or of a build script.
    kind: Option<String>,
}

/// Writes the file into a folder.
///
/// *Errors:* a crate has no licence, or no text of its licence.
pub fn write(targets: &[Target], folder: &Path) -> Result<()> {
    let mut metadata = cargo();
    metadata
        .current_dir(workspace())
        .args(["metadata", "--locked", "--format-version", "1"]);
    for target in targets {
        metadata.args(["--filter-platform", &target.to_string()]);
    }
    let metadata: Metadata = serde_json::from_str(&output_of(&mut metadata)?)?;
    let mut crates = String::new();
    // Many crates have the same text.
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in linked(&metadata)? {
        let name = format!("{} {}", package.name, package.version);
        let licence = package.license.as_deref();
        let licence = licence.with_context(|| format!("{name} has no licence"))?;
        writeln!(crates, "  {name}: {licence}")?;
        let mut found = licences(package)?;
        // The one licence here whose text names no holder, so that the project's own copy is the same. The crates of
        // OpenTelemetry come without.
        if found.is_empty() && licence == "Apache-2.0" {
            let text = workspace().join("LICENSE-APACHE");
            found.push(fs::read_to_string(&text).with_context(|| text.display().to_string())?);
        }
        ensure!(
            !found.is_empty(),
            "{name} comes without the text of its licence"
        );
        for text in found {
            texts.entry(text).or_default().push(name.clone());
        }
    }
    let mut all = format!("{ABOUT}\n{crates}");
    for (text, names) in texts {
        let line = "-".repeat(80);
        write!(
            all,
            "\n{line}\n{}:\n\n{}\n",
            names.join(", "),
            text.trim_end()
        )?;
    }
    Ok(fs::write(folder.join(FILE), all)?)
}

/// The third-party crates whose code is in the binary, by name.
fn linked(metadata: &Metadata) -> Result<Vec<&Package>> {
    let packages: BTreeMap<_, _> = metadata.packages.iter().map(|it| (&*it.id, it)).collect();
    let nodes: BTreeMap<_, _> = metadata
        .resolve
        .nodes
        .iter()
        .map(|it| (&*it.id, it))
        .collect();
    let root = metadata.packages.iter().find(|it| it.name == "tcpstate");
    let mut left = vec![&*root.context("cargo metadata has no package tcpstate")?.id];
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    while let Some(id) = left.pop() {
        let package = packages.get(id).with_context(|| id.to_owned())?;
        // A macro and its dependencies run in the compiler.
        let is_macro = package
            .targets
            .iter()
            .any(|it| it.kind.iter().any(|it| it == "proc-macro"));
        if is_macro || !seen.insert(id) {
            continue;
        }
        if package.source.is_some() {
            found.push(*package);
        }
        let node = nodes.get(id).with_context(|| id.to_owned())?;
        let is_normal = |it: &&Dependency| it.dep_kinds.iter().any(|it| it.kind.is_none());
        left.extend(node.deps.iter().filter(is_normal).map(|it| &*it.pkg));
    }
    found.sort_by_key(|package| (&package.name, &package.version));
    Ok(found)
}

/// The licence texts in a crate's package.
fn licences(package: &Package) -> Result<Vec<String>> {
    let folder = package.manifest_path.parent().unwrap_or(Path::new("/"));
    let mut texts = Vec::new();
    for name in files(folder)? {
        let upper = name.to_uppercase();
        let begins = [
            "LICENSE",
            "LICENCE",
            "COPYING",
            "COPYRIGHT",
            "NOTICE",
            "UNLICENSE",
        ];
        let file = folder.join(&name);
        if begins.iter().any(|begin| upper.starts_with(begin)) && file.is_file() {
            let text = fs::read(&file).with_context(|| file.display().to_string())?;
            texts.push(String::from_utf8_lossy(&text).into_owned());
        }
    }
    Ok(texts)
}
