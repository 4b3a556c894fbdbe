//! The names of cgroups: from the id that the kernel keeps in a socket to the path that people and
//! `/proc/PID/cgroup` use, and back; and to the names of what is in them.
//!
//! The id is the inode number of the cgroup's directory in cgroup2's file system. With
//! `CAP_DAC_READ_SEARCH` the kernel opens a directory by it; without, the directories are walked, not
//! more than once a second, and where that takes long, for a fiftieth of the time at most. What was found once stays: a
//! cgroup that has been removed keeps its name.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        linux::fs::MetadataExt as _,
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hashbrown::HashMap;
use tcpstate_core::names::{Cgroup, Naming};

use crate::workloads::Workloads;

/// Why a cgroup cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The cgroup2 file system is not mounted.
    #[error("cgroup2 is not mounted here; mount it: mount -t cgroup2 none /sys/fs/cgroup")]
    NotMounted,
    /// There is no cgroup with that path.
    #[error(
        "there is no cgroup `{}`; give its path as in the `0::` line of /proc/PID/cgroup, or that of \
         its directory below {}", path.display(), mount.display()
    )]
    NotFound {
        /// The path that was given.
        path: PathBuf,
        /// The mount point of cgroup2.
        mount: PathBuf,
    },
    /// It cannot be accessed.
    #[error("cannot access the cgroup {}: {source}", path.display())]
    Unreadable {
        /// Its directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The path of a cgroup of another host, from that path itself or from the usual path of its directory.
///
/// *Errors:* it is no absolute path. Whether there ever was such a cgroup is not known.
pub fn path_elsewhere(path: &Path) -> Result<String, CgroupError> {
    let usual = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(|point| Mount {
        point: point.into(),
        root: "/".into(),
    });
    let here = Mount::find().ok();
    let mut mounts = here.iter().chain(&usual);
    let mount = mounts.find(|mount| path.starts_with(&mount.point));
    let other = here.as_ref().unwrap_or(&usual[0]);
    let path = mount.unwrap_or(other).normalize(path)?;
    Ok(String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned())
}

/// The mount point of cgroup2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The directory.
    point: PathBuf,
    /// The cgroup that is seen there: `/`, unless only a part of the hierarchy is mounted.
    root: PathBuf,
}

impl Mount {
    /// Finds it; a mount of the whole hierarchy is preferred.
    ///
    /// *Errors:* there is none.
    pub fn find() -> Result<Self, CgroupError> {
        /// *Source:* `kernfs_create_root` in `fs/kernfs/dir.c`.
        const INODE_OF_ROOT: u64 = 1;
        let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
        let is_whole = |point: &Path| {
            fs::metadata(point).is_ok_and(|metadata| metadata.st_ino() == INODE_OF_ROOT)
        };
        Self::parse(&table, is_whole).ok_or(CgroupError::NotMounted)
    }

    /// *Source:* `proc_pid_mountinfo(5)`: the fourth field is the root, the fifth the mount point, and
    /// behind `-` stands the type. Within a cgroup namespace the root is relative to that of the namespace: that of the whole
    /// hierarchy is `/../..` there.
    fn parse(table: &[u8], is_whole: impl Fn(&Path) -> bool) -> Option<Self> {
        let mounts = table.split(|&byte| byte == b'\n').filter_map(|line| {
            let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
            let separator = fields.iter().position(|&field| field == b"-")?;
            let kind = *fields.get(separator + 1)?;
            (kind == b"cgroup2").then_some(())?;
            let (root, point) = (unescape(fields.get(3)?), unescape(fields.get(4)?));
            let is_whole = is_whole(&point);
            let root = if is_whole { "/".into() } else { root };
            Some((is_whole, Self { point, root }))
        });
        // Later ones hide earlier ones.
        let best = mounts.max_by_key(|(is_whole, mount)| (*is_whole, mount.root == Path::new("/")));
        best.map(|(_, mount)| mount)
    }

    /// A cgroup's path from that of its directory.
    fn path_of(&self, directory: &Path) -> Option<Arc<str>> {
        let below = directory.strip_prefix(&self.point).ok()?;
        let path = self.root.join(below).into_os_string().into_vec();
        // As text for people: invalid UTF-8 is replaced.
        let path = String::from_utf8_lossy(&path);
        let trimmed = path.trim_end_matches('/');
        Some(if trimmed.is_empty() { "/" } else { trimmed }.into())
    }

