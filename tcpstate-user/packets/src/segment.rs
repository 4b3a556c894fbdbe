//! A TCP segment, as far as the states of its connection follow from it.

use std::net::{IpAddr, Ipv6Addr};

/// The bits of [`Segment::flags`].
///
/// *Source:* RFC 9293, section 3.1.
pub mod flags {
    /// The sender has sent all of its data.
    pub const FIN: u8 = 1 << 0;
    /// The sender's first sequence number.
    pub const SYN: u8 = 1 << 1;
    /// The connection is void.
    pub const RST: u8 = 1 << 2;
    /// The receiver should not wait for more.
    pub const PSH: u8 = 1 << 3;
    /// [`Segment::ack`](super::Segment::ack) is valid.
    pub const ACK: u8 = 1 << 4;
    /// There is urgent data.
    pub const URG: u8 = 1 << 5;
}

/// One side of a segment: an address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Side {
    /// The address; IPv4 as v4-mapped IPv6.
    pub address: [u8; 16],
    /// The port.
    pub port: u16,
}

impl Side {
    /// The address as one that can be printed.
    pub fn ip(&self) -> IpAddr {
        Ipv6Addr::from(self.address).to_canonical()
    }
}

/// A TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The number of its packet in the capture, from 1 on.
    pub number: u64,
    /// When it was captured: nanoseconds since 1970.
    pub time_ns: u64,
    /// The sender.
    pub from: Side,
    /// The receiver.
    pub to: Side,
    /// Tells apart networks in which the same addresses may be different hosts: VLANs and tunnels. 0: none.
    pub domain: u64,
    /// Sequence number of the SYN or of the first byte.
    pub seq: u32,
    /// The next sequence number that the sender expects; only with [`flags::ACK`].
    pub ack: u32,
    /// Bytes of payload, as sent; the capture may have fewer.
    pub len: u32,
    /// Window, as it is in the header: not scaled.
    pub window: u16,
    /// The control bits ([`flags`]).
    pub flags: u8,
}

impl Segment {
    /// Whether all these bits are set.
    #[inline]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// The sequence number behind its last one: SYN and FIN take one each.
    ///
    /// *Source:* RFC 9293, section 3.4.
    #[inline]
    pub const fn end(&self) -> u32 {
        let syn = (self.flags & flags::SYN != 0) as u32;
        let fin = (self.flags & flags::FIN != 0) as u32;
        self.seq
            .wrapping_add(self.len)
            .wrapping_add(syn)
            .wrapping_add(fin)
    }
}
