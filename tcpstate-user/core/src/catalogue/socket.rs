//! The fields of a socket in a dump.

use tcpstate_common::State;

use super::{
    column::{Column, Kind, Table, Value},
    common::{Common, common, list, processes},
};
use crate::{inventory::Age, owner::Holders};

/// One socket of a dump.
#[derive(Clone, Debug)]
pub struct SocketRow {
    /// When it was dumped, and which it is.
    pub common: Common,
    /// Its state.
    pub state: State,
    /// Of a server's connection: whether a process has accepted it.
    pub accepted: Option<bool>,
    /// Time in the state.
    pub age: Option<Age>,
    /// Bytes to read; of a listener, connections to accept.
    pub recv_queue: u32,
    /// Bytes not acknowledged; of a listener, its backlog.
    pub send_queue: u32,
    /// Of a listener: the number of half-open connections.
    pub half_open: Option<u64>,
    /// The age of the oldest of them.
    pub half_open_oldest: Option<Age>,
    /// The timer that runs.
    pub timer: Option<TimerRow>,
    /// Index of the interface that it is bound to.
    pub interface: Option<u32>,
    /// The inode by which `/proc/PID/fd` names it.
    pub inode: Option<u32>,
    /// `sk_shutdown`.
    pub shutdown: Option<u8>,
    /// Payload sent, retransmissions included.
    pub bytes_sent: Option<u64>,
    /// Payload received in order.
    pub bytes_received: Option<u64>,
    /// Segments retransmitted.
    pub retransmits: Option<u32>,
    /// Smoothed round-trip time.
    pub srtt_us: Option<u32>,
    /// Time since data was last sent.
    pub last_sent_ms: Option<u32>,
    /// Time since data was last received.
    pub last_received_ms: Option<u32>,
    /// Time since any packet was last received.
    pub last_packet_ms: Option<u32>,
    /// The processes that hold it, where more is known than its owner.
    pub processes: Option<Holders>,
}

/// A timer of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerRow {
    /// Its kind.
    pub kind: &'static str,
    /// The kernel's number of a kind that has no name here.
    pub number: Option<u8>,
    /// Time until it expires.
    pub expires_ms: u32,
    /// How often it has expired.
    pub retransmits: u8,
}

impl AsRef<Common> for SocketRow {
    fn as_ref(&self) -> &Common {
        &self.common
    }
}

impl SocketRow {
    /// A field of the timer, which is absent as a whole where none runs.
    fn of_timer<'a, T: Into<Value<'a>>>(&self, field: impl FnOnce(&TimerRow) -> T) -> Value<'a> {
        let timer = self.timer.as_ref();
        timer.map_or(Value::Absent, |timer| field(timer).into())
    }
}

