//! The record in the ring buffer: one transition, of fixed size.

use crate::State;

/// Defines a `#[repr(C)]` struct of integers and byte arrays together with its conversion from and to
/// little-endian bytes, so that the layout is written down once.
macro_rules! wire {
    (
        $(#[$meta:meta])*
        pub struct $name:ident [$size:literal] {
            $($(#[$fmeta:meta])* $offset:literal $field:ident: $kind:ident $(<$len:literal>)?,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
        #[repr(C)]
        pub struct $name {
            $($(#[$fmeta])* pub $field: wire!(@type $kind $(<$len>)?),)*
        }

        // The ABI: a change here also changes the recording format.
        const _: () = {
            assert!(size_of::<$name>() == $size);
            assert!(align_of::<$name>() == 8);
            $(assert!(core::mem::offset_of!($name, $field) == $offset);)*
        };

        impl $name {
            /// Size in bytes.
            pub const SIZE: usize = $size;

            /// Name, offset and size of each field, in order, for file headers and docs. *Units:* bytes.
            pub const LAYOUT: &'static [(&'static str, usize, usize)] = &[
                $((stringify!($field), $offset, size_of::<wire!(@type $kind $(<$len>)?)>()),)*
            ];

            /// Decodes the record from its little-endian bytes.
            #[inline]
            pub fn from_bytes(bytes: &[u8; $size]) -> Self {
                Self { $($field: wire!(@read bytes, $offset, $kind $(<$len>)?),)* }
            }

            /// Encodes the record in little-endian bytes.
            pub fn to_bytes(&self) -> [u8; $size] {
                let mut bytes = [0; $size];
                $(wire!(@write bytes, $offset, self.$field, $kind);)*
                bytes
            }
        }
    };
    (@type bytes<$len:literal>) => { [u8; $len] };
    (@type state) => { State };
    (@type $int:ident) => { $int };
    (@read $bytes:ident, $offset:literal, bytes<$len:literal>) => {{
        let mut field = [0u8; $len];
        field.copy_from_slice(&$bytes[$offset..$offset + $len]);
        field
    }};
    (@read $bytes:ident, $offset:literal, state) => { State($bytes[$offset]) };
    (@read $bytes:ident, $offset:literal, $int:ident) => {{
        let mut field = [0u8; size_of::<$int>()];
        field.copy_from_slice(&$bytes[$offset..$offset + size_of::<$int>()]);
        $int::from_le_bytes(field)
    }};
    (@write $bytes:ident, $offset:literal, $value:expr, bytes) => {
        $bytes[$offset..$offset + $value.len()].copy_from_slice(&$value)
    };
    (@write $bytes:ident, $offset:literal, $value:expr, state) => { $bytes[$offset] = $value.0 };
    (@write $bytes:ident, $offset:literal, $value:expr, $int:ident) => {
        $bytes[$offset..$offset + size_of::<$int>()].copy_from_slice(&$value.to_le_bytes())
    };
}

wire! {
    /// One transition of one TCP socket.
    ///
    /// *Layout:* 128 bytes, little-endian, aligned to 8, the same in both attach modes. A field that the
    /// attach mode cannot provide is 0, and [`Record::flags`] says so.
    ///
    /// *Source:* the tracepoint `sock:inet_sock_set_state` (`include/trace/events/sock.h`) and, in
    /// `btf` mode, `struct sock` and `struct tcp_sock`.
    pub struct Record [128] {
        /// `CLOCK_MONOTONIC` at the transition, nanoseconds.
        0 ts_ns: u64,
        /// The socket's cookie; 0 when [`flags::COOKIE`] is not set.
        8 cookie: u64,
        /// Kernel address of the `struct sock`. The kernel reuses it as soon as the socket is freed.
        16 skaddr: u64,
        /// Id of the socket's cgroup (v2), the inode number of its directory; 0 is unknown.
        24 cgroup: u64,
        /// Payload bytes sent, retransmissions included (`tcp_sock.bytes_sent`).
        32 bytes_sent: u64,
        /// Bytes received in order (`tcp_sock.bytes_received`), the peer's FIN counted as one.
        40 bytes_received: u64,
        /// Local address; IPv4 as v4-mapped IPv6. Network byte order.
        48 laddr: bytes<16>,
        /// Remote address; IPv4 as v4-mapped IPv6. Network byte order.
        64 raddr: bytes<16>,
        /// Inode number of the network namespace; 0 is unknown.
        80 netns: u32,
        /// User id of the socket's owner, in the initial user namespace.
        84 uid: u32,
        /// Process (thread group) id of the running task, if [`flags::PROCESS`] is set. Otherwise 0 or, at the
        /// end of a connection, the facts about it: see [`end`].
        88 pid: u32,
        /// Smoothed round trip time, microseconds; 0 before the first measurement.
        92 srtt_us: u32,
        /// Segments retransmitted so far (`tcp_sock.total_retrans`).
        96 retransmits: u32,
        /// Local port, host byte order; 0 until it is chosen.
        100 lport: u16,
        /// Remote port, host byte order; 0 until there is one.
        102 rport: u16,
        /// `sk_err`: a positive errno, 0 for none. Of a connection that the application gave up in `SYN_SENT`, the
        /// error that ICMP had reported.
        104 error: u16,
        /// The CPU on which the transition happened.
        106 cpu: u16,
        /// The state before.
        108 oldstate: state,
        /// The state after.
        109 newstate: state,
        /// Address family of the socket: 2 (`AF_INET`) or 10 (`AF_INET6`).
        110 family: u8,
        /// Bits that describe the socket, and bits that say which fields are valid; see [`flags`].
        111 flags: u8,
        /// Name of the running process, that of its thread group's leader, NUL-padded; zeros unless
        /// [`flags::PROCESS`] is set. Before Linux 5.11 that of the running thread.
        112 comm: bytes<16>,
    }
}

wire! {
    /// A RST that this kernel sends on a socket, in the same ring buffer: it is shorter than a [`Record`].
    ///
    /// The kernel sends it just after the transition to CLOSE of the connection that it ends, or just before.
    ///
    /// *Source:* the tracepoint `tcp:tcp_send_reset` (`include/trace/events/tcp.h`).
    pub struct Reset [24] {
        /// `CLOCK_MONOTONIC`, nanoseconds.
        0 ts_ns: u64,
        /// Kernel address of the `struct sock`.
        8 skaddr: u64,
        /// The socket's state: CLOSE, if the connection has ended before.
        16 state: state,
        /// The number of the reason (`enum sk_rst_reason`, which differs from kernel to kernel), plus 1; 0 is
        /// unknown. *Since:* Linux 6.10.
        17 reason: u8,
        /// Always 0.
        18 padding: bytes<6>,
    }
}

/// The facts about the end of a connection, in [`Record::pid`]: no process is known there. 0: none is known.
pub mod end {
    /// This kernel sent a RST.
    pub const RESET_SENT: u32 = 1 << 0;
    /// The RSTs of this kernel were watched, and none belongs to this end.
    pub const NO_RESET: u32 = 1 << 1;
    /// A SYN had been sent.
    pub const SYN_SENT: u32 = 1 << 2;
    /// `connect` found no port: none was free, or the one that was bound is in use to the same peer.
    pub const NO_PORT: u32 = 1 << 3;

    /// The facts about a connection that ends in `SYN_SENT`, from its local port and two members of its
    /// `struct tcp_sock`.
    ///
    /// *Source:* `tcp_v4_connect`: the first sequence number is chosen when a port has been found.
    #[inline]
    pub const fn of_connecting(lport: u16, segs_out: u32, write_seq: u32) -> u32 {
        if segs_out != 0 {
            SYN_SENT
        } else if lport == 0 || write_seq == 0 {
            NO_PORT
        } else {
            0
        }
    }

    /// The facts with the code of the reason for the RST; 0: it is not known.
    #[inline]
    pub const fn with_reason(facts: u32, code: u8) -> u32 {
        facts & !0xff00 | (code as u32) << 8
    }

    /// The code of the reason for the RST; 0: it is not known.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "eight bits of it")]
    pub const fn reason(facts: u32) -> u8 {
        (facts >> 8) as u8
    }
}

/// The bits of [`Record::flags`].
pub mod flags {
    /// `SOCK_DEAD` of `sk_flags`: the application has closed the socket, which is now an orphan.
    pub const DEAD: u8 = 1 << 0;
    /// `SOCK_DONE` of `sk_flags`: the peer's FIN has been received.
    pub const DONE: u8 = 1 << 1;
    /// `RCV_SHUTDOWN` of `sk_shutdown`.
    pub const RCV_SHUTDOWN: u8 = 1 << 2;
    /// `SEND_SHUTDOWN` of `sk_shutdown`.
    pub const SEND_SHUTDOWN: u8 = 1 << 3;
    /// `cookie` is the socket's cookie.
    pub const COOKIE: u8 = 1 << 4;
    /// The running task is the one that acts on this socket: `pid` and `comm` are valid.
    pub const PROCESS: u8 = 1 << 5;
    /// The fields of `struct tcp_sock` are valid: `bytes_*`, `srtt_us`, `retransmits`.
    pub const TCP: u8 = 1 << 6;
    /// The fields of `struct sock` are valid: `netns`, `uid`, `error`, and bits 0 to 3.
    pub const SOCKET: u8 = 1 << 7;

    /// Bits 0 to 3, from the socket's own members.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits matter")]
    pub const fn of_socket(sk_flags: u64, sk_shutdown: u8) -> u8 {
        // SOCK_DEAD and SOCK_DONE are bits 0 and 1 in both.
        sk_flags as u8 & (DEAD | DONE) | (sk_shutdown & 3) << 2
    }
}

/// `AF_INET`, as in [`Record::family`].
pub const AF_INET: u8 = 2;
/// `AF_INET6`, as in [`Record::family`].
pub const AF_INET6: u8 = 10;

#[cfg(test)]
mod tests {
    use super::{
        Record, end,
        flags::{DEAD, DONE, PROCESS, RCV_SHUTDOWN, SEND_SHUTDOWN, of_socket},
    };
    use crate::State;

    #[test]
    fn only_an_end_without_a_process_has_facts() {
        let end = Record {
            oldstate: State::ESTABLISHED,
            newstate: State::CLOSE,
            pid: end::RESET_SENT,
            ..Record::default()
        };
        let facts = |record: Record| record.end_facts();
        assert_eq!(facts(end), end::RESET_SENT);
        assert_eq!(
            facts(Record {
                flags: PROCESS,
                ..end
            }),
            0
        );
        assert_eq!(
            facts(Record {
                oldstate: State::LISTEN,
                ..end
            }),
            0
        );
    }

    #[test]
    fn a_connect_without_a_port_is_known_by_its_sequence_number() {
        assert_eq!(end::of_connecting(40_000, 2, 1), end::SYN_SENT);
        assert_eq!(end::of_connecting(0, 0, 0), end::NO_PORT);
        assert_eq!(end::of_connecting(40_000, 0, 0), end::NO_PORT);
        // A port was found; it failed for another reason.
        assert_eq!(end::of_connecting(40_000, 0, 1), 0);
    }

    #[test]
    fn a_reason_is_beside_the_facts() {
        let facts = end::with_reason(end::RESET_SENT, 9);
        assert_eq!(facts & end::RESET_SENT, end::RESET_SENT);
        assert_eq!(end::reason(facts), 9);
        assert_eq!(end::reason(end::RESET_SENT | end::NO_PORT), 0);
    }

    #[test]
    fn the_sockets_own_bits_become_flags() {
        // SOCK_KEEPOPEN (bit 3) and all other bits are left out.
        assert_eq!(of_socket(0b1001, 0), DEAD);
        assert_eq!(of_socket(0b1010, 0), DONE);
        assert_eq!(of_socket(0, 1), RCV_SHUTDOWN);
        assert_eq!(of_socket(0, 2), SEND_SHUTDOWN);
        assert_eq!(
            of_socket(u64::MAX, u8::MAX),
            DEAD | DONE | RCV_SHUTDOWN | SEND_SHUTDOWN
        );
    }
}
