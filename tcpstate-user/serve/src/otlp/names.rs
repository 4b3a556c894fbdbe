//! The names of metrics in OpenTelemetry: those of its semantic conventions where there are some, otherwise made of the names in
//! `/metrics`.
//!
//! A name that is made here becomes the one in `/metrics` again where a collector writes it for Prometheus.

use crate::metrics::{Kind, Metric, Unit};

/// A metric, as OpenTelemetry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its instrument.
    pub instrument: Instrument,
    /// Its unit, in the notation of UCUM; empty for a number.
    pub unit: &'static str,
    /// Its attributes that are not a label of the same name and values: the label, the attribute.
    pub renamed: &'static [(&'static str, &'static str)],
    /// Attributes of all its values.
    pub constant: &'static [(&'static str, &'static str)],
}

/// The instrument of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instrument {
    /// A sum that only goes up.
    Counter,
    /// A sum that goes up and down.
    UpDownCounter,
    /// A value.
    Gauge,
    /// A histogram with explicit bounds.
    Histogram,
}

impl Instrument {
    /// The name in the documents of OpenTelemetry.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "Counter",
            Self::UpDownCounter => "UpDownCounter",
            Self::Gauge => "Gauge",
            Self::Histogram => "Histogram",
        }
    }
}

/// A metric of the semantic conventions.
struct Convention {
    /// The name here, without unit and suffix.
    stem: &'static str,
    name: &'static str,
    instrument: Instrument,
    unit: &'static str,
    renamed: &'static [(&'static str, &'static str)],
    constant: &'static [(&'static str, &'static str)],
}

/// The attribute of a TCP state.
const STATE: &str = "network.connection.state";

/// *Source:* the semantic conventions of OpenTelemetry, "System metrics" and "Process metrics".
const CONVENTIONS: [Convention; 3] = [
    Convention {
        stem: "tcpstate_connections",
        name: "system.network.connection.count",
        instrument: Instrument::UpDownCounter,
        unit: "{connection}",
        renamed: &[("state", STATE)],
        constant: &[("network.transport", "tcp")],
    },
    Convention {
        stem: "process_cpu",
        name: "process.cpu.time",
        instrument: Instrument::Counter,
        unit: "s",
        renamed: &[],
        constant: &[],
    },
    Convention {
        stem: "process_resident_memory",
        name: "process.memory.usage",
        instrument: Instrument::UpDownCounter,
        unit: "By",
        renamed: &[],
        constant: &[],
    },
];

/// A metric, as OpenTelemetry has it.
pub fn named(metric: &Metric) -> Named {
    let stem = metric.stem();
    let convention = CONVENTIONS.iter().find(|one| one.stem == stem);
    if let Some(convention) = convention {
        return Named {
            name: convention.name.to_owned(),
            instrument: convention.instrument,
            unit: convention.unit,
            renamed: convention.renamed,
            constant: convention.constant,
        };
    }
    // The prefix is the namespace.
    let name = stem.replacen('_', ".", 1);
    let (name, instrument) = match metric.kind {
        Kind::Counter => (name, Instrument::Counter),
        Kind::Gauge => (name, Instrument::Gauge),
        Kind::Histogram => (name, Instrument::Histogram),
        Kind::Info => (format!("{name}_info"), Instrument::Gauge),
    };
    Named {
        name,
        instrument,
        unit: metric.unit.map_or("", |unit| match unit {
            Unit::Seconds => "s",
            Unit::Bytes => "By",
            Unit::Ratio => "1",
        }),
        renamed: &[],
        constant: &[],
    }
}

impl Named {
    /// The attribute of a label, and its value.
    pub(super) fn attribute(&self, label: &'static str, value: String) -> (&'static str, String) {
        let renamed = self.renamed.iter().find(|(from, _)| *from == label);
        match renamed {
            Some(&(_, STATE)) => (STATE, state(&value)),
            Some(&(_, attribute)) => (attribute, value),
            None => (label, value),
        }
    }
}

/// A state as a value of [`STATE`].
fn state(kernel: &str) -> String {
    match kernel {
        "CLOSE" => "closed".to_owned(),
        "SYN_RECV" => "syn_received".to_owned(),
        "FIN_WAIT1" => "fin_wait_1".to_owned(),
        "FIN_WAIT2" => "fin_wait_2".to_owned(),
        other => other.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tcpstate_common::State;

    use super::*;
    use crate::metrics::tables;

    #[test]
    fn a_name_is_of_one_metric() {
        let names: BTreeSet<String> = tables().map(|metric| named(metric).name).collect();
        assert_eq!(names.len(), tables().count());
        for name in &names {
            let is_plain = |c: char| c.is_ascii_lowercase() || c == '_' || c == '.';
            assert!(name.chars().all(is_plain), "{name}");
        }
    }

    /// The metrics of processes are defined by the conventions, so none is made of a name of ours.
    #[test]
    fn conventions_are_of_metrics_that_exist() {
        for convention in &CONVENTIONS {
            let metric = tables().find(|metric| metric.stem() == convention.stem);
            let metric = metric.unwrap();
            for (label, _) in convention.renamed {
                assert!(metric.labels.contains(label), "{label}");
            }
        }
        for metric in tables() {
            let name = named(metric).name;
            let is_ours = name.starts_with("tcpstate.");
            let has_convention = CONVENTIONS.iter().any(|one| one.name == name);
            assert!(is_ours != has_convention, "{name}");
        }
    }

    /// The rules of collectors that write for Prometheus: dots become underscores, the unit and `_total` are appended.
    #[test]
    fn names_come_back_in_prometheus() {
        for metric in tables() {
            let named = named(metric);
            if !named.name.starts_with("tcpstate.") {
                continue;
            }
            let unit = match named.unit {
                "s" => "_seconds",
                "By" => "_bytes",
                "1" if named.instrument == Instrument::Gauge => "_ratio",
                _ => "",
            };
            let total = match named.instrument {
                Instrument::Counter => "_total",
                _ => "",
            };
            let back = format!("{}{unit}{total}", named.name.replace('.', "_"));
            assert_eq!(back, metric.name());
        }
    }

    /// *Source:* `network.connection.state` in the registry of attributes.
    #[test]
    fn states_are_those_of_the_conventions() {
        let ours: BTreeSet<String> = State::ALL
            .iter()
            .map(|kernel| state(&kernel.to_string()))
            .collect();
        let theirs = [
            "close_wait",
            "closed",
            "closing",
            "established",
            "fin_wait_1",
            "fin_wait_2",
            "last_ack",
            "listen",
            "syn_received",
            "syn_sent",
            "time_wait",
        ];
        assert_eq!(ours, theirs.map(str::to_owned).into());
    }
}
