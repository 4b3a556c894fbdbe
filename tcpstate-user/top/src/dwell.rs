//! The time in a state, interval by interval: columns are intervals, rows powers of two of the time.

use ratatui::text::Line;
use tcpstate_common::State;
use tcpstate_core::{
    catalogue::Group,
    model::{GroupKey, Of},
    units::{Count, Span as Time},
};
use tcpstate_text::{
    format::text::{Align, fitted},
    group::cells,
};

use crate::{frame::wrapped, look::Look, row::Row};

/// The columns of a time.
const TIME: usize = 8;

/// The columns of a name of a cgroup.
const GROUP: usize = 20;

/// The group of the services whose times in this state are shown so many places further: behind the last of them are all.
pub(crate) fn group_beside(look: &Look, by: isize) -> Option<GroupKey> {
    let snapshot = look.shown().snapshot.as_deref()?;
    let of_state = |of| of == Of::Dwell(look.dwell_state());
    let series = snapshot.tracker.histograms.iter();
    let keys = series
        .filter(|series| of_state(series.of))
        .map(|series| series.key);
    let choices: Vec<Option<GroupKey>> = std::iter::once(None).chain(keys.map(Some)).collect();
    let at = choices
        .iter()
        .position(|&choice| choice == look.dwell_group);
    let further = by.rem_euclid(isize::try_from(choices.len()).unwrap_or(1));
    let to = at.unwrap_or(0) + further.unsigned_abs();
    choices.get(to % choices.len()).copied().flatten()
}

/// The lines above, and the rows, for a state.
pub(crate) fn table(look: &Look, state: State, width: usize) -> (Vec<Line<'static>>, Vec<Row>) {
    let theme = look.options.theme;
    let times = look
        .shown()
        .history
        .dwell(state, look.dwell_group, width.saturating_sub(TIME + 1));
    let all: u64 = times
        .iter()
        .copied()
        .flatten()
        .map(|&(_, count)| count)
        .sum();
    let snapshot = look.shown().snapshot.as_deref();
    let group = look.dwell_group.zip(snapshot).map(|(key, snapshot)| {
        let group = Group::new(key, &snapshot.names);
        format!(
            " of {}",
            cells(snapshot.tracker.by, &group, GROUP).join(" ")
        )
    });
    let title = format!(
        "time in {state}{}, {} ended; latest interval on the right",
        group.unwrap_or_default(),
        Count(all)
    );
    let head = wrapped(&title, width).into_iter();
    let head = head.map(|line| Line::styled(line, theme.title())).collect();
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
