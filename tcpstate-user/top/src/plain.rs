//! A frame as plain text, for scripts and reports.

use std::io::{self, Write};

use crate::{app::App, frame::head_line, overview, row::Content};

/// Writes the overview in lines of at most `width` columns, and no finding cut.
pub fn write(app: &App, width: usize, out: &mut dyn Write) -> io::Result<()> {
    let mut lines = vec![head_line(&app.look, width)];
    for row in overview::rows(&app.look, width, true) {
        if let Content::Text(line) = row.content {
            lines.push(line);
        }
    }
    for line in lines {
        writeln!(out, "{}", line.to_string().trim_end())?;
    }
    out.flush()
}
