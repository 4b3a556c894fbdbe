//! A whole connection, as it is shown. [`super::packed`] has the form in which it is kept.

use std::net::IpAddr;

use hashbrown::HashMap;
use tcpstate_common::{State, record};

use super::StateExit;
use crate::{
    cause::{Cause, ResetReason},
    event::{Event, SocketId},
    inventory::TcpInfo,
    owner::{Holders, Owner},
    service::Role,
};

/// A connection, open or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The identity of its socket.
    pub id: SocketId,
    /// Inode number of the network namespace.
    pub netns: Option<u32>,
    /// Address family of the socket, `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// Local address; `None` before it is chosen.
    pub laddr: Option<IpAddr>,
    /// Local port; `None` before it is chosen.
    pub lport: Option<u16>,
    /// Remote address; `None` before the kernel has filled it in.
    pub raddr: Option<IpAddr>,
    /// Remote port; `None` before the kernel has filled it in.
    pub rport: Option<u16>,
    /// The side that the socket is.
    pub role: Role,
    /// The port of the service; `None` while the role is unknown.
    pub service_port: Option<u16>,
    /// The process that it belongs to.
    pub owner: Owner,
    /// The processes that have to do with it, where more is known than the owner: see [`Holder::beside`].
    ///
    /// [`Holder::beside`]: crate::owner::Holder::beside
    pub processes: Option<Holders>,
    /// The user that the socket belongs to.
    pub uid: Option<u32>,
    /// Id of its cgroup.
    pub cgroup: Option<u64>,
    /// The states that it went through, in order. The last one of an open connection is its present
    /// state, without a dwell.
    pub states: Vec<Stay>,
    /// Whether there were more states than are kept; those in the middle are missing.
    pub truncated: bool,
    /// Monotonic time of its first transition that was seen.
    pub first_ns: u64,
    /// Whether that transition opened it. If not, it was there before.
    pub opened: bool,
    /// Monotonic time of its last transition: into its present state, or its end. `None` where none was
    /// seen: it was there before the capture.
    pub last_ns: Option<u64>,
    /// Where `last_ns` is unknown: monotonic time at which it was in its present state already.
    pub there_ns: Option<u64>,
    /// How long the handshake took: a client's time in `SYN_SENT` and, where both ends connected at once, in
    /// `SYN_RECV`; a server's smoothed round trip time
    /// when it was established, since its socket is made when the handshake is over.
    pub handshake_ns: Option<u64>,
}

/// A connection's time in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stay {
    /// The state.
    pub state: State,
    /// The dwell; `None` where it is not known, and while it lasts.
    pub dwell_ns: Option<u64>,
    /// Where the dwell is not known: a lower bound, nanoseconds.
    pub at_least_ns: Option<u64>,
    /// Whether its end was sampled, not seen; of `SYN_RECV`, its beginning.
    pub sampled: bool,
    /// The uncertainty of a sampled dwell: the length of the interval in which it ended, or began.
    pub interval_ns: Option<u64>,
}

impl Stay {
    /// A stay whose end, if it has one, was an event.
    pub(super) const fn seen(state: State, dwell: Dwell) -> Self {
        let (dwell_ns, at_least_ns) = match dwell {
            Dwell::Unknown => (None, None),
            Dwell::Exactly(ns) => (Some(ns), None),
            Dwell::AtLeast(ns) => (None, Some(ns)),
        };
        Self {
            state,
            dwell_ns,
            at_least_ns,
            sampled: false,
            interval_ns: None,
        }
    }

    /// A client's handshake is its time in `SYN_SENT` and, where both ends connected at once, in `SYN_RECV`, if
    /// that ended in `ESTABLISHED`.
    pub(super) fn client_handshake_ns(states: &[Self]) -> Option<u64> {
        let mut states = states.iter();
        let sent = states.find(|stay| stay.state == State::SYN_SENT)?;
        let next = states.next()?;
        if next.state == State::ESTABLISHED {
            return sent.dwell_ns;
        }
        let is_simultaneous =
            next.state == State::SYN_RECV && states.next()?.state == State::ESTABLISHED;
        is_simultaneous.then(|| Some(sent.dwell_ns?.saturating_add(next.dwell_ns?)))?
    }
}

