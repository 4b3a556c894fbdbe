//! The members of each network namespace, found by one look at all members: the censuses of a dump follow each other, one
//! for each namespace, and a host can have as many of these as sockets.

use hashbrown::HashMap;

use crate::hash::BuildMixer;

/// Members by network namespace, from one look to the next.
#[derive(Clone, Debug)]
pub(super) struct ByNetns<T> {
    /// `None`: they have been taken since the look.
    members: HashMap<u32, Option<Vec<T>>, BuildMixer>,
}

impl<T> Default for ByNetns<T> {
    fn default() -> Self {
        Self {
            members: HashMap::default(),
        }
    }
}

impl<T> ByNetns<T> {
    /// Takes the members of a namespace. Looks at all of them, of all namespaces, if there was no look yet, or if those of this
    /// one have been taken since. A member may have left since the look.
    pub(super) fn take(&mut self, netns: u32, all: impl Iterator<Item = (u32, T)>) -> Vec<T> {
        if self.members.is_empty() || self.members.get(&netns).is_some_and(Option::is_none) {
            self.members.clear();
            for (of, member) in all {
                let members = self.members.entry(of).or_insert_with(|| Some(Vec::new()));
                members.get_or_insert_default().push(member);
            }
        }
        self.members
            .insert(netns, None)
            .flatten()
            .unwrap_or_default()
    }

    /// A member of this namespace has come, of which its census told.
    pub(super) fn add(&mut self, netns: u32, member: T) {
        if self.members.is_empty() {
            return;
        }
        let members = self
            .members
            .entry(netns)
            .or_insert_with(|| Some(Vec::new()));
        if let Some(members) = members {
            members.push(member);
        }
    }

    /// A member has come, of which no census told: the next one looks again.
    #[inline]
    pub(super) fn forget(&mut self) {
        if !self.members.is_empty() {
            self.members = HashMap::default();
        }
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        let members = self.members.values().flatten();
        self.members.allocation_size()
            + members
                .map(|all| all.capacity() * size_of::<T>())
                .sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn one_look_is_enough_for_all_namespaces() {
        let looked = Cell::new(0);
        let mut by_netns = ByNetns::default();
        let take = |by_netns: &mut ByNetns<char>, netns| {
            let all = [(1, 'a'), (2, 'b'), (1, 'c')].into_iter();
            by_netns.take(netns, all.inspect(|_| looked.set(looked.get() + 1)))
        };
        assert_eq!(take(&mut by_netns, 1), ['a', 'c']);
        // One that a census of it told of.
        by_netns.add(2, 'd');
        by_netns.add(3, 'e');
        assert_eq!(take(&mut by_netns, 2), ['b', 'd']);
        assert_eq!(take(&mut by_netns, 3), ['e']);
        assert!(take(&mut by_netns, 4).is_empty());
        assert_eq!(looked.get(), 3);
        // The next dump.
        by_netns.add(1, 'f');
        assert_eq!(take(&mut by_netns, 1), ['a', 'c']);
        assert_eq!(looked.get(), 6);
        by_netns.forget();
        assert_eq!(by_netns.memory(), 0);
        by_netns.add(2, 'g');
        assert_eq!(take(&mut by_netns, 2), ['b']);
        assert_eq!(looked.get(), 9);
    }
}
