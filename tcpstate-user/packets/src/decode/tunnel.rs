//! Packets within packets.
//!
//! *Source:* RFC 2784 and 2890 (GRE), 2637 (its version 1), 7348 (VXLAN), 8926 (GENEVE).

use tcpstate_core::books::NotTcp;

use super::{Decoded, Rest, Skip, link};
use crate::bytes::{be16, be32, byte};

/// A network that the number of a VXLAN or GENEVE tunnel names.
const VNI: u64 = 2;

/// The ports of VXLAN: IANA's, and Linux's first.
const VXLAN: [u16; 2] = [4789, 8472];
const GENEVE: u16 = 6081;

/// Ethernet, as a type of Ethernet.
const BRIDGED: u16 = 0x6558;
const PPP: u16 = 0x880b;

const NO_TUNNEL: Skip = Skip::NotTcp(NotTcp::Udp);

/// A tunnel over UDP, if it is one.
pub(super) fn udp(rest: Rest<'_>) -> Result<Decoded, Skip> {
    let Ok(port) = rest.read(4, |bytes| be16(bytes, 2)) else {
        return Err(NO_TUNNEL);
    };
    if port != GENEVE && !VXLAN.contains(&port) {
        return Err(NO_TUNNEL);
    }
    let rest = rest.behind(8)?;
    let (first, kind, network) = rest.read(8, |bytes| {
        Some((byte(bytes, 0)?, be16(bytes, 2)?, be32(bytes, 4)? >> 8))
    })?;
    let inside = Rest {
        is_tunnelled: true,
        ..rest.deeper()?.within(VNI, network.into())
    };
    if port == GENEVE {
        // Version 0 only.
        if first >> 6 != 0 {
            return Err(NO_TUNNEL);
        }
        let options = usize::from(first & 0x3f) * 4;
        return carried(kind, inside.behind(8 + options)?);
    }
    // Whatever else uses these ports does not begin like this.
    if first != 8 {
        return Err(NO_TUNNEL);
    }
    link::ethernet(inside.behind(8)?)
}

/// GRE. Its key is left out: the two directions of a tunnel often have different ones.
pub(super) fn gre(rest: Rest<'_>) -> Result<Decoded, Skip> {
    let (bits, kind) = rest.read(4, |bytes| Some((be16(bytes, 0)?, be16(bytes, 2)?)))?;
    let is = |bit: u16| usize::from(bits & bit != 0);
    let optional = match bits & 7 {
        0 => is(0x8000) + is(0x2000) + is(0x1000),
        1 => 1 + is(0x1000) + is(0x0080),
        _ => return Err(Skip::NotTcp(NotTcp::OtherIp)),
    };
    let inside = Rest {
        is_tunnelled: true,
        ..rest.deeper()?.behind(4 + optional * 4)?
    };
    carried(kind, inside)
}

fn carried(kind: u16, inside: Rest<'_>) -> Result<Decoded, Skip> {
    match kind {
        BRIDGED => link::ethernet(inside),
        PPP => link::ppp(inside),
        _ => link::by_ethertype(kind, inside),
    }
}
