//! The metric of drops by listener, made of what each listener has dropped at each look.

use std::collections::{BTreeMap, HashMap};

use tcpstate_core::present::RunSnapshot;

use super::{
    Kind, Metric,
    samples::{PortLabel, Ports},
};

pub(super) static METRICS: &[Metric] = &[Metric {
    stem: "tcpstate_listener_drops",
    kind: Kind::Counter,
    unit: None,
    labels: &["port"],
    meaning: "SYNs, last packets of handshakes and others that the listeners at the port dropped for any reason (`d` in `skmem` of \
        `ss -m`), at the latest look; of one that is closed, those up to the look before",
    read: |exposed, samples| {
        for (port, count) in &exposed.drops {
            samples.counter(&[port], *count)?;
        }
        Ok(())
    },
}];

/// Looks for which a listener is remembered that is in none of them, as its network namespace could not be listed.
const REMEMBERED: u32 = 60;

/// The drops of all listeners since the start, by port. Bounded by the listeners of some looks, and as its label is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drops {
    pub(crate) counts: BTreeMap<PortLabel, u64>,
    /// The listeners, by network namespace and cookie.
    known: HashMap<(u32, u64), Known>,
    /// The time of the latest look.
    look_ns: Option<u64>,
    /// Whether a network namespace could not be listed in it.
    was_partial: bool,
}

/// A listener.
#[derive(Clone, Copy, Debug)]
struct Known {
    drops: u32,
    /// Looks since the one that had it.
    missing: u32,
}

impl Drops {
    /// Takes the latest look of a new snapshot.
    pub(crate) fn take(&mut self, snapshot: &RunSnapshot, ports: &Ports) {
        let Some(survey) = &snapshot.survey else {
            return;
        };
        let before = self.look_ns.replace(survey.ts_ns);
        if before == Some(survey.ts_ns) {
            return;
        }
        let was_partial = std::mem::replace(&mut self.was_partial, survey.is_partial);
        self.known.retain(|_, known| {
            known.missing += 1;
            known.missing <= REMEMBERED
        });
        for listener in &survey.listeners {
            let Some(drops) = listener.drops else {
                continue;
            };
            let now = Known { drops, missing: 0 };
            let last = self.known.insert((listener.netns, listener.cookie), now);
            let more = match last {
                Some(last) => drops.wrapping_sub(last.drops),
                // Those of before the start of the run do not count, and a listener that was not listed may be older.
                None if before.is_none() || was_partial => 0,
                None => drops,
            };
            let port = ports.label(Some(listener.port));
            *self.counts.entry(port).or_default() += u64::from(more);
        }
    }
}
