//! The cause of a connection's end, and its state in the kernel afterwards, both from the transition to
//! CLOSE alone.

mod explained;

use std::{borrow::Cow, fmt};

pub use self::explained::{EXPLAINED, Explained};

use tcpstate_common::{
    State,
    record::{end, flags},
    tally::end_kind,
    transition::{closes, stays_in_fin_wait2},
};

use crate::event::Event;

/// The cause of a connection's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// Both sides closed in order.
    Fin,
    /// The peer reset it.
    ResetByPeer,
    /// This side reset it: it closed with `SO_LINGER` 0 or with unread data, its listener closed before it was
    /// accepted, or data came after it had closed.
    ResetLocally,
    /// The application gave up connecting; nothing was sent.
    Abandoned,
    /// `connect` failed for want of a local port.
    NoPort,
    /// Nothing listens there.
    Refused,
    /// No answer in time.
    TimedOut,
    /// Host or network unreachable.
    Unreachable,
    /// Another error of the socket, a positive errno.
    Errno(u16),
    /// The record does not show it.
    Unknown,
}

const EPIPE: u16 = 32;
const ENETUNREACH: u16 = 101;
const ECONNRESET: u16 = 104;
const ETIMEDOUT: u16 = 110;
const ECONNREFUSED: u16 = 111;
const EHOSTUNREACH: u16 = 113;

/// The names of the errors that a TCP socket can end with and that have no cause of their own.
const ERRNO_NAMES: &[(u16, &str)] = &[
    (1, "EPERM"),
    (4, "EINTR"),
    (5, "EIO"),
    (11, "EAGAIN"),
    (12, "ENOMEM"),
    (13, "EACCES"),
    (14, "EFAULT"),
    (22, "EINVAL"),
    (EPIPE, "EPIPE"),
    (71, "EPROTO"),
    (74, "EBADMSG"),
    (90, "EMSGSIZE"),
    (92, "ENOPROTOOPT"),
    (95, "EOPNOTSUPP"),
    (97, "EAFNOSUPPORT"),
    (98, "EADDRINUSE"),
    (99, "EADDRNOTAVAIL"),
    (100, "ENETDOWN"),
    (102, "ENETRESET"),
    (103, "ECONNABORTED"),
    (105, "ENOBUFS"),
    (106, "EISCONN"),
    (107, "ENOTCONN"),
    (108, "ESHUTDOWN"),
    (112, "EHOSTDOWN"),
    (125, "ECANCELED"),
];

impl Cause {
    /// All causes but the errors, which have names of their own.
    pub(crate) const NAMED: [Self; 9] = [
        Self::Fin,
        Self::ResetByPeer,
        Self::ResetLocally,
        Self::Refused,
        Self::TimedOut,
        Self::Unreachable,
        Self::Abandoned,
        Self::NoPort,
        Self::Unknown,
    ];

    /// The place of a named cause in [`Cause::NAMED`]; `Err` is the number of an error.
    pub(crate) const fn place(self) -> Result<usize, u16> {
        match self {
            Self::Fin => Ok(0),
            Self::ResetByPeer => Ok(1),
            Self::ResetLocally => Ok(2),
            Self::Refused => Ok(3),
            Self::TimedOut => Ok(4),
            Self::Unreachable => Ok(5),
            Self::Abandoned => Ok(6),
            Self::NoPort => Ok(7),
            Self::Unknown => Ok(8),
            Self::Errno(errno) => Err(errno),
        }
    }

    /// A number for it, which [`Cause::of_number`] reads: for whoever packs it.
    #[expect(clippy::cast_possible_truncation, reason = "few have names")]
    pub fn number(self) -> u32 {
        match self.place() {
            Ok(place) => place as u32,
            Err(errno) => Self::NAMED.len() as u32 + u32::from(errno),
        }
    }

    /// The cause with this number; [`Cause::Unknown`] where there is none.
    pub fn of_number(number: u32) -> Self {
        let place = usize::try_from(number).unwrap_or(usize::MAX);
        let errno = || {
            let errno = place.checked_sub(Self::NAMED.len())?;
            u16::try_from(errno).ok().map(Self::Errno)
        };
        let named = Self::NAMED.get(place).copied();
        named.or_else(errno).unwrap_or(Self::Unknown)
    }

