//! `tcpstate ls`: the sockets there are now.
//!
//! It shows an inventory that was taken before; nothing here asks the kernel. A dump does not say since when
//! a socket is in its state: the age is only known where a timer was set when the state began. For most others
//! the last packet gives a bound.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    io::{self, Write},
};

use serde::Serialize;
use tcpstate_common::State;
use tcpstate_core::{
    books::Cost,
    catalogue::{Common, SOCKET, SocketRow, TimerRow},
    escape::Entry,
    expression::{Expression, Truth},
    filter::StateSet,
    inventory::{DumpedNetns, Inventory, Socket, Timer, TimerKind},
    options::Format,
    owner::Holder,
    service::Role,
};

use crate::{
    format::{
        json::Lines,
        text::{Cell, Column, Columns, Layout, OrDash, Records},
        units::{Count, Counted, Span},
    },
    printer::RecordPrinter,
    settings::Settings,
};

/// The options of `ls`.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub struct Options {
    /// The settings that all views share.
    pub settings: Settings,
    /// Only sockets in these states.
    pub states: Option<StateSet>,
    /// Only sockets for which this is true.
    pub expression: Expression,
    /// The columns of text.
    pub columns: Columns<SocketRow>,
    /// Columns of text with the owner.
    pub with_owner: bool,
    /// A column of text with the cgroup.
    pub with_cgroup: bool,
    /// The fields of `TCP_INFO`, in text as columns.
    pub with_info: bool,
    /// Name each namespace that could not be dumped.
    pub verbose: bool,
}

/// The reason for missing ages.
const NO_AGES: &str = "The kernel does not record when a state began: AGE is `-`, or `>` and a lower bound by the \
    last packet. `tcpstate trace` measures ages, from the moment it runs.";

