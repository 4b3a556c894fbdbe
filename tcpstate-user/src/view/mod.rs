//! What is shown: a file per subcommand. A view is fed events and knows nothing of their source.
//!
//! What all of them share is the end: [`tell_books`] in text and CSV, on standard error, and
//! [`crate::format::json::Summary`] as the last line of JSON.

pub mod doctor;
pub mod hist;
pub mod life;
pub mod ls;
pub mod rates;
pub mod record;
pub mod trace;

use std::io::{self, Write};

use tcpstate_common::State;

use crate::{
    format::units::{Bytes, Count, Span},
    run::End,
};

/// Where a state stands in the life of a connection.
pub(crate) fn rank(state: State) -> usize {
    const LIFE: [State; 11] = [
        State::CLOSE,
        State::LISTEN,
        State::SYN_SENT,
        State::SYN_RECV,
        State::ESTABLISHED,
        State::FIN_WAIT1,
        State::FIN_WAIT2,
        State::CLOSING,
        State::TIME_WAIT,
        State::CLOSE_WAIT,
        State::LAST_ACK,
    ];
    LIFE.iter()
        .position(|&known| known == state)
        .unwrap_or(LIFE.len() + usize::from(state.0))
}

/// Tells a person where every transition went, and what the run cost.
pub fn tell_books(end: &End, err: &mut dyn Write) -> io::Result<()> {
    let books = &end.accounting;
    if books.partial {
        // A 0 here would say that nothing was lost.
        writeln!(
            err,
            "seen - = filtered - + submitted - + lost -; read from the file: received {} + \
             rejected {}",
            Count(books.received),
            Count(books.rejected),
        )?;
    } else {
        writeln!(
            err,
            "seen {} = filtered {} + submitted {} + lost {}; submitted = received {} + rejected {}",
            Count(books.seen),
            Count(books.filtered),
            Count(books.submitted),
            Count(books.lost),
            Count(books.received),
            Count(books.rejected),
        )?;
    }
    let settled = end.selection.settled;
    if settled.passed != books.received {
        writeln!(
            err,
            "received = passed {} + dropped {} + undecided {} + unread {}",
            Count(settled.passed),
            Count(settled.dropped),
            Count(settled.undecided),
            Count(end.selection.unread),
        )?;
    }
    if books.lost > 0 {
        writeln!(
            err,
            "LOST {}: ring full {}, nested {}. Times next to a gap are unknown. A larger \
             --ring-bytes helps against a full ring.",
            Count(books.lost),
            Count(books.lost_by_reason.ring_full),
            Count(books.lost_by_reason.nested),
        )?;
    }
    let reasons = &books.rejected_by_reason;
    let rejected = books.rejected.saturating_sub(reasons.not_in_file);
    if rejected > 0 {
        writeln!(
            err,
            "REJECTED {}: malformed {}, queue full {}. Against a full queue, filter, or write to a file.",
            Count(rejected),
            Count(reasons.malformed),
            Count(reasons.queue_full),
        )?;
    }
    if reasons.not_in_file > 0 {
        writeln!(
            err,
            "NOT IN THE RECORDING {}: left out by its filters, or when it ended, in another file of its \
             rotation, or damaged",
            Count(reasons.not_in_file),
        )?;
    }
    write!(err, "cost: CPU {}", Span(end.cost.cpu_ns))?;
    if let Some(bytes) = end.cost.max_rss_bytes {
        write!(err, ", memory {}", Bytes(bytes))?;
    }
    if let Some(bytes) = end.cost.capture.ring_high_water_bytes {
        write!(err, ", at most {} waiting in the ring", Bytes(bytes))?;
    }
    if let (Some(ns), Some(count @ 1..)) =
        (end.cost.capture.bpf_run_ns, end.cost.capture.bpf_run_count)
    {
        write!(err, ", BPF {} an event", Span(ns / count))?;
    }
    writeln!(err)
}
