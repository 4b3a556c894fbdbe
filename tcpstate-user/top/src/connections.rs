//! The connections, those longest in their state first.

use std::{
    cmp::Ordering,
    fmt,
    io::{self, Write as _},
};

use ratatui::text::Line;
use tcpstate_common::State;
use tcpstate_core::{
    catalogue::{CONNECTION, ConnectionRow},
    escape::Printable,
    event::SocketId,
    model::{Connection, Figures, GroupKey, Prefix},
    names::{Cgroup, Names},
    present::RunSnapshot,
    service::{Role, ServicePort},
    units::{Count, Span as Time},
};
use tcpstate_text::{
    format::text::{Cell, Column, Columns, ColumnsError, Layout, OrDash, Records},
    settings::Settings,
};

use crate::{
    frame::wrapped,
    history::shows_none,
    look::{Look, Only},
    order::By,
    row::{Content, Item, Row},
};

/// Whether a connection is one of these.
fn is_wanted(only: &Only, one: &Connection, names: &Names) -> bool {
    let is_same = |id: Option<u64>, name: fn(&Cgroup) -> Option<&str>| {
        let of = |id| names.cgroup(id);
        of(id).as_deref().and_then(name) == of(one.cgroup).as_deref().and_then(name)
    };
    let has_state = only.state.is_none_or(|state| {
        let present = one.states.last();
        present.is_some_and(|stay| stay.state == state)
    });
    let has_before = only.from.is_none_or(|from| {
        let before = one.states.iter().rev().nth(1);
        before.is_some_and(|stay| stay.state == from)
    });
    let has_group = only.group.is_none_or(|group| match group {
        GroupKey::Port(ServicePort::Port(port), role) => {
            (one.service_port, one.role) == (Some(port), role)
        }
        GroupKey::Port(ServicePort::Unknown, role) => {
            one.role == role && (one.service_port.is_none() || role == Role::Unknown)
        }
        GroupKey::Role(role) => one.role == role,
        GroupKey::Comm(comm) => one.owner.comm == comm,
        GroupKey::Pid(pid, comm) => (one.owner.pid, one.owner.comm) == (pid, comm),
        GroupKey::Cgroup(cgroup) => one.cgroup == cgroup,
        GroupKey::Unit(id) => is_same(id, Cgroup::unit),
        GroupKey::Container(id) => is_same(id, Cgroup::container),
        GroupKey::Pod(id) => is_same(id, Cgroup::pod_uid),
        GroupKey::Netns(netns) => one.netns == netns,
        GroupKey::Raddr(raddr) => one.raddr == raddr,
        GroupKey::Prefix(prefix) => one.raddr.map(Prefix::of) == prefix,
        // None of these has ended.
        GroupKey::Cause(cause) => cause.is_none(),
        // Those that there was no room for are not known one by one, so that none of them is listed.
        GroupKey::Port(ServicePort::Other, _) | GroupKey::Other => false,
    });
    has_state && has_before && has_group
}

/// The time at which it was in its state.
fn in_state_ns(one: &Connection) -> u64 {
    one.last_ns.or(one.there_ns).unwrap_or(u64::MAX)
}

/// The order of two connections; those that are equal are ordered by their age.
fn compare(by: By, one: &Connection, other: &Connection) -> Ordering {
    fn keyed<'a, K: Ord>(
        one: &'a Connection,
        other: &'a Connection,
        key: impl Fn(&'a Connection) -> K,
    ) -> Ordering {
        key(one).cmp(&key(other))
    }
    match by {
        By::Age => Ordering::Equal,
        By::State => keyed(one, other, |one| one.states.last().map(|stay| stay.state.0)),
        By::Service => keyed(one, other, |one| (one.service_port, one.role)),
        By::Process => keyed(one, other, |one| (one.owner.comm, one.owner.pid)),
        By::Remote => keyed(one, other, |one| (one.raddr, one.rport)),
    }
}

/// Those of these connections that the filter matches, with their places in the snapshot.
pub(crate) fn matching<'a>(
    look: &'a Look,
    only: Only,
    snapshot: &'a RunSnapshot,
) -> impl Iterator<Item = (usize, &'a Connection)> {
    let all = snapshot.tracker.connections.iter().enumerate();
    let of_choice = all.filter(move |(_, one)| is_wanted(&only, one, &snapshot.names));
    of_choice.filter(move |(_, one)| {
        let filter = &look.filter;
        filter.wants_all() || filter.matches(&ConnectionRow::of_snapshot(one, snapshot))
    })
}

