//! Lets through the events of the connections whose owner is wanted.
//!
//! Whose a connection is takes more than an event: a server's belongs to whoever listens there. So this
//! follows all connections, as a view does, and a view behind it sees each of its connections whole.

use hashbrown::HashSet;

use crate::{
    census::Census,
    event::Event,
    filter::OwnerMatcher,
    model::{Limits, Role, Tracker, goes_on},
};

/// The stage before a view where a filter on owners was given.
pub(super) struct Gate {
    tracker: Tracker,
    matcher: OwnerMatcher,
    /// Cookies of wanted connections that went on as minisockets.
    going_on: HashSet<u64>,
    max_going_on: usize,
    /// Events that it kept back.
    pub(super) dropped: u64,
}

impl Gate {
    pub(super) fn new(matcher: OwnerMatcher, limits: Limits) -> Self {
        Self {
            tracker: Tracker::new(limits).without_rates().without_histograms(),
            matcher,
            going_on: HashSet::new(),
            max_going_on: limits.max_connections,
            dropped: 0,
        }
    }

    /// Takes out of a census what the view is not to see. A minisocket is its connection's; whose a
    /// half-open connection is follows from who listens there.
    pub(super) fn census(&mut self, census: &mut Census) {
        self.tracker.census(census, |_| {});
        let (matcher, going_on) = (&mut self.matcher, &mut self.going_on);
        census.found.retain(|found| {
            going_on.contains(&found.cookie)
                || matcher.matches(found.role, &found.owner, found.uid, found.cgroup)
        });
        for gone in &census.gone {
            going_on.remove(&gone.cookie);
        }
        let (tracker, netns) = (&self.tracker, census.netns);
        census.half_open.retain(|half_open| {
            let owner = tracker.listener_of(half_open, netns);
            matcher.matches(Role::Server, &owner, None, None)
        });
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
        if passes
            && self.going_on.len() < self.max_going_on
            && let (Some(cookie), Some(_)) = (event.cookie(), goes_on(event))
        {
            self.going_on.insert(cookie);
        }
        passes
    }
}
