//! The sockets of a moment, in groups: all that a rule reads of them.

use std::{
    hash::{Hash, Hasher},
    net::IpAddr,
    ops::RangeInclusive,
};

use hashbrown::HashMap;
use tcpstate_common::State;

use super::{Thresholds, Top};
use crate::{
    event::Process,
    hash::BuildMixer,
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
    pub(super) routes: HashMap<RouteKey, Route, BuildMixer>,
    /// The local ports of clients in each network namespace, each counted once.
    pub(super) client_ports: HashMap<u32, Ports, BuildMixer>,
    /// Established connections that were idle ([`Thresholds::idle_time`]): the time since their last packet, in
    /// nanoseconds, by namespace and cookie. Of so many that a reset may end soon.
    pub(super) idle: HashMap<(u32, u64), u64, BuildMixer>,
}

/// The most idle connections whose time is kept.
const MAX_IDLE: usize = 65_536;

/// The facts that sockets of a group have in common.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// In two words where it is IPv4: this is done for every socket of a client.
impl Hash for RouteKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.netns) << 16 | u64::from(self.rport));
        if let (IpAddr::V4(local), IpAddr::V4(remote)) = (self.laddr, self.raddr) {
            state.write_u64(u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits()));
        } else {
            self.laddr.hash(state);
            self.raddr.hash(state);
        }
    }
}

