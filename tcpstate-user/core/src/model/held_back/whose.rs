//! The facts that many connections have in common: whose they are. Each set of facts is kept once, as long as a
//! connection has it.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;

use crate::{
    model::connection::Connection,
    owner::{Holders, Owner},
};

/// The facts about a connection that are the same for many others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Whose {
    pub(super) netns: Option<u32>,
    pub(super) owner: Owner,
    pub(super) processes: Option<Holders>,
    pub(super) uid: Option<u32>,
    pub(super) cgroup: Option<u64>,
}

impl Whose {
    pub(super) fn of(connection: &Connection) -> Self {
        Self {
            netns: connection.netns,
            owner: connection.owner,
            processes: connection.processes.clone(),
            uid: connection.uid,
            cgroup: connection.cgroup,
        }
    }
}

/// All sets of facts, by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    all: Vec<Counted>,
    /// The numbers that are not in use.
    free: Vec<u32>,
    /// The numbers in use. Hashed with a random key: names of processes are among the facts.
    index: HashTable<u32>,
    hasher: RandomState,
}

/// A set of facts, and the number of connections that have it.
#[derive(Clone, Debug)]
struct Counted {
    whose: Whose,
    connections: u32,
}

impl Shared {
    /// The number of these facts, for one connection more.
    pub(super) fn put(&mut self, whose: Whose) -> u32 {
        let hash = self.hasher.hash_one(&whose);
        let is_it = |&number: &u32| self.get(number) == Some(&whose);
        if let Some(&number) = self.index.find(hash, is_it) {
            if let Some(counted) = self.all.get_mut(number as usize) {
                counted.connections += 1;
            }
            return number;
        }
        let counted = Counted {
            whose,
            connections: 1,
        };
        let number = if let Some(number) = self.free.pop() {
            if let Some(place) = self.all.get_mut(number as usize) {
                *place = counted;
            }
            number
        } else {
            self.all.push(counted);
            // There are no more of them than connections, which have numbers of 32 bits too.
            u32::try_from(self.all.len() - 1).unwrap_or(u32::MAX)
        };
        let (all, hasher) = (&self.all, &self.hasher);
        self.index.insert_unique(hash, number, |&number| {
            let counted = all.get(number as usize);
            counted.map_or(0, |counted| hasher.hash_one(&counted.whose))
        });
        number
    }

    /// The facts with this number.
    pub(super) fn get(&self, number: u32) -> Option<&Whose> {
        self.all.get(number as usize).map(|counted| &counted.whose)
    }

    /// A connection that has these facts is gone.
    pub(super) fn release(&mut self, number: u32) {
        let Some(counted) = self.all.get_mut(number as usize) else {
            return;
        };
        counted.connections = counted.connections.saturating_sub(1);
        if counted.connections > 0 {
            return;
        }
        let whose = std::mem::take(&mut counted.whose);
        let hash = self.hasher.hash_one(&whose);
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == number) {
            entry.remove();
        }
        self.free.push(number);
        if self.index.is_empty() {
            (self.all, self.free) = (Vec::new(), Vec::new());
        }
    }

    /// Bytes held.
    pub(super) fn memory(&self) -> usize {
        self.all.capacity() * size_of::<Counted>()
            + self.free.capacity() * size_of::<u32>()
            + self.index.allocation_size()
    }
}
