//! Recordings: what is written is read, and what is cut or damaged gives all that is whole.

#[path = "support/by_document.rs"]
mod by_document;
#[path = "support/stream.rs"]
mod stream;

use std::{
    fs,
    future::poll_fn,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use proptest::prelude::*;
use tcpstate_common::{Record, record};
use tcpstate_user::{
    event::Event,
    recording::{
        FlightOptions, FlightRing, MAGIC, MAX_BLOCK_RECORDS, Options, ReadError, Reader, Room,
        VERSION, WriteError, Writer, Written,
    },
    source::{Accounting, CaptureCost, EventSource, Origin, RejectedByReason},
};

use self::stream::{Random, Traffic, events};

fn origin() -> Origin {
    Origin {
        host: "web-3".into(),
        kernel: "6.12.0".into(),
        attach: "btf".into(),
        wall_at_monotonic_zero_ns: 1_760_000_000_000_000_000,
        started_ns: 86_400_000_000_000,
        filters: "-L 443".into(),
        live: true,
    }
}

/// The books of a capture that received so many events.
fn books(received: u64) -> Accounting {
    Accounting {
        seen: received + 7,
        filtered: 4,
        submitted: received + 1,
        lost: 2,
        received,
        rejected: 1,
        rejected_by_reason: RejectedByReason {
            malformed: 1,
            ..RejectedByReason::default()
        },
        ..Accounting::default()
    }
}

const COST: CaptureCost = CaptureCost {
    bpf_run_ns: Some(9),
    bpf_run_count: Some(3),
    ring_high_water_bytes: None,
};

fn small_blocks() -> Options {
    Options {
        block_records: 100,
        ..Options::default()
    }
}

/// Writes a whole recording.
fn write(path: &Path, events: &[Event], options: Options) -> Written {
    let mut writer = Writer::create(path, &origin(), options).unwrap();
    let now_ns = events.last().map_or(0, Event::ts_ns);
    assert_eq!(writer.append(events, now_ns).unwrap(), Room::Left);
    writer
        .finish(Some(&books(events.len() as u64)), Some(&COST))
        .unwrap()
}

/// The bytes of a whole recording.
fn recording(events: &[Event], options: Options) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    write(&path, events, options);
    fs::read(path).unwrap()
}

/// Everything that a source gives.
struct Read {
    events: Vec<Event>,
    notices: Vec<String>,
    accounting: Accounting,
    cost: CaptureCost,
}

fn drain(mut reader: Reader) -> Read {
    let mut all = Vec::new();
    let mut batch = Vec::new();
    while next(&mut reader, &mut batch) {
        assert!(batch.len() <= MAX_BLOCK_RECORDS, "a batch is bounded");
        all.append(&mut batch);
    }
    let accounting = reader.accounting().unwrap();
    assert_eq!(
        accounting.seen,
        accounting.filtered + accounting.submitted + accounting.lost
    );
    assert_eq!(
        accounting.submitted,
        accounting.received + accounting.rejected
    );
    assert_eq!(accounting.received, all.len() as u64);
    Read {
        events: all,
        notices: reader.notices(),
        accounting,
        cost: reader.cost(),
    }
}

fn next(reader: &mut Reader, batch: &mut Vec<Event>) -> bool {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(poll_fn(|cx| reader.poll_next(cx, batch)))
        .unwrap()
}

fn open(bytes: &[u8]) -> Result<Reader, ReadError> {
    Reader::new(
        io::Cursor::new(bytes.to_vec()),
        "FILE".into(),
        Some(bytes.len() as u64),
    )
}

fn read(bytes: &[u8]) -> Read {
    drain(open(bytes).unwrap())
}

fn read_file(path: &Path) -> Read {
    drain(Reader::open(path).unwrap())
}

