//! Reading any bytes ends, and the books balance.
//!
//! A fuzzer would never get past the checksums. So the first byte of the input selects the meaning of the
//! rest: a file, or blocks that get valid headers here.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcpstate_recording::{MAX_BLOCK_RECORDS, read_in_place};

/// A complete recording, used for its header.
const WHOLE: &[u8] = include_bytes!("../seeds/recording_reader/whole");

fuzz_target!(|input: &[u8]| {
    let Some((&kind, rest)) = input.split_first() else {
        return;
    };
    let file = if kind & 1 == 0 {
        rest.to_vec()
    } else {
        with_headers(rest)
    };
    let Ok((most, books, notices)) = read_in_place(&file) else {
        return;
    };
    assert!(most <= MAX_BLOCK_RECORDS);
    // A file may contain any books, but the reader's own must balance.
    if books.partial {
        assert_eq!(books.seen, books.filtered + books.submitted + books.lost);
        assert_eq!(books.submitted, books.received + books.rejected);
    }
    assert!(notices.len() <= 30);
});

/// Builds a file from blocks in the input: kind, coding, count and length, then the payload.
fn with_headers(mut input: &[u8]) -> Vec<u8> {
    let metadata = u32::from_le_bytes([WHOLE[13], WHOLE[14], WHOLE[15], WHOLE[16]]) as usize;
    let mut file = WHOLE[1..25 + metadata].to_vec();
    let mut first_event = 0_u64;
    while let Some((&[kind, coding, count, low, high], rest)) = input.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (payload, rest) = rest.split_at(length);
        input = rest;
        let mut header = [0; 52];
        header[..4].copy_from_slice(b"\xb5BLK");
        header[4] = kind;
        header[5] = coding & 1;
        header[8] = count;
        header[12..16].copy_from_slice(&(length as u32).to_le_bytes());
        // A zstd frame may claim to hold much more than it does.
        let unpacked = if coding & 1 == 0 {
            length as u32
        } else {
            u32::from(coding) << 8
        };
        header[16..20].copy_from_slice(&unpacked.to_le_bytes());
        header[20..24].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        header[24..32].copy_from_slice(&first_event.to_le_bytes());
        let crc = crc32c::crc32c(&header[..48]);
        header[48..].copy_from_slice(&crc.to_le_bytes());
        file.extend_from_slice(&header);
        file.extend_from_slice(payload);
        first_event += u64::from(count);
    }
    file
}
