//! What `rates` shows although no transition does: half-open connections, and the events of listeners. They
//! come from the censuses of an interval.

use std::collections::BTreeMap;

use tcpstate_core::{
    catalogue::Place,
    census::{Census, HalfOpen, ListenFigures},
};

/// From the censuses up to now.
#[derive(Clone, Debug, Default)]
pub(super) struct Unseen {
    /// The interval between samples; `None`: there are none, and nothing here is known.
    pub(super) sample_interval_ns: Option<u64>,
    /// By namespace, from its latest census.
    half_open: BTreeMap<u32, Vec<HalfOpen>>,
    /// Since the last interval.
    listen: ListenFigures,
}

impl Unseen {
    /// Takes a census.
    pub(super) fn take(&mut self, census: &Census) {
        if census.scope.is_of_sockets() || census.more {
            return;
        }
        if census.half_open.is_empty() {
            self.half_open.remove(&census.netns);
        } else {
            self.half_open
                .insert(census.netns, census.half_open.clone());
        }
        self.listen.add(&census.listen);
    }

    /// Begins an interval.
    pub(super) fn next_interval(&mut self) {
        self.listen = ListenFigures::default();
    }

    /// The half-open connections by place, most first; `None` where they are unknown.
    pub(super) fn half_open(&self) -> Option<Vec<Place>> {
        self.sample_interval_ns?;
        let mut places: Vec<Place> = self
            .half_open
            .iter()
            .flat_map(|(&netns, all)| all.iter().map(move |&half_open| Place { netns, half_open }))
            .collect();
        places.sort_by_key(|place| std::cmp::Reverse(place.half_open.count));
        Some(places)
    }

    /// The events of listeners in this interval.
    pub(super) const fn listen(&self) -> &ListenFigures {
        &self.listen
    }
}