/// A client's connections from one address to one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Their number, in all states.
    pub sockets: u32,
    /// Those in `TIME_WAIT`.
    pub time_wait: u32,
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
    /// The age of the oldest that is known to be the oldest; `None` for `ESTABLISHED` and `TIME_WAIT`, which may be old.
    pub oldest: Option<Age>,
    /// That one.
    pub example: Option<Example>,
    /// Those older than the threshold of their state. In `FIN_WAIT2` only those that a process has open.
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
    /// Those of `stale` that send again and again, and get no answer.
    pub silent: u64,
    /// Those of `silent` that their process has closed.
    pub silent_orphans: u64,
    /// Those of `stale` that probe the peer's closed window.
    pub blocked: u64,
    /// Those of `blocked` that their process has closed.
    pub blocked_orphans: u64,
    /// Those with a retransmit timer that has expired as often as the threshold says.
    pub retransmitting: u64,
    /// The longest time for which one of these has had no answer.
    pub longest_silence: Option<Age>,
    /// Those that have probed the peer's closed window for as long as the threshold says.
    pub probing: u64,
    /// The longest time for which one of these has probed.
    pub longest_probing: Option<Age>,
    /// The remote addresses of `stale`; of established ones, of `retransmitting`.
    pub peers: Top<IpAddr>,
    /// The processes of the same.
    pub owners: Top<Process>,
    /// The remote addresses of `probing`, of established ones.
    pub probing_peers: Top<IpAddr>,
    /// The processes of the same.
    pub probing_owners: Top<Process>,
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
    /// Those whose SYN-ACK was sent again.
    pub resent: u64,
    /// Retransmissions of their SYN-ACKs, all together.
    pub synack_retransmits: u64,
    /// Those whose timer has expired without a retransmission: the client has acknowledged the SYN-ACK, and the listener
    /// waits for data (`TCP_DEFER_ACCEPT`). A part of these looks as new as others.
    pub deferred: u64,
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
    pub(super) fn insert(&mut self, port: u16) {
        if let Some(word) = self.0.get_mut(usize::from(port / 64)) {
            *word |= 1 << (port % 64);
        }
    }

    /// Their number.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// The number of those in a range.
    pub fn count_in(&self, range: &RangeInclusive<u16>) -> u32 {
        let has = |port: u16| {
            let word = self.0.get(usize::from(port / 64));
            word.is_some_and(|word| word & (1 << (port % 64)) != 0)
        };
        let count = range.clone().filter(|&port| has(port)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

/// The facts about a socket that the groups are made from.
struct Seen {
    key: GroupKey,
    cookie: Option<u64>,
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
        let mut half_open: HashMap<(u32, u16), HalfOpen> = HashMap::new();
        let mut groups = Groups::default();
        if inventory.sockets.len() > MAX_IDLE {
            this.idle.reserve(MAX_IDLE);
        }
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
                        resent: 0,
                        synack_retransmits: 0,
                        deferred: 0,
                        owner,
                    });
                    continue;
                }
                State::SYN_RECV => {
                    let place = (socket.netns, socket.lport);
                    half_open.entry(place).or_default().add(socket);
                }
                // Merely bound.
                State::CLOSE | State::BOUND_INACTIVE => continue,
                _ => {}
            }
            let seen = Seen::of(socket, inventory);
            let owner = || inventory.holders(socket).first().copied();
            this.add(&seen, &mut groups, thresholds, owner);
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
                let owner = || process(&connection.owner);
                this.add(&seen, &mut groups, thresholds, owner);
            }
        }
        this.groups = groups.into_map();
        for listener in &tracked.listeners {
            this.listeners.push(ListenerNow {
                netns: listener.netns.unwrap_or(0),
                laddr: listener.laddr.unwrap_or(IpAddr::from([0_u8; 16])),
                port: listener.lport,
                waiting: None,
                backlog: None,
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

    /// The groups in this state, with their keys.
    pub fn in_state(&self, state: State) -> impl Iterator<Item = (&GroupKey, &Group)> {
        self.groups
            .iter()
            .filter(move |(key, _)| key.state == state)
    }

    /// The sockets of this service in all states.
    pub fn count_of(&self, netns: u32, role: Role, port: Option<u16>) -> u64 {
        let groups = State::ALL.iter().filter_map(|&state| {
            self.groups.get(&GroupKey {
                netns,
                port,
                role,
                state,
            })
        });
        groups.map(|group| group.count).sum()
    }

    fn add(
        &mut self,
        seen: &Seen,
        groups: &mut Groups,
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
            let route = self.routes.entry(route).or_default();
            route.sockets += 1;
            route.time_wait += u32::from(key.state == State::TIME_WAIT);
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
        let group = groups.of(key);
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
        let limit_ns = match key.state {
            State::CLOSE_WAIT => Some(thresholds.close_wait_age),
            State::FIN_WAIT2 => Some(thresholds.fin_wait2_age),
            State::FIN_WAIT1 | State::LAST_ACK | State::CLOSING => Some(thresholds.closing_age),
            State::SYN_SENT => Some(thresholds.syn_sent_age),
            _ => None,
        };
        // The kernel ends these.
        let is_passing = key.state == State::FIN_WAIT2 && seen.is_orphan;
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
        let (peers, owners) = if is_stale || (limit_ns.is_none() && backs_off) {
            (&mut group.peers, &mut group.owners)
        } else if limit_ns.is_none() && probes {
            (&mut group.probing_peers, &mut group.probing_owners)
        } else {
            return;
        };
        peers.add(seen.remote.0);
        if let Some(owner) = owner() {
            owners.add(owner);
        }
    }
}

impl Seen {
    fn of(socket: &Socket, inventory: &Inventory) -> Self {
        let role = inventory.listening.role(socket);
        let is_established = socket.state == State::ESTABLISHED;
        let last_ms = socket.last_packet_ms().filter(|_| is_established);
        let unanswered = socket.unanswered();
        Self {
            key: GroupKey {
                netns: socket.netns,
                port: role.service_port(socket.lport, socket.rport),
                role,
                state: socket.state,
            },
            cookie: Some(socket.cookie),
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
            unanswered: None,
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

/// Groups while they are filled: of a million sockets each looks up its own, which must cost little.
#[derive(Default)]
struct Groups {
    /// The places in `all`, by the whole key in one word.
    index: HashMap<u64, usize, BuildMixer>,
    all: Vec<(GroupKey, Group)>,
}

impl Groups {
    #[expect(clippy::indexing_slicing, reason = "the index has places of the list")]
    fn of(&mut self, key: GroupKey) -> &mut Group {
        let word = u64::from(key.netns) << 32
            | u64::from(key.port.unwrap_or(0)) << 16
            | (key.role as u64) << 8
            | u64::from(key.state.0);
        let at = *self.index.entry(word).or_insert_with(|| {
            self.all.push((key, Group::default()));
            self.all.len() - 1
        });
        &mut self.all[at].1
    }

    fn into_map(self) -> HashMap<GroupKey, Group> {
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
