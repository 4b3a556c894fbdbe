//! A recording that is played: the commands of its keys, and what is said of it.

#[path = "../../tests/support/golden.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use std::sync::Arc;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use jiff::tz::TimeZone;
use ratatui::{Terminal, backend::TestBackend};
use tcpstate_common::{
    Record, State,
    record::{AF_INET, flags},
};
use tcpstate_core::{
    diagnosis::{Look, Thresholds},
    event::Event,
    expression::NoNames,
    model::{By, Include, Limits},
    origin::Origin,
    play::{Command, Position, Speed},
    present::{Options as Published, Publisher, Subscriber},
    view::View as _,
};
use tcpstate_text::format::text::Columns;
use tcpstate_top::{App, Input, LookUp, Options, Theme, Then};

use self::support::compare;

const SECOND_NS: u64 = 1_000_000_000;

/// Columns and rows.
const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (40, 12)];

/// The recording begins at 11:59:50, and lasts for 100 s.
const START_NS: u64 = 1_000 * SECOND_NS;
const POSITION: Position = Position {
    start_ns: START_NS,
    now_ns: START_NS + 25 * SECOND_NS,
    end_ns: Some(START_NS + 100 * SECOND_NS),
    speed: Speed::NORMAL,
    is_paused: false,
    is_seeking: false,
    is_at_end: false,
    obeyed: 0,
};

struct Player {
    app: App,
    publisher: Publisher,
    subscriber: Subscriber,
}

impl Player {
    fn new() -> Self {
        let app = App::new(Options {
            theme: Theme {
                colour: false,
                unicode: false,
            },
            zone: TimeZone::UTC,
            several_netns: false,
            columns: Columns::Usual,
            by: By::Port,
            interval_ns: SECOND_NS,
            filter: String::new(),
            longest: 50,
            names: LookUp(Arc::new(NoNames)),
            is_played: true,
        });
        let mut publisher = Publisher::new(&Published {
            interval_ns: SECOND_NS,
            by: By::Port,
            include: Include::ALL,
            in_kernel: false,
            limits: Limits::default(),
        })
        .diagnosing(Thresholds::default(), Look::default(), None);
        let wall_ns = "2026-11-01T11:59:50Z".parse::<jiff::Timestamp>().unwrap();
        let wall_ns = i64::try_from(wall_ns.as_nanosecond()).unwrap();
        let origin = Origin {
            host: "web-1".into(),
            kernel: "6.18".into(),
            attach: "btf".into(),
            wall_at_monotonic_zero_ns: wall_ns - i64::try_from(START_NS).unwrap(),
            started_ns: START_NS,
            filters: String::new(),
            live: false,
            sample_interval_ns: None,
        };
        publisher.start(&origin, &mut Vec::new()).unwrap();
        let subscriber = publisher.subscribe();
        let mut player = Self {
            app,
            publisher,
            subscriber,
        };
        player.app.update(Input::Position(POSITION));
        player
    }

    fn at(&mut self, position: Position) -> Then {
        self.app.update(Input::Position(position))
    }

    /// The snapshot of so many seconds after the begin.
    fn tick(&mut self, second: u64) -> Then {
        let at_ns = START_NS + second * SECOND_NS;
        self.publisher.tick(at_ns, &mut Vec::new()).unwrap();
        let snapshot = self.subscriber.latest().unwrap();
        self.app.update(Input::Snapshot(snapshot))
    }

    /// A client that connects and is refused.
    fn refused(&mut self, second: u64, number: u64) {
        let record = |after_ns, oldstate, newstate, error| Record {
            ts_ns: START_NS + second * SECOND_NS + number * 1_000 + after_ns,
            cookie: number,
            rport: 5_432,
            raddr: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 198, 51, 100, 7],
            family: AF_INET,
            flags: flags::SOCKET | flags::COOKIE,
            oldstate,
            newstate,
            error,
            ..Record::default()
        };
        for record in [
            record(0, State::CLOSE, State::SYN_SENT, 0),
            record(100, State::SYN_SENT, State::CLOSE, 111),
        ] {
            let event = Event::try_from(record).unwrap();
            self.publisher.event(&event, &mut Vec::new()).unwrap();
        }
    }

    fn press(&mut self, key: char) -> Then {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            letter => KeyCode::Char(letter),
        };
        let key = KeyEvent::new(code, KeyModifiers::NONE);
        self.app.update(Input::Key(key))
    }

    /// The command that the last of these keys leads to.
    fn type_in(&mut self, keys: &str) -> Then {
        keys.chars().map(|key| self.press(key)).last().unwrap()
    }

    /// Compares what is shown with files.
    fn compare(&mut self, name: &str) {
        for size in SIZES {
            let lines = self.frame(size).into_iter();
            let text: String = lines
                .map(|line| line.trim_end().to_owned() + "\n")
                .collect();
            compare(&format!("{name}-{}x{}.txt", size.0, size.1), &text);
        }
    }

    fn frame(&mut self, size: (u16, u16)) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        terminal.draw(|frame| self.app.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..size.0).map(move |x| buffer[(x, y)].symbol()).collect();
        (0..size.1).map(line).collect()
    }
}

