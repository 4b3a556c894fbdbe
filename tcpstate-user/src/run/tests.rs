//! Tests of the loop on a scripted source, with a view that records its calls and a paused clock.

mod doubles;
mod expressions;
mod play;
mod present;

use std::{
    io::{self, Error, ErrorKind, Write},
    time::Duration,
};

use tcpstate_common::{Record, State, record::AF_INET};
use tcpstate_core::{
    books::{RunBooks, Selection, Settled},
    event::Event,
    expression::{Expression, NoNames},
    source::Notice,
    view::View,
};

use self::doubles::*;
use super::{
    clock::Clock,
    driver::{EMPTY_INTERVALS, TICKS_AT_ONCE},
    *,
};

const SECOND: u64 = 1_000_000_000;

fn at(ts_ns: u64) -> Event {
    connect(ts_ns, 40_000)
}

fn connect(ts_ns: u64, lport: u16) -> Event {
    let record = Record {
        ts_ns,
        skaddr: ts_ns,
        lport,
        rport: 80,
        oldstate: State::CLOSE,
        newstate: State::SYN_SENT,
        family: AF_INET,
        ..Record::default()
    };
    Event::try_from(record).unwrap()
}

async fn run_with(
    source: &mut Script,
    view: &mut Log,
    out: &mut dyn Write,
    interrupts: &mut dyn Interrupts,
    options: &Options,
) -> (Result<Outcome, RunError>, String) {
    let mut err = Vec::new();
    let outputs = Outputs { out, err: &mut err };
    let result = drive(source, view, outputs, interrupts, options).await;
    (result, String::from_utf8(err).unwrap())
}

/// Runs to an orderly end, and returns the calls of the view.
async fn run(
    source: &mut Script,
    view: &mut Log,
    interrupts: &mut dyn Interrupts,
    options: &Options,
) -> String {
    let (result, _) = run_with(source, view, &mut Vec::new(), interrupts, options).await;
    assert_eq!(result.unwrap(), Outcome::Finished);
    assert!(view.end.is_some());
    view.lines.join(", ")
}

fn lasting(duration: Duration) -> Options {
    Options {
        duration: Some(duration),
        ..Options::default()
    }
}

#[tokio::test(start_paused = true)]
async fn intervals_of_a_recording_follow_its_events() {
    let mut source = Script::recording([1, 9, 10, 25, 45]);
    let mut view = Log {
        interval_ns: Some(10),
        ..Log::default()
    };
    let calls = run(
        &mut source,
        &mut view,
        &mut Timed::none(),
        &Options::default(),
    )
    .await;
    assert_eq!(
        calls,
        "event 1, event 9, tick 10, event 10, tick 20, event 25, tick 30, tick 40, event 45"
    );
    assert_eq!(view.check_the_books().now_ns, 45);
}

#[tokio::test(start_paused = true)]
async fn a_late_event_goes_into_the_open_interval() {
    let mut source = Script::recording([11, 9, 21]);
    let mut view = Log {
        interval_ns: Some(10),
        ..Log::default()
    };
    let calls = run(
        &mut source,
        &mut view,
        &mut Timed::none(),
        &Options::default(),
    )
    .await;
    assert_eq!(calls, "tick 10, event 11, event 9, tick 20, event 21");
}

#[tokio::test(start_paused = true)]
async fn a_duration_cuts_a_recording_by_the_time_of_its_events() {
    let mut source = Script::recording([1, 19, 20, 21, 300]);
    let mut view = Log {
        interval_ns: Some(10),
        ..Log::default()
    };
    let options = lasting(Duration::from_nanos(20));
    let calls = run(&mut source, &mut view, &mut Timed::none(), &options).await;
    assert_eq!(calls, "event 1, tick 10, event 19, tick 20");
    let end = view.check_the_books();
    assert_eq!((end.now_ns, end.selection.unread), (20, 3));
}

#[tokio::test(start_paused = true)]
async fn a_duration_beyond_the_end_of_a_recording_adds_nothing() {
    let mut source = Script::recording([1, 15]);
    let mut view = Log {
        interval_ns: Some(10),
        ..Log::default()
    };
    let options = lasting(Duration::from_secs(1));
    let calls = run(&mut source, &mut view, &mut Timed::none(), &options).await;
    assert_eq!(calls, "event 1, tick 10, event 15");
    assert_eq!(view.check_the_books().now_ns, 15);
}

