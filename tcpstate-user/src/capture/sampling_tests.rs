use std::net::IpAddr;

use super::*;
use crate::capture::sockdiag::wire::tests::answer;

const S: u64 = 1_000_000_000;

/// A kernel's answer: a socket of this state with this timer.
fn socket(cookie: u32, state: State, timer: u8, retransmits: u8, expires_ms: u32) -> Vec<u8> {
    let mut bytes = answer();
    bytes[1] = state.0;
    bytes[2] = timer;
    bytes[3] = retransmits;
    bytes[44..48].copy_from_slice(&cookie.to_ne_bytes());
    bytes[48..52].fill(0);
    bytes[52..56].copy_from_slice(&expires_ms.to_ne_bytes());
    // No process holds it.
    bytes[68..72].fill(0);
    bytes
}

fn time_wait(cookie: u32, expires_ms: u32) -> Vec<u8> {
    socket(cookie, State::TIME_WAIT, 3, 0, expires_ms)
}

fn look(sampled: &mut Sampled, begin_ns: u64, sockets: &[Vec<u8>]) -> Census {
    let mut round = sampled.begin(begin_ns, 1, |part| panic!("a part: {part:?}"));
    round.restart();
    for bytes in sockets {
        round.take(bytes).unwrap();
    }
    round.end(Small::default())
}

fn states(census: &Census) -> Vec<(u64, State, Option<u64>)> {
    let found = census.found.iter();
    found
        .map(|found| (found.cookie, found.state, found.since_ns))
        .collect()
}

#[test]
fn a_minisocket_is_told_twice_and_then_when_it_is_another_or_gone() {
    let sampled = &mut Sampled::default();
    let orphan = socket(7, State::FIN_WAIT2, 3, 0, 58_000);
    let first = look(sampled, 100 * S, std::slice::from_ref(&orphan));
    assert_eq!(states(&first), [(7, State::FIN_WAIT2, None)]);
    assert_eq!((first.previous_ns, first.interval_ns()), (None, None));
    let second = look(sampled, 101 * S, std::slice::from_ref(&orphan));
    assert_eq!(states(&second), [(7, State::FIN_WAIT2, None)]);
    assert_eq!(second.interval_ns(), Some(S));
    assert!(look(sampled, 102 * S, &[orphan]).found.is_empty());
    // It entered TIME_WAIT when its timer was set to a minute, 400 ms ago.
    let third = look(sampled, 103 * S, &[time_wait(7, 59_600)]);
    let since_ns = Some(103 * S - 400_000_000);
    assert_eq!(states(&third), [(7, State::TIME_WAIT, since_ns)]);
    look(sampled, 162 * S, &[time_wait(7, 600)]);
    let last = look(sampled, 163 * S, &[]);
    let at_ns = 162 * S + 600_000_000;
    assert_eq!(last.gone, [Gone { cookie: 7, at_ns }]);
    assert!(look(sampled, 164 * S, &[]).gone.is_empty());
}

#[test]
fn after_a_loss_the_minisockets_of_that_time_are_told_again() {
    let sampled = &mut Sampled::default();
    let mut there = Vec::new();
    let mut look_at = |sampled: &mut Sampled, cookie, second: u64| {
        there.push(time_wait(cookie, 60_000));
        let census = look(sampled, second * S, &there);
        let mut cookies: Vec<u64> = census.found.iter().map(|found| found.cookie).collect();
        cookies.sort_unstable();
        cookies
    };
    for second in 1..=4 {
        look_at(sampled, second, u64::from(second));
        sampled.is_complete();
    }
    // The transition of number 4 can have been lost after it was listed.
    look_at(sampled, 5, 5);
    look_at(sampled, 6, 6);
    sampled.tell_again();
    assert_eq!(look_at(sampled, 7, 7), [4, 5, 6, 7]);
    assert_eq!(look_at(sampled, 8, 8), [4, 5, 6, 7, 8]);
    assert_eq!(look_at(sampled, 9, 9), [8, 9]);
}

