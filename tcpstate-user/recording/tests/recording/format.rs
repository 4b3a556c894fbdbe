//! The example in `docs/recording-format.md` is a real file, taken apart by a reader that was
//! written from the document alone.
//!
//! `TCPSTATE_BLESS=1 cargo test --test recording` updates it.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use tcpstate_common::{
    Record, State,
    record::{self, flags},
};
use tcpstate_core::{
    books::{Accounting, CaptureCost, LostByReason},
    census::{Census, Scope},
    event::Event,
    origin::Origin,
};
use tcpstate_recording::{MAX_BLOCK_RECORDS, Options, VERSION, Writer};

use crate::{by_document, repair};

const BEGIN: &str = "<!-- begin: written by tests/recording/format.rs -->\n";
const END: &str = "<!-- end -->\n";

/// The first byte of an input of `recording_reader`: the rest is a file, or one that gets the right lengths and
/// checksums.
const RAW: u8 = 0;
const REPAIRED: u8 = 1;

fn document() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/recording-format.md")
}

/// A client's connection up to its first FIN.
fn example_events() -> [Event; 3] {
    let client = Record {
        ts_ns: 5_000_000_000_000,
        cookie: 0x1001,
        skaddr: 0xffff_8881_0420_1a40,
        cgroup: 4242,
        laddr: std::net::Ipv4Addr::new(192, 0, 2, 10)
            .to_ipv6_mapped()
            .octets(),
        raddr: std::net::Ipv4Addr::new(198, 51, 100, 20)
            .to_ipv6_mapped()
            .octets(),
        netns: 4_026_531_840,
        uid: 1000,
        pid: 1234,
        rport: 443,
        cpu: 1,
        oldstate: State::CLOSE,
        newstate: State::SYN_SENT,
        family: record::AF_INET,
        flags: flags::COOKIE | flags::TCP | flags::SOCKET | flags::PROCESS,
        comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0",
        ..Record::default()
    };
    let established = Record {
        ts_ns: client.ts_ns + 40_000,
        pid: 0,
        comm: [0; 16],
        lport: 40_000,
        srtt_us: 38_500,
        oldstate: State::SYN_SENT,
        newstate: State::ESTABLISHED,
        flags: client.flags & !flags::PROCESS,
        ..client
    };
    let closing = Record {
        ts_ns: established.ts_ns + 7_000_000_000,
        pid: 1234,
        comm: client.comm,
        bytes_sent: 517,
        bytes_received: 4_096,
        oldstate: State::ESTABLISHED,
        newstate: State::FIN_WAIT1,
        flags: client.flags | flags::SEND_SHUTDOWN,
        ..established
    };
    [client, established, closing].map(|record| Event::try_from(record).expect("AF_INET"))
}

fn example_file(events: &[Event]) -> Vec<u8> {
    let origin = Origin {
        host: "web-3".into(),
        kernel: "6.12.48-amd64".into(),
        attach: "btf".into(),
        wall_at_monotonic_zero_ns: 1_760_000_000_000_000_000,
        started_ns: 4_999_000_000_000,
        filters: "-D 443".into(),
        live: true,
        sample_interval_ns: None,
    };
    let accounting = Accounting {
        seen: 5,
        filtered: 2,
        submitted: 3,
        received: 3,
        lost_by_reason: LostByReason {
            nested: Some(0),
            ..LostByReason::default()
        },
        ..Accounting::default()
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("example.rec");
    let mut writer = Writer::create(&path, &origin, Options::default()).expect("a new file");
    writer.append(events, events[0].ts_ns()).expect("room");
    writer
        .finish(Some(&accounting), Some(&CaptureCost::default()))
        .expect("room");
    fs::read(path).expect("it has just been written")
}

/// Sixteen bytes a line, as `hexdump -C` prints them.
fn hexdump(bytes: &[u8], offset: usize, text: &mut String) {
    for (line, chunk) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        let ascii = chunk.iter().map(|&byte| {
            if byte.is_ascii_graphic() || byte == b' ' {
                char::from(byte)
            } else {
                '.'
            }
        });
        let ascii: String = ascii.collect();
        writeln!(
            text,
            "{:08x}  {:<47}  |{ascii}|",
            offset + line * 16,
            hex.join(" ")
        )
        .unwrap();
    }
}

