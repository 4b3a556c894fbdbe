//! Values as bytes of a line, as all formats write them. A record has dozens of fields and there can be
//! 100,000 records a second: nothing here allocates, or goes through [`std::fmt`] where it matters.

use std::{
    io::{self, Write as _},
    net::IpAddr,
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
pub(crate) fn push_address(line: &mut Vec<u8>, address: IpAddr) -> io::Result<()> {
    match address {
        IpAddr::V4(address) => {
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    line.push(b'.');
                }
                push_number(line, octet.into());
            }
            Ok(())
        }
        IpAddr::V6(address) => write!(line, "{address}"),
    }
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
            "2001:db8::1",
        ] {
            let mut line = Vec::new();
            push_address(&mut line, address.parse().unwrap()).unwrap();
            assert_eq!(line, address.as_bytes());
        }
        for state in [State::CLOSE_WAIT, State(14), State(255)] {
            let mut line = Vec::new();
            push_state(&mut line, state);
            assert_eq!(line, state.to_string().as_bytes());
        }
    }
}
