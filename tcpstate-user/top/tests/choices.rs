//! The choices that a person makes while it runs: the grouping of the services, and what is written to files.

#[path = "../../tests/support/golden.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use std::{
    sync::Arc,
    task::{Context, Waker},
};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use jiff::tz::TimeZone;
use ratatui::{Terminal, backend::TestBackend};
use tcpstate_common::{
    Record, State,
    record::{AF_INET, flags},
};
use tcpstate_core::{
    diagnosis::{Finding, Place, RULES, Severity},
    event::Event,
    expression::NoNames,
    model::{By, Connections, Include, Limits},
    origin::Origin,
    present::{Options as Published, Publisher, RunSnapshot, Subscriber},
    service::Role,
    view::View as _,
};
use tcpstate_text::format::text::Columns;
use tcpstate_top::{App, Input, LookUp, Options, Theme, Then};

use self::support::{compare, names, origin};

/// Columns and rows.
const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (40, 12)];

const SECOND_NS: u64 = 1_000_000_000;

/// A run, and the one who looks at it.
struct Run {
    app: App,
    publisher: Publisher,
    subscriber: Subscriber,
    begin_ns: u64,
    /// Intervals that have ended.
    ticks: u64,
}

impl Run {
    fn new() -> Self {
        let publisher = Publisher::new(&Published {
            interval_ns: SECOND_NS,
            by: By::Port,
            include: Include {
                connections: Connections::Longest(50),
                histograms: true,
            },
            in_kernel: false,
            limits: Limits::default(),
        });
        let app = App::new(Options {
            theme: Theme {
                colour: true,
                unicode: true,
            },
            zone: TimeZone::UTC,
            several_netns: false,
            columns: Columns::Usual,
            by: By::Port,
            interval_ns: SECOND_NS,
            filter: String::new(),
            longest: 50,
            names: LookUp(Arc::new(NoNames)),
            is_played: false,
        });
        let origin = Origin {
            live: true,
            ..origin()
        };
        let mut run = Self {
            app,
            subscriber: publisher.subscribe(),
            publisher,
            begin_ns: origin.started_ns,
            ticks: 0,
        };
        run.publisher.set_names(names());
        run.publisher.start(&origin, &mut Vec::new()).unwrap();
        run
    }

    /// A second in which nginx gets two connections, each from an address of its own, one of which it closes, and curl
    /// makes one that is refused.
    fn second(&mut self) {
        let at_ns = self.begin_ns + self.ticks * SECOND_NS;
        let cookie = 1 + self.ticks * 10;
        let nginx = (b"nginx\0", 80, (443, 40_000));
        let curl = (b"curl\0\0", 90, (50_000, 5_432));
        if self.ticks == 0 {
            self.event(at_ns, 0, nginx, 0, (State::CLOSE, State::LISTEN), 0);
        }
        for number in 1..=2 {
            let cookie = cookie + number;
            let mut change = |after_ns, old, new| {
                self.event(at_ns + after_ns, cookie, nginx, number, (old, new), 0);
            };
            change(1_000_000, State::LISTEN, State::SYN_RECV);
            change(1_200_000, State::SYN_RECV, State::ESTABLISHED);
            if number == 2 {
                change(300_000_000, State::ESTABLISHED, State::FIN_WAIT1);
            }
        }
        for (after_ns, old, new, error) in [
            (500_000_000, State::CLOSE, State::SYN_SENT, 0),
            (500_400_000, State::SYN_SENT, State::CLOSE, 111),
        ] {
            self.event(at_ns + after_ns, cookie + 3, curl, 7, (old, new), error);
        }
        self.ticks += 1;
        let now_ns = self.begin_ns + self.ticks * SECOND_NS;
        self.publisher.tick(now_ns, &mut Vec::new()).unwrap();
        self.look();
    }

