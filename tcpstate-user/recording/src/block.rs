//! The blocks of a recording, each with a header and checksums of its own.
//!
//! A block is independent: it can be read without the ones before it, so that damage costs only the
//! block that it hits.

use std::io;

use serde::{Deserialize, Serialize};
use tcpstate_common::Record;
use tcpstate_core::{
    books::{Accounting, CaptureCost},
    census::Census,
    event::Event,
};

use crate::{
    census,
    packing::{self, MAX_PACKED, Malformed, Packer},
};

/// The first bytes of a block.
pub(crate) const BLOCK_MAGIC: [u8; 4] = *b"\xb5BLK";
/// Bytes of a block's header.
pub(crate) const BLOCK_HEADER: usize = 52;
/// The most events in a block.
pub const MAX_BLOCK_RECORDS: usize = 65_536;
/// The most bytes that a block unpacks to. A reader must accept as many, and refuses more.
pub(crate) const MAX_UNPACKED: usize = MAX_BLOCK_RECORDS * MAX_PACKED;
/// The most bytes of a footer's JSON.
pub(crate) const MAX_FOOTER: usize = 4096;

/// The compression level, between speed and size: -3 reads a sixth faster and takes a quarter more
/// space, 3 saves next to nothing (`cargo xtask bench recording`).
const LEVEL: i32 = 1;

/// The kinds of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind(pub(crate) u8);

impl Kind {
    pub(crate) const EVENTS: Self = Self(1);
    pub(crate) const FOOTER: Self = Self(2);
    /// A [`Census`], as JSON.
    pub(crate) const CENSUS: Self = Self(3);
    pub(crate) const NAMES: Self = Self(4);
    /// Events from before the file begins.
    pub(crate) const RECALLED_EVENTS: Self = Self(5);
    /// A [`Census`] from before the file begins.
    pub(crate) const RECALLED_CENSUS: Self = Self(6);
}

/// The codings of a payload.
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// The header of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    pub(crate) kind: Kind,
    /// [`PLAIN`] or [`ZSTD`].
    coding: u8,
    /// Events in the block.
    pub(crate) count: u32,
    /// Bytes of the payload in the file.
    pub(crate) stored_bytes: u32,
    /// Bytes of the payload unpacked.
    unpacked_bytes: u32,
    /// CRC-32C of the payload as stored.
    payload_crc: u32,
    /// Events of the recording before this block.
    pub(crate) first_event: u64,
    /// The smallest time in the block.
    pub(crate) first_ts_ns: u64,
    /// The greatest time in the block.
    pub(crate) last_ts_ns: u64,
}

impl BlockHeader {
    /// The header of a block of uncompressed JSON, in a file where `first_event` events come before it.
    pub(crate) fn plain(kind: Kind, json: &[u8], first_event: u64) -> Self {
        Self {
            kind,
            coding: PLAIN,
            count: 0,
            stored_bytes: length(json.len()),
            unpacked_bytes: length(json.len()),
            payload_crc: crc32c::crc32c(json),
            first_event,
            first_ts_ns: 0,
            last_ts_ns: 0,
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; BLOCK_HEADER] {
        let mut bytes = [0; BLOCK_HEADER];
        bytes[..4].copy_from_slice(&BLOCK_MAGIC);
        bytes[4] = self.kind.0;
        bytes[5] = self.coding;
        bytes[8..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.stored_bytes.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.unpacked_bytes.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_event.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.first_ts_ns.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.last_ts_ns.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..48]);
        bytes[48..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header in these bytes, where magic, checksum and bounds are right.
    #[expect(
        clippy::indexing_slicing,
        reason = "by constants, inside of the header"
    )]
    pub(crate) fn from_bytes(bytes: &[u8; BLOCK_HEADER]) -> Option<Self> {
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if bytes[..4] != BLOCK_MAGIC || u32_at(48) != crc32c::crc32c(&bytes[..48]) {
            return None;
        }
        let header = Self {
            kind: Kind(bytes[4]),
            coding: bytes[5],
            count: u32_at(8),
            stored_bytes: u32_at(12),
            unpacked_bytes: u32_at(16),
            payload_crc: u32_at(20),
            first_event: u64_at(24),
            first_ts_ns: u64_at(32),
            last_ts_ns: u64_at(40),
        };
        let fits = header.count as usize <= MAX_BLOCK_RECORDS
            && header.unpacked_bytes as usize <= MAX_UNPACKED
            && header.stored_bytes as usize <= max_stored();
        fits.then_some(header)
    }

