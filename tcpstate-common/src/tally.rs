//! The counts that `rates --in-kernel` keeps in the kernel: transitions by service, dwell times by state, and
//! as little about each connection as these need.
//!
//! Counts are 32 bits wide and wrap. The reader adds up all CPUs, wrapping too, and takes the difference from
//! its previous reading.

use crate::{
    State,
    buckets::BUCKETS,
    record::{end, flags},
};

/// Number of states counted separately: the kernel's 1 to 11, and 0 for any other number.
pub const STATES: usize = 12;
/// Number of kinds of ends counted separately, see [`end_kind()`].
pub const END_KINDS: usize = 8;
/// Places in a [`PlaceSet`], the associativity of the table.
pub const WAYS: usize = 8;

/// The index at which a state is counted. A request socket counts as `SYN_RECV`.
#[inline]
pub const fn index_of(state: State) -> usize {
    let number = state.folded().0 as usize;
    if number < STATES { number } else { 0 }
}

/// The state counted at an index; 255 stands for all numbers without an index of their own.
#[expect(clippy::cast_possible_truncation, reason = "below STATES")]
pub const fn state_at(index: usize) -> State {
    match index {
        0 | STATES.. => State(255),
        _ => State(index as u8),
    }
}

/// The bits of an [`end_kind()`].
pub mod end_kind {
    /// Both directions were shut down; in `SYN_SENT`, the application gave up.
    pub const CLOSED_HERE: u8 = 1 << 0;
    /// The socket was an orphan, or the peer's FIN had arrived.
    pub const ORPHAN_OR_DONE: u8 = 1 << 1;
    /// This kernel sent a RST.
    pub const RESET_SENT: u8 = 1 << 2;
    /// In `SYN_SENT`, where no RST is ever sent: there was no port for the connection.
    pub const NO_PORT: u8 = RESET_SENT;
    /// This kernel's RSTs were watched, and it sent none. User space adds it: it is not counted separately.
    pub const NO_RESET: u8 = 1 << 3;
}

/// The kind of end of a connection, from the [`flags`] of its record and the facts about its [`end`].
#[inline]
pub const fn end_kind(known: u8, facts: u32) -> u8 {
    const BOTH: u8 = flags::RCV_SHUTDOWN | flags::SEND_SHUTDOWN;
    let mut bits = 0;
    if known & BOTH == BOTH || facts & end::SYN_SENT != 0 {
        bits |= end_kind::CLOSED_HERE;
    }
    if known & (flags::DEAD | flags::DONE) != 0 {
        bits |= end_kind::ORPHAN_OR_DONE;
    }
    if facts & (end::RESET_SENT | end::NO_PORT) != 0 {
        bits |= end_kind::RESET_SENT;
    }
    if facts & end::NO_RESET != 0 {
        bits |= end_kind::NO_RESET;
    }
    bits
}

/// The numbers of the rows that belong to no single service, and of the first row that does.
pub mod row {
    /// The role is not known, and so neither is the service port.
    pub const UNKNOWN: u32 = 0;
    /// Clients whose service port is not known.
    pub const CLIENT: u32 = 1;
    /// Servers whose service port is not known.
    pub const SERVER: u32 = 2;
    /// Clients for which no row was left.
    pub const OTHER_CLIENT: u32 = 3;
    /// Servers for which no row was left.
    pub const OTHER_SERVER: u32 = 4;
    /// The first row of a single service: a role and a port.
    pub const FIRST: u32 = 5;
}

/// The side of a connection, as an index.
pub mod side {
    /// The side that connects: its service port is the remote one.
    pub const CLIENT: u32 = 0;
    /// The side that listens: its service port is the local one.
    pub const SERVER: u32 = 1;
}

/// The service of a row as one number: the [`side`] in the high half, the port in the low half.
pub const fn service(side: u32, port: u16) -> u32 {
    side << 16 | port as u32
}

/// The [`side`] and the port of a [`service`].
#[expect(clippy::cast_possible_truncation, reason = "the low half")]
pub const fn side_and_port(service: u32) -> (u32, u16) {
    (service >> 16, service as u16)
}

/// The parts into which the counts of a number of CPUs are divided: one for the first program on each, then one for
/// each interruption of it. An addition takes two instructions, and nothing that comes between them may add to the
/// same count.
pub const fn parts(cpus: u32) -> u32 {
    cpus * 2
}

/// The index of a row in the map [`crate::config::ROWS`]: all rows of the first of the [`parts()`], then those of the
/// next.
#[inline]
pub const fn row_index(part: u32, rows_of_part: u32, row: u32) -> u32 {
    part * rows_of_part + row
}

/// The index of a state's dwell times in the map [`crate::config::TIMES`]: all states of the first of the [`parts()`],
/// then those of the next. `state` is an index from [`index_of`].
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "at most 12")]
pub const fn times_index(part: u32, state: usize) -> u32 {
    part * STATES as u32 + state as u32
}

/// The row of each port on one side; 0: the port has none yet.
pub type RowsByPort = [u16; 1 << 16];

