use proptest::prelude::*;

use super::*;
use crate::written::{BIG, LITTLE, Written};

/// The packets of a file, as number, time, link type, length on the wire and bytes; and the notices.
type Read = (Vec<(u64, u64, u16, u32, Vec<u8>)>, Vec<String>);

fn read(file: &[u8]) -> Result<Read, FormatError> {
    let mut packets = Packets::new(file).unwrap()?;
    Ok(rest(&mut packets))
}

fn rest<R: io::Read>(packets: &mut Packets<R>) -> Read {
    let mut found = Vec::new();
    while packets.advance().unwrap() {
        let packet = packets.packet().unwrap();
        let bytes = packet.bytes.to_vec();
        found.push((
            packet.number,
            packet.time_ns,
            packet.link,
            packet.wire_len,
            bytes,
        ));
    }
    let notices = packets.take_notices();
    for notice in &notices {
        let is_missing = !notice.text.starts_with("times go back");
        assert_eq!(notice.is_damage, is_missing, "{}", notice.text);
    }
    (
        found,
        notices.into_iter().map(|notice| notice.text).collect(),
    )
}

/// Three packets in each format, as file and as the times of the packets.
fn files() -> Vec<(&'static str, Vec<u8>, [u64; 3])> {
    const S: u64 = 1_000_000_000;
    let packets = |unit: u32| {
        vec![
            (1, 0, b"one".to_vec()),
            (1, 7 * unit, b"three".to_vec()),
            (4_000_000_000, 999 * unit, Vec::new()),
        ]
    };
    let times = |unit: u64| [S, S + 7 * unit, 4_000_000_000 * S + 999 * unit];
    let mut files = Vec::new();
    for (name, written) in [("little", LITTLE), ("big", BIG)] {
        files.push((name, written.pcap(0xa1b2_c3d4, 1, &packets(1)), times(1000)));
        files.push((name, written.pcap(0xa1b2_3c4d, 1, &packets(1)), times(1)));
        files.push((name, written.pcap(0xa1b2_cd34, 1, &packets(1)), times(1000)));
        let file = [
            written.section(),
            written.interface(1, 0, &[]),
            written.packet(0, 1_000_000, b"one"),
            // Unknown.
            written.block(0x0bad, b"whatever"),
            written.packet(0, 1_000_007, b"three"),
            written.packet(0, 4_000_000_000_000_999, b""),
        ];
        files.push((name, file.concat(), times(1000)));
    }
    files
}

