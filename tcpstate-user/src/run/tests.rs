use std::{
    collections::VecDeque,
    io::{Error, ErrorKind},
    pin::Pin,
};

use tcpstate_common::{Record, State, record::AF_INET};
use tokio::time::{Instant, sleep_until};

use super::*;

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

/// A source that does as it is told.
struct Script {
    origin: Origin,
    steps: VecDeque<Step>,
    /// What is on its way when the source is stopped.
    in_flight: Vec<Event>,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
    started: Instant,
    stopped: bool,
    received: u64,
    /// What it has to tell.
    notices: Vec<String>,
}

enum Step {
    Batch(Vec<Event>),
    /// Nothing until this long after the start.
    Until(Duration),
    /// The same event for ever, always ready.
    Endless(Event),
    Fail,
}

impl Script {
    fn new(live: bool, started_ns: u64, steps: impl IntoIterator<Item = Step>) -> Self {
        let origin = Origin {
            host: "host".into(),
            kernel: "6.18".into(),
            attach: "btf".into(),
            wall_at_monotonic_zero_ns: 0,
            started_ns,
            filters: String::new(),
            live,
            sample_interval_ns: None,
        };
        Self {
            origin,
            steps: steps.into_iter().collect(),
            in_flight: Vec::new(),
            timer: None,
            started: Instant::now(),
            stopped: false,
            received: 0,
            notices: Vec::new(),
        }
    }

    fn recording(events: impl IntoIterator<Item = u64>) -> Self {
        Self::new(
            false,
            0,
            [Step::Batch(events.into_iter().map(at).collect())],
        )
    }

    /// A live source that starts now; its steps get that time.
    fn live(steps: impl FnOnce(u64) -> Vec<Step>) -> Self {
        let now_ns = Clock::start().now_ns();
        Self::new(true, now_ns, steps(now_ns))
    }
}

impl EventSource for Script {
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Event>,
    ) -> Poll<anyhow::Result<bool>> {
        let before = batch.len();
        loop {
            if self.stopped {
                batch.append(&mut self.in_flight);
                self.received += (batch.len() - before) as u64;
                return Poll::Ready(Ok(batch.len() > before));
            }
            match self.steps.front_mut() {
                Some(Step::Batch(events)) => {
                    batch.append(events);
                    self.received += (batch.len() - before) as u64;
                    self.steps.pop_front();
                    return Poll::Ready(Ok(true));
                }
                Some(Step::Endless(event)) => {
                    batch.push(*event);
                    self.received += 1;
                    return Poll::Ready(Ok(true));
                }
                Some(Step::Until(after)) => {
                    let started = self.started;
                    let timer = self
                        .timer
                        .get_or_insert_with(|| Box::pin(sleep_until(started + *after)));
                    if timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    self.timer = None;
                    self.steps.pop_front();
                }
                Some(Step::Fail) => return Poll::Ready(Err(anyhow::anyhow!("the disk is gone"))),
                // A live source ends only when it is stopped.
                None if self.origin.live => return Poll::Pending,
                None => return Poll::Ready(Ok(false)),
            }
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
    }

    fn accounting(&mut self) -> anyhow::Result<Accounting> {
        Ok(Accounting {
            received: self.received,
            ..Accounting::default()
        })
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }
}

/// A view that writes down what it is told, times from the start of the capture.
#[derive(Default)]
struct Log {
    interval_ns: Option<u64>,
    /// Done after this many events, or ticks.
    events: Option<usize>,
    ticks: Option<usize>,
    started_ns: u64,
    lines: Vec<String>,
    end: Option<End>,
}

impl Log {
    fn done(&self, word: &str, count: Option<usize>) -> Flow {
        let seen = self
            .lines
            .iter()
            .filter(|line| line.starts_with(word))
            .count();
        if count.is_some_and(|count| seen >= count) {
            Flow::Done
        } else {
            Flow::Continue
        }
    }

    fn check_the_books(&self) -> End {
        let end = self.end.expect("finish was called");
        let Selection { settled, unread } = end.selection;
        let sum = settled.passed + settled.dropped + settled.undecided + unread;
        assert_eq!(
            end.accounting.received, sum,
            "every event is somewhere: {end:?}"
        );
        let shown = self
            .lines
            .iter()
            .filter(|line| line.starts_with("event"))
            .count();
        assert_eq!(settled.passed, shown as u64);
        end
    }
}

