//! The values of one metric: written to the client library, or collected as they are.

use std::{
    collections::HashSet,
    fmt::{self, Display, Write as _},
};

use prometheus_client::encoding::{
    EncodeLabelKey, EncodeLabelSet, EncodeLabelValue, LabelSetEncoder, LabelValueEncoder,
    MetricEncoder, NoLabelSet,
};
use tcpstate_core::{model::GroupKey, present::RunSnapshot, service::ServicePort};

/// Takes the values of one metric.
pub(crate) struct Samples<'a> {
    sink: Sink<'a>,
    names: &'static [&'static str],
}

/// The place for values.
enum Sink<'a> {
    /// The text of a scrape.
    Text(MetricEncoder<'a>),
    /// Values for another form.
    Points(&'a mut Vec<Point>),
}

/// A value of a metric, with its labels.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Point {
    /// Names and values.
    pub(crate) labels: Vec<(&'static str, String)>,
    pub(crate) value: Value,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// Of a counter or a gauge; 1 of an info.
    Number(Number),
    /// Of a histogram: the sum of the durations, seconds, and the count of each bucket by its upper bound, which the last one has
    /// not.
    Histogram { sum: f64, buckets: Vec<(f64, u64)> },
}

/// A number, as exact as it is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Integer(u64),
    Float(f64),
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self::Integer(number)
    }
}

impl From<u32> for Number {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<usize> for Number {
    fn from(number: usize) -> Self {
        // 64 bits hold it on every machine that this runs on.
        Self::Integer(u64::try_from(number).unwrap_or(u64::MAX))
    }
}

impl From<f64> for Number {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

/// The labels of one value: names, and values in the same order.
struct Labels<'a> {
    names: &'static [&'static str],
    values: &'a [&'a dyn Display],
}

/// A value as it is displayed.
struct Shown<'a>(&'a dyn Display);

impl<'a> Samples<'a> {
    /// Writes them to the client library.
    pub(crate) fn new(encoder: MetricEncoder<'a>, names: &'static [&'static str]) -> Self {
        Self {
            sink: Sink::Text(encoder),
            names,
        }
    }

    /// Collects them.
    pub(crate) fn points(points: &'a mut Vec<Point>, names: &'static [&'static str]) -> Self {
        Self {
            sink: Sink::Points(points),
            names,
        }
    }

    /// Takes values of these labels from now on, those of the metric that were chosen.
    pub(crate) const fn label(&mut self, names: &'static [&'static str]) {
        self.names = names;
    }

    /// A counter with these values of its labels.
    pub(crate) fn counter(
        &mut self,
        values: &[&dyn Display],
        count: impl Into<Number>,
    ) -> fmt::Result {
        let count = count.into();
        self.with(
            values,
            |encoder| match count {
                Number::Integer(count) => {
                    encoder.encode_counter::<NoLabelSet, _, u64>(&count, None)
                }
                Number::Float(count) => encoder.encode_counter::<NoLabelSet, _, u64>(&count, None),
            },
            || Value::Number(count),
        )
    }

    /// A counter that may be unknown.
    pub(crate) fn known(
        &mut self,
        values: &[&dyn Display],
        count: Option<impl Into<Number>>,
    ) -> fmt::Result {
        count.map_or(Ok(()), |count| self.counter(values, count))
    }

    /// A gauge.
    pub(crate) fn gauge(
        &mut self,
        values: &[&dyn Display],
        value: impl Into<Number>,
    ) -> fmt::Result {
        let value = value.into();
        self.with(
            values,
            |encoder| match value {
                Number::Integer(value) => encoder.encode_gauge(&value),
                Number::Float(value) => encoder.encode_gauge(&value),
            },
            || Value::Number(value),
        )
    }

    /// A histogram: the sum of the durations, seconds, and the counts by upper bound.
    pub(crate) fn histogram(
        &mut self,
        values: &[&dyn Display],
        sum: f64,
        buckets: &[(f64, u64)],
    ) -> fmt::Result {
        let count = buckets.iter().map(|&(_, count)| count).sum();
        self.with(
            values,
            |encoder| encoder.encode_histogram::<NoLabelSet>(sum, count, buckets, None),
            || Value::Histogram {
                sum,
                buckets: buckets.to_vec(),
            },
        )
    }

    /// The labels that are what an info says.
    pub(crate) fn info(&mut self, values: &[&dyn Display]) -> fmt::Result {
        if let Sink::Text(encoder) = &mut self.sink {
            let labels = Labels {
                names: self.names,
                values,
            };
            return encoder.encode_info(&labels);
        }
        self.gauge(values, 1_u32)
    }

    fn with(
        &mut self,
        values: &[&dyn Display],
        encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
        value: impl FnOnce() -> Value,
    ) -> fmt::Result {
        if self.names.len() != values.len() {
            // A sample with other labels than its metric has would be another metric.
            return Err(fmt::Error);
        }
        let names = self.names;
        match &mut self.sink {
            Sink::Text(encoder) if names.is_empty() => encode(encoder),
            Sink::Text(encoder) => {
                let labels = Labels { names, values };
                encode(&mut encoder.encode_family(&labels)?)
            }
            Sink::Points(points) => {
                let labels = names.iter().zip(values);
                points.push(Point {
                    labels: labels
                        .map(|(&name, value)| (name, value.to_string()))
                        .collect(),
                    value: value(),
                });
                Ok(())
            }
        }
    }
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        for (name, value) in self.names.iter().zip(self.values) {
            let mut label = encoder.encode_label();
            let mut key = label.encode_label_key()?;
            EncodeLabelKey::encode(name, &mut key)?;
            let mut written = key.encode_label_value()?;
            Shown(*value).encode(&mut written)?;
            written.finish()?;
        }
        Ok(())
    }
}

impl EncodeLabelValue for Shown<'_> {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        write!(encoder, "{}", self.0)
    }
}

/// The service ports that have figures of their own in a snapshot, and so a label.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ports(HashSet<u16>);

impl Ports {
    /// Those of this snapshot.
    pub(crate) fn of(snapshot: &RunSnapshot) -> Self {
        let groups = snapshot.tracker.groups.iter();
        let ports = groups.filter_map(|group| match group.key {
            GroupKey::Port(ServicePort::Port(port), _) => Some(port),
            _ => None,
        });
        Self(ports.collect())
    }

    /// The label of a service port; `None`: it is not known.
    pub(crate) fn label(&self, port: Option<u16>) -> PortLabel {
        PortLabel(match port {
            Some(port) if self.0.contains(&port) => ServicePort::Port(port),
            Some(_) => ServicePort::Other,
            None => ServicePort::Unknown,
        })
    }
}

/// The port that a finding is about, as the value of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FindingPort(pub(crate) Option<PortLabel>);

impl Display for FindingPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(port) => port.fmt(f),
            None => f.write_str("none"),
        }
    }
}

/// A service port as the value of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortLabel(pub(crate) ServicePort);

impl Display for PortLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ServicePort::Port(port) => write!(f, "{port}"),
            ServicePort::Other => f.write_str("other"),
            ServicePort::Unknown => f.write_str("unknown"),
        }
    }
}
