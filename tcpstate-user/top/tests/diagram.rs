//! The state diagram: what can be selected in it, by keys and by the mouse, and kept on all screens.

#[path = "support/run.rs"]
mod run;
#[path = "support/screen.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod screen;
#[path = "../../tests/support/golden.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use tcpstate_top::{Input, Then};

use self::run::{Run, SIZES};

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