    /// The path of a cgroup, from that path as `/proc/PID/cgroup` has it or from the path of its directory.
    ///
    /// *Errors:* it is no absolute path. Whether it exists is not checked.
    fn normalize(&self, path: &Path) -> Result<PathBuf, CgroupError> {
        let path = path
            .strip_prefix(&self.point)
            .map_or_else(|_| path.to_owned(), |below| self.root.join(below));
        let mut components = path.components();
        let is_plain = components.next() == Some(Component::RootDir)
            && components.all(|component| matches!(component, Component::Normal(_)));
        if !is_plain {
            return Err(self.not_found(&path));
        }
        // Without `/` at its end, or twice within.
        Ok(path.components().collect())
    }

    /// A cgroup's path and its id, from that path or from the path of its directory.
    ///
    /// *Errors:* there is no such cgroup.
    pub fn find_cgroup(&self, path: &Path) -> Result<(String, u64), CgroupError> {
        let cgroup = self.normalize(path)?;
        let below = cgroup
            .strip_prefix(&self.root)
            .map_err(|_| self.not_found(path))?;
        let directory = self.point.join(below);
        let metadata = fs::metadata(&directory).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => self.not_found(path),
            _ => CgroupError::Unreadable {
                path: directory.clone(),
                source,
            },
        })?;
        if !metadata.is_dir() {
            return Err(self.not_found(path));
        }
        let path = String::from_utf8_lossy(cgroup.as_os_str().as_bytes()).into_owned();
        Ok((path, metadata.st_ino()))
    }

    fn not_found(&self, path: &Path) -> CgroupError {
        CgroupError::NotFound {
            path: path.to_owned(),
            mount: self.point.clone(),
        }
    }
}

/// `\040` is a space: what would end a field is written in octal.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = (first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(first));
        let digits = if octal.is_some() { 3 } else { 0 };
        rest = after.get(digits..).unwrap_or(&[]);
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

/// Names that are kept at most.
const MAX_NAMES: usize = 1 << 16;
/// Directories that a walk visits at most.
const MAX_WALK: usize = 1 << 16;
/// Time for which the result of a walk is valid.
const WALK_AGAIN: Duration = Duration::from_secs(1);
/// Part of the time that walks take at most, as a divisor.
const WALK_SHARE: u32 = 50;
/// Time after which the name of a pod is looked for again.
const NAME_AGAIN: Duration = Duration::from_secs(1);

/// The names of this host's cgroups.
#[derive(Debug)]
pub struct Cgroups {
    mount: Mount,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// `None`: there is no such cgroup any more, and an id is not used again.
    paths: HashMap<u64, Option<Arc<str>>>,
    /// Those that were asked for.
    cgroups: HashMap<u64, Asked>,
    workloads: Workloads,
    /// The mount, for opening by id, until that turns out not to be allowed.
    by_handle: Option<File>,
    /// The time of the next walk.
    walk_at: Instant,
}

#[derive(Debug)]
struct Asked {
    cgroup: Arc<Cgroup>,
    /// When the name of its pod was looked for in vain.
    missed: Option<Instant>,
}

impl Asked {
    fn new(cgroup: Cgroup) -> Self {
        Self {
            missed: cgroup.lacks_pod().then(Instant::now),
            cgroup: Arc::new(cgroup),
        }
    }

    /// Looks for the name of a pod again.
    fn complete(&mut self, workloads: &mut Workloads) {
        if self.missed.is_some_and(|at| at.elapsed() >= NAME_AGAIN) {
            let pod = workloads.pod(&self.cgroup);
            *self = Self::new((*self.cgroup).clone().with_pod(pod));
        }
    }
}

impl Cgroups {
    /// Of this host.
    ///
    /// *Errors:* cgroup2 is not mounted: there are no names.
    pub fn of_host() -> Result<Self, CgroupError> {
        Mount::find().map(Self::below)
    }

    fn below(mount: Mount) -> Self {
        let by_handle = File::open(&mount.point).ok();
        Self {
            mount,
            known: Mutex::new(Known {
                paths: HashMap::new(),
                cgroups: HashMap::new(),
                workloads: Workloads::of_host(),
                by_handle,
                walk_at: Instant::now(),
            }),
        }
    }

    /// Whether ids are looked up by opening them, not by walking.
    #[cfg(test)]
    fn walking(self) -> Self {
        if let Ok(mut known) = self.known.lock() {
            known.by_handle = None;
        }
        self
    }

