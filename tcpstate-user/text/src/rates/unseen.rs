//! What `rates` shows of what no transition shows: half-open connections and what happened to
//! listeners, from the censuses of an interval.

use std::collections::BTreeMap;

use serde::Serialize;

use tcpstate_core::census::{Census, HalfOpen, ListenFigures};

/// From the censuses up to now.
#[derive(Clone, Debug, Default)]
pub(super) struct Unseen {
    /// How often the kernel is asked; `None`: never, and nothing here is known.
    pub(super) sample_interval_ns: Option<u64>,
    /// By namespace, as its latest census has them.
    half_open: BTreeMap<u32, Vec<HalfOpen>>,
    /// Since the last interval.
    listen: ListenFigures,
}

/// Half-open connections of a namespace, as JSON has them.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Place {
    netns: u32,
    #[serde(flatten)]
    pub(super) half_open: HalfOpen,
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

    /// Where connections are half-open now, most first; `None` where that is not known.
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

    /// What happened to listeners in this interval.
    pub(super) const fn listen(&self) -> &ListenFigures {
        &self.listen
    }
}
