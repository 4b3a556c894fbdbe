//! Playing recordings: a jump shows what a run up to there knows, and time passes at the pace chosen.

use std::{path::PathBuf, pin::Pin, sync::Arc, task::Poll};

use tcpstate_core::{
    census::{Census, Found, HalfOpen, Kind, ListenFigures, Scope},
    expression::NoNames,
    model::{By, GroupKey, Include, Limits},
    owner::Owner,
    play::{Command, Controls, Inbox, Position, Speed, controls},
    present::{Asker, Options as PublisherOptions, Publisher, RunSnapshot, Subscriber},
    service::Role,
    source::EventSource,
    view::Part,
};
use tcpstate_recording::{Options as Format, Reader, Writer};
use tempfile::TempDir;
use tokio::{sync::oneshot, time::sleep};

use super::{present::Witness, *};
use crate::stream::{Random, Traffic, events};

/// The interval of the publisher: the recordings of these tests last a few dozen of them.
const INTERVAL: u64 = 100_000;

/// A recording in a file.
struct Recording {
    dir: TempDir,
    events: Vec<Event>,
}

impl Recording {
    /// Connections of a web server, with a seed and samples.
    fn new(count: usize, seed: u64) -> Self {
        let recording = Self {
            dir: tempfile::tempdir().unwrap(),
            events: events(Traffic::WebServer, count, seed),
        };
        let mut origin = Script::new(false, recording.start_ns(), []).origin;
        origin.sample_interval_ns = Some(INTERVAL);
        let format = Format {
            block_records: 100,
            ..Format::default()
        };
        let mut writer = Writer::create(&recording.path(), &origin, format).unwrap();
        let begin_ns = recording.start_ns() + 1;
        writer.append_census(&seeded(begin_ns)).unwrap();
        for (number, some) in (0..).zip(recording.events.chunks(370)) {
            let now_ns = some[some.len() - 1].ts_ns();
            writer.append(some, now_ns).unwrap();
            writer.append_census(&sample(now_ns, number)).unwrap();
        }
        if seed.is_multiple_of(2) {
            // Its capture went on in silence.
            writer.ends_at(recording.last_ns() + 3 * INTERVAL / 2);
        }
        writer.finish(None, None).unwrap();
        recording
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("a.rec")
    }

    fn start_ns(&self) -> u64 {
        self.events.first().map_or(0, |event| event.ts_ns() - 1_000)
    }

    fn last_ns(&self) -> u64 {
        self.events.iter().map(Event::ts_ns).max().unwrap()
    }

    fn random_position(&self, random: &mut Random) -> u64 {
        self.start_ns() + 2 + random.below(self.last_ns() - self.start_ns() - 2)
    }

    /// All snapshots of a run up to a position: the last one is that of the position.
    async fn run_to(&self, position_ns: Option<u64>, options: &Options) -> Vec<Arc<RunSnapshot>> {
        let options = Options {
            part: position_ns.map(|to_ns| Part {
                to_ns: Some(to_ns),
                ..Part::default()
            }),
            ..options.clone()
        };
        let mut view = Witness::new(publisher());
        let mut source = Reader::open(&self.path()).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let outputs = Outputs {
            out: &mut out,
            err: &mut err,
        };
        let ended = drive(
            &mut source,
            &mut view,
            outputs,
            &mut Timed::none(),
            &options,
        )
        .await;
        ended.unwrap();
        view.all
    }
}

fn publisher() -> Publisher {
    Publisher::new(&PublisherOptions {
        interval_ns: INTERVAL,
        by: By::Port,
        include: Include::ALL,
        in_kernel: false,
        limits: Limits::default(),
    })
}

/// Sockets that were there before the capture.
fn seeded(begin_ns: u64) -> Census {
    let at = |number: u64| Found {
        cookie: 1_000_000 + number,
        state: State::ESTABLISHED,
        kind: Kind::Socket,
        since_ns: None,
        there_ns: Some(begin_ns - 1),
        family: 2,
        laddr: [10, 0, 3, 17].into(),
        lport: 22,
        raddr: [10, 9, 9, 9].into(),
        rport: 40_000 + u16::try_from(number).unwrap(),
        role: Role::Server,
        uid: Some(0),
        cgroup: None,
        owner: Owner::UNKNOWN,
    };
    Census {
        netns: 4_026_531_840,
        begin_ns,
        scope: Scope::All,
        found: (0..20).map(at).collect(),
        ..Census::default()
    }
}

