//! The packet that shows a transition, where that was rebuilt from packets.

use tcpstate_common::{Record, record::flags};

/// The user of a socket that was rebuilt from packets: the number that no user has (`INVALID_UID`).
pub(super) const NO_UID: u32 = u32::MAX;

/// The names of the control bits, from bit 0 on.
///
/// *Source:* RFC 9293, section 3.1; RFC 3168 (ECE, CWR).
pub const CONTROL_BITS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

const IS_SENT: u32 = 1 << 8;
const IS_INFERRED: u32 = 1 << 9;
const HAS_ACK: u32 = 1 << 10;

/// The packet that shows a transition. Its time is that of the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its number in the capture, from 1 on.
    pub number: u64,
    /// Whether the end that changes sent it; otherwise its peer did.
    pub is_sent: bool,
    /// Its control bits, named by [`CONTROL_BITS`].
    pub flags: u8,
    /// Its sequence number, relative to its sender's SYN, which has 0. Where that is not in the capture, the first number that
    /// was seen is 1.
    pub seq: u32,
    /// The number that it acknowledges, relative in the same way; `None`: it acknowledges nothing.
    pub ack: Option<u32>,
    /// Bytes of payload.
    pub len: u32,
    /// Whether the transition is inferred: it was made by another packet, which is not in the capture or which nothing acknowledged;
    /// or no packet shows the beginning of the state before.
    pub is_inferred: bool,
}

impl Packet {
    /// The packet of a record.
    ///
    /// *Layout:* in such a record the counters of `struct tcp_sock` are not valid ([`flags::TCP`]), and have it: `bytes_sent` its
    /// number, 0 for none; `bytes_received` the relative sequence number in the low half, and the acknowledged one in the high half;
    /// `retransmits` the length; `srtt_us` the control bits, and three bits above them.
    pub(super) const fn of(record: &Record) -> Option<Self> {
        if !is_of_packets(record) || record.bytes_sent == 0 {
            return None;
        }
        let facts = record.srtt_us;
        let numbers = record.bytes_received.to_le_bytes();
        let ([seq @ .., _, _, _, _], [_, _, _, _, ack @ ..]) = (numbers, numbers);
        Some(Self {
            number: record.bytes_sent,
            is_sent: facts & IS_SENT != 0,
            flags: facts.to_le_bytes()[0],
            seq: u32::from_le_bytes(seq),
            ack: if facts & HAS_ACK != 0 {
                Some(u32::from_le_bytes(ack))
            } else {
                None
            },
            len: record.retransmits,
            is_inferred: facts & IS_INFERRED != 0,
        })
    }

    /// Writes it into a record.
    pub(super) const fn put(&self, record: &mut Record) {
        if !is_of_packets(record) {
            return;
        }
        let mut facts = self.flags as u32;
        if self.is_sent {
            facts |= IS_SENT;
        }
        if self.is_inferred {
            facts |= IS_INFERRED;
        }
        let mut ack = 0;
        if let Some(number) = self.ack {
            facts |= HAS_ACK;
            ack = number;
        }
        record.bytes_sent = self.number;
        record.bytes_received = self.seq as u64 | (ack as u64) << 32;
        record.retransmits = self.len;
        record.srtt_us = facts;
    }
}

/// Whether a record was rebuilt from packets: no socket of a kernel is without a user.
const fn is_of_packets(record: &Record) -> bool {
    record.flags & flags::SOCKET != 0 && record.flags & flags::TCP == 0 && record.uid == NO_UID
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn event(flags: u8, uid: u32) -> Event {
        let record = Record {
            family: tcpstate_common::record::AF_INET,
            flags,
            uid,
            ..Record::default()
        };
        Event::try_from(record).unwrap()
    }

    #[test]
    fn a_packet_comes_back_as_it_was() {
        let whole = Packet {
            number: u64::MAX,
            is_sent: true,
            flags: 0xff,
            seq: u32::MAX,
            ack: Some(u32::MAX - 1),
            len: u32::MAX - 2,
            is_inferred: true,
        };
        let plain = Packet {
            number: 1,
            is_sent: false,
            flags: 0,
            seq: 7,
            ack: None,
            len: 0,
            is_inferred: false,
        };
        for packet in [
            whole,
            plain,
            Packet {
                ack: Some(0),
                ..plain
            },
        ] {
            let mut event = event(flags::SOCKET | flags::COOKIE, NO_UID);
            assert_eq!(event.packet(), None);
            event.set_packet(&packet);
            assert_eq!(event.packet(), Some(packet));
            assert_eq!(event.uid(), None);
        }
    }

    #[test]
    fn the_counters_of_a_kernel_are_no_packet() {
        let packet = Packet {
            number: 5,
            is_sent: true,
            flags: 2,
            seq: 0,
            ack: None,
            len: 0,
            is_inferred: false,
        };
        for (flags, uid) in [
            (flags::SOCKET | flags::TCP, 0),
            (flags::SOCKET | flags::TCP, NO_UID),
            (flags::SOCKET, 0),
            (0, NO_UID),
        ] {
            let mut event = event(flags, uid);
            let before = event;
            event.set_packet(&packet);
            assert_eq!((event, event.packet()), (before, None));
        }
    }
}
