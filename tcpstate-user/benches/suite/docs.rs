//! `--write-docs`: replaces the tables of `docs/overhead-notebook.md` by those of this run.
//!
//! A table stands between `<!-- bench NAME -->` and `<!-- end NAME -->`, and the description of the machine
//! does so with the name `head`. Tables of benchmarks that did not run stay unchanged.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::report::Report;

/// Writes the tables of this run into the document.
pub fn write(report: &Report) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/overhead-notebook.md");
    let named = || path.display().to_string();
    let mut text = fs::read_to_string(&path).with_context(named)?;
    text = replace(&text, "head", &report.head.markdown())?;
    for bench in &report.benches {
        text = replace(&text, bench.name, &bench.table())?;
    }
    fs::write(&path, text).with_context(named)
}

fn replace(text: &str, name: &str, by: &str) -> Result<String> {
    let (begin, end) = (
        format!("<!-- bench {name} -->\n"),
        format!("<!-- end {name} -->"),
    );
    let missing = || format!("docs/overhead-notebook.md has no place between {begin} and {end}");
    let (before, rest) = text.split_once(&begin).with_context(missing)?;
    let (_, after) = rest.split_once(&end).with_context(missing)?;
    Ok(format!("{before}{begin}\n{by}\n{end}{after}"))
}
