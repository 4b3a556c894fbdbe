//! Names in recordings.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tcpstate_common::{Record, State};
use tcpstate_core::{
    census::{Census, Found, Kind, Scope},
    event::Event,
    names::{Cgroup, Names, Naming},
    owner::Owner,
    service::Role,
    source::{EventSource as _, Step},
};
use tcpstate_recording::{FlightOptions, FlightRing, Options, Reader, Room, Writer};

use crate::{
    by_document::{self, u64_at},
    stream::{Traffic, events},
    whole::{books, next, origin, read, small_blocks},
};

/// Names of cgroups, but for every tenth; counts the lookups.
#[derive(Default)]
struct Host {
    lookups: AtomicU64,
}

impl Naming for Host {
    fn cgroup(&self, id: u64) -> Option<Arc<Cgroup>> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        (!id.is_multiple_of(10)).then(|| Cgroup::of(path(id)).into())
    }
}

fn path(id: u64) -> String {
    format!("/machine.slice/container-{id}.scope")
}

/// Events of a new cgroup after each `each` events.
fn many_cgroups(count: usize, each: usize) -> Vec<Event> {
    let events = events(Traffic::WebServer, count, 3);
    let in_cgroup = |(at, event): (usize, &Event)| {
        let cgroup = (at / each) as u64 + 1;
        Event::try_from(Record {
            cgroup,
            ..*event.record()
        })
        .unwrap()
    };
    events.iter().enumerate().map(in_cgroup).collect()
}

fn write(path: &Path, events: &[Event], options: Options, host: &Arc<Host>) {
    let mut writer = Writer::create(path, &origin(), options)
        .unwrap()
        .naming(Names::new(host.clone()));
    assert_eq!(writer.append(events, 0).unwrap(), Room::Left);
    writer
        .finish(Some(&books(events.len() as u64)), None)
        .unwrap();
}

/// In the file, the name of an event's cgroup precedes the event. Returns the number of cgroups.
fn check_order(file: &[u8]) -> usize {
    let document = by_document::read(file);
    let mut ids = BTreeSet::new();
    for block in document.event_blocks() {
        let names = document.cgroups_before(file, block.offset);
        for record in document.records(file, block).0 {
            let id = u64_at(&record["cgroup"], 0);
            let expected = (!id.is_multiple_of(10)).then(|| path(id));
            assert_eq!(names.get(&id.to_string()), expected.as_ref());
            ids.insert(id);
        }
    }
    ids.len()
}

#[test]
fn a_cgroup_is_named_before_its_first_event_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let host = Arc::new(Host::default());
    write(&path, &many_cgroups(2_000, 70), small_blocks(), &host);
    let file = fs::read(&path).unwrap();
    assert_eq!(check_order(&file), 29);
    assert_eq!(host.lookups.load(Ordering::Relaxed), 29);
}

#[test]
fn each_file_of_a_rotation_has_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let options = Options {
        max_bytes: Some(32_768),
        files: 100,
        ..small_blocks()
    };
    write(&path, &many_cgroups(4_000, 2_000), options, &Arc::default());
    let mut files = 0;
    for entry in fs::read_dir(dir.path()).unwrap() {
        let file = fs::read(entry.unwrap().path()).unwrap();
        assert!(file.len() <= 32_768);
        assert!(check_order(&file) >= 1);
        files += 1;
    }
    assert!(files > 2, "{files} files");
}

#[test]
fn a_dump_of_the_flight_recorder_names_the_cgroups_that_it_still_has() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let options = FlightOptions {
        block_records: 100,
        ..FlightOptions::default()
    };
    let mut ring = FlightRing::new(&origin(), options)
        .unwrap()
        .naming(Names::new(Arc::<Host>::default()));
    let events = many_cgroups(2_000, 70);
    ring.append(&events).unwrap();
    // The first half is dropped.
    ring.tick(events[1_000].ts_ns() + FlightOptions::default().keep_ns)
        .unwrap();
    ring.dump(&path).unwrap();
    let file = fs::read(&path).unwrap();
    let held = usize::try_from(ring.held()).unwrap();
    assert!((1_000..1_200).contains(&held), "{held}");
    assert!((15..=18).contains(&check_order(&file)));
    let document = by_document::read(&file);
    let names = document.cgroups_before(&file, usize::MAX);
    // Of sockets that are still open there are earlier events too.
    let blocks = document.event_blocks().chain(document.recalled_blocks());
    let held: BTreeSet<String> = blocks
        .flat_map(|block| document.records(&file, block).0)
        .map(|record| u64_at(&record["cgroup"], 0).to_string())
        .collect();
    assert!(names.keys().all(|id| held.contains(id)), "{names:?}");
}