/// Whether a connection is one of this group of the services.
pub(crate) fn is_of(group: GroupKey, one: &Connection, names: &Names) -> bool {
    let only = Only {
        group: Some(group),
        ..Only::default()
    };
    is_wanted(&only, one, names)
}

/// Whether there are more connections than the snapshot has.
pub(crate) const fn is_cut(snapshot: &RunSnapshot) -> bool {
    (snapshot.tracker.connections.len() as u64) < snapshot.tracker.books.live
}

/// The lines above, and the rows.
pub(crate) fn table(look: &Look, width: usize) -> (Vec<Line<'static>>, Vec<Row>) {
    let Some(snapshot) = look.shown().snapshot.as_deref() else {
        return Default::default();
    };
    let only = look.listed();
    let mut wanted: Vec<(usize, &Connection)> = matching(look, only, snapshot).collect();
    let by = look.connections.by;
    wanted.sort_unstable_by(|(_, one), (_, other)| {
        let age = |one: &Connection| (in_state_ns(one), one.id);
        compare(by, one, other).then_with(|| age(one).cmp(&age(other)))
    });
    if look.connections.is_turned {
        wanted.reverse();
    }
    let theme = look.options.theme;
    let rows = wanted.iter().map(|(at, one)| Row {
        item: Some(Item::Connection(one.id)),
        mark: None,
        content: Content::Connection(*at),
    });
    let mut rows: Vec<Row> = rows.collect();
    let counted = only.state.and_then(|state| counted(state, snapshot));
    if let (Some(counted), true) = (counted, rows.is_empty()) {
        rows.extend(wrapped(&counted, width).into_iter().map(Row::text));
    }
    let mut head = vec![Line::raw(about(look, wanted.len(), snapshot))];
    let mut titles = Vec::new();
    // Writing to memory does not fail.
    let _ = records(look, width).titles(0, &mut titles);
    let titles = String::from_utf8_lossy(&titles).trim_end().to_owned();
    head.push(Line::styled(titles, theme.title()));
    (head, rows)
}

/// The sockets in this state.
fn count_in(state: State, figures: &Figures) -> u64 {
    let mut states = figures.states.iter();
    let found = states.find(|(known, _)| *known == state);
    found.map_or(0, |&(_, count)| count)
}

/// Whether the number of the sockets in this state is known.
fn is_known(state: State, snapshot: &RunSnapshot) -> bool {
    shows_none(&snapshot.origin, state) || count_in(state, &snapshot.interval.all) > 0
}

/// The connections in this state that the snapshot has.
fn kept_in(state: State, snapshot: &RunSnapshot) -> u64 {
    let all = snapshot.tracker.connections.iter();
    let present = all.filter_map(|one| one.states.last());
    present.filter(|stay| stay.state == state).count() as u64
}

/// The reason why no socket in this state is listed; `None`: those that there are, are.
fn counted(state: State, snapshot: &RunSnapshot) -> Option<String> {
    let (sockets, filter) = match state {
        State::CLOSE => {
            return Some("sockets that are not connected are not listed here".to_owned());
        }
        State::TIME_WAIT => ("sockets in TIME_WAIT", "time-wait"),
        State::LISTEN => ("sockets in LISTEN", "listening"),
        State::SYN_RECV if kept_in(state, snapshot) == 0 => {
            ("half-open connections in SYN_RECV", "syn-recv")
        }
        _ => return None,
    };
    let is_known = is_known(state, snapshot);
    if state == State::SYN_RECV && is_known && count_in(state, &snapshot.interval.all) == 0 {
        return None;
    }
    let why = if is_known {
        "are counted, not listed"
    } else {
        "are neither counted nor listed here"
    };
    // Of a recording there is no list.
    let list = if snapshot.origin.live {
        format!(": tcpstate ls state {filter}")
    } else {
        String::new()
    };
    Some(format!("{sockets} {why}{list}"))
}

/// The number of those that the list is chosen from.
fn number(only: &Only, snapshot: &RunSnapshot) -> u64 {
    match (only.state, only.group) {
        (Some(state), None) => count_in(state, &snapshot.interval.all),
        (Some(state), Some(key)) => {
            let mut groups = snapshot.tracker.groups.iter();
            let group = groups.find(|group| group.key == key);
            group.map_or(0, |group| count_in(state, &group.figures))
        }
        (None, Some(key)) => {
            let mut groups = snapshot.tracker.groups.iter();
            let states = groups.find(|group| group.key == key);
            let states = states.into_iter().flat_map(|group| &group.figures.states);
            // Those that are counted and not listed are no connections of the list.
            let listed = states.filter(|(state, _)| counted(*state, snapshot).is_none());
            listed.map(|&(_, count)| count).sum()
        }
        (None, None) => snapshot.tracker.books.live,
    }
}

