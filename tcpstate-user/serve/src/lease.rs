//! The time that a connection has: fixed for a request, renewed for a stream for as long as the client reads.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// The time for a request, its answer, and the client's reading it; of a stream, for reading what was sent. Prometheus
/// waits as long by default.
///
/// It also bounds the memory: an answer that is not read stays that long, and there is a new one each second.
const TIME: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct State {
    until: Instant,
    has_asked: bool,
    is_stream: bool,
    /// It is not renewed any more.
    is_last: bool,
}

/// The time of one connection. A clone is of the same one.
#[derive(Clone, Debug)]
pub(crate) struct Lease(Arc<Mutex<State>>);

impl Lease {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            until: Instant::now() + TIME,
            has_asked: false,
            is_stream: false,
            is_last: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No holder of the lock can leave the state half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A whole request has come.
    pub(crate) fn ask(&self) {
        self.state().has_asked = true;
    }

    /// Whether a whole request has come.
    pub(crate) fn has_asked(&self) -> bool {
        self.state().has_asked
    }

    /// Renews the time: the connection is a stream, whose client reads.
    pub(crate) fn extend(&self) {
        let mut state = self.state();
        if !state.is_last {
            state.until = Instant::now() + TIME;
        }
        state.is_stream = true;
    }

    /// Does not renew the time any more. Returns whether the connection is a stream.
    pub(crate) fn end_renewals(&self) -> bool {
        let mut state = self.state();
        state.is_last = true;
        state.is_stream
    }

    /// Whether it is a stream.
    pub(crate) fn is_stream(&self) -> bool {
        self.state().is_stream
    }

    /// Waits for the end of the time.
    pub(crate) async fn end(&self) {
        loop {
            let until = self.state().until;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}
