//! The overview: rates, the sockets in each state, findings, and our own cost.

use ratatui::text::{Line, Span};
use tcpstate_common::State;
use tcpstate_core::{
    diagnosis::Finding,
    model::Connection,
    present::RunSnapshot,
    units::{Bytes, Count, PerSecond, Span as Time},
    view::End,
};
use tcpstate_text::{
    books::Changes,
    format::text::{Align, fitted},
};

use crate::{
    finding::sentence,
    frame::wrapped,
    history::{Rate, STATES, shows_none},
    kept::Kept,
    look::{Look, Present},
    row::{Item, Row},
};

/// The rows, in so many columns. `whole`: findings are not cut.
pub(crate) fn rows(look: &Look, width: usize, whole: bool) -> Vec<Row> {
    let shown = look.shown();
    let Some(snapshot) = shown.snapshot.as_deref() else {
        return Vec::new();
    };
    let mut rows = match look.kept {
        Some(part) => edges(look, part, width),
        None => rates(look, shown, width),
    };
    rows.push(Row::text(""));
    rows.extend(states(look, shown, snapshot, width));
    rows.push(Row::text(""));
    rows.extend(findings(look, snapshot, width, whole));
    rows.extend(cost(shown, snapshot, width).into_iter().map(Row::text));
    rows
}

/// The columns of a rate, without its sparkline.
const RATE: usize = 14 + 1 + 8 + 3;

fn rates(look: &Look, shown: &Present, width: usize) -> Vec<Row> {
    let history = &shown.history;
    let theme = look.options.theme;
    let line = |rate: Rate, width: usize| {
        let latest = history.latest(rate);
        let latest = latest.map(|(count, interval_ns)| PerSecond { count, interval_ns });
        // An unknown rate has no unit.
        let latest = latest.map_or_else(|| "-  ".to_owned(), |rate| format!("{rate}/s"));
        let bars = theme.sparkline(&history.rates(rate), width.saturating_sub(RATE));
        let name = fitted(rate.name(), 14, Align::Left);
        format!("{name} {} {bars}", fitted(&latest, 10, Align::Right))
    };
    if width < 2 * RATE + 10 {
        let rates = Rate::ALL.into_iter();
        return rates.map(|rate| Row::text(line(rate, width))).collect();
    }
    let half = (width - 2) / 2;
    let (left, right) = Rate::ALL.split_at(Rate::ALL.len() / 2);
    let pairs = left.iter().zip(right);
    pairs
        .map(|(&left, &right)| Row::text(format!("{}  {}", line(left, half), line(right, half))))
        .collect()
}

/// The most edges that are shown.
const EDGES: usize = 6;

/// The rates on the edges of what is kept.
fn edges(look: &Look, part: Kept, width: usize) -> Vec<Row> {
    const NAME: usize = 26;
    let history = &look.shown().history;
    let edges = history.edges(part);
    let rows = edges.iter().take(EDGES).map(|&(from, to)| {
        let (latest, rates) = history.edge((from, to));
        let latest = latest.map(|(count, interval_ns)| PerSecond { count, interval_ns });
        let latest = latest.map_or_else(|| "-  ".to_owned(), |rate| format!("{rate}/s"));
        let name = fitted(&Kept::Edge(from, to).to_string(), NAME, Align::Left);
        let bars = look
            .options
            .theme
            .sparkline(&rates, width.saturating_sub(NAME + 12));
        Row::text(format!(
            "{name} {} {bars}",
            fitted(&latest, 10, Align::Right)
        ))
    });
    let mut rows: Vec<Row> = rows.collect();
    if rows.is_empty() {
        rows.push(Row::text(format!(
            "No connection has come to {part}, or left it, in the intervals that are kept."
        )));
    }
    rows
}

/// The columns of the sockets in a state: their number, its change, and the time of the oldest.
const fn widths(width: usize) -> (usize, usize, usize) {
    if width < 60 { (7, 6, 8) } else { (10, 9, 10) }
}

