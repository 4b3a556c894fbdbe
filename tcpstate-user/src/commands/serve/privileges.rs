//! The privileges of `serve`: those that its choices take, and when the others go.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tcpstate::sandbox::{self, Sampling, Sockets, User};
use tcpstate_capture::{WORKLOADS, host};
use tcpstate_core::{error::chain, netns::NetnsSelector, options::ResolveOwners};
use tcpstate_serve::otlp::{self, News, Pusher};
use tcpstate_text::format::units::Count;

use crate::{
    message::{note, say},
    selection::Selection,
    watch::resolves_owners,
};

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

    /// Gives up what no thread needs; there must be one. Where there is a collector, starts the thread that pushes to it, which alone
    /// may connect.
    pub(super) fn enter(&self, collector: Option<otlp::Options>) -> io::Result<Option<Pusher>> {
        let sockets = match &collector {
            None => Sockets::OfNetlink,
            Some(options) if options.collector.endpoint().has_name() => Sockets::TcpByName,
            Some(_) => Sockets::Tcp,
        };
        let user = self.arguments.user.map(|user| User {
            uid: user.uid,
            gid: user.gid,
        });
        let forbids_calls = sandbox::enter(user, self.sampling.capabilities(), sockets)
            .map_err(io::Error::other)?;
        if !forbids_calls {
            self.note("this kernel has no seccomp, so no system call is forbidden");
        }
        let pusher = collector.map(start).transpose()?;
        if pusher.is_some() {
            sandbox::forbid_sockets().map_err(io::Error::other)?;
        }
        Ok(pusher)
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

/// Starts the thread that pushes.
fn start(options: otlp::Options) -> io::Result<Pusher> {
    let endpoint = options.collector.endpoint();
    let (port, by_name) = (endpoint.port(), endpoint.has_name());
    let collector = endpoint.to_string();
    let confine = move || {
        let readable = readable_by_pusher(by_name);
        // Whether the kernel can do it is said of the main thread.
        sandbox::confine_to(port, by_name, &readable)
            .map(drop)
            .map_err(io::Error::other)
    };
    Pusher::start(options, confine, move |news| tell(&collector, news))
}

/// Says what has changed at the collector.
fn tell(collector: &str, news: News) {
    let text = match news {
        News::Fails(failure) => {
            let why = chain(&failure);
            format!("cannot push metrics to {collector}: {why}; it goes on trying")
        }
        News::RefusesPart(refused) => format!(
            "the collector at {collector} refuses some of the metrics ({}): {}",
            Count(refused.points),
            refused.reason,
        ),
        News::Works => format!("metrics are pushed to {collector} again"),
    };
    say(&text);
}

/// The files that the thread that pushes reads.
fn readable_by_pusher(by_name: bool) -> Vec<PathBuf> {
    // The memory of this process, which is a metric.
    let mut readable = vec![PathBuf::from("/proc")];
    if by_name {
        const RESOLVER: [&str; 5] = [
            "/etc/hosts",
            "/etc/resolv.conf",
            "/etc/nsswitch.conf",
            "/etc/host.conf",
            "/etc/gai.conf",
        ];
        readable.extend(RESOLVER.map(PathBuf::from));
        // Often it is a link to a file that is replaced when the network changes. /etc itself has other files.
        let real = fs::canonicalize("/etc/resolv.conf").ok();
        let folder = real.as_deref().and_then(Path::parent);
        readable.extend(
            folder
                .filter(|&folder| folder != "/etc")
                .map(Path::to_owned),
        );
    }
    readable
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
