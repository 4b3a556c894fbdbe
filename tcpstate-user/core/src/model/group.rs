//! The groups of figures: service ports, processes, cgroups, units, and so on. Bounded: groups beyond the bound are
//! counted as `other`.

#![expect(
    clippy::indexing_slicing,
    reason = "by port, in tables of 65,536, and by numbers that were given out here"
)]

use std::{
    hash::{Hash, RandomState},
    net::IpAddr,
};

use hashbrown::HashMap;

use super::{Limits, Prefix, address::from_wire, services::Services};
use crate::{
    cause::Cause,
    event::Event,
    filter::PortSet,
    hash::BuildMixer,
    names::{Cgroup, Names},
    owner::{Comm, Owner},
    service::{Role, ServicePort},
};

/// The grouping of rates and histograms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum By {
    /// Service port and role.
    #[default]
    Port,
    /// Role.
    Role,
    /// The owner's name.
    Comm,
    /// The owner.
    Pid,
    /// The socket's cgroup.
    Cgroup,
    /// The systemd unit that the cgroup is of.
    Unit,
    /// The container that the cgroup is of.
    Container,
    /// The Kubernetes pod that the cgroup is of.
    Pod,
    /// The network namespace.
    Netns,
    /// The remote address.
    Raddr,
    /// The prefix of the remote address.
    Prefix,
    /// The cause, of what ends a connection. The rest has none.
    Cause,
}

impl By {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Port,
        Self::Role,
        Self::Comm,
        Self::Pid,
        Self::Cgroup,
        Self::Unit,
        Self::Container,
        Self::Pod,
        Self::Netns,
        Self::Raddr,
        Self::Prefix,
        Self::Cause,
    ];
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
    /// [`By::Pid`], with the name; `None` where the owner is not known.
    Pid(Option<u32>, Option<Comm>),
    /// [`By::Cgroup`], by its id; `None` where it is not known.
    Cgroup(Option<u64>),
    /// [`By::Unit`], by the id of one of its cgroups; `None` where there is no unit, or none is known.
    Unit(Option<u64>),
    /// [`By::Container`], in the same way.
    Container(Option<u64>),
    /// [`By::Pod`], in the same way.
    Pod(Option<u64>),
    /// [`By::Netns`], by its inode number; `None` where it is not known.
    Netns(Option<u32>),
    /// [`By::Raddr`]; `None` where there is none, as for a listener, or where it is not known.
    Raddr(Option<IpAddr>),
    /// [`By::Prefix`]; `None` where there is no remote address, or where it is not known.
    Prefix(Option<Prefix>),
    /// [`By::Cause`]; `None` where no connection ended, or where the cause is not known.
    Cause(Option<Cause>),
    /// The groups beyond the bound, of all but [`By::Port`].
    Other,
}

/// Keys by number. The numbers are small and never change, so that figures are kept in arrays and a
/// connection has its groups in two bytes each.
#[derive(Clone, Debug)]
pub(super) struct Registry<K> {
    keys: Vec<K>,
    /// Hashed with a random key: [`GroupKey::Comm`] is text that a process chooses.
    ids: HashMap<K, u16, RandomState>,
    max: usize,
}

/// The most numbers that a [`Registry`] gives out, far below the end of `u16`.
pub(super) const MAX_IDS: usize = 1 << 15;

impl<K: Copy + Eq + Hash> Registry<K> {
    /// A registry with these keys, which do not count towards `max`.
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

    /// The number of this key, which may be new; `None` where it is new and the bound is reached.
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

/// The groups of units, containers or pods: a cgroup's path is taken apart once.
#[derive(Clone, Debug, Default)]
struct Workloads {
    names: Names,
    /// The number of each name's group. Hashed with a random key: others choose the names.
    groups: HashMap<Box<str>, u16, RandomState>,
    /// The number of each cgroup's group, where the cgroup's path is known.
    cgroups: HashMap<u64, u16, BuildMixer>,
}

/// The most cgroups whose group is remembered.
const MAX_CGROUPS: usize = 1 << 16;

impl Workloads {
    fn memory(&self) -> usize {
        let names: usize = self.groups.keys().map(|name| name.len()).sum();
        names + self.groups.allocation_size() + self.cgroups.allocation_size()
    }
}

/// The numbers of the groups. By port they are those of the services.
#[derive(Clone, Debug)]
pub(super) struct Groups {
    by: By,
    pub(super) services: Services,
    registry: Registry<GroupKey>,
    workloads: Workloads,
}

/// The properties that a connection is grouped by.
#[derive(Clone, Copy)]
pub(super) struct Traits {
    pub(super) service: u16,
    pub(super) role: Role,
    pub(super) owner: Owner,
    pub(super) cgroup: Option<u64>,
    pub(super) netns: Option<u32>,
    pub(super) raddr: [u8; 16],
}

impl Traits {
    /// Nothing is known but the service.
    pub(super) const fn of_service(service: u16, role: Role) -> Self {
        Self {
            service,
            role,
            owner: Owner::UNKNOWN,
            cgroup: None,
            netns: None,
            raddr: [0; 16],
        }
    }

    /// Those of the socket of an event.
    #[inline]
    pub(super) const fn of(event: &Event, service: u16, role: Role, owner: Owner) -> Self {
        Self {
            service,
            role,
            owner,
            cgroup: event.cgroup(),
            netns: event.netns(),
            raddr: event.record().raddr,
        }
    }
}

impl Groups {
    const OTHER: u16 = 0;

