//! From single sockets to groups. A look at a busy host has a million of them, so that what most of them need is little:
//! only a count where nothing runs that a rule asks about.

use std::{
    hash::{Hash, Hasher},
    hint::black_box,
    net::IpAddr,
};

use hashbrown::HashMap;
use tcpstate_common::State;

use super::{
    super::{Thresholds, Top},
    Example, Group, GroupKey, ListenerNow, RouteKey, Survey,
};
use crate::{
    event::{Process, SocketId},
    hash::BuildMixer,
    inventory::{Age, Inventory, Socket, TimerKind},
    model::{self, Connection},
    owner::{Comm, Owner},
    service::Role,
};

/// Sockets that are looked at together.
const AT_ONCE: usize = 64;

/// The most idle connections whose time is kept.
const MAX_IDLE: usize = 65_536;

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
        let mut half_open: HashMap<(u32, u16), HalfOpen> = HashMap::new();
        let mut groups = Groups::default();
        // Owners are looked up together at the end: each look-up waits for memory, and many can wait at once.
        let mut unnamed: Vec<(Named, u32)> = Vec::new();
        if inventory.sockets.len() > MAX_IDLE {
            this.idle.reserve(MAX_IDLE);
        }
        // A namespace is dumped as a whole, so that what is looked up by it is looked up seldom. Few at a time: to see where one ends
        // brings them into the nearest cache, and many such waits for memory overlap.
        let blocks = inventory.sockets.chunks(AT_ONCE);
        for sockets in blocks.flat_map(|block| block.chunk_by(is_beside)) {
            let netns = sockets.first().map_or(0, |socket| socket.netns);
            let namespace = inventory.listening.namespace(netns);
            let mut client_ports = this.client_ports.remove(&netns);
            for socket in sockets {
                match socket.state {
                    State::LISTEN => {
                        this.listeners.push(listener(socket, inventory));
                        continue;
                    }
                    State::SYN_RECV => {
                        let place = (netns, socket.lport);
                        half_open.entry(place).or_default().add(socket);
                    }
                    // Merely bound.
                    State::CLOSE | State::BOUND_INACTIVE => continue,
                    _ => {}
                }
                let role = namespace.role(socket);
                let key = GroupKey {
                    netns,
                    port: role.service_port(socket.lport, socket.rport),
                    role,
                    state: socket.state,
                };
                if role == Role::Client {
                    let route = RouteKey {
                        netns,
                        laddr: socket.laddr,
                        raddr: socket.raddr,
                        rport: socket.rport,
                    };
                    this.routes.of(route).add(socket.state);
                    let ports = client_ports.get_or_insert_default();
                    ports.insert(socket.lport);
                }
                if socket.state == State::ESTABLISHED && this.idle.len() < MAX_IDLE {
                    this.add_idle(socket, thresholds);
                }
                if is_plain(socket) {
                    groups.add_plain(key);
                } else {
                    let named = groups.add(&Seen::of(socket, key, inventory), thresholds);
                    unnamed.extend(named.zip(inventory.held_inode(socket)));
                }
            }
            this.client_ports
                .extend(client_ports.map(|ports| (netns, ports)));
        }
        let owners: Vec<Option<Process>> = unnamed
            .iter()
            .map(|&(_, inode)| inventory.holders_of(inode).first().copied())
            .collect();
        for (&(named, _), owner) in unnamed.iter().zip(owners) {
            groups.own(named, owner);
        }
        this.groups = groups.into_map();
        for listener in &mut this.listeners {
            // Where several share a port, the first that has half-open connections has them all.
            if listener.half_open > 0
                && let Some(all) = half_open.remove(&(listener.netns, listener.port))
            {
                listener.half_open_peers = all.peers;
                listener.resent = all.resent;
                listener.synack_retransmits = all.retransmits;
                listener.deferred = all.deferred;
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
        let mut groups = Groups::default();
        for connection in &tracked.connections {
            if let Some(seen) = Seen::of_tracked(connection, tracked.now_ns) {
                if seen.key.role == Role::Client {
                    let route = RouteKey {
                        netns: seen.key.netns,
                        laddr: seen.local.0,
                        raddr: seen.remote.0,
                        rport: seen.remote.1,
                    };
                    this.routes.of(route).add(seen.key.state);
                    let ports = this.client_ports.entry(seen.key.netns).or_default();
                    ports.insert(seen.local.1);
                }
                if let Some(named) = groups.add(&seen, thresholds) {
                    groups.own(named, process(&connection.owner));
                }
            }
        }
        this.groups = groups.into_map();
        for listener in &tracked.listeners {
            this.listeners.push(ListenerNow {
                cookie: match listener.id {
                    SocketId::Cookie(cookie) => cookie,
                    SocketId::Address(_) => 0,
                },
                netns: listener.netns.unwrap_or(0),
                laddr: listener.laddr.unwrap_or(IpAddr::from([0_u8; 16])),
                port: listener.lport,
                waiting: None,
                backlog: None,
                drops: None,
                half_open: 0,
                half_open_peers: Top::default(),
                resent: 0,
                synack_retransmits: 0,
                deferred: 0,
                owner: process(&listener.owner),
            });
        }
        this
    }

    /// Keeps the time for which an established socket has been idle, if it is long.
    fn add_idle(&mut self, socket: &Socket, thresholds: &Thresholds) {
        let Some(ms) = socket.last_packet_ms() else {
            return;
        };
        let idle_ns = u64::from(ms) * 1_000_000;
        if idle_ns >= thresholds.idle_time {
            self.idle.insert((socket.netns, socket.cookie), idle_ns);
        }
    }
}

