//! Any packets make only transitions that TCP has.
//!
//! Eight bytes are a packet of one of eight connections, with sequence numbers near each other, so that they meet.
#![no_main]

#[path = "../../packets/tests/support/of_tcp.rs"]
mod of_tcp;

use libfuzzer_sys::fuzz_target;
use tcpstate_packets::{
    machine::Machine,
    segment::{Segment, Side},
};

/// Fewer than there are, so that some are forgotten.
const MOST: usize = 6;

fn side(host: u8, port: u16) -> Side {
    let mut address = [0; 16];
    address[15] = host;
    Side { address, port }
}

fn segment(number: u64, bytes: [u8; 8]) -> Segment {
    let [flags, which, seq, _, ack, _, len, far] = bytes;
    let client = side(1, 40_000 + u16::from(which >> 1 & 7));
    let server = side(2, 80);
    let is_client = which & 1 == 1;
    let (from, to) = if is_client {
        (client, server)
    } else {
        (server, client)
    };
    let near = |low: u8, is_of_client: bool| {
        // Where the numbers wrap, and far away.
        let first: u32 = if is_of_client { 0xffff_fffd } else { 1000 };
        first
            .wrapping_add(low.into())
            .wrapping_add(u32::from(far) << 24)
    };
    Segment {
        number,
        // Some come long after the one before, and some before it.
        time_ns: (number << 30).wrapping_add(u64::from(far) << 36),
        from,
        to,
        domain: 0,
        seq: near(seq, is_client),
        ack: near(ack, !is_client),
        len: len.into(),
        window: 100,
        flags,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut machine = Machine::new(MOST);
    let mut events = Vec::new();
    for (packet, number) in bytes.chunks_exact(8).zip(1..) {
        let packet = packet.try_into().expect("eight bytes");
        machine.take(&segment(number, packet), &mut events);
        assert!(machine.held() <= MOST);
    }
    if let Err(error) = of_tcp::check(&events) {
        panic!("{error}");
    }
});
