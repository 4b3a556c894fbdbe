//! The way back from consumers to the publisher: what they ask to see.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use crate::model::By;

#[derive(Debug, Default)]
struct State {
    /// `None`: nothing was asked for since the publisher looked last.
    by: Option<By>,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct Shared(Mutex<State>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No holder of the lock can leave the state half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks a publisher for something else than it publishes now. A clone asks the same publisher.
#[derive(Clone, Debug)]
pub struct Asker(Arc<Shared>);

impl Asker {
    /// Asks for figures that are grouped by this from now on. A snapshot follows soon, unless the run has ended; of
    /// several that ask, the last one gets it.
    pub fn group_by(&self, by: By) {
        let mut state = self.0.lock();
        state.by = Some(by);
        let waker = state.waker.take();
        drop(state);
        // After the lock is released: a waker may run any code.
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The publisher's end.
#[derive(Debug, Default)]
pub(super) struct Asked(Arc<Shared>);

impl Asked {
    /// Somebody who can ask.
    pub(super) fn asker(&self) -> Asker {
        Asker(Arc::clone(&self.0))
    }

    /// The grouping that is asked for; otherwise the waker is kept, and woken when one is.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<By> {
        let mut state = self.0.lock();
        if let Some(by) = state.by.take() {
            return Poll::Ready(by);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}
