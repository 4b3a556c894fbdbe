//! Crafted files: whole, with the right checksums, and with contents that no program writes.

use crate::{
    by_document,
    repair::{block, compressed, repair},
    stream::{Traffic, events},
    whole::{Read, drain, open, read, recording, small_blocks},
};

/// A whole recording whose texts are changed.
fn changed(changes: &[(&str, &str)]) -> Vec<u8> {
    let mut file = recording(&events(Traffic::Churn, 10, 1), small_blocks());
    for (from, to) in changes {
        let at = file
            .windows(from.len())
            .position(|bytes| bytes == from.as_bytes());
        let at = at.expect("the file has it");
        file.splice(at..at + from.len(), to.bytes());
    }
    repair(&file)
}

/// A recording with these blocks before its first one.
fn with_blocks(blocks: &[u8]) -> Read {
    let file = recording(&events(Traffic::Churn, 10, 1), small_blocks());
    let at = by_document::read(&file).blocks[0].offset;
    read(&[&file[..at], blocks, &file[at..]].concat())
}

#[test]
fn the_greatest_numbers_are_read_without_a_panic() {
    const MAX: &str = "18446744073709551615";
    let seen = format!("\"seen\":{MAX}");
    let received = format!("\"received\":{MAX}");
    let rejected = format!("\"rejected\":{MAX}");
    let malformed = format!("\"malformed\":{MAX}");
    let read = read_unbalanced(&changed(&[
        ("\"part\":0", "\"part\":4294967295"),
        ("\"first_event\":0", &format!("\"first_event\":{MAX}")),
        ("\"events\":10", &format!("\"events\":{MAX}")),
        ("\"finished\"", "\"rotated\""),
        ("\"seen\":17", &seen),
        ("\"received\":10", &received),
        ("\"rejected\":1", &rejected),
        ("\"malformed\":1", &malformed),
    ]));
    assert!(
        read.iter()
            .any(|notice| notice.contains("file 4294967296 of a rotation")),
        "{read:?}"
    );
}

/// The notices of a file whose books do not balance.
fn read_unbalanced(file: &[u8]) -> Vec<String> {
    use tcpstate_core::source::{EventSource as _, Step};

    let mut reader = open(file).expect("a header");
    let (mut batch, mut notices) = (Vec::new(), Vec::new());
    loop {
        match crate::whole::next(&mut reader, &mut batch) {
            Step::End => break,
            Step::Notice(notice) => notices.push(notice.text),
            Step::Events
            | Step::Census(_)
            | Step::Recalled(_)
            | Step::Packets(_)
            | Step::Settled => {}
        }
    }
    assert_eq!(batch.len(), 10);
    let books = reader.accounting().expect("the books of a file");
    assert_eq!((books.received, books.rejected), (10, u64::MAX));
    notices
}

#[test]
fn names_are_bounded_also_before_the_first_event() {
    let path = "x".repeat(1_000_000);
    let names = |id| {
        block(
            4,
            0,
            format!("{{\"cgroups\":{{\"{id}\":\"{path}\"}}}}").as_bytes(),
        )
    };
    let blocks = (0..70).flat_map(names).collect::<Vec<u8>>();
    // The reader looks for the first event of a file that does not say when it begins.
    let file = changed(&[("\"first_event\":0", "\"first_event\":5")]);
    let at = by_document::read(&file).blocks[0].offset;
    let read = drain(open(&[&file[..at], &blocks, &file[at..]].concat()).expect("a header"));
    assert_eq!(read.events.len(), 10);
    let left_out = "3 names of cgroups are left out";
    assert!(
        read.notices.iter().any(|notice| notice.contains(left_out)),
        "{:?}",
        read.notices
    );
}

#[test]
fn a_census_that_would_fill_the_memory_is_left_out() {
    // A few hundred bytes in the file, eight for each of these in memory.
    for (count, is_read) in [(65_536, true), (65_537, false)] {
        let known = vec!["7"; count].join(",");
        let json =
            format!("{{\"netns\":1,\"begin_ns\":1,\"previous_ns\":null,\"known\":[{known}]}}");
        let frame = zstd::encode_all(json.as_bytes(), 1).expect("memory");
        let read = with_blocks(&compressed(3, 0, json.as_bytes(), &frame));
        assert_eq!(read.events.len(), 10);
        assert_eq!(read.notices.is_empty(), is_read, "{:?}", read.notices);
    }
}