fn sample(begin_ns: u64, number: u64) -> Census {
    Census {
        netns: 4_026_531_840,
        begin_ns,
        half_open: vec![HalfOpen {
            laddr: [10, 0, 3, 17].into(),
            lport: 443,
            count: number,
            oldest_ns: None,
            oldest_at_least_ns: None,
            synack_retransmits: 0,
        }],
        listen: ListenFigures {
            drops: Some(number),
            ..ListenFigures::default()
        },
        ..Census::default()
    }
}

/// Stops the run when its sender is used.
struct Stops(Option<oneshot::Receiver<()>>);

impl Interrupts for Stops {
    fn poll_interrupt(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Interrupt> {
        let Some(stop) = &mut self.0 else {
            return Poll::Pending;
        };
        std::future::Future::poll(Pin::new(stop), cx).map(|_| {
            self.0 = None;
            Interrupt::Stop
        })
    }
}

/// Whoever looks at the player.
struct Viewer {
    controls: Controls,
    asker: Asker,
    subscriber: Subscriber,
}

impl Viewer {
    /// Sends a command, and waits until it has been obeyed.
    async fn after(&mut self, command: Command) -> Arc<RunSnapshot> {
        let number = self.controls.send(command);
        loop {
            let snapshot = self.subscriber.next().await.expect("it is played");
            let position = self.position();
            if position.obeyed >= number && !position.is_seeking {
                assert_eq!(position.now_ns, snapshot.interval.end_ns);
                assert!(!snapshot.is_final);
                return snapshot;
            }
        }
    }

