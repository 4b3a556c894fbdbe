//! The fields of a transition.

use std::sync::Arc;

use tcpstate_common::{State, record::flags};

use super::{
    column::{Column, Kind, Table, Value},
    common::{Common, common},
};
use crate::{
    cause::{Cause, RESET_REASONS, ResetReason, goes_on},
    event::{Event, Packet},
    model::{Applied, Traffic},
    names::Cgroup,
    owner::{How, Owner},
};

/// One transition: what the event says, and what the tracker knows of its connection.
#[derive(Clone, Debug)]
pub struct TransitionRow {
    /// When, and on which socket.
    pub common: Common,
    /// The state before.
    pub oldstate: State,
    /// The state after.
    pub newstate: State,
    /// Time spent in the state before.
    pub dwell_ns: Option<u64>,
    /// The uncertainty of `dwell_ns`, where that was sampled.
    pub dwell_interval_ns: Option<u64>,
    /// Why the connection ended; `None` where it did not.
    pub cause: Option<Cause>,
    /// Why this kernel reset the connection.
    pub reset_reason: Option<ResetReason>,
    /// `sk_err`.
    pub error: Option<u16>,
    /// The socket's flags; `None` where they are unknown.
    pub flags: Option<SocketFlags>,
    /// The CPU that made the transition.
    pub cpu: u16,
    /// The connection's traffic, as the kernel counted it.
    pub traffic: Option<Traffic>,
    /// At -> CLOSE, the state that the kernel keeps the connection in, without a socket.
    pub goes_on: Option<State>,
    /// At -> ESTABLISHED, how long the handshake took.
    pub handshake_ns: Option<u64>,
    /// The packet that shows it, where it was rebuilt from packets.
    pub packet: Option<Packet>,
}

/// The flags of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketFlags {
    /// `sk_shutdown`.
    pub shutdown: u8,
    /// `SOCK_DEAD`.
    pub dead: bool,
    /// `SOCK_DONE`.
    pub done: bool,
}

impl TransitionRow {
    /// The row of an event. Wall-clock time and the names of the cgroup come from outside.
    pub fn new(
        event: &Event,
        applied: &Applied<'_>,
        wall_ns: i64,
        cgroup: Option<Arc<Cgroup>>,
    ) -> Self {
        let owner = applied.owner();
        Self {
            common: Common {
                wall_ns,
                ts_ns: event.ts_ns(),
                cookie: event.cookie(),
                netns: event.netns(),
                is_ipv4: event.is_ipv4(),
                laddr: event.laddr(),
                lport: event.lport(),
                raddr: event.raddr(),
                rport: event.rport(),
                service_port: applied.service_port(),
                role: applied.role(),
                // A process that acts on this very socket is better known than one that is inferred.
                owner: match (owner.how, event.process()) {
                    (How::Listener | How::Seeded | How::Unknown, Some(process)) => {
                        Owner::exact(Some(process))
                    }
                    _ => owner,
                },
                // As `--uid` selects it: a socket takes the user of whoever accepts it.
                uid: applied.uid().or_else(|| event.uid()),
                cgroup,
                cgroup_id: event.cgroup(),
            },
            oldstate: event.oldstate(),
            newstate: event.newstate(),
            dwell_ns: applied.dwell_ns,
            dwell_interval_ns: applied.dwell_interval_ns(),
            cause: applied.cause(),
            reset_reason: ResetReason::of(event),
            error: event.error(),
            flags: event.has(flags::SOCKET).then(|| SocketFlags {
                shutdown: u8::from(event.has(flags::RCV_SHUTDOWN))
                    | u8::from(event.has(flags::SEND_SHUTDOWN)) << 1,
                dead: event.has(flags::DEAD),
                done: event.has(flags::DONE),
            }),
            cpu: event.record().cpu,
            traffic: Traffic::of(event),
            goes_on: goes_on(event),
            handshake_ns: applied.handshake_ns(),
            packet: event.packet(),
        }
    }
}

impl AsRef<Common> for TransitionRow {
    fn as_ref(&self) -> &Common {
        &self.common
    }
}

