//! Reading recordings: written events are read, and a cut or damaged file gives all of its whole blocks.

use std::{
    io::{self, Write},
    path::Path,
};

use proptest::prelude::*;
use tcpstate_common::{Record, record};
use tcpstate_core::{
    event::Event,
    origin::Origin,
    source::{EventSource, Step},
};
use tcpstate_recording::{MAGIC, Options, Reader, VERSION};

use crate::{
    by_document,
    stream::{Random, Traffic, events},
    whole::{COST, books, drain, next, open, origin, read, recording, small_blocks},
};

fn any_event() -> impl Strategy<Value = Event> {
    // Few sockets, so that records find an earlier one of their own socket.
    (
        proptest::collection::vec(any::<u8>(), Record::SIZE),
        0_u64..5,
        any::<bool>(),
        0_u64..4,
    )
        .prop_map(|(bytes, socket, v6, late)| {
            let mut record = Record::from_bytes(bytes.as_slice().try_into().unwrap());
            record.family = if v6 {
                record::AF_INET6
            } else {
                record::AF_INET
            };
            record.skaddr = socket;
            record.ts_ns >>= late * 16;
            Event::try_from(record).unwrap()
        })
}

proptest! {
    #[test]
    fn any_events_come_back_as_they_were(
        events in proptest::collection::vec(any_event(), 0..300),
        block_records in 1_usize..70,
    ) {
        let read = read(&recording(&events, Options { block_records, ..Options::default() }));
        prop_assert_eq!(read.events, events);
        prop_assert_eq!(read.notices, Vec::<String>::new());
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..2_000),
        begin in 0_usize..3,
    ) {
        let whole = recording(&events(Traffic::Churn, 50, 1), small_blocks());
        let start = [&[][..], &MAGIC[..], &whole[..whole.len() / 2]][begin];
        bytes.splice(0..0, start.iter().copied());
        if let Ok(reader) = open(&bytes) {
            drain(reader);
        }
    }
}

#[test]
fn streams_come_back_as_they_were_and_small() {
    for (traffic, most_bytes) in [
        (Traffic::Churn, 12),
        (Traffic::WebServer, 24),
        (Traffic::Noise, 134),
    ] {
        let events = events(traffic, 50_000, 7);
        let bytes = recording(&events, Options::default());
        let read = read(&bytes);
        assert!(read.events == events, "{traffic:?}");
        assert_eq!(read.notices, Vec::<String>::new());
        assert_eq!(read.accounting, books(50_000));
        assert_eq!(read.cost, COST);
        assert!(
            bytes.len() <= events.len() * most_bytes,
            "{traffic:?}: {} bytes",
            bytes.len()
        );
    }
}

#[test]
fn the_header_comes_back() {
    let reader = open(&recording(&[], small_blocks())).unwrap();
    assert_eq!(
        reader.origin(),
        &Origin {
            live: false,
            ..origin()
        }
    );
    let read = drain(reader);
    assert_eq!((read.events.len(), read.notices.len()), (0, 0));
}

#[test]
fn a_second_reader_agrees() {
    let events = events(Traffic::WebServer, 1_050, 3);
    let file = recording(&events, small_blocks());
    let document = by_document::read(&file);
    assert_eq!(document.event_blocks().count(), 11);
    let mut at = 0;
    for block in document.event_blocks() {
        assert_eq!(block.first_event, at as u64);
        let times = || events[at..at + block.count].iter().map(Event::ts_ns);
        assert_eq!(Some(block.first_ts_ns), times().min());
        assert_eq!(Some(block.last_ts_ns), times().max());
        for fields in document.records(&file, block).0 {
            let bytes = events[at].record().to_bytes();
            assert_eq!(fields.len(), Record::LAYOUT.len());
            for &(name, offset, size) in Record::LAYOUT {
                assert_eq!(
                    fields[name],
                    bytes[offset..offset + size],
                    "{name} of event {at}"
                );
            }
            at += 1;
        }
    }
    assert_eq!(at, events.len());
    assert_eq!(document.footer["events"], 1_050);
    assert_eq!(document.footer["accounting"]["lost"], 2);
}

