//! The packing of a block's records before compression.
//!
//! Most of a record repeats an earlier one: a connection's addresses do not change, only its state
//! does. So a record is stored as its difference from an earlier record of the same block, in
//! [`GROUPS`] of fields that tend to change together. That leaves a third of the bytes to the
//! compressor; the file is smaller than one of whole records, and twice as fast to read
//! (`cargo xtask bench recording` compares them).
//!
//! Pure: bytes in, records out. The exact format is in `docs/recording-format.md`.

#![expect(
    clippy::indexing_slicing,
    reason = "by the number of an event of the block, and by hashes of as many bits as the tables have"
)]

use tcpstate_common::{Record, State};

use tcpstate_core::event::Event;

/// The most bytes that one record can take when packed.
pub(crate) const MAX_PACKED: usize = 2 + 2 + 8 + (Record::SIZE - 8);
/// The fewest bytes: mask, distance and a short time.
pub(crate) const MIN_PACKED: usize = 2 + 2 + 4;

/// The bit of a record's mask that means that its time takes 8 bytes instead of 4.
const LONG_TIME: u16 = 1 << 15;

/// The bytes of a field: little-endian for numbers, unchanged for addresses and names.
trait Field: Copy + PartialEq {
    fn put(self, out: &mut Vec<u8>);
    fn take(input: &mut &[u8]) -> Option<Self>;
}

macro_rules! integer_fields {
    ($($int:ty),*) => {$(
        impl Field for $int {
            #[inline]
            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            #[inline]
            fn take(input: &mut &[u8]) -> Option<Self> {
                let (bytes, rest) = input.split_first_chunk()?;
                *input = rest;
                Some(Self::from_le_bytes(*bytes))
            }
        }
    )*};
}

integer_fields!(u8, u16, u32, u64);

impl Field for [u8; 16] {
    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self);
    }

    #[inline]
    fn take(input: &mut &[u8]) -> Option<Self> {
        let (bytes, rest) = input.split_first_chunk()?;
        *input = rest;
        Some(*bytes)
    }
}

impl Field for State {
    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        self.0.put(out);
    }

    #[inline]
    fn take(input: &mut &[u8]) -> Option<Self> {
        u8::take(input).map(Self)
    }
}

macro_rules! groups {
    ($($bit:literal: $($field:ident)+;)*) => {
        /// The fields of each bit of the mask, from bit 0 on. `ts_ns` is in none: every record has its
        /// own.
        pub(crate) const GROUPS: &[&[&str]] = &[$(&[$(stringify!($field)),+]),*];

        /// Appends the groups in which `record` differs. Returns their mask.
        #[inline]
        fn put_changed(record: &Record, reference: &Record, out: &mut Vec<u8>) -> u16 {
            let mut mask = 0;
            $(if $(record.$field != reference.$field)||+ {
                mask |= 1 << $bit;
                $(record.$field.put(out);)+
            })*
            mask
        }

        /// Reads the groups of `mask` into `record`; `None` where bytes are missing.
        #[inline]
        fn take_changed(mask: u16, record: &mut Record, input: &mut &[u8]) -> Option<()> {
            $(if mask & (1 << $bit) != 0 {
                $(record.$field = Field::take(input)?;)+
            })*
            Some(())
        }
    };
}

groups! {
    0: cookie;
    1: skaddr;
    2: cgroup;
    3: bytes_sent;
    4: bytes_received;
    5: laddr;
    6: raddr;
    7: netns uid;
    8: pid comm;
    9: srtt_us;
    10: retransmits;
    11: lport rport;
    12: error cpu;
    13: oldstate newstate;
    14: family flags;
}

const _: () = assert!(GROUPS.len() == 15, "bit 15 of the mask is LONG_TIME");

/// Finds an earlier record that resembles each record.
pub(crate) struct Packer {
    /// The index of a socket's last record, by the high bits of a hash of its address.
    by_socket: Vec<u32>,
    /// The index of the last record of a transition, by old and new state.
    by_transition: [u32; 256],
}

const NONE: u32 = u32::MAX;
const SOCKET_BITS: u32 = 15;

impl Packer {
    pub(crate) fn new() -> Self {
        Self {
            by_socket: vec![NONE; 1 << SOCKET_BITS],
            by_transition: [NONE; 256],
        }
    }

