//! What the listening sockets of a list tell about the others: who is a server, who a client, and how
//! many connections are half-open.
//!
//! A list has no past: that a socket connected or was connected to is nowhere in it. What is said here
//! follows from what listens now, or is not said.

use std::{
    net::{IpAddr, Ipv6Addr},
    ops::RangeInclusive,
};

use hashbrown::HashMap;
use tcpstate_common::State;

use super::{Socket, TimerKind};
use crate::model::Role;

/// The listening sockets of a list, and its half-open connections by them.
#[derive(Debug, Default)]
pub struct Listening {
    by_port: HashMap<(u32, u16), Vec<Listener>>,
    /// The local ports that the kernel chooses from, by network namespace.
    ephemeral: HashMap<u32, RangeInclusive<u16>>,
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
    /// How many there are.
    pub count: u64,
    /// The age of the oldest, milliseconds: see [`half_open_age_ms`].
    pub oldest_ms: Option<u64>,
}

impl Listening {
    /// Learns from a list of one or several namespaces. `ephemeral` tells a namespace's range of local
    /// ports, where it is known (`net.ipv4.ip_local_port_range`).
    pub fn new(
        sockets: &[Socket],
        ephemeral: impl IntoIterator<Item = (u32, RangeInclusive<u16>)>,
    ) -> Self {
        let mut this = Self {
            ephemeral: ephemeral.into_iter().collect(),
            ..Self::default()
        };
        for socket in sockets.iter().filter(|one| one.state == State::LISTEN) {
            let listener = Listener {
                laddr: socket.laddr,
                cookie: socket.cookie,
                // Where the kernel does not say, it is the usual.
                v6only: socket.v6only == Some(true),
                inode: socket.inode,
                half_open: HalfOpen::default(),
            };
            let place = (socket.netns, socket.lport);
            this.by_port.entry(place).or_default().push(listener);
        }
        for socket in sockets.iter().filter(|one| one.state == State::SYN_RECV) {
            if let Some(listener) = this.find_mut(socket.netns, socket.laddr, socket.lport) {
                let all = &mut listener.half_open;
                all.count += 1;
                all.oldest_ms = all.oldest_ms.max(half_open_age_ms(socket));
            }
        }
        this
    }

    /// Which side the socket is, as far as it can be told:
    ///
    /// 1. by its state: who listens or is in `SYN_RECV` is a server, who is in `SYN_SENT` a client;
    /// 2. a server, if somebody listens on its own address and port;
    /// 3. a client, if it is connected to an address of its own, on which somebody listens;
    /// 4. a client, if the kernel may have chosen its own port and the peer's is none of that kind.
    ///
    /// Else it is unknown: the listener may be gone.
    pub fn role(&self, socket: &Socket) -> Role {
        match socket.state {
            State::LISTEN | State::SYN_RECV => return Role::Server,
            State::SYN_SENT => return Role::Client,
            // It is bound, and neither yet.
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
        match self.ephemeral.get(&socket.netns) {
            Some(range) if range.contains(&socket.lport) && !range.contains(&socket.rport) => {
                Role::Client
            }
            _ => Role::Unknown,
        }
    }

    /// The inode of the socket that accepts for this one, which nobody holds yet.
    pub fn listener_of(&self, socket: &Socket) -> Option<u32> {
        self.find(socket.netns, socket.laddr, socket.lport)?.inode
    }

    /// The half-open connections of a listening socket. Where several share an address and a port
    /// (`SO_REUSEPORT`), the kernel does not tell whose they are: the first has them all.
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

/// The listener that gets what comes in on this address: the one on just this address, else on any of
/// its family, else on any at all.
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

/// How long ago the SYN of a half-open connection came, milliseconds.
///
/// It follows from its timer, which the kernel starts with 1 s and doubles each time that it sends the
/// SYN-ACK again, up to 120 s: exact to a tick as long as it was not sent again, and a few percent
/// short afterwards (timers expire late). `None` for what is no request socket with such a timer.
///
/// *Source:* `inet_csk_reqsk_queue_hash_add`, `reqsk_timer_handler` in
/// `net/ipv4/inet_connection_sock.c`.
pub fn half_open_age_ms(socket: &Socket) -> Option<u64> {
    const FIRST_MS: u64 = 1_000;
    const LONGEST_MS: u64 = 120_000;
    let timer = socket
        .timer
        .filter(|timer| timer.kind == TimerKind::Retransmit && socket.state == State::SYN_RECV)?;
    let timeout = |nth: u8| (FIRST_MS << u32::from(nth).min(32)).min(LONGEST_MS);
    let until_expiry: u64 = (0..=timer.retransmits).map(timeout).sum();
    until_expiry.checked_sub(timer.expires_ms.into())
}

#[cfg(test)]
#[path = "listening_tests.rs"]
mod tests;