    fn event(
        &mut self,
        ts_ns: u64,
        cookie: u64,
        (name, pid, (lport, rport)): (&[u8; 6], u32, (u16, u16)),
        from: u64,
        (oldstate, newstate): (State, State),
        error: u16,
    ) {
        let mut comm = [0; 16];
        comm[..6].copy_from_slice(name);
        let address = |last: u8| {
            std::net::Ipv4Addr::new(10, 0, 0, last)
                .to_ipv6_mapped()
                .octets()
        };
        let event = Event::try_from(Record {
            ts_ns,
            cookie,
            skaddr: 0xffff_8880_0000_0000 | cookie << 12,
            laddr: address(200),
            raddr: address(u8::try_from(from).unwrap()),
            lport,
            rport,
            netns: 4_026_531_840,
            family: AF_INET,
            flags: flags::SOCKET | flags::COOKIE | flags::PROCESS,
            pid,
            comm,
            error,
            oldstate,
            newstate,
            ..Record::default()
        });
        self.publisher
            .event(&event.unwrap(), &mut Vec::new())
            .unwrap();
    }

    fn look(&mut self) {
        self.app
            .update(Input::Snapshot(self.subscriber.latest().unwrap()));
    }

    /// Presses keys, and does what follows from them.
    fn press(&mut self, keys: &str) {
        for key in keys.chars() {
            self.frame((80, 24));
            let code = match key {
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                letter => KeyCode::Char(letter),
            };
            let key = KeyEvent::new(code, KeyModifiers::NONE);
            match self.app.update(Input::Key(key)) {
                Then::GroupBy(by) => self.publisher.asker().group_by(by),
                Then::Draw => continue,
                then => panic!("{then:?}"),
            }
            self.answer();
        }
    }

    /// Lets the publisher answer.
    fn answer(&mut self) {
        let cx = Context::from_waker(Waker::noop());
        while self.publisher.poll_asked(&cx).is_ready() {}
        self.look();
    }

