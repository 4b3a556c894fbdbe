//! Messages of the kernel, for tests.

use tcpstate_common::record::AF_INET;

use super::wire::{ANSWER, HEADER};

/// A message with this type, flags and payload.
pub(super) fn framed(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + payload.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `struct inet_diag_msg` of a `TIME_WAIT` minisocket, 192.0.2.1:80 to 198.51.100.2:40000.
pub(in super::super) fn answer() -> Vec<u8> {
    let mut bytes = vec![0; ANSWER];
    bytes[..4].copy_from_slice(&[AF_INET, 6, 3, 0]);
    bytes[4..6].copy_from_slice(&80u16.to_be_bytes());
    bytes[6..8].copy_from_slice(&40_000u16.to_be_bytes());
    bytes[8..12].copy_from_slice(&[192, 0, 2, 1]);
    bytes[24..28].copy_from_slice(&[198, 51, 100, 2]);
    bytes[44..48].copy_from_slice(&0x89ab_cdefu32.to_ne_bytes());
    bytes[48..52].copy_from_slice(&0x0123_4567u32.to_ne_bytes());
    bytes[52..56].copy_from_slice(&59_996u32.to_ne_bytes());
    bytes
}
