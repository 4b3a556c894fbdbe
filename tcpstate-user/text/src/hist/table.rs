//! Histograms for machines.
//!
//! JSON has the buckets of the tracker, each no wider than 1/128 of the durations in it, so that another
//! program can add them up over time and hosts. CSV has a row for each histogram, without buckets, or
//! for each transition.

use std::io::{self, Write};

use tcpstate_core::{
    catalogue::{
        HistogramHead, HistogramRow, HistogramTransitionRow, HistogramTransitionsRow,
        histogram_table, histogram_transition_table, histogram_transitions_table,
    },
    model::By,
};

use super::item::{Content, Item};
use crate::format::{csv, json};

/// Lines of JSON.
pub(super) struct Json {
    durations: json::Records<HistogramRow>,
    transitions: json::Records<HistogramTransitionsRow>,
}

impl Json {
    pub(super) fn new(by: By) -> Self {
        Self {
            durations: json::Records::lines(histogram_table(by)),
            transitions: json::Records::lines(histogram_transitions_table(by)),
        }
    }

    pub(super) fn write(
        &mut self,
        item: Item,
        head: HistogramHead,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        match item.content {
            Content::Durations { of, histogram } => {
                let row = HistogramRow {
                    head,
                    of,
                    histogram,
                };
                self.durations.write(&row, out)
            }
            Content::Transitions(transitions) => {
                let row = HistogramTransitionsRow { head, transitions };
                self.transitions.write(&row, out)
            }
        }
    }
}

/// Rows of CSV. A run writes those of one kind.
pub(super) struct Csv {
    durations: csv::Records<HistogramRow>,
    transitions: csv::Records<HistogramTransitionRow>,
}

impl Csv {
    pub(super) fn new(by: By) -> Self {
        Self {
            durations: csv::Records::new(histogram_table(by)),
            transitions: csv::Records::new(histogram_transition_table(by)),
        }
    }

    pub(super) fn titles(&self, of_transitions: bool, out: &mut dyn Write) -> io::Result<()> {
        if of_transitions {
            self.transitions.titles(out)
        } else {
            self.durations.titles(out)
        }
    }

    pub(super) fn write(
        &mut self,
        item: Item,
        head: HistogramHead,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        match item.content {
            Content::Durations { of, histogram } => {
                let row = HistogramRow {
                    head,
                    of,
                    histogram,
                };
                self.durations.write(&row, out)
            }
            Content::Transitions(transitions) => {
                transitions.into_iter().try_for_each(|transition| {
                    let head = head.clone();
                    let row = HistogramTransitionRow { head, transition };
                    self.transitions.write(&row, out)
                })
            }
        }
    }
}
