//! The way of changes from the run to the clients that follow them.
//!
//! The run puts each change into a ring and waits for nobody: that costs the same for any number of clients, and nothing
//! while there is none. A client takes them out at its own pace; one that falls behind by more than the ring
//! holds is told how many it missed.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tcpstate_core::expression::Change;

/// The changes that the ring holds: some 40 MiB, and half a second at 100,000 a second.
const MOST_CHANGES: usize = 1 << 16;

// A change, its counts of references, and the place in the ring; names of cgroups are shared.
const _: () = assert!(MOST_CHANGES * (size_of::<Change>() + 3 * size_of::<usize>()) <= 40 << 20);

/// The clients that may follow at a time.
pub const MOST_STREAMS: usize = 8;

#[derive(Default)]
struct Ring {
    /// The number of the first change that is there.
    first: u64,
    changes: VecDeque<Arc<Change>>,
    has_ended: bool,
}

#[derive(Default)]
struct Shared {
    /// The clients that follow.
    streams: AtomicUsize,
    ring: Mutex<Ring>,
}

impl Shared {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        // No holder of the lock can leave the ring half changed.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The changes of a run, for any number of clients. A clone is the same feed.
#[derive(Clone, Default)]
pub struct Feed(Arc<Shared>);

impl Feed {
    /// Whether somebody follows. While nobody does, nothing need be pushed.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        self.0.streams.load(Ordering::Relaxed) > 0
    }

    /// Adds a change. Where the ring is full, the oldest goes.
    pub fn push(&self, change: Change) {
        let change = Arc::new(change);
        let mut ring = self.0.ring();
        let oldest = if ring.changes.len() >= MOST_CHANGES {
            ring.first += 1;
            ring.changes.pop_front()
        } else {
            None
        };
        ring.changes.push_back(change);
        drop(ring);
        // Freeing it is nobody's to wait for.
        drop(oldest);
    }

    /// No change follows.
    pub fn end(&self) {
        self.0.ring().has_ended = true;
    }

    /// A client that follows from now on; `None`: there are as many as there may be.
    pub(super) fn follow(&self) -> Option<Follower> {
        let more = |streams| (streams < MOST_STREAMS).then_some(streams + 1);
        let streams = &self.0.streams;
        streams
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        let ring = self.0.ring();
        let next = ring.first + ring.changes.len() as u64;
        drop(ring);
        Some(Follower {
            feed: self.clone(),
            next,
        })
    }
}

/// A client that follows.
pub(super) struct Follower {
    feed: Feed,
    /// The number of the change that it gets next.
    next: u64,
}

/// The changes that a client gets at once.
#[derive(Default)]
pub(super) struct Taken {
    /// Those before them that it was too slow for.
    pub(super) missed: u64,
    pub(super) changes: Vec<Arc<Change>>,
    /// None follows.
    pub(super) has_ended: bool,
}

impl Follower {
    /// The next changes, at most so many.
    pub(super) fn take(&mut self, most: usize) -> Taken {
        let ring = self.feed.0.ring();
        let missed = ring.first.saturating_sub(self.next);
        self.next += missed;
        let from = usize::try_from(self.next - ring.first).unwrap_or(usize::MAX);
        let changes: Vec<_> = ring.changes.iter().skip(from).take(most).cloned().collect();
        let has_ended = ring.has_ended && from + changes.len() >= ring.changes.len();
        drop(ring);
        self.next += changes.len() as u64;
        Taken {
            missed,
            changes,
            has_ended,
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut ring = self.feed.0.ring();
        let before = self.feed.0.streams.fetch_sub(1, Ordering::Relaxed);
        if before == 1 {
            // Nobody is left who wants them.
            ring.first += ring.changes.len() as u64;
            let changes = std::mem::take(&mut ring.changes);
            // To free them takes a while, and the reader of events must not wait for it.
            drop(ring);
            drop(changes);
        }
    }
}
