//! The time in a state, interval by interval: columns are intervals, rows powers of two of the time.

use ratatui::text::Line;
use tcpstate_common::State;
use tcpstate_core::units::{Count, Span as Time};
use tcpstate_text::format::text::{Align, fitted};

use crate::{look::Look, row::Row};

/// The columns of a time.
const TIME: usize = 8;

/// The lines above, and the rows, for a state.
pub(crate) fn table(look: &Look, state: State, width: usize) -> (Vec<Line<'static>>, Vec<Row>) {
    let theme = look.options.theme;
    let times = look
        .shown()
        .history
        .dwell(state, width.saturating_sub(TIME + 1));
    let all: u64 = times
        .iter()
        .copied()
        .flatten()
        .map(|&(_, count)| count)
        .sum();
    let title = format!(
        "time in {state}, {} ended; by interval, the latest on the right",
        Count(all)
    );
    let head = vec![Line::styled(title, theme.title())];
    let known = times
        .iter()
        .copied()
        .flatten()
        .map(|&(lower_ns, _)| lower_ns);
    let (Some(shortest), Some(longest)) = (known.clone().min(), known.max()) else {
        return (head, vec![Row::text("Nothing has left it so far.")]);
    };
    let most = times
        .iter()
        .copied()
        .flatten()
        .map(|&(_, count)| count)
        .max();
    let most = most.unwrap_or(0);
    // Each power of two has a row, whether there is something in it or not.
    let mut rows = Vec::new();
    let mut lower_ns = longest;
    loop {
        let label = fitted(&Time(lower_ns).to_string(), TIME, Align::Right);
        let cells = times.iter().map(|interval| {
            let of_row = interval.iter().find(|(lower, _)| *lower == lower_ns);
            theme.shade(of_row.map_or(0, |&(_, count)| count), most)
        });
        rows.push(Row::text(format!("{label} {}", cells.collect::<String>())));
        if lower_ns <= shortest {
            break;
        }
        lower_ns /= 2;
    }
    (head, rows)
}
