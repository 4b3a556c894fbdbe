//! The state diagram.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use tcpstate_common::State;

use super::edges::Edges;
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
    fn of(&self, state: State) -> u64 {
        let found = self.by_state.iter().find(|(of, _)| *of == state);
        found.map_or(0, |&(_, count)| count)
    }
}

/// Draws the diagram, in 80 columns. `None`: without numbers, or without rates.
pub fn write_diagram(
    counts: Option<&Counts>,
    edges: Option<&Edges>,
    out: &mut dyn Write,
) -> io::Result<()> {
    for line in DIAGRAM.lines() {
        let mut line = with_rates(line, edges);
        for state in State::ALL {
            fill(&mut line, state, counts);
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    writeln!(out)?;
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

/// Writes the rates in the place of their marks.
fn with_rates(line: &str, edges: Option<&Edges>) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, (mark, after))) = rest
        .split_once('<')
        .and_then(|(before, mark)| Some((before, mark.split_once('>')?)))
        // The head of an arrow is none.
        .filter(|(_, (mark, _))| mark.starts_with(|c: char| c.is_ascii_lowercase()))
    {
        let letter = mark.chars().next().unwrap_or_default();
        let rate = edges
            .and_then(|edges| edges.rate(letter))
            .map_or_else(String::new, |rate| match rate {
                0..10_000 => format!("{}/s", Count(rate)),
                10_000..10_000_000 => format!("{}k/s", Count(rate / 1_000)),
                _ => "many/s".to_owned(),
            });
        let width = mark.len() + 2;
        text.push_str(before);
        // Writing to a string does not fail.
        let _ = write!(text, "{rate:width$}");
        rest = after;
    }
    text.push_str(rest);
    text
}

/// Writes a state's number behind its name. Text further right moves only if there is no room.
fn fill(line: &mut String, state: State, counts: Option<&Counts>) {
    let name = format!("{state}:");
    let Some(at) = line.find(&name) else {
        return;
    };
    let (before, rest) = line.split_at(at);
    let rest = rest.get(name.len()..).unwrap_or_default();
    let number = counts.map_or_else(String::new, |counts| Count(counts.of(state)).to_string());
    let text = format!("{state} {number}");
    // The number takes the place of the blanks behind the name, but for one.
    let blanks = rest.len() - rest.trim_start_matches(' ').len();
    let more = text.len().saturating_sub(name.len());
    let rest = rest
        .get(more.min(blanks.saturating_sub(1))..)
        .unwrap_or_default();
    let text = format!("{text:0$}", name.len());
    *line = format!("{before}{text}{rest}");
}