fn any_event() -> impl Strategy<Value = Event> {
    // Sockets few enough that records find one of their own.
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
fn a_file_cut_anywhere_gives_all_that_is_whole() {
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
fn bytes_missing_or_put_in_cost_what_they_hit() {
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
fn what_is_no_recording_is_refused_by_what_it_is() {
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
fn blocks_have_the_size_asked_for() {
    let events = events(Traffic::Churn, 1_000, 4);
    for (asked, expected) in [(0, 1), (1, 1), (333, 333), (usize::MAX, MAX_BLOCK_RECORDS)] {
        let options = Options {
            block_records: asked,
            ..Options::default()
        };
        let document = by_document::read(&recording(&events, options));
        let counts: Vec<usize> = document.event_blocks().map(|block| block.count).collect();
        let (last, full) = counts.split_last().unwrap();
        assert!(
            full.iter().all(|&count| count == expected) && *last <= expected,
            "{counts:?}"
        );
    }
}

#[test]
fn a_block_is_written_when_it_is_old() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let events = events(Traffic::Churn, 30, 5);
    let mut writer = Writer::create(&path, &origin(), Options::default()).unwrap();
    let now_ns = 5_000_000_000;
    writer.append(&events[..10], now_ns).unwrap();
    writer
        .append(&events[10..20], now_ns + 999_999_999)
        .unwrap();
    writer.tick(now_ns + 999_999_999).unwrap();
    assert_eq!(writer.written().events, 0);
    writer.tick(now_ns + 1_000_000_000).unwrap();
    writer
        .append(&events[20..], now_ns + 1_000_000_001)
        .unwrap();
    // The writer dies here: only what is younger than a second is gone.
    drop(writer);
    assert!(read_file(&path).events == events[..20]);
}

#[test]
fn a_recording_overwrites_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    write(&path, &events(Traffic::Churn, 5_000, 6), small_blocks());
    let shorter = events(Traffic::Churn, 10, 8);
    write(&path, &shorter, small_blocks());
    let read = read_file(&path);
    assert!(read.events == shorter && read.notices.is_empty());
}

#[test]
fn a_rotation_keeps_whole_files_of_the_size_asked_for() {
    const MAX_BYTES: u64 = 24_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let events = events(Traffic::WebServer, 20_000, 9);
    let options = Options {
        max_bytes: Some(MAX_BYTES),
        files: 3,
        ..small_blocks()
    };
    let written = write(&path, &events, options.clone());
    assert_eq!(written.events, 20_000);
    assert!(written.files > 3, "{written:?}");

    let name = |number: u32| match number {
        0 => path.clone(),
        _ => PathBuf::from(format!("{}.{number}", path.display())),
    };
    assert!(!name(3).exists());
    let mut tail = Vec::new();
    let mut next_event = None;
    for number in (0..3).rev() {
        let file = fs::read(name(number)).unwrap();
        assert!(file.len() as u64 <= MAX_BYTES, "{} bytes", file.len());
        let document = by_document::read(&file);
        assert_eq!(document.metadata["part"], written.files - 1 - number);
        let first_event = document.metadata["first_event"].as_u64().unwrap();
        assert!(next_event.is_none_or(|next_event| next_event == first_event));
        let read = read_file(&name(number));
        next_event = Some(first_event + read.events.len() as u64);
        assert_eq!(read.notices.len(), 1, "{:?}", read.notices);
        if number == 0 {
            assert!(
                read.notices[0].contains("of the 20000 events"),
                "{:?}",
                read.notices
            );
            let elsewhere = 20_000 - read.events.len() as u64;
            assert_eq!(read.accounting.rejected_by_reason.not_in_file, elsewhere);
            assert!(!read.accounting.partial);
        } else {
            assert!(
                read.notices[0].contains("of a rotation"),
                "{:?}",
                read.notices
            );
            assert!(read.accounting.partial);
        }
        tail.extend(read.events);
    }
    assert!(events.ends_with(&tail));

    // Starting again is one more step of the rotation, not the end of what was there.
    write(&path, &events[..5], options);
    assert_eq!(read_file(&name(0)).events, events[..5]);
    assert!(read_file(&name(1)).notices[0].contains("of the 20000 events"));
}

#[test]
fn without_rotation_the_size_ends_the_recording() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let events = events(Traffic::WebServer, 20_000, 9);
    let options = Options {
        max_bytes: Some(24_000),
        ..small_blocks()
    };
    let mut writer = Writer::create(&path, &origin(), options).unwrap();
    assert_eq!(writer.append(&events, 0).unwrap(), Room::Full);
    let written = writer.finish(Some(&books(20_000)), None).unwrap();
    assert_eq!(written.events + written.not_written, 20_000);
    assert_eq!(written.bytes, fs::metadata(&path).unwrap().len());
    assert!(written.bytes <= 24_000);
    let read = read_file(&path);
    assert!(!read.events.is_empty() && events.starts_with(&read.events));
    assert_eq!(
        read.accounting.rejected_by_reason.not_in_file,
        written.not_written
    );
}

#[test]
fn what_cannot_work_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let create = |path: &Path, options| Writer::create(path, &origin(), options).err();
    let too_small = Options {
        max_bytes: Some(5_000),
        ..small_blocks()
    };
    let error = create(&path, too_small).unwrap();
    let WriteError::TooSmall { least, .. } = error else {
        panic!("{error}")
    };
    assert!(error.to_string().contains("--max-bytes"), "{error}");
    assert!(
        !path.exists(),
        "nothing is created where nothing can be written"
    );
    let fits = Options {
        max_bytes: Some(least),
        ..small_blocks()
    };
    assert_eq!(
        write(&path, &events(Traffic::Noise, 100, 1), fits).events,
        100
    );

    let rotate = Options {
        files: 2,
        max_bytes: Some(1 << 20),
        ..small_blocks()
    };
    for unfit in ["-", "/dev/null"] {
        let error = create(Path::new(unfit), rotate.clone()).unwrap();
        assert!(matches!(error, WriteError::NotRotatable { .. }), "{error}");
    }
    // The master side of a new pseudo-terminal is a terminal too.
    let error = create(Path::new("/dev/ptmx"), small_blocks()).unwrap();
    assert!(matches!(error, WriteError::Terminal { .. }), "{error}");
    let error = create(Path::new("/nonexistent/a.rec"), small_blocks()).unwrap();
    assert!(
        error
            .to_string()
            .starts_with("cannot create /nonexistent/a.rec: "),
        "{error}"
    );
}

