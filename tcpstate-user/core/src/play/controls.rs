//! The two ends of a player's controls: commands go one way, the position comes back.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::Speed;

/// A command to whoever plays a recording. Each but [`Command::Resume`] and [`Command::Speed`] is followed by a
/// snapshot of the position that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Stands still; breaks off a jump where it is.
    Pause,
    /// Goes on.
    Resume,
    /// Shows the next event that the filter lets through, and pauses.
    StepEvent,
    /// Goes on to the next tick, and pauses. To go to the next finding, repeat it until the snapshot has one.
    StepTick,
    /// Jumps to this position; before the begin or beyond the end, to that. It plays or stands there as it did before.
    SeekTo(u64),
    /// Jumps by so many nanoseconds, back if negative: from here, or from where a jump is about to arrive.
    SeekBy(i64),
    /// Plays at this speed, once it plays.
    Speed(Speed),
}

/// Where playing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Monotonic time at which the recording, or the part of it that is played, begins.
    pub start_ns: u64,
    /// Monotonic time of the position: all before the first event at that time or later is shown.
    pub now_ns: u64,
    /// Monotonic time of the end, where it is known.
    pub end_ns: Option<u64>,
    /// The speed of playing, also in a pause.
    pub speed: Speed,
    /// Whether it stands still.
    pub is_paused: bool,
    /// Whether a jump or a step has not arrived yet.
    pub is_seeking: bool,
    /// Whether nothing is left to be shown.
    pub is_at_end: bool,
    /// The number of commands that have been obeyed; a later one may have replaced an earlier one.
    pub obeyed: u64,
}

impl Position {
    /// The part of the whole that lies behind, from 0 to 1; `None` where the end is not known.
    pub fn fraction(&self) -> Option<f64> {
        let all = self.end_ns?.saturating_sub(self.start_ns);
        let behind = self.now_ns.saturating_sub(self.start_ns).min(all);
        #[expect(clippy::cast_precision_loss, reason = "it is shown")]
        Some(if all == 0 {
            1.0
        } else {
            behind as f64 / all as f64
        })
    }
}

#[derive(Debug, Default)]
struct State {
    /// Taken as soon as the player polls, many times a second, also while it jumps.
    commands: VecDeque<Command>,
    sent: u64,
    waker: Option<Waker>,
    /// `None` before playing has begun.
    position: Option<Position>,
}

#[derive(Debug, Default)]
struct Shared(Mutex<State>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No holder of the lock can leave the state half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The controls of a player, for whoever shows it. A clone controls the same player.
#[derive(Clone, Debug)]
pub struct Controls(Arc<Shared>);

impl Controls {
    /// Sends a command. Returns its number, from 1 on: once [`Position::obeyed`] has reached it and nothing is sought
    /// ([`Position::is_seeking`]), the snapshot that ends at [`Position::now_ns`] is the one that it led to.
    pub fn send(&self, command: Command) -> u64 {
        let mut state = self.0.lock();
        state.commands.push_back(command);
        state.sent += 1;
        let (sent, waker) = (state.sent, state.waker.take());
        drop(state);
        // After the lock is released: a waker may run any code.
        if let Some(waker) = waker {
            waker.wake();
        }
        sent
    }

    /// Where playing is; `None` before it has begun.
    pub fn position(&self) -> Option<Position> {
        self.0.lock().position
    }
}

/// The end of the controls that the player holds.
#[derive(Debug)]
pub struct Inbox(Arc<Shared>);

impl Inbox {
    /// The next command; otherwise the waker is kept, and woken by one.
    pub fn poll_command(&self, cx: &Context<'_>) -> Poll<Command> {
        let mut state = self.0.lock();
        if let Some(command) = state.commands.pop_front() {
            return Poll::Ready(command);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Tells where playing is.
    pub fn tell(&self, position: Position) {
        self.0.lock().position = Some(position);
    }
}

/// Both ends of the controls of one player.
pub fn controls() -> (Controls, Inbox) {
    let shared = Arc::<Shared>::default();
    (Controls(Arc::clone(&shared)), Inbox(shared))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn commands_come_in_order_and_wake_the_player() {
        let (controls, inbox) = controls();
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let cx = Context::from_waker(&waker);
        assert!(inbox.poll_command(&cx).is_pending());
        assert_eq!(controls.send(Command::Pause), 1);
        assert_eq!(controls.clone().send(Command::SeekTo(5)), 2);
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "it has not asked again");
        assert_eq!(inbox.poll_command(&cx), Poll::Ready(Command::Pause));
        assert_eq!(inbox.poll_command(&cx), Poll::Ready(Command::SeekTo(5)));
        assert!(inbox.poll_command(&cx).is_pending());
        assert!(controls.position().is_none());
    }

    #[test]
    fn a_fraction_is_that_of_the_time_between_begin_and_end() {
        let position = Position {
            start_ns: 100,
            now_ns: 150,
            end_ns: Some(300),
            speed: Speed::NORMAL,
            is_paused: false,
            is_seeking: false,
            is_at_end: false,
            obeyed: 0,
        };
        let (controls, inbox) = controls();
        inbox.tell(position);
        let fraction = |position: Position| position.fraction();
        assert_eq!(controls.position().and_then(fraction), Some(0.25));
        let at = |now_ns, end_ns| Position {
            now_ns,
            end_ns,
            ..position
        };
        assert_eq!(fraction(at(400, Some(300))), Some(1.0));
        assert_eq!(fraction(at(50, Some(300))), Some(0.0));
        assert_eq!(fraction(at(100, Some(100))), Some(1.0));
        assert_eq!(fraction(at(150, None)), None);
    }
}
