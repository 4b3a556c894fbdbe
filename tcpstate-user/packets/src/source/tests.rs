use std::future::poll_fn;

use super::*;
use crate::{
    segment::flags::{ACK, FIN, SYN},
    written::{LITTLE, behind, ethernet, tcp, v4},
};
use tcpstate_common::State;

/// All that a source hands out: its events, its messages, and its end.
async fn drain(capture: &mut Capture) -> (Vec<Event>, Vec<String>, Result<(), SourceError>) {
    let (mut events, mut messages) = (Vec::new(), Vec::new());
    let mut is_settled = false;
    loop {
        match poll_fn(|cx| capture.poll_step(cx, &mut events)).await {
            Ok(Step::Settled) => {
                assert!(!std::mem::replace(&mut is_settled, true));
                assert!(events.is_empty());
            }
            Ok(Step::Notice(notice)) => messages.push(notice.text),
            Ok(Step::End) => return (events, messages, Ok(())),
            Ok(_) => {}
            Err(error) => return (events, messages, Err(error)),
        }
    }
}

fn open(file: Vec<u8>, options: Options) -> Capture {
    let name = "x.pcap".to_owned();
    Capture::new(io::Cursor::new(file), name, None, options).unwrap()
}

/// A file with these packets, a second apart, from second 5 on.
fn file(packets: Vec<Vec<u8>>) -> Vec<u8> {
    let timed = packets
        .into_iter()
        .zip(5..)
        .map(|(bytes, at)| (at, 0, bytes));
    LITTLE.pcap(0xa1b2_c3d4, 1, &timed.collect::<Vec<_>>())
}

fn client(flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    ethernet(0x0800, &v4(6, &tcp(flags, seq, ack, 0)))
}

/// A packet of the other side: addresses and ports exchanged.
fn server(flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    let mut bytes = client(flags, seq, ack);
    for (at, length) in [(26, 4), (34, 2)] {
        let (first, second) = bytes[at..].split_at_mut(length);
        first.swap_with_slice(&mut second[..length]);
    }
    bytes
}

fn conversation() -> Vec<Vec<u8>> {
    vec![
        client(SYN, 10, 0),
        ethernet(0x0806, &[0; 28]),
        server(SYN | ACK, 20, 11),
        client(ACK, 11, 21),
        client(FIN | ACK, 11, 21),
        server(FIN | ACK, 21, 12),
        behind(&client(ACK, 12, 22)[..40], &[]),
        client(ACK, 12, 22),
    ]
}

#[tokio::test]
async fn a_capture_gives_events_and_the_books_of_its_packets() {
    let mut capture = open(file(conversation()), Options::default());
    let origin = capture.origin().clone();
    assert_eq!(origin.started_ns, 5_000_000_000);
    assert_eq!(origin.wall_ns(origin.started_ns), 5_000_000_000);
    assert_eq!(origin.evidence().name(), "packets");
    assert!(!origin.live);
    let (events, messages, end) = drain(&mut capture).await;
    end.unwrap();
    assert_eq!(messages, [""; 0]);
    let seen: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event.ts_ns() / 1_000_000_000,
                event.oldstate(),
                event.newstate(),
            )
        })
        .collect();
    assert_eq!(seen.len(), 10);
    assert_eq!(seen[0], (5, State::CLOSE, State::SYN_SENT));
    assert_eq!(seen[9], (12, State::LAST_ACK, State::CLOSE));
    let books = capture.packets().unwrap();
    assert_eq!(
        (books.seen, books.tcp, books.not_tcp, books.unreadable),
        (8, 6, 1, 1)
    );
    assert_eq!(books.not_tcp_by_kind.arp, 1);
    assert_eq!(books.unreadable_by_reason.malformed, 1);
    let accounting = capture.accounting().unwrap();
    assert_eq!((accounting.seen, accounting.received), (10, 10));
    let read = capture.progress().unwrap().read_bytes;
    assert_eq!(read, file(conversation()).len() as u64);
}

#[tokio::test]
async fn a_cut_capture_says_so() {
    let mut bytes = file(conversation());
    bytes.truncate(bytes.len() - 3);
    let mut capture = open(bytes, Options::default());
    let (events, messages, end) = drain(&mut capture).await;
    end.unwrap();
    assert_eq!(events.len(), 8);
    assert_eq!(messages.len(), 1);
    assert!(messages[0].starts_with("x.pcap: cut: "), "{messages:?}");
}

#[tokio::test]
async fn connections_that_find_no_room_are_told() {
    let packets = (0..10_u8).map(|host| {
        let mut bytes = client(SYN, 10, 0);
        bytes[29] = host;
        bytes
    });
    let options = Options {
        max_connections: 4,
        ..Options::default()
    };
    let mut capture = open(file(packets.collect()), options);
    let (events, messages, _) = drain(&mut capture).await;
    assert_eq!(events.len(), 10);
    assert_eq!(
        messages,
        ["x.pcap: 6 connections were forgotten because there were too many"]
    );
}

#[tokio::test]
async fn a_capture_without_packets_ends_at_once() {
    let mut capture = open(file(Vec::new()), Options::default());
    let (events, messages, end) = drain(&mut capture).await;
    end.unwrap();
    assert!(events.is_empty() && messages.is_empty());
    assert_eq!(capture.packets(), Some(Books::default()));
}

#[tokio::test]
async fn a_source_that_is_stopped_ends() {
    let many: Vec<_> = (0..2000).flat_map(|_| conversation()).collect();
    let mut capture = open(file(many), Options::default());
    capture.stop();
    let (events, _, end) = drain(&mut capture).await;
    end.unwrap();
    assert!(events.is_empty());
    assert_eq!(capture.packets(), None);
}

/// A stream that fails after its bytes.
struct Failing(io::Cursor<Vec<u8>>);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            // EIO
            0 => Err(io::Error::from_raw_os_error(5)),
            read => Ok(read),
        }
    }
}

#[tokio::test]
async fn a_stream_that_fails_fails_the_source_behind_its_events() {
    let stream = Failing(io::Cursor::new(file(conversation())));
    let name = "x.pcap".to_owned();
    let mut capture = Capture::new(stream, name, None, Options::default()).unwrap();
    let (events, _, end) = drain(&mut capture).await;
    assert_eq!(events.len(), 10);
    let error = end.unwrap_err().to_string();
    assert!(error.starts_with("cannot read x.pcap: "), "{error}");
}

#[test]
fn whatever_is_no_capture_is_refused_by_name() {
    let open = |bytes: &[u8]| {
        let stream = io::Cursor::new(bytes.to_vec());
        let capture = Capture::new(stream, "x".to_owned(), None, Options::default());
        capture.err().unwrap().to_string()
    };
    assert_eq!(open(b""), "x is empty");
    assert_eq!(
        open(b"words"),
        "x is no packet capture (neither pcap nor pcapng)"
    );
    assert_eq!(open(b"\x1f\x8bwords"), "x ends within its header");
}
