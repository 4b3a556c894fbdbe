use tcpstate_common::{
    Record,
    record::{AF_INET, flags},
};
use tcpstate_core::{
    census::{HalfOpen, Held},
    event::Process,
    owner::{Comm, How, Owner},
};

use super::*;
use crate::block::{Decoder, Kind as BlockKind};

const SERVER: u16 = 443;

fn origin() -> Origin {
    Origin {
        host: String::new(),
        kernel: String::new(),
        attach: "btf".into(),
        wall_at_monotonic_zero_ns: 0,
        started_ns: 0,
        filters: String::new(),
        live: true,
        sample_interval_ns: Some(1_000_000_000),
    }
}

fn event(ts_ns: u64, socket: u64, (oldstate, newstate): (State, State), more: u8) -> Event {
    let is_child = oldstate == State::LISTEN && newstate == State::SYN_RECV;
    Event::try_from(Record {
        ts_ns,
        skaddr: socket,
        cookie: if is_child { 0 } else { socket },
        netns: 1,
        lport: SERVER,
        rport: 1_000,
        oldstate,
        newstate,
        family: AF_INET,
        flags: flags::SOCKET | if is_child { 0 } else { flags::COOKIE } | more,
        ..Record::default()
    })
    .unwrap()
}

const OPENS: (State, State) = (State::LISTEN, State::SYN_RECV);
const ESTABLISHED: (State, State) = (State::SYN_RECV, State::ESTABLISHED);
const FAILS: (State, State) = (State::ESTABLISHED, State::CLOSE);

fn accepted(ts_ns: u64, socket: u64) -> [Event; 2] {
    [
        event(ts_ns, socket, OPENS, 0),
        event(ts_ns + 1, socket, ESTABLISHED, 0),
    ]
}

/// The beginning of a file: the addresses of the events, and the cookies of the entries.
fn begins_with(memory: &Memory) -> (Vec<u64>, Vec<u64>, u64) {
    let beginning = memory.encode(None).unwrap();
    let mut decoder = Decoder::new().unwrap();
    let (mut events, mut cookies) = (Vec::new(), Vec::new());
    for (header, payload) in &beginning.blocks {
        if header.kind == BlockKind::RECALLED_EVENTS {
            decoder.decode(header, payload, &mut events).unwrap();
        } else {
            let census = decoder.census(header, payload).unwrap();
            cookies.extend(census.found.iter().map(|found| found.cookie));
        }
    }
    let addresses = events.iter().map(|event| event.record().skaddr);
    (addresses.collect(), cookies, beginning.left_out)
}

fn listener(cookie: u64) -> Found {
    Found {
        cookie,
        state: State::LISTEN,
        kind: Kind::Socket,
        since_ns: None,
        there_ns: None,
        family: 2,
        laddr: [0, 0, 0, 0].into(),
        lport: SERVER,
        raddr: [0, 0, 0, 0].into(),
        rport: 0,
        role: tcpstate_core::service::Role::Server,
        uid: None,
        cgroup: None,
        owner: Owner {
            pid: Some(7),
            comm: Some(Comm::default()),
            how: How::Seeded,
        },
    }
}

fn seed(begin_ns: u64, found: Vec<Found>) -> Census {
    Census {
        netns: 1,
        begin_ns,
        scope: Scope::All,
        found,
        ..Census::default()
    }
}

#[test]
fn what_has_ended_is_forgotten_in_the_same_block_and_later() {
    let mut memory = Memory::new(&origin(), 1 << 20);
    memory.events(&accepted(1, 10));
    let mut block = accepted(5, 20).to_vec();
    block.extend(accepted(7, 30));
    block.push(event(9, 20, FAILS, 0));
    // The address is used again.
    block.extend(accepted(10, 20));
    block.push(event(12, 10, FAILS, 0));
    memory.events(&block);
    assert_eq!(begins_with(&memory), (vec![30, 30, 20, 20], vec![], 0));
    memory.events(&[event(20, 30, FAILS, 0), event(21, 20, FAILS, 0)]);
    assert_eq!(begins_with(&memory), (vec![], vec![], 0));
    assert_eq!(memory.bytes(), 0);
}

