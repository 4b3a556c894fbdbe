use tcpstate_core::cause::Cause;

use super::*;
use crate::segment::{
    Side,
    flags::{ACK, FIN, PSH, RST, SYN},
};

mod ahead;
mod any_order;

/// The first sequence numbers of client and server.
const C: u32 = 1000;
const S: u32 = 0xffff_fffb;

/// A segment of this number, at so many nanoseconds, between a client (host 1, port 40000) and a server (host 2, port 80): flags, sequence number,
/// acknowledgement, length.
pub(super) fn segment(
    number: u64,
    is_client: bool,
    (flags, seq, ack, len): (u8, u32, u32, u32),
) -> Segment {
    let side = |host: u8, port| {
        let mut address = [0; 16];
        address[15] = host;
        Side { address, port }
    };
    let (client, server) = (side(1, 40_000), side(2, 80));
    let (from, to) = if is_client {
        (client, server)
    } else {
        (server, client)
    };
    Segment {
        number,
        time_ns: number,
        from,
        to,
        domain: 0,
        seq,
        ack,
        len,
        window: 0,
        flags,
    }
}

/// A conversation between a client (port 40000) and a server (port 80), with sequence numbers relative to `C` and `S`.
struct Talk {
    machine: Machine,
    events: Vec<Event>,
    time_ns: u64,
}

impl Talk {
    fn new() -> Self {
        Self {
            machine: Machine::new(8),
            events: Vec::new(),
            time_ns: 0,
        }
    }

    fn segment(&mut self, is_client: bool, flags: u8, seq: u32, ack: u32, len: u32) -> &mut Self {
        self.time_ns += 1;
        let segment = Segment {
            window: 1000,
            ..segment(self.time_ns, is_client, (flags, seq, ack, len))
        };
        self.machine.take(&segment, &mut self.events);
        self
    }

    /// From the client.
    fn c(&mut self, flags: u8, seq: u32, ack: u32, len: u32) -> &mut Self {
        self.segment(true, flags, C.wrapping_add(seq), S.wrapping_add(ack), len)
    }

    /// From the server.
    fn s(&mut self, flags: u8, seq: u32, ack: u32, len: u32) -> &mut Self {
        self.segment(false, flags, S.wrapping_add(seq), C.wrapping_add(ack), len)
    }

    fn handshake(&mut self) -> &mut Self {
        self.c(SYN, 0, 0, 0).s(SYN | ACK, 0, 1, 0).c(ACK, 1, 1, 0)
    }

    /// The transitions since the last call, one a word: `c:SYN_SENT>ESTABLISHED`, with the cause of an end.
    fn seen(&mut self) -> String {
        let words = self.events.drain(..).map(|event| {
            let end = if event.lport() == 80 { 's' } else { 'c' };
            let cause = Cause::of(&event).map(|cause| format!("({cause})"));
            let (old, new) = (event.oldstate(), event.newstate());
            format!("{end}:{old}>{new}{}", cause.unwrap_or_default())
        });
        words.collect::<Vec<_>>().join(" ")
    }
}

const OPENED: &str =
    "c:CLOSE>SYN_SENT s:LISTEN>SYN_RECV c:SYN_SENT>ESTABLISHED s:SYN_RECV>ESTABLISHED";

#[test]
fn a_close_in_order_takes_both_ends_through_their_states() {
    let mut talk = Talk::new();
    assert_eq!(talk.handshake().seen(), OPENED);
    talk.c(ACK | PSH, 1, 1, 10).s(ACK, 1, 11, 0);
    talk.c(FIN | ACK, 11, 1, 0);
    assert_eq!(talk.seen(), "c:ESTABLISHED>FIN_WAIT1");
    talk.s(ACK, 1, 12, 0);
    assert_eq!(
        talk.seen(),
        "s:ESTABLISHED>CLOSE_WAIT c:FIN_WAIT1>FIN_WAIT2"
    );
    // Half closed: the server still sends.
    talk.s(ACK | PSH, 1, 12, 7).c(ACK, 12, 8, 0);
    assert_eq!(talk.seen(), "");
    talk.s(FIN | ACK, 8, 12, 0);
    assert_eq!(talk.seen(), "s:CLOSE_WAIT>LAST_ACK");
    talk.c(ACK, 12, 9, 0);
    assert_eq!(talk.seen(), "c:FIN_WAIT2>CLOSE(fin) s:LAST_ACK>CLOSE(fin)");
}

