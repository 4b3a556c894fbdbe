//! Reads the counts made in the kernel (`tcpstate-ebpf/src/tally.rs`).
//!
//! The counts are mapped memory: a read walks over those in use and needs no system call, except for the few
//! ends with an error. A read while the program runs may see a transition but not yet the cause of the end
//! that it makes. Such a cause is expected at the next read; an end without a cause at the last read has none.

#![expect(
    clippy::indexing_slicing,
    reason = "by row, part of a row and octave of times, in tables that were made for this layout"
)]

use std::{
    collections::BTreeMap,
    mem::offset_of,
    os::fd::AsFd as _,
    sync::atomic::{AtomicU32, Ordering, fence},
};

use aya::maps::{MapData, PerCpuHashMap, Queue};
use rustix::mm::ProtFlags;
use tcpstate_common::{
    State,
    buckets::{BUCKETS, DIVISIONS, OCTAVES},
    config,
    tally::{
        END_KINDS, Failure, Row, RowsByPort, STATES, Times, end_kind, parts, row, row_index,
        service, side, side_and_port, state_at, times_index,
    },
    transition::closes,
};
use tcpstate_core::{
    cause::Cause,
    histogram::Histogram,
    service::{Role, ServicePort},
    tally::{ServiceTally, Tally, TallySize},
    transition::TransitionCount,
};

use super::{
    error::CaptureError,
    host,
    loader::{Loaded, TallyMaps},
    mapping::Mapping,
};

/// Words of a [`Row`] and of a [`Times`].
const ROW_WORDS: usize = size_of::<Row>() / size_of::<u32>();
const TIMES_WORDS: usize = size_of::<Times>() / size_of::<u32>();
/// The offsets of their fields, in words.
const ENDS: usize = offset_of!(Row, ends) / size_of::<u32>();
const PENDING: usize = offset_of!(Row, pending) / size_of::<u32>();
const FORGOTTEN: usize = offset_of!(Row, forgotten) / size_of::<u32>();
const BUCKETS_AT: usize = offset_of!(Times, buckets) / size_of::<u32>();
/// Words of an element of the map of services: the kernel rounds its 4 bytes up.
const SERVICE_WORDS: usize = 2;

/// Reads the counts of one program.
pub struct Reader {
    /// See [`parts()`].
    parts: u32,
    rows_of_part: u32,
    services: Mapping,
    rows: Mapping,
    times: Mapping,
    errors: PerCpuHashMap<MapData, Failure, u64>,
    /// All parts together as they were read last, row by row.
    rows_before: Vec<[u32; ROW_WORDS]>,
    /// The same of times, state by state.
    times_before: Vec<u32>,
    errors_before: BTreeMap<Failure, u64>,
    /// Whether the kernel counts ends with a RST of its own separately.
    watches_resets: bool,
    /// By row: ends whose cause has not been counted yet.
    without_cause: Vec<i64>,
    received: u64,
    undecided: u64,
}

impl Reader {
    /// Takes over the maps and prepares them, before the program is attached. `listening`: the ports of existing
    /// listeners.
    pub(super) fn new(
        loaded: &mut Loaded,
        size: TallySize,
        listening: impl Iterator<Item = u16>,
    ) -> Result<Self, CaptureError> {
        let parts = parts(host::possible_cpus()?);
        let TallyMaps {
            rows_by_port,
            services,
            rows,
            times,
            errors,
            free_rows,
            size,
        } = loaded.take_tally(size)?;
        let rows_of_part = size.rows() as usize;
        let both = ProtFlags::READ | ProtFlags::WRITE;
        let map = |data: &MapData, bytes: usize, protection| {
            Mapping::new(data.fd().as_fd(), 0, bytes, protection).map_err(|source| {
                CaptureError::System {
                    what: "map the counts of the BPF program",
                    source,
                }
            })
        };
        let services = map(&services, rows_of_part * SERVICE_WORDS * 4, both)?;
        let reader = Self {
            parts,
            rows_of_part: size.rows(),
            rows: map(
                &rows,
                row_index(parts, size.rows(), 0) as usize * size_of::<Row>(),
                ProtFlags::READ,
            )?,
            times: map(
                &times,
                times_index(parts, 0) as usize * size_of::<Times>(),
                ProtFlags::READ,
            )?,
            services,
            errors,
            rows_before: vec![[0; ROW_WORDS]; rows_of_part],
            times_before: vec![0; STATES * BUCKETS],
            errors_before: BTreeMap::new(),
            watches_resets: false,
            without_cause: vec![0; rows_of_part],
            received: 0,
            undecided: 0,
        };
        let rows_by_port = map(&rows_by_port, 2 * size_of::<RowsByPort>(), both)?;
        reader.give_rows(&rows_by_port, listening, free_rows)?;
        Ok(reader)
    }

