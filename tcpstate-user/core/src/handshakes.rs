//! Handshakes as only samples report them: the half-open connections, and the counters of listeners.

use std::{cmp::Reverse, collections::BTreeMap};

use serde::Serialize;

use crate::census::{Census, HalfOpen, ListenFigures};

/// Half-open connections and the counters of listeners, as the samples reported them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// The half-open connections by their local end, the most first.
    pub half_open: Vec<HalfOpenAt>,
    /// The counters of listeners since the tick before.
    pub listen: ListenFigures,
    /// The counters of listeners since the start of the run.
    pub listen_total: ListenFigures,
}

/// Half-open connections at one local end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HalfOpenAt {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// The connections.
    #[serde(flatten)]
    pub half_open: HalfOpen,
}

/// Collects what the censuses report, up to a tick.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    /// By namespace, as its latest census has them.
    half_open: BTreeMap<u32, Vec<HalfOpen>>,
    /// The number of all of them.
    places: usize,
    left_out: u64,
    /// Since the tick before.
    listen: ListenFigures,
    listen_total: ListenFigures,
}

/// The most places with half-open connections that are kept, more than a host has. A recording can name any number.
const MAX_PLACES: usize = 65_536;

impl Collector {
    /// Takes a census.
    pub fn census(&mut self, census: &Census) {
        // The half-open connections stand in the last part of a sample, all of a namespace together.
        if census.scope.is_of_sockets() || census.more {
            return;
        }
        let before = self.half_open.remove(&census.netns);
        self.places = self
            .places
            .saturating_sub(before.map_or(0, |places| places.len()));
        let places = self.places.saturating_add(census.half_open.len());
        if places > MAX_PLACES {
            self.left_out = self.left_out.saturating_add(census.half_open.len() as u64);
        } else if !census.half_open.is_empty() {
            self.places = places;
            self.half_open
                .insert(census.netns, census.half_open.clone());
        }
        self.listen.add(&census.listen);
    }

    /// The places with half-open connections that there was no room for, in all samples together.
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Ends an interval.
    pub fn tick(&mut self) -> Handshakes {
        let mut half_open: Vec<HalfOpenAt> = self
            .half_open
            .iter()
            .flat_map(|(&netns, all)| {
                all.iter()
                    .map(move |&half_open| HalfOpenAt { netns, half_open })
            })
            .collect();
        half_open.sort_by_key(|at| Reverse(at.half_open.count));
        let listen = std::mem::take(&mut self.listen);
        self.listen_total.add(&listen);
        Handshakes {
            half_open,
            listen,
            listen_total: self.listen_total,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_of_any_number_of_namespaces_are_bounded_and_counted() {
        let half_open = HalfOpen {
            laddr: [127, 0, 0, 1].into(),
            lport: 80,
            count: u64::MAX,
            oldest_ns: None,
            oldest_at_least_ns: None,
            synack_retransmits: 0,
        };
        let mut census = Census {
            half_open: vec![half_open; MAX_PLACES / 4],
            ..Census::default()
        };
        let mut collector = Collector::default();
        for netns in 0..6 {
            census.netns = netns;
            collector.census(&census);
        }
        assert_eq!(collector.tick().half_open.len(), MAX_PLACES);
        assert_eq!(collector.left_out(), MAX_PLACES as u64 / 2);
        // What is gone leaves room.
        census.half_open.clear();
        census.netns = 0;
        collector.census(&census);
        assert_eq!(collector.tick().half_open.len(), MAX_PLACES / 4 * 3);
    }
}
