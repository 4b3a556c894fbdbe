//! `tcpstate life`: a line per connection, when it ends.
//!
//! That is at its transition to CLOSE or, with `--until gone`, when the kernel keeps nothing of it any
//! more: then what is known of it waits here meanwhile.
//!
//! With `--live` also one for each that is still open at the end of the run: its times are those so
//! far. A filter on durations only lets through what is known to be long; what is not known is
//! counted, and told at the end.

mod line;

use std::{
    fmt::Display,
    io::{self, Write},
    mem::take,
    time::Duration,
};

use jiff::tz::TimeZone;
use serde::Serialize;

use self::line::{Line, Path};
use crate::books::tell_books;
use crate::format::{
    csv::Rows,
    json::{Connections, Lines, Summary},
    text::{Column, OrDash, Table},
    time::{Local, Utc},
    units::{Bytes, Count, Span},
};
use tcpstate_core::{
    by_cookie::ByCookie,
    census::Census,
    duration::nanoseconds,
    escape::Printable,
    event::{Event, SocketId},
    filter::{CauseSet, StateSet},
    model::{Ended, Include, Limits, Tracker},
    names::Names,
    options::{Format, Until},
    origin::Origin,
    view::{End, Flow, View},
};

/// What to print, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// In which format.
    pub format: Format,
    /// Also those that are still open at the end.
    pub live: bool,
    /// When a connection is shown.
    pub until: Until,
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
    until: Until,
    /// Beyond their transition to CLOSE, until they are gone: those that the tracker follows, which bounds them.
    waiting: ByCookie<Ended>,
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
            until: options.until,
            waiting: ByCookie::default(),
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

    /// Keeps a connection whose end is to be told; gives back one that is to be shown now.
    fn wait_for(&mut self, ended: Ended) -> Option<Ended> {
        match ended.connection.id {
            // The socket may have had another connection before, which waits by the same cookie.
            SocketId::Cookie(cookie)
                if self.until == Until::Gone
                    && ended.goes_on.is_some()
                    && self.waiting.get(cookie).is_none()
                    && self.tracker.is_followed(cookie) =>
            {
                self.waiting.get_or_insert_with(cookie, || ended);
                None
            }
            _ => Some(ended),
        }
    }

    fn flow(&self) -> Flow {
        if self.is_full() {
            Flow::Done
        } else {
            Flow::Continue
        }
    }

    fn is_full(&self) -> bool {
        self.count.is_some_and(|count| self.shown >= count)
    }
}

impl View for Life {
    fn set_names(&mut self, names: Names) {
        self.names = names;
    }

    fn start(&mut self, origin: &Origin, out: &mut dyn Write) -> io::Result<()> {
        self.origin = Some(origin.clone());
        // Without samples nothing would tell that one is gone: it is shown at CLOSE, and says what it
        // goes on as.
        if self.until == Until::Gone && origin.sample_interval_ns.is_some() {
            self.tracker.follow();
        } else {
            self.until = Until::Close;
        }
        match &mut self.printer {
            Printer::Text(text) => text.table.titles(out),
            Printer::Json { .. } => Ok(()),
            Printer::Csv { rows, .. } => line::csv_titles(rows, out),
        }
    }

    fn look_ahead(&self, events: &[Event]) {
        self.tracker.look_ahead(events);
    }

    fn event(&mut self, event: &Event, out: &mut dyn Write) -> io::Result<Flow> {
        if let Some(ended) = self.tracker.apply(event).ended()
            && let Some(ended) = self.wait_for(ended)
        {
            self.show(Line::ended(ended, event.ts_ns()), out)?;
        }
        Ok(self.flow())
    }

    fn census(&mut self, census: &Census, out: &mut dyn Write) -> io::Result<Flow> {
        let mut gone = Vec::new();
        let waiting = &mut self.waiting;
        self.tracker.census(census, |exit| {
            let Some(ended) = waiting.get_mut(exit.cookie) else {
                return;
            };
            ended.add_exit(exit);
            if exit.then.is_none()
                && let Some(ended) = waiting.remove(exit.cookie)
            {
                gone.push((exit.at_ns, ended));
            }
        });
        gone.sort_by_key(|&(at_ns, _)| at_ns);
        for (at_ns, ended) in gone {
            self.show(Line::ended(ended, at_ns), out)?;
            if self.is_full() {
                break;
            }
        }
        Ok(self.flow())
    }

    fn wants_samples(&self) -> bool {
        self.until == Until::Gone
    }

    fn finish(&mut self, end: &End, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
        #[derive(Serialize)]
        struct Totals {
            /// Lines before this one.
            shown: u64,
            /// Connections that are no line because a time that was asked for is not known of them.
            time_unknown: u64,
            /// With `--until gone`, connections that were not gone at the end.
            not_gone: u64,
            connections: Connections,
        }
        let books = self.tracker.books();
        let not_gone = self.waiting.len() as u64;
        let mut waiting: Vec<Ended> = take(&mut self.waiting).into_values().collect();
        waiting.sort_by_key(|ended| (ended.connection.last_ns, ended.connection.id));
        for ended in waiting {
            if self.is_full() {
                break;
            }
            let ts_ns = ended.connection.last_ns.unwrap_or(end.now_ns);
            self.show(Line::ended(ended, ts_ns), out)?;
        }
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
                not_gone,
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
        if not_gone > 0 {
            write!(err, "{} of them not gone yet; ", Count(not_gone))?;
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
