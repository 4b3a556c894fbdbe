//! The numbers of service ports, and which ports get figures of their own.
//!
//! There are places for so many ports. First come, first served is right where somebody looks at a run. A run that is left
//! on for months meets ports that somebody scanned, and ports that a process listened at for a moment: they would take
//! all places. So a port can be on probation: its figures are those of `other` until it has lasted
//! ([`Services::settle`]) or is frequent ([`Services::begin`]). It then keeps its place; places are never taken back,
//! since a counter must not vanish.

#![expect(
    clippy::indexing_slicing,
    reason = "by port, in tables with a place for each; by numbers that were given out here"
)]

use super::{Limits, group::MAX_IDS};
use crate::{
    filter::PortSet,
    service::{Role, ServicePort},
};

/// The time for which a listener, or an established connection, must last for its port to have lasted.
pub(super) const LASTING_NS: u64 = 1_000_000_000;

/// A port is frequent when so many connections have begun.
const FREQUENT: u8 = 8;

/// These counts are halved after each such time: what comes once a day never adds up.
const HALVED_NS: u64 = 60_000_000_000;

/// The ports that have no place yet.
#[derive(Clone, Debug)]
struct Probation {
    /// The connections that have begun at each port.
    begun: Vec<u8>,
    /// When they were halved.
    halved_ns: u64,
}

/// A port that has no number.
#[derive(Clone, Copy)]
struct Unplaced {
    port: u16,
    /// The number of all such ports, in its role.
    other: u16,
}

/// The numbers of service ports with their roles.
#[derive(Clone, Debug)]
pub(super) struct Services {
    keys: Vec<(ServicePort, Role)>,
    /// The numbers of a client's and a server's ports, by port; 0 is none. Pages of these that are
    /// never used are not resident.
    client: Vec<u16>,
    server: Vec<u16>,
    /// Ports that have a number.
    ports: usize,
    max_ports: usize,
    /// `None`: each port that appears gets a place.
    probation: Option<Probation>,
}

impl Services {
    /// Nothing is known.
    pub(super) const UNKNOWN: u16 = 0;
    /// The first number of a single port.
    pub(super) const FIRST_PORT: u16 = 5;
    /// All ports without a place, by role.
    const OTHER_CLIENT: u16 = 3;
    const OTHER_SERVER: u16 = 4;
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
            probation: None,
        }
    }

    /// The number of a service in this role whose port is not known.
    pub(super) const fn unknown_of(role: Role) -> u16 {
        match role {
            Role::Unknown => Self::UNKNOWN,
            Role::Client => 1,
            Role::Server => 2,
        }
    }

    /// Gives a place only to ports that have lasted or are frequent.
    pub(super) fn put_on_probation(&mut self) {
        self.probation = Some(Probation {
            begun: vec![0; 1 << 16],
            halved_ns: 0,
        });
    }

    /// Gives no port outside this set a number of its own: its figures go to `other`.
    pub(super) fn restrict(&mut self, ports: &PortSet) {
        for port in (0..=u16::MAX).filter(|&port| !ports.contains(port)) {
            self.client[usize::from(port)] = Self::OTHER_CLIENT;
            self.server[usize::from(port)] = Self::OTHER_SERVER;
        }
    }

    /// The number of a service port in a role.
    pub(super) fn id(&mut self, port: Option<u16>, role: Role) -> u16 {
        match self.find(port, role) {
            Ok(number) => number,
            Err(at) if self.probation.is_some() => at.other,
            Err(at) => self.place(at, role),
        }
    }

    /// The same at the begin of a connection.
    pub(super) fn begin(&mut self, port: Option<u16>, role: Role) -> u16 {
        match (self.find(port, role), &mut self.probation) {
            (Ok(number), _) => number,
            (Err(at), None) => self.place(at, role),
            (Err(at), Some(probation)) => {
                let begun = &mut probation.begun[usize::from(at.port)];
                *begun = begun.saturating_add(1);
                if *begun < FREQUENT {
                    return at.other;
                }
                self.place(at, role)
            }
        }
    }

    /// The same where the port has lasted.
    pub(super) fn settle(&mut self, port: Option<u16>, role: Role) -> u16 {
        self.find(port, role)
            .unwrap_or_else(|at| self.place(at, role))
    }

    /// Whether figures with this number may belong to a port that has a place by now.
    #[inline]
    pub(super) const fn is_on_probation(&self, id: u16) -> bool {
        self.probation.is_some() && matches!(id, Self::OTHER_CLIENT | Self::OTHER_SERVER)
    }

    /// Halves the counts of connections, if it is time. Returns whether ports are on probation.
    pub(super) fn tick(&mut self, now_ns: u64) -> bool {
        let Some(probation) = &mut self.probation else {
            return false;
        };
        if now_ns.saturating_sub(probation.halved_ns) >= HALVED_NS {
            probation.halved_ns = now_ns;
            for begun in &mut probation.begun {
                *begun /= 2;
            }
        }
        true
    }

    /// The number that is known, or where there is none yet.
    #[inline]
    fn find(&self, port: Option<u16>, role: Role) -> Result<u16, Unplaced> {
        let (numbers, unknown, other) = match role {
            Role::Unknown => return Ok(Self::UNKNOWN),
            Role::Client => (&self.client, 1, Self::OTHER_CLIENT),
            Role::Server => (&self.server, 2, Self::OTHER_SERVER),
        };
        let Some(port) = port else { return Ok(unknown) };
        match numbers[usize::from(port)] {
            0 => Err(Unplaced { port, other }),
            number => Ok(number),
        }
    }

    /// Gives a number to a port in a role, while there are places.
    fn place(&mut self, at: Unplaced, role: Role) -> u16 {
        let port = usize::from(at.port);
        let (numbers, twin) = match role {
            Role::Unknown => return Self::UNKNOWN,
            Role::Client => (&mut self.client, &self.server),
            Role::Server => (&mut self.server, &self.client),
        };
        if twin[port] == 0 {
            if self.ports >= self.max_ports {
                return at.other;
            }
            self.ports += 1;
        }
        // Below the sum of MAX_IDS and the reserved ones.
        let number = u16::try_from(self.keys.len()).unwrap_or(at.other);
        numbers[port] = number;
        self.keys.push((ServicePort::Port(at.port), role));
        number
    }

    /// The number of a service of a tally, whose port may stand for several.
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

    /// The number for the figures of a port that has no room of its own.
    pub(super) fn other(&self, id: u16) -> u16 {
        match self.key(id).1 {
            Role::Unknown => Self::UNKNOWN,
            Role::Client => Self::OTHER_CLIENT,
            Role::Server => Self::OTHER_SERVER,
        }
    }

    pub(super) fn key(&self, id: u16) -> (ServicePort, Role) {
        self.keys[usize::from(id)]
    }

    pub(super) fn memory(&self) -> usize {
        self.keys.capacity() * size_of::<(ServicePort, Role)>()
            + (self.client.capacity() + self.server.capacity()) * size_of::<u16>()
            + self
                .probation
                .as_ref()
                .map_or(0, |probation| probation.begun.capacity())
    }
}
