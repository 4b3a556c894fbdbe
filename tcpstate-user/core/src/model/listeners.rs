//! The listeners: the owners of incoming connections, and the local ports of servers.

use hashbrown::{HashMap, HashSet};

use super::{address::is_set, by_netns::ByNetns};
use crate::{
    census::{Census, Held, MAX_HELD_BY},
    event::{Event, SocketId},
    hash::BuildMixer,
    owner::{Holder, Holders, How, Owner},
};

/// The place where a socket listens.
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

    /// The local end of a connection.
    pub(super) const fn new(netns: u32, laddr: [u8; 16], port: u16) -> Self {
        Self { netns, port, laddr }
    }

    pub(super) const fn netns(&self) -> u32 {
        self.netns
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    fn is_v4(&self) -> bool {
        self.laddr[..12] == ANY_V4[..12]
    }

    fn is_any(&self) -> bool {
        !is_set(&self.laddr)
    }

    /// Whether a socket that listens here, on any address, is reached there: any address of IPv6
    /// includes IPv4.
    fn covers(&self, other: &Self) -> bool {
        (self.netns, self.port) == (other.netns, other.port) && (other.is_v4() || !self.is_v4())
    }
}

/// A listening socket whose CLOSE -> LISTEN was seen, or that a dump had.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub(super) place: Place,
    pub(super) owner: Owner,
    /// The processes that hold it, and its opener, once that was looked up.
    pub(super) holders: Option<Holders>,
    pub(super) uid: Option<u32>,
    pub(super) cgroup: Option<u64>,
    /// `None`: it listened before the capture.
    pub(super) since_ns: Option<u64>,
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

    /// The process that opened it, where that was seen.
    fn opener(&self) -> Option<Holder> {
        let known = self.holders.as_ref().map(|known| known.iter());
        match (known, self.owner) {
            (Some(mut known), _) => known.find(|holder| holder.opened).copied(),
            (
                None,
                Owner {
                    pid: Some(pid),
                    comm,
                    how: How::Exact,
                },
            ) => Some(Holder {
                pid,
                comm,
                opened: true,
                holds: false,
                closed: false,
            }),
            (None, _) => None,
        }
    }
}

/// The listeners of one place: one socket, or several with `SO_REUSEPORT`.
#[derive(Clone, Debug)]
struct Shared {
    /// Sockets that were seen to begin.
    sockets: u32,
    /// Whether another one listened before the capture: connections came in.
    earlier: bool,
    /// The owner of the connections that come in here, as far as it is known.
    owner: Owner,
    /// The processes that have to do with its sockets, where that was looked up.
    holders: Option<Holders>,
}

/// The number of these processes.
fn count(holders: Option<&Holders>) -> usize {
    holders.map_or(0, |holders| holders.len())
}

/// A listener whose owner has changed.
pub(super) struct Handover {
    pub(super) place: Place,
    pub(super) before: Owner,
    pub(super) after: Owner,
}

/// The listening sockets, at most [`Listeners::max`].
#[derive(Clone, Debug)]
pub(super) struct Listeners {
    sockets: HashMap<SocketId, Listener, BuildMixer>,
    places: HashMap<Place, Shared, BuildMixer>,
    /// The number of places, by namespace and port.
    ports: HashMap<(u32, u16), u32, BuildMixer>,
    /// The identities by network namespace, for the censuses of a dump.
    by_netns: ByNetns<SocketId>,
    max: usize,
    /// Listeners that there was no room for, or not for all that is known of them.
    refused: u64,
    /// The processes that hold listeners, added over all of them: at most [`MAX_HOLDERS`].
    held_by: usize,
}

/// The most processes that hold listeners, added over all of them: more than a host has.
const MAX_HOLDERS: usize = 1 << 20;

impl Listeners {
    pub(super) fn new(max: usize) -> Self {
        Self {
            sockets: HashMap::default(),
            places: HashMap::default(),
            ports: HashMap::default(),
            by_netns: ByNetns::default(),
            max,
            refused: 0,
            held_by: 0,
        }
    }