/// Writes the sockets that pass the filters to `out`, and the accounting: in JSON as the last line, else to
/// `err`.
pub fn write(
    inventory: &Inventory,
    options: &Options,
    cost: impl FnOnce() -> Cost,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<()> {
    let selected = selected(inventory, options);
    let rows = &selected.rows;
    let format = options.settings.format;
    let mut printer = match format {
        Format::Text => RecordPrinter::Text(text(rows, options)?),
        Format::Json | Format::Csv => {
            RecordPrinter::records(&options.settings, &LAYOUT, &options.columns, &[])
        }
    };
    printer.titles(0, out)?;
    for row in rows {
        printer.write(row, out)?;
    }
    if format == Format::Json {
        return Lines::default().write(&Summary::new(inventory, &selected, cost()), out);
    }
    let shows_ages = matches!(&printer, RecordPrinter::Text(records) if records.shows("AGE"));
    let note = (shows_ages && !rows.is_empty()).then_some(NO_AGES);
    // Before the accounting, in case both go to one terminal.
    out.flush()?;
    write_accounting(inventory, &selected, note, options.verbose, err)
}

/// The table of these sockets.
fn text(rows: &[SocketRow], options: &Options) -> io::Result<Records<SocketRow>> {
    let settings = &options.settings;
    let is_terminal = settings.width.is_some();
    let first = rows.first().map(|row| row.common.netns);
    let several = rows.iter().any(|row| Some(row.common.netns) != first);
    // With all that may be asked for, a terminal would have no room for the rest.
    let fits_info = options.with_info && is_terminal;
    let layout = match (fits_info, options.with_owner) {
        (false, _) => &LAYOUT,
        (true, false) => &WITH_INFO,
        (true, true) => &WITH_INFO_AND_OWNER,
    };
    let asked = [
        // Off a terminal the columns do not depend on what there is.
        (
            settings.several_netns && (several || !is_terminal),
            &["NETNS"][..],
        ),
        (options.with_owner && !fits_info, &["PID", "COMM"]),
        // A terminal may have no room for it.
        (options.with_cgroup && !is_terminal, &["CGROUP"]),
        (
            options.with_info && !fits_info,
            &["SENT", "RECEIVED", "RETR", "RTT", "LAST-PKT"],
        ),
    ]
    .into_iter()
    .filter(|&(is_asked, _)| is_asked)
    .flat_map(|(_, titles)| titles.iter().copied())
    .collect::<Vec<_>>();
    Records::of_rows(layout, &options.columns, &asked, rows, settings)
}

/// The sockets that pass the filters.
struct Selected {
    rows: Vec<SocketRow>,
    /// Number of those left out because what the expression asks of them is not known.
    undecided: u64,
}

/// The sockets that pass the filters, in order: by namespace, listeners first, by state, by service port.
fn selected(inventory: &Inventory, options: &Options) -> Selected {
    let mut undecided = 0;
    let half_open_known = options
        .states
        .is_none_or(|states| states.contains(State::SYN_RECV));
    let with_info = options.with_info
        || options.expression.needs_info()
        || !matches!(options.columns, Columns::Usual);
    let mut rows: Vec<SocketRow> = inventory
        .sockets
        .iter()
        .filter(|socket| options.states.is_none_or(|states| socket.is_in(states)))
        .map(|socket| row(inventory, socket, half_open_known, with_info))
        .filter(|row| {
            let truth = options.expression.judge(row);
            undecided += u64::from(truth == Truth::Unknown);
            truth == Truth::Yes
        })
        .collect();
    rows.sort_by_cached_key(|row| {
        let socket = &row.common;
        (
            socket.netns,
            Reverse(row.state == State::LISTEN),
            row.state,
            socket.service_port.is_none(),
            socket.service_port,
            (socket.laddr, socket.lport, socket.raddr, socket.rport),
            socket.cookie,
        )
    });
    Selected { rows, undecided }
}

/// The row of a socket of an inventory that has half-open connections too, with all that is known of it.
pub fn socket_row(inventory: &Inventory, socket: &Socket) -> SocketRow {
    row(inventory, socket, true, true)
}

/// The row of a socket.
fn row(
    inventory: &Inventory,
    socket: &Socket,
    half_open_known: bool,
    with_info: bool,
) -> SocketRow {
    let info = socket.info.filter(|_| with_info).unwrap_or_default();
    let role = inventory.listening.role(socket);
    let half_open = (socket.state == State::LISTEN && half_open_known)
        .then(|| inventory.listening.half_open(socket));
    let asked = inventory.dumped(socket.netns);
    let owner = inventory.owner(socket);
    let holders = inventory.holders(socket);
    let others = holders.iter().any(|holder| Some(holder.pid) != owner.pid);
    SocketRow {
        common: Common {
            wall_ns: asked.map_or(0, |asked| asked.wall_ns),
            ts_ns: asked.map_or(0, |asked| asked.ts_ns),
            cookie: Some(socket.cookie),
            netns: Some(socket.netns),
            is_ipv4: socket.is_ipv4(),
            laddr: socket.laddr,
            lport: socket.lport,
            raddr: socket.raddr,
            rport: socket.rport,
            service_port: role.service_port(socket.lport, socket.rport),
            role,
            owner,
            uid: socket.uid,
            cgroup: inventory.names.cgroup(socket.cgroup),
            cgroup_id: socket.cgroup,
        },
        state: socket.state,
        accepted: accepted(socket, role),
        age: inventory.age(socket),
        recv_queue: socket.rqueue,
        send_queue: socket.wqueue,
        half_open: half_open.map(|all| all.count),
        half_open_oldest: half_open.and_then(|all| all.oldest),
        timer: socket.timer.map(timer_row),
        interface: socket.interface,
        inode: socket.inode,
        shutdown: socket.shutdown,
        bytes_sent: info.bytes_sent,
        bytes_received: info.bytes_received,
        retransmits: info.retransmits,
        srtt_us: info.srtt_us,
        last_sent_ms: info.last_sent_ms,
        last_received_ms: info.last_received_ms,
        last_packet_ms: socket.last_packet_ms(),
        processes: others.then(|| Holder::list(None, holders)),
    }
}

/// Whether a process has accepted a server's connection.
fn accepted(socket: &Socket, role: Role) -> Option<bool> {
    match socket.state {
        State::LISTEN | State::SYN_RECV => None,
        _ if socket.is_unaccepted() => Some(false),
        _ => (role == Role::Server && socket.inode.is_some()).then_some(true),
    }
}

const fn timer_row(timer: Timer) -> TimerRow {
    TimerRow {
        kind: timer.kind.name(),
        number: match timer.kind {
            TimerKind::Other(number) => Some(number),
            _ => None,
        },
        expires_ms: timer.expires_ms,
        retransmits: timer.retransmits,
    }
}

/// The columns of the lines for people.
pub static LAYOUT: Layout<SocketRow> = layout(&[
    // 40 columns.
    ("STATE", 11),
    ("REMOTE", 21),
    ("LOCAL", 6),
    // 80 columns.
    ("LOCAL", 21),
    ("RECV-Q", 6),
    ("SEND-Q", 6),
    // More.
    ("LOCAL", 28),
    ("REMOTE", 28),
    ("LOCAL", 34),
    ("REMOTE", 34),
    ("LOCAL", 47),
    ("REMOTE", 47),
    ("AGE", 8),
    ("TIMER", 20),
    ("ROLE", 6),
    ("UID", 5),
    ("SERVICE", 7),
    ("CGROUP", 100),
    ("COOKIE", 11),
]);

/// The steps with `--info`; these columns are the first beyond 80 characters.
macro_rules! with_info {
    ($($beyond:expr),*) => {
        layout(&[
            ("STATE", 11),
            ("REMOTE", 21),
            ("LOCAL", 6),
            ("SENT", 8),
            ("RECEIVED", 8),
            ("AGE", 8),
            ("RETR", 4),
            ("RTT", 7),
            // 80 columns.
            $($beyond,)*
            ("LAST-PKT", 8),
            ("LOCAL", 21),
            ("RECV-Q", 6),
            ("SEND-Q", 6),
            ("LOCAL", 47),
            ("REMOTE", 47),
            ("TIMER", 20),
            ("ROLE", 6),
            ("UID", 5),
            ("SERVICE", 7),
            ("CGROUP", 100),
            ("COOKIE", 11),
        ])
    };
}

/// The same on a terminal, with `--info`.
static WITH_INFO: Layout<SocketRow> = with_info!();

/// The same, with the owner.
static WITH_INFO_AND_OWNER: Layout<SocketRow> = with_info!(("PID", 7), ("COMM", 15));

/// The columns of `ls`; the steps by which a terminal has room for them.
const fn layout(steps: &'static [(&'static str, usize)]) -> Layout<SocketRow> {
    Layout {
        command: "ls",
        cells: &CELLS,
        usual: &[
            "STATE", "AGE", "ROLE", "SERVICE", "RECV-Q", "SEND-Q", "LOCAL", "REMOTE", "UID",
            "TIMER",
        ],
        steps,
        fields: &SOCKET,
    }
}

