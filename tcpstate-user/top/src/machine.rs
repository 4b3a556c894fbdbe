//! The state diagram, with the sockets in each state and the rates of the last interval on its edges.
//!
//! Each of its parts can be selected: a state or an edge. Keys move among the lines that have parts, and in a line
//! among its parts; where not all columns are seen, those of the selected part are.

use ratatui::{
    style::Style,
    text::{Line, Span},
};
use tcpstate_core::present::RunSnapshot;
use tcpstate_text::explain::{Counts, Edges, Part, Place, Row as DiagramRow, diagram, write_notes};

use crate::{
    frame::wrapped,
    look::Look,
    row::{Content, Item, Row},
};

/// The columns of the diagram.
const WIDTH: usize = 80;

/// The sockets in each state.
pub(crate) fn counts(snapshot: &RunSnapshot) -> Counts {
    Counts {
        by_state: snapshot.interval.all.states.clone(),
        ..Counts::default()
    }
}

/// The rates of the last interval.
pub(crate) fn edges(snapshot: &RunSnapshot) -> Edges {
    let interval = &snapshot.interval;
    let length_ns = interval.end_ns.saturating_sub(interval.start_ns);
    Edges::of(&interval.all, length_ns)
}

const fn item(part: Part) -> Item {
    match part {
        Part::State(state) => Item::State(state),
        Part::Edge(from, to) => Item::Edge(from, to),
    }
}

/// The rows, of which `selected` is seen. In the others the part is selected next that is nearest to the column of the
/// last choice.
pub(crate) fn rows(look: &Look, selected: Option<Item>, width: usize) -> Vec<Row> {
    let Some(snapshot) = look.shown().snapshot.as_deref() else {
        return Vec::new();
    };
    let (counts, edges) = (counts(snapshot), edges(snapshot));
    let lines = diagram(Some(&counts), Some(&edges));
    let from = first_column(&lines, selected, width);
    let sockets: u64 = counts.by_state.iter().map(|&(_, count)| count).sum();
    let rates: u64 = edges.rates().map(|(_, _, rate)| rate).sum();
    let heat = |part: Part| match part {
        Part::State(state) => look.options.theme.heat(counts.of(state), sockets),
        Part::Edge(from, to) => {
            let rate = edges.rate((from, to));
            look.options.theme.heat(rate.unwrap_or(0), rates)
        }
    };
    let rows = lines.iter().map(|line| {
        let of_choice = line
            .places
            .iter()
            .find(|place| Some(item(place.part)) == selected);
        let nearest = line
            .places
            .iter()
            .min_by_key(|place| place.begin.abs_diff(look.machine_column));
        let chosen = of_choice.or(nearest);
        Row {
            item: chosen.map(|place| item(place.part)),
            mark: chosen.map(|place| {
                let begin = place.begin.saturating_sub(from);
                (begin, place.end.saturating_sub(from).saturating_sub(begin))
            }),
            content: Content::Text(line_of(&line.text, &line.places, from, heat)),
        }
    });
    let mut rows: Vec<Row> = rows.collect();
    let mut notes = Vec::new();
    // Writing to memory does not fail.
    let _ = write_notes(Some(&counts), Some(&edges), &mut notes);
    let notes = String::from_utf8_lossy(&notes);
    rows.push(Row::text(""));
    // Its own lines are for 80 columns.
    let notes: Vec<&str> = notes.lines().collect();
    rows.extend(wrapped(&notes.join(" "), width).into_iter().map(Row::text));
    rows
}

/// The first column that is seen, so that the selected part is.
fn first_column(lines: &[DiagramRow], selected: Option<Item>, width: usize) -> usize {
    let mut places = lines.iter().flat_map(|line| &line.places);
    let seen = places.find(|place| Some(item(place.part)) == selected);
    let Some(place) = seen.filter(|place| place.end > width) else {
        return 0;
    };
    let longest = lines.iter().map(|line| line.text.len()).max();
    let last = longest.unwrap_or(0).max(WIDTH).saturating_sub(width);
    // With a little of what stands before it.
    place.begin.saturating_sub(4).min(last)
}

/// The column of the diagram that is seen in this column of the terminal.
pub(crate) fn column_at(look: &Look, selected: Option<Item>, width: usize, column: u16) -> usize {
    let Some(snapshot) = look.shown().snapshot.as_deref() else {
        return 0;
    };
    let lines = diagram(Some(&counts(snapshot)), Some(&edges(snapshot)));
    // The mark of a selected row stands in the first column.
    first_column(&lines, selected, width) + usize::from(column.saturating_sub(1))
}

/// The part beside this one in its line or, where there is none, the nearest in that direction; with its column.
pub(crate) fn beside(look: &Look, selected: Option<Item>, by: isize) -> Option<(Item, usize)> {
    let snapshot = look.shown().snapshot.as_deref()?;
    let lines = diagram(Some(&counts(snapshot)), Some(&edges(snapshot)));
    let mut all = Vec::new();
    for (row, line) in lines.iter().enumerate() {
        all.extend(line.places.iter().map(|place| (row, place)));
    }
    let is_it = |place: &Place| Some(item(place.part)) == selected;
    let &(row, place) = all.iter().find(|(_, place)| is_it(place))?;
    let beyond = all.iter().filter(|(_, other)| {
        if by > 0 {
            other.begin >= place.end
        } else {
            other.end <= place.begin
        }
    });
    let &(_, next) = beyond.min_by_key(|(other_row, other)| {
        (row.abs_diff(*other_row), other.begin.abs_diff(place.begin))
    })?;
    Some((item(next.part), next.begin))
}

/// The part of a line from a column on, with its parts in their colours.
fn line_of(
    line: &str,
    places: &[Place],
    from: usize,
    heat: impl Fn(Part) -> Style,
) -> Line<'static> {
    let part = |begin: usize, end: usize| {
        let part = line.get(begin.max(from).min(end)..end.min(line.len()));
        part.unwrap_or_default().to_owned()
    };
    let mut spans = Vec::new();
    let mut at = 0;
    for place in places {
        spans.push(Span::raw(part(at, place.begin)));
        spans.push(Span::styled(part(place.begin, place.end), heat(place.part)));
        at = place.end;
    }
    spans.push(Span::raw(part(at, line.len())));
    Line::from(spans)
}
