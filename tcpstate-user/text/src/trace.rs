//! `tcpstate trace`: a line per transition.
//!
//! A line shows what the kernel said at that instant and is never enriched afterwards: addresses and
//! ports stay what the event has. What the tracker knows *about* the connection is added: the dwell,
//! the role, the service port, the owner, the cause of its end.

use std::{
    borrow::Cow,
    fmt::Display,
    io::{self, Write},
    sync::Arc,
};

use jiff::tz::TimeZone;
use serde::Serialize;
use tcpstate_common::{State, record::flags};

use crate::books::tell_books;
use crate::format::{
    csv::{OrEmpty, Rows},
    json::{self, Common, Connections, Lines, StateName, Summary, family, state},
    text::{Column, OrDash, Table},
    time::{Local, Rfc3339, Since, Utc},
    units::{Count, Millis},
};
use tcpstate_core::{
    cause::{Cause, goes_on},
    census::Census,
    escape::{Cell, Printable},
    event::Event,
    filter::StateSet,
    model::{Applied, Limits, Tracker, Traffic},
    names::Names,
    options::Format,
    origin::Origin,
    owner::{How, Owner},
    service::Role,
    view::{End, Flow, View},
};

/// What to print, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// In which format.
    pub format: Format,
    /// Only transitions that touch these states.
    pub states: Option<StateSet>,
    /// So many lines, then no more.
    pub count: Option<u64>,
    /// A column with the local time of day.
    pub time: bool,
    /// A column with the seconds since the start.
    pub timestamp: bool,
    /// The bounds of what is kept.
    pub limits: Limits,
    /// In colour.
    pub colour: bool,
    /// Where local time is.
    pub zone: TimeZone,
}

/// The view.
pub struct Trace {
    states: Option<StateSet>,
    count: Option<u64>,
    printer: Printer,
    tracker: Tracker,
    names: Names,
    shown: u64,
    /// Wall-clock time of monotonic 0, and the start of the capture.
    origin: Option<Origin>,
}

#[derive(Debug)]
enum Printer {
    Text(Text),
    Json { utc: Utc, lines: Lines },
    Csv { utc: Utc, rows: Rows },
}

impl Trace {
    /// A trace that prints as these options say.
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
            states: options.states,
            count: options.count,
            printer,
            tracker: Tracker::new(options.limits)
                .without_rates()
                .without_histograms(),
            names: Names::default(),
            shown: 0,
            origin: None,
        }
    }
}

impl View for Trace {
    fn set_names(&mut self, names: Names) {
        self.names = names;
    }

    fn start(&mut self, origin: &Origin, out: &mut dyn Write) -> io::Result<()> {
        self.origin = Some(origin.clone());
        match &mut self.printer {
            Printer::Text(text) => text.table.titles(out),
            Printer::Json { .. } => Ok(()),
            Printer::Csv { rows, .. } => rows.row(&CSV_TITLES.map(|title| title as _), out),
        }
    }

    fn look_ahead(&self, events: &[Event]) {
        self.tracker.look_ahead(events);
    }

    fn event(&mut self, event: &Event, out: &mut dyn Write) -> io::Result<Flow> {
        let known = Known::new(&self.tracker.apply(event), event);
        if self.states.is_some_and(|states| !states.touches(event)) {
            return Ok(Flow::Continue);
        }
        let cgroup = match self.printer {
            Printer::Text(_) => None,
            Printer::Json { .. } | Printer::Csv { .. } => self.names.cgroup(event.cgroup()),
        };
        let known = Known { cgroup, ..known };
        let wall_ns = self
            .origin
            .as_ref()
            .map_or(0, |origin| origin.wall_ns(event.ts_ns()));
        match &mut self.printer {
            Printer::Text(text) => {
                let started_ns = self.origin.as_ref().map_or(0, |origin| origin.started_ns);
                text.line(event, &known, wall_ns, started_ns, out)?;
            }
            Printer::Json { utc, lines } => {
                lines.write(&json_line(event, &known, utc.at(wall_ns)), out)?;
            }
            Printer::Csv { utc, rows } => csv_row(event, &known, utc.at(wall_ns), rows, out)?,
        }
        self.shown += 1;
        let done = self.count.is_some_and(|count| self.shown >= count);
        Ok(if done { Flow::Done } else { Flow::Continue })
    }

    fn census(&mut self, census: &Census, _out: &mut dyn Write) -> io::Result<Flow> {
        // Whose connections are that were there before.
        self.tracker.census(census, |_| {});
        Ok(Flow::Continue)
    }

