//! Records as lines of a table, from the columns of the catalogue.

use std::io::{self, Write};

use tcpstate_core::{
    catalogue::{Common, Kind, Value},
    escape::Entry,
    origin::Evidence,
    service::ServicePort,
};

use super::{
    cell::{Cell, Content},
    layout::{Columns, Layout},
    table::Table,
    width::{right_end, width},
};
use crate::{
    format::{
        time::{self, Local, Since},
        units::{Bytes, PerSecond, Span},
        value::{
            OTHER, push_address, push_control_bits, push_entry, push_hex, push_number, push_state,
        },
    },
    settings::Settings,
};

/// Writes the records of one kind.
pub struct Records<R: 'static> {
    table: Table,
    contents: Vec<Content<R>>,
    local: Local,
    started_ns: u64,
}

impl<R: AsRef<Common>> Records<R> {
    /// Writes lines with columns of this layout; those of the titles in `asked` also where they are not usual.
    pub fn new(
        layout: &Layout<R>,
        columns: &Columns<R>,
        asked: &[&str],
        settings: &Settings,
    ) -> Self {
        Self::fitting(layout, columns, asked, None, settings)
    }

    /// The same for a screen, on which a column that was chosen keeps its place too, and what is longer is cut.
    pub fn on_screen(layout: &Layout<R>, columns: &Columns<R>, settings: &Settings) -> Self {
        let cells = match columns {
            Columns::These(cells) => cells,
            Columns::Wide => layout.cells,
            Columns::Usual => return Self::new(layout, columns, &[], settings),
        };
        let cells = match settings.width {
            Some(room) => layout.spread(cells, room),
            None => cells.to_vec(),
        };
        Self::with(cells, settings.width, settings)
    }

    /// The same for rows that are all known: on a terminal no column is wider than they need.
    pub fn of_rows(
        layout: &Layout<R>,
        columns: &Columns<R>,
        asked: &[&str],
        rows: &[R],
        settings: &Settings,
    ) -> io::Result<Self> {
        let natural = match (columns, settings.width) {
            (Columns::Usual, Some(_)) => Some(natural(layout, rows, settings)?),
            _ => None,
        };
        let natural = natural.as_deref();
        Ok(Self::fitting(layout, columns, asked, natural, settings))
    }

    fn fitting(
        layout: &Layout<R>,
        columns: &Columns<R>,
        asked: &[&str],
        natural: Option<&[usize]>,
        settings: &Settings,
    ) -> Self {
        let hidden = hidden(settings);
        let fit = settings.width.filter(|_| matches!(columns, Columns::Usual));
        let cells: Vec<Cell<R>> = match (columns, fit) {
            (Columns::Usual, Some(room)) => {
                let time_width = time::width(settings.time_form);
                let cells = layout
                    .fit(asked, time_width, &hidden, room, natural)
                    .into_iter();
                cells.map(|(cell, width)| cell.of_width(width)).collect()
            }
            (Columns::Usual, None) => {
                let is_shown = |cell: &&Cell<R>| {
                    let title = cell.title();
                    layout.usual.contains(&title) && !hidden.contains(&title)
                        || asked.contains(&title)
                };
                layout.cells.iter().filter(is_shown).copied().collect()
            }
            (Columns::Wide, _) => {
                // Without packets none has a number.
                let is_there = |cell: &&Cell<R>| {
                    settings.evidence == Evidence::Packets || cell.title() != "PACKET"
                };
                layout.cells.iter().filter(is_there).copied().collect()
            }
            (Columns::These(cells), _) => cells.clone(),
        };
        Self::with(cells, fit, settings)
    }

    fn with(cells: Vec<Cell<R>>, fit: Option<usize>, settings: &Settings) -> Self {
        let (columns, contents): (Vec<_>, Vec<_>) = cells
            .into_iter()
            .map(|cell| match (cell.content, fit) {
                (Content::Time, None) => cell.of_width(time::width(settings.time_form)),
                _ => cell,
            })
            .map(|cell| (cell.column, cell.content))
            .unzip();
        let table = Table::new(columns, settings.colour);
        Self {
            table: match fit {
                Some(room) => table.fitting(room),
                None => table,
            },
            contents,
            local: Local::new(settings.zone.clone(), settings.time_form),
            started_ns: 0,
        }
    }

    /// Whether there is a column of this title.
    pub fn shows(&self, title: &str) -> bool {
        self.table.has(title)
    }

    /// Writes the titles. The capture started at this monotonic time.
    pub fn titles(&mut self, started_ns: u64, out: &mut dyn Write) -> io::Result<()> {
        self.started_ns = started_ns;
        self.table.titles(out)
    }

