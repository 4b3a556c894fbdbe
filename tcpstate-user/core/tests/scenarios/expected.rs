//! The expected end of a scenario: a snapshot as text that people can read.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use tcpstate_common::record::AF_INET6;
use tcpstate_core::{
    event::SocketId,
    model::{
        Connection, Ended, Figures, GroupKey, ListenerInfo, Of, OldestMinisocket, Series, Snapshot,
        StateExit, Stay,
    },
    owner::{Comm, Holder, Owner},
    service::{Role, ServicePort},
};

use crate::text::{show, time};

/// The snapshot and the connections that ended, as text that people can read.
#[derive(Deserialize, Serialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    now: String,
    /// Those of the books that are not 0; `events` always.
    books: BTreeMap<String, u64>,
    all: ExpectedFigures,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    groups: BTreeMap<String, ExpectedFigures>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    histograms: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    listener: Vec<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    oldest_minisockets: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    connection: Vec<ExpectedConnection>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ended: Vec<ExpectedConnection>,
    /// The exits from a state without an event, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    left: Vec<String>,
}

#[derive(Deserialize, Serialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct ExpectedFigures {
    /// opened, established, closed, failed.
    counts: [u64; 4],
    transitions: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    causes: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    states: BTreeMap<String, u64>,
}

#[derive(Deserialize, Serialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct ExpectedConnection {
    id: String,
    local: String,
    remote: String,
    role: String,
    service_port: String,
    owner: String,
    states: Vec<String>,
    first: String,
    last: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    also: BTreeMap<String, String>,
}

impl Expected {
    pub fn of(snapshot: &Snapshot, ended: &[Ended], left: Vec<String>) -> Self {
        let Snapshot {
            now_ns,
            books,
            all,
            by: _,
            by_since_ns: _,
            groups,
            histograms,
            connections,
            listeners,
            oldest_minisockets,
        } = snapshot;
        // The rates have it in `all`.
        assert_eq!(books.opened, all.opened);
        let books: BTreeMap<String, u64> = [
            ("live", books.live),
            ("first_seen", books.first_seen),
            ("missing_inferred", books.missing_inferred),
            ("superseded", books.superseded),
            ("evicted", books.evicted),
            ("gaps", books.gaps),
            ("listeners_refused", books.listeners_refused),
            ("seeded", books.seeded),
            ("minisockets", books.minisockets),
            ("unfollowed", books.unfollowed),
        ]
        .into_iter()
        .filter(|&(_, count)| count != 0)
        .chain([("events", books.events)])
        .map(|(name, count)| (name.to_owned(), count))
        .collect();
        let groups_len = groups.len();
        let groups: BTreeMap<_, _> = groups
            .iter()
            .map(|group| (show_key(group.key), ExpectedFigures::of(&group.figures)))
            .collect();
        assert_eq!(groups.len(), groups_len, "two groups of the same name");
        let shown: BTreeMap<_, _> = histograms.iter().map(show_series).collect();
        assert_eq!(
            shown.len(),
            histograms.len(),
            "two histograms of the same name"
        );
        Self {
            now: time(*now_ns),
            books,
            all: ExpectedFigures::of(all),
            groups,
            histograms: shown,
            listener: listeners.iter().map(show_listener).collect(),
            oldest_minisockets: oldest_minisockets.iter().map(show_oldest).collect(),
            connection: connections.iter().map(ExpectedConnection::of).collect(),
            ended: ended.iter().map(ExpectedConnection::of_ended).collect(),
            left,
        }
    }
}

impl ExpectedFigures {
    fn of(figures: &Figures) -> Self {
        let Figures {
            transitions,
            opened,
            established,
            closed,
            failed,
            causes,
            states,
        } = figures;
        Self {
            counts: [*opened, *established, *closed, *failed],
            transitions: transitions
                .iter()
                .map(|transition| {
                    (
                        format!("{} -> {}", transition.from, transition.to),
                        transition.count,
                    )
                })
                .collect(),
            causes: causes
                .iter()
                .map(|(cause, count)| (cause.to_string(), *count))
                .collect(),
            states: states
                .iter()
                .map(|(state, count)| (state.to_string(), *count))
                .collect(),
        }
    }
}

