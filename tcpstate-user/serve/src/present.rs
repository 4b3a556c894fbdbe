//! The latest snapshot, as the server knows it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use axum::body::Bytes;
use tcpstate_core::present::{RunSnapshot, Subscriber};

use crate::{
    Buckets,
    exposition::{self, Format},
    health::{Health, Unwell},
    metrics::{Drops, Exposed, Findings, Ports},
    own,
    pushes::PushCounts,
    workloads::{Counts, WorkloadCounts},
};

/// The latest snapshot, its texts and the health of the run.
#[derive(Debug)]
pub(crate) struct Present {
    ring_bytes: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    buckets: Buckets,
    latest: Option<Arc<RunSnapshot>>,
    health: Health,
    /// The findings that there were.
    findings: Findings,
    /// The drops of listeners.
    drops: Drops,
    /// The counts of the run by chosen labels.
    counted: WorkloadCounts,
    /// The same, as it was with the latest snapshot.
    workloads: Option<Arc<Counts>>,
    /// `None`: nothing is pushed.
    pushes: Option<PushCounts>,
    /// The texts of the latest snapshot that were asked for: any number of scrapes cost what one costs.
    texts: Vec<(Format, Bytes)>,
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoText {
    #[error(transparent)]
    Unwell(#[from] Unwell),
    #[error("cannot write the metrics")]
    Unwritten(#[from] fmt::Error),
}

impl Present {
    pub(crate) fn new(buckets: Buckets, ring_bytes: u32) -> Self {
        Self {
            ring_bytes,
            state: Mutex::new(State {
                buckets,
                ..State::default()
            }),
        }
    }

    /// Shows these counts too.
    pub(crate) fn set_workloads(&self, counts: WorkloadCounts) {
        self.state().counted = counts;
    }

    /// Changes the buckets of histograms: from the next scrape on.
    pub(crate) fn set_buckets(&self, buckets: Buckets) {
        let mut state = self.state();
        state.buckets = buckets;
        state.texts.clear();
    }

    /// From now on something is pushed.
    pub(crate) fn set_pushes(&self, pushes: PushCounts) {
        self.state().pushes = Some(pushes);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No holder of the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes each snapshot that comes, until none follows.
    pub(crate) async fn follow(&self, mut subscriber: Subscriber) {
        while let Some(snapshot) = subscriber.next().await {
            self.take(snapshot);
        }
        self.state().health.end();
    }

    /// Takes a snapshot, if it is newer than those before.
    pub(crate) fn take(&self, snapshot: Arc<RunSnapshot>) {
        let mut state = self.state();
        let latest = state.latest.as_ref();
        if latest.is_some_and(|latest| latest.number >= snapshot.number) {
            return;
        }
        let missed = snapshot.books.accounting.missed();
        state.health.take(missed, Instant::now());
        let ports = Ports::of(&snapshot);
        state.findings.take(&snapshot, &ports);
        state.drops.take(&snapshot, &ports);
        state.workloads = state.counted.latest();
        state.latest = Some(snapshot);
        state.texts.clear();
    }

    /// The source of the metrics, where there is any.
    pub(crate) fn exposed(&self) -> Option<Exposed> {
        let state = self.state();
        let snapshot = state.latest.clone()?;
        Some(self.expose(&state, snapshot))
    }

    fn expose(&self, state: &State, snapshot: Arc<RunSnapshot>) -> Exposed {
        Exposed {
            ports: Ports::of(&snapshot),
            findings: state.findings.clone(),
            drops: state.drops.counts.clone(),
            workloads: state.workloads.clone(),
            snapshot,
            buckets: state.buckets.clone(),
            ring_bytes: self.ring_bytes,
            resident_bytes: own::resident_bytes(),
            pushes: state.pushes.clone(),
        }
    }

    /// Whether the run is well.
    pub(crate) fn is_well(&self) -> Result<(), Unwell> {
        self.state().health.is_well(Instant::now())
    }

    /// Whether there is a snapshot of the present.
    pub(crate) fn is_ready(&self) -> Result<(), Unwell> {
        self.state().health.is_present(Instant::now())
    }

    /// The metrics.
    pub(crate) fn text(&self, format: Format) -> Result<Bytes, NoText> {
        let mut state = self.state();
        state.health.is_present(Instant::now())?;
        let known = state.texts.iter().find(|(known, _)| *known == format);
        if let Some((_, text)) = known {
            return Ok(text.clone());
        }
        let snapshot = state.latest.clone().ok_or(Unwell::Starting)?;
        let exposed = self.expose(&state, snapshot);
        let text = Bytes::from(exposition::write(exposed, format)?);
        state.texts.push((format, text.clone()));
        Ok(text)
    }
}
