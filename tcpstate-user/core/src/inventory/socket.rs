//! A TCP socket of a dump. Pure.

use std::net::IpAddr;

use hashbrown::HashMap;
use tcpstate_common::{State, record::AF_INET};

use crate::{census::TIME_WAIT_NS, filter::StateSet};

/// A TCP socket of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// The socket's cookie, unique until the next boot; events of the socket have the same.
    pub cookie: u64,
    /// The socket's address family, `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// Its state. A request socket is in `SYN_RECV`; a socket that is only bound is in `CLOSE`.
    pub state: State,
    /// Local address; v4-mapped ones are IPv4.
    pub laddr: IpAddr,
    /// Local port.
    pub lport: u16,
    /// Remote address; v4-mapped ones are IPv4.
    pub raddr: IpAddr,
    /// Remote port; 0 is none.
    pub rport: u16,
    /// Index of the interface that it is bound to.
    pub interface: Option<u32>,
    /// The timer that runs.
    pub timer: Option<Timer>,
    /// Bytes received that the application has not read. Of a listener: connections that wait to be
    /// accepted.
    pub rqueue: u32,
    /// Bytes sent or to be sent that are not acknowledged. Of a listener: its backlog.
    pub wqueue: u32,
    /// The user that it belongs to. Minisockets have none.
    pub uid: Option<u32>,
    /// The inode by which `/proc/PID/fd` names it; `None` if no process has it open: it is not accepted
    /// yet, already closed, or a minisocket.
    pub inode: Option<u32>,
    /// Id of its cgroup. *Since:* Linux 5.9.
    pub cgroup: Option<u64>,
    /// `sk_shutdown`: 1 receiving and 2 sending is shut down, 3 both.
    pub shutdown: Option<u8>,
    /// `IPV6_V6ONLY`: a socket of `AF_INET6` does not take IPv4.
    pub v6only: Option<bool>,
    /// `TCP_INFO`, where it was requested and the socket has it.
    pub info: Option<TcpInfo>,
}

impl Socket {
    /// Whether IPv4 travels on the wire: the addresses are IPv4 or v4-mapped.
    pub fn is_ipv4(&self) -> bool {
        self.family == AF_INET || self.laddr.is_ipv4() || self.raddr.is_ipv4()
    }

    /// Time in its state, nanoseconds, where a timer began with the state: of a half-open connection, and in
    /// `TIME_WAIT` (since the peer's last FIN came).
    pub fn age_ns(&self) -> Option<u64> {
        const MS: u64 = 1_000_000;
        match (self.state, self.timer) {
            (State::SYN_RECV, _) => self.half_open_age_ms().map(|ms| ms * MS),
            (
                State::TIME_WAIT,
                Some(Timer {
                    kind: TimerKind::TimeWait,
                    expires_ms,
                    ..
                }),
            ) => TIME_WAIT_NS.checked_sub(u64::from(expires_ms) * MS),
            _ => None,
        }
    }

    /// Time since the SYN of a half-open connection came, milliseconds.
    ///
    /// It follows from its timer, which the kernel starts with 1 s and doubles each time that it sends the
    /// SYN-ACK again, up to 120 s: exact to a tick as long as it was not sent again, and a few percent
    /// short afterwards (timers expire late). `None` unless it is a request socket with such a timer.
    ///
    /// *Source:* `inet_csk_reqsk_queue_hash_add`, `reqsk_timer_handler` in
    /// `net/ipv4/inet_connection_sock.c`.
    pub fn half_open_age_ms(&self) -> Option<u64> {
        const FIRST_MS: u64 = 1_000;
        const LONGEST_MS: u64 = 120_000;
        let timer = self
            .timer
            .filter(|timer| timer.kind == TimerKind::Retransmit && self.state == State::SYN_RECV)?;
        let timeout = |nth: u8| (FIRST_MS << u32::from(nth).min(32)).min(LONGEST_MS);
        let until_expiry: u64 = (0..=timer.retransmits).map(timeout).sum();
        until_expiry.checked_sub(timer.expires_ms.into())
    }

    /// Whether it is a full socket (`sk_fullsock`): neither a minisocket nor a request socket.
    pub fn is_full(&self) -> bool {
        let is_minisocket = self.timer.map(|timer| timer.kind) == Some(TimerKind::TimeWait);
        let is_request = self.state == State::SYN_RECV && self.inode.is_none();
        !is_minisocket && !is_request
    }

    /// Whether it waits to be accepted, or is still half-open: no process has it open. In other states, such a
    /// socket was closed by its process.
    pub const fn is_unaccepted(&self) -> bool {
        self.inode.is_none()
            && matches!(
                self.state,
                State::SYN_RECV | State::ESTABLISHED | State::CLOSE_WAIT
            )
    }

    /// Whether it is in one of these states; one in `CLOSE`, which is merely bound, is in `BOUND_INACTIVE` too.
    pub const fn is_in(&self, states: StateSet) -> bool {
        states.contains(self.state)
            || (self.state.0 == State::CLOSE.0 && states.contains(State::BOUND_INACTIVE))
    }
}

/// A running timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    /// Its purpose.
    pub kind: TimerKind,
    /// The time until it expires, milliseconds.
    pub expires_ms: u32,
    /// Number of times that it has expired in vain.
    pub retransmits: u8,
}

/// The purpose of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerKind {
    /// Retransmission; of a request socket: of the SYN-ACK.
    Retransmit,
    /// Keepalive; of an orphan in `FIN_WAIT2`: its end.
    Keepalive,
    /// A minisocket's end.
    TimeWait,
    /// Probing a closed window.
    Probe,
    /// A number that this version does not know.
    Other(u8),
}

impl TimerKind {
    /// Its name in every output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retransmit => "retransmit",
            Self::Keepalive => "keepalive",
            Self::TimeWait => "timewait",
            Self::Probe => "probe",
            Self::Other(_) => "other",
        }
    }
}

/// `TCP_INFO` of a connection: each field where the kernel sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Smoothed round trip time in microseconds; `None` if none was ever measured.
    pub srtt_us: Option<u32>,
    /// Segments retransmitted.
    pub retransmits: Option<u32>,
    /// Payload bytes received in order.
    pub bytes_received: Option<u64>,
    /// Payload bytes sent, retransmissions included.
    pub bytes_sent: Option<u64>,
    /// The time since data was last sent, or since the beginning, milliseconds.
    pub last_sent_ms: Option<u32>,
    /// The time since data was last received, or since the beginning, milliseconds.
    pub last_received_ms: Option<u32>,
}

/// Leaves one entry of each cookie: the last, which is the newest.
///
/// A request socket and the connection that it becomes, a connection and its minisocket have the same
/// cookie, and a dump can hold both.
#[expect(clippy::indexing_slicing, reason = "kept <= index < the length")]
pub fn keep_latest(sockets: &mut Vec<Socket>) {
    let mut places: HashMap<(u32, u64), usize> = HashMap::with_capacity(sockets.len());
    let mut kept = 0;
    for index in 0..sockets.len() {
        let key = (sockets[index].netns, sockets[index].cookie);
        if let Some(&place) = places.get(&key) {
            sockets.swap(place, index);
        } else {
            places.insert(key, kept);
            sockets.swap(kept, index);
            kept += 1;
        }
    }
    sockets.truncate(kept);
}