    fn finish(&mut self, end: &End, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
        #[derive(Serialize)]
        struct Shown {
            /// Lines before this one.
            shown: u64,
            connections: Connections,
        }
        let books = self.tracker.books();
        if let Printer::Json { lines, .. } = &mut self.printer {
            let shown = Shown {
                shown: self.shown,
                connections: Connections::new(&books),
            };
            return lines.write(&Summary::new(end, shown), out);
        }
        let plural = if self.shown == 1 { "" } else { "s" };
        write!(err, "{} transition{plural} shown; ", Count(self.shown))?;
        tell_books(end, Some(&books), err)
    }
}

/// What is known about the connection of an event besides what the event says.
struct Known {
    /// Time spent in the event's `oldstate`.
    dwell_ns: Option<u64>,
    role: Role,
    service_port: Option<u16>,
    owner: Owner,
    cause: Option<Cause>,
    /// At -> CLOSE, the state that the connection goes on in, unseen.
    goes_on: Option<State>,
    /// At -> ESTABLISHED, how long the handshake took.
    handshake_ns: Option<u64>,
    /// The path of its cgroup, where that is shown.
    cgroup: Option<Arc<str>>,
}

impl Known {
    fn new(applied: &Applied<'_>, event: &Event) -> Self {
        let owner = applied.owner();
        Self {
            dwell_ns: applied.dwell_ns,
            role: applied.role(),
            service_port: applied.service_port(),
            // A process that acts on this very socket is better known than one that is inferred.
            owner: match (owner.how, event.process()) {
                (How::Listener | How::Seeded | How::Unknown, Some(process)) => {
                    Owner::exact(Some(process))
                }
                _ => owner,
            },
            cause: applied.cause(),
            goes_on: goes_on(event),
            handshake_ns: applied.handshake_ns(),
            cgroup: None,
        }
    }
}

/// Lines for people.
#[derive(Debug)]
struct Text {
    table: Table,
    local: Option<Local>,
    timestamp: bool,
}

impl Text {
    fn new(options: &Options) -> Self {
        let time = options.time.then_some(Column::left("TIME", 8));
        let timestamp = options.timestamp.then_some(Column::right("TIME(s)", 11));
        let columns = [
            Column::right("COOKIE", 8),
            Column::right("PID", 7),
            Column::left("COMM", 15),
            Column::left("LADDR", 15),
            Column::right("LPORT", 5),
            Column::left("RADDR", 15),
            Column::right("RPORT", 5),
            Column::left("OLDSTATE", 11),
            Column::left("->", 2),
            Column::left("NEWSTATE", 11),
            Column::right("MS", 10),
            Column::left("CAUSE", 0),
        ];
        Self {
            table: Table::new(
                time.into_iter().chain(timestamp).chain(columns),
                options.colour,
            ),
            local: options.time.then(|| Local::new(options.zone.clone())),
            timestamp: options.timestamp,
        }
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the first of the cells is at most the third"
    )]
    fn line(
        &mut self,
        event: &Event,
        known: &Known,
        wall_ns: i64,
        started_ns: u64,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let time = self.local.as_mut().map(|local| local.at(wall_ns));
        let since = Since {
            ns: event.ts_ns(),
            from_ns: started_ns,
        };
        let port = |port| OrDash(Some(port).filter(|&port| port != 0));
        let (cookie, pid) = (OrDash(event.cookie()), OrDash(known.owner.pid));
        let comm = known.owner.comm.as_ref();
        let comm = OrDash(comm.map(|comm| Printable(comm.as_bytes())));
        let (laddr, raddr) = (event.laddr(), event.raddr());
        let (lport, rport) = (port(event.lport()), port(event.rport()));
        let (oldstate, newstate) = (event.oldstate(), event.newstate());
        let dwell = OrDash(known.dwell_ns.map(Millis));
        let cause =
            json::cause(known.cause).unwrap_or(if known.cause.is_some() { "-" } else { "" }.into());
        // What comes before is there only if asked for.
        let mut cells: [&dyn Display; 14] = [
            &"", &"", &cookie, &pid, &comm, &laddr, &lport, &raddr, &rport, &oldstate, &"->",
            &newstate, &dwell, &cause,
        ];
        let mut first = 2;
        if self.timestamp {
            first -= 1;
            cells[first] = &since;
        }
        if let Some(time) = &time {
            first -= 1;
            cells[first] = time;
        }
        self.table.row(&cells[first..], out)
    }
}

/// A line of JSON. The fields of CSV are the same, in the same order.
#[derive(Serialize)]
struct Transition<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    common: Common<'a>,
    #[serde(serialize_with = "state")]
    oldstate: State,
    #[serde(serialize_with = "state")]
    newstate: State,
    /// Time spent in `oldstate`.
    dwell_ns: Option<u64>,
    /// At -> CLOSE, why.
    cause: Option<Cow<'static, str>>,
    /// `sk_err`: the kernel's number of an error, 0 for none.
    error: Option<u16>,
    /// `sk_shutdown`: 1 receiving and 2 sending is shut down, 3 both.
    shutdown: Option<u8>,
    /// `SOCK_DEAD`: the application has closed the socket.
    sock_dead: Option<bool>,
    /// `SOCK_DONE`: the peer's FIN has come.
    sock_done: Option<bool>,
    cpu: u16,
    bytes_sent: Option<u64>,
    bytes_received: Option<u64>,
    retransmits: Option<u32>,
    srtt_us: Option<u32>,
    /// At -> CLOSE, the state that the kernel keeps the connection in from now on, unseen.
    goes_on: Option<StateName>,
    /// At -> ESTABLISHED, how long the handshake took.
    handshake_ns: Option<u64>,
}

