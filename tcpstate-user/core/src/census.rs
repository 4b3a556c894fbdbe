//! What the kernel answers when it is asked for its sockets: the part of the stream that no
//! tracepoint makes.
//!
//! The tracepoint shows neither what was there before it was attached, nor the small sockets in which
//! the kernel keeps a connection before it is established (a *request socket*, half-open) and after
//! its transition to CLOSE (a *minisocket*, in `FIN_WAIT2` or `TIME_WAIT`). So a source asks: once for
//! all sockets at its start (*seeding*), and then every interval for the small ones (*sampling*).
//!
//! A census stands in the stream after every event that was made before its asking began, and the
//! source has settled the rest: a socket of which an event came while it was being listed is left
//! out, since the event knows better.
//!
//! Pure: types only. A recording holds them as they are, as JSON.

use std::{mem::take, net::IpAddr};

use serde::{Deserialize, Serialize};
use tcpstate_common::State;

use crate::{
    owner::{Comm, How, Owner},
    service::Role,
};

/// How long the kernel keeps a minisocket in `TIME_WAIT`.
///
/// *Source:* `TCP_TIMEWAIT_LEN` in `include/net/tcp.h`; it is no setting.
pub const TIME_WAIT_NS: u64 = 60_000_000_000;

/// Sockets in one part of a census at most: what a block of a recording can hold.
pub const PART: usize = 4096;

/// What was found in one network namespace, or a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    /// Inode number of the namespace.
    pub netns: u32,
    /// Monotonic nanoseconds at which the asking began: what was there all the time since is found.
    pub begin_ns: u64,
    /// `begin_ns` of the census before this one in the same namespace: the time in between is how
    /// exact a sampled time is. `None` for the first.
    pub previous_ns: Option<u64>,
    /// What it is of.
    #[serde(default, skip_serializing_if = "Scope::is_small")]
    pub scope: Scope,
    /// Sockets that were not in the census before, or are in another state than they were there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<Found>,
    /// Minisockets of the census before that are there no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<Gone>,
    /// All connections that are half-open now, by where they came in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub half_open: Vec<HalfOpen>,
    /// What happened to listeners since the census before.
    #[serde(default, skip_serializing_if = "ListenFigures::is_nothing")]
    pub listen: ListenFigures,
    /// Cookies of sockets that were found too, and of which an event came while they were being listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<u64>,
    /// The same census goes on in a later one of this namespace, unless the look into it failed there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// What a census is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The small sockets: minisockets and half-open connections. A sample.
    #[default]
    Small,
    /// All but the small ones: [`Census::found`] and [`Census::known`] have every socket, the parts before
    /// included, and what is not there has ended.
    All,
    /// As [`Scope::All`], but some may be missing: it proves no end.
    Some,
    /// Nothing: the namespace is gone, and all minisockets with it.
    Vanished,
    /// Nothing: the namespace cannot be asked. It was gone before we could, or we are not let in. How
    /// long its minisockets are there nobody knows.
    OutOfReach,
}

impl Scope {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
    const fn is_small(&self) -> bool {
        matches!(self, Self::Small)
    }

    /// Whether it is of sockets that events tell of.
    pub const fn is_of_sockets(self) -> bool {
        matches!(self, Self::All | Self::Some)
    }
}

impl Census {
    /// How exact a time is that follows from this census: the time since the one before.
    pub const fn interval_ns(&self) -> Option<u64> {
        match self.previous_ns {
            Some(previous_ns) => Some(self.begin_ns.saturating_sub(previous_ns)),
            None => None,
        }
    }

    /// In parts of at most [`PART`] sockets, each with room for its own and no more. The last one has all that is
    /// not of a single socket.
    pub fn into_parts(mut self) -> Vec<Self> {
        if self.found.len() + self.known.len() + self.gone.len() <= PART {
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
        parts.push(self);
        parts
    }
}

/// What is in a list, [`PART`] at a time, in order.
fn chunks<T>(mut list: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let mut chunks = Vec::with_capacity(list.len().div_ceil(PART));
    // From its end: nothing is moved twice, and the room that is left over is given back at once.
    while !list.is_empty() {
        chunks.push(list.split_off((list.len() - 1) / PART * PART));
        list.shrink_to_fit();
    }
    chunks.into_iter().rev()
}

/// A socket that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The kernel's socket cookie.
    pub cookie: u64,
    /// Its state.
    #[serde(with = "number")]
    pub state: State,
    /// What kind of socket it is.
    pub kind: Kind,
    /// Since when it is in its state, monotonic nanoseconds, where its timer tells: exact to a few
    /// milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ns: Option<u64>,
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
    /// Which side it is, as far as what listens in the namespace tells.
    #[serde(with = "role", default, skip_serializing_if = "is_unknown")]
    pub role: Role,
    /// The user it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Id of its cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<u64>,
    /// The process that holds it, where that was looked up.
    #[serde(with = "owner", default, skip_serializing_if = "is_nobody")]
    pub owner: Owner,
}

/// What kind of socket was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One that a process made or got, and that the tracepoint shows from now on.
    Socket,
    /// What the kernel keeps of a connection after its transition to CLOSE.
    Minisocket,
}

/// A minisocket that is there no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// The cookie that it had.
    pub cookie: u64,
    /// When it went, monotonic nanoseconds: when its timer was to expire if that is within the
    /// interval; if it went late, when this census began; if early, when the first census that missed it did.
    pub at_ns: u64,
}

/// Connections whose handshake is under way, by the local end where their SYN came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HalfOpen {
    /// The local address, of the connections and not of who listens.
    pub laddr: IpAddr,
    /// The local port.
    pub lport: u16,
    /// How many there are.
    pub count: u64,
    /// The age of the oldest, nanoseconds, where its timer tells.
    pub oldest_ns: Option<u64>,
    /// How often their SYN-ACKs have been sent again, all together.
    pub synack_retransmits: u64,
}

/// What happened to listeners and to connections on their way to one. `None` where the kernel does not
/// count it, or where it is the first look and the time before is not ours.
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
    /// SYN-ACKs that were sent again.
    pub synack_retransmits: Option<u64>,
}

impl ListenFigures {
    /// Whether it says nothing at all.
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// With what happened in another namespace, or later.
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
    fn the_parts_of_a_census_are_the_census_and_have_room_for_no_more() {
        let gone = |cookie| Gone { cookie, at_ns: 1 };
        let census = Census {
            netns: 7,
            scope: Scope::All,
            known: (0..=PART as u64).collect(),
            gone: (0..3 * PART as u64).map(gone).collect(),
            listen: ListenFigures {
                drops: Some(1),
                ..ListenFigures::default()
            },
            ..Census::default()
        };
        let parts = census.clone().into_parts();
        assert_eq!(parts.len(), 2 + 3 + 1);
        let mut together = Census::default();
        for (number, part) in parts.iter().enumerate() {
            assert_eq!((part.netns, part.scope), (7, Scope::All));
            assert_eq!(part.more, number < 5);
            assert!(part.known.len() + part.gone.len() <= PART);
            assert!(part.known.capacity() <= PART && part.gone.capacity() <= PART);
            together.known.extend(&part.known);
            together.gone.extend(&part.gone);
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
    fn a_census_survives_json_and_says_nothing_of_nothing() {
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
            half_open: vec![HalfOpen {
                laddr: [127, 0, 0, 1].into(),
                lport: 80,
                count: 3,
                oldest_ns: Some(5),
                synack_retransmits: 1,
            }],
            listen: ListenFigures {
                drops: Some(0),
                ..ListenFigures::default()
            },
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
