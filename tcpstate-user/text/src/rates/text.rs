//! The rates for people: a block each interval that fits on the terminal; elsewhere on 80 columns, but for names
//! that are longer.
//!
//! ```text
//! TIME       connections that began and ended, per second
//! now        the number of sockets in each state
//! half-open  the places where handshakes are under way
//! listeners  overflows and drops
//! ended      the causes, if there are others than `fin`
//! p50..p99   the time that connections spent in the states that they left
//! a table: the transitions on the left, the busiest groups on the right; on a narrow terminal below
//! ```
//!
//! Zeros are left out, so that a quiet host's block is a line or two.

use std::{
    fmt::{self, Display},
    io::{self, Write},
    net::SocketAddr,
};

use tcpstate_core::{
    catalogue::Group,
    cause::Cause,
    census::ListenFigures,
    handshakes::{HalfOpenAt, Handshakes},
    model::{By, GroupFigures, Interval},
    outlet::{BOLD, OFF, RED},
    transition::TransitionCount,
};

use super::groups::{length_ns, share};
use crate::{
    format::{
        text::{Column, Table},
        time::Local,
        units::{Count, PerSecond, Span},
    },
    group::{self, cells, columns},
    order::life_order,
    settings::Settings,
};

/// Columns of a block off a terminal.
const WIDTH: usize = 80;
/// The column where a line's content begins, below the time of day.
const INDENT: usize = 10;
/// The number of groups that are always shown; more where the transitions take more lines.
const GROUPS: usize = 5;
/// Columns of the transitions with their counts and rates.
const LEFT: usize = 46;
/// Columns of a group beside its name.
const RIGHT: usize = 16;
/// Columns between the transitions and the groups.
const GAP: usize = 3;

/// The table of the transitions, and that of the groups.
enum Tables {
    Beside(Table),
    Below(Table, Table),
}

pub(super) struct Text {
    by: By,
    interval_ns: u64,
    local: Local,
    /// Columns of a block.
    width: usize,
    /// Columns of a cgroup's name.
    cgroup: usize,
    table: Tables,
    colour: bool,
    first: bool,
}

impl Text {
    pub(super) fn new(by: By, interval_ns: u64, settings: &Settings) -> Self {
        let colour = settings.colour;
        let width = settings.width.unwrap_or(WIDTH);
        let mut left = vec![
            Column::left("TRANSITION", 26),
            Column::right("COUNT", 9),
            Column::right("PER SEC", 9),
        ];
        let beside = LEFT + GAP + group::width(by) + RIGHT;
        // Then the groups stand below the transitions.
        let is_narrow = width < beside;
        if width < LEFT {
            left.pop();
        }
        // Off a terminal a name is whole.
        let cgroup = match settings.width {
            None => usize::MAX,
            Some(width) if is_narrow => width.saturating_sub(RIGHT),
            Some(width) => width - (LEFT + GAP + RIGHT),
        };
        let right = columns(by)
            .into_iter()
            .chain([Column::right("PER SEC", 9), Column::right("SHARE", 5)]);
        let table = if is_narrow {
            Tables::Below(Table::new(left, colour), Table::new(right, colour))
        } else {
            let gap = [Column::left("", 1)];
            let columns = left.into_iter().chain(gap).chain(right);
            Tables::Beside(Table::new(columns, colour))
        };
        Self {
            by,
            interval_ns,
            local: Local::new(settings.zone.clone(), settings.time_form),
            width,
            cgroup,
            table,
            colour,
            first: true,
        }
    }

    pub(super) fn block(
        &mut self,
        interval: &Interval,
        groups: Vec<(Group, &GroupFigures)>,
        handshakes: &Handshakes,
        wall_ns: i64,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        if !self.first {
            writeln!(out)?;
        }
        self.first = false;
        self.head(interval, wall_ns, out)?;
        let now = interval.all.states.iter();
        let now = now.map(|(state, count)| format!("{state} {}", Count(*count)).into());
        self.wrapped("now", now, out)?;
        self.wrapped(
            "half-open",
            half_open(&handshakes.half_open).into_iter(),
            out,
        )?;
        self.wrapped("listeners", listen(&handshakes.listen).into_iter(), out)?;
        let causes = &interval.all.causes;
        if causes.iter().any(|&(cause, _)| cause != Cause::Fin) {
            let causes = causes.iter();
            let causes = causes.map(|(cause, count)| format!("{cause} {}", Count(*count)).into());
            self.wrapped("ended", causes, out)?;
        }
        let mut dwell: Vec<_> = interval.dwell.iter().collect();
        dwell.sort_by_key(|&&(state, _)| life_order(state));
        let dwell = dwell.into_iter().filter_map(|(state, times)| {
            let (usual, longest) = (times.quantile(0.5)?, times.quantile(0.99)?);
            Some(format!("{state} {}..{}", Span(usual), Span(longest)).into())
        });
        self.wrapped("p50..p99", dwell, out)?;
        self.table(interval, groups, out)
    }

