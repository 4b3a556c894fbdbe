//! Real captures of others, each against what is known of it: `captures/README.md` says whose they are, and
//! `captures/expected.txt` has the way of each end of each connection. `TCPSTATE_BLESS=1` writes that file anew.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
};

use tcpstate_common::State;
use tcpstate_core::{
    books::Packets as Books,
    cause::Cause,
    event::{Event, SocketId},
};
use tcpstate_packets::{
    decode::{Skip, decode},
    format::Packets,
    machine::Machine,
};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures")
}

/// The ways that a capture shows.
struct Shown {
    books: Books,
    connections: u64,
    events: Vec<Event>,
    notices: Vec<String>,
}

fn read(path: &Path) -> Shown {
    let mut packets = Packets::open(File::open(path).unwrap()).unwrap().unwrap();
    let mut machine = Machine::new(10_000);
    let mut events = Vec::new();
    let mut books = Books::default();
    while packets.advance().unwrap() {
        books.seen += 1;
        match decode(&packets.packet().unwrap()) {
            Ok(decoded) => {
                books.tcp += 1;
                books.tunnelled += u64::from(decoded.is_tunnelled);
                machine.take(&decoded.segment, &mut events);
            }
            Err(Skip::NotTcp(kind)) => books.count_not_tcp(kind),
            Err(Skip::Unreadable(reason)) => books.count_unreadable(reason),
        }
    }
    let notices = packets.take_notices();
    Shown {
        books,
        connections: machine.connections(),
        events,
        notices: notices.into_iter().map(|notice| notice.text).collect(),
    }
}

/// The states of each end, in the order in which they begin.
fn ways(events: &[Event]) -> Vec<String> {
    let mut ends: Vec<(SocketId, String)> = Vec::new();
    let mut places = BTreeMap::new();
    for event in events {
        let place = *places.entry(event.id()).or_insert_with(|| {
            let way = format!(
                "{}:{} - {}:{}: {}",
                event.laddr(),
                event.lport(),
                event.raddr(),
                event.rport(),
                event.oldstate()
            );
            ends.push((event.id(), way));
            ends.len() - 1
        });
        let way = &mut ends[place].1;
        write!(way, " {}", event.newstate()).unwrap();
        if event.newstate() == State::CLOSE {
            write!(way, " {}", Cause::of(event).unwrap()).unwrap();
        }
    }
    ends.into_iter().map(|(_, way)| way).collect()
}

fn describe(name: &str, shown: &Shown) -> String {
    let books = &shown.books;
    let mut text = format!(
        "{name}: {} packets = TCP {} + not TCP {} + unreadable {}; tunnelled {}; connections {}\n",
        books.seen, books.tcp, books.not_tcp, books.unreadable, books.tunnelled, shown.connections
    );
    for line in shown.notices.iter().chain(&ways(&shown.events)) {
        writeln!(text, "    {line}").unwrap();
    }
    text
}

fn captures() -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "pcap" || extension == "pcapng")
        })
        .collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn every_capture_shows_what_is_known_of_it() {
    let mut found = String::new();
    for path in captures() {
        found.push_str(&describe(name(&path), &read(&path)));
    }
    let expected = directory().join("expected.txt");
    if std::env::var_os("TCPSTATE_BLESS").is_some() {
        fs::write(&expected, &found).unwrap();
    }
    let expected = fs::read_to_string(&expected).unwrap();
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(found, expected);
}

#[test]
fn every_packet_is_in_the_books() {
    let paths = captures();
    assert!(paths.len() > 30, "{}", paths.len());
    for path in paths {
        let Shown { books, .. } = read(&path);
        let name = name(&path);
        assert_eq!(
            books.seen,
            books.tcp + books.not_tcp + books.unreadable,
            "{name}"
        );
        let kinds = &books.not_tcp_by_kind;
        let ip = kinds.udp + kinds.icmp + kinds.other_ip + kinds.fragment;
        assert_eq!(books.not_tcp, ip + kinds.arp + kinds.other, "{name}");
        let reasons = &books.unreadable_by_reason;
        let unreadable = reasons.cut + reasons.malformed + reasons.link_type;
        assert_eq!(books.unreadable, unreadable, "{name}");
    }
}

/// Cut anywhere, a capture shows the beginning of what it shows whole.
#[test]
fn a_capture_that_is_cut_shows_its_beginning() {
    for path in captures() {
        let bytes = fs::read(&path).unwrap();
        let whole = read(&path).events;
        let step = bytes.len() / 40 + 1;
        for end in (24..bytes.len()).step_by(step) {
            let stream = std::io::Cursor::new(bytes[..end].to_vec());
            let mut packets = Packets::open(stream).unwrap().unwrap();
            let (mut machine, mut events) = (Machine::new(10_000), Vec::new());
            while packets.advance().unwrap() {
                if let Ok(decoded) = decode(&packets.packet().unwrap()) {
                    machine.take(&decoded.segment, &mut events);
                }
            }
            assert!(whole.starts_with(&events), "{} {end}", name(&path));
        }
    }
}
