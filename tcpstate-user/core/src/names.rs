//! The names of the numbers in events. The kernel identifies a cgroup by a number; people know it by its
//! path, or by the unit, the container or the pod that it is of.
//!
//! A view looks names up when it prints, not for each event. It does not know whether they come from this
//! host or from a recording.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use hashbrown::HashMap;

use crate::workload::Workload;

/// Bytes of the name of a container or a pod, at most. In Kubernetes a namespace has up to 63, a pod up to 253.
pub const MAX_NAME_BYTES: usize = 512;

/// The names of a cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    path: Box<str>,
    unit: Option<Box<str>>,
    container: Option<Box<str>>,
    container_name: Option<Box<str>>,
    pod_uid: Option<Box<str>>,
    pod: Option<Pod>,
}

/// The name of a Kubernetes pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `namespace/name`.
    text: Box<str>,
    /// Bytes of the namespace.
    namespace: usize,
}

impl Pod {
    /// From the names of the namespace and of the pod in it.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            text: format!("{namespace}/{name}").into(),
            namespace: namespace.len(),
        }
    }

    /// From `namespace/name`; `None` without the `/`.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        Some(Self::new(namespace, name))
    }

    /// `namespace/name`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.text.get(..self.namespace).unwrap_or_default()
    }

    /// The name in the namespace.
    pub fn name(&self) -> &str {
        self.text.get(self.namespace + 1..).unwrap_or_default()
    }
}

impl Cgroup {
    /// The names that the path tells.
    pub fn of(path: impl Into<Box<str>>) -> Self {
        let path = path.into();
        let Workload {
            unit,
            container,
            pod_uid,
        } = Workload::of(&path);
        Self {
            unit: unit.map(Into::into),
            container: container.map(Into::into),
            pod_uid: pod_uid.map(Into::into),
            path,
            container_name: None,
            pod: None,
        }
    }

    /// Adds the name of its container; none of more than [`MAX_NAME_BYTES`].
    #[must_use]
    pub fn with_container_name(self, name: Option<Box<str>>) -> Self {
        Self {
            container_name: name.filter(|name| name.len() <= MAX_NAME_BYTES),
            ..self
        }
    }

    /// Adds the name of its pod; none of more than [`MAX_NAME_BYTES`].
    #[must_use]
    pub fn with_pod(self, pod: Option<Pod>) -> Self {
        Self {
            pod: pod.filter(|pod| pod.as_str().len() <= MAX_NAME_BYTES),
            ..self
        }
    }

    /// The path, as in `/proc/PID/cgroup`: `/system.slice/nginx.service`.
    pub const fn path(&self) -> &str {
        &self.path
    }

    /// The systemd unit.
    pub fn unit(&self) -> Option<&str> {
        self.unit.as_deref()
    }

    /// The container's id, 64 hexadecimal digits.
    pub fn container(&self) -> Option<&str> {
        self.container.as_deref()
    }

    /// The container's name; `None` also where it is not known.
    pub fn container_name(&self) -> Option<&str> {
        self.container_name.as_deref()
    }

    /// The UID of the Kubernetes pod.
    pub fn pod_uid(&self) -> Option<&str> {
        self.pod_uid.as_deref()
    }

    /// The pod's name; `None` also where it is not known.
    pub const fn pod(&self) -> Option<&Pod> {
        self.pod.as_ref()
    }

    /// Whether it is of a pod whose name is not known.
    pub const fn lacks_pod(&self) -> bool {
        self.pod_uid.is_some() && self.pod.is_none()
    }

    /// The container for people: its name, or the first 12 digits of its id, as `docker ps` shows them.
    pub fn container_for_people(&self) -> Option<&str> {
        const DIGITS: usize = 12;
        let id = self.container.as_deref();
        let short = id.map(|id| id.get(..DIGITS).unwrap_or(id));
        self.container_name.as_deref().or(short)
    }

    /// The pod for people: `namespace/name`, or its UID.
    pub fn pod_for_people(&self) -> Option<&str> {
        let name = self.pod.as_ref().map(Pod::as_str);
        name.or(self.pod_uid.as_deref())
    }

    /// Bytes of its names.
    pub fn bytes(&self) -> usize {
        let pod = self.pod.as_ref().map(Pod::as_str);
        let names = [
            self.unit(),
            self.container(),
            self.container_name(),
            self.pod_uid(),
            pod,
        ];
        self.path.len() + names.into_iter().flatten().map(str::len).sum::<usize>()
    }
}

/// A lookup of the names of the numbers in a stream's events.
pub trait Naming: Send + Sync {
    /// The names of the cgroup with this id.
    fn cgroup(&self, id: u64) -> Option<Arc<Cgroup>>;
}

/// A handle to the names of the numbers in a source's events, cheap to clone. The default knows none.
#[derive(Clone, Default)]
pub struct Names(Option<Arc<dyn Naming>>);

impl Names {
    /// The names that this lookup finds.
    pub fn new(naming: Arc<dyn Naming>) -> Self {
        Self(Some(naming))
    }

