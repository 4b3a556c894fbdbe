//! Values as bytes of a line, as all formats write them. A record has dozens of fields and there can be
//! 100,000 records a second: nothing here allocates, or goes through [`std::fmt`] where it matters.

use std::{
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use tcpstate_common::State;
use tcpstate_core::{escape::Entry, event::CONTROL_BITS};

/// All service ports beyond the bound together.
pub(crate) const OTHER: &str = "other";

/// Appends a number.
pub(crate) fn push_number(line: &mut Vec<u8>, number: u64) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends a number in hexadecimal digits.
pub(crate) fn push_hex(line: &mut Vec<u8>, number: u64) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let significant = 64 - (number | 1).leading_zeros();
    for nibble in (0..significant.div_ceil(4)).rev() {
        let digit = (number >> (4 * nibble)) & 15;
        line.extend(DIGITS.get(digit as usize));
    }
}

/// Appends a name that others chose.
pub(crate) fn push_entry(line: &mut Vec<u8>, name: &[u8]) -> io::Result<()> {
    let entry = Entry(name);
    match entry.plain() {
        Some(text) => line.write_all(text.as_bytes()),
        None => write!(line, "{entry}"),
    }
}

/// Appends an address.
pub(crate) fn push_address(line: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => push_v4(line, address),
        IpAddr::V6(address) => push_v6(line, address),
    }
}

fn push_v4(line: &mut Vec<u8>, address: Ipv4Addr) {
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            line.push(b'.');
        }
        push_number(line, octet.into());
    }
}

/// In the form of RFC 5952: the longest row of zeros, the first of them, is left out if it is longer than one.
fn push_v6(line: &mut Vec<u8>, address: Ipv6Addr) {
    if let Some(mapped) = address.to_ipv4_mapped() {
        line.extend_from_slice(b"::ffff:");
        return push_v4(line, mapped);
    }
    let segments = address.segments();
    let zeros = longest_zeros(segments);
    for (index, segment) in segments.into_iter().enumerate() {
        if zeros.contains(&index) {
            if index == zeros.start {
                line.extend_from_slice(b"::");
            }
        } else {
            if index > 0 && index != zeros.end {
                line.push(b':');
            }
            push_hex(line, segment.into());
        }
    }
}

/// The longest row of two or more zeros, the first if there are several; empty if there is none.
fn longest_zeros(segments: [u16; 8]) -> Range<usize> {
    let (mut start, mut longest) = (0, 0..1);
    for (index, segment) in segments.into_iter().enumerate() {
        if segment != 0 {
            start = index + 1;
        } else if index + 1 - start > longest.len() {
            longest = start..index + 1;
        }
    }
    if longest.len() > 1 { longest } else { 0..0 }
}

/// Appends a state: its name, or its number where it has none.
pub(crate) fn push_state(line: &mut Vec<u8>, state: State) {
    match state.name() {
        Some(name) => line.extend_from_slice(name.as_bytes()),
        None => push_number(line, state.0.into()),
    }
}

/// Appends control bits by name.
pub(crate) fn push_control_bits(line: &mut Vec<u8>, bits: u8) {
    let is_set = |&(bit, _): &(usize, &str)| bits & 1 << bit != 0;
    for (index, (_, name)) in CONTROL_BITS
        .into_iter()
        .enumerate()
        .filter(is_set)
        .enumerate()
    {
        if index > 0 {
            line.push(b' ');
        }
        line.extend_from_slice(name.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_bits_have_their_names() {
        let written = |bits| {
            let mut line = Vec::new();
            push_control_bits(&mut line, bits);
            String::from_utf8(line).unwrap()
        };
        assert_eq!(written(0), "");
        assert_eq!(written(0x12), "SYN ACK");
        assert_eq!(written(0x19), "FIN PSH ACK");
        assert_eq!(written(0xff), "FIN SYN RST PSH ACK URG ECE CWR");
    }

    fn assert_displayed(address: IpAddr) {
        let mut line = Vec::new();
        push_address(&mut line, address);
        assert_eq!(String::from_utf8(line).unwrap(), address.to_string());
    }

    #[test]
    fn values_are_written_as_they_display() {
        for number in [0, 1, 15, 16, 0xfff, 0x1000, u64::MAX] {
            let mut line = Vec::new();
            push_hex(&mut line, number);
            assert_eq!(String::from_utf8(line).unwrap(), format!("{number:x}"));
        }
        for name in [&b"nginx"[..], b"", b"-", b" a", b"a\\b", b"a\x1bb", b"\xff"] {
            let mut line = Vec::new();
            push_entry(&mut line, name).unwrap();
            assert_eq!(String::from_utf8(line).unwrap(), Entry(name).to_string());
        }
        for address in [
            "0.0.0.0",
            "192.0.2.10",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::",
            "2001:db8::1",
            "2001:db8:0:1:1:1:1:1",
            "::ffff:192.0.2.10",
            "::192.0.2.10",
        ] {
            assert_displayed(address.parse().unwrap());
        }
        // Every row of zeros there can be, beside short and long numbers.
        for zeros in 0..=255_u8 {
            for number in [1_u16, 0x10, 0xffff] {
                let segment = |at| if zeros & (1_u8 << at) == 0 { number } else { 0 };
                let segments: [u16; 8] = std::array::from_fn(segment);
                assert_displayed(segments.into());
            }
        }
        for state in [State::CLOSE_WAIT, State(14), State(255)] {
            let mut line = Vec::new();
            push_state(&mut line, state);
            assert_eq!(line, state.to_string().as_bytes());
        }
    }
}
