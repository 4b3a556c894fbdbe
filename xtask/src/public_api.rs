//! `public-api`: compares the public API of libraries with the list that is committed in each one's folder.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::{cargo, privileges::succeed, workspace};

/// The libraries whose API is held: a package, and its folder.
const LIBRARIES: [(&str, &str); 1] = [("tcpstate-core", "tcpstate-user/core")];
/// The list, in the package's folder.
const FILE: &str = "public-api.txt";

/// What to do about a difference.
#[derive(clap::Args)]
pub struct PublicApi {
    /// Write the lists anew instead of comparing with them
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
            eprintln!("{package}: the public API is as listed");
        } else {
            writeln!(differences, "\n{folder}/{FILE}:\n{changes}")?;
        }
    }
    ensure!(
        differences.is_empty(),
        "the public API is not as listed; if that is meant, run `cargo xtask public-api --bless` and commit the \
         list\n{}",
        differences.trim_end()
    );
    Ok(())
}

/// The public API of a package's library, an item a line.
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

/// Has rustdoc describe a package's library in JSON, which stable compilers do only when they are told to act
/// as a nightly. Build scripts ask for that too, hence a target folder of its own: in the common one, this and
/// the next build would each build such packages again.
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
        // It would move the result.
        .env_remove("CARGO_BUILD_TARGET");
    succeed(&mut rustdoc)?;
    let name = Path::new(&package.replace('-', "_")).with_extension("json");
    Ok(target.join("doc").join(name))
}

/// The lines that only one of two lists has, in their order: with a `-` those of the first, then with a `+` those
/// of the second. An item is a whole line with its full path, so it needs no lines around it.
fn changes(old: &str, new: &str) -> String {
    let mut text = String::new();
    for (sign, lines, others) in [('-', old, new), ('+', new, old)] {
        // Some lines are there more than once: the same method of several implementations.
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
    fn changes_are_what_one_list_has_more() {
        let old = "pub mod a\npub fn a::f(u16)\npub fn a::g()\npub fn a::g()\n";
        let new = "pub mod a\npub fn a::f(u32)\npub fn a::g()\npub fn a::h()\n";
        assert_eq!(
            changes(old, new),
            "-pub fn a::f(u16)\n-pub fn a::g()\n+pub fn a::f(u32)\n+pub fn a::h()\n"
        );
        assert_eq!(changes(new, new), "");
    }
}