/// The counts of one service, in one of the [`parts()`].
///
/// *Layout:* `u32` only, indexed by [`index_of`] and [`end_kind()`].
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Row {
    /// Transitions, by the state before and the state after.
    pub transitions: [[u32; STATES]; STATES],
    /// Ends of connections without an error, by the state before and [`end_kind()`].
    pub ends: [[u32; END_KINDS]; STATES],
    /// Transitions that the filters cannot decide on yet; in [`row::UNKNOWN`] only. One that is decided later
    /// on another CPU is subtracted there.
    pub pending: u32,
    /// Sockets forgotten because their set was full; in [`row::UNKNOWN`] only.
    pub forgotten: u32,
}

/// The key of the map [`crate::config::ERRORS`]: an end of a connection with an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Failure {
    /// The row of the service.
    pub row: u16,
    /// `sk_err`: a positive errno.
    pub error: u16,
    /// The state before.
    pub oldstate: State,
    /// See [`end_kind()`].
    pub end_kind: u8,
    /// 1: counted by the second program, or for a RST. Like [`parts()`].
    pub nested: u16,
}

/// A connection that ended, and whose cause a RST would decide; or an open socket that sent a RST. At the hash of
/// its address in the map [`crate::config::NOTES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Note {
    /// Kernel address of the socket; 0: there is no note.
    pub skaddr: u64,
    /// The end as it was counted; [`Note::RESET`]: a RST was sent before the end.
    pub end: Failure,
}

impl Note {
    /// Stands for the end of a socket that has not ended yet.
    pub const RESET: Failure = Failure {
        row: 0,
        error: 0,
        oldstate: State(0),
        end_kind: 0,
        nested: 0,
    };
}

/// Number of [`Note`]s, a power of two.
pub const NOTES: u32 = 1024;

/// The dwell times in one state, in one of the [`parts()`].
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Times {
    /// Bit `n` is set once any bucket of the `n`th power of two has been incremented.
    pub octaves: u64,
    /// Counts by bucket, see [`crate::buckets`].
    pub buckets: [u32; BUCKETS],
}

/// A socket as it is remembered between two of its transitions.
///
/// Two CPUs may write to the same place at the same time and leave a mixture there, which [`Place::check`]
/// reveals.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Place {
    /// Kernel address of the socket; 0: the place is free.
    pub skaddr: u64,
    /// `CLOCK_MONOTONIC` at the entry into [`Place::state`], nanoseconds.
    pub since_ns: u64,
    /// The row of the socket's service.
    pub row: u16,
    /// The state that the socket is in.
    pub state: State,
    /// 1: the socket's first transition is still undecided.
    pub pending: u8,
    /// A digest of all other fields.
    pub check: u32,
}

impl Place {
    /// The value that [`Place::check`] must have.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a digest")]
    pub const fn digest(&self) -> u32 {
        let rest = (self.row as u32) << 16 | (self.state.0 as u32) << 8 | self.pending as u32;
        // The low bits of an address are 0, and the high bits are the same for all sockets.
        (self.skaddr >> 4) as u32 ^ self.since_ns as u32 ^ rest
    }
}

/// The places of all sockets whose addresses have the same hash value.
pub type PlaceSet = [Place; WAYS];

/// The hash value of an address. Its low bits are well mixed, so a mask selects as many as are needed.
#[inline]
pub const fn hash(skaddr: u64) -> u32 {
    (skaddr.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

const _: () = {
    assert!(size_of::<Row>() == 968);
    assert!(size_of::<Failure>() == 8 && size_of::<Note>() == 16);
    assert!(NOTES.is_power_of_two());
    assert!(size_of::<Times>() == 8 + 4 * BUCKETS && align_of::<Times>() == 8);
    assert!(size_of::<Place>() == 24 && size_of::<PlaceSet>() == 192);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_at_its_index() {
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
    fn a_service_has_its_side_and_port() {
        for side in [side::CLIENT, side::SERVER] {
            for port in [0, 1, 443, u16::MAX] {
                assert_eq!(side_and_port(service(side, port)), (side, port));
            }
        }
    }

    #[test]
    fn the_kind_of_end_says_who_closed() {
        const BOTH: u8 = flags::RCV_SHUTDOWN | flags::SEND_SHUTDOWN;
        assert_eq!(end_kind(flags::SOCKET, 0), 0);
        assert_eq!(end_kind(flags::RCV_SHUTDOWN, 0), 0);
        assert_eq!(end_kind(BOTH, 0), end_kind::CLOSED_HERE);
        assert_eq!(end_kind(0, end::SYN_SENT), end_kind::CLOSED_HERE);
        assert_eq!(end_kind(flags::DEAD, 0), end_kind::ORPHAN_OR_DONE);
        assert_eq!(end_kind(flags::DONE, 0), end_kind::ORPHAN_OR_DONE);
        assert_eq!(end_kind(0, end::RESET_SENT), end_kind::RESET_SENT);
        assert_eq!(end_kind(0, end::NO_PORT), end_kind::NO_PORT);
        assert_eq!(end_kind(0, end::NO_RESET), end_kind::NO_RESET);
        // All but what user space adds has an index.
        let all = end_kind(u8::MAX, u32::MAX) & !end_kind::NO_RESET;
        assert_eq!(usize::from(all), END_KINDS - 1);
    }

    #[test]
    fn the_parts_are_adjacent() {
        assert_eq!(row_index(0, 100, 99) + 1, row_index(1, 100, 0));
        assert_eq!(times_index(0, STATES - 1) + 1, times_index(1, 0));
    }
}