/// The kernel's counters of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Payload bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Payload bytes received in order.
    pub bytes_received: u64,
    /// Segments retransmitted.
    pub retransmits: u32,
    /// Smoothed round trip time in microseconds; `None` where none was measured.
    pub srtt_us: Option<u32>,
}

impl Traffic {
    /// The counters in the record of a transition; `None` where it does not have them.
    pub fn of(event: &Event) -> Option<Self> {
        let record = event.record();
        event.has(record::flags::TCP).then_some(Self {
            bytes_sent: record.bytes_sent,
            // The kernel counts the peer's FIN, which takes a sequence number, as a byte.
            bytes_received: record
                .bytes_received
                .saturating_sub(u64::from(event.has(record::flags::DONE))),
            retransmits: record.retransmits,
            srtt_us: (record.srtt_us != 0).then_some(record.srtt_us),
        })
    }

    /// The counters of a socket in a dump; `None` where the kernel did not send them all.
    pub fn of_info(info: &TcpInfo) -> Option<Self> {
        Some(Self {
            bytes_sent: info.bytes_sent?,
            bytes_received: info.bytes_received?,
            retransmits: info.retransmits?,
            srtt_us: info.srtt_us,
        })
    }
}

/// The kernel's counters of open connections at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Monotonic time at which they were read, nanoseconds.
    pub ts_ns: u64,
    /// The counters, by the cookies of the sockets.
    pub by_cookie: HashMap<u64, Traffic>,
}

/// A whole connection that has just ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The connection.
    pub connection: Connection,
    /// The time from its first transition to its last; `None` if it was there before the capture.
    pub lifetime_ns: Option<u64>,
    /// The cause of its end.
    pub cause: Cause,
    /// Why this kernel reset it; `None` where it did not, or did not say why.
    pub reset_reason: Option<ResetReason>,
    /// The state in which the kernel keeps it as a minisocket; see [`crate::cause::goes_on`].
    pub goes_on: Option<State>,
    /// The kernel's counters, where the record has them.
    pub traffic: Option<Traffic>,
}

impl Ended {
    /// Adds a state that it left after its transition to CLOSE, as a census reported.
    pub fn add_exit(&mut self, exit: &StateExit) {
        if exit.never_found && exit.state == State::TIME_WAIT {
            // As far as a sample shows, it ended as a socket.
            self.goes_on = exit.then;
            return;
        }
        let connection = &mut self.connection;
        let stay = Stay {
            state: exit.state,
            dwell_ns: exit.dwell_ns,
            at_least_ns: None,
            sampled: true,
            interval_ns: exit.interval_ns,
        };
        match connection.states.last_mut() {
            // The state that it already had as a socket.
            Some(last) if last.state == exit.state && last.dwell_ns.is_none() => *last = stay,
            _ => connection.states.push(stay),
        }
        // Where the time in the state is not known, the time of its end is not either.
        let is_known = connection.opened && exit.dwell_ns.is_some();
        self.lifetime_ns = is_known.then(|| exit.at_ns.saturating_sub(connection.first_ns));
        connection.last_ns = Some(exit.at_ns);
        self.goes_on = exit.then;
    }
}

/// The duration of the handshake that this transition to ESTABLISHED completes, where it is known.
pub(super) fn handshake_ns(event: &Event, old: State, dwell_ns: Option<u64>) -> Option<u64> {
    match old {
        State::SYN_SENT => dwell_ns,
        // The child of a listener is made when the handshake is over; its first smoothed round trip
        // time is that of SYN-ACK and ACK.
        State::SYN_RECV => Some(u64::from(Traffic::of(event)?.srtt_us?) * 1_000),
        _ => None,
    }
}

/// The knowledge of the time in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dwell {
    Unknown,
    /// It took this time, nanoseconds.
    Exactly(u64),
    /// It took at least this time, nanoseconds: the beginning was not seen.
    AtLeast(u64),
}
