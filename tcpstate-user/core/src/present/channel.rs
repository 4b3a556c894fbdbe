//! The channel from the publisher to its consumers: a place for the latest snapshot, and the wakers of
//! those that wait for the next.
//!
//! Either side holds the lock for a few instructions only, never while a snapshot is made, read or freed.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::snapshot::RunSnapshot;

#[derive(Debug, Default)]
struct State {
    latest: Option<Arc<RunSnapshot>>,
    /// No snapshot follows.
    ended: bool,
    /// The wakers of the subscribers that wait, one each, by number.
    waiting: Vec<(u64, Waker)>,
    /// Subscribers that there have been.
    subscribers: u64,
    /// One of them wants the open connections in the next snapshot.
    wants_connections: bool,
}

#[derive(Debug, Default)]
struct Shared(Mutex<State>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No holder of the lock can leave the state half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The publisher's end.
#[derive(Debug, Default)]
pub(super) struct Sender(Arc<Shared>);

impl Sender {
    /// Replaces the latest snapshot and wakes the subscribers that wait.
    pub(super) fn publish(&self, snapshot: RunSnapshot) {
        let is_final = snapshot.is_final;
        let snapshot = Arc::new(snapshot);
        let mut state = self.0.lock();
        let before = state.latest.replace(snapshot);
        state.ended |= is_final;
        wake(state);
        // Freeing it can take a while: it is large, and this may be the last reference.
        drop(before);
    }

    /// The latest snapshot.
    pub(super) fn latest(&self) -> Option<Arc<RunSnapshot>> {
        self.0.lock().latest.clone()
    }

    /// Whether a subscriber has asked for the open connections since the last call.
    pub(super) fn take_wish(&self) -> bool {
        std::mem::take(&mut self.0.lock().wants_connections)
    }

    /// A new subscriber, which has seen nothing yet.
    pub(super) fn subscribe(&self) -> Subscriber {
        Subscriber::new(Arc::clone(&self.0), 0)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.ended = true;
        wake(state);
    }
}

/// Wakes all that wait, after the lock is released: a waker may run any code.
fn wake(mut state: MutexGuard<'_, State>) {
    let waiting = std::mem::take(&mut state.waiting);
    drop(state);
    for (_, waker) in waiting {
        waker.wake();
    }
}

/// A consumer's end. A clone is a consumer of its own, which has seen what this one has.
#[derive(Debug)]
pub struct Subscriber {
    shared: Arc<Shared>,
    /// Its number among the subscribers.
    number: u64,
    /// The number of the snapshot that it got last from [`Subscriber::next`].
    seen: u64,
}

impl Subscriber {
    fn new(shared: Arc<Shared>, seen: u64) -> Self {
        let mut state = shared.lock();
        state.subscribers += 1;
        let number = state.subscribers;
        drop(state);
        Self {
            shared,
            number,
            seen,
        }
    }

    /// The latest snapshot, whether seen before or not; `None` before the first tick.
    pub fn latest(&self) -> Option<Arc<RunSnapshot>> {
        self.shared.lock().latest.clone()
    }

    /// Asks for the open connections in the next snapshot, if the publisher has them
    /// [on request](super::Publisher::with_connections_on_request). [`RunSnapshot::connections`] says whether one has them.
    pub fn want_connections(&self) {
        self.shared.lock().wants_connections = true;
    }

    /// The next snapshot: the latest one, as soon as it is newer than the one before. `None` at the end
    /// of the run, after the last snapshot.
    ///
    /// It may be dropped while it waits: no snapshot is lost by that.
    pub async fn next(&mut self) -> Option<Arc<RunSnapshot>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Subscriber::next`]. Where it is pending, the waker of the last call is woken.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Arc<RunSnapshot>>> {
        let mut state = self.shared.lock();
        if let Some(latest) = state.latest.as_ref()
            && latest.number > self.seen
        {
            self.seen = latest.number;
            return Poll::Ready(Some(Arc::clone(latest)));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        let mut waiting = state.waiting.iter_mut();
        match waiting.find(|(number, _)| *number == self.number) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => state.waiting.push((self.number, cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Clone for Subscriber {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shared), self.seen)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.waiting.retain(|(number, _)| *number != self.number);
    }
}