    fn look_up(&self, known: &mut Known, id: u64) -> Option<Arc<str>> {
        if let Some(root) = &known.by_handle {
            match open_by_id(root, id) {
                Ok(directory) => {
                    let path = self.path_of(&directory, id);
                    known.keep(id, path.clone());
                    return path;
                }
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {
                    known.keep(id, None);
                    return None;
                }
                // Not permitted, or not supported by this kernel.
                Err(_) => known.by_handle = None,
            }
        }
        let begin = Instant::now();
        if begin >= known.walk_at {
            let found = self.walk();
            // Those that have been removed keep their names while there is room.
            if known.paths.len() + found.len() > MAX_NAMES {
                known.paths = found;
            } else {
                known.paths.extend(found);
            }
            known.walk_at = next_walk(begin, begin.elapsed());
        }
        known.paths.get(&id).cloned().flatten()
    }

    /// The path of an open directory, if it still has the one that the kernel knew it by.
    fn path_of(&self, directory: &OwnedFd, id: u64) -> Option<Arc<str>> {
        let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let path = fs::read_link(link).ok()?;
        let is_it = fs::metadata(&path).is_ok_and(|metadata| metadata.st_ino() == id);
        if is_it {
            self.mount.path_of(&path)
        } else {
            None
        }
    }

