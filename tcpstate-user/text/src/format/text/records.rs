//! Records as lines of a table, from the columns of the catalogue.

use std::{
    fmt,
    io::{self, Write},
};

use tcpstate_core::{
    catalogue::{Column as Field, Common, Kind, Value},
    escape::Entry,
    service::ServicePort,
};

use super::{
    layout::{Columns, Layout},
    table::{Column, Table},
    width::{right_end, width},
};
use crate::{
    format::{
        time::{self, Local, Since},
        units::{Bytes, PerSecond, Span},
        value::{OTHER, push_address, push_number, push_state},
    },
    settings::Settings,
};

/// A column of a text table: how it looks, and the content of its cells.
pub struct Cell<R: 'static> {
    column: Column,
    content: Content<R>,
}

impl<R> fmt::Debug for Cell<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.column.title)
    }
}

impl<R> Clone for Cell<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Cell<R> {}

enum Content<R: 'static> {
    /// The local time of day.
    Time,
    /// Seconds since the start of the capture.
    SinceStart,
    Field(&'static Field<R>),
    /// The socket's cookie, as `ss -e` prints it.
    Cookie,
    /// A path, of which the end says most.
    Path(&'static Field<R>),
    /// A number without its unit.
    Plain(&'static Field<R>),
    /// A field, or nothing where there is none.
    When(fn(&R) -> bool, &'static Field<R>),
    /// Text of its own, with its meaning.
    Composed(Compose<R>, &'static str),
}

/// Appends a text that is made of several fields to a line; what is longer than so many columns is cut.
type Compose<R> = fn(&R, usize, &mut Vec<u8>) -> io::Result<()>;

impl<R> Clone for Content<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Content<R> {}

impl<R> Cell<R> {
    /// The local time of day.
    pub const TIME: Self = Self {
        column: Column::left("TIME", 8),
        content: Content::Time,
    };
    /// Seconds since the start of the capture.
    pub const SINCE_START: Self = Self {
        column: Column::right("SECONDS", 11),
        content: Content::SinceStart,
    };
    /// The socket's cookie.
    pub const COOKIE: Self = Self {
        column: Column::right("COOKIE", 9),
        content: Content::Cookie,
    };

    /// A field of the catalogue, in the usual way of its kind.
    pub const fn field(column: Column, field: &'static Field<R>) -> Self {
        let content = Content::Field(field);
        Self { column, content }
    }

    /// A path.
    pub const fn path(column: Column, field: &'static Field<R>) -> Self {
        let content = Content::Path(field);
        Self { column, content }
    }

    /// A number without its unit.
    pub const fn plain(column: Column, field: &'static Field<R>) -> Self {
        let content = Content::Plain(field);
        Self { column, content }
    }

    /// A field, or nothing where `is_there` says that there is none.
    pub const fn when(column: Column, is_there: fn(&R) -> bool, field: &'static Field<R>) -> Self {
        let content = Content::When(is_there, field);
        Self { column, content }
    }

    /// Text that is made of several fields, with its meaning.
    pub const fn composed(column: Column, meaning: &'static str, push: Compose<R>) -> Self {
        let content = Content::Composed(push, meaning);
        Self { column, content }
    }

    /// The title, and the meaning in Markdown: a field of the catalogue, or a sentence.
    pub fn describe(&self) -> (&'static str, String) {
        let meaning = match self.content {
            Content::Time => "Local time of day (`--time`)".to_owned(),
            Content::SinceStart => "Seconds since the start (`--timestamp`)".to_owned(),
            Content::Cookie => {
                "`cookie` in hexadecimal, as `ss -e` prints it: `sk:1001`".to_owned()
            }
            Content::Field(field)
            | Content::Path(field)
            | Content::Plain(field)
            | Content::When(_, field) => format!("`{}`", field.name),
            Content::Composed(_, meaning) => meaning.to_owned(),
        };
        (self.column.title, meaning)
    }

    /// A field that no cell has, under its own name.
    pub(super) fn other(field: &'static Field<R>) -> Self {
        let is_number = matches!(field.kind.type_name(), "number");
        let column = if is_number {
            Column::right(field.name, 0)
        } else {
            Column::left(field.name, 0)
        };
        // A point in time is no duration.
        if field.name == "ts_ns" {
            Self::plain(column, field)
        } else {
            Self::field(column, field)
        }
    }

    /// Whether this is its title, in any case, or its field.
    pub(super) fn is_called(&self, word: &str) -> bool {
        self.column.title.eq_ignore_ascii_case(word)
            || match self.content {
                Content::Time => word == "ts",
                Content::Field(field)
                | Content::Path(field)
                | Content::Plain(field)
                | Content::When(_, field) => field.name == word,
                Content::SinceStart | Content::Cookie | Content::Composed(..) => false,
            }
    }

    /// Whether its title is a word.
    pub(super) fn is_named(&self) -> bool {
        self.column.title.contains(char::is_alphabetic)
    }

    pub(super) const fn title(&self) -> &'static str {
        self.column.title
    }

    const fn of_width(self, width: usize) -> Self {
        let column = Column {
            width,
            ..self.column
        };
        Self { column, ..self }
    }

    /// The width that it usually takes.
    pub(super) fn usual_width(&self) -> usize {
        self.column.width.max(self.column.title.len())
    }
}

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
        let fit = settings.width.filter(|_| matches!(columns, Columns::Usual));
        let cells: Vec<Cell<R>> = match (columns, fit) {
            (Columns::Usual, Some(room)) => {
                let hidden: &[&str] = if settings.several_netns {
                    &[]
                } else {
                    &["NETNS"]
                };
                let time_width = time::width(settings.time_form);
                let cells = layout
                    .fit(asked, time_width, hidden, room, natural)
                    .into_iter();
                cells.map(|(cell, width)| cell.of_width(width)).collect()
            }
            (Columns::Usual, None) => {
                let is_shown = |cell: &&Cell<R>| {
                    let title = cell.title();
                    layout.usual.contains(&title) || asked.contains(&title)
                };
                layout.cells.iter().filter(is_shown).copied().collect()
            }
            (Columns::Wide, _) => layout.cells.to_vec(),
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
            Some(cookie) => write!(line, "sk:{cookie:x}"),
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
            Kind::Nanoseconds => write!(line, "{}", Span(number))?,
            Kind::Bytes => write!(line, "{}", Bytes(number))?,
            _ => push_number(line, number),
        },
        Value::Bool(yes) => line.extend_from_slice(if yes { b"yes" } else { b"no" }),
        Value::Word(word) => line.extend_from_slice(word.as_bytes()),
        Value::Name(name) => write!(line, "{}", Entry(name))?,
        Value::Address(address) => push_address(line, address)?,
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
        | Value::Processes(_) => {}
    }
    Ok(())
}
