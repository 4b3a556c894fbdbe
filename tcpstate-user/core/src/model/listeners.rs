//! The sockets that listen: who owns what comes in, and which local ports are a server's.

use hashbrown::{HashMap, HashSet};

use super::address::is_set;
use crate::{
    census::Census,
    event::{Event, SocketId},
    hash::BuildMixer,
    owner::Owner,
};

/// Where a socket listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    netns: u32,
    port: u16,
    laddr: [u8; 16],
}

const ANY_V4: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
const ANY_V6: [u8; 16] = [0; 16];

impl Place {
    fn of(event: &Event) -> Self {
        let record = event.record();
        Self {
            netns: record.netns,
            port: record.lport,
            laddr: record.laddr,
        }
    }

    fn is_v4(&self) -> bool {
        self.laddr[..12] == ANY_V4[..12]
    }

    fn is_any(&self) -> bool {
        !is_set(&self.laddr)
    }

    /// Whether a socket that listens here, on any address, is reached there: on any address of
    /// IPv6 also by IPv4.
    fn covers(&self, other: &Self) -> bool {
        (self.netns, self.port) == (other.netns, other.port) && (other.is_v4() || !self.is_v4())
    }
}

/// A listening socket whose CLOSE -> LISTEN was seen, or that was found.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub(super) place: Place,
    pub(super) owner: Owner,
    pub(super) uid: Option<u32>,
    pub(super) cgroup: Option<u64>,
    /// `None`: it listened before us.
    pub(super) since_ns: Option<u64>,
    pub(super) service: u16,
    pub(super) group: u16,
}

impl Listener {
    pub(super) const fn netns(&self) -> u32 {
        self.place.netns
    }

    pub(super) const fn port(&self) -> u16 {
        self.place.port
    }

    pub(super) const fn laddr(&self) -> [u8; 16] {
        self.place.laddr
    }
}

/// All that listens in one place: one socket, or several with `SO_REUSEPORT`.
#[derive(Debug)]
struct Shared {
    /// Sockets that we saw begin to listen.
    sockets: u32,
    /// One that listened before us: connections came in.
    earlier: bool,
    /// What can be said of the owner of what comes in here.
    owner: Owner,
}

/// The listening sockets, at most `max`.
#[derive(Debug)]
pub(super) struct Listeners {
    sockets: HashMap<SocketId, Listener, BuildMixer>,
    places: HashMap<Place, Shared, BuildMixer>,
    /// How many places a port of a namespace is listened on.
    ports: HashMap<(u32, u16), u32, BuildMixer>,
    max: usize,
    /// Listeners that there was no room for.
    refused: u64,
}

impl Listeners {
    pub(super) fn new(max: usize) -> Self {
        Self {
            sockets: HashMap::default(),
            places: HashMap::default(),
            ports: HashMap::default(),
            max,
            refused: 0,
        }
    }

    /// A socket begins to listen, or is found to (then nobody knows since when). `false` where there is
    /// no room to remember it.
    pub(super) fn open(
        &mut self,
        event: &Event,
        owner: Owner,
        since_ns: Option<u64>,
        (service, group): (u16, u16),
    ) -> bool {
        let place = Place::of(event);
        // Without bind() the port is chosen after this event: there is no place to know it by yet.
        let has_place = place.port != 0;
        if self.sockets.len() >= self.max || (has_place && !self.ensure_place(place)) {
            self.refused += 1;
            return false;
        }
        // There is none for port 0.
        if let Some(shared) = self.places.get_mut(&place) {
            shared.owner = if shared.earlier {
                Owner::UNKNOWN
            } else if shared.sockets == 0 {
                owner
            } else {
                shared.owner.either(owner)
            };
            shared.sockets += 1;
        }
        let listener = Listener {
            place,
            owner,
            uid: event.uid(),
            cgroup: event.cgroup(),
            since_ns,
            service,
            group,
        };
        self.sockets.insert(event.id(), listener);
        true
    }

    /// The socket that this event calls a listener, if it is one that we know.
    pub(super) fn get(&self, id: SocketId) -> Option<&Listener> {
        self.sockets.get(&id)
    }

    /// The socket of this event listens no more. Gives it back where it was known.
    pub(super) fn close(&mut self, event: &Event) -> Option<Listener> {
        let listener = self.remove(event.id())?;
        if listener.port() == 0 {
            // It began without a port; what came in since was taken for an earlier one's.
            self.close_earlier(event);
        }
        Some(listener)
    }

    fn remove(&mut self, id: SocketId) -> Option<Listener> {
        let listener = self.sockets.remove(&id)?;
        let place = listener.place;
        let Some(shared) = self.places.get_mut(&place) else {
            return Some(listener);
        };
        shared.sockets -= 1;
        if shared.sockets == 0 && !shared.earlier {
            self.forget_place(place);
        } else if shared.sockets > 0 && !shared.earlier {
            // The one that is gone may have been what made the owner ambiguous.
            let left = self.sockets.values().filter(|other| other.place == place);
            if let Some(owner) = left.map(|other| other.owner).reduce(Owner::either) {
                shared.owner = owner;
            }
        }
        Some(listener)
    }