    fn position(&self) -> Position {
        self.controls.position().expect("it is played")
    }
}

/// Checkpoints so close and so few that they are thinned out all the time.
fn playing(inbox: Inbox) -> Playing {
    Playing {
        inbox,
        end_ns: None,
        checkpoint_bytes: 12 << 20,
        checkpoint_events: 200,
    }
}

/// Plays a source as `script` says. Returns the snapshots of all ticks and of the end, and the messages.
async fn play_source<S: AsyncFnOnce(&mut Viewer)>(
    source: &mut dyn EventSource,
    options: &Options,
    script: S,
) -> (Vec<Arc<RunSnapshot>>, String) {
    let publisher = publisher();
    let subscriber = publisher.subscribe();
    let asker = publisher.asker();
    let mut view = Witness::new(publisher);
    let (controls, inbox) = controls();
    let mut viewer = Viewer {
        controls,
        asker,
        subscriber,
    };
    let (stop, stops) = oneshot::channel();
    let mut interrupts = Stops(Some(stops));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let outputs = Outputs {
        out: &mut out,
        err: &mut err,
    };
    let played = Box::pin(play(
        source,
        &mut view,
        outputs,
        &mut interrupts,
        options,
        playing(inbox),
    ));
    let script = async {
        script(&mut viewer).await;
        let _ = stop.send(());
    };
    let (ended, ()) = tokio::join!(played, script);
    ended.unwrap();
    (view.all, String::from_utf8(err).unwrap())
}

async fn play_file<S: AsyncFnOnce(&mut Viewer)>(
    recording: &Recording,
    options: &Options,
    script: S,
) -> (Vec<Arc<RunSnapshot>>, String) {
    let mut source = Reader::open(&recording.path()).unwrap();
    Box::pin(play_source(&mut source, options, script)).await
}

/// The same state, but for what differs from one way to it to another: the number, the memory and the cost.
fn assert_same(one: &RunSnapshot, other: &RunSnapshot, of: &str) {
    assert_eq!(one.interval, other.interval, "{of}");
    assert!(one.tracker == other.tracker, "{of}");
    assert_eq!(one.handshakes, other.handshakes, "{of}");
    let passed = |snapshot: &RunSnapshot| snapshot.books.selection.settled.passed;
    assert_eq!(passed(one), passed(other), "{of}");
}

fn filtered(text: &str) -> Options {
    Options {
        expression: Expression::parse(text, &NoNames).unwrap(),
        ..Options::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_jump_shows_what_a_run_up_to_there_knows() {
    for (seed, options) in [
        Options::default(),
        filtered("dport = 5432"),
        // Its gate holds events and follows all connections.
        filtered("comm ngin* and not role client and lifetime > 1ms"),
    ]
    .iter()
    .enumerate()
    {
        let seed = seed as u64;
        let recording = Recording::new(6_000, seed);
        let mut random = Random::new(seed);
        let mut positions: Vec<u64> = (0..25)
            .map(|_| recording.random_position(&mut random))
            .collect();
        // Where an event is, where a tick is, and the end of the first pass.
        positions[3] = recording.events[2_345].ts_ns();
        positions[4] = recording.events[2_345].ts_ns() + 1;
        positions[5] = recording.start_ns() + 7 * INTERVAL;
        positions[6] = recording.last_ns();
        let all = recording.run_to(None, options).await;
        let mut expected = Vec::new();
        for &position_ns in &positions {
            let is_tick =
                |one: &&Arc<RunSnapshot>| !one.is_final && one.interval.end_ns == position_ns;
            let run = match all.iter().find(is_tick) {
                Some(tick) => Arc::clone(tick),
                None => recording
                    .run_to(Some(position_ns), options)
                    .await
                    .pop()
                    .unwrap(),
            };
            expected.push(run);
        }
        let (shown, _) = play_file(&recording, options, async |viewer| {
            viewer.after(Command::Pause).await;
            for (expected, &position_ns) in expected.iter().zip(&positions) {
                let snapshot = viewer.after(Command::SeekTo(position_ns)).await;
                assert_eq!(snapshot.interval.end_ns, position_ns);
                assert_same(&snapshot, expected, &format!("{seed}: {position_ns}"));
                assert!(viewer.position().is_paused);
            }
            viewer.after(Command::SeekTo(u64::MAX)).await;
            assert!(viewer.position().is_at_end);
        })
        .await;
        let (last, whole) = (shown.last().unwrap(), all.last().unwrap());
        assert!(last.is_final);
        let now_ns = last.tracker.now_ns;
        let mut whole_tracker = whole.tracker.clone();
        // Playing has passed the last event.
        whole_tracker.now_ns = now_ns;
        assert!(last.tracker == whole_tracker, "{seed}");
        assert_eq!(last.books.accounting, whole.books.accounting);
    }
}

#[tokio::test(start_paused = true)]
async fn playing_shows_each_tick_that_a_run_shows() {
    let recording = Recording::new(3_000, 4);
    let all = recording.run_to(None, &Options::default()).await;
    assert!(all.len() > 10, "{}", all.len());
    for speed in [Speed::Tenths(1), Speed::NORMAL, Speed::Unlimited] {
        let (shown, _) = play_file(&recording, &Options::default(), async |viewer| {
            viewer.controls.send(Command::Speed(speed));
            while !viewer.position().is_at_end {
                viewer.subscriber.next().await.unwrap();
            }
        })
        .await;
        assert_eq!(shown.len(), all.len(), "{speed}");
        // The last one is that of the end, and playing has passed the last event.
        for (one, other) in shown.iter().zip(&all[..all.len() - 1]) {
            assert_same(one, other, &format!("{speed}"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn time_passes_at_the_speed_and_stands_still_in_a_pause() {
    // Two events with ten minutes between them.
    let (first, last) = (at(SECOND), at(600 * SECOND));
    let mut source = Script::new(false, 0, [Act::Batch(vec![first, last])]);
    let slack = 30_000_000;
    play_source(&mut source, &Options::default(), async |viewer| {
        sleep(Duration::from_secs(10)).await;
        let snapshot = viewer.after(Command::Pause).await;
        let reached_ns = snapshot.interval.end_ns;
        assert!(reached_ns.abs_diff(10 * SECOND) < slack, "{reached_ns}");
        assert_eq!(snapshot.tracker.books.events, 1);
        sleep(Duration::from_secs(100)).await;
        assert_eq!(viewer.position().now_ns, reached_ns);
        viewer.controls.send(Command::Speed(Speed::Tenths(100)));
        viewer.controls.send(Command::Resume);
        sleep(Duration::from_secs(20)).await;
        let snapshot = viewer.after(Command::Pause).await;
        let expected_ns = reached_ns + 200 * SECOND;
        assert!(snapshot.interval.end_ns.abs_diff(expected_ns) < 10 * slack);
        // A jump does not end the pause, and one while it plays does not pause it.
        viewer.after(Command::SeekBy(50_000_000_000)).await;
        assert!(viewer.position().is_paused);
        viewer.controls.send(Command::Resume);
        let before_ns = viewer.after(Command::SeekBy(50_000_000_000)).await;
        sleep(Duration::from_secs(1)).await;
        let position = viewer.position();
        assert!(!position.is_paused && position.now_ns > before_ns.interval.end_ns);
        assert_eq!(position.speed, Speed::Tenths(100));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_step_shows_one_event_or_ends_one_interval() {
    let recording = Recording::new(3_000, 7);
    for options in [Options::default(), filtered("role client and comm ng*")] {
        play_file(&recording, &options, async |viewer| {
            let start = viewer.after(Command::Pause).await;
            assert_eq!(start.tracker.books.events, 0);
            for count in 1..=150 {
                let snapshot = viewer.after(Command::StepEvent).await;
                assert_eq!(snapshot.tracker.books.events, count);
                assert_eq!(snapshot.books.selection.settled.passed, count);
            }
            for _ in 0..3 {
                let before = viewer.position().now_ns;
                let snapshot = viewer.after(Command::StepTick).await;
                let (begin_ns, end_ns) = (snapshot.interval.start_ns, snapshot.interval.end_ns);
                assert_eq!(end_ns - begin_ns, INTERVAL, "the whole interval");
                assert!(begin_ns <= before && before < end_ns);
                assert!(viewer.position().is_paused);
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_commands() {
    let recording = Recording::new(1_000, 8);
    let (shown, _) = play_file(&recording, &Options::default(), async |viewer| {
        viewer.controls.send(Command::Speed(Speed::Unlimited));
        while !viewer.position().is_at_end {
            viewer.subscriber.next().await.unwrap();
        }
        let end = viewer.after(Command::StepTick).await;
        assert_eq!(end.tracker.books.events, 1_000);
        assert_eq!(viewer.position().fraction(), Some(1.0));
        viewer.after(Command::StepEvent).await;
        // Back, and again to the end, by itself.
        let snapshot = viewer.after(Command::SeekTo(0)).await;
        assert_eq!(snapshot.tracker.books.events, 0);
        assert_eq!(viewer.position().fraction(), Some(0.0));
        let snapshot = viewer.after(Command::SeekBy(i64::MAX)).await;
        assert_same(&snapshot, &end, "the end");
    })
    .await;
    let last = shown.last().unwrap();
    assert!(last.is_final);
    assert_eq!(last.tracker.books.events, 1_000);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_or_empty_recording_is_played_as_far_as_it_goes() {
    let recording = Recording::new(2_000, 9);
    let mut bytes = std::fs::read(recording.path()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes.truncate(bytes.len() - 5_000);
    std::fs::write(recording.path(), &bytes).unwrap();
    let all = recording.run_to(None, &Options::default()).await;
    let position_ns = recording.events[500].ts_ns();
    let expected = recording
        .run_to(Some(position_ns), &Options::default())
        .await;
    let (shown, messages) = play_file(&recording, &Options::default(), async |viewer| {
        for _ in 0..3 {
            viewer.after(Command::SeekTo(u64::MAX)).await;
            assert!(viewer.position().is_at_end);
            let snapshot = viewer.after(Command::SeekTo(position_ns)).await;
            assert_same(&snapshot, expected.last().unwrap(), "before the damage");
        }
        viewer.after(Command::SeekTo(u64::MAX)).await;
    })
    .await;
    assert!(shown.last().unwrap().tracker.all == all.last().unwrap().tracker.all);
    assert_eq!(messages.matches("damaged at byte").count(), 1, "{messages}");
    assert_eq!(messages.matches("cut at byte").count(), 1, "{messages}");

    let empty = Script::new(false, 5 * SECOND, []).origin;
    let mut writer = Writer::create(&recording.path(), &empty, Format::default()).unwrap();
    writer.finish(None, None).unwrap();
    play_file(&recording, &Options::default(), async |viewer| {
        for command in [
            Command::StepEvent,
            Command::StepTick,
            Command::SeekTo(7 * SECOND),
            Command::SeekBy(-1),
        ] {
            let snapshot = viewer.after(command).await;
            assert_eq!(snapshot.interval.end_ns, 5 * SECOND, "{command:?}");
            assert!(viewer.position().is_at_end);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_part_is_played_from_its_begin_to_its_end() {
    let recording = Recording::new(2_000, 10);
    let (from_ns, to_ns) = (
        recording.events[500].ts_ns(),
        recording.events[1_500].ts_ns(),
    );
    let options = Options {
        part: Some(Part {
            from_ns: Some(from_ns),
            to_ns: Some(to_ns),
            words: String::new(),
        }),
        ..Options::default()
    };
    play_file(&recording, &options, async |viewer| {
        let start = viewer.after(Command::SeekTo(0)).await;
        assert_eq!(start.interval.end_ns, from_ns);
        for _ in 0..2 {
            let end = viewer.after(Command::SeekTo(u64::MAX)).await;
            assert_eq!(end.interval.end_ns, to_ns);
            assert_eq!(end.tracker.books.events, 1_000);
            assert!(viewer.position().is_at_end);
            let begin = viewer.after(Command::SeekTo(from_ns + 1)).await;
            assert_eq!(begin.tracker.books.events, 1);
            let (books, at_start) = (begin.tracker.books, start.tracker.books);
            assert!(books.seeded > at_start.seeded || at_start.seeded > 0);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_cannot_go_back_stays_where_it_is() {
    let mut source = Script::recording([SECOND, 2 * SECOND, 3 * SECOND]);
    play_source(&mut source, &Options::default(), async |viewer| {
        viewer.after(Command::Pause).await;
        let ahead = viewer.after(Command::SeekTo(2 * SECOND)).await;
        assert_eq!(ahead.tracker.books.events, 1);
        let back = viewer.after(Command::SeekTo(SECOND)).await;
        assert_same(&ahead, &back, "it cannot go back");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn another_grouping_comes_in_a_pause_and_stays_when_it_jumps_back() {
    let recording = Recording::new(3_000, 1);
    let (early_ns, late_ns) = (
        recording.start_ns() + 3 * INTERVAL,
        recording.start_ns() + 15 * INTERVAL,
    );
    play_file(&recording, &Options::default(), async |viewer| {
        viewer.after(Command::Pause).await;
        viewer.after(Command::SeekTo(early_ns)).await;
        let before = viewer.after(Command::SeekTo(late_ns)).await;
        assert_eq!(
            (before.tracker.by, before.tracker.by_since_ns),
            (By::Port, None)
        );
        viewer.asker.group_by(By::Comm);
        let after = viewer.subscriber.next().await.unwrap();
        assert_eq!(after.tracker.by, By::Comm);
        assert!(after.tracker.by_since_ns.is_some_and(|ns| ns <= late_ns));
        assert_eq!(after.tracker.all, before.tracker.all);
        assert_eq!(after.interval.all, before.interval.all);
        // The copy of the state there has the other grouping.
        let back = viewer.after(Command::SeekTo(early_ns)).await;
        assert_eq!(back.tracker.by, By::Comm);
        assert!(back.tracker.by_since_ns.is_some_and(|ns| ns <= early_ns));
        assert!(!back.interval.groups.is_empty());
        let is_comm = |key| matches!(key, GroupKey::Comm(_) | GroupKey::Other);
        assert!(back.tracker.groups.iter().all(|group| is_comm(group.key)));
    })
    .await;
}
