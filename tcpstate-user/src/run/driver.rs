//! The loop itself.
//!
//! Its state and its life are here; [`show`] passes batches to the view, [`intervals`] belongs to the clock, and
//! [`play`](self::play) is what a recording needs that is played.

mod intervals;
mod play;
mod show;

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
    origin::Origin,
    play::Command,
    source::{EventSource, SourceError, Step},
    view::{End, Flow, Part, View},
};

use super::{
    clock::Clock,
    cost,
    counters::Counters,
    gate::Gate,
    interrupts::{Interrupt, Interrupts},
    options::{GRACE, LOOK_AHEAD, Options, Outcome, Outputs, Playing, RunError},
};
use play::Player;

/// The maximum number of ticks in a row without checking signals.
pub(super) const TICKS_AT_ONCE: u32 = 1024;

/// The number of empty intervals that a recording is shown one by one, more than a day of seconds. A longer row of
/// them is closed as one interval, because time can jump by years at each of its events.
pub(super) const EMPTY_INTERVALS: u64 = 100_000;

/// Before the clock closes an interval, the source has to have delivered all events up to this long ago. It is
/// longer than a source takes to deliver nearly every event (for others the clock asks again), and short enough for an event that
/// got its time before the end of the interval, and was submitted after it, to be among them.
const DELIVERY: Duration = Duration::from_millis(80);
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

/// As [`drive`], at the pace and with the jumps that the controls of a player ask for
/// ([`tcpstate_core::play`]). It ends as other runs do, but not with the recording.
///
/// Where the source or the view cannot go back ([`EventSource::seeking`], [`View::rewind`]), jumps only go forward.
pub async fn play<'a>(
    source: &'a mut dyn EventSource,
    view: &'a mut dyn View,
    outputs: Outputs<'a>,
    interrupts: &mut dyn Interrupts,
    options: &Options,
    playing: Playing,
) -> Result<Outcome, RunError> {
    let mut driver = Driver::new(source, view, outputs, options);
    let (start_ns, now_ns) = (driver.origin.started_ns, driver.clock.now_ns());
    let player = Player::new(playing, start_ns, now_ns);
    player.tell(start_ns);
    driver.player = Some(player);
    driver.run(interrupts).await
}

