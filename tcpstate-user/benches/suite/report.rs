//! The results as rows, and their formats: Markdown and JSON.
//!
//! Knows nothing of the measuring.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use crate::machine::Head;

/// Median and extremes of the rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// Number of rounds.
    pub rounds: usize,
}

impl Spread {
    /// Returns `None` if there is no value, or if a value is not a number.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        if !(min.is_finite() && max.is_finite()) {
            return None;
        }
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self {
            median,
            min,
            max,
            rounds: sorted.len(),
        })
    }

    fn show(&self) -> String {
        let median = number(self.median);
        if self.rounds == 1 {
            return median;
        }
        format!("{median} ({}..{})", number(self.min), number(self.max))
    }
}

/// One figure of one case, and its ratio to that of another case in the same rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The case, such as `tcpstate trace`.
    pub what: String,
    /// The figure with its unit, such as `connections/s`.
    pub figure: &'static str,
    /// `None` if it could not be measured; the note gives the reason.
    pub value: Option<Spread>,
    pub ratio: Option<Ratio>,
    pub note: Option<String>,
}

/// The ratio to another case.
#[derive(Clone, Debug, Serialize)]
pub struct Ratio {
    /// The other case.
    pub of: &'static str,
    #[serde(flatten)]
    pub spread: Spread,
}

impl Row {
    pub fn new(what: impl Into<String>, figure: &'static str, values: &[f64]) -> Self {
        Self {
            what: what.into(),
            figure,
            value: Spread::of(values),
            ratio: None,
            note: None,
        }
    }

    /// A case that could not be measured.
    pub fn missing(what: impl Into<String>, figure: &'static str, why: impl Into<String>) -> Self {
        Self::new(what, figure, &[]).note(why)
    }

    /// Adds its ratio in each round to another case's value in that round.
    #[must_use]
    pub fn ratio(mut self, of: &'static str, ratios: &[f64]) -> Self {
        self.ratio = Spread::of(ratios).map(|spread| Ratio { of, spread });
        self
    }

    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }
}

/// Divides the value of each round by the other's.
pub fn ratios(values: &[f64], others: &[f64]) -> Vec<f64> {
    values
        .iter()
        .zip(others)
        .map(|(value, other)| value / other)
        .collect()
}

/// All rows of a run.
#[derive(Serialize)]
pub struct Report {
    pub head: Head,
    pub quick: bool,
    pub benches: Vec<Bench>,
}

/// The rows of one benchmark.
#[derive(Serialize)]
pub struct Bench {
    pub name: &'static str,
    pub rows: Vec<Row>,
}

impl Report {
    pub const fn new(head: Head, quick: bool) -> Self {
        Self {
            head,
            quick,
            benches: Vec::new(),
        }
    }

    pub fn add(&mut self, name: &'static str, rows: Vec<Row>) {
        self.benches.push(Bench { name, rows });
    }

    /// The head, and one table of all rows.
    pub fn markdown(&self) -> String {
        let mut text = self.head.markdown();
        if self.quick {
            text.push_str("\nA quick run: the counts are checked, the times mean little.\n");
        }
        text.push_str("\n| bench | case | figure | median (min..max) | ratio | note |\n");
        text.push_str("|---|---|---|---|---|---|\n");
        for bench in &self.benches {
            for row in &bench.rows {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "| {} {}", bench.name, row.cells());
            }
        }
        text
    }

    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

impl Bench {
    /// The table of these rows.
    pub fn table(&self) -> String {
        let mut text =
            "| case | figure | median (min..max) | ratio | note |\n|---|---|---|---|---|\n"
                .to_owned();
        for row in &self.rows {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", row.cells());
        }
        text
    }
}

impl Row {
    fn cells(&self) -> String {
        let value = self
            .value
            .map_or_else(|| "-".to_owned(), |value| value.show());
        let ratio = self.ratio.as_ref().map_or_else(String::new, |ratio| {
            format!("{} x {}", ratio.spread.show(), ratio.of)
        });
        let note = self.note.as_deref().unwrap_or("");
        format!(
            "| {} | {} | {value} | {ratio} | {note} |",
            self.what, self.figure
        )
    }
}

/// Formats three significant digits, or all digits before the point, in groups.
fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 100.0 {
        let whole = format!("{size:.0}");
        let mut grouped = String::new();
        for (at, digit) in whole.chars().enumerate() {
            if at > 0 && (whole.len() - at).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        let sign = if value < 0.0 { "-" } else { "" };
        return format!("{sign}{grouped}");
    }
    let decimals = match size {
        0.0 => 0,
        10.0.. => 1,
        0.1.. => 2,
        _ => 4,
    };
    format!("{value:.decimals$}")
}
