//! Metrics of tcpstate itself: the ring buffer, processor time, memory, version.

use super::{Exposed, Kind, Metric, Unit};
use crate::buckets::seconds;
use tcpstate_core::books::Cost;

pub(super) static METRICS: &[Metric] = &[
    Metric {
        stem: "tcpstate_ring",
        kind: Kind::Gauge,
        unit: Some(Unit::Bytes),
        labels: &[],
        meaning: "Size of the ring buffer",
        read: |exposed, samples| samples.gauge(&[], exposed.ring_bytes),
    },
    Metric {
        stem: "tcpstate_ring_high_water",
        kind: Kind::Gauge,
        unit: Some(Unit::Bytes),
        labels: &[],
        meaning: "The most that has waited in the ring buffer at a time since the start",
        read: |exposed, samples| match cost(exposed).capture.ring_high_water_bytes {
            Some(bytes) => samples.gauge(&[], bytes),
            None => Ok(()),
        },
    },
    Metric {
        stem: "tcpstate_ring_fill",
        kind: Kind::Gauge,
        unit: Some(Unit::Bytes),
        labels: &[],
        meaning: "The most that has waited in the ring buffer at a time in the last second",
        read: |exposed, samples| match exposed.snapshot.books.load.ring_fill_bytes {
            Some(bytes) => samples.gauge(&[], bytes),
            None => Ok(()),
        },
    },
    Metric {
        stem: "tcpstate_sampling",
        kind: Kind::Counter,
        unit: Some(Unit::Seconds),
        labels: &[],
        meaning: "Processor time of the thread that samples sockets",
        read: |exposed, samples| {
            samples.known(&[], exposed.snapshot.books.load.sampling_ns.map(seconds))
        },
    },
    Metric {
        stem: "tcpstate_bpf_run",
        kind: Kind::Counter,
        unit: Some(Unit::Seconds),
        labels: &[],
        meaning: "Run time of the BPF programs, where the kernel measures it (--bpf-stats)",
        read: |exposed, samples| samples.known(&[], cost(exposed).capture.bpf_run_ns.map(seconds)),
    },
    Metric {
        stem: "tcpstate_bpf_runs",
        kind: Kind::Counter,
        unit: None,
        labels: &[],
        meaning: "Runs of the BPF programs, where the kernel counts them (--bpf-stats)",
        read: |exposed, samples| samples.known(&[], cost(exposed).capture.bpf_run_count),
    },
    Metric {
        stem: "tcpstate_tracker_memory",
        kind: Kind::Gauge,
        unit: Some(Unit::Bytes),
        labels: &[],
        meaning: "Memory that the tables of connections, listeners, rates and histograms take",
        read: |exposed, samples| samples.gauge(&[], exposed.snapshot.memory.total()),
    },
    Metric {
        stem: "process_cpu",
        kind: Kind::Counter,
        unit: Some(Unit::Seconds),
        labels: &[],
        meaning: "Processor time of tcpstate, user and system",
        read: |exposed, samples| samples.counter(&[], seconds(cost(exposed).cpu_ns)),
    },
    Metric {
        stem: "process_resident_memory",
        kind: Kind::Gauge,
        unit: Some(Unit::Bytes),
        labels: &[],
        meaning: "Resident memory of tcpstate",
        read: |exposed, samples| match exposed.resident_bytes {
            Some(bytes) => samples.gauge(&[], bytes),
            None => Ok(()),
        },
    },
    Metric {
        stem: "tcpstate_build",
        kind: Kind::Info,
        unit: None,
        labels: &["version"],
        meaning: "The version of tcpstate; its value is always 1",
        read: |_, samples| samples.info(&[&env!("CARGO_PKG_VERSION")]),
    },
];

fn cost(exposed: &Exposed) -> &Cost {
    &exposed.snapshot.books.cost
}
