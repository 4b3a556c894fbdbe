use std::net::IpAddr;

use tcpstate_core::inventory::TICK_NS as TICK_OF_TIMERS_NS;

use super::super::sockdiag::testing::answer;
use super::{minisocket::Expiry, *};

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

fn take_sample(history: &mut SampleHistory, begin_ns: u64, sockets: &[Vec<u8>]) -> Census {
    let mut sample = history.begin(begin_ns, 1, |part| panic!("a part: {part:?}"));
    sample.restart();
    for bytes in sockets {
        sample.take(bytes).unwrap();
    }
    let never_deferred = NetnsCounters {
        listen: ListenCounters {
            deferred: Some(0),
            ..ListenCounters::default()
        },
        ..NetnsCounters::default()
    };
    sample.finish(never_deferred, begin_ns)
}

fn states(census: &Census) -> Vec<(u64, State, Option<u64>)> {
    let found = census.found.iter();
    found
        .map(|found| (found.cookie, found.state, found.since_ns))
        .collect()
}

/// It went alone, at that time but for the unit of [`Expiry`].
fn assert_gone(census: &Census, cookie: u64, at_ns: u64) {
    let [gone] = census.gone[..] else {
        panic!("{census:?}");
    };
    assert_eq!(gone.cookie, cookie);
    let late_ns = gone.at_ns.checked_sub(at_ns);
    assert!(late_ns < Some(1 << Expiry::SHIFT), "{gone:?}");
}

#[test]
fn a_minisocket_is_reported_twice_and_again_when_its_state_changes_or_it_is_gone() {
    let history = &mut SampleHistory::default();
    let orphan = socket(7, State::FIN_WAIT2, 3, 0, 58_000);
    let first = take_sample(history, 100 * S, std::slice::from_ref(&orphan));
    assert_eq!(states(&first), [(7, State::FIN_WAIT2, None)]);
    assert_eq!((first.previous_ns, first.interval_ns()), (None, None));
    let second = take_sample(history, 101 * S, std::slice::from_ref(&orphan));
    assert_eq!(states(&second), [(7, State::FIN_WAIT2, None)]);
    assert_eq!(second.interval_ns(), Some(S));
    assert!(take_sample(history, 102 * S, &[orphan]).found.is_empty());
    // It entered TIME_WAIT when its timer was set to a minute, 400 ms ago.
    let third = take_sample(history, 103 * S, &[time_wait(7, 59_600)]);
    let since_ns = Some(103 * S - 400_000_000);
    assert_eq!(states(&third), [(7, State::TIME_WAIT, since_ns)]);
    take_sample(history, 162 * S, &[time_wait(7, 600)]);
    let last = take_sample(history, 163 * S, &[]);
    assert_gone(&last, 7, 162 * S + 600_000_000);
    assert!(take_sample(history, 164 * S, &[]).gone.is_empty());
}

#[test]
fn after_a_loss_the_minisockets_of_that_time_are_reported_again() {
    let history = &mut SampleHistory::default();
    let mut there = Vec::new();
    let mut cookies_reported = |history: &mut SampleHistory, cookie, second: u64| {
        there.push(time_wait(cookie, 60_000));
        let census = take_sample(history, second * S, &there);
        let mut cookies: Vec<u64> = census.found.iter().map(|found| found.cookie).collect();
        cookies.sort_unstable();
        cookies
    };
    for second in 1..=4 {
        cookies_reported(history, second, u64::from(second));
        history.mark_complete();
    }
    // The transition of number 4 can have been lost after it was listed.
    cookies_reported(history, 5, 5);
    cookies_reported(history, 6, 6);
    history.report_again();
    assert_eq!(cookies_reported(history, 7, 7), [4, 5, 6, 7]);
    assert_eq!(cookies_reported(history, 8, 8), [4, 5, 6, 7, 8]);
    assert_eq!(cookies_reported(history, 9, 9), [8, 9]);
}

#[test]
fn a_minisocket_that_goes_before_its_time_is_gone_when_two_samples_missed_it() {
    let history = &mut SampleHistory::default();
    take_sample(
        history,
        100 * S,
        &[time_wait(7, 50_000), time_wait(8, 50_000)],
    );
    assert!(take_sample(history, 101 * S, &[]).gone.is_empty());
    // One dump had missed number 8; number 7 was reused.
    let census = take_sample(history, 102 * S, &[time_wait(8, 48_000)]);
    let at_ns = 101 * S;
    assert_eq!(census.gone, [Gone { cookie: 7, at_ns }]);
}