    #[expect(clippy::indexing_slicing, reason = "it has just been put there")]
    fn head(&mut self, interval: &Interval, wall_ns: i64, out: &mut dyn Write) -> io::Result<()> {
        let interval_ns = length_ns(interval);
        let rate = |count| PerSecond { count, interval_ns };
        let all = &interval.all;
        let (bold, red, off) = if self.colour {
            (BOLD, RED, OFF)
        } else {
            ("", "", "")
        };
        let mut items = vec![
            Item::from(format!("opened {}/s", rate(all.opened))),
            Item::from(format!("established {}/s", rate(all.established))),
            Item::from(format!("closed {}/s", rate(all.closed))),
            Item::from(format!("failed {}/s", rate(all.failed))),
        ];
        if all.failed > 0 {
            let failed = &mut items[3].text;
            *failed = format!("{red}{failed}{off}");
        }
        if interval_ns != self.interval_ns {
            let empty = interval_ns.checked_div(self.interval_ns).unwrap_or(0);
            let note = match empty {
                2.. if all.total() == 0 => format!(": {} empty intervals", Count(empty)),
                _ => String::new(),
            };
            items.push(Item::from(format!("in {}{note}", Span(interval_ns))));
        }
        let time = self.local.at(wall_ns);
        let label = if time.len() < INDENT {
            format!("{bold}{time:INDENT$}{off}")
        } else {
            // With its date it has no room beside the figures.
            writeln!(out, "{bold}{time}{off}")?;
            String::new()
        };
        self.wrapped(&label, items.into_iter(), out)
    }

    /// Writes items behind a label, wrapped; nothing where there are none.
    fn wrapped(
        &self,
        label: &str,
        items: impl Iterator<Item = Item>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let mut column = 0;
        for Item { text, width } in items {
            if column == 0 {
                write!(out, "{label:INDENT$}{text}")?;
                column = INDENT + width;
            } else if column + 2 + width <= self.width {
                write!(out, "  {text}")?;
                column += 2 + width;
            } else {
                writeln!(out)?;
                write!(out, "{:INDENT$}{text}", "")?;
                column = INDENT + width;
            }
        }
        if column > 0 {
            writeln!(out)?;
        }
        Ok(())
    }

    fn table(
        &mut self,
        interval: &Interval,
        groups: Vec<(Group, &GroupFigures)>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let transitions = &interval.all.transitions;
        if transitions.is_empty() {
            return Ok(());
        }
        let interval_ns = length_ns(interval);
        let mut transitions: Vec<&TransitionCount> = transitions.iter().collect();
        transitions
            .sort_by_key(|transition| (life_order(transition.from), life_order(transition.to)));
        let mut transitions: Vec<Vec<String>> = transitions
            .into_iter()
            .map(|transition| {
                let count = transition.count;
                vec![
                    format!("{:<11} -> {}", transition.from, transition.to),
                    Count(count).to_string(),
                    PerSecond { count, interval_ns }.to_string(),
                ]
            })
            .collect();
        let groups = self.groups(interval, groups, transitions.len().max(GROUPS));
        match &mut self.table {
            Tables::Below(left, right) => {
                write_rows(left, &transitions, out)?;
                write_rows(right, &groups, out)
            }
            Tables::Beside(table) => {
                transitions.resize(transitions.len().max(groups.len()), vec![String::new(); 3]);
                for (at, row) in transitions.iter_mut().enumerate() {
                    // The gap.
                    row.push(String::new());
                    row.extend(groups.get(at).cloned().unwrap_or_default());
                }
                write_rows(table, &transitions, out)
            }
        }
    }

