//! Handshakes as only samples report them: the half-open connections, and the counters of listeners.

use std::{borrow::Cow, cmp::Reverse, collections::BTreeMap, mem::take};

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

/// Puts the half-open connections of a census together from its parts.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// The namespace and the begin of the census whose parts come in.
    of: (u32, u64),
    /// At most [`MAX_PLACES`].
    places: Vec<HalfOpen>,
    beyond: Beyond,
}

/// Half-open connections for which there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beyond {
    /// Their local ends.
    pub places: u64,
    /// The connections.
    pub connections: u64,
}

impl Parts {
    /// Takes a census, or a part of one. Of the last part, returns the half-open connections of all, and those beyond
    /// any bound.
    pub fn take<'a>(&mut self, census: &'a Census) -> Option<(Cow<'a, [HalfOpen]>, Beyond)> {
        let of = (census.netns, census.begin_ns);
        if !census.more && (self.of != of || self.places.is_empty()) {
            *self = Self::default();
            return Some((Cow::Borrowed(&census.half_open), Beyond::default()));
        }
        if self.of != of && !census.half_open.is_empty() {
            // The dump before has failed between two parts.
            *self = Self {
                of,
                ..Self::default()
            };
        }
        for place in &census.half_open {
            if self.places.len() < MAX_PLACES {
                self.places.push(*place);
            } else {
                self.beyond.places += 1;
                let connections = self.beyond.connections.saturating_add(place.count);
                self.beyond.connections = connections;
            }
        }
        (!census.more).then(|| (Cow::Owned(take(&mut self.places)), take(&mut self.beyond)))
    }

    /// Bytes held.
    pub fn memory(&self) -> usize {
        self.places.capacity() * size_of::<HalfOpen>()
    }
}

/// Collects what the censuses report, up to a tick.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    parts: Parts,
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
pub(crate) const MAX_PLACES: usize = 65_536;

impl Collector {
    /// Takes a census.
    pub fn census(&mut self, census: &Census) {
        if census.scope.is_of_sockets() {
            return;
        }
        let Some((half_open, beyond)) = self.parts.take(census) else {
            return;
        };
        let before = self.half_open.remove(&census.netns);
        self.places = self
            .places
            .saturating_sub(before.map_or(0, |places| places.len()));
        let places = self.places.saturating_add(half_open.len());
        if places > MAX_PLACES || beyond.places > 0 {
            let left_out = beyond.places.saturating_add(half_open.len() as u64);
            self.left_out = self.left_out.saturating_add(left_out);
        } else if !half_open.is_empty() {
            self.places = places;
            self.half_open.insert(census.netns, half_open.into_owned());
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
        let listen = take(&mut self.listen);
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

    fn at(lport: u16) -> HalfOpen {
        HalfOpen {
            laddr: [127, 0, 0, 1].into(),
            lport,
            count: 2,
            oldest_ns: None,
            oldest_at_least_ns: None,
            synack_retransmits: 0,
        }
    }

    #[test]
    fn the_parts_of_a_census_replace_those_of_the_one_before_together() {
        let census = |begin_ns, places| Census {
            begin_ns,
            half_open: (0..places).map(at).collect(),
            ..Census::default()
        };
        let mut collector = Collector::default();
        let mut parts = census(1, 50_000).into_parts();
        assert!(parts.len() > 12);
        for part in &parts {
            collector.census(part);
        }
        let mut found = collector.tick().half_open;
        found.sort_by_key(|at| at.half_open.lport);
        assert_eq!(
            found.iter().map(|at| at.half_open).collect::<Vec<_>>(),
            census(1, 50_000).half_open
        );
        // A dump that fails after some parts leaves those of the one before.
        for part in &mut parts {
            part.begin_ns = 2;
        }
        for part in &parts[..5] {
            collector.census(part);
        }
        assert_eq!(collector.tick().half_open.len(), 50_000);
        for part in census(3, 10_000).into_parts() {
            collector.census(&part);
        }
        assert_eq!(collector.tick().half_open.len(), 10_000);
        collector.census(&census(4, 7));
        assert_eq!(collector.tick().half_open.len(), 7);
        assert_eq!(collector.left_out(), 0);
    }

    #[test]
    fn the_parts_of_a_census_are_bounded_and_what_is_beyond_is_counted() {
        let mut collector = Collector::default();
        for more in (0..20).rev() {
            collector.census(&Census {
                half_open: vec![at(80); 4_096],
                more: more > 0,
                ..Census::default()
            });
        }
        assert_eq!(collector.tick().half_open, []);
        assert_eq!(collector.left_out(), 20 * 4_096);
        let mut parts = Parts::default();
        for more in (0..20).rev() {
            let census = Census {
                half_open: vec![at(80); 4_096],
                more: more > 0,
                ..Census::default()
            };
            let taken = parts.take(&census);
            let expected = Beyond {
                places: 4 * 4_096,
                connections: 8 * 4_096,
            };
            assert_eq!(
                taken.map(|(places, beyond)| (places.len(), beyond)),
                (more == 0).then_some((MAX_PLACES, expected))
            );
        }
    }

    #[test]
    fn the_places_of_any_number_of_namespaces_are_bounded_and_counted() {
        let half_open = HalfOpen {
            count: u64::MAX,
            ..at(80)
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
