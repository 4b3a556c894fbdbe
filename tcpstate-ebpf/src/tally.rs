//! Counting in the kernel: what `rates --in-kernel` shows is added up here, and nothing is streamed.
//!
//! Of each socket a [`Place`] remembers since when it is in its state, and where its transitions are
//! counted. Not in storage of the kernel's at the socket itself: that is allocated and freed with every
//! connection, which costs more than all of this. A table of fixed size does neither; what it cannot hold is
//! forgotten, the oldest of a set first, and counted like a socket that was there before.
//!
//! There is no lock and no atomic instruction: counts belong to one CPU, transitions of a socket come one
//! after the other, and a place that two sockets took at once gives itself away ([`Place::check`]). Before
//! Linux 6.1 a run can be interrupted by another one on its CPU, and what hits it between a load and its store
//! is lost, as with all counts (`emit`); the books then do not balance, and say so.

use core::hint::black_box;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
};
use tcpstate_common::{
    State,
    buckets::{BUCKETS, bucket_number, bucket_of},
    filter::Key,
    tally::{
        Failure, MANNERS, Place, PlaceSet, Row, STATES, Times, WAYS, hash, index_of, manner, row,
        row_index, service, side, times_index,
    },
    transition::{closes, opens, stays_in_fin_wait2},
};

use crate::{
    emit::{self, Transition as _, count},
    filter,
    maps::{ERRORS, FREE_ROWS, PLACES, ROWS, ROWS_BY_PORT, SCRATCH, SERVICES, TIMES, config},
    socket::Call,
};

/// Counts one transition.
#[inline(always)]
pub(crate) fn count(call: &Call) {
    let Some(counters) = emit::begin(call) else {
        return;
    };
    let mut is_undecided = false;
    if config!(has_filter) != 0 {
        let call = call.with_tcp();
        let key = call.key();
        if !emit::keeps(&call, &key, counters) {
            // Only these may have left its first transition undecided. The place would be held by a socket that
            // nobody will hear of again.
            if config!(filter.lport) != 0
                || config!(filter.rport) != 0
                || config!(filter.port) != 0
                || config!(filter.family) != 0
            {
                forget(&call);
            }
            return;
        }
        is_undecided = filter::is_undecided(&key, || call.addresses(key.family));
    }
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let cpu = Cpu::this();
    let Some(skaddr) = as_number(call) else {
        count!(counters.lost_ring_full);
        return;
    };
    let places = PLACES.get_ptr_mut(hash(skaddr) & config!(place_mask));
    // No map is ever without these values; the verifier wants to see it.
    let (Some(places), Some(unsettled)) = (places, cpu.row(row::UNKNOWN)) else {
        count!(counters.lost_ring_full);
        return;
    };
    let (oldstate, newstate) = call.states();
    let (oldstate, newstate) = (oldstate.folded(), newstate.folded());
    let way = find(places, skaddr);

    if is_undecided {
        // Its next transition tells. If none is kept, it stays undecided.
        let place = Place {
            skaddr,
            since_ns: now_ns,
            row: 0,
            state: newstate,
            pending: 1,
            check: 0,
        };
        put(places, way, place, unsettled);
        // SAFETY: the map lookup gave a valid pointer.
        unsafe { (*unsettled).pending += 1 };
        count!(counters.submitted);
        return;
    }

    // Of most transitions nobody needs the ports: where they are counted is remembered.
    let key = || call.with_tcp().key();
    let mut dwell_ns = None;
    let mut earlier = None;
    let at = if begins(oldstate, newstate) {
        row_of(role_that_begins(newstate), &key())
    } else if oldstate.0 == State::CLOSE.0 {
        // CLOSE -> CLOSE: it says nothing of any connection.
        row::UNKNOWN
    } else if let Some(place) = at_way(places, way) {
        if place.state.0 == oldstate.0 {
            // Clocks of two CPUs may be a little apart.
            dwell_ns = Some(now_ns.saturating_sub(place.since_ns));
        }
        if place.pending == 0 {
            u32::from(place.row)
        } else {
            if dwell_ns.is_some() {
                earlier = Some(before(oldstate));
            }
            row_of(role_that_begins(place.state), &key())
        }
    } else {
        let key = key();
        row_of(role_of_unknown(oldstate, &key), &key)
    };

    if newstate.0 == State::CLOSE.0 {
        if way < WAYS as u32 {
            // SAFETY: the map lookup gave a valid pointer.
            unsafe { (*places)[way as usize & (WAYS - 1)].skaddr = 0 };
        }
    } else {
        let place = Place {
            skaddr,
            since_ns: now_ns,
            row: at as u16,
            state: newstate,
            pending: 0,
            check: 0,
        };
        put(places, way, place, unsettled);
    }

    let Some(counts) = cpu.row(at) else {
        count!(counters.lost_ring_full);
        return;
    };
    let (from, to) = (index(oldstate), index(newstate));
    // SAFETY: the map lookups gave valid pointers; the indices are below STATES.
    unsafe {
        (*counts).transitions[from][to] += 1;
        if let Some(earlier) = earlier {
            (*counts).transitions[index(earlier)][from] += 1;
            (*unsettled).pending -= 1;
        }
    }
    if newstate.0 == State::CLOSE.0 {
        let (error, known) = (call.error(), call.flags());
        if closes(oldstate, newstate) {
            ended(counts, at, oldstate, error, manner(known));
        }
        if stays_in_fin_wait2(oldstate, newstate, error, known) {
            dwell_ns = None;
        }
    }
    if let Some(dwell_ns) = dwell_ns {
        cpu.spent(from, dwell_ns);
    }
    count!(counters.submitted);
}

