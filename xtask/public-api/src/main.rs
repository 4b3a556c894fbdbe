//! Prints the public API that a file of rustdoc's JSON describes, one item per line. `cargo xtask public-api`
//! runs it.
//!
//! It is a package of its own, outside the default members, because it takes longer to build than the rest of
//! `xtask`, and needs a feature of `serde_json` that tcpstate does not use.

use std::{collections::HashSet, env, fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use public_api::Builder;
use serde::Deserialize;

/// An implementation that `PartialEq` derives too, and that stable Rust cannot use.
const UNSTABLE_DERIVE: &str = "impl core::marker::StructuralPartialEq for ";

/// The part of the JSON that names its format.
#[derive(Deserialize)]
struct Header {
    format_version: u32,
}

fn main() -> Result<()> {
    let file = env::args_os()
        .nth(1)
        .context("no JSON file in the arguments")?;
    let file = PathBuf::from(file);
    check_format(&fs::read_to_string(&file).with_context(|| file.display().to_string())?)?;
    // Blanket and auto trait implementations follow from the rest, and would be two thirds of the list.
    let builder = Builder::from_rustdoc_json(&file)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true);
    let all = builder.clone().build()?;
    let without_derived = builder.omit_auto_derived_impls(true).build()?;
    let all = all.items().map(ToString::to_string).collect();
    let without_derived = without_derived.items().map(ToString::to_string).collect();
    for line in shortened(all, &without_derived) {
        println!("{line}");
    }
    Ok(())
}

/// Each compiler writes one format, and a list read from another could be silently wrong.
fn check_format(json: &str) -> Result<()> {
    let Header { format_version } = serde_json::from_str(json)?;
    let read = rustdoc_types::FORMAT_VERSION;
    ensure!(
        format_version == read,
        "this compiler writes version {format_version} of rustdoc's JSON, and version {read} is needed: run it \
         with Rust {} (`cargo +{0} xtask public-api`), or move `public-api` and `rustdoc-types` in Cargo.toml to \
         versions that match",
        env!("CARGO_PKG_RUST_VERSION")
    );
    Ok(())
}

/// Shortens a derived implementation to its first line, because its methods are the trait's.
fn shortened(all: Vec<String>, without_derived: &HashSet<String>) -> Vec<String> {
    let is_kept = |line: &String| {
        without_derived.contains(line)
            || line.starts_with("impl") && !line.starts_with(UNSTABLE_DERIVE)
    };
    all.into_iter().filter(is_kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_format_is_refused() {
        let json = |version: u32| format!(r#"{{"index": {{}}, "format_version": {version}}}"#);
        check_format(&json(rustdoc_types::FORMAT_VERSION)).unwrap();
        let error = check_format(&json(9_999)).unwrap_err().to_string();
        assert!(error.contains("version 9999 of rustdoc's JSON"), "{error}");
    }

    #[test]
    fn a_derived_implementation_is_one_line() {
        let lines = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        let written = [
            "pub struct a::Port",
            "impl core::fmt::Display for a::Port",
            "pub fn a::Port::fmt(&self) -> core::fmt::Result",
        ];
        let mut all = lines(&written);
        all.extend(lines(&[
            "impl core::clone::Clone for a::Port",
            "pub fn a::Port::clone(&self) -> a::Port",
            "impl core::marker::StructuralPartialEq for a::Port",
        ]));
        let mut expected = lines(&written);
        expected.push("impl core::clone::Clone for a::Port".to_owned());
        assert_eq!(
            shortened(all, &lines(&written).into_iter().collect()),
            expected
        );
    }
}
