//! The loop itself.

use std::{
    future::{Future as _, poll_fn},
    io::{self, Write},
    pin::pin,
    task::Poll,
    time::Duration,
};

use tcpstate_core::{
    books::{RunBooks, Selection},
    census::Census,
    duration::nanoseconds,
    event::Event,
    filter::{Filter, Passed, Settler},
    origin::Origin,
    source::{EventSource, SourceError, Step},
    view::{End, Flow, View},
};

use super::{
    clock::Clock,
    cost,
    counters::Counters,
    gate::Gate,
    interrupts::{Interrupt, Interrupts},
    options::{GRACE, LOOK_AHEAD, Options, Outcome, Outputs, RunError},
};

/// The maximum number of ticks in a row without checking signals: a recording can jump years.
pub(super) const TICKS_AT_ONCE: u32 = 1024;

/// Before the clock closes an interval, the source has to have delivered all events up to this long ago. It is
/// longer than a source takes to deliver an event, and short enough for an event that got its time before the end
/// of the interval, and was submitted after it, to be among them.
const DELIVERY: Duration = Duration::from_millis(50);
const _: () = assert!(DELIVERY.as_millis() < GRACE.as_millis());

/// The time after which the clock asks a source again that had not.
const RETRY: Duration = Duration::from_millis(5);

/// Drives `source` into `view` until one of them, the clock or the user ends it.
pub async fn drive<'a>(
    source: &'a mut dyn EventSource,
    view: &'a mut dyn View,
    outputs: Outputs<'a>,
    interrupts: &mut dyn Interrupts,
    options: &Options,
) -> Result<Outcome, RunError> {
    Driver::new(source, view, outputs, options)
        .run(interrupts)
        .await
}

/// The reason for which the loop woke up.
enum Wake {
    Interrupt(Interrupt),
    /// The clock has reached [`Driver::due_ns`].
    Clock,
    /// It has, but events of the interval that it would close may still be pending.
    Early,
    /// A part of the batch has not been shown yet.
    Rest,
    /// The source's next step.
    Step(Result<Step, SourceError>),
    /// Everything has been shown.
    End,
}

/// The input that the source may still deliver.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Supply {
    Flowing,
    /// It was stopped: pending events.
    Stopping,
    /// Nothing.
    Ended,
}

/// The input that the view still takes before [`View::finish`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Intake {
    /// Events, censuses and ticks.
    All,
    /// Only the ticks that are left: a recording was stopped, or has reached the end of `--duration`.
    Ticks,
    /// Nothing: it is done.
    Nothing,
}

struct Driver<'a> {
    source: &'a mut dyn EventSource,
    view: &'a mut dyn View,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    origin: Origin,
    clock: Clock,
    /// `None` if everything passes, so that the common case costs nothing.
    settler: Option<Settler>,
    /// The filter for the sockets of a census.
    filter: Filter,
    /// `None` if there is no filter on owners.
    gate: Option<Gate>,
    selection: Selection,
    flush_each_batch: bool,
    /// The batch, and the number of its events that have been shown.
    batch: Vec<Event>,
    position: usize,
    /// A census that has not been shown yet.
    census: Option<Box<Census>>,
    interval_ns: Option<u64>,
    /// `None` if the source delivers events.
    counters: Option<Counters>,
    /// The end of the open interval; `None` without intervals, or at the end of time.
    next_tick_ns: Option<u64>,
    /// Every event before this time has been shown.
    shown_ns: u64,
    /// The clock closes no interval before this time.
    retry_ns: u64,
    /// The end of the run, if known: intervals that end here or later are closed after the last event, not
    /// by an event.
    limit_ns: Option<u64>,
    /// The latest time of an event.
    latest_ns: u64,
    supply: Supply,
    /// Whether the source has finished seeding.
    settled: bool,
    intake: Intake,
    /// The first failure, which is the one to report.
    failure: Option<RunError>,
}