    /// Assigns rows to the ports of listeners, and puts the others into the queue of free rows.
    fn give_rows(
        &self,
        rows_by_port: &Mapping,
        listening: impl Iterator<Item = u16>,
        mut free_rows: Queue<MapData, u32>,
    ) -> Result<(), CaptureError> {
        let mut free = row::FIRST..self.rows_of_part;
        let by_port = rows_by_port.words();
        for port in listening {
            // Two rows to a word.
            let at = side::SERVER as usize * size_of::<RowsByPort>() / 2 + usize::from(port);
            let (Some(word), shift) = (by_port.get(at / 2), 16 * (at % 2)) else {
                continue;
            };
            let shift = if cfg!(target_endian = "big") {
                16 - shift
            } else {
                shift
            };
            let before = word.load(Ordering::Relaxed);
            if port == 0 || before >> shift & 0xffff != 0 {
                continue;
            }
            let row = free.next().unwrap_or(row::OTHER_SERVER);
            word.store(before | row << shift, Ordering::Relaxed);
            if row >= row::FIRST
                && let Some(word) = self.services.words().get(row as usize * SERVICE_WORDS)
            {
                word.store(service(side::SERVER, port), Ordering::Relaxed);
            }
        }
        for row in free {
            free_rows.push(row, 0).map_err(|error| CaptureError::Map {
                name: config::FREE_ROWS,
                source: error.into(),
            })?;
        }
        Ok(())
    }

    /// Ends with a RST of this kernel are counted separately from now on.
    pub(super) const fn watch_resets(&mut self) {
        self.watches_resets = true;
    }

    /// The cause of an end that was counted.
    fn cause(&self, oldstate: State, error: u16, kind: u8) -> Cause {
        let no_reset = self.watches_resets && kind & end_kind::RESET_SENT == 0;
        let kind = kind | if no_reset { end_kind::NO_RESET } else { 0 };
        Cause::of_end(oldstate, Some(error), kind)
    }

    /// Transitions that have been read, those that are still undecided included.
    pub(super) const fn received(&self) -> u64 {
        self.received + self.undecided
    }

    /// The counts since the last time. `is_last`: the program does not run any more.
    pub(super) fn read(&mut self, is_last: bool) -> Result<Tally, CaptureError> {
        let mut causes = self.read_errors()?;
        let mut tally = Tally::default();
        for row in 0..self.rows_of_part {
            let Some((port, role)) = self.service_of(row) else {
                continue;
            };
            let counts = self.read_row(row);
            if row == row::UNKNOWN {
                // A difference of counters that may each have wrapped.
                let pending = self.rows_before[row as usize][PENDING].cast_signed();
                // A transition can be read as decided on one CPU before it is read as undecided on another.
                self.undecided = u64::try_from(pending).unwrap_or(0);
                tally.forgotten = u64::from(counts[FORGOTTEN]);
            }
            let service = self.service(row as usize, &counts, causes.remove(&row), is_last);
            if !service.0.is_empty() || !service.1.is_empty() {
                tally.services.push(ServiceTally {
                    port,
                    role,
                    transitions: service.0,
                    causes: service.1,
                });
            }
        }
        tally.undecided = self.undecided;
        tally.dwell = self.read_times();
        Ok(tally)
    }

    /// The service that a row belongs to; `None`: it is free.
    fn service_of(&self, row: u32) -> Option<(ServicePort, Role)> {
        Some(match row {
            row::UNKNOWN => (ServicePort::Unknown, Role::Unknown),
            row::CLIENT => (ServicePort::Unknown, Role::Client),
            row::SERVER => (ServicePort::Unknown, Role::Server),
            row::OTHER_CLIENT => (ServicePort::Other, Role::Client),
            row::OTHER_SERVER => (ServicePort::Other, Role::Server),
            _ => {
                let service = self.services.words().get(row as usize * SERVICE_WORDS)?;
                let (side, port) = side_and_port(service.load(Ordering::Acquire));
                if port == 0 {
                    return None;
                }
                let role = if side == side::SERVER {
                    Role::Server
                } else {
                    Role::Client
                };
                (ServicePort::Port(port), role)
            }
        })
    }

    /// The increase of a row since the last time. Causes are read before the transitions, which the program
    /// counts first: so an interval hardly ever has a cause without an end.
    fn read_row(&mut self, row: u32) -> [u32; ROW_WORDS] {
        let mut sums = [0; ROW_WORDS];
        for range in [ENDS..ROW_WORDS, 0..ENDS] {
            for part in 0..self.parts {
                let index = row_index(part, self.rows_of_part, row) as usize;
                let at = index * ROW_WORDS + range.start;
                let counts = self.rows.words().get(at..).unwrap_or_default();
                add(&mut sums[range.clone()], counts);
            }
            fence(Ordering::Acquire);
        }
        let before = &mut self.rows_before[row as usize];
        for (before, sum) in before[ENDS..PENDING]
            .iter_mut()
            .zip(&mut sums[ENDS..PENDING])
        {
            // An end may be counted again, with a RST. A reported end is not taken back: later ones
            // make up for it.
            if sum.wrapping_sub(*before).cast_signed() < 0 {
                *sum = *before;
            }
        }
        since(before, &mut sums);
        sums
    }