/// Rows with the kernel's counters of a connection, and its reason for resetting it.
pub(super) trait Counted {
    /// The reason.
    fn reset_reason(&self) -> Option<ResetReason>;

    /// The counters.
    fn traffic(&self) -> Option<&Traffic>;
}

impl Counted for TransitionRow {
    fn reset_reason(&self) -> Option<ResetReason> {
        self.reset_reason
    }

    fn traffic(&self) -> Option<&Traffic> {
        self.traffic.as_ref()
    }
}

/// The column of the reason for a reset.
pub(super) const fn reset_reason<R: Counted>() -> Column<R> {
    Column::<R>::new(
        "reset_reason",
        Kind::Word(&RESET_REASONS),
        |row| {
            let reason = row.reset_reason();
            reason.map_or(Value::Unknown, |reason| Value::Word(reason.name()))
        },
        "Why this kernel reset the connection, as its `enum sk_rst_reason` names it",
    )
    .unknown("this kernel sent no reset, or does not say why (before Linux 6.10)")
}

/// The columns of [`Traffic`].
pub(super) const fn traffic<R: Counted>() -> [Column<R>; 4] {
    const UNREAD: &str = "the capture cannot read the socket";
    [
        Column::<R>::new(
            "bytes_sent",
            Kind::Bytes,
            |row| row.traffic().map(|traffic| traffic.bytes_sent).into(),
            "Payload sent so far, retransmissions included",
        )
        .unknown(UNREAD),
        Column::<R>::new(
            "bytes_received",
            Kind::Bytes,
            |row| row.traffic().map(|traffic| traffic.bytes_received).into(),
            "Payload received in order so far",
        )
        .unknown(UNREAD),
        Column::<R>::new(
            "retransmits",
            Kind::Count,
            |row| row.traffic().map(|traffic| traffic.retransmits).into(),
            "Segments retransmitted so far",
        )
        .unknown(UNREAD),
        Column::<R>::new(
            "srtt_us",
            Kind::Microseconds,
            |row| row.traffic().and_then(|traffic| traffic.srtt_us).into(),
            "Smoothed round-trip time",
        )
        .unknown("no round trip has been measured, or the capture cannot read the socket"),
    ]
}

/// A field of the packet, which is absent as a whole where there is none.
fn of_packet<'a>(row: &'a TransitionRow, field: impl FnOnce(&'a Packet) -> Value<'a>) -> Value<'a> {
    row.packet.as_ref().map_or(Value::Absent, field)
}

/// The columns of the packet.
const fn packet() -> [Column<TransitionRow>; 7] {
    const NONE: &str = "the kernel showed the transition";
    [
        Column::<TransitionRow>::new(
            "packet.number",
            Kind::Number,
            |row| of_packet(row, |packet| packet.number.into()),
            "The packet that shows the transition, by its number in the capture, from 1 on. `ts` is its time",
        )
        .unknown(NONE),
        Column::<TransitionRow>::new(
            "packet.direction",
            Kind::Word(&["sent", "received"]),
            |row| {
                of_packet(row, |packet| {
                    Value::Word(if packet.is_sent { "sent" } else { "received" })
                })
            },
            "Whether the socket sent it, or its peer",
        )
        .unknown(NONE),
        Column::<TransitionRow>::new(
            "packet.flags",
            Kind::ControlBits,
            |row| of_packet(row, |packet| Value::ControlBits(packet.flags)),
            "Its control bits, with a space between them: `SYN ACK`",
        )
        .unknown(NONE),
        Column::<TransitionRow>::new(
            "packet.seq",
            Kind::Number,
            |row| of_packet(row, |packet| packet.seq.into()),
            "Its sequence number, relative to its sender's SYN, which has 0. Where that is not in the capture, the first \
             number seen is 1",
        )
        .unknown(NONE),
        Column::<TransitionRow>::new(
            "packet.ack",
            Kind::Number,
            |row| of_packet(row, |packet| packet.ack.into()),
            "The number that it acknowledges, relative to the receiver's SYN in the same way",
        )
        .unknown("it acknowledges nothing, or the kernel showed the transition"),
        Column::<TransitionRow>::new(
            "packet.len",
            Kind::Bytes,
            |row| of_packet(row, |packet| packet.len.into()),
            "Its payload, as sent",
        )
        .unknown(NONE),
        Column::<TransitionRow>::new(
            "packet.inferred",
            Kind::Bool,
            |row| of_packet(row, |packet| packet.is_inferred.into()),
            "Whether the transition is inferred: it was made by another packet, which is not in the capture or which nothing \
             acknowledged; or no packet shows the beginning of `oldstate`",
        )
        .unknown(NONE),
    ]
}

