//! Addresses in the form of records: 16 bytes, some values of which mean that there is none.

use std::net::{IpAddr, Ipv6Addr};

/// Whether it is an address at all: neither `::` nor the v4-mapped `0.0.0.0`.
pub(super) const fn is_set(address: &[u8; 16]) -> bool {
    let address = u128::from_be_bytes(*address);
    address != 0 && address != 0xffff_0000_0000
}

/// The address, where there is one. A v4-mapped one is IPv4.
pub(super) fn from_wire(bytes: [u8; 16]) -> Option<IpAddr> {
    is_set(&bytes).then(|| Ipv6Addr::from(bytes).to_canonical())
}

/// The bytes of an address; IPv4 is v4-mapped.
pub(super) fn to_wire(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}