impl View for Log {
    fn start(&mut self, origin: &Origin, _out: &mut dyn Write) -> io::Result<()> {
        self.started_ns = origin.started_ns;
        Ok(())
    }

    fn event(&mut self, event: &Event, out: &mut dyn Write) -> io::Result<Flow> {
        self.lines
            .push(format!("event {}", event.ts_ns() - self.started_ns));
        writeln!(out, "{}", event.ts_ns())?;
        Ok(self.done("event", self.events))
    }

    fn tick(&mut self, now_ns: u64, _out: &mut dyn Write) -> io::Result<Flow> {
        self.lines
            .push(format!("tick {}", now_ns - self.started_ns));
        Ok(self.done("tick", self.ticks))
    }

    fn interval_ns(&self) -> Option<u64> {
        self.interval_ns
    }

    fn takes_usr1(&self) -> bool {
        true
    }

    fn usr1(
        &mut self,
        _now_ns: u64,
        _out: &mut dyn Write,
        _err: &mut dyn Write,
    ) -> io::Result<Flow> {
        self.lines.push("usr1".into());
        Ok(Flow::Continue)
    }

    fn finish(&mut self, end: &End, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
        self.end = Some(*end);
        writeln!(out, "end")?;
        writeln!(err, "received {}", end.accounting.received)
    }
}

/// Interrupts at given times after the start.
struct Timed(VecDeque<(Pin<Box<tokio::time::Sleep>>, Interrupt)>);

impl Timed {
    fn new(interrupts: impl IntoIterator<Item = (Duration, Interrupt)>) -> Self {
        let now = Instant::now();
        let timed = |(after, interrupt)| (Box::pin(sleep_until(now + after)), interrupt);
        Self(interrupts.into_iter().map(timed).collect())
    }

    fn none() -> Self {
        Self(VecDeque::new())
    }
}

impl Interrupts for Timed {
    fn poll_interrupt(&mut self, cx: &mut Context<'_>) -> Poll<Interrupt> {
        let Some((timer, interrupt)) = self.0.front_mut() else {
            return Poll::Pending;
        };
        let interrupt = *interrupt;
        timer.as_mut().poll(cx).map(|()| {
            self.0.pop_front();
            interrupt
        })
    }
}

/// Stops at the last of so many looks, where the clock stands still.
struct StopAfterLooks(u32);

