//! An ended connection as bytes: a word of flags says which of its facts follow, and numbers take as many bytes as
//! they need.
//!
//! Only this process reads them again, so that there is no version.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tcpstate_common::{State, record};

use super::whose::Shared;
use crate::{
    cause::{Cause, ResetReason},
    event::SocketId,
    model::connection::{Connection, Ended, Stay, Traffic},
    service::Role,
};

const IPV6: u32 = 1 << 0;
const LADDR: u32 = 1 << 1;
const LADDR_IPV6: u32 = 1 << 2;
const RADDR: u32 = 1 << 3;
const RADDR_IPV6: u32 = 1 << 4;
const LPORT: u32 = 1 << 5;
const RPORT: u32 = 1 << 6;
const TRUNCATED: u32 = 1 << 7;
const OPENED: u32 = 1 << 8;
const LAST: u32 = 1 << 9;
const THERE: u32 = 1 << 10;
const HANDSHAKE: u32 = 1 << 11;
const LIFETIME: u32 = 1 << 12;
/// It is not the time from the first transition to the last.
const OTHER_LIFETIME: u32 = 1 << 13;
const REASON: u32 = 1 << 14;
const GOES_ON: u32 = 1 << 15;
const TRAFFIC: u32 = 1 << 16;
const SRTT: u32 = 1 << 17;
const CLIENT: u32 = 1 << 18;
const SERVER: u32 = 1 << 19;

/// In a byte with a state, which is above.
const DWELL: u8 = 1 << 0;
const AT_LEAST: u8 = 1 << 1;
const SAMPLED: u8 = 1 << 2;
const INTERVAL: u8 = 1 << 3;
const STATE_SHIFT: u32 = 4;
/// The state is in a byte of its own: the kernel has none with so high a number.
const OTHER_STATE: u8 = 15;

/// Appends an ended connection, all but its cookie. `whose` is the number of the facts that it shares.
pub(super) fn encode(ended: &Ended, whose: u32, to: &mut Vec<u8>) {
    let Ended {
        connection,
        lifetime_ns,
        cause,
        reset_reason,
        goes_on,
        traffic,
    } = ended;
    let span_ns = span_ns(connection);
    let is_ipv6 = |addr: Option<IpAddr>| addr.is_some_and(|addr| addr.is_ipv6());
    let bits = [
        (IPV6, connection.family == record::AF_INET6),
        (LADDR, connection.laddr.is_some()),
        (LADDR_IPV6, is_ipv6(connection.laddr)),
        (RADDR, connection.raddr.is_some()),
        (RADDR_IPV6, is_ipv6(connection.raddr)),
        (LPORT, connection.lport.is_some()),
        (RPORT, connection.rport.is_some()),
        (TRUNCATED, connection.truncated),
        (OPENED, connection.opened),
        (LAST, connection.last_ns.is_some()),
        (THERE, connection.there_ns.is_some()),
        (HANDSHAKE, connection.handshake_ns.is_some()),
        (LIFETIME, lifetime_ns.is_some()),
        (
            OTHER_LIFETIME,
            lifetime_ns.is_some() && *lifetime_ns != span_ns,
        ),
        (REASON, reset_reason.is_some()),
        (GOES_ON, goes_on.is_some()),
        (TRAFFIC, traffic.is_some()),
        (SRTT, traffic.is_some_and(|one| one.srtt_us.is_some())),
        (CLIENT, connection.role == Role::Client),
        (SERVER, connection.role == Role::Server),
    ];
    let flags = bits.iter().filter(|(_, is_set)| *is_set);
    let flags = flags.fold(0, |flags, (bit, _)| flags | bit);
    to.extend_from_slice(&flags.to_le_bytes());
    for addr in [connection.laddr, connection.raddr].into_iter().flatten() {
        match addr {
            IpAddr::V4(addr) => to.extend_from_slice(&addr.octets()),
            IpAddr::V6(addr) => to.extend_from_slice(&addr.octets()),
        }
    }
    for port in [connection.lport, connection.rport].into_iter().flatten() {
        to.extend_from_slice(&port.to_le_bytes());
    }
    let numbers = [
        Some(whose.into()),
        Some(connection.first_ns),
        // Wraps where the time runs backwards between two CPUs.
        connection
            .last_ns
            .map(|last_ns| last_ns.wrapping_sub(connection.first_ns)),
        connection.there_ns,
        connection.handshake_ns,
        lifetime_ns.filter(|_| flags & OTHER_LIFETIME != 0),
        Some(cause.number().into()),
        reset_reason.map(|reason| reason.code().into()),
        goes_on.map(|state| state.0.into()),
        traffic.map(|traffic| traffic.bytes_sent),
        traffic.map(|traffic| traffic.bytes_received),
        traffic.map(|traffic| traffic.retransmits.into()),
        traffic.and_then(|traffic| Some(traffic.srtt_us?.into())),
        Some(connection.states.len() as u64),
    ];
    for number in numbers.into_iter().flatten() {
        push_number(number, to);
    }
    for stay in &connection.states {
        push_stay(stay, to);
    }
}

