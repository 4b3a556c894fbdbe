//! From the bytes of the ring buffer, or of a recording, to an [`Event`].
//!
//! Pure and total: any bytes give an event or a [`DecodeError`], nothing panics, and an event is a
//! copy that does not refer to the memory it came from.

mod packet;

use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use tcpstate_common::{Record, State, record, transition};

pub use self::packet::{CONTROL_BITS, Packet};

/// One transition of one TCP socket: a [`Record`] that has been checked.
///
/// The accessors give `None` for a value that is not known, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event(Record);

/// The reason why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The length is not that of a record.
    #[error("a record is {expected} bytes long, this one has {0}", expected = Record::SIZE)]
    Length(usize),
    /// The address family is none that TCP runs on.
    #[error("address family {0} is neither AF_INET (2) nor AF_INET6 (10)")]
    Family(u8),
}

/// The identity of a socket in a stream of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SocketId {
    /// The kernel's socket cookie, unique until the next boot.
    Cookie(u64),
    /// The address of the `struct sock`, which the kernel reuses once the socket is freed.
    Address(u64),
}

/// A process, such as the one that made a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Process {
    /// Process (thread group) id in the initial pid namespace.
    pub pid: u32,
    /// The task's name as the kernel has it: NUL-padded bytes, chosen by the process itself.
    pub comm: [u8; 16],
}

impl Event {
    /// Decodes one record.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bytes: &[u8; Record::SIZE] = bytes
            .try_into()
            .map_err(|_| DecodeError::Length(bytes.len()))?;
        Self::try_from(Record::from_bytes(bytes))
    }

    /// The record as it was.
    pub const fn record(&self) -> &Record {
        &self.0
    }

    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub const fn ts_ns(&self) -> u64 {
        self.0.ts_ns
    }

    /// The socket's cookie where there is one, else its address.
    pub const fn id(&self) -> SocketId {
        if self.has(record::flags::COOKIE) {
            SocketId::Cookie(self.0.cookie)
        } else {
            SocketId::Address(self.0.skaddr)
        }
    }

    /// The socket's cookie.
    pub const fn cookie(&self) -> Option<u64> {
        if self.has(record::flags::COOKIE) {
            Some(self.0.cookie)
        } else {
            None
        }
    }

    /// The state before.
    pub const fn oldstate(&self) -> State {
        self.0.oldstate
    }

    /// The state after.
    pub const fn newstate(&self) -> State {
        self.0.newstate
    }

    /// Local address; v4-mapped ones are IPv4.
    pub fn laddr(&self) -> IpAddr {
        Ipv6Addr::from(self.0.laddr).to_canonical()
    }

    /// Remote address; v4-mapped ones are IPv4.
    pub fn raddr(&self) -> IpAddr {
        Ipv6Addr::from(self.0.raddr).to_canonical()
    }

    /// Local port; 0 where the kernel has not chosen one yet.
    pub const fn lport(&self) -> u16 {
        self.0.lport
    }

    /// Remote port; 0 where there is none (yet).
    pub const fn rport(&self) -> u16 {
        self.0.rport
    }

    /// Whether IPv4 travels on the wire: the addresses are IPv4 or v4-mapped.
    pub fn is_ipv4(&self) -> bool {
        self.0.family == record::AF_INET || self.laddr().is_ipv4() || self.raddr().is_ipv4()
    }

    /// Inode number of the network namespace.
    pub const fn netns(&self) -> Option<u32> {
        if self.0.netns == 0 {
            None
        } else {
            Some(self.0.netns)
        }
    }

    /// Id of the cgroup.
    pub const fn cgroup(&self) -> Option<u64> {
        if self.0.cgroup == 0 {
            None
        } else {
            Some(self.0.cgroup)
        }
    }

    /// The owner's user id. The number that no user has (`INVALID_UID`) is that of a socket whose owner is not known: it was
    /// rebuilt from packets.
    pub const fn uid(&self) -> Option<u32> {
        if self.has(record::flags::SOCKET) && self.0.uid != packet::NO_UID {
            Some(self.0.uid)
        } else {
            None
        }
    }

    /// `sk_err`, a positive errno; `Some(0)` is no error.
    pub const fn error(&self) -> Option<u16> {
        if self.has(record::flags::SOCKET) {
            Some(self.0.error)
        } else {
            None
        }
    }

    /// The process that made this transition, where a process did.
    pub const fn process(&self) -> Option<Process> {
        if self.has(record::flags::PROCESS) {
            Some(Process {
                pid: self.0.pid,
                comm: self.0.comm,
            })
        } else {
            None
        }
    }

    /// Adds facts about the end of its connection ([`record::end`]), which become known after its transition. No
    /// effect on an event that ends none.
    pub const fn add_end_facts(&mut self, facts: u32) {
        let record = &mut self.0;
        let ends = transition::closes(record.oldstate, record.newstate);
        if ends && record.flags & record::flags::PROCESS == 0 {
            record.pid |= facts;
        }
    }

    /// The packet that shows this transition, where it was rebuilt from packets.
    pub const fn packet(&self) -> Option<Packet> {
        Packet::of(&self.0)
    }

    /// Says which packet shows this transition. No effect on an event that the kernel made.
    pub const fn set_packet(&mut self, packet: &Packet) {
        packet.put(&mut self.0);
    }

    /// Whether all these bits of [`record::flags`] are set.
    pub const fn has(&self, flags: u8) -> bool {
        self.0.flags & flags == flags
    }
}

impl TryFrom<Record> for Event {
    type Error = DecodeError;

    #[inline]
    fn try_from(record: Record) -> Result<Self, DecodeError> {
        match record.family {
            record::AF_INET | record::AF_INET6 => Ok(Self(record)),
            other => Err(DecodeError::Family(other)),
        }
    }
}
