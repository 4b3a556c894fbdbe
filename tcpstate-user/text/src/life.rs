//! `tcpstate life`: a line per connection, when it ends.
//!
//! The end is its transition to CLOSE or, with `--until gone`, the moment when the kernel keeps nothing of
//! it any more: until then the view holds it back.
//!
//! With `--live` there is also a line for each connection that is still open at the end of the run, with its
//! times so far. A filter only passes connections that are known to match; those of which that is unknown are
//! counted and reported at the end.

use std::{
    cmp::Reverse,
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;
use tcpstate_core::{
    catalogue::{CONNECTION, ConnectionRow},
    cause::Cause,
    census::Census,
    duration::nanoseconds,
    event::Event,
    expression::{Expression, Truth},
    filter::{CauseSet, StateSet},
    model::{Books, Connections, Ended, Include, Tracker},
    names::Names,
    options::Until,
    origin::{Evidence, Origin},
    recalled::Recalled,
    view::{End, Flow, View},
};

use crate::{
    books::{Changes, noun},
    format::{
        text::{Cell, Column, Columns, Layout, push_endpoint},
        units::{Count, Counted, Span},
        value::push_state,
    },
    printer::{Finish, RecordPrinter},
    settings::Settings,
};

/// The options of `life`.
#[expect(clippy::struct_excessive_bools, reason = "options of the command line")]
#[derive(Clone, Debug)]
pub struct Options {
    /// The settings that all views share.
    pub settings: Settings,
    /// Also connections that are still open at the end.
    pub live: bool,
    /// When a connection is shown.
    pub until: Until,
    /// Only connections of which this is true.
    pub expression: Expression,
    /// Only connections that were in one of these states.
    pub states: Option<StateSet>,
    /// Only connections that ended for one of these causes.
    pub causes: Option<CauseSet>,
    /// Only connections that lived longer than this or, with `states`, were in one of them longer.
    pub longer_than: Option<Duration>,
    /// The number of lines after which the run ends.
    pub count: Option<u64>,
    /// The columns of text.
    pub columns: Columns<ConnectionRow>,
    /// A column with the local time of day.
    pub time: bool,
    /// A column with the seconds since the start.
    pub timestamp: bool,
    /// A column with the reason for a reset by this kernel.
    pub reset_reason: bool,
}

/// The view.
pub struct Life {
    options: Options,
    filter: Filter,
    live: bool,
    until: Until,
    count: Option<u64>,
    printer: RecordPrinter<ConnectionRow>,
    tracker: Tracker,
    names: Names,
    shown: u64,
    /// Not shown because a fact that the filter asks for is unknown.
    undecided: u64,
    origin: Option<Origin>,
}

impl Life {
    /// A view with these options.
    pub fn new(options: &Options) -> Self {
        Self {
            options: options.clone(),
            filter: Filter {
                expression: options.expression.clone(),
                states: options.states,
                causes: options.causes.clone(),
                longer_than_ns: options.longer_than.map(nanoseconds),
            },
            live: options.live,
            until: options.until,
            count: options.count,
            printer: printer(options, Evidence::Kernel),
            tracker: Tracker::new(options.settings.limits)
                .without_rates()
                .without_histograms()
                .with_closers(),
            names: Names::default(),
            shown: 0,
            undecided: 0,
            origin: None,
        }
    }

    /// Shows a connection, if it passes the filter.
    fn show(&mut self, mut row: ConnectionRow, out: &mut dyn Write) -> io::Result<()> {
        if self.printer.shows_cgroups() || !self.filter.expression.wants_all() {
            row.common.cgroup = self.names.cgroup(row.common.cgroup_id);
        }
        match self.filter.judge(&row) {
            Truth::Yes => {}
            Truth::No => return Ok(()),
            Truth::Unknown => {
                self.undecided += 1;
                return Ok(());
            }
        }
        let origin = self.origin.as_ref();
        row.common.wall_ns = origin.map_or(0, |origin| origin.wall_ns(row.common.ts_ns));
        self.printer.write(&row, out)?;
        self.shown += 1;
        Ok(())
    }

    /// Holds a connection back until it is gone; returns one that can be shown now.
    fn hold_back(&mut self, ended: Ended) -> Option<Ended> {
        if self.until == Until::Gone && ended.goes_on.is_some() {
            self.tracker.hold_back(ended)
        } else {
            Some(ended)
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
        // Without samples nothing shows that one is gone: it is printed at CLOSE, with the state that it
        // goes on in.
        if self.until == Until::Gone && origin.sample_interval_ns.is_some() {
            self.tracker.follow();
        } else {
            self.until = Until::Close;
        }
        if origin.evidence() == Evidence::Packets {
            self.printer = printer(&self.options, Evidence::Packets);
        }
        self.printer.titles(origin.started_ns, out)
    }

    fn look_ahead(&self, events: &[Event]) {
        self.tracker.look_ahead(events);
    }

    fn event(&mut self, event: &Event, out: &mut dyn Write) -> io::Result<Flow> {
        if let Some(ended) = self.tracker.apply(event).ended()
            && let Some(ended) = self.hold_back(ended)
        {
            self.show(ConnectionRow::ended(ended, event.ts_ns()), out)?;
        }
        Ok(self.flow())
    }

    fn census(&mut self, census: &Census, out: &mut dyn Write) -> io::Result<Flow> {
        let mut gone = Vec::new();
        self.tracker.census_with_ends(census, |exit, ended| {
            gone.extend(ended.map(|ended| (exit.at_ns, ended)));
        });
        gone.sort_by_key(|&(at_ns, _)| at_ns);
        for (at_ns, ended) in gone {
            self.show(ConnectionRow::ended(ended, at_ns), out)?;
            if self.is_full() {
                break;
            }
        }
        Ok(self.flow())
    }

    fn recall(&mut self, recalled: &Recalled) -> io::Result<Flow> {
        match recalled {
            Recalled::Events(events) => {
                for event in events {
                    if let Some(ended) = self.tracker.recall_event(event).ended() {
                        // One that is not held back ended before the beginning.
                        drop(self.hold_back(ended));
                    }
                }
            }
            Recalled::Census(census) => self.tracker.recall_census(census, |_| {}),
        }
        Ok(Flow::Continue)
    }

    fn wants_samples(&self) -> bool {
        self.until == Until::Gone
    }

    fn is_prompt(&self) -> bool {
        true
    }

    fn wants_half_open(&self) -> bool {
        true
    }

    fn finish(&mut self, end: &End, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
        #[derive(Serialize)]
        struct Totals {
            /// Lines before this one.
            shown: u64,
            /// Connections without a line because a time, or another fact that the filter asks for, is unknown.
            time_unknown: u64,
            /// With `--until gone`, connections that were not gone at the end.
            not_gone: u64,
            connections: Books,
        }
        let books = self.tracker.books();
        let not_gone = self.tracker.count_held_back() as u64;
        for cookie in self.tracker.held_back() {
            if self.is_full() {
                break;
            }
            let Some(ended) = self.tracker.take_held_back(cookie) else {
                continue;
            };
            let ts_ns = ended.connection.last_ns.unwrap_or(end.now_ns);
            self.show(ConnectionRow::ended(ended, ts_ns), out)?;
        }
        if self.live {
            let open = self.tracker.snapshot_of(Include {
                connections: Connections::All,
                histograms: false,
            });
            for connection in open.connections {
                if self.is_full() {
                    break;
                }
                self.show(ConnectionRow::open(connection, end.now_ns), out)?;
            }
        }
        let (shown, undecided) = (self.shown, self.undecided);
        let finish = Finish {
            end,
            books: Some(&books),
            totals: Totals {
                shown,
                time_unknown: undecided,
                not_gone,
                connections: books,
            },
        };
        let sentence = |err: &mut dyn Write| {
            let connections = Counted(books.connections(), noun(end));
            let changes = Changes(end, Some(&books));
            writeln!(err, "{connections}, {} shown; {changes}", Count(shown))?;
            if undecided > 0 {
                let unknown = Counted(undecided, "connection");
                writeln!(
                    err,
                    "{unknown} not shown, because what was asked for is unknown"
                )?;
            }
            if not_gone > 0 {
                let waiting = Counted(not_gone, "connection");
                writeln!(err, "{waiting} shown, but not gone yet")?;
            }
            Ok(())
        };
        self.printer.finish(finish, sentence, out, err)
    }

    fn connections(&self) -> Option<Books> {
        Some(self.tracker.books())
    }
}

/// The filter on whole connections.
struct Filter {
    expression: Expression,
    states: Option<StateSet>,
    causes: Option<CauseSet>,
    longer_than_ns: Option<u64>,
}

impl Filter {
    /// Whether a connection passes; unknown where that depends on what is not known.
    fn judge(&self, row: &ConnectionRow) -> Truth {
        if let Some(causes) = &self.causes
            && !row.cause.is_some_and(|cause| causes.contains(cause))
        {
            return Truth::No;
        }
        Truth::all([self.expression.judge(row), self.by_time(row)])
    }

    fn by_time(&self, row: &ConnectionRow) -> Truth {
        match (self.states, self.longer_than_ns) {
            (None, None) => Truth::Yes,
            (None, Some(limit_ns)) => match row.lifetime_ns {
                Some(lifetime_ns) => (lifetime_ns > limit_ns).into(),
                // It began before the first transition that was seen: it lived longer than this.
                None if row.common.ts_ns.saturating_sub(row.first_ns) > limit_ns => Truth::Yes,
                None => Truth::Unknown,
            },
            (Some(states), limit_ns) => {
                let stays = row.states.iter();
                let stays = stays.filter(|stay| states.contains(stay.state));
                Truth::any(stays.map(|stay| match (limit_ns, stay.dwell_ns) {
                    (None, _) => Truth::Yes,
                    (Some(limit_ns), Some(dwell_ns)) => (dwell_ns > limit_ns).into(),
                    (Some(limit_ns), None) if stay.at_least_ns > Some(limit_ns) => Truth::Yes,
                    (Some(_), None) => Truth::Unknown,
                }))
            }
        }
    }
}

/// Prints what these options choose of connections with this evidence.
fn printer(options: &Options, evidence: Evidence) -> RecordPrinter<ConnectionRow> {
    let asked: Vec<&str> = [
        (options.time, "TIME"),
        (options.timestamp, "SECONDS"),
        (options.reset_reason, "RESET_REASON"),
    ]
    .into_iter()
    .filter_map(|(is_asked, title)| is_asked.then_some(title))
    .collect();
    let settings = options.settings.resting_on(evidence);
    RecordPrinter::records(&settings, &LAYOUT, &options.columns, &asked)
}

/// The columns of the lines for people.
pub static LAYOUT: Layout<ConnectionRow> = Layout {
    command: "life",
    cells: &CELLS,
    usual: &[
        "PID", "COMM", "ROLE", "LOCAL", "REMOTE", "LIFETIME", "CAUSE", "SENT", "RECEIVED", "STATES",
    ],
    steps: &[
        // 40 columns.
        ("REMOTE", 21),
        ("CAUSE", 13),
        // 80 columns.
        ("LIFETIME", 8),
        ("LOCAL", 6),
        ("PID", 7),
        ("STATES", 20),
        // More.
        ("NETNS", 10),
        ("COMM", 12),
        ("LOCAL", 21),
        ("ROLE", 6),
        ("STATES", 40),
        ("SENT", 8),
        ("RECEIVED", 8),
        ("REMOTE", 34),
        ("LOCAL", 34),
        ("REMOTE", 47),
        ("LOCAL", 47),
        ("COMM", 15),
        ("STATES", 80),
        ("COOKIE", 11),
        ("UID", 5),
        ("CGROUP", 60),
    ],
    fields: &CONNECTION,
};

static CELLS: [Cell<ConnectionRow>; 20] = [
    Cell::TIME,
    Cell::SINCE_START,
    Cell::COOKIE,
    Cell::field(Column::right("NETNS", 10), CONNECTION.column("netns")),
    Cell::field(Column::right("PID", 7), CONNECTION.column("owner.pid")),
    Cell::field(Column::left("COMM", 12), CONNECTION.column("owner.comm")),
    Cell::field(Column::right("UID", 5), CONNECTION.column("uid")),
    Cell::path(Column::left("CGROUP", 15), CONNECTION.column("cgroup")),
    Cell::UNIT,
    Cell::CONTAINER,
    Cell::POD,
    Cell::field(Column::left("ROLE", 6), CONNECTION.column("role")),
    Cell::composed(
        Column::left("LOCAL", 21),
        "`laddr` and `lport`",
        |row, room, line| push_endpoint(line, row.laddr, row.lport, room),
    ),
    Cell::composed(
        Column::left("REMOTE", 21),
        "`raddr` and `rport`",
        |row, room, line| push_endpoint(line, row.raddr, row.rport, room),
    ),
    Cell::field(
        Column::right("LIFETIME", 8),
        CONNECTION.column("lifetime_ns"),
    ),
    Cell::composed(Column::left("CAUSE", 7), "`cause`, or `(open)`", push_cause),
    Cell::field(
        Column::left("RESET_REASON", 17),
        CONNECTION.column("reset_reason"),
    ),
    Cell::field(Column::right("SENT", 8), CONNECTION.column("bytes_sent")),
    Cell::field(
        Column::right("RECEIVED", 8),
        CONNECTION.column("bytes_received"),
    ),
    Cell::composed(
        Column::left("STATES", 0),
        "`states` with the time in each (`~`: sampled; `>`: at least), and `goes_on`; where there is no room for \
         all, those that took longest, and `..`",
        push_states,
    ),
];

fn push_cause(row: &ConnectionRow, _room: usize, line: &mut Vec<u8>) -> io::Result<()> {
    match row.cause {
        None => line.write_all(b"(open)"),
        Some(Cause::Unknown) => line.write_all(b"-"),
        Some(cause) => line.write_all(cause.name().as_bytes()),
    }
}

/// The states and the time in each; where there is no room for all, those that took longest, and `..`.
fn push_states(row: &ConnectionRow, room: usize, line: &mut Vec<u8>) -> io::Result<()> {
    let start = line.len();
    push_some_states(row, |_| true, true, line);
    if line.len() - start <= room {
        return Ok(());
    }
    let time = |at: usize| {
        let stay = row.states.get(at);
        stay.and_then(|stay| stay.dwell_ns.or(stay.at_least_ns))
    };
    let mut longest: Vec<usize> = (0..row.states.len()).collect();
    longest.sort_by_key(|&at| Reverse(time(at)));
    loop {
        line.truncate(start);
        push_some_states(row, |at| longest.contains(&at), false, line);
        line.extend_from_slice(b"..");
        if line.len() - start <= room || longest.len() <= 1 {
            return Ok(());
        }
        longest.pop();
    }
}

/// The states at these places, and what there is to say of all.
fn push_some_states(
    row: &ConnectionRow,
    is_shown: impl Fn(usize) -> bool,
    with_rest: bool,
    line: &mut Vec<u8>,
) {
    let mut separator: &[u8] = b"";
    let last = row.states.len().saturating_sub(1);
    for (index, stay) in row.states.iter().enumerate() {
        if !is_shown(index) {
            continue;
        }
        line.extend_from_slice(separator);
        separator = b", ";
        push_state(line, stay.state);
        match (stay.dwell_ns, stay.at_least_ns) {
            (Some(dwell_ns), _) => {
                line.extend_from_slice(if stay.sampled { b" ~" } else { b" " });
                line.extend_from_slice(Span(dwell_ns).written().as_bytes());
            }
            (None, Some(at_least_ns)) => {
                line.extend_from_slice(b" >");
                line.extend_from_slice(Span(at_least_ns).written().as_bytes());
            }
            (None, None) => line.extend_from_slice(b" -"),
        }
        if row.is_open() && index == last {
            line.extend_from_slice(b" so far");
        }
    }
    if !with_rest {
        return;
    }
    if let Some(state) = row.goes_on {
        line.extend_from_slice(b", then ");
        push_state(line, state);
    }
    if row.truncated {
        line.extend_from_slice(b" (too many states: some are left out)");
    }
}
