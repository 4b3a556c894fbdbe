//! The fields of a connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tcpstate_common::{State, record};

use super::{
    column::{Column, Formats, Kind, Table, Value},
    common::{Common, common, list, processes},
    transition::{Counted, reset_reason, traffic},
};
use crate::{
    cause::{Cause, ResetReason},
    event::SocketId,
    model::{Connection, Ended, Stay, Traffic},
    owner::Holders,
    present::RunSnapshot,
};

/// One connection that has ended, or is open: then its times are those so far.
#[derive(Clone, Debug)]
pub struct ConnectionRow {
    /// When, and which socket.
    pub common: Common,
    /// Local address; `None` before it is chosen.
    pub laddr: Option<IpAddr>,
    /// Local port; `None` before it is chosen.
    pub lport: Option<u16>,
    /// Remote address; `None` where it is not known yet.
    pub raddr: Option<IpAddr>,
    /// Remote port; `None` where it is not known yet.
    pub rport: Option<u16>,
    /// Monotonic time of the first transition that was seen.
    pub first_ns: u64,
    /// From the first transition to the last; of an open one, to now.
    pub lifetime_ns: Option<u64>,
    /// The states that it went through.
    pub states: Vec<Stay>,
    /// There were more states than are kept.
    pub truncated: bool,
    /// Why it ended; `None` while it is open.
    pub cause: Option<Cause>,
    /// Why this kernel reset it.
    pub reset_reason: Option<ResetReason>,
    /// The state that the kernel keeps it in, without a socket.
    pub goes_on: Option<State>,
    /// Its traffic, as the kernel counted it.
    pub traffic: Option<Traffic>,
    /// How long the handshake took.
    pub handshake_ns: Option<u64>,
    /// The processes that have to do with it, where more is known than its owner.
    pub processes: Option<Holders>,
}

impl ConnectionRow {
    /// The row of a connection that ended at `ts_ns`. Wall-clock time and the names of the cgroup are to be
    /// filled in: they come from outside.
    pub fn ended(ended: Ended, ts_ns: u64) -> Self {
        Self {
            lifetime_ns: ended.lifetime_ns,
            cause: Some(ended.cause),
            reset_reason: ended.reset_reason,
            goes_on: ended.goes_on,
            traffic: ended.traffic,
            ..Self::new(ended.connection, ts_ns)
        }
    }

    /// The row of an open connection of a snapshot, with all that the snapshot knows of it.
    pub fn of_snapshot(connection: &Connection, snapshot: &RunSnapshot) -> Self {
        let mut row = Self::open(connection.clone(), snapshot.tracker.now_ns);
        let common = &mut row.common;
        common.wall_ns = snapshot.origin.wall_ns(common.ts_ns);
        common.cgroup = snapshot.names.cgroup(common.cgroup_id);
        let counters = &snapshot.counters.by_cookie;
        row.traffic = common
            .cookie
            .and_then(|cookie| counters.get(&cookie).copied());
        row
    }

    /// The row of a connection that is open at `now_ns`, in the same way.
    pub fn open(mut connection: Connection, now_ns: u64) -> Self {
        // An event can be later than the clock's reading: they come from several CPUs.
        let ts_ns = now_ns.max(connection.last_ns.unwrap_or(0));
        if let Some(last) = connection.states.last_mut() {
            last.dwell_ns = connection
                .last_ns
                .map(|last_ns| ts_ns.saturating_sub(last_ns));
            let there_ns = connection.there_ns;
            last.at_least_ns = there_ns.map(|there_ns| ts_ns.saturating_sub(there_ns));
        }
        let lifetime_ns = connection
            .opened
            .then(|| ts_ns.saturating_sub(connection.first_ns));
        Self {
            lifetime_ns,
            ..Self::new(connection, ts_ns)
        }
    }

    fn new(connection: Connection, ts_ns: u64) -> Self {
        let Connection {
            laddr,
            lport,
            raddr,
            rport,
            ..
        } = connection;
        let mut addresses = [laddr, raddr].into_iter().flatten();
        let is_ipv4 = connection.family == record::AF_INET || addresses.any(|one| one.is_ipv4());
        // As the kernel has it where there is none yet.
        let unspecified = if is_ipv4 {
            IpAddr::from(Ipv4Addr::UNSPECIFIED)
        } else {
            IpAddr::from(Ipv6Addr::UNSPECIFIED)
        };
        Self {
            common: Common {
                wall_ns: 0,
                ts_ns,
                cookie: match connection.id {
                    SocketId::Cookie(cookie) => Some(cookie),
                    SocketId::Address(_) => None,
                },
                netns: connection.netns,
                is_ipv4,
                laddr: laddr.unwrap_or(unspecified),
                lport: lport.unwrap_or(0),
                raddr: raddr.unwrap_or(unspecified),
                rport: rport.unwrap_or(0),
                service_port: connection.service_port,
                role: connection.role,
                owner: connection.owner,
                uid: connection.uid,
                cgroup: None,
                cgroup_id: connection.cgroup,
            },
            laddr,
            lport,
            raddr,
            rport,
            first_ns: connection.first_ns,
            lifetime_ns: None,
            states: connection.states,
            truncated: connection.truncated,
            cause: None,
            reset_reason: None,
            goes_on: None,
            traffic: None,
            handshake_ns: connection.handshake_ns,
            processes: connection.processes,
        }
    }

    /// Whether it is open.
    pub const fn is_open(&self) -> bool {
        self.cause.is_none()
    }

