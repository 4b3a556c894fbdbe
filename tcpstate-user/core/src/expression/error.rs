//! Why a text is no expression, and where.

use std::{fmt, ops::Range};

use crate::escape::{Judge, Printable};

/// A text that is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ExpressionError {
    /// The text.
    text: String,
    /// The bytes of it that are wrong.
    at: Range<usize>,
    /// The mistake there, and what was expected.
    message: String,
}

impl ExpressionError {
    pub(super) fn new(text: &str, at: Range<usize>, message: String) -> Self {
        Self {
            text: text.to_owned(),
            at,
            message,
        }
    }

    /// The mistake, without its place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The bytes of the text that are wrong.
    pub fn at(&self) -> Range<usize> {
        self.at.clone()
    }
}

impl fmt::Display for ExpressionError {
    /// Three lines: what is wrong, the text, and carets below the wrong part.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Characters shown before the place and after it.
        const CONTEXT: usize = 60;
        let width = |text: Option<&str>| text.map_or(0, |text| text.chars().count());
        let before = width(self.text.get(..self.at.start));
        let wrong = width(self.text.get(self.at.clone())).max(1);
        let first = before.saturating_sub(CONTEXT);
        // A character each, so that the carets stand where they should.
        let shown = self.text.chars().skip(first);
        let shown = shown.take(before - first + wrong + CONTEXT);
        let mut judge = Judge::default();
        let shown = shown.map(|c| {
            if judge.is_harmful(c) {
                judge.skip();
                '?'
            } else {
                c
            }
        });
        writeln!(f, "{}", Printable(self.message.as_bytes()))?;
        writeln!(f, "    {}", shown.collect::<String>())?;
        let indent = before - first;
        write!(f, "    {:indent$}{:^<wrong$}", "", "")
    }
}
