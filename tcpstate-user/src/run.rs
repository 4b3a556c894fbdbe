//! The one loop that drives an event source into a view.
//!
//! It owns what all views share: waiting, signals, `--duration`, the filter on sockets, intervals,
//! flushing, the closed pipe and the summary at the end. It knows neither the kernel nor what a view
//! prints.
//!
//! # The end of a run
//!
//! | because of                        | then                                                        |
//! |-----------------------------------|-------------------------------------------------------------|
//! | `SIGINT`, `SIGTERM`, `SIGHUP`     | stop the source, show what is on its way, [`View::finish`]  |
//! | `--duration`, live                | the same                                                    |
//! | `--duration`, recording           | the events from that time on are not shown, `finish`        |
//! | the source's end                  | `finish`                                                    |
//! | [`Flow::Done`]                    | stop the source, count what is on its way, `finish`         |
//! | the source or the output failed   | the same, and the error is returned                         |
//! | the reader of our output is gone  | nothing more: nobody is there to be told                    |
//! | a second `SIGINT`                 | the process dies of it (`signals`)                          |
//!
//! # Intervals
//!
//! They are counted from the start of the capture. An interval ends before the first event at or
//! after its end; live it also ends by the clock, a little late ([`GRACE`]), so that events that
//! are still on their way from the ring buffer land where they belong. With `--duration` the last
//! interval takes everything that came until the source had stopped: a run of five intervals of a
//! second that ends after five seconds counts every event that was received.

mod clock;
mod cost;
pub mod descriptors;
mod gate;
pub mod progress;
pub mod signals;
pub mod stdout;
mod view;

use std::{
    future::{Future as _, poll_fn},
    io::{self, Write},
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use self::{clock::Clock, gate::Gate};
pub use self::{
    clock::nanoseconds,
    cost::Cost,
    view::{End, Flow, Selection, View},
};
use crate::{
    event::Event,
    filter::{Filter, OwnerFilter, Passed, Settler},
    model::Limits,
    source::{EventSource, Origin},
};

/// How long after its end an interval is closed by the clock, where events did not close it.
pub const GRACE: Duration = Duration::from_millis(100);

/// How long what is counted in the kernel is left unread at most: its counters have 32 bits.
const TALLY_AGE: Duration = Duration::from_mins(1);

/// Ticks in a row at most before signals are looked at: a recording can jump years.
const TICKS_AT_ONCE: u32 = 1024;

/// Events that a view is told of before they come: enough for their cache misses to overlap, few enough
/// for what they bring to stay in the nearest cache.
pub const LOOK_AHEAD: usize = 32;

/// What can come in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// End the run with its summary.
    Stop,
    /// `SIGUSR1`.
    Usr1,
    /// Whoever read our output has closed it.
    ReaderGone,
}

/// Where interrupts come from.
pub trait Interrupts {
    /// Ready with the next interrupt; else the waker is kept and woken.
    fn poll_interrupt(&mut self, cx: &mut Context<'_>) -> Poll<Interrupt>;
}

/// What the command line asks of the loop.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// End this long after the start of the capture.
    pub duration: Option<Duration>,
    /// The sockets that the view is to see.
    pub filter: Filter,
    /// Of these, the ones whose owner the view is to see.
    pub owner: OwnerFilter,
    /// The bounds of what is kept to tell whose a connection is.
    pub limits: Limits,
    /// Write out each batch at once, as a live source always does.
    pub interactive: bool,
}

/// Where a view writes.
pub struct Outputs<'a> {
    /// Data: standard output.
    pub out: &'a mut dyn Write,
    /// All else: standard error.
    pub err: &'a mut dyn Write,
}

/// How a run ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With its summary.
    Finished,
    /// Whoever read our output has closed it. There is no summary.
    ReaderGone,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The output could not be written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// The source of the events failed.
    #[error("the events broke off")]
    Source(#[source] anyhow::Error),
}

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

/// What the loop woke up for.
enum Wake {
    Interrupt(Interrupt),
    /// The clock has reached [`Driver::due_ns`].
    Clock,
    /// A part of the batch has not been shown yet.
    Rest,
    /// There are events, or `false`: there will be none.
    Events(anyhow::Result<bool>),
    /// All has been shown.
    End,
}

/// What is still to be expected of the source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Supply {
    Flowing,
    /// It was told to stop: what is on its way.
    Stopping,
    /// Nothing.
    Ended,
}