impl Interrupts for StopAfterLooks {
    fn poll_interrupt(&mut self, _cx: &mut Context<'_>) -> Poll<Interrupt> {
        let last = self.0 == 1;
        self.0 = self.0.saturating_sub(1);
        if last {
            Poll::Ready(Interrupt::Stop)
        } else {
            Poll::Pending
        }
    }
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

/// Runs to an orderly end and gives what the view was told.
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
    let told = run(
        &mut source,
        &mut view,
        &mut Timed::none(),
        &Options::default(),
    )
    .await;
    assert_eq!(
        told,
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
    let told = run(
        &mut source,
        &mut view,
        &mut Timed::none(),
        &Options::default(),
    )
    .await;
    assert_eq!(told, "tick 10, event 11, event 9, tick 20, event 21");
}

#[tokio::test(start_paused = true)]
async fn a_duration_cuts_a_recording_by_the_time_of_its_events() {
    let mut source = Script::recording([1, 19, 20, 21, 300]);
    let mut view = Log {
        interval_ns: Some(10),
        ..Log::default()
    };
    let options = lasting(Duration::from_nanos(20));
    let told = run(&mut source, &mut view, &mut Timed::none(), &options).await;
    assert_eq!(told, "event 1, tick 10, event 19, tick 20");
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
    let told = run(&mut source, &mut view, &mut Timed::none(), &options).await;
    assert_eq!(told, "event 1, tick 10, event 15");
    assert_eq!(view.check_the_books().now_ns, 15);
}

#[tokio::test(start_paused = true)]
async fn a_view_that_is_done_is_told_nothing_more_but_the_books_balance() {
    for (view, told) in [
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
        assert_eq!(lines, told);
        assert!(source.stopped);
        view.check_the_books();
    }
}

#[tokio::test(start_paused = true)]
async fn a_live_run_ticks_by_the_clock_and_its_last_interval_takes_the_rest() {
    let mut source = Script::live(|now| {
        vec![
            Step::Until(Duration::from_millis(1_500)),
            Step::Batch(vec![at(now + 3 * SECOND / 2)]),
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
    let told = run(&mut source, &mut view, &mut Timed::none(), &options).await;
    assert_eq!(
        told,
        "tick 1000000000, event 1500000000, tick 2000000000, event 2999999999, event 3000000001, \
         tick 3000000000"
    );
    assert_eq!(view.check_the_books().now_ns, started_ns + 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_event_on_its_way_lands_in_its_interval() {
    let mut source = Script::live(|now| {
        vec![
            Step::Until(Duration::from_millis(1_050)),
            Step::Batch(vec![at(now + SECOND - 1)]),
        ]
    });
    let mut view = Log {
        interval_ns: Some(SECOND),
        ticks: Some(1),
        ..Log::default()
    };
    let told = run(
        &mut source,
        &mut view,
        &mut Timed::none(),
        &Options::default(),
    )
    .await;
    assert_eq!(told, "event 999999999, tick 1000000000");
}

#[tokio::test(start_paused = true)]
async fn a_stop_shows_what_is_on_its_way() {
    let mut source = Script::live(|now| vec![Step::Batch(vec![at(now + 1)])]);
    source.in_flight = vec![at(source.origin.started_ns + 2)];
    let mut interrupts = Timed::new([
        (Duration::from_millis(10), Interrupt::Usr1),
        (Duration::from_millis(20), Interrupt::Stop),
    ]);
    let mut view = Log::default();
    let told = run(&mut source, &mut view, &mut interrupts, &Options::default()).await;
    assert_eq!(told, "event 1, usr1, event 2");
    view.check_the_books();
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_recording_at_once() {
    let mut source = Script::new(false, 0, [Step::Endless(at(1))]);
    let mut view = Log::default();
    let mut interrupts = StopAfterLooks(100);
    run(&mut source, &mut view, &mut interrupts, &Options::default()).await;
    assert!(view.check_the_books().selection.settled.passed > 10);
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_seen_in_the_middle_of_very_many_intervals() {
    let mut source = Script::recording([1, u64::MAX]);
    let mut view = Log {
        interval_ns: Some(10),
        ..Log::default()
    };
    let mut interrupts = StopAfterLooks(10);
    run(&mut source, &mut view, &mut interrupts, &Options::default()).await;
    assert_eq!(view.check_the_books().selection.unread, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_very_many_empty_intervals_as_one() {
    // Far more than could be told one by one: behind from the start, and by the clock ever further.
    let now_ns = Clock::start().now_ns();
    let started_ns = now_ns.saturating_sub(SECOND / 100);
    let mut source = Script::new(true, started_ns, [Step::Batch(vec![at(now_ns)])]);
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
    // None is left out: the last ends where the run does.
    let end_ns = view.check_the_books().now_ns;
    let last = format!("tick {}", end_ns - started_ns);
    assert_eq!(view.lines.last(), Some(&last));
}

#[tokio::test(start_paused = true)]
async fn the_filter_decides_what_the_view_sees() {
    let events = vec![connect(1, 80), connect(2, 81), connect(3, 0)];
    let mut source = Script::new(false, 0, [Step::Batch(events)]);
    let filter = Filter {
        lport: Some("80".parse().unwrap()),
        ..Filter::default()
    };
    let mut view = Log::default();
    let options = Options {
        filter,
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
            dropped: 1,
            undecided: 1
        }
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_source_has_to_tell_goes_to_standard_error() {
    let mut source = Script::recording([1]);
    source.notices.push("the recording was cut".into());
    let mut out = Vec::new();
    let (result, err) = run_with(
        &mut source,
        &mut Log::default(),
        &mut out,
        &mut Timed::none(),
        &Options::default(),
    )
    .await;
    assert_eq!(result.unwrap(), Outcome::Finished);
    assert_eq!(err, "tcpstate: the recording was cut\nreceived 1\n");
    assert_eq!(out, b"1\nend\n");
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

    // Without anything to write, it is the interrupt that tells.
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
async fn a_full_disk_fails_the_run_and_the_books_are_told_all_the_same() {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut source = Script::recording([1, 2, 3]);
    let mut view = Log::default();
    // The first write fails, and so does every other one: the error that is told is that of the first.
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
    // The view's own last word goes to the full disk first.
    assert_eq!(err, "");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_shows_what_it_had_and_ends_with_the_books() {
    let steps = [Step::Batch(vec![at(1), at(2)]), Step::Fail];
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