#[test]
fn a_file_cut_anywhere_gives_all_whole_blocks() {
    let events = events(Traffic::WebServer, 2_030, 11);
    let file = recording(&events, small_blocks());
    let document = by_document::read(&file);
    let first_block = 24 + document.metadata_bytes;
    let mut random = Random::new(2);
    for _ in 0..1_000 {
        let cut = usize::try_from(random.below(file.len() as u64)).unwrap();
        match open(&file[..cut]) {
            Err(error) => {
                assert!(cut < first_block, "cut at {cut}: {error}");
                let message = error.to_string();
                assert!(
                    message.contains("cut") && message.starts_with("FILE "),
                    "{message}"
                );
            }
            Ok(reader) => {
                assert!(cut >= first_block);
                let whole = document.event_blocks().filter(|block| block.end() <= cut);
                let expected = whole.map(|block| block.count).sum::<usize>();
                let read = drain(reader);
                assert!(read.events == events[..expected], "cut at {cut}");
                assert_eq!(read.notices.len(), 1, "cut at {cut}: {:?}", read.notices);
                let named = format!("cut at byte {cut}");
                assert!(read.notices[0].contains(&named), "{:?}", read.notices);
                assert!(read.accounting.partial, "the books are gone");
            }
        }
    }
}

#[test]
fn a_damaged_byte_costs_its_block_and_no_other() {
    let events = events(Traffic::WebServer, 2_030, 12);
    let file = recording(&events, small_blocks());
    let document = by_document::read(&file);
    let first_block = 24 + document.metadata_bytes;
    let mut random = Random::new(3);
    for _ in 0..1_000 {
        let at = usize::try_from(random.below(file.len() as u64)).unwrap();
        let mut damaged = file.clone();
        damaged[at] ^= 1 << random.below(8);
        let Ok(reader) = open(&damaged) else {
            assert!(at < first_block, "byte {at}");
            continue;
        };
        assert!(at >= first_block, "byte {at}");
        let read = drain(reader);
        let hit = document
            .blocks
            .iter()
            .find(|block| at < block.end())
            .unwrap();
        let named = format!("FILE: damaged at byte {}:", hit.offset);
        assert!(
            read.notices[0].starts_with(&named),
            "byte {at}: {:?}",
            read.notices
        );
        let first = usize::try_from(hit.first_event).unwrap();
        assert!(
            read.events[..first] == events[..first]
                && read.events[first..] == events[first + hit.count..],
            "byte {at}"
        );
        if hit.kind == 1 {
            let lost = format!("with {} events left out", hit.count);
            assert!(
                read.notices[0].contains(&lost),
                "byte {at}: {:?}",
                read.notices
            );
            assert_eq!(
                read.accounting.rejected_by_reason.not_in_file,
                hit.count as u64
            );
            assert_eq!(read.accounting.lost, 2);
        } else {
            assert!(read.accounting.partial, "the books are gone");
        }
    }
}

#[test]
fn missing_or_inserted_bytes_cost_the_blocks_that_they_hit() {
    let events = events(Traffic::WebServer, 1_000, 13);
    let file = recording(&events, small_blocks());
    let blocks = by_document::read(&file).blocks;
    // From the middle of the third block to the middle of the sixth.
    let (from, to) = (blocks[2].offset + 80, blocks[5].offset + 80);
    let without = [&file[..from], &file[to..]].concat();
    let expected = [&events[..200], &events[600..]].concat();
    let read_without = read(&without);
    assert!(read_without.events == expected);
    assert!(
        read_without.notices[0].contains("with 400 events left out"),
        "{:?}",
        read_without.notices
    );

    let noise = vec![0xb5; 300_000];
    let with = [
        &file[..blocks[4].offset],
        &noise[..],
        &file[blocks[4].offset..],
    ]
    .concat();
    let read_with = read(&with);
    assert!(read_with.events == events);
    let named = format!(
        "damaged at byte {}: no block begins there; 300000 bytes",
        blocks[4].offset
    );
    assert!(
        read_with.notices[0].contains(&named),
        "{:?}",
        read_with.notices
    );
}

