//! `tcpstate life`: a line per connection, when it ends.
//!
//! With `--live` also one for each that is still open at the end of the run: its times are those so
//! far. A filter on durations only lets through what is known to be long; what is not known is
//! counted, and told at the end.

mod line;

use std::{
    fmt::Display,
    io::{self, Write},
    time::Duration,
};

use jiff::tz::TimeZone;
use serde::Serialize;

use self::line::{Line, Path};
use super::tell_books;
use crate::{
    cli::Format,
    event::Event,
    filter::{CauseSet, StateSet},
    format::{
        csv::Rows,
        escape::Printable,
        json::{Connections, Lines, Summary},
        text::{Column, OrDash, Table},
        time::{Local, Utc},
        units::{Bytes, Count, Span},
    },
    model::{Include, Limits, Tracker},
    run::{End, Flow, View, nanoseconds},
    source::{Names, Origin},
};

/// What to print, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// In which format.
    pub format: Format,
    /// Also those that are still open at the end.
    pub live: bool,
    /// Only connections that were in one of these states.
    pub states: Option<StateSet>,
    /// Only connections that ended for one of these causes.
    pub causes: Option<CauseSet>,
    /// Only connections that lived longer than this or, with `states`, were in one of them longer.
    pub longer_than: Option<Duration>,
    /// So many lines, then no more.
    pub count: Option<u64>,
    /// A column with the local time of day.
    pub time: bool,
    /// The bounds of what is kept.
    pub limits: Limits,
    /// In colour.
    pub colour: bool,
    /// Where local time is.
    pub zone: TimeZone,
}

/// The view.
pub struct Life {
    filter: Filter,
    live: bool,
    count: Option<u64>,
    printer: Printer,
    tracker: Tracker,
    names: Names,
    shown: u64,
    /// Not shown because a time that the filter asks for is not known.
    undecided: u64,
    origin: Option<Origin>,
}

enum Printer {
    Text(Text),
    Json { utc: Utc, lines: Lines },
    Csv { utc: Utc, rows: Rows },
}

impl Life {
    /// A view that prints as these options say.
    pub fn new(options: &Options) -> Self {
        let printer = match options.format {
            Format::Text => Printer::Text(Text::new(options)),
            Format::Json => Printer::Json {
                utc: Utc::default(),
                lines: Lines::default(),
            },
            Format::Csv => Printer::Csv {
                utc: Utc::default(),
                rows: Rows::default(),
            },
        };
        Self {
            filter: Filter {
                states: options.states,
                causes: options.causes.clone(),
                longer_than_ns: options.longer_than.map(nanoseconds),
            },
            live: options.live,
            count: options.count,
            printer,
            tracker: Tracker::new(options.limits)
                .without_rates()
                .without_histograms(),
            names: Names::default(),
            shown: 0,
            undecided: 0,
            origin: None,
        }
    }

    /// Shows a connection, if the filter wants it.
    fn show(&mut self, mut line: Line, out: &mut dyn Write) -> io::Result<()> {
        match self.filter.wants(&line) {
            Verdict::Yes => {}
            Verdict::No => return Ok(()),
            Verdict::Undecided => {
                self.undecided += 1;
                return Ok(());
            }
        }
        let wall_ns = self
            .origin
            .as_ref()
            .map_or(0, |origin| origin.wall_ns(line.ts_ns));
        if !matches!(self.printer, Printer::Text(_)) {
            line.cgroup = self.names.cgroup(line.connection.cgroup);
        }
        match &mut self.printer {
            Printer::Text(text) => text.row(&line, wall_ns, out)?,
            Printer::Json { utc, lines } => lines.write(&line.json(utc.at(wall_ns)), out)?,
            Printer::Csv { utc, rows } => line.csv(utc.at(wall_ns), rows, out)?,
        }
        self.shown += 1;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.count.is_some_and(|count| self.shown >= count)
    }
}

impl View for Life {
    fn name(&mut self, names: Names) {
        self.names = names;
    }

    fn start(&mut self, origin: &Origin, out: &mut dyn Write) -> io::Result<()> {
        self.origin = Some(origin.clone());
        match &mut self.printer {
            Printer::Text(text) => text.table.titles(out),
            Printer::Json { .. } => Ok(()),
            Printer::Csv { rows, .. } => line::csv_titles(rows, out),
        }
    }

    fn event(&mut self, event: &Event, out: &mut dyn Write) -> io::Result<Flow> {
        if let Some(ended) = self.tracker.apply(event).ended() {
            self.show(Line::ended(ended, event.ts_ns()), out)?;
        }
        Ok(if self.is_full() {
            Flow::Done
        } else {
            Flow::Continue
        })
    }

