//! The state diagram.

use std::io::{self, Write};

use tcpstate_common::State;

use super::edges::{Edges, edge};
use crate::format::units::{Count, Counted};

/// A name with a colon stands for a state and the number of its sockets, a letter in angle brackets for the rate of an
/// edge.
const DIAGRAM: &str = "\
CLIENT                                                                   SERVER

                                   CLOSE
   <a     > connect()                |              listen() <b     >
            +------------------------+-------------------------+
            v                                                  v
        SYN_SENT:                                           LISTEN:
            |                                                  | SYN came
   <c     > | SYN-ACK came                                     v
            |                                               SYN_RECV:
            |                                                  | ACK came <d    >
            +------------------> ESTABLISHED:         <--------+
   <e     >  close()                 |     |           FIN came <f     >
            +------------------------+     +-------------------+
            v                                                  v
        FIN_WAIT1:                                          CLOSE_WAIT:
   ACK came |  | FIN came <h     >                             | close() <i     >
   <g     > |  +---------------+                               v
            v                  v                            LAST_ACK:
        FIN_WAIT2:          CLOSING:                           |
   FIN came |                  | ACK came <k     >             | ACK came <l    >
   <j     > |  +---------------+                               v
            v  v                                             CLOSE
        TIME_WAIT:
            | after 60 s
            v
          CLOSE

CLOSES FIRST                                                      CLOSES SECOND
";

const NOTES: &str = "\
From every state of a connection a RST, or no answer in time, leads to CLOSE.
Half-open connections (SYN_RECV) and TIME_WAIT are small sockets that make no
event: they are counted in the kernel's lists. `tcpstate explain CLOSE_WAIT`
explains a state.
";

/// The sockets in each state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Their numbers, each with its state.
    pub by_state: Vec<(State, u64)>,
    /// Those in `FIN_WAIT2` that no process holds.
    pub orphans: u64,
    /// Whether there may be more, in network namespaces that could not be listed.
    pub is_partial: bool,
}

impl Counts {
    /// The number in this state.
    pub fn of(&self, state: State) -> u64 {
        let found = self.by_state.iter().find(|(of, _)| *of == state);
        found.map_or(0, |&(_, count)| count)
    }
}

/// Something in the diagram that has a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A state, with the number of its sockets.
    State(State),
    /// An edge from one state to another, with its rate.
    Edge(State, State),
}

/// The place of a part in its line, in columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The first column.
    pub begin: usize,
    /// The column behind the last one.
    pub end: usize,
    /// The part.
    pub part: Part,
}

/// A line of the diagram: ASCII, with the places of its parts from left to right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The line.
    pub text: String,
    /// The places.
    pub places: Vec<Place>,
}

/// The lines of the diagram, without notes, in 80 columns unless a number is very long. `None`: without numbers, or
/// without rates.
pub fn diagram(counts: Option<&Counts>, edges: Option<&Edges>) -> Vec<Row> {
    let lines = DIAGRAM.lines();
    lines.map(|line| row(line, counts, edges)).collect()
}

/// A mark in a line of [`DIAGRAM`]: its length, and its part.
fn mark(rest: &str) -> Option<(usize, Part)> {
    if let Some(letter) = rest.strip_prefix('<') {
        let (from, to) = edge(letter.chars().next()?)?;
        return Some((rest.find('>')? + 1, Part::Edge(from, to)));
    }
    let (name, _) = rest.split_once(':')?;
    let state = State::from_name(name)?;
    Some((name.len() + 1, Part::State(state)))
}

/// Writes the numbers in the place of their marks. Text further right moves only where there is no room.
fn row(line: &str, counts: Option<&Counts>, edges: Option<&Edges>) -> Row {
    let mut row = Row::default();
    let mut rest = line;
    while let Some(next) = rest.chars().next() {
        // No name is the end of another one: it begins where a word does.
        let begins = !row
            .text
            .ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let Some((len, part)) = mark(rest).filter(|_| begins) else {
            row.text.push(next);
            rest = rest.get(next.len_utf8()..).unwrap_or_default();
            continue;
        };
        rest = rest.get(len..).unwrap_or_default();
        let text = match part {
            Part::State(state) => {
                let number = counts.map(|counts| Count(counts.of(state)).to_string());
                format!("{state} {}", number.unwrap_or_default())
            }
            Part::Edge(from, to) => {
                let rate = edges.and_then(|edges| edges.rate((from, to)));
                rate.map(per_second).unwrap_or_default()
            }
        };
        let begin = row.text.len();
        let shown = text.trim_end();
        let end = begin + shown.len();
        if end > begin {
            row.places.push(Place { begin, end, part });
        }
        row.text.push_str(shown);
        row.text
            .extend(std::iter::repeat_n(' ', len.saturating_sub(shown.len())));
        // A label longer than its mark takes the place of the blanks behind it, but for one.
        let blanks = rest.len() - rest.trim_start_matches(' ').len();
        let more = shown.len().saturating_sub(len);
        rest = rest
            .get(more.min(blanks.saturating_sub(1))..)
            .unwrap_or_default();
    }
    row.text.truncate(row.text.trim_end().len());
    row
}

/// A rate in few columns.
fn per_second(rate: u64) -> String {
    match rate {
        0..10_000 => format!("{}/s", Count(rate)),
        10_000..10_000_000 => format!("{}k/s", Count(rate / 1_000)),
        _ => "many/s".to_owned(),
    }
}

/// Draws the diagram, in 80 columns. `None`: without numbers, or without rates.
pub fn write_diagram(
    counts: Option<&Counts>,
    edges: Option<&Edges>,
    out: &mut dyn Write,
) -> io::Result<()> {
    for row in diagram(counts, edges) {
        writeln!(out, "{}", row.text)?;
    }
    writeln!(out)?;
    write_notes(counts, edges, out)
}

/// Writes what the diagram does not show.
pub fn write_notes(
    counts: Option<&Counts>,
    edges: Option<&Edges>,
    out: &mut dyn Write,
) -> io::Result<()> {
    if let Some(counts) = counts.filter(|counts| counts.orphans > 0) {
        let (orphans, all) = (counts.orphans, counts.of(State::FIN_WAIT2));
        writeln!(
            out,
            "Of the {} in FIN_WAIT2 no process holds {}: tcp_fin_timeout ends them.",
            Count(all),
            Count(orphans)
        )?;
    }
    if counts.is_some_and(|counts| counts.is_partial) {
        writeln!(
            out,
            "Sockets of other network namespaces take root to count."
        )?;
    }
    if let Some(edges) = edges {
        writeln!(
            out,
            "Rates are per second; {} broke off (reset, time-out, error).",
            Counted(edges.broken(), "connection")
        )?;
        if edges.orphans() > 0 {
            writeln!(
                out,
                "{}/s more leave FIN_WAIT2 as orphans: their way out makes no event.",
                Count(edges.orphans())
            )?;
        }
    }
    for line in NOTES.lines() {
        writeln!(out, "{line}")?;
    }
    Ok(())
}
