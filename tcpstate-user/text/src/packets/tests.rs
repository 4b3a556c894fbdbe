use tcpstate_common::State;
use tcpstate_core::{
    event::Packet,
    packet::{Note, Notes, PacketEnd},
};

use super::*;

const ACK: u8 = 16;

/// A packet with data of the client of a connection, whose state is not changed.
fn packet(connection: u64, number: u64) -> ConnectionPacket {
    let end = |host: u8, port, cookie| PacketEnd {
        address: std::net::Ipv4Addr::new(192, 0, 2, host)
            .to_ipv6_mapped()
            .octets(),
        port,
        cookie,
        state: Some(State::ESTABLISHED),
        has_changed: false,
        cause: None,
    };
    ConnectionPacket {
        number,
        ts_ns: number * 1_000,
        connection,
        ends: [
            end(1, 40_000, connection * 2 - 1),
            end(2, 80, connection * 2),
        ],
        has_roles: true,
        is_of_first: true,
        flags: ACK,
        seq: 1,
        ack: Some(1),
        len: 100,
        window: 10,
        notes: Notes::default(),
    }
}

fn event(connection: u64, number: u64) -> Event {
    let mut event = packet(connection, number).as_events().next().unwrap();
    event.set_packet(&Packet {
        number,
        is_sent: true,
        flags: ACK,
        seq: 1,
        ack: None,
        len: 0,
        is_inferred: false,
    });
    event
}

fn view(format: Format, order: PacketOrder) -> Packets {
    Packets::new(&Options {
        settings: Settings::plain(format),
        order,
    })
}

fn text(out: Vec<u8>) -> String {
    String::from_utf8(out).unwrap()
}

#[test]
fn packets_that_say_nothing_of_states_are_folded() {
    let mut view = view(Format::Text, PacketOrder::ByConnection);
    let mut out = Vec::new();
    let mut noted = packet(1, 6);
    noted.notes.add(Note::Retransmission);
    let mut packets: Vec<_> = (1..=5).map(|number| packet(1, number)).collect();
    packets.push(noted);
    packets.extend([packet(1, 7), packet(1, 8)]);
    view.packets(&packets, true, &mut out).unwrap();
    assert!(out.is_empty(), "it waits for the end");
    view.print(true, &mut out).unwrap();
    let text = text(out);
    assert!(text.contains("8 packets from "), "{text}");
    assert!(text.contains("5 more packets: -> 500 B, <- 0 B"), "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3 + 1 + 3, "{text}");
    assert!(lines[4].ends_with("retransmission"), "{text}");
    assert_eq!(view.shown, 8);
}

#[test]
fn connections_come_one_after_the_other_or_as_they_were_captured() {
    let packets = [packet(1, 1), packet(2, 2), packet(1, 3)];
    let shown = |order| {
        let mut view = view(Format::Text, order);
        let mut out = Vec::new();
        view.packets(&packets, true, &mut out).unwrap();
        view.print(true, &mut out).unwrap();
        let text = text(out);
        let numbers = text.lines().filter_map(|line| {
            let word = line.split_whitespace().next()?;
            word.parse::<u64>().ok()
        });
        numbers.collect::<Vec<_>>()
    };
    // The lines under the titles of a connection begin with `2 packets from` and the like.
    assert_eq!(shown(PacketOrder::ByConnection), [2, 1, 3, 1, 2]);
    assert_eq!(shown(PacketOrder::Interleaved), [1, 2, 3]);
}

#[test]
fn only_connections_with_a_wanted_event_are_shown_where_only_that_decides() {
    for order in [PacketOrder::ByConnection, PacketOrder::Interleaved] {
        let mut view = view(Format::Text, order);
        let mut out = Vec::new();
        view.event(&event(2, 4), &mut out).unwrap();
        let packets = [packet(1, 1), packet(2, 2), packet(1, 3), packet(2, 4)];
        view.packets(&packets, false, &mut out).unwrap();
        view.print(true, &mut out).unwrap();
        let text = text(out);
        assert!(!text.contains("connection 1"), "{text}");
        assert!(text.contains("connection 2"), "{text}");
        // As they come, from the packet on that selects it.
        let expected = if order == PacketOrder::ByConnection {
            2
        } else {
            1
        };
        assert_eq!(view.shown, expected, "{text}");
    }
}

#[test]
fn json_has_every_packet_as_it_was_captured() {
    let mut view = view(Format::Json, PacketOrder::ByConnection);
    let mut out = Vec::new();
    let mut last = packet(1, 9);
    last.notes.add(Note::KeepAlive);
    last.notes.add(Note::ZeroWindow);
    last.ends[1].state = None;
    let packets: Vec<_> = (1..9).map(|number| packet(1, number)).collect();
    view.packets(&packets, true, &mut out).unwrap();
    view.packets(&[last], true, &mut out).unwrap();
    let text = text(out);
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 9);
    assert_eq!(lines[8]["type"], "packet");
    assert_eq!(
        lines[8]["notes"],
        serde_json::json!(["keep_alive", "zero_window"])
    );
    assert_eq!(lines[8]["client"]["state"], "ESTABLISHED");
    assert!(lines[8]["server"]["state"].is_null());
    assert_eq!(lines[8]["flags"], "ACK");
}

#[test]
fn a_great_many_packets_are_printed_before_the_end() {
    let mut view = view(Format::Text, PacketOrder::ByConnection);
    let mut out = Vec::new();
    // None of them can be folded.
    let packets: Vec<_> = (1..=MAX_ROWS as u64 + 1)
        .map(|number| {
            let mut packet = packet(1, number);
            packet.notes.add(Note::Retransmission);
            packet
        })
        .collect();
    view.packets(&packets, true, &mut out).unwrap();
    assert!(!out.is_empty());
    assert_eq!((view.rows, view.held.len()), (0, 0));
    out.clear();
    view.packets(&[packet(1, 9_999_999)], true, &mut out)
        .unwrap();
    view.print(true, &mut out).unwrap();
    let text = text(out);
    assert!(
        text.contains("1 packet from 1970-01-01 00:00:00.000000, continued\n"),
        "{text}"
    );
    assert_eq!(view.connections, 1);
}