#[test]
fn a_fin_that_comes_again_is_no_second_one() {
    let mut talk = Talk::new();
    talk.handshake().s(FIN | ACK, 1, 1, 0);
    talk.seen();
    talk.s(FIN | ACK, 1, 1, 0).s(FIN | ACK, 1, 1, 0);
    // Old data is no acknowledgement of it.
    talk.c(ACK | PSH, 1, 1, 5);
    assert_eq!(talk.seen(), "");
    talk.c(ACK, 6, 2, 0).c(ACK, 6, 2, 0);
    assert_eq!(
        talk.seen(),
        "c:ESTABLISHED>CLOSE_WAIT s:FIN_WAIT1>FIN_WAIT2"
    );
    // The FIN acknowledges too, and comes again after it was acknowledged.
    talk.c(FIN | ACK, 6, 2, 0).s(ACK, 2, 7, 0);
    talk.c(FIN | ACK, 6, 2, 0).s(ACK, 2, 7, 0);
    assert_eq!(
        talk.seen(),
        "c:CLOSE_WAIT>LAST_ACK s:FIN_WAIT2>CLOSE(fin) c:LAST_ACK>CLOSE(fin)"
    );
}

#[test]
fn fins_that_cross_make_closing_on_both_ends() {
    let mut talk = Talk::new();
    talk.handshake().seen();
    talk.c(FIN | ACK, 1, 1, 0).s(FIN | ACK, 1, 1, 0);
    assert_eq!(
        talk.seen(),
        "c:ESTABLISHED>FIN_WAIT1 s:ESTABLISHED>FIN_WAIT1"
    );
    talk.c(ACK, 2, 2, 0);
    let closing = "c:FIN_WAIT1>CLOSING s:FIN_WAIT1>CLOSING s:CLOSING>CLOSE(fin)";
    assert_eq!(talk.seen(), closing);
    talk.s(ACK, 2, 2, 0);
    assert_eq!(talk.seen(), "c:CLOSING>CLOSE(fin)");
}

#[test]
fn a_fin_before_the_last_acknowledgement_leaves_syn_recv() {
    let mut talk = Talk::new();
    talk.c(SYN, 0, 0, 5).s(SYN | ACK, 0, 6, 0);
    // TFO: the server answers the data on the SYN, and closes.
    talk.s(FIN | ACK, 1, 6, 3);
    assert_eq!(
        talk.seen(),
        "c:CLOSE>SYN_SENT s:LISTEN>SYN_RECV s:SYN_RECV>FIN_WAIT1"
    );
    talk.c(ACK, 6, 5, 0);
    assert_eq!(
        talk.seen(),
        "c:SYN_SENT>ESTABLISHED c:ESTABLISHED>CLOSE_WAIT s:FIN_WAIT1>FIN_WAIT2"
    );
}

#[test]
fn syns_that_cross_open_both_ends() {
    let mut talk = Talk::new();
    talk.c(SYN, 0, 0, 0).s(SYN, 0, 0, 0);
    talk.c(SYN | ACK, 0, 1, 0).s(SYN | ACK, 0, 1, 0);
    talk.c(ACK, 1, 1, 0).s(ACK, 1, 1, 0);
    assert_eq!(
        talk.seen(),
        "c:CLOSE>SYN_SENT s:CLOSE>SYN_SENT c:SYN_SENT>SYN_RECV s:SYN_SENT>SYN_RECV \
         c:SYN_RECV>ESTABLISHED s:SYN_RECV>ESTABLISHED"
    );
}

