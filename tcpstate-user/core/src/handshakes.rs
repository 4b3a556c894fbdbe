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
#[derive(Debug, Default)]
pub struct Collector {
    /// By namespace, as its latest census has them.
    half_open: BTreeMap<u32, Vec<HalfOpen>>,
    /// Since the tick before.
    listen: ListenFigures,
    listen_total: ListenFigures,
}

impl Collector {
    /// Takes a census.
    pub fn census(&mut self, census: &Census) {
        // The half-open connections stand in the last part of a sample, all of a namespace together.
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
