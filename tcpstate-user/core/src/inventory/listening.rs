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
    by_port: HashMap<(u32, u16), Vec<Listener>, BuildMixer>,
    /// The local ports that the kernel chooses from, by network namespace.
    ephemeral: HashMap<u32, RangeInclusive<u16>, BuildMixer>,
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
        let mut this = Self {
            ephemeral: ephemeral.into_iter().collect(),
            ..Self::default()
        };
        for socket in sockets.iter().filter(|one| one.state == State::LISTEN) {
            let listener = Listener {
                laddr: socket.laddr,
                cookie: socket.cookie,
                // Where it is not known, it is off, as usual.
                v6only: socket.v6only == Some(true),
                inode: socket.inode,
                half_open: HalfOpen::default(),
            };
            let place = (socket.netns, socket.lport);
            this.by_port.entry(place).or_default().push(listener);
        }
        for socket in sockets.iter().filter(|one| one.state == State::SYN_RECV) {
            if let Some(listener) = this.find_mut(socket.netns, socket.laddr, socket.lport) {
                let age = age(socket).unwrap_or(Age::at_least(0));
                let all = &mut listener.half_open;
                all.count += 1;
                all.oldest = Some(all.oldest.map_or(age, |oldest| oldest.or_older(age)));
            }
        }
        this
    }

    /// The role of a socket, by the first rule that applies:
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
        if self
            .find(socket.netns, socket.laddr, socket.lport)
            .is_some()
        {
            return Role::Server;
        }
        let with_itself = socket.raddr == socket.laddr || socket.raddr.is_loopback();
        if with_itself
            && self
                .find(socket.netns, socket.raddr, socket.rport)
                .is_some()
        {
            return Role::Client;
        }
        role_by_ports(self.ephemeral.get(&socket.netns), socket)
    }

    /// The inode of the listener of a socket that has not been accepted yet.
    pub fn listener_of(&self, socket: &Socket) -> Option<u32> {
        self.find(socket.netns, socket.laddr, socket.lport)?.inode
    }

    /// The half-open connections of a listening socket. Where several share an address and a port
    /// (`SO_REUSEPORT`), the kernel does not assign them: the first has them all.
    pub fn half_open(&self, socket: &Socket) -> HalfOpen {
        let place = (socket.netns, socket.lport);
        self.by_port
            .get(&place)
            .into_iter()
            .flatten()
            .find(|listener| listener.cookie == socket.cookie)
            .map_or(HalfOpen::default(), |listener| listener.half_open)
    }

    fn find(&self, netns: u32, addr: IpAddr, port: u16) -> Option<&Listener> {
        let listeners = self.by_port.get(&(netns, port))?;
        listeners.get(choose(listeners, addr)?)
    }

    fn find_mut(&mut self, netns: u32, addr: IpAddr, port: u16) -> Option<&mut Listener> {
        let listeners = self.by_port.get_mut(&(netns, port))?;
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
    let at = |wanted: &dyn Fn(&Listener) -> bool| listeners.iter().position(wanted);
    at(&|listener| listener.laddr == addr)
        .or_else(|| {
            at(&|listener| {
                listener.laddr.is_unspecified() && listener.laddr.is_ipv4() == addr.is_ipv4()
            })
        })
        .or_else(|| {
            at(&|listener| {
                listener.laddr == Ipv6Addr::UNSPECIFIED && !listener.v6only && addr.is_ipv4()
            })
        })
}

#[cfg(test)]
mod tests;
