//! Clients' connections by where they go from and to.

use std::{
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv4Addr},
};

use hashbrown::HashMap;
use tcpstate_common::State;

use crate::hash::BuildMixer;

/// Where a client's connections go from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey {
    /// Inode number of the network namespace; 0 is unknown.
    pub netns: u32,
    /// The local address.
    pub laddr: IpAddr,
    /// The remote address.
    pub raddr: IpAddr,
    /// The remote port.
    pub rport: u16,
}

/// A client's connections from one address to one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Their number, in all states.
    pub sockets: u32,
    /// Those in `TIME_WAIT`.
    pub time_wait: u32,
}

impl Route {
    /// Counts a socket in this state.
    pub(super) fn add(&mut self, state: State) {
        self.sockets += 1;
        self.time_wait += u32::from(state == State::TIME_WAIT);
    }
}

/// The routes of a host. Those of IPv4 have a map of their own, whose entries are half as large: every socket of a client
/// looks up its route.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Routes {
    ipv4: HashMap<Ipv4Key, Route, BuildMixer>,
    others: HashMap<RouteKey, Route, BuildMixer>,
}

/// A [`RouteKey`] of IPv4, in two words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ipv4Key {
    /// Namespace and remote port.
    place: u64,
    /// Local and remote address.
    ends: u64,
}

impl Hash for Ipv4Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.place);
        state.write_u64(self.ends);
    }
}

impl Ipv4Key {
    fn new(netns: u32, rport: u16, local: Ipv4Addr, remote: Ipv4Addr) -> Self {
        Self {
            place: u64::from(netns) << 16 | u64::from(rport),
            ends: u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits()),
        }
    }

    /// `None`: it is not of IPv4.
    fn of(key: &RouteKey) -> Option<Self> {
        match (key.laddr, key.raddr) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                Some(Self::new(key.netns, key.rport, local, remote))
            }
            _ => None,
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the parts of which the words were made"
    )]
    fn key(self) -> RouteKey {
        RouteKey {
            netns: (self.place >> 16) as u32,
            laddr: Ipv4Addr::from_bits((self.ends >> 32) as u32).into(),
            raddr: Ipv4Addr::from_bits(self.ends as u32).into(),
            rport: self.place as u16,
        }
    }
}

impl Routes {
    /// A route, which may be new.
    pub(super) fn of(&mut self, key: RouteKey) -> &mut Route {
        match Ipv4Key::of(&key) {
            Some(key) => self.ipv4.entry(key).or_default(),
            None => self.others.entry(key).or_default(),
        }
    }

    /// A route, where it is known.
    pub(in super::super) fn get(&self, key: &RouteKey) -> Option<Route> {
        let found = match Ipv4Key::of(key) {
            Some(key) => self.ipv4.get(&key),
            None => self.others.get(key),
        };
        found.copied()
    }

    /// All routes.
    pub(in super::super) fn iter(&self) -> impl Iterator<Item = (RouteKey, Route)> {
        let ipv4 = self.ipv4.iter().map(|(key, &route)| (key.key(), route));
        let others = self.others.iter().map(|(&key, &route)| (key, route));
        ipv4.chain(others)
    }

    #[cfg(test)]
    pub(in super::super) fn insert(&mut self, key: RouteKey, route: Route) {
        *self.of(key) = route;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_found_and_listed_as_it_was() {
        let ends: [(IpAddr, IpAddr); 4] = [
            ([10, 0, 0, 1].into(), [255, 254, 253, 252].into()),
            ([255, 254, 253, 252].into(), [10, 0, 0, 1].into()),
            ([1_u16, 2, 3, 4, 5, 6, 7, 8].into(), [10, 0, 0, 1].into()),
            ([1_u16; 8].into(), [2_u16; 8].into()),
        ];
        let keys = ends.iter().flat_map(|&(laddr, raddr)| {
            [(0, 0), (u32::MAX, u16::MAX), (7, 443), (8, 443)].map(|(netns, rport)| RouteKey {
                netns,
                laddr,
                raddr,
                rport,
            })
        });
        let mut routes = Routes::default();
        for (sockets, key) in (1..).zip(keys.clone()) {
            let route = routes.of(key);
            assert_eq!(*route, Route::default());
            route.sockets = sockets;
        }
        for (sockets, key) in (1..).zip(keys.clone()) {
            assert_eq!(routes.get(&key).map(|route| route.sockets), Some(sockets));
        }
        let mut listed: Vec<_> = routes
            .iter()
            .map(|(key, route)| (route.sockets, key))
            .collect();
        listed.sort_unstable();
        assert_eq!(listed, (1..).zip(keys).collect::<Vec<_>>());
    }
}