fn example() -> String {
    let events = example_events();
    let file = example_file(&events);
    let parts = by_document::read(&file);
    let [block, footer] = parts.blocks.as_slice() else {
        panic!("two blocks")
    };
    let metadata = 24..24 + parts.metadata_bytes;
    let mut text = format!(
        "The file header, then {} bytes of metadata:\n\n```text\n",
        metadata.len()
    );
    hexdump(&file[..24], 0, &mut text);
    write!(
        text,
        "```\n\n```json\n{}\n```\n\nThe header of the block at byte {}, then its payload, compressed:\n\n```text\n",
        str::from_utf8(&file[metadata]).expect("JSON is UTF-8"),
        block.offset,
    )
    .unwrap();
    let payload = block.offset + by_document::Block::HEADER;
    hexdump(&file[block.offset..payload], block.offset, &mut text);
    text.push('\n');
    hexdump(block.stored(&file), payload, &mut text);
    write!(
        text,
        "```\n\nThe payload after decompression, {} bytes for {} records of {}:\n\n```text\n",
        block.unpacked_bytes,
        block.count,
        Record::SIZE
    )
    .unwrap();
    let unpacked = block.unpacked(&file);
    let (records, pieces) = parts.records(&file, block);
    let mut at = 0;
    for (length, what) in pieces {
        let hex: Vec<String> = unpacked[at..at + length]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        writeln!(text, "{at:04x}  {:<47}  {what}", hex.join(" ")).unwrap();
        at += length;
    }
    write!(
        text,
        "```\n\nThe header of the footer at byte {}, then its payload:\n\n```text\n",
        footer.offset
    )
    .unwrap();
    hexdump(
        &file[footer.offset..footer.offset + by_document::Block::HEADER],
        footer.offset,
        &mut text,
    );
    write!(
        text,
        "```\n\n```json\n{}\n```\n",
        str::from_utf8(footer.stored(&file)).expect("JSON is UTF-8")
    )
    .unwrap();

    for (event, fields) in events.iter().zip(&records) {
        let bytes = event.record().to_bytes();
        for &(name, offset, size) in Record::LAYOUT {
            assert_eq!(fields[name], bytes[offset..offset + size], "{name}");
        }
    }
    text
}

#[test]
fn the_example_is_a_real_file() {
    let document = document();
    let text = fs::read_to_string(&document).expect("the document");
    let (before, rest) = text.split_once(BEGIN).expect("the example's begin");
    let (_, after) = rest.split_once(END).expect("the example's end");
    let new = format!("{before}{BEGIN}\n{}\n{END}{after}", example());
    if env::var_os("TCPSTATE_BLESS").is_some() {
        fs::write(document, new).expect("the document can be written");
    } else {
        assert!(
            text == new,
            "TCPSTATE_BLESS=1 writes the example anew:\n{}",
            example()
        );
    }
}

/// A census with something of each kind, about the socket of the example and others.
fn census(scope: Scope) -> Census {
    let text = r#"{
        "netns": 4026531840, "begin_ns": 5000000020000, "previous_ns": 4999000000000,
        "found": [
            {"cookie": 4097, "state": 6, "kind": "minisocket", "since_ns": 5000000010000, "family": 2,
             "laddr": "192.0.2.10", "lport": 40000, "raddr": "198.51.100.20", "rport": 443, "role": "client"},
            {"cookie": 7, "state": 10, "kind": "socket", "family": 2, "laddr": "0.0.0.0", "lport": 443,
             "raddr": "0.0.0.0", "rport": 0, "role": "server", "uid": 1, "cgroup": 4242,
             "owner": {"pid": 1, "comm": [99,117,114,108,0,0,0,0,0,0,0,0,0,0,0,0], "listener": false}}
        ],
        "gone": [{"cookie": 4097, "at_ns": 5000000015000}],
        "half_open": [{"laddr": "192.0.2.10", "lport": 443, "count": 2, "oldest_ns": null,
                       "oldest_at_least_ns": 1000, "synack_retransmits": 1}],
        "held": [{"cookie": 7, "laddr": "0.0.0.0", "lport": 443,
                  "by": [{"pid": 2, "comm": [97,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}]}],
        "requests": [{"cookie": 9, "since_ns": 5000000000000, "interval_ns": 1000000}],
        "requests_gone": [9],
        "listen": {"overflows": 1, "drops": 2, "request_queue_full_drops": null, "cookies_sent": 3,
                   "synack_retransmits": 4},
        "known": [4097]
    }"#;
    let census: Census = serde_json::from_str(text).expect("a census");
    Census { scope, ..census }
}