fn states(look: &Look, shown: &Present, snapshot: &RunSnapshot, width: usize) -> Vec<Row> {
    let theme = look.options.theme;
    let (now, change, oldest) = widths(width);
    let spark = width.saturating_sub(11 + 1 + now + 1 + change + 1 + oldest + 1);
    let title = format!(
        "STATE       {:>now$} {:>change$} {:>oldest$}",
        "NOW", "CHANGE", "OLDEST"
    );
    let mut rows = vec![Row::text(Line::styled(title, theme.title()))];
    let is_kept = |state| look.kept.is_none_or(|kept| kept.has(state));
    for (place, state) in STATES.into_iter().enumerate() {
        if !is_kept(state) {
            continue;
        }
        let counts = shown.history.state(place);
        let mut latest = counts.iter().rev();
        let count = latest.next().copied().unwrap_or(0);
        let number = if count == 0 && !shows_none(&snapshot.origin, state) {
            "-".to_owned()
        } else {
            Count(count).to_string()
        };
        let difference = latest.next().map_or_else(String::new, |&before| {
            match (count.cmp(&before), Count(count.abs_diff(before))) {
                (std::cmp::Ordering::Less, less) => format!("-{less}"),
                (std::cmp::Ordering::Equal, _) => String::new(),
                (std::cmp::Ordering::Greater, more) => format!("+{more}"),
            }
        });
        let line = format!(
            "{:11} {} {} {} {}",
            state.to_string(),
            fitted(&number, now, Align::Right),
            fitted(&difference, change, Align::Right),
            fitted(&age_of_oldest(snapshot, state, count), oldest, Align::Right),
            theme.sparkline(&counts, spark),
        );
        rows.push(Row::item(Item::State(state), line));
    }
    rows
}

/// The time that the oldest socket has been in this state, as far as is known.
fn age_of_oldest(snapshot: &RunSnapshot, state: State, count: u64) -> String {
    if count == 0 {
        return "-".to_owned();
    }
    let now_ns = snapshot.tracker.now_ns.max(snapshot.interval.end_ns);
    let since = if state == State::LISTEN {
        Some(oldest_listener(snapshot))
    } else {
        oldest_connection(snapshot, state, now_ns)
    };
    let Some(Since { ns, is_exact }) = since else {
        return half_open(snapshot, state);
    };
    let bound = if is_exact { "" } else { ">" };
    format!("{bound}{}", Time(now_ns.saturating_sub(ns)))
}

/// The time by which the oldest socket was in its state.
#[derive(Clone, Copy)]
struct Since {
    ns: u64,
    /// Whether it entered it just then; otherwise perhaps earlier.
    is_exact: bool,
}

fn oldest_listener(snapshot: &RunSnapshot) -> Since {
    let since = snapshot.tracker.listeners.iter().map(|one| one.since_ns);
    match since.min().flatten() {
        Some(ns) => Since { ns, is_exact: true },
        // One of before the capture is the oldest.
        None => Since {
            ns: snapshot.origin.started_ns,
            is_exact: false,
        },
    }
}

fn oldest_connection(snapshot: &RunSnapshot, state: State, now_ns: u64) -> Option<Since> {
    let connections = snapshot.tracker.connections.iter();
    let in_state = |one: &&Connection| one.states.last().is_some_and(|stay| stay.state == state);
    let connections = connections.filter(in_state).map(|one| Since {
        ns: one.last_ns.or(one.there_ns).unwrap_or(now_ns),
        is_exact: one.last_ns.is_some(),
    });
    let minisockets = snapshot.tracker.oldest_minisockets.iter();
    let minisockets = minisockets.filter(|one| one.state == state);
    let minisockets = minisockets.map(|one| Since {
        ns: one.since_ns,
        is_exact: one.is_exact,
    });
    let all = connections.chain(minisockets);
    // One whose time is not known may be the oldest.
    all.reduce(|one, other| Since {
        ns: one.ns.min(other.ns),
        is_exact: one.is_exact && other.is_exact,
    })
}

