//! `tcpstate ls`: the sockets there are now.
//!
//! It shows a list that was taken before; nothing here asks the kernel. Since when a socket is in its
//! state no list tells: only where a timer was set when the state began is the age known.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fmt::{self, Display},
    io::{self, Write},
    sync::Arc,
};

use serde::Serialize;
use tcpstate_common::State;

use crate::format::{
    csv::{OrEmpty, Rows},
    json::{self, Common, Lines, family, state},
    text::{Column, OrDash, Table},
    time::{Rfc3339, Utc},
    units::{Count, Millis, Span},
};
use tcpstate_core::{
    books::Cost,
    escape::{Cell, Printable},
    filter::{Filter, OwnerFilter, StateSet},
    inventory::{DumpedNetns, Inventory, Socket, Timer, TimerKind},
    options::Format,
    owner::Owner,
    service::Role,
};

/// What to show, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// In which format.
    pub format: Format,
    /// Only sockets in these states.
    pub states: Option<StateSet>,
    /// These sockets.
    pub filter: Filter,
    /// Of these, the ones of these owners.
    pub owner: OwnerFilter,
    /// In text, these columns beside the usual.
    pub columns: Columns,
    /// In colour.
    pub colour: bool,
}

/// Columns that not everybody wants; other formats always have them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Columns {
    /// The namespace.
    pub netns: bool,
    /// The owner, and the cgroup.
    pub owner: bool,
    /// What `TCP_INFO` says.
    pub info: bool,
}

/// Why there is no age, for people.
const NO_AGES: &str = "AGE is `-` where no timer tells since when a socket is in its state: the kernel does \
    not. `tcpstate trace` measures it, from the moment it runs.";

/// Writes the sockets that are wanted to `out`, and the rest that is to be told: in JSON as the last
/// line, else to `err`.
pub fn write(
    inventory: &Inventory,
    options: &Options,
    cost: impl FnOnce() -> Cost,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<()> {
    let rows = wanted(inventory, options);
    match options.format {
        Format::Text => {
            let mut text = Text::new(options);
            text.table.titles(out)?;
            for row in &rows {
                text.line(row, out)?;
            }
        }
        Format::Json => {
            let (mut lines, mut utc) = (Lines::default(), Utc::default());
            for row in &rows {
                lines.write(&json_line(row, &mut utc), out)?;
            }
            return lines.write(&Summary::new(inventory, &rows, cost()), out);
        }
        Format::Csv => {
            let (mut csv, mut utc) = (Rows::default(), Utc::default());
            csv.row(&CSV_TITLES.map(|title| title as _), out)?;
            for row in &rows {
                csv_row(row, &mut utc, &mut csv, out)?;
            }
        }
    }
    // Before what is said about it, where both go to one terminal.
    out.flush()?;
    tell(inventory, &rows, err)
}

/// A socket with what can be told of it.
struct Row<'a> {
    socket: &'a Socket,
    asked: Option<&'a DumpedNetns>,
    role: Role,
    service_port: Option<u16>,
    owner: Owner,
    /// The path of its cgroup.
    cgroup: Option<Arc<str>>,
    /// Of a listener: how many connections to it are half-open.
    half_open: Option<u64>,
    half_open_oldest_ms: Option<u64>,
}

/// What passes the filters, in order: by namespace, listeners first, by state, by service port.
fn wanted<'a>(inventory: &'a Inventory, options: &Options) -> Vec<Row<'a>> {
    let half_open_known = options
        .states
        .is_none_or(|states| states.contains(State::SYN_RECV));
    let mut matcher = options.owner.clone().with(inventory.names.clone());
    let mut rows: Vec<Row<'a>> = inventory
        .sockets
        .iter()
        .filter(|socket| {
            options.states.is_none_or(|states| socket.is_in(states))
                && options
                    .filter
                    .wants(socket.is_ipv4(), socket.lport, socket.rport, socket.netns)
        })
        .map(|socket| {
            let role = inventory.listening.role(socket);
            let half_open = (socket.state == State::LISTEN && half_open_known)
                .then(|| inventory.listening.half_open(socket));
            Row {
                socket,
                asked: inventory
                    .namespaces
                    .iter()
                    .find(|one| one.netns == socket.netns),
                role,
                service_port: role.service_port(socket.lport, socket.rport),
                owner: inventory.owner(socket),
                cgroup: inventory.names.cgroup(socket.cgroup),
                half_open: half_open.map(|all| all.count),
                half_open_oldest_ms: half_open.and_then(|all| all.oldest_ms),
            }
        })
        .filter(|row| matcher.matches(row.role, &row.owner, row.socket.uid, row.socket.cgroup))
        .collect();
    rows.sort_by_cached_key(|row| {
        let socket = row.socket;
        (
            socket.netns,
            Reverse(socket.state == State::LISTEN),
            socket.state,
            row.service_port.is_none(),
            row.service_port,
            (socket.laddr, socket.lport, socket.raddr, socket.rport),
            socket.cookie,
        )
    });
    rows
}

