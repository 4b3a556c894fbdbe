//! Metrics of the books: where every transition went, and what is missing.

use std::fmt;

use tcpstate_core::books::Accounting;

use super::{Exposed, Kind, Metric, samples::Samples};

const fn counter(
    stem: &'static str,
    labels: &'static [&'static str],
    meaning: &'static str,
    read: fn(&Exposed, &mut Samples<'_>) -> fmt::Result,
) -> Metric {
    Metric {
        stem,
        kind: Kind::Counter,
        unit: None,
        labels,
        meaning,
        read,
    }
}

pub(super) static METRICS: &[Metric] = &[
    counter(
        "tcpstate_events_seen",
        &[],
        "Transitions at the tracepoint, all protocols: filtered + submitted + lost",
        |exposed, samples| samples.counter(&[], accounting(exposed).seen),
    ),
    counter(
        "tcpstate_events_filtered",
        &["reason"],
        "Transitions that a filter in the kernel left out, by reason",
        filtered,
    ),
    counter(
        "tcpstate_events_submitted",
        &[],
        "Transitions that were written to the ring buffer: received + rejected, and those still in it",
        |exposed, samples| samples.counter(&[], accounting(exposed).submitted),
    ),
    counter(
        "tcpstate_events_lost",
        &["reason"],
        "Transitions that were wanted and not written to the ring buffer, by reason",
        lost,
    ),
    counter(
        "tcpstate_events_received",
        &[],
        "Transitions that were read from the ring buffer and handed on",
        |exposed, samples| samples.counter(&[], accounting(exposed).received),
    ),
    counter(
        "tcpstate_events_rejected",
        &["reason"],
        "Records that were read from the ring buffer and not handed on, by reason",
        rejected,
    ),
    counter(
        "tcpstate_events_decided",
        &["decision"],
        "Received transitions by the decision of the filters in user space; those passed are what \
            tcpstate_transitions_total counts; together they may be ahead of those received, or behind, by the events under way",
        decided,
    ),
    counter(
        "tcpstate_gaps",
        &[],
        "Transitions that did not join the known state of their connection: others before them are missing",
        |exposed, samples| samples.counter(&[], exposed.snapshot.tracker.books.gaps),
    ),
    counter(
        "tcpstate_transitions_missing",
        &[],
        "Transitions that are known to be missing, at least",
        |exposed, samples| samples.counter(&[], exposed.snapshot.tracker.books.missing_inferred),
    ),
    counter(
        "tcpstate_connections_superseded",
        &[],
        "Connections whose end was not seen",
        |exposed, samples| samples.counter(&[], exposed.snapshot.tracker.books.superseded),
    ),
    counter(
        "tcpstate_connections_evicted",
        &[],
        "Connections that were forgotten because there were more than --max-connections",
        |exposed, samples| samples.counter(&[], exposed.snapshot.tracker.books.evicted),
    ),
    counter(
        "tcpstate_listeners_refused",
        &[],
        "Listeners that were not kept, or not with the processes that hold them, because there were too many",
        |exposed, samples| samples.counter(&[], exposed.snapshot.tracker.books.listeners_refused),
    ),
];

fn accounting(exposed: &Exposed) -> &Accounting {
    &exposed.snapshot.books.accounting
}

fn filtered(exposed: &Exposed, samples: &mut Samples<'_>) -> fmt::Result {
    let reasons = &accounting(exposed).filtered_by_reason;
    for (reason, count) in [
        ("protocol", reasons.protocol),
        ("family", reasons.family),
        ("port", reasons.port),
        ("netns", reasons.netns),
        ("address", reasons.address),
        ("cgroup", reasons.cgroup),
    ] {
        samples.counter(&[&reason], count)?;
    }
    Ok(())
}

fn lost(exposed: &Exposed, samples: &mut Samples<'_>) -> fmt::Result {
    let reasons = &accounting(exposed).lost_by_reason;
    samples.counter(&[&"ring_full"], reasons.ring_full)?;
    samples.known(&[&"nested"], reasons.nested)
}

fn rejected(exposed: &Exposed, samples: &mut Samples<'_>) -> fmt::Result {
    let reasons = &accounting(exposed).rejected_by_reason;
    samples.counter(&[&"malformed"], reasons.malformed)?;
    samples.counter(&[&"queue_full"], reasons.queue_full)
}

fn decided(exposed: &Exposed, samples: &mut Samples<'_>) -> fmt::Result {
    let settled = &exposed.snapshot.books.selection.settled;
    for (decision, count) in [
        ("passed", settled.passed),
        ("filtered", settled.filtered),
        ("undecided", settled.undecided),
    ] {
        samples.counter(&[&decision], count)?;
    }
    Ok(())
}