#[test]
fn a_minisocket_whose_timer_is_late_went_in_the_last_interval() {
    let history = &mut SampleHistory::default();
    take_sample(history, 100 * S, &[time_wait(7, 500)]);
    // The kernel is late: the timer has expired.
    take_sample(history, 101 * S, &[time_wait(7, 0)]);
    let census = take_sample(history, 102 * S, &[]);
    assert_gone(&census, 7, 101 * S);
}

#[test]
fn an_expiry_is_the_time_to_its_unit_whatever_the_bits_above() {
    let unit_ns = 1 << Expiry::SHIFT;
    for now_ns in [0, 1, 90 * S, (unit_ns << 32) - 1, u64::MAX / 2] {
        for ahead_ns in [0, 1, 60 * S, 40_000 * S] {
            let expires_ns = now_ns + ahead_ns;
            let kept_ns = Expiry::at(expires_ns).ns(now_ns);
            assert!((expires_ns..expires_ns + unit_ns).contains(&kept_ns));
            let late_ns = Expiry::at(expires_ns).ns(expires_ns + 40_000 * S);
            assert_eq!(late_ns, kept_ns, "{ahead_ns} behind {now_ns}");
        }
    }
}

#[test]
fn half_open_connections_are_counted_by_local_address_and_port() {
    let history = &mut SampleHistory::default();
    let request = |cookie, retransmits, expires_ms| {
        socket(cookie, State::SYN_RECV, 1, retransmits, expires_ms)
    };
    let census = take_sample(
        history,
        100 * S,
        &[request(1, 0, 900), request(2, 1, 1_500), request(3, 0, 10)],
    );
    let [half_open] = census.half_open[..] else {
        panic!("{census:?}");
    };
    assert_eq!((half_open.count, half_open.synack_retransmits), (3, 1));
    // One has a timer of 2 s: its first second is over, the rest is not known.
    assert_eq!(half_open.oldest_ns, None);
    assert_eq!(half_open.oldest_at_least_ns, Some(S - TICK_OF_TIMERS_NS));
    assert_ne!(half_open.laddr, IpAddr::from([0; 4]));
    assert!(census.found.is_empty());
    assert!(take_sample(history, 101 * S, &[]).half_open.is_empty());
}

#[test]
fn a_half_open_connection_keeps_the_age_that_an_earlier_sample_knew() {
    let request = |cookie, retransmits, expires_ms| {
        socket(cookie, State::SYN_RECV, 1, retransmits, expires_ms)
    };
    let oldest = |census: &Census| {
        let [half_open] = census.half_open[..] else {
            panic!("{census:?}");
        };
        (half_open.oldest_ns, half_open.oldest_at_least_ns)
    };
    let history = &mut SampleHistory::default();
    let first = take_sample(history, 100 * S, &[request(1, 0, 900)]);
    assert_eq!(oldest(&first), (Some(S / 10), None));
    // The client repeats its SYN twice, and each time the timer starts again.
    let later = take_sample(history, 102 * S, &[request(1, 2, 990)]);
    assert_eq!(oldest(&later), (Some(2 * S + S / 10), None));

    // Where the first sample comes too late, the bound grows with what the samples see.
    let history = &mut SampleHistory::default();
    let first = take_sample(history, 100 * S, &[request(1, 2, 990)]);
    assert_eq!(oldest(&first), (None, None));
    let second = take_sample(history, 101 * S, &[request(1, 3, 1_500)]);
    assert_eq!(oldest(&second), (None, Some(S)));
    let third = take_sample(history, 102 * S, &[request(1, 3, 500)]);
    assert_eq!(oldest(&third), (None, Some(2 * S)));
    // A dump missed it once.
    assert!(take_sample(history, 103 * S, &[]).half_open.is_empty());
    let fifth = take_sample(history, 104 * S, &[request(1, 4, 3_500)]);
    assert_eq!(oldest(&fifth), (None, Some(4 * S)));
    // Without a sample for two intervals, it was another one.
    take_sample(history, 105 * S, &[]);
    take_sample(history, 106 * S, &[]);
    let again = take_sample(history, 107 * S, &[request(1, 0, 1_000)]);
    assert_eq!(oldest(&again), (Some(0), None));
}

#[test]
fn a_minisocket_found_by_two_attempts_is_reported_once() {
    let history = &mut SampleHistory::default();
    let mut sample = history.begin(S, 1, drop);
    sample.restart();
    for bytes in [
        time_wait(1, 60_000),
        socket(2, State::SYN_RECV, 1, 0, 1_000),
    ] {
        sample.take(&bytes).unwrap();
    }
    sample.restart();
    sample.take(&time_wait(1, 60_000)).unwrap();
    let census = sample.finish(NetnsCounters::default(), S);
    assert_eq!((census.found.len(), census.half_open.len()), (1, 0));
    assert_eq!(
        take_sample(history, 2 * S, &[time_wait(1, 59_000)])
            .found
            .len(),
        1
    );
    assert!(
        take_sample(history, 3 * S, &[time_wait(1, 58_000)])
            .found
            .is_empty()
    );
}

