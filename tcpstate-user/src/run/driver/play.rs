//! Playing a recording: the loop waits for the time of the next event, obeys commands, and jumps.
//!
//! [`play`](tcpstate_core::play) says how. While the batch or the census has something at
//! [`Player::until_ns`] or later, the loop *holds* it: it is not shown, and the source is not asked for more. Pausing,
//! playing, a step and a jump differ only in that time.

use std::{
    any::Any,
    io,
    task::{Context, Poll},
    time::Duration,
};

use tcpstate_core::{
    books::Selection,
    duration::nanoseconds,
    play::{Checkpoints, Command, Inbox, Pace, Position},
    source::Mark,
    view::Flow,
};

use super::{Driver, Gate, Intake, Playing, RunError, Supply};

/// The loop wakes up no more often than this to show events that have become due.
const FRAME: Duration = Duration::from_millis(20);

/// The part of a run that plays.
pub(super) struct Player {
    inbox: Inbox,
    pace: Pace,
    checkpoints: Checkpoints<Kept>,
    /// The end of a step or a jump on the way.
    goal: Option<Goal>,
    /// Events and censuses at this time or later are held.
    until_ns: u64,
    /// The position: all before it has been shown.
    reached_ns: u64,
    /// The events of the recording before the batch.
    events: u64,
    end_ns: Option<u64>,
    is_at_end: bool,
    /// When events were last shown because they had become due, on the clock of this host.
    woke_ns: u64,
    obeyed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// This position.
    Position(u64),
    /// One event more than so many that have passed the filter.
    EventAfter(u64),
}

/// The state of a run before one of the steps of its source.
struct Kept {
    mark: Mark,
    view: Box<dyn Any>,
    gate: Option<Gate>,
    selection: Selection,
    from_ns: Option<u64>,
    next_tick_ns: Option<u64>,
    is_empty: bool,
    empty_intervals: u64,
    shown_ns: u64,
    limit_ns: Option<u64>,
    latest_ns: u64,
    supply: Supply,
    intake: Intake,
    reached_ns: u64,
}

/// The next thing that the loop has to show.
enum Next {
    /// The source has to be asked.
    Unknown,
    /// It is at this time.
    At(u64),
    /// Nothing is left.
    Nothing,
}

impl Player {
    /// A player at the begin, which shows the state there first. It is `now_ns` on the clock of this host.
    pub(super) fn new(playing: Playing, start_ns: u64, now_ns: u64) -> Self {
        let Playing {
            inbox,
            end_ns,
            checkpoint_bytes,
            checkpoint_events,
        } = playing;
        Self {
            inbox,
            pace: Pace::new(start_ns, now_ns),
            checkpoints: Checkpoints::new(checkpoint_bytes, checkpoint_events),
            goal: Some(Goal::Position(start_ns)),
            until_ns: start_ns,
            reached_ns: start_ns,
            events: 0,
            end_ns,
            is_at_end: false,
            woke_ns: now_ns,
            obeyed: 0,
        }
    }

    /// Whether a step or a jump is on the way, so that nothing is shown before its end.
    const fn is_seeking(&self) -> bool {
        self.goal.is_some()
    }

    /// Whether something at this time has to wait.
    const fn holds(&self, ns: u64) -> bool {
        self.until_ns <= ns && self.until_ns != u64::MAX
    }

    /// Tells whoever holds the controls where playing is.
    pub(super) fn tell(&self, start_ns: u64) {
        self.inbox.tell(Position {
            start_ns,
            now_ns: self.reached_ns,
            end_ns: self.end_ns,
            speed: self.pace.speed(),
            is_paused: self.pace.is_paused(),
            is_seeking: self.is_seeking(),
            is_at_end: self.is_at_end,
            obeyed: self.obeyed,
        });
    }
}