    pub(super) fn new(by: By, limits: &Limits) -> Self {
        Self {
            by,
            services: Services::new(limits),
            registry: Registry::new(&[GroupKey::Other], limits.max_ports),
            workloads: Workloads::default(),
        }
    }

    pub(super) const fn by(&self) -> By {
        self.by
    }

    /// Groups by another property. The services keep their numbers; all others begin anew.
    pub(super) fn group_by(&mut self, by: By, limits: &Limits) {
        self.by = by;
        self.registry = Registry::new(&[GroupKey::Other], limits.max_ports);
        self.workloads = Workloads {
            names: self.workloads.names.clone(),
            ..Workloads::default()
        };
    }

    /// The service of this group, as far as the group says it.
    pub(super) fn service_of(&self, group: u16) -> u16 {
        match self.key(group) {
            GroupKey::Port(..) => group,
            GroupKey::Role(role) => Services::unknown_of(role),
            _ => Services::UNKNOWN,
        }
    }

    pub(super) fn set_names(&mut self, names: Names) {
        self.workloads.names = names;
    }

    /// Groups ports outside this set as `other`.
    pub(super) fn restrict(&mut self, ports: &PortSet) {
        self.services.restrict(ports);
    }

    /// Whether the groups are the services, with the same numbers.
    pub(super) const fn are_services(&self) -> bool {
        matches!(self.by, By::Port)
    }

    /// Whether a connection's group follows from its remote address.
    pub(super) const fn are_addresses(&self) -> bool {
        matches!(self.by, By::Raddr | By::Prefix)
    }

    /// The number of the group with these traits.
    #[inline]
    pub(super) fn id(&mut self, traits: Traits) -> u16 {
        let key = match self.by {
            By::Port => return traits.service,
            By::Role => GroupKey::Role(traits.role),
            By::Comm => GroupKey::Comm(traits.owner.comm),
            By::Pid => GroupKey::Pid(traits.owner.pid, traits.owner.comm),
            By::Cgroup => GroupKey::Cgroup(traits.cgroup),
            By::Unit | By::Container | By::Pod => return self.workload(traits.cgroup),
            By::Netns => GroupKey::Netns(traits.netns),
            By::Raddr => GroupKey::Raddr(from_wire(traits.raddr)),
            By::Prefix => GroupKey::Prefix(from_wire(traits.raddr).map(Prefix::of)),
            By::Cause => GroupKey::Cause(None),
        };
        self.number(key)
    }

    /// The number of the group of a cgroup's unit, container or pod.
    fn workload(&mut self, id: Option<u64>) -> u16 {
        let known = id.and_then(|id| self.workloads.cgroups.get(&id));
        if let Some(&number) = known {
            return number;
        }
        let cgroup = self.workloads.names.cgroup(id);
        let key: fn(_) -> _ = match self.by {
            By::Container => GroupKey::Container,
            By::Pod => GroupKey::Pod,
            _ => GroupKey::Unit,
        };
        let name: fn(&Cgroup) -> Option<&str> = match self.by {
            By::Container => Cgroup::container,
            By::Pod => Cgroup::pod_uid,
            _ => Cgroup::unit,
        };
        let number = match cgroup.as_deref().and_then(name) {
            None => self.number(key(None)),
            Some(name) => {
                let known = self.workloads.groups.get(name).copied();
                known.unwrap_or_else(|| {
                    let number = self.number(key(id));
                    if number != Self::OTHER {
                        self.workloads.groups.insert(name.into(), number);
                    }
                    number
                })
            }
        };
        // One without a path may have it later.
        if let Some(id) = id.filter(|_| cgroup.is_some()) {
            if self.workloads.cgroups.len() >= MAX_CGROUPS {
                self.workloads.cgroups.clear();
            }
            self.workloads.cgroups.insert(id, number);
        }
        number
    }

    /// The number of the group of what ends a connection of this group.
    pub(super) fn at_end(&mut self, group: u16, cause: Cause) -> u16 {
        match (self.by, cause) {
            (By::Cause, Cause::Unknown) => self.number(GroupKey::Cause(None)),
            (By::Cause, cause) => self.number(GroupKey::Cause(Some(cause))),
            _ => group,
        }
    }

    fn number(&mut self, key: GroupKey) -> u16 {
        self.registry.get_or_insert(key).unwrap_or(Self::OTHER)
    }

    pub(super) fn key(&self, id: u16) -> GroupKey {
        if self.are_services() {
            let (port, role) = self.services.key(id);
            return GroupKey::Port(port, role);
        }
        self.registry.keys[usize::from(id)]
    }

    /// The number for the figures of a group that has no room of its own. It is lower than those of all such
    /// groups.
    pub(super) fn other(&self, id: u16) -> u16 {
        if self.are_services() {
            self.services.other(id)
        } else {
            Self::OTHER
        }
    }

    /// Whether this group always has room.
    pub(super) const fn is_reserved(&self, id: u16) -> bool {
        if self.are_services() {
            id < Services::FIRST_PORT
        } else {
            id == Self::OTHER
        }
    }

    pub(super) fn memory(&self) -> usize {
        self.registry.memory() + self.services.memory() + self.workloads.memory()
    }
}
