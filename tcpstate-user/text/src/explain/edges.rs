//! The rates on the edges of the state diagram: a view that counts transitions for a while, and shows nothing.

use std::io::{self, Write};

use tcpstate_common::{State, transition::closes};
use tcpstate_core::{
    cause::{Cause, goes_on},
    event::Event,
    model::Figures,
    origin::Origin,
    transition::TransitionCount,
    view::{End, Flow, View},
};

/// An edge of the diagram: what leads from one state to another.
pub(super) type Edge = (State, State);

/// The edges, each with its mark in the diagram.
const EDGES: [(char, Edge); 12] = [
    ('a', (State::CLOSE, State::SYN_SENT)),
    ('b', (State::CLOSE, State::LISTEN)),
    ('c', (State::SYN_SENT, State::ESTABLISHED)),
    ('d', (State::SYN_RECV, State::ESTABLISHED)),
    ('e', (State::ESTABLISHED, State::FIN_WAIT1)),
    ('f', (State::ESTABLISHED, State::CLOSE_WAIT)),
    ('g', (State::FIN_WAIT1, State::FIN_WAIT2)),
    ('h', (State::FIN_WAIT1, State::CLOSING)),
    ('i', (State::CLOSE_WAIT, State::LAST_ACK)),
    ('j', (State::FIN_WAIT2, State::TIME_WAIT)),
    ('k', (State::CLOSING, State::TIME_WAIT)),
    ('l', (State::LAST_ACK, State::CLOSE)),
];

/// The edge with this mark; `None`: there is none.
pub(super) fn edge(mark: char) -> Option<Edge> {
    let found = EDGES.iter().find(|&&(one, _)| one == mark);
    found.map(|&(_, edge)| edge)
}

/// The edge that a transition takes, as figures have it: where it ends the socket, `TIME_WAIT` is left of the connection.
pub const fn edge_of(from: State, to: State) -> (State, State) {
    match (from, to) {
        (State::FIN_WAIT2 | State::CLOSING, State::CLOSE) => (from, State::TIME_WAIT),
        _ => (from, to),
    }
}

/// The transitions of a while, by edge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edges {
    counts: [u64; EDGES.len()],
    /// Connections that ended by anything but an orderly close.
    broken: u64,
    /// Connections that went on in `FIN_WAIT2` as orphans: no event shows how they leave it.
    orphans: u64,
    began_ns: u64,
    lasted_ns: u64,
}

impl Edges {
    /// Those of an interval of this length, nanoseconds. Figures do not say of which state those are that broke off, so
    /// that an edge to the end has them too.
    pub fn of(figures: &Figures, lasted_ns: u64) -> Self {
        let mut edges = Self {
            lasted_ns,
            ..Self::default()
        };
        for &TransitionCount { from, to, count } in &figures.transitions {
            edges.count(edge_of(from, to), count);
        }
        let orderly = figures.causes.iter();
        let orderly = orderly.filter(|(cause, _)| *cause == Cause::Fin);
        let orderly: u64 = orderly.map(|&(_, count)| count).sum();
        edges.broken = figures.closed.saturating_sub(orderly);
        edges
    }

    /// The same counts over this time, nanoseconds.
    #[cfg(test)]
    pub(super) fn over(self, lasted_ns: u64) -> Self {
        Self { lasted_ns, ..self }
    }

    /// The rate of an edge, a second, rounded; `None`: the diagram has no such edge.
    pub fn rate(&self, edge: (State, State)) -> Option<u64> {
        let at = EDGES.iter().position(|&(_, one)| one == edge)?;
        Some(self.per_second(*self.counts.get(at)?))
    }

    /// The rate of ends by anything but an orderly close, a second, rounded.
    pub(super) fn broken(&self) -> u64 {
        self.per_second(self.broken)
    }

    /// The rate of connections that went on in `FIN_WAIT2` as orphans, a second, rounded.
    pub(super) fn orphans(&self) -> u64 {
        self.per_second(self.orphans)
    }

    /// Each edge with its rate, a second, rounded.
    pub fn rates(&self) -> impl Iterator<Item = (State, State, u64)> {
        let counts = EDGES.iter().zip(self.counts);
        counts.map(|(&(_, (from, to)), count)| (from, to, self.per_second(count)))
    }

    fn per_second(&self, count: u64) -> u64 {
        let parts = u128::from(count) * 1_000_000_000 + u128::from(self.lasted_ns / 2);
        let rate = parts.checked_div(u128::from(self.lasted_ns)).unwrap_or(0);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }

    fn count(&mut self, edge: Edge, more: u64) {
        let edges = EDGES.iter().zip(&mut self.counts);
        for (_, count) in edges.filter(|(known, _)| known.1 == edge) {
            *count += more;
        }
    }
}

impl View for Edges {
    fn start(&mut self, origin: &Origin, _out: &mut dyn Write) -> io::Result<()> {
        self.began_ns = origin.started_ns;
        Ok(())
    }

    fn event(&mut self, event: &Event, _out: &mut dyn Write) -> io::Result<Flow> {
        let (old, new) = (event.oldstate(), event.newstate());
        if !closes(old, new) {
            self.count((old, new), 1);
        } else if Cause::of(event) != Some(Cause::Fin) {
            self.broken += 1;
        } else {
            match goes_on(event) {
                Some(State::TIME_WAIT) => self.count((old, State::TIME_WAIT), 1),
                Some(_) => self.orphans += 1,
                None => self.count((old, new), 1),
            }
        }
        Ok(Flow::Continue)
    }

    fn finish(&mut self, end: &End, _out: &mut dyn Write, _err: &mut dyn Write) -> io::Result<()> {
        self.lasted_ns = end.now_ns.saturating_sub(self.began_ns);
        Ok(())
    }
}