/// Lines for people.
struct Text {
    table: Table,
    extra: Columns,
}

impl Text {
    fn new(options: &Options) -> Self {
        let extra = options.columns;
        let netns = extra.netns.then_some(Column::right("NETNS", 10));
        let columns = [
            Column::left("STATE", 11),
            Column::right("AGE", 7),
            Column::left("ROLE", 6),
            Column::right("SERVICE", 7),
            Column::right("RECV-Q", 6),
            Column::right("SEND-Q", 6),
            Column::left("LADDR", 15),
            Column::right("LPORT", 5),
            Column::left("RADDR", 15),
            Column::right("RPORT", 5),
            Column::right("UID", 5),
        ];
        let owners = [
            Column::right("PID", 7),
            Column::left("COMM", 15),
            Column::left("CGROUP", 15),
        ];
        let info = [
            Column::right("SENT", 9),
            Column::right("RECEIVED", 9),
            Column::right("RETR", 4),
            Column::right("RTT(ms)", 8),
        ];
        let columns = netns
            .into_iter()
            .chain(columns)
            .chain(owners.into_iter().filter(|_| extra.owner))
            .chain(info.into_iter().filter(|_| extra.info))
            .chain([Column::left("TIMER", 0)]);
        Self {
            table: Table::new(columns, options.colour),
            extra,
        }
    }

    fn line(&mut self, row: &Row<'_>, out: &mut dyn Write) -> io::Result<()> {
        let socket = row.socket;
        let port = |port| OrDash(Some(port).filter(|&port| port != 0));
        let (lport, rport) = (port(socket.lport), port(socket.rport));
        let role = OrDash(json::role(row.role));
        let (service, uid) = (OrDash(row.service_port), OrDash(socket.uid));
        let pid = OrDash(row.owner.pid);
        let comm = OrDash(
            row.owner
                .comm
                .as_ref()
                .map(|comm| Printable(comm.as_bytes())),
        );
        let cgroup = OrDash(row.cgroup.as_ref().map(|path| Printable(path.as_bytes())));
        let info = socket.info.unwrap_or_default();
        let (sent, received) = (OrDash(info.bytes_sent), OrDash(info.bytes_received));
        let retransmits = OrDash(info.retransmits);
        let rtt = OrDash(info.srtt_us.map(|us| Millis(u64::from(us) * 1_000)));
        let timer = OrDash(socket.timer.map(TimerCell));
        let age = OrDash(socket.age_ns().map(Span));
        let mut cells: Vec<&dyn Display> = Vec::with_capacity(20);
        if self.extra.netns {
            cells.push(&socket.netns);
        }
        cells.extend([
            &socket.state as &dyn Display,
            &age,
            &role,
            &service,
            &socket.rqueue,
            &socket.wqueue,
            &socket.laddr,
            &lport,
            &socket.raddr,
            &rport,
            &uid,
        ]);
        if self.extra.owner {
            cells.extend([&pid as &dyn Display, &comm, &cgroup]);
        }
        if self.extra.info {
            cells.extend([&sent as &dyn Display, &received, &retransmits, &rtt]);
        }
        cells.push(&timer);
        self.table.row(&cells, out)
    }
}

/// The timer as one cell: `timewait 59.9 s`, `retransmit 204 ms (2)`.
struct TimerCell(Timer);

impl Display for TimerCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timer = self.0;
        match timer.kind {
            TimerKind::Other(number) => write!(f, "{number}")?,
            kind => f.write_str(kind.name())?,
        }
        write!(f, " {}", Span(u64::from(timer.expires_ms) * 1_000_000))?;
        if timer.retransmits > 0 {
            write!(f, " ({})", timer.retransmits)?;
        }
        Ok(())
    }
}