/// The socket's address as a number to calculate with. The verifier does not allow that with a pointer; what
/// comes back from a map is none.
///
/// No run shares the map's value between these two instructions: see the module.
#[inline(always)]
fn as_number(call: &Call) -> Option<u64> {
    let scratch = SCRATCH.get_ptr_mut(0)?.cast::<u64>();
    // SAFETY: the map lookup gave a valid pointer to this CPU's value.
    unsafe {
        scratch.write_volatile(call.skaddr());
        Some(scratch.read_volatile())
    }
}

/// As [`index_of`], in a way that keeps the bound in sight of the verifier: the compiler would compare one
/// copy of the number and use another.
#[inline(always)]
fn index(state: State) -> usize {
    let index = black_box(index_of(state) as u64);
    if index < STATES as u64 {
        index as usize
    } else {
        0
    }
}

/// Whether a socket begins something new: a connection, or to listen.
#[inline(always)]
fn begins(oldstate: State, newstate: State) -> bool {
    opens(oldstate, newstate) || matches!((oldstate, newstate), (State::CLOSE, State::LISTEN))
}

/// The state before the one with which a connection, or a listener, begins.
#[inline(always)]
fn before(state: State) -> State {
    if state.0 == State::SYN_RECV.0 {
        State::LISTEN
    } else {
        State::CLOSE
    }
}

/// Which side a socket is, or neither.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Unknown,
    Client,
    Server,
}

/// What a socket is that begins with this state.
#[inline(always)]
fn role_that_begins(newstate: State) -> Role {
    match newstate {
        State::SYN_SENT => Role::Client,
        State::LISTEN | State::SYN_RECV => Role::Server,
        _ => Role::Unknown,
    }
}

/// What a socket is that was there before: a client, if it connects; a server, if its port is one where
/// somebody listens; a client, if the kernel may have chosen its own port and the peer's is none of that
/// kind.
#[inline(always)]
fn role_of_unknown(oldstate: State, key: &Key) -> Role {
    if oldstate.0 == State::SYN_SENT.0 {
        return Role::Client;
    }
    if oldstate.0 == State::LISTEN.0 {
        return Role::Server;
    }
    if let Some(rows) = ROWS_BY_PORT.get_ptr_mut(side::SERVER) {
        // SAFETY: the map lookup gave a valid pointer.
        if unsafe { (*rows)[port_index(key.lport)] } != 0 {
            return Role::Server;
        }
    }
    let (first, last) = (config!(ephemeral_first), config!(ephemeral_last));
    let is_ephemeral = |port| first <= port && port <= last;
    if is_ephemeral(key.lport) && !is_ephemeral(key.rport) {
        return Role::Client;
    }
    Role::Unknown
}

/// A port as an index. Older verifiers lose sight of its bound when it is put into the host's byte order.
#[inline(always)]
fn port_index(port: u16) -> usize {
    black_box(u64::from(port)) as usize & 0xffff
}

/// The number of the row in which a service is counted.
#[inline(always)]
fn row_of(role: Role, key: &Key) -> u32 {
    let (of, port, unknown, other) = match role {
        Role::Unknown => return row::UNKNOWN,
        Role::Client => (side::CLIENT, key.rport, row::CLIENT, row::OTHER_CLIENT),
        Role::Server => (side::SERVER, key.lport, row::SERVER, row::OTHER_SERVER),
    };
    if port == 0 {
        return unknown;
    }
    let Some(rows) = ROWS_BY_PORT.get_ptr_mut(of) else {
        return other;
    };
    // SAFETY: the map lookup gave a valid pointer.
    let entry = unsafe { &raw mut (*rows)[port_index(port)] };
    // SAFETY: as above.
    let known = unsafe { entry.read() };
    if known != 0 {
        return u32::from(known);
    }
    let new = match FREE_ROWS.pop() {
        Ok(Some(new)) => {
            // Another CPU may give the port a row at the same moment. Both are its, and the reader adds
            // them up.
            let Some(whose) = SERVICES.get_ptr_mut(new) else {
                return other;
            };
            // SAFETY: the map lookup gave a valid pointer.
            unsafe { whose.write(service(of, port)) };
            new
        }
        Ok(None) => other,
        // Somebody else is taking one: next time.
        Err(_) => return other,
    };
    // SAFETY: as above.
    unsafe { entry.write(new as u16) };
    new
}

