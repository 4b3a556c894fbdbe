//! `tcpstate trace`: a line per transition.
//!
//! A line shows what the kernel said at that instant and is never enriched afterwards: addresses and
//! ports stay as the event has them. The tracker adds what it knows *about* the connection: the dwell,
//! the role, the service port, the owner, the cause of its end.

use std::io::{self, Write};

use tcpstate_core::{
    catalogue::{TRANSITION, TransitionRow},
    census::Census,
    event::Event,
    filter::StateSet,
    model::{Books, Tracker},
    names::Names,
    origin::{Evidence, Origin},
    recalled::Recalled,
    view::{End, Flow, View},
};

use crate::{
    books::noun,
    format::{
        text::{Cell, Column, Columns, Layout},
        units::{Counted, Span},
    },
    printer::RecordPrinter,
    settings::Settings,
};

/// The options of `trace`.
#[derive(Clone, Debug)]
pub struct Options {
    /// The settings that all views share.
    pub settings: Settings,
    /// Only transitions from or to these states.
    pub states: Option<StateSet>,
    /// The number of lines after which the run ends.
    pub count: Option<u64>,
    /// The columns of text.
    pub columns: Columns<TransitionRow>,
    /// A column with the local time of day.
    pub time: bool,
    /// A column with the seconds since the start.
    pub timestamp: bool,
    /// A column with the reason for a reset by this kernel.
    pub reset_reason: bool,
}

/// The view.
pub struct Trace {
    options: Options,
    states: Option<StateSet>,
    count: Option<u64>,
    printer: RecordPrinter<TransitionRow>,
    tracker: Tracker,
    names: Names,
    shown: u64,
    /// Whether lines have names of cgroups.
    shows_cgroups: bool,
    /// Whether connections have events that are not shown.
    leaves_out: bool,
    /// Wall-clock time of monotonic 0, and the start of the capture.
    origin: Option<Origin>,
}

impl Trace {
    /// A trace with these options.
    pub fn new(options: &Options) -> Self {
        let printer = printer(options, Evidence::Kernel);
        Self {
            options: options.clone(),
            states: options.states,
            shows_cgroups: printer.shows_cgroups(),
            leaves_out: options.states.is_some(),
            count: options.count,
            printer,
            tracker: Tracker::new(options.settings.limits)
                .without_rates()
                .without_histograms(),
            names: Names::default(),
            shown: 0,
            origin: None,
        }
    }
}

/// Prints what these options choose of events with this evidence.
fn printer(options: &Options, evidence: Evidence) -> RecordPrinter<TransitionRow> {
    let asked: Vec<&str> = [
        (options.time, "TIME"),
        (options.timestamp, "SECONDS"),
        (options.reset_reason, "RESET_REASON"),
        (evidence == Evidence::Packets, "PACKET"),
    ]
    .into_iter()
    .filter_map(|(is_asked, title)| is_asked.then_some(title))
    .collect();
    let settings = options.settings.resting_on(evidence);
    RecordPrinter::records(&settings, &LAYOUT, &options.columns, &asked)
}

/// The columns of the lines for people.
pub static LAYOUT: Layout<TransitionRow> = Layout {
    command: "trace",
    cells: &CELLS,
    usual: &[
        "COOKIE", "PID", "COMM", "LOCAL", "REMOTE", "DWELL", "OLDSTATE", "->", "NEWSTATE", "CAUSE",
    ],
    steps: &[
        // 40 columns.
        ("NEWSTATE", 11),
        ("REMOTE", 21),
        ("LOCAL", 6),
        // 80 columns.
        ("DWELL", 8),
        ("OLDSTATE", 11),
        ("->", 2),
        ("CAUSE", 6),
        ("PID", 7),
        // More.
        ("NETNS", 10),
        ("COMM", 15),
        ("LOCAL", 21),
        ("COOKIE", 11),
        ("CAUSE", 13),
        ("REMOTE", 34),
        ("LOCAL", 34),
        ("REMOTE", 47),
        ("LOCAL", 47),
        ("CGROUP", 15),
        ("ROLE", 6),
        ("UID", 5),
        ("CGROUP", 60),
    ],
    fields: &TRANSITION,
};