/// A listener, without its half-open connections.
fn listener(socket: &Socket, inventory: &Inventory) -> ListenerNow {
    ListenerNow {
        cookie: socket.cookie,
        netns: socket.netns,
        laddr: socket.laddr,
        port: socket.lport,
        waiting: Some(socket.rqueue),
        backlog: Some(socket.wqueue),
        drops: socket.drops,
        half_open: inventory.listening.half_open(socket).count,
        half_open_peers: Top::default(),
        resent: 0,
        synack_retransmits: 0,
        deferred: 0,
        owner: inventory.holders(socket).first().copied(),
    }
}

/// Whether two sockets are of one namespace.
fn is_beside(one: &Socket, next: &Socket) -> bool {
    if !is_plain(next) {
        // In another cache line.
        black_box(next.info.is_some());
    }
    one.netns == next.netns
}

/// Whether no rule asks for more than that it is there: nothing waits for its peer, and its age does not matter.
fn is_plain(socket: &Socket) -> bool {
    let may_be_old = matches!(socket.state, State::ESTABLISHED | State::TIME_WAIT);
    let awaits_peer = socket
        .timer
        .is_some_and(|timer| matches!(timer.kind, TimerKind::Retransmit | TimerKind::Probe));
    may_be_old && !awaits_peer
}

/// The facts about a socket that a group is made from.
struct Seen {
    key: GroupKey,
    age: Option<Age>,
    /// [`Socket::unanswered`].
    unanswered: Option<Age>,
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
    /// Received and not read; to be acknowledged: bytes.
    queues: Option<(u32, u32)>,
    timer: Option<(TimerKind, u8)>,
    is_unaccepted: bool,
    is_orphan: bool,
}

