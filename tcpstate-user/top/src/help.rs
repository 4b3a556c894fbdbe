//! The keys.

use ratatui::text::{Line, Span};

use crate::theme::Theme;

/// The keys with what they do, as the page of help shows them.
pub(crate) const KEYS: &[(&str, &str)] = &[
    (
        "1 .. 5",
        "overview, services, connections, machine, dwell times",
    ),
    ("Tab", "the next screen; with Shift the one before"),
    ("j k", "down, up; so do the arrows and the wheel"),
    ("g G", "to the beginning, to the end"),
    ("PgDn PgUp", "a screen further, a screen back"),
    ("Enter", "open what is selected; so does a click on it"),
    ("Esc", "back; from a list to the screen that opened it"),
    ("e", "explain what is selected"),
    (
        "/",
        "only some connections: an expression as on the command line; Tab completes a word, Ctrl-W erases one, Ctrl-U all",
    ),
    ("Space", "freeze, and go on"),
    ("s S", "sort by the next column, reverse the order"),
    (
        "b B",
        "group the services by the next property, or the one before: port, process name, unit, container, pod, remote address, ..",
    ),
    (
        "h l",
        "other columns of the services; left and right in the machine; the next state of dwell; so do the arrows",
    ),
    (
        "p P",
        "in dwell: only the next service, or the one before; behind the last one all",
    ),
    (
        "o",
        "in the overview and the machine: all screens show only the selected state or edge; again, or Esc: all",
    ),
    (
        "w",
        "write what is shown as JSON into a file here: a screen, a connection, a finding, an explanation",
    ),
    ("Ctrl-L", "draw all again"),
    ("Ctrl-Z", "back to the shell, which continues it with `fg`"),
    ("Shift", "with the mouse selects text"),
    ("? q", "this help, quit"),
];

/// The page of help.
pub(crate) fn lines(keys: &[(&str, &str)], theme: Theme, width: usize) -> Vec<Line<'static>> {
    const KEY: usize = 10;
    let mut lines = Vec::new();
    for (key, does) in keys {
        let mut label = Span::styled(format!("{key:KEY$} "), theme.title());
        for part in crate::frame::wrapped(does, width.saturating_sub(KEY + 1)) {
            lines.push(Line::from(vec![label, Span::raw(part)]));
            label = Span::raw(" ".repeat(KEY + 1));
        }
    }
    lines
}
