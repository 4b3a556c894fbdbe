//! Test doubles for a source, a view and the user's interrupts.

use std::{
    collections::VecDeque,
    future::Future as _,
    io::{self, Write},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tcpstate_core::{
    books::{Accounting, Selection},
    event::Event,
    origin::Origin,
    source::{EventSource, Notice, SourceError, Step},
    view::{End, Flow, View},
};
use tokio::time::{Instant, advance, sleep_until};

use super::super::{Interrupt, Interrupts, clock::Clock};
use super::at;

/// A scripted source.
pub(super) struct Script {
    pub(super) origin: Origin,
    pub(super) steps: VecDeque<Act>,
    /// The pending events when the source is stopped.
    pub(super) in_flight: Vec<Event>,
    pub(super) timer: Option<Pin<Box<tokio::time::Sleep>>>,
    pub(super) started: Instant,
    pub(super) stopped: bool,
    pub(super) received: u64,
    /// Its notices.
    pub(super) notices: Vec<Notice>,
    /// Its books cannot be read.
    pub(super) fails_to_account: bool,
    pub(super) settled: bool,
    /// Until this long after the start it knows of nothing that it has delivered.
    pub(super) stalls_until: Duration,
}

/// A step of a [`Script`].
pub(super) enum Act {
    Batch(Vec<Event>),
    /// Waits until this long after the start.
    Until(Duration),
    /// Delivers the same event for ever, always ready.
    Endless(Event),
    Fail,
}

impl Script {
    pub(super) fn new(live: bool, started_ns: u64, steps: impl IntoIterator<Item = Act>) -> Self {
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
            fails_to_account: false,
            settled: false,
            stalls_until: Duration::ZERO,
        }
    }

    pub(super) fn recording(events: impl IntoIterator<Item = u64>) -> Self {
        Self::new(false, 0, [Act::Batch(events.into_iter().map(at).collect())])
    }

    /// A live source that starts now; its steps get that time.
    pub(super) fn live(steps: impl FnOnce(u64) -> Vec<Act>) -> Self {
        let now_ns = Clock::start().now_ns();
        Self::new(true, now_ns, steps(now_ns))
    }
}

impl EventSource for Script {
    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Event>,
    ) -> Poll<Result<Step, SourceError>> {
        if !std::mem::replace(&mut self.settled, true) {
            return Poll::Ready(Ok(Step::Settled));
        }
        let before = batch.len();
        loop {
            if let Some(notice) = self.notices.pop() {
                return Poll::Ready(Ok(Step::Notice(notice)));
            }
            if self.stopped {
                batch.append(&mut self.in_flight);
                self.received += (batch.len() - before) as u64;
                let step = if batch.len() > before {
                    Step::Events
                } else {
                    Step::End
                };
                return Poll::Ready(Ok(step));
            }
            match self.steps.front_mut() {
                Some(Act::Batch(events)) => {
                    batch.append(events);
                    self.received += (batch.len() - before) as u64;
                    self.steps.pop_front();
                    return Poll::Ready(Ok(Step::Events));
                }
                Some(Act::Endless(event)) => {
                    batch.push(*event);
                    self.received += 1;
                    return Poll::Ready(Ok(Step::Events));
                }
                Some(Act::Until(after)) => {
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
                Some(Act::Fail) => return Poll::Ready(Err(SourceError::new("the disk is gone"))),
                // A live source ends only when it is stopped.
                None if self.origin.live => return Poll::Pending,
                None => return Poll::Ready(Ok(Step::End)),
            }
        }
    }

    fn has_delivered(&mut self, _ns: u64) -> bool {
        self.started.elapsed() >= self.stalls_until
    }

    fn stop(&mut self) {
        self.stopped = true;
    }

    fn accounting(&mut self) -> Result<Accounting, SourceError> {
        if self.fails_to_account {
            return Err(SourceError::new("the counters are gone"));
        }
        Ok(Accounting {
            seen: self.received,
            submitted: self.received,
            received: self.received,
            ..Accounting::default()
        })
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }
}

/// An output that takes this long at its first write, as a slow pipe does.
pub(super) struct Slow(pub(super) Duration);

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let blocked = std::mem::take(&mut self.0);
        if !blocked.is_zero() {
            // The clock is set at the first poll.
            let mut cx = Context::from_waker(Waker::noop());
            let _ = pin!(advance(blocked)).poll(&mut cx);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A view that records its calls, with times from the start of the capture.
#[derive(Default)]
pub(super) struct Log {
    pub(super) interval_ns: Option<u64>,
    /// The number of events, or of ticks, after which it is done.
    pub(super) events: Option<usize>,
    pub(super) ticks: Option<usize>,
    pub(super) started_ns: u64,
    pub(super) lines: Vec<String>,
    pub(super) end: Option<End>,
}

impl Log {
    pub(super) fn done(&self, word: &str, count: Option<usize>) -> Flow {
        let seen = || {
            let lines = self.lines.iter();
            lines.filter(|line| line.starts_with(word)).count()
        };
        if count.is_some_and(|count| seen() >= count) {
            Flow::Done
        } else {
            Flow::Continue
        }
    }

    pub(super) fn check_the_books(&self) -> End {
        let end = self.end.clone().expect("finish was called");
        let Selection {
            settled,
            unread,
            earlier,
        } = end.selection;
        let sum = settled.passed + settled.filtered + settled.undecided + unread + earlier;
        assert_eq!(
            end.accounting.received, sum,
            "an event is missing in the books: {end:?}"
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
        self.end = Some(end.clone());
        writeln!(out, "end")?;
        writeln!(err, "received {}", end.accounting.received)
    }
}

/// Interrupts at given times after the start.
pub(super) struct Timed(pub(super) VecDeque<(Pin<Box<tokio::time::Sleep>>, Interrupt)>);

impl Timed {
    pub(super) fn new(interrupts: impl IntoIterator<Item = (Duration, Interrupt)>) -> Self {
        let now = Instant::now();
        let timed = |(after, interrupt)| (Box::pin(sleep_until(now + after)), interrupt);
        Self(interrupts.into_iter().map(timed).collect())
    }

    pub(super) fn none() -> Self {
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

/// Stops at the last of this number of polls, with a paused clock.
pub(super) struct StopAfterPolls(pub(super) u32);

impl Interrupts for StopAfterPolls {
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