impl Seen {
    fn of(socket: &Socket, key: GroupKey, inventory: &Inventory) -> Self {
        let unanswered = socket.unanswered();
        Self {
            key,
            // No packet begins these states, so that the kernel has no time of it: while the peer does not answer, its
            // silence is what matters.
            age: match socket.state {
                State::SYN_SENT | State::FIN_WAIT1 | State::LAST_ACK | State::CLOSING => {
                    longer(inventory.age(socket), unanswered)
                }
                // They are most of all, and no rule asks.
                State::ESTABLISHED | State::TIME_WAIT => None,
                _ => inventory.age(socket),
            },
            unanswered,
            local: (socket.laddr, socket.lport),
            remote: (socket.raddr, socket.rport),
            queues: Some((socket.rqueue, socket.wqueue)),
            timer: socket.timer.map(|timer| (timer.kind, timer.retransmits)),
            is_unaccepted: socket.is_unaccepted(),
            is_orphan: socket.inode.is_none() && !socket.is_unaccepted(),
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
            age,
            unanswered: None,
            local: (connection.laddr?, connection.lport?),
            remote: (connection.raddr?, connection.rport?),
            queues: None,
            timer: None,
            is_unaccepted: false,
            is_orphan: false,
        })
    }
}

/// The list of processes, in a group, that a socket's owner belongs to.
#[derive(Clone, Copy)]
struct Named {
    /// The place in [`Groups::all`].
    group: usize,
    /// [`Group::probing_owners`], not [`Group::owners`].
    is_probing: bool,
}

/// Groups while they are filled.
#[derive(Default)]
struct Groups {
    /// The plain sockets of each service, which are most of all: `ESTABLISHED` and `TIME_WAIT`. Small, so that it stays in
    /// the nearest cache.
    plain: HashMap<ServiceKey, [u32; 2], BuildMixer>,
    /// The places in `all`, of those groups of which more is known than their number.
    index: HashMap<GroupKey, usize, BuildMixer>,
    all: Vec<(GroupKey, Group)>,
}

/// A service, from one side, in one word: it is looked up for every socket.
#[derive(Clone, Copy, PartialEq, Eq)]
struct ServiceKey(u64);

impl ServiceKey {
    fn of(key: GroupKey) -> Self {
        let port = u64::from(key.port.unwrap_or(0));
        Self(u64::from(key.netns) << 32 | port << 8 | key.role as u64)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the parts of which the word was made"
    )]
    fn in_state(self, state: State) -> GroupKey {
        let port = (self.0 >> 8) as u16;
        let roles = [Role::Unknown, Role::Client, Role::Server];
        GroupKey {
            netns: (self.0 >> 32) as u32,
            port: (port != 0).then_some(port),
            role: roles
                .into_iter()
                .find(|&role| role as u8 == self.0 as u8)
                .unwrap_or_default(),
            state,
        }
    }
}

impl Hash for ServiceKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

impl Groups {
    /// Counts a socket that [`is_plain`].
    fn add_plain(&mut self, key: GroupKey) {
        let [established, time_wait] = self.plain.entry(ServiceKey::of(key)).or_default();
        *(if key.state == State::TIME_WAIT {
            time_wait
        } else {
            established
        }) += 1;
    }

    fn place(&mut self, key: GroupKey) -> usize {
        *self.index.entry(key).or_insert_with(|| {
            self.all.push((key, Group::default()));
            self.all.len() - 1
        })
    }