    fn frame(&mut self, size: (u16, u16)) -> String {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        terminal.draw(|frame| self.app.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let mut text = String::new();
        for y in 0..size.1 {
            let line: String = (0..size.0).map(|x| buffer[(x, y)].symbol()).collect();
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn compare(&mut self, name: &str) {
        for size in SIZES {
            let text = self.frame(size);
            compare(&format!("{name}-{}x{}.txt", size.0, size.1), &text);
        }
    }
}

#[test]
fn the_services_are_grouped_anew_by_a_key() {
    let mut run = Run::new();
    for _ in 0..3 {
        run.second();
    }
    run.press("2b");
    run.compare("services-by-comm-at-once");
    for _ in 0..2 {
        run.second();
    }
    run.compare("services-by-comm");
    // Back to the port, once around to the other side.
    run.press("B");
    let text = run.frame((80, 24));
    assert!(text.contains("by port and role since "), "{text}");
    assert!(text.contains("443 server"), "{text}");
    run.press("BBBBBB");
    run.second();
    run.compare("services-by-raddr");
}

#[test]
fn a_list_of_a_group_that_is_no_longer_there_is_left() {
    let mut run = Run::new();
    run.second();
    run.press("2\n");
    let text = run.frame((80, 24));
    assert!(text.contains(" of 443 server"), "{text}");
    run.press("2b3");
    let text = run.frame((80, 24));
    assert!(text.contains("2 of 2, by age"), "{text}");
    // The list of a group of the new kind.
    run.press("2\n");
    let text = run.frame((80, 24));
    assert!(text.contains(" of nginx"), "{text}");
}

#[test]
fn a_grouping_that_was_asked_for_is_told_until_it_is_there() {
    let mut run = Run::new();
    run.second();
    run.press("2");
    let key = KeyEvent::new(KeyCode::Char('b'), KeyModifiers::NONE);
    assert_eq!(run.app.update(Input::Key(key)), Then::GroupBy(By::Comm));
    let text = run.frame((80, 24));
    assert!(text.contains("; next by process name"), "{text}");
    run.publisher.asker().group_by(By::Comm);
    run.answer();
    let text = run.frame((80, 24));
    assert!(text.contains("by process name since"), "{text}");
    assert!(!text.contains("next by"), "{text}");
    // On other screens the key does nothing.
    run.press("1");
    assert_eq!(run.app.update(Input::Key(key)), Then::Nothing);
}

/// The lines of JSON that are written, each with its type.
fn written(run: &mut Run, keys: &str) -> Vec<(String, serde_json::Value)> {
    run.press(keys);
    run.frame((80, 24));
    let key = KeyEvent::new(KeyCode::Char('w'), KeyModifiers::NONE);
    assert_eq!(run.app.update(Input::Key(key)), Then::Write, "{keys}");
    let text = String::from_utf8(run.app.written().unwrap().text).unwrap();
    let lines = text.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        (line["type"].as_str().unwrap().to_owned(), line)
    });
    lines.collect()
}

#[test]
fn every_screen_is_written_as_the_commands_write_it() {
    let mut run = Run::new();
    for _ in 0..3 {
        run.second();
    }
    let types = |lines: &[(String, serde_json::Value)]| -> Vec<String> {
        let mut types: Vec<String> = lines.iter().map(|(of, _)| of.clone()).collect();
        types.dedup();
        types
    };
    let overview = written(&mut run, "1");
    assert_eq!(types(&overview), ["rates"]);
    assert_eq!(overview[0].1["opened"], 3);
    let services = written(&mut run, "2");
    assert_eq!(types(&services), ["rates", "histogram"]);
    assert_eq!(services[0].1["ports"].as_array().unwrap().len(), 2);
    let connections = written(&mut run, "3");
    assert_eq!(types(&connections), ["connection"]);
    let states: Vec<_> = connections
        .iter()
        .map(|(_, line)| line["states"].as_array().unwrap().last().unwrap()["state"].clone())
        .collect();
    // In the order of the screen: the oldest first.
    assert_eq!(
        states,
        [
            "ESTABLISHED",
            "FIN_WAIT1",
            "ESTABLISHED",
            "FIN_WAIT1",
            "ESTABLISHED",
            "FIN_WAIT1"
        ]
    );
    let machine = written(&mut run, "4");
    assert_eq!(types(&machine), ["states"]);
    let dwell = written(&mut run, "5");
    assert_eq!(types(&dwell), ["histogram"]);
    assert!(dwell.iter().all(|(_, line)| line["state"] == "ESTABLISHED"));
    let connection = written(&mut run, "3\n");
    assert_eq!(types(&connection), ["connection"]);
    assert_eq!(connection.len(), 1);
    assert_eq!(connection[0].1, connections[0].1);
    let explanation = written(&mut run, "1jje");
    assert_eq!(types(&explanation), ["explained_state"]);
}

#[test]
fn the_name_of_a_file_is_told_until_the_next_key() {
    let mut run = Run::new();
    run.second();
    run.press("2");
    let stem = run.app.written().unwrap().stem;
    let (name, at) = stem.split_at("tcpstate-services-".len());
    assert_eq!(
        (name, at.len()),
        ("tcpstate-services-", "20260101-000000".len())
    );
    run.app.update(Input::Written(Ok(format!("{stem}.json"))));
    let text = run.frame((40, 12));
    let last = text.lines().last().unwrap();
    assert!(last.starts_with(&format!("{stem}.json")), "{text}");
    run.press("1");
    let text = run.frame((80, 24));
    assert!(!text.contains("json"), "{text}");
    run.app.update(Input::Written(Err(
        "Permission denied (os error 13)".to_owned()
    )));
    let text = run.frame((80, 24));
    assert!(
        text.contains("no file written: Permission denied"),
        "{text}"
    );
    // A key that means nothing else takes it away.
    run.press("x");
    assert!(run.frame((80, 24)).contains("q quit"));
    // Help is no content.
    run.press("?");
    let key = KeyEvent::new(KeyCode::Char('w'), KeyModifiers::NONE);
    assert_eq!(run.app.update(Input::Key(key)), Then::Nothing);
    assert!(run.app.written().is_none());
}

fn key(run: &mut Run, code: KeyCode) {
    run.frame((80, 24));
    run.app
        .update(Input::Key(KeyEvent::new(code, KeyModifiers::NONE)));
}

/// The selected part of the diagram: what stands behind the mark, up to two blanks.
fn selected(run: &mut Run, size: (u16, u16)) -> Option<String> {
    let text = run.frame(size);
    let marked = text.lines().skip(1).find_map(|line| {
        let mut marks = line.match_indices('>');
        // The head of an arrow is none.
        let (at, _) = marks.find(|&(at, _)| !line[..at].ends_with('-'))?;
        Some(line[at + 1..].to_owned())
    });
    let marked = marked?;
    let end = marked.find("  ").unwrap_or(marked.len());
    Some(marked[..end].to_owned())
}

#[test]
fn every_part_of_the_diagram_can_be_selected_and_seen() {
    for size in SIZES {
        let mut run = Run::new();
        run.second();
        run.press("4");
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..4 {
            key(&mut run, KeyCode::Home);
            let mut before = String::new();
            // Down in each column, and to the right in each line.
            while run.frame(size) != before {
                before = run.frame(size);
                seen.extend(selected(&mut run, size));
                let here = run.app.clone();
                key(&mut run, KeyCode::Char('l'));
                seen.extend(selected(&mut run, size));
                run.app = here;
                key(&mut run, KeyCode::Down);
            }
            key(&mut run, KeyCode::Home);
            key(&mut run, KeyCode::Char('l'));
        }
        for part in [
            "SYN_SENT 0",
            "LISTEN 1",
            "SYN_RECV 0",
            "ESTABLISHED 1",
            "FIN_WAIT1 1",
            "CLOSE_WAIT 0",
            "LAST_ACK 0",
            "FIN_WAIT2 0",
            "CLOSING 0",
            "TIME_WAIT 0",
            // Edges.
            "2/s",
            "1/s",
            "0/s",
        ] {
            let is_seen = seen.iter().any(|text| text.starts_with(part));
            assert!(is_seen, "{part} in {size:?}: {seen:#?}");
        }
    }
}

#[test]
fn what_is_kept_is_what_all_screens_show() {
    let mut run = Run::new();
    for _ in 0..3 {
        run.second();
    }
    // ESTABLISHED -> FIN_WAIT1: nginx closes.
    run.press("4");
    let is_close = |run: &mut Run| {
        let text = run.frame((80, 24));
        let mut lines = text.lines();
        lines.any(|line| line.contains(">1/s") && line.contains("close()"))
    };
    while !is_close(&mut run) {
        let before = run.frame((80, 24));
        key(&mut run, KeyCode::Down);
        assert_ne!(before, run.frame((80, 24)));
    }
    run.press("o");
    run.compare("machine-kept");
    run.press("1");
    run.compare("overview-kept");
    run.press("2");
    let text = run.frame((80, 24));
    assert!(
        text.contains("443 server") && !text.contains("5432 client"),
        "{text}"
    );
    run.press("3");
    let text = run.frame((80, 24));
    assert!(
        text.contains("3 of 3 in FIN_WAIT1 from ESTABLISHED"),
        "{text}"
    );
    run.press("5");
    let text = run.frame((80, 24));
    assert!(text.contains("time in ESTABLISHED"), "{text}");
    // A state, from the overview.
    run.press("\x1b1");
    assert!(!run.frame((80, 24)).contains("only "));
    run.press("gjo");
    let text = run.frame((80, 24));
    assert!(text.contains("only SYN_SENT"), "{text}");
    assert!(text.contains("SYN_SENT -> CLOSE"), "{text}");
    run.press("o");
    assert!(!run.frame((80, 24)).contains("only "));
}

#[test]
fn the_mouse_selects_a_part_of_the_diagram_where_it_is() {
    for size in [(120, 40), (40, 12)] {
        let mut run = Run::new();
        run.second();
        run.press("4");
        let click = |run: &mut Run, text: &str| {
            let frame = run.frame(size);
            let (row, column) = (0..)
                .zip(frame.lines())
                .find_map(|(row, line)| Some((row, u16::try_from(line.find(text)?).unwrap())))
                .unwrap();
            run.app.update(Input::Mouse(MouseEvent {
                kind: MouseEventKind::Down(MouseButton::Left),
                column,
                row,
                modifiers: KeyModifiers::NONE,
            }))
        };
        for part in ["SYN_SENT 0", "1/s"] {
            assert_eq!(click(&mut run, part), Then::Draw);
            let text = run.frame(size);
            assert!(
                text.contains(&format!(">{part}")),
                "{part} in {size:?}: {text}"
            );
        }
        if size.0 > 80 {
            click(&mut run, "LISTEN 1");
            assert_eq!(selected(&mut run, size).as_deref(), Some("LISTEN 1"));
            // Where it is selected, a click opens.
            click(&mut run, "LISTEN 1");
            assert!(run.frame(size).contains("in LISTEN"));
        }
    }
}

#[test]
fn the_times_in_a_state_are_those_of_one_service() {
    let mut run = Run::new();
    for _ in 0..5 {
        run.second();
    }
    // SYN_SENT ends at the client, SYN_RECV at the server.
    let ended = |run: &mut Run| -> u64 {
        let text = run.frame((120, 40));
        let title = text.lines().nth(1).unwrap().to_owned();
        let (before, _) = title.split_once(" ended").unwrap();
        before.rsplit(' ').next().unwrap().parse().unwrap()
    };
    run.press("5");
    assert_eq!(ended(&mut run), 5, "nginx closes one a second");
    run.press("p");
    run.compare("dwell-of-a-service");
    assert_eq!(ended(&mut run), 5);
    run.press("hh");
    assert!(
        run.frame((80, 24))
            .contains("time in SYN_SENT of 443 server, 0 ended")
    );
    run.press("p");
    let text = run.frame((80, 24));
    assert!(
        text.contains("time in SYN_SENT of 5432 client, 5 ended"),
        "{text}"
    );
    let lines = written(&mut run, "");
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].1["service_port"], 5432);
    run.press("p");
    assert!(run.frame((80, 24)).contains("time in SYN_SENT, 5 ended"));
    // Of other groups it begins with them.
    run.press("2b5");
    run.second();
    run.press("p");
    let text = run.frame((80, 24));
    assert!(text.contains("time in SYN_SENT of curl, 1 ended"), "{text}");
}