    /// The transitions of a service, and the causes of its ends.
    fn service(
        &mut self,
        row: usize,
        counts: &[u32; ROW_WORDS],
        failures: Option<BTreeMap<Cause, u64>>,
        is_last: bool,
    ) -> (Vec<TransitionCount>, Vec<(Cause, u64)>) {
        let mut causes = failures.unwrap_or_default();
        let (matrix, ends) = (counts[..ENDS].iter(), counts[ENDS..PENDING].iter());
        let mut transitions = Vec::new();
        let mut ended = 0;
        for (at, &count) in matrix.enumerate().filter(|&(_, &count)| count != 0) {
            let (from, to) = (state_at(at / STATES), state_at(at % STATES));
            let count = u64::from(count);
            self.received += count;
            if closes(from, to) {
                ended += count;
            }
            transitions.push(TransitionCount { from, to, count });
        }
        for (at, &count) in ends.enumerate().filter(|&(_, &count)| count != 0) {
            #[expect(clippy::cast_possible_truncation, reason = "below END_KINDS")]
            let cause = self.cause(state_at(at / END_KINDS), 0, (at % END_KINDS) as u8);
            *causes.entry(cause).or_default() += u64::from(count);
        }
        let known: u64 = causes.values().sum();
        let missing = &mut self.without_cause[row];
        *missing += ended.cast_signed() - known.cast_signed();
        if is_last && let Ok(unknown @ 1..) = u64::try_from(*missing) {
            *causes.entry(Cause::Unknown).or_default() += unknown;
            *missing = 0;
        }
        (transitions, causes.into_iter().collect())
    }

    /// Ends with an error since the last time, by row.
    fn read_errors(&mut self) -> Result<BTreeMap<u32, BTreeMap<Cause, u64>>, CaptureError> {
        let mut counts = BTreeMap::<Failure, u64>::new();
        for entry in &self.errors {
            let (failure, per_cpu) = entry.map_err(|error| CaptureError::Map {
                name: config::ERRORS,
                source: error.into(),
            })?;
            // That of one part may be negative: an end may be counted again in another one.
            let count = per_cpu.iter().copied().fold(0, u64::wrapping_add);
            let sum = counts
                .entry(Failure {
                    nested: 0,
                    ..failure
                })
                .or_default();
            *sum = sum.wrapping_add(count);
        }
        let mut all = BTreeMap::<u32, BTreeMap<Cause, u64>>::new();
        for (failure, count) in counts {
            let before = self.errors_before.get(&failure).copied().unwrap_or(0);
            // A reported end is not taken back: later ones make up for it.
            if count.wrapping_sub(before).cast_signed() > 0 {
                self.errors_before.insert(failure, count);
                let cause = self.cause(failure.oldstate, failure.error, failure.end_kind);
                let causes = all.entry(failure.row.into()).or_default();
                *causes.entry(cause).or_default() += count.wrapping_sub(before);
            }
        }
        Ok(all)
    }

    /// The dwell times of states that were left since the last time.
    fn read_times(&mut self) -> Vec<(State, Histogram)> {
        let mut dwell = Vec::new();
        for state in 0..STATES {
            let times = |part: u32| {
                let at = times_index(part, state) as usize * TIMES_WORDS;
                self.times
                    .words()
                    .get(at..at + TIMES_WORDS)
                    .unwrap_or_default()
            };
            let mut octaves = 0;
            for part in 0..self.parts {
                // Two words.
                for (at, word) in times(part).iter().take(2).enumerate() {
                    let word = u64::from(word.load(Ordering::Relaxed));
                    octaves |= word
                        << (32
                            * if cfg!(target_endian = "big") {
                                1 - at
                            } else {
                                at
                            });
                }
            }
            let mut counts = vec![0u64; BUCKETS];
            let mut any = false;
            for octave in (0..OCTAVES).filter(|octave| octaves >> octave & 1 != 0) {
                let range = octave * DIVISIONS..(octave + 1) * DIVISIONS;
                let mut sums = [0; DIVISIONS];
                for part in 0..self.parts {
                    let buckets = times(part).get(BUCKETS_AT..).unwrap_or_default();
                    add(&mut sums, buckets.get(range.start..).unwrap_or_default());
                }
                let before = self
                    .times_before
                    .get_mut(state * BUCKETS..)
                    .unwrap_or_default();
                since(before.get_mut(range.clone()).unwrap_or_default(), &mut sums);
                any |= sums.iter().any(|&count| count != 0);
                for (count, sum) in counts[range].iter_mut().zip(sums) {
                    *count = sum.into();
                }
            }
            if any {
                dwell.push((state_at(state), Histogram::from_counts(counts)));
            }
        }
        dwell
    }
}

/// Adds what one part has counted, wrapping.
fn add(sums: &mut [u32], counts: &[AtomicU32]) {
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum = sum.wrapping_add(count.load(Ordering::Relaxed));
    }
}

/// Leaves the increase since `before` in `sums`, and the new sums in `before`.
fn since(before: &mut [u32], sums: &mut [u32]) {
    for (before, sum) in before.iter_mut().zip(sums) {
        let now = *sum;
        *sum = now.wrapping_sub(std::mem::replace(before, now));
    }
}