    /// The cause of this name: in either case, with `-` or `_`.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.replace('-', "_");
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let errno = || {
            let named = ERRNO_NAMES.iter().find(|&&(_, other)| is(other));
            let number = || {
                name.to_ascii_lowercase()
                    .strip_prefix("errno_")?
                    .parse()
                    .ok()
            };
            named.map(|&(errno, _)| errno).or_else(number)
        };
        Self::NAMED
            .into_iter()
            .find(|cause| is(&cause.name()))
            .or_else(|| errno().map(Self::Errno))
    }

    /// The cause of the end that this transition is; `None` where it ends no connection: it does not
    /// lead to CLOSE, or is a listener's.
    ///
    /// Without the fields of the socket ([`flags::SOCKET`]) it is nearly always [`Cause::Unknown`]: the states
    /// alone do not distinguish an orderly end from an error. `LAST_ACK` -> CLOSE is also a reset or a timeout of
    /// the last FIN. And a closed socket gets ECONNRESET from data that still arrives
    /// (`tcp_rcv_state_process`), as from a reset: only the RST that this kernel then sends distinguishes the two
    /// ([`awaits_reset`](tcpstate_common::transition::awaits_reset)).
    ///
    /// *Source:* `net/ipv4/tcp.c` and `tcp_input.c`. With an error: `tcp_reset` (ECONNREFUSED in
    /// `SYN_SENT`, EPIPE in `CLOSE_WAIT`, else ECONNRESET), `tcp_write_err` (ETIMEDOUT or the last ICMP
    /// error), `tcp_abort`. Without one: `__tcp_close` and `tcp_disconnect` by this side,
    /// `tcp_time_wait` (an orphan in `FIN_WAIT2`, or after the peer's FIN), and the end of `LAST_ACK`. In
    /// `SYN_SENT`: `tcp_close_state` sends nothing, and `tcp_v4_connect` returns to CLOSE where
    /// `inet_hash_connect` finds no port.
    pub fn of(event: &Event) -> Option<Self> {
        let oldstate = event.oldstate();
        if !closes(oldstate, event.newstate()) {
            return None;
        }
        let record = event.record();
        let mut end_kind = end_kind(record.flags, record.end_facts());
        if oldstate == State::SYN_SENT && record.lport == 0 {
            // A socket without a port has not sent its SYN. Older recordings have no facts about it.
            end_kind |= end_kind::NO_PORT;
        }
        Some(Self::of_end(oldstate, event.error(), end_kind))
    }

    /// Like [`Cause::of`], from the state before, the socket's error and the [`end_kind()`] of its flags.
    pub fn of_end(oldstate: State, error: Option<u16>, end_kind: u8) -> Self {
        let is = |bit: u8| end_kind & bit != 0;
        let closed_here = is(end_kind::CLOSED_HERE);
        match (error, oldstate) {
            (None | Some(0), State::SYN_SENT) if is(end_kind::NO_PORT) => Self::NoPort,
            // Otherwise connect() itself failed, and left no reason here.
            (Some(0), State::SYN_SENT) if closed_here => Self::Abandoned,
            (Some(0 | ECONNRESET | EPIPE), _) if is(end_kind::RESET_SENT) => Self::ResetLocally,
            (Some(0), State::LAST_ACK | State::CLOSING) => Self::Fin,
            (Some(0), State::FIN_WAIT2) if is(end_kind::ORPHAN_OR_DONE) => Self::Fin,
            // Some ends send none: of a socket that is being moved to another host (TCP_REPAIR), or whose
            // namespace is gone.
            (
                Some(0),
                State::ESTABLISHED | State::CLOSE_WAIT | State::FIN_WAIT1 | State::FIN_WAIT2,
            ) if !is(end_kind::NO_RESET) => Self::ResetLocally,
            (None | Some(0), _) => Self::Unknown,
            // Data after the close, or a RST of the peer.
            (Some(ECONNRESET), State::FIN_WAIT1 | State::FIN_WAIT2)
                if closed_here && !is(end_kind::NO_RESET) =>
            {
                Self::Unknown
            }
            (Some(ECONNRESET), _) | (Some(EPIPE), State::CLOSE_WAIT) => Self::ResetByPeer,
            (Some(ECONNREFUSED), _) => Self::Refused,
            (Some(ETIMEDOUT), _) => Self::TimedOut,
            (Some(EHOSTUNREACH | ENETUNREACH), _) => Self::Unreachable,
            (Some(errno), _) => Self::Errno(errno),
        }
    }

    /// The name in JSON and text: of the cause, or of the error, or `errno_N` where the error has none.
    #[expect(clippy::indexing_slicing, reason = "at where it was found")]
    pub fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Fin => "fin",
            Self::ResetByPeer => "reset_by_peer",
            Self::ResetLocally => "reset_locally",
            Self::Abandoned => "abandoned",
            Self::NoPort => "no_port",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Unknown => "unknown",
            Self::Errno(errno) => {
                match ERRNO_NAMES.binary_search_by_key(&errno, |&(number, _)| number) {
                    Ok(at) => ERRNO_NAMES[at].1,
                    Err(_) => return Cow::Owned(format!("errno_{errno}")),
                }
            }
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

