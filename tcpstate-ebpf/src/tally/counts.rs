//! The counts of a part: transitions and ends by row, dwell times by state.

use core::hint::black_box;

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use tcpstate_common::{
    State,
    buckets::{BUCKETS, bucket_number, bucket_of},
    tally::{END_KINDS, Failure, Row, STATES, Times, end_kind, index_of, row_index, times_index},
};

use crate::{
    maps::{ERRORS, ROWS, TIMES, add_or_insert, config},
    nested::Part,
};

/// The one of the [`parts`](tcpstate_common::tally::parts) in which this run counts.
#[derive(Clone, Copy)]
pub(super) struct Counts(u32);

impl Counts {
    #[inline(always)]
    pub(super) fn of(part: Part) -> Self {
        // SAFETY: the helper has no preconditions.
        let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
        match part {
            Part::First => Self(cpu),
            Part::Second => Self(config!(cpus) + cpu),
        }
    }

    /// One of its rows.
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
pub(super) fn add_end(counts: *mut Row, end: &Failure) {
    if end.error == 0 {
        // SAFETY: the map lookup returned a valid pointer.
        unsafe { (*counts).ends[index(end.oldstate)][kind_index(end)] += 1 };
        return;
    }
    // If the map is full, the cause is not counted; the reader sees an end without a cause.
    add_or_insert(&ERRORS, end);
}

/// Counts an end that has been counted again: with a RST.
#[inline(always)]
pub(super) fn move_end(counts: *mut Row, mut end: Failure) {
    // The counts of one part may become negative. The reader adds up those of all.
    end.nested = 1;
    if end.error == 0 {
        // SAFETY: the map lookup returned a valid pointer.
        unsafe {
            let count = &raw mut (*counts).ends[index(end.oldstate)][kind_index(&end)];
            *count = (*count).wrapping_sub(1);
        }
    } else {
        // On this CPU the count may not be there yet.
        if !add_or_insert(&ERRORS, &end) {
            return;
        }
        if let Some(count) = ERRORS.get_ptr_mut(&end) {
            // SAFETY: the map lookup returned a valid pointer to this CPU's value.
            unsafe { *count = (*count).wrapping_sub(2) };
        }
    }
    end.end_kind |= end_kind::RESET_SENT;
    add_end(counts, &end);
}

/// The index of the kind of end, with a bound that the verifier sees.
#[inline(always)]
fn kind_index(end: &Failure) -> usize {
    usize::from(end.end_kind) & (END_KINDS - 1)
}