/// A small file system of its own, gone with the value.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// `None` where this may not mount, and says so.
    fn mount(size: &str) -> Option<Self> {
        let required = std::env::var_os("TCPSTATE_REQUIRE_KERNEL").is_some();
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(dir)),
            other => {
                assert!(!required, "cannot mount a tmpfs: {other:?}");
                eprintln!("skipped: cannot mount a tmpfs (needs root): {other:?}");
                None
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_leaves_a_recording_that_reads() {
    let Some(disk) = Tmpfs::mount("256k") else {
        return;
    };
    let path = disk.0.path().join("a.rec");
    let events = events(Traffic::Noise, 10_000, 21);
    let mut writer = Writer::create(&path, &origin(), small_blocks()).unwrap();
    let error = writer.append(&events, 0).unwrap_err();
    let message = error.to_string();
    let named = format!("cannot write {}: No space left on device", path.display());
    assert!(
        message.starts_with(&named) && message.contains("Make room"),
        "{message}"
    );
    assert_eq!(error.into_io().kind(), io::ErrorKind::StorageFull);

    // Up to the last whole block, whether the process goes on or dies here.
    let cut = read_file(&path);
    assert!(!cut.events.is_empty() && events.starts_with(&cut.events));
    assert_eq!(cut.events.len() % 100, 0);
    assert!(cut.notices[0].contains("cut at byte"), "{:?}", cut.notices);
    assert!(
        !cut.notices[0].contains("within a block"),
        "{:?}",
        cut.notices
    );

    // The block that did not fit has left room for the books.
    let written = writer.finish(Some(&books(10_000)), None).unwrap();
    assert_eq!(written.events, cut.events.len() as u64);
    assert_eq!(written.not_written, 10_000 - written.events);
    let whole = read_file(&path);
    assert!(whole.events == cut.events && !whole.accounting.partial);
    assert!(
        whole.notices[0].contains("broken off"),
        "{:?}",
        whole.notices
    );
    assert_eq!(
        whole.accounting.rejected_by_reason.not_in_file,
        written.not_written
    );
}

#[test]
fn a_pipe_is_not_waited_for_longer_than_a_block() {
    let events = events(Traffic::Churn, 200, 22);
    let file = recording(&events, small_blocks());
    let second_block = by_document::read(&file).blocks[1].offset;
    let (from, mut to) = io::pipe().unwrap();
    to.write_all(&file[..second_block + 10]).unwrap();
    let mut reader = Reader::new(from, "standard input".into(), None).unwrap();
    let mut batch = Vec::new();
    assert!(next(&mut reader, &mut batch));
    assert_eq!(batch, events[..100]);
    to.write_all(&file[second_block + 10..]).unwrap();
    drop(to);
    assert!(next(&mut reader, &mut batch));
    assert_eq!(batch, events, "events are appended");
    assert!(!next(&mut reader, &mut batch));
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
    assert!(next(&mut reader, &mut batch));
    reader.stop();
    while next(&mut reader, &mut batch) {}
    assert!(batch.len() < 50_000);
    let accounting = reader.accounting().unwrap();
    assert_eq!(accounting.received, batch.len() as u64);
    assert!(accounting.partial);
}

#[test]
fn the_flight_recorder_keeps_the_last_events_by_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let events = events(Traffic::Churn, 20_000, 31);
    let newest_ns = events.last().unwrap().ts_ns();
    let span_ns = newest_ns - events[0].ts_ns();
    let options = FlightOptions {
        keep_ns: span_ns / 4,
        block_records: 100,
        ..FlightOptions::default()
    };
    let mut ring = FlightRing::new(&origin(), options).unwrap();
    ring.append(&events).unwrap();
    let written = ring.dump(&path, None, None).unwrap();
    assert_eq!(written.events, ring.held());
    assert_eq!(ring.held() + ring.dropped(), 20_000);

    let read = read_file(&path);
    assert!(events.ends_with(&read.events));
    let kept = events
        .iter()
        .filter(|event| event.ts_ns() >= newest_ns - span_ns / 4)
        .count();
    assert!(
        (kept..=kept + 100).contains(&read.events.len()),
        "{kept} {}",
        read.events.len()
    );
    assert!(read.accounting.partial);
    assert!(
        read.notices[0].contains("while the capture went on"),
        "{:?}",
        read.notices
    );

    // Time goes on without events; what was recorded leaves, and the books stay.
    ring.tick(newest_ns + span_ns).unwrap();
    assert_eq!((ring.held(), ring.dropped()), (0, 20_000));
    ring.dump(&path, Some(&books(20_000)), Some(&COST)).unwrap();
    let read = read_file(&path);
    assert!(read.events.is_empty());
    assert_eq!(read.accounting.rejected_by_reason.not_in_file, 20_000);
    assert_eq!(read.accounting.lost, 2);
}

