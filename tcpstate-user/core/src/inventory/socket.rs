//! A TCP socket of a dump. Pure.

use std::net::IpAddr;

use hashbrown::HashMap;
use tcpstate_common::{State, record::AF_INET};

use crate::{census::TIME_WAIT_NS, filter::StateSet};

const MS: u64 = 1_000_000;

/// The longest tick of the kernel's clock for timers, which its times are exact to.
pub const TICK_NS: u64 = 10 * MS;

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
    /// Of a listener, where it was requested: the packets that it has dropped since it was made, such as SYNs and last packets of
    /// handshakes (`sk_drops`, which goes round at 2^32).
    ///
    /// *Source:* `tcp_listendrop` in `include/net/tcp.h`.
    pub drops: Option<u32>,
    /// `TCP_INFO`, where it was requested and the socket has it.
    pub info: Option<TcpInfo>,
}

impl Socket {
    /// Whether IPv4 travels on the wire: the addresses are IPv4 or v4-mapped.
    pub fn is_ipv4(&self) -> bool {
        self.family == AF_INET || self.laddr.is_ipv4() || self.raddr.is_ipv4()
    }

    /// Time in its state when it was dumped: where a timer began with the state, of a half-open connection
    /// ([`Timer::half_open_age`]) and in `TIME_WAIT` (since the peer's last FIN came); elsewhere a bound,
    /// where something that the kernel notes the time of cannot have been before the state began.
    pub fn age(&self, never_deferred: bool) -> Option<Age> {
        match (self.state, self.timer) {
            (State::SYN_RECV, timer) => timer?.half_open_age(never_deferred),
            (
                State::TIME_WAIT,
                Some(Timer {
                    kind: TimerKind::TimeWait,
                    expires_ms,
                    ..
                }),
            ) => TIME_WAIT_NS
                .checked_sub(u64::from(expires_ms) * MS)
                .map(Age::exactly),
            _ => {
                let ms = self.info?.in_state_at_least_ms(self.state)?;
                let ns = (u64::from(ms) * MS).saturating_sub(TICK_NS);
                (ns > 0).then_some(Age::at_least(ns))
            }
        }
    }

    /// Time for which the peer has not answered at least: nothing acknowledged what was sent (the timer is the one for
    /// retransmission), or its window was closed (the timer probes it). `None` before the first time-out has expired,
    /// and without such a timer.
    ///
    /// In `SYN_SENT` it is the time in the state. In others the peer may have been silent before the state began.
    ///
    /// A time-out is twice the one before, which the kernel counts as a back-off, but for the first few of a SYN
    /// (`tcp_syn_linear_timeouts`). It has a longest one, which makes the bound of a retransmission too short and that of a
    /// probe too long where it is set below its 120 s (`tcp_rto_max_ms`).
    ///
    /// *Source:* `tcp_retransmit_timer` in `net/ipv4/tcp_timer.c`, `tcp_send_probe0` in `net/ipv4/tcp_output.c`,
    /// `tcp_probe0_base` and `tcp_probe0_when` in `include/net/tcp.h`.
    pub fn unanswered(&self) -> Option<Age> {
        const LONGEST_US: u64 = 120_000_000;
        const SHORTEST_PROBE_US: u64 = 200_000;
        let (timer, info) = (self.timer?, self.info?);
        let (timeout_us, backoffs) = (u64::from(info.timeout_us?), info.backoffs?);
        let (first_us, expiries) = match timer.kind {
            TimerKind::Retransmit => (
                timeout_us.checked_shr(backoffs.into()).unwrap_or(0),
                timer.retransmits,
            ),
            TimerKind::Probe => (timeout_us.max(SHORTEST_PROBE_US), backoffs),
            _ => return None,
        };
        let doubled = (0..u32::from(backoffs)).map(|backoff| {
            let factor = 1_u64.checked_shl(backoff).unwrap_or(u64::MAX);
            first_us.saturating_mul(factor).min(LONGEST_US)
        });
        let doubled_us: u64 = doubled.sum();
        let same_us = first_us * u64::from(expiries.saturating_sub(backoffs));
        let ns = ((doubled_us + same_us) * 1_000).saturating_sub(TICK_NS);
        (ns > 0).then_some(Age::at_least(ns))
    }

    /// Time since the last packet of the connection came, milliseconds: nearly every packet acknowledges
    /// something. `None` before its handshake is over, when the kernel has no such time.
    pub fn last_packet_ms(&self) -> Option<u32> {
        let has_received = matches!(
            self.state,
            State::ESTABLISHED
                | State::FIN_WAIT1
                | State::FIN_WAIT2
                | State::CLOSE_WAIT
                | State::LAST_ACK
                | State::CLOSING
        );
        let info = self.info.filter(|_| has_received)?;
        let times = [info.last_ack_received_ms, info.last_received_ms];
        times.into_iter().flatten().min()
    }

    /// Whether it is a full socket (`sk_fullsock`): neither a minisocket nor a request socket.
    pub fn is_full(&self) -> bool {
        let is_minisocket = self.timer.map(|timer| timer.kind) == Some(TimerKind::TimeWait);
        let is_request = self.state == State::SYN_RECV && self.inode.is_none();
        !is_minisocket && !is_request
    }

