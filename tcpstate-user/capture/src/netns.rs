//! Network namespaces: finding, naming and entering them.
//!
//! A namespace is found by a process that is in it (`/proc/PID/ns/net`) or by the name that `ip netns`
//! gave it (`/run/netns`). One that is held otherwise, by an open file or by a single thread of a
//! process, is not found, and can be given by its path.
//!
//! A host can have more of them than a process may open files, so a search has one open at a time.

use std::{
    cell::Cell,
    fs::{self, File},
    io,
    ops::ControlFlow,
    os::{fd::AsFd as _, linux::fs::MetadataExt as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use hashbrown::HashSet;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tcpstate_core::netns::{NAMED_PATH, NetnsSelector};

use super::{clock::thread_cpu_time, procfs};

thread_local! {
    static SPENT_INSIDE: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// CPU time of what this thread has had done inside of other namespaces ([`Namespace::within`]), which is not its own.
fn spent_inside() -> Duration {
    SPENT_INSIDE.get()
}

/// CPU time that this thread has taken, inside of other namespaces too.
pub fn cpu_time() -> Duration {
    thread_cpu_time() + spent_inside()
}

/// Why a namespace cannot be found or entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The file that leads to it cannot be opened.
    #[error("cannot open the network namespace {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is not a network namespace", .0.display())]
    NotOne(PathBuf),
    /// No process is in it and nothing is named after it, as far as this process can see.
    #[error("no network namespace {0} is visible from here")]
    NotFound(u32),
    /// It exists, but the kernel does not let us in.
    #[error("cannot enter the network namespace {name}")]
    Enter {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl NetnsError {
    /// Advice for the user.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("`ip netns` and `lsns -t net` list the namespaces.")
            }
            Self::Open { .. } | Self::NotFound(_) => Some(
                "Namespaces of other users' processes are hidden without root or CAP_SYS_PTRACE; \
                 `lsns -t net` lists the visible ones.",
            ),
            Self::NotOne(_) => {
                Some("Give a path such as /proc/PID/ns/net, or a name that `ip netns` lists.")
            }
            Self::Enter { .. } => {
                Some("Entering another network namespace takes root or CAP_SYS_ADMIN.")
            }
        }
    }
}

/// A network namespace, kept alive by this value.
#[derive(Debug)]
pub struct Namespace {
    inode: u32,
    name: String,
    path: Option<PathBuf>,
    /// `None` for our own, which needs no privilege.
    file: Option<File>,
}

impl Namespace {
    /// The namespace that this thread is in.
    pub fn own() -> Result<Self, NetnsError> {
        let path = Path::new("/proc/thread-self/ns/net");
        let (_, inode) = open(path)?;
        Ok(Self {
            inode,
            name: "self".to_owned(),
            path: None,
            file: None,
        })
    }

    /// The namespace behind a file.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let (file, inode) = open(path)?;
        Ok(Self {
            inode,
            name: name_of(path),
            path: Some(path.to_owned()),
            file: Some(file),
        })
    }

    /// Inode number, by which the kernel names it.
    pub const fn inode(&self) -> u32 {
        self.inode
    }

    /// Its name for people: `self`, a name of `ip netns`, or a path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path by which it was opened; `None`: it is our own.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Calls a function inside it. Sockets created there stay there, and `/proc/thread-self/net` and
    /// `/proc/sys/net` are those of the namespace.
    pub fn within<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let Some(file) = &self.file else {
            return Ok(f());
        };
        // A thread of its own: a namespace belongs to a thread, and this one ends here.
        let (done, spent) = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let done =
                    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                        .map(|()| f());
                (done, thread_cpu_time())
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        SPENT_INSIDE.set(SPENT_INSIDE.get() + spent);
        done.map_err(|source| NetnsError::Enter {
            name: self.name.clone(),
            source: source.into(),
        })
    }
}

fn name_of(path: &Path) -> String {
    path.strip_prefix(NAMED_PATH)
        .unwrap_or(path)
        .display()
        .to_string()
}

