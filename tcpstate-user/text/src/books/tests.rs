use std::{cell::RefCell, rc::Rc};

use serde_json::{Value, json};
use tcpstate_common::{
    Record, State,
    record::{AF_INET, flags},
};
use tcpstate_core::{
    books::{
        Accounting, Cost, FilteredByReason, LostByReason, NotTcp, Packets, RejectedByReason,
        Selection, Settled, Unreadable,
    },
    event::Event,
    expression::Expression,
    model::{By, Limits},
    options::{Format, Until},
    origin::{Evidence, Origin},
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

/// The end of a run in which this many events were received, and none was lost.
fn end(received: u64) -> End {
    End {
        now_ns: 10,
        accounting: Accounting {
            seen: received,
            submitted: received,
            received,
            lost_by_reason: LostByReason {
                nested: Some(0),
                ..LostByReason::default()
            },
            ..Accounting::default()
        },
        selection: Selection {
            settled: Settled {
                passed: received,
                ..Settled::default()
            },
            ..Selection::default()
        },
        cost: Cost::default(),
        damaged: false,
        verbose: false,
        part: None,
        evidence: Evidence::Kernel,
        packets: None,
    }
}

/// The last line of standard output, and standard error.
fn run(view: &mut dyn View, events: &[Event]) -> (String, String) {
    run_to(view, events, &end(events.len() as u64))
}

fn run_to(view: &mut dyn View, events: &[Event], end: &End) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    for event in events {
        view.event(event, &mut out).unwrap();
    }
    view.finish(end, &mut out, &mut err).unwrap();
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
            "live": 2, "opened": 3, "first_seen": 1, "seeded": 0, "gaps": 2, "missing_inferred": 3,
            "superseded": 1,
            "evicted": 1, "listeners_refused": 0, "minisockets": 0, "unfollowed": 0,
        })
    );
    assert_eq!(
        summary(&mut trace(Format::Json))["connections"],
        json!({
            "live": 3, "opened": 3, "first_seen": 1, "seeded": 0, "gaps": 2, "missing_inferred": 3,
            "superseded": 1,
            "evicted": 0, "listeners_refused": 0, "minisockets": 0, "unfollowed": 0,
        })
    );
    let reported = run(&mut rates(Format::Text), &incomplete()).1;
    assert!(
        reported.contains(
            "\nINCOMPLETE: 2 gaps, 1 connection ended unseen, at least 3 changes missing, 1 connection \
             forgotten because there were too many."
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
        expression: Expression::default(),
        states: None,
        causes: None,
        longer_than: None,
        count: None,
        columns: crate::format::text::Columns::Usual,
        time: false,
        timestamp: false,
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

const WHOLE: [(u64, State, State); 2] = [
    (1, State::CLOSE, State::SYN_SENT),
    (2, State::SYN_SENT, State::ESTABLISHED),
];

fn whole() -> [Event; 2] {
    WHOLE.map(|(ts_ns, old, new)| event(1, ts_ns, old, new))
}

#[test]
fn a_run_in_which_all_is_well_ends_with_a_sentence() {
    let reported = run(&mut trace(Format::Text), &whole()).1;
    assert_eq!(reported, "1 connection; 2 changes, none lost\n");
    let reported = run(&mut rates(Format::Text), &whole()).1;
    let sentences =
        "1 interval; 2 changes, none lost\nopened 1, established 1, closed 0, failed 0\n";
    assert_eq!(reported, sentences);
    let summary: Value = serde_json::from_str(&run(&mut trace(Format::Json), &whole()).0).unwrap();
    assert_eq!(summary["complete"], json!(true));
    // A kernel that skips the program without counting that.
    let mut uncounted = end(2);
    uncounted.accounting.lost_by_reason.nested = None;
    let reported = run_to(&mut trace(Format::Text), &whole(), &uncounted).1;
    assert_eq!(reported, "1 connection; 2 changes, none known to be lost\n");
}

#[test]
fn the_books_are_shown_in_full_on_request_and_where_something_is_missing() {
    let verbose = End {
        verbose: true,
        ..end(2)
    };
    let reported = run_to(&mut trace(Format::Text), &whole(), &verbose).1;
    let books = "seen 2 = filtered 0 + submitted 2 + lost 0\n\
        submitted 2 = received 2 + rejected 0\n\
        received 2 = passed 2 + filtered 0 + undecided 0 + unread 0\ncost: ";
    let (sentence, rest) = reported.split_once('\n').unwrap();
    assert_eq!(sentence, "1 connection; 2 changes, none lost");
    assert!(rest.starts_with(books), "{reported}");

    let damaged = End {
        damaged: true,
        ..end(2)
    };
    let mut lost = end(2);
    lost.accounting.lost = 1;
    let mut rejected = end(2);
    rejected.accounting.rejected = 1;
    for end in [damaged, lost, rejected] {
        let reported = run_to(&mut trace(Format::Text), &whole(), &end).1;
        assert!(reported.contains("\nseen 2 = "), "{reported}");
        let summary = run_to(&mut trace(Format::Json), &whole(), &end).0;
        assert!(summary.contains("\"complete\":false"), "{summary}");
    }
    // It never had these.
    let mut elsewhere = end(2);
    elsewhere.accounting.rejected = 3;
    elsewhere.accounting.rejected_by_reason = RejectedByReason {
        not_in_file: 3,
        ..RejectedByReason::default()
    };
    let reported = run_to(&mut trace(Format::Text), &whole(), &elsewhere).1;
    let first = "1 connection; 2 changes, none lost\nNOT IN THE RECORDING 3: ";
    assert!(reported.starts_with(first), "{reported}");
}

#[test]
fn the_words_of_the_books_are_explained_where_they_count_something() {
    let mut filtered = End {
        verbose: true,
        ..end(9)
    };
    filtered.accounting.filtered = 5;
    filtered.accounting.filtered_by_reason = FilteredByReason {
        port: 3,
        cgroup: 2,
        ..FilteredByReason::default()
    };
    let explained = |end: &End| {
        let reported = run_to(&mut trace(Format::Text), &whole(), end).1;
        let lines = reported.lines().filter(|line| !line.contains('='));
        let words = lines.filter_map(|line| line.split_once(": "));
        let words = words.map(|(word, why)| (word.to_owned(), why.to_owned()));
        words.collect::<Vec<_>>()
    };
    let words = explained(&filtered);
    assert_eq!(words[0].0, "filtered of seen");
    assert!(words[0].1.ends_with("by port 3, cgroup 2"), "{words:?}");
    assert_eq!(words[1].0, "cost");

    filtered.accounting.filtered = 0;
    filtered.selection.settled = Settled {
        passed: 2,
        filtered: 3,
        undecided: 2,
    };
    filtered.selection.unread = 2;
    let words: Vec<_> = explained(&filtered)
        .into_iter()
        .map(|word| word.0)
        .collect();
    assert_eq!(
        words,
        ["filtered of received", "undecided", "unread", "cost"]
    );
}

/// A terminal that shows standard error at once, and standard output when it is flushed.
#[derive(Default)]
struct Terminal {
    shown: Rc<RefCell<String>>,
    waiting: String,
    is_buffered: bool,
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.push_str(std::str::from_utf8(bytes).unwrap());
        if !self.is_buffered {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.shown.borrow_mut().push_str(&self.waiting);
        self.waiting.clear();
        Ok(())
    }
}

#[test]
fn the_summary_comes_behind_the_last_data() {
    for view in [
        &mut trace(Format::Text) as &mut dyn View,
        &mut rates(Format::Text),
        &mut trace(Format::Csv),
    ] {
        let mut out = Terminal {
            is_buffered: true,
            ..Terminal::default()
        };
        let mut err = Terminal {
            shown: Rc::clone(&out.shown),
            ..Terminal::default()
        };
        for event in whole() {
            view.event(&event, &mut out).unwrap();
        }
        view.finish(&end(2), &mut out, &mut err).unwrap();
        out.flush().unwrap();
        let shown = out.shown.borrow();
        let (data, summary) = shown.split_once("; 2 changes").unwrap();
        assert!(data.contains("SYN_SENT"), "{shown}");
        assert!(!summary.contains("SYN_SENT"), "{shown}");
    }
}

#[test]
fn what_was_rebuilt_from_packets_says_so() {
    let mut end = end(0);
    let written = |end: &End| {
        let mut err = Vec::new();
        write_books(end, None, &mut err).unwrap();
        String::from_utf8(err).unwrap()
    };
    assert!(!written(&end).contains("packets"));
    end.evidence = Evidence::Packets;
    assert_eq!(
        written(&end),
        "rebuilt from packets, not seen in the kernel\n"
    );
    let mut packets = Packets {
        seen: 3_000,
        tcp: 2_997,
        tunnelled: 5,
        ..Packets::default()
    };
    packets.count_not_tcp(NotTcp::Arp);
    packets.count_not_tcp(NotTcp::Fragment);
    packets.count_unreadable(Unreadable::Cut);
    packets.count_unreadable(Unreadable::IpChecksum);
    packets.count_unreadable(Unreadable::TcpChecksum);
    end.packets = Some(packets);
    let short = "rebuilt from packets: 3,000 = TCP 2,997 + not TCP 2 + unreadable 3\n";
    let reason =
        "unreadable: cut before the TCP header 1, wrong IP checksum 1, wrong TCP checksum 1\n";
    assert_eq!(written(&end), [short, reason].concat());
    end.verbose = true;
    let full = written(&end);
    for line in [
        "not TCP: ARP 1, later fragment 1\n",
        reason,
        "inside tunnels: 5\n",
    ] {
        assert!(full.contains(line), "{full}");
    }
}
