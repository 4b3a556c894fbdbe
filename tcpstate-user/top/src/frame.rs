//! The frame: a line above, a line below, and the rows of a screen between them.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};
use tcpstate_core::{
    diagnosis::Severity,
    escape::Printable,
    units::{Counted, Span as Time},
};
use tcpstate_text::format::{
    text::{Align, fitted},
    time::Local,
};

use crate::{
    connections::Lines,
    look::{Look, Page, Screen},
    played::Played,
    row::{Content, Cursor, Row},
};

/// The mark of the selected row.
const MARK: &str = ">";

/// The columns of a row: the mark of the selected one stands before it.
pub(crate) fn inner_width(area: Rect) -> usize {
    usize::from(area.width).saturating_sub(1)
}

/// The rows that have room, below so many lines.
pub(crate) fn height(area: Rect, head: usize) -> usize {
    usize::from(area.height).saturating_sub(2 + head)
}

/// Fills an area.
pub(crate) fn draw(
    look: &Look,
    head: &[Line<'_>],
    rows: &[Row],
    cursor: Cursor,
    area: Rect,
    buffer: &mut Buffer,
) {
    let theme = look.options.theme;
    let width = usize::from(area.width);
    let [top, bottom] = [head_line(look, width), foot_line(look, width)];
    let height = height(area, head.len());
    let mut lines = Lines::new(look, inner_width(area));
    let mut y = area.y;
    let put = |line: &Line<'_>, y: u16, x: u16, buffer: &mut Buffer| {
        if y < area.bottom() {
            let room = area.width.saturating_sub(x);
            buffer.set_line(area.x + x, y, line, room);
        }
    };
    put(&top, y, 0, buffer);
    for line in head {
        y = y.saturating_add(1);
        put(line, y, 1, buffer);
    }
    for row in rows.iter().skip(cursor.top).take(height) {
        y = y.saturating_add(1);
        let line = match &row.content {
            Content::Text(line) => line.clone(),
            Content::Connection(at) => lines.line(*at),
        };
        let is_selected = row.item.is_some() && row.item == cursor.item;
        match row.mark.filter(|_| is_selected) {
            Some((at, len)) => {
                let [at, len] = [at, len].map(|columns| u16::try_from(columns).unwrap_or(u16::MAX));
                let x = area.x.saturating_add(at).min(area.right());
                let marked = Rect::new(x, y, len.saturating_add(1), 1).intersection(area);
                put(&line, y, 1, buffer);
                buffer.set_stringn(
                    x,
                    marked.y,
                    MARK,
                    usize::from(marked.width.min(1)),
                    Style::new(),
                );
                buffer.set_style(marked, theme.selected());
            }
            None if is_selected => {
                let mut spans = vec![Span::raw(MARK)];
                spans.extend(line.spans);
                let line = Line::from(spans);
                put(&line.patch_style(theme.selected()), y, 0, buffer);
            }
            None => put(&line, y, 1, buffer),
        }
    }
    if area.height > 1 {
        buffer.set_line(area.x, area.bottom() - 1, &bottom, area.width);
    }
}

/// The host, the time, and what is unusual.
pub(crate) fn head_line(look: &Look, width: usize) -> Line<'static> {
    let theme = look.options.theme;
    let Some(snapshot) = &look.shown().snapshot else {
        return Line::styled(
            "tcpstate top: waiting for the first interval",
            theme.title(),
        );
    };
    let origin = &snapshot.origin;
    let mut local = Local::new(
        look.options.zone.clone(),
        tcpstate_core::options::TimeForm::Seconds,
    );
    let at = local
        .at(origin.wall_ns(snapshot.interval.end_ns))
        .to_owned();
    let mut parts = Vec::new();
    if let Some((since_ns, now_ns)) = look.frozen_ns() {
        let ago = Time(now_ns.saturating_sub(since_ns));
        parts.push(Span::styled(
            format!("FROZEN at {at}, {ago} ago"),
            theme.alert(),
        ));
    } else {
        parts.push(Span::raw(at));
    }
    let played = look.played.as_ref();
    parts.extend(played.and_then(Played::words).map(Span::raw));
    if let Some(kept) = look.kept {
        parts.push(Span::styled(format!("only {kept}"), theme.title()));
    }
    let findings = snapshot.findings.as_deref().unwrap_or_default();
    let count = |severity| {
        let count = findings
            .iter()
            .filter(|one| one.severity == severity)
            .count();
        (count > 0).then_some((severity, count as u64))
    };
    let worst = [Severity::Critical, Severity::Warning];
    for (severity, count) in worst.into_iter().filter_map(count) {
        let text = match severity {
            // It is an adjective.
            Severity::Critical => format!("{count} critical"),
            _ => Counted(count, severity.name()).to_string(),
        };
        parts.push(Span::styled(text, theme.severity(severity)));
    }
    let host = Printable(origin.host.as_bytes()).to_string();
    let filter = &look.options.filter;
    let rest = [
        Some(host),
        (!filter.is_empty()).then(|| Printable(filter.as_bytes()).to_string()),
        Some(format!("every {}", interval(look.options.interval_ns))),
    ];
    parts.extend(rest.into_iter().flatten().map(Span::raw));
    let mut spans = Vec::new();
    let mut used = 0;
    if width >= 60 {
        spans.push(Span::styled("tcpstate top", theme.title()));
        used = 12;
    }
    for part in parts {
        let gap = if used == 0 { 0 } else { 2 };
        if used + gap + part.width() > width && used > 0 {
            continue;
        }
        used += gap + part.width();
        spans.push(Span::raw(" ".repeat(gap)));
        spans.push(part);
    }
    Line::from(spans)
}

