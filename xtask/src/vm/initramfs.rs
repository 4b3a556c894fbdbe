//! The archive that a guest's kernel boots from: busybox, the modules needed to reach the machine's root
//! file system, and the script that mounts it.
//!
//! *Layout:* the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`, "newc".

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::packages::Unpacked;

const INIT: &str = include_str!("init.sh");
/// A statically linked busybox, in a root file system.
const BUSYBOX: &str = "bin/busybox";
/// The modules that the script needs: access to the host's files, and a layer over them.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// The archive, uncompressed, with the busybox of the guest's root file system.
pub fn build(kernel: &Unpacked, root: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.folder("bin");
    let busybox = root.join(BUSYBOX);
    let busybox = fs::read(&busybox).with_context(|| {
        let path = busybox.display();
        format!("{path}: install the package busybox-static")
    })?;
    archive.file("bin/busybox", 0o755, &busybox)?;
    archive.file("init", 0o755, INIT.as_bytes())?;
    archive.folder("modules");
    let mut order: Vec<String> = Vec::new();
    for path in modules(kernel)? {
        let name = Path::new(&path)
            .file_name()
            .and_then(|name| name.to_str())
            .with_context(|| path.clone())?;
        let plain = name.strip_suffix(".xz").unwrap_or(name).to_owned();
        if order.contains(&plain) {
            continue;
        }
        let bytes = if plain == name {
            fs::read(&path).with_context(|| path.clone())?
        } else {
            let output = Command::new("xz")
                .args(["--decompress", "--stdout", &path])
                .output()
                .context("xz: install the package xz-utils")?;
            ensure!(
                output.status.success(),
                "xz: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            output.stdout
        };
        archive.file(&format!("modules/{plain}"), 0o644, &bytes)?;
        order.push(plain);
    }
    let order = order.join("\n") + "\n";
    archive.file("modules/order", 0o644, order.as_bytes())?;
    Ok(archive.finish())
}

/// The files of the modules and of their dependencies, in the order in which to insert them. A module
/// that is built into the kernel has no file.
fn modules(kernel: &Unpacked) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for module in MODULES {
        // modprobe fails for a built-in module if the list of built-in modules is missing. If a module is
        // really missing, the guest's first script fails and names it.
        let output = Command::new("modprobe")
            .arg("--dirname")
            .arg(&kernel.root)
            .args(["--set-version", &kernel.release, "--show-depends", module])
            .output()
            .context("modprobe: install the package kmod")?;
        let text = String::from_utf8(output.stdout)?;
        let lines = text.lines().filter_map(|line| line.strip_prefix("insmod "));
        paths.extend(lines.map(|path| path.trim().to_owned()));
    }
    Ok(paths)
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, 0, 2);
    }

    fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> Result<()> {
        let len = u32::try_from(content.len()).with_context(|| name.to_owned())?;
        self.entry(name, 0o100_000 | permissions, len, 1);
        self.bytes.extend(content);
        self.pad();
        Ok(())
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, 0, 1);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, len: u32, links: u32) {
        self.entries += 1;
        let name_len = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let (uid, gid, mtime, device) = (0, 0, 0, 0);
        let fields = [
            self.entries,
            mode,
            uid,
            gid,
            links,
            mtime,
            len,
            device,
            device,
            device,
            device,
            name_len,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    /// Pads to a multiple of four, where every part must begin.
    fn pad(&mut self) {
        let len = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(len, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_begin_at_multiples_of_four() {
        let mut archive = Archive::default();
        archive.folder("a");
        archive.file("a/b", 0o644, b"hello").unwrap();
        let bytes = archive.finish();
        let at: Vec<_> = (0..bytes.len())
            .filter(|at| bytes[*at..].starts_with(b"070701"))
            .collect();
        assert_eq!(at.len(), 3, "{at:?}");
        assert!(at.iter().all(|at| at % 4 == 0), "{at:?}");
        // The length of the file is the seventh field of eight digits.
        assert_eq!(&bytes[at[1] + 6 + 6 * 8..][..8], b"00000005");
        assert!(bytes.windows(5).any(|part| part == b"hello"));
    }
}
