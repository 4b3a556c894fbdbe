//! The exchange between the sampler's thread and the reader's: censuses go one way, reports of minisockets
//! the other.
//!
//! A census must stand in the stream behind every event that was made before its dump began. So the
//! reader takes censuses before it empties the ring, and during a full dump it notes which sockets it saw
//! events of.

use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tcpstate_core::census::Census;

/// Time for which the sampler remembers a namespace that it cannot find, from the reader's last report on: as
/// long as minisockets may remain there, which cannot be sampled.
pub(super) const FORGET: Duration = Duration::from_mins(5);

/// A part of a census waits while the run has to receive more than this.
const AHEAD: usize = 2;

/// State shared by the sampler, the reader and their owner.
#[derive(Default)]
pub(super) struct Exchange {
    state: Mutex<State>,
    changed: Condvar,
    /// The reader saw a socket begin to listen.
    listened: AtomicBool,
    /// CPU time that sampling has taken, inside of namespaces too, nanoseconds.
    pub(super) sampling_ns: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Published and not taken yet, in order.
    censuses: Vec<Census>,
    /// Number of censuses published that the run has not received yet, those in the queue included.
    in_flight: usize,
    /// Sentences for the user.
    notices: VecDeque<String>,
    /// Namespaces in which the reader saw minisockets being made.
    netns_with_minisockets: Vec<u32>,
    full_dump: FullDump,
    /// The seed has been published, or will never be.
    seeded: bool,
    /// The sampler has to dump once more and end.
    stopping: bool,
    /// The reader has ended, and takes nothing any more.
    abandoned: bool,
}

/// Progress of a full dump.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum FullDump {
    /// There is none.
    #[default]
    None,
    /// One is about to begin: the reader has to note the sockets that have events.
    Announced,
    /// The reader does so, and the dump is in progress.
    Noted,
}

/// Result of [`Exchange::take`].
pub(super) struct Taken {
    /// Published since the last time, in order.
    pub(super) censuses: Vec<Census>,
    /// The reader has to note the sockets that it sees events of from here on.
    pub(super) noting: bool,
    /// The seed is among the censuses taken up to now, or will never be made.
    pub(super) seeded: bool,
}

