//! The state diagram, with the sockets in each state and the rates of the last interval on its edges.

use ratatui::{
    style::Style,
    text::{Line, Span},
};
use tcpstate_common::State;
use tcpstate_core::present::RunSnapshot;
use tcpstate_text::explain::{Counts, Edges, write_diagram};

use crate::{
    look::Look,
    row::{Content, Item, Row},
};

/// The column from which on a state is on the right.
const RIGHT: usize = 24;

/// The columns of the diagram.
const WIDTH: usize = 79;

/// The first column that is seen of the right side, where not all is: the numbers of its states are in 40 columns.
const RIGHT_SIDE: usize = 36;

/// A state in a line of the diagram: where it begins and ends, with its number.
struct Place {
    begin: usize,
    end: usize,
    state: State,
}

/// The sockets in each state.
pub(crate) fn counts(snapshot: &RunSnapshot) -> Counts {
    Counts {
        by_state: snapshot.interval.all.states.clone(),
        ..Counts::default()
    }
}

/// The rows. Where two states stand beside each other, `is_right` says which of them can be selected; on a narrow
/// terminal that side is seen.
pub(crate) fn rows(look: &Look, is_right: bool, width: usize) -> Vec<Row> {
    let Some(snapshot) = look.shown().snapshot.as_deref() else {
        return Vec::new();
    };
    let interval = &snapshot.interval;
    let counts = counts(snapshot);
    let length_ns = interval.end_ns.saturating_sub(interval.start_ns);
    let edges = Edges::of(&interval.all, length_ns);
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = write_diagram(Some(&counts), Some(&edges), &mut text);
    let text = String::from_utf8_lossy(&text);
    let (from, right_from) = match (width < WIDTH, is_right) {
        (true, true) => (RIGHT_SIDE, RIGHT_SIDE),
        _ => (0, RIGHT),
    };
    let heat = |state: State| {
        let count = |wanted: State| {
            let mut known = counts.by_state.iter();
            known
                .find(|(state, _)| *state == wanted)
                .map_or(0, |&(_, count)| count)
        };
        let all: u64 = counts.by_state.iter().map(|&(_, count)| count).sum();
        look.options.theme.heat(count(state), all)
    };
    let rows = text.lines().map(|line| {
        let places = places(line);
        let right = places.iter().find(|place| place.begin >= right_from);
        let chosen = right.filter(|_| is_right);
        let chosen = chosen.or_else(|| places.iter().find(|place| place.begin >= from));
        Row {
            item: chosen.map(|place| Item::State(place.state)),
            mark: chosen.map(|place| {
                let at = place.begin.saturating_sub(from);
                (at, place.end.saturating_sub(from).saturating_sub(at))
            }),
            content: Content::Text(line_of(line, &places, from, heat)),
        }
    });
    rows.collect()
}

/// The states in a line: names that a number follows. The diagram is ASCII.
fn places(line: &str) -> Vec<Place> {
    let mut places = Vec::new();
    let mut at = 0;
    let mut before: Option<(usize, State)> = None;
    for word in line.split(' ') {
        let is_number = word.starts_with(|c: char| c.is_ascii_digit());
        match before {
            Some((begin, state)) if is_number => {
                let end = at + word.len();
                places.push(Place { begin, end, state });
                before = None;
            }
            _ => before = State::from_name(word).map(|state| (at, state)),
        }
        at += word.len() + 1;
    }
    places
}

/// The part of a line from a column on, with its states in their colours.
fn line_of(
    line: &str,
    places: &[Place],
    from: usize,
    heat: impl Fn(State) -> Style,
) -> Line<'static> {
    let part = |begin: usize, end: usize| {
        let part = line.get(begin.max(from).min(end)..end.min(line.len()));
        part.unwrap_or_default().to_owned()
    };
    let mut spans = Vec::new();
    let mut at = 0;
    for place in places {
        spans.push(Span::raw(part(at, place.begin)));
        spans.push(Span::styled(
            part(place.begin, place.end),
            heat(place.state),
        ));
        at = place.end;
    }
    spans.push(Span::raw(part(at, line.len())));
    Line::from(spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_states_of_a_line_are_those_with_a_number() {
        let line = "  SYN_SENT 12   CLOSE  LISTEN 1,234 x ACK 5 FIN_WAIT1";
        let places: Vec<_> = places(line)
            .iter()
            .map(|place| (place.state, &line[place.begin..place.end]))
            .collect();
        let expected = [
            (State::SYN_SENT, "SYN_SENT 12"),
            (State::LISTEN, "LISTEN 1,234"),
        ];
        assert_eq!(places, expected);
    }
}
