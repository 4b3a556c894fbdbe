use super::*;
use crate::{
    machine::tests::segment,
    segment::flags::{ACK, FIN, PSH, RST, SYN},
};

/// A conversation of a client (port 40000) and a server (port 80), whose numbers begin at 1000 and at 5000.
struct Talk {
    machine: Machine,
    annotator: Annotator,
    events: Vec<Event>,
    packets: Vec<ConnectionPacket>,
    number: u64,
    window: u16,
    last: Option<Segment>,
}

impl Talk {
    fn new() -> Self {
        Self {
            machine: Machine::new(8),
            annotator: Annotator::default(),
            events: Vec::new(),
            packets: Vec::new(),
            number: 0,
            window: 100,
            last: None,
        }
    }

    fn packet(&mut self, is_client: bool, flags: u8, seq: u32, ack: u32, len: u32) -> &mut Self {
        self.number += 1;
        let segment = Segment {
            window: self.window,
            ..segment(self.number, is_client, (flags, seq, ack, len))
        };
        self.last = Some(segment);
        self.annotator.take(
            &mut self.machine,
            &segment,
            &mut self.events,
            &mut self.packets,
        );
        self
    }

    fn c(&mut self, flags: u8, seq: u32, ack: u32, len: u32) -> &mut Self {
        self.packet(true, flags, 1000 + seq, 5000 + ack, len)
    }

    fn s(&mut self, flags: u8, seq: u32, ack: u32, len: u32) -> &mut Self {
        self.packet(false, flags, 5000 + seq, 1000 + ack, len)
    }

    /// The next packets have this window.
    fn window(&mut self, window: u16) -> &mut Self {
        self.window = window;
        self
    }

    fn handshake(&mut self) -> &mut Self {
        self.c(SYN, 0, 0, 0).s(SYN | ACK, 0, 1, 0).c(ACK, 1, 1, 0)
    }