    /// Counts any other socket, and all about it. Returned: where its owner belongs.
    #[expect(clippy::indexing_slicing, reason = "the index has places of the list")]
    fn add(&mut self, seen: &Seen, thresholds: &Thresholds) -> Option<Named> {
        let place = self.place(seen.key);
        let group = &mut self.all[place].1;
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
        let runs = |wanted| seen.timer.is_some_and(|(kind, _)| kind == wanted);
        let unanswered_ns = seen.unanswered.map_or(0, |age| age.at_least_ns);
        let backs_off = runs(TimerKind::Retransmit)
            && seen
                .timer
                .is_some_and(|(_, expired)| u64::from(expired) >= thresholds.backoffs);
        let probes = runs(TimerKind::Probe) && unanswered_ns >= thresholds.zero_window_age;
        if backs_off {
            group.retransmitting += 1;
            group.longest_silence = longer(group.longest_silence, seen.unanswered);
        }
        if probes {
            group.probing += 1;
            group.longest_probing = longer(group.longest_probing, seen.unanswered);
        }
        let limit_ns = match seen.key.state {
            State::CLOSE_WAIT => Some(thresholds.close_wait_age),
            State::FIN_WAIT2 => Some(thresholds.fin_wait2_age),
            State::FIN_WAIT1 | State::LAST_ACK | State::CLOSING => Some(thresholds.closing_age),
            State::SYN_SENT => Some(thresholds.syn_sent_age),
            _ => None,
        };
        // The kernel ends these.
        let is_passing = seen.key.state == State::FIN_WAIT2 && seen.is_orphan;
        let is_stale = !is_passing
            && limit_ns
                .is_some_and(|limit_ns| seen.age.is_some_and(|age| age.at_least_ns >= limit_ns));
        if is_stale {
            group.stale += 1;
            if runs(TimerKind::Retransmit) {
                group.silent += 1;
                group.silent_orphans += u64::from(seen.is_orphan);
            }
            if runs(TimerKind::Probe) {
                group.blocked += 1;
                group.blocked_orphans += u64::from(seen.is_orphan);
            }
            group.unaccepted += u64::from(seen.is_unaccepted);
            group.orphans += u64::from(seen.is_orphan);
            if let Some((unread, unsent)) = seen.queues {
                group.unread += u64::from(unread > 1);
                group.eof_unread += u64::from(unread > 0);
                group.unsent += u64::from(unsent > 0);
            }
        }
        let is_probing = if is_stale || (limit_ns.is_none() && backs_off) {
            group.peers.add(seen.remote.0);
            false
        } else if limit_ns.is_none() && probes {
            group.probing_peers.add(seen.remote.0);
            true
        } else {
            return None;
        };
        Some(Named {
            group: place,
            is_probing,
        })
    }

    /// The owner of a socket, which belongs there.
    fn own(&mut self, named: Named, owner: Option<Process>) {
        let group = self.all.get_mut(named.group);
        if let Some(((_, group), owner)) = group.zip(owner) {
            let owners = if named.is_probing {
                &mut group.probing_owners
            } else {
                &mut group.owners
            };
            owners.add(owner);
        }
    }

    #[expect(clippy::indexing_slicing, reason = "the index has places of the list")]
    fn into_map(mut self) -> HashMap<GroupKey, Group> {
        for (service, counts) in std::mem::take(&mut self.plain) {
            for (state, count) in [State::ESTABLISHED, State::TIME_WAIT]
                .into_iter()
                .zip(counts)
            {
                if count > 0 {
                    let place = self.place(service.in_state(state));
                    self.all[place].1.count += u64::from(count);
                }
            }
        }
        self.all.into_iter().collect()
    }
}

/// The half-open connections of a port.
#[derive(Default)]
struct HalfOpen {
    peers: Top<IpAddr>,
    resent: u64,
    retransmits: u64,
    deferred: u64,
}

impl HalfOpen {
    fn add(&mut self, socket: &Socket) {
        self.peers.add(socket.raddr);
        let Some(timer) = socket.timer else { return };
        self.resent += u64::from(timer.retransmits > 0);
        self.retransmits += u64::from(timer.retransmits);
        let has_expired = timer.expires_ms > FIRST_SYNACK_TIMEOUT_MS;
        self.deferred += u64::from(timer.retransmits == 0 && has_expired);
    }
}

/// The first time-out of a SYN-ACK, with a tick of the kernel's clock: a timer with more left has expired.
const FIRST_SYNACK_TIMEOUT_MS: u32 = 1_010;

/// The longer of two times.
fn longer(one: Option<Age>, other: Option<Age>) -> Option<Age> {
    one.into_iter()
        .chain(other)
        .max_by_key(|age| age.at_least_ns)
}

/// The process that an owner is, where it is one.
fn process(owner: &Owner) -> Option<Process> {
    let Comm(comm) = owner.comm?;
    Some(Process {
        pid: owner.pid?,
        comm,
    })
}

#[cfg(test)]
mod tests;