    fn finish(&mut self, end: &End, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
        #[derive(Serialize)]
        struct Totals {
            /// Lines before this one.
            shown: u64,
            /// Connections that are no line because a time that was asked for is not known of them.
            time_unknown: u64,
            connections: Connections,
        }
        let books = self.tracker.books();
        if self.live {
            let open = self.tracker.snapshot_of(Include {
                connections: true,
                histograms: false,
            });
            for connection in open.connections {
                if self.is_full() {
                    break;
                }
                self.show(Line::open(connection, end.now_ns), out)?;
            }
        }
        if let Printer::Json { lines, .. } = &mut self.printer {
            let totals = Totals {
                shown: self.shown,
                time_unknown: self.undecided,
                connections: Connections::new(&books),
            };
            return lines.write(&Summary::new(end, totals), out);
        }
        let plural = if self.shown == 1 { "" } else { "s" };
        write!(err, "{} connection{plural} shown; ", Count(self.shown))?;
        if self.undecided > 0 {
            write!(
                err,
                "{} not shown because the time asked for is not known; ",
                Count(self.undecided)
            )?;
        }
        tell_books(end, Some(&books), err)
    }
}

/// Which connections are wanted.
struct Filter {
    states: Option<StateSet>,
    causes: Option<CauseSet>,
    longer_than_ns: Option<u64>,
}

/// What the filter says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Yes,
    No,
    /// A time that it depends on is not known.
    Undecided,
}

impl Filter {
    fn wants(&self, line: &Line) -> Verdict {
        let connection = &line.connection;
        if let Some(causes) = &self.causes
            && !line.cause.is_some_and(|cause| causes.contains(cause))
        {
            return Verdict::No;
        }
        match (self.states, self.longer_than_ns) {
            (None, None) => Verdict::Yes,
            (None, Some(limit_ns)) => match line.lifetime_ns {
                Some(lifetime_ns) if lifetime_ns > limit_ns => Verdict::Yes,
                Some(_) => Verdict::No,
                // It began before its first transition that was seen: it lived longer than this.
                None if line.ts_ns.saturating_sub(connection.first_ns) > limit_ns => Verdict::Yes,
                None => Verdict::Undecided,
            },
            (Some(states), limit_ns) => connection
                .states
                .iter()
                .filter(|stay| states.contains(stay.state))
                .map(|stay| match (limit_ns, stay.dwell_ns) {
                    (None, _) => Verdict::Yes,
                    (Some(limit_ns), Some(dwell_ns)) if dwell_ns > limit_ns => Verdict::Yes,
                    (Some(_), Some(_)) => Verdict::No,
                    (Some(_), None) => Verdict::Undecided,
                })
                .reduce(Verdict::or)
                .unwrap_or(Verdict::No),
        }
    }
}

impl Verdict {
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
            (Self::No, Self::No) => Self::No,
            _ => Self::Undecided,
        }
    }
}

/// Lines for people.
struct Text {
    table: Table,
    local: Option<Local>,
}

impl Text {
    fn new(options: &Options) -> Self {
        let time = options.time.then_some(Column::left("TIME", 8));
        let columns = [
            Column::right("PID", 7),
            Column::left("COMM", 12),
            Column::left("ROLE", 6),
            Column::left("LOCAL", 21),
            Column::left("REMOTE", 21),
            Column::right("LIFETIME", 8),
            Column::left("CAUSE", 7),
            Column::right("SENT", 8),
            Column::right("RECEIVED", 8),
            Column::left("STATES", 0),
        ];
        Self {
            table: Table::new(time.into_iter().chain(columns), options.colour),
            local: options.time.then(|| Local::new(options.zone.clone())),
        }
    }

    fn row(&mut self, line: &Line, wall_ns: i64, out: &mut dyn Write) -> io::Result<()> {
        let connection = &line.connection;
        let owner = &connection.owner;
        let comm = owner.comm.as_ref();
        let traffic = line.traffic.as_ref();
        let cells: [&dyn Display; 10] = [
            &OrDash(owner.pid),
            &OrDash(comm.map(|comm| Printable(comm.as_bytes()))),
            &OrDash(line.role()),
            &line.local(),
            &line.remote(),
            &OrDash(line.lifetime_ns.map(Span)),
            &line.end(),
            &OrDash(traffic.map(|traffic| Bytes(traffic.bytes_sent))),
            &OrDash(traffic.map(|traffic| Bytes(traffic.bytes_received))),
            &Path(line),
        ];
        match &mut self.local {
            Some(local) => {
                let time = local.at(wall_ns);
                let time: &dyn Display = &time;
                let cells: Vec<_> = [time].into_iter().chain(cells).collect();
                self.table.row(&cells, out)
            }
            None => self.table.row(&cells, out),
        }
    }
}
