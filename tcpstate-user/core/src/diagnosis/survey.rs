//! The sockets of a moment, in groups: all that a rule reads of them.

use std::net::IpAddr;

use hashbrown::HashMap;
use tcpstate_common::State;

use super::{Thresholds, Top};
use crate::{
    event::Process,
    inventory::{Age, Inventory, Socket, TimerKind},
    model::{self, Connection},
    owner::{Comm, Owner},
    service::Role,
};

/// The sockets of a moment, in groups.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Monotonic time at which the sockets were listed, nanoseconds.
    pub ts_ns: u64,
    /// Whether queues, timers and open files are known.
    pub has_queues: bool,
    /// Whether sockets may be missing, of network namespaces that could not be listed.
    pub is_partial: bool,
    /// All sockets but listeners, by network namespace, service port, role and state.
    pub groups: HashMap<GroupKey, Group>,
    /// The listeners.
    pub listeners: Vec<ListenerNow>,
    /// Clients' connections by where they go from and to: what shares a range of local ports.
    pub routes: HashMap<RouteKey, u32>,
    /// The local ports of clients in each network namespace, each counted once.
    pub client_ports: HashMap<u32, Ports>,
    /// Established connections that were idle ([`Thresholds::idle_time`]): the time since their last packet, in
    /// nanoseconds, by namespace and cookie. Of so many that a reset may end soon.
    pub idle: HashMap<(u32, u64), u64>,
}

/// The most idle connections whose time is kept.
const MAX_IDLE: usize = 65_536;

/// What sockets of a group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKey {
    /// Inode number of the network namespace; 0 is unknown.
    pub netns: u32,
    /// The service port; `None` while the role is unknown.
    pub port: Option<u16>,
    /// The side.
    pub role: Role,
    /// The state; half-open connections are in `SYN_RECV`.
    pub state: State,
}

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

/// A socket as an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Example {
    /// The local end.
    pub local: (IpAddr, u16),
    /// The remote end.
    pub remote: (IpAddr, u16),
}

/// The sockets of a group. Numbers about queues, timers and files are 0 where [`Survey::has_queues`] is not set.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Their number.
    pub count: u64,
    /// The age of the oldest that is known to be the oldest.
    pub oldest: Option<Age>,
    /// That one.
    pub example: Option<Example>,
    /// Those older than the threshold of their state.
    pub stale: u64,
    /// Those of `stale` that have received something that the application has not read; the peer's FIN is no such
    /// thing, though the kernel counts it as a byte.
    pub unread: u64,
    /// Those of `stale` whose end of input the application has not read: it is the byte that the kernel counts.
    pub eof_unread: u64,
    /// Those of `stale` that no process has open and that are not accepted yet.
    pub unaccepted: u64,
    /// Those of `stale` that no process has open, because it closed them.
    pub orphans: u64,
    /// Those of `stale` with something to send, or sent and not acknowledged.
    pub unsent: u64,
    /// Those with a retransmit timer that has expired as often as the threshold says.
    pub retransmitting: u64,
    /// Those that probe the peer's closed window.
    pub probing: u64,
    /// The remote addresses of `stale`; of established ones, of `retransmitting` and `probing`.
    pub peers: Top<IpAddr>,
    /// The processes of the same.
    pub owners: Top<Process>,
}

/// A listener.
#[derive(Clone, Debug)]
pub struct ListenerNow {
    /// Inode number of the network namespace; 0 is unknown.
    pub netns: u32,
    /// The address that it listens on; unspecified is any.
    pub laddr: IpAddr,
    /// Its port.
    pub port: u16,
    /// Connections that wait to be accepted; `None` is unknown.
    pub waiting: Option<u32>,
    /// Its backlog: the most that may wait; `None` is unknown.
    pub backlog: Option<u32>,
    /// Connections whose handshake is under way.
    pub half_open: u64,
    /// The remote addresses of these.
    pub half_open_peers: Top<IpAddr>,
    /// Retransmissions of their SYN-ACKs, all together.
    pub synack_retransmits: u64,
    /// Its process.
    pub owner: Option<Process>,
}

/// A set of ports.
#[derive(Clone, Debug)]
pub struct Ports(Vec<u64>);

impl Default for Ports {
    fn default() -> Self {
        Self(vec![0; 1024])
    }
}

impl Ports {
    fn insert(&mut self, port: u16) {
        if let Some(word) = self.0.get_mut(usize::from(port / 64)) {
            *word |= 1 << (port % 64);
        }
    }

