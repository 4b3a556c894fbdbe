//! The message of a push: all metrics of a snapshot, as the protocol has them.

use std::fmt;

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};

use super::names::{Instrument, Named, named};
use crate::metrics::{Exposed, Number, Point, Value, tables};

const NAME: &str = "tcpstate";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The times of all values of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    /// The begin of the run, since when everything is counted, in nanoseconds since 1970.
    pub(super) start_ns: u64,
    /// Now.
    pub(super) now_ns: u64,
}

/// All metrics, of the server at this port.
pub(super) fn request(
    exposed: &Exposed,
    port: u16,
    times: Times,
) -> Result<ExportMetricsServiceRequest, fmt::Error> {
    let mut metrics = Vec::new();
    for metric in tables() {
        let points = metric.points(exposed)?;
        if points.is_empty() {
            continue;
        }
        let named = named(metric);
        metrics.push(Metric {
            data: Some(data(&named, points, times)),
            name: named.name,
            description: metric.meaning.to_owned(),
            unit: named.unit.to_owned(),
            metadata: Vec::new(),
        });
    }
    let host = &exposed.snapshot.origin.host;
    let instance = format!("{host}:{port}");
    let resource = [
        ("service.name", NAME),
        ("service.version", VERSION),
        ("service.instance.id", &instance),
        ("host.name", host),
    ];
    Ok(ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource {
                attributes: resource
                    .map(|(key, value)| attribute(key, value.to_owned()))
                    .into(),
                ..Resource::default()
            }),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(InstrumentationScope {
                    name: NAME.to_owned(),
                    version: VERSION.to_owned(),
                    ..InstrumentationScope::default()
                }),
                metrics,
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    })
}

fn data(named: &Named, points: Vec<Point>, times: Times) -> Data {
    let cumulative = AggregationTemporality::Cumulative.into();
    match named.instrument {
        Instrument::Histogram => Data::Histogram(Histogram {
            data_points: histograms(named, points, times),
            aggregation_temporality: cumulative,
        }),
        Instrument::Gauge => Data::Gauge(Gauge {
            data_points: numbers(named, points, times),
        }),
        Instrument::Counter | Instrument::UpDownCounter => Data::Sum(Sum {
            data_points: numbers(named, points, times),
            aggregation_temporality: cumulative,
            is_monotonic: named.instrument == Instrument::Counter,
        }),
    }
}

fn numbers(named: &Named, points: Vec<Point>, times: Times) -> Vec<NumberDataPoint> {
    let points = points.into_iter().filter_map(|point| {
        let Value::Number(number) = point.value else {
            return None;
        };
        Some(NumberDataPoint {
            attributes: attributes(named, point.labels),
            // A value of now has no beginning.
            start_time_unix_nano: match named.instrument {
                Instrument::Gauge => 0,
                _ => times.start_ns,
            },
            time_unix_nano: times.now_ns,
            value: Some(value(number)),
            ..NumberDataPoint::default()
        })
    });
    points.collect()
}

fn value(number: Number) -> number_data_point::Value {
    match number {
        // No counter gets that far.
        Number::Integer(number) => {
            number_data_point::Value::AsInt(i64::try_from(number).unwrap_or(i64::MAX))
        }
        Number::Float(number) => number_data_point::Value::AsDouble(number),
    }
}

fn histograms(named: &Named, points: Vec<Point>, times: Times) -> Vec<HistogramDataPoint> {
    let points = points.into_iter().filter_map(|point| {
        let Value::Histogram { sum, buckets } = point.value else {
            return None;
        };
        let bounds = buckets.iter().map(|&(bound, _)| bound);
        Some(HistogramDataPoint {
            attributes: attributes(named, point.labels),
            start_time_unix_nano: times.start_ns,
            time_unix_nano: times.now_ns,
            count: buckets.iter().map(|&(_, count)| count).sum(),
            sum: Some(sum),
            bucket_counts: buckets.iter().map(|&(_, count)| count).collect(),
            explicit_bounds: bounds.filter(|bound| bound.is_finite()).collect(),
            ..HistogramDataPoint::default()
        })
    });
    points.collect()
}

fn attributes(named: &Named, labels: Vec<(&'static str, String)>) -> Vec<KeyValue> {
    let labels = labels.into_iter().map(|(label, value)| {
        let (key, value) = named.attribute(label, value);
        attribute(key, value)
    });
    let constant = named.constant.iter();
    let constant = constant.map(|&(key, value)| attribute(key, value.to_owned()));
    labels.chain(constant).collect()
}

fn attribute(key: &str, value: String) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value)),
        }),
        ..KeyValue::default()
    }
}
