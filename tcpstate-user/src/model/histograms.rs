//! All histograms that are kept: dwell by state, lifetime and handshake, each by service port and
//! role.
//!
//! They share one store of blocks, a block being the 128 buckets of one power of two, because most
//! of them only ever see a few powers of two. A histogram is admitted only while it and all admitted
//! before would fit in the bound with every block in use; so one that is admitted is never cut short,
//! and what is not admitted goes, whole, to that of the port `other`.

use hashbrown::HashMap;
use tcpstate_common::State;

use super::{
    group::{Role, ServicePort, Services},
    hash::BuildMixer,
    histogram::{DIVISIONS, Histogram, LONGEST_NS, OCTAVES, SHORTEST_NS, bucket_of},
    rates::{SLOTS, slot_of, state_of},
};

/// What a histogram is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Of {
    /// The time in this state. Numbers from 15 on, which no kernel uses, are taken together as 255.
    Dwell(State),
    /// From the first transition to the last.
    Lifetime,
    /// A client's time in `SYN_SENT`; a server's smoothed round trip time when it was established,
    /// because its handshake is over before there is a socket to see.
    Handshake,
}

impl Of {
    const KINDS: usize = SLOTS + 2;

    const fn kind(self) -> usize {
        match self {
            Self::Dwell(state) => slot_of(state),
            Self::Lifetime => SLOTS,
            Self::Handshake => SLOTS + 1,
        }
    }

    const fn from_kind(kind: usize) -> Self {
        match kind {
            SLOTS => Self::Lifetime,
            kind if kind > SLOTS => Self::Handshake,
            kind => Self::Dwell(state_of(kind)),
        }
    }
}

/// One histogram of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// What it is of.
    pub of: Of,
    /// Of which service port.
    pub service_port: ServicePort,
    /// In which role.
    pub role: Role,
    /// The durations.
    pub histogram: Histogram,
}

type Block = [u32; DIVISIONS];

/// No histogram, no block: numbers start at 1.
const NONE: u32 = 0;

#[derive(Clone)]
struct Kept {
    sum_ns: u128,
    min_ns: u64,
    max_ns: u64,
    below: u64,
    above: u64,
    blocks: [u32; OCTAVES],
}

pub(super) struct Histograms {
    /// By service: the numbers of its histograms.
    services: Vec<[u32; Of::KINDS]>,
    kept: Vec<Kept>,
    blocks: Vec<Block>,
    /// Buckets that have wrapped, and how often.
    wraps: HashMap<(u32, u8), u64, BuildMixer>,
    /// How many histograms of ports may still be admitted.
    room: usize,
}

/// What a histogram takes with every block in use.
const FULL_BYTES: usize = size_of::<Kept>() + OCTAVES * size_of::<Block>();

impl Histograms {
    /// The bytes that the histograms of `other` and of unknown ports take at most, beside the bound.
    #[cfg(test)]
    const RESERVED_BYTES: usize = Services::FIRST_PORT as usize * Of::KINDS * FULL_BYTES;

    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            services: Vec::new(),
            kept: Vec::new(),
            blocks: Vec::new(),
            wraps: HashMap::default(),
            room: max_bytes / FULL_BYTES,
        }
    }

    /// Counts one duration.
    #[inline]
    pub(super) fn record(&mut self, of: Of, service: u16, services: &Services, duration_ns: u64) {
        let number = match self.services.get(usize::from(service)) {
            Some(numbers) if numbers[of.kind()] != NONE => numbers[of.kind()],
            _ => self.admit(of, service, services),
        };
        let kept = &mut self.kept[number as usize - 1];
        kept.sum_ns += u128::from(duration_ns);
        kept.min_ns = kept.min_ns.min(duration_ns);
        kept.max_ns = kept.max_ns.max(duration_ns);
        let mut duration_ns = duration_ns;
        if duration_ns < SHORTEST_NS {
            kept.below += 1;
            duration_ns = SHORTEST_NS;
        } else if duration_ns > LONGEST_NS {
            kept.above += 1;
            duration_ns = LONGEST_NS;
        }
        let (octave, part) = bucket_of(duration_ns);
        let block = &mut kept.blocks[octave];
        if *block == NONE {
            self.blocks.push([0; DIVISIONS]);
            *block = number_of(self.blocks.len());
        }
        let bucket = &mut self.blocks[*block as usize - 1][part];
        let (count, wrapped) = bucket.overflowing_add(1);
        *bucket = count;
        if wrapped {
            #[expect(clippy::cast_possible_truncation, reason = "below DIVISIONS")]
            let key = (*block, part as u8);
            *self.wraps.entry(key).or_default() += 1;
        }
    }

    /// The number of a histogram that has none yet.
    #[cold]
    fn admit(&mut self, of: Of, service: u16, services: &Services) -> u32 {
        if self.services.len() <= usize::from(service) {
            self.services
                .resize(usize::from(service) + 1, [NONE; Of::KINDS]);
        }
        let number = if service >= Services::FIRST_PORT && self.room == 0 {
            // Recursion ends here: the place of what is over the bound is below FIRST_PORT.
            let other = services.other(service);
            match self.services[usize::from(other)][of.kind()] {
                NONE => self.admit(of, other, services),
                number => number,
            }
        } else {
            if service >= Services::FIRST_PORT {
                self.room -= 1;
            }
            self.kept.push(Kept {
                sum_ns: 0,
                min_ns: u64::MAX,
                max_ns: 0,
                below: 0,
                above: 0,
                blocks: [NONE; OCTAVES],
            });
            number_of(self.kept.len())
        };
        self.services[usize::from(service)][of.kind()] = number;
        number
    }

    /// All of them, in the order of port, role and kind.
    pub(super) fn show(&self, services: &Services) -> Vec<Series> {
        let mut series = Vec::new();
        let mut shown = vec![false; self.kept.len()];
        // The histograms of `other` have the lower numbers, so they are shown under their own name.
        for (service, numbers) in (0u16..).zip(&self.services) {
            let (service_port, role) = services.key(service);
            for (kind, &number) in numbers
                .iter()
                .enumerate()
                .filter(|&(_, &number)| number != NONE)
            {
                let at = number as usize - 1;
                if !std::mem::replace(&mut shown[at], true) {
                    let of = Of::from_kind(kind);
                    series.push(Series {
                        of,
                        service_port,
                        role,
                        histogram: self.read(at),
                    });
                }
            }
        }
        series.sort_by_key(|series| (series.service_port, series.role, series.of));
        series
    }

    fn read(&self, at: usize) -> Histogram {
        let kept = &self.kept[at];
        let mut buckets = Vec::new();
        for (octave, &block) in kept
            .blocks
            .iter()
            .enumerate()
            .filter(|&(_, &block)| block != NONE)
        {
            for (part, &count) in self.blocks[block as usize - 1].iter().enumerate() {
                #[expect(clippy::cast_possible_truncation, reason = "below DIVISIONS")]
                let wraps = self.wraps.get(&(block, part as u8)).copied().unwrap_or(0);
                let count = u64::from(count) + (wraps << 32);
                if count != 0 {
                    #[expect(clippy::cast_possible_truncation, reason = "a bucket's number fits")]
                    buckets.push(((octave * DIVISIONS + part) as u16, count));
                }
            }
        }
        Histogram::from_parts(
            buckets,
            (kept.below, kept.above),
            (kept.min_ns, kept.max_ns),
            kept.sum_ns,
        )
    }

    /// Bytes held.
    pub(super) fn memory(&self) -> usize {
        self.services.capacity() * size_of::<[u32; Of::KINDS]>()
            + self.kept.capacity() * size_of::<Kept>()
            // What was never used of a large vector is not resident.
            + self.blocks.len() * size_of::<Block>()
            + self.wraps.allocation_size()
    }
}