static CELLS: [Cell<SocketRow>; 23] = [
    Cell::COOKIE,
    Cell::field(Column::right("NETNS", 10), SOCKET.column("netns")),
    Cell::field(Column::left("STATE", 11), SOCKET.column("state")),
    Cell::composed(
        Column::right("AGE", 8),
        "`age_ns`, or `>` and `age_at_least_ns`",
        push_age,
    ),
    Cell::field(Column::left("ROLE", 6), SOCKET.column("role")),
    Cell::field(Column::right("SERVICE", 7), SOCKET.column("service_port")),
    Cell::field(Column::right("RECV-Q", 6), SOCKET.column("recv_queue")),
    Cell::field(Column::right("SEND-Q", 6), SOCKET.column("send_queue")),
    Cell::LOCAL,
    Cell::REMOTE,
    Cell::field(Column::right("UID", 5), SOCKET.column("uid")),
    Cell::composed(
        Column::right("PID", 7),
        "`owner.pid`; `-` where nobody has accepted the connection",
        push_pid,
    ),
    Cell::composed(
        Column::left("COMM", 15),
        "`owner.comm`; `not accepted` where nobody has accepted the connection",
        push_comm,
    ),
    Cell::path(Column::left("CGROUP", 15), SOCKET.column("cgroup")),
    Cell::UNIT,
    Cell::CONTAINER,
    Cell::POD,
    Cell::field(Column::right("SENT", 8), SOCKET.column("bytes_sent")),
    Cell::field(
        Column::right("RECEIVED", 8),
        SOCKET.column("bytes_received"),
    ),
    Cell::field(Column::right("RETR", 4), SOCKET.column("retransmits")),
    Cell::composed(Column::right("RTT", 7), "`srtt_us`", |row, _, line| {
        let srtt = row.srtt_us.map(|us| Span(u64::from(us) * 1_000));
        write!(line, "{}", OrDash(srtt))
    }),
    Cell::composed(
        Column::right("LAST-PKT", 8),
        "`last_packet_ms`",
        |row, _, line| {
            let span = row.last_packet_ms.map(|ms| Span(u64::from(ms) * 1_000_000));
            write!(line, "{}", OrDash(span))
        },
    ),
    Cell::composed(
        Column::left("TIMER", 20),
        "`timer`: its kind, the time until it expires, and its retransmits",
        push_timer,
    ),
];

fn push_pid(row: &SocketRow, _room: usize, line: &mut Vec<u8>) -> io::Result<()> {
    let pid = row.common.owner.pid;
    let pid = pid.filter(|_| row.accepted != Some(false));
    write!(line, "{}", OrDash(pid))
}

/// The name of the owner, or that there is none yet: the listener's may never take it.
fn push_comm(row: &SocketRow, _room: usize, line: &mut Vec<u8>) -> io::Result<()> {
    if row.accepted == Some(false) {
        return line.write_all(b"not accepted");
    }
    let comm = row.common.owner.comm.as_ref();
    write!(line, "{}", OrDash(comm.map(|comm| Entry(comm.as_bytes()))))
}

/// The time in the state as one cell: `59.9 s`, `>17.2 s`.
fn push_age(row: &SocketRow, _room: usize, line: &mut Vec<u8>) -> io::Result<()> {
    match row.age {
        Some(age) if age.is_exact => write!(line, "{}", Span(age.at_least_ns)),
        Some(age) if age.at_least_ns > 0 => write!(line, ">{}", Span(age.at_least_ns)),
        _ => line.write_all(b"-"),
    }
}