    /// The time in a state, all stays in it together; `None` if it was in none, or if the time in
    /// one of them is not known.
    fn dwell_ns(&self, state: State) -> Option<u64> {
        self.states
            .iter()
            .filter(|stay| stay.state == state)
            .map(|stay| stay.dwell_ns)
            .reduce(|sum, dwell| Some(sum?.saturating_add(dwell?)))
            .flatten()
    }
}

impl AsRef<Common> for ConnectionRow {
    fn as_ref(&self) -> &Common {
        &self.common
    }
}

impl Counted for ConnectionRow {
    fn reset_reason(&self) -> Option<ResetReason> {
        self.reset_reason
    }

    fn traffic(&self) -> Option<&Traffic> {
        self.traffic.as_ref()
    }
}

/// The column of the time in one state.
const fn dwell<const STATE: u8>(name: &'static str) -> Column<ConnectionRow> {
    Column::<ConnectionRow>::new(
        name,
        Kind::Nanoseconds,
        |row| row.dwell_ns(State(STATE)).into(),
        "Time in this state, all stays together",
    )
    .unknown("the connection was not in the state, or the time is unknown")
    .only(Formats::Csv)
}

/// The fields of a connection.
pub static CONNECTION: Table<ConnectionRow> = Table {
    name: "connection",
    doc: "One connection, when it ends; with `--live` also each that is open at the end of the run.",
    sections: &[
        &common(),
        &[
            Column::<ConnectionRow>::new(
                "lifetime_ns",
                Kind::Nanoseconds,
                |row| row.lifetime_ns.into(),
                "Time from the first transition to the last; of an open connection, to now",
            )
            .unknown("the connection was open before the capture began"),
            Column::<ConnectionRow>::new(
                "states",
                Kind::Nested("list of `{state, dwell_ns, dwell_at_least_ns, sampled, interval_ns}`"),
                |row| Value::Stays(&row.states),
                "The states that the connection went through, in order, with the time in each. Where \
                 `dwell_ns` is `null` because the beginning was not seen, \
                 `dwell_at_least_ns` is a lower bound; it is there only then. \
                 `sampled`: the end of the state was found by sampling or, of `SYN_RECV`, the beginning, and the \
                 time is exact to `interval_ns`, which is there only then. CSV has the names, separated by spaces",
            ),
            dwell::<{ State::ESTABLISHED.0 }>("ESTABLISHED_ns"),
            dwell::<{ State::SYN_SENT.0 }>("SYN_SENT_ns"),
            dwell::<{ State::SYN_RECV.0 }>("SYN_RECV_ns"),
            dwell::<{ State::FIN_WAIT1.0 }>("FIN_WAIT1_ns"),
            dwell::<{ State::FIN_WAIT2.0 }>("FIN_WAIT2_ns"),
            dwell::<{ State::TIME_WAIT.0 }>("TIME_WAIT_ns"),
            dwell::<{ State::CLOSE.0 }>("CLOSE_ns"),
            dwell::<{ State::CLOSE_WAIT.0 }>("CLOSE_WAIT_ns"),
            dwell::<{ State::LAST_ACK.0 }>("LAST_ACK_ns"),
            dwell::<{ State::LISTEN.0 }>("LISTEN_ns"),
            dwell::<{ State::CLOSING.0 }>("CLOSING_ns"),
            Column::<ConnectionRow>::new(
                "dwell_at_least_ns",
                Kind::Nanoseconds,
                |row| {
                    let mut bounds = row.states.iter().map(|stay| stay.at_least_ns);
                    bounds.find_map(|bound| bound).into()
                },
                "A lower bound of the time in the first state in which it is not known, because its \
                 beginning was not seen",
            )
            .unknown("there is no such state")
            .only(Formats::Csv),
            Column::<ConnectionRow>::new(
                "truncated",
                Kind::Bool,
                |row| row.truncated.into(),
                "Whether there were more states than are kept, so that some in the middle are missing",
            ),
            Column::<ConnectionRow>::new(
                "cause",
                Kind::Cause,
                |row| row.cause.into(),
                "Why the connection ended",
            )
            .unknown("the connection is open, or the kernel does not say why"),
            Column::<ConnectionRow>::new(
                "ended",
                Kind::Bool,
                |row| (!row.is_open()).into(),
                "Whether the connection has ended; if not, all times are those so far",
            ),
            Column::<ConnectionRow>::new(
                "goes_on",
                Kind::State,
                |row| row.goes_on.into(),
                "The state in which the kernel keeps the connection in a minisocket, which makes no more \
                 transitions. The last transition does not show whether there was room for one \
                 (`tcp_max_tw_buckets`), or `TCP_LINGER2` is negative; samples do (`--until gone`)",
            )
            .unknown("the kernel keeps nothing of the connection, or it is open"),
        ],
        &traffic(),
        &[
            Column::<ConnectionRow>::new(
                "handshake_ns",
                Kind::Nanoseconds,
                |row| row.handshake_ns.into(),
                "A client's time from its SYN to `ESTABLISHED`, or a server's first round-trip time",
            )
            .unknown("the handshake did not succeed, or its beginning was not seen"),
            Column::<ConnectionRow>::new(
                "sampled",
                Kind::State,
                |row| Value::SampledStays(&row.states),
                "The states whose end or, of `SYN_RECV`, beginning was found by sampling, separated by spaces",
            )
            .only(Formats::Csv),
            reset_reason(),
            processes(|row| list(row.processes.as_ref())),
        ],
    ],
};
