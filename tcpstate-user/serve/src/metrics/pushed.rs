//! Metrics of the pushes over OTLP.

use super::{Kind, Metric};
use crate::pushes::{PushCounts, Verdict};

pub(super) static METRICS: &[Metric] = &[Metric {
    stem: "tcpstate_otlp_pushes",
    kind: Kind::Counter,
    unit: None,
    labels: &["result"],
    meaning: "Pushes of metrics to the collector of --otlp, by result: accepted, partly_accepted, refused, unavailable (nothing \
        was sent, or it is to be tried later), unanswered (nobody knows what became of it)",
    read: |exposed, samples| {
        for (verdict, count) in exposed.pushes.iter().flat_map(PushCounts::each) {
            samples.counter(&[&Verdict::name(verdict)], count)?;
        }
        Ok(())
    },
}];
