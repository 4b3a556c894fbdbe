//! The sockets of a moment, in groups: all that a rule reads of them.

mod filling;
mod routes;
mod workloads;

use std::{net::IpAddr, ops::RangeInclusive};

use hashbrown::HashMap;
use tcpstate_common::State;

pub(super) use self::routes::Routes;
pub use self::{
    routes::{Route, RouteKey},
    workloads::WorkloadKey,
};
use super::Top;
use crate::{event::Process, hash::BuildMixer, inventory::Age, service::Role};

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
    /// All sockets by what they belong to, where that was asked for ([`Self::with_workloads`]).
    pub workloads: HashMap<WorkloadKey, u64>,
    /// Clients' connections by where they go from and to: what shares a range of local ports.
    pub(super) routes: Routes,
    /// The local ports of clients in each network namespace, each counted once.
    pub(super) client_ports: HashMap<u32, Ports, BuildMixer>,
    /// Established connections that were idle ([`idle_time`](super::Thresholds::idle_time)): the time since their last
    /// packet, in nanoseconds, by namespace and cookie. Of so many that a reset may end soon.
    pub(super) idle: HashMap<(u32, u64), u64, BuildMixer>,
}

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
    /// The cookie of its socket; 0 is unknown.
    pub cookie: u64,
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
    /// The packets that it has dropped since it was made ([`Socket::drops`](crate::inventory::Socket::drops)); `None` is unknown.
    pub drops: Option<u32>,
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

/// A set of ports, in blocks: small where there are few, as there may be a set for each of very many namespaces.
#[derive(Clone, Debug, Default)]
pub struct Ports([Option<Box<[u64; Ports::WORDS]>>; 32]);

impl Ports {
    const WORDS: usize = 32;

    /// The block, the word in it, and the bit in that.
    const fn place(port: u16) -> (usize, usize, u64) {
        let word = port as usize / 64;
        (word / Self::WORDS, word % Self::WORDS, 1 << (port % 64))
    }

    pub(super) fn insert(&mut self, port: u16) {
        let (block, word, bit) = Self::place(port);
        if let Some(block) = self.0.get_mut(block)
            && let Some(word) = block.get_or_insert_default().get_mut(word)
        {
            *word |= bit;
        }
    }

    /// Their number.
    pub fn count(&self) -> u32 {
        let words = self.0.iter().flatten().flat_map(|block| block.iter());
        words.map(|word| word.count_ones()).sum()
    }

    /// The number of those in a range.
    pub fn count_in(&self, range: &RangeInclusive<u16>) -> u32 {
        let has = |port: u16| {
            let (block, word, bit) = Self::place(port);
            let block = self.0.get(block).and_then(Option::as_ref);
            block.is_some_and(|block| block.get(word).is_some_and(|word| word & bit != 0))
        };
        let count = range.clone().filter(|&port| has(port)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

impl Survey {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_ports_has_blocks_only_where_ports_are() {
        let mut ports = Ports::default();
        for port in [0, 63, 64, 2_047, 2_047, 40_000, u16::MAX] {
            ports.insert(port);
        }
        assert_eq!(ports.count(), 6);
        assert_eq!(ports.0.iter().flatten().count(), 3);
        for (range, count) in [
            (0..=u16::MAX, 6),
            (1..=64, 2),
            (2_047..=2_047, 1),
            (2_048..=39_999, 0),
            (40_000..=65_534, 1),
        ] {
            assert_eq!(ports.count_in(&range), count, "{range:?}");
        }
    }
}
