//! The rates for machines: in JSON a line for each interval with a list of its groups, in CSV a row for each
//! interval, group and transition.

use std::io::{self, Write};

use tcpstate_core::{
    catalogue::{
        FiguresRow, Group, GroupRow, GroupTransitionRow, PAST, RATES, RatesRow, Stamp, group_table,
        group_transition_table, plural,
    },
    handshakes::Handshakes,
    model::{By, Figures, GroupFigures, Interval},
    names::Names,
    origin::Origin,
};

use super::groups::{busiest_first, length_ns, share};
use crate::format::{csv, json};

/// Lines of JSON.
pub(super) struct Json {
    by: By,
    intervals: json::Records<RatesRow>,
    groups: json::Records<GroupRow>,
}

impl Json {
    pub(super) fn new(by: By) -> Self {
        Self {
            by,
            intervals: json::Records::lines(&RATES),
            groups: json::Records::elements(group_table(by)),
        }
    }

    pub(super) fn write(
        &mut self,
        interval: &Interval,
        groups: Vec<(Group, &GroupFigures)>,
        handshakes: Handshakes,
        sample_interval_ns: Option<u64>,
        stamp: Stamp,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let figures = |figures: &Figures| FiguresRow {
            figures: figures.clone(),
            interval_ns: stamp.interval_ns,
            sampled: sample_interval_ns.is_some(),
        };
        let row = RatesRow {
            stamp,
            sample_interval_ns,
            all: figures(&interval.all),
            dwell: interval.dwell.clone(),
            half_open: sample_interval_ns.map(|_| handshakes.half_open),
            listen: handshakes.listen,
        };
        let total = interval.all.total();
        let (elements, by) = (&mut self.groups, self.by);
        let list = |line: &mut Vec<u8>| {
            write!(line, ",\"{}\":[", plural(by))?;
            for (index, (group, of)) in groups.into_iter().enumerate() {
                if index > 0 {
                    line.push(b',');
                }
                let row = GroupRow {
                    group,
                    share: share(of.figures.total(), total),
                    figures: figures(&of.figures),
                };
                elements.push(&row, line)?;
            }
            line.push(b']');
            Ok(())
        };
        self.intervals.write_with(&row, list, out)
    }
}

/// Intervals as JSON, outside of a run of `rates`.
pub struct Intervals(Json);

impl Intervals {
    /// Intervals with these groups.
    pub fn new(by: By) -> Self {
        Self(Json::new(by))
    }

    /// Intervals of the past, of which less is known.
    pub fn of_the_past(by: By) -> Self {
        Self(Json {
            intervals: json::Records::lines(&PAST),
            ..Json::new(by)
        })
    }

    /// Writes a line. `handshakes` are those of the interval, where they are sampled.
    pub fn write(
        &mut self,
        interval: &Interval,
        handshakes: Option<Handshakes>,
        origin: &Origin,
        names: &Names,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let stamp = Stamp {
            wall_ns: origin.wall_ns(interval.end_ns),
            ts_ns: interval.end_ns,
            interval_ns: length_ns(interval),
        };
        self.0.write(
            interval,
            busiest_first(&interval.groups, names),
            handshakes.unwrap_or_default(),
            origin.sample_interval_ns,
            stamp,
            out,
        )
    }
}

/// Rows of CSV. A transition that did not happen has none.
pub(super) struct Csv(csv::Records<GroupTransitionRow>);

impl Csv {
    pub(super) fn new(by: By) -> Self {
        Self(csv::Records::new(group_transition_table(by)))
    }

    pub(super) fn titles(&self, out: &mut dyn Write) -> io::Result<()> {
        self.0.titles(out)
    }

    pub(super) fn write(
        &mut self,
        groups: Vec<(Group, &GroupFigures)>,
        stamp: Stamp,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        for (group, of) in groups {
            for &transition in &of.figures.transitions {
                let row = GroupTransitionRow {
                    stamp,
                    group: group.clone(),
                    transition,
                };
                self.0.write(&row, out)?;
            }
        }
        Ok(())
    }
}