impl Driver<'_> {
    /// The next command of whoever controls the player.
    pub(super) fn poll_command(&self, cx: &Context<'_>) -> Poll<Command> {
        match &self.player {
            Some(player) => player.inbox.poll_command(cx),
            None => Poll::Pending,
        }
    }

    /// Whether something at this time has to wait.
    pub(super) fn holds(&self, ns: u64) -> bool {
        let Some(player) = &self.player else {
            return false;
        };
        match player.goal {
            _ if self.intake != Intake::All => false,
            Some(Goal::EventAfter(passed)) => self.passed() > passed,
            _ => player.holds(ns),
        }
    }

    /// Whether ticks are passed over: those before the end of a jump are not shown.
    pub(super) fn passes_ticks(&self) -> bool {
        let player = self.player.as_ref();
        !self.is_stopped && player.is_some_and(Player::is_seeking)
    }

    /// Notes that an event at this time is shown.
    pub(super) fn has_shown(&mut self, ns: u64) {
        if let Some(player) = &mut self.player {
            player.reached_ns = player.reached_ns.max(ns.saturating_add(1));
        }
    }

    /// Whether the loop waits for a time or a command, not for the source.
    pub(super) fn is_holding(&self) -> bool {
        self.player.is_some()
            && match self.next() {
                Next::Unknown => false,
                Next::At(ns) => self.holds(ns),
                Next::Nothing => !self.ends_with_source(),
            }
    }

    /// Whether the run ends when nothing is left: one that is played waits for commands.
    fn ends_with_source(&self) -> bool {
        self.player.is_none()
            || self.failure.is_some()
            || self.intake == Intake::Nothing
            || self.is_stopped
    }

    /// Whether intervals are to be closed that end at a position that has been reached.
    pub(super) fn owes_ticks(&self) -> bool {
        let Some(until_ns) = self.reachable_ns() else {
            return false;
        };
        self.next_tick_ns
            .is_some_and(|ns| ns <= until_ns && self.is_before_limit(ns))
    }

    /// The wall time at which the loop has to act, for a recording that is played.
    pub(super) fn play_due_ns(&self) -> Option<u64> {
        let player = self.player.as_ref()?;
        if player.is_seeking() || player.pace.is_paused() || player.is_at_end || self.has_rest() {
            return None;
        }
        let next_ns = match self.next() {
            Next::Unknown => return None,
            Next::At(ns) => ns.saturating_add(1),
            Next::Nothing => self.end_of_play_ns(),
        };
        let tick_ns = self.next_tick_ns.filter(|&ns| self.is_before_limit(ns));
        let due_ns = player
            .pace
            .wall_ns(tick_ns.map_or(next_ns, |ns| ns.min(next_ns)))?;
        Some(due_ns.max(player.woke_ns.saturating_add(nanoseconds(FRAME))))
    }

    /// Shows what has become due.
    pub(super) fn play_on(&mut self) -> io::Result<Flow> {
        let wall_ns = self.clock.now_ns();
        if let Some(player) = &mut self.player
            && !player.is_seeking()
        {
            player.woke_ns = wall_ns;
            player.until_ns = player.pace.position_ns(wall_ns).max(player.reached_ns);
        }
        self.show()
    }

    /// Obeys a command.
    pub(super) fn obey(&mut self, command: Command) -> io::Result<Flow> {
        let (wall_ns, passed) = (self.clock.now_ns(), self.passed());
        let (start_ns, next_tick_ns) = (self.origin.started_ns, self.next_tick_ns);
        let Some(player) = &mut self.player else {
            return Ok(Flow::Continue);
        };
        player.obeyed += 1;
        let reached_ns = player.reached_ns;
        match command {
            Command::Resume => player.pace.resume(wall_ns),
            Command::Speed(speed) => player.pace.set_speed(speed, reached_ns, wall_ns),
            Command::Pause => {
                player.pace.pause(reached_ns, wall_ns);
                player.goal = Some(Goal::Position(reached_ns));
            }
            Command::StepEvent => {
                player.pace.pause(reached_ns, wall_ns);
                player.goal = Some(Goal::EventAfter(passed));
            }
            Command::StepTick => {
                player.pace.pause(reached_ns, wall_ns);
                player.goal = Some(Goal::Position(next_tick_ns.unwrap_or(reached_ns)));
            }
            Command::SeekTo(_) | Command::SeekBy(_) => {
                let from_ns = match player.goal {
                    Some(Goal::Position(ns)) => ns,
                    _ => reached_ns,
                };
                let to_ns = match command {
                    Command::SeekBy(by_ns) => from_ns.saturating_add_signed(by_ns),
                    Command::SeekTo(ns) => ns,
                    _ => from_ns,
                };
                let to_ns = to_ns.max(start_ns);
                player.goal = Some(Goal::Position(to_ns));
                self.approach(to_ns);
            }
        }
        self.set_until(wall_ns);
        self.show()
    }

    /// Sets the time from which on all is held, after a change of goal or pace.
    fn set_until(&mut self, wall_ns: u64) {
        if let Some(player) = &mut self.player {
            player.until_ns = match player.goal {
                Some(Goal::Position(ns)) => ns,
                Some(Goal::EventAfter(_)) => u64::MAX,
                None => player.pace.position_ns(wall_ns).max(player.reached_ns),
            };
            player.tell(self.origin.started_ns);
        }
    }

    /// Goes to the place in the recording from which this position is soonest reached.
    fn approach(&mut self, to_ns: u64) {
        let Some(player) = &mut self.player else {
            return;
        };
        let Some((events, kept)) = player.checkpoints.before(to_ns) else {
            // There is no way back: it stays where it is.
            player.goal = Some(Goal::Position(to_ns.max(player.reached_ns)));
            return;
        };
        if to_ns >= player.reached_ns && events <= player.events {
            return;
        }
        let Some(source) = self.source.seeking() else {
            return;
        };
        if let Err(error) = source.go_to(&kept.mark) {
            self.failure.get_or_insert(RunError::Source(error));
            self.supply = Supply::Ended;
            return;
        }
        if let Some(view) = self.view.rewind() {
            view.restore(kept.view.as_ref());
        }
        self.gate.clone_from(&kept.gate);
        self.selection = kept.selection;
        self.from_ns = kept.from_ns;
        self.next_tick_ns = kept.next_tick_ns;
        self.is_empty = kept.is_empty;
        self.empty_intervals = kept.empty_intervals;
        self.shown_ns = kept.shown_ns;
        self.limit_ns = kept.limit_ns;
        self.latest_ns = kept.latest_ns;
        self.supply = kept.supply;
        self.intake = kept.intake;
        player.reached_ns = kept.reached_ns;
        player.events = events;
        player.is_at_end = false;
        self.batch.clear();
        self.position = 0;
        self.census = None;
    }

    /// Keeps the state before the step that the source has just handed out, where that is worth it.
    pub(super) fn keep(&mut self) {
        let Some(player) = &mut self.player else {
            return;
        };
        let Some(mark) = self.source.seeking().and_then(|source| source.mark()) else {
            return;
        };
        player.events = mark.events;
        if !player.checkpoints.wants(mark.events) {
            return;
        }
        let Some(view) = self.view.rewind() else {
            return;
        };
        let gate_bytes = self.gate.as_ref().map_or(0, Gate::memory);
        let bytes = view.kept_bytes().saturating_add(gate_bytes);
        let kept = Kept {
            mark,
            view: view.keep(),
            gate: self.gate.clone(),
            selection: self.selection,
            from_ns: self.from_ns,
            next_tick_ns: self.next_tick_ns,
            is_empty: self.is_empty,
            empty_intervals: self.empty_intervals,
            shown_ns: self.shown_ns,
            limit_ns: self.limit_ns,
            latest_ns: self.latest_ns,
            supply: self.supply,
            intake: self.intake,
            reached_ns: player.reached_ns,
        };
        let (events, reached_ns) = (player.events, player.reached_ns);
        player.checkpoints.add(events, reached_ns, bytes, kept);
    }

    /// Closes the intervals that end before what is held, and ends a jump that has arrived.
    pub(super) fn reach(&mut self, ticks: &mut u32) -> io::Result<Flow> {
        let Some(until_ns) = self.reachable_ns() else {
            return Ok(Flow::Continue);
        };
        if self.close_intervals(until_ns, ticks)? == Flow::Done {
            return Ok(Flow::Done);
        }
        if self.owes_ticks() {
            return Ok(Flow::Continue);
        }
        let is_at_end = matches!(self.next(), Next::Nothing) && until_ns >= self.end_of_play_ns();
        let wall_ns = self.clock.now_ns();
        let start_ns = self.origin.started_ns;
        let Some(player) = &mut self.player else {
            return Ok(Flow::Continue);
        };
        player.reached_ns = player.reached_ns.max(until_ns);
        self.latest_ns = self.latest_ns.max(player.reached_ns);
        let arrives = player.goal.take().is_some();
        let ends = is_at_end && !player.is_at_end;
        player.is_at_end = is_at_end;
        if is_at_end {
            player.end_ns = Some(player.reached_ns);
        }
        if arrives || ends {
            player.pace.go_to(player.reached_ns, wall_ns);
        }
        if arrives {
            player.until_ns = player.pace.position_ns(wall_ns);
        }
        // Before the snapshot: whoever gets that finds the position of it.
        player.tell(start_ns);
        if arrives || ends {
            self.show_position()?;
        }
        Ok(Flow::Continue)
    }

    /// Shows the state at the position.
    fn show_position(&mut self) -> io::Result<()> {
        let Some(reached_ns) = self.player.as_ref().map(|player| player.reached_ns) else {
            return Ok(());
        };
        self.tell_books();
        if let Some(view) = self.view.rewind() {
            view.show(reached_ns);
        }
        self.out.flush()
    }

    /// The time up to which all has been shown, and the intervals can be closed; `None` where something before
    /// it may still come.
    fn reachable_ns(&self) -> Option<u64> {
        let player = self.player.as_ref()?;
        if self.intake == Intake::Nothing || self.is_stopped {
            return None;
        }
        match self.next() {
            Next::Unknown => None,
            Next::At(ns) if !self.holds(ns) => None,
            Next::At(_) if player.until_ns == u64::MAX => Some(player.reached_ns),
            Next::At(_) => Some(player.until_ns),
            Next::Nothing => Some(player.until_ns.min(self.end_of_play_ns())),
        }
    }

    fn next(&self) -> Next {
        match (self.batch.get(self.position), &self.census) {
            (Some(event), _) => Next::At(event.ts_ns()),
            (None, Some(census)) => Next::At(census.begin_ns),
            (None, None) if self.supply == Supply::Ended => Next::Nothing,
            (None, None) => Next::Unknown,
        }
    }

    /// The last position, once the source has ended.
    fn end_of_play_ns(&self) -> u64 {
        let reached_ns = self.player.as_ref().map_or(0, |player| player.reached_ns);
        let end_ns = match self.intake {
            Intake::All => reached_ns.max(self.source.ended_ns().unwrap_or(0)),
            // At the end of the part that was asked for.
            Intake::Ticks | Intake::Nothing => u64::MAX,
        };
        self.limit_ns
            .map_or(end_ns, |limit_ns| limit_ns.min(end_ns))
    }

    /// The events that the filter has let through.
    fn passed(&self) -> u64 {
        self.selection().settled.passed
    }
}