/// The fields of a socket in a dump.
pub static SOCKET: Table<SocketRow> = Table {
    name: "socket",
    doc: "One socket that exists now.",
    sections: &[
        &common(),
        &[
            Column::<SocketRow>::new(
                "state",
                Kind::State,
                |row| row.state.into(),
                "State of the socket",
            ),
            Column::<SocketRow>::new(
                "accepted",
                Kind::Bool,
                |row| row.accepted.into(),
                "Of a server's connection: whether a process has accepted it. If not, `owner` is that of the \
                 listener",
            )
            .unknown("it is no server's connection, or no process has it open any more"),
            Column::<SocketRow>::new(
                "age_ns",
                Kind::Nanoseconds,
                |row| row.age.and_then(Age::exact_ns).into(),
                "Time in the state",
            )
            .unknown("no timer shows when the state began"),
            Column::<SocketRow>::new(
                "age_at_least_ns",
                Kind::Nanoseconds,
                |row| row.age.and_then(Age::bound_ns).into(),
                "Where `age_ns` is unknown: time that the socket has been in the state at least; most often \
                 that since the last packet, which in `ESTABLISHED`, `FIN_WAIT2`, `CLOSE_WAIT` and `CLOSING` \
                 came when the state began or later",
            )
            .unknown("`age_ns` is known, or the kernel shows no bound"),
            Column::<SocketRow>::new(
                "recv_queue",
                Kind::Number,
                |row| row.recv_queue.into(),
                "Bytes that the application has not read; of a listener, connections to accept",
            ),
            Column::<SocketRow>::new(
                "send_queue",
                Kind::Number,
                |row| row.send_queue.into(),
                "Bytes that the peer has not acknowledged; of a listener, its backlog",
            ),
            Column::<SocketRow>::new(
                "half_open",
                Kind::Count,
                |row| row.half_open.into(),
                "Connections to this listener whose handshake is under way",
            )
            .unknown("the socket is not a listener, or `--state` leaves out `SYN_RECV`"),
            Column::<SocketRow>::new(
                "half_open_oldest_ms",
                Kind::Milliseconds,
                |row| row.half_open_oldest.and_then(Age::exact_ns).map(ms).into(),
                "Age of the oldest of them",
            )
            .unknown("there are none, or their timers do not show it"),
            Column::<SocketRow>::new(
                "half_open_oldest_at_least_ms",
                Kind::Milliseconds,
                |row| row.half_open_oldest.and_then(Age::bound_ns).map(ms).into(),
                "Where `half_open_oldest_ms` is unknown: age that the oldest of them has at least",
            )
            .unknown("`half_open_oldest_ms` is known, or there are none"),
            Column::<SocketRow>::new(
                "timer.kind",
                Kind::Word(&["retransmit", "keepalive", "timewait", "probe", "other"]),
                |row| row.of_timer(|timer| Value::Word(timer.kind)),
                "The timer that runs",
            )
            .unknown("no timer runs"),
            Column::<SocketRow>::new(
                "timer.expires_ms",
                Kind::Milliseconds,
                |row| row.of_timer(|timer| timer.expires_ms),
                "Time until the timer expires",
            )
            .unknown("no timer runs"),
            Column::<SocketRow>::new(
                "timer.retransmits",
                Kind::Count,
                |row| row.of_timer(|timer| timer.retransmits),
                "How often the timer has expired without an answer",
            )
            .unknown("no timer runs"),
            Column::<SocketRow>::new(
                "interface",
                Kind::Number,
                |row| row.interface.into(),
                "Index of the interface that the socket is bound to",
            )
            .unknown("the socket is not bound to one"),
            Column::<SocketRow>::new(
                "inode",
                Kind::Number,
                |row| row.inode.into(),
                "The inode by which `/proc/PID/fd` names the socket",
            )
            .unknown("no process holds the socket"),
            Column::<SocketRow>::new(
                "shutdown",
                Kind::Number,
                |row| row.shutdown.into(),
                "Directions that are shut down (`sk_shutdown`): 1 receiving, 2 sending, 3 both",
            )
            .unknown("the kernel does not say"),
            Column::<SocketRow>::new(
                "bytes_sent",
                Kind::Bytes,
                |row| row.bytes_sent.into(),
                "Payload sent so far, retransmissions included",
            )
            .unknown(INFO),
            Column::<SocketRow>::new(
                "bytes_received",
                Kind::Bytes,
                |row| row.bytes_received.into(),
                "Payload received in order so far",
            )
            .unknown(INFO),
            Column::<SocketRow>::new(
                "retransmits",
                Kind::Count,
                |row| row.retransmits.into(),
                "Segments retransmitted so far",
            )
            .unknown(INFO),
            Column::<SocketRow>::new(
                "srtt_us",
                Kind::Microseconds,
                |row| row.srtt_us.into(),
                "Smoothed round-trip time",
            )
            .unknown("no round trip has been measured, or there is no `--info`"),
            Column::<SocketRow>::new(
                "last_sent_ms",
                Kind::Milliseconds,
                |row| row.last_sent_ms.into(),
                "Time since data was last sent, or since the beginning",
            )
            .unknown(INFO),
            Column::<SocketRow>::new(
                "last_received_ms",
                Kind::Milliseconds,
                |row| row.last_received_ms.into(),
                "Time since data was last received, or since the beginning",
            )
            .unknown(INFO),
            Column::<SocketRow>::new(
                "last_packet_ms",
                Kind::Milliseconds,
                |row| row.last_packet_ms.into(),
                "Time since the last packet of the connection came",
            )
            .unknown("the socket is in no connection, its handshake is under way, or it is a minisocket"),
            processes(|row| list(row.processes.as_ref())),
        ],
    ],
};

const fn ms(ns: u64) -> u64 {
    ns / 1_000_000
}

const INFO: &str = "there is no `--info`, or the socket has no `TCP_INFO`";
