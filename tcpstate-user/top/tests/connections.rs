//! The list of connections and one of them: which are listed, with which columns, and the counters that looks bring.

#[path = "support/screen.rs"]
mod screen;

use std::sync::{Arc, Mutex};

use ratatui::text::Span;
use tcpstate_common::{
    Record, State,
    record::{AF_INET, flags},
};
use tcpstate_core::{
    diagnosis::{Look, Looks, Thresholds},
    event::Event,
    model::{By, Connections, Counters, Include, Limits, Traffic},
    origin::Origin,
    present::{Options as Published, Publisher, RunSnapshot},
    view::View as _,
};
use tcpstate_top::{App, Input, Options};

use self::screen::{LONGEST, PLAIN, SECOND_NS, UNICODE, frame, options, terminal, type_in};

const START_NS: u64 = 1_000 * SECOND_NS;

/// Connections of a client to a database, each with the name of its process, and the state that it is in at the end.
const CONNECTIONS: [(&[u8], State); 6] = [
    (b"\x1b[2J\x1b]0;x\x07", State::ESTABLISHED),
    ("接続接続接".as_bytes(), State::ESTABLISHED),
    ("e\u{301}e\u{301}\u{200d}x".as_bytes(), State::ESTABLISHED),
    (b"\xff\xfe|", State::SYN_SENT),
    (b"psql", State::CLOSE_WAIT),
    (b"psql", State::ESTABLISHED),
];

/// Their events, one connection a second.
fn events() -> Vec<Event> {
    let mut events = Vec::new();
    for (number, (name, last)) in (0_u16..).zip(CONNECTIONS) {
        let mut comm = [0; 16];
        comm[..name.len()].copy_from_slice(name);
        let changes = [
            (State::CLOSE, State::SYN_SENT),
            (State::SYN_SENT, State::ESTABLISHED),
            (State::ESTABLISHED, State::CLOSE_WAIT),
        ];
        for (after, (oldstate, newstate)) in (0..).zip(changes) {
            let record = Record {
                ts_ns: START_NS + u64::from(number) * SECOND_NS + after * 1_000_000,
                cookie: 0x100 + u64::from(number),
                skaddr: 0xffff_8880_0000_0000 | u64::from(number) << 12,
                laddr: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, 10],
                raddr: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 198, 51, 100, 7],
                lport: 50_000 + number,
                rport: 5_432,
                netns: 4_026_531_840,
                family: AF_INET,
                flags: flags::SOCKET | flags::COOKIE | flags::PROCESS,
                pid: 900 + u32::from(number),
                comm,
                oldstate,
                newstate,
                ..Record::default()
            };
            events.push(Event::try_from(record).unwrap());
            if newstate == last {
                break;
            }
        }
    }
    events
}

/// Looks that have counters of all that was asked for.
#[derive(Clone, Default)]
struct Given(Arc<Mutex<Vec<u64>>>);

impl Looks for Given {
    fn newest(&mut self) -> Option<Look> {
        let cookies = self.0.lock().unwrap().clone();
        let traffic = |cookie| Traffic {
            bytes_sent: 1_000 * (cookie & 0xff) + 7,
            bytes_received: 64_000,
            retransmits: 3,
            srtt_us: Some(1_250),
        };
        let counters = Counters {
            ts_ns: START_NS + 8 * SECOND_NS,
            by_cookie: cookies
                .into_iter()
                .map(|cookie| (cookie, traffic(cookie)))
                .collect(),
        };
        Some(Look {
            counters: Arc::new(counters),
            ..Look::default()
        })
    }

    fn last(&mut self) -> Option<Look> {
        self.newest()
    }

    fn ask_counters(&mut self, cookies: Vec<u64>) {
        *self.0.lock().unwrap() = cookies;
    }
}

/// The same counters between two looks, of which there is none.
#[derive(Clone, Default)]
struct Between(Given);

impl Looks for Between {
    fn newest(&mut self) -> Option<Look> {
        None
    }

    fn last(&mut self) -> Option<Look> {
        None
    }

    fn ask_counters(&mut self, cookies: Vec<u64>) {
        self.0.ask_counters(cookies);
    }

    fn newest_counters(&mut self) -> Option<Arc<Counters>> {
        Some(self.0.newest()?.counters)
    }
}

