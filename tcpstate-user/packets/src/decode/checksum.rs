//! The Internet checksum, of IPv4 headers and of TCP.
//!
//! *Source:* RFC 1071; RFC 9293, section 3.1; RFC 8200, section 8.1 (pseudo-headers).

use super::Addresses;

/// A sum of 16-bit words. Their order of bytes does not matter as long as all have the same.
#[derive(Clone, Copy, Default)]
struct Sum(u64);

impl Sum {
    /// Adds bytes; an odd last one counts as if a 0 followed.
    fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<2>();
        for &word in words {
            self.0 += u64::from(u16::from_be_bytes(word));
        }
        if let [last] = rest {
            self.0 += u64::from(*last) << 8;
        }
    }

    /// Whether the bytes, their checksum included, are as they were sent.
    const fn is_right(self) -> bool {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum == 0xffff
    }
}

/// Whether an IPv4 header has the right checksum.
pub(super) fn is_header_right(header: &[u8]) -> bool {
    let mut sum = Sum::default();
    sum.add(header);
    sum.is_right()
}

/// Whether a whole TCP segment between these addresses has the right checksum.
pub(super) fn is_segment_right(segment: &[u8], addresses: &Addresses) -> bool {
    let mut sum = Sum::default();
    // Of a v4-mapped address the words before the last two are those of no packet.
    let (mapped, is_v4) = (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff], addresses.is_v4);
    for address in [&addresses.from, &addresses.to] {
        match address.strip_prefix(mapped) {
            Some(v4) if is_v4 => sum.add(v4),
            _ => sum.add(address),
        }
    }
    sum.0 += segment.len() as u64 + u64::from(super::ip::TCP);
    sum.add(segment);
    sum.is_right()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_adds_up() {
        // RFC 1071, section 3: the sum is ddf2.
        let mut sum = Sum::default();
        sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert!(!sum.is_right());
        sum.add(&(!0xddf2_u16).to_be_bytes());
        assert!(sum.is_right());
        // An odd byte.
        let mut odd = Sum::default();
        odd.add(&[0xab]);
        odd.add(&(!0xab00_u16).to_be_bytes());
        assert!(odd.is_right());
    }
}