    /// Writes a line.
    pub fn write(&mut self, row: &R, out: &mut dyn Write) -> io::Result<()> {
        self.table.begin();
        for (index, content) in self.contents.iter().enumerate() {
            let (local, started_ns) = (&mut self.local, self.started_ns);
            self.table.push(index, |line, room| {
                push_content(*content, row, room, local, started_ns, line)
            })?;
        }
        self.table.end(out)
    }
}

/// The titles of columns that are not shown by themselves.
fn hidden(settings: &Settings) -> Vec<&'static str> {
    let mut hidden = Vec::new();
    if !settings.several_netns {
        hidden.push("NETNS");
    }
    if settings.evidence == Evidence::Packets {
        // No packet tells whose a socket is, and what the kernel counted.
        hidden.extend(["NETNS", "PID", "COMM", "UID", "CGROUP", "SENT", "RECEIVED"]);
    }
    hidden
}

/// The widest content of each cell, or its title where that is wider.
fn natural<R: AsRef<Common>>(
    layout: &Layout<R>,
    rows: &[R],
    settings: &Settings,
) -> io::Result<Vec<usize>> {
    let mut local = Local::new(settings.zone.clone(), settings.time_form);
    let mut content = Vec::new();
    let widths = layout.cells.iter().map(|cell| {
        let mut widest = cell.title().len();
        for row in rows {
            content.clear();
            push_content(cell.content, row, usize::MAX, &mut local, 0, &mut content)?;
            widest = widest.max(width(&content));
        }
        Ok(widest)
    });
    widths.collect()
}

/// Appends the content of a cell.
fn push_content<R: AsRef<Common>>(
    content: Content<R>,
    row: &R,
    room: usize,
    local: &mut Local,
    started_ns: u64,
    line: &mut Vec<u8>,
) -> io::Result<()> {
    match content {
        Content::Time => {
            line.extend_from_slice(local.at(row.as_ref().wall_ns).as_bytes());
            Ok(())
        }
        Content::SinceStart => {
            let (ns, from_ns) = (row.as_ref().ts_ns, started_ns);
            write!(line, "{}", Since { ns, from_ns })
        }
        Content::Cookie => match row.as_ref().cookie {
            Some(cookie) => {
                line.extend_from_slice(b"sk:");
                push_hex(line, cookie);
                Ok(())
            }
            None => line.write_all(b"-"),
        },
        Content::Field(field) => push(line, field.kind, (field.get)(row)),
        Content::Path(field) => match (field.get)(row) {
            Value::Name(path) if path.len() > room => {
                write!(line, "{}", right_end(&Entry(path).to_string(), room))
            }
            value => push(line, field.kind, value),
        },
        Content::Plain(field) => push(line, Kind::Number, (field.get)(row)),
        Content::When(is_there, field) if is_there(row) => push(line, field.kind, (field.get)(row)),
        Content::When(..) => Ok(()),
        Content::Composed(push, _) => push(row, room, line),
    }
}

/// Appends a value as people read it.
fn push(line: &mut Vec<u8>, kind: Kind, value: Value<'_>) -> io::Result<()> {
    match value {
        Value::Number(0) if kind == Kind::Port => line.push(b'-'),
        Value::Number(number) => match kind {
            Kind::Nanoseconds => line.extend_from_slice(Span(number).written().as_bytes()),
            Kind::Bytes => line.extend_from_slice(Bytes(number).written().as_bytes()),
            _ => push_number(line, number),
        },
        Value::Bool(yes) => line.extend_from_slice(if yes { b"yes" } else { b"no" }),
        Value::Word(word) => line.extend_from_slice(word.as_bytes()),
        Value::Name(name) => push_entry(line, name)?,
        Value::ControlBits(bits) => push_control_bits(line, bits),
        Value::Address(address) => push_address(line, address),
        Value::Prefix(prefix) => write!(line, "{prefix}")?,
        Value::State(state) => push_state(line, state),
        Value::Cause(cause) => line.extend_from_slice(cause.name().as_bytes()),
        Value::ServicePort(ServicePort::Port(port)) => push_number(line, port.into()),
        Value::ServicePort(ServicePort::Other) => line.extend_from_slice(OTHER.as_bytes()),
        Value::PerSecond { count, interval_ns } => {
            write!(line, "{}", PerSecond { count, interval_ns })?;
        }
        Value::Share(share) => write!(line, "{:.0}%", share * 100.0)?,
        Value::Unknown | Value::Absent | Value::ServicePort(ServicePort::Unknown) => {
            line.push(b'-');
        }
        // Cells of their own compose what there is to say of them.
        Value::Time(_)
        | Value::Stays(_)
        | Value::SampledStays(_)
        | Value::Transitions { .. }
        | Value::States { .. }
        | Value::Causes(_)
        | Value::Dwell(_)
        | Value::Buckets(_)
        | Value::HalfOpen(_)
        | Value::Processes(_)
        | Value::Notes(_) => {}
    }
    Ok(())
}