impl Exchange {
    /// One with a seed to come. A socket that has an event from now on is not in it, however early: its event may be read
    /// before the dump begins, and is handed on behind the seed all the same.
    pub(super) fn with_seed() -> Self {
        let this = Self::default();
        this.lock().full_dump = FullDump::Noted;
        this
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves nothing half done: each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what has been published. The reader calls this before it empties the ring, so that the
    /// records that were in the ring by then come first.
    pub(super) fn take(&self) -> Taken {
        let mut state = self.lock();
        let censuses = std::mem::take(&mut state.censuses);
        if state.full_dump == FullDump::Announced {
            state.full_dump = FullDump::Noted;
            self.changed.notify_all();
        }
        Taken {
            censuses,
            noting: state.full_dump == FullDump::Noted,
            seeded: state.seeded,
        }
    }

    /// The run has received a census.
    pub(super) fn census_received(&self) {
        let mut state = self.lock();
        state.in_flight -= 1;
        if state.in_flight == 0 || state.in_flight == AHEAD {
            self.changed.notify_all();
        }
    }

    /// Waits until the run has received nearly everything published, but not beyond `deadline` if there is one, nor if the
    /// sampler has to end: then the run waits for it.
    pub(super) fn wait_for_room(&self, deadline: Option<Instant>) {
        let mut state = self.lock();
        while state.in_flight > AHEAD && !state.stopping {
            state = match deadline {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return;
                    }
                    self.changed
                        .wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    /// Waits until the run has received everything published, so that nothing piles up for a slow run.
    /// `false`: the sampler has to end.
    pub(super) fn wait_until_received(&self) -> bool {
        let mut state = self.lock();
        while state.in_flight > 0 && !state.stopping {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        !state.stopping
    }

    /// The reader has seen a minisocket being made in a namespace, the first for some time.
    pub(super) fn report_minisockets(&self, netns: u32) {
        self.lock().netns_with_minisockets.push(netns);
    }

    /// Takes the namespaces that the reader reported.
    pub(super) fn take_netns_with_minisockets(&self) -> Vec<u32> {
        std::mem::take(&mut self.lock().netns_with_minisockets)
    }

    /// The reader has seen a socket begin to listen.
    pub(super) fn report_listener(&self) {
        self.listened.store(true, Ordering::Release);
    }

    /// Whether one was reported since the last call.
    pub(super) fn take_listened(&self) -> bool {
        self.listened.swap(false, Ordering::AcqRel)
    }

    /// The next notice for the user.
    pub(super) fn notice(&self) -> Option<String> {
        self.lock().notices.pop_front()
    }

    /// Lets the sampler dump once more and end.
    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }

    /// Lets the sampler end without waiting for the reader or the run.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.stopping = true;
        state.abandoned = true;
        self.changed.notify_all();
    }

    /// Announces a full dump and waits until the reader notes the sockets that it sees events of.
    /// `false`: the reader has ended. `wake` wakes the reader.
    pub(super) fn begin_full_dump(&self, wake: impl Fn()) -> bool {
        let mut state = self.lock();
        state.full_dump = FullDump::Announced;
        wake();
        while state.full_dump == FullDump::Announced && !state.abandoned {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        !state.abandoned
    }

    /// Hands over censuses and notices. `ends_full_dump`: the full dump is complete, or has failed.
    pub(super) fn publish(
        &self,
        censuses: Vec<Census>,
        notices: Vec<String>,
        ends_full_dump: bool,
    ) {
        let mut state = self.lock();
        state.in_flight += censuses.len();
        state.censuses.extend(censuses);
        state.notices.extend(notices);
        if ends_full_dump {
            state.full_dump = FullDump::None;
            state.seeded = true;
        }
    }

    /// Sleeps until `then`; `false`: the sampler has to end.
    pub(super) fn sleep_until(&self, then: Instant) -> bool {
        let mut state = self.lock();
        loop {
            let left = then.saturating_duration_since(Instant::now());
            if state.stopping || left.is_zero() {
                return !state.stopping;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// The result of a wait that `then` ends; `None`: it was over before.
    fn ends<T: Send>(wait: impl FnOnce() -> T + Send, then: impl FnOnce()) -> Option<T> {
        thread::scope(|scope| {
            let waiter = scope.spawn(wait);
            thread::sleep(Duration::from_millis(50));
            let is_waiting = !waiter.is_finished();
            then();
            let result = waiter.join().ok()?;
            is_waiting.then_some(result)
        })
    }

    #[test]
    fn sockets_are_noted_from_the_start_until_the_seed() {
        let exchange = Exchange::with_seed();
        assert!(exchange.take().noting);
        thread::scope(|scope| {
            let dump = scope.spawn(|| exchange.begin_full_dump(|| ()));
            while !dump.is_finished() {
                assert!(exchange.take().noting);
            }
        });
        assert!(exchange.take().noting);
        exchange.publish(Vec::new(), Vec::new(), true);
        let taken = exchange.take();
        assert!(!taken.noting && taken.seeded);
        assert!(!Exchange::default().take().noting);
    }

    #[test]
    fn the_next_sample_waits_until_the_run_has_received_what_was_published() {
        let exchange = Exchange::default();
        assert!(exchange.wait_until_received());
        exchange.publish(vec![Census::default(); 2], Vec::new(), false);
        assert_eq!(exchange.take().censuses.len(), 2);
        exchange.census_received();
        // The other one still waits in the queue.
        let wait = || exchange.wait_until_received();
        assert_eq!(ends(wait, || exchange.census_received()), Some(true));
        exchange.publish(vec![Census::default()], Vec::new(), false);
        assert_eq!(ends(wait, || exchange.stop()), Some(false));
    }

    #[test]
    fn a_sample_waits_for_room_but_not_beyond_its_deadline() {
        let exchange = Exchange::default();
        exchange.publish(vec![Census::default(); AHEAD], Vec::new(), false);
        exchange.wait_for_room(None);
        exchange.publish(vec![Census::default()], Vec::new(), false);
        exchange.wait_for_room(Some(Instant::now() + Duration::from_millis(10)));
        let wait = || exchange.wait_for_room(None);
        assert_eq!(ends(wait, || exchange.census_received()), Some(()));
        exchange.publish(vec![Census::default()], Vec::new(), false);
        assert_eq!(ends(wait, || exchange.stop()), Some(()));
    }
}
