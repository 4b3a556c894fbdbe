//! One connection, whole, as it is shown. [`super::packed`] has how it is kept.

use std::net::IpAddr;

use tcpstate_common::{State, record};

use super::StateExit;
use crate::{
    cause::Cause,
    event::{Event, SocketId},
    owner::Owner,
    service::Role,
};

/// A connection as it is known, open or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// What the kernel calls it.
    pub id: SocketId,
    /// Inode number of the network namespace.
    pub netns: Option<u32>,
    /// Address family of the socket, `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// Local address; `None` before it is chosen.
    pub laddr: Option<IpAddr>,
    /// Local port; `None` before it is chosen.
    pub lport: Option<u16>,
    /// Remote address; `None` where the kernel did not say yet.
    pub raddr: Option<IpAddr>,
    /// Remote port; `None` where the kernel did not say yet.
    pub rport: Option<u16>,
    /// Which side it is.
    pub role: Role,
    /// The port a person means; `None` while the role is unknown.
    pub service_port: Option<u16>,
    /// Whom it belongs to.
    pub owner: Owner,
    /// The user that the socket belongs to.
    pub uid: Option<u32>,
    /// Id of its cgroup.
    pub cgroup: Option<u64>,
    /// The states that it went through, in order. Of an open connection the last one is the state
    /// it is in, with no dwell yet.
    pub states: Vec<Stay>,
    /// There were more states than are kept; the ones in the middle are missing.
    pub truncated: bool,
    /// Monotonic time of the first transition that was seen of it.
    pub first_ns: u64,
    /// Whether that one opened it. If not, it was there before.
    pub opened: bool,
    /// Monotonic time of the last transition: since when it is in its state, or when it ended. `None`
    /// where none was seen: it was there before us.
    pub last_ns: Option<u64>,
    /// How long the handshake took: a client's time in `SYN_SENT`; a server's smoothed round trip time
    /// when it was established, since its socket is made when the handshake is over.
    pub handshake_ns: Option<u64>,
}

/// A connection's time in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stay {
    /// The state.
    pub state: State,
    /// For how long; `None` where it is not known, and while it lasts.
    pub dwell_ns: Option<u64>,
    /// Its end was not seen, but looked for at intervals.
    pub sampled: bool,
    /// Of a sampled one, how exact the time is: the length of the interval in which it ended.
    pub interval_ns: Option<u64>,
}

impl Stay {
    /// As events tell of it.
    pub(super) const fn seen(state: State, dwell_ns: Option<u64>) -> Self {
        Self {
            state,
            dwell_ns,
            sampled: false,
            interval_ns: None,
        }
    }

    /// A client's handshake is its time in `SYN_SENT`, if that ended in `ESTABLISHED`.
    pub(super) fn client_handshake_ns(states: &[Self]) -> Option<u64> {
        states.windows(2).find_map(|pair| match pair {
            [sent, next] if sent.state == State::SYN_SENT && next.state == State::ESTABLISHED => {
                Some(sent.dwell_ns)
            }
            _ => None,
        })?
    }
}

/// What the kernel counted on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Payload bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Payload bytes received in order.
    pub bytes_received: u64,
    /// Segments retransmitted.
    pub retransmits: u32,
    /// Smoothed round trip time in microseconds; `None` if none was ever measured.
    pub srtt_us: Option<u32>,
}

impl Traffic {
    /// What the record of a transition says; `None` where it has not got those fields.
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
}

/// A connection that has just ended, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The connection.
    pub connection: Connection,
    /// From its first transition to its last; `None` if it was there before us.
    pub lifetime_ns: Option<u64>,
    /// Why.
    pub cause: Cause,
    /// The state that the kernel keeps it in from now on, unseen; see [`crate::cause::goes_on`].
    pub goes_on: Option<State>,
    /// What the kernel counted on it, where it says so.
    pub traffic: Option<Traffic>,
}

impl Ended {
    /// Adds a state that it left after its transition to CLOSE, as a census found.
    pub fn add_exit(&mut self, exit: &StateExit) {
        let connection = &mut self.connection;
        let stay = Stay {
            state: exit.state,
            dwell_ns: exit.dwell_ns,
            sampled: true,
            interval_ns: exit.interval_ns,
        };
        match connection.states.last_mut() {
            // The one in which it was as a socket too.
            Some(last) if last.state == exit.state && last.dwell_ns.is_none() => *last = stay,
            _ => connection.states.push(stay),
        }
        // Where the time in the state is not known, its end is not either.
        let is_known = connection.opened && exit.dwell_ns.is_some();
        self.lifetime_ns = is_known.then(|| exit.at_ns.saturating_sub(connection.first_ns));
        connection.last_ns = Some(exit.at_ns);
        self.goes_on = exit.then;
    }
}

/// The time of the handshake that this transition to ESTABLISHED completes, where it is known.
pub(super) fn handshake_ns(event: &Event, old: State, dwell_ns: Option<u64>) -> Option<u64> {
    match old {
        State::SYN_SENT => dwell_ns,
        // The child of a listener is made when the handshake is over; its first smoothed round trip
        // time is that of SYN-ACK and ACK.
        State::SYN_RECV => Some(u64::from(Traffic::of(event)?.srtt_us?) * 1_000),
        _ => None,
    }
}
