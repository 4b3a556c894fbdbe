//! Reading any bytes as a packet capture ends, and every packet is decoded or has the reason why not.
#![no_main]

use std::io::{Cursor, Read};

use libfuzzer_sys::fuzz_target;
use tcpstate_packets::{
    decode::{Skip, decode},
    format::{Packets, is_capture},
};

/// Bytes that a stream may have: a bomb of zeros says nothing, and takes long.
const MOST: u64 = 4 << 20;

fuzz_target!(|bytes: &[u8]| {
    let stream = Cursor::new(bytes.to_vec()).take(MOST);
    let mut packets = match Packets::open(stream) {
        Ok(Ok(packets)) => packets,
        Ok(Err(_)) | Err(_) => return,
    };
    assert!(is_capture(bytes));
    let mut before = 0;
    // A packet takes no less than 12 bytes.
    while packets.offset() < MOST && matches!(packets.advance(), Ok(true)) {
        let packet = packets.packet().expect("there is one");
        assert_eq!(packet.number, before + 1);
        assert!(packet.bytes.len() <= packet.wire_len as usize);
        before = packet.number;
        match decode(&packet) {
            Ok(decoded) => {
                assert_eq!(decoded.segment.number, packet.number);
                let _ = decoded.segment.end();
            }
            Err(Skip::NotTcp(_) | Skip::Unreadable(_)) => {}
        }
    }
    assert!(packets.take_notices().len() <= 23);
});
