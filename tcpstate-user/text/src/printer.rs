//! Output in one of the three formats.

use std::{
    fmt::Display,
    io::{self, Write},
};

use serde::Serialize;
use tcpstate_core::{catalogue::Common, model::Books, options::Format, view::End};

use crate::{
    books::{Changes, write_books},
    format::{
        csv,
        json::{self, Lines, Summary},
        text::{self, Cell, Columns, Layout},
    },
    settings::Settings,
};

/// The output of a view: `T` in text, `J` in JSON, `C` in CSV.
pub enum Printer<T, J, C> {
    /// Text.
    Text(T),
    /// JSON.
    Json(J),
    /// CSV.
    Csv(C),
}

/// The printer of a view with a line for each record.
pub type RecordPrinter<R> = Printer<text::Records<R>, json::Records<R>, csv::Records<R>>;

impl<R: AsRef<Common>> RecordPrinter<R> {
    /// Prints records; in text, with columns of this layout, those of the titles in `asked` among them.
    pub fn records(
        settings: &Settings,
        layout: &Layout<R>,
        columns: &Columns<R>,
        asked: &[&str],
    ) -> Self {
        match settings.format {
            Format::Text => Self::Text(text::Records::new(layout, columns, asked, settings)),
            Format::Json => Self::Json(json::Records::lines(layout.fields)),
            Format::Csv => Self::Csv(csv::Records::new(layout.fields)),
        }
    }

    /// Whether it shows the column of this title: JSON and CSV have all.
    pub fn shows(&self, title: &str) -> bool {
        match self {
            Self::Text(records) => records.shows(title),
            Self::Json(_) | Self::Csv(_) => true,
        }
    }

    /// Whether it shows a name of a cgroup.
    pub fn shows_cgroups(&self) -> bool {
        Cell::<R>::OF_CGROUPS.iter().any(|title| self.shows(title))
    }

    /// Writes the titles, where there are any. The capture started at this monotonic time.
    pub fn titles(&mut self, started_ns: u64, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Text(records) => records.titles(started_ns, out),
            Self::Json(_) => Ok(()),
            Self::Csv(records) => records.titles(out),
        }
    }

    /// Writes a record.
    pub fn write(&mut self, row: &R, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Text(records) => records.write(row, out),
            Self::Json(records) => records.write(row, out),
            Self::Csv(records) => records.write(row, out),
        }
    }
}

/// How a run ended, for a view.
pub struct Finish<'a, S> {
    /// The end.
    pub end: &'a End,
    /// The tracker's books, where there is one.
    pub books: Option<&'a Books>,
    /// The view's own fields in the last line of JSON.
    pub totals: S,
}

impl<T, J, C> Printer<T, J, C> {
    /// Whether it is for people.
    pub const fn is_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }

    /// Ends the output of a view whose totals are the number of its lines. `words` say what they are.
    pub fn finish_counted(
        &self,
        end: &End,
        (shown, words): (u64, impl Display),
        connections: Books,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> io::Result<()> {
        #[derive(Serialize)]
        struct Totals {
            /// Lines before this one.
            shown: u64,
            connections: Books,
        }
        let finish = Finish {
            end,
            books: Some(&connections),
            totals: Totals { shown, connections },
        };
        let sentence =
            |err: &mut dyn Write| writeln!(err, "{words}; {}", Changes(end, Some(&connections)));
        self.finish(finish, sentence, out, err)
    }

    /// Ends the output: JSON with a last line, text and CSV with `sentence` and the books on standard error, behind
    /// the last data.
    pub fn finish(
        &self,
        finish: Finish<'_, impl Serialize>,
        sentence: impl FnOnce(&mut dyn Write) -> io::Result<()>,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> io::Result<()> {
        let Finish { end, books, totals } = finish;
        if matches!(self, Self::Json(_)) {
            return Lines::default().write(&Summary::new(end, books, totals), out);
        }
        // Both may go to one terminal. Without a reader there is no summary, but a full disk has one.
        let flushed = out.flush();
        if let Err(error) = &flushed
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            return flushed;
        }
        sentence(err)?;
        write_books(end, books, err)?;
        flushed
    }
}