#[test]
fn a_sample_publishes_its_census_in_parts() {
    let history = &mut SampleHistory::default();
    let mut parts = Vec::new();
    let mut sample = history.begin(S, 7, |part| parts.push(part));
    let many = 2 * u32::try_from(PART).unwrap() + 5;
    sample.restart();
    for cookie in 0..10 {
        sample.take(&time_wait(cookie, 60_000)).unwrap();
    }
    sample.restart();
    for cookie in 0..many {
        sample.take(&time_wait(cookie, 60_000)).unwrap();
    }
    let last = sample.finish(NetnsCounters::default(), S);
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
fn what_is_gone_is_published_in_parts() {
    for (more, lengths) in [(0, vec![PART, 0]), (3, vec![PART, 3])] {
        let history = &mut SampleHistory::default();
        let mut sample = history.begin(S, 7, drop);
        sample.restart();
        for cookie in 0..u32::try_from(PART).unwrap() + more {
            sample.take(&time_wait(cookie, 1)).unwrap();
        }
        sample.finish(NetnsCounters::default(), S);
        let mut parts = Vec::new();
        let sample = history.begin(2 * S, 7, |part| parts.push(part));
        let last = sample.finish(NetnsCounters::default(), 2 * S);
        assert!(!last.more && parts.iter().all(|part: &Census| part.more));
        parts.push(last);
        let gone: Vec<usize> = parts.iter().map(|part| part.gone.len()).collect();
        assert_eq!(gone, lengths);
    }
}

#[test]
fn a_timer_counts_from_when_the_kernel_wrote_it() {
    let history = &mut SampleHistory::default();
    let mut sample = history.begin(100 * S, 1, drop);
    sample.restart();
    sample.expect(std::iter::empty(), 101 * S);
    sample.take(&time_wait(7, 58_000)).unwrap();
    sample.take(&time_wait(8, 60_000)).unwrap();
    let census = sample.finish(NetnsCounters::default(), 102 * S);
    assert_eq!(
        states(&census),
        [
            (7, State::TIME_WAIT, Some(99 * S)),
            // It began during the dump.
            (8, State::TIME_WAIT, Some(100 * S)),
        ]
    );
}

#[test]
fn a_minisocket_whose_timer_expires_during_a_dump_is_gone() {
    let history = &mut SampleHistory::default();
    take_sample(history, 100 * S, &[time_wait(7, 1_500)]);
    let sample = history.begin(101 * S, 1, drop);
    let census = sample.finish(NetnsCounters::default(), 102 * S);
    assert_gone(&census, 7, 101 * S);
}

#[test]
fn the_numbers_of_samples_may_come_round() {
    for last in [300, 70_000, u32::MAX - 1] {
        let history = &mut SampleHistory {
            last,
            ..SampleHistory::default()
        };
        // No sample was complete for very long.
        let there = [time_wait(7, 60_000)];
        for _ in 0..REPORTS {
            assert_eq!(take_sample(history, S, &there).found.len(), 1);
        }
        assert!(take_sample(history, S, &there).found.is_empty());
        history.report_again();
        assert_eq!(take_sample(history, S, &there).found.len(), 1, "{last}");
    }
}

#[test]
fn a_sample_that_fails_publishes_what_it_found_and_ends_nothing() {
    let history = &mut SampleHistory::default();
    let there = [time_wait(1, 60_000), time_wait(2, 60_000)];
    take_sample(history, S, &there);
    // Number 2 is missing once.
    assert!(take_sample(history, 2 * S, &there[..1]).gone.is_empty());
    let mut parts = Vec::new();
    let mut sample = history.begin(3 * S, 1, |part| parts.push(part));
    sample.restart();
    sample.take(&time_wait(3, 60_000)).unwrap();
    sample.abort();
    let [part] = &parts[..] else {
        panic!("{parts:?}");
    };
    assert_eq!((part.found[0].cookie, part.more), (3, true));
    assert!(part.gone.is_empty());
    // The sample that failed does not count: this is the second in a row that misses number 2.
    let census = take_sample(
        history,
        4 * S,
        &[time_wait(1, 57_000), time_wait(3, 59_000)],
    );
    let at_ns = 2 * S;
    assert_eq!(census.gone, [Gone { cookie: 2, at_ns }]);
    let reported: Vec<u64> = census.found.iter().map(|found| found.cookie).collect();
    assert_eq!(reported, [3], "for the second time");
}

#[test]
fn a_state_that_changes_between_two_attempts_is_reported_twice() {
    let history = &mut SampleHistory::default();
    let mut sample = history.begin(S, 1, drop);
    sample.restart();
    sample
        .take(&socket(7, State::FIN_WAIT2, 3, 0, 100))
        .unwrap();
    sample.restart();
    sample.take(&time_wait(7, 60_000)).unwrap();
    let census = sample.finish(NetnsCounters::default(), S);
    let reported = states(&census).into_iter();
    let reported: Vec<_> = reported.map(|(cookie, state, _)| (cookie, state)).collect();
    assert_eq!(reported, [(7, State::FIN_WAIT2), (7, State::TIME_WAIT)]);
}

#[test]
fn a_namespace_in_which_nothing_happened_is_not_dumped() {
    let history = &mut SampleHistory::default();
    let here = |in_segments, minisockets| NetnsCounters {
        activity: Activity {
            in_segments: Some(in_segments),
            minisockets: Some(minisockets),
        },
        listen: ListenCounters {
            drops: Some(in_segments),
            ..ListenCounters::default()
        },
        synack_retransmits: Some(in_segments / 4),
    };
    assert!(
        !history.is_quiet(&here(5, 0), S, false),
        "nothing is known yet"
    );
    history.begin(S / 2, 1, drop).finish(here(5, 0), S);
    assert!(
        !history.is_quiet(&here(5, 0), S, false),
        "a dump can miss a socket once"
    );
    history.begin(S, 1, drop).finish(here(5, 0), S);
    assert!(history.is_quiet(&here(5, 0), 2 * S, false));
    for (segments, minisockets) in [(6, 0), (5, 1)] {
        assert!(!history.is_quiet(&here(segments, minisockets), 3 * S, false));
    }
    // The quiet sample counts.
    let census = history.begin(3 * S, 1, drop).finish(here(8, 0), S);
    assert_eq!(census.interval_ns(), Some(S));
    assert_eq!(census.listen.drops, Some(3));
    // Since the beginning, and since the sample before.
    assert_eq!(census.listen.synack_retransmits, Some(1));
    let mut sample = history.begin(4 * S, 1, drop);
    sample.take(&time_wait(1, 60_000)).unwrap();
    sample.finish(here(8, 0), S);
    assert!(!history.is_quiet(&here(8, 0), 5 * S, false), "one is known");
    // Without counters of the kernel a namespace is never quiet.
    assert!(!SampleHistory::default().is_quiet(&NetnsCounters::default(), S, false));
}

#[test]
fn a_namespace_that_is_gone_vanishes() {
    let history = &mut SampleHistory::default();
    take_sample(history, S, &[time_wait(1, 60_000)]);
    let census = history.vanished(1, 2 * S);
    assert_eq!(census.scope, Scope::Vanished);
    assert_eq!(census.interval_ns(), Some(S));
}

#[test]
fn a_half_open_connection_is_reported_when_it_comes_when_more_is_known_and_when_it_is_gone() {
    let request = |cookie, retransmits, expires_ms| {
        socket(cookie, State::SYN_RECV, 1, retransmits, expires_ms)
    };
    let reported = |census: &Census| -> Vec<_> {
        let requests = census.requests.iter();
        requests
            .map(|one| (one.cookie, one.since_ns, one.interval_ns))
            .collect()
    };
    let history = &mut SampleHistory::default();
    let first = take_sample(
        history,
        100 * S,
        &[request(1, 0, 900), request(2, 1, 1_000)],
    );
    assert_eq!(
        reported(&first),
        [
            (1, 100 * S - S / 10, Some(TICK_NS)),
            // No sample was before it.
            (2, 100 * S, None),
        ]
    );
    let there = [request(1, 1, 1_900), request(2, 2, 2_000)];
    assert_eq!(reported(&take_sample(history, 101 * S, &there)), []);
    // It came after the sample before, but the timer does not tell when.
    let there = [request(2, 3, 2_500), request(3, 1, 1_000)];
    let third = take_sample(history, 102 * S, &there);
    assert_eq!(
        reported(&third),
        [
            // Its timer has expired twice, after 3 s: it came a second earlier than the samples show.
            (2, 99 * S + TICK_OF_TIMERS_NS, None),
            (3, 102 * S, Some(S)),
        ]
    );
    assert!(third.requests_gone.is_empty(), "a dump can miss one");
    let fourth = take_sample(history, 103 * S, &there);
    assert_eq!((reported(&fourth), fourth.requests_gone), (vec![], vec![1]));
}
