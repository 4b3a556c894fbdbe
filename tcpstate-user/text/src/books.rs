//! The end of every run in text and CSV: the accounting, on standard error. In JSON it is the last line,
//! [`crate::format::json::Summary`].

use std::io::{self, Write};

use tcpstate_core::{model::Books, view::End};

use crate::format::{
    text::OrDash,
    units::{Bytes, Count, Span},
};

/// Writes the accounting, what the tracker does not know of connections, and what the run cost.
pub fn write_books(end: &End, tracker: Option<&Books>, err: &mut dyn Write) -> io::Result<()> {
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
        write!(
            err,
            "seen {} = filtered {} + submitted {} + lost {}",
            Count(books.seen),
            Count(books.filtered),
            Count(books.submitted),
            Count(books.lost),
        )?;
        // Beside a gap, a 0 would say that nothing is missing.
        let missing = tracker.map_or(0, |known| known.missing_inferred);
        if missing > books.lost.saturating_add(books.rejected) {
            write!(err, " (at least {} missing, inferred)", Count(missing))?;
        }
        writeln!(
            err,
            "; submitted = received {} + rejected {}",
            Count(books.received),
            Count(books.rejected),
        )?;
    }
    let settled = end.selection.settled;
    if settled.passed != books.received {
        let why = if settled.undecided > 0 {
            " (no later event of the socket matched)"
        } else {
            ""
        };
        writeln!(
            err,
            "received = passed {} + dropped {} + undecided {}{why} + unread {}",
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
    if let Some(known) = tracker
        && known.gaps + known.missing_inferred + known.evicted > 0
    {
        writeln!(
            err,
            "INCOMPLETE: gaps {}, connections that ended unseen {} (at least {} transitions missing), \
             evicted because there were too many {}. Times next to a gap are unknown; how many are in a state is not exact.",
            Count(known.gaps),
            Count(known.superseded),
            Count(known.missing_inferred),
            Count(known.evicted),
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tcpstate_common::{
        Record, State,
        record::{AF_INET, flags},
    };
    use tcpstate_core::{
        books::{Accounting, Cost, Selection},
        event::Event,
        model::{By, Limits},
        options::{Format, Until},
        origin::Origin,
        view::View,
    };

    use super::*;
    use crate::{
        life::{self, Life},
        rates::{self, Rates},
        settings::Settings,
        trace::{self, Trace},
    };

    fn event(cookie: u64, ts_ns: u64, oldstate: State, newstate: State) -> Event {
        Event::try_from(Record {
            ts_ns,
            cookie,
            skaddr: 0xffff_8881_0000_0000 | cookie << 12,
            lport: 40_000,
            rport: 443,
            family: AF_INET,
            flags: flags::SOCKET | flags::COOKIE | flags::TCP,
            oldstate,
            newstate,
            ..Record::default()
        })
        .unwrap()
    }

    /// One connection with a missing event, one that begins anew before its end, and a third, where there is
    /// room for two.
    fn incomplete() -> [Event; 5] {
        [
            event(1, 1, State::CLOSE, State::SYN_SENT),
            event(1, 2, State::FIN_WAIT1, State::FIN_WAIT2),
            event(2, 3, State::CLOSE, State::SYN_SENT),
            event(2, 4, State::CLOSE, State::SYN_SENT),
            event(3, 5, State::ESTABLISHED, State::CLOSE_WAIT),
        ]
    }

    /// The last line of standard output, and standard error.
    fn run(view: &mut dyn View, events: &[Event]) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        for event in events {
            view.event(event, &mut out).unwrap();
        }
        let end = End {
            now_ns: 10,
            accounting: Accounting::default(),
            selection: Selection::default(),
            cost: Cost::default(),
        };
        view.finish(&end, &mut out, &mut err).unwrap();
        let out = String::from_utf8(out).unwrap();
        (
            out.lines().last().unwrap_or_default().to_owned(),
            String::from_utf8(err).unwrap(),
        )
    }

    fn settings(format: Format, max_connections: usize) -> Settings {
        Settings {
            limits: Limits {
                max_connections,
                ..Limits::default()
            },
            ..Settings::plain(format)
        }
    }

    fn rates(format: Format) -> Rates {
        Rates::new(&rates::Options {
            settings: settings(format, 2),
            interval_ns: 1_000_000_000,
            by: By::Port,
            in_kernel: false,
        })
    }

    fn trace(format: Format) -> Trace {
        Trace::new(&trace::Options {
            settings: Settings::plain(format),
            states: None,
            count: None,
            columns: crate::format::text::Columns::Usual,
            time: false,
            reset_reason: false,
            timestamp: false,
        })
    }

    #[test]
    fn gaps_and_evictions_are_reported() {
        let summary = |view: &mut dyn View| -> Value {
            serde_json::from_str(&run(view, &incomplete()).0).unwrap()
        };
        assert_eq!(
            summary(&mut rates(Format::Json))["connections"],
            json!({
                "live": 2, "first_seen": 1, "seeded": 0, "gaps": 2, "missing_inferred": 3,
                "superseded": 1,
                "evicted": 1, "listeners_refused": 0, "minisockets": 0, "unfollowed": 0,
            })
        );
        assert_eq!(
            summary(&mut trace(Format::Json))["connections"],
            json!({
                "live": 3, "first_seen": 1, "seeded": 0, "gaps": 2, "missing_inferred": 3,
                "superseded": 1,
                "evicted": 0, "listeners_refused": 0, "minisockets": 0, "unfollowed": 0,
            })
        );
        let reported = run(&mut rates(Format::Text), &incomplete()).1;
        assert!(
            reported.contains(
                "\nINCOMPLETE: gaps 2, connections that ended unseen 1 (at least 3 transitions \
                 missing), evicted because there were too many 1."
            ),
            "{reported}"
        );
    }

    /// The lines of `life` for these connections, before a census says that they are gone; each goes through these
    /// states.
    fn life(until: Until, max_connections: usize, paths: &[(u64, &[State])]) -> Vec<Value> {
        let mut life = Life::new(&life::Options {
            settings: settings(Format::Json, max_connections),
            live: false,
            until,
            states: None,
            causes: None,
            longer_than: None,
            count: None,
            columns: crate::format::text::Columns::Usual,
            time: false,
            reset_reason: false,
        });
        let origin = json!({
            "host": "", "kernel": "", "attach": "btf", "filters": "", "live": true,
            "wall_at_monotonic_zero_ns": 0, "started_ns": 0, "sample_interval_ns": 1,
        });
        let origin: Origin = serde_json::from_value(origin).unwrap();
        let mut out = Vec::new();
        life.start(&origin, &mut out).unwrap();
        for (cookie, path) in paths {
            for pair in path.windows(2) {
                let event = event(*cookie, *cookie, pair[0], pair[1]);
                life.event(&event, &mut out).unwrap();
            }
        }
        let lines = serde_json::Deserializer::from_slice(&out).into_iter();
        lines.map(Result::unwrap).collect()
    }

    const CLOSES: &[State] = &[
        State::CLOSE,
        State::SYN_SENT,
        State::FIN_WAIT1,
        State::CLOSING,
        State::CLOSE,
    ];
    const FAILS: &[State] = &[State::CLOSE, State::SYN_SENT, State::CLOSE];

    #[test]
    fn a_connection_is_held_back_only_while_it_is_followed() {
        // There is room to follow one of them.
        let shown = life(Until::Gone, 1, &[(1, CLOSES), (2, CLOSES)]);
        let [line] = &shown[..] else {
            panic!("{shown:?}");
        };
        assert_eq!(
            (&line["cookie"], &line["goes_on"]),
            (&json!(2), &json!("TIME_WAIT"))
        );
        assert_eq!(life(Until::Close, 2, &[(1, CLOSES), (2, CLOSES)]).len(), 2);
    }

    #[test]
    fn the_second_connection_of_a_socket_is_shown_while_the_first_is_held_back() {
        for second in [FAILS, CLOSES] {
            assert_eq!(life(Until::Gone, 9, &[(1, CLOSES), (1, second)]).len(), 1);
        }
    }

    #[test]
    fn a_complete_run_is_not_called_incomplete() {
        let whole = [event(1, 1, State::CLOSE, State::SYN_SENT)];
        for view in [
            &mut rates(Format::Text) as &mut dyn View,
            &mut trace(Format::Text),
        ] {
            let reported = run(view, &whole).1;
            assert!(!reported.contains("INCOMPLETE"), "{reported}");
        }
    }
}