    /// The paths of all cgroups there are, or of very many.
    fn walk(&self) -> HashMap<u64, Option<Arc<str>>> {
        let mut paths = HashMap::new();
        let mut to_do = vec![self.mount.point.clone()];
        let mut left = MAX_WALK;
        while let Some(directory) = to_do.pop().filter(|_| left > 0) {
            left -= 1;
            // A directory that has since gone, or that we may not read, has no name.
            let Ok(metadata) = fs::metadata(&directory) else {
                continue;
            };
            paths.insert(metadata.st_ino(), self.mount.path_of(&directory));
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            to_do.extend(
                entries
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
        paths
    }
}

/// The time of the walk after one that began at `begin` and took this time.
fn next_walk(begin: Instant, took: Duration) -> Instant {
    begin + took + WALK_AGAIN.max(took * (WALK_SHARE - 1))
}

impl Known {
    /// Keeps the path of a cgroup that was looked up by itself.
    fn keep(&mut self, id: u64, path: Option<Arc<str>>) {
        if self.paths.len() >= MAX_NAMES {
            // After years of containers; existing cgroups will be found again.
            self.paths.clear();
        }
        self.paths.insert(id, path);
    }
}

impl Naming for Cgroups {
    fn cgroup(&self, id: u64) -> Option<Arc<Cgroup>> {
        // A panic elsewhere leaves the names as they were.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = &mut *known;
        if let Some(asked) = known.cgroups.get_mut(&id) {
            asked.complete(&mut known.workloads);
            return Some(asked.cgroup.clone());
        }
        let path = match known.paths.get(&id) {
            Some(path) => path.clone(),
            None => self.look_up(known, id),
        };
        let cgroup = known.workloads.name(Cgroup::of(&*path?));
        if known.cgroups.len() >= MAX_NAMES {
            known.cgroups.clear();
        }
        let asked = known.cgroups.entry(id).or_insert(Asked::new(cgroup));
        Some(asked.cgroup.clone())
    }
}

/// Opens the directory of a cgroup, which takes `CAP_DAC_READ_SEARCH`.
fn open_by_id(root: &File, id: u64) -> io::Result<OwnedFd> {
    /// `struct file_handle` with room for a kernfs id.
    ///
    /// *Source:* `FILEID_KERNFS` in `include/linux/exportfs.h`, `kernfs_fh_to_dentry` in
    /// `fs/kernfs/mount.c`.
    ///
    /// *Since:* Linux 5.5.
    #[repr(C)]
    struct Handle {
        bytes: libc::c_uint,
        kind: libc::c_int,
        // Not u64: nothing may lie between it and `kind`, on any machine.
        id: [u8; 8],
    }
    const FILEID_KERNFS: libc::c_int = 0xfe;
    let mut handle = Handle {
        bytes: 8,
        kind: FILEID_KERNFS,
        id: id.to_ne_bytes(),
    };
    // SAFETY: the kernel reads a `struct file_handle` of 8 bytes' length, which `handle` is, during the
    // call only; `root` is open.
    let fd = unsafe {
        libc::open_by_handle_at(
            root.as_raw_fd(),
            (&raw mut handle).cast(),
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned the descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw
50 31 0:38 /kube/pod\\0401 /mnt/a\\040b rw - cgroup2 none rw
";

    fn parse(table: &[u8]) -> Option<Mount> {
        Mount::parse(table, |_| false)
    }

    fn mount() -> Mount {
        parse(TABLE).unwrap()
    }

    #[test]
    fn the_mount_of_the_whole_hierarchy_is_taken() {
        assert_eq!(mount().point, Path::new("/sys/fs/cgroup/unified"));
        let part = TABLE.split(|&byte| byte == b'\n').nth(3).unwrap();
        let part = parse(part).unwrap();
        assert_eq!(part.point, Path::new("/mnt/a b"));
        assert_eq!(
            part.path_of(Path::new("/mnt/a b/c")).as_deref(),
            Some("/kube/pod 1/c")
        );
        assert_eq!(parse(&TABLE[..140]), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn in_a_container_the_mount_of_the_host_is_taken() {
        let table = b"\
50 31 0:38 /../.. /mnt/host rw - cgroup2 none rw
51 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup rw
";
        let mount = Mount::parse(table, |point| point == Path::new("/mnt/host")).unwrap();
        assert_eq!(
            mount.path_of(Path::new("/mnt/host/a")).as_deref(),
            Some("/a")
        );
        // Without it, paths are those of the container.
        assert_eq!(parse(table).unwrap().point, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn a_cgroup_is_found_by_both_of_its_names() {
        let normal = |path: &str| mount().normalize(Path::new(path)).ok();
        for (path, expected) in [
            ("/", "/"),
            ("/system.slice/", "/system.slice"),
            ("/sys/fs/cgroup/unified", "/"),
            ("/sys/fs/cgroup/unified/a//b", "/a/b"),
            ("/sys/fs/cgroup/unifiedly", "/sys/fs/cgroup/unifiedly"),
        ] {
            assert_eq!(normal(path), Some(PathBuf::from(expected)), "{path}");
        }
        for path in ["", "a", "../a", "/a/../b", "."] {
            assert_eq!(normal(path), None, "{path}");
        }
    }

    #[test]
    fn the_usual_mounts_are_known_for_another_host() {
        let elsewhere = |path: &str| path_elsewhere(Path::new(path)).ok();
        for path in ["/a/b/", "/sys/fs/cgroup/a/b", "/sys/fs/cgroup/unified/a/b"] {
            assert_eq!(elsewhere(path).as_deref(), Some("/a/b"), "{path}");
        }
        assert_eq!(elsewhere("a/b"), None);
    }

    #[test]
    fn paths_are_those_below_the_mount() {
        let path = |directory: &str| mount().path_of(Path::new(directory));
        assert_eq!(path("/sys/fs/cgroup/unified").as_deref(), Some("/"));
        assert_eq!(path("/sys/fs/cgroup/unified/a/b").as_deref(), Some("/a/b"));
        assert_eq!(path("/sys/fs/cgroup/systemd/a"), None);
    }

    /// Stands in for cgroup2's file system: there too a directory's id is its inode number.
    #[test]
    fn a_walk_finds_present_cgroups_and_keeps_earlier_ones() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let id = fs::metadata(&inner).unwrap().st_ino();
        let mount = Mount {
            point: folder.path().to_owned(),
            root: "/".into(),
        };
        assert_eq!(mount.find_cgroup(&inner).unwrap(), ("/a/b".to_owned(), id));
        assert_eq!(
            mount.find_cgroup(Path::new("/a/b")).unwrap(),
            ("/a/b".to_owned(), id)
        );
        let error = mount.find_cgroup(Path::new("/a/c")).unwrap_err();
        assert!(matches!(error, CgroupError::NotFound { .. }), "{error}");
        let cgroups = Cgroups::below(mount).walking();
        assert_eq!(cgroups.cgroup(id).as_deref(), Some(&Cgroup::of("/a/b")));
        assert_eq!(cgroups.cgroup(u64::MAX), None);
        fs::remove_dir(&inner).unwrap();
        assert_eq!(cgroups.cgroup(id).as_deref(), Some(&Cgroup::of("/a/b")));
    }

    #[test]
    fn a_walk_that_takes_long_is_repeated_seldom() {
        let begin = Instant::now();
        let next = |took| next_walk(begin, Duration::from_millis(took)) - begin;
        assert_eq!(next(1), Duration::from_millis(1_001));
        assert_eq!(next(20), Duration::from_millis(1_020));
        assert_eq!(next(2_000), Duration::from_secs(100));
    }

    /// On any file system, an id never yields the path of something else.
    #[test]
    fn a_walk_replaces_opening_by_id() {
        let folder = tempfile::tempdir().unwrap();
        let id = fs::metadata(folder.path()).unwrap().st_ino();
        let cgroups = Cgroups::below(Mount {
            point: folder.path().to_owned(),
            root: "/".into(),
        });
        let found = cgroups.cgroup(id);
        assert!(
            found.is_none() || found.as_deref() == Some(&Cgroup::of("/")),
            "{found:?}"
        );
    }
}