    /// Their number.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

/// The facts about a socket that the groups are made from.
struct Seen {
    key: GroupKey,
    cookie: Option<u64>,
    age: Option<Age>,
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
    /// Received and not read; to be acknowledged: bytes.
    queues: Option<(u32, u32)>,
    timer: Option<(TimerKind, u8)>,
    is_unaccepted: bool,
    is_orphan: bool,
    idle_ns: Option<u64>,
}

impl Survey {
    /// Of an inventory.
    pub fn of(inventory: &Inventory, thresholds: &Thresholds) -> Self {
        let ts_ns = inventory.namespaces.iter().map(|netns| netns.ts_ns).max();
        let mut this = Self {
            ts_ns: ts_ns.unwrap_or(0),
            has_queues: true,
            is_partial: inventory.may_have_more(),
            ..Self::default()
        };
        let mut half_open: HashMap<(u32, u16), (Top<IpAddr>, u64)> = HashMap::new();
        for socket in &inventory.sockets {
            match socket.state {
                State::LISTEN => {
                    let owner = inventory.holders(socket).first().copied();
                    this.listeners.push(ListenerNow {
                        netns: socket.netns,
                        laddr: socket.laddr,
                        port: socket.lport,
                        waiting: Some(socket.rqueue),
                        backlog: Some(socket.wqueue),
                        half_open: inventory.listening.half_open(socket).count,
                        half_open_peers: Top::default(),
                        synack_retransmits: 0,
                        owner,
                    });
                    continue;
                }
                State::SYN_RECV => {
                    let (peers, repeated) =
                        half_open.entry((socket.netns, socket.lport)).or_default();
                    peers.add(socket.raddr);
                    *repeated += socket.timer.map_or(0, |timer| u64::from(timer.retransmits));
                }
                // Merely bound.
                State::CLOSE | State::BOUND_INACTIVE => continue,
                _ => {}
            }
            let seen = Seen::of(socket, inventory);
            let owner = || inventory.holders(socket).first().copied();
            this.add(&seen, thresholds, owner);
        }
        for listener in &mut this.listeners {
            // Where several share a port, the first that has half-open connections has them all.
            if listener.half_open > 0
                && let Some((peers, repeated)) = half_open.remove(&(listener.netns, listener.port))
            {
                listener.half_open_peers = peers;
                listener.synack_retransmits = repeated;
            }
        }
        this
    }

    /// Of what a tracker knows: of a recording, which has neither queues nor timers.
    pub fn of_tracked(tracked: &model::Snapshot, thresholds: &Thresholds) -> Self {
        let mut this = Self {
            ts_ns: tracked.now_ns,
            ..Self::default()
        };
        for connection in &tracked.connections {
            if let Some(seen) = Seen::of_tracked(connection, tracked.now_ns) {
                this.add(&seen, thresholds, || process(&connection.owner));
            }
        }
        for listener in &tracked.listeners {
            this.listeners.push(ListenerNow {
                netns: listener.netns.unwrap_or(0),
                laddr: listener.laddr.unwrap_or(IpAddr::from([0_u8; 16])),
                port: listener.lport,
                waiting: None,
                backlog: None,
                half_open: 0,
                half_open_peers: Top::default(),
                synack_retransmits: 0,
                owner: process(&listener.owner),
            });
        }
        this
    }

    /// The groups in this state, with their keys.
    pub fn in_state(&self, state: State) -> impl Iterator<Item = (&GroupKey, &Group)> {
        self.groups
            .iter()
            .filter(move |(key, _)| key.state == state)
    }

    /// The sockets of this service in all states.
    pub fn count_of(&self, netns: u32, role: Role, port: Option<u16>) -> u64 {
        let of = |key: &GroupKey| (key.netns, key.role, key.port) == (netns, role, port);
        let groups = self.groups.iter().filter(|(key, _)| of(key));
        groups.map(|(_, group)| group.count).sum()
    }

