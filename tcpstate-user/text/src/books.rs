//! The end of every run in text and CSV, on standard error: what was lost, in words; in full, the books. In JSON it
//! is the last line, [`crate::format::json::Summary`].

use std::{
    fmt,
    io::{self, Write},
};

use tcpstate_core::{
    books::{Accounting, FilteredByReason},
    model::Books,
    origin::Evidence,
    view::End,
};

use crate::format::{
    text::OrDash,
    units::{Bytes, Count, Counted, Span},
};

/// The number of changes and what was lost of them, in words: `2,048 changes, none lost`.
pub struct Changes<'a>(pub &'a End, pub Option<&'a Books>);

impl fmt::Display for Changes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passed = Counted(self.0.selection.settled.passed, "change");
        write!(f, "{passed}, {}", Losses(self.0, self.1))
    }
}

/// The losses, in words.
pub struct Losses<'a>(pub &'a End, pub Option<&'a Books>);

impl fmt::Display for Losses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let books = &self.0.accounting;
        let missed = books.missed();
        // Beside a gap, a 0 would say that nothing is missing.
        let inferred = self.1.map_or(0, |known| known.missing_inferred);
        if inferred > missed {
            write!(f, "at least {} missing", Count(inferred))
        } else if missed > 0 {
            write!(f, "{} lost", Count(missed))
        } else if books.partial {
            f.write_str("losses unknown, as the recording's books were not read")
        } else if books.lost_by_reason.nested.is_none() {
            f.write_str("none known to be lost")
        } else {
            f.write_str("none lost")
        }
    }
}

/// The word for what a view follows: of packets it has both ends of a connection, each for itself.
pub(crate) const fn noun(end: &End) -> &'static str {
    match end.evidence {
        Evidence::Kernel => "connection",
        Evidence::Packets => "connection end",
    }
}

/// Writes the rest of the end behind the words: what is missing and why and, if the user wants them or something is
/// missing, the books in full.
pub fn write_books(end: &End, connections: Option<&Books>, err: &mut dyn Write) -> io::Result<()> {
    let in_full = end.verbose || !end.is_complete(connections);
    if in_full {
        write_equations(end, err)?;
    } else if end.selection.settled.undecided > 0 {
        let undecided = Counted(end.selection.settled.undecided, "change");
        writeln!(
            err,
            "{undecided} undecided, and not shown: a filter asks for what is not known of the socket"
        )?;
    }
    write_missing(&end.accounting, connections, err)?;
    write_packets(end, in_full, err)?;
    if let Some(part) = &end.part {
        writeln!(err, "shown of the recording: {}", part.words)?;
    }
    // The time of the program was measured because somebody wants to know it.
    if in_full || end.cost.capture.bpf_run_count.is_some() {
        write_cost(end, err)?;
    }
    Ok(())
}

/// Writes the way of every transition, and explains the words where they count something.
fn write_equations(end: &End, err: &mut dyn Write) -> io::Result<()> {
    let books = &end.accounting;
    if books.partial {
        // A 0 here would say that nothing was lost.
        writeln!(err, "seen - = filtered - + submitted - + lost -")?;
        writeln!(
            err,
            "read from the file {} = received {} + rejected {}",
            Count(books.received.saturating_add(books.rejected)),
            Count(books.received),
            Count(books.rejected),
        )?;
    } else {
        writeln!(
            err,
            "seen {} = filtered {} + submitted {} + lost {}",
            Count(books.seen),
            Count(books.filtered),
            Count(books.submitted),
            Count(books.lost),
        )?;
        writeln!(
            err,
            "submitted {} = received {} + rejected {}",
            Count(books.submitted),
            Count(books.received),
            Count(books.rejected),
        )?;
    }
    let (settled, unread) = (end.selection.settled, end.selection.unread);
    let earlier = end.selection.earlier;
    write!(
        err,
        "received {} = passed {} + filtered {} + undecided {} + unread {}",
        Count(books.received),
        Count(settled.passed),
        Count(settled.filtered),
        Count(settled.undecided),
        Count(unread),
    )?;
    if earlier > 0 {
        write!(err, " + earlier {}", Count(earlier))?;
    }
    writeln!(err)?;
    if !books.partial && books.filtered > 0 {
        writeln!(
            err,
            "filtered of seen: not asked for, by {}",
            Reasons(&books.filtered_by_reason)
        )?;
    }
    if settled.filtered > 0 {
        writeln!(
            err,
            "filtered of received: not asked for, decided in user space"
        )?;
    }
    if settled.undecided > 0 {
        writeln!(
            err,
            "undecided: whether it is asked for depends on what is not known of the socket, or was not known yet \
             and its next change did not come"
        )?;
    }
    if earlier > 0 {
        writeln!(err, "earlier: before the part that was asked for")?;
    }
    if unread > 0 {
        writeln!(err, "unread: came after all that was asked for")?;
    }
    Ok(())
}

