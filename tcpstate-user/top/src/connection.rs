//! One connection: its way through the states, to scale, and what is known of it.

use ratatui::text::Line;
use tcpstate_core::{
    catalogue::ConnectionRow,
    escape::Printable,
    event::SocketId,
    explain,
    model::Stay,
    owner::{Comm, Owner},
    service::Role,
    units::{Bytes, Counted, Span as Time},
};

use crate::{
    connections,
    frame::{labelled, wrapped},
    look::Look,
};

/// The lines about a connection, which was `known` so when it was seen last.
pub(crate) fn lines(
    look: &Look,
    known: &ConnectionRow,
    id: SocketId,
    width: usize,
) -> Vec<Line<'static>> {
    let theme = look.options.theme;
    let now = connections::find(look, id);
    let row = now.as_ref().unwrap_or(known);
    let common = &row.common;
    let end = |address: Option<std::net::IpAddr>, port: Option<u16>| {
        let address = address.map_or_else(|| "-".to_owned(), |address| address.to_string());
        let port = port.map_or_else(|| "-".to_owned(), |port| port.to_string());
        if address.contains(':') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        }
    };
    let ends = format!(
        "{} -> {}",
        end(row.laddr, row.lport),
        end(row.raddr, row.rport)
    );
    let mut lines: Vec<Line<'static>> = wrapped(&ends, width)
        .into_iter()
        .map(|line| Line::styled(line, theme.title()))
        .collect();
    let mut entry = |label: &str, text: &str| lines.extend(labelled(label, text, width));
    if now.is_none() {
        entry(
            "",
            "It has ended, or is not among those that are shown any more.",
        );
    }
    let side = match (common.role, common.service_port) {
        (Role::Unknown, _) => "not known".to_owned(),
        (role, Some(port)) => format!("{} of port {port}", role.name()),
        (role, None) => role.name().to_owned(),
    };
    entry("Side", &side);
    entry("Owner", &owner(&common.owner));
    if let Some(processes) = &row.processes {
        let others = processes.iter().map(|holder| {
            let comm = holder.comm.as_ref().map_or(&b"-"[..], Comm::as_bytes);
            format!("{} {}", Printable(comm), holder.pid)
        });
        entry("Also", &others.collect::<Vec<_>>().join(", "));
    }
    let cgroup = match (&common.cgroup, common.cgroup_id) {
        (Some(cgroup), _) => Printable(cgroup.path().as_bytes()).to_string(),
        (None, Some(id)) => id.to_string(),
        (None, None) => "-".to_owned(),
    };
    entry("Cgroup", &cgroup);
    let netns = common
        .netns
        .map_or_else(|| "-".to_owned(), |netns| netns.to_string());
    let uid = common
        .uid
        .map_or_else(|| "-".to_owned(), |uid| uid.to_string());
    let cookie = common
        .cookie
        .map_or_else(|| "-".to_owned(), |cookie| format!("sk:{cookie:x}"));
    entry("Socket", &format!("{cookie}, netns {netns}, uid {uid}"));
    if let Some(ns) = row.handshake_ns {
        entry("Handshake", &Time(ns).to_string());
    }
    entry("Traffic", &traffic(look, row));
    let lifetime = row.lifetime_ns.map_or_else(
        || "it was there before the capture".to_owned(),
        |ns| Time(ns).to_string(),
    );
    entry("Lifetime", &lifetime);
    lines.push(Line::raw(bar(look, row, width)));
    for (at, stay) in row.states.iter().enumerate() {
        let sign = theme.bar(at % 2 == 0);
        let so_far = if at + 1 == row.states.len() {
            " so far"
        } else {
            ""
        };
        lines.push(Line::raw(format!(
            "{sign} {:12}{}{so_far}",
            stay.state.to_string(),
            time(stay)
        )));
    }
    if row.truncated {
        lines.push(Line::raw("There were more states than are kept."));
    }
    lines.extend(explanation(row, width));
    lines
}

/// Its counters, with the time since they were read.
fn traffic(look: &Look, row: &ConnectionRow) -> String {
    let (Some(traffic), Some(snapshot)) = (row.traffic, look.shown().snapshot.as_deref()) else {
        return "not known".to_owned();
    };
    let round_trip = traffic.srtt_us.map_or_else(String::new, |us| {
        format!(", round trip {}", Time(u64::from(us) * 1_000))
    });
    let now_ns = snapshot.tracker.now_ns.max(snapshot.interval.end_ns);
    let ago = Time(now_ns.saturating_sub(snapshot.counters.ts_ns));
    format!(
        "{} sent, {} received, {} sent again{round_trip}; {ago} ago",
        Bytes(traffic.bytes_sent),
        Bytes(traffic.bytes_received),
        Counted(traffic.retransmits.into(), "segment"),
    )
}

/// The meaning of its present state.
fn explanation(row: &ConnectionRow, width: usize) -> Vec<Line<'static>> {
    let Some(text) = row.states.last().and_then(|stay| explain::of(stay.state)) else {
        return Vec::new();
    };
    let mut lines = vec![Line::raw("")];
    for (label, text) in [("", text.is), ("Lasts", text.lasts), ("Many", text.many)] {
        lines.extend(labelled(label, text, width));
    }
    lines
}

fn owner(owner: &Owner) -> String {
    let comm = owner.comm.as_ref();
    let comm = comm.map(|comm| Printable(comm.as_bytes()).to_string());
    match (comm, owner.pid) {
        (None, None) => "not known".to_owned(),
        (comm, pid) => {
            let comm = comm.unwrap_or_else(|| "-".to_owned());
            let pid = pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            format!("{comm} {pid} ({})", owner.how.name())
        }
    }
}

fn time(stay: &Stay) -> String {
    match (stay.dwell_ns, stay.at_least_ns) {
        (Some(ns), _) if stay.sampled => format!("~{}", Time(ns)),
        (Some(ns), _) => Time(ns).to_string(),
        (None, Some(ns)) => format!(">{}", Time(ns)),
        (None, None) => "-".to_owned(),
    }
}

/// The states as parts of a line, to the scale of their times. Each has a sign at least.
fn bar(look: &Look, row: &ConnectionRow, width: usize) -> String {
    let times = row.states.iter();
    let times: Vec<u128> = times
        .map(|stay| stay.dwell_ns.or(stay.at_least_ns).unwrap_or(0).into())
        .collect();
    let all: u128 = times.iter().sum::<u128>().max(1);
    let room = width.saturating_sub(times.len()) as u128;
    let mut text = String::new();
    for (at, time) in times.iter().enumerate() {
        // At most `room`.
        let signs = usize::try_from(time * room / all).unwrap_or(0);
        let sign = look.options.theme.bar(at % 2 == 0);
        text.extend(std::iter::repeat_n(sign, 1 + signs));
    }
    text
}