/// The number of the last of so many things.
fn number_of(len: usize) -> u32 {
    // There are at most 2^15 services with 18 histograms of 38 blocks: less than 2^25.
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Limits;

    fn services(max_ports: usize) -> Services {
        Services::new(&Limits {
            max_ports,
            ..Limits::default()
        })
    }

    #[test]
    fn the_bound_holds_and_nothing_is_lost() {
        let mut services = services(1_024);
        let max_bytes = 1 << 20;
        let mut histograms = Histograms::new(max_bytes);
        let mut expected = 0;
        for port in 1..=1_000 {
            for role in [Role::Client, Role::Server] {
                let service = services.id(Some(port), role);
                for state in State::ALL {
                    for octave in 0..OCTAVES {
                        histograms.record(
                            Of::Dwell(state),
                            service,
                            &services,
                            SHORTEST_NS << octave,
                        );
                        expected += 1;
                    }
                }
            }
        }
        let shown = histograms.show(&services);
        assert_eq!(
            shown
                .iter()
                .map(|series| series.histogram.count())
                .sum::<u64>(),
            expected
        );
        // Vectors grow by doubling; the numbers of the services are 72 bytes each.
        let bound = max_bytes + Histograms::RESERVED_BYTES;
        let slack = 2_005 * size_of::<[u32; Of::KINDS]>() * 2 + bound / 10;
        assert!(
            histograms.memory() <= bound + slack,
            "{}",
            histograms.memory()
        );
        // A port that was admitted has all that it saw.
        let of_port = |wanted: ServicePort| {
            let of =
                |series: &&Series| series.service_port == wanted && series.role == Role::Server;
            shown
                .iter()
                .filter(of)
                .map(|series| series.histogram.count())
                .collect::<Vec<_>>()
        };
        assert_eq!(of_port(ServicePort::Port(1)), vec![OCTAVES as u64; 11]);
        assert_eq!(of_port(ServicePort::Port(1_000)), Vec::<u64>::new());
        assert_eq!(of_port(ServicePort::Other).len(), 11);
    }

    #[test]
    fn a_bucket_that_wraps_keeps_counting() {
        let services = services(1);
        let mut histograms = Histograms::new(0);
        histograms.record(Of::Lifetime, Services::UNKNOWN, &services, 5_000);
        let (octave, part) = bucket_of(5_000);
        let block = histograms.kept[0].blocks[octave] as usize - 1;
        histograms.blocks[block][part] = u32::MAX;
        histograms.record(Of::Lifetime, Services::UNKNOWN, &services, 5_000);
        histograms.record(Of::Lifetime, Services::UNKNOWN, &services, 5_000);
        assert_eq!(
            histograms.show(&services)[0].histogram.count(),
            (1 << 32) + 1
        );
    }
}