static CELLS: [Cell<TransitionRow>; 21] = [
    Cell::TIME,
    Cell::SINCE_START,
    Cell::field(
        Column::right("PACKET", 6),
        TRANSITION.column("packet.number"),
    ),
    Cell::COOKIE,
    Cell::field(Column::right("NETNS", 10), TRANSITION.column("netns")),
    Cell::field(Column::right("PID", 7), TRANSITION.column("owner.pid")),
    Cell::field(Column::left("COMM", 15), TRANSITION.column("owner.comm")),
    Cell::field(Column::right("UID", 5), TRANSITION.column("uid")),
    Cell::path(Column::left("CGROUP", 15), TRANSITION.column("cgroup")),
    Cell::UNIT,
    Cell::CONTAINER,
    Cell::POD,
    Cell::field(Column::left("ROLE", 6), TRANSITION.column("role")),
    Cell::LOCAL,
    Cell::REMOTE,
    Cell::composed(
        Column::right("DWELL", 8),
        "`dwell_ns`, the time in OLDSTATE (`~`: sampled)",
        push_dwell,
    ),
    Cell::field(Column::left("OLDSTATE", 11), TRANSITION.column("oldstate")),
    Cell::composed(
        Column::left("->", 2),
        "An arrow between the states",
        |_, _, line| line.write_all(b"->"),
    ),
    Cell::field(Column::left("NEWSTATE", 11), TRANSITION.column("newstate")),
    // Empty where no connection ended, which is not unknown.
    Cell::when(
        Column::left("CAUSE", 13),
        |row| row.cause.is_some(),
        TRANSITION.column("cause"),
    ),
    // The same.
    Cell::when(
        Column::left("RESET_REASON", 24),
        |row| row.cause.is_some(),
        TRANSITION.column("reset_reason"),
    ),
];

fn push_dwell(row: &TransitionRow, _room: usize, line: &mut Vec<u8>) -> io::Result<()> {
    if row.dwell_interval_ns.is_some() {
        line.push(b'~');
    }
    match row.dwell_ns {
        Some(dwell_ns) => line.write_all(Span(dwell_ns).written().as_bytes()),
        None => line.write_all(b"-"),
    }
}

impl View for Trace {
    fn set_names(&mut self, names: Names) {
        self.names = names;
    }

    fn start(&mut self, origin: &Origin, out: &mut dyn Write) -> io::Result<()> {
        self.origin = Some(origin.clone());
        if origin.evidence() == Evidence::Packets {
            self.printer = printer(&self.options, Evidence::Packets);
            self.shows_cgroups = self.printer.shows_cgroups();
        }
        self.printer.titles(origin.started_ns, out)
    }

    fn look_ahead(&self, events: &[Event]) {
        self.tracker.look_ahead(events);
    }

    fn event(&mut self, event: &Event, out: &mut dyn Write) -> io::Result<Flow> {
        let applied = self.tracker.apply(event);
        if self.states.is_some_and(|states| !states.touches(event)) {
            return Ok(Flow::Continue);
        }
        let cgroup = if self.shows_cgroups {
            self.names.cgroup(event.cgroup())
        } else {
            None
        };
        let origin = self.origin.as_ref();
        let wall_ns = origin.map_or(0, |origin| origin.wall_ns(event.ts_ns()));
        let row = TransitionRow::new(event, &applied, wall_ns, cgroup);
        self.printer.write(&row, out)?;
        self.shown += 1;
        let done = self.count.is_some_and(|count| self.shown >= count);
        Ok(if done { Flow::Done } else { Flow::Continue })
    }

    fn follow(&mut self, event: &Event) {
        self.tracker.apply(event);
        self.leaves_out = true;
    }

    fn census(&mut self, census: &Census, _out: &mut dyn Write) -> io::Result<Flow> {
        // It has the owners of the connections that were there before.
        self.tracker.census(census, |_| {});
        Ok(Flow::Continue)
    }

    fn is_prompt(&self) -> bool {
        true
    }

    fn wants_half_open(&self) -> bool {
        true
    }

    fn recall(&mut self, recalled: &Recalled) -> io::Result<Flow> {
        self.tracker.recall(recalled);
        Ok(Flow::Continue)
    }

    fn finish(&mut self, end: &End, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
        let books = self.tracker.books();
        let connections = Counted(books.connections(), noun(end));
        let words = if self.leaves_out {
            format!("{connections}, {} shown", Counted(self.shown, "line"))
        } else {
            connections.to_string()
        };
        let totals = (self.shown, words);
        self.printer.finish_counted(end, totals, books, out, err)
    }

    fn connections(&self) -> Option<Books> {
        Some(self.tracker.books())
    }
}
