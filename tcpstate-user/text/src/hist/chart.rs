//! Histograms for people, in at most 80 columns.

use std::{
    fmt::{self, Display},
    io::{self, Write},
};

use tcpstate_core::{
    histogram::{Bucket, Histogram},
    model::Of,
    service::{Role, ServicePort},
    transition::TransitionCount,
};

use super::item::{Content, Item};
use crate::format::{
    bar::Bar,
    text::OrDash,
    units::{Count, Span},
};

/// Columns of a bar beside the bounds of its bucket, or beside a transition.
const BUCKET_BAR: usize = 47;
const TRANSITION_BAR: usize = 38;
/// The number of empty rows from which on one row stands for all of them.
const GAP: usize = 3;

/// Draws charts.
pub(super) struct Chart {
    unicode: bool,
    colour: bool,
    /// Whether there is output above.
    below: bool,
}

impl Chart {
    pub(super) const fn new(unicode: bool, colour: bool) -> Self {
        Self {
            unicode,
            colour,
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

    pub(super) fn item(&mut self, item: &Item, out: &mut dyn Write) -> io::Result<()> {
        self.space(out)?;
        let (service, count) = (Service(item.service_port, item.role), Count(item.count()));
        match &item.content {
            Content::Durations { of, histogram } => {
                let subject: &dyn Display = match of {
                    Of::Dwell(state) => state,
                    Of::Lifetime => &"lifetime",
                    Of::Handshake => &"handshake",
                };
                self.title(&format!("{service}, {subject}: {count}"), out)?;
                self.durations(histogram, out)
            }
            Content::Transitions(transitions) => {
                self.title(&format!("{service}: {count}"), out)?;
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
            writeln!(out, "\x1b[1m{text}\x1b[0m")
        } else {
            writeln!(out, "{text}")
        }
    }

    fn durations(&self, histogram: &Histogram, out: &mut dyn Write) -> io::Result<()> {
        let quantile = |q| OrDash(histogram.quantile(q).map(Span));
        writeln!(
            out,
            "p50 {}   p90 {}   p99 {}   p99.9 {}   max {}",
            quantile(0.5),
            quantile(0.9),
            quantile(0.99),
            quantile(0.999),
            OrDash(histogram.max_ns().map(Span)),
        )?;
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
            let bar = self.bar(octave.count, of, BUCKET_BAR);
            writeln!(out, "{bounds} {:>11} |{bar}|", Count(octave.count))?;
            rows = next;
        }
        Ok(())
    }

    fn transitions(&self, transitions: &[TransitionCount], out: &mut dyn Write) -> io::Result<()> {
        let of = transitions.iter().map(|one| one.count).max().unwrap_or(0);
        for &TransitionCount { from, to, count } in transitions {
            let bar = self.bar(count, of, TRANSITION_BAR);
            writeln!(out, "{from:<11} -> {to:<11} {:>11} |{bar}|", Count(count))?;
        }
        Ok(())
    }

    const fn bar(&self, count: u64, of: u64, width: usize) -> Bar {
        Bar {
            count,
            of,
            width,
            unicode: self.unicode,
        }
    }
}

/// A service port with its role.
struct Service(ServicePort, Role);

impl Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ServicePort::Port(port) => write!(f, "port {port}")?,
            ServicePort::Other => f.write_str("other ports")?,
            ServicePort::Unknown => f.write_str("port -")?,
        }
        match self.1 {
            Role::Unknown => f.write_str(", role -"),
            role => write!(f, " {}", role.name()),
        }
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