#[test]
fn a_rst_ends_both_ends_and_says_whose_it_was() {
    let mut talk = Talk::new();
    talk.c(SYN, 0, 0, 0).s(RST | ACK, 0, 1, 0);
    assert_eq!(talk.seen(), "c:CLOSE>SYN_SENT c:SYN_SENT>CLOSE(refused)");

    let mut talk = Talk::new();
    talk.handshake().seen();
    talk.s(RST | ACK, 1, 1, 0);
    assert_eq!(
        talk.seen(),
        "s:ESTABLISHED>CLOSE(reset_locally) c:ESTABLISHED>CLOSE(reset_by_peer)"
    );

    // The client gave up while it was answered.
    let mut talk = Talk::new();
    talk.c(SYN, 0, 0, 0).s(SYN | ACK, 0, 1, 0).seen();
    talk.c(RST, 1, 0, 0);
    assert_eq!(
        talk.seen(),
        "c:SYN_SENT>CLOSE(abandoned) s:SYN_RECV>CLOSE(reset_by_peer)"
    );

    // The peer's FIN was received, and its data was not read.
    let mut talk = Talk::new();
    talk.handshake().c(FIN | ACK, 1, 1, 9).s(ACK, 1, 11, 0);
    talk.seen();
    talk.s(RST | ACK, 1, 11, 0);
    assert_eq!(
        talk.seen(),
        "s:CLOSE_WAIT>CLOSE(reset_locally) c:FIN_WAIT2>CLOSE(reset_by_peer)"
    );
}

#[test]
fn a_rst_of_wrong_numbers_ends_nothing() {
    let mut talk = Talk::new();
    talk.c(SYN, 0, 0, 0);
    talk.seen();
    // Refusing another SYN.
    talk.s(RST | ACK, 0, 77, 0).s(RST, 5, 0, 0);
    assert_eq!(talk.seen(), "");
    talk.s(SYN | ACK, 0, 1, 0).c(ACK, 1, 1, 0);
    talk.seen();
    talk.c(ACK, 1, 1, 100).s(ACK, 1, 101, 0);
    for seq in [0, 2, 50, 0x8000_0000] {
        talk.s(RST, seq, 0, 0);
    }
    // Behind what was acknowledged, and before what comes next.
    talk.c(RST, 100, 0, 0).c(RST, 102, 0, 0);
    assert_eq!(talk.seen(), "");
    talk.c(RST, 101, 0, 0);
    assert_eq!(
        talk.seen(),
        "c:ESTABLISHED>CLOSE(reset_locally) s:ESTABLISHED>CLOSE(reset_by_peer)"
    );
}

#[test]
fn a_handshake_is_only_finished_by_the_right_number() {
    let mut talk = Talk::new();
    talk.c(SYN, 0, 0, 0);
    // Answers to another SYN: a SYN-ACK, and a challenge ACK with the RST that it gets.
    talk.s(SYN | ACK, 0, 9, 0).s(ACK, 500, 700, 0);
    talk.segment(true, RST, C + 700, 0, 0);
    assert_eq!(talk.seen(), "c:CLOSE>SYN_SENT");
    talk.s(SYN | ACK, 0, 1, 0).c(ACK, 1, 44, 0);
    assert_eq!(talk.seen(), "s:LISTEN>SYN_RECV");
    talk.c(ACK, 1, 1, 0);
    assert_eq!(talk.seen(), "c:SYN_SENT>ESTABLISHED s:SYN_RECV>ESTABLISHED");
}

#[test]
fn an_old_duplicate_of_a_syn_is_none() {
    let mut talk = Talk::new();
    talk.handshake().seen();
    talk.c(SYN, 0, 0, 0).segment(true, SYN, C - 500, 0, 0);
    // A challenge ACK, and the connection goes on.
    talk.s(ACK, 1, 1, 0).c(ACK | PSH, 1, 1, 4).s(ACK, 1, 5, 0);
    assert_eq!(talk.seen(), "");
    // While it connects.
    let mut talk = Talk::new();
    talk.c(SYN, 0, 0, 0).segment(true, SYN, C - 500, 0, 0);
    talk.s(SYN | ACK, 0, 1, 0).c(ACK, 1, 1, 0);
    assert_eq!(talk.seen(), OPENED);
}

#[test]
fn the_same_port_again_is_another_connection() {
    let mut talk = Talk::new();
    talk.handshake().c(FIN | ACK, 1, 1, 0).s(FIN | ACK, 1, 2, 0);
    talk.c(ACK, 2, 2, 0).seen();
    let first = talk.machine.connections();
    // The last acknowledgement again belongs to the first.
    talk.s(FIN | ACK, 1, 2, 0).c(ACK, 2, 2, 0);
    assert_eq!(
        (talk.seen().as_str(), talk.machine.connections()),
        ("", first)
    );
    talk.segment(true, SYN, C + 9000, 0, 0);
    talk.segment(false, SYN | ACK, 7, C + 9001, 0);
    talk.segment(true, ACK, C + 9001, 8, 0);
    assert_eq!(talk.seen(), OPENED);
    assert_eq!(talk.machine.connections(), first + 1);
}

