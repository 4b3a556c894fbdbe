//! The bound, what is kept, and packing.

use proptest::prelude::*;
use serde_json::Value;
use tcpstate_common::State;
use tcpstate_core::{cause::Cause, present::Publisher, service::Role, transition::TransitionCount};

use super::*;
use crate::{
    api::tests::{change, whole},
    metrics::tests::tick,
};

const SECOND: u64 = 1_000_000_000;

/// The bound that the documents state.
const MOST_BYTES: usize = 64 << 20;

/// An interval in which both sides of each of these ports make and end some thousand connections a second.
fn busy(second: u64, length: u64, ports: u16) -> Interval {
    let states = [
        State::ESTABLISHED,
        State::FIN_WAIT2,
        State::TIME_WAIT,
        State::CLOSE_WAIT,
        State::LISTEN,
    ];
    let path = [
        State::CLOSE,
        State::SYN_SENT,
        State::ESTABLISHED,
        State::FIN_WAIT1,
        State::FIN_WAIT2,
        State::CLOSE,
    ];
    let transitions = path.iter().zip(path.iter().skip(1));
    let transitions = transitions.map(|(&from, &to)| TransitionCount {
        from,
        to,
        count: 10_000,
    });
    let figures = Figures::of(
        transitions.collect(),
        vec![(Cause::Fin, 9_000), (Cause::ResetByPeer, 500)],
        states.map(|state| (state, 16_000)).to_vec(),
    );
    let groups = (1..=ports).flat_map(|port| {
        [Role::Client, Role::Server].map(|role| GroupFigures {
            key: GroupKey::Port(ServicePort::Port(port), role),
            figures: figures.clone(),
        })
    });
    Interval {
        start_ns: second * SECOND,
        end_ns: (second + length) * SECOND,
        all: figures.clone(),
        groups: groups.collect(),
        dwell: Vec::new(),
    }
}

/// The memory that it takes, each interval looked at.
fn bytes(history: &History) -> usize {
    for series in [&history.seconds, &history.minutes] {
        let kept: usize = series.kept.iter().map(Kept::bytes).sum();
        assert_eq!(kept, series.bytes);
    }
    history.bytes()
}

#[test]
fn an_hour_and_a_day_of_busy_ports_are_within_the_bound() {
    let mut history = History::default();
    // As many as have a label by default. A minute is packed as a second is.
    let second = busy(0, 1, 128);
    for _ in 0..SECONDS + 10 {
        history.seconds.push(&second);
    }
    assert_eq!(history.seconds.kept.len(), SECONDS);
    for minute in 0..MINUTES as u64 + 10 {
        history.keep(&busy(minute * 60, 60, 32));
    }
    assert_eq!(history.minutes.kept.len(), MINUTES);
    assert!(bytes(&history) <= MOST_BYTES, "{}", bytes(&history));
    let (first, last) = (&history.minutes.kept[0], &history.minutes.kept[MINUTES - 1]);
    assert_eq!((last.end_ns - first.start_ns) / SECOND, 86_400);
}

#[test]
fn the_bound_holds_however_many_ports_there_are() {
    let mut history = History::default();
    let interval = busy(0, 1, 4_096);
    for _ in 0..200 {
        history.seconds.push(&interval);
        history.minutes.push(&interval);
    }
    assert!(bytes(&history) <= MOST_BYTES, "{}", bytes(&history));
    assert!(bytes(&history) > MOST_BYTES / 2, "{}", bytes(&history));
    let kept = (history.seconds.kept.len(), history.minutes.kept.len());
    assert!(kept.0 < 200 && kept.1 < 200, "{kept:?}");
}

fn read(history: &History, wanted: Past, publisher: &Publisher) -> Vec<Value> {
    let snapshot = publisher.subscribe().latest().unwrap();
    let mut written = history.past(wanted, &snapshot);
    let mut text = Vec::new();
    while let Some(part) = written.part().unwrap() {
        text.extend(part);
    }
    let answer: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(answer["type"], "history");
    answer["intervals"].as_array().unwrap().clone()
}

