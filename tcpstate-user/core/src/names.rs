//! The names of the numbers in events. The kernel identifies a cgroup by a number; people know it by its
//! path.
//!
//! A view looks names up when it prints, not for each event. It does not know whether they come from this
//! host or from a recording.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use hashbrown::HashMap;

/// A lookup of the names of the numbers in a stream's events.
pub trait Naming: Send + Sync {
    /// The path of the cgroup with this id, as in `/proc/PID/cgroup`: `/system.slice/nginx.service`.
    fn cgroup(&self, id: u64) -> Option<Arc<str>>;
}

/// A handle to the names of the numbers in a source's events, cheap to clone. The default knows none.
#[derive(Clone, Default)]
pub struct Names(Option<Arc<dyn Naming>>);

impl Names {
    /// The names that this lookup finds.
    pub fn new(naming: Arc<dyn Naming>) -> Self {
        Self(Some(naming))
    }

    /// The path of a cgroup; `None` where it is not known.
    pub fn cgroup(&self, id: Option<u64>) -> Option<Arc<str>> {
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
    cgroups: HashMap<u64, Arc<str>>,
    bytes: usize,
    left_out: u64,
}

/// Bytes of names that a [`NameBook`] takes; later ones are left out.
const MAX_BYTES: usize = 64 << 20;
/// Bytes of a name beside its text, roughly.
const ENTRY_BYTES: usize = 64;

impl NameBook {
    /// Adds the paths of these cgroups. A cgroup that had a path gets the new one.
    pub fn add_cgroups<T: Into<Arc<str>>>(&self, cgroups: impl IntoIterator<Item = (u64, T)>) {
        // No holder of the lock can leave the book half written.
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, path) in cgroups {
            let path = path.into();
            let bytes = book.bytes + path.len() + ENTRY_BYTES;
            if bytes > MAX_BYTES {
                book.left_out = book.left_out.saturating_add(1);
                continue;
            }
            book.bytes = bytes;
            if let Some(before) = book.cgroups.insert(id, path) {
                book.bytes -= before.len() + ENTRY_BYTES;
            }
        }
    }

    /// The names that it had no room for.
    pub fn left_out(&self) -> u64 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .left_out
    }
}

impl Naming for NameBook {
    fn cgroup(&self, id: u64) -> Option<Arc<str>> {
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
        book.add_cgroups([(1, "/"), (7, "/old")]);
        book.add_cgroups([(7, "/new")]);
        let names = Names::new(book);
        assert_eq!(names.cgroup(Some(7)).as_deref(), Some("/new"));
        assert_eq!(names.cgroup(Some(1)).as_deref(), Some("/"));
        assert_eq!((names.cgroup(Some(2)), names.cgroup(None)), (None, None));
        assert_eq!(Names::default().cgroup(Some(7)), None);
    }

    #[test]
    fn a_book_is_bounded() {
        let book = NameBook::default();
        let long = "x".repeat(1 << 20);
        book.add_cgroups((0..100).map(|id| (id, long.as_str())));
        assert!(book.cgroup(0).is_some() && book.cgroup(99).is_none());
        assert_eq!(
            book.left_out(),
            100 - book.0.lock().unwrap().cgroups.len() as u64
        );
        // The same again takes no more.
        book.add_cgroups((0..30).map(|id| (id, long.as_str())));
        assert!(book.0.lock().unwrap().bytes <= MAX_BYTES);
    }
}