/// The reasons for which a kernel resets a connection, by their codes from 1 on: the names in `enum sk_rst_reason`,
/// lower case and without the common prefix. The kernel's numbers differ from kernel to kernel; these codes are
/// in recordings and never change, so new ones go to the end.
///
/// *Source:* `include/net/rstreason.h`, Linux 6.18. *Since:* Linux 6.10.
pub(crate) const RESET_REASONS: [&str; 25] = [
    "not_specified",
    "no_socket",
    "tcp_invalid_ack_sequence",
    "tcp_rfc7323_paws",
    "tcp_too_old_ack",
    "tcp_ack_unsent_data",
    "tcp_flags",
    "tcp_old_ack",
    "tcp_abort_on_data",
    "tcp_timewait_socket",
    "invalid_syn",
    "tcp_abort_on_close",
    "tcp_abort_on_linger",
    "tcp_abort_on_memory",
    "tcp_state",
    "tcp_keepalive_timeout",
    "tcp_disconnect_with_data",
    "mptcp_rst_eunspec",
    "mptcp_rst_emptcp",
    "mptcp_rst_eresource",
    "mptcp_rst_eprohibit",
    "mptcp_rst_ewq2big",
    "mptcp_rst_ebadperf",
    "mptcp_rst_emiddlebox",
    "error",
];

/// Why the kernel reset a connection. *Since:* Linux 6.10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetReason(&'static str);

impl ResetReason {
    /// The reason that the kernel gave for resetting the connection that this transition ends; `None` where it did
    /// not reset it, or gave none.
    pub fn of(event: &Event) -> Option<Self> {
        Self::of_code(end::reason(event.record().end_facts()))
    }

    /// The reason with this code, as in records; `None` for 0, and for one that is not known here.
    pub(crate) fn of_code(code: u8) -> Option<Self> {
        RESET_REASONS
            .get(usize::from(code).checked_sub(1)?)
            .map(|name| Self(name))
    }

    /// Its code.
    pub(crate) fn code(self) -> u8 {
        let at = RESET_REASONS.iter().position(|name| *name == self.0);
        at.and_then(|at| u8::try_from(at + 1).ok()).unwrap_or(0)
    }

    /// The name in JSON and text.
    pub const fn name(self) -> &'static str {
        self.0
    }
}

/// The code of a reason for a RST, by its name in the kernel's `enum sk_rst_reason`; `None`: not known here.
pub fn reset_code(kernel_name: &str) -> Option<u8> {
    let name = kernel_name.strip_prefix("SK_RST_REASON_")?;
    let at = RESET_REASONS
        .iter()
        .position(|known| known.eq_ignore_ascii_case(name))?;
    u8::try_from(at + 1).ok()
}

