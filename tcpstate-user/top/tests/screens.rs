//! Each screen in terminals of three sizes, compared with the files in `tests/golden`; and what keys and the mouse do.
//!
//! `TCPSTATE_BLESS=1 cargo test -p tcpstate-top` writes these files anew; read the difference before you commit it.

#[path = "support/screen.rs"]
mod screen;
#[path = "../../tests/support/stream.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod stream;
#[path = "../../tests/support/golden.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use ratatui::style::Color;
use tcpstate_common::{
    Record, State,
    record::{AF_INET, flags},
};
use tcpstate_core::{
    books::{Accounting, Cost, RunBooks, Selection, Settled},
    diagnosis::{Look, Thresholds},
    event::Event,
    model::{By, Connections, Include, Limits},
    origin::{Evidence, Origin},
    present::{Options as Published, Publisher},
    view::{End, View as _},
};
use tcpstate_top::{App, Input, Options, Then, plain};

use self::{
    screen::{LONGEST, PLAIN, SECOND_NS, UNICODE, frame, options, press, terminal, type_in},
    support::{compare, names, origin},
};

/// Columns and rows.
const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (40, 12)];

/// Shows these events, a snapshot each second, up to the end of the last second but for the last one.
fn shown(events: &[Event], options: Options) -> App {
    let (mut app, mut publisher) = (App::new(options), publisher());
    let first_ns = events[0].ts_ns();
    let origin = Origin {
        started_ns: first_ns,
        live: true,
        ..origin()
    };
    let subscriber = publisher.subscribe();
    publisher.set_names(names());
    publisher.start(&origin, &mut Vec::new()).unwrap();
    let mut tick_ns = first_ns + SECOND_NS;
    let mut received = 0;
    for event in events {
        while event.ts_ns() >= tick_ns {
            publisher.books(&books(received));
            publisher.tick(tick_ns, &mut Vec::new()).unwrap();
            app.update(Input::Snapshot(subscriber.latest().unwrap()));
            tick_ns += SECOND_NS;
        }
        publisher.event(event, &mut Vec::new()).unwrap();
        received += 1;
    }
    let RunBooks {
        accounting,
        selection,
        cost,
        ..
    } = books(received);
    let end = End {
        now_ns: tick_ns,
        accounting,
        selection,
        cost,
        damaged: false,
        verbose: false,
        part: None,
        evidence: Evidence::Kernel,
        packets: None,
    };
    publisher
        .finish(&end, &mut Vec::new(), &mut Vec::new())
        .unwrap();
    app.update(Input::Snapshot(subscriber.latest().unwrap()));
    app
}

fn publisher() -> Publisher {
    let publisher = Publisher::new(&Published {
        interval_ns: SECOND_NS,
        by: By::Port,
        include: Include {
            connections: Connections::Longest(LONGEST),
            histograms: true,
        },
        in_kernel: false,
        limits: Limits::default(),
    });
    publisher.diagnosing(Thresholds::default(), Look::default(), None)
}

/// The books of so many events, each of which cost a microsecond.
fn books(received: u64) -> RunBooks {
    let mut accounting = Accounting {
        seen: received,
        submitted: received,
        received,
        ..Accounting::default()
    };
    accounting.lost_by_reason.nested = Some(0);
    RunBooks {
        accounting,
        selection: Selection {
            settled: Settled {
                passed: received,
                ..Settled::default()
            },
            ..Selection::default()
        },
        cost: Cost {
            cpu_ns: received * 1_000,
            max_rss_bytes: Some(21 << 20),
            ..Cost::default()
        },
        ..RunBooks::default()
    }
}

const LENGTH_NS: u64 = 20 * SECOND_NS;

/// A web server with thousands of clients, for so long.
fn web_server() -> Vec<Event> {
    let events = stream::events(stream::Traffic::WebServer, 20_000, 7);
    let (first_ns, last_ns) = (events[0].ts_ns(), events[events.len() - 1].ts_ns());
    let stretched = events.iter().map(|event| {
        let after_ns = u128::from(event.ts_ns() - first_ns) * u128::from(LENGTH_NS);
        let after_ns = u64::try_from(after_ns / u128::from(last_ns - first_ns)).unwrap();
        Event::try_from(Record {
            ts_ns: first_ns + after_ns,
            ..*event.record()
        })
        .unwrap()
    });
    stretched.collect()
}