#[test]
fn a_syn_whose_connection_is_not_over_begins_one_when_it_is_answered() {
    let mut talk = Talk::new();
    talk.handshake();
    let old = talk.events.last().and_then(Event::cookie);
    talk.seen();
    // The client was restarted, and the server's socket is gone: neither end was seen.
    talk.segment(true, SYN, C + 9000, 0, 0);
    let at_ns = talk.time_ns;
    assert_eq!(talk.seen(), "");
    talk.segment(false, SYN | ACK, 7, C + 9001, 0);
    let begins = talk.events.first().copied().unwrap();
    assert_eq!(begins.ts_ns(), at_ns, "when its SYN was seen");
    assert_ne!(begins.cookie(), old);
    assert_eq!(talk.seen(), "c:CLOSE>SYN_SENT s:LISTEN>SYN_RECV");
}

#[test]
fn a_client_that_gives_up_and_connects_again_has_another_connection() {
    let mut talk = Talk::new();
    talk.c(SYN, 0, 0, 0).c(SYN, 0, 0, 0);
    talk.segment(true, SYN, C + 9000, 0, 0);
    assert_eq!(talk.seen(), "c:CLOSE>SYN_SENT c:CLOSE>SYN_SENT");
}

#[test]
fn keepalives_and_zero_windows_change_nothing() {
    let mut talk = Talk::new();
    talk.handshake().c(ACK, 1, 1, 10).s(ACK, 1, 11, 0);
    talk.seen();
    talk.c(ACK, 10, 1, 0).s(ACK, 1, 11, 0);
    talk.c(ACK, 10, 1, 1).s(ACK, 1, 11, 0);
    talk.c(ACK, 11, 1, 1).s(ACK, 1, 11, 0).c(ACK, 11, 1, 1);
    assert_eq!(talk.seen(), "");
}

#[test]
fn a_beginning_that_was_not_captured_stays_unknown_until_the_packets_tell() {
    // Data of both: neither has closed.
    let mut talk = Talk::new();
    talk.c(ACK, 50, 50, 10)
        .s(ACK, 50, 60, 10)
        .c(ACK, 60, 60, 10);
    talk.s(FIN | ACK, 60, 70, 0);
    assert_eq!(talk.seen(), "s:ESTABLISHED>FIN_WAIT1");

    // Only the end: the first to close was in ESTABLISHED or in CLOSE_WAIT.
    let mut talk = Talk::new();
    talk.c(FIN | ACK, 50, 50, 0).s(ACK, 50, 51, 0);
    assert_eq!(talk.seen(), "");
    // The server had not closed before, as its numbers tell.
    talk.s(FIN | ACK, 50, 51, 0).c(ACK, 51, 51, 0);
    assert_eq!(
        talk.seen(),
        "s:CLOSE_WAIT>LAST_ACK c:FIN_WAIT2>CLOSE(fin) s:LAST_ACK>CLOSE(fin)"
    );

    // A RST tells that it is over, not from where.
    let mut talk = Talk::new();
    talk.c(ACK, 50, 50, 0).s(RST | ACK, 50, 50, 0);
    assert_eq!(talk.seen(), "");
}

#[test]
fn gaps_lose_what_they_hide_and_no_more() {
    // The answer to the SYN.
    let mut talk = Talk::new();
    talk.c(SYN, 0, 0, 0).c(ACK, 1, 1, 0);
    assert_eq!(talk.seen(), "c:CLOSE>SYN_SENT c:SYN_SENT>ESTABLISHED");
    talk.c(ACK, 1, 1, 5).s(ACK, 1, 6, 5).s(ACK, 6, 6, 5);
    talk.s(FIN | ACK, 11, 6, 0);
    assert_eq!(talk.seen(), "s:ESTABLISHED>FIN_WAIT1");
    // Data between two packets.
    talk.c(ACK, 500, 12, 0);
    assert_eq!(
        talk.seen(),
        "c:ESTABLISHED>CLOSE_WAIT s:FIN_WAIT1>FIN_WAIT2"
    );
}