impl<'a> Driver<'a> {
    fn new(
        source: &'a mut dyn EventSource,
        view: &'a mut dyn View,
        Outputs { out, err }: Outputs<'a>,
        options: &Options,
    ) -> Self {
        let origin = source.origin().clone();
        let duration_ns = options.duration.map(nanoseconds);
        let limit_ns = duration_ns.map(|ns| origin.started_ns.saturating_add(ns));
        let interval_ns = view.interval_ns().filter(|&ns| ns > 0);
        Self {
            clock: Clock::start(),
            settler: (!options.filter.wants_all()).then(|| Settler::new(options.filter.clone())),
            filter: options.filter.clone(),
            gate: (!options.owner.wants_all()).then(|| {
                let matcher = options.owner.clone().with(source.names());
                Gate::new(matcher, options.limits, origin.sample_interval_ns.is_some())
            }),
            selection: Selection::default(),
            flush_each_batch: origin.live || options.interactive,
            batch: Vec::new(),
            position: 0,
            census: None,
            interval_ns,
            counters: source
                .counting()
                .is_some()
                .then(|| Counters::new(origin.started_ns)),
            next_tick_ns: interval_ns.and_then(|ns| origin.started_ns.checked_add(ns)),
            shown_ns: origin.started_ns,
            retry_ns: origin.started_ns,
            limit_ns,
            latest_ns: origin.started_ns,
            supply: Supply::Flowing,
            settled: false,
            intake: Intake::All,
            failure: None,
            source,
            view,
            out,
            err,
            origin,
        }
    }

