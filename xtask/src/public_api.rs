//! `public-api`: compares the public API of each library with the list that is committed in its folder.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::{cargo, privileges::succeed, workspace};

/// The libraries with a listed API: package and folder.
const LIBRARIES: [(&str, &str); 1] = [("tcpstate-core", "tcpstate-user/core")];
/// The name of the list in the package's folder.
const FILE: &str = "public-api.txt";

/// Arguments of `public-api`.
#[derive(clap::Args)]
pub struct PublicApi {
    /// Rewrite the lists instead of comparing with them
    #[arg(long)]
    bless: bool,
}

/// Compares each library's API with its list, or writes the list.
pub fn run(arguments: &PublicApi) -> Result<()> {
    let mut differences = String::new();
    for (package, folder) in LIBRARIES {
        let api = list(package)?;
        let path = workspace().join(folder).join(FILE);
        let context = || path.display().to_string();
        if arguments.bless {
            fs::write(&path, &api).with_context(context)?;
            eprintln!("wrote {}", path.display());
            continue;
        }
        let listed = fs::read_to_string(&path).with_context(context)?;
        let changes = changes(&listed, &api);
        if changes.is_empty() {
            eprintln!("{package}: the public API agrees with its list");
        } else {
            writeln!(differences, "\n{folder}/{FILE}:\n{changes}")?;
        }
    }
    ensure!(
        differences.is_empty(),
        "the public API differs from its list; if that is intended, run `cargo xtask public-api --bless` and commit the \
         list\n{}",
        differences.trim_end()
    );
    Ok(())
}

/// The public API of a package's library, one item per line.
fn list(package: &str) -> Result<String> {
    let json = describe(package)?;
    let mut tool = cargo();
    tool.current_dir(workspace())
        .args([
            "run",
            "--quiet",
            "--locked",
            "--package",
            "xtask-public-api",
        ])
        .arg("--")
        .arg(&json);
    let output = tool.output().with_context(|| format!("{tool:?}"))?;
    ensure!(
        output.status.success(),
        "list the public API of {package}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Describes a package's library in JSON with rustdoc, which stable compilers do only if they are set to act as
/// a nightly. Build scripts check that too, hence a separate target folder: in the common one, this build and
/// the next would each rebuild such packages.
fn describe(package: &str) -> Result<PathBuf> {
    let target = workspace().join("target/public-api");
    let mut rustdoc = cargo();
    rustdoc
        .current_dir(workspace())
        .args(["rustdoc", "--quiet", "--locked", "--all-features", "--lib"])
        .args(["--package", package, "--target-dir"])
        .arg(&target)
        .args(["--", "-Z", "unstable-options", "--output-format", "json"])
        .env("RUSTC_BOOTSTRAP", "1")
        // It would change the place of the result.
        .env_remove("CARGO_BUILD_TARGET");
    succeed(&mut rustdoc)?;
    let name = Path::new(&package.replace('-', "_")).with_extension("json");
    Ok(target.join("doc").join(name))
}

/// The lines in only one of two lists, in order: first those of the old list with a `-`, then those of the new
/// list with a `+`. An item is a line with its full path, so it needs no context lines.
fn changes(old: &str, new: &str) -> String {
    let mut text = String::new();
    for (sign, lines, others) in [('-', old, new), ('+', new, old)] {
        // Some lines occur more than once: the same method of several implementations.
        let mut counts = HashMap::<&str, usize>::new();
        for line in others.lines() {
            *counts.entry(line).or_default() += 1;
        }
        for line in lines.lines() {
            match counts.get_mut(line) {
                Some(count) if *count > 0 => *count -= 1,
                _ => text.extend([sign.encode_utf8(&mut [0; 4]), line, "\n"]),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_the_lines_of_only_one_list() {
        let old = "pub mod a\npub fn a::f(u16)\npub fn a::g()\npub fn a::g()\n";
        let new = "pub mod a\npub fn a::f(u32)\npub fn a::g()\npub fn a::h()\n";
        assert_eq!(
            changes(old, new),
            "-pub fn a::f(u16)\n-pub fn a::g()\n+pub fn a::f(u32)\n+pub fn a::h()\n"
        );
        assert_eq!(changes(new, new), "");
    }
}
