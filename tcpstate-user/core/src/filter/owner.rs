//! The options that choose by owner. They become conditions of an expression.

use std::fmt;

use crate::{escape::Printable, owner::Comm, service::Role};

/// A filter on owners. The default matches all connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerFilter {
    /// Only what has to do with these processes; empty is any.
    pub pids: Vec<u32>,
    /// Only processes with these names; empty is any.
    pub comms: Vec<Comm>,
    /// Only these users, as of when the socket opened; empty is any.
    pub uids: Vec<u32>,
    /// Only this cgroup and those below it.
    pub cgroup: Option<CgroupTree>,
    /// Only this role.
    pub role: Option<Role>,
}

/// A cgroup and those below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupTree {
    /// Its path, as in `/proc/PID/cgroup`.
    pub path: String,
    /// Its id, where it is on this host.
    pub id: Option<u64>,
}

impl CgroupTree {
    /// Whether the cgroup with this id and path is in it; `None`: that is not known.
    pub fn has(&self, id: Option<u64>, path: Option<&str>) -> Option<bool> {
        // A cgroup that is gone has no path.
        if id.is_some() && self.id == id {
            return Some(true);
        }
        let rest = path?.strip_prefix(self.path.trim_end_matches('/'));
        Some(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    }
}

impl OwnerFilter {
    /// Whether every connection matches.
    pub fn wants_all(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for OwnerFilter {
    /// As on the command line; empty if it matches all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: ToString>(name: &str, items: impl Iterator<Item = T>) -> Option<String> {
            let items: Vec<String> = items.map(|item| item.to_string()).collect();
            (!items.is_empty()).then(|| format!("--{name} {}", items.join(",")))
        }
        let comms = self.comms.iter();
        let written = [
            list("pid", self.pids.iter()),
            list("comm", comms.map(|comm| Printable(comm.as_bytes()))),
            list("uid", self.uids.iter()),
            list("cgroup", self.cgroup.iter().map(|tree| &tree.path)),
            list("role", self.role.iter().map(|role| role.name())),
        ];
        f.write_str(&written.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_a_cgroup_and_those_below_it() {
        let paths = [
            "/",
            "/system.slice",
            "/system.slice/web.service",
            "/system.slices",
        ];
        let below = |path: &str, id| {
            let tree = CgroupTree {
                path: path.into(),
                id,
            };
            paths.map(|path| tree.has(Some(7), Some(path)) == Some(true))
        };
        assert_eq!(below("/system.slice", None), [false, true, true, false]);
        assert_eq!(below("/system.slice/", None), [false, true, true, false]);
        assert_eq!(below("/", None), [true; 4]);
        let gone = CgroupTree {
            path: "/gone".into(),
            id: Some(5),
        };
        // Without a name it is known by its id.
        assert_eq!(gone.has(Some(5), None), Some(true));
        assert_eq!(
            (gone.has(Some(6), None), gone.has(None, None)),
            (None, None)
        );
    }
}