#[test]
fn what_was_acknowledged_and_not_seen_may_have_been_a_fin() {
    // It was none, as the data behind it shows.
    let mut talk = Talk::new();
    talk.handshake().s(ACK, 1, 50, 0).seen();
    talk.c(ACK | PSH, 50, 1, 1).s(FIN | ACK, 1, 51, 0);
    assert_eq!(talk.seen(), "s:ESTABLISHED>FIN_WAIT1");
    // It was one, or data: nobody knows which the server's FIN is.
    let mut talk = Talk::new();
    talk.handshake().s(ACK, 1, 2, 0).seen();
    talk.s(FIN | ACK, 1, 2, 0);
    assert_eq!(talk.seen(), "");
    // It was captured behind its acknowledgement.
    let mut talk = Talk::new();
    talk.handshake().s(ACK, 1, 2, 0).seen();
    talk.c(FIN | ACK, 1, 1, 0);
    assert_eq!(
        talk.seen(),
        "c:ESTABLISHED>FIN_WAIT1 s:ESTABLISHED>CLOSE_WAIT c:FIN_WAIT1>FIN_WAIT2"
    );
}

#[test]
fn one_direction_shows_what_it_can() {
    let mut talk = Talk::new();
    talk.s(SYN | ACK, 0, 1, 0).s(ACK, 1, 54, 0);
    assert_eq!(talk.seen(), "s:SYN_RECV>ESTABLISHED");
    talk.s(FIN | ACK, 1, 55, 0);
    assert_eq!(talk.seen(), "");
    let mut talk = Talk::new();
    talk.c(SYN, 0, 0, 0).c(ACK, 1, 1, 0).c(ACK, 1, 1, 9);
    talk.c(FIN | ACK, 10, 1, 0);
    assert_eq!(
        talk.seen(),
        "c:CLOSE>SYN_SENT c:SYN_SENT>ESTABLISHED c:ESTABLISHED>FIN_WAIT1"
    );
}

#[test]
fn what_no_end_of_a_connection_sends_is_none() {
    let mut talk = Talk::new();
    talk.c(0, 1, 0, 0).c(FIN, 1, 0, 0).c(RST, 1, 0, 0);
    talk.c(SYN | FIN, 0, 0, 0).c(SYN | RST, 0, 0, 0);
    assert_eq!((talk.seen().as_str(), talk.machine.connections()), ("", 0));
    talk.handshake().seen();
    talk.c(0, 1, 0, 0).c(FIN, 1, 0, 0).c(SYN | FIN, 0, 0, 0);
    assert_eq!(talk.seen(), "");
}

#[test]
fn a_flood_takes_no_more_than_its_room_and_leaves_others_in_peace() {
    let mut talk = Talk::new();
    talk.handshake().seen();
    let side = |host: u32, port| {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&host.to_be_bytes());
        Side { address, port }
    };
    let mut events = Vec::new();
    for host in 1..10_000 {
        let syn = Segment {
            number: 1,
            time_ns: talk.time_ns,
            from: side(host, 1),
            to: side(0, 80),
            domain: 0,
            seq: 0,
            ack: 0,
            len: 0,
            window: 0,
            flags: SYN,
        };
        talk.machine.take(&syn, &mut events);
        events.clear();
        assert!(talk.machine.held() <= 8);
        // It is used, so it stays.
        talk.c(ACK, 1, 1, 1);
    }
    assert_eq!(talk.machine.evicted(), 9_999 - 7);
    talk.c(FIN | ACK, 2, 1, 0);
    assert_eq!(talk.seen(), "c:ESTABLISHED>FIN_WAIT1");
}

#[test]
fn what_is_over_is_forgotten_in_time() {
    let mut machine = Machine::new(1 << 20);
    let mut events = Vec::new();
    for minute in 0..1000_u64 {
        let side = |host: u64| Side {
            address: u128::from(host).to_be_bytes(),
            port: 80,
        };
        let segment = |flags, is_client: bool| Segment {
            number: 1,
            time_ns: minute * 60_000_000_000,
            from: side(if is_client { minute + 1 } else { 0 }),
            to: side(if is_client { 0 } else { minute + 1 }),
            domain: 0,
            seq: 5,
            ack: 6,
            len: 0,
            window: 0,
            flags,
        };
        machine.take(&segment(SYN, true), &mut events);
        machine.take(&segment(RST | ACK, false), &mut events);
    }
    assert!(machine.held() < 20, "{}", machine.held());
    assert_eq!(machine.evicted(), 0);
    assert_eq!(machine.connections(), 1000);
}

