//! The services: a table by service port and role, or another group.

use std::collections::{HashMap, HashSet};

use ratatui::text::Line;
use tcpstate_common::State;
use tcpstate_core::{
    catalogue::Group,
    cause::Cause,
    escape::Printable,
    histogram::Histogram,
    model::{Figures, GroupKey, Of},
    options::TimeForm,
    origin::Origin,
    present::RunSnapshot,
    units::{Count, PerSecond, Span as Time},
};
use tcpstate_text::{
    format::{
        text::{Align, fitted},
        time::Local,
    },
    group::cells,
};

use crate::{
    connections::{is_cut, is_of, matching},
    frame::wrapped,
    history::shows_none,
    kept::Kept,
    look::Look,
    order::{SERVICE_COLUMNS, grouping_name},
    row::{Item, Row},
};

/// The facts that are known of a service.
struct Service<'a> {
    name: String,
    key: GroupKey,
    origin: &'a Origin,
    /// Since the beginning.
    total: &'a Figures,
    /// In the latest interval.
    now: Option<&'a Figures>,
    /// The part of the interval in which there are these groups; 0: too little for a rate.
    interval_ns: u64,
    established: Option<&'a Histogram>,
    handshake: Option<&'a Histogram>,
}

/// A value, by which rows are sorted.
#[derive(Clone, Copy)]
enum Value {
    Count(u64),
    Unknown,
    /// A count in an interval.
    Rate(u64, u64),
    Time(Option<u64>),
}

impl Value {
    fn text(self) -> String {
        match self {
            Self::Unknown | Self::Time(None) => "-".to_owned(),
            Self::Count(count) => Count(count).to_string(),
            Self::Rate(count, interval_ns) => PerSecond { count, interval_ns }.to_string(),
            Self::Time(Some(ns)) => Time(ns).to_string(),
        }
    }

    const fn number(self) -> u64 {
        match self {
            Self::Count(count) | Self::Rate(count, _) => count,
            Self::Unknown => 0,
            // An unknown figure is less than all known ones.
            Self::Time(ns) => match ns {
                Some(ns) => ns.saturating_add(1),
                None => 0,
            },
        }
    }
}

struct Column {
    title: &'static str,
    value: fn(&Service<'_>) -> Value,
}

const fn column(title: &'static str, value: fn(&Service<'_>) -> Value) -> Column {
    Column { title, value }
}

/// The columns behind the name, in their order.
static COLUMNS: [Column; SERVICE_COLUMNS] = [
    column("OPEN/S", |one| one.rate(|figures| figures.opened)),
    column("CLOSE/S", |one| one.rate(|figures| figures.closed)),
    column("FAIL/S", |one| one.rate(|figures| figures.failed)),
    column("ESTAB", |one| one.state(&[State::ESTABLISHED])),
    column("CLOSE_W", |one| one.state(&[State::CLOSE_WAIT])),
    column("EST p50", |one| quantile(one.established, 0.5)),
    column("EST p99", |one| quantile(one.established, 0.99)),
    column("HS p50", |one| quantile(one.handshake, 0.5)),
    column("HS p99", |one| quantile(one.handshake, 0.99)),
    column("SYN_S", |one| one.state(&[State::SYN_SENT])),
    column("SYN_R", |one| one.state(&[State::SYN_RECV])),
    column("FIN_W", |one| {
        one.state(&[State::FIN_WAIT1, State::FIN_WAIT2])
    }),
    column("CLOSING", |one| one.state(&[State::CLOSING])),
    column("LAST_A", |one| one.state(&[State::LAST_ACK])),
    column("TIME_W", |one| one.state(&[State::TIME_WAIT])),
    column("LISTEN", |one| one.state(&[State::LISTEN])),
    column("RESET", |one| {
        one.ended(|cause| matches!(cause, Cause::ResetByPeer | Cause::ResetLocally))
    }),
    column("REFUSED", |one| one.ended(|cause| cause == Cause::Refused)),
    column("TIMEOUT", |one| one.ended(|cause| cause == Cause::TimedOut)),
    column("OTHER", |one| {
        one.ended(|cause| {
            !matches!(
                cause,
                Cause::Fin
                    | Cause::ResetByPeer
                    | Cause::ResetLocally
                    | Cause::Refused
                    | Cause::TimedOut
            )
        })
    }),
];

