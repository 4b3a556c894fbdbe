//! The findings of a run, by the rules of [`crate::diagnosis`].
//!
//! Events are counted in windows, as the figures that decide are made for the events of half a minute. What was found
//! at the end of a window stays until the next one ends, so that a finding does not vanish because counting
//! began anew.

use std::sync::Arc;

use crate::{
    diagnosis::{
        self, Finding, Look, Looks, NetnsFacts, Observed, Severity, Snapshot, Survey, Thresholds,
    },
    event::{Event, SocketId},
    model::{Applied, Connection, Connections, Counters, Include, Tracker},
    origin::Origin,
};

/// The length of a window.
const WINDOW_NS: u64 = 30_000_000_000;
/// The length from which on the findings of a window replace those of the one before that are as bad. After fewer events they
/// have no owners or peers yet; and where a run ends with a window, there are no events.
const TELLING_NS: u64 = 5_000_000_000;

/// A look, as it is handed on to the snapshots.
#[derive(Clone, Default)]
struct Looked {
    sockets: Option<Arc<Survey>>,
    facts: Arc<[NetnsFacts]>,
    counters: Arc<Counters>,
}

impl From<Look> for Looked {
    fn from(look: Look) -> Self {
        Self {
            sockets: look.sockets.map(Arc::new),
            facts: look.facts.into(),
            counters: look.counters,
        }
    }
}

pub(super) struct Findings {
    thresholds: Thresholds,
    observed: Observed,
    /// `None`: there is no host to look at.
    looks: Option<Box<dyn Looks>>,
    /// The look at the beginning of the window.
    first: Looked,
    /// `None`: the first one is the latest.
    latest: Option<Looked>,
    window_began_ns: u64,
    /// The findings at the end of the window before.
    before: Vec<Finding>,
    /// Those of the latest check.
    now: Vec<Finding>,
}

impl Findings {
    pub(super) fn new(thresholds: Thresholds, first: Look, looks: Option<Box<dyn Looks>>) -> Self {
        Self {
            thresholds,
            observed: Observed::default(),
            looks,
            first: first.into(),
            latest: None,
            window_began_ns: 0,
            before: Vec::new(),
            now: Vec::new(),
        }
    }

    pub(super) fn begin(&mut self, origin: &Origin) {
        self.observed.begin(origin.started_ns);
        self.window_began_ns = origin.started_ns;
    }

    #[inline]
    pub(super) fn event(&mut self, event: &Event, applied: &Applied<'_>) {
        let latest = self.latest.as_ref().unwrap_or(&self.first);
        self.observed
            .event(event, applied, latest.sockets.as_deref(), &self.thresholds);
    }

    /// The findings at the end of an interval, the worst first.
    pub(super) fn tick(
        &mut self,
        tracker: &mut Tracker,
        now_ns: u64,
        is_last: bool,
    ) -> Vec<Finding> {
        self.observed.tick(now_ns);
        let is_over = now_ns.saturating_sub(self.window_began_ns) >= WINDOW_NS;
        if let Some(looks) = &mut self.looks {
            let new = if is_last {
                looks.last()
            } else {
                looks.newest()
            };
            self.latest = new.map(Looked::from).or(self.latest.take());
            let counters = looks.newest_counters();
            let looked = self.latest.as_mut().unwrap_or(&mut self.first);
            if let Some(counters) = counters.filter(|new| new.ts_ns >= looked.counters.ts_ns) {
                looked.counters = counters;
            }
            self.now = self.check(now_ns, None);
        } else if self.first.sockets.is_none() {
            self.first.sockets = Some(Arc::new(tracked(tracker, &self.thresholds)));
        } else if is_over || is_last {
            // It takes all connections one by one, which is too much for each interval.
            let sockets = tracked(tracker, &self.thresholds);
            self.now = self.check(now_ns, Some(&sockets));
        }
        let findings = self.latest();
        if is_over {
            self.window_began_ns = now_ns;
            self.observed.restart(now_ns);
            self.before.clone_from(&self.now);
            match self.latest.take() {
                Some(latest) => self.first = latest,
                None if self.looks.is_none() => self.first.sockets = None,
                None => {}
            }
        }
        findings
    }