/// The connections that are shown, in words.
fn about(look: &Look, shown: usize, snapshot: &RunSnapshot) -> String {
    let only = look.listed();
    let Only { state, from, group } = only;
    let mut of = Vec::new();
    of.extend(state.map(|state| format!("in {state}")));
    of.extend(from.map(|from| format!("from {from}")));
    if let Some(key) = group {
        let group = tcpstate_core::catalogue::Group::new(key, &snapshot.names);
        let name = tcpstate_text::group::cells(snapshot.tracker.by, &group, 40).join(" ");
        of.push(format!("of {name}"));
    }
    if !look.filter.text.is_empty() {
        of.push(Printable(look.filter.text.as_bytes()).to_string());
    }
    let is_known = only.state.is_none_or(|state| is_known(state, snapshot));
    let all = number(&only, snapshot);
    let is_cut = match only.state {
        Some(state) => counted(state, snapshot).is_none() && kept_in(state, snapshot) < all,
        None => is_cut(snapshot),
    };
    let bound = if is_cut {
        let longest = Count(look.options.longest as u64);
        format!(", the {longest} oldest of each state")
    } else {
        String::new()
    };
    let number = if is_known {
        Count(all).to_string()
    } else {
        "-".to_owned()
    };
    let reversed = if look.connections.is_turned {
        ", reversed"
    } else {
        ""
    };
    let of = if of.is_empty() {
        String::new()
    } else {
        format!(" {}", of.join(" "))
    };
    format!(
        "{} of {}{of}{bound}, by {}{reversed}",
        Count(shown as u64),
        number,
        look.connections.by.name(),
    )
}

/// The row of a connection that is shown.
pub(crate) fn find(look: &Look, id: SocketId) -> Option<ConnectionRow> {
    let snapshot = look.shown().snapshot.as_deref()?;
    let mut all = snapshot.tracker.connections.iter();
    let one = all.find(|one| one.id == id)?;
    Some(ConnectionRow::of_snapshot(one, snapshot))
}

/// The columns of these names, with commas between them; of none, the usual ones.
pub(crate) fn columns(names: &str) -> Result<Columns<ConnectionRow>, ColumnsError> {
    let names = names.trim();
    let words: Vec<String> = match names {
        "" => Vec::new(),
        names => names
            .split(',')
            .map(|name| name.trim().to_owned())
            .collect(),
    };
    LAYOUT.columns(false, &words)
}

/// The names of these columns, in the same way.
pub(crate) fn names_of(columns: &Columns<ConnectionRow>) -> String {
    let Columns::These(cells) = columns else {
        return String::new();
    };
    let known = LAYOUT.names();
    let names = cells.iter().map(|cell| {
        let (title, _) = cell.describe();
        let mut known = known.iter().filter(|name| name.eq_ignore_ascii_case(title));
        known.next().map_or(title, String::as_str)
    });
    names.collect::<Vec<_>>().join(",")
}

/// The columns; those of the counters get room after these that tell connections apart.
macro_rules! layout {
    ($($counters:expr),*) => {
        Layout {
            command: "top",
            cells: &CELLS,
            usual: &["STATE", "AGE", "ROLE", "LOCAL", "REMOTE", "PID", "COMM"],
            steps: &[
                // 40 columns.
                ("STATE", 11),
                ("AGE", 8),
                ("REMOTE", 17),
                // 80 columns.
                ("REMOTE", 21),
                ("COMM", 8),
                ("PID", 7),
                ("LOCAL", 16),
                // More.
                ("COMM", 12),
                ("LOCAL", 21),
                ("ROLE", 6),
                $($counters,)*
                ("HANDSHAKE", 9),
                ("NETNS", 10),
                ("LIFETIME", 8),
                ("REMOTE", 34),
                ("LOCAL", 34),
                ("COMM", 15),
                ("REMOTE", 47),
                ("LOCAL", 47),
                ("UID", 5),
                ("COOKIE", 11),
                ("CGROUP", 60),
            ],
            fields: &CONNECTION,
        }
    };
}

