//! Writing recordings: blocks, rotation, full disks, and the flight recorder.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use tcpstate_core::{books::Accounting, event::Event};
use tcpstate_recording::{
    FlightOptions, FlightRing, MAX_BLOCK_RECORDS, Options, Room, WriteError, Writer,
};

use crate::{
    by_document,
    stream::{Traffic, events},
    whole::{COST, books, origin, read_file, recording, small_blocks, write},
};

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
    // The writer dies here: only events younger than a second are gone.
    drop(writer);
    assert!(read_file(&path).events == events[..20]);
}

#[test]
fn a_recording_overwrites_an_older_one() {
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
    let mut end_ns = None;
    for number in (0..3).rev() {
        let file = fs::read(name(number)).unwrap();
        assert!(file.len() as u64 <= MAX_BYTES, "{} bytes", file.len());
        let document = by_document::read(&file);
        assert_eq!(document.metadata["part"], written.files - 1 - number);
        let first_event = document.metadata["first_event"].as_u64().unwrap();
        assert!(next_event.is_none_or(|next_event| next_event == first_event));
        // It begins where the one before ends, with some of what was known then: for all there is no room.
        let begin_ns = document.metadata["begin_ns"].as_u64();
        assert!(end_ns.is_none_or(|end_ns| end_ns == begin_ns));
        end_ns = Some(document.footer["end_ns"].as_u64());
        assert!(document.metadata["left_out"].as_u64() > Some(100));
        for block in document.recalled_blocks() {
            let events = document.event_blocks().map(|block| block.offset);
            assert!(events.min() > Some(block.offset));
            assert_eq!(block.first_event, first_event);
            assert!(Some(block.last_ts_ns) <= begin_ns && block.count > 0);
            assert_eq!(document.records(&file, block).0.len(), block.count);
        }
        assert!(document.recalled_blocks().count() > 0);
        let mut read = read_file(&name(number));
        let left_out = read.notices.remove(0);
        assert!(left_out.contains("are not known in it"), "{left_out}");
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

    // A new start is one more step of the rotation: the older files stay.
    write(&path, &events[..5], options);
    assert_eq!(read_file(&name(0)).events, events[..5]);
    let notices = read_file(&name(1)).notices;
    assert!(notices[1].contains("of the 20000 events"), "{notices:?}");
}

/// Appends until an error. Returns the number of events in whole blocks by then.
fn append_until_it_fails(writer: &mut Writer, events: &[Event]) -> u64 {
    events
        .iter()
        .find_map(|event| {
            let before = writer.written().events;
            let failed = writer.append(&[*event], event.ts_ns()).is_err();
            failed.then_some(before)
        })
        .expect("the rotation fails")
}

#[test]
fn a_rotation_that_fails_counts_nothing_twice_and_ends_the_file_once() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        max_bytes: Some(24_000),
        files: 2,
        ..small_blocks()
    };
    let events = events(Traffic::WebServer, 20_000, 9);

    // No file can be renamed to a directory.
    let path = dir.path().join("a.rec");
    let mut writer = Writer::create(&path, &origin(), options.clone()).unwrap();
    fs::create_dir(dir.path().join("a.rec.1")).unwrap();
    let in_blocks = append_until_it_fails(&mut writer, &events);
    // A second attempt fails too, and writes nothing after the footer.
    writer.append(&events[..1], 0).unwrap();
    assert!(writer.flush().is_err());
    let length = fs::metadata(&path).unwrap().len();
    let written = writer.finish(Some(&Accounting::default()), None).unwrap();
    assert_eq!((written.events, written.files), (in_blocks, 1));
    assert_eq!(written.bytes, length);
    assert_eq!(fs::metadata(&path).unwrap().len(), length);
    let read = read_file(&path);
    assert_eq!(read.events, events[..usize::try_from(in_blocks).unwrap()]);
    assert_eq!(read.notices.len(), 1, "{:?}", read.notices);
    assert!(
        read.notices[0].contains("of a rotation"),
        "{:?}",
        read.notices
    );

    // The directory is gone: there is nothing to rename, and the next file cannot be created.
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("a.rec");
    let mut writer = Writer::create(&path, &origin(), options).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    let in_blocks = append_until_it_fails(&mut writer, &events);
    let written = writer.finish(Some(&Accounting::default()), None).unwrap();
    assert_eq!((written.events, written.files), (in_blocks, 1));
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
fn impossible_options_are_refused_at_the_start() {
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

/// A small file system, unmounted on drop.
pub struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// `None` without the privilege to mount, with a message.
    pub fn mount(size: &str) -> Option<Self> {
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

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

#[test]
fn a_full_disk_leaves_a_recording_that_reads() {
    let Some(disk) = Tmpfs::mount("256k") else {
        return;
    };
    let path = disk.path().join("a.rec");
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

    // Up to the last whole block, whether the process continues or dies here.
    let cut = read_file(&path);
    assert!(!cut.events.is_empty() && events.starts_with(&cut.events));
    assert_eq!(cut.events.len() % 100, 0);
    assert!(cut.notices[0].contains("cut at byte"), "{:?}", cut.notices);
    assert!(
        !cut.notices[0].contains("within a block"),
        "{:?}",
        cut.notices
    );

    // There is room for the books where the last block did not fit.
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
    let written = ring.dump(&path).unwrap();
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

    // Time passes without events: the events are dropped, and the books stay.
    ring.tick(newest_ns + span_ns).unwrap();
    assert_eq!((ring.held(), ring.dropped()), (0, 20_000));
    let (_, failure) = ring.finish(&path, Some(&books(20_000)), Some(&COST));
    assert!(failure.is_none(), "{failure:?}");
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
    let (_, failure) = ring.finish(&path, Some(&books(10_000)), None);
    assert!(failure.is_none(), "{failure:?}");
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
fn a_dump_replaces_the_one_before_or_keeps_it() {
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
    ring.dump(&path).unwrap();
    ring.append(&events[100..]).unwrap();
    ring.dump(&path).unwrap();
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
    let path = disk.path().join("a.rec");
    let events = events(Traffic::Noise, 5_000, 34);
    let mut ring = FlightRing::new(&origin(), FlightOptions::default()).unwrap();
    ring.append(&events[..200]).unwrap();
    ring.dump(&path).unwrap();
    ring.append(&events[200..]).unwrap();
    let error = ring.dump(&path).unwrap_err();
    assert!(error.to_string().contains("still in memory"), "{error}");
    assert!(read_file(&path).events == events[..200]);
    assert_eq!(
        fs::read_dir(disk.path()).unwrap().count(),
        1,
        "no partial file is left"
    );
    assert_eq!(ring.held(), 5_000);
}
