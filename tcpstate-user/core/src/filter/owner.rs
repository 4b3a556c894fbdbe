//! The filter on owners: it decides on a connection as a whole, not on one event.
//!
//! A server's connection belongs to its listener's process, which no event by itself shows. The caller
//! must have followed the connection from its beginning (the driver does). An unknown value matches
//! nothing: a filter shows what certainly matches.

use std::{fmt, sync::Arc};

use hashbrown::HashMap;

use crate::{
    escape::Printable,
    names::Names,
    owner::{Comm, Holder, Owner},
    service::Role,
};

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

impl OwnerFilter {
    /// Whether every connection matches.
    pub fn wants_all(&self) -> bool {
        *self == Self::default()
    }

    /// The filter applied to a source whose cgroups have these names.
    pub fn with(self, names: Names) -> OwnerMatcher {
        OwnerMatcher {
            filter: self,
            names,
            known: HashMap::new(),
        }
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

/// The most cgroups whose decision is remembered.
const MAX_KNOWN: usize = 1 << 16;

/// An [`OwnerFilter`] applied to a source.
#[derive(Debug)]
pub struct OwnerMatcher {
    filter: OwnerFilter,
    names: Names,
    /// Whether a cgroup is in the tree.
    known: HashMap<u64, bool>,
}

impl OwnerMatcher {
    /// Whether a connection matches, by its role and owner, or another process that has to do with it, and by
    /// the user and the cgroup that its socket belongs to.
    pub fn matches(
        &mut self,
        role: Role,
        owner: &Owner,
        holders: &[Holder],
        uid: Option<u32>,
        cgroup: Option<u64>,
    ) -> bool {
        let filter = &self.filter;
        filter.role.is_none_or(|wanted| wanted == role)
            && among(&filter.uids, uid)
            && (self.is_process(owner.pid, owner.comm)
                || holders
                    .iter()
                    .any(|holder| self.is_process(Some(holder.pid), holder.comm)))
            && self.is_in_tree(cgroup)
    }

    /// Whether a process is a selected one.
    fn is_process(&self, pid: Option<u32>, comm: Option<Comm>) -> bool {
        among(&self.filter.pids, pid) && among(&self.filter.comms, comm)
    }

    fn is_in_tree(&mut self, cgroup: Option<u64>) -> bool {
        let Some(tree) = &self.filter.cgroup else {
            return true;
        };
        let Some(id) = cgroup else { return false };
        if tree.id == Some(id) {
            return true;
        }
        if let Some(&known) = self.known.get(&id) {
            return known;
        }
        // A cgroup without a name is in no tree that has one.
        let Some(path) = self.names.cgroup(cgroup) else {
            return false;
        };
        let is_in = is_below(&path, &tree.path);
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(id, is_in);
        is_in
    }
}

/// Whether what was found is wanted; nothing wanted is anything.
fn among<T: PartialEq>(wanted: &[T], found: Option<T>) -> bool {
    wanted.is_empty() || found.is_some_and(|found| wanted.contains(&found))
}

/// Whether a path is that of this cgroup, or below it.
fn is_below(path: &Arc<str>, tree: &str) -> bool {
    let tree = tree.trim_end_matches('/');
    path.strip_prefix(tree)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{names::NameBook, owner::How};

    fn comm(name: &str) -> Comm {
        let mut comm = Comm::default();
        comm.0[..name.len()].copy_from_slice(name.as_bytes());
        comm
    }

    fn owner(pid: u32, name: &str) -> Owner {
        Owner {
            pid: Some(pid),
            comm: Some(comm(name)),
            how: How::Listener,
        }
    }

    fn names() -> Names {
        let book = NameBook::default();
        book.add_cgroups([
            (1, "/"),
            (2, "/system.slice"),
            (3, "/system.slice/web.service"),
            (4, "/system.slices"),
        ]);
        Names::new(Arc::new(book))
    }

    #[test]
    fn an_unknown_owner_matches_no_filter_but_the_empty_one() {
        let unknown = |filter: OwnerFilter| {
            let mut matcher = filter.with(names());
            matcher.matches(Role::Unknown, &Owner::UNKNOWN, &[], None, None)
        };
        let all = OwnerFilter::default;
        assert!(all().wants_all() && unknown(all()));
        let tree = CgroupTree {
            path: "/".into(),
            id: Some(1),
        };
        for filter in [
            OwnerFilter {
                pids: vec![1],
                ..all()
            },
            OwnerFilter {
                comms: vec![comm("a")],
                ..all()
            },
            OwnerFilter {
                uids: vec![0],
                ..all()
            },
            OwnerFilter {
                cgroup: Some(tree),
                ..all()
            },
            OwnerFilter {
                role: Some(Role::Server),
                ..all()
            },
        ] {
            assert!(!filter.wants_all() && !unknown(filter.clone()), "{filter}");
        }
    }

    #[test]
    fn each_part_must_match_by_one_item_of_its_list() {
        let filter = OwnerFilter {
            pids: vec![7, 8],
            comms: vec![comm("nginx"), comm("php")],
            uids: vec![33],
            cgroup: None,
            role: Some(Role::Server),
        };
        assert_eq!(
            filter.to_string(),
            "--pid 7,8 --comm nginx,php --uid 33 --role server"
        );
        let mut matcher = filter.with(Names::default());
        let mut wants =
            |role, pid, name, uid| matcher.matches(role, &owner(pid, name), &[], Some(uid), None);
        assert!(wants(Role::Server, 7, "nginx", 33));
        assert!(wants(Role::Server, 8, "php", 33));
        assert!(!wants(Role::Client, 7, "nginx", 33));
        assert!(!wants(Role::Server, 9, "nginx", 33));
        // Exactly that name.
        assert!(!wants(Role::Server, 7, "nginx2", 33));
        assert!(!wants(Role::Server, 7, "ngin", 33));
        assert!(!wants(Role::Server, 7, "nginx", 0));
    }

    #[test]
    fn any_process_that_has_to_do_with_the_socket_matches_as_one() {
        let holder = |pid, name| Holder {
            pid,
            comm: Some(comm(name)),
            opened: false,
            holds: true,
            closed: false,
        };
        let holders = [holder(7, "nginx"), holder(8, "php")];
        let matches = |pids: &[u32], comms: &[&str]| {
            let filter = OwnerFilter {
                pids: pids.into(),
                comms: comms.iter().map(|&name| comm(name)).collect(),
                ..OwnerFilter::default()
            };
            let owner = owner(6, "init");
            filter
                .with(Names::default())
                .matches(Role::Server, &owner, &holders, None, None)
        };
        for pid in [6, 7, 8] {
            assert!(matches(&[pid], &[]));
        }
        assert!(!matches(&[9], &[]));
        assert!(matches(&[], &["php"]) && matches(&[8], &["php"]));
        // Not the number of one process and the name of another.
        assert!(!matches(&[7], &["php"]));
    }

    #[test]
    fn a_tree_is_a_cgroup_and_those_below_it() {
        let found = |path: &str, id| {
            let cgroup = Some(CgroupTree {
                path: path.into(),
                id,
            });
            let filter = OwnerFilter {
                cgroup,
                ..OwnerFilter::default()
            };
            let mut matcher = filter.with(names());
            // Twice: from the name, and from memory.
            let mut wants = |id| {
                let first = matcher.matches(Role::Client, &Owner::UNKNOWN, &[], None, Some(id));
                let second = matcher.matches(Role::Client, &Owner::UNKNOWN, &[], None, Some(id));
                assert_eq!(first, second);
                first
            };
            (1..=5).filter(|&id| wants(id)).collect::<Vec<u64>>()
        };
        assert_eq!(found("/system.slice", None), [2, 3]);
        assert_eq!(found("/system.slice/", None), [2, 3]);
        assert_eq!(found("/", None), [1, 2, 3, 4]);
        assert_eq!(found("/system.slice/web.service", None), [3]);
        // A cgroup without a name matches by its id.
        assert_eq!(found("/gone", Some(5)), [5]);
    }
}