    async fn run(mut self, interrupts: &mut dyn Interrupts) -> Result<Outcome, RunError> {
        self.view.set_names(self.source.names());
        let started = self
            .view
            .start(&self.origin, self.out)
            .and_then(|()| self.out.flush());
        let mut step = started.map(|()| Flow::Continue);
        let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
        let mut armed_ns = None;
        loop {
            match step {
                Ok(Flow::Continue) => {}
                Ok(Flow::Done) => self.end_view(),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(Outcome::ReaderGone);
                }
                Err(error) => {
                    self.failure.get_or_insert(RunError::Output(error));
                    self.end_view();
                }
            }
            if armed_ns != self.due_ns() {
                armed_ns = self.due_ns();
                if let Some(ns) = armed_ns {
                    timer.as_mut().reset(self.clock.instant(ns));
                }
            }
            // The runtime checks signals and timers only when the loop waits, and a recording never waits.
            tokio::task::yield_now().await;
            let wake = poll_fn(|cx| {
                if let Poll::Ready(interrupt) = interrupts.poll_interrupt(cx) {
                    return Poll::Ready(Wake::Interrupt(interrupt));
                }
                let is_due = armed_ns.is_some() && timer.as_mut().poll(cx).is_ready();
                if is_due && self.waits_for_no_event() {
                    return Poll::Ready(Wake::Clock);
                }
                if self.has_rest() {
                    return Poll::Ready(Wake::Rest);
                }
                if self.supply == Supply::Ended {
                    return Poll::Ready(Wake::End);
                }
                // In this order: what has been delivered by now is polled next.
                let now_ns = self.now_ns();
                let until_ns = now_ns.saturating_sub(nanoseconds(DELIVERY));
                let has_all = is_due && self.source.has_delivered(until_ns);
                self.batch.clear();
                self.position = 0;
                match self.source.poll_step(cx, &mut self.batch) {
                    Poll::Ready(step) => Poll::Ready(Wake::Step(step)),
                    Poll::Pending if has_all => {
                        self.shown_ns = now_ns.saturating_sub(nanoseconds(GRACE));
                        Poll::Ready(Wake::Clock)
                    }
                    Poll::Pending if is_due => {
                        self.retry_ns = now_ns.saturating_add(nanoseconds(RETRY));
                        Poll::Ready(Wake::Early)
                    }
                    Poll::Pending => Poll::Pending,
                }
            });
            step = match wake.await {
                Wake::Interrupt(Interrupt::ReaderGone) => return Ok(Outcome::ReaderGone),
                Wake::Interrupt(Interrupt::Stop) => {
                    // All further events of a recording are pending, so it ends here.
                    if !self.origin.live {
                        self.intake = self.intake.max(Intake::Ticks);
                    }
                    self.stop(self.now_ns());
                    Ok(Flow::Continue)
                }
                Wake::Interrupt(Interrupt::Usr1) if self.intake == Intake::All => {
                    let flow = self.view.usr1(self.now_ns(), self.out, self.err);
                    self.out.flush().and(flow)
                }
                Wake::Clock => {
                    armed_ns = None;
                    self.by_clock()
                }
                Wake::Interrupt(Interrupt::Usr1) | Wake::Early => Ok(Flow::Continue),
                Wake::Rest => self.show(),
                Wake::Step(step) => self.take(step),
                Wake::End => break,
            };
        }
        match self.finish() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Outcome::ReaderGone),
            result => match (self.failure, result) {
                (Some(failure), _) => Err(failure),
                (None, Err(error)) => Err(RunError::Output(error)),
                (None, Ok(())) => Ok(Outcome::Finished),
            },
        }
    }

    /// Processes a step of the source.
    fn take(&mut self, step: Result<Step, SourceError>) -> io::Result<Flow> {
        match step {
            Ok(Step::Events) => return self.show(),
            Ok(Step::Census(census)) => {
                self.census = Some(census);
                return self.show();
            }
            Ok(Step::Settled) => self.settled = true,
            Ok(Step::Notice(notice)) => {
                // An error means that standard error is closed, and then the notice has no reader.
                let _ = writeln!(self.err, "tcpstate: {notice}");
            }
            Ok(Step::End) => {
                self.supply = Supply::Ended;
                if let Some(end_ns) = self.source.ended_ns() {
                    // The run ends where the capture did, which may be long after the last event.
                    self.latest_ns = self.latest_ns.max(end_ns);
                    self.limit_ns = Some(
                        self.limit_ns
                            .map_or(end_ns, |limit_ns| limit_ns.min(end_ns)),
                    );
                }
            }
            Err(error) => {
                self.failure.get_or_insert(RunError::Source(error));
                self.supply = Supply::Ended;
                // The events before the error are valid.
                return self.show();
            }
        }
        Ok(Flow::Continue)
    }

    const fn has_rest(&self) -> bool {
        self.position < self.batch.len() || self.census.is_some()
    }

    /// Shows the rest of the batch, or the part that fits into the budget of intervals.
    #[expect(
        clippy::indexing_slicing,
        reason = "position < the length of the batch"
    )]
    fn show(&mut self) -> io::Result<Flow> {
        let mut ticks = TICKS_AT_ONCE;
        while let Some(event) = self.batch.get(self.position) {
            if self.intake != Intake::All {
                self.selection.unread += (self.batch.len() - self.position) as u64;
                self.position = self.batch.len();
                return Ok(Flow::Continue);
            }
            let ts_ns = event.ts_ns();
            if self.close_intervals(ts_ns, &mut ticks)? == Flow::Done {
                return Ok(Flow::Done);
            }
            if ticks == 0 {
                break;
            }
            if let Some(limit_ns) = self.limit_ns.filter(|&ns| ns <= ts_ns)
                && !self.origin.live
            {
                self.latest_ns = limit_ns;
                self.intake = Intake::Ticks;
                self.stop(limit_ns);
                continue;
            }
            self.latest_ns = self.latest_ns.max(ts_ns);
            if self.position.is_multiple_of(LOOK_AHEAD) {
                let end = self.batch.len().min(self.position + LOOK_AHEAD);
                self.view.look_ahead(&self.batch[self.position..end]);
            }
            self.position += 1;
            if self.show_one(self.position - 1)? == Flow::Done {
                return Ok(Flow::Done);
            }
        }
        if ticks > 0 && self.show_census(&mut ticks)? == Flow::Done {
            return Ok(Flow::Done);
        }
        if self.flush_each_batch {
            self.out.flush()?;
        }
        Ok(Flow::Continue)
    }

    /// Passes the census behind the batch to the view, without the sockets that the filters exclude.
    fn show_census(&mut self, ticks: &mut u32) -> io::Result<Flow> {
        let Some(mut census) = self.census.take() else {
            return Ok(Flow::Continue);
        };
        if self.intake != Intake::All {
            return Ok(Flow::Continue);
        }
        // Seeded sockets belong to the first interval, however long the dump took.
        let at_ns = if census.scope.is_of_sockets() {
            0
        } else {
            census.begin_ns
        };
        if self.close_intervals(at_ns, ticks)? == Flow::Done {
            return Ok(Flow::Done);
        }
        if *ticks == 0 {
            self.census = Some(census);
            return Ok(Flow::Continue);
        }
        self.filter.census(&mut census);
        if let Some(gate) = &mut self.gate {
            gate.census(&mut census);
        }
        self.view.census(&census, self.out)
    }

    /// Passes the event at `index` of the batch to the view, if the filters let it through.
    #[expect(
        clippy::indexing_slicing,
        reason = "by the number of an event of the batch"
    )]
    fn show_one(&mut self, index: usize) -> io::Result<Flow> {
        let event = &self.batch[index];
        let passed = if let Some(settler) = &mut self.settler {
            settler.push(event)
        } else {
            self.selection.settled.passed += 1;
            if self.gate.is_none() {
                return self.view.event(event, self.out);
            }
            Passed {
                earlier: None,
                event: Some(*event),
            }
        };
        for event in [passed.earlier, passed.event].iter().flatten() {
            if let Some(gate) = &mut self.gate
                && !gate.passes(event)
            {
                continue;
            }
            if self.view.event(event, self.out)? == Flow::Done {
                return Ok(Flow::Done);
            }
        }
        Ok(Flow::Continue)
    }

    /// Closes the intervals that end at `ts_ns` or before, up to `budget` of them.
    fn close_intervals(&mut self, ts_ns: u64, budget: &mut u32) -> io::Result<Flow> {
        while let Some(end_ns) = self.next_tick_ns
            && end_ns <= ts_ns
            && self.is_before_limit(end_ns)
            && *budget > 0
        {
            *budget -= 1;
            if self.tick(self.last_end(end_ns, ts_ns))? == Flow::Done {
                return Ok(Flow::Done);
            }
        }
        Ok(Flow::Continue)
    }

    /// Closes the intervals that end by `now_ns` and flushes, so that all output precedes the summary.
    ///
    /// Signals are not checked meanwhile. All events have been shown, so every interval but the first is
    /// empty, and those beyond the budget are closed as one.
    fn close_last_intervals(&mut self, now_ns: u64) -> io::Result<()> {
        let mut budget = TICKS_AT_ONCE;
        while let Some(end_ns) = self.next_tick_ns.filter(|&end_ns| end_ns <= now_ns)
            && self.intake != Intake::Nothing
        {
            let end_ns = match self.interval_ns {
                Some(ns) if budget == 0 => now_ns - (now_ns - end_ns) % ns,
                _ => self.last_end(end_ns, now_ns),
            };
            budget = budget.saturating_sub(1);
            if self.tick(end_ns)? == Flow::Done {
                self.intake = Intake::Nothing;
            }
        }
        self.out.flush()
    }

    /// The end of the interval that is closed at `now_ns`, when the next end is `end_ns`.
    fn last_end(&self, end_ns: u64, now_ns: u64) -> u64 {
        match (&self.counters, self.interval_ns) {
            (Some(_), Some(interval_ns)) => Counters::interval_end(end_ns, now_ns, interval_ns),
            _ => end_ns,
        }
    }

    /// Passes the counted transitions to the view, if the source counts.
    fn read_counters(&mut self) {
        let now_ns = self.now_ns();
        let Some(counters) = &mut self.counters else {
            return;
        };
        let settled = &mut self.selection.settled;
        if let Err(error) = counters.read(now_ns, self.source, self.view, settled) {
            self.failure.get_or_insert(RunError::Source(error));
            self.stop(now_ns);
        }
    }

    fn is_before_limit(&self, ns: u64) -> bool {
        self.limit_ns.is_none_or(|limit_ns| ns < limit_ns)
    }

    fn tick(&mut self, end_ns: u64) -> io::Result<Flow> {
        self.read_counters();
        self.next_tick_ns = self.interval_ns.and_then(|ns| end_ns.checked_add(ns));
        if self.view.wants_books() {
            match self.books() {
                Ok(books) => self.view.books(&books),
                Err(error) => {
                    self.failure.get_or_insert(RunError::Source(error));
                    self.stop(self.now_ns());
                }
            }
        }
        self.view.tick(end_ns, self.out)
    }

    /// The books of the run so far.
    fn books(&mut self) -> Result<RunBooks, SourceError> {
        Ok(RunBooks {
            accounting: self.source.accounting()?,
            selection: self.selection(),
            cost: cost::read(self.source.cost()),
        })
    }

    /// The destinations of the events that have been received and decided.
    fn selection(&self) -> Selection {
        let mut selection = self.selection;
        if let (None, Some(settler)) = (&self.counters, &self.settler) {
            selection.settled = settler.settled();
        }
        if let Some(gate) = &self.gate {
            // Its events passed the filter on sockets first.
            selection.settled.passed -= gate.dropped;
            selection.settled.dropped += gate.dropped;
        }
        selection
    }

    /// The time for which an interval waits for pending events.
    fn grace_ns(&self) -> u64 {
        if self.counters.is_some() {
            0
        } else {
            nanoseconds(GRACE)
        }
    }

    /// The next time at which the clock must act; `None` for a recording, whose clock is its events.
    fn due_ns(&self) -> Option<u64> {
        if !self.origin.live || self.supply != Supply::Flowing {
            return None;
        }
        let tick_ns = self
            .next_tick_ns
            .filter(|&ns| self.is_before_limit(ns) && self.settled);
        let tick_ns = tick_ns.map(|ns| ns.saturating_add(self.grace_ns()).max(self.retry_ns));
        let all = self.limit_ns.into_iter().chain(tick_ns);
        all.chain(self.counters.as_ref().map(Counters::due_ns))
            .min()
    }

    /// Whether the clock has something to do that no event can change: to end the run, or to read counters.
    fn waits_for_no_event(&self) -> bool {
        self.counters.is_some() || !self.is_before_limit(self.now_ns())
    }

    fn by_clock(&mut self) -> io::Result<Flow> {
        let now_ns = self.now_ns();
        if !self.is_before_limit(now_ns) {
            self.stop(now_ns);
            return Ok(Flow::Continue);
        }
        if self
            .counters
            .as_ref()
            .is_some_and(|counters| counters.due_ns() <= now_ns)
        {
            self.read_counters();
        }
        let end_ns = match self.counters {
            Some(_) => now_ns,
            // After a stall of this process, events of intervals that ended meanwhile have to come first.
            None => self.shown_ns,
        };
        let mut budget = TICKS_AT_ONCE;
        let flow = self.close_intervals(end_ns, &mut budget)?;
        self.out.flush()?;
        Ok(flow)
    }

    /// Stops the source; the run ends at `at_ns`.
    fn stop(&mut self, at_ns: u64) {
        if self.supply == Supply::Flowing {
            self.supply = Supply::Stopping;
            self.limit_ns = Some(self.limit_ns.map_or(at_ns, |limit_ns| limit_ns.min(at_ns)));
            self.source.stop();
        }
    }

    /// Stops passing events to the view, and stops the source.
    fn end_view(&mut self) {
        self.intake = Intake::Nothing;
        self.stop(self.now_ns());
    }

    fn finish(&mut self) -> io::Result<()> {
        let now_ns = self.now_ns();
        let now_ns = self
            .limit_ns
            .map_or(now_ns, |limit_ns| limit_ns.min(now_ns));
        // The books are printed even if the disk is full.
        match self.close_last_intervals(now_ns) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                self.failure.get_or_insert(RunError::Output(error));
            }
            result => result?,
        }
        if self.counters.is_some() {
            self.read_counters();
        } else if let Some(settler) = &mut self.settler {
            settler.finish();
        }
        let RunBooks {
            accounting,
            selection,
            cost,
        } = match self.books() {
            Ok(books) => books,
            Err(error) => {
                self.failure.get_or_insert(RunError::Source(error));
                return self.out.flush();
            }
        };
        let end = End {
            now_ns,
            accounting,
            selection,
            cost,
        };
        self.view.finish(&end, self.out, self.err)?;
        self.out.flush()
    }

    /// The current time on the clock of the host of the events.
    fn now_ns(&self) -> u64 {
        if self.origin.live {
            self.clock.now_ns()
        } else {
            self.latest_ns
        }
    }
}
