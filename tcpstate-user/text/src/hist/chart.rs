//! Histograms for people, as wide as the terminal, elsewhere in at most 80 columns.

use std::{
    fmt::{self, Display},
    io::{self, Write},
};

use tcpstate_core::{
    catalogue::Group,
    histogram::{Bucket, Histogram},
    model::Of,
    outlet::{BOLD, OFF},
    transition::TransitionCount,
};

use super::item::{Content, Item};
use crate::format::{
    bar::Bar,
    text::OrDash,
    units::{Count, Span},
};
use crate::group::Title;

/// Columns of a chart off a terminal.
const WIDTH: usize = 80;
/// Columns beside the bar of a bucket, and beside that of a transition.
const BUCKET: usize = 33;
const TRANSITION: usize = 42;
/// The number of empty rows from which on one row stands for all of them.
const GAP: usize = 3;

/// Draws charts.
pub(super) struct Chart {
    unicode: bool,
    colour: bool,
    width: usize,
    /// Whether there is output above.
    below: bool,
}

impl Chart {
    /// A chart on a terminal of this width.
    pub(super) fn new(unicode: bool, colour: bool, width: Option<usize>) -> Self {
        Self {
            unicode,
            colour,
            width: width.unwrap_or(WIDTH),
            below: false,
        }
    }

    /// The title of an interval.
    pub(super) fn heading(&mut self, text: &str, out: &mut dyn Write) -> io::Result<()> {
        self.space(out)?;
        // The next chart belongs to it.
        self.below = false;
        self.title(&format!("== {text} =="), out)
    }

    /// A sentence instead of histograms.
    pub(super) fn remark(&mut self, text: &str, out: &mut dyn Write) -> io::Result<()> {
        self.space(out)?;
        writeln!(out, "{text}")
    }

    pub(super) fn item(
        &mut self,
        item: &Item,
        group: &Group,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        self.space(out)?;
        let (group, count) = (Title(group), Count(item.count()));
        match &item.content {
            Content::Durations { of, histogram } => {
                let subject: &dyn Display = match of {
                    Of::Dwell(state) => state,
                    Of::Lifetime => &"lifetime",
                    Of::Handshake => &"handshake",
                };
                self.title(&format!("{group}, {subject}: {count}"), out)?;
                self.durations(histogram, out)
            }
            Content::Transitions(transitions) => {
                self.title(&format!("{group}: {count}"), out)?;
                self.transitions(transitions, out)
            }
        }
    }

    /// An empty line, if there is output above.
    fn space(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if std::mem::replace(&mut self.below, true) {
            writeln!(out)?;
        }
        Ok(())
    }

    fn title(&self, text: &str, out: &mut dyn Write) -> io::Result<()> {
        if self.colour {
            writeln!(out, "{BOLD}{text}{OFF}")
        } else {
            writeln!(out, "{text}")
        }
    }

    fn durations(&self, histogram: &Histogram, out: &mut dyn Write) -> io::Result<()> {
        let quantile = |q| OrDash(histogram.quantile(q).map(Span));
        let figures = [
            format!("p50 {}", quantile(0.5)),
            format!("p90 {}", quantile(0.9)),
            format!("p99 {}", quantile(0.99)),
            format!("p99.9 {}", quantile(0.999)),
            format!("max {}", OrDash(histogram.max_ns().map(Span))),
        ];
        let mut column = 0;
        for figure in &figures {
            if column > 0 && column + 3 + figure.len() > self.width {
                writeln!(out)?;
                column = 0;
            } else if column > 0 {
                write!(out, "   ")?;
                column += 3;
            }
            write!(out, "{figure}")?;
            column += figure.len();
        }
        writeln!(out)?;
        let octaves = histogram.octaves();
        let of = octaves.iter().map(|octave| octave.count).max().unwrap_or(0);
        let mut rows = octaves.as_slice();
        while let [octave, next @ ..] = rows {
            let empty = rows.iter().take_while(|octave| octave.count == 0).count();
            if empty >= GAP {
                writeln!(out, "{:>18}", "...")?;
                rows = rows.get(empty..).unwrap_or_default();
                continue;
            }
            let bounds = Bounds {
                octave,
                below: rows.len() == octaves.len() && histogram.below() > 0,
                above: rows.len() == 1 && histogram.above() > 0,
            };
            write!(out, "{bounds} {:>11}", Count(octave.count))?;
            self.bar(octave.count, of, BUCKET, out)?;
            rows = next;
        }
        Ok(())
    }

    fn transitions(&self, transitions: &[TransitionCount], out: &mut dyn Write) -> io::Result<()> {
        let of = transitions.iter().map(|one| one.count).max().unwrap_or(0);
        for &TransitionCount { from, to, count } in transitions {
            write!(out, "{from:<11} -> {to:<11} {:>11}", Count(count))?;
            self.bar(count, of, TRANSITION, out)?;
        }
        Ok(())
    }

    /// Ends a row with its bar, if there is room for one beside so many columns.
    fn bar(&self, count: u64, of: u64, beside: usize, out: &mut dyn Write) -> io::Result<()> {
        let bar = Bar {
            count,
            of,
            width: self.width.saturating_sub(beside),
            unicode: self.unicode,
        };
        if bar.width == 0 {
            return writeln!(out);
        }
        writeln!(out, " |{bar}|")
    }
}

/// The bounds of a bucket, in 18 columns. The first and the last bucket hold what is too short or too long
/// for any, and reach as far.
struct Bounds<'a> {
    octave: &'a Bucket,
    below: bool,
    above: bool,
}

impl Display for Bounds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lower = Span(self.octave.lower_ns).to_string();
        let upper = Span(self.octave.upper_ns).to_string();
        match (self.below, self.above) {
            (true, true) => write!(f, "{:>18}", "any"),
            (true, false) => write!(f, "{:>7} - {upper:>7}", "0"),
            (false, true) => write!(f, "{lower:>7} - {:>7}", "longer"),
            (false, false) => write!(f, "{lower:>7} - {upper:>7}"),
        }
    }
}