#[test]
fn every_format_gives_the_same_packets() {
    for (name, file, times) in files() {
        let (packets, notices) = read(&file).unwrap();
        assert_eq!(notices, [""; 0], "{name}");
        let expected = [b"one".as_slice(), b"three", b""];
        let expected = expected
            .iter()
            .zip(times)
            .zip(1..)
            .map(|((bytes, ns), number)| {
                let length = u32::try_from(bytes.len()).unwrap();
                (number, ns, 1, length, bytes.to_vec())
            });
        assert_eq!(packets, expected.collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn sections_and_interfaces_have_their_own_units() {
    let seconds = |written: Written, offset: i64| {
        let bytes = if written.is_big {
            offset.to_be_bytes()
        } else {
            offset.to_le_bytes()
        };
        written.option(14, &bytes)
    };
    let file = [
        LITTLE.section(),
        LITTLE.interface(1, 0, &LITTLE.option(9, &[9])),
        LITTLE.interface(
            101,
            0,
            &[LITTLE.option(9, &[0x88]), seconds(LITTLE, 10)].concat(),
        ),
        LITTLE.packet(1, 128, b"a"),
        LITTLE.packet(0, 5, b"b"),
        BIG.section(),
        BIG.interface(113, 2, &[BIG.option(2, b"eth0"), seconds(BIG, -1)].concat()),
        BIG.packet(0, 3_000_000, b"c"),
        // A simple packet: five bytes, of which the interface takes two.
        BIG.block(3, &[&BIG.u32(5), b"xy".as_slice()].concat()),
    ];
    let (packets, notices) = read(&file.concat()).unwrap();
    assert_eq!(notices, ["times go back at packet 2 by 10.499999995 s"]);
    let expected = [
        (1, 10_500_000_000, 101, 1, b"a".to_vec()),
        (2, 5, 1, 1, b"b".to_vec()),
        (3, 2_000_000_000, 113, 1, b"c".to_vec()),
        (4, 2_000_000_000, 113, 5, b"xy".to_vec()),
    ];
    assert_eq!(packets, expected);
}

#[test]
fn the_obsolete_packet_block_is_read() {
    let mut body = LITTLE.u16(0).to_vec();
    body.extend(LITTLE.u16(0));
    for number in [0, 2_000_000, 3, 9] {
        body.extend(LITTLE.u32(number));
    }
    body.extend(b"abc");
    let file = [
        LITTLE.section(),
        LITTLE.interface(1, 0, &[]),
        LITTLE.block(2, &body),
    ];
    let (packets, _) = read(&file.concat()).unwrap();
    assert_eq!(packets, [(1, 2_000_000_000, 1, 9, b"abc".to_vec())]);
}

#[test]
fn a_file_cut_anywhere_is_read_up_to_there() {
    for (name, file, _) in files() {
        let (whole, _) = read(&file).unwrap();
        for end in 0..file.len() {
            let Ok((packets, notices)) = read(&file[..end]) else {
                assert!(end < 24, "{name} {end}");
                continue;
            };
            assert!(whole.starts_with(&packets), "{name} {end}");
            // At the end of a record nothing tells that there was more.
            assert!(
                notices.len() == 1 && notices[0].starts_with("cut: ") || notices.is_empty(),
                "{name} {end} {notices:?}"
            );
        }
        let (packets, notices) = read(&file[..file.len() - 1]).unwrap();
        let cut_ends = (packets.len(), notices.len());
        assert!(cut_ends == (2, 1), "{name} {cut_ends:?} {notices:?}");
    }
}

#[test]
fn damage_is_named_with_its_place() {
    let good = |ticks| LITTLE.packet(0, ticks, b"good");
    let begin = [LITTLE.section(), LITTLE.interface(1, 0, &[])].concat();
    // A block whose packet is longer than it, and one of no interface: the next one is found.
    let mut long = LITTLE.packet(0, 1, b"long");
    long[20] = 200;
    let file = [begin.clone(), long, LITTLE.packet(9, 1, b""), good(1)].concat();
    let (packets, notices) = read(&file).unwrap();
    assert_eq!(packets.len(), 1);
    let at = begin.len();
    assert_eq!(
        notices,
        [
            format!("damaged at byte {at}: a packet longer than its block; it is left out"),
            format!(
                "damaged at byte {}: of an interface that is not described; it is left out",
                at + 36
            ),
        ]
    );
    // Where the lengths are wrong, there is no next one.
    let mut wrong = good(1);
    let last = wrong.len() - 4;
    wrong[last] ^= 8;
    let (packets, notices) = read(&[begin.clone(), good(1), wrong, good(2)].concat()).unwrap();
    assert_eq!(packets.len(), 1);
    assert!(notices[0].contains("two lengths differ"), "{notices:?}");
    // Many places.
    let many = vec![LITTLE.packet(9, 1, b""); 50].concat();
    let (_, notices) = read(&[begin.clone(), many].concat()).unwrap();
    assert_eq!(notices.len(), 21);
    assert_eq!(notices[20], "30 more damaged places are left out");

    let mut huge = LITTLE.pcap(0xa1b2_c3d4, 1, &[(1, 1, b"x".to_vec())]);
    huge.extend([0xff; 16]);
    let (packets, notices) = read(&huge).unwrap();
    assert_eq!(packets.len(), 1);
    let expected = "damaged at byte 41: no packet is that long; it and the rest are left out";
    assert_eq!(notices, [expected]);
}

#[test]
fn dropped_packets_are_told() {
    let count = |interface: u32, dropped: u64| {
        let mut body = LITTLE.u32(interface).to_vec();
        body.extend([0; 8]);
        body.extend(LITTLE.option(5, &dropped.to_le_bytes()));
        LITTLE.block(5, &body)
    };
    let file = [
        LITTLE.section(),
        LITTLE.interface(1, 0, &[]),
        LITTLE.interface(1, 0, &[]),
        count(0, 3),
        count(0, 4),
        count(1, 2),
        LITTLE.section(),
        LITTLE.interface(1, 0, &[]),
        count(0, 1),
    ];
    let (_, notices) = read(&file.concat()).unwrap();
    assert!(
        notices[0].contains(" 7 packets were dropped"),
        "{notices:?}"
    );
}

#[test]
fn other_files_are_refused() {
    for (bytes, expected) in [
        (b"".as_slice(), FormatError::Empty),
        (b"ab", FormatError::Magic),
        (b"#!/bin/sh\n", FormatError::Magic),
        (b"\xd4\xc3\xb2\xa1\0\0", FormatError::Header),
    ] {
        assert_eq!(read(bytes).err(), Some(expected));
        assert_eq!(is_capture(bytes), expected == FormatError::Header);
    }
}

#[test]
fn compressed_captures_are_read_and_may_be_cut() {
    for (name, file, _) in files() {
        let whole = read(&file).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &file).unwrap();
        let gzip = gzip.finish().unwrap();
        // Two members, as `cat a.gz b.gz` makes them, are not two captures; zstd frames neither.
        let zstd = zstd::bulk::compress(&file, 1).unwrap();
        for compressed in [gzip, zstd] {
            assert!(is_capture(&compressed));
            let open = |bytes: Vec<u8>| Packets::open(io::Cursor::new(bytes)).unwrap();
            let found = rest(&mut open(compressed.clone()).unwrap());
            assert_eq!(found, whole, "{name}");
            for end in 4..compressed.len() - 1 {
                let Ok(mut packets) = open(compressed[..end].to_vec()) else {
                    continue;
                };
                let (found, notices) = rest(&mut packets);
                assert!(whole.0.starts_with(&found), "{name} {end}");
                assert_eq!(notices.len(), 1, "{name} {end}");
            }
        }
    }
}

/// A stream that hands out a byte at a time.
struct Slow<'a>(&'a [u8]);

impl io::Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((first, rest)) = self.0.split_first() else {
            return Ok(0);
        };
        self.0 = rest;
        buffer[0] = *first;
        Ok(1)
    }
}

