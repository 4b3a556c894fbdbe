//! The metrics, each once: the text of a scrape and `docs/metrics.md` are made from what [`tables`] lists.
//!
//! Names follow Prometheus: base units, `_total` at the end of a counter. A value that is not known is left out; it is
//! never 0. Labels are bounded: a port is a service port that has figures of its own, or `other`, or `unknown`.

mod books;
mod connections;
mod cost;
mod drops;
mod findings;
mod looked;
mod pushed;
mod samples;
mod workloads;

use std::{collections::BTreeMap, fmt, sync::Arc};

use prometheus_client::{metrics::MetricType, registry::Unit as ClientUnit};
use tcpstate_core::present::RunSnapshot;

pub(crate) use self::{
    drops::Drops,
    findings::Findings,
    samples::{Number, Point, PortLabel, Ports, Samples, Value},
};
use crate::{Buckets, pushes::PushCounts, workloads::Counts};

/// A metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name without unit and suffix.
    stem: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// The unit of its values; `None`: it counts.
    pub unit: Option<Unit>,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// Its meaning, a sentence without its full stop.
    pub meaning: &'static str,
    read: fn(&Exposed, &mut Samples<'_>) -> fmt::Result,
}

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only goes up, from the start of the run.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts by duration.
    Histogram,
    /// Its labels are what it says.
    Info,
}

/// The unit of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A part of a whole, which is 1.
    Ratio,
}

impl Metric {
    /// Its full name.
    pub fn name(&self) -> String {
        let unit = self.unit.map_or("", |unit| match unit {
            Unit::Seconds => "_seconds",
            Unit::Bytes => "_bytes",
            Unit::Ratio => "_ratio",
        });
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Gauge | Kind::Histogram => "",
            Kind::Info => "_info",
        };
        format!("{}{unit}{suffix}", self.stem)
    }

    /// Its name without unit and suffix.
    pub(crate) const fn stem(&self) -> &'static str {
        self.stem
    }

    /// Its values.
    pub(crate) fn points(&self, exposed: &Exposed) -> Result<Vec<Point>, fmt::Error> {
        let mut points = Vec::new();
        (self.read)(exposed, &mut Samples::points(&mut points, self.labels))?;
        Ok(points)
    }
}

impl Kind {
    /// The name, as it stands in a scrape.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }

    const fn for_client(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
            Self::Histogram => MetricType::Histogram,
            Self::Info => MetricType::Info,
        }
    }
}

impl Unit {
    /// The name, as it stands in a scrape.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
            Self::Ratio => "ratio",
        }
    }

    fn for_client(self) -> ClientUnit {
        match self {
            Self::Seconds => ClientUnit::Seconds,
            Self::Bytes => ClientUnit::Bytes,
            Self::Ratio => ClientUnit::Other("ratio".to_owned()),
        }
    }
}

/// The source of the metrics.
#[derive(Debug)]
pub(crate) struct Exposed {
    pub(crate) snapshot: Arc<RunSnapshot>,
    /// The ports with a label in this snapshot.
    pub(crate) ports: Ports,
    pub(crate) findings: Findings,
    /// The drops of listeners, by port.
    pub(crate) drops: BTreeMap<PortLabel, u64>,
    /// Counts by chosen labels, where there are any.
    pub(crate) workloads: Option<Arc<Counts>>,
    pub(crate) buckets: Buckets,
    /// The size of the ring buffer.
    pub(crate) ring_bytes: u32,
    /// The memory of this process, where it is known.
    pub(crate) resident_bytes: Option<u64>,
    /// The pushes over OTLP, where there are any.
    pub(crate) pushes: Option<PushCounts>,
}

impl prometheus_client::collector::Collector for Exposed {
    fn encode(
        &self,
        mut encoder: prometheus_client::encoding::DescriptorEncoder<'_>,
    ) -> fmt::Result {
        for metric in tables() {
            let unit = metric.unit.map(Unit::for_client);
            let encoder = encoder.encode_descriptor(
                metric.stem,
                metric.meaning,
                unit.as_ref(),
                metric.kind.for_client(),
            )?;
            (metric.read)(self, &mut Samples::new(encoder, metric.labels))?;
        }
        Ok(())
    }
}

/// All metrics, in their order.
pub fn tables() -> impl Iterator<Item = &'static Metric> {
    connections::METRICS
        .iter()
        .chain(workloads::METRICS)
        .chain(looked::METRICS)
        .chain(drops::METRICS)
        .chain(findings::METRICS)
        .chain(books::METRICS)
        .chain(cost::METRICS)
        .chain(pushed::METRICS)
}

#[cfg(test)]
pub(crate) mod tests;
