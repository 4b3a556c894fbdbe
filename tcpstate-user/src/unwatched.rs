//! The source of a host that cannot be watched: it has no events. The lists of sockets can still be diagnosed.

use std::task::{Context, Poll};

use tcpstate_capture::host::Host;
use tcpstate_core::{
    books::Accounting,
    event::Event,
    origin::Origin,
    source::{EventSource, SourceError, Step},
};

/// The source: [`Origin::attach`] is empty.
pub(crate) struct Unwatched {
    origin: Origin,
    is_settled: bool,
    is_stopped: bool,
}

impl Unwatched {
    /// The source of this host.
    pub(crate) fn new() -> Self {
        Self {
            origin: Host::read().origin(),
            is_settled: false,
            is_stopped: false,
        }
    }
}

impl EventSource for Unwatched {
    fn poll_step(
        &mut self,
        _cx: &mut Context<'_>,
        _batch: &mut Vec<Event>,
    ) -> Poll<Result<Step, SourceError>> {
        if !std::mem::replace(&mut self.is_settled, true) {
            return Poll::Ready(Ok(Step::Settled));
        }
        if self.is_stopped {
            return Poll::Ready(Ok(Step::End));
        }
        // Whoever stops it asks again.
        Poll::Pending
    }

    fn stop(&mut self) {
        self.is_stopped = true;
    }

    fn accounting(&mut self) -> Result<Accounting, SourceError> {
        Ok(Accounting::default())
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }
}
