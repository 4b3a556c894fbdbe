//! The facts that are known of the sockets in a census, for whoever filters it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tcpstate_common::{
    Record, State,
    record::{AF_INET, AF_INET6},
};

use super::{Tracker, address::to_wire, listeners::Place};
use crate::{
    census::{Found, HalfOpen, Held, Kind},
    event::{Event, SocketId},
    owner::{Holders, Owner},
    service::Role,
};

impl Tracker {
    /// The role, owner, user and cgroup of a socket in a census: from its events, or from the census where
    /// it had none.
    pub fn attributes(&self, found: &Found) -> (Role, Owner, Option<u32>, Option<u64>) {
        let id = SocketId::Cookie(found.cookie);
        if let Some(slot) = self.table.find(id) {
            let (hot, cold) = (self.table.hot(slot), self.table.cold(slot));
            return (hot.role(), cold.owner(hot), cold.uid(hot), cold.cgroup());
        }
        match self.listeners.get(id) {
            Some(one) => (Role::Server, one.owner, one.uid, one.cgroup),
            None => (found.role, found.owner, found.uid, found.cgroup),
        }
    }

    /// The processes that have to do with a socket in a census, where that was looked up: of a listener, or of
    /// that of a server's connection.
    pub fn holders(&self, found: &Found, netns: u32) -> Option<&Holders> {
        let id = SocketId::Cookie(found.cookie);
        if let Some(listener) = self.listeners.get(id) {
            return listener.holders.as_ref();
        }
        let role = match self.table.find(id) {
            Some(slot) => self.table.hot(slot).role(),
            None => found.role,
        };
        let place = Place::new(netns, to_wire(found.laddr), found.lport);
        self.listeners
            .holders_at(place)
            .filter(|_| role == Role::Server)
    }

    /// The same of half-open connections.
    pub fn holders_of(&self, half_open: &HalfOpen, netns: u32) -> Option<&Holders> {
        let place = Place::new(netns, to_wire(half_open.laddr), half_open.lport);
        self.listeners.holders_at(place)
    }

    /// The listener with this cookie, as a dump describes it.
    pub fn listener(&self, held: &Held) -> Option<Found> {
        let listener = self.listeners.get(SocketId::Cookie(held.cookie))?;
        Some(Found {
            cookie: held.cookie,
            state: State::LISTEN,
            kind: Kind::Socket,
            since_ns: None,
            there_ns: None,
            family: if held.laddr.is_ipv4() {
                AF_INET
            } else {
                AF_INET6
            },
            laddr: held.laddr,
            lport: held.lport,
            raddr: match held.laddr {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            },
            rport: 0,
            role: Role::Server,
            uid: listener.uid,
            cgroup: listener.cgroup,
            owner: listener.owner,
        })
    }

    /// The owner of half-open connections: that of the listener where they came in.
    pub fn listener_of(&self, half_open: &HalfOpen, netns: u32) -> Owner {
        let event = Event::try_from(Record {
            laddr: to_wire(half_open.laddr),
            lport: half_open.lport,
            netns,
            family: AF_INET6,
            ..Record::default()
        });
        let owner = event.ok().and_then(|event| self.listeners.find(&event));
        owner.unwrap_or(Owner::UNKNOWN)
    }
}