/// The same, and beside it clients of a service that does not answer, a connection that
/// nobody closes, and names that would move a border.
fn host() -> Vec<Event> {
    let mut events = web_server();
    let first_ns = events[0].ts_ns();
    let step_ns = LENGTH_NS / 40;
    let names: [&[u8]; 5] = [
        b"\x1b[2J\x1b]0;x\x07",
        "接続接続接".as_bytes(),
        "e\u{301}e\u{301}\u{200d}x".as_bytes(),
        b"\xff\xfe|",
        b"postgres",
    ];
    for (at, name) in (0_u16..40).zip(names.into_iter().cycle()) {
        let mut comm = [0; 16];
        comm[..name.len()].copy_from_slice(name);
        let record = |after_ns: u64, oldstate, newstate| Record {
            ts_ns: first_ns + u64::from(at) * step_ns + after_ns,
            cookie: 0x7000_0000 + u64::from(at),
            skaddr: 0xffff_8880_0000_0000 | u64::from(at) << 12,
            laddr: std::net::Ipv4Addr::new(192, 0, 2, 10)
                .to_ipv6_mapped()
                .octets(),
            raddr: std::net::Ipv4Addr::new(198, 51, 100, 7)
                .to_ipv6_mapped()
                .octets(),
            lport: 50_000 + at,
            rport: 5_432,
            netns: 4_026_531_840,
            family: AF_INET,
            flags: flags::SOCKET | flags::COOKIE | flags::PROCESS,
            pid: 900 + u32::from(at % 5),
            comm,
            oldstate,
            newstate,
            ..Record::default()
        };
        let mut push = |record: Record| events.push(Event::try_from(record).unwrap());
        push(record(0, State::CLOSE, State::SYN_SENT));
        match at % 5 {
            0 => push(Record {
                error: 111,
                ..record(400_000, State::SYN_SENT, State::CLOSE)
            }),
            1 => push(Record {
                error: 110,
                ..record(step_ns, State::SYN_SENT, State::CLOSE)
            }),
            2 => {
                push(record(900_000, State::SYN_SENT, State::ESTABLISHED));
                push(record(2_000_000, State::ESTABLISHED, State::CLOSE_WAIT));
            }
            _ => push(record(900_000, State::SYN_SENT, State::ESTABLISHED)),
        }
    }
    // The last interval is a whole one.
    events.retain(|event| event.ts_ns() < first_ns + LENGTH_NS);
    events.sort_by_key(Event::ts_ns);
    events
}

/// The screens, with the keys that lead to each.
const SCREENS: [(&str, &str); 17] = [
    ("overview", ""),
    ("services", "2"),
    ("services-sorted", "2sssss"),
    ("services-filtered", "2/dport 5432\n"),
    ("connections", "3"),
    ("connections-of-a-state", "1jjj\n"),
    ("connections-filtered", "/dport 5432\n"),
    ("filter-with-a-mistake", "/dport 5432 or sprot 80\n"),
    ("connection", "3\n"),
    ("dwell", "5"),
    ("dwell-of-another-state", "5ll"),
    ("machine", "4jjj"),
    ("machine-right", "4ljjjjj"),
    ("state", "1jjje"),
    ("finding", "1G\n"),
    ("explained-finding", "1G\ne"),
    ("help", "?"),
];

#[test]
fn screens() {
    let events = host();
    let app = shown(&events, options(UNICODE));
    for (name, keys) in SCREENS {
        for size in SIZES {
            let mut app = app.clone();
            type_in(&mut app, keys);
            let text = frame(&mut app, size);
            compare(&format!("{name}-{}x{}.txt", size.0, size.1), &text);
        }
    }
}

#[test]
fn a_frame_as_text_has_all_findings_whole() {
    let app = shown(&host(), options(UNICODE));
    for width in [80, 40] {
        let mut text = Vec::new();
        plain::write(&app, width, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for line in text.lines() {
            let columns = ratatui::text::Span::raw(line).width();
            assert!(columns <= width, "{columns}: {line}");
        }
        compare(&format!("once-{width}.txt"), &text);
    }
}

#[test]
fn without_colours_and_beyond_ascii_there_is_nothing_in_a_plain_terminal() {
    let app = shown(&web_server(), options(PLAIN));
    for (name, keys) in SCREENS {
        let mut app = app.clone();
        type_in(&mut app, keys);
        let mut terminal = terminal((80, 24));
        terminal.draw(|frame| app.draw(frame)).unwrap();
        for cell in terminal.backend().buffer().content() {
            assert!(cell.symbol().is_ascii(), "{name}: {}", cell.symbol());
            assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset), "{name}");
            assert!(cell.modifier.is_empty(), "{name}");
        }
    }
}

