//! What `rates --in-kernel` keeps in the kernel: transitions counted by service, times counted by state, and
//! of each connection no more than that takes.
//!
//! Counts are 32 bits wide and wrap. Their reader adds up all CPUs, wrapping too, and takes the difference
//! from the time before.

use crate::{State, buckets::BUCKETS, record::flags};

/// States that are told apart: the kernel's 1 to 11, and 0 for any other number.
pub const STATES: usize = 12;
/// Ways of ending that are told apart, see [`manner()`].
pub const MANNERS: usize = 4;
/// Places in a [`PlaceSet`].
pub const WAYS: usize = 8;

/// Where a state is counted. A request socket is in `SYN_RECV`.
#[inline]
pub const fn index_of(state: State) -> usize {
    let number = state.folded().0 as usize;
    if number < STATES { number } else { 0 }
}

/// What is counted there; 255 stands for all numbers that have no place of their own.
#[expect(clippy::cast_possible_truncation, reason = "below STATES")]
pub const fn state_at(index: usize) -> State {
    match index {
        0 | STATES.. => State(255),
        _ => State(index as u8),
    }
}

/// The bits of a [`manner()`].
pub mod manner {
    /// Both directions were shut down.
    pub const CLOSED_HERE: u8 = 1 << 0;
    /// No process had the socket any more, or the peer's FIN had come.
    pub const ORPHAN_OR_DONE: u8 = 1 << 1;
}

/// What [`flags`] say of how a connection without an error ended.
#[inline]
pub const fn manner(known: u8) -> u8 {
    const BOTH: u8 = flags::RCV_SHUTDOWN | flags::SEND_SHUTDOWN;
    let mut bits = 0;
    if known & BOTH == BOTH {
        bits |= manner::CLOSED_HERE;
    }
    if known & (flags::DEAD | flags::DONE) != 0 {
        bits |= manner::ORPHAN_OR_DONE;
    }
    bits
}

/// Rows that no single service has: their numbers, and the number of the first that one has.
pub mod row {
    /// The role is not known, and so neither is the port.
    pub const UNKNOWN: u32 = 0;
    /// A client's, to a port that is not known.
    pub const CLIENT: u32 = 1;
    /// A server's, at a port that is not known.
    pub const SERVER: u32 = 2;
    /// Of clients, what came when there was no row left.
    pub const OTHER_CLIENT: u32 = 3;
    /// Of servers, what came when there was no row left.
    pub const OTHER_SERVER: u32 = 4;
    /// The first row of one service: a role and a port.
    pub const FIRST: u32 = 5;
}

/// Which side of a connection a service is, as an index.
pub mod side {
    /// It connects: the service port is the remote one.
    pub const CLIENT: u32 = 0;
    /// It listens: the service port is the local one.
    pub const SERVER: u32 = 1;
}

/// The service of a row, as one number: [`side`] above, port below.
pub const fn service(side: u32, port: u16) -> u32 {
    side << 16 | port as u32
}

/// The [`side`] and the port of a [`service`].
#[expect(clippy::cast_possible_truncation, reason = "the low half")]
pub const fn side_and_port(service: u32) -> (u32, u16) {
    (service >> 16, service as u16)
}

/// Where a row is in the map [`crate::config::ROWS`]: all rows of the first CPU, then those of the next.
#[inline]
pub const fn row_index(cpu: u32, rows_of_cpu: u32, row: u32) -> u32 {
    cpu * rows_of_cpu + row
}

/// Where a state's times are in the map [`crate::config::TIMES`]: all states of the first CPU, then those of
/// the next. `state`: as [`index_of`] gives it.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "at most 12")]
pub const fn times_index(cpu: u32, state: usize) -> u32 {
    cpu * STATES as u32 + state as u32
}

/// The row of each port, of one side; 0: it has none yet.
pub type RowsByPort = [u16; 1 << 16];

/// What happened to the connections of one service, on one CPU.
///
/// *Layout:* `u32` only, indexed by [`index_of`] and [`manner()`].
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Row {
    /// By the state before and the state after.
    pub transitions: [[u32; STATES]; STATES],
    /// Ends of connections without an error, by the state before and the manner.
    pub ends: [[u32; MANNERS]; STATES],
    /// Transitions that no filter can decide on yet; of [`row::UNKNOWN`] only. What is settled later on
    /// another CPU is taken off there.
    pub pending: u32,
    /// Sockets forgotten because others had the same hash value; of [`row::UNKNOWN`] only.
    pub forgotten: u32,
}