/// The length of an interval, as a person gives it.
fn interval(ns: u64) -> String {
    const SECOND_NS: u64 = 1_000_000_000;
    if ns.is_multiple_of(SECOND_NS) && ns < 60 * SECOND_NS {
        format!("{} s", ns / SECOND_NS)
    } else {
        Time(ns).to_string()
    }
}

/// The screens, and the keys that lead on.
fn foot_line(look: &Look, width: usize) -> Line<'static> {
    let theme = look.options.theme;
    if let Some(typing) = &look.typing {
        let begin = typing.subject.prompt();
        let text = format!("{begin}{}_", Printable(typing.text.as_bytes()));
        return Line::styled(end_of(&text, width).to_owned(), theme.title());
    }
    match &look.told {
        Some(Ok(text)) => return Line::styled(text.clone(), theme.title()),
        Some(Err(why)) => {
            return Line::styled(format!("no file written: {why}"), theme.alert());
        }
        None => {}
    }
    let over = match look.pages.last() {
        Some((Page::Help, _)) => Some("help"),
        Some((Page::State(_) | Page::Explained(_), _)) => Some("explanation"),
        Some((Page::Finding(_), _)) => Some("finding"),
        Some((Page::Connection(..), _)) => Some("connection"),
        None => None,
    };
    let is_narrow = width < 60;
    let mut spans = Vec::new();
    for (number, screen) in (1..).zip(Screen::ALL) {
        let name = screen.name();
        if screen == look.screen && over.is_none() {
            spans.push(Span::styled(format!("[{number} {name}]"), theme.title()));
        } else if over.is_none() && is_narrow {
            spans.push(Span::raw(format!(" {number} ")));
        } else if over.is_none() {
            spans.push(Span::raw(format!(" {number} {name} ")));
        }
    }
    if let Some(page) = over {
        spans.push(Span::styled(format!("[{page}]"), theme.title()));
    }
    let more = match look.screen {
        _ if over.is_some() => "  Esc back",
        Screen::Overview => "  Enter open  e explain",
        Screen::Machine => "  h l beside  o only it",
        Screen::Services if look.is_filtered() => "  Enter open  Esc all",
        Screen::Services => "  b group  s sort  h l columns",
        Screen::Connections if look.shows_all() => "  Enter open  s sort  c columns",
        Screen::Connections if look.opened_from.is_some() => "  Enter open  Esc back",
        Screen::Connections => "  Enter open  Esc all",
        Screen::Dwell => "  h l state  p service",
    };
    // The most telling ones, as far as there is room.
    let mut room = width.saturating_sub(spans.iter().map(Span::width).sum());
    let keys = [more, "  ? help", "  q quit"];
    for (at, key) in keys.into_iter().enumerate() {
        let rest: usize = keys.iter().skip(at + 1).map(|key| key.len()).sum();
        if key.len() + rest <= room || at > 0 && key.len() <= room {
            spans.push(Span::raw(key));
            room -= key.len();
        }
    }
    Line::from(spans)
}

/// The columns of a label.
pub(crate) const LABEL: usize = 10;

/// A text behind its label, in lines of at most so many columns.
pub(crate) fn labelled(label: &str, text: &str, width: usize) -> Vec<Line<'static>> {
    let mut label = format!("{label:LABEL$}");
    // The tables are Markdown.
    let parts = wrapped(&text.replace('`', ""), width.saturating_sub(LABEL));
    let lines = parts.into_iter().map(|part| {
        let line = Line::raw(format!("{label}{part}"));
        label = " ".repeat(LABEL);
        line
    });
    lines.collect()
}

/// The end of a text, where it goes on, in at most so many columns: a character can have two of them, or none.
fn end_of(text: &str, width: usize) -> &str {
    let mut used = 0;
    let before = text.char_indices().rev().find(|&(_, one)| {
        used += Span::raw(one.encode_utf8(&mut [0; 4]) as &str).width();
        used > width
    });
    before.map_or(text, |(at, one)| {
        text.get(at + one.len_utf8()..).unwrap_or_default()
    })
}

/// A text in lines of at most so many columns, broken between words.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines: Vec<String> = Vec::new();
    let mut used = 0;
    for word in text.split(' ') {
        let len = Span::raw(word).width();
        match lines.last_mut() {
            Some(line) if used + 1 + len <= width => {
                line.push(' ');
                line.push_str(word);
                used += 1 + len;
            }
            _ => {
                // A word that is longer than a line is cut.
                lines.push(fitted(word, len.min(width), Align::Left));
                used = len;
            }
        }
    }
    lines
}