#[test]
fn what_goes_before_its_time_is_gone_when_two_looks_missed_it() {
    let sampled = &mut Sampled::default();
    look(
        sampled,
        100 * S,
        &[time_wait(7, 50_000), time_wait(8, 50_000)],
    );
    assert!(look(sampled, 101 * S, &[]).gone.is_empty());
    // A list in pieces had missed the one; the other was reused.
    let census = look(sampled, 102 * S, &[time_wait(8, 48_000)]);
    let at_ns = 101 * S;
    assert_eq!(census.gone, [Gone { cookie: 7, at_ns }]);
}

#[test]
fn what_goes_after_its_time_went_in_the_interval_before() {
    let sampled = &mut Sampled::default();
    look(sampled, 100 * S, &[time_wait(7, 500)]);
    // The kernel is late, and says 0.
    look(sampled, 101 * S, &[time_wait(7, 0)]);
    let census = look(sampled, 102 * S, &[]);
    assert_eq!(
        census.gone,
        [Gone {
            cookie: 7,
            at_ns: 101 * S
        }]
    );
}

#[test]
fn half_open_connections_are_counted_where_they_came_in() {
    let sampled = &mut Sampled::default();
    let request = |cookie, retransmits, expires_ms| {
        socket(cookie, State::SYN_RECV, 1, retransmits, expires_ms)
    };
    let census = look(
        sampled,
        100 * S,
        &[request(1, 0, 900), request(2, 1, 1_500), request(3, 0, 10)],
    );
    let [half_open] = census.half_open[..] else {
        panic!("{census:?}");
    };
    assert_eq!((half_open.count, half_open.synack_retransmits), (3, 1));
    // 1 s, and 500 ms of the 2 s after.
    assert_eq!(half_open.oldest_ns, Some(1_500_000_000));
    assert_ne!(half_open.laddr, IpAddr::from([0; 4]));
    assert!(census.found.is_empty());
    assert!(look(sampled, 101 * S, &[]).half_open.is_empty());
}

#[test]
fn what_a_try_that_was_broken_off_has_told_is_told_once() {
    let sampled = &mut Sampled::default();
    let mut round = sampled.begin(S, 1, drop);
    round.restart();
    for bytes in [
        time_wait(1, 60_000),
        socket(2, State::SYN_RECV, 1, 0, 1_000),
    ] {
        round.take(&bytes).unwrap();
    }
    round.restart();
    round.take(&time_wait(1, 60_000)).unwrap();
    let census = round.end(Small::default());
    assert_eq!((census.found.len(), census.half_open.len()), (1, 0));
    assert_eq!(look(sampled, 2 * S, &[time_wait(1, 59_000)]).found.len(), 1);
    assert!(
        look(sampled, 3 * S, &[time_wait(1, 58_000)])
            .found
            .is_empty()
    );
}

#[test]
fn a_look_gives_what_it_finds_in_parts() {
    let sampled = &mut Sampled::default();
    let mut parts = Vec::new();
    let mut round = sampled.begin(S, 7, |part| parts.push(part));
    let many = 2 * u32::try_from(PART).unwrap() + 5;
    round.restart();
    for cookie in 0..10 {
        round.take(&time_wait(cookie, 60_000)).unwrap();
    }
    round.restart();
    for cookie in 0..many {
        round.take(&time_wait(cookie, 60_000)).unwrap();
    }
    let last = round.end(Small::default());
    parts.push(last);
    let [first, second, last] = &parts[..] else {
        panic!("{} parts", parts.len());
    };
    for part in [first, second] {
        assert_eq!((part.netns, part.begin_ns, part.more), (7, S, true));
        assert_eq!((part.found.len(), part.found.capacity()), (PART, PART));
    }
    assert!(!last.more);
    let mut cookies: Vec<u64> = parts
        .iter()
        .flat_map(|part| &part.found)
        .map(|found| found.cookie)
        .collect();
    cookies.sort_unstable();
    assert_eq!(cookies, (0..u64::from(many)).collect::<Vec<_>>());
}

