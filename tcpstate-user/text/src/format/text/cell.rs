//! The cells of a text table's columns: how each looks, and which field or text it shows.

use std::{
    fmt,
    io::{self, Write as _},
};

use tcpstate_core::{
    catalogue::{Column as Field, Common},
    escape::Entry,
    names::Cgroup,
};

use super::{
    table::{Column, push_endpoint},
    width::both_ends,
};

/// A column of a text table: how it looks, and the content of its cells.
pub struct Cell<R: 'static> {
    pub(super) column: Column,
    pub(super) content: Content<R>,
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

/// The content of a cell.
pub(super) enum Content<R: 'static> {
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

impl<R: AsRef<Common>> Cell<R> {
    /// The local address and port.
    pub const LOCAL: Self = Self::composed(
        Column::left("LOCAL", 21),
        "`laddr` and `lport`",
        |row, room, line| {
            let common = row.as_ref();
            push_endpoint(line, Some(common.laddr), port(common.lport), room)
        },
    );
    /// The remote address and port.
    pub const REMOTE: Self = Self::composed(
        Column::left("REMOTE", 21),
        "`raddr` and `rport`",
        |row, room, line| {
            let common = row.as_ref();
            push_endpoint(line, Some(common.raddr), port(common.rport), room)
        },
    );
}

impl<R: AsRef<Common>> Cell<R> {
    /// The systemd unit.
    pub const UNIT: Self = Self::composed(Column::left("UNIT", 15), "`unit`", |row, room, line| {
        push_name(row.as_ref(), Cgroup::unit, room, line)
    });
    /// The container.
    pub const CONTAINER: Self = Self::composed(
        Column::left("CONTAINER", 12),
        "`container_name`, or the first 12 digits of `container`",
        |row, room, line| push_name(row.as_ref(), Cgroup::container_for_people, room, line),
    );
    /// The Kubernetes pod.
    pub const POD: Self = Self::composed(
        Column::left("POD", 15),
        "`pod_namespace` and `pod`, as `namespace/name`, or `pod_uid`",
        |row, room, line| push_name(row.as_ref(), Cgroup::pod_for_people, room, line),
    );

    /// The titles of the columns that take the names of a cgroup.
    pub(crate) const OF_CGROUPS: [&str; 7] = [
        "CGROUP",
        "UNIT",
        "CONTAINER",
        "POD",
        "container_name",
        "pod_namespace",
        "pod_uid",
    ];
}

/// Appends one of the names of a cgroup, without its middle where it is longer than `room`.
fn push_name(
    row: &Common,
    name: fn(&Cgroup) -> Option<&str>,
    room: usize,
    line: &mut Vec<u8>,
) -> io::Result<()> {
    match row.cgroup.as_deref().and_then(name) {
        Some(name) => write!(
            line,
            "{}",
            both_ends(&Entry(name.as_bytes()).to_string(), room)
        ),
        None => line.write_all(b"-"),
    }
}

/// A port, where there is one.
fn port(port: u16) -> Option<u16> {
    Some(port).filter(|&port| port != 0)
}

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
                | Content::When(_, field) => {
                    // CSV has a `_` for the dot.
                    field.name == word || field.name.replace('.', "_") == word
                }
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

    pub(super) const fn of_width(self, width: usize) -> Self {
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