impl Service<'_> {
    fn rate(&self, count: fn(&Figures) -> u64) -> Value {
        match self.interval_ns {
            0 => Value::Unknown,
            length_ns => Value::Rate(self.now.map_or(0, count), length_ns),
        }
    }

    fn state(&self, states: &[State]) -> Value {
        let known = self.total.states.iter();
        let wanted = known.filter(|(state, _)| states.contains(state));
        let count = wanted.map(|&(_, count)| count).sum();
        let is_known = count > 0 || states.iter().all(|&state| shows_none(self.origin, state));
        if is_known {
            Value::Count(count)
        } else {
            Value::Unknown
        }
    }

    /// The connections that ended so, since the beginning.
    fn ended(&self, is_wanted: fn(Cause) -> bool) -> Value {
        let known = self.total.causes.iter();
        let wanted = known.filter(|(cause, _)| is_wanted(*cause));
        Value::Count(wanted.map(|&(_, count)| count).sum())
    }
}

fn quantile(histogram: Option<&Histogram>, q: f64) -> Value {
    Value::Time(histogram.and_then(|histogram| histogram.quantile(q)))
}

/// The width of a column.
const COLUMN: usize = 8;

/// The width of a name.
const fn name_width(width: usize) -> usize {
    if width < 60 { 13 } else { 22 }
}

/// The columns behind the name that there is room for.
pub(crate) const fn room(width: usize) -> usize {
    width.saturating_sub(name_width(width)) / (COLUMN + 1)
}

/// The groups with a connection that the filter matches; `None`: there is no filter.
pub(crate) fn matched(look: &Look, snapshot: &RunSnapshot) -> Option<HashSet<GroupKey>> {
    if !look.is_filtered() {
        return None;
    }
    // Of a group without such a socket none is listed.
    let has_listed = |figures: &Figures| {
        let mut states = figures.states.iter();
        states.any(|(state, _)| !matches!(*state, State::LISTEN | State::TIME_WAIT | State::CLOSE))
    };
    let groups = snapshot.tracker.groups.iter();
    let groups = groups.filter(|group| has_listed(&group.figures));
    let mut rest: Vec<GroupKey> = groups.map(|group| group.key).collect();
    let mut found = HashSet::new();
    for (_, one) in matching(look, look.of_kept(), snapshot) {
        found.extend(rest.extract_if(.., |key| is_of(*key, one, &snapshot.names)));
        if rest.is_empty() {
            break;
        }
    }
    Some(found)
}