/// Ends of connections with an error: the key of the map [`crate::config::ERRORS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Failure {
    /// The row of the service.
    pub row: u16,
    /// `sk_err`: a positive errno.
    pub error: u16,
    /// The state before.
    pub oldstate: State,
    /// See [`manner()`].
    pub manner: u8,
    /// 0.
    pub padding: u16,
}

/// How long connections were in one state, on one CPU.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Times {
    /// Bit `n`: some bucket of the power of two number `n` has been counted in.
    pub octaves: u64,
    /// By bucket, see [`crate::buckets`].
    pub buckets: [u32; BUCKETS],
}

/// What is remembered of a socket between two of its transitions.
///
/// Two CPUs may take the same place at the same time, and what is written there is then a mixture:
/// [`Place::check`] tells.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Place {
    /// Kernel address of the socket; 0: the place is free.
    pub skaddr: u64,
    /// When it came into [`Place::state`], monotonic nanoseconds.
    pub since_ns: u64,
    /// The row of its service.
    pub row: u16,
    /// The state it is in.
    pub state: State,
    /// 1: its first transition waits until a filter can decide on it.
    pub pending: u8,
    /// A digest of all the others.
    pub check: u32,
}

impl Place {
    /// What [`Place::check`] has to be.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a digest")]
    pub const fn digest(&self) -> u32 {
        let rest = (self.row as u32) << 16 | (self.state.0 as u32) << 8 | self.pending as u32;
        // The low bits of an address are 0, its high ones those of all.
        (self.skaddr >> 4) as u32 ^ self.since_ns as u32 ^ rest
    }
}

/// The places of all sockets whose addresses have the same hash value.
pub type PlaceSet = [Place; WAYS];

/// The hash value of an address: as many low bits of it as are wanted are well mixed.
#[inline]
pub const fn hash(skaddr: u64) -> u32 {
    (skaddr.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

const _: () = {
    assert!(size_of::<Row>() == 776);
    assert!(size_of::<Failure>() == 8);
    assert!(size_of::<Times>() == 8 + 4 * BUCKETS && align_of::<Times>() == 8);
    assert!(size_of::<Place>() == 24 && size_of::<PlaceSet>() == 192);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_found_where_it_is_counted() {
        for state in State::ALL {
            assert_eq!(state_at(index_of(state)), state);
        }
        assert_eq!(
            index_of(State::NEW_SYN_RECV),
            index_of(State::SYN_RECV),
            "a request socket is in SYN_RECV"
        );
        for other in [State(0), State(13), State(255)] {
            assert_eq!(state_at(index_of(other)), State(255), "{other}");
        }
    }

    #[test]
    fn a_service_is_its_side_and_port() {
        for side in [side::CLIENT, side::SERVER] {
            for port in [0, 1, 443, u16::MAX] {
                assert_eq!(side_and_port(service(side, port)), (side, port));
            }
        }
    }

    #[test]
    fn a_manner_tells_who_closed() {
        const BOTH: u8 = flags::RCV_SHUTDOWN | flags::SEND_SHUTDOWN;
        assert_eq!(manner(flags::SOCKET), 0);
        assert_eq!(manner(flags::RCV_SHUTDOWN), 0);
        assert_eq!(manner(BOTH), manner::CLOSED_HERE);
        assert_eq!(manner(flags::DEAD), manner::ORPHAN_OR_DONE);
        assert_eq!(manner(flags::DONE), manner::ORPHAN_OR_DONE);
        let all = manner(u8::MAX);
        assert_eq!(all, manner::CLOSED_HERE | manner::ORPHAN_OR_DONE);
        assert!(usize::from(all) < MANNERS);
    }

    #[test]
    fn parts_of_a_map_do_not_overlap() {
        assert_eq!(row_index(0, 100, 99) + 1, row_index(1, 100, 0));
        assert_eq!(times_index(0, STATES - 1) + 1, times_index(1, 0));
    }
}
