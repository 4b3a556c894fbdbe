//! The prefix of a remote address.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The prefix of an address that [`By::Prefix`](super::By::Prefix) groups by: 24 bits of IPv4, 64 of IPv6. Shown as
/// `192.0.2.0/24` or `2001:db8::/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(
    /// The first address.
    IpAddr,
);

impl Prefix {
    /// The one that this address is in.
    pub const fn of(address: IpAddr) -> Self {
        Self(match address {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                IpAddr::V4(Ipv4Addr::new(a, b, c, 0))
            }
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = if self.0.is_ipv4() { 24 } else { 64 };
        write!(f, "{}/{bits}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_prefix_are_one() {
        for (one, other, shown) in [
            ("192.0.2.1", "192.0.2.255", "192.0.2.0/24"),
            (
                "2001:db8:1:2::3",
                "2001:db8:1:2:ffff::",
                "2001:db8:1:2::/64",
            ),
            ("::1", "::2", "::/64"),
        ] {
            let [one, other] = [one, other].map(|address| Prefix::of(address.parse().unwrap()));
            assert_eq!(one, other);
            assert_eq!(one.to_string(), shown);
        }
        assert_ne!(
            Prefix::of("192.0.2.1".parse().unwrap()),
            Prefix::of("192.0.3.1".parse().unwrap())
        );
    }
}
