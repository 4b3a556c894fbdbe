//! Where recordings are written: the files made, whose they are, and what happens to those that were there.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use tcpstate_recording::{FlightOptions, FlightRing, Options, WriteError};

use crate::{
    stream::{Traffic, events},
    whole::{books, origin, read_file, small_blocks, write},
    write::Tmpfs,
};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A rotation of three files.
fn rotation() -> Options {
    Options {
        max_bytes: Some(20_000),
        files: 3,
        ..small_blocks()
    }
}

#[test]
fn a_recording_is_its_owners_alone_to_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let events = events(Traffic::Noise, 3_000, 51);
    write(&path("plain"), &events, small_blocks());
    write(&path("rotated"), &events, rotation());
    let mut ring = FlightRing::new(&origin(), FlightOptions::default()).unwrap();
    ring.append(&events).unwrap();
    ring.dump(&path("dumped")).unwrap();
    for name in ["plain", "rotated", "rotated.1", "rotated.2", "dumped"] {
        assert_eq!(mode(&path(name)), 0o600, "{name}");
    }
}

#[test]
fn the_mode_of_a_file_stays_when_another_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let events = events(Traffic::Noise, 3_000, 52);
    for name in ["plain", "rotated", "dumped"] {
        fs::write(path(name), "").unwrap();
        set_mode(&path(name), 0o640);
    }
    write(&path("plain"), &events, small_blocks());
    write(&path("rotated"), &events, rotation());
    let mut ring = FlightRing::new(&origin(), FlightOptions::default()).unwrap();
    ring.append(&events).unwrap();
    ring.dump(&path("dumped")).unwrap();
    for name in ["plain", "rotated", "rotated.1", "rotated.2", "dumped"] {
        assert_eq!(mode(&path(name)), 0o640, "{name}");
    }
}

/// Somebody else who has put a file there must not read what takes its place.
#[test]
fn the_mode_of_somebody_elses_file_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    fs::write(&path, "").unwrap();
    set_mode(&path, 0o666);
    if let Err(error) = std::os::unix::fs::chown(&path, Some(12_345), None) {
        eprintln!("skipped: only root can give files away: {error}");
        return;
    }
    let mut ring = FlightRing::new(&origin(), FlightOptions::default()).unwrap();
    ring.dump(&path).unwrap();
    let owner = fs::metadata(dir.path()).unwrap().uid();
    assert_eq!(
        (mode(&path), fs::metadata(&path).unwrap().uid()),
        (0o600, owner)
    );
}

/// A link in the place of the partial file leads nowhere, and what an earlier run has left stays.
#[test]
fn a_dump_overwrites_nothing_but_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("victim"), "victim").unwrap();
    symlink(path("victim"), path("a.rec.partial")).unwrap();
    symlink(path("none"), path("a.rec.partial.1")).unwrap();
    fs::write(path("a.rec.partial.2"), "left").unwrap();
    let events = events(Traffic::Churn, 300, 53);
    let options = FlightOptions::default();
    FlightRing::check(&path("a.rec"), &options).unwrap();
    let mut ring = FlightRing::new(&origin(), options).unwrap();
    ring.append(&events).unwrap();
    ring.dump(&path("a.rec")).unwrap();
    assert!(read_file(&path("a.rec")).events == events);
    let (_, failure) = ring.finish(&path("a.rec"), Some(&books(300)), None);
    assert!(failure.is_none(), "{failure:?}");
    assert!(read_file(&path("a.rec")).events == events);
    for (name, content) in [("victim", "victim"), ("a.rec.partial.2", "left")] {
        assert_eq!(fs::read_to_string(path(name)).unwrap(), content, "{name}");
    }
    assert!(!path("none").exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
}

/// At its end a flight recorder writes the newest events for which there is room, and says how many are lost.
#[test]
fn a_full_disk_at_the_end_keeps_the_newest_events() {
    let Some(disk) = Tmpfs::mount("256k") else {
        return;
    };
    let path = disk.path().join("a.rec");
    let events = events(Traffic::Noise, 10_000, 55);
    let options = FlightOptions {
        block_records: 100,
        ..FlightOptions::default()
    };
    let mut ring = FlightRing::new(&origin(), options).unwrap();
    ring.append(&events).unwrap();
    let (written, failure) = ring.finish(&path, Some(&books(10_000)), None);
    let error = failure.unwrap();
    assert!(
        matches!(&error, WriteError::LastDump { written: events, not_written, .. }
            if (*events, *not_written) == (written.events, written.not_written)),
        "{error}"
    );
    let message = error.to_string();
    assert!(
        message.contains("No space left") && message.contains("oldest events in memory are lost"),
        "{message}"
    );
    assert!(written.events > 0 && written.events + written.not_written == 10_000);
    let read = read_file(&path);
    assert!(events.ends_with(&read.events) && read.events.len() as u64 == written.events);
    assert_eq!(
        read.accounting.rejected_by_reason.not_in_file,
        written.not_written
    );
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 1);
}

#[test]
fn a_disk_without_any_room_at_the_end_loses_what_the_error_says() {
    let Some(disk) = Tmpfs::mount("256k") else {
        return;
    };
    let path = disk.path().join("a.rec");
    let mut ring = FlightRing::new(&origin(), FlightOptions::default()).unwrap();
    ring.append(&events(Traffic::Noise, 1_000, 56)).unwrap();
    ring.dump(&path).unwrap();
    let before = fs::read(&path).unwrap();
    // To the last byte.
    let _ = fs::write(disk.path().join("other"), vec![0; 256 << 10]);
    let (written, failure) = ring.finish(&path, Some(&books(1_000)), None);
    assert_eq!((written.events, written.not_written), (0, 1_000));
    let message = failure.unwrap().to_string();
    assert!(
        message.contains("The 1000 events in memory are lost"),
        "{message}"
    );
    assert!(
        fs::read(&path).unwrap() == before,
        "the one before is as it was"
    );
}

/// A dump to a new file touches nothing that is there, and leaves nothing that is not whole.
#[test]
fn a_dump_to_a_new_file_touches_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let events = events(Traffic::Noise, 3_000, 57);
    let mut ring = FlightRing::new(&origin(), FlightOptions::default()).unwrap();
    ring.append(&events).unwrap();
    ring.dump_new(&path("a.rec")).unwrap();
    assert_eq!(mode(&path("a.rec")), 0o600);
    let started_ns = origin().started_ns;
    let times = events.iter().map(tcpstate_core::event::Event::ts_ns);
    assert_eq!(ring.begin_ns(), started_ns);
    assert_eq!(Some(ring.end_ns()), times.chain([started_ns]).max());
    assert!(read_file(&path("a.rec")).events == events);
    fs::write(path("there"), "left").unwrap();
    symlink(path("none"), path("link")).unwrap();
    for name in ["there", "link"] {
        let error = ring.dump_new(&path(name)).unwrap_err().into_io();
        assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{name}");
    }
    assert_eq!(fs::read_to_string(path("there")).unwrap(), "left");
    assert!(!path("none").exists());
    let Some(disk) = Tmpfs::mount("4k") else {
        return;
    };
    let error = ring.dump_new(&disk.path().join("a.rec")).unwrap_err();
    assert!(error.to_string().contains("still in memory"), "{error}");
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0);
}