    /// Whether its role may follow from its ports: its state does not show it.
    pub const fn has_role_by_ports(&self) -> bool {
        !matches!(
            self.state,
            State::LISTEN
                | State::SYN_RECV
                | State::SYN_SENT
                | State::CLOSE
                | State::BOUND_INACTIVE
        )
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

/// Time that a socket has been in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// The time or, where it is not exact, a lower bound; nanoseconds.
    pub at_least_ns: u64,
    /// Whether it is the time itself, to a tick of the kernel.
    pub is_exact: bool,
}

impl Age {
    /// This very time.
    pub const fn exactly(ns: u64) -> Self {
        Self {
            at_least_ns: ns,
            is_exact: true,
        }
    }

    /// This time, or a longer one.
    pub const fn at_least(ns: u64) -> Self {
        Self {
            at_least_ns: ns,
            is_exact: false,
        }
    }

    /// The time, where it is known.
    pub fn exact_ns(self) -> Option<u64> {
        self.is_exact.then_some(self.at_least_ns)
    }

    /// The lower bound, where no more is known.
    pub fn bound_ns(self) -> Option<u64> {
        (!self.is_exact && self.at_least_ns > 0).then_some(self.at_least_ns)
    }

    /// The age of the older one of two sockets: exact only if both are.
    #[must_use]
    pub fn or_older(self, other: Self) -> Self {
        Self {
            at_least_ns: self.at_least_ns.max(other.at_least_ns),
            is_exact: self.is_exact && other.is_exact,
        }
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

impl Timer {
    /// Time since the SYN of a half-open connection came, from the timer of its SYN-ACK. `None` if it is none.
    ///
    /// The timer starts with 1 s, and its time doubles with each expiry, which the kernel does not give.
    /// It gives the number of SYN-ACKs sent again, but not all of them follow an expiry: when the client
    /// repeats its SYN, the kernel answers at once and starts the timer again with the same time. And not
    /// all expiries send one: with `TCP_DEFER_ACCEPT`, a client that has acknowledged its SYN-ACK gets
    /// none. So the age is known before the first repetition, and only if no listener of the namespace has
    /// ever deferred a connection (`never_deferred`). Otherwise it is a bound: a timer with more than 1 s
    /// left has expired, one with more than 2 s left twice.
    ///
    /// *Source:* `inet_csk_reqsk_queue_hash_add`, `reqsk_timer_handler` and `syn_ack_recalc` in
    /// `net/ipv4/inet_connection_sock.c`, `tcp_check_req` in `net/ipv4/tcp_minisocks.c`.
    pub fn half_open_age(self, never_deferred: bool) -> Option<Age> {
        const FIRST_MS: u64 = 1_000;
        const LONGEST_MS: u64 = 120_000;
        let left_ms = u64::from(self.expires_ms);
        if self.kind != TimerKind::Retransmit || left_ms > LONGEST_MS {
            return None;
        }
        if left_ms <= FIRST_MS {
            let run_ns = (FIRST_MS - left_ms) * MS;
            // An expired timer runs late.
            let is_exact = self.retransmits == 0 && never_deferred && left_ms > 0;
            return Some(if is_exact {
                Age::exactly(run_ns)
            } else {
                Age::at_least(run_ns.saturating_sub(TICK_NS))
            });
        }
        // The run of the present time-out is unknown: a setting bounds its length (`tcp_rto_max_ms`).
        let (mut expired_ms, mut timeout_ms) = (0, FIRST_MS);
        while timeout_ms < left_ms {
            expired_ms += timeout_ms;
            timeout_ms *= 2;
        }
        Some(Age::at_least((expired_ms * MS).saturating_sub(TICK_NS)))
    }
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
    /// The time since a packet with an ACK was last received, milliseconds.
    pub last_ack_received_ms: Option<u32>,
    /// The time-out for retransmission, microseconds, with its back-offs.
    pub timeout_us: Option<u32>,
    /// The number of times that the time-out was doubled; it counts for a probe of a closed window too.
    pub backoffs: Option<u8>,
}

impl TcpInfo {
    /// Time that the socket has been in this state at least, milliseconds, give or take a tick.
    ///
    /// A time is such a bound if whatever began the state set it, so that it cannot be older than the
    /// state:
    ///
    /// - `ESTABLISHED` begins with a packet that acknowledges, at either end, and the kernel counts
    ///   that as the last time that it sent data too. The longer of the two is the better bound.
    /// - `FIN_WAIT2` begins with the ACK of the FIN, `CLOSE_WAIT` and `CLOSING` with the peer's FIN,
    ///   which acknowledges as nearly every packet does. (If a later ACK overtook it on its way,
    ///   the bound is that much too long.) A FIN is no data: the last data came before it, so that its
    ///   time is no bound.
    /// - `FIN_WAIT1` and `LAST_ACK` begin with a call of the application, which sets no time.
    ///
    /// *Source:* `rcv_tstamp` in `tcp_ack`, `lsndtime` in `tcp_finish_connect`, `tcp_rcv_state_process`
    /// and `tcp_event_data_sent`; `net/ipv4/tcp_input.c`, `net/ipv4/tcp_output.c`.
    fn in_state_at_least_ms(self, state: State) -> Option<u32> {
        match state {
            State::ESTABLISHED => self.last_ack_received_ms.max(self.last_sent_ms),
            State::FIN_WAIT2 | State::CLOSE_WAIT | State::CLOSING => self.last_ack_received_ms,
            _ => None,
        }
    }
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