#[test]
fn a_look_that_fails_has_told_what_it_found_and_ends_nothing() {
    let sampled = &mut Sampled::default();
    let there = [time_wait(1, 60_000), time_wait(2, 60_000)];
    look(sampled, S, &there);
    // Number 2 is missing once.
    assert!(look(sampled, 2 * S, &there[..1]).gone.is_empty());
    let mut parts = Vec::new();
    let mut round = sampled.begin(3 * S, 1, |part| parts.push(part));
    round.restart();
    round.take(&time_wait(3, 60_000)).unwrap();
    round.break_off();
    let [part] = &parts[..] else {
        panic!("{parts:?}");
    };
    assert_eq!((part.found[0].cookie, part.more), (3, true));
    assert!(part.gone.is_empty());
    // The second look in a row that was one, after the first that missed it.
    let census = look(
        sampled,
        4 * S,
        &[time_wait(1, 57_000), time_wait(3, 59_000)],
    );
    let at_ns = 2 * S;
    assert_eq!(census.gone, [Gone { cookie: 2, at_ns }]);
    let told: Vec<u64> = census.found.iter().map(|found| found.cookie).collect();
    assert_eq!(told, [3], "for the second time");
}

#[test]
fn a_try_in_which_another_state_was_seen_tells_both() {
    let sampled = &mut Sampled::default();
    let mut round = sampled.begin(S, 1, drop);
    round.restart();
    round.take(&socket(7, State::FIN_WAIT2, 3, 0, 100)).unwrap();
    round.restart();
    round.take(&time_wait(7, 60_000)).unwrap();
    let census = round.end(Small::default());
    let told = states(&census).into_iter();
    let told: Vec<_> = told.map(|(cookie, state, _)| (cookie, state)).collect();
    assert_eq!(told, [(7, State::FIN_WAIT2), (7, State::TIME_WAIT)]);
}

#[test]
fn a_namespace_in_which_nothing_came_in_is_not_asked() {
    let sampled = &mut Sampled::default();
    let here = |in_segments, minisockets| Small {
        activity: Activity {
            in_segments: Some(in_segments),
            minisockets: Some(minisockets),
        },
        counters: ListenCounters {
            drops: Some(in_segments),
            ..ListenCounters::default()
        },
        synack_retransmits: Some(in_segments / 4),
    };
    assert!(!sampled.is_quiet(&here(5, 0), S), "nothing is known yet");
    sampled.begin(S / 2, 1, drop).end(here(5, 0));
    assert!(
        !sampled.is_quiet(&here(5, 0), S),
        "what it should have found may be missing once more"
    );
    sampled.begin(S, 1, drop).end(here(5, 0));
    assert!(sampled.is_quiet(&here(5, 0), 2 * S));
    for (segments, minisockets) in [(6, 0), (5, 1)] {
        assert!(!sampled.is_quiet(&here(segments, minisockets), 3 * S));
    }
    // The quiet look was one.
    let census = sampled.begin(3 * S, 1, drop).end(here(8, 0));
    assert_eq!(census.interval_ns(), Some(S));
    assert_eq!(census.listen.drops, Some(3));
    // Since the beginning, and since the look before.
    assert_eq!(census.listen.synack_retransmits, Some(1));
    let mut round = sampled.begin(4 * S, 1, drop);
    round.take(&time_wait(1, 60_000)).unwrap();
    round.end(here(8, 0));
    assert!(!sampled.is_quiet(&here(8, 0), 5 * S), "one is known");
    // What is neither known nor counted by the kernel is never quiet.
    assert!(!Sampled::default().is_quiet(&Small::default(), S));
}

#[test]
fn a_namespace_that_is_gone_takes_all_with_it() {
    let sampled = &mut Sampled::default();
    look(sampled, S, &[time_wait(1, 60_000)]);
    let census = sampled.vanished(1, 2 * S);
    assert_eq!(census.scope, Scope::Vanished);
    assert_eq!(census.interval_ns(), Some(S));
}