/// The snapshot after 9 s, and after a second more.
fn snapshots(by: By, looks: impl Looks + 'static) -> [Arc<RunSnapshot>; 2] {
    let mut publisher = Publisher::new(&Published {
        interval_ns: SECOND_NS,
        by,
        include: Include {
            connections: Connections::Longest(LONGEST),
            histograms: true,
        },
        in_kernel: false,
        limits: Limits::default(),
    })
    .diagnosing(
        Thresholds::default(),
        Look::default(),
        Some(Box::new(looks)),
    );
    let origin = Origin {
        host: "web-1".into(),
        kernel: "6.18".into(),
        attach: "btf".into(),
        wall_at_monotonic_zero_ns: 1_769_857_896_000_000_000,
        started_ns: START_NS,
        filters: String::new(),
        live: true,
        sample_interval_ns: None,
    };
    let subscriber = publisher.subscribe();
    publisher.start(&origin, &mut Vec::new()).unwrap();
    for event in events() {
        publisher.event(&event, &mut Vec::new()).unwrap();
    }
    [9, 10].map(|second| {
        let now_ns = START_NS + second * SECOND_NS;
        publisher.tick(now_ns, &mut Vec::new()).unwrap();
        subscriber.latest().unwrap()
    })
}

fn shown(options: Options) -> App {
    shown_with(options, Given::default())
}

fn shown_with(options: Options, looks: impl Looks + 'static) -> App {
    let by = options.by;
    let mut app = App::new(options);
    for snapshot in snapshots(by, looks) {
        app.update(Input::Snapshot(snapshot));
    }
    app
}

/// The local ports of the connections that are listed.
fn listed(app: &mut App) -> Vec<u16> {
    let text = frame(app, (80, 24));
    let ports = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once("192.0.2.10:")?;
        rest.split(' ').next()?.parse().ok()
    });
    ports.collect()
}

#[test]
fn a_filter_knows_the_state_and_the_time_in_it() {
    for (filter, expected) in [
        ("", &[50_000, 50_001, 50_002, 50_003, 50_004, 50_005][..]),
        ("state close-wait", &[50_004]),
        ("exclude established", &[50_003, 50_004]),
        ("not state established and pid < 904", &[50_003]),
        // Each is in its state since 10, 9, 8, ... seconds, less the milliseconds before.
        ("dwell > 8s", &[50_000, 50_001]),
        ("dwell < 7s state synchronized", &[50_004, 50_005]),
        ("retransmits > 2 and bytes_sent >= 5007", &[50_005]),
        ("srtt > 2ms", &[]),
    ] {
        let mut app = shown(options(PLAIN));
        type_in(&mut app, &format!("/{filter}\n"));
        assert_eq!(listed(&mut app), expected, "{filter}");
        let text = frame(&mut app, (80, 24));
        assert!(text.lines().nth(1).unwrap().contains(filter), "{text}");
    }
}

#[test]
fn what_is_not_known_of_an_open_connection_is_refused_with_its_place() {
    let mut app = shown(options(PLAIN));
    type_in(&mut app, "/dport 5432 and cause refused\n");
    let text = frame(&mut app, (80, 24));
    let known = "this command does not know `cause`; known to `tcpstate trace`, `tcpstate life`";
    let words: Vec<&str> = text.split_whitespace().collect();
    assert!(words.join(" ").contains(known), "{text}");
    assert!(
        text.contains("\n     dport 5432 and cause refused\n                    ^^^^^\n"),
        "{text}"
    );
    // It changes nothing.
    assert_eq!(listed(&mut app).len(), CONNECTIONS.len());
}

#[test]
fn values_are_completed_too() {
    let mut app = shown(options(PLAIN));
    type_in(&mut app, "/st\tclose-w\t");
    let text = frame(&mut app, (80, 24));
    assert!(text.contains("/state close-wait _"), "{text}");
}