    fn add(
        &mut self,
        seen: &Seen,
        thresholds: &Thresholds,
        owner: impl FnOnce() -> Option<Process>,
    ) {
        let key = seen.key;
        if key.role == Role::Client {
            let route = RouteKey {
                netns: key.netns,
                laddr: seen.local.0,
                raddr: seen.remote.0,
                rport: seen.remote.1,
            };
            *self.routes.entry(route).or_default() += 1;
            self.client_ports
                .entry(key.netns)
                .or_default()
                .insert(seen.local.1);
        }
        if let Some(idle_ns) = seen.idle_ns.filter(|&ns| ns >= thresholds.idle_time)
            && let Some(cookie) = seen.cookie
            && self.idle.len() < MAX_IDLE
        {
            self.idle.insert((key.netns, cookie), idle_ns);
        }
        let group = self.groups.entry(key).or_default();
        group.count += 1;
        if let Some(age) = seen.age
            && group
                .oldest
                .is_none_or(|oldest| age.at_least_ns > oldest.at_least_ns)
        {
            group.oldest = Some(age);
            group.example = Some(Example {
                local: seen.local,
                remote: seen.remote,
            });
        }
        let backs_off = seen.timer.is_some_and(|(kind, expired)| {
            kind == TimerKind::Retransmit && u64::from(expired) >= thresholds.backoffs
        });
        let probes = seen.timer.is_some_and(|(kind, _)| kind == TimerKind::Probe);
        group.retransmitting += u64::from(backs_off);
        group.probing += u64::from(probes);
        let limit_ns = match key.state {
            State::CLOSE_WAIT => Some(thresholds.close_wait_age),
            State::FIN_WAIT2 => Some(thresholds.fin_wait2_age),
            State::FIN_WAIT1 | State::LAST_ACK | State::CLOSING => Some(thresholds.closing_age),
            State::SYN_SENT => Some(thresholds.syn_sent_age),
            _ => None,
        };
        let is_stale = limit_ns
            .is_some_and(|limit_ns| seen.age.is_some_and(|age| age.at_least_ns >= limit_ns));
        if is_stale {
            group.stale += 1;
            group.unaccepted += u64::from(seen.is_unaccepted);
            group.orphans += u64::from(seen.is_orphan);
            if let Some((unread, unsent)) = seen.queues {
                group.unread += u64::from(unread > 1);
                group.eof_unread += u64::from(unread > 0);
                group.unsent += u64::from(unsent > 0);
            }
        }
        let is_named = is_stale || (limit_ns.is_none() && (backs_off || probes));
        if is_named {
            group.peers.add(seen.remote.0);
            if let Some(owner) = owner() {
                group.owners.add(owner);
            }
        }
    }
}

impl Seen {
    fn of(socket: &Socket, inventory: &Inventory) -> Self {
        let role = inventory.listening.role(socket);
        let is_established = socket.state == State::ESTABLISHED;
        let last_ms = socket.last_packet_ms().filter(|_| is_established);
        Self {
            key: GroupKey {
                netns: socket.netns,
                port: role.service_port(socket.lport, socket.rport),
                role,
                state: socket.state,
            },
            cookie: Some(socket.cookie),
            age: inventory.age(socket),
            local: (socket.laddr, socket.lport),
            remote: (socket.raddr, socket.rport),
            queues: Some((socket.rqueue, socket.wqueue)),
            timer: socket.timer.map(|timer| (timer.kind, timer.retransmits)),
            is_unaccepted: socket.is_unaccepted(),
            is_orphan: socket.inode.is_none() && !socket.is_unaccepted(),
            idle_ns: last_ms.map(|ms| u64::from(ms) * 1_000_000),
        }
    }

    /// `None` before the connection has both ends.
    fn of_tracked(connection: &Connection, now_ns: u64) -> Option<Self> {
        let since = connection.last_ns.map(|ns| (ns, true));
        let since = since.or_else(|| connection.there_ns.map(|ns| (ns, false)));
        let age = since.map(|(ns, is_exact)| Age {
            at_least_ns: now_ns.saturating_sub(ns),
            is_exact,
        });
        Some(Self {
            key: GroupKey {
                netns: connection.netns.unwrap_or(0),
                port: connection.service_port,
                role: connection.role,
                state: connection.states.last()?.state,
            },
            cookie: None,
            age,
            local: (connection.laddr?, connection.lport?),
            remote: (connection.raddr?, connection.rport?),
            queues: None,
            timer: None,
            is_unaccepted: false,
            is_orphan: false,
            idle_ns: None,
        })
    }
}

/// The process that an owner is, where it is one.
fn process(owner: &Owner) -> Option<Process> {
    let Comm(comm) = owner.comm?;
    Some(Process {
        pid: owner.pid?,
        comm,
    })
}
