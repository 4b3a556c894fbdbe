//! Tables for people: columns that widen as wider cells come, and never shrink again.

use std::{
    env,
    fmt::{self, Display, Write as _},
    io::{self, IsTerminal, Write},
    net::IpAddr,
};

/// A value, or `-` where it is unknown.
#[derive(Clone, Copy, Debug)]
pub struct OrDash<T>(pub Option<T>);

impl<T: Display> Display for OrDash<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.pad("-"),
        }
    }
}

/// Whether people want colour on their terminal: unless `NO_COLOR` says something or the terminal is
/// a dumb one.
///
/// *Source:* <https://no-color.org>.
pub fn wants_colour(out: &impl IsTerminal) -> bool {
    out.is_terminal()
        && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && env::var_os("TERM").is_none_or(|value| value != "dumb")
}

/// On which side a column's cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A column: its title, its alignment, and the width that it starts with.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    title: &'static str,
    align: Align,
    width: usize,
}

impl Column {
    /// A column of words, as wide as its title or `width`.
    pub const fn left(title: &'static str, width: usize) -> Self {
        Self {
            title,
            align: Align::Left,
            width,
        }
    }

    /// A column of numbers, as wide as its title or `width`.
    pub const fn right(title: &'static str, width: usize) -> Self {
        Self {
            title,
            align: Align::Right,
            width,
        }
    }
}

/// A table that is written line by line, as its rows become known.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    /// The title line in bold.
    colour: bool,
    // Kept, so that a row costs no allocation.
    line: String,
    cell: String,
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: impl IntoIterator<Item = Column>, colour: bool) -> Self {
        let columns = columns.into_iter().collect();
        Self {
            columns,
            colour,
            line: String::new(),
            cell: String::new(),
        }
    }

    /// Writes the titles.
    #[expect(clippy::indexing_slicing, reason = "by the number of a column")]
    pub fn titles(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.line.clear();
        for index in 0..self.columns.len() {
            let title = self.columns[index].title;
            self.push_cell(index, &title).map_err(io::Error::other)?;
        }
        let line = self.line.trim_end();
        if self.colour {
            writeln!(out, "\x1b[1m{line}\x1b[0m")
        } else {
            writeln!(out, "{line}")
        }
    }

    /// Writes a row. What has no column is not shown.
    pub fn row(&mut self, cells: &[&dyn Display], out: &mut dyn Write) -> io::Result<()> {
        self.line.clear();
        for (index, cell) in (0..self.columns.len()).zip(cells) {
            self.push_cell(index, cell).map_err(io::Error::other)?;
        }
        self.line.truncate(self.line.trim_end().len());
        self.line.push('\n');
        out.write_all(self.line.as_bytes())
    }

    #[expect(
        clippy::indexing_slicing,
        clippy::string_slice,
        reason = "by the number of a column, and from where the line ended"
    )]
    fn push_cell(&mut self, index: usize, cell: &dyn Display) -> fmt::Result {
        let column = &mut self.columns[index];
        if index > 0 {
            self.line.push(' ');
        }
        let mut padding = |cell: &str| {
            // Whether it is ASCII is told eight bytes at a time.
            let width = if cell.is_ascii() {
                cell.len()
            } else {
                cell.chars().count()
            };
            column.width = column.width.max(width);
            column.width - width
        };
        match column.align {
            // Written in its place.
            Align::Left => {
                let start = self.line.len();
                write!(self.line, "{cell}")?;
                let padding = padding(&self.line[start..]);
                push_spaces(&mut self.line, padding);
            }
            Align::Right => {
                self.cell.clear();
                write!(self.cell, "{cell}")?;
                push_spaces(&mut self.line, padding(&self.cell));
                self.line.push_str(&self.cell);
            }
        }
        Ok(())
    }
}

/// Not one by one: most of a line are spaces.
#[expect(clippy::string_slice, reason = "spaces, and no more than there are")]
fn push_spaces(line: &mut String, mut count: usize) {
    const SPACES: &str = "                                ";
    while count > 0 {
        let now = count.min(SPACES.len());
        line.push_str(&SPACES[..now]);
        count -= now;
    }
}

/// An address with its port.
pub struct Endpoint(
    /// The address; `None` is not known.
    pub Option<IpAddr>,
    /// The port; `None` is not known.
    pub Option<u16>,
);

impl Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None if self.1.is_none() => f.write_str("-"),
            // Else the port could be taken for a part of the address.
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:{}", OrDash(self.1)),
            address => write!(f, "{}:{}", OrDash(address), OrDash(self.1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_widen_and_never_shrink() {
        let mut table = Table::new([Column::left("NAME", 0), Column::right("N", 3)], false);
        let text = written(|out| {
            table.titles(out)?;
            table.row(&[&"a", &1], out)?;
            table.row(&[&"longer", &12_345], out)?;
            table.row(&[&"größe", &OrDash(None::<u64>)], out)?;
            table.row(&[&"b", &""], out)
        });
        assert_eq!(text, "NAME   N\na      1\nlonger 12345\ngröße      -\nb\n");
    }

    #[test]
    fn titles_are_bold_in_colour() {
        let mut table = Table::new([Column::left("A", 3), Column::left("B", 3)], true);
        assert_eq!(written(|out| table.titles(out)), "\x1b[1mA   B\x1b[0m\n");
    }
}
