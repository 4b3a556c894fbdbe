//! The choice of network namespaces, as `--netns` states it. Nothing here knows the kernel, so that the
//! command line can name it.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

/// The network namespace of this process.
pub const SELF_PATH: &str = "/proc/self/ns/net";
/// The directory in which `ip netns` keeps its names.
pub const NAMED_PATH: &str = "/run/netns";

/// A choice of network namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetnsSelector {
    /// The one of this process: `self`.
    #[default]
    Own,
    /// All that can be found: `all`.
    All,
    /// The one behind a file: a path, or a name of `ip netns`.
    File(PathBuf),
    /// The one with this inode number.
    Inode(u32),
}

impl FromStr for NetnsSelector {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "self" => Self::Own,
            "all" => Self::All,
            path if path.contains('/') => Self::File(path.into()),
            text => text.parse().map_or_else(
                |_| Self::File(Path::new(NAMED_PATH).join(text)),
                Self::Inode,
            ),
        })
    }
}

/// Puts what is known of some namespaces in order: the first, our own, stays, the others follow by their inode numbers.
pub fn sort<T>(all: &mut [T], netns: impl Fn(&T) -> u32) {
    if let Some((_, others)) = all.split_first_mut() {
        others.sort_by_key(netns);
    }
}

/// What is known of a namespace, in a slice with the order of [`sort`]: a host can have as many of them as sockets.
pub fn find<T>(all: &[T], wanted: u32, netns: impl Fn(&T) -> u32) -> Option<&T> {
    let (first, others) = all.split_first()?;
    if netns(first) == wanted {
        return Some(first);
    }
    let at = others.binary_search_by_key(&wanted, netns).ok()?;
    others.get(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_namespace_stays_and_all_are_found() {
        let mut all = [(5, 'a'), (9, 'b'), (1, 'c'), (7, 'd')];
        sort(&mut all, |one| one.0);
        assert_eq!(all.map(|one| one.0), [5, 1, 7, 9]);
        for one in &all {
            assert_eq!(find(&all, one.0, |one| one.0), Some(one));
        }
        for missing in [0, 2, 6, 8, 10] {
            assert_eq!(find(&all, missing, |one| one.0), None);
        }
        let mut none: [(u32, char); 0] = [];
        sort(&mut none, |one| one.0);
        assert_eq!(find(&none, 0, |one| one.0), None);
    }

    #[test]
    fn a_selector_is_a_keyword_an_inode_a_name_or_a_path() {
        for (text, selector) in [
            ("self", NetnsSelector::Own),
            ("all", NetnsSelector::All),
            ("4026531840", NetnsSelector::Inode(4_026_531_840)),
            ("blue", NetnsSelector::File("/run/netns/blue".into())),
            (
                "/proc/1/ns/net",
                NetnsSelector::File("/proc/1/ns/net".into()),
            ),
            ("./self", NetnsSelector::File("./self".into())),
            // More than an inode number can be.
            (
                "99999999999",
                NetnsSelector::File("/run/netns/99999999999".into()),
            ),
        ] {
            assert_eq!(text.parse(), Ok(selector), "{text}");
        }
    }
}