    /// The right part of the table: the busiest groups, and in its last line the rest together.
    fn groups(
        &self,
        interval: &Interval,
        mut groups: Vec<(Group, &GroupFigures)>,
        lines: usize,
    ) -> Vec<Vec<String>> {
        groups.retain(|(_, group)| group.figures.total() > 0);
        let shown = if groups.len() > lines {
            lines - 1
        } else {
            groups.len()
        };
        let rest = groups.split_off(shown);
        let total = interval.all.total();
        let interval_ns = length_ns(interval);
        let line = |mut key: Vec<String>, count| {
            key.push(PerSecond { count, interval_ns }.to_string());
            key.push(Percent(share(count, total)).to_string());
            key
        };
        let mut table: Vec<Vec<String>> = groups
            .into_iter()
            .map(|(group, of)| line(cells(self.by, &group, self.cgroup), of.figures.total()))
            .collect();
        if !rest.is_empty() {
            let count = rest.iter().map(|(_, group)| group.figures.total()).sum();
            let key = match self.by {
                By::Port | By::Pid => vec![format!("+{}", rest.len()), "more".to_owned()],
                _ => vec![format!("+{} more", rest.len())],
            };
            table.push(line(key, count));
        }
        table
    }
}

/// Writes the titles and the rows of a table.
fn write_rows(table: &mut Table, rows: &[Vec<String>], out: &mut dyn Write) -> io::Result<()> {
    for row in rows {
        for (index, cell) in row.iter().enumerate() {
            table.widen(index, cell);
        }
    }
    table.titles(out)?;
    for row in rows {
        let cells: Vec<&dyn Display> = row.iter().map(|cell| cell as &dyn Display).collect();
        table.row(&cells, out)?;
    }
    Ok(())
}

/// The places with the most half-open connections, and the total of the others.
fn half_open(all: &[HalfOpenAt]) -> Vec<Item> {
    const PLACES: usize = 3;
    let (places, rest) = all.split_at(all.len().min(PLACES));
    let mut items: Vec<Item> = places
        .iter()
        .map(|place| {
            let half_open = &place.half_open;
            let address = SocketAddr::new(half_open.laddr, half_open.lport);
            let oldest = match (half_open.oldest_ns, half_open.oldest_at_least_ns) {
                (Some(ns), _) => Some(format!(" (oldest {})", Span(ns))),
                (None, Some(ns)) => Some(format!(" (oldest >{})", Span(ns))),
                (None, None) => None,
            };
            let count = Count(half_open.count);
            Item::from(format!("{address} {count}{}", oldest.unwrap_or_default()))
        })
        .collect();
    if !rest.is_empty() {
        let counts = rest.iter().map(|place| place.half_open.count);
        let count = counts.fold(0, u64::saturating_add);
        items.push(format!("elsewhere {}", Count(count)).into());
    }
    items
}

/// The events of listeners in the interval, if there were any.
fn listen(listen: &ListenFigures) -> Vec<Item> {
    [
        ("overflows", listen.overflows),
        ("drops", listen.drops),
        ("SYNs dropped", listen.request_queue_full_drops),
        ("SYN cookies", listen.cookies_sent),
        ("SYN-ACKs sent again", listen.synack_retransmits),
    ]
    .into_iter()
    .filter_map(|(what, count)| Some((what, count.filter(|&count| count > 0)?)))
    .map(|(what, count)| Item::from(format!("{what} {}", Count(count))))
    .collect()
}

/// A share as a percentage; a small one is `<1%`, not 0.
struct Percent(Option<f64>);

impl Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.pad("-"),
            Some(part) if part < 0.01 => f.pad("<1%"),
            Some(part) => f.pad(&format!("{:.0}%", part * 100.0)),
        }
    }
}

/// A piece of a line, and its width in columns: colour has none.
struct Item {
    text: String,
    width: usize,
}

impl From<String> for Item {
    fn from(text: String) -> Self {
        let width = text.chars().count();
        Self { text, width }
    }
}

#[cfg(test)]
mod tests {
    use tcpstate_common::State;
    use tcpstate_core::{
        model::{Figures, GroupKey},
        names::Names,
        options::Format,
        service::{Role, ServicePort},
    };

    use super::super::groups::busiest_first;
    use super::*;

    fn block(text: &mut Text, interval: &Interval, wall_ns: i64, out: &mut Vec<u8>) {
        let groups = busiest_first(&interval.groups, &Names::default());
        text.block(interval, groups, &Handshakes::default(), wall_ns, out)
            .unwrap();
    }