/// The fields of a transition.
pub static TRANSITION: Table<TransitionRow> = Table {
    name: "transition",
    doc: "One change of a socket's state.",
    sections: &[
        &common(),
        &[
            Column::<TransitionRow>::new(
                "oldstate",
                Kind::State,
                |row| row.oldstate.into(),
                "State before the transition",
            ),
            Column::<TransitionRow>::new(
                "newstate",
                Kind::State,
                |row| row.newstate.into(),
                "State after the transition",
            ),
            Column::<TransitionRow>::new(
                "dwell_ns",
                Kind::Nanoseconds,
                |row| row.dwell_ns.into(),
                "Time spent in `oldstate`; where `newstate` is the same, the time in it so far",
            )
            .unknown("the beginning of `oldstate` was not seen"),
            Column::<TransitionRow>::new(
                "dwell_interval_ns",
                Kind::Nanoseconds,
                |row| row.dwell_interval_ns.into(),
                "Where `dwell_ns` was sampled, what it is exact to: a connection that was half-open in \
                 `SYN_RECV` before it had a socket may have been so longer by this much",
            )
            .unknown("`dwell_ns` was not sampled"),
            Column::<TransitionRow>::new(
                "cause",
                Kind::Cause,
                |row| row.cause.into(),
                "Why the connection ended",
            )
            .unknown("the connection has not ended, or the kernel does not say why"),
            Column::<TransitionRow>::new(
                "error",
                Kind::Number,
                |row| row.error.into(),
                "The socket's error, an errno (`sk_err`, or what ICMP had reported to a `connect` that was given up); 0 is none",
            )
            .unknown("the capture cannot read the socket"),
            Column::<TransitionRow>::new(
                "shutdown",
                Kind::Number,
                |row| row.flags.map(|flags| flags.shutdown).into(),
                "Directions that are shut down (`sk_shutdown`): 1 receiving, 2 sending, 3 both",
            )
            .unknown("the capture cannot read the socket"),
            Column::<TransitionRow>::new(
                "sock_dead",
                Kind::Bool,
                |row| row.flags.map(|flags| flags.dead).into(),
                "Whether the application has closed the socket (`SOCK_DEAD`)",
            )
            .unknown("the capture cannot read the socket"),
            Column::<TransitionRow>::new(
                "sock_done",
                Kind::Bool,
                |row| row.flags.map(|flags| flags.done).into(),
                "Whether the peer's FIN has arrived (`SOCK_DONE`)",
            )
            .unknown("the capture cannot read the socket"),
            Column::<TransitionRow>::new(
                "cpu",
                Kind::Number,
                |row| row.cpu.into(),
                "The CPU that made the transition",
            ),
        ],
        &traffic(),
        &[
            Column::<TransitionRow>::new(
                "goes_on",
                Kind::State,
                |row| row.goes_on.into(),
                "At the transition to `CLOSE`: the state in which the kernel keeps the connection in a \
                 minisocket, which makes no more transitions, unless there is no room for one \
                 (`tcp_max_tw_buckets`) or `TCP_LINGER2` is negative",
            )
            .unknown("the kernel keeps nothing of the connection, or it has not ended"),
            Column::<TransitionRow>::new(
                "handshake_ns",
                Kind::Nanoseconds,
                |row| row.handshake_ns.into(),
                "At the transition to `ESTABLISHED`: a client's time since its SYN, or a server's first \
                 round-trip time",
            )
            .unknown("no handshake ends here, or its beginning was not seen"),
            reset_reason(),
        ],
        &packet(),
    ],
};
