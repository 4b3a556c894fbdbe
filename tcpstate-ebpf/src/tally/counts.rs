//! The counts of a CPU: transitions and ends by row, dwell times by state.

use core::hint::black_box;

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use tcpstate_common::{
    State,
    buckets::{BUCKETS, bucket_number, bucket_of},
    tally::{END_KINDS, Failure, Row, STATES, Times, index_of, row_index, times_index},
};

use crate::maps::{ERRORS, ROWS, TIMES, add_or_insert, config};

/// The CPU on which the program runs.
#[derive(Clone, Copy)]
pub(super) struct Cpu(u32);

impl Cpu {
    #[inline(always)]
    pub(super) fn this() -> Self {
        // SAFETY: the helper has no preconditions.
        Self(unsafe { bpf_get_smp_processor_id() } as u32)
    }

    /// One of this CPU's rows.
    #[inline(always)]
    pub(super) fn row(self, number: u32) -> Option<*mut Row> {
        ROWS.get_ptr_mut(row_index(self.0, config!(rows), number))
    }

    /// Counts the time that a connection spent in a state.
    #[inline(always)]
    pub(super) fn add_dwell(self, state: usize, duration_ns: u64) {
        let Some(times): Option<*mut Times> = TIMES.get_ptr_mut(times_index(self.0, state)) else {
            return;
        };
        let (octave, part) = bucket_of(duration_ns);
        let bucket = bucket_number(octave, part);
        if bucket >= BUCKETS {
            // Never true, but the verifier requires the check.
            return;
        }
        // SAFETY: the map lookup returned a valid pointer.
        unsafe {
            (*times).octaves |= 1 << octave;
            (*times).buckets[bucket] += 1;
        }
    }
}

/// [`index_of`] with a bound that the verifier can follow: the compiler would otherwise compare one copy of the
/// number and use another.
#[inline(always)]
pub(super) fn index(state: State) -> usize {
    let index = black_box(index_of(state) as u64);
    if index < STATES as u64 {
        index as usize
    } else {
        0
    }
}

/// Counts the end of a connection, by its cause.
#[inline(always)]
pub(super) fn add_end(counts: *mut Row, at: u32, oldstate: State, error: u16, end_kind: u8) {
    if error == 0 {
        let end_kind = usize::from(end_kind) & (END_KINDS - 1);
        // SAFETY: the map lookup returned a valid pointer.
        unsafe { (*counts).ends[index(oldstate)][end_kind] += 1 };
        return;
    }
    let failure = Failure {
        row: at as u16,
        error,
        oldstate,
        end_kind,
        padding: 0,
    };
    // If the map is full, the cause is not counted; the reader sees an end without a cause.
    add_or_insert(&ERRORS, &failure);
}