#[tokio::test(start_paused = true)]
async fn a_view_that_is_done_gets_no_more_events_but_the_books_balance() {
    for (view, calls) in [
        (
            Log {
                events: Some(2),
                ..Log::default()
            },
            "event 1, event 2",
        ),
        (
            Log {
                ticks: Some(1),
                ..Log::default()
            },
            "event 1, event 2, event 3, tick 10",
        ),
    ] {
        let mut source = Script::recording([1, 2, 3, 30, 40]);
        let mut view = Log {
            interval_ns: view.ticks.map(|_| 10),
            ..view
        };
        let lines = run(
            &mut source,
            &mut view,
            &mut Timed::none(),
            &Options::default(),
        )
        .await;
        assert_eq!(lines, calls);
        assert!(source.stopped);
        view.check_the_books();
    }
}

#[tokio::test(start_paused = true)]
async fn a_live_run_ticks_by_the_clock_and_its_last_interval_takes_the_rest() {
    let mut source = Script::live(|now| {
        vec![
            Act::Until(Duration::from_millis(1_500)),
            Act::Batch(vec![at(now + 3 * SECOND / 2)]),
        ]
    });
    let started_ns = source.origin.started_ns;
    source.in_flight = vec![
        at(started_ns + 3 * SECOND - 1),
        at(started_ns + 3 * SECOND + 1),
    ];
    let mut view = Log {
        interval_ns: Some(SECOND),
        ..Log::default()
    };
    let options = lasting(Duration::from_secs(3));
    let calls = run(&mut source, &mut view, &mut Timed::none(), &options).await;
    assert_eq!(
        calls,
        "tick 1000000000, event 1500000000, tick 2000000000, event 2999999999, event 3000000001, \
         tick 3000000000"
    );
    assert_eq!(view.check_the_books().now_ns, started_ns + 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_pending_event_is_counted_in_its_interval() {
    let mut source = Script::live(|now| {
        vec![
            Act::Until(Duration::from_millis(1_050)),
            Act::Batch(vec![at(now + SECOND - 1)]),
        ]
    });
    let mut view = Log {
        interval_ns: Some(SECOND),
        ticks: Some(1),
        ..Log::default()
    };
    let calls = run(
        &mut source,
        &mut view,
        &mut Timed::none(),
        &Options::default(),
    )
    .await;
    assert_eq!(calls, "event 999999999, tick 1000000000");
}

/// The calls to a view with intervals of a second, on events after a half, one and a half, and two and a half
/// seconds, all of which came late.
async fn told_after_a_stall(source: &mut Script, out: &mut dyn Write) -> String {
    let mut view = Log {
        interval_ns: Some(SECOND),
        ticks: Some(4),
        ..Log::default()
    };
    let (none, options) = (&mut Timed::none(), Options::default());
    let (result, _) = run_with(source, &mut view, out, none, &options).await;
    assert_eq!(result.unwrap(), Outcome::Finished);
    view.check_the_books();
    view.lines.join(", ")
}

/// Each event is in its interval.
const IN_THEIR_INTERVALS: &str = "event 500000000, tick 1000000000, event 1500000000, \
    tick 2000000000, event 2500000000, tick 3000000000, tick 4000000000";

#[tokio::test(start_paused = true)]
async fn events_that_waited_for_a_slow_pipe_land_in_their_intervals() {
    let mut source = Script::live(|now| {
        let batch = |half_seconds| Act::Batch(vec![at(now + half_seconds * SECOND / 2)]);
        let until = Duration::from_millis;
        vec![
            Act::Until(until(510)),
            batch(1),
            Act::Until(until(1_510)),
            batch(3),
            Act::Until(until(2_510)),
            batch(5),
        ]
    });
    let mut out = Slow(Duration::from_millis(2_700));
    assert_eq!(
        told_after_a_stall(&mut source, &mut out).await,
        IN_THEIR_INTERVALS
    );
}

#[tokio::test(start_paused = true)]
async fn events_that_a_stopped_source_delivers_late_land_in_their_intervals() {
    let mut source = Script::live(|now| {
        let batch = |half_seconds| Act::Batch(vec![at(now + half_seconds * SECOND / 2)]);
        vec![
            Act::Until(Duration::from_millis(3_200)),
            batch(1),
            batch(3),
            batch(5),
        ]
    });
    source.stalls_until = Duration::from_millis(3_201);
    assert_eq!(
        told_after_a_stall(&mut source, &mut Vec::new()).await,
        IN_THEIR_INTERVALS
    );
}

#[tokio::test(start_paused = true)]
async fn a_stop_shows_pending_events() {
    let mut source = Script::live(|now| vec![Act::Batch(vec![at(now + 1)])]);
    source.in_flight = vec![at(source.origin.started_ns + 2)];
    let mut interrupts = Timed::new([(Duration::from_millis(20), Interrupt::Stop)]);
    let mut view = Log::default();
    let calls = run(&mut source, &mut view, &mut interrupts, &Options::default()).await;
    assert_eq!(calls, "event 1, event 2");
    view.check_the_books();
}

/// The source delivers an event from before the signal half a second later, and then one from after it.
#[tokio::test(start_paused = true)]
async fn usr1_waits_for_the_events_before_it() {
    let ms = |n: u64| n * 1_000_000;
    for stalls_ms in [100, 600] {
        let mut source = Script::live(|now| {
            vec![
                Act::Until(Duration::from_millis(500)),
                Act::Batch(vec![at(now + 1)]),
                Act::Until(Duration::from_secs(1)),
                Act::Batch(vec![at(now + ms(1_000))]),
            ]
        });
        source.stalls_until = Duration::from_millis(stalls_ms);
        let mut interrupts = Timed::new([
            (Duration::from_millis(10), Interrupt::Usr1),
            (Duration::from_secs(2), Interrupt::Stop),
        ]);
        let mut view = Log::default();
        let calls = run(&mut source, &mut view, &mut interrupts, &Options::default()).await;
        let expected = if stalls_ms == 100 {
            "usr1, event 1, event 1000000000"
        } else {
            "event 1, usr1, event 1000000000"
        };
        assert_eq!(calls, expected, "{stalls_ms}");
    }
}

/// A source that always has a step shows by the time of an event that those before the signal are shown.
#[tokio::test(start_paused = true)]
async fn usr1_does_not_wait_for_a_pause() {
    let mut source = Script::live(|now| vec![Act::Endless(at(now + 1_000_000_000))]);
    let mut interrupts = Timed::new([
        (Duration::ZERO, Interrupt::Usr1),
        (Duration::from_millis(20), Interrupt::Stop),
    ]);
    let mut view = Log {
        events: Some(1_000),
        ..Log::default()
    };
    let calls = run(&mut source, &mut view, &mut interrupts, &Options::default()).await;
    assert!(calls.contains("usr1"), "{calls}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_recording_at_once() {
    let mut source = Script::new(false, 0, [Act::Endless(at(1))]);
    let mut view = Log::default();
    let mut interrupts = StopAfterPolls(100);
    run(&mut source, &mut view, &mut interrupts, &Options::default()).await;
    assert!(view.check_the_books().selection.settled.passed > 10);
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_seen_in_the_middle_of_very_many_intervals() {
    let mut source = Script::recording([1, 9 * EMPTY_INTERVALS]);
    let mut view = Log {
        interval_ns: Some(10),
        ..Log::default()
    };
    let mut interrupts = StopAfterPolls(10);
    run(&mut source, &mut view, &mut interrupts, &Options::default()).await;
    assert_eq!(view.check_the_books().selection.unread, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_very_many_empty_intervals_as_one() {
    // Far more intervals than can be shown one by one: late from the start, and ever later by the clock.
    let now_ns = Clock::start().now_ns();
    let started_ns = now_ns.saturating_sub(SECOND / 100);
    let mut source = Script::new(true, started_ns, [Act::Batch(vec![at(now_ns)])]);
    let mut view = Log {
        interval_ns: Some(1),
        ..Log::default()
    };
    let mut interrupts = Timed::new([(Duration::ZERO, Interrupt::Stop)]);
    let (result, _) = run_with(
        &mut source,
        &mut view,
        &mut Vec::new(),
        &mut interrupts,
        &Options::default(),
    )
    .await;
    assert_eq!(result.unwrap(), Outcome::Finished);
    let ticks = view.lines.iter().filter(|line| line.starts_with("tick"));
    assert!(ticks.count() <= 3 * TICKS_AT_ONCE as usize);
    // None is left out: the last one ends with the run.
    let end_ns = view.check_the_books().now_ns;
    let last = format!("tick {}", end_ns - started_ns);
    assert_eq!(view.lines.last(), Some(&last));
}

/// The ends of the intervals of a recording with these events, each of length 1.
async fn ends(events: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut source = Script::recording(events);
    let mut view = Log {
        interval_ns: Some(1),
        ..Log::default()
    };
    let mut never = Timed::none();
    run(&mut source, &mut view, &mut never, &Options::default()).await;
    view.check_the_books();
    let ends = view
        .lines
        .iter()
        .filter_map(|line| line.strip_prefix("tick "));
    ends.map(|end| end.parse().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_jump_in_time_is_one_interval_and_a_quiet_day_is_not() {
    const FAR: u64 = u64::MAX - 10;
    assert_eq!(ends([1, 3, FAR]).await, [1, 2, 3, 4, FAR]);
    let day = 86_400;
    assert_eq!(ends([1, day]).await, (1..=day).collect::<Vec<_>>());
    // However often it jumps.
    let jumps = (1..100).map(|jump| jump * (EMPTY_INTERVALS - 1_000));
    let count = ends(jumps).await.len() as u64;
    assert!(
        (EMPTY_INTERVALS - 1_000..EMPTY_INTERVALS + 1_000).contains(&count),
        "{count}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_filter_selects_the_events_of_the_view() {
    let events = vec![connect(1, 80), connect(2, 81), connect(3, 0)];
    let mut source = Script::new(false, 0, [Act::Batch(events)]);
    let expression = Expression::parse("sport 80", &NoNames).unwrap();
    let mut view = Log::default();
    let options = Options {
        expression,
        ..Options::default()
    };
    assert_eq!(
        run(&mut source, &mut view, &mut Timed::none(), &options).await,
        "event 1"
    );
    let settled = view.check_the_books().selection.settled;
    assert_eq!(
        settled,
        Settled {
            passed: 1,
            filtered: 1,
            undecided: 1
        }
    );
}

#[tokio::test(start_paused = true)]
async fn notices_of_the_source_go_to_standard_error() {
    let mut source = Script::recording([1]);
    source
        .notices
        .push(Notice::damage("the recording was cut".into()));
    let mut out = Vec::new();
    let (result, err) = run_with(
        &mut source,
        &mut Log::default(),
        &mut out,
        &mut Timed::none(),
        &Options::default(),
    )
    .await;
    assert_eq!(result.unwrap(), Outcome::Incomplete);
    assert_eq!(err, "tcpstate: the recording was cut\nreceived 1\n");
    assert_eq!(out, b"1\nend\n");
}

/// Such as that a file is one of a rotation.
#[tokio::test(start_paused = true)]
async fn a_notice_of_no_damage_leaves_the_result_complete() {
    let mut source = Script::recording([1]);
    let notice = Notice::new("it is file 2 of a rotation".into());
    source.notices.push(notice);
    let (result, err) = run_with(
        &mut source,
        &mut Log::default(),
        &mut Vec::new(),
        &mut Timed::none(),
        &Options::default(),
    )
    .await;
    assert_eq!(result.unwrap(), Outcome::Finished);
    assert!(
        err.starts_with("tcpstate: it is file 2 of a rotation\n"),
        "{err}"
    );
}

/// A pipe whose reader has gone.
struct Broken;

impl Write for Broken {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(Error::from(ErrorKind::BrokenPipe))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_has_gone_ends_the_run_quietly() {
    let mut view = Log::default();
    let mut source = Script::recording([1, 2]);
    let mut interrupts = Timed::none();
    let options = Options::default();
    let (result, err) = run_with(
        &mut source,
        &mut view,
        &mut Broken,
        &mut interrupts,
        &options,
    )
    .await;
    assert_eq!((result.unwrap(), err.as_str()), (Outcome::ReaderGone, ""));
    assert!(view.end.is_none());

    // Without anything to write, the interrupt ends the run.
    let mut source = Script::live(|_| Vec::new());
    let mut interrupts = Timed::new([(Duration::from_secs(1), Interrupt::ReaderGone)]);
    let (result, err) = run_with(
        &mut source,
        &mut view,
        &mut Broken,
        &mut interrupts,
        &options,
    )
    .await;
    assert_eq!((result.unwrap(), err.as_str()), (Outcome::ReaderGone, ""));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_fails_the_run_and_the_books_are_printed_all_the_same() {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut source = Script::recording([1, 2, 3]);
    let mut view = Log::default();
    // Every write fails, and the error of the first one is reported.
    let mut out = io::LineWriter::new(full);
    let mut interrupts = Timed::none();
    let (result, err) = run_with(
        &mut source,
        &mut view,
        &mut out,
        &mut interrupts,
        &Options::default(),
    )
    .await;
    let Err(RunError::Output(error)) = result else {
        panic!("{result:?}")
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(view.lines, ["event 1"]);
    assert_eq!(view.check_the_books().selection.unread, 2);
    // The view's own last output goes to the full disk first.
    assert_eq!(err, "");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_shows_its_events_and_ends_with_the_books() {
    let steps = [Act::Batch(vec![at(1), at(2)]), Act::Fail];
    let mut source = Script::new(false, 0, steps);
    let mut view = Log::default();
    let mut out = Vec::new();
    let mut interrupts = Timed::none();
    let (result, err) = run_with(
        &mut source,
        &mut view,
        &mut out,
        &mut interrupts,
        &Options::default(),
    )
    .await;
    assert!(matches!(result, Err(RunError::Source(_))), "{result:?}");
    assert_eq!(view.lines, ["event 1", "event 2"]);
    assert_eq!(err, "received 2\n");
    view.check_the_books();
}