#[test]
fn the_flight_recorder_stays_within_its_memory() {
    let memory_bytes = 200_000;
    let options = FlightOptions {
        memory_bytes,
        block_records: 100,
        ..FlightOptions::default()
    };
    let mut ring = FlightRing::new(&origin(), options.clone()).unwrap();
    let events = events(Traffic::Noise, 10_000, 32);
    for chunk in events.chunks(37) {
        ring.append(chunk).unwrap();
        assert!(
            ring.memory_bytes() <= memory_bytes,
            "{}",
            ring.memory_bytes()
        );
    }
    assert!(ring.held() > 500, "{}", ring.held());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    ring.dump(&path, Some(&books(10_000)), None).unwrap();
    let read = read_file(&path);
    assert!(events.ends_with(&read.events) && read.events.len() as u64 == ring.held());

    let too_little = FlightOptions {
        memory_bytes: 10_000,
        ..options
    };
    let error = FlightRing::new(&origin(), too_little).err().unwrap();
    assert!(
        matches!(error, WriteError::TooLittleMemory { .. }),
        "{error}"
    );
}

#[test]
fn dumps_replace_each_other_whole_or_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let events = events(Traffic::Churn, 300, 33);
    let mut ring = FlightRing::new(
        &origin(),
        FlightOptions {
            files: 2,
            ..FlightOptions::default()
        },
    )
    .unwrap();
    ring.append(&events[..100]).unwrap();
    ring.dump(&path, None, None).unwrap();
    ring.append(&events[100..]).unwrap();
    ring.dump(&path, None, None).unwrap();
    assert!(read_file(&path).events == events);
    assert!(read_file(&dir.path().join("a.rec.1")).events == events[..100]);
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        2,
        "nothing else is left there"
    );
}

#[test]
fn a_dump_that_fails_leaves_the_one_before() {
    let Some(disk) = Tmpfs::mount("256k") else {
        return;
    };
    let path = disk.0.path().join("a.rec");
    let events = events(Traffic::Noise, 5_000, 34);
    let mut ring = FlightRing::new(&origin(), FlightOptions::default()).unwrap();
    ring.append(&events[..200]).unwrap();
    ring.dump(&path, None, None).unwrap();
    ring.append(&events[200..]).unwrap();
    let error = ring.dump(&path, None, None).unwrap_err();
    assert!(error.to_string().contains("still in memory"), "{error}");
    assert!(read_file(&path).events == events[..200]);
    assert_eq!(
        fs::read_dir(disk.0.path()).unwrap().count(),
        1,
        "no partial file is left"
    );
    assert_eq!(ring.held(), 5_000);
}
