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
    model::Tracker,
    names::Names,
    origin::Origin,
    recalled::Recalled,
    view::{End, Flow, View},
};

use crate::{
    format::{
        text::{Cell, Column, OrDash},
        units::{Counted, Millis},
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
    /// A column with the local time of day.
    pub time: bool,
    /// A column with the seconds since the start.
    pub timestamp: bool,
    /// A column with the reason for a reset by this kernel.
    pub reset_reason: bool,
}

/// The view.
pub struct Trace {
    states: Option<StateSet>,
    count: Option<u64>,
    printer: RecordPrinter<TransitionRow>,
    tracker: Tracker,
    names: Names,
    shown: u64,
    /// Wall-clock time of monotonic 0, and the start of the capture.
    origin: Option<Origin>,
}

impl Trace {
    /// A trace with these options.
    pub fn new(options: &Options) -> Self {
        let settings = &options.settings;
        let cells = cells(options.time, options.timestamp, options.reset_reason);
        Self {
            states: options.states,
            count: options.count,
            printer: RecordPrinter::records(settings, &TRANSITION, cells),
            tracker: Tracker::new(settings.limits)
                .without_rates()
                .without_histograms(),
            names: Names::default(),
            shown: 0,
            origin: None,
        }
    }
}

/// The columns of the lines for people.
pub fn cells(
    time: bool,
    timestamp: bool,
    reset_reason: bool,
) -> impl Iterator<Item = Cell<TransitionRow>> {
    let time = time.then_some(Cell::TIME);
    let timestamp = timestamp.then_some(Cell::SINCE_START);
    let (cause, reason) = if reset_reason {
        (cause(13), Some(REASON))
    } else {
        (cause(0), None)
    };
    let cells = time.into_iter().chain(timestamp).chain(CELLS);
    cells.chain([cause]).chain(reason)
}

static CELLS: [Cell<TransitionRow>; 11] = [
    Cell::field(Column::right("COOKIE", 8), TRANSITION.column("cookie")),
    Cell::field(Column::right("PID", 7), TRANSITION.column("owner.pid")),
    Cell::field(Column::left("COMM", 15), TRANSITION.column("owner.comm")),
    Cell::field(Column::left("LADDR", 15), TRANSITION.column("laddr")),
    Cell::field(Column::right("LPORT", 5), TRANSITION.column("lport")),
    Cell::field(Column::left("RADDR", 15), TRANSITION.column("raddr")),
    Cell::field(Column::right("RPORT", 5), TRANSITION.column("rport")),
    Cell::field(Column::left("OLDSTATE", 11), TRANSITION.column("oldstate")),
    Cell::composed(
        Column::left("->", 2),
        "An arrow between the states",
        |_, line| line.write_all(b"->"),
    ),
    Cell::field(Column::left("NEWSTATE", 11), TRANSITION.column("newstate")),
    Cell::composed(
        Column::right("MS", 10),
        "`dwell_ns`, in milliseconds (`~`: sampled)",
        push_dwell,
    ),
];

/// Empty where no connection ended, which is not unknown.
const fn cause(width: usize) -> Cell<TransitionRow> {
    Cell::when(
        Column::left("CAUSE", width),
        |row| row.cause.is_some(),
        TRANSITION.column("cause"),
    )
}

/// Empty where no connection ended, as the cause.
const REASON: Cell<TransitionRow> = Cell::when(
    Column::left("RESET_REASON", 0),
    |row| row.cause.is_some(),
    TRANSITION.column("reset_reason"),
);

fn push_dwell(row: &TransitionRow, line: &mut Vec<u8>) -> io::Result<()> {
    if row.dwell_interval_ns.is_some() {
        line.push(b'~');
    }
    write!(line, "{}", OrDash(row.dwell_ns.map(Millis)))
}

impl View for Trace {
    fn set_names(&mut self, names: Names) {
        self.names = names;
    }

    fn start(&mut self, origin: &Origin, out: &mut dyn Write) -> io::Result<()> {
        self.origin = Some(origin.clone());
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
        // Text does not show it.
        let cgroup = if self.printer.is_text() {
            None
        } else {
            self.names.cgroup(event.cgroup())
        };
        let origin = self.origin.as_ref();
        let wall_ns = origin.map_or(0, |origin| origin.wall_ns(event.ts_ns()));
        let row = TransitionRow::new(event, &applied, wall_ns, cgroup);
        self.printer.write(&row, out)?;
        self.shown += 1;
        let done = self.count.is_some_and(|count| self.shown >= count);
        Ok(if done { Flow::Done } else { Flow::Continue })
    }

    fn census(&mut self, census: &Census, _out: &mut dyn Write) -> io::Result<Flow> {
        // It has the owners of the connections that were there before.
        self.tracker.census(census, |_| {});
        Ok(Flow::Continue)
    }

    fn wants_half_open(&self) -> bool {
        true
    }

    fn recall(&mut self, recalled: &Recalled) -> io::Result<Flow> {
        self.tracker.recall(recalled);
        Ok(Flow::Continue)
    }

    fn finish(&mut self, end: &End, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
        let shown = Counted(self.shown, "transition");
        let books = self.tracker.books();
        self.printer.finish_counted(end, shown, books, out, err)
    }
}