struct Driver<'a> {
    source: &'a mut dyn EventSource,
    view: &'a mut dyn View,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    origin: Origin,
    clock: Clock,
    /// `None` where everything passes: the common case pays nothing.
    settler: Option<Settler>,
    /// What of a census the view is to see.
    filter: Filter,
    /// `None` where everybody's pass.
    gate: Option<Gate>,
    selection: Selection,
    flush_each_batch: bool,
    /// The batch, and how much of it has been shown.
    batch: Vec<Event>,
    position: usize,
    interval_ns: Option<u64>,
    /// When a source that counts is to be read, for its counters not to wrap unseen; `None`: it does not count.
    tally_due_ns: Option<u64>,
    /// The end of the interval that is open; `None` without intervals, or at the end of time.
    next_tick_ns: Option<u64>,
    /// The end of the run as far as it is known: intervals that end here or later are closed after
    /// the last event, not by one.
    limit_ns: Option<u64>,
    /// The latest time that an event had.
    latest_ns: u64,
    supply: Supply,
    /// Events go to the view: not after the end of `--duration` in a recording, nor after the view
    /// was done.
    showing: bool,
    view_done: bool,
    /// The first failure, which is the one to tell.
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
            interval_ns,
            tally_due_ns: source
                .is_tally()
                .then(|| origin.started_ns.saturating_add(nanoseconds(TALLY_AGE))),
            next_tick_ns: interval_ns.and_then(|ns| origin.started_ns.checked_add(ns)),
            limit_ns,
            latest_ns: origin.started_ns,
            supply: Supply::Flowing,
            showing: true,
            view_done: false,
            failure: None,
            source,
            view,
            out,
            err,
            origin,
        }
    }

    async fn run(mut self, interrupts: &mut dyn Interrupts) -> Result<Outcome, RunError> {
        self.view.name(self.source.names());
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
            // The runtime looks at signals and timers when all has to wait; a recording never has.
            tokio::task::yield_now().await;
            let wake = poll_fn(|cx| {
                if let Poll::Ready(interrupt) = interrupts.poll_interrupt(cx) {
                    return Poll::Ready(Wake::Interrupt(interrupt));
                }
                if armed_ns.is_some() && timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Wake::Clock);
                }
                if self.position < self.batch.len() {
                    return Poll::Ready(Wake::Rest);
                }
                if self.supply == Supply::Ended {
                    return Poll::Ready(Wake::End);
                }
                self.batch.clear();
                self.position = 0;
                self.source.poll_next(cx, &mut self.batch).map(Wake::Events)
            });
            let wake = wake.await;
            self.tell_notices();
            step = match wake {
                Wake::Interrupt(Interrupt::ReaderGone) => return Ok(Outcome::ReaderGone),
                Wake::Interrupt(Interrupt::Stop) => {
                    // A recording has all its events on their way; it ends here.
                    self.showing &= self.origin.live;
                    self.stop(self.now_ns());
                    Ok(Flow::Continue)
                }
                Wake::Interrupt(Interrupt::Usr1) if self.showing => {
                    let flow = self.view.usr1(self.now_ns(), self.out, self.err);
                    self.out.flush().and(flow)
                }
                Wake::Interrupt(Interrupt::Usr1) => Ok(Flow::Continue),
                Wake::Clock => {
                    armed_ns = None;
                    self.by_clock()
                }
                Wake::Rest | Wake::Events(Ok(true)) => self.show(),
                Wake::Events(Ok(false)) => {
                    self.supply = Supply::Ended;
                    Ok(Flow::Continue)
                }
                Wake::Events(Err(error)) => {
                    self.failure.get_or_insert(RunError::Source(error));
                    self.supply = Supply::Ended;
                    // What came before the error is valid.
                    self.show()
                }
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

    /// Shows the rest of the batch, or as much of it as comes before very many intervals.
    #[expect(
        clippy::indexing_slicing,
        reason = "position < the length of the batch"
    )]
    fn show(&mut self) -> io::Result<Flow> {
        let mut ticks = TICKS_AT_ONCE;
        while let Some(event) = self.batch.get(self.position) {
            if !self.showing {
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
                self.showing = false;
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
        if self.position == self.batch.len() && self.show_censuses(&mut ticks)? == Flow::Done {
            return Ok(Flow::Done);
        }
        if self.flush_each_batch {
            self.out.flush()?;
        }
        Ok(Flow::Continue)
    }

    /// Gives the view each census that stands behind the batch, without what the filters do not want.
    fn show_censuses(&mut self, ticks: &mut u32) -> io::Result<Flow> {
        while let Some(mut census) = self.source.take_census() {
            if !self.showing {
                continue;
            }
            self.filter.census(&mut census);
            if let Some(gate) = &mut self.gate {
                gate.census(&mut census);
            }
            // What was there at the start belongs to the first interval, however long it took to list.
            let at_ns = if census.scope.is_of_sockets() {
                0
            } else {
                census.begin_ns
            };
            if self.close_intervals(at_ns, ticks)? == Flow::Done
                || self.view.census(&census, self.out)? == Flow::Done
            {
                return Ok(Flow::Done);
            }
        }
        Ok(Flow::Continue)
    }

    /// Gives the event at `index` of the batch to the view, if the filters want it.
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

    /// Ends the intervals that end at `ts_ns` or before, as long as `budget` lasts.
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

    /// Ends what ends by `now_ns`, and writes all out, so that it stands before the summary.
    ///
    /// No signal is looked at meanwhile. All events have been shown, so every interval but the first
    /// is empty: those beyond so many are ended as one.
    fn close_last_intervals(&mut self, now_ns: u64) -> io::Result<()> {
        let mut budget = TICKS_AT_ONCE;
        while let Some(end_ns) = self.next_tick_ns.filter(|&end_ns| end_ns <= now_ns)
            && !self.view_done
        {
            let end_ns = match self.interval_ns {
                Some(ns) if budget == 0 => now_ns - (now_ns - end_ns) % ns,
                _ => self.last_end(end_ns, now_ns),
            };
            budget = budget.saturating_sub(1);
            self.view_done = self.tick(end_ns)? == Flow::Done;
        }
        self.out.flush()
    }

    /// Passes on what the source has to tell. If nobody listens there, there is nobody to tell.
    fn tell_notices(&mut self) {
        for notice in self.source.notices() {
            let _ = writeln!(self.err, "tcpstate: {notice}");
        }
    }

    /// The end of the interval that is closed at `now_ns`, where the next one is `end_ns`: what is counted
    /// has no times, so intervals that were missed become one that is as long.
    fn last_end(&self, end_ns: u64, now_ns: u64) -> u64 {
        let Some(ns) = self.interval_ns.filter(|_| self.source.is_tally()) else {
            return end_ns;
        };
        let missed = now_ns.saturating_sub(end_ns) / ns;
        end_ns.saturating_add(missed.saturating_mul(ns))
    }

    /// Gives the view what the source has counted, where it counts.
    fn take_tally(&mut self) {
        if !self.source.is_tally() {
            return;
        }
        self.tally_due_ns = Some(self.now_ns().saturating_add(nanoseconds(TALLY_AGE)));
        match self.source.tally() {
            Ok(tally) => {
                let settled = &mut self.selection.settled;
                settled.passed += tally.total();
                settled.undecided = tally.undecided;
                self.view.tally(&tally);
            }
            Err(error) => {
                self.failure.get_or_insert(RunError::Source(error));
                self.stop(self.now_ns());
            }
        }
    }

    fn is_before_limit(&self, ns: u64) -> bool {
        self.limit_ns.is_none_or(|limit_ns| ns < limit_ns)
    }

    fn tick(&mut self, end_ns: u64) -> io::Result<Flow> {
        self.take_tally();
        self.next_tick_ns = self.interval_ns.and_then(|ns| end_ns.checked_add(ns));
        self.view.tick(end_ns, self.out)
    }

    /// How long an interval waits for events that are still on their way.
    fn grace_ns(&self) -> u64 {
        if self.source.is_tally() {
            0
        } else {
            nanoseconds(GRACE)
        }
    }

    /// When the clock has something to do; `None` for a recording, whose clock is its events.
    fn due_ns(&self) -> Option<u64> {
        if !self.origin.live || self.supply != Supply::Flowing {
            return None;
        }
        let tick_ns = self
            .next_tick_ns
            .filter(|&ns| self.is_before_limit(ns) && !self.source.is_settling());
        let tick_ns = tick_ns.map(|ns| ns.saturating_add(self.grace_ns()));
        let all = self.limit_ns.into_iter().chain(tick_ns);
        all.chain(self.tally_due_ns).min()
    }

    fn by_clock(&mut self) -> io::Result<Flow> {
        let now_ns = self.now_ns();
        if !self.is_before_limit(now_ns) {
            self.stop(now_ns);
            return Ok(Flow::Continue);
        }
        if self.tally_due_ns.is_some_and(|ns| ns <= now_ns) {
            self.take_tally();
        }
        let late_ns = now_ns.saturating_sub(self.grace_ns());
        let flow = self.close_intervals(late_ns, &mut TICKS_AT_ONCE.clone())?;
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

    /// The view wants nothing more.
    fn end_view(&mut self) {
        self.view_done = true;
        self.showing = false;
        self.stop(self.now_ns());
    }

    fn finish(&mut self) -> io::Result<()> {
        let now_ns = self.now_ns();
        let now_ns = self
            .limit_ns
            .map_or(now_ns, |limit_ns| limit_ns.min(now_ns));
        // A disk that is full is no reason to keep the books back.
        match self.close_last_intervals(now_ns) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                self.failure.get_or_insert(RunError::Output(error));
            }
            result => result?,
        }
        if self.source.is_tally() {
            self.take_tally();
        } else if let Some(settler) = &mut self.settler {
            self.selection.settled = settler.finish();
        }
        if let Some(gate) = &self.gate {
            // What it kept back had passed before.
            self.selection.settled.passed -= gate.dropped;
            self.selection.settled.dropped += gate.dropped;
        }
        let accounting = match self.source.accounting() {
            Ok(accounting) => accounting,
            Err(error) => {
                self.failure.get_or_insert(RunError::Source(error));
                return self.out.flush();
            }
        };
        let cost = cost::read(self.source.cost());
        let end = End {
            now_ns,
            accounting,
            selection: self.selection,
            cost,
        };
        self.view.finish(&end, self.out, self.err)?;
        self.out.flush()
    }

    /// Now, on the clock of the host that the events come from.
    fn now_ns(&self) -> u64 {
        if self.origin.live {
            self.clock.now_ns()
        } else {
            self.latest_ns
        }
    }
}

#[cfg(test)]
mod tests;
