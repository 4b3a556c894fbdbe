//! One connection as a line: what is known of it, and how JSON and CSV write it.

use std::{
    borrow::Cow,
    fmt::{self, Display},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use serde::Serialize;
use tcpstate_common::{State, record};

use crate::format::{
    csv::{OrEmpty, Rows},
    json::{self, Common, StateName, family, state},
    text::{Endpoint, OrDash},
    time::Rfc3339,
    units::Span,
};
use tcpstate_core::{
    cause::Cause,
    escape::Cell,
    event::SocketId,
    model::{Connection, Ended, Traffic},
};

/// A connection that has ended, or is open: then its lifetime and the time in its last state are
/// those so far.
pub(super) struct Line {
    pub(super) connection: Connection,
    /// Monotonic time of the end, or up to which the times are.
    pub(super) ts_ns: u64,
    pub(super) lifetime_ns: Option<u64>,
    /// Why it ended; `None` while it is open.
    pub(super) cause: Option<Cause>,
    goes_on: Option<State>,
    pub(super) traffic: Option<Traffic>,
    /// The path of its cgroup, where that is shown.
    pub(super) cgroup: Option<Arc<str>>,
}

impl Line {
    pub(super) fn ended(ended: Ended, ts_ns: u64) -> Self {
        Self {
            connection: ended.connection,
            ts_ns,
            lifetime_ns: ended.lifetime_ns,
            cause: Some(ended.cause),
            goes_on: ended.goes_on,
            traffic: ended.traffic,
            cgroup: None,
        }
    }

    pub(super) fn open(mut connection: Connection, now_ns: u64) -> Self {
        // An event can be later than the clock's reading: they come from several CPUs.
        let ts_ns = now_ns.max(connection.last_ns.unwrap_or(0));
        if let Some(last) = connection.states.last_mut() {
            last.dwell_ns = connection.last_ns.map(|last_ns| ts_ns - last_ns);
        }
        Self {
            ts_ns,
            lifetime_ns: connection
                .opened
                .then(|| ts_ns.saturating_sub(connection.first_ns)),
            cause: None,
            goes_on: None,
            traffic: None,
            cgroup: None,
            connection,
        }
    }

    const fn is_open(&self) -> bool {
        self.cause.is_none()
    }

    /// The role's name, if it is known.
    pub(super) fn role(&self) -> Option<&'static str> {
        json::role(self.connection.role)
    }

    /// How it ended, for people.
    pub(super) fn end(&self) -> Cow<'static, str> {
        if self.is_open() {
            return "(open)".into();
        }
        json::cause(self.cause).unwrap_or("-".into())
    }

    pub(super) fn local(&self) -> Endpoint {
        Endpoint(self.connection.laddr, self.connection.lport)
    }

    pub(super) fn remote(&self) -> Endpoint {
        Endpoint(self.connection.raddr, self.connection.rport)
    }

    pub(super) fn json<'a>(&'a self, ts: Rfc3339<'a>) -> Json<'a> {
        let connection = &self.connection;
        let is_ipv4 = connection.family == record::AF_INET
            || [connection.laddr, connection.raddr]
                .into_iter()
                .flatten()
                .any(|address| address.is_ipv4());
        // As the kernel has it where there is none yet.
        let address = |address: Option<IpAddr>| {
            address.unwrap_or(if is_ipv4 {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            })
        };
        let traffic = self.traffic.as_ref();
        Json {
            kind: "connection",
            common: Common {
                ts,
                ts_ns: self.ts_ns,
                cookie: match connection.id {
                    SocketId::Cookie(cookie) => Some(cookie),
                    SocketId::Address(_) => None,
                },
                netns: connection.netns,
                family: family(is_ipv4),
                laddr: address(connection.laddr),
                lport: connection.lport.unwrap_or(0),
                raddr: address(connection.raddr),
                rport: connection.rport.unwrap_or(0),
                service_port: connection.service_port,
                role: self.role(),
                owner: json::Owner::new(&connection.owner),
                uid: connection.uid,
                cgroup: self.cgroup.as_deref(),
                cgroup_id: connection.cgroup,
            },
            lifetime_ns: self.lifetime_ns,
            states: connection
                .states
                .iter()
                .map(|stay| Stay {
                    state: stay.state,
                    dwell_ns: stay.dwell_ns,
                    sampled: stay.sampled,
                    interval_ns: stay.interval_ns,
                })
                .collect(),
            truncated: connection.truncated,
            cause: json::cause(self.cause),
            ended: !self.is_open(),
            goes_on: self.goes_on.map(StateName),
            bytes_sent: traffic.map(|traffic| traffic.bytes_sent),
            bytes_received: traffic.map(|traffic| traffic.bytes_received),
            retransmits: traffic.map(|traffic| traffic.retransmits),
            srtt_us: traffic.and_then(|traffic| traffic.srtt_us),
            handshake_ns: connection.handshake_ns,
        }
    }

    /// The time in a state, all stays in it together; `None` if it was in none, or if the time in
    /// one of them is not known.
    fn dwell_ns(&self, state: State) -> Option<u64> {
        self.connection
            .states
            .iter()
            .filter(|stay| stay.state == state)
            .map(|stay| stay.dwell_ns)
            .reduce(|sum, dwell| Some(sum?.saturating_add(dwell?)))
            .flatten()
    }

    pub(super) fn csv(
        &self,
        ts: Rfc3339<'_>,
        rows: &mut Rows,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let json = self.json(ts);
        let common = &json.common;
        let owner = common.owner.as_ref();
        let path: Vec<String> = json
            .states
            .iter()
            .map(|stay| stay.state.to_string())
            .collect();
        let path = path.join(" ");
        let dwells = State::ALL.map(|state| OrEmpty(self.dwell_ns(state)));
        let comm = owner.and_then(|owner| owner.comm);
        let before: [&dyn Display; 18] = [
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
            &OrEmpty(comm.map(|name| Cell(name.as_bytes()))),
            &OrEmpty(owner.map(|owner| owner.how)),
            &OrEmpty(common.uid),
            &OrEmpty(common.cgroup.map(|path| Cell(path.as_bytes()))),
            &OrEmpty(common.cgroup_id),
            &OrEmpty(json.lifetime_ns),
        ];
        let sampled: Vec<String> = json
            .states
            .iter()
            .filter(|stay| stay.sampled)
            .map(|stay| stay.state.to_string())
            .collect();
        let sampled = sampled.join(" ");
        let after: [&dyn Display; 10] = [
            &json.truncated,
            &OrEmpty(json.cause.as_ref()),
            &json.ended,
            &OrEmpty(self.goes_on),
            &OrEmpty(json.bytes_sent),
            &OrEmpty(json.bytes_received),
            &OrEmpty(json.retransmits),
            &OrEmpty(json.srtt_us),
            &OrEmpty(json.handshake_ns),
            &sampled,
        ];
        let cells: Vec<&dyn Display> = before
            .into_iter()
            .chain([&path as &dyn Display])
            .chain(dwells.iter().map(|dwell| dwell as &dyn Display))
            .chain(after)
            .collect();
        rows.row(&cells, out)
    }
}