/// An ended connection, and the number of the facts that it shares, from the bytes behind its cookie.
pub(super) fn decode(cookie: u64, bytes: &[u8], shared: &Shared) -> (Ended, u32) {
    let mut from = Reader(bytes);
    let flags = u32::from_le_bytes(from.take());
    let has = |bit: u32| flags & bit != 0;
    let laddr = has(LADDR).then(|| from.address(has(LADDR_IPV6)));
    let raddr = has(RADDR).then(|| from.address(has(RADDR_IPV6)));
    let lport = has(LPORT).then(|| u16::from_le_bytes(from.take()));
    let rport = has(RPORT).then(|| u16::from_le_bytes(from.take()));
    let role = match (has(CLIENT), has(SERVER)) {
        (true, _) => Role::Client,
        (_, true) => Role::Server,
        _ => Role::Unknown,
    };
    let number = from.small();
    let whose = shared.get(number).cloned().unwrap_or_default();
    let first_ns = from.number();
    let last_ns = has(LAST).then(|| first_ns.wrapping_add(from.number()));
    let there_ns = has(THERE).then(|| from.number());
    let handshake_ns = has(HANDSHAKE).then(|| from.number());
    let other_lifetime_ns = has(OTHER_LIFETIME).then(|| from.number());
    let cause = Cause::of_number(from.small());
    let reset_reason = has(REASON)
        .then(|| from.byte_number())
        .and_then(ResetReason::of_code);
    let goes_on = has(GOES_ON).then(|| State(from.byte_number()));
    let traffic = has(TRAFFIC).then(|| Traffic {
        bytes_sent: from.number(),
        bytes_received: from.number(),
        retransmits: from.small(),
        srtt_us: has(SRTT).then(|| from.small()),
    });
    let states = (0..from.number()).map(|_| from.stay()).collect();
    let connection = Connection {
        id: SocketId::Cookie(cookie),
        netns: whose.netns,
        family: if has(IPV6) {
            record::AF_INET6
        } else {
            record::AF_INET
        },
        laddr,
        lport,
        raddr,
        rport,
        role,
        service_port: role.service_port(lport.unwrap_or(0), rport.unwrap_or(0)),
        owner: whose.owner,
        processes: whose.processes,
        uid: whose.uid,
        cgroup: whose.cgroup,
        states,
        truncated: has(TRUNCATED),
        first_ns,
        opened: has(OPENED),
        last_ns,
        there_ns,
        handshake_ns,
    };
    let ended = Ended {
        lifetime_ns: has(LIFETIME)
            .then(|| other_lifetime_ns.or(span_ns(&connection)))
            .flatten(),
        connection,
        cause,
        reset_reason,
        goes_on,
        traffic,
    };
    (ended, number)
}

/// The time from its first transition to its last, where both are known: its lifetime, as a rule.
fn span_ns(connection: &Connection) -> Option<u64> {
    connection.last_ns?.checked_sub(connection.first_ns)
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
#[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
fn push_number(mut number: u64, to: &mut Vec<u8>) {
    while number >= 1 << 7 {
        to.push(number as u8 | 1 << 7);
        number >>= 7;
    }
    to.push(number as u8);
}

fn push_stay(stay: &Stay, to: &mut Vec<u8>) {
    let bit = |bit: u8, is_set: bool| if is_set { bit } else { 0 };
    let bits = bit(DWELL, stay.dwell_ns.is_some())
        | bit(AT_LEAST, stay.at_least_ns.is_some())
        | bit(SAMPLED, stay.sampled)
        | bit(INTERVAL, stay.interval_ns.is_some());
    let state = stay.state.0;
    to.push(state.min(OTHER_STATE) << STATE_SHIFT | bits);
    if state >= OTHER_STATE {
        to.push(state);
    }
    let numbers = [stay.dwell_ns, stay.at_least_ns, stay.interval_ns];
    for number in numbers.into_iter().flatten() {
        push_number(number, to);
    }
}

/// The bytes that are left. Behind their end there are zeros.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((first, rest)) = self.0.split_first_chunk::<N>() else {
            self.0 = &[];
            return [0; N];
        };
        self.0 = rest;
        *first
    }

    fn byte(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    fn number(&mut self) -> u64 {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte();
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 1 << 7 == 0 {
                break;
            }
        }
        number
    }

    /// A number that was made of one of 32 bits.
    fn small(&mut self) -> u32 {
        u32::try_from(self.number()).unwrap_or(u32::MAX)
    }

    /// A number that was made of a byte.
    fn byte_number(&mut self) -> u8 {
        u8::try_from(self.number()).unwrap_or(u8::MAX)
    }

    fn address(&mut self, is_ipv6: bool) -> IpAddr {
        if is_ipv6 {
            Ipv6Addr::from(self.take::<16>()).into()
        } else {
            Ipv4Addr::from(self.take::<4>()).into()
        }
    }

    fn stay(&mut self) -> Stay {
        let byte = self.byte();
        let state = match byte >> STATE_SHIFT {
            OTHER_STATE => self.byte(),
            state => state,
        };
        let mut number = |bit: u8| (byte & bit != 0).then(|| self.number());
        Stay {
            state: State(state),
            dwell_ns: number(DWELL),
            at_least_ns: number(AT_LEAST),
            sampled: byte & SAMPLED != 0,
            interval_ns: number(INTERVAL),
        }
    }
}
