//! A TCP packet of a capture within its connection: for the picture that shows packets and states together.

use std::net::{IpAddr, Ipv6Addr};

use tcpstate_common::{
    Record, State,
    record::{self, flags},
};

use crate::{cause::Cause, event::Event};

/// One of the two ends of a connection, as it is after a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketEnd {
    /// Its address; IPv4 as v4-mapped IPv6.
    pub address: [u8; 16],
    /// Its port.
    pub port: u16,
    /// The cookie of its socket in the events of the same capture.
    pub cookie: u64,
    /// Its state. `None`: it is not known, or there is no socket of the connection yet.
    pub state: Option<State>,
    /// Whether the packet changed its state.
    pub has_changed: bool,
    /// Why it ended, with this packet.
    pub cause: Option<Cause>,
}

impl PacketEnd {
    /// The address as one that can be printed.
    pub fn ip(&self) -> IpAddr {
        Ipv6Addr::from(self.address).to_canonical()
    }
}

/// A TCP packet within its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionPacket {
    /// Its number in the capture, from 1 on.
    pub number: u64,
    /// When it was captured: nanoseconds since 1970.
    pub ts_ns: u64,
    /// The number of its connection, from 1 on, by the first packet.
    pub connection: u64,
    /// Client and server, if [`ConnectionPacket::has_roles`]; otherwise the end with the higher port comes first.
    pub ends: [PacketEnd; 2],
    /// Whether it is known which end is the client.
    pub has_roles: bool,
    /// Whether the first of `ends` sent it.
    pub is_of_first: bool,
    /// Its control bits, named by [`CONTROL_BITS`](crate::event::CONTROL_BITS).
    pub flags: u8,
    /// Its sequence number, relative to its sender's SYN, or to the number before the first one that was seen.
    pub seq: u32,
    /// The number that it acknowledges, relative in the same way; `None`: it acknowledges nothing.
    pub ack: Option<u32>,
    /// Bytes of payload, as sent.
    pub len: u32,
    /// Window, as it is in the header: not scaled.
    pub window: u16,
    /// Remarks, beyond its numbers.
    pub notes: Notes,
}

impl ConnectionPacket {
    /// Events of both ends that change nothing: for filters, which judge events.
    pub fn as_events(&self) -> impl Iterator<Item = Event> {
        let [first, second] = self.ends;
        [(first, second), (second, first)]
            .into_iter()
            .filter_map(|(local, remote)| {
                let state = local.state.unwrap_or_default();
                let is_ipv4 = local.ip().is_ipv4() && remote.ip().is_ipv4();
                let record = Record {
                    ts_ns: self.ts_ns,
                    cookie: local.cookie,
                    laddr: local.address,
                    raddr: remote.address,
                    uid: u32::MAX,
                    lport: local.port,
                    rport: remote.port,
                    oldstate: state,
                    newstate: state,
                    family: if is_ipv4 {
                        record::AF_INET
                    } else {
                        record::AF_INET6
                    },
                    flags: flags::COOKIE | flags::SOCKET,
                    ..Record::default()
                };
                Event::try_from(record).ok()
            })
    }
}

/// A remark about a packet, beyond its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// It was sent before, all or a part of it.
    Retransmission,
    /// It comes behind what was sent later: out of order, or sent again where the first one is not in the capture.
    OutOfOrder,
    /// Bytes that its sender sent before it are not in the capture.
    Gap,
    /// It acknowledges what is not in the capture.
    AcknowledgesUnseen,
    /// It asks whether the peer is there.
    KeepAlive,
    /// It answers that.
    KeepAliveAnswer,
    /// Its sender has no room.
    ZeroWindow,
    /// It asks whether the peer has room again.
    WindowProbe,
    /// Its sender has room again.
    WindowOpens,
    /// It acknowledges the same again, while more was sent.
    DuplicateAck,
    /// It is a SYN with data: TCP Fast Open.
    DataOnSyn,
    /// It is a SYN that does not fit the connection: of another one, or an old duplicate.
    OtherSyn,
    /// It is a RST, and its numbers are not those that its receiver takes.
    ResetIgnored,
    /// A change of state is inferred (see [`Packet::is_inferred`](crate::event::Packet::is_inferred)).
    Inferred,
}

impl Note {
    /// All notes.
    pub const ALL: [Self; 14] = [
        Self::Retransmission,
        Self::OutOfOrder,
        Self::Gap,
        Self::AcknowledgesUnseen,
        Self::KeepAlive,
        Self::KeepAliveAnswer,
        Self::ZeroWindow,
        Self::WindowProbe,
        Self::WindowOpens,
        Self::DuplicateAck,
        Self::DataOnSyn,
        Self::OtherSyn,
        Self::ResetIgnored,
        Self::Inferred,
    ];

    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retransmission => "retransmission",
            Self::OutOfOrder => "out_of_order",
            Self::Gap => "gap",
            Self::AcknowledgesUnseen => "acknowledges_unseen",
            Self::KeepAlive => "keep_alive",
            Self::KeepAliveAnswer => "keep_alive_answer",
            Self::ZeroWindow => "zero_window",
            Self::WindowProbe => "window_probe",
            Self::WindowOpens => "window_opens",
            Self::DuplicateAck => "duplicate_ack",
            Self::DataOnSyn => "data_on_syn",
            Self::OtherSyn => "other_syn",
            Self::ResetIgnored => "reset_ignored",
            Self::Inferred => "inferred",
        }
    }

    /// The words for people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Retransmission => "retransmission",
            Self::OutOfOrder => "out of order",
            Self::Gap => "gap before it",
            Self::AcknowledgesUnseen => "acks unseen",
            Self::KeepAlive => "keep-alive",
            Self::KeepAliveAnswer => "keep-alive ack",
            Self::ZeroWindow => "zero window",
            Self::WindowProbe => "window probe",
            Self::WindowOpens => "window opens",
            Self::DuplicateAck => "dup ack",
            Self::DataOnSyn => "data on SYN",
            Self::OtherSyn => "other SYN",
            Self::ResetIgnored => "RST ignored",
            Self::Inferred => "inferred",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A set of notes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes(u16);

impl Notes {
    /// Adds a note.
    pub const fn add(&mut self, note: Note) {
        self.0 |= note.bit();
    }

    /// Whether it has this note.
    pub const fn has(self, note: Note) -> bool {
        self.0 & note.bit() != 0
    }

    /// Whether it has none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The notes, in the order of [`Note::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Note> {
        Note::ALL.into_iter().filter(move |&note| self.has(note))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_note_is_its_own() {
        for (at, note) in Note::ALL.into_iter().enumerate() {
            let mut notes = Notes::default();
            assert!(notes.is_empty());
            notes.add(note);
            assert_eq!(note.bit(), 1 << at);
            assert_eq!(notes.iter().collect::<Vec<_>>(), [note]);
            let same = |other: &&Note| other.name() == note.name() || other.words() == note.words();
            assert_eq!(Note::ALL.iter().filter(same).count(), 1);
        }
    }
}