/// The reason for which the loop woke up.
enum Wake {
    Interrupt(Interrupt),
    /// A command to the player.
    Command(Command),
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

#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
struct Driver<'a> {
    source: &'a mut dyn EventSource,
    view: &'a mut dyn View,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    origin: Origin,
    clock: Clock,
    /// `None` if everything passes, so that the common case costs nothing.
    gate: Option<Gate>,
    selection: Selection,
    flush_each_batch: bool,
    verbose: bool,
    quiet: bool,
    part: Option<Part>,
    /// The begin of that part, until it is reached.
    from_ns: Option<u64>,
    /// Whether a recording gave notice that it is damaged or cut.
    damaged: bool,
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
    /// Whether nothing was shown in the open interval yet.
    is_empty: bool,
    /// The number of empty intervals that may still be closed one by one.
    empty_intervals: u64,
    /// Every event before this time has been shown.
    shown_ns: u64,
    /// The clock closes no interval before this time.
    retry_ns: u64,
    /// The time of a `SIGUSR1` that waits for the events before it.
    usr1_ns: Option<u64>,
    /// The end of the run, if known: intervals that end here or later are closed after the last event, not
    /// by an event.
    limit_ns: Option<u64>,
    /// The latest time of an event.
    latest_ns: u64,
    supply: Supply,
    /// Whether the source has finished seeding.
    settled: bool,
    intake: Intake,
    /// Whether the user has ended the run.
    is_stopped: bool,
    /// `None` if events are shown as soon as the source hands them out.
    player: Option<Player>,
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
        let mut origin = source.origin().clone();
        let part = options.part.as_ref();
        let from_ns = part.and_then(|part| part.from_ns);
        origin.started_ns = origin.started_ns.max(from_ns.unwrap_or(0));
        let duration_ns = options.duration.map(nanoseconds);
        let limit_ns = duration_ns
            .map(|ns| origin.started_ns.saturating_add(ns))
            .into_iter()
            .chain(part.and_then(|part| part.to_ns))
            .min();
        let interval_ns = view.interval_ns().filter(|&ns| ns > 0);
        Self {
            clock: Clock::start(),
            gate: (!options.expression.wants_all()).then(|| {
                let follows = origin.sample_interval_ns.is_some();
                Gate::new(&options.expression, source.names(), options.limits, follows)
            }),
            selection: Selection::default(),
            flush_each_batch: origin.live || options.interactive,
            verbose: options.verbose,
            quiet: options.quiet,
            part: options.part.clone(),
            from_ns,
            damaged: false,
            batch: Vec::new(),
            position: 0,
            census: None,
            interval_ns,
            counters: source
                .counting()
                .is_some()
                .then(|| Counters::new(origin.started_ns)),
            next_tick_ns: interval_ns.and_then(|ns| {
                intervals::first_end(source.intervals_from_ns(), origin.started_ns, ns)
            }),
            is_empty: true,
            empty_intervals: EMPTY_INTERVALS,
            shown_ns: origin.started_ns,
            retry_ns: origin.started_ns,
            usr1_ns: None,
            limit_ns,
            latest_ns: origin.started_ns,
            supply: Supply::Flowing,
            settled: false,
            intake: Intake::All,
            is_stopped: false,
            player: None,
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
                if let Poll::Ready(command) = self.poll_command(cx) {
                    return Poll::Ready(Wake::Command(command));
                }
                // Nothing is shown before the end of a jump.
                while !self.passes_ticks() && self.view.poll_asked(cx).is_ready() {}
                let is_due = armed_ns.is_some() && timer.as_mut().poll(cx).is_ready();
                if is_due && self.waits_for_no_event() {
                    return Poll::Ready(Wake::Clock);
                }
                if self.has_rest() {
                    return Poll::Ready(Wake::Rest);
                }
                if self.is_holding() {
                    return Poll::Pending;
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
                    self.end_by_user();
                    Ok(Flow::Continue)
                }
                Wake::Interrupt(Interrupt::Usr1) => {
                    self.usr1_ns.get_or_insert(self.now_ns());
                    self.usr1()
                }
                Wake::Command(command) => self.obey(command),
                Wake::Clock => {
                    armed_ns = None;
                    self.by_clock()
                }
                Wake::Early => Ok(Flow::Continue),
                Wake::Rest => self.show(),
                Wake::Step(step) => self.take_before_usr1(step),
                Wake::End => break,
            };
        }
        self.outcome()
    }

    /// Ends the view, and says how the run went.
    fn outcome(mut self) -> Result<Outcome, RunError> {
        match self.finish() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Outcome::ReaderGone),
            result => match (self.failure, result) {
                (Some(failure), _) => Err(failure),
                (None, Err(error)) => Err(RunError::Output(error)),
                (None, Ok(is_complete)) => Ok(if is_complete {
                    Outcome::Finished
                } else {
                    Outcome::Incomplete
                }),
            },
        }
    }

    /// Processes a step of the source, then a `SIGUSR1` that it shows to be complete: under load the source
    /// may never be without a step.
    fn take_before_usr1(&mut self, step: Result<Step, SourceError>) -> io::Result<Flow> {
        let flow = self.take(step)?;
        if flow == Flow::Done || self.has_rest() {
            return Ok(flow);
        }
        self.shown_ns = self
            .shown_ns
            .max(self.latest_ns.saturating_sub(nanoseconds(GRACE)));
        self.usr1()
    }

    /// Passes a `SIGUSR1` to the view, once all events before it have been shown: whoever sends it wants
    /// what has just happened. A stop does not wait for it, as the view then writes everything.
    fn usr1(&mut self) -> io::Result<Flow> {
        // Until then the source holds events back.
        let is_settled = self.settled;
        let is_complete =
            |&mut ns: &mut u64| !self.origin.live || is_settled && ns <= self.shown_ns;
        if self.usr1_ns.take_if(is_complete).is_none() || self.intake != Intake::All {
            return Ok(Flow::Continue);
        }
        let flow = self.view.usr1(self.now_ns(), self.out, self.err);
        self.out.flush().and(flow)
    }

    /// Processes a step of the source.
    fn take(&mut self, step: Result<Step, SourceError>) -> io::Result<Flow> {
        if step.is_ok() {
            self.keep();
        }
        match step {
            Ok(Step::Events) => return self.show(),
            Ok(Step::Census(census)) => {
                self.census = Some(census);
                return self.show();
            }
            Ok(Step::Recalled(recalled)) => return self.recall(*recalled),
            Ok(Step::Packets(packets)) => return self.show_packets(packets),
            Ok(Step::Settled) => self.settled = true,
            Ok(Step::Notice(notice)) => {
                self.damaged |= notice.is_damage;
                // An error means that standard error is closed, and then the notice has no reader.
                let _ = writeln!(self.err, "tcpstate: {}", notice.text);
            }
            Ok(Step::End) => {
                self.supply = Supply::Ended;
                if let Some(end_ns) = self.source.ended_ns() {
                    // The run ends where the capture did, which may be long after the last event.
                    if self.player.is_none() {
                        self.latest_ns = self.latest_ns.max(end_ns);
                    }
                    self.limit_ns = Some(
                        self.limit_ns
                            .map_or(end_ns, |limit_ns| limit_ns.min(end_ns)),
                    );
                }
                if self.player.is_some() {
                    return self.show();
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

    /// The books of the run so far.
    fn books(&mut self) -> Result<RunBooks, SourceError> {
        Ok(RunBooks {
            accounting: self.source.accounting()?,
            selection: self.selection(),
            cost: cost::read(self.source.cost()),
            load: self.source.load(),
        })
    }

    /// The destinations of the events that have been received and decided.
    fn selection(&self) -> Selection {
        let mut selection = self.selection;
        if let (None, Some(gate)) = (&self.counters, &self.gate) {
            selection.settled = gate.settled();
        }
        selection
    }

    /// Stops the source; the run ends at `at_ns`.
    fn stop(&mut self, at_ns: u64) {
        if self.supply == Supply::Flowing {
            self.supply = Supply::Stopping;
            self.limit_ns = Some(self.limit_ns.map_or(at_ns, |limit_ns| limit_ns.min(at_ns)));
            self.source.stop();
        }
    }

    /// Stops the source, and the player.
    fn end_by_user(&mut self) {
        // All further events of a recording are pending, so it ends here.
        if !self.origin.live {
            self.intake = self.intake.max(Intake::Ticks);
        }
        self.is_stopped = true;
        self.stop(self.now_ns());
    }

    /// Stops passing events to the view, and stops the source.
    fn end_view(&mut self) {
        self.intake = Intake::Nothing;
        self.stop(self.now_ns());
    }

    /// Ends the output. Returns whether nothing is known to be missing from it.
    fn finish(&mut self) -> io::Result<bool> {
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
        } else if let Some(gate) = &mut self.gate {
            gate.finish();
        }
        let RunBooks {
            accounting,
            selection,
            cost,
            ..
        } = match self.books() {
            Ok(books) => books,
            Err(error) => {
                self.failure.get_or_insert(RunError::Source(error));
                return self.out.flush().map(|()| false);
            }
        };
        let end = End {
            now_ns,
            accounting,
            selection,
            cost,
            damaged: self.damaged || self.view.left_out(),
            verbose: self.verbose,
            part: self.part.take(),
            evidence: self.origin.evidence(),
            packets: self.source.packets(),
        };
        let is_complete = end.is_complete(self.view.connections().as_ref());
        let mut nowhere = io::sink();
        let err: &mut dyn Write = if self.quiet && is_complete && self.failure.is_none() {
            &mut nowhere
        } else {
            self.err
        };
        self.view.finish(&end, self.out, err)?;
        self.out.flush()?;
        Ok(is_complete)
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