#[test]
fn a_packet_is_there_as_soon_as_its_bytes_are() {
    for (name, file, _) in files() {
        let whole = read(&file).unwrap();
        let mut slow = Packets::new(Slow(&file)).unwrap().unwrap();
        assert!(slow.advance().unwrap());
        assert!(!slow.has_more_at_hand(), "{name}");
        let mut slow = Packets::new(Slow(&file)).unwrap().unwrap();
        assert_eq!(rest(&mut slow), whole, "{name}");
        let mut fast = Packets::new(file.as_slice()).unwrap().unwrap();
        assert!(fast.advance().unwrap());
        assert!(fast.has_more_at_hand(), "{name}");
    }
}

proptest! {
    #[test]
    fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..8_usize, place in 0..300_usize) {
        let _ = read(&bytes);
        let (_, mut file, _) = files().swap_remove(at);
        let place = place % file.len();
        for (to, from) in file[place..].iter_mut().zip(&bytes) {
            *to = *from;
        }
        let _ = read(&file);
    }
}

#[test]
fn times_that_go_back_are_told_once() {
    let notices = |times: &[(u32, u32)]| {
        let packets: Vec<_> = times.iter().map(|&(s, us)| (s, us, Vec::new())).collect();
        let file = LITTLE.pcap(0xa1b2_c3d4, 1, &packets);
        let mut packets = Packets::new(file.as_slice()).unwrap().unwrap();
        while packets.advance().unwrap() {}
        let notices = packets.take_notices();
        // Nothing is missing.
        assert!(notices.iter().all(|notice| !notice.is_damage));
        let texts = notices.into_iter().map(|notice| notice.text);
        texts.collect::<Vec<_>>()
    };
    assert_eq!(notices(&[(5, 0), (5, 0), (5, 1)]), [""; 0]);
    assert_eq!(
        notices(&[(5, 3), (5, 1), (6, 0)]),
        ["times go back at packet 2 by 0.000002 s"]
    );
    assert_eq!(
        notices(&[(9, 0), (8, 0), (9, 0), (2, 500_000), (9, 0), (8, 0)]),
        ["times go back at packet 4 by 6.5 s, the most of 3 such places"]
    );
}
