//! The keys.

use ratatui::text::{Line, Span};

use crate::{played, theme::Theme};

/// A key with what it does.
type Key = (&'static str, &'static str);

/// The keys, as the page of help shows them.
const KEYS: &[Key] = &[
    ("? q", "this help, quit"),
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
        "only some connections, or services with such: an expression as of `ls`; Tab completes",
    ),
    (
        "c",
        "the columns of the connections, with commas; none: the usual ones",
    ),
    (
        "Ctrl-W",
        "of a text that is typed in erases a word; Ctrl-U erases all",
    ),
    ("Space", "freeze, and go on"),
    ("s S", "sort by the next column, reverse the order"),
    (
        "b B",
        "group the services by the next property, or the one before: port, process name, unit, container, pod, remote address or its prefix, ..",
    ),
    (
        "h l",
        "columns of services, sides of the machine, states of dwell times",
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
    RECORD,
    ("Ctrl-L", "draw all again"),
    ("Ctrl-Z", "back to the shell, which continues it with `fg`"),
    ("Shift", "with the mouse selects text"),
];

/// A recording that is played is in a file already.
const RECORD: Key = (
    "W",
    "write the last minutes into a file here, a recording, which -r plays",
);

/// The keys, of a recording that is played or of a live capture.
fn keys(is_played: bool) -> impl Iterator<Item = Key> {
    let more = if is_played { played::KEYS } else { &[] };
    // Some do something else there, or nothing.
    let is_other = move |key: &str| {
        is_played && key == RECORD.0 || more.iter().any(|(other, _)| *other == key)
    };
    let usual = KEYS.iter().filter(move |(key, _)| !is_other(key));
    usual.chain(more).copied()
}

/// The page of help.
pub(crate) fn lines(is_played: bool, theme: Theme, width: usize) -> Vec<Line<'static>> {
    const KEY: usize = 10;
    let mut lines = Vec::new();
    for (key, does) in keys(is_played) {
        let mut label = Span::styled(format!("{key:KEY$} "), theme.title());
        for part in crate::frame::wrapped(does, width.saturating_sub(KEY + 1)) {
            lines.push(Line::from(vec![label, Span::raw(part)]));
            label = Span::raw(" ".repeat(KEY + 1));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_meaning() {
        for is_played in [false, true] {
            let mut seen: Vec<&str> = keys(is_played).map(|(key, _)| key).collect();
            let all = seen.len();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), all, "{seen:?}");
        }
        let space = |is_played| keys(is_played).find(|(key, _)| *key == "Space");
        assert_ne!(space(false), space(true));
    }
}
