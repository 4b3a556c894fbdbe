//! Cgroups for tests.
//!
//! Knows nothing of `tcpstate`.

use std::{fs, io::ErrorKind, os::unix::fs::MetadataExt as _, path::PathBuf};

use anyhow::{Context as _, Result};

/// A cgroup (v2), removed when this handle is dropped.
pub struct Cgroup {
    folder: PathBuf,
    path: String,
}

impl Cgroup {
    /// Makes a cgroup below the root of the hierarchy; `/` in the name separates nested cgroups.
    pub fn new(name: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mount = mounts
            .lines()
            .find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
                [_, folder, "cgroup2", ..] => Some(PathBuf::from(folder)),
                _ => None,
            });
        let folder = mount.context("no cgroup2 is mounted")?.join(name);
        match fs::create_dir(&folder) {
            // Left by a run that was killed.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            result => result.with_context(|| folder.display().to_string())?,
        }
        Ok(Self {
            folder,
            path: format!("/{name}"),
        })
    }

    /// Its path as in `/proc/PID/cgroup`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The file that moves a process here when its number is written to it.
    pub fn processes(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// The kernel's ID for it: the inode number of its directory.
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
