//! Sentences, broken into lines.

use std::io::{self, Write};

/// Writes a text that begins at column `indent`, broken between words before column `width`, with `label` before its first
/// line. A line of the text that is indented itself stands as it is: it is to be copied.
pub(crate) fn write_wrapped(
    out: &mut dyn Write,
    width: usize,
    indent: usize,
    label: &str,
    text: &str,
) -> io::Result<()> {
    let inner = indent + label.len();
    write!(out, "{label}")?;
    for (at, line) in text.lines().enumerate() {
        // Moved to the left where it would not fit otherwise.
        let room = width.saturating_sub(line.chars().count());
        let is_to_be_copied = line.starts_with(' ');
        let left = if is_to_be_copied {
            inner.min(room)
        } else {
            inner
        };
        if at > 0 {
            write!(out, "{:left$}", "")?;
        }
        if is_to_be_copied {
            writeln!(out, "{line}")?;
            continue;
        }
        let mut column = inner;
        for (at, word) in line.split(' ').enumerate() {
            let len = word.chars().count();
            if at > 0 && column + 1 + len > width {
                writeln!(out)?;
                write!(out, "{:inner$}", "")?;
                column = inner;
            } else if at > 0 {
                write!(out, " ")?;
                column += 1;
            }
            write!(out, "{word}")?;
            column += len;
        }
        writeln!(out)?;
    }
    Ok(())
}
