//! The model, specified by example: each `tests/scenarios/*.toml` has events and the whole snapshot
//! that they make. The README.md there says how to read and write one.

#[path = "support/census_spec.rs"]
mod census_spec;

use std::{collections::BTreeMap, env, fs, net::IpAddr, path::Path};

use libtest_mimic::{Arguments, Failed, Trial};
use serde::{Deserialize, Serialize};
use tcpstate_common::{
    Record, State,
    record::{AF_INET, AF_INET6, flags},
};
use tcpstate_core::{
    event::{Event, SocketId},
    model::{
        By, Connection, Ended, Figures, GroupKey, Limits, ListenerInfo, Of, Series, Snapshot,
        Tracker,
    },
    owner::{Comm, Owner},
    service::{Role, ServicePort},
};

use census_spec::{CensusSpec, show_exit};

fn main() -> anyhow::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut trials = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .replace('-', "_");
            trials.push(Trial::test(name, move || check(&path)));
        }
    }
    anyhow::ensure!(!trials.is_empty(), "there are no scenarios");
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    /// What happens, and what to learn from it.
    #[expect(dead_code, reason = "for the reader")]
    about: String,
    #[serde(default)]
    limits: LimitsSpec,
    /// What rates are grouped by: port, role, comm or cgroup.
    by: Option<String>,
    /// What each event has that does not say otherwise.
    #[serde(default)]
    defaults: EventSpec,
    #[serde(default)]
    event: Vec<EventSpec>,
    /// What asking the kernel found in between.
    #[serde(default)]
    census: Vec<CensusSpec>,
    expect: Expected,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the names of `Limits`")]
struct LimitsSpec {
    max_connections: Option<usize>,
    max_ports: Option<usize>,
    max_listeners: Option<usize>,
    max_embryos: Option<usize>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(deny_unknown_fields)]
struct EventSpec {
    at: Option<String>,
    change: Option<String>,
    cookie: Option<u64>,
    address: Option<u64>,
    laddr: Option<IpAddr>,
    lport: Option<u16>,
    raddr: Option<IpAddr>,
    rport: Option<u16>,
    netns: Option<u32>,
    cgroup: Option<u64>,
    uid: Option<u32>,
    process: Option<String>,
    error: Option<u16>,
    flags: Option<Vec<String>>,
    /// The fields of the socket are not known, as in attach mode `tracepoint`.
    bare: Option<bool>,
    bytes_sent: Option<u64>,
    bytes_received: Option<u64>,
    retransmits: Option<u32>,
    srtt_us: Option<u32>,
}

/// The snapshot and the connections that ended, as text that people can read.
#[derive(Deserialize, Serialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct Expected {
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    connection: Vec<ExpectedConnection>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ended: Vec<ExpectedConnection>,
    /// What left a state without an event, in that order.
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

fn check(path: &Path) -> Result<(), Failed> {
    let scenario: Scenario = toml::from_str(&fs::read_to_string(path)?)?;
    let default = Limits::default();
    let spec = &scenario.limits;
    let limits = Limits {
        max_connections: spec.max_connections.unwrap_or(default.max_connections),
        max_ports: spec.max_ports.unwrap_or(default.max_ports),
        max_listeners: spec.max_listeners.unwrap_or(default.max_listeners),
        max_embryos: spec.max_embryos.unwrap_or(default.max_embryos),
        ..default
    };
    let by = match scenario.by.as_deref() {
        None | Some("port") => By::Port,
        Some("role") => By::Role,
        Some("comm") => By::Comm,
        Some("cgroup") => By::Cgroup,
        Some(other) => return Err(format!("by {other}?").into()),
    };
    let mut tracker = Tracker::new(limits).by(by);
    if !scenario.census.is_empty() {
        tracker.follow();
    }
    let (mut ended, mut left) = (Vec::new(), Vec::new());
    let mut censuses = scenario.census.iter().peekable();
    let mut take_in = |tracker: &mut Tracker, before_ns| -> Result<(), Failed> {
        while let Some(spec) = censuses.peek()
            && spec.at_ns()? <= before_ns
        {
            tracker.census(&spec.census()?, |one| left.push(show_exit(one)));
            censuses.next();
        }
        Ok(())
    };
    for spec in &scenario.event {
        let event = spec.event(&scenario.defaults)?;
        take_in(&mut tracker, event.ts_ns())?;
        ended.extend(tracker.apply(&event).ended());
    }
    take_in(&mut tracker, u64::MAX)?;
    let snapshot = tracker.snapshot();
    let actual = Expected {
        left,
        ..Expected::of(&snapshot, &ended)
    };
    if actual == scenario.expect {
        return Ok(());
    }
    let text = toml::to_string(&BTreeMap::from([("expect", &actual)]))?;
    Err(format!(
        "expected {:#?}\n\nbut it is, as the file would have it:\n\n{text}",
        scenario.expect
    )
    .into())
}