impl ExpectedConnection {
    fn of(connection: &Connection) -> Self {
        let Connection {
            id,
            netns,
            family,
            laddr,
            lport,
            raddr,
            rport,
            role,
            service_port,
            owner,
            processes,
            uid,
            cgroup,
            states,
            truncated,
            first_ns,
            opened,
            last_ns,
            there_ns,
            handshake_ns,
        } = connection;
        let also = [
            ("netns", netns.map(|netns| netns.to_string())),
            ("family", (*family == AF_INET6).then(|| "ipv6".to_owned())),
            (
                "uid",
                uid.filter(|&uid| uid != 0).map(|uid| uid.to_string()),
            ),
            ("uid_known", uid.is_none().then(|| "no".to_owned())),
            ("cgroup", cgroup.map(|cgroup| cgroup.to_string())),
            ("truncated", truncated.then(|| "yes".to_owned())),
            ("opened", (!opened).then(|| "no".to_owned())),
            ("handshake", handshake_ns.map(time)),
            ("processes", processes.as_deref().map(show_processes)),
            ("there", there_ns.map(time)),
        ];
        Self {
            id: show_id(*id),
            local: show_end(*laddr, *lport),
            remote: show_end(*raddr, *rport),
            role: role.name().to_owned(),
            service_port: show(*service_port),
            owner: show_owner(owner),
            states: states.iter().map(show_stay).collect(),
            first: time(*first_ns),
            last: show(last_ns.map(time)),
            also: known(also),
        }
    }

    fn of_ended(ended: &Ended) -> Self {
        let Ended {
            connection,
            lifetime_ns,
            cause,
            reset_reason,
            goes_on,
            traffic,
        } = ended;
        let mut shown = Self::of(connection);
        shown.also.extend(known([
            ("lifetime", lifetime_ns.map(time)),
            ("cause", Some(cause.to_string())),
            (
                "reset_reason",
                reset_reason.map(|reason| reason.name().to_owned()),
            ),
            ("goes_on", goes_on.map(|state| state.to_string())),
            (
                "traffic",
                traffic.map(|traffic| {
                    format!(
                        "sent {} received {} retransmits {} srtt_us {}",
                        traffic.bytes_sent,
                        traffic.bytes_received,
                        traffic.retransmits,
                        show(traffic.srtt_us)
                    )
                }),
            ),
        ]));
        shown
    }
}

fn show_stay(stay: &Stay) -> String {
    let dwell = match (stay.dwell_ns, stay.at_least_ns) {
        (None, Some(at_least_ns)) => format!(">{}", time(at_least_ns)),
        (dwell_ns, _) => show(dwell_ns.map(time)),
    };
    let within = match stay.interval_ns {
        Some(interval_ns) => format!(" within {}", time(interval_ns)),
        None => String::new(),
    };
    format!("{} {dwell}{within}", stay.state)
}