#[test]
fn names_do_not_move_what_stands_behind_them() {
    let mut app = shown(&host(), options(UNICODE));
    type_in(&mut app, "3sss");
    for size in [(80, 24), (120, 40)] {
        let mut terminal = terminal(size);
        terminal.draw(|frame| app.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y: u16| -> Vec<&str> { (0..size.0).map(|x| buffer[(x, y)].symbol()).collect() };
        let titles = row(2).concat();
        // The column in front of each title is blank in each row.
        let starts: Vec<usize> = titles
            .match_indices(" LOCAL")
            .chain(titles.match_indices(" REMOTE"))
            .chain(titles.match_indices(" COMM"))
            .map(|(at, _)| at)
            .collect();
        assert_eq!(starts.len(), 3, "{titles}");
        let mut hostile = 0;
        for y in 3..size.1 - 1 {
            let cells = row(y);
            hostile += usize::from(cells.concat().contains('\\'));
            for &at in &starts {
                assert_eq!(cells[at], " ", "{}", cells.concat());
            }
        }
        assert!(hostile > 0);
    }
}

#[test]
fn a_frozen_frame_stays_and_says_since_when() {
    let events = host();
    let (early, _) = events.split_at(events.len() / 2);
    let mut app = shown(early, options(UNICODE));
    press(&mut app, KeyCode::Char(' '));
    let frozen = frame(&mut app, (120, 40));
    assert!(frozen.contains("FROZEN at"), "{frozen}");
    // Later snapshots come in, and are not shown.
    let mut publisher = publisher();
    let subscriber = publisher.subscribe();
    publisher.start(&origin(), &mut Vec::new()).unwrap();
    for second in 1..=3 {
        let now_ns = early[early.len() - 1].ts_ns() + second * 10 * SECOND_NS;
        publisher.tick(now_ns, &mut Vec::new()).unwrap();
        app.update(Input::Snapshot(subscriber.latest().unwrap()));
    }
    let later = frame(&mut app, (120, 40));
    let body = |text: &str| text.split_once('\n').unwrap().1.to_owned();
    assert_eq!(body(&frozen), body(&later));
    assert_ne!(frozen, later, "the time since then");
    for size in SIZES {
        let text = frame(&mut app, size);
        compare(&format!("frozen-{}x{}.txt", size.0, size.1), &text);
    }
    press(&mut app, KeyCode::Char(' '));
    let now = frame(&mut app, (120, 40));
    assert!(!now.contains("FROZEN"), "{now}");
    assert_ne!(body(&now), body(&later));
}

#[test]
fn a_word_of_a_filter_is_completed() {
    let mut app = shown(&host(), options(UNICODE));
    type_in(&mut app, "/dpo\t5432 an\td");
    press(&mut app, KeyCode::Backspace);
    let text = frame(&mut app, (80, 24));
    assert!(text.contains("/dport 5432 and _"), "{text}");
    type_in(&mut app, "s");
    press(&mut app, KeyCode::Tab);
    let text = frame(&mut app, (80, 24));
    assert!(text.contains("src sport"), "what it can be: {text}");
    // Leaving it changes nothing.
    type_in(&mut app, "\x1b");
    let text = frame(&mut app, (80, 24));
    assert!(!text.contains("dport"), "{text}");
}

#[test]
fn a_filter_is_erased_as_in_a_shell_and_the_list_stays() {
    let mut app = shown(&host(), options(UNICODE));
    type_in(&mut app, "/dport 5432 and stat");
    press(&mut app, KeyCode::Tab);
    let text = frame(&mut app, (80, 24));
    assert!(text.contains("/dport 5432 and stat"), "{text}");
    type_in(&mut app, "x\t");
    let text = frame(&mut app, (80, 24));
    assert!(
        text.contains("no value of `state` begins with \"x\""),
        "{text}"
    );
    let mut control = |letter| {
        let key = KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
        let then = app.update(Input::Key(key));
        (then, frame(&mut app, (80, 24)))
    };
    let (then, text) = control('w');
    assert!(text.contains("/dport 5432 and state _"), "{text}");
    assert_eq!(then, Then::Draw);
    let (_, text) = control('h');
    assert!(text.contains("/dport 5432 and state_"), "{text}");
    assert_eq!(control('f'), (Then::Nothing, text));
    let (_, text) = control('u');
    assert!(text.contains("/_"), "{text}");
}

#[test]
fn a_list_of_what_is_only_counted_says_so_and_leads_back() {
    let mut app = shown(&host(), options(UNICODE));
    // LISTEN is the first of the states, TIME_WAIT the eighth.
    for (keys, says) in [
        (
            "1g\n",
            "sockets in LISTEN are counted, not listed: tcpstate ls state listening",
        ),
        (
            "1gjjjjjjj\n",
            "sockets in TIME_WAIT are neither counted nor listed here: tcpstate ls state time-wait",
        ),
    ] {
        type_in(&mut app, keys);
        let text = frame(&mut app, (120, 40));
        assert!(text.contains(says), "{text}");
        assert!(text.contains("Esc back"), "{text}");
        type_in(&mut app, "\x1b");
        let text = frame(&mut app, (80, 24));
        assert!(text.contains("[1 overview]"), "{text}");
    }
    // A filter that was typed in a list is left first.
    type_in(&mut app, "2\n/dport 1\n\x1b");
    let text = frame(&mut app, (80, 24));
    assert!(text.contains(" of 443 server"), "{text}");
    type_in(&mut app, "\x1b");
    let text = frame(&mut app, (80, 24));
    assert!(text.contains("[2 services]"), "{text}");
}

#[test]
fn the_lists_of_the_services_are_chosen_from_all_connections() {
    let app = shown(&host(), options(UNICODE));
    let number = |keys: &str| -> u64 {
        let mut app = app.clone();
        type_in(&mut app, keys);
        let text = frame(&mut app, (120, 40));
        let head = text.lines().nth(1).unwrap();
        let word = head.split_whitespace().nth(2).unwrap();
        word.replace(',', "").parse().unwrap()
    };
    assert_eq!(number("2\n") + number("2j\n"), number("3"));
}

#[test]
fn the_mouse_selects_and_opens() {
    let mut app = shown(&host(), options(UNICODE));
    frame(&mut app, (80, 24));
    let click = |app: &mut App, row| {
        app.update(Input::Mouse(MouseEvent {
            kind: MouseEventKind::Down(MouseButton::Left),
            column: 5,
            row,
            modifiers: KeyModifiers::NONE,
        }))
    };
    let line = |text: &str, start: &str| {
        let at = text
            .lines()
            .position(|line| line.get(1..).is_some_and(|line| line.starts_with(start)));
        u16::try_from(at.unwrap()).unwrap()
    };
    let text = frame(&mut app, (80, 24));
    let row = line(&text, "ESTABLISHED");
    assert_eq!(click(&mut app, row), Then::Draw);
    let text = frame(&mut app, (80, 24));
    assert!(
        text.lines()
            .nth(row.into())
            .unwrap()
            .starts_with(">ESTABLISHED"),
        "{text}"
    );
    assert_eq!(click(&mut app, row), Then::Draw);
    let text = frame(&mut app, (80, 24));
    assert!(text.contains("in ESTABLISHED, the 50 oldest"), "{text}");
    // The line above and the one below have nothing to select.
    assert_eq!(click(&mut app, 0), Then::Nothing);
    assert_eq!(click(&mut app, 23), Then::Nothing);
}

#[test]
fn keys_that_mean_nothing_draw_nothing() {
    let mut app = shown(&host(), options(UNICODE));
    frame(&mut app, (80, 24));
    assert_eq!(press(&mut app, KeyCode::Char('x')), Then::Nothing);
    assert_eq!(press(&mut app, KeyCode::Esc), Then::Nothing);
    assert_eq!(press(&mut app, KeyCode::Char('q')), Then::Quit);
    let control = |letter| Input::Key(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL));
    assert_eq!(app.update(control('c')), Then::Quit);
    assert_eq!(app.update(control('z')), Then::Suspend);
    assert_eq!(app.update(control('l')), Then::Redraw);
}

/// No terminal is so small, and no key so odd, that drawing fails.
#[test]
fn any_size_can_be_drawn() {
    let app = shown(&host(), options(UNICODE));
    for (_, keys) in SCREENS {
        for columns in [1, 10, 39, 61, 300] {
            for rows in [1, 3, 5, 80] {
                let mut app = app.clone();
                type_in(&mut app, keys);
                frame(&mut app, (columns, rows));
                for code in [KeyCode::Down, KeyCode::End, KeyCode::PageUp, KeyCode::Right] {
                    press(&mut app, code);
                    frame(&mut app, (columns, rows));
                }
            }
        }
    }
}

#[test]
fn before_the_first_interval_it_says_that_it_waits() {
    let mut app = App::new(options(UNICODE));
    for (_, keys) in SCREENS {
        type_in(&mut app, keys);
        frame(&mut app, (80, 24));
    }
    type_in(&mut app, "1");
    assert!(frame(&mut app, (80, 24)).starts_with("tcpstate top: waiting"));
}