fn json_line<'a>(event: &Event, known: &'a Known, ts: Rfc3339<'a>) -> Transition<'a> {
    let record = event.record();
    let socket = event.has(flags::SOCKET);
    let traffic = Traffic::of(event);
    Transition {
        kind: "transition",
        common: Common {
            ts,
            ts_ns: event.ts_ns(),
            cookie: event.cookie(),
            netns: event.netns(),
            family: family(event.is_ipv4()),
            laddr: event.laddr(),
            lport: event.lport(),
            raddr: event.raddr(),
            rport: event.rport(),
            service_port: known.service_port,
            role: json::role(known.role),
            owner: json::Owner::new(&known.owner),
            uid: event.uid(),
            cgroup: known.cgroup.as_deref(),
            cgroup_id: event.cgroup(),
        },
        oldstate: event.oldstate(),
        newstate: event.newstate(),
        dwell_ns: known.dwell_ns,
        cause: json::cause(known.cause),
        error: event.error(),
        shutdown: socket.then(|| {
            u8::from(event.has(flags::RCV_SHUTDOWN))
                | u8::from(event.has(flags::SEND_SHUTDOWN)) << 1
        }),
        sock_dead: socket.then(|| event.has(flags::DEAD)),
        sock_done: socket.then(|| event.has(flags::DONE)),
        cpu: record.cpu,
        bytes_sent: traffic.map(|traffic| traffic.bytes_sent),
        bytes_received: traffic.map(|traffic| traffic.bytes_received),
        retransmits: traffic.map(|traffic| traffic.retransmits),
        srtt_us: traffic.and_then(|traffic| traffic.srtt_us),
        goes_on: known.goes_on.map(StateName),
        handshake_ns: known.handshake_ns,
    }
}

const CSV_TITLES: [&(dyn Display + Sync); 32] = [
    &"ts",
    &"ts_ns",
    &"cookie",
    &"netns",
    &"family",
    &"laddr",
    &"lport",
    &"raddr",
    &"rport",
    &"service_port",
    &"role",
    &"owner_pid",
    &"owner_comm",
    &"owner_how",
    &"uid",
    &"cgroup",
    &"cgroup_id",
    &"oldstate",
    &"newstate",
    &"dwell_ns",
    &"cause",
    &"error",
    &"shutdown",
    &"sock_dead",
    &"sock_done",
    &"cpu",
    &"bytes_sent",
    &"bytes_received",
    &"retransmits",
    &"srtt_us",
    &"goes_on",
    &"handshake_ns",
];

fn csv_row(
    event: &Event,
    known: &Known,
    ts: Rfc3339<'_>,
    rows: &mut Rows,
    out: &mut dyn Write,
) -> io::Result<()> {
    let line = json_line(event, known, ts);
    let common = &line.common;
    let owner = common.owner.as_ref();
    rows.row(
        &[
            &common.ts,
            &common.ts_ns,
            &OrEmpty(common.cookie),
            &OrEmpty(common.netns),
            &common.family,
            &common.laddr,
            &common.lport,
            &common.raddr,
            &common.rport,
            &OrEmpty(common.service_port),
            &OrEmpty(common.role),
            &OrEmpty(owner.and_then(|owner| owner.pid)),
            &OrEmpty(
                owner
                    .and_then(|owner| owner.comm)
                    .map(|name| Cell(name.as_bytes())),
            ),
            &OrEmpty(owner.map(|owner| owner.how)),
            &OrEmpty(common.uid),
            &OrEmpty(common.cgroup.map(|path| Cell(path.as_bytes()))),
            &OrEmpty(common.cgroup_id),
            &line.oldstate,
            &line.newstate,
            &OrEmpty(line.dwell_ns),
            &OrEmpty(line.cause.as_ref()),
            &OrEmpty(line.error),
            &OrEmpty(line.shutdown),
            &OrEmpty(line.sock_dead),
            &OrEmpty(line.sock_done),
            &line.cpu,
            &OrEmpty(line.bytes_sent),
            &OrEmpty(line.bytes_received),
            &OrEmpty(line.retransmits),
            &OrEmpty(line.srtt_us),
            &OrEmpty(known.goes_on),
            &OrEmpty(line.handshake_ns),
        ],
        out,
    )
}