    /// `tracked`: the sockets, where there is no host to look at.
    fn check(&self, now_ns: u64, tracked: Option<&Survey>) -> Vec<Finding> {
        let latest = self.latest.as_ref();
        diagnosis::check(&Snapshot {
            now_ns,
            sockets: tracked.or(self.looked().sockets.as_deref()),
            earlier: match tracked {
                Some(_) => self.first.sockets.as_deref(),
                None => latest.and(self.first.sockets.as_deref()),
            },
            observed: &self.observed,
            facts: latest.map_or(&self.first.facts, |look| &look.facts),
            earlier_facts: latest.map_or(&[][..], |_| &self.first.facts),
            thresholds: &self.thresholds,
        })
    }

    /// The latest look.
    fn looked(&self) -> &Looked {
        self.latest.as_ref().unwrap_or(&self.first)
    }

    /// The counters of connections at the latest look.
    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.looked().counters)
    }

    /// Asks for the counters of the connections that are shown.
    pub(super) fn ask_counters(&mut self, shown: &[Connection]) {
        let Some(looks) = &mut self.looks else {
            return;
        };
        let cookies = shown.iter().filter_map(|one| match one.id {
            SocketId::Cookie(cookie) => Some(cookie),
            SocketId::Address(_) => None,
        });
        let cookies: Vec<u64> = cookies.collect();
        if !cookies.is_empty() {
            looks.ask_counters(cookies);
        }
    }

    /// The facts that the findings rest on.
    pub(super) fn facts(&self) -> Arc<[NetnsFacts]> {
        Arc::clone(&self.looked().facts)
    }

    /// The sockets at the latest look at the host; `None`: there is no host, or they could not be listed.
    pub(super) fn survey(&self) -> Option<Arc<Survey>> {
        self.looks.as_ref()?;
        self.looked().sockets.clone()
    }

    /// A copy, which looks at no host.
    pub(super) fn keep(&self) -> Self {
        Self {
            thresholds: self.thresholds.clone(),
            observed: self.observed.clone(),
            looks: None,
            first: self.first.clone(),
            latest: self.latest.clone(),
            window_began_ns: self.window_began_ns,
            before: self.before.clone(),
            now: self.now.clone(),
        }
    }

    /// Goes back to a copy.
    pub(super) fn restore(&mut self, kept: &Self) {
        *self = Self {
            looks: self.looks.take(),
            ..kept.keep()
        };
    }

    /// Those of now and, where these are not worse, those of the window before. Of two that are as bad, the one of now, once
    /// its window is long enough.
    pub(super) fn latest(&self) -> Vec<Finding> {
        let is_telling = self.observed.length_ns() >= TELLING_NS;
        let same = |one: &Finding, list: &[Finding]| {
            let mut list = list.iter();
            list.find(|other| other.identity() == one.identity())
                .map(|other| other.severity)
        };
        let is_of_now =
            |now: Severity, before: Severity| now > before || now == before && is_telling;
        let now = self.now.iter().filter(|one| {
            let before = same(one, &self.before);
            before.is_none_or(|before| is_of_now(one.severity, before))
        });
        let before = self.before.iter().filter(|one| {
            let now = same(one, &self.now);
            now.is_none_or(|now| !is_of_now(now, one.severity))
        });
        let mut findings: Vec<Finding> = now.chain(before).cloned().collect();
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        findings
    }
}

/// The tracker's connections, as a look at the host's sockets.
fn tracked(tracker: &mut Tracker, thresholds: &Thresholds) -> Survey {
    let snapshot = tracker.snapshot_of(Include {
        connections: Connections::All,
        histograms: false,
    });
    Survey::of_tracked(&snapshot, thresholds)
}