impl EventSpec {
    fn event(&self, defaults: &Self) -> Result<Event, Failed> {
        macro_rules! field {
            ($name:ident) => {
                self.$name.clone().or(defaults.$name.clone())
            };
        }
        let change = field!(change).ok_or("an event without `change`")?;
        let (old, new) = change
            .split_once(" -> ")
            .ok_or(format!("{change}: not `OLD -> NEW`"))?;
        let mut flag = 0;
        for name in field!(flags).unwrap_or_default() {
            flag |= match name.as_str() {
                "dead" => flags::DEAD,
                "done" => flags::DONE,
                "rcv_shutdown" => flags::RCV_SHUTDOWN,
                "send_shutdown" => flags::SEND_SHUTDOWN,
                other => return Err(format!("no flag is called {other}").into()),
            };
        }
        let cookie = self.cookie.or(defaults.cookie);
        // 0 says that there is none though the defaults have one.
        let cookie = cookie.filter(|&cookie| cookie != 0);
        if cookie.is_some() {
            flag |= flags::COOKIE;
        }
        if !field!(bare).unwrap_or(false) {
            flag |= flags::SOCKET;
        }
        let (mut pid, mut comm) = (0, [0; 16]);
        if let Some(process) = field!(process) {
            let (name, number) = process
                .split_once('/')
                .ok_or(format!("{process}: not `comm/pid`"))?;
            pid = number.parse()?;
            comm.get_mut(..name.len())
                .ok_or("a comm is too long")?
                .copy_from_slice(name.as_bytes());
            flag |= flags::PROCESS;
        }
        let traffic = (
            field!(bytes_sent),
            field!(bytes_received),
            field!(retransmits),
            field!(srtt_us),
        );
        if traffic != (None, None, None, None) {
            flag |= flags::TCP;
        }
        let (laddr, raddr) = (field!(laddr), field!(raddr));
        let is_v6 = laddr.or(raddr).is_some_and(|addr| addr.is_ipv6());
        Ok(Event::try_from(Record {
            ts_ns: parse_time(&field!(at).ok_or("an event without `at`")?)?,
            cookie: cookie.unwrap_or(0),
            skaddr: field!(address).unwrap_or(0),
            cgroup: field!(cgroup).unwrap_or(0),
            bytes_sent: traffic.0.unwrap_or(0),
            bytes_received: traffic.1.unwrap_or(0),
            laddr: wire(laddr, is_v6),
            raddr: wire(raddr, is_v6),
            netns: field!(netns).unwrap_or(0),
            uid: field!(uid).unwrap_or(0),
            pid,
            srtt_us: traffic.3.unwrap_or(0),
            retransmits: traffic.2.unwrap_or(0),
            lport: field!(lport).unwrap_or(0),
            rport: field!(rport).unwrap_or(0),
            error: field!(error).unwrap_or(0),
            cpu: 0,
            oldstate: parse_state(old)?,
            newstate: parse_state(new)?,
            family: if is_v6 { AF_INET6 } else { AF_INET },
            flags: flag,
            comm,
        })?)
    }
}