    /// Appends the packed records of one block.
    pub(crate) fn pack(&mut self, events: &[Event], out: &mut Vec<u8>) {
        self.by_socket.fill(NONE);
        self.by_transition.fill(NONE);
        let mut previous_ns = 0_u64;
        for (index, event) in events.iter().enumerate() {
            let record = event.record();
            let zero = Record::default();
            let (back, reference) = match self.reference(events, index) {
                Some(at) => (index - at, events[at].record()),
                None => (0, &zero),
            };
            let head = out.len();
            out.extend_from_slice(&[0; 4]);
            let elapsed_ns = record.ts_ns.wrapping_sub(previous_ns);
            previous_ns = record.ts_ns;
            let mut mask = 0;
            if let Ok(short) = u32::try_from(elapsed_ns) {
                short.put(out);
            } else {
                mask = LONG_TIME;
                elapsed_ns.put(out);
            }
            mask |= put_changed(record, reference, out);
            // A block has at most 65,536 records, so a distance within it fits.
            let back = u16::try_from(back).unwrap_or(0);
            out[head..head + 2].copy_from_slice(&mask.to_le_bytes());
            out[head + 2..head + 4].copy_from_slice(&back.to_le_bytes());
        }
    }

    /// The last record of the same socket; otherwise the last of the same transition, which will share
    /// process, namespace and one of the addresses.
    fn reference(&mut self, events: &[Event], index: usize) -> Option<usize> {
        let record = events[index].record();
        let hash = record.skaddr.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - SOCKET_BITS);
        let transition = (record.oldstate.0 & 15) << 4 | (record.newstate.0 & 15);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "15 bits; a block's index fits 32"
        )]
        let (socket, this) = (&mut self.by_socket[hash as usize], index as u32);
        let socket = std::mem::replace(socket, this);
        let transition = std::mem::replace(&mut self.by_transition[transition as usize], this);
        let at = |index: u32| (index != NONE).then_some(index as usize);
        at(socket)
            .filter(|&at| events[at].record().skaddr == record.skaddr)
            .or(at(transition))
    }
}

/// Bytes that [`Packer::pack`] does not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Replaces `records` with the `count` records of a block.
///
/// *Errors:* the bytes end early or late, or a record refers to one before the block's first.
pub(crate) fn unpack(
    mut input: &[u8],
    count: usize,
    records: &mut Vec<Record>,
) -> Result<(), Malformed> {
    records.clear();
    // This bounds the memory too: `count` records take at least as many bytes.
    if input.len() < count.saturating_mul(MIN_PACKED) {
        return Err(Malformed);
    }
    records.reserve(count);
    let mut ts_ns = 0_u64;
    for index in 0..count {
        unpack_one(&mut input, index, &mut ts_ns, records).ok_or(Malformed)?;
    }
    if input.is_empty() {
        Ok(())
    } else {
        Err(Malformed)
    }
}

#[inline]
fn unpack_one(
    input: &mut &[u8],
    index: usize,
    ts_ns: &mut u64,
    records: &mut Vec<Record>,
) -> Option<()> {
    let mask = u16::take(input)?;
    let back = usize::from(u16::take(input)?);
    let elapsed_ns = if mask & LONG_TIME == 0 {
        u64::from(u32::take(input)?)
    } else {
        u64::take(input)?
    };
    *ts_ns = ts_ns.wrapping_add(elapsed_ns);
    // Changed in place, which saves a copy of 128 bytes.
    records.push(if back == 0 {
        Record::default()
    } else {
        *records.get(index.checked_sub(back)?)?
    });
    let record = records.last_mut()?;
    record.ts_ns = *ts_ns;
    take_changed(mask, record, input)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field but the time is in exactly one group.
    #[test]
    fn the_groups_cover_the_record() {
        let mut grouped: Vec<&str> = GROUPS.concat();
        grouped.push("ts_ns");
        grouped.sort_unstable();
        let mut fields: Vec<&str> = Record::LAYOUT.iter().map(|field| field.0).collect();
        fields.sort_unstable();
        assert_eq!(grouped, fields);
    }

    #[test]
    fn a_reference_before_the_block_is_malformed() {
        let mut bytes = vec![0; MIN_PACKED];
        bytes[2] = 1;
        assert_eq!(unpack(&bytes, 1, &mut Vec::new()), Err(Malformed));
    }

    #[test]
    fn bytes_too_few_or_too_many_are_malformed() {
        let bytes = [0; MIN_PACKED + 1];
        assert_eq!(unpack(&bytes[..MIN_PACKED], 1, &mut Vec::new()), Ok(()));
        assert_eq!(
            unpack(&bytes[..MIN_PACKED - 1], 1, &mut Vec::new()),
            Err(Malformed)
        );
        assert_eq!(unpack(&bytes, 1, &mut Vec::new()), Err(Malformed));
        let all_bits = [0xff, 0xff, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(unpack(&all_bits, 1, &mut Vec::new()), Err(Malformed));
        assert_eq!(unpack(&[], usize::MAX, &mut Vec::new()), Err(Malformed));
    }

    #[test]
    fn a_record_takes_at_most_the_bound() {
        let mut record = Record::from_bytes(&[0xff; Record::SIZE]);
        record.family = tcpstate_common::record::AF_INET6;
        let event = Event::try_from(record).expect("the family is AF_INET6");
        let mut bytes = Vec::new();
        Packer::new().pack(&[event], &mut bytes);
        assert_eq!(bytes.len(), MAX_PACKED);
    }
}