#[test]
fn a_listener_that_has_ended_stays_as_long_as_a_connection_of_it() {
    let mut memory = Memory::new(&origin(), 1 << 20);
    memory.census(&seed(1, vec![listener(5)]));
    memory.events(&accepted(2, 10));
    memory.events(&[event(4, 5, (State::LISTEN, State::CLOSE), 0)]);
    memory.events(&accepted(5, 20));
    assert_eq!(begins_with(&memory), (vec![10, 10, 5, 20, 20], vec![5], 0));
    memory.events(&[event(8, 10, FAILS, 0)]);
    assert_eq!(begins_with(&memory), (vec![20, 20], vec![], 0));
}

#[test]
fn what_a_dump_of_all_sockets_lacks_has_ended() {
    let mut memory = Memory::new(&origin(), 1 << 20);
    memory.census(&seed(1, vec![listener(5), listener(6)]));
    memory.events(&accepted(2, 10));
    memory.events(&accepted(2 * SETTLED_NS, 20));
    memory.census(&seed(2 * SETTLED_NS, vec![listener(6)]));
    assert_eq!(begins_with(&memory), (vec![20, 20], vec![6], 0));
}

#[test]
fn a_minisocket_stays_until_it_is_gone_or_two_samples_lack_it() {
    let sample = |begin_ns| Census {
        netns: 1,
        begin_ns,
        ..Census::default()
    };
    let closes = (State::FIN_WAIT2, State::CLOSE);
    let mut memory = Memory::new(&origin(), 1 << 20);
    for socket in [10, 20] {
        memory.events(&accepted(1, socket));
        memory.events(&[event(5, socket, closes, flags::DONE)]);
    }
    let mini = Found {
        state: State::TIME_WAIT,
        kind: Kind::Minisocket,
        ..listener(10)
    };
    memory.census(&Census {
        found: vec![mini],
        ..sample(100)
    });
    let all = vec![10, 10, 10, 20, 20, 20];
    assert_eq!(begins_with(&memory), (all, vec![10], 0));
    memory.census(&sample(200));
    assert_eq!(begins_with(&memory), (vec![10; 3], vec![10], 0));
    memory.census(&Census {
        gone: vec![tcpstate_core::census::Gone {
            cookie: 10,
            at_ns: 250,
        }],
        ..sample(300)
    });
    assert_eq!(begins_with(&memory), (vec![], vec![], 0));
    assert_eq!(memory.bytes(), 0);
}

#[test]
fn what_finds_no_room_is_counted_and_listeners_come_first() {
    let max_bytes = 100_000;
    let mut memory = Memory::new(&origin(), max_bytes);
    for socket in 0..1_000 {
        memory.events(&accepted(2 * socket, 1_000 + socket));
    }
    memory.census(&seed(5_000_000_000, vec![listener(5)]));
    // The census proves that the others have ended; events of theirs were lost.
    assert_eq!(begins_with(&memory).1, [5]);

    let mut memory = Memory::new(&origin(), max_bytes);
    memory.events(&[event(0, 5, (State::CLOSE, State::LISTEN), 0)]);
    for socket in 0..1_000 {
        memory.events(&accepted(2 * socket, 1_000 + socket));
    }
    assert!(memory.bytes() <= max_bytes, "{}", memory.bytes());
    let (events, _, left_out) = begins_with(&memory);
    let kept = (events.len() as u64 - 1) / 2;
    assert!(kept > 100, "{kept}");
    assert_eq!(left_out, 1_000 - kept);
    // In a file there may be less room.
    let beginning = memory.encode(Some(400)).unwrap();
    assert!(beginning.bytes() <= 400 && !beginning.blocks.is_empty());
    assert!(beginning.left_out > left_out);
    for socket in 0..1_000 {
        memory.events(&[event(5_000, 1_000 + socket, FAILS, 0)]);
    }
    assert_eq!(begins_with(&memory), (vec![5], vec![], 0));
}