/// A reader knows the names when it hands out the events.
#[test]
fn names_are_read_with_the_events() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.rec");
    let events = many_cgroups(2_000, 70);
    write(&file, &events, small_blocks(), &Arc::default());
    let mut reader = Reader::open(&file).unwrap();
    let names = reader.names();
    let (mut batch, mut seen) = (Vec::new(), 0);
    loop {
        match next(&mut reader, &mut batch) {
            Step::End => break,
            Step::Notice(notice) => panic!("{}", notice.text),
            Step::Events
            | Step::Census(_)
            | Step::Recalled(_)
            | Step::Packets(_)
            | Step::Settled => {}
        }
        for event in batch.drain(..) {
            let id = event.cgroup().unwrap();
            let expected = (!id.is_multiple_of(10)).then(|| Cgroup::of(path(id)));
            assert_eq!(names.cgroup(Some(id)).as_deref(), expected.as_ref());
            seen += 1;
        }
    }
    assert_eq!(seen, events.len());
}

/// The sockets of a dump may never have an event.
#[test]
fn the_cgroups_of_a_census_are_named_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.rec");
    let found = |cookie, cgroup| Found {
        cookie,
        state: State::ESTABLISHED,
        kind: Kind::Socket,
        since_ns: None,
        there_ns: None,
        family: 2,
        laddr: [192, 0, 2, 1].into(),
        lport: 443,
        raddr: [192, 0, 2, 2].into(),
        rport: 40_000,
        role: Role::Unknown,
        uid: None,
        cgroup,
        owner: Owner::UNKNOWN,
    };
    let census = Census {
        scope: Scope::All,
        found: vec![found(1, Some(31)), found(2, None), found(3, Some(32))],
        ..Census::default()
    };
    let names = || Names::new(Arc::<Host>::default());
    let mut writer = Writer::create(&file, &origin(), Options::default())
        .unwrap()
        .naming(names());
    writer.append_census(&census).unwrap();
    writer.finish(Some(&books(0)), None).unwrap();
    let ring_file = dir.path().join("b.rec");
    let mut ring = FlightRing::new(&origin(), FlightOptions::default())
        .unwrap()
        .naming(names());
    ring.append_census(&census).unwrap();
    ring.dump(&ring_file).unwrap();
    for file in [file, ring_file] {
        let mut reader = Reader::open(&file).unwrap();
        let names = reader.names();
        let read = loop {
            match next(&mut reader, &mut Vec::new()) {
                Step::Census(census) => break *census,
                Step::End => panic!("no census in {}", file.display()),
                Step::Events
                | Step::Recalled(_)
                | Step::Packets(_)
                | Step::Settled
                | Step::Notice(_) => {}
            }
        };
        assert_eq!(read, census);
        for id in [31, 32] {
            let expected = Cgroup::of(path(id));
            assert_eq!(names.cgroup(Some(id)).as_deref(), Some(&expected));
        }
    }
}

/// The events do not depend on the names.
#[test]
fn damaged_names_cost_no_event() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let events = many_cgroups(300, 100);
    write(&path, &events, small_blocks(), &Arc::default());
    let mut file = fs::read(&path).unwrap();
    let document = by_document::read(&file);
    let names = document
        .blocks
        .iter()
        .find(|block| block.kind == 4)
        .unwrap();
    file[names.offset + by_document::Block::HEADER] ^= 1;
    let read = read(&file);
    assert!(read.events == events);
    assert_eq!(read.notices.len(), 1);
    assert!(
        read.notices[0].contains("with 0 events left out"),
        "{:?}",
        read.notices
    );
}
