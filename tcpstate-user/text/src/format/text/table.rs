//! Tables for people: their columns widen as wider cells come, and never shrink again; on a terminal each keeps
//! its width, and longer cells are cut.

use std::{
    env,
    fmt::{self, Display},
    io::{self, IsTerminal, Write},
    net::IpAddr,
};

use tcpstate_core::outlet::{BOLD, OFF};

use super::width::{both_ends, cut, width};
use crate::format::value::{push_address, push_number};

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

/// Whether to use colour: on a terminal, unless `NO_COLOR` is set or the terminal is a dumb one.
///
/// *Source:* <https://no-color.org>.
pub fn wants_colour(out: &impl IsTerminal) -> bool {
    out.is_terminal()
        && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && env::var_os("TERM").is_none_or(|value| value != "dumb")
}

/// The alignment of a column's cells.
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
    pub(super) title: &'static str,
    pub(super) align: Align,
    pub(super) width: usize,
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
    /// The columns of the terminal that a line must fit in; `None`: cells are never cut.
    fit: Option<usize>,
    /// The title line in bold.
    colour: bool,
    // Kept, so that a row costs no allocation.
    line: Vec<u8>,
    cell: Vec<u8>,
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: impl IntoIterator<Item = Column>, colour: bool) -> Self {
        let columns = columns.into_iter().collect();
        Self {
            columns,
            fit: None,
            colour,
            line: Vec::new(),
            cell: Vec::new(),
        }
    }

    /// A table whose lines have at most `room` columns.
    pub(super) fn fitting(self, room: usize) -> Self {
        Self {
            fit: Some(room),
            ..self
        }
    }

    /// Whether there is a column of this title.
    pub(super) fn has(&self, title: &str) -> bool {
        self.columns.iter().any(|column| column.title == title)
    }

    /// Makes room for a cell that will come.
    pub fn widen(&mut self, index: usize, cell: &str) {
        if let Some(column) = self.columns.get_mut(index) {
            column.width = column.width.max(width(cell.as_bytes()));
        }
    }

    /// Writes the titles.
    #[expect(clippy::indexing_slicing, reason = "by the number of a column")]
    pub fn titles(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.begin();
        for index in 0..self.columns.len() {
            let title = self.columns[index].title;
            self.push(index, |line, _| write!(line, "{title}"))?;
        }
        let line = self.line.trim_ascii_end();
        let (bold, off) = if self.colour { (BOLD, OFF) } else { ("", "") };
        out.write_all(&[bold.as_bytes(), line, off.as_bytes(), b"\n"].concat())
    }

    /// Writes a row. A cell without a column is not shown.
    pub fn row(&mut self, cells: &[&dyn Display], out: &mut dyn Write) -> io::Result<()> {
        self.begin();
        for (index, cell) in (0..self.columns.len()).zip(cells) {
            self.push(index, |line, _| write!(line, "{cell}"))?;
        }
        self.end(out)
    }

    /// Begins a row.
    pub(super) fn begin(&mut self) {
        self.line.clear();
    }

    /// Writes the row.
    pub(super) fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.line.truncate(self.line.trim_ascii_end().len());
        self.line.push(b'\n');
        out.write_all(&self.line)
    }

    /// Appends the cell of this column, which `content` appends to a line; it is told how much room there is, and
    /// what is longer is cut.
    #[expect(
        clippy::indexing_slicing,
        reason = "by the number of a column, and from where the line ended"
    )]
    pub(super) fn push(
        &mut self,
        index: usize,
        content: impl FnOnce(&mut Vec<u8>, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        if index > 0 {
            self.line.push(b' ');
        }
        let is_last = index + 1 == self.columns.len();
        let (room, spare) = match self.fit {
            None => (usize::MAX, 0),
            // The last cell has the rest of the line, and the blanks behind the cell before it.
            Some(room) if is_last && self.columns[index].align == Align::Left => {
                let before: usize = self.columns[..index].iter().map(|one| one.width + 1).sum();
                let blanks = self.line.iter().rev().take_while(|&&byte| byte == b' ');
                let spare = blanks.count().saturating_sub(1);
                (room.saturating_sub(before) + spare, spare)
            }
            Some(_) => (self.columns[index].width, 0),
        };
        let column = &mut self.columns[index];
        let is_fitted = self.fit.is_some();
        let mut padding = |cell: &[u8]| {
            let width = width(cell);
            if !is_fitted {
                column.width = column.width.max(width);
            }
            column.width.saturating_sub(width)
        };
        match column.align {
            // Written in its place.
            Align::Left => {
                let start = self.line.len();
                content(&mut self.line, room)?;
                cut(&mut self.line, start, room);
                let padding = padding(&self.line[start..]);
                if spare > 0 {
                    let over = width(&self.line[start..]).saturating_sub(room - spare);
                    self.line.drain(start - over..start);
                }
                self.line.resize(self.line.len() + padding, b' ');
            }
            Align::Right => {
                self.cell.clear();
                content(&mut self.cell, room)?;
                cut(&mut self.cell, 0, room);
                let padding = padding(&self.cell);
                self.line.resize(self.line.len() + padding, b' ');
                self.line.extend_from_slice(&self.cell);
            }
        }
        Ok(())
    }
}

