//! From a packet to its TCP segment: the headers before it.
//!
//! Total: any bytes give a segment or the reason why there is none. Nothing is copied but the numbers.

mod checksum;
mod ip;
mod link;
mod tunnel;

use tcpstate_core::books::{NotTcp, Unreadable};

use crate::{
    bytes::{be16, be32, byte},
    format::Packet,
    segment::{Segment, Side},
};

/// Headers in headers that are followed. The deepest in use are an overlay in an overlay.
const MAX_DEPTH: u8 = 6;

/// The reason why a packet has no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// It is no TCP.
    NotTcp(NotTcp),
    /// It cannot be read.
    Unreadable(Unreadable),
}

/// A segment, and how it was carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The segment.
    pub segment: Segment,
    /// Whether it was inside a tunnel.
    pub is_tunnelled: bool,
}

/// The part of a packet that has not been decoded, and what was learned before it.
#[derive(Clone, Copy)]
struct Rest<'a> {
    bytes: &'a [u8],
    /// Its length on the wire.
    wire: usize,
    domain: u64,
    depth: u8,
    is_tunnelled: bool,
    /// Whether it is the first of several fragments: the others have the rest of the payload.
    is_fragment: bool,
    /// Whether checksums are verified.
    verifies: bool,
}

impl<'a> Rest<'a> {
    /// Behind the next `length` bytes.
    #[inline]
    fn behind(self, length: usize) -> Result<Self, Skip> {
        let Some(bytes) = self.bytes.get(length..) else {
            return Err(self.too_short(length));
        };
        Ok(Self {
            bytes,
            wire: self.wire.saturating_sub(length),
            ..self
        })
    }

    /// The reason why `length` bytes are not there.
    #[cold]
    const fn too_short(&self, length: usize) -> Skip {
        Skip::Unreadable(if self.wire >= length {
            Unreadable::Cut
        } else {
            Unreadable::Malformed
        })
    }

    /// What `read` finds in the first `length` bytes.
    #[inline]
    fn read<T>(&self, length: usize, read: impl FnOnce(&'a [u8]) -> Option<T>) -> Result<T, Skip> {
        read(self.bytes).ok_or_else(|| self.too_short(length))
    }

    /// In a header within a header.
    #[inline]
    const fn deeper(self) -> Result<Self, Skip> {
        if self.depth >= MAX_DEPTH {
            return Err(Skip::Unreadable(Unreadable::Malformed));
        }
        Ok(Self {
            depth: self.depth + 1,
            ..self
        })
    }

    /// In a network of this number, of this kind.
    #[inline]
    const fn within(self, kind: u64, id: u64) -> Self {
        let mixed = (self.domain ^ (kind << 32 | id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            domain: mixed.rotate_left(29),
            ..self
        }
    }
}

/// The segment of a packet, whatever its checksums are: on the sending host they may still be made by the network card.
#[inline]
pub fn decode(packet: &Packet<'_>) -> Result<Decoded, Skip> {
    decode_with(packet, false)
}

/// The segment of a packet, if the checksums of its IPv4 headers and of TCP are right. That of TCP is not verified where the capture
/// has not all of the segment, where that is in fragments, and with routing headers or IPv4 options, which may hide its last address.
pub fn decode_verified(packet: &Packet<'_>) -> Result<Decoded, Skip> {
    decode_with(packet, true)
}

#[inline]
fn decode_with(packet: &Packet<'_>, verifies: bool) -> Result<Decoded, Skip> {
    let rest = Rest {
        bytes: packet.bytes,
        wire: usize::try_from(packet.wire_len).unwrap_or(usize::MAX),
        domain: 0,
        depth: 0,
        is_tunnelled: false,
        is_fragment: false,
        verifies,
    };
    let mut decoded = link::decode(packet.link, rest)?;
    decoded.segment.number = packet.number;
    decoded.segment.time_ns = packet.time_ns;
    Ok(decoded)
}

/// The addresses of an IP header.
#[derive(Clone, Copy)]
struct Addresses {
    from: [u8; 16],
    to: [u8; 16],
    /// Whether they are v4-mapped, of an IPv4 header.
    is_v4: bool,
}

/// A TCP header. `length` is that of header and payload.
#[inline]
fn tcp(rest: Rest<'_>, addresses: Addresses, length: usize) -> Result<Decoded, Skip> {
    // Behind the window come checksum, urgent pointer and options, which do not matter.
    const NEEDED: usize = 16;
    let (ports, seq, ack, offset, flags, window) = rest.read(NEEDED, |bytes| {
        Some((
            (be16(bytes, 0)?, be16(bytes, 2)?),
            be32(bytes, 4)?,
            be32(bytes, 8)?,
            byte(bytes, 12)? >> 4,
            byte(bytes, 13)?,
            be16(bytes, 14)?,
        ))
    })?;
    let header = usize::from(offset) * 4;
    if header < 20 || length < header && !rest.is_fragment {
        return Err(Skip::Unreadable(Unreadable::Malformed));
    }
    if rest.verifies
        && !rest.is_fragment
        && let Some(segment) = rest.bytes.get(..length)
        && !checksum::is_segment_right(segment, &addresses)
    {
        return Err(Skip::Unreadable(Unreadable::TcpChecksum));
    }
    let side = |address, port| Side { address, port };
    Ok(Decoded {
        segment: Segment {
            number: 0,
            time_ns: 0,
            from: side(addresses.from, ports.0),
            to: side(addresses.to, ports.1),
            domain: rest.domain,
            seq,
            ack,
            len: u32::try_from(length.saturating_sub(header)).unwrap_or(u32::MAX),
            window,
            flags,
        },
        is_tunnelled: rest.is_tunnelled,
    })
}

#[cfg(test)]
mod tests;