/// The censuses that a file would begin with.
fn censuses(memory: &Memory) -> Vec<Census> {
    let beginning = memory.encode(None).unwrap();
    let mut decoder = Decoder::new().unwrap();
    let blocks = beginning.blocks.iter();
    let censuses = blocks.filter(|(header, _)| header.kind == BlockKind::RECALLED_CENSUS);
    censuses
        .map(|(header, payload)| decoder.census(header, payload).unwrap())
        .collect()
}

#[test]
fn the_holders_of_a_listener_are_those_found_last_and_end_with_it() {
    let held = |by: &[u32]| Census {
        netns: 1,
        more: true,
        held: vec![Held {
            cookie: 5,
            laddr: [0, 0, 0, 0].into(),
            lport: SERVER,
            by: by
                .iter()
                .map(|&pid| Process {
                    pid,
                    comm: [b'x'; 16],
                })
                .collect(),
        }],
        ..Census::default()
    };
    let mut memory = Memory::new(&origin(), 1 << 20);
    memory.census(&seed(1, vec![listener(5)]));
    memory.census(&held(&[7, 8]));
    memory.census(&held(&[8]));
    let kept = censuses(&memory);
    assert_eq!(kept.len(), 2);
    assert_eq!(kept[0].found, [listener(5)]);
    assert_eq!(kept[1], held(&[8]));
    memory.events(&[event(4, 5, (State::LISTEN, State::CLOSE), 0)]);
    assert_eq!(censuses(&memory), []);
}

#[test]
fn half_open_connections_are_kept_with_the_last_sample_until_they_are_gone() {
    let request = |cookie| Request {
        cookie,
        since_ns: 3,
        interval_ns: Some(2),
    };
    let sample = |begin_ns, requests: &[u64], gone: &[u64]| Census {
        netns: 1,
        begin_ns,
        requests: requests.iter().copied().map(request).collect(),
        requests_gone: gone.to_vec(),
        ..Census::default()
    };
    let mut memory = Memory::new(&origin(), 1 << 20);
    memory.census(&sample(4, &[1, 2], &[]));
    memory.census(&sample(5, &[3], &[1]));
    let [kept] = &mut censuses(&memory)[..] else {
        panic!("not the last sample alone");
    };
    kept.requests.sort_unstable_by_key(|request| request.cookie);
    assert_eq!(*kept, sample(5, &[2, 3], &[]));
    memory.census(&sample(6, &[], &[2, 3]));
    assert_eq!(censuses(&memory), [sample(6, &[], &[])]);
    assert_eq!(memory.bytes(), 0);
}

#[test]
fn a_listener_that_has_ended_stays_while_a_sample_has_half_open_connections_of_it() {
    let sample = |begin_ns, count| Census {
        netns: 1,
        begin_ns,
        half_open: vec![HalfOpen {
            laddr: [10, 0, 0, 1].into(),
            lport: SERVER,
            count,
            oldest_ns: None,
            oldest_at_least_ns: None,
            synack_retransmits: 0,
        }],
        ..Census::default()
    };
    let knows_the_listener = |memory: &Memory| {
        let censuses = censuses(memory);
        censuses.iter().any(|census| census.found == [listener(5)])
    };
    let mut memory = Memory::new(&origin(), 1 << 20);
    memory.census(&seed(1, vec![listener(5)]));
    memory.census(&sample(2, 1));
    memory.events(&[event(4, 5, (State::LISTEN, State::CLOSE), 0)]);
    assert!(knows_the_listener(&memory));
    memory.census(&sample(6, 0));
    assert!(!knows_the_listener(&memory));
}