fn records(look: &Look, width: usize) -> Records<ConnectionRow> {
    let settings = Settings {
        width: Some(width),
        several_netns: look.options.several_netns,
        zone: look.options.zone.clone(),
        ..Settings::plain(tcpstate_core::options::Format::Text)
    };
    let layout = if look.options.is_played {
        &WITHOUT_COUNTERS
    } else {
        &LAYOUT
    };
    Records::on_screen(layout, &look.columns, &settings)
}

/// Writes the connections that are seen.
pub(crate) struct Lines<'a> {
    snapshot: Option<&'a RunSnapshot>,
    records: Records<ConnectionRow>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(look: &'a Look, width: usize) -> Self {
        Self {
            snapshot: look.shown().snapshot.as_deref(),
            records: records(look, width),
        }
    }

    /// The line of the connection at this place.
    pub(crate) fn line(&mut self, at: usize) -> Line<'static> {
        let Some(snapshot) = self.snapshot else {
            return Line::default();
        };
        let Some(one) = snapshot.tracker.connections.get(at) else {
            return Line::default();
        };
        let mut text = Vec::new();
        // Writing to memory does not fail.
        let _ = self
            .records
            .write(&ConnectionRow::of_snapshot(one, snapshot), &mut text);
        Line::raw(String::from_utf8_lossy(&text).trim_end().to_owned())
    }
}

impl fmt::Debug for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lines")
    }
}

/// The columns of the list of connections.
pub static LAYOUT: Layout<ConnectionRow> =
    layout!(("SENT", 8), ("RECEIVED", 8), ("RTT", 7), ("RETR", 4));

/// The same where nobody looks at the host's sockets, so that their counters are not known.
static WITHOUT_COUNTERS: Layout<ConnectionRow> = layout!();

static CELLS: [Cell<ConnectionRow>; 20] = [
    Cell::composed(
        Column::left("STATE", 11),
        "the last of `states`",
        push_state,
    ),
    Cell::composed(
        Column::right("AGE", 8),
        "the time in it so far (`>`: at least)",
        push_age,
    ),
    Cell::COOKIE,
    Cell::field(Column::right("NETNS", 10), CONNECTION.column("netns")),
    Cell::field(Column::left("ROLE", 6), CONNECTION.column("role")),
    Cell::LOCAL,
    Cell::REMOTE,
    Cell::field(Column::right("PID", 7), CONNECTION.column("owner.pid")),
    Cell::field(Column::left("COMM", 12), CONNECTION.column("owner.comm")),
    Cell::field(Column::right("SENT", 8), CONNECTION.column("bytes_sent")),
    Cell::field(
        Column::right("RECEIVED", 8),
        CONNECTION.column("bytes_received"),
    ),
    Cell::composed(Column::right("RTT", 7), "`srtt_us`", push_rtt),
    Cell::field(Column::right("RETR", 4), CONNECTION.column("retransmits")),
    Cell::field(
        Column::right("HANDSHAKE", 9),
        CONNECTION.column("handshake_ns"),
    ),
    Cell::field(
        Column::right("LIFETIME", 8),
        CONNECTION.column("lifetime_ns"),
    ),
    Cell::field(Column::right("UID", 5), CONNECTION.column("uid")),
    Cell::path(Column::left("CGROUP", 15), CONNECTION.column("cgroup")),
    Cell::UNIT,
    Cell::CONTAINER,
    Cell::POD,
];

fn push_state(row: &ConnectionRow, _room: usize, line: &mut Vec<u8>) -> io::Result<()> {
    match row.states.last() {
        Some(stay) => write!(line, "{}", stay.state),
        None => line.write_all(b"-"),
    }
}

fn push_age(row: &ConnectionRow, _room: usize, line: &mut Vec<u8>) -> io::Result<()> {
    let stay = row.states.last();
    match stay.map(|stay| (stay.dwell_ns, stay.at_least_ns)) {
        Some((Some(ns), _)) => write!(line, "{}", Time(ns)),
        Some((None, Some(ns))) => write!(line, ">{}", Time(ns)),
        _ => line.write_all(b"-"),
    }
}

fn push_rtt(row: &ConnectionRow, _room: usize, line: &mut Vec<u8>) -> io::Result<()> {
    let srtt_us = row.traffic.and_then(|traffic| traffic.srtt_us);
    let srtt = srtt_us.map(|us| Time(u64::from(us) * 1_000));
    write!(line, "{}", OrDash(srtt))
}
