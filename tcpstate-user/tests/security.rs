//! The table of `unsafe` in SECURITY.md matches the sources that ship.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The source folders of the workspace's members, except xtask, which does not ship.
fn shipped_sources(workspace: &Path) -> Vec<PathBuf> {
    let manifest = fs::read_to_string(workspace.join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    let members = members.iter().map(|member| member.as_str().unwrap());
    members
        .filter(|member| !member.starts_with("xtask"))
        .map(|member| workspace.join(member).join("src"))
        .collect()
}

#[test]
fn every_unsafe_is_listed() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for folder in shipped_sources(&workspace) {
        find(&folder, &mut files);
    }
    let mut found = BTreeMap::new();
    for file in files {
        let count = count(&fs::read_to_string(&file).unwrap());
        if count != 0 {
            let name = file.strip_prefix(&workspace).unwrap();
            found.insert(name.display().to_string(), count);
        }
    }
    let page = fs::read_to_string(workspace.join("SECURITY.md")).unwrap();
    assert_eq!(listed(&page), found, "SECURITY.md differs from the sources");
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
}

/// The number of `unsafe` blocks, functions and implementations, comments left out.
fn count(source: &str) -> usize {
    let code = source.lines().filter_map(|line| line.split("//").next());
    code.map(|line| {
        let kinds = ["unsafe {", "unsafe fn ", "unsafe impl "];
        kinds
            .map(|kind| line.matches(kind).count())
            .iter()
            .sum::<usize>()
    })
    .sum()
}

/// The rows that begin with a source file and a number.
fn listed(page: &str) -> BTreeMap<String, usize> {
    page.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let file = cells.next()?.strip_suffix('`')?;
            let count = cells.next()?.parse().ok()?;
            Some((file.to_owned(), count))
        })
        .collect()
}

#[test]
fn comments_do_not_count() {
    assert_eq!(
        count("// unsafe {\nunsafe { a } // unsafe {\nunsafe fn b() {}"),
        2
    );
}