/// Half-open connections are no connections yet.
fn half_open(snapshot: &RunSnapshot, state: State) -> String {
    let handshakes = snapshot.handshakes.iter();
    let places = handshakes.flat_map(|handshakes| &handshakes.half_open);
    let oldest = places
        .filter(|_| state == State::SYN_RECV)
        .filter_map(|at| {
            let exact = at.half_open.oldest_ns.map(|ns| (ns, ""));
            exact.or(at.half_open.oldest_at_least_ns.map(|ns| (ns, ">")))
        });
    let oldest = oldest.max();
    oldest.map_or_else(
        || "-".to_owned(),
        |(ns, bound)| format!("{bound}{}", Time(ns)),
    )
}

fn findings(look: &Look, snapshot: &RunSnapshot, width: usize, whole: bool) -> Vec<Row> {
    const SEVERITY: usize = 9;
    let theme = look.options.theme;
    let Some(findings) = &snapshot.findings else {
        return Vec::new();
    };
    let is_kept = |finding: &&Finding| {
        let states = finding.text.states;
        look.kept
            .is_none_or(|kept| states.iter().any(|&state| kept.has(state)))
    };
    let findings: Vec<&Finding> = findings.iter().filter(is_kept).collect();
    if findings.is_empty() {
        let about = look
            .kept
            .map_or_else(String::new, |kept| format!(" about {kept}"));
        return vec![Row::text(format!("Nothing found{about} so far."))];
    }
    let mut rows = Vec::new();
    let row = |finding: &Finding, text: String, is_first: bool| {
        let label = if is_first {
            finding.severity.name()
        } else {
            ""
        };
        let label = Span::styled(
            format!("{label:SEVERITY$}"),
            theme.severity(finding.severity),
        );
        Line::from(vec![label, Span::raw(text)])
    };
    let room = width.saturating_sub(SEVERITY);
    if whole {
        for finding in findings {
            for (at, text) in wrapped(&sentence(finding, 1), room).into_iter().enumerate() {
                rows.push(Row::text(row(finding, text, at == 0)));
            }
        }
        return rows;
    }
    // Of each kind the worst one: many of one kind leave room for others.
    let mut kinds: Vec<(&Finding, usize)> = Vec::new();
    for finding in findings {
        let of_kind = |(first, _): &&mut (&Finding, usize)| first.text.name == finding.text.name;
        match kinds.iter_mut().find(of_kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((finding, 1)),
        }
    }
    let rows_of_kinds = kinds.iter().map(|&(finding, count)| {
        let (name, place) = finding.identity();
        let item = match count {
            1 => Item::Finding(name, place),
            _ => Item::Findings(name),
        };
        let text = fitted(&sentence(finding, count), room, Align::Left);
        Row::item(item, row(finding, text, true))
    });
    rows.extend(rows_of_kinds);
    rows
}

/// The books, and the cost of watching.
fn cost(shown: &Present, snapshot: &RunSnapshot, width: usize) -> Vec<String> {
    let books = &snapshot.books;
    let end = End {
        now_ns: snapshot.interval.end_ns,
        accounting: books.accounting,
        selection: books.selection,
        cost: books.cost,
        damaged: false,
        verbose: false,
        part: None,
        evidence: snapshot.origin.evidence(),
        packets: None,
    };
    let share = shown.history.own_share();
    let share = share.map_or_else(String::new, |share| {
        format!("{:.1} % of a processor, ", share * 100.0)
    });
    let memory = books.cost.max_rss_bytes.unwrap_or(0);
    let text = format!(
        "{}; tcpstate: {share}{} of memory",
        Changes(&end, Some(&snapshot.tracker.books)),
        Bytes(memory),
    );
    wrapped(&text, width)
}
