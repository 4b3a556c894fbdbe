//! The sources of the committed BPF object, as one hash.
//!
//! Compiled into `tcpstate-user/capture/build.rs`, which refuses to embed a stale object, and into `xtask`,
//! which builds the object, so that both mean the same by "the sources".

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

/// Files and folders that the object depends on, relative to the workspace.
pub const INPUTS: [&str; 4] = [
    "tcpstate-common/Cargo.toml",
    "tcpstate-common/src",
    "tcpstate-ebpf/Cargo.toml",
    "tcpstate-ebpf/src",
];

/// SHA-256 over the path, the length and the content of every input, in the order of their paths,
/// and over the part of the workspace manifest that concerns the BPF build. Lower-case hexadecimal.
pub fn sources_sha256(workspace: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for input in INPUTS {
        collect(&workspace.join(input), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let name = file
            .strip_prefix(workspace)
            .unwrap_or(&file)
            .to_string_lossy()
            .replace('\\', "/");
        let content = fs::read(&file)?;
        hash.update(format!("{name}\0{}\0", content.len()));
        hash.update(&content);
    }
    hash.update(manifest_part(&fs::read_to_string(
        workspace.join("Cargo.toml"),
    )?)?);
    Ok(hex(hash))
}

/// SHA-256 of bytes. Lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(bytes);
    hex(hash)
}

fn hex(hash: Sha256) -> String {
    use std::fmt::Write as _;

    hash.finalize()
        .iter()
        .fold(String::new(), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            collect(&entry?.path(), files)?;
        }
    } else {
        files.push(path.to_owned());
    }
    Ok(())
}

/// The profile and the versions that the BPF build takes from the workspace manifest.
fn manifest_part(manifest: &str) -> io::Result<String> {
    let manifest: toml::Table = toml::from_str(manifest).map_err(io::Error::other)?;
    let at = |path: &[&str]| {
        let mut value = manifest.get(path[0])?;
        for key in &path[1..] {
            value = value.get(key)?;
        }
        Some(value.to_string())
    };
    let parts = [
        at(&["profile", "bpf"]),
        at(&["profile", "release"]),
        at(&["workspace", "dependencies", "aya-ebpf"]),
        at(&["workspace", "dependencies", "aya-log-ebpf"]),
    ];
    Ok(parts.map(Option::unwrap_or_default).join("\n"))
}