    /// Adds a listener, whose beginning is not known if a dump had it. `false` where there is no room.
    pub(super) fn open(
        &mut self,
        event: &Event,
        owner: Owner,
        since_ns: Option<u64>,
        group: u16,
    ) -> bool {
        let place = Place::of(event);
        // Without bind() the port is chosen after this event: its place is not known yet.
        let has_place = place.port != 0;
        if self.sockets.len() >= self.max || (has_place && !self.ensure_place(place)) {
            self.refused += 1;
            return false;
        }
        // Port 0 has no place.
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
            holders: None,
            uid: event.uid(),
            cgroup: event.cgroup(),
            since_ns,
            group,
        };
        self.by_netns.add(listener.netns(), event.id());
        self.sockets.insert(event.id(), listener);
        true
    }

    /// A listener is to come of which no dump tells.
    pub(super) fn forget_dump(&mut self) {
        self.by_netns.forget();
    }

    /// The listener with this identity.
    pub(super) fn get(&self, id: SocketId) -> Option<&Listener> {
        self.sockets.get(&id)
    }

    /// Removes the listener of this event, where it is known.
    pub(super) fn close(&mut self, event: &Event) -> Option<Listener> {
        let listener = self.remove(event.id())?;
        if listener.port() == 0 {
            // It began without a port; its connections were taken for those of an earlier listener.
            self.close_earlier(event);
        }
        Some(listener)
    }

    fn remove(&mut self, id: SocketId) -> Option<Listener> {
        let listener = self.sockets.remove(&id)?;
        self.held_by = self
            .held_by
            .saturating_sub(count(listener.holders.as_ref()));
        let place = listener.place;
        let Some(shared) = self.places.get_mut(&place) else {
            return Some(listener);
        };
        shared.sockets -= 1;
        if shared.sockets == 0 && !shared.earlier {
            self.forget_place(place);
        } else if shared.sockets > 0 {
            // The one that is gone may have made the owner ambiguous.
            self.share(place);
        }
        Some(listener)
    }

    /// Takes which processes hold a listener. The first of them is the owner from here on: another one has left
    /// the socket to it, or opened it for it. Returns that change.
    pub(super) fn hold(&mut self, held: &Held) -> Option<Handover> {
        let listener = self.sockets.get_mut(&SocketId::Cookie(held.cookie))?;
        let before = listener.owner;
        let by = held.by.get(..MAX_HELD_BY).unwrap_or(&held.by);
        let holders = Holder::list(listener.opener(), by);
        let known = count(listener.holders.take().as_ref());
        self.held_by = self.held_by.saturating_sub(known);
        if self.held_by.saturating_add(holders.len()) <= MAX_HOLDERS {
            self.held_by = self.held_by.saturating_add(holders.len());
            listener.holders = Some(holders);
        } else {
            self.refused = self.refused.saturating_add(1);
        }
        if let Some(&first) = held.by.first() {
            let owner = Owner::holding(first);
            listener.owner = if before.pid == owner.pid {
                // The process may have another name by now: `exec`.
                Owner {
                    how: before.how,
                    ..owner
                }
            } else {
                owner
            };
        }
        let (place, after) = (listener.place, listener.owner);
        match self.places.get_mut(&place) {
            // Without a search among all listeners.
            Some(shared) if shared.sockets == 1 => {
                shared.holders.clone_from(&listener.holders);
                if !shared.earlier {
                    shared.owner = after;
                }
            }
            _ => self.share(place),
        }
        (before != after).then_some(Handover {
            place,
            before,
            after,
        })
    }

    /// Puts the listener of a handover into another group. Returns the one before.
    pub(super) fn regroup(&mut self, cookie: u64, group: u16) -> Option<u16> {
        let listener = self.sockets.get_mut(&SocketId::Cookie(cookie))?;
        Some(std::mem::replace(&mut listener.group, group))
    }

    /// Derives what the sockets of a place share.
    fn share(&mut self, place: Place) {
        let Some(shared) = self.places.get_mut(&place) else {
            return;
        };
        let here = self.sockets.iter();
        let mut here: Vec<_> = here.filter(|(_, other)| other.place == place).collect();
        // The oldest first: the table has another order in each run.
        here.sort_unstable_by_key(|(id, listener)| (listener.since_ns, **id));
        let mut here = here.into_iter().map(|(_, listener)| listener);
        let Some(first) = here.next() else { return };
        let (mut owner, mut holders) = (first.owner, first.holders.clone());
        for other in here {
            owner = owner.either(other.owner);
            holders = match (holders, &other.holders) {
                (Some(one), Some(other)) if one != *other => {
                    let more = other.iter().filter(|holder| !one.contains(holder));
                    Some(one.iter().chain(more).copied().collect())
                }
                (one, other) => one.or_else(|| other.clone()),
            };
        }
        shared.holders = holders;
        if !shared.earlier {
            shared.owner = owner;
        }
    }

    /// Removes the listeners of a namespace that a dump of all its sockets does not have. Returns their
    /// groups.
    pub(super) fn not_listed(
        &mut self,
        census: &Census,
        settled_ns: u64,
        listed: &HashSet<u64, BuildMixer>,
    ) -> Vec<u16> {
        let sockets = &self.sockets;
        let all = sockets.iter();
        let all = all.map(|(&id, listener)| (listener.netns(), id));
        let ended: Vec<SocketId> = self
            .by_netns
            .take(census.netns, all)
            .into_iter()
            .filter_map(|id| Some((id, sockets.get(&id)?)))
            .filter(|(id, listener)| {
                let is_listed = match id {
                    SocketId::Cookie(cookie) => listed.contains(cookie),
                    // A dump has no addresses of sockets.
                    SocketId::Address(_) => true,
                };
                let is_older = listener
                    .since_ns
                    .is_none_or(|since_ns| since_ns < settled_ns);
                !is_listed && listener.netns() == census.netns && is_older
            })
            .map(|(id, _)| id)
            .collect();
        let ended = ended.into_iter().filter_map(|id| self.remove(id));
        ended.map(|listener| listener.group).collect()
    }

    /// Removes a listener that was not seen to begin.
    ///
    /// A listener on any address may be known only by the local addresses of its connections.
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
                self.share(place);
            }
        }
    }

    /// The owner of a connection that comes in here. Notes that its place has a listener.
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

    /// The owner of an incoming connection by its local end: the listener's on that address, else on any
    /// address of its family, else on any address at all (a dual-stack socket).
    ///
    /// A place that is known only by its connections counts least: they may have come in through a
    /// listener on any address, so a listener that is known to be on any address goes before it.
    ///
    /// `None` where no listener is known.
    pub(super) fn find(&self, event: &Event) -> Option<Owner> {
        let shared = self.reached_at(Place::of(event))?;
        Some(shared.owner.inherited())
    }

    /// The processes that have to do with the listener where a connection came in, by its local end.
    pub(super) fn holders_at(&self, place: Place) -> Option<&Holders> {
        self.reached_at(place)?.holders.as_ref()
    }

    /// The same of the connection of this event.
    pub(super) fn holders(&self, event: &Event) -> Option<&Holders> {
        self.holders_at(Place::of(event))
    }

    fn reached_at(&self, place: Place) -> Option<&Shared> {
        let any_v4 = place.is_v4().then_some(ANY_V4);
        let mut inferred = None;
        for laddr in [Some(place.laddr), any_v4, Some(ANY_V6)]
            .into_iter()
            .flatten()
        {
            match self.places.get(&Place { laddr, ..place }) {
                Some(shared) if shared.sockets > 0 => return Some(shared),
                Some(shared) => inferred = inferred.or(Some(shared)),
                None => {}
            }
        }
        inferred
    }

    /// Whether this local port has a listener: a connection on it is then a server's.
    pub(super) fn is_listening(&self, event: &Event) -> bool {
        let record = event.record();
        self.is_listening_on(record.netns, record.lport)
    }

    /// The same of any local port of this namespace.
    pub(super) fn is_listening_on(&self, netns: u32, port: u16) -> bool {
        port != 0 && self.ports.contains_key(&(netns, port))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SocketId, &Listener)> {
        self.sockets.iter().map(|(&id, listener)| (id, listener))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Listener> {
        self.sockets.values_mut()
    }

    pub(super) const fn refused(&self) -> u64 {
        self.refused
    }

    pub(super) fn memory(&self) -> usize {
        self.sockets.allocation_size()
            + self.places.allocation_size()
            + self.ports.allocation_size()
            + self.by_netns.memory()
    }

    /// Ensures that the place exists; `false` where there is no room.
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
                holders: None,
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

#[cfg(test)]
mod tests {
    use tcpstate_common::{Record, State, record};

    use super::*;
    use crate::event::Process;

    #[test]
    fn the_processes_of_all_listeners_are_bounded() {
        let mut listeners = Listeners::new(usize::MAX);
        let by = vec![
            Process {
                pid: 1,
                comm: [b'a'; 16]
            };
            // A recording can have more than the format allows.
            MAX_HELD_BY + 1
        ];
        let room = (MAX_HOLDERS / MAX_HELD_BY) as u64;
        for cookie in 1..=room + 10 {
            let record = Record {
                cookie,
                lport: u16::try_from(cookie).unwrap(),
                family: record::AF_INET,
                flags: record::flags::COOKIE,
                newstate: State::LISTEN,
                ..Record::default()
            };
            let event = Event::try_from(record).unwrap();
            assert!(listeners.open(&event, Owner::UNKNOWN, None, 0));
            let held = Held {
                cookie,
                laddr: [0; 4].into(),
                lport: 1,
                by: by.clone(),
            };
            // The same again takes no more.
            listeners.hold(&held);
            listeners.hold(&held);
        }
        assert_eq!(listeners.held_by, MAX_HOLDERS);
        assert_eq!(listeners.refused(), 20);
        listeners.remove(SocketId::Cookie(1));
        assert_eq!(listeners.held_by, MAX_HOLDERS - MAX_HELD_BY);
    }
}
