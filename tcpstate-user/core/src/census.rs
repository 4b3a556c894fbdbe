//! The census: the part of the stream that reports the result of a dump, which no tracepoint shows.
//!
//! The tracepoint shows neither the sockets that were there before it was attached, nor the small ones
//! in which the kernel keeps a connection before it is established (a *request socket*, half-open) and
//! after its transition to CLOSE (a *minisocket*, in `FIN_WAIT2` or `TIME_WAIT`). So a source dumps them:
//! all sockets once at its start (*seeding*), and then the small ones every interval (*sampling*).
//!
//! A census stands in the stream after every event that was made before its dump began. A socket that
//! had an event during the dump is not in [`Census::found`]: the event is newer than the dump.
//!
//! Pure: types only. A recording has them as JSON.

use std::{mem::take, net::IpAddr};

use serde::{Deserialize, Serialize};
use tcpstate_common::State;

use crate::{
    event::Process,
    owner::{Comm, How, Owner},
    service::Role,
};

/// The time for which the kernel keeps a minisocket in `TIME_WAIT`.
///
/// *Source:* `TCP_TIMEWAIT_LEN` in `include/net/tcp.h`, which is a constant.
pub const TIME_WAIT_NS: u64 = 60_000_000_000;

/// The most sockets in one part of a census: a block of a recording can hold as many.
pub const PART: usize = 4096;

/// The difference between a dump of one network namespace and the one before it, or a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    /// Inode number of the namespace.
    pub netns: u32,
    /// Monotonic nanoseconds at which the dump began: it has every socket that has been there since.
    pub begin_ns: u64,
    /// `begin_ns` of the census before this one in the same namespace: the time in between is the
    /// uncertainty of a sampled time. `None` for the first.
    pub previous_ns: Option<u64>,
    /// The sockets that it covers.
    #[serde(default, skip_serializing_if = "Scope::is_small")]
    pub scope: Scope,
    /// Sockets that were not in the dump before, or were in another state there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<Found>,
    /// Minisockets of the dump before that are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<Gone>,
    /// All connections that are half-open now, by their local end; of a census in parts, those of all parts
    /// ([`crate::handshakes::Parts`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub half_open: Vec<HalfOpen>,
    /// The processes that hold listeners, where that was looked up and is new.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<Held>,
    /// Half-open connections that were not in the dump before, or of which an earlier beginning is known now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<Request>,
    /// Cookies of half-open connections that are gone: established, or given up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests_gone: Vec<u64>,
    /// The counters of listeners since the census before.
    #[serde(default, skip_serializing_if = "ListenFigures::is_nothing")]
    pub listen: ListenFigures,
    /// Cookies of further sockets in the dump, which had an event during it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<u64>,
    /// Whether the census continues in a later part of this namespace; that part is missing where the
    /// dump failed in between.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// The sockets that a census covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The small sockets: minisockets and half-open connections. A sample.
    #[default]
    Small,
    /// All but the small ones: [`Census::found`] and [`Census::known`] of all its parts have every socket;
    /// one that is in neither has ended.
    All,
    /// As [`Scope::All`], but sockets may be missing: it proves no end.
    Some,
    /// None: the namespace is gone, and its minisockets with it.
    Vanished,
    /// None: the namespace cannot be dumped. It was gone first, or access is denied. The end of its
    /// minisockets is unknown.
    OutOfReach,
}

impl Scope {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
    const fn is_small(&self) -> bool {
        matches!(self, Self::Small)
    }

    /// Whether it covers the sockets that have events.
    pub const fn is_of_sockets(self) -> bool {
        matches!(self, Self::All | Self::Some)
    }
}

impl Census {
    /// The uncertainty of a time that follows from this census: the time since the one before.
    pub const fn interval_ns(&self) -> Option<u64> {
        match self.previous_ns {
            Some(previous_ns) => Some(self.begin_ns.saturating_sub(previous_ns)),
            None => None,
        }
    }