/// The state in which the kernel keeps a connection after its transition to CLOSE, as a minisocket
/// that no tracepoint shows: `FIN_WAIT2` for an orphan whose peer has not closed yet, `TIME_WAIT` when
/// both have. `None` where it is gone, or where the record does not show it.
///
/// *Source:* `tcp_time_wait` and its callers `tcp_fin`, `tcp_rcv_state_process`, `__tcp_close`.
pub fn goes_on(event: &Event) -> Option<State> {
    let reset = event.record().end_facts() & end::RESET_SENT != 0;
    if event.newstate() != State::CLOSE || event.error() != Some(0) || reset {
        return None;
    }
    match event.oldstate() {
        State::CLOSING => Some(State::TIME_WAIT),
        State::FIN_WAIT2 if event.has(flags::DONE) => Some(State::TIME_WAIT),
        old if stays_in_fin_wait2(old, State::CLOSE, 0, event.record().flags) => {
            Some(State::FIN_WAIT2)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tcpstate_common::{Record, record};

    use super::*;

    fn close(oldstate: State, error: u16, flags: u8) -> Event {
        Event::try_from(Record {
            lport: 40_000,
            oldstate,
            newstate: State::CLOSE,
            error,
            flags,
            family: record::AF_INET,
            ..Record::default()
        })
        .unwrap()
    }

    #[test]
    fn causes() {
        const S: u8 = flags::SOCKET;
        const SHUT: u8 = flags::RCV_SHUTDOWN | flags::SEND_SHUTDOWN;
        for (oldstate, error, flags, expected) in [
            (State::LAST_ACK, 0, S | SHUT, Some("fin")),
            (State::CLOSING, 0, S | SHUT, Some("fin")),
            (State::FIN_WAIT2, 0, S | SHUT | flags::DONE, Some("fin")),
            (State::FIN_WAIT2, 0, S | SHUT | flags::DEAD, Some("fin")),
            (State::FIN_WAIT2, 0, S | SHUT, Some("reset_locally")),
            (State::FIN_WAIT1, 0, S | SHUT, Some("reset_locally")),
            (State::ESTABLISHED, 0, S | SHUT, Some("reset_locally")),
            (State::CLOSE_WAIT, 0, S | SHUT, Some("reset_locally")),
            (State::SYN_SENT, 0, S | SHUT, Some("abandoned")),
            (State::SYN_SENT, 0, S, Some("unknown")),
            (State::SYN_RECV, 0, S, Some("unknown")),
            (State::ESTABLISHED, 104, S | SHUT, Some("reset_by_peer")),
            (State::LAST_ACK, 104, S | SHUT, Some("reset_by_peer")),
            (State::CLOSE_WAIT, 32, S, Some("reset_by_peer")),
            (State::ESTABLISHED, 32, S, Some("EPIPE")),
            (State::SYN_SENT, 111, S, Some("refused")),
            (State::SYN_SENT, 110, S, Some("timed_out")),
            (State::ESTABLISHED, 110, S, Some("timed_out")),
            (State::SYN_SENT, 113, S, Some("unreachable")),
            (State::SYN_SENT, 101, S, Some("unreachable")),
            (State::ESTABLISHED, 103, S, Some("ECONNABORTED")),
            (State::ESTABLISHED, 4000, S, Some("errno_4000")),
            (State::LAST_ACK, 0, 0, Some("unknown")),
            (State::ESTABLISHED, 0, 0, Some("unknown")),
            (State::LISTEN, 0, S | SHUT, None),
            (State::CLOSE, 0, S, None),
        ] {
            let cause = Cause::of(&close(oldstate, error, flags)).map(|cause| cause.to_string());
            assert_eq!(
                cause.as_deref(),
                expected,
                "{oldstate} error {error} flags {flags:#x}"
            );
        }
    }

    #[test]
    fn the_facts_about_an_end_decide_its_cause() {
        const S: u8 = flags::SOCKET;
        const SHUT: u8 = flags::RCV_SHUTDOWN | flags::SEND_SHUTDOWN;
        const ORPHAN: u8 = S | SHUT | flags::DEAD;
        for (oldstate, error, flags, facts, expected) in [
            (State::FIN_WAIT1, 104, ORPHAN, 0, "unknown"),
            (
                State::FIN_WAIT1,
                104,
                ORPHAN,
                end::NO_RESET,
                "reset_by_peer",
            ),
            (
                State::FIN_WAIT1,
                104,
                ORPHAN,
                end::RESET_SENT,
                "reset_locally",
            ),
            (
                State::FIN_WAIT2,
                104,
                ORPHAN,
                end::RESET_SENT,
                "reset_locally",
            ),
            (
                State::FIN_WAIT2,
                0,
                ORPHAN,
                end::RESET_SENT,
                "reset_locally",
            ),
            (State::FIN_WAIT2, 0, ORPHAN, end::NO_RESET, "fin"),
            // It still reads, so no data comes too late.
            (
                State::FIN_WAIT1,
                104,
                S | flags::SEND_SHUTDOWN,
                0,
                "reset_by_peer",
            ),
            (
                State::ESTABLISHED,
                0,
                S | SHUT,
                end::RESET_SENT,
                "reset_locally",
            ),
            (State::ESTABLISHED, 0, S | SHUT, end::NO_RESET, "unknown"),
            (State::SYN_RECV, 0, S, end::RESET_SENT, "reset_locally"),
            // The kernel sends a RST when it gives up a peer.
            (State::ESTABLISHED, 110, S, end::RESET_SENT, "timed_out"),
            // connect() to nowhere, or shutdown(), while connecting.
            (State::SYN_SENT, 0, S, end::SYN_SENT, "abandoned"),
            (State::SYN_SENT, 0, S, end::NO_PORT, "no_port"),
            (State::SYN_SENT, 111, S, end::SYN_SENT, "refused"),
        ] {
            let mut event = close(oldstate, error, flags);
            event.add_end_facts(facts);
            let cause = Cause::of(&event).map(|cause| cause.to_string());
            let end = format!("{oldstate} error {error} flags {flags:#x} facts {facts:#x}");
            assert_eq!(cause.as_deref(), Some(expected), "{end}");
            if facts & end::RESET_SENT != 0 {
                assert_eq!(goes_on(&event), None, "{end}");
            }
        }
    }

    #[test]
    fn a_connect_without_a_port_needs_no_socket_to_be_known() {
        let record = Record {
            lport: 0,
            ..*close(State::SYN_SENT, 0, 0).record()
        };
        let event = Event::try_from(record).unwrap();
        assert_eq!(Cause::of(&event), Some(Cause::NoPort));
    }

    #[test]
    fn a_transition_that_ends_nothing_has_no_cause() {
        let record = Record {
            oldstate: State::ESTABLISHED,
            newstate: State::FIN_WAIT1,
            ..*close(State::ESTABLISHED, 0, flags::SOCKET).record()
        };
        let event = Event::try_from(record).unwrap();
        assert_eq!((Cause::of(&event), goes_on(&event)), (None, None));
    }

    #[test]
    fn a_connection_that_goes_on_has_the_state_of_its_minisocket() {
        const S: u8 = flags::SOCKET;
        for (oldstate, error, flags, expected) in [
            (State::CLOSING, 0, S, Some(State::TIME_WAIT)),
            (State::FIN_WAIT2, 0, S | flags::DONE, Some(State::TIME_WAIT)),
            (
                State::FIN_WAIT2,
                0,
                S | flags::DONE | flags::DEAD,
                Some(State::TIME_WAIT),
            ),
            (State::FIN_WAIT2, 0, S | flags::DEAD, Some(State::FIN_WAIT2)),
            (State::FIN_WAIT2, 0, S, None),
            (State::FIN_WAIT2, 104, S | flags::DEAD, None),
            (State::FIN_WAIT2, 0, flags::DEAD, None),
            (State::CLOSING, 0, 0, None),
            (State::LAST_ACK, 0, S, None),
        ] {
            assert_eq!(
                goes_on(&close(oldstate, error, flags)),
                expected,
                "{oldstate} {flags:#x}"
            );
        }
    }

    #[test]
    fn a_reason_for_a_reset_has_its_name_by_its_code() {
        for (name, expected) in [
            ("SK_RST_REASON_NOT_SPECIFIED", Some(1)),
            ("SK_RST_REASON_TCP_ABORT_ON_DATA", Some(9)),
            ("SK_RST_REASON_ERROR", Some(25)),
            ("SK_RST_REASON_MAX", None),
            ("TCP_ABORT_ON_DATA", None),
        ] {
            assert_eq!(reset_code(name), expected, "{name}");
        }
        let mut event = close(State::FIN_WAIT1, 104, flags::SOCKET);
        let reason = |event: &Event| ResetReason::of(event).map(ResetReason::name);
        assert_eq!(reason(&event), None);
        event.add_end_facts(end::with_reason(end::RESET_SENT, 9));
        assert_eq!(reason(&event), Some("tcp_abort_on_data"));
        event.add_end_facts(end::with_reason(0, 0xff));
        assert_eq!(reason(&event), None, "of a later version");
    }

    #[test]
    fn a_named_cause_is_at_its_place() {
        let places = Cause::NAMED.map(Cause::place);
        assert_eq!(places, [0, 1, 2, 3, 4, 5, 6, 7, 8].map(Ok));
        assert_eq!(Cause::Errno(22).place(), Err(22));
    }

    #[test]
    fn every_named_cause_is_explained() {
        for cause in Cause::NAMED {
            assert!(EXPLAINED.iter().any(|row| row.name == cause.name()));
        }
        assert_eq!(EXPLAINED.len(), Cause::NAMED.len() + 1);
    }

    #[test]
    fn errno_names_are_sorted() {
        assert!(ERRNO_NAMES.is_sorted_by(|a, b| a.0 < b.0));
    }
}