/// The timer as one cell: `timewait 59.9 s`, `retransmit 204 ms (2)`.
fn push_timer(row: &SocketRow, _room: usize, line: &mut Vec<u8>) -> io::Result<()> {
    let Some(timer) = row.timer else {
        return line.write_all(b"-");
    };
    match timer.number {
        Some(number) => write!(line, "{number}")?,
        None => line.write_all(timer.kind.as_bytes())?,
    }
    write!(line, " {}", Span(u64::from(timer.expires_ms) * 1_000_000))?;
    if timer.retransmits > 0 {
        write!(line, " ({})", timer.retransmits)?;
    }
    Ok(())
}

/// The accounting of entries: `seen = shown + filtered + superseded + rejected`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Accounting {
    /// Entries in the dumps.
    seen: u64,
    /// Sockets shown.
    shown: u64,
    /// Sockets that did not pass the filters. Dumps always have the listeners, because roles follow from them.
    filtered: u64,
    /// Those of them that were left out because what the expression asks of them is not known.
    undecided: u64,
    /// Entries of a socket that has a later entry.
    superseded: u64,
    /// Entries that could not be decoded.
    rejected: u64,
}

impl Accounting {
    fn of(inventory: &Inventory, selected: &Selected) -> Self {
        let shown = selected.rows.len();
        let sum = |part: fn(&DumpedNetns) -> u64| inventory.namespaces.iter().map(part).sum();
        Self {
            seen: sum(|asked| asked.dump.answers),
            shown: shown as u64,
            filtered: (inventory.sockets.len() - shown) as u64,
            undecided: selected.undecided,
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
    /// Whether nothing is known to be missing.
    complete: bool,
    accounting: Accounting,
    /// Sockets shown by state.
    states: BTreeMap<String, u64>,
    namespaces: Vec<NamespaceFields<'a>>,
    /// The namespaces that could not be dumped.
    missing: Vec<String>,
    #[serde(rename = "self")]
    cost: Cost,
}

#[derive(Serialize)]
struct NamespaceFields<'a> {
    netns: u32,
    name: &'a str,
    /// The number of repeated dumps.
    repeats: u32,
    /// Whether the last dump is marked as inconsistent: sockets may be missing.
    inconsistent: bool,
}

impl<'a> Summary<'a> {
    fn new(inventory: &'a Inventory, selected: &Selected, cost: Cost) -> Self {
        let fields = |asked: &'a DumpedNetns| NamespaceFields {
            netns: asked.netns,
            name: &asked.name,
            repeats: asked.dump.repeats,
            inconsistent: asked.dump.inconsistent,
        };
        let states = by_state(&selected.rows).into_iter();
        Self {
            kind: "summary",
            complete: inventory.is_complete(),
            accounting: Accounting::of(inventory, selected),
            states: states
                .map(|(state, count)| (state.to_string(), count))
                .collect(),
            namespaces: inventory.namespaces.iter().map(fields).collect(),
            missing: inventory.messages(),
            cost,
        }
    }
}

fn by_state(rows: &[SocketRow]) -> BTreeMap<State, u64> {
    let mut states = BTreeMap::new();
    for row in rows {
        *states.entry(row.state).or_default() += 1;
    }
    states
}

/// Writes the accounting for people.
fn write_accounting(
    inventory: &Inventory,
    selected: &Selected,
    note: Option<&str>,
    verbose: bool,
    err: &mut dyn Write,
) -> io::Result<()> {
    let books = Accounting::of(inventory, selected);
    let rows = &selected.rows;
    write!(err, "{}", Counted(books.shown, "socket"))?;
    for (at, (state, count)) in by_state(rows).into_iter().enumerate() {
        let separator = if at == 0 { ":" } else { "," };
        write!(err, "{separator} {state} {}", Count(count))?;
    }
    writeln!(err)?;
    if let Some(note) = note {
        writeln!(err, "{note}")?;
    }
    if books.undecided > 0 {
        writeln!(
            err,
            "UNDECIDED {}: whether they match depends on what is not known, such as the owner of a socket that no \
             process has open.",
            Counted(books.undecided, "socket")
        )?;
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
    if verbose {
        for message in inventory.messages() {
            writeln!(err, "MISSING: {message}.")?;
        }
        return Ok(());
    }
    if let Some(undumped) = inventory.undumped_in_short() {
        let more = if inventory.undumped.len() > 1 {
            " (-v names each)"
        } else {
            ""
        };
        writeln!(err, "MISSING: {undumped}{more}.")?;
    }
    let hidden_files = inventory.hidden_files_message();
    for missing in inventory.missing.iter().chain(&hidden_files) {
        writeln!(err, "MISSING: {missing}.")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