    /// The census in parts of at most [`PART`] sockets, without spare capacity. The last part has
    /// everything that does not belong to a single socket.
    pub fn into_parts(mut self) -> Vec<Self> {
        let processes: usize = self.held.iter().map(|held| held.by.len()).sum();
        let requests = self.requests.len() + self.requests_gone.len();
        let sockets = self.found.len() + self.known.len() + self.gone.len();
        if sockets + processes + requests + self.half_open.len() <= PART {
            return vec![self];
        }
        let (netns, begin_ns, previous_ns, scope) =
            (self.netns, self.begin_ns, self.previous_ns, self.scope);
        let empty = || Self {
            netns,
            begin_ns,
            previous_ns,
            scope,
            more: true,
            ..Self::default()
        };
        let mut parts = Vec::new();
        let found = chunks(take(&mut self.found));
        parts.extend(found.map(|found| Self { found, ..empty() }));
        let known = chunks(take(&mut self.known));
        parts.extend(known.map(|known| Self { known, ..empty() }));
        let gone = chunks(take(&mut self.gone));
        parts.extend(gone.map(|gone| Self { gone, ..empty() }));
        let held = in_parts(take(&mut self.held)).into_iter();
        parts.extend(held.map(|held| Self { held, ..empty() }));
        let requests = chunks(take(&mut self.requests));
        parts.extend(requests.map(|requests| Self {
            requests,
            ..empty()
        }));
        let gone = chunks(take(&mut self.requests_gone));
        parts.extend(gone.map(|requests_gone| Self {
            requests_gone,
            ..empty()
        }));
        let half_open = chunks(take(&mut self.half_open));
        parts.extend(half_open.map(|half_open| Self {
            half_open,
            ..empty()
        }));
        parts.push(self);
        parts
    }
}

/// A list in parts of at most [`PART`] processes, or of one listener.
fn in_parts(list: Vec<Held>) -> Vec<Vec<Held>> {
    let mut parts: Vec<Vec<Held>> = Vec::new();
    let mut room = 0;
    for held in list {
        let processes = held.by.len() + 1;
        match parts.last_mut() {
            Some(part) if processes <= room => part.push(held),
            _ => {
                room = PART;
                parts.push(vec![held]);
            }
        }
        room = room.saturating_sub(processes);
    }
    parts
}

/// A list in chunks of [`PART`], in order.
fn chunks<T>(mut list: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let mut chunks = Vec::with_capacity(list.len().div_ceil(PART));
    // From its end: nothing is moved twice, and spare capacity is given back at once.
    while !list.is_empty() {
        chunks.push(list.split_off((list.len() - 1) / PART * PART));
        list.shrink_to_fit();
    }
    chunks.into_iter().rev()
}

/// A socket in a dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The kernel's socket cookie.
    pub cookie: u64,
    /// Its state.
    #[serde(with = "number")]
    pub state: State,
    /// The kind of socket.
    pub kind: Kind,
    /// The time at which it entered its state, monotonic nanoseconds, where its timer shows it: exact to
    /// a few milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ns: Option<u64>,
    /// A time at which it was in its state already, monotonic nanoseconds, where the kernel shows one that is
    /// earlier than the dump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub there_ns: Option<u64>,
    /// The address family of the socket: 2 (`AF_INET`) or 10 (`AF_INET6`).
    pub family: u8,
    /// Local address; v4-mapped ones are IPv4.
    pub laddr: IpAddr,
    /// Local port.
    pub lport: u16,
    /// Remote address; v4-mapped ones are IPv4.
    pub raddr: IpAddr,
    /// Remote port; 0 is none.
    pub rport: u16,
    /// Its role, as far as the listeners of the namespace show it.
    #[serde(with = "role", default, skip_serializing_if = "is_unknown")]
    pub role: Role,
    /// The user that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Id of its cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<u64>,
    /// The process that has it open, where that was looked up.
    #[serde(with = "owner", default, skip_serializing_if = "is_nobody")]
    pub owner: Owner,
}

/// The kinds of sockets in a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A full socket, which the tracepoint shows from now on.
    Socket,
    /// The remainder of a connection after its transition to CLOSE.
    Minisocket,
}

/// The most processes of one listener that a census has.
pub const MAX_HELD_BY: usize = 1024;

/// A listener, and the processes that hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The cookie of the listener.
    pub cookie: u64,
    /// Its local address; v4-mapped ones are IPv4.
    pub laddr: IpAddr,
    /// Its local port.
    pub lport: u16,
    /// The processes, at most [`MAX_HELD_BY`]: its owner first, as far as that follows from them.
    pub by: Vec<Process>,
}

/// A minisocket that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// The cookie that it had.
    pub cookie: u64,
    /// The time of its end, monotonic nanoseconds: of its timer's expiry if that was within the interval;
    /// of the begin of this census if it went later; of the first census without it if earlier.
    pub at_ns: u64,
}

