//! Records as lines of a table, from the columns of the catalogue.

use std::io::{self, Write};

use tcpstate_core::{
    catalogue::{Column as Field, Common, Kind, Value},
    escape::Printable,
    service::ServicePort,
};

use super::table::{Column, Table};
use crate::{
    format::{
        time::{Local, Since},
        units::{Bytes, Millis, PerSecond, Span},
        value::{OTHER, push_address, push_number, push_state},
    },
    settings::Settings,
};

/// A column of a text table: how it looks, and the content of its cells.
pub struct Cell<R: 'static> {
    column: Column,
    content: Content<R>,
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
    /// A field of nanoseconds, as milliseconds.
    Millis(&'static Field<R>),
    /// A number without its unit.
    Plain(&'static Field<R>),
    /// A field, or nothing where there is none.
    When(fn(&R) -> bool, &'static Field<R>),
    /// Text of its own, with its meaning.
    Composed(fn(&R, &mut Vec<u8>) -> io::Result<()>, &'static str),
}

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
        column: Column::right("TIME(s)", 11),
        content: Content::SinceStart,
    };

    /// A field of the catalogue, in the usual way of its kind.
    pub const fn field(column: Column, field: &'static Field<R>) -> Self {
        let content = Content::Field(field);
        Self { column, content }
    }

    /// A field of nanoseconds, as milliseconds.
    pub const fn millis(column: Column, field: &'static Field<R>) -> Self {
        let content = Content::Millis(field);
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
    pub const fn composed(
        column: Column,
        meaning: &'static str,
        push: fn(&R, &mut Vec<u8>) -> io::Result<()>,
    ) -> Self {
        let content = Content::Composed(push, meaning);
        Self { column, content }
    }

    /// The title, and the meaning in Markdown: a field of the catalogue, or a sentence.
    pub fn describe(&self) -> (&'static str, String) {
        let meaning = match self.content {
            Content::Time => "Local time of day (`--time`)".to_owned(),
            Content::SinceStart => "Seconds since the start (`--timestamp`)".to_owned(),
            Content::Field(field) | Content::Plain(field) | Content::When(_, field) => {
                format!("`{}`", field.name)
            }
            Content::Millis(field) => format!("`{}`, in milliseconds", field.name),
            Content::Composed(_, meaning) => meaning.to_owned(),
        };
        (self.column.title, meaning)
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
    /// Writes lines with these cells.
    pub fn new(cells: impl IntoIterator<Item = Cell<R>>, settings: &Settings) -> Self {
        let (columns, contents): (Vec<_>, Vec<_>) = cells
            .into_iter()
            .map(|cell| (cell.column, cell.content))
            .unzip();
        Self {
            table: Table::new(columns, settings.colour),
            contents,
            local: Local::new(settings.zone.clone()),
            started_ns: 0,
        }
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
            self.table.push(index, |line| match content {
                Content::Time => {
                    line.extend_from_slice(self.local.at(row.as_ref().wall_ns).as_bytes());
                    Ok(())
                }
                Content::SinceStart => {
                    let (ns, from_ns) = (row.as_ref().ts_ns, self.started_ns);
                    write!(line, "{}", Since { ns, from_ns })
                }
                Content::Field(field) => push(line, field.kind, (field.get)(row)),
                Content::Millis(field) => match (field.get)(row) {
                    Value::Number(ns) => write!(line, "{}", Millis(ns)),
                    other => push(line, field.kind, other),
                },
                Content::Plain(field) => push(line, Kind::Number, (field.get)(row)),
                Content::When(is_there, field) if is_there(row) => {
                    push(line, field.kind, (field.get)(row))
                }
                Content::When(..) => Ok(()),
                Content::Composed(push, _) => push(row, line),
            })?;
        }
        self.table.end(out)
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
        Value::Name(name) => write!(line, "{}", Printable(name))?,
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