/// Writes the titles of the rows: `states` is the path through the states, `STATE_ns` the time in one,
/// `sampled` the states whose end was looked for at intervals.
pub(super) fn csv_titles(rows: &mut Rows, out: &mut dyn Write) -> io::Result<()> {
    const BEFORE: [&str; 19] = [
        "ts",
        "ts_ns",
        "cookie",
        "netns",
        "family",
        "laddr",
        "lport",
        "raddr",
        "rport",
        "service_port",
        "role",
        "owner_pid",
        "owner_comm",
        "owner_how",
        "uid",
        "cgroup",
        "cgroup_id",
        "lifetime_ns",
        "states",
    ];
    const AFTER: [&str; 10] = [
        "truncated",
        "cause",
        "ended",
        "goes_on",
        "bytes_sent",
        "bytes_received",
        "retransmits",
        "srtt_us",
        "handshake_ns",
        "sampled",
    ];
    let dwells = State::ALL.map(|state| format!("{state}_ns"));
    let titles: Vec<&dyn Display> = BEFORE
        .iter()
        .map(|title| title as &dyn Display)
        .chain(dwells.iter().map(|title| title as &dyn Display))
        .chain(AFTER.iter().map(|title| title as &dyn Display))
        .collect();
    rows.row(&titles, out)
}

/// The states and the time in each, for people.
pub(super) struct Path<'a>(pub(super) &'a Line);

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, stay) in self.0.connection.states.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            let about = if stay.sampled && stay.dwell_ns.is_some() {
                "~"
            } else {
                ""
            };
            write!(
                f,
                "{comma}{} {about}{}",
                stay.state,
                OrDash(stay.dwell_ns.map(Span))
            )?;
        }
        if self.0.is_open() {
            f.write_str(" so far")?;
        }
        if let Some(state) = self.0.goes_on {
            write!(f, ", then {state}")?;
        }
        if self.0.connection.truncated {
            f.write_str(" (too many states: some are left out)")?;
        }
        Ok(())
    }
}

/// A line of JSON. The fields of CSV have the same names.
#[derive(Serialize)]
pub(super) struct Json<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    common: Common<'a>,
    /// From the first transition to the last; of an open one, to now.
    lifetime_ns: Option<u64>,
    states: Vec<Stay>,
    /// There were more states than are kept.
    truncated: bool,
    cause: Option<Cow<'static, str>>,
    /// `false`: still open, and all times are those so far.
    ended: bool,
    /// The state that the kernel keeps it in from now on, unseen.
    goes_on: Option<StateName>,
    bytes_sent: Option<u64>,
    bytes_received: Option<u64>,
    retransmits: Option<u32>,
    srtt_us: Option<u32>,
    /// A client's time in `SYN_SENT`, a server's first round trip.
    handshake_ns: Option<u64>,
}

#[derive(Serialize)]
struct Stay {
    #[serde(serialize_with = "state")]
    state: State,
    dwell_ns: Option<u64>,
    /// Its end was not seen but looked for at intervals.
    sampled: bool,
    /// How long the interval was in which it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    interval_ns: Option<u64>,
}