/// A half-open connection: a request socket. The socket that it becomes has the same cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The kernel's socket cookie.
    pub cookie: u64,
    /// Time by which its SYN had come, monotonic nanoseconds.
    pub since_ns: u64,
    /// By how much earlier it may have come, nanoseconds; `None`: by any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ns: Option<u64>,
}

/// The connections at one local end whose handshake is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HalfOpen {
    /// The local address of the connections, not of the listener.
    pub laddr: IpAddr,
    /// The local port.
    pub lport: u16,
    /// The number of connections.
    pub count: u64,
    /// The age of the oldest, nanoseconds, where their timers show it.
    pub oldest_ns: Option<u64>,
    /// Where they do not: the age that it has at least, nanoseconds.
    #[serde(default)]
    pub oldest_at_least_ns: Option<u64>,
    /// Retransmissions of their SYN-ACKs, all together.
    pub synack_retransmits: u64,
}

/// The counters of listeners and of handshakes. `None` where the kernel does not count it, and in the
/// first dump, whose counts are from before the capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenFigures {
    /// Connections that the accept queue had no room for (`ListenOverflows`).
    pub overflows: Option<u64>,
    /// SYNs and handshakes that were dropped, for any reason (`ListenDrops`).
    pub drops: Option<u64>,
    /// SYNs that were dropped because the SYN queue was full and cookies are off (`TCPReqQFullDrop`).
    pub request_queue_full_drops: Option<u64>,
    /// SYN cookies sent (`SyncookiesSent`).
    pub cookies_sent: Option<u64>,
    /// Retransmissions of SYN-ACKs.
    pub synack_retransmits: Option<u64>,
}