#[test]
fn findings_of_a_kind_take_one_line_and_open_together() {
    let mut run = Run::new();
    let findings = vec![
        finding("close_wait_leak", Severity::Warning, 80),
        finding("connects_fail", Severity::Note, 1),
        finding("connects_fail", Severity::Note, 2),
        finding("connects_fail", Severity::Note, 3),
    ];
    run.second();
    let snapshot = RunSnapshot {
        findings: Some(findings),
        ..RunSnapshot::clone(&run.subscriber.latest().unwrap())
    };
    run.app.update(Input::Snapshot(Arc::new(snapshot)));
    run.compare("overview-of-many-findings");
    let text = run.frame((80, 24));
    assert_eq!(text.matches("connects_fail").count(), 1, "{text}");
    assert!(text.contains("connects_fail (3): client port 1"), "{text}");
    // The last item of the overview stands for all three.
    run.press("G\n");
    let text = run.frame((120, 80));
    for port in 1..=3 {
        assert!(text.contains(&format!("client port {port}")), "{text}");
    }
    let lines = run.app.written().unwrap();
    assert_eq!(String::from_utf8(lines.text).unwrap().lines().count(), 3);
    run.press("e");
    let text = run.frame((80, 24));
    assert!(
        text.starts_with("tcpstate top") && text.contains("connects_fail: "),
        "{text}"
    );
}

fn finding(name: &str, severity: Severity, port: u16) -> Finding {
    let rule = RULES.iter().find(|rule| rule.text.name == name).unwrap();
    Finding::new(
        &rule.text,
        severity,
        Place {
            role: Role::Client,
            port: Some(port),
            ..Place::default()
        },
        format!("{port} of them"),
    )
}