/// A line of JSON. The fields of CSV are the same, in the same order.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    common: Common<'a>,
    #[serde(serialize_with = "state")]
    state: State,
    /// Time in the state, where a timer tells.
    age_ns: Option<u64>,
    /// Bytes to read; of a listener: connections to accept.
    recv_queue: u32,
    /// Bytes not acknowledged; of a listener: its backlog.
    send_queue: u32,
    /// Of a listener: connections whose handshake is under way.
    half_open: Option<u64>,
    /// The age of the oldest of them.
    half_open_oldest_ms: Option<u64>,
    timer: Option<TimerFields>,
    /// Index of the interface that it is bound to.
    interface: Option<u32>,
    /// By which `/proc/PID/fd` names it.
    inode: Option<u32>,
    /// `sk_shutdown`: 1 receiving and 2 sending is shut down, 3 both.
    shutdown: Option<u8>,
    bytes_sent: Option<u64>,
    bytes_received: Option<u64>,
    retransmits: Option<u32>,
    srtt_us: Option<u32>,
    last_sent_ms: Option<u32>,
    last_received_ms: Option<u32>,
}

#[derive(Serialize)]
struct TimerFields {
    kind: &'static str,
    expires_ms: u32,
    retransmits: u8,
}

fn json_line<'a>(row: &'a Row<'a>, utc: &'a mut Utc) -> Line<'a> {
    let socket = row.socket;
    let info = socket.info.unwrap_or_default();
    Line {
        kind: "socket",
        common: common(row, utc.at(row.asked.map_or(0, |asked| asked.wall_ns))),
        state: socket.state,
        age_ns: socket.age_ns(),
        recv_queue: socket.rqueue,
        send_queue: socket.wqueue,
        half_open: row.half_open,
        half_open_oldest_ms: row.half_open_oldest_ms,
        timer: socket.timer.map(|timer| TimerFields {
            kind: timer.kind.name(),
            expires_ms: timer.expires_ms,
            retransmits: timer.retransmits,
        }),
        interface: socket.interface,
        inode: socket.inode,
        shutdown: socket.shutdown,
        bytes_sent: info.bytes_sent,
        bytes_received: info.bytes_received,
        retransmits: info.retransmits,
        srtt_us: info.srtt_us,
        last_sent_ms: info.last_sent_ms,
        last_received_ms: info.last_received_ms,
    }
}

fn common<'a>(row: &'a Row<'a>, ts: Rfc3339<'a>) -> Common<'a> {
    let socket = row.socket;
    Common {
        ts,
        ts_ns: row.asked.map_or(0, |asked| asked.ts_ns),
        cookie: Some(socket.cookie),
        netns: Some(socket.netns),
        family: family(socket.is_ipv4()),
        laddr: socket.laddr,
        lport: socket.lport,
        raddr: socket.raddr,
        rport: socket.rport,
        service_port: row.service_port,
        role: json::role(row.role),
        owner: json::Owner::new(&row.owner),
        uid: socket.uid,
        cgroup: row.cgroup.as_deref(),
        cgroup_id: socket.cgroup,
    }
}

const CSV_TITLES: [&(dyn Display + Sync); 35] = [
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
    &"state",
    &"age_ns",
    &"recv_queue",
    &"send_queue",
    &"half_open",
    &"half_open_oldest_ms",
    &"timer_kind",
    &"timer_expires_ms",
    &"timer_retransmits",
    &"interface",
    &"inode",
    &"shutdown",
    &"bytes_sent",
    &"bytes_received",
    &"retransmits",
    &"srtt_us",
    &"last_sent_ms",
    &"last_received_ms",
];

fn csv_row(row: &Row<'_>, utc: &mut Utc, rows: &mut Rows, out: &mut dyn Write) -> io::Result<()> {
    let line = json_line(row, utc);
    let common = &line.common;
    let owner = common.owner.as_ref();
    let timer = line.timer.as_ref();
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
            &OrEmpty(owner.and_then(|owner| Some(Cell(owner.comm?.as_bytes())))),
            &OrEmpty(owner.map(|owner| owner.how)),
            &OrEmpty(common.uid),
            &OrEmpty(common.cgroup.map(|path| Cell(path.as_bytes()))),
            &OrEmpty(common.cgroup_id),
            &line.state,
            &OrEmpty(line.age_ns),
            &line.recv_queue,
            &line.send_queue,
            &OrEmpty(line.half_open),
            &OrEmpty(line.half_open_oldest_ms),
            &OrEmpty(timer.map(|timer| timer.kind)),
            &OrEmpty(timer.map(|timer| timer.expires_ms)),
            &OrEmpty(timer.map(|timer| timer.retransmits)),
            &OrEmpty(line.interface),
            &OrEmpty(line.inode),
            &OrEmpty(line.shutdown),
            &OrEmpty(line.bytes_sent),
            &OrEmpty(line.bytes_received),
            &OrEmpty(line.retransmits),
            &OrEmpty(line.srtt_us),
            &OrEmpty(line.last_sent_ms),
            &OrEmpty(line.last_received_ms),
        ],
        out,
    )
}

