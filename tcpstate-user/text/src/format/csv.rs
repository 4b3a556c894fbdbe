//! Comma-separated values as RFC 4180 has them, with `\n` at the end of a line.

use std::{
    fmt::{self, Display, Write as _},
    io::{self, Write},
};

/// A value, or nothing where it is unknown.
#[derive(Clone, Copy, Debug)]
pub struct OrEmpty<T>(pub Option<T>);

impl<T: Display> Display for OrEmpty<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |value| value.fmt(f))
    }
}

/// Writes rows.
#[derive(Debug, Default)]
pub struct Rows {
    // Kept, so that a row costs no allocation.
    line: String,
    field: String,
}

impl Rows {
    /// Writes a row. Text that others chose must come as [`super::escape::Cell`].
    pub fn row(&mut self, fields: &[&dyn Display], out: &mut dyn Write) -> io::Result<()> {
        self.line.clear();
        for (index, field) in fields.iter().enumerate() {
            self.field.clear();
            write!(self.field, "{field}").map_err(io::Error::other)?;
            if index > 0 {
                self.line.push(',');
            }
            if self.field.contains([',', '"', '\n', '\r']) {
                self.line.push('"');
                for part in self.field.split_inclusive('"') {
                    self.line.push_str(part);
                    if part.ends_with('"') {
                        self.line.push('"');
                    }
                }
                self.line.push('"');
            } else {
                self.line.push_str(&self.field);
            }
        }
        self.line.push('\n');
        out.write_all(self.line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_back_what_was_written() {
        let rows = [
            ["plain", "", "12"],
            ["a,b", "say \"hi\"", "\""],
            ["two\nlines", "\r", "\"\",\"\""],
            ["", "", ""],
        ];
        let mut out = Vec::new();
        let mut writer = Rows::default();
        for row in &rows {
            let fields: Vec<&dyn Display> = row.iter().map(|field| field as &dyn Display).collect();
            writer.row(&fields, &mut out).unwrap();
        }
        let read: Vec<Vec<String>> = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(out.as_slice())
            .records()
            .map(|record| record.unwrap().iter().map(str::to_owned).collect())
            .collect();
        assert_eq!(read, rows);
    }

    #[test]
    fn unknown_is_empty() {
        let mut out = Vec::new();
        Rows::default()
            .row(&[&OrEmpty(Some(1)), &OrEmpty(None::<u8>), &3], &mut out)
            .unwrap();
        assert_eq!(out, b"1,,3\n");
    }
}