impl ListenFigures {
    /// Whether nothing is known.
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Adds the counts of another namespace, or of a later time.
    pub fn add(&mut self, more: &Self) {
        let sum = |sum: &mut Option<u64>, more: Option<u64>| {
            if let Some(more) = more {
                *sum = Some(sum.unwrap_or(0).saturating_add(more));
            }
        };
        sum(&mut self.overflows, more.overflows);
        sum(&mut self.drops, more.drops);
        sum(
            &mut self.request_queue_full_drops,
            more.request_queue_full_drops,
        );
        sum(&mut self.cookies_sent, more.cookies_sent);
        sum(&mut self.synack_retransmits, more.synack_retransmits);
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
const fn is_unknown(role: &Role) -> bool {
    matches!(role, Role::Unknown)
}

const fn is_nobody(owner: &Owner) -> bool {
    matches!(owner.how, How::Unknown)
}

/// A state as the kernel numbers it.
mod number {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use tcpstate_common::State;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
    pub(super) fn serialize<S: Serializer>(state: &State, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u8(state.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<State, D::Error> {
        u8::deserialize(from).map(State)
    }
}

/// A role by its name.
mod role {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::service::Role;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
    pub(super) fn serialize<S: Serializer>(role: &Role, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(role.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Role, D::Error> {
        let name = String::deserialize(from)?;
        let known = [Role::Client, Role::Server];
        let found = known.into_iter().find(|role| role.name() == name);
        Ok(found.unwrap_or(Role::Unknown))
    }
}

/// An owner by process id and the bytes of its name.
mod owner {
    use super::{Comm, Deserialize, How, Owner, Serialize};
    use serde::{Deserializer, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Wire {
        pid: Option<u32>,
        comm: Option<[u8; 16]>,
        listener: bool,
    }

    pub(super) fn serialize<S: Serializer>(owner: &Owner, to: S) -> Result<S::Ok, S::Error> {
        let wire = Wire {
            pid: owner.pid,
            comm: owner.comm.map(|comm| comm.0),
            listener: owner.how == How::Listener,
        };
        wire.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Owner, D::Error> {
        let wire = Wire::deserialize(from)?;
        Ok(Owner {
            pid: wire.pid,
            comm: wire.comm.map(Comm),
            how: if wire.listener {
                How::Listener
            } else {
                How::Seeded
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_census_are_the_census_without_spare_capacity() {
        let gone = |cookie| Gone { cookie, at_ns: 1 };
        let half_open = |number: u16| HalfOpen {
            laddr: [127, 0, 0, 1].into(),
            lport: number,
            count: 1,
            oldest_ns: None,
            oldest_at_least_ns: None,
            synack_retransmits: 0,
        };
        let census = Census {
            netns: 7,
            scope: Scope::All,
            known: (0..=PART as u64).collect(),
            gone: (0..3 * PART as u64).map(gone).collect(),
            half_open: (0..50_000).map(half_open).collect(),
            listen: ListenFigures {
                drops: Some(1),
                ..ListenFigures::default()
            },
            ..Census::default()
        };
        let parts = census.clone().into_parts();
        assert_eq!(parts.len(), 2 + 3 + 13 + 1);
        let mut together = Census::default();
        for (number, part) in parts.iter().enumerate() {
            assert_eq!((part.netns, part.scope), (7, Scope::All));
            assert_eq!(part.more, number < 18);
            assert!(part.known.len() + part.gone.len() + part.half_open.len() <= PART);
            assert!(part.known.capacity() <= PART && part.gone.capacity() <= PART);
            assert!(part.half_open.capacity() <= PART);
            together.known.extend(&part.known);
            together.gone.extend(&part.gone);
            together.half_open.extend(&part.half_open);
            together.listen.add(&part.listen);
        }
        let (netns, scope) = (census.netns, census.scope);
        assert_eq!(
            Census {
                netns,
                scope,
                ..together
            },
            census
        );
        let small = Census {
            gone: vec![gone(1); PART],
            ..Census::default()
        };
        assert_eq!(small.clone().into_parts(), [small]);
    }

    #[test]
    fn no_part_has_more_processes_than_sockets() {
        let held = |cookie: u64, by: usize| Held {
            cookie,
            laddr: [127, 0, 0, 1].into(),
            lport: 80,
            by: vec![
                Process {
                    pid: 1,
                    comm: [0; 16]
                };
                by
            ],
        };
        let census = Census {
            held: (0..10).map(|cookie| held(cookie, MAX_HELD_BY)).collect(),
            ..Census::default()
        };
        let parts = census.clone().into_parts();
        let processes = |part: &Census| part.held.iter().map(|held| held.by.len()).sum::<usize>();
        assert!(parts.iter().all(|part| processes(part) <= PART));
        let together: Vec<Held> = parts.iter().flat_map(|part| part.held.clone()).collect();
        assert_eq!(together, census.held);
        let small = Census {
            held: vec![held(1, 3)],
            ..Census::default()
        };
        assert_eq!(small.clone().into_parts(), [small]);
    }

    #[test]
    fn a_census_survives_json_which_omits_what_is_empty() {
        let census = Census {
            netns: 7,
            begin_ns: 2_000,
            previous_ns: Some(1_000),
            scope: Scope::All,
            found: vec![Found {
                cookie: 42,
                state: State::ESTABLISHED,
                kind: Kind::Socket,
                since_ns: None,
                there_ns: Some(1_000),
                family: 2,
                laddr: [127, 0, 0, 1].into(),
                lport: 80,
                raddr: [127, 0, 0, 1].into(),
                rport: 40_000,
                role: Role::Server,
                uid: Some(0),
                cgroup: None,
                owner: Owner {
                    pid: Some(3),
                    comm: Some(Comm(*b"nginx\0\0\0\0\0\0\0\0\0\0\0")),
                    how: How::Listener,
                },
            }],
            gone: vec![Gone {
                cookie: 41,
                at_ns: 1_500,
            }],
            requests: vec![Request {
                cookie: 44,
                since_ns: 1_200,
                interval_ns: Some(1_000),
            }],
            requests_gone: vec![40],
            half_open: vec![HalfOpen {
                laddr: [127, 0, 0, 1].into(),
                lport: 80,
                count: 3,
                oldest_ns: Some(5),
                oldest_at_least_ns: None,
                synack_retransmits: 1,
            }],
            listen: ListenFigures {
                drops: Some(0),
                ..ListenFigures::default()
            },
            held: vec![Held {
                cookie: 44,
                laddr: [127, 0, 0, 1].into(),
                lport: 80,
                by: vec![Process {
                    pid: 3,
                    comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
                }],
            }],
            known: vec![43],
            more: true,
        };
        assert_eq!(census.interval_ns(), Some(1_000));
        let json = serde_json::to_string(&census).unwrap();
        assert_eq!(serde_json::from_str::<Census>(&json).unwrap(), census);
        let empty = serde_json::to_string(&Census::default()).unwrap();
        assert_eq!(empty, r#"{"netns":0,"begin_ns":0,"previous_ns":null}"#);
    }
}