    /// The notes of the packets since the last call: `-` for none.
    fn notes(&mut self) -> String {
        let words = self.packets.drain(..).map(|packet| {
            let names: Vec<_> = packet.notes.iter().map(Note::name).collect();
            if names.is_empty() {
                "-".to_owned()
            } else {
                names.join("+")
            }
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// The states of client and server after each packet since the last call.
    fn states(&mut self) -> Vec<String> {
        let states = self.packets.drain(..).map(|packet| {
            assert!(packet.has_roles && packet.ends[0].port == 40_000);
            let [client, server] = packet.ends.map(|end| {
                end.state
                    .map_or_else(|| "-".to_owned(), |state| state.to_string())
            });
            format!("{client} {server}")
        });
        states.collect()
    }
}

#[test]
fn the_states_are_those_of_the_textbook() {
    let mut talk = Talk::new();
    talk.handshake();
    talk.c(FIN | ACK, 1, 1, 0).s(ACK, 1, 2, 0);
    talk.s(FIN | ACK, 1, 2, 0).c(ACK, 2, 2, 0);
    assert_eq!(
        talk.states(),
        [
            "SYN_SENT -",
            "SYN_SENT SYN_RECV",
            "ESTABLISHED ESTABLISHED",
            "FIN_WAIT1 ESTABLISHED",
            "FIN_WAIT2 CLOSE_WAIT",
            "FIN_WAIT2 LAST_ACK",
            "TIME_WAIT CLOSE",
        ]
    );
}

#[test]
fn a_packet_has_its_numbers_and_its_sockets() {
    let mut talk = Talk::new();
    talk.handshake().s(ACK | PSH, 1, 1, 7);
    let packet = talk.packets[3];
    assert_eq!((packet.number, packet.connection), (4, 1));
    assert_eq!((packet.seq, packet.ack, packet.len), (1, Some(1), 7));
    assert_eq!((packet.window, packet.flags), (100, ACK | PSH));
    assert!(!packet.is_of_first);
    assert_eq!(talk.packets[0].ack, None);
    let cookies = talk.packets[0].ends.map(|end| end.cookie);
    assert_eq!(talk.events[0].cookie(), Some(cookies[0]));
    assert_eq!(talk.events[1].cookie(), Some(cookies[1]));
    let events: Vec<_> = packet.as_events().collect();
    assert_eq!((events[0].lport(), events[1].lport()), (40_000, 80));
}

#[test]
fn what_was_sent_before_is_a_retransmission() {
    let mut talk = Talk::new();
    talk.c(SYN, 0, 0, 0).c(SYN, 0, 0, 0).s(SYN | ACK, 0, 1, 0);
    talk.s(SYN | ACK, 0, 1, 0).c(ACK, 1, 1, 0);
    assert_eq!(talk.notes(), "- retransmission - retransmission -");
    // SYNs that cross come again with an acknowledgement.
    let mut crossing = Talk::new();
    crossing
        .c(SYN, 0, 0, 0)
        .s(SYN, 0, 0, 0)
        .c(SYN | ACK, 0, 1, 0);
    crossing.c(SYN | ACK, 0, 1, 0);
    assert_eq!(crossing.notes(), "- - - retransmission");
    talk.c(ACK, 1, 1, 10).c(ACK, 1, 1, 10).c(ACK, 6, 1, 10);
    assert_eq!(talk.notes(), "- retransmission retransmission");
    talk.c(FIN | ACK, 16, 1, 0).c(FIN | ACK, 16, 1, 0);
    assert_eq!(talk.notes(), "- retransmission");
}

#[test]
fn what_fills_a_hole_is_out_of_order() {
    let mut talk = Talk::new();
    talk.handshake().notes();
    talk.c(ACK, 11, 1, 10).c(ACK, 1, 1, 10).c(ACK, 11, 1, 10);
    assert_eq!(talk.notes(), "gap out_of_order retransmission");
    // It was never captured, and is acknowledged.
    talk.s(ACK, 1, 50, 0);
    assert_eq!(talk.notes(), "acknowledges_unseen");
}

#[test]
fn probes_of_keepalive_and_their_answers_are_named() {
    let mut talk = Talk::new();
    talk.handshake().c(ACK, 1, 1, 10).s(ACK, 1, 11, 0).notes();
    for len in [0, 1] {
        talk.c(ACK, 10, 1, len).s(ACK, 1, 11, 0);
        assert_eq!(talk.notes(), "keep_alive keep_alive_answer");
    }
    // The last byte, which nobody has acknowledged.
    talk.c(ACK, 11, 1, 1).c(ACK, 11, 1, 1);
    assert_eq!(talk.notes(), "- retransmission");
}

#[test]
fn windows_that_close_and_open_are_named() {
    let mut talk = Talk::new();
    talk.handshake().c(ACK, 1, 1, 10).notes();
    talk.window(0).s(ACK, 1, 11, 0);
    talk.window(100).c(ACK, 11, 1, 1);
    talk.window(0).s(ACK, 1, 11, 0);
    talk.window(9).s(ACK, 1, 11, 0).s(ACK, 1, 12, 0);
    assert_eq!(
        talk.notes(),
        "zero_window window_probe zero_window+duplicate_ack window_opens -"
    );
    // Linux asks without data, one number back.
    talk.window(0).s(ACK, 1, 12, 0);
    talk.window(100).c(ACK, 11, 1, 0);
    talk.window(0).s(ACK, 1, 12, 0);
    assert_eq!(talk.notes(), "zero_window window_probe zero_window");
}

#[test]
fn an_acknowledgement_that_says_nothing_new_is_a_duplicate() {
    let mut talk = Talk::new();
    talk.handshake().c(ACK, 1, 1, 10).c(ACK, 11, 1, 10);
    talk.s(ACK, 1, 11, 0)
        .s(ACK, 1, 11, 0)
        .s(ACK, 1, 21, 0)
        .s(ACK, 1, 21, 0);
    assert_eq!(talk.notes(), "- - - - - - duplicate_ack - -");
}

#[test]
fn resets_are_told_by_what_they_do() {
    let mut talk = Talk::new();
    talk.handshake().s(ACK, 1, 1, 9).c(ACK, 1, 10, 0).notes();
    talk.s(RST, 3000, 0, 0);
    assert_eq!(talk.notes(), "reset_ignored");
    talk.s(RST, 10, 0, 0);
    let packet = talk.packets[0];
    assert_eq!(
        packet.ends.map(|end| end.cause),
        [Some(Cause::ResetByPeer), Some(Cause::ResetLocally)]
    );
    assert_eq!(talk.notes(), "-");
    let mut talk = Talk::new();
    talk.c(SYN, 0, 0, 0).s(RST | ACK, 0, 1, 0);
    assert_eq!(talk.packets[1].ends[0].cause, Some(Cause::Refused));
}

#[test]
fn what_is_inferred_says_so() {
    let mut talk = Talk::new();
    talk.c(SYN, 0, 0, 4).c(ACK, 5, 1, 0);
    assert_eq!(talk.notes(), "data_on_syn inferred");
}

#[test]
fn another_connection_of_the_same_ports_begins_anew() {
    let mut talk = Talk::new();
    talk.handshake().c(FIN | ACK, 1, 1, 0).s(FIN | ACK, 1, 2, 0);
    talk.c(ACK, 2, 2, 0).notes();
    talk.packet(true, SYN, 90_000, 0, 0);
    let packet = talk.packets[0];
    assert_eq!((packet.connection, packet.seq), (2, 0));
    assert_eq!(talk.notes(), "-");
    // One that does not fit.
    let mut talk = Talk::new();
    talk.handshake().notes();
    talk.packet(true, SYN, 90_000, 0, 0);
    assert_eq!(talk.notes(), "other_syn");
}

#[test]
fn packets_of_no_connection_are_none() {
    let mut talk = Talk::new();
    talk.s(RST, 1, 0, 0);
    assert!(talk.packets.is_empty());
    // The roles are not known of a connection that was there before.
    talk.c(ACK, 1, 1, 5).s(ACK, 1, 6, 5);
    assert!(talk.packets.iter().all(|packet| !packet.has_roles));
    let ports = talk.packets[1].ends.map(|end| end.port);
    assert_eq!(ports, [40_000, 80]);
    assert_eq!(talk.packets[1].seq, 1);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    /// Looking at the packets changes nothing of the events, and no packet is shown twice.
    #[test]
    fn looking_changes_nothing(
        packets in proptest::collection::vec(
            (proptest::prelude::any::<bool>(), proptest::prelude::any::<u8>(), 0..6_u32, 0..6_u32, 0..3_u32, 0..2_u16),
            0..40,
        )
    ) {
        let mut talk = Talk::new();
        let mut alone = Machine::new(8);
        let mut events = Vec::new();
        let mut seen = 0;
        for (is_client, flags, seq, ack, len, window) in packets {
            talk.window(window);
            let (seq, ack) = if is_client { (1000 + seq, 5000 + ack) } else { (5000 + seq, 1000 + ack) };
            talk.packet(is_client, flags, seq, ack, len);
            alone.take(&talk.last.unwrap(), &mut events);
            proptest::prop_assert!(talk.packets.len() <= seen + 1);
            seen = talk.packets.len();
        }
        proptest::prop_assert_eq!(&talk.events, &events);
    }
}