/// The titles, and the rows.
pub(crate) fn table(look: &Look, width: usize) -> (Vec<Line<'static>>, Vec<Row>) {
    let Some(snapshot) = look.shown().snapshot.as_deref() else {
        return Default::default();
    };
    let interval = &snapshot.interval;
    let by = snapshot.tracker.by;
    let since_ns = snapshot.tracker.by_since_ns;
    let length_ns = interval.end_ns.saturating_sub(interval.start_ns);
    let counted_ns = interval
        .end_ns
        .saturating_sub(since_ns.unwrap_or(0))
        .min(length_ns);
    // A rate over a moment says nothing.
    let counted_ns = if counted_ns < length_ns / 2 {
        0
    } else {
        counted_ns
    };
    let name_width = name_width(width);
    // There can be a thousand groups.
    let now: HashMap<GroupKey, &Figures> = interval
        .groups
        .iter()
        .map(|group| (group.key, &group.figures))
        .collect();
    let histograms: HashMap<(Of, GroupKey), &Histogram> = snapshot
        .tracker
        .histograms
        .iter()
        .map(|series| ((series.of, series.key), &series.histogram))
        .collect();
    let histogram = |of: Of, key: GroupKey| histograms.get(&(of, key)).copied();
    let groups = snapshot.tracker.groups.iter();
    let is_kept = |figures: &Figures| {
        look.kept.is_none_or(|kept| match kept {
            Kept::State(state) => figures.states.iter().any(|(one, _)| *one == state),
            Kept::Edge(..) => {
                let mut transitions = figures.transitions.iter();
                transitions.any(|one| kept.has_transition(one.from, one.to))
            }
        })
    };
    let matched = matched(look, snapshot);
    let is_matched = |key: &GroupKey| matched.as_ref().is_none_or(|keys| keys.contains(key));
    let mut services: Vec<Service<'_>> = groups
        .filter(|total| is_kept(&total.figures) && is_matched(&total.key))
        .map(|total| {
            let group = Group::new(total.key, &snapshot.names);
            let name = cells(by, &group, name_width);
            Service {
                name: name.join(" ").trim_end().to_owned(),
                key: total.key,
                origin: &snapshot.origin,
                total: &total.figures,
                now: now.get(&total.key).copied(),
                interval_ns: counted_ns,
                established: histogram(Of::Dwell(State::ESTABLISHED), total.key),
                handshake: histogram(Of::Handshake, total.key),
            }
        })
        .collect();
    let order = look.services;
    let sorted_by = COLUMNS.get(order.by);
    services.sort_by_cached_key(|service| {
        let number = sorted_by.map_or(0, |by| (by.value)(service).number());
        let number = if order.is_turned {
            number
        } else {
            u64::MAX - number
        };
        (number, u64::MAX - service.total.total(), service.key)
    });
    let seen: Vec<(usize, &Column)> = COLUMNS
        .iter()
        .enumerate()
        .skip(order.shift)
        .take(room(width))
        .collect();
    let rows = services.iter().map(|service| {
        let mut line = fitted(&service.name, name_width, Align::Left);
        for (_, column) in &seen {
            line.push(' ');
            line.push_str(&fitted(
                &(column.value)(service).text(),
                COLUMN,
                Align::Right,
            ));
        }
        Row::item(Item::Group(service.key), line)
    });
    let title = titles(look, name_width, &seen);
    let title = Line::styled(title, look.options.theme.title());
    let mut head = vec![Line::raw(about(look, snapshot))];
    if matched.is_some() {
        let about = about_filter(look, snapshot, services.len());
        head.extend(wrapped(&about, width).into_iter().map(Line::from));
    }
    head.push(title);
    (head, rows.collect())
}

/// The services that a filter leaves, in words.
fn about_filter(look: &Look, snapshot: &RunSnapshot, shown: usize) -> String {
    let all = Count(snapshot.tracker.groups.len() as u64);
    let shown = Count(shown as u64);
    let filter = Printable(look.filter.text.as_bytes());
    let bound = if is_cut(snapshot) {
        let longest = Count(look.options.longest as u64);
        format!(", of the {longest} oldest of each state")
    } else {
        String::new()
    };
    format!("{shown} of {all} with a connection that matches {filter}{bound}")
}

/// The titles of these columns, with a mark at the one that the rows are sorted by.
fn titles(look: &Look, name_width: usize, seen: &[(usize, &Column)]) -> String {
    let order = look.services;
    let mut title = fitted("SERVICE", name_width, Align::Left);
    for (at, column) in seen {
        // The mark of the column that the rows are sorted by, in front of all titles.
        let mark = match (*at == order.by, order.is_turned, look.options.theme.unicode) {
            (false, _, _) => " ",
            (true, false, true) => "▼",
            (true, true, true) => "▲",
            (true, false, false) => "v",
            (true, true, false) => "^",
        };
        title.push(' ');
        title.push_str(mark);
        title.push_str(&fitted(column.title, COLUMN - 1, Align::Right));
    }
    title
}

/// The grouping, and since when it is counted.
fn about(look: &Look, snapshot: &RunSnapshot) -> String {
    let tracker = &snapshot.tracker;
    let origin = &snapshot.origin;
    let since_ns = tracker.by_since_ns.unwrap_or(origin.started_ns);
    let mut local = Local::new(look.options.zone.clone(), TimeForm::Seconds);
    let since = local.at(origin.wall_ns(since_ns));
    let asked = if look.by == tracker.by {
        String::new()
    } else {
        format!("; next by {}", grouping_name(look.by))
    };
    format!("by {} since {since}{asked}", grouping_name(tracker.by))
}