/// Appends an address with its port; `None` is unknown. Where they do not fit in `room` columns, an IPv6 address
/// lacks its middle, or the address is left out.
pub(crate) fn push_endpoint(
    line: &mut Vec<u8>,
    address: Option<IpAddr>,
    port: Option<u16>,
    room: usize,
) -> io::Result<()> {
    /// Fewer columns of an IPv6 address say nothing.
    const LEAST: usize = 6;
    if address.is_none() && port.is_none() {
        line.push(b'-');
        return Ok(());
    }
    let start = line.len();
    match address {
        None => line.push(b'-'),
        Some(address @ IpAddr::V4(_)) => push_address(line, address),
        // Without brackets the port would look like a part of the address.
        Some(address @ IpAddr::V6(_)) => {
            line.push(b'[');
            push_address(line, address);
            line.push(b']');
        }
    }
    let end = line.len();
    line.push(b':');
    match port {
        Some(port) => push_number(line, port.into()),
        None => line.push(b'-'),
    }
    if line.len() - start <= room {
        return Ok(());
    }
    let behind = line.split_off(end);
    line.truncate(start);
    let room = room.saturating_sub(behind.len());
    match address {
        Some(IpAddr::V6(address)) if room >= LEAST + 2 => {
            write!(line, "[{}]", both_ends(&address.to_string(), room - 2))?;
        }
        _ => {}
    }
    line.extend_from_slice(&behind);
    Ok(())
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
    fn an_endpoint_is_an_address_and_a_port() {
        for (address, port, text) in [
            (None, None, "-"),
            (None, Some(80), "-:80"),
            (Some("192.0.2.1"), None, "192.0.2.1:-"),
            (Some("192.0.2.1"), Some(80), "192.0.2.1:80"),
            (Some("2001:db8::1"), Some(80), "[2001:db8::1]:80"),
        ] {
            let mut line = Vec::new();
            let address = address.map(|address| address.parse().unwrap());
            push_endpoint(&mut line, address, port, usize::MAX).unwrap();
            assert_eq!(line, text.as_bytes());
        }
    }

    #[test]
    fn an_endpoint_keeps_its_port_and_both_ends_of_its_address() {
        for (address, room, text) in [
            ("192.0.2.1", 15, "192.0.2.1:65535"),
            ("192.0.2.1", 14, ":65535"),
            ("2001:db8::1", 19, "[2001:db8::1]:65535"),
            ("2001:db8::1", 18, "[2001..8::1]:65535"),
            ("2001:db8:1:2:3:4:5:6", 21, "[2001:..:4:5:6]:65535"),
            ("2001:db8::1", 13, ":65535"),
            ("2001:db8::1", 6, ":65535"),
        ] {
            let mut line = Vec::new();
            let address = Some(address.parse().unwrap());
            push_endpoint(&mut line, address, Some(65_535), room).unwrap();
            assert_eq!(String::from_utf8(line).unwrap(), text);
        }
    }

    #[test]
    fn on_a_terminal_cells_are_cut_and_the_last_takes_blanks() {
        let columns = [Column::left("STATE", 11), Column::left("CAUSE", 0)];
        let mut table = Table::new(columns, false).fitting(19);
        let text = written(|out| {
            table.titles(out)?;
            table.row(&[&"CLOSE", &"refused"], out)?;
            table.row(&[&"CLOSE", &"reset_by_peer"], out)?;
            table.row(&[&"ESTABLISHED", &"reset_by_peer"], out)?;
            table.row(&[&"longer than it", &""], out)
        });
        assert_eq!(
            text,
            "STATE       CAUSE\n\
             CLOSE       refused\n\
             CLOSE reset_by_peer\n\
             ESTABLISHED reset..\n\
             longer th..\n"
        );
    }

    #[test]
    fn titles_are_bold_in_colour() {
        let mut table = Table::new([Column::left("A", 3), Column::left("B", 3)], true);
        assert_eq!(written(|out| table.titles(out)), "\x1b[1mA   B\x1b[0m\n");
    }
}