fn known<const N: usize>(fields: [(&str, Option<String>); N]) -> BTreeMap<String, String> {
    fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

fn show_id(id: SocketId) -> String {
    match id {
        SocketId::Cookie(cookie) => format!("cookie {cookie}"),
        SocketId::Address(address) => format!("address {address}"),
    }
}

fn show_end(addr: Option<IpAddr>, port: Option<u16>) -> String {
    format!("{} {}", show(addr), show(port))
}

fn show_comm(comm: Comm) -> String {
    String::from_utf8_lossy(comm.as_bytes()).into_owned()
}

fn show_owner(owner: &Owner) -> String {
    let Owner { pid, comm, how } = owner;
    format!(
        "{}/{} {}",
        show(comm.map(show_comm)),
        show(*pid),
        how.name()
    )
}

/// Such as `nginx/7 opened, nginx/8 holds closed`.
fn show_processes(processes: &[Holder]) -> String {
    let show_one = |holder: &Holder| {
        let how = [
            (holder.opened, " opened"),
            (holder.holds, " holds"),
            (holder.closed, " closed"),
        ];
        let how = how.iter().filter(|(is_so, _)| *is_so);
        let how: String = how.map(|(_, word)| *word).collect();
        format!("{}/{}{how}", show(holder.comm.map(show_comm)), holder.pid)
    };
    let all: Vec<String> = processes.iter().map(show_one).collect();
    all.join(", ")
}

fn show_oldest(oldest: &OldestMinisocket) -> (String, String) {
    let bound = if oldest.is_exact { "" } else { "<" };
    let since = format!("{bound}{}", time(oldest.since_ns));
    (oldest.state.to_string(), since)
}

fn show_listener(listener: &ListenerInfo) -> BTreeMap<String, String> {
    let ListenerInfo {
        id,
        netns,
        laddr,
        lport,
        owner,
        holders,
        uid,
        cgroup,
        since_ns,
    } = listener;
    known([
        ("id", Some(show_id(*id))),
        ("netns", netns.map(|netns| netns.to_string())),
        ("local", Some(show_end(*laddr, Some(*lport)))),
        ("owner", Some(show_owner(owner))),
        ("processes", holders.as_deref().map(show_processes)),
        (
            "uid",
            uid.filter(|&uid| uid != 0).map(|uid| uid.to_string()),
        ),
        ("cgroup", cgroup.map(|cgroup| cgroup.to_string())),
        ("since", since_ns.map(time)),
    ])
}

fn show_port(port: ServicePort, role: Role) -> String {
    let port = match port {
        ServicePort::Port(port) => port.to_string(),
        ServicePort::Other => "other".to_owned(),
        ServicePort::Unknown => "unknown".to_owned(),
    };
    format!("{port} {}", role.name())
}

fn show_key(key: GroupKey) -> String {
    match key {
        GroupKey::Port(port, role) => show_port(port, role),
        GroupKey::Role(role) => role.name().to_owned(),
        GroupKey::Comm(comm) => show(comm.map(show_comm)),
        GroupKey::Pid(pid, comm) => format!("{}/{}", show(comm.map(show_comm)), show(pid)),
        GroupKey::Cgroup(cgroup)
        | GroupKey::Unit(cgroup)
        | GroupKey::Container(cgroup)
        | GroupKey::Pod(cgroup) => show(cgroup),
        GroupKey::Netns(netns) => show(netns),
        GroupKey::Raddr(raddr) => show(raddr),
        GroupKey::Prefix(prefix) => show(prefix),
        GroupKey::Cause(cause) => show(cause),
        GroupKey::Other => "other".to_owned(),
    }
}

fn show_series(series: &Series) -> (String, String) {
    let Series { of, key, histogram } = series;
    let of = match of {
        Of::Dwell(state) => format!("dwell {state}"),
        Of::Lifetime => "lifetime".to_owned(),
        Of::Handshake => "handshake".to_owned(),
    };
    let sum = u64::try_from(histogram.sum_ns()).map(time).ok();
    let outside = [("below", histogram.below()), ("above", histogram.above())]
        .into_iter()
        .filter(|&(_, count)| count != 0)
        .map(|(what, count)| format!(", {count} {what}"));
    let text = format!(
        "{}: {} to {}, sum {}{}",
        histogram.count(),
        show(histogram.min_ns().map(time)),
        show(histogram.max_ns().map(time)),
        show(sum),
        outside.collect::<String>()
    );
    (format!("{} {of}", show_key(*key)), text)
}

/// An exit from a state without an event, as the files have it.
pub fn show_exit(exit: &StateExit) -> String {
    let StateExit {
        cookie,
        state,
        dwell_ns,
        then,
        at_ns,
        never_found,
        interval_ns,
    } = exit;
    let never = if *never_found { ", never found" } else { "" };
    format!(
        "cookie {cookie} {state} {} then {} at {} within {}{never}",
        show(dwell_ns.map(time)),
        show(*then),
        time(*at_ns),
        show(interval_ns.map(time)),
    )
}
