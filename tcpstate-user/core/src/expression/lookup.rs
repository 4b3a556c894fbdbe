//! The numbers behind the names in an expression.

use crate::filter::CgroupTree;

/// Finds the numbers of names. An error is a whole message.
pub trait Lookup {
    /// The TCP port of a service, as in `/etc/services`.
    fn service(&self, name: &str) -> Option<u16>;
    /// The number of a user.
    fn user(&self, name: &str) -> Result<u32, String>;
    /// The inode number of a network namespace.
    fn netns(&self, name: &str) -> Result<u32, String>;
    /// A cgroup, by its path as in `/proc/PID/cgroup`, or by its directory.
    fn cgroup(&self, path: &str) -> Result<CgroupTree, String>;
}

/// Knows no names, only numbers: for expressions that are not about this host.
#[derive(Clone, Copy, Debug)]
pub struct NoNames;

impl Lookup for NoNames {
    fn service(&self, _name: &str) -> Option<u16> {
        None
    }

    fn user(&self, name: &str) -> Result<u32, String> {
        parsed(name)
    }

    fn netns(&self, name: &str) -> Result<u32, String> {
        parsed(name)
    }

    fn cgroup(&self, path: &str) -> Result<CgroupTree, String> {
        Ok(CgroupTree {
            path: path.to_owned(),
            id: None,
        })
    }
}

fn parsed(name: &str) -> Result<u32, String> {
    name.parse().map_err(|_| format!("`{name}` is no number"))
}