/// Writes what became of the packets that the changes were rebuilt from.
fn write_packets(end: &End, in_full: bool, err: &mut dyn Write) -> io::Result<()> {
    if end.evidence == Evidence::Kernel {
        return Ok(());
    }
    let Some(packets) = &end.packets else {
        return writeln!(err, "rebuilt from packets, not seen in the kernel");
    };
    writeln!(
        err,
        "rebuilt from packets: {} = TCP {} + not TCP {} + unreadable {}",
        Count(packets.seen),
        Count(packets.tcp),
        Count(packets.not_tcp),
        Count(packets.unreadable),
    )?;
    let kinds = &packets.not_tcp_by_kind;
    let not_tcp = [
        ("UDP", kinds.udp),
        ("ICMP", kinds.icmp),
        ("ARP", kinds.arp),
        ("later fragment", kinds.fragment),
        ("other IP", kinds.other_ip),
        ("other", kinds.other),
    ];
    if in_full && packets.not_tcp > 0 {
        writeln!(err, "not TCP: {}", Counts(&not_tcp))?;
    }
    let reasons = &packets.unreadable_by_reason;
    let unreadable = [
        ("cut before the TCP header", reasons.cut),
        ("malformed", reasons.malformed),
        ("unknown link type", reasons.link_type),
        ("wrong IP checksum", reasons.ip_checksum),
        ("wrong TCP checksum", reasons.tcp_checksum),
    ];
    if packets.unreadable > 0 {
        writeln!(err, "unreadable: {}", Counts(&unreadable))?;
    }
    if in_full && packets.tunnelled > 0 {
        writeln!(err, "inside tunnels: {}", Count(packets.tunnelled))?;
    }
    Ok(())
}

/// Those that count something: `port 1,200, cgroup 3`.
struct Counts<'a>(&'a [(&'static str, u64)]);

impl fmt::Display for Counts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, count) in self.0.iter().filter(|&&(_, count)| count > 0) {
            write!(f, "{separator}{name} {}", Count(*count))?;
            separator = ", ";
        }
        Ok(())
    }
}

/// The reasons of [`Accounting::filtered`] that count something: `port 1,200, cgroup 3`.
struct Reasons<'a>(&'a FilteredByReason);

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons = [
            ("protocol (not TCP)", self.0.protocol),
            ("address family", self.0.family),
            ("port", self.0.port),
            ("network namespace", self.0.netns),
            ("cgroup", self.0.cgroup),
            ("user space", self.0.settled),
        ];
        Counts(&reasons).fmt(f)
    }
}

fn write_missing(
    books: &Accounting,
    connections: Option<&Books>,
    err: &mut dyn Write,
) -> io::Result<()> {
    if books.lost > 0 {
        writeln!(
            err,
            "LOST {}: ring full {}, nested {}. Times next to a gap are unknown. A larger \
             --ring-bytes helps against a full ring.",
            Count(books.lost),
            Count(books.lost_by_reason.ring_full),
            OrDash(books.lost_by_reason.nested.map(Count)),
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
    if let Some(known) = connections
        && !known.is_complete()
    {
        let missing = known.missing_inferred;
        let parts = [
            (known.gaps, format!("{}", Counted(known.gaps, "gap"))),
            (
                known.superseded,
                format!("{} ended unseen", Counted(known.superseded, "connection")),
            ),
            (
                missing,
                format!("at least {} missing", Counted(missing, "change")),
            ),
            (
                known.evicted,
                format!(
                    "{} forgotten because there were too many",
                    Counted(known.evicted, "connection")
                ),
            ),
        ];
        let parts = parts.into_iter().filter(|&(count, _)| count > 0);
        let parts: Vec<_> = parts.map(|(_, text)| text).collect();
        writeln!(
            err,
            "INCOMPLETE: {}. Times next to a gap are unknown; how many are in a state is not exact.",
            parts.join(", ")
        )?;
    }
    Ok(())
}

fn write_cost(end: &End, err: &mut dyn Write) -> io::Result<()> {
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

#[cfg(test)]
mod tests;
