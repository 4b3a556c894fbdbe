//! Cgroups of a test's own.
//!
//! Knows nothing of `tcpstate`.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use anyhow::{Context as _, Result};

/// A cgroup (v2), gone with this handle.
pub struct Cgroup {
    folder: PathBuf,
    path: String,
}

impl Cgroup {
    /// One below the root of the hierarchy; `/` in the name is one below another.
    pub fn new(name: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mount = mounts
            .lines()
            .find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
                [_, folder, "cgroup2", ..] => Some(PathBuf::from(folder)),
                _ => None,
            });
        let folder = mount.context("no cgroup2 is mounted")?.join(name);
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self {
            folder,
            path: format!("/{name}"),
        })
    }

    /// As `/proc/PID/cgroup` shows it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The file to which a process's number is written to move it here.
    pub fn processes(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// By which the kernel knows it: the inode number of its directory.
    pub fn id(&self) -> Result<u64> {
        Ok(fs::metadata(&self.folder)?.ino())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.folder) {
            eprintln!("{}: {error}", self.folder.display());
        }
    }
}
