//! What figures are grouped by: service ports, roles, commands, cgroups. Bounded: what comes after
//! the bound is counted under `other`.

#![expect(
    clippy::indexing_slicing,
    reason = "by port, in tables of 65,536, and by numbers that this gave out itself"
)]

use std::hash::{Hash, RandomState};

use hashbrown::HashMap;

use super::Limits;
use crate::{
    owner::Comm,
    service::{Role, ServicePort},
};

/// What rates are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum By {
    /// Service port and role.
    #[default]
    Port,
    /// Role.
    Role,
    /// The owner's name.
    Comm,
    /// The socket's cgroup.
    Cgroup,
}

/// One group, see [`By`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupKey {
    /// [`By::Port`].
    Port(ServicePort, Role),
    /// [`By::Role`].
    Role(Role),
    /// [`By::Comm`]; `None` where the owner is not known.
    Comm(Option<Comm>),
    /// [`By::Cgroup`], by its id; `None` where it is not known.
    Cgroup(Option<u64>),
    /// What came after the bound, of [`By::Comm`] and [`By::Cgroup`].
    Other,
}

/// Keys by number: the numbers of the groups are small and never change, so that figures are kept
/// in arrays and a connection carries its groups in two bytes each.
#[derive(Debug)]
pub(super) struct Registry<K> {
    keys: Vec<K>,
    /// Hashed with a key of its own: [`GroupKey::Comm`] is text that a process chooses.
    ids: HashMap<K, u16, RandomState>,
    max: usize,
}

/// Numbers that a [`Registry`] leaves below the top of `u16`.
const MAX_IDS: usize = 1 << 15;

impl<K: Copy + Eq + Hash> Registry<K> {
    /// With these keys, which do not count against `max`.
    fn new(reserved: &[K], max: usize) -> Self {
        let mut registry = Self {
            keys: Vec::new(),
            ids: HashMap::default(),
            max: max.min(MAX_IDS) + reserved.len(),
        };
        for &key in reserved {
            registry.insert(key);
        }
        registry
    }

    fn insert(&mut self, key: K) -> u16 {
        // At most MAX_IDS and a few reserved ones are ever inserted.
        let id = u16::try_from(self.keys.len()).unwrap_or(u16::MAX);
        self.keys.push(key);
        self.ids.insert(key, id);
        id
    }

    /// The number of this key, new or not; `None` when it is new and the bound is reached.
    fn get_or_insert(&mut self, key: K) -> Option<u16> {
        if let Some(&id) = self.ids.get(&key) {
            return Some(id);
        }
        (self.keys.len() < self.max).then(|| self.insert(key))
    }

    fn memory(&self) -> usize {
        self.keys.capacity() * size_of::<K>() + self.ids.allocation_size()
    }
}

/// Service ports with roles, numbered.
#[derive(Debug)]
pub(super) struct Services {
    keys: Vec<(ServicePort, Role)>,
    /// The numbers of a client's and a server's ports, by port; 0 is none. What is never looked at
    /// of these is not resident.
    client: Vec<u16>,
    server: Vec<u16>,
    /// How many ports have a number.
    ports: usize,
    max_ports: usize,
}

impl Services {
    /// Nothing known.
    pub(super) const UNKNOWN: u16 = 0;
    /// The first number that is a port of its own.
    pub(super) const FIRST_PORT: u16 = 5;
    const RESERVED: [(ServicePort, Role); Self::FIRST_PORT as usize] = [
        (ServicePort::Unknown, Role::Unknown),
        (ServicePort::Unknown, Role::Client),
        (ServicePort::Unknown, Role::Server),
        (ServicePort::Other, Role::Client),
        (ServicePort::Other, Role::Server),
    ];

    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            keys: Self::RESERVED.to_vec(),
            client: vec![0; 1 << 16],
            server: vec![0; 1 << 16],
            ports: 0,
            // A port has at most two numbers, one for each known role.
            max_ports: limits.max_ports.min(MAX_IDS / 2),
        }
    }

    /// The number of a service port in a role.
    pub(super) fn id(&mut self, port: Option<u16>, role: Role) -> u16 {
        let (numbers, twin, unknown, other) = match role {
            Role::Unknown => return Self::UNKNOWN,
            Role::Client => (&mut self.client, &self.server, 1, 3),
            Role::Server => (&mut self.server, &self.client, 2, 4),
        };
        let Some(port) = port else { return unknown };
        let number = &mut numbers[usize::from(port)];
        if *number != 0 {
            return *number;
        }
        if twin[usize::from(port)] == 0 {
            if self.ports >= self.max_ports {
                return other;
            }
            self.ports += 1;
        }
        // Below MAX_IDS and the reserved ones.
        *number = u16::try_from(self.keys.len()).unwrap_or(other);
        self.keys.push((ServicePort::Port(port), role));
        *number
    }

    /// The number of a service as a tally has it, where the port may be one of several.
    pub(super) fn number(&mut self, port: ServicePort, role: Role) -> u16 {
        match port {
            ServicePort::Port(port) => self.id(Some(port), role),
            ServicePort::Unknown => self.id(None, role),
            ServicePort::Other => {
                let unknown = self.id(None, role);
                self.other(unknown)
            }
        }
    }

    /// Where the figures of a port go that has no room of its own.
    pub(super) fn other(&self, id: u16) -> u16 {
        match self.key(id).1 {
            Role::Unknown => Self::UNKNOWN,
            Role::Client => 3,
            Role::Server => 4,
        }
    }

    pub(super) fn key(&self, id: u16) -> (ServicePort, Role) {
        self.keys[usize::from(id)]
    }

    pub(super) fn memory(&self) -> usize {
        self.keys.capacity() * size_of::<(ServicePort, Role)>()
            + (self.client.capacity() + self.server.capacity()) * size_of::<u16>()
    }
}

/// The groups that rates are kept by, numbered. By port they are the services.
#[derive(Debug)]
pub(super) struct Groups {
    by: By,
    registry: Registry<GroupKey>,
}

/// What a connection is grouped by.
#[derive(Clone, Copy)]
pub(super) struct Traits {
    pub(super) service: u16,
    pub(super) role: Role,
    pub(super) comm: Option<Comm>,
    pub(super) cgroup: Option<u64>,
}

impl Groups {
    const OTHER: u16 = 0;

    pub(super) fn new(by: By, limits: &Limits) -> Self {
        Self {
            by,
            registry: Registry::new(&[GroupKey::Other], limits.max_ports),
        }
    }

    /// Whether a group is a service, with the same number.
    pub(super) const fn are_services(&self) -> bool {
        matches!(self.by, By::Port)
    }

    /// The number of the group with these traits.
    pub(super) fn id(&mut self, traits: Traits) -> u16 {
        let key = match self.by {
            By::Port => return traits.service,
            By::Role => GroupKey::Role(traits.role),
            By::Comm => GroupKey::Comm(traits.comm),
            By::Cgroup => GroupKey::Cgroup(traits.cgroup),
        };
        self.registry.get_or_insert(key).unwrap_or(Self::OTHER)
    }

    pub(super) fn key(&self, id: u16, services: &Services) -> GroupKey {
        match self.by {
            By::Port => {
                let (port, role) = services.key(id);
                GroupKey::Port(port, role)
            }
            By::Role | By::Comm | By::Cgroup => self.registry.keys[usize::from(id)],
        }
    }

    pub(super) fn memory(&self) -> usize {
        self.registry.memory()
    }
}
