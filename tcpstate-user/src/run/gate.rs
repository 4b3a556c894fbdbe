//! Lets through the events of the connections whose owner is wanted.
//!
//! Whose a connection is takes more than an event: a server's belongs to whoever listens there. So this
//! follows all connections, as a view does, and a view behind it sees each of its connections whole.

use crate::{
    event::Event,
    filter::OwnerMatcher,
    model::{Limits, Tracker},
};

/// The stage before a view where a filter on owners was given.
pub(super) struct Gate {
    tracker: Tracker,
    matcher: OwnerMatcher,
    /// Events that it kept back.
    pub(super) dropped: u64,
}

impl Gate {
    pub(super) fn new(matcher: OwnerMatcher, limits: Limits) -> Self {
        Self {
            tracker: Tracker::new(limits).without_rates().without_histograms(),
            matcher,
            dropped: 0,
        }
    }

    /// Whether the view is to see this event. To be asked of every event, in their order.
    pub(super) fn passes(&mut self, event: &Event) -> bool {
        let applied = self.tracker.apply(event);
        let passes = self.matcher.matches(
            applied.role(),
            &applied.owner(),
            applied.uid(),
            applied.cgroup(),
        );
        self.dropped += u64::from(!passes);
        passes
    }
}