    fn figures(transitions: &[(State, State, u64)]) -> Figures {
        Figures {
            transitions: transitions
                .iter()
                .map(|&(from, to, count)| TransitionCount { from, to, count })
                .collect(),
            ..Figures::default()
        }
    }

    #[test]
    fn rare_events_are_shown_too() {
        let refused = (State::SYN_SENT, State::CLOSE, 1);
        let strange = (State(14), State(255), 2);
        let group = |port, role, transition| GroupFigures {
            key: GroupKey::Port(port, role),
            figures: figures(&[transition]),
        };
        let groups: Vec<GroupFigures> = (1..=5)
            .map(|port| group(ServicePort::Port(port), Role::Client, refused))
            .chain([
                group(
                    ServicePort::Other,
                    Role::Server,
                    (State::CLOSE, State::LISTEN, 190),
                ),
                group(ServicePort::Unknown, Role::Unknown, strange),
            ])
            .collect();
        let interval = Interval {
            start_ns: 0,
            end_ns: 2_000_000_000,
            all: Figures {
                failed: 5,
                closed: 5,
                causes: vec![(Cause::Refused, 5)],
                states: vec![(State::LISTEN, 190)],
                ..figures(&[
                    (State::SYN_SENT, State::CLOSE, 5),
                    strange,
                    (State::CLOSE, State::LISTEN, 190),
                ])
            },
            groups,
            dwell: Vec::new(),
        };
        let mut out = Vec::new();
        let mut text = Text::new(By::Port, 1_000_000_000, &Settings::plain(Format::Text));
        block(&mut text, &interval, 0, &mut out);
        let quiet = Interval {
            start_ns: 0,
            end_ns: 1_000_000_000,
            all: Figures::default(),
            groups: Vec::new(),
            dwell: Vec::new(),
        };
        block(&mut text, &quiet, 2_000_000_000, &mut out);
        let jump = Interval {
            end_ns: 3_600_000_000_000,
            ..quiet
        };
        block(&mut text, &jump, 3_600_000_000_000, &mut out);
        let expected = "\
00:00:00  opened 0/s  established 0/s  closed 2.50/s  failed 2.50/s  in 2.00 s
now       LISTEN 190
ended     refused 5
TRANSITION                     COUNT   PER SEC    PORT ROLE      PER SEC SHARE
CLOSE       -> LISTEN            190        95   other server         95   96%
SYN_SENT    -> CLOSE               5      2.50       - -               1    1%
14          -> 255                 2         1       1 client       0.50   <1%
                                                     2 client       0.50   <1%
                                                    +3 more         1.50    2%

00:00:02  opened 0/s  established 0/s  closed 0/s  failed 0/s

01:00:00  opened 0/s  established 0/s  closed 0/s  failed 0/s
          in 1h 00m: 3,600 empty intervals
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn numbers_that_no_host_has_are_added_without_a_panic() {
        let at = HalfOpenAt {
            netns: 1,
            half_open: tcpstate_core::census::HalfOpen {
                laddr: [127, 0, 0, 1].into(),
                lport: 80,
                count: u64::MAX,
                oldest_ns: None,
                oldest_at_least_ns: Some(u64::MAX),
                synack_retransmits: u64::MAX,
            },
        };
        let items = half_open(&[at; 5]);
        assert_eq!(items[3].text, format!("elsewhere {}", Count(u64::MAX)));
    }

    #[test]
    fn colour_changes_nothing_else() {
        let interval = Interval {
            start_ns: 0,
            end_ns: 1_000_000_000,
            all: Figures {
                failed: 1,
                ..figures(&[(State::SYN_SENT, State::CLOSE, 1)])
            },
            groups: Vec::new(),
            dwell: Vec::new(),
        };
        let written = |colour| {
            let mut out = Vec::new();
            let settings = Settings {
                colour,
                ..Settings::plain(Format::Text)
            };
            let mut text = Text::new(By::Port, 1_000_000_000, &settings);
            block(&mut text, &interval, 0, &mut out);
            String::from_utf8(out).unwrap()
        };
        let coloured = written(true);
        assert!(coloured.contains("\x1b[31mfailed 1/s\x1b[0m"), "{coloured}");
        let plain = ["\x1b[1m", "\x1b[31m", "\x1b[0m"]
            .iter()
            .fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(plain, written(false));
    }
}