    /// Whether this is the payload that the header was written for.
    pub(crate) fn matches(&self, payload: &[u8]) -> bool {
        payload.len() == self.stored_bytes as usize && crc32c::crc32c(payload) == self.payload_crc
    }

    /// The header of the same block as another kind.
    pub(crate) const fn of_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// The header of the same block in a file where `first_event` events come before it.
    pub(crate) const fn at(self, first_event: u64) -> Self {
        Self {
            first_event,
            ..self
        }
    }
}

/// The most bytes of a payload in a file.
pub(crate) fn max_stored() -> usize {
    zstd::zstd_safe::compress_bound(MAX_UNPACKED)
}

/// The most bytes of a block of `records` events in a file, header included.
pub(crate) fn max_block_bytes(records: usize) -> usize {
    BLOCK_HEADER + zstd::zstd_safe::compress_bound(records * MAX_PACKED)
}

/// Makes the blocks of events, and those between them.
pub(crate) struct Encoder {
    packer: Packer,
    compressor: zstd::bulk::Compressor<'static>,
    packed: Vec<u8>,
    stored: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            packer: Packer::new(),
            compressor: zstd::bulk::Compressor::new(LEVEL)?,
            packed: Vec::new(),
            stored: Vec::new(),
        })
    }

    /// A block of these events: its header, and its payload until the next call.
    ///
    /// *Errors:* the compressor is out of memory.
    pub(crate) fn encode(
        &mut self,
        events: &[Event],
        first_event: u64,
    ) -> io::Result<(BlockHeader, &[u8])> {
        debug_assert!(events.len() <= MAX_BLOCK_RECORDS);
        self.packed.clear();
        self.packed.reserve(events.len() * MAX_PACKED);
        self.packer.pack(events, &mut self.packed);
        self.stored.clear();
        self.stored
            .reserve(zstd::zstd_safe::compress_bound(self.packed.len()));
        self.compressor
            .compress_to_buffer(&self.packed, &mut self.stored)?;
        let times = || events.iter().map(Event::ts_ns);
        let header = BlockHeader {
            kind: Kind::EVENTS,
            coding: ZSTD,
            count: length(events.len()),
            stored_bytes: length(self.stored.len()),
            unpacked_bytes: length(self.packed.len()),
            payload_crc: crc32c::crc32c(&self.stored),
            first_event,
            first_ts_ns: times().min().unwrap_or(0),
            last_ts_ns: times().max().unwrap_or(0),
        };
        Ok((header, &self.stored))
    }

    /// A block of this census: its header, and its payload until the next call. `None` where it would
    /// exceed the format's bounds; the census of a source is far below them.
    ///
    /// *Errors:* the compressor is out of memory.
    pub(crate) fn encode_census(
        &mut self,
        census: &Census,
    ) -> io::Result<Option<(BlockHeader, &[u8])>> {
        self.packed.clear();
        serde_json::to_writer(&mut self.packed, census)?;
        if self.packed.len() > MAX_UNPACKED || !is_bounded(census) {
            return Ok(None);
        }
        self.stored.clear();
        self.stored
            .reserve(zstd::zstd_safe::compress_bound(self.packed.len()));
        self.compressor
            .compress_to_buffer(&self.packed, &mut self.stored)?;
        let header = BlockHeader {
            kind: Kind::CENSUS,
            coding: ZSTD,
            count: 0,
            stored_bytes: length(self.stored.len()),
            unpacked_bytes: length(self.packed.len()),
            payload_crc: crc32c::crc32c(&self.stored),
            first_event: 0,
            first_ts_ns: census.begin_ns,
            last_ts_ns: census.begin_ns,
        };
        Ok(Some((header, &self.stored)))
    }

    /// The latest payload.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.stored
    }
}

/// Whether no list of it has more entries than a block has events: a number in JSON takes less than in memory.
fn is_bounded(census: &Census) -> bool {
    let lists = [
        census.found.len(),
        census.known.len(),
        census.gone.len(),
        census.half_open.len(),
        census.held.len(),
        census.requests.len(),
        census.requests_gone.len(),
    ];
    lists.into_iter().all(|length| length <= MAX_BLOCK_RECORDS)
}

