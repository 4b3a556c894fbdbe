//! The privileges of `serve`: those that its choices take, and when the others go.

use std::{
    io,
    path::{Path, PathBuf},
};

use tcpstate::sandbox::{self, Sampling, User};
use tcpstate_capture::{WORKLOADS, host};
use tcpstate_core::{netns::NetnsSelector, options::ResolveOwners};

use crate::{message::note, selection::Selection, watch::resolves_owners};

/// All that a run takes.
pub(super) struct Privileges<'a> {
    arguments: &'a tcpstate_cli::Serve,
    /// The files that are read again at a SIGHUP.
    files: Vec<PathBuf>,
    sampling: Sampling,
}

impl<'a> Privileges<'a> {
    /// `web` are the files of the web configuration.
    pub(super) fn of(
        arguments: &'a tcpstate_cli::Serve,
        selection: &Selection,
        web: &[PathBuf],
    ) -> Self {
        let watched = &arguments.watch;
        let files = arguments.config.iter().chain(web);
        Self {
            arguments,
            files: files.cloned().collect(),
            sampling: Sampling {
                other_netns: watched.sockets.netns.wanted != NetnsSelector::Own,
                owners: resolves_owners(watched, selection) != ResolveOwners::No,
                maps_take_bpf: host::maps_take_bpf(),
            },
        }
    }

    /// Gives up what no thread needs; there must be one.
    pub(super) fn enter(&self) -> io::Result<()> {
        let user = self.arguments.user.map(|user| User {
            uid: user.uid,
            gid: user.gid,
        });
        let forbids_calls =
            sandbox::enter(user, self.sampling.capabilities()).map_err(io::Error::other)?;
        if !forbids_calls {
            self.note("this kernel has no seccomp, so no system call is forbidden");
        }
        Ok(())
    }

    /// Gives up what only the threads need that are there already.
    pub(super) fn confine(&self) -> anyhow::Result<()> {
        let readable = readable(&self.files);
        if !sandbox::confine(self.sampling, &readable)? {
            self.note("this kernel has no Landlock, so no file is forbidden");
        }
        Ok(())
    }

    fn note(&self, text: &str) {
        note(self.arguments.watch.output, text);
    }
}

/// The files that this thread and those that it starts read from now on; the given ones again.
fn readable(again: &[PathBuf]) -> Vec<PathBuf> {
    let known = [
        // The time and memory of this process.
        "/proc",
        // Reads of counters of each CPU ask how many there are.
        "/sys/devices/system/cpu",
        // Names of cgroups.
        "/sys/fs/cgroup",
        // Names in a configuration that is read again.
        "/etc/passwd",
        "/etc/services",
    ];
    let known = known.into_iter().chain(WORKLOADS);
    let mut readable: Vec<PathBuf> = known.map(PathBuf::from).collect();
    for file in again {
        // An editor puts another file in the place of the old one, so it is the folder.
        readable.extend(folder(file));
        // Certificates are often links, to a folder into which the next ones come.
        readable.extend(file.canonicalize().ok().and_then(|file| folder(&file)));
    }
    readable
}

fn folder(file: &Path) -> Option<PathBuf> {
    let folder = file.parent()?;
    let is_here = folder.as_os_str().is_empty();
    Some(if is_here { Path::new(".") } else { folder }.to_owned())
}
