//! The headers before IP.
//!
//! *Source:* the list of link types at tcpdump.org; IEEE 802.1Q; RFC 3032 (MPLS), 4385 (its control word), 2516
//! (`PPPoE`), 1661 (PPP).

use tcpstate_core::books::{NotTcp, Unreadable};

use super::{Decoded, Rest, Skip, ip};
use crate::bytes::{array, be16, be32, byte};

/// A network that a VLAN tag names.
const VLAN: u64 = 1;

/// The numbers of link types.
mod links {
    pub(super) const NULL: u16 = 0;
    pub(super) const ETHERNET: u16 = 1;
    pub(super) const PPP: u16 = 9;
    pub(super) const RAW: u16 = 101;
    /// As some systems number it.
    pub(super) const RAW_OLD: u16 = 12;
    pub(super) const RAW_OPENBSD: u16 = 14;
    pub(super) const PPP_HDLC: u16 = 50;
    pub(super) const LOOP: u16 = 108;
    pub(super) const LINUX_SLL: u16 = 113;
    pub(super) const IPV4: u16 = 228;
    pub(super) const IPV6: u16 = 229;
    pub(super) const LINUX_SLL2: u16 = 276;
}

#[inline]
pub(super) fn decode(link: u16, rest: Rest<'_>) -> Result<Decoded, Skip> {
    match link {
        links::ETHERNET => ethernet(rest),
        links::RAW | links::RAW_OLD | links::RAW_OPENBSD | links::IPV4 | links::IPV6 => {
            ip::decode(rest)
        }
        links::LINUX_SLL => {
            let kind = rest.read(16, |bytes| be16(bytes, 14))?;
            by_ethertype(kind, rest.behind(16)?)
        }
        links::LINUX_SLL2 => {
            let kind = rest.read(20, |bytes| be16(bytes, 0))?;
            by_ethertype(kind, rest.behind(20)?)
        }
        links::NULL | links::LOOP => {
            // The family is in the byte order of the host, whose numbers for IPv6 differ; the packet says as much.
            rest.read(4, |bytes| array::<4>(bytes, 0))?;
            ip::decode(rest.behind(4)?)
        }
        links::PPP | links::PPP_HDLC => ppp(rest),
        _ => Err(Skip::Unreadable(Unreadable::LinkType)),
    }
}

#[inline]
pub(super) fn ethernet(rest: Rest<'_>) -> Result<Decoded, Skip> {
    let kind = rest.read(14, |bytes| be16(bytes, 12))?;
    by_ethertype(kind, rest.behind(14)?)
}

#[inline]
pub(super) fn by_ethertype(kind: u16, rest: Rest<'_>) -> Result<Decoded, Skip> {
    match kind {
        0x0800 | 0x86dd => ip::decode(rest),
        0x8100 | 0x88a8 | 0x9100 => {
            let (tag, inner) = rest.read(4, |bytes| Some((be16(bytes, 0)?, be16(bytes, 2)?)))?;
            let rest = rest.deeper()?.within(VLAN, u64::from(tag & 0xfff));
            by_ethertype(inner, rest.behind(4)?)
        }
        0x8847 | 0x8848 => mpls(rest),
        0x8864 => ppp(rest.behind(6)?),
        0x0806 => Err(Skip::NotTcp(NotTcp::Arp)),
        // A length: IEEE 802.3 with LLC. SNAP carries an Ethernet type.
        0..=1500 => {
            let snap = rest.read(8, |bytes| Some((array::<6>(bytes, 0)?, be16(bytes, 6)?)));
            match snap {
                Ok(([0xaa, 0xaa, 3, 0, 0, 0], inner)) if inner > 1500 => {
                    by_ethertype(inner, rest.deeper()?.behind(8)?)
                }
                _ => Err(Skip::NotTcp(NotTcp::Other)),
            }
        }
        _ => Err(Skip::NotTcp(NotTcp::Other)),
    }
}

/// A stack of labels, which say nothing about what they carry: its first bits do.
fn mpls(mut rest: Rest<'_>) -> Result<Decoded, Skip> {
    loop {
        let label = rest.read(4, |bytes| be32(bytes, 0))?;
        rest = rest.deeper()?.behind(4)?;
        if label & 0x100 != 0 {
            break;
        }
    }
    match rest.read(1, |bytes| byte(bytes, 0))? >> 4 {
        4 | 6 => ip::decode(rest),
        0 => ethernet(rest.deeper()?.behind(4)?),
        _ => Err(Skip::NotTcp(NotTcp::Other)),
    }
}

/// PPP, with or without address and control, and with a protocol of one or two bytes.
pub(super) fn ppp(rest: Rest<'_>) -> Result<Decoded, Skip> {
    let begins = rest.read(2, |bytes| be16(bytes, 0))?;
    let rest = if begins == 0xff03 {
        rest.behind(2)?
    } else {
        rest
    };
    let first = rest.read(1, |bytes| byte(bytes, 0))?;
    let (protocol, length) = if first & 1 == 1 {
        (u16::from(first), 1)
    } else {
        (rest.read(2, |bytes| be16(bytes, 0))?, 2)
    };
    match protocol {
        0x21 | 0x57 => ip::decode(rest.behind(length)?),
        _ => Err(Skip::NotTcp(NotTcp::Other)),
    }
}