#[test]
fn columns_are_chosen_by_a_key() {
    let mut app = shown(options(PLAIN));
    type_in(&mut app, "c");
    let text = frame(&mut app, (80, 24));
    assert!(text.contains("columns: _"), "{text}");
    // The field of the catalogue as well as the title.
    type_in(&mut app, "rem\t,rt\t,bytes_sent,hands\t\n");
    let text = frame(&mut app, (80, 24));
    let titles = text.lines().nth(2).unwrap();
    let titles: Vec<&str> = titles.split_whitespace().collect();
    assert_eq!(titles, ["REMOTE", "RTT", "SENT", "HANDSHAKE"], "{text}");
    let row: Vec<&str> = text.lines().nth(3).unwrap().split_whitespace().collect();
    assert_eq!(row[1..3], ["1.25", "ms"], "{text}");
    // They can be changed, and a mistake is said.
    type_in(&mut app, "c");
    let text = frame(&mut app, (80, 24));
    assert!(
        text.contains("columns: remote,rtt,sent,handshake_"),
        "{text}"
    );
    type_in(&mut app, ",sned\n");
    let text = frame(&mut app, (80, 24));
    assert!(
        text.contains("`sned` is not a column of top; did you mean `sent`?"),
        "{text}"
    );
    for _ in 0.."remote,rtt,sent,handshake,sned".len() {
        screen::press(&mut app, crossterm::event::KeyCode::Backspace);
    }
    type_in(&mut app, "\n");
    let text = frame(&mut app, (80, 24));
    assert!(text.contains("STATE            AGE"), "{text}");
}

#[test]
fn counters_are_those_of_the_latest_look_and_their_age_is_said() {
    let mut app = shown(options(PLAIN));
    type_in(&mut app, "3G\n");
    let text = frame(&mut app, (80, 24));
    let traffic =
        "Traffic   4.88 KiB sent, 62.5 KiB received, 3 segments sent again, round trip 1.25 ms;";
    let words: Vec<&str> = text.split_whitespace().collect();
    let expected: Vec<&str> = traffic.split_whitespace().collect();
    assert!(words.join(" ").contains(&expected.join(" ")), "{text}");
    assert!(text.contains("2.00 s ago"), "{text}");
    // In a wide terminal without opening it.
    let mut app = shown(options(PLAIN));
    type_in(&mut app, "3");
    let text = frame(&mut app, (120, 40));
    assert!(text.contains(" SENT RECEIVED     RTT"), "{text}");
    // A recording has no looks, and no room is lost to what is never known.
    let mut app = shown(Options {
        is_played: true,
        ..options(PLAIN)
    });
    type_in(&mut app, "3");
    let text = frame(&mut app, (120, 40));
    assert!(!text.contains("RECEIVED"), "{text}");
}

#[test]
fn counters_that_come_between_two_looks_are_shown() {
    let mut app = shown_with(options(PLAIN), Between::default());
    type_in(&mut app, "3G\n");
    let text = frame(&mut app, (80, 24));
    assert!(text.contains("4.88 KiB sent"), "{text}");
}

#[test]
fn names_move_no_border() {
    // Of each screen with names: the keys that lead there, and a title that stands behind them; numbers end where it ends.
    for (keys, title, is_number) in [
        ("3sss", "RECEIVED", true),
        ("2", "OPEN/S", true),
        ("ccomm,remote\n", "REMOTE", false),
    ] {
        let mut app = shown(Options {
            by: By::Comm,
            ..options(UNICODE)
        });
        type_in(&mut app, keys);
        let size = (120, 24);
        let mut terminal = terminal(size);
        terminal.draw(|frame| app.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y: u16| -> Vec<&str> { (0..size.0).map(|x| buffer[(x, y)].symbol()).collect() };
        let place = |cells: &[&str]| {
            let mut places = 0..cells.len();
            places.find(|&at| cells[at..].concat().starts_with(title))
        };
        let Some((titles, at)) = (0..5).find_map(|y| Some((y, place(&row(y))?))) else {
            panic!("no {title} after {keys}")
        };
        let (last, outside) = if is_number {
            (at + title.len() - 1, at + title.len())
        } else {
            (at, at - 1)
        };
        let mut hostile = 0;
        // Two of them have the same name.
        let rows = u16::try_from(CONNECTIONS.len()).unwrap() - 1;
        for y in titles + 1..=titles + rows {
            let cells = row(y);
            hostile += usize::from(cells.concat().contains('\\'));
            assert_ne!(cells[last], " ", "{keys}: {}", cells.concat());
            assert_eq!(cells[outside], " ", "{keys}: {}", cells.concat());
        }
        assert!(hostile > 0, "{keys}");
    }
}

#[test]
fn the_end_of_a_long_filter_is_seen() {
    let mut app = shown(options(UNICODE));
    type_in(&mut app, "/comm ");
    for _ in 0..60 {
        type_in(&mut app, "接e\u{301}");
    }
    let text = frame(&mut app, (40, 12));
    let last = text.lines().last().unwrap();
    assert!(last.ends_with("接e\u{301}_"), "{last}");
    let columns = Span::raw(last).width();
    assert!((39..=40).contains(&columns), "{columns}: {last}");
}
