//! Roles and half-open connections, from the listening sockets of a dump.
//!
//! A dump has no past: it does not show which side opened a connection. A role follows from the sockets
//! that listen now, or is unknown.

use std::{
    net::{IpAddr, Ipv6Addr},
    ops::RangeInclusive,
};

use hashbrown::HashMap;
use tcpstate_common::State;

use super::socket::{Age, Socket};
use crate::{hash::BuildMixer, service::Role};

/// The listening sockets of a dump, and the half-open connections by listener.
#[derive(Debug, Default)]
pub struct Listening {
    namespaces: HashMap<u32, Namespace, BuildMixer>,
    /// In place of those that are not known.
    unknown: Namespace,
}

/// The listening sockets of a network namespace.
#[derive(Debug, Default)]
pub struct Namespace {
    by_port: HashMap<u16, Vec<Listener>, BuildMixer>,
    /// The ports of `by_port`. Every socket is asked for, and these answer for nearly all from the nearest cache.
    ports: ListenedPorts,
    /// Those of them where somebody listens on every address: of IPv4, and of IPv6.
    wildcards: [ListenedPorts; 2],
    /// The local ports that the kernel chooses from, where they are known.
    ephemeral: Option<RangeInclusive<u16>>,
}

/// A set of ports, in blocks: small where there are few.
#[derive(Debug, Default)]
struct ListenedPorts([Option<Box<[u64; ListenedPorts::WORDS]>>; 32]);

impl ListenedPorts {
    const WORDS: usize = 32;

    /// The block, the word in it, and the bit in that.
    const fn place(port: u16) -> (usize, usize, u64) {
        let word = port as usize / 64;
        (word / Self::WORDS, word % Self::WORDS, 1 << (port % 64))
    }

    fn insert(&mut self, port: u16) {
        let (block, word, bit) = Self::place(port);
        if let Some(block) = self.0.get_mut(block)
            && let Some(word) = block.get_or_insert_default().get_mut(word)
        {
            *word |= bit;
        }
    }

    #[inline]
    fn contains(&self, port: u16) -> bool {
        let (block, word, bit) = Self::place(port);
        let word = self
            .0
            .get(block)
            .and_then(|block| block.as_ref()?.get(word));
        word.is_some_and(|word| word & bit != 0)
    }
}

#[derive(Debug)]
struct Listener {
    laddr: IpAddr,
    cookie: u64,
    v6only: bool,
    inode: Option<u32>,
    half_open: HalfOpen,
}

/// The connections of a listener whose handshake is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HalfOpen {
    /// Their number.
    pub count: u64,
    /// The age of the oldest.
    pub oldest: Option<Age>,
}

impl Listening {
    /// The listening sockets of a dump of one or more namespaces. `ephemeral` has the range of local ports of
    /// each namespace where it is known (`net.ipv4.ip_local_port_range`), `age` knows how old a socket is.
    pub fn new(
        sockets: &[Socket],
        ephemeral: impl IntoIterator<Item = (u32, RangeInclusive<u16>)>,
        age: impl Fn(&Socket) -> Option<Age>,
    ) -> Self {
        let mut this = Self::default();
        for (netns, range) in ephemeral {
            this.namespaces.entry(netns).or_default().ephemeral = Some(range);
        }
        for socket in sockets.iter().filter(|one| one.state == State::LISTEN) {
            let listener = Listener {
                laddr: socket.laddr,
                cookie: socket.cookie,
                // Where it is not known, it is off, as usual.
                v6only: socket.v6only == Some(true),
                inode: socket.inode,
                half_open: HalfOpen::default(),
            };
            let namespace = this.namespaces.entry(socket.netns).or_default();
            namespace.add(socket.lport, listener);
        }
        for socket in sockets.iter().filter(|one| one.state == State::SYN_RECV) {
            let namespace = this.namespaces.get_mut(&socket.netns);
            if let Some(listener) =
                namespace.and_then(|namespace| namespace.find_mut(socket.laddr, socket.lport))
            {
                let age = age(socket).unwrap_or(Age::at_least(0));
                let all = &mut listener.half_open;
                all.count += 1;
                all.oldest = Some(all.oldest.map_or(age, |oldest| oldest.or_older(age)));
            }
        }
        this
    }

    /// The listening sockets of a network namespace.
    pub fn namespace(&self, netns: u32) -> &Namespace {
        self.namespaces.get(&netns).unwrap_or(&self.unknown)
    }

    /// The role of a socket: see [`Namespace::role`].
    pub fn role(&self, socket: &Socket) -> Role {
        self.namespace(socket.netns).role(socket)
    }