#[test]
fn many_damaged_places_are_counted() {
    let events = events(Traffic::Churn, 10_000, 14);
    let mut file = recording(&events, small_blocks());
    let blocks = by_document::read(&file).blocks;
    for block in blocks.iter().filter(|block| block.kind == 1).step_by(2) {
        file[block.offset + 60] ^= 1;
    }
    let read = read(&file);
    assert_eq!(read.events.len(), 5_000);
    assert_eq!(read.notices.len(), 22, "{:?}", read.notices);
    assert!(
        read.notices[20].contains("30 more places"),
        "{:?}",
        read.notices
    );
}

#[test]
fn a_file_that_is_no_recording_is_refused_by_its_kind() {
    let whole = recording(&[], small_blocks());
    let mut newer = whole.clone();
    newer[8..10].copy_from_slice(&(VERSION + 1).to_le_bytes());
    let newer_version = format!("format version {}", VERSION + 1);
    let cases: [(&[u8], &str); 6] = [
        (b"", "is empty"),
        (b"just some text", "is no recording"),
        (
            &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0],
            "packet capture: these are not supported yet",
        ),
        (
            &[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0],
            "packet capture: these are not supported yet",
        ),
        (&newer, &newer_version),
        (&whole[..20], "was cut within its header"),
    ];
    for (bytes, expected) in cases {
        let message = open(bytes).err().expect(expected).to_string();
        assert!(
            message.starts_with("FILE ") && message.contains(expected),
            "{message}"
        );
    }
    let message = Reader::open(Path::new("/nonexistent/a.rec"))
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.starts_with("cannot open /nonexistent/a.rec: "),
        "{message}"
    );
}

#[test]
fn a_file_with_a_header_only_is_an_empty_recording_that_was_cut() {
    let whole = recording(&[], small_blocks());
    let header = 24 + by_document::read(&whole).metadata_bytes;
    let read = read(&whole[..header]);
    assert!(read.events.is_empty());
    assert!(
        read.notices[0].contains("cut at byte"),
        "{:?}",
        read.notices
    );
}

#[test]
fn a_pipe_is_read_block_by_block() {
    let events = events(Traffic::Churn, 200, 22);
    let file = recording(&events, small_blocks());
    let second_block = by_document::read(&file).blocks[1].offset;
    let (from, mut to) = io::pipe().unwrap();
    to.write_all(&file[..second_block + 10]).unwrap();
    let mut reader = Reader::new(from, "standard input".into(), None).unwrap();
    let mut batch = Vec::new();
    assert_eq!(next(&mut reader, &mut batch), Step::Settled);
    assert_eq!(next(&mut reader, &mut batch), Step::Events);
    assert_eq!(batch, events[..100]);
    to.write_all(&file[second_block + 10..]).unwrap();
    drop(to);
    assert_eq!(next(&mut reader, &mut batch), Step::Events);
    assert_eq!(batch, events, "events are appended");
    assert_eq!(next(&mut reader, &mut batch), Step::End);
    let progress = reader.progress().unwrap();
    assert_eq!(
        (progress.read_bytes, progress.total_bytes),
        (file.len() as u64, None)
    );
}

#[test]
fn a_reader_that_is_stopped_ends() {
    let file = recording(&events(Traffic::Churn, 50_000, 23), small_blocks());
    let mut reader = open(&file).unwrap();
    let mut batch = Vec::new();
    while next(&mut reader, &mut batch) != Step::Events {}
    reader.stop();
    while next(&mut reader, &mut batch) != Step::End {}
    assert!(batch.len() < 50_000);
    let accounting = reader.accounting().unwrap();
    assert_eq!(accounting.received, batch.len() as u64);
    assert!(accounting.partial);
}