fn wire(addr: Option<IpAddr>, is_v6: bool) -> [u8; 16] {
    match addr {
        None if is_v6 => [0; 16],
        None => wire(Some(IpAddr::from([0; 4])), false),
        Some(IpAddr::V4(addr)) => addr.to_ipv6_mapped().octets(),
        Some(IpAddr::V6(addr)) => addr.octets(),
    }
}

fn parse_state(name: &str) -> Result<State, Failed> {
    match (State::from_name(name), name.parse()) {
        (Some(state), _) => Ok(state),
        (None, Ok(number)) => Ok(State(number)),
        (None, Err(_)) => Err(format!("no state is called {name}").into()),
    }
}

/// The units of time in these files, in nanoseconds.
const UNITS: [(&str, u64); 4] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
];

fn parse_time(text: &str) -> Result<u64, Failed> {
    let (unit, factor) = UNITS
        .iter()
        .find(|(unit, _)| text.ends_with(unit))
        .ok_or(format!("{text}: no unit"))?;
    let number: u64 = text.trim_end_matches(unit).parse()?;
    Ok(number * factor)
}

/// The largest unit that gives a whole number.
fn time(ns: u64) -> String {
    let fits = |&&(_, factor): &&(&str, u64)| ns.is_multiple_of(factor);
    let (unit, factor) = UNITS.iter().rev().find(fits).unwrap_or(&UNITS[0]);
    format!("{}{unit}", ns / factor)
}

impl Expected {
    fn of(snapshot: &Snapshot, ended: &[Ended]) -> Self {
        let Snapshot {
            now_ns,
            books,
            all,
            groups,
            histograms,
            connections,
            listeners,
        } = snapshot;
        let books: BTreeMap<String, u64> = [
            ("live", books.live),
            ("first_seen", books.first_seen),
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
            connection: connections.iter().map(ExpectedConnection::of).collect(),
            ended: ended.iter().map(ExpectedConnection::of_ended).collect(),
            left: Vec::new(),
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
            uid,
            cgroup,
            states,
            truncated,
            first_ns,
            opened,
            last_ns,
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
        ];
        Self {
            id: show_id(*id),
            local: show_end(*laddr, *lport),
            remote: show_end(*raddr, *rport),
            role: role.name().to_owned(),
            service_port: show(*service_port),
            owner: show_owner(owner),
            states: states
                .iter()
                .map(|stay| format!("{} {}", stay.state, show(stay.dwell_ns.map(time))))
                .collect(),
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
            goes_on,
            traffic,
        } = ended;
        let mut shown = Self::of(connection);
        shown.also.extend(known([
            ("lifetime", lifetime_ns.map(time)),
            ("cause", Some(cause.to_string())),
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

fn known<const N: usize>(fields: [(&str, Option<String>); N]) -> BTreeMap<String, String> {
    fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

fn show<T: ToString>(value: Option<T>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
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

fn show_listener(listener: &ListenerInfo) -> BTreeMap<String, String> {
    let ListenerInfo {
        id,
        netns,
        laddr,
        lport,
        owner,
        uid,
        cgroup,
        since_ns,
    } = listener;
    known([
        ("id", Some(show_id(*id))),
        ("netns", netns.map(|netns| netns.to_string())),
        ("local", Some(show_end(*laddr, Some(*lport)))),
        ("owner", Some(show_owner(owner))),
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
        GroupKey::Cgroup(cgroup) => show(cgroup),
        GroupKey::Other => "other".to_owned(),
    }
}

fn show_series(series: &Series) -> (String, String) {
    let Series {
        of,
        service_port,
        role,
        histogram,
    } = series;
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
    (format!("{} {of}", show_port(*service_port, *role)), text)
}