fn json(census: &Census) -> Vec<u8> {
    serde_json::to_vec(census).expect("JSON")
}

/// The seeds of the fuzz targets are files that the present code writes.
#[test]
fn the_seeds_of_the_fuzz_targets_are_of_this_format() {
    let events = example_events();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let whole = example_file(&events);
    let mut seeds = vec![
        (
            corpus.join("recording_reader/whole"),
            [&[RAW], &whole[..]].concat(),
        ),
        (
            corpus.join("recording_reader/cut"),
            [&[RAW], &whole[..whole.len() - 500]].concat(),
        ),
    ];
    // Not compressed: a change of a byte is then a change of what the file says.
    let parts = by_document::read(&whole);
    let plain = |kind: u8, part: &by_document::Block| {
        let records = u32::try_from(part.count).expect("three");
        repair::block(kind, records, &part.unpacked(&whole))
    };
    let (head, footer) = (
        &whole[..parts.blocks[0].offset],
        parts.blocks.last().expect("a footer"),
    );
    let mut blocks = head.to_vec();
    for part in &parts.blocks {
        blocks.extend(plain(part.kind, part));
    }
    let mut recalled = head.to_vec();
    recalled.extend(repair::block(6, 0, &json(&census(Scope::Some))));
    recalled.extend(repair::block(4, 0, b"{\"cgroups\":{\"4242\":\"/a\"}}"));
    for part in parts.event_blocks() {
        recalled.extend(plain(5, part));
        for scope in [Scope::All, Scope::Small] {
            recalled.extend(repair::block(3, 0, &json(&census(scope))));
            recalled.extend(plain(1, part));
        }
        recalled.extend(repair::block(3, 0, &json(&census(Scope::Vanished))));
    }
    recalled.extend(plain(2, footer));
    for (name, file) in [("blocks", blocks), ("recalled", recalled)] {
        let path = corpus.join(format!("recording_reader/{name}"));
        seeds.push((path, [&[REPAIRED], &file[..]].concat()));
        // Each view, with different options of the run.
        for view in 0..8 {
            let path = corpus.join(format!("recording_views/{name}-{view}"));
            let select = [view | view << 3, view << 2];
            seeds.push((path, [&select, &file[..]].concat()));
        }
    }
    for (index, event) in events.iter().enumerate() {
        let path = corpus.join(format!("decode/record-{index}"));
        seeds.push((path, event.record().to_bytes().to_vec()));
    }
    for (path, bytes) in seeds {
        if env::var_os("TCPSTATE_BLESS").is_some() {
            fs::create_dir_all(path.parent().expect("a directory")).expect("it can be created");
            fs::write(&path, bytes).expect("the seed can be written");
        } else {
            let seed = fs::read(&path).unwrap_or_default();
            assert!(
                seed == bytes,
                "{}: TCPSTATE_BLESS=1 writes it anew",
                path.display()
            );
        }
    }
}

#[test]
fn the_document_names_what_the_code_has() {
    let text = fs::read_to_string(document()).expect("the document");
    assert!(text.contains(&format!("format version {VERSION}")));
    assert!(text.contains(&format!("at most {MAX_BLOCK_RECORDS} records")));
    for (name, _, size) in Record::LAYOUT {
        let row = format!("| `{name}` | {size} |");
        assert!(text.contains(&row), "a row `{row}`");
    }
}
