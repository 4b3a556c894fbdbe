//! A screen without a terminal: what is on it, and its keys.

use std::sync::Arc;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use jiff::tz::TimeZone;
use ratatui::{Terminal, backend::TestBackend};
use tcpstate_core::{expression::NoNames, model::By};
use tcpstate_text::format::text::Columns;
use tcpstate_top::{App, Input, LookUp, Options, Theme, Then};

pub const SECOND_NS: u64 = 1_000_000_000;

/// The connections that are kept of each state.
pub const LONGEST: usize = 50;

pub const UNICODE: Theme = Theme {
    colour: true,
    unicode: true,
};

pub const PLAIN: Theme = Theme {
    colour: false,
    unicode: false,
};

pub fn options(theme: Theme) -> Options {
    Options {
        theme,
        zone: TimeZone::UTC,
        several_netns: false,
        columns: Columns::Usual,
        by: By::Port,
        interval_ns: SECOND_NS,
        filter: String::new(),
        longest: LONGEST,
        names: LookUp(Arc::new(NoNames)),
        is_played: false,
    }
}

pub fn terminal((columns, rows): (u16, u16)) -> Terminal<TestBackend> {
    Terminal::new(TestBackend::new(columns, rows)).unwrap()
}

/// The frame as text, without the blanks at the ends of lines.
pub fn frame(app: &mut App, size: (u16, u16)) -> String {
    let mut terminal = terminal(size);
    terminal.draw(|frame| app.draw(frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for y in 0..size.1 {
        let mut x = 0;
        let mut line = String::new();
        while x < size.0 {
            let symbol = buffer[(x, y)].symbol();
            line.push_str(symbol);
            // A wide character takes the next cell too.
            x += u16::try_from(ratatui::text::Span::raw(symbol).width().max(1)).unwrap();
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

pub fn press(app: &mut App, code: KeyCode) -> Then {
    app.update(Input::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

/// Presses these keys: letters, `\n` for Enter, `\t` for Tab, `\x1b` for Esc.
pub fn type_in(app: &mut App, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\x1b' => KeyCode::Esc,
            letter => KeyCode::Char(letter),
        };
        // Selections follow from what was drawn.
        frame(app, (80, 24));
        press(app, code);
    }
}