/// Reads the blocks of events, and those between them.
pub(crate) struct Decoder {
    decompressor: zstd::bulk::Decompressor<'static>,
    unpacked: Vec<u8>,
    records: Vec<Record>,
}

impl Decoder {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            decompressor: zstd::bulk::Decompressor::new()?,
            unpacked: Vec::new(),
            records: Vec::new(),
        })
    }

    /// Appends the block's events. Returns the number of its records that are no events.
    ///
    /// *Errors:* the payload does not unpack to what the header says; then nothing is appended.
    pub(crate) fn decode(
        &mut self,
        header: &BlockHeader,
        payload: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<u64, Malformed> {
        self.unpack(header, payload)?;
        packing::unpack(&self.unpacked, header.count as usize, &mut self.records)?;
        events.reserve(self.records.len());
        let before = events.len();
        events.extend(
            self.records
                .iter()
                .filter_map(|&record| Event::try_from(record).ok()),
        );
        let decoded = events.len().saturating_sub(before);
        Ok(self.records.len().saturating_sub(decoded) as u64)
    }

    /// The block's census.
    ///
    /// *Errors:* the payload does not unpack to what the header says, or is no census within the bounds.
    pub(crate) fn census(
        &mut self,
        header: &BlockHeader,
        payload: &[u8],
    ) -> Result<Census, Malformed> {
        self.unpack(header, payload)?;
        let census = census::from_json(&self.unpacked)?;
        if is_bounded(&census) {
            Ok(census)
        } else {
            Err(Malformed)
        }
    }

    fn unpack(&mut self, header: &BlockHeader, payload: &[u8]) -> Result<(), Malformed> {
        let expected = header.unpacked_bytes as usize;
        self.unpacked.clear();
        match header.coding {
            PLAIN => self.unpacked.extend_from_slice(payload),
            ZSTD => {
                // Decompression stops at the capacity, which the header's bounds limit, even if the
                // payload holds more.
                self.unpacked.reserve(expected);
                self.decompressor
                    .decompress_to_buffer(payload, &mut self.unpacked)
                    .map_err(|_| Malformed)?;
            }
            _ => return Err(Malformed),
        }
        if self.unpacked.len() == expected {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

/// The reason for the end of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EndReason {
    /// The recording was finished.
    Finished,
    /// The recording continues in the next file of the rotation.
    Rotated,
    /// The flight recorder wrote its contents, and continued.
    Snapshot,
    /// The disk was full or failed: later events are missing.
    WriteError,
    /// A reason of a newer program.
    #[serde(other)]
    Other,
}

/// The end of a recording, as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Footer {
    /// Events in this file.
    pub(crate) events: u64,
    /// Blocks of events in this file.
    pub(crate) blocks: u64,
    pub(crate) reason: EndReason,
    /// The books of the capture, where it had ended.
    pub(crate) accounting: Option<Accounting>,
    /// The cost of the capture, where it had ended.
    pub(crate) cost: Option<CaptureCost>,
    /// When the capture ended, or the flight recorder wrote the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) end_ns: Option<u64>,
}

impl Footer {
    /// The footer's block, in a file where `first_event` events come before it.
    pub(crate) fn to_bytes(self, first_event: u64) -> Vec<u8> {
        // It has only numbers, which cannot fail to be JSON.
        let json = serde_json::to_vec(&self).unwrap_or_default();
        let header = BlockHeader::plain(Kind::FOOTER, &json, first_event);
        [&header.to_bytes()[..], &json].concat()
    }

    /// The footer in a block's payload.
    pub(crate) fn from_payload(payload: &[u8]) -> Result<Self, Malformed> {
        serde_json::from_slice(payload).map_err(|_| Malformed)
    }
}

/// A length far below 4 GiB.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tcpstate_core::books::{FilteredByReason, LostByReason, RejectedByReason};

    #[test]
    fn the_greatest_footer_fits_its_bound() {
        const MAX: u64 = u64::MAX;
        let footer = Footer {
            events: MAX,
            blocks: MAX,
            reason: EndReason::WriteError,
            accounting: Some(Accounting {
                seen: MAX,
                filtered: MAX,
                submitted: MAX,
                lost: MAX,
                received: MAX,
                rejected: MAX,
                filtered_by_reason: FilteredByReason {
                    protocol: MAX,
                    family: MAX,
                    port: MAX,
                    netns: MAX,
                    address: MAX,
                    cgroup: MAX,
                    settled: MAX,
                },
                lost_by_reason: LostByReason {
                    ring_full: MAX,
                    nested: Some(MAX),
                },
                rejected_by_reason: RejectedByReason {
                    malformed: MAX,
                    queue_full: MAX,
                    not_in_file: MAX,
                },
                partial: false,
            }),
            cost: Some(CaptureCost {
                bpf_run_ns: Some(MAX),
                bpf_run_count: Some(MAX),
                ring_high_water_bytes: Some(MAX),
            }),
            end_ns: Some(MAX),
        };
        let bytes = footer.to_bytes(MAX);
        assert!(bytes.len() <= BLOCK_HEADER + MAX_FOOTER);
        assert_eq!(Footer::from_payload(&bytes[BLOCK_HEADER..]), Ok(footer));
    }

    #[test]
    fn every_flipped_bit_of_a_block_header_is_detected() {
        let (header, _) = Encoder::new()
            .unwrap()
            .encode(&[], 7)
            .map(|(h, p)| (h, p.len()))
            .unwrap();
        let bytes = header.to_bytes();
        assert_eq!(BlockHeader::from_bytes(&bytes), Some(header));
        for at in 0..BLOCK_HEADER {
            for bit in 0..8 {
                let mut damaged = bytes;
                damaged[at] ^= 1 << bit;
                assert_eq!(
                    BlockHeader::from_bytes(&damaged),
                    None,
                    "byte {at}, bit {bit}"
                );
            }
        }
    }

    #[test]
    fn a_header_beyond_the_bounds_is_refused() {
        let (header, _) = Encoder::new()
            .unwrap()
            .encode(&[], 0)
            .map(|(h, p)| (h, p.len()))
            .unwrap();
        for header in [
            BlockHeader {
                count: 65_537,
                ..header
            },
            BlockHeader {
                unpacked_bytes: u32::MAX,
                ..header
            },
            BlockHeader {
                stored_bytes: u32::MAX,
                ..header
            },
        ] {
            assert_eq!(BlockHeader::from_bytes(&header.to_bytes()), None);
        }
    }

    #[test]
    fn a_payload_that_holds_more_than_it_says_is_malformed() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        let header = BlockHeader {
            kind: Kind::EVENTS,
            coding: ZSTD,
            count: 8,
            stored_bytes: length(bomb.len()),
            unpacked_bytes: 64,
            payload_crc: crc32c::crc32c(&bomb),
            first_event: 0,
            first_ts_ns: 0,
            last_ts_ns: 0,
        };
        let mut decoder = Decoder::new().unwrap();
        assert_eq!(
            decoder.decode(&header, &bomb, &mut Vec::new()),
            Err(Malformed)
        );
        assert!(
            decoder.unpacked.capacity() < 4096,
            "memory is bounded by the header"
        );
    }

    #[test]
    fn records_that_are_no_events_are_counted_and_the_others_kept() {
        let event = |skaddr, state| {
            let family = tcpstate_common::record::AF_INET;
            let oldstate = tcpstate_common::State(state);
            Event::try_from(Record {
                skaddr,
                oldstate,
                family,
                ..Record::default()
            })
            .unwrap()
        };
        let events = [event(1, 1), event(2, 2), event(1, 3)];
        let mut packed = Vec::new();
        Packer::new().pack(&events[..1], &mut packed);
        // A record's last group is family and flags; the third record refers to the first.
        let family = packed.len() - 2;
        packed.clear();
        Packer::new().pack(&events, &mut packed);
        packed[family] = 7;
        let (header, _) = Encoder::new()
            .unwrap()
            .encode(&[], 0)
            .map(|(h, p)| (h, p.len()))
            .unwrap();
        let header = BlockHeader {
            coding: PLAIN,
            count: 3,
            unpacked_bytes: length(packed.len()),
            ..header
        };
        let mut read = vec![event(9, 9)];
        assert_eq!(
            Decoder::new().unwrap().decode(&header, &packed, &mut read),
            Ok(2)
        );
        assert_eq!(read, [event(9, 9), events[1]]);
    }
}
