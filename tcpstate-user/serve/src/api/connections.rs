//! The open connections that match, page by page: pure.
//!
//! A page goes on behind the last connection of the one before, by its time and its cookie. So connections that come
//! and go between two requests shift nothing: each that stays in its state is in exactly one page.

use std::{cmp::Ordering, fmt, io};

use tcpstate_core::{
    catalogue::{CONNECTION, ConnectionRow},
    event::SocketId,
    expression::{Expression, OpenConnection, Truth},
    filter::{PortSet, StateSet},
    model::Connection,
    present::RunSnapshot,
};
use tcpstate_text::format::json::Records;

use super::{begin_list, push};

/// The connections that are wanted.
#[derive(Debug)]
pub struct Wanted {
    /// Those for which this is true.
    pub expression: Expression,
    /// Those in one of these states.
    pub states: Option<StateSet>,
    /// Those with one of these service ports.
    pub ports: Option<PortSet>,
    /// Whether those come first that have been in their state for the shortest time.
    pub newest_first: bool,
    /// The most in an answer.
    pub limit: usize,
    /// Those behind this place.
    pub cursor: Option<Cursor>,
}

/// A place in the order of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Monotonic time since when the last one has been in its state; `u64::MAX`: unknown.
    since_ns: u64,
    after: After,
}

/// The last one of those with the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Its cookie.
    Cookie(u64),
    /// Where there are no cookies: how many of them were given. The socket's address stays here.
    Count(u64),
}

impl Cursor {
    /// Reads what a cursor is written as.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (since, after) = text.split_once('-')?;
        let since_ns = since.parse().ok()?;
        let after = match after.strip_prefix('c') {
            Some(cookie) => After::Cookie(cookie.parse().ok()?),
            None => After::Count(after.strip_prefix('n')?.parse().ok()?),
        };
        Some(Self { since_ns, after })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.since_ns)?;
        match self.after {
            After::Cookie(cookie) => write!(f, "c{cookie}"),
            After::Count(count) => write!(f, "n{count}"),
        }
    }
}

/// The place of a connection in the order.
type Key = (u64, SocketId);

/// Since when it has been in its state, at the latest.
fn key(connection: &Connection) -> Key {
    let since_ns = connection.last_ns.or(connection.there_ns);
    (since_ns.unwrap_or(u64::MAX), connection.id)
}

/// Whether a connection is one of the wanted.
fn judge(wanted: &Wanted, connection: &Connection, snapshot: &RunSnapshot) -> Truth {
    let state = connection.states.last().map(|stay| stay.state);
    let is_in = |states: &StateSet| state.is_some_and(|state| states.contains(state));
    let is_at = |ports: &PortSet| {
        let port = connection.service_port;
        port.map_or(Truth::Unknown, |port| ports.contains(port).into())
    };
    let by_state = wanted.states.as_ref().is_none_or(is_in).into();
    let by_port = wanted.ports.as_ref().map_or(Truth::Yes, is_at);
    let judged = Truth::all([by_state, by_port]);
    if judged == Truth::No || wanted.expression.wants_all() {
        return judged;
    }
    let judged_row = wanted
        .expression
        .judge(&OpenConnection(&ConnectionRow::of_snapshot(
            connection, snapshot,
        )));
    Truth::all([judged, judged_row])
}

/// Writes the answer.
pub(super) fn write(snapshot: &RunSnapshot, wanted: &Wanted) -> io::Result<Vec<u8>> {
    let all = &snapshot.tracker.connections;
    let mut undecided = 0u64;
    let mut matching: Vec<(Key, &Connection)> = Vec::new();
    for connection in all {
        match judge(wanted, connection, snapshot) {
            Truth::Yes => matching.push((key(connection), connection)),
            Truth::No => {}
            Truth::Unknown => undecided += 1,
        }
    }
    let order = |one: &Key, other: &Key| {
        if wanted.newest_first {
            other.cmp(one)
        } else {
            one.cmp(other)
        }
    };
    matching.sort_unstable_by(|(one, _), (other, _)| order(one, other));
    let first = wanted
        .cursor
        .map_or(0, |cursor| behind(cursor, &matching, order));
    let rest = matching.get(first..).unwrap_or_default();
    let page = rest.get(..wanted.limit).unwrap_or(rest);
    let mut text = Vec::new();
    begin_list(&mut text, "connections", snapshot);
    push(&mut text, ",\"connections\":[");
    let mut records = Records::lines(&CONNECTION);
    for (at, (_, connection)) in page.iter().enumerate() {
        if at > 0 {
            text.push(b',');
        }
        records.push(&ConnectionRow::of_snapshot(connection, snapshot), &mut text)?;
    }
    let next = page.last().filter(|_| page.len() < rest.len());
    let next = next.map(|&((since_ns, id), _)| Cursor {
        since_ns,
        after: match id {
            SocketId::Cookie(cookie) => After::Cookie(cookie),
            SocketId::Address(_) => {
                let given = matching.iter().take(first + page.len());
                After::Count(given.filter(|((other, _), _)| *other == since_ns).count() as u64)
            }
        },
    });
    let next = next.map_or_else(|| "null".to_owned(), |next| format!("\"{next}\""));
    let matching = matching.len();
    let left_out = snapshot.tracker.books.live.saturating_sub(all.len() as u64);
    push(
        &mut text,
        &format!(
            "],\"matching\":{matching},\"undecided\":{undecided},\"left_out\":{left_out},\"next\":{next}}}\n"
        ),
    );
    Ok(text)
}

/// The place of the first connection behind the cursor.
fn behind(
    cursor: Cursor,
    sorted: &[(Key, &Connection)],
    order: impl Fn(&Key, &Key) -> Ordering,
) -> usize {
    match cursor.after {
        After::Cookie(cookie) => {
            let last = (cursor.since_ns, SocketId::Cookie(cookie));
            sorted.partition_point(|(key, _)| order(key, &last) != Ordering::Greater)
        }
        After::Count(count) => {
            let any = (cursor.since_ns, SocketId::Address(0));
            let is_same = |key: &Key| key.0 == cursor.since_ns;
            let is_before = |key: &Key| !is_same(key) && order(key, &any) == Ordering::Less;
            let first = sorted.partition_point(|(key, _)| is_before(key));
            let same = sorted.iter().skip(first);
            let same = same.take_while(|(key, _)| is_same(key)).count();
            first + same.min(usize::try_from(count).unwrap_or(usize::MAX))
        }
    }
}