/// Opens a namespace's file and reads its inode number.
fn open(path: &Path) -> Result<(File, u32), NetnsError> {
    let failed = |source| NetnsError::Open {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let inode = is_namespace(&file)
        .and_then(|is| Ok((is, file.metadata()?.st_ino())))
        .map_err(failed)?;
    match inode {
        (true, inode) => u32::try_from(inode).ok().map(|inode| (file, inode)),
        (false, _) => None,
    }
    .ok_or_else(|| NetnsError::NotOne(path.to_owned()))
}

/// Whether the file is a namespace; entering it shows its kind.
fn is_namespace(file: &File) -> io::Result<bool> {
    /// *Source:* `NSFS_MAGIC` in `include/uapi/linux/magic.h`.
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    Ok(rustix::fs::fstatfs(file)?.f_type == NSFS_MAGIC)
}

/// The parts of a host that a search did not reach.
#[derive(Debug, Default)]
pub struct Unreached {
    /// Names that lead to no namespace, and why.
    pub broken: Vec<NetnsError>,
    /// Processes whose namespace this process may not see.
    pub hidden_processes: u64,
}

/// Gives each of the selected namespaces to `each`, which may break off: our own first, each once, and none is kept open.
///
/// *Errors:* a single namespace was named and is not there, or our own cannot be read. [`Unreached`] has what is missing
/// from `all`.
pub fn visit(
    selector: &NetnsSelector,
    mut each: impl FnMut(Namespace) -> ControlFlow<()>,
) -> Result<Unreached, NetnsError> {
    let only = match selector {
        NetnsSelector::All => return visit_all(each),
        NetnsSelector::Own => Namespace::own()?,
        NetnsSelector::File(path) => Namespace::open(path)?,
        NetnsSelector::Inode(inode) => {
            let mut found = None;
            visit_all(|namespace| {
                if namespace.inode == *inode {
                    found = Some(namespace);
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })?;
            found.ok_or(NetnsError::NotFound(*inode))?
        }
    };
    // It is the last one anyway.
    let _ = each(only);
    Ok(Unreached::default())
}

fn visit_all(mut each: impl FnMut(Namespace) -> ControlFlow<()>) -> Result<Unreached, NetnsError> {
    let own = Namespace::own()?;
    let mut unreached = Unreached::default();
    let mut seen: HashSet<u32> = HashSet::from([own.inode]);
    if each(own).is_break() {
        return Ok(unreached);
    }
    // Names first: they say more than the number of some process.
    for entry in fs::read_dir(NAMED_PATH).into_iter().flatten().flatten() {
        match Namespace::open(&entry.path()) {
            Ok(namespace) => {
                if seen.insert(namespace.inode) && each(namespace).is_break() {
                    return Ok(unreached);
                }
            }
            Err(error) => unreached.broken.push(error),
        }
    }
    let processes = fs::read_dir("/proc").map_err(|source| NetnsError::Open {
        path: "/proc".into(),
        source,
    })?;
    for process in processes.flatten() {
        if !procfs::is_process(&process.file_name()) {
            continue;
        }
        let path = process.path().join("ns/net");
        match fs::metadata(&path) {
            // A namespace is a file. For a process of another user, Linux 5.10 does not refuse to follow the
            // link, but leads to the folder of the link.
            Ok(metadata) if metadata.is_dir() => unreached.hidden_processes += 1,
            Ok(metadata) => {
                let known =
                    u32::try_from(metadata.st_ino()).is_ok_and(|inode| seen.contains(&inode));
                // The process may have ended; others in the same namespace may follow.
                if !known
                    && let Ok(namespace) = Namespace::open(&path)
                    && seen.insert(namespace.inode)
                    && each(namespace).is_break()
                {
                    return Ok(unreached);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                unreached.hidden_processes += 1;
            }
            // It has ended in the meantime, or is a kernel thread about to end.
            Err(_) => {}
        }
    }
    Ok(unreached)
}

#[cfg(test)]
mod tests {
    use tcpstate_core::netns::SELF_PATH;

    use super::*;

    /// The inode numbers of those that are found.
    fn inodes(selector: &NetnsSelector) -> Result<Vec<u32>, NetnsError> {
        let mut inodes = Vec::new();
        visit(selector, |namespace| {
            inodes.push(namespace.inode());
            ControlFlow::Continue(())
        })?;
        Ok(inodes)
    }

    #[test]
    fn our_own_is_found_by_all_its_names_and_needs_no_privilege() {
        let own = Namespace::own().unwrap();
        assert_eq!(own.name(), "self");
        assert_eq!(own.within(|| 42).unwrap(), 42);
        for selector in [
            NetnsSelector::Own,
            NetnsSelector::File(SELF_PATH.into()),
            NetnsSelector::Inode(own.inode()),
        ] {
            assert_eq!(inodes(&selector).unwrap(), [own.inode()], "{selector:?}");
        }
        let all = inodes(&NetnsSelector::All).unwrap();
        assert_eq!(all[0], own.inode());
        let once: HashSet<u32> = all.iter().copied().collect();
        assert_eq!(once.len(), all.len());
    }

    #[test]
    fn a_search_ends_where_it_is_broken_off() {
        let mut visited = 0;
        visit(&NetnsSelector::All, |_| {
            visited += 1;
            ControlFlow::Break(())
        })
        .unwrap();
        assert_eq!(visited, 1);
    }

    #[test]
    fn the_time_inside_of_a_namespace_is_known() {
        const WORK: Duration = Duration::from_millis(5);
        let namespace = Namespace::open(Path::new(SELF_PATH)).unwrap();
        let before = spent_inside();
        let entered = namespace.within(|| while thread_cpu_time() < WORK {});
        let spent = spent_inside().checked_sub(before).unwrap();
        // An ordinary user may not enter it, and the attempt takes time too.
        let least = entered.map_or(Duration::from_nanos(1), |()| WORK);
        assert!(spent >= least, "{spent:?}");
        Namespace::own().unwrap().within(|| ()).unwrap();
        assert_eq!(spent_inside(), before + spent);
    }

    #[test]
    fn other_files_are_refused() {
        let missing = NetnsSelector::File("/run/netns/no-such-namespace".into());
        assert!(matches!(inodes(&missing), Err(NetnsError::Open { .. })));
        let other = NetnsSelector::File("/dev/null".into());
        assert!(matches!(inodes(&other), Err(NetnsError::NotOne(_))));
        assert!(matches!(
            inodes(&NetnsSelector::Inode(1)),
            Err(NetnsError::NotFound(1))
        ));
    }

    #[test]
    fn a_namespace_of_another_kind_is_not_entered() {
        let uts = Namespace::open(Path::new("/proc/self/ns/uts")).unwrap();
        let error = uts.within(|| ()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot enter the network namespace /proc/self/ns/uts"
        );
    }
}
