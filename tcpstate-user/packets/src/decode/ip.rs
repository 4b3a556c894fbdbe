//! IPv4 and IPv6.
//!
//! *Source:* RFC 791; RFC 8200, section 4; RFC 2675 (jumbograms); RFC 4302 (AH).

use tcpstate_core::books::{NotTcp, Unreadable};

use super::{Addresses, Decoded, Rest, Skip, checksum, tcp, tunnel};
use crate::bytes::{array, be16, be32, byte};

/// Extension headers of a packet that are followed.
const MAX_EXTENSIONS: usize = 16;

pub(super) const TCP: u8 = 6;

/// The routing header.
const ROUTING: u8 = 43;

/// A packet of either version.
#[inline]
pub(super) fn decode(rest: Rest<'_>) -> Result<Decoded, Skip> {
    match rest.read(1, |bytes| byte(bytes, 0))? >> 4 {
        4 => v4(rest),
        6 => v6(rest),
        _ => Err(Skip::Unreadable(Unreadable::Malformed)),
    }
}

/// IPv4 as v4-mapped IPv6.
#[inline]
const fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

#[inline]
fn v4(rest: Rest<'_>) -> Result<Decoded, Skip> {
    let (first, total, fragment, protocol, from, to) = rest.read(20, |bytes| {
        Some((
            byte(bytes, 0)?,
            be16(bytes, 2)?,
            be16(bytes, 6)?,
            byte(bytes, 9)?,
            array(bytes, 12)?,
            array(bytes, 16)?,
        ))
    })?;
    let header = usize::from(first & 0xf) * 4;
    // With segmentation offload the sender's own capture may have no length yet.
    let total = if total == 0 { rest.wire } else { total.into() };
    if header < 20 || total < header {
        return Err(Skip::Unreadable(Unreadable::Malformed));
    }
    if rest.verifies
        && !rest
            .bytes
            .get(..header)
            .is_some_and(checksum::is_header_right)
    {
        return Err(match rest.bytes.get(..header) {
            Some(_) => Skip::Unreadable(Unreadable::IpChecksum),
            None => rest.too_short(header),
        });
    }
    if fragment & 0x1fff != 0 {
        return Err(Skip::NotTcp(NotTcp::Fragment));
    }
    let addresses = Addresses {
        from: mapped(from),
        to: mapped(to),
        is_v4: true,
    };
    let rest = Rest {
        is_fragment: fragment & 0x2000 != 0,
        verifies: rest.verifies && header == 20,
        ..rest.behind(header)?
    };
    by_protocol(protocol, rest, addresses, total - header)
}

fn v6(rest: Rest<'_>) -> Result<Decoded, Skip> {
    let (length, mut next, from, to) = rest.read(40, |bytes| {
        Some((
            be16(bytes, 4)?,
            byte(bytes, 6)?,
            array(bytes, 8)?,
            array(bytes, 24)?,
        ))
    })?;
    let addresses = Addresses {
        from,
        to,
        is_v4: false,
    };
    let mut rest = rest.behind(40)?;
    // Of a jumbogram, and with segmentation offload.
    let mut left = if length == 0 {
        rest.wire
    } else {
        length.into()
    };
    for _ in 0..MAX_EXTENSIONS {
        let extension = match next {
            // Hop-by-hop, routing, destination options, mobility, HIP, shim6.
            0 | ROUTING | 60 | 135 | 139 | 140 => {
                let units = rest.read(8, |bytes| byte(bytes, 1))?;
                (usize::from(units) + 1) * 8
            }
            44 => {
                let offset = rest.read(8, |bytes| be16(bytes, 2))?;
                if offset & 0xfff8 != 0 {
                    return Err(Skip::NotTcp(NotTcp::Fragment));
                }
                rest.is_fragment = offset & 1 != 0;
                8
            }
            51 => {
                let units = rest.read(8, |bytes| byte(bytes, 1))?;
                (usize::from(units) + 2) * 4
            }
            _ => return by_protocol(next, rest, addresses, left),
        };
        if next == 0
            && length == 0
            && let Some(jumbo) = jumbo_length(rest.bytes.get(..extension).unwrap_or_default())
        {
            left = jumbo;
        }
        rest.verifies &= next != ROUTING;
        next = rest.read(1, |bytes| byte(bytes, 0))?;
        rest = rest.behind(extension)?;
        left = left.saturating_sub(extension);
    }
    Err(Skip::Unreadable(Unreadable::Malformed))
}

/// The length in the option for jumbograms, of these hop-by-hop options.
fn jumbo_length(options: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        match byte(options, at)? {
            // Padding of one byte.
            0 => at += 1,
            0xc2 => return usize::try_from(be32(options, at + 2)?).ok(),
            _ => at += usize::from(byte(options, at + 1)?) + 2,
        }
    }
}

#[inline]
fn by_protocol(
    protocol: u8,
    rest: Rest<'_>,
    addresses: Addresses,
    length: usize,
) -> Result<Decoded, Skip> {
    match protocol {
        TCP => tcp(rest, addresses, length),
        4 | 41 => decode(Rest {
            is_tunnelled: true,
            ..rest.deeper()?
        }),
        17 => tunnel::udp(rest),
        47 => tunnel::gre(rest),
        1 | 58 => Err(Skip::NotTcp(NotTcp::Icmp)),
        _ => Err(Skip::NotTcp(NotTcp::OtherIp)),
    }
}