    /// The inode of the listener of a socket that has not been accepted yet.
    pub fn listener_of(&self, socket: &Socket) -> Option<u32> {
        let namespace = self.namespace(socket.netns);
        namespace.find(socket.laddr, socket.lport)?.inode
    }

    /// The half-open connections of a listening socket. Where several share an address and a port
    /// (`SO_REUSEPORT`), the kernel does not assign them: the first has them all.
    pub fn half_open(&self, socket: &Socket) -> HalfOpen {
        let by_port = &self.namespace(socket.netns).by_port;
        let mut listeners = by_port.get(&socket.lport).into_iter().flatten();
        listeners
            .find(|listener| listener.cookie == socket.cookie)
            .map_or(HalfOpen::default(), |listener| listener.half_open)
    }
}

impl Namespace {
    fn add(&mut self, port: u16, listener: Listener) {
        self.ports.insert(port);
        let [ipv4, ipv6] = &mut self.wildcards;
        if listener.is_for_all_of(true) {
            ipv4.insert(port);
        }
        if listener.is_for_all_of(false) {
            ipv6.insert(port);
        }
        self.by_port.entry(port).or_default().push(listener);
    }

    /// Whether somebody listens for connections to this address and port.
    #[inline]
    fn has_listener(&self, addr: IpAddr, port: u16) -> bool {
        if !self.ports.contains(port) {
            return false;
        }
        let [ipv4, ipv6] = &self.wildcards;
        let wildcards = if addr.is_ipv4() { ipv4 } else { ipv6 };
        wildcards.contains(port) || self.find(addr, port).is_some()
    }

    /// The role of a socket of this namespace, by the first rule that applies:
    ///
    /// 1. by its state: in `LISTEN` and `SYN_RECV` a server, in `SYN_SENT` a client;
    /// 2. a server, if another socket listens on its local address and port;
    /// 3. a client, if its remote address is local too and a socket listens on it;
    /// 4. a client, if its local port is ephemeral and its remote port is not.
    ///
    /// Otherwise unknown: the listener may be gone.
    pub fn role(&self, socket: &Socket) -> Role {
        match socket.state {
            State::LISTEN | State::SYN_RECV => return Role::Server,
            State::SYN_SENT => return Role::Client,
            // It is bound, and has no role yet.
            State::CLOSE | State::BOUND_INACTIVE => return Role::Unknown,
            _ => {}
        }
        if self.has_listener(socket.laddr, socket.lport) {
            return Role::Server;
        }
        let with_itself = socket.raddr == socket.laddr || socket.raddr.is_loopback();
        if with_itself && self.has_listener(socket.raddr, socket.rport) {
            return Role::Client;
        }
        role_by_ports(self.ephemeral.as_ref(), socket)
    }

    fn find(&self, addr: IpAddr, port: u16) -> Option<&Listener> {
        let listeners = self.by_port.get(&port)?;
        listeners.get(choose(listeners, addr)?)
    }

    fn find_mut(&mut self, addr: IpAddr, port: u16) -> Option<&mut Listener> {
        let listeners = self.by_port.get_mut(&port)?;
        let chosen = choose(listeners, addr)?;
        listeners.get_mut(chosen)
    }
}

/// The role that the ports of a socket show by themselves, where `ephemeral` are the local ports that the kernel chooses
/// from: the last of the rules of [`Listening::role`].
pub fn role_by_ports(ephemeral: Option<&RangeInclusive<u16>>, socket: &Socket) -> Role {
    match ephemeral {
        Some(range) if range.contains(&socket.lport) && !range.contains(&socket.rport) => {
            Role::Client
        }
        _ => Role::Unknown,
    }
}

/// The listener for connections to this address: on this very address, else on the wildcard of its family,
/// else on the wildcard of both.
fn choose(listeners: &[Listener], addr: IpAddr) -> Option<usize> {
    let all = || listeners.iter();
    all()
        .position(|listener| listener.laddr == addr)
        .or_else(|| {
            all().position(|listener| {
                listener.laddr.is_unspecified() && listener.laddr.is_ipv4() == addr.is_ipv4()
            })
        })
        .or_else(|| all().position(|listener| listener.is_for_all_of(addr.is_ipv4())))
}

impl Listener {
    /// Whether it listens on every address of a family.
    fn is_for_all_of(&self, is_ipv4: bool) -> bool {
        let is_own = self.laddr.is_unspecified() && self.laddr.is_ipv4() == is_ipv4;
        is_own || is_ipv4 && self.laddr == Ipv6Addr::UNSPECIFIED && !self.v6only
    }
}

#[cfg(test)]
mod tests;