#[test]
fn keys_are_commands() {
    let mut player = Player::new();
    player.tick(1);
    let paused = Position {
        is_paused: true,
        ..POSITION
    };
    for (position, key, command) in [
        (POSITION, ' ', Command::Pause),
        (paused, ' ', Command::Resume),
        (POSITION, '.', Command::StepEvent),
        (POSITION, ',', Command::StepTick),
        (POSITION, '<', Command::SeekBy(-10_000_000_000)),
        (POSITION, '>', Command::SeekBy(10_000_000_000)),
        (POSITION, '[', Command::Speed(Speed::Tenths(5))),
        (POSITION, ']', Command::Speed(Speed::Tenths(20))),
    ] {
        player.at(position);
        assert_eq!(player.press(key), Then::Play(command), "{key}");
    }
    // Keys are faster than the player.
    player.at(POSITION);
    let faster = [20, 50, 100].map(|tenths| Then::Play(Command::Speed(Speed::Tenths(tenths))));
    assert_eq!(["]", "]", "]"].map(|key| player.type_in(key)), faster);
    // The others are as ever.
    assert_eq!(player.press('2'), Then::Draw);
    assert_eq!(player.press('q'), Then::Quit);
}

#[test]
fn a_time_that_is_typed_in_is_gone_to() {
    let mut player = Player::new();
    player.tick(1);
    for (text, command) in [
        ("12:00", Command::SeekTo(START_NS + 10 * SECOND_NS)),
        ("12:00:05", Command::SeekTo(START_NS + 15 * SECOND_NS)),
        (
            "2026-11-01 12:01",
            Command::SeekTo(START_NS + 70 * SECOND_NS),
        ),
        ("+90s", Command::SeekBy(90_000_000_000)),
        ("-5m", Command::SeekBy(-300_000_000_000)),
        // That of the next day.
        ("11:59", Command::SeekTo(START_NS + 86_350 * SECOND_NS)),
    ] {
        let keys = format!("t{text}\n");
        assert_eq!(player.type_in(&keys), Then::Play(command), "{text}");
    }
    for text in ["", "x", "+", "25:00", "-never"] {
        assert_eq!(player.type_in(&format!("t{text}\n")), Then::Draw, "{text}");
        let frame = player.frame((80, 24));
        assert!(
            frame[23].starts_with(&format!("go to: {text}_")),
            "{frame:?}"
        );
        assert_eq!(player.press('\x1b'), Then::Draw);
    }
}

#[test]
fn the_next_finding_is_looked_for_interval_by_interval() {
    const STEP: Then = Then::Play(Command::StepTick);
    let mut player = Player::new();
    assert_eq!(player.tick(1), Then::Draw);
    assert_eq!(player.press('n'), STEP);
    for second in 2..=35 {
        assert_eq!(player.tick(second), STEP, "{second}");
    }
    let head = player.frame((80, 24))[0].clone();
    assert!(head.contains("looking for a finding"), "{head}");
    for number in 1..=200 {
        player.refused(40, number);
    }
    let found = (36..100).find(|&second| player.tick(second) == Then::Draw);
    let found = found.expect("connects fail");
    assert!(found > 40);
    // It is known now; any key breaks off what is looked for.
    assert_eq!(player.press('n'), STEP);
    assert_eq!(player.tick(found + 1), STEP);
    player.press('1');
    assert_eq!(player.tick(found + 2), Then::Draw);
    // So does the end.
    assert_eq!(player.press('n'), STEP);
    player.at(Position {
        is_at_end: true,
        ..POSITION
    });
    assert_eq!(player.tick(found + 3), Then::Draw);
}

#[test]
fn the_first_line_says_where_it_is_and_the_help_has_the_keys() {
    let mut player = Player::new();
    player.tick(1);
    for (position, words) in [
        (POSITION, "playing 1x, 25 % of 1m 40s"),
        (
            Position {
                is_paused: true,
                speed: Speed::Unlimited,
                end_ns: None,
                ..POSITION
            },
            "PAUSED max  ",
        ),
        (
            Position {
                is_seeking: true,
                ..POSITION
            },
            "seeking 1x, 25 %",
        ),
        (
            Position {
                is_at_end: true,
                now_ns: START_NS + 100 * SECOND_NS,
                ..POSITION
            },
            "at the end 1x, 100 %",
        ),
    ] {
        player.at(position);
        assert_eq!(player.at(position), Then::Nothing, "it is the same");
        let head = player.frame((80, 24))[0].clone();
        assert!(head.contains(words), "{head}");
    }
    player.at(Position {
        is_paused: true,
        ..POSITION
    });
    player.compare("played");
    player.press('?');
    player.compare("help-played");
    let help = player.frame((80, 40)).join("\n");
    assert_eq!(help.matches("Space").count(), 1, "{help}");
    assert!(help.contains("to the next finding"), "{help}");
}