    /// Forgets the listeners of a namespace that a list of all its sockets does not have; gives their
    /// groups.
    pub(super) fn not_listed(
        &mut self,
        census: &Census,
        settled_ns: u64,
        listed: &HashSet<u64, BuildMixer>,
    ) -> Vec<u16> {
        let ended: Vec<SocketId> = self
            .sockets
            .iter()
            .filter(|(id, listener)| {
                let is_listed = match id {
                    SocketId::Cookie(cookie) => listed.contains(cookie),
                    // A list has no addresses.
                    SocketId::Address(_) => true,
                };
                let is_older = listener
                    .since_ns
                    .is_none_or(|since_ns| since_ns < settled_ns);
                !is_listed && listener.netns() == census.netns && is_older
            })
            .map(|(&id, _)| id)
            .collect();
        let ended = ended.into_iter().filter_map(|id| self.remove(id));
        ended.map(|listener| listener.group).collect()
    }

    /// A socket that we never saw begin listens no more.
    ///
    /// One that listened on any address may be known only by the addresses of what came in there.
    pub(super) fn close_earlier(&mut self, event: &Event) {
        let place = Place::of(event);
        if place.is_any() && self.ports.contains_key(&(place.netns, place.port)) {
            let covered: Vec<Place> = self
                .places
                .iter()
                .filter(|(other, shared)| shared.earlier && place.covers(other))
                .map(|(&other, _)| other)
                .collect();
            for other in covered {
                self.forget_earlier(other);
            }
        } else {
            self.forget_earlier(place);
        }
    }

    fn forget_earlier(&mut self, place: Place) {
        if let Some(shared) = self.places.get_mut(&place).filter(|shared| shared.earlier) {
            shared.earlier = false;
            let sockets = shared.sockets;
            if sockets == 0 {
                self.forget_place(place);
            } else {
                let here = self.sockets.values().filter(|other| other.place == place);
                if let Some(owner) = here.map(|other| other.owner).reduce(Owner::either) {
                    shared.owner = owner;
                }
            }
        }
    }

    /// The owner of a connection that comes in here. Learns that somebody listens.
    pub(super) fn accept(&mut self, event: &Event) -> Owner {
        if let Some(owner) = self.find(event) {
            return owner;
        }
        let place = Place::of(event);
        if place.port != 0
            && self.ensure_place(place)
            && let Some(shared) = self.places.get_mut(&place)
        {
            shared.earlier = true;
        }
        Owner::UNKNOWN
    }

    /// The owner of an incoming connection by its local end: of who listens on that address, else
    /// on any address of its family, else on any address at all (a dual-stack socket).
    ///
    /// A place known only by what came in there says least: that may have been a listener on any
    /// address, so one that is known to listen on any address goes before it.
    ///
    /// `None` where nobody is known to listen there.
    pub(super) fn find(&self, event: &Event) -> Option<Owner> {
        let place = Place::of(event);
        let any_v4 = place.is_v4().then_some(ANY_V4);
        let mut inferred = None;
        for laddr in [Some(place.laddr), any_v4, Some(ANY_V6)]
            .into_iter()
            .flatten()
        {
            match self.places.get(&Place { laddr, ..place }) {
                Some(shared) if shared.sockets > 0 => return Some(shared.owner.inherited()),
                Some(shared) => inferred = inferred.or(Some(shared.owner.inherited())),
                None => {}
            }
        }
        inferred
    }

    /// Whether somebody listens on this local port: then a connection on it is a server's.
    pub(super) fn is_listening(&self, event: &Event) -> bool {
        let record = event.record();
        record.lport != 0 && self.ports.contains_key(&(record.netns, record.lport))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SocketId, &Listener)> {
        self.sockets.iter().map(|(&id, listener)| (id, listener))
    }

    pub(super) const fn refused(&self) -> u64 {
        self.refused
    }

    pub(super) fn memory(&self) -> usize {
        self.sockets.allocation_size()
            + self.places.allocation_size()
            + self.ports.allocation_size()
    }

    /// Makes the place; `false` where there is no room.
    fn ensure_place(&mut self, place: Place) -> bool {
        if self.places.contains_key(&place) {
            return true;
        }
        if self.places.len() >= self.max {
            return false;
        }
        self.places.insert(
            place,
            Shared {
                sockets: 0,
                earlier: false,
                owner: Owner::UNKNOWN,
            },
        );
        *self.ports.entry((place.netns, place.port)).or_default() += 1;
        true
    }

    fn forget_place(&mut self, place: Place) {
        self.places.remove(&place);
        if let Some(places) = self.ports.get_mut(&(place.netns, place.port)) {
            *places -= 1;
            if *places == 0 {
                self.ports.remove(&(place.netns, place.port));
            }
        }
    }
}