    /// The names of a cgroup; `None` where its path is not known.
    pub fn cgroup(&self, id: Option<u64>) -> Option<Arc<Cgroup>> {
        self.0.as_ref()?.cgroup(id?)
    }

    /// Whether no name is known here.
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "no names" } else { "names" })
    }
}

/// Asks for the name of each event's cgroup when the event comes: at the end of an interval the cgroup may be gone.
#[derive(Debug, Default)]
pub struct Early {
    last: Option<u64>,
}

impl Early {
    /// Asks for the name of this cgroup, unless the event before was in it.
    #[inline]
    pub fn look_up(&mut self, cgroup: Option<u64>, names: &Names) {
        if cgroup != self.last {
            self.last = cgroup;
            names.cgroup(cgroup);
        }
    }
}

/// Names that were recorded.
#[derive(Debug, Default)]
pub struct NameBook(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    cgroups: HashMap<u64, Arc<Cgroup>>,
    bytes: usize,
    left_out: u64,
}

/// Bytes of names that a [`NameBook`] takes; later ones are left out.
const MAX_BYTES: usize = 64 << 20;
/// Bytes of a cgroup beside its names, roughly.
const ENTRY_BYTES: usize = 64 + size_of::<Cgroup>();

impl NameBook {
    /// Adds these cgroups. A cgroup that had names gets the new ones.
    pub fn add_cgroups(&self, cgroups: impl IntoIterator<Item = (u64, Arc<Cgroup>)>) {
        // No holder of the lock can leave the book half written.
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, cgroup) in cgroups {
            let bytes = book.bytes + cgroup.bytes() + ENTRY_BYTES;
            if bytes > MAX_BYTES {
                book.left_out = book.left_out.saturating_add(1);
                continue;
            }
            book.bytes = bytes;
            if let Some(before) = book.cgroups.insert(id, cgroup) {
                book.bytes -= before.bytes() + ENTRY_BYTES;
            }
        }
    }

    /// Adds the cgroups with these paths.
    pub fn add_paths<T: Into<Box<str>>>(&self, paths: impl IntoIterator<Item = (u64, T)>) {
        let paths = paths.into_iter();
        self.add_cgroups(paths.map(|(id, path)| (id, Arc::new(Cgroup::of(path)))));
    }

    /// The cgroups that it had no room for.
    pub fn left_out(&self) -> u64 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .left_out
    }
}

impl Naming for NameBook {
    fn cgroup(&self, id: u64) -> Option<Arc<Cgroup>> {
        let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.cgroups.get(&id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_name_of_a_cgroup_counts() {
        let book = Arc::new(NameBook::default());
        book.add_paths([(1, "/"), (7, "/old")]);
        book.add_paths([(7, "/new")]);
        let names = Names::new(book);
        let path = |names: &Names, id| names.cgroup(id).map(|cgroup| cgroup.path().to_owned());
        assert_eq!(path(&names, Some(7)).as_deref(), Some("/new"));
        assert_eq!(path(&names, Some(1)).as_deref(), Some("/"));
        assert_eq!((names.cgroup(Some(2)), names.cgroup(None)), (None, None));
        assert_eq!(Names::default().cgroup(Some(7)), None);
    }

    #[test]
    fn a_book_is_bounded() {
        let book = NameBook::default();
        let long = "x".repeat(1 << 20);
        book.add_paths((0..100).map(|id| (id, long.as_str())));
        assert!(book.cgroup(0).is_some() && book.cgroup(99).is_none());
        assert_eq!(
            book.left_out(),
            100 - book.0.lock().unwrap().cgroups.len() as u64
        );
        // The same again takes no more.
        book.add_paths((0..30).map(|id| (id, long.as_str())));
        assert!(book.0.lock().unwrap().bytes <= MAX_BYTES);
    }

    #[test]
    fn people_see_names_or_what_stands_for_them() {
        let id = "34dc0b5e626f2c5c4c5170e34b10e7654ce36f0fcd532739f4445baabea03376";
        let uid = "74c13223-5a00-11e9-b385-42010a80018d";
        let cgroup = Cgroup::of(format!("/kubepods/pod{uid}/{id}"));
        assert!(cgroup.lacks_pod());
        let shown = |cgroup: &Cgroup| {
            let both = [cgroup.container_for_people(), cgroup.pod_for_people()];
            both.map(|one| one.map(str::to_owned))
        };
        assert_eq!(
            shown(&cgroup),
            [Some("34dc0b5e626f".into()), Some(uid.into())]
        );
        let cgroup = cgroup
            .with_container_name(Some("web-1".into()))
            .with_pod(Pod::parse("shop/web-x2x9z"));
        assert!(!cgroup.lacks_pod());
        assert_eq!(
            shown(&cgroup),
            [Some("web-1".into()), Some("shop/web-x2x9z".into())]
        );
        let pod = cgroup.pod().unwrap();
        assert_eq!((pod.namespace(), pod.name()), ("shop", "web-x2x9z"));
        assert_eq!(Pod::parse("web"), None);
        assert_eq!(shown(&Cgroup::of("/")), [None, None]);
    }
}