/// The place of a socket in its set; [`WAYS`] if it has none.
#[inline(always)]
fn find(places: *const PlaceSet, skaddr: u64) -> u32 {
    for way in 0..WAYS {
        // SAFETY: the map lookup gave a valid pointer.
        let place = unsafe { &(*places)[way] };
        if place.skaddr == skaddr {
            return way as u32;
        }
    }
    WAYS as u32
}

/// What is remembered there, if it is whole.
#[inline(always)]
fn at_way(places: *const PlaceSet, way: u32) -> Option<Place> {
    if way >= WAYS as u32 {
        return None;
    }
    // SAFETY: the map lookup gave a valid pointer.
    let place = unsafe { (*places)[way as usize & (WAYS - 1)] };
    (place.check == place.digest()).then_some(place)
}

/// Forgets a socket.
#[inline(always)]
fn forget(call: &Call) {
    let Some(skaddr) = as_number(call) else {
        return;
    };
    let Some(places) = PLACES.get_ptr_mut(hash(skaddr) & config!(place_mask)) else {
        return;
    };
    let way = find(places, skaddr);
    if way < WAYS as u32 {
        // SAFETY: the map lookup gave a valid pointer.
        unsafe { (*places)[way as usize & (WAYS - 1)].skaddr = 0 };
    }
}

/// Remembers a socket: where it was, where nobody is, or where the one is that has not changed for the longest.
#[inline(always)]
fn put(places: *mut PlaceSet, way: u32, mut place: Place, unsettled: *mut Row) {
    let mut way = way;
    if way >= WAYS as u32 {
        let (mut oldest_ns, mut is_full) = (u64::MAX, true);
        for at in 0..WAYS {
            // SAFETY: the map lookup gave a valid pointer.
            let held = unsafe { &(*places)[at] };
            if held.skaddr == 0 {
                (way, is_full) = (at as u32, false);
                break;
            }
            if held.since_ns < oldest_ns {
                (oldest_ns, way) = (held.since_ns, at as u32);
            }
        }
        if is_full {
            // SAFETY: the map lookup gave a valid pointer.
            unsafe { (*unsettled).forgotten += 1 };
        }
    }
    place.check = place.digest();
    // SAFETY: the map lookup gave a valid pointer.
    unsafe { (*places)[way as usize & (WAYS - 1)] = place };
}

/// Counts how a connection ended.
#[inline(always)]
fn ended(counts: *mut Row, at: u32, oldstate: State, error: u16, manner: u8) {
    if error == 0 {
        let manner = usize::from(manner) & (MANNERS - 1);
        // SAFETY: the map lookup gave a valid pointer.
        unsafe { (*counts).ends[index(oldstate)][manner] += 1 };
        return;
    }
    let failure = Failure {
        row: at as u16,
        error,
        oldstate,
        manner,
        padding: 0,
    };
    if !add(&failure) {
        // Another CPU may have made the entry meanwhile. If there is no room, nobody counts the cause; the
        // reader sees that the end has none.
        let _ = ERRORS.insert(failure, 0, u64::from(BPF_NOEXIST));
        add(&failure);
    }
}

/// Adds one if there is an entry.
#[inline(always)]
fn add(failure: &Failure) -> bool {
    let Some(count) = ERRORS.get_ptr_mut(failure) else {
        return false;
    };
    // SAFETY: the map lookup gave a valid pointer to this CPU's value.
    unsafe { *count += 1 };
    true
}

/// The CPU that counts.
#[derive(Clone, Copy)]
struct Cpu(u32);

impl Cpu {
    #[inline(always)]
    fn this() -> Self {
        // SAFETY: the helper has no preconditions.
        Self(unsafe { bpf_get_smp_processor_id() } as u32)
    }

    /// One of its rows.
    #[inline(always)]
    fn row(self, number: u32) -> Option<*mut Row> {
        ROWS.get_ptr_mut(row_index(self.0, config!(rows), number))
    }

    /// A connection was in this state for so long.
    #[inline(always)]
    fn spent(self, state: usize, duration_ns: u64) {
        let Some(times): Option<*mut Times> = TIMES.get_ptr_mut(times_index(self.0, state)) else {
            return;
        };
        let (octave, part) = bucket_of(duration_ns);
        let bucket = bucket_number(octave, part);
        if bucket >= BUCKETS {
            // It cannot be; the verifier does not know.
            return;
        }
        // SAFETY: the map lookup gave a valid pointer.
        unsafe {
            (*times).octaves |= 1 << octave;
            (*times).buckets[bucket] += 1;
        }
    }
}