fn past(resolution: Resolution, last: Option<u64>, ports: Option<&str>) -> Past {
    Past {
        resolution,
        last_ns: last.map(|seconds| seconds * SECOND),
        ports: ports.map(|ports| ports.parse().unwrap()),
    }
}

#[test]
fn the_past_is_what_the_present_was() {
    let mut publisher = whole();
    let mut history = History::default();
    for second in 0..150 {
        for (cookie, port) in [(1, 80), (2, 443)] {
            let id = (second * 10 + cookie, second * SECOND + cookie);
            change(&mut publisher, id, port, (State::CLOSE, State::SYN_SENT));
        }
        tick(&mut publisher, second + 1, 0);
        // One snapshot is skipped.
        if second != 100 {
            history.keep(&publisher.subscribe().latest().unwrap().interval);
        }
    }
    let seconds = read(&history, past(Resolution::Second, None, None), &publisher);
    assert_eq!(seconds.len(), 149);
    assert_eq!(seconds[0]["type"], "rates");
    assert_eq!(seconds[7]["opened"], 2);
    assert_eq!(seconds[7]["states"]["SYN_SENT"], 16);
    assert_eq!(seconds[7]["ports"].as_array().unwrap().len(), 0);
    let minutes = read(
        &history,
        past(Resolution::Minute, None, Some("443")),
        &publisher,
    );
    // The third began behind the gap.
    let lengths: Vec<u64> = minutes
        .iter()
        .map(|one| one["interval_ns"].as_u64().unwrap() / SECOND)
        .collect();
    assert_eq!(lengths, [60, 40]);
    assert_eq!(
        (&minutes[0]["opened"], &minutes[1]["opened"]),
        (&120.into(), &80.into())
    );
    assert_eq!(minutes[1]["states"]["SYN_SENT"], 200);
    let ports = minutes[1]["ports"].as_array().unwrap();
    assert_eq!(ports.len(), 1);
    assert_eq!(
        (&ports[0]["service_port"], &ports[0]["opened"]),
        (&443.into(), &40.into())
    );
    let last = read(
        &history,
        past(Resolution::Second, Some(10), None),
        &publisher,
    );
    assert_eq!(last.len(), 10);
    assert_eq!(last[9], seconds[148]);
}

fn figures() -> impl Strategy<Value = Figures> {
    let state = || (0u8..=20).prop_map(State);
    let transitions =
        prop::collection::btree_map((state(), state()), any::<u64>().prop_map(|n| n >> 8), 0..8);
    let cause = prop_oneof![
        Just(Cause::Fin),
        Just(Cause::Unknown),
        Just(Cause::NoPort),
        any::<u16>().prop_map(Cause::Errno)
    ];
    let causes = prop::collection::btree_map(cause, any::<u64>(), 0..4);
    let states = prop::collection::btree_map(state(), any::<u64>(), 0..6);
    (transitions, causes, states).prop_map(|(transitions, causes, states)| {
        let transitions = transitions.into_iter();
        Figures::of(
            transitions
                .map(|((from, to), count)| TransitionCount { from, to, count })
                .collect(),
            causes.into_iter().collect(),
            states.into_iter().collect(),
        )
    })
}

proptest! {
    #[test]
    fn any_figures_are_unpacked_as_they_were(all in figures(), groups in prop::collection::vec((any::<u16>(), 0usize..3, 0usize..3, figures()), 0..5)) {
        let roles = [Role::Unknown, Role::Client, Role::Server];
        let groups = groups.into_iter().map(|(port, kind, role, figures)| {
            let port = [ServicePort::Port(port), ServicePort::Other, ServicePort::Unknown][kind];
            GroupFigures { key: GroupKey::Port(port, roles[role]), figures }
        });
        let interval = Interval { start_ns: 0, end_ns: 1, all, groups: groups.collect(), dwell: Vec::new() };
        let packed = packed::pack(&interval);
        prop_assert_eq!(packed::unpack(&packed, |_| true), (interval.all, interval.groups));
    }
}