/// The packets of the events since the last call, one a word: end, number and direction, flags, sequence and acknowledged
/// number, and `?` where the transition is inferred.
fn packets(talk: &mut Talk) -> String {
    let words = talk.events.drain(..).map(|event| {
        let packet = event.packet().unwrap();
        let end = if event.lport() == 80 { 's' } else { 'c' };
        let direction = if packet.is_sent { '>' } else { '<' };
        let ack = packet
            .ack
            .map_or_else(|| "-".to_owned(), |ack| ack.to_string());
        assert_eq!(packet.number, event.ts_ns(), "the test numbers them so");
        let inferred = if packet.is_inferred { "?" } else { "" };
        let (number, flags, seq) = (packet.number, packet.flags, packet.seq);
        format!("{end}{direction}{number}:{flags:x}:{seq}:{ack}{inferred}")
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn an_event_has_the_packet_that_shows_it() {
    let mut talk = Talk::new();
    talk.handshake();
    assert_eq!(
        packets(&mut talk),
        "c>1:2:0:- s>2:12:0:1 c>3:10:1:1 s<3:10:1:1"
    );
    talk.c(FIN | ACK, 1, 1, 9).s(ACK, 1, 11, 0);
    assert_eq!(packets(&mut talk), "c>4:11:1:1 s>5:10:1:11 c<5:10:1:11");
    talk.s(RST | ACK, 1, 11, 0);
    assert_eq!(packets(&mut talk), "s>6:14:1:11 c<6:14:1:11");
}

#[test]
fn an_event_says_what_is_inferred() {
    // Nothing acknowledges the server's FIN, and the client has to have received it before its own was acknowledged.
    let mut talk = Talk::new();
    talk.handshake();
    talk.events.clear();
    talk.c(FIN | ACK, 1, 1, 0).s(FIN | ACK, 1, 1, 0);
    packets(&mut talk);
    talk.s(ACK, 2, 2, 0);
    let closing = packets(&mut talk);
    assert_eq!(closing, "s>6:10:2:2 c<6:10:2:2? c<6:10:2:2");
    // The SYN-ACK is missing.
    let mut talk = Talk::new();
    talk.c(SYN, 0, 0, 0).c(ACK, 1, 1, 0);
    assert_eq!(packets(&mut talk), "c>1:2:0:- c>2:10:1:1?");
    // The beginning is missing: numbers count from the first ones seen.
    let mut talk = Talk::new();
    talk.c(ACK, 50, 50, 10)
        .s(ACK, 50, 60, 10)
        .c(ACK, 60, 60, 10);
    talk.s(FIN | ACK, 60, 70, 0).c(ACK, 70, 61, 0);
    assert_eq!(
        packets(&mut talk),
        "s>4:11:11:21? c>5:10:21:12? s<5:10:21:12"
    );
    // The SYN is missing.
    let mut talk = Talk::new();
    talk.s(SYN | ACK, 0, 1, 0).c(ACK, 1, 1, 0);
    assert_eq!(packets(&mut talk), "c>2:10:1:1? s<2:10:1:1?");
}

#[test]
fn an_answered_syn_is_the_packet_of_its_event() {
    let mut talk = Talk::new();
    talk.handshake();
    talk.segment(true, SYN, C + 9000, 0, 4);
    let number = talk.time_ns;
    talk.events.clear();
    talk.segment(false, SYN | ACK, 7, C + 9001, 0);
    let first = talk.events[0].packet().unwrap();
    assert_eq!((first.number, first.flags, first.len), (number, SYN, 4));
    assert_eq!((first.seq, first.ack, first.is_sent), (0, None, true));
    assert_eq!(talk.events[1].packet().unwrap().number, number + 1);
}

#[test]
fn an_event_has_two_sockets_and_no_owner() {
    let mut talk = Talk::new();
    talk.handshake();
    let cookies: Vec<_> = talk.events.iter().filter_map(Event::cookie).collect();
    assert_eq!(cookies.len(), 4);
    assert_eq!(cookies[0], cookies[2]);
    assert_eq!(cookies[1], cookies[3]);
    assert_ne!(cookies[0], cookies[1]);
    let event = talk.events[0];
    assert_eq!(
        (event.uid(), event.netns(), event.cgroup()),
        (None, None, None)
    );
    assert_eq!(event.process(), None);
}