/// Where every description of a socket went: `seen = shown + filtered + superseded + rejected`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Accounting {
    /// Descriptions that the kernel gave.
    seen: u64,
    /// Sockets shown.
    shown: u64,
    /// Sockets that were not wanted. Listeners are always asked for: roles follow from them.
    filtered: u64,
    /// Descriptions of a socket that was described again later.
    superseded: u64,
    /// Descriptions that could not be read.
    rejected: u64,
}

impl Accounting {
    fn of(inventory: &Inventory, rows: &[Row<'_>]) -> Self {
        let sum = |part: fn(&DumpedNetns) -> u64| inventory.namespaces.iter().map(part).sum();
        Self {
            seen: sum(|asked| asked.dump.answers),
            shown: rows.len() as u64,
            filtered: (inventory.sockets.len() - rows.len()) as u64,
            superseded: inventory.superseded,
            rejected: sum(|asked| asked.dump.malformed),
        }
    }
}

/// The last line of JSON.
#[derive(Serialize)]
struct Summary<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    accounting: Accounting,
    /// Sockets shown in each state that there is one in.
    states: BTreeMap<String, u64>,
    namespaces: Vec<NamespaceFields<'a>>,
    /// What could not be asked.
    missing: &'a [String],
    #[serde(rename = "self")]
    cost: Cost,
}

#[derive(Serialize)]
struct NamespaceFields<'a> {
    netns: u32,
    name: &'a str,
    /// How often the kernel was asked again.
    repeats: u32,
    /// The kernel said to the last that sockets may be missing.
    inconsistent: bool,
}

impl<'a> Summary<'a> {
    fn new(inventory: &'a Inventory, rows: &[Row<'_>], cost: Cost) -> Self {
        let fields = |asked: &'a DumpedNetns| NamespaceFields {
            netns: asked.netns,
            name: &asked.name,
            repeats: asked.dump.repeats,
            inconsistent: asked.dump.inconsistent,
        };
        let states = by_state(rows).into_iter();
        Self {
            kind: "summary",
            accounting: Accounting::of(inventory, rows),
            states: states
                .map(|(state, count)| (state.to_string(), count))
                .collect(),
            namespaces: inventory.namespaces.iter().map(fields).collect(),
            missing: &inventory.missing,
            cost,
        }
    }
}

fn by_state(rows: &[Row<'_>]) -> BTreeMap<State, u64> {
    let mut states = BTreeMap::new();
    for row in rows {
        *states.entry(row.socket.state).or_default() += 1;
    }
    states
}

/// Tells a person what is not among the lines.
fn tell(inventory: &Inventory, rows: &[Row<'_>], err: &mut dyn Write) -> io::Result<()> {
    let books = Accounting::of(inventory, rows);
    let plural = if rows.len() == 1 { "" } else { "s" };
    write!(err, "{} socket{plural}", Count(books.shown))?;
    for (at, (state, count)) in by_state(rows).into_iter().enumerate() {
        let separator = if at == 0 { ":" } else { "," };
        write!(err, "{separator} {state} {}", Count(count))?;
    }
    writeln!(err)?;
    if !rows.is_empty() {
        writeln!(err, "{NO_AGES}")?;
    }
    if books.rejected > 0 {
        writeln!(
            err,
            "REJECTED {}: the kernel described sockets in a way that could not be read.",
            Count(books.rejected)
        )?;
    }
    for asked in inventory
        .namespaces
        .iter()
        .filter(|one| one.dump.inconsistent)
    {
        writeln!(
            err,
            "INCONSISTENT: sockets of network namespace {} ({}) came and went while they were listed; \
             some may be missing.",
            asked.netns, asked.name
        )?;
    }
    for missing in &inventory.missing {
        writeln!(err, "MISSING: {missing}.")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
