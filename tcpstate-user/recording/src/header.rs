//! The start of a recording: magic, version, and the facts about the capture.

use serde::{Deserialize, Serialize};
use tcpstate_common::Record;
use tcpstate_core::origin::Origin;

use crate::packing::GROUPS;

/// The first bytes of every recording. The first is not ASCII and the last two are a line end, so
/// that no text file is taken for a recording, and a transfer that rewrites line ends is detected.
pub const MAGIC: [u8; 8] = *b"\x89TCPST\r\n";

/// The version of the format that this program writes, and the newest that it reads.
pub const VERSION: u16 = 1;

/// Bytes before the metadata.
pub(crate) const FILE_HEADER: usize = 24;
/// The most bytes of metadata that are read.
pub(crate) const MAX_METADATA: usize = 1 << 20;

/// The contents of a recording's header, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Metadata {
    /// The program that wrote it.
    pub(crate) writer: String,
    /// The host and the capture that the events come from.
    pub(crate) origin: Origin,
    /// The groups of fields of a record in the order of their bits, each field with its bytes.
    pub(crate) groups: Vec<Vec<(String, usize)>>,
    /// The number of this file in a rotation, from 0.
    pub(crate) part: u32,
    /// Events of the recording before this file.
    pub(crate) first_event: u64,
    /// When this file begins, if that is not when the capture began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) begin_ns: Option<u64>,
    /// Sockets that were there then and are not known in this file, for want of room.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) left_out: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Metadata {
    pub(crate) fn new(origin: &Origin, part: u32, first_event: u64) -> Self {
        Self {
            writer: concat!("tcpstate ", env!("CARGO_PKG_VERSION")).to_owned(),
            origin: Origin {
                live: false,
                ..origin.clone()
            },
            groups: groups(),
            part,
            first_event,
            begin_ns: None,
            left_out: 0,
        }
    }

    /// Of a file that begins later than its capture, without so many sockets that were there then.
    pub(crate) fn beginning_at(self, begin_ns: u64, left_out: u64) -> Self {
        Self {
            begin_ns: Some(begin_ns),
            left_out,
            ..self
        }
    }

    /// The file's first bytes: header and metadata.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // It has only strings and numbers, which cannot fail to be JSON.
        let json = serde_json::to_vec(self).unwrap_or_default();
        let mut bytes = Vec::with_capacity(FILE_HEADER + json.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&json).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes.extend_from_slice(&json);
        bytes
    }
}

/// The groups of this program's records.
fn groups() -> Vec<Vec<(String, usize)>> {
    let size = |name: &str| {
        Record::LAYOUT
            .iter()
            .find(|field| field.0 == name)
            .map_or(0, |&(_, _, size)| size)
    };
    GROUPS
        .iter()
        .map(|group| {
            group
                .iter()
                .map(|&name| (name.to_owned(), size(name)))
                .collect()
        })
        .collect()
}

/// The reason why a file does not begin as a recording that can be read here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The file is empty.
    #[error("is empty: nothing was recorded, or the recording was cut before its first byte")]
    Empty,
    /// It is a packet capture.
    #[error(
        "is a packet capture: these are not supported yet, only recordings of `tcpstate record`"
    )]
    PacketCapture,
    /// It is something else.
    #[error("is no recording of `tcpstate record`")]
    Foreign,
    /// Its version of the format is newer than [`VERSION`].
    #[error(
        "is a recording of format version {0}, this program reads up to {VERSION}: \
         use the tcpstate that wrote it, or a newer one"
    )]
    Newer(u16),
    /// It ends within its header, after this many bytes.
    #[error("was cut within its header, after {0} bytes: it holds no events")]
    Cut(usize),
    /// Its header is damaged, at this byte.
    #[error("is damaged in its header, at byte {0}: what the events mean stood there")]
    Damaged(usize),
    /// Its records have another layout; this program wrote it.
    #[error("has records of another layout, written by `{0}`: use that program to read it")]
    Layout(String),
}

/// The magic numbers of the packet captures that users will try.
const PACKET_CAPTURES: [[u8; 4]; 5] = [
    [0xa1, 0xb2, 0xc3, 0xd4],
    [0xd4, 0xc3, 0xb2, 0xa1],
    [0xa1, 0xb2, 0x3c, 0x4d],
    [0x4d, 0x3c, 0xb2, 0xa1],
    [0x0a, 0x0d, 0x0d, 0x0a],
];

/// Reads the part of fixed size. Returns the length of the metadata after it, and their checksum.
///
/// `start` is the file's first [`FILE_HEADER`] bytes; it is shorter only if the file is.
#[expect(
    clippy::indexing_slicing,
    reason = "by constants, inside of the header"
)]
pub(crate) fn parse_fixed(start: &[u8]) -> Result<(usize, u32), HeaderError> {
    if start.is_empty() {
        return Err(HeaderError::Empty);
    }
    if PACKET_CAPTURES.iter().any(|magic| start.starts_with(magic)) {
        return Err(HeaderError::PacketCapture);
    }
    if start.iter().zip(&MAGIC).any(|(byte, magic)| byte != magic) {
        return Err(HeaderError::Foreign);
    }
    if let Some(&[low, high]) = start.get(8..10)
        && u16::from_le_bytes([low, high]) > VERSION
    {
        return Err(HeaderError::Newer(u16::from_le_bytes([low, high])));
    }
    let Some(start) = start.first_chunk::<FILE_HEADER>() else {
        return Err(HeaderError::Cut(start.len()));
    };
    let word =
        |at: usize| u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]);
    let metadata = usize::try_from(word(12)).unwrap_or(usize::MAX);
    if word(20) != crc32c::crc32c(&start[..20]) || metadata > MAX_METADATA {
        return Err(HeaderError::Damaged(0));
    }
    Ok((metadata, word(16)))
}

/// Reads the metadata.
pub(crate) fn parse_metadata(json: &[u8], crc: u32) -> Result<Metadata, HeaderError> {
    if crc32c::crc32c(json) != crc {
        return Err(HeaderError::Damaged(FILE_HEADER));
    }
    let mut metadata: Metadata =
        serde_json::from_slice(json).map_err(|_| HeaderError::Damaged(FILE_HEADER))?;
    if metadata.groups != groups() {
        return Err(HeaderError::Layout(metadata.writer));
    }
    metadata.origin.live = false;
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        let origin = Origin {
            host: "h".into(),
            kernel: "6.1".into(),
            attach: "btf".into(),
            wall_at_monotonic_zero_ns: -5,
            started_ns: u64::MAX,
            filters: "-L 80".into(),
            live: true,
            sample_interval_ns: None,
        };
        Metadata::new(&origin, 3, 17)
    }

    fn parse(bytes: &[u8]) -> Result<Metadata, HeaderError> {
        let (length, crc) = parse_fixed(&bytes[..bytes.len().min(FILE_HEADER)])?;
        assert_eq!(bytes.len(), FILE_HEADER + length);
        parse_metadata(&bytes[FILE_HEADER..], crc)
    }

    #[test]
    fn a_written_header_is_read() {
        let written = metadata();
        assert_eq!(parse(&written.to_bytes()), Ok(written.clone()));
        assert!(!written.origin.live, "a file is not live");
    }

    #[test]
    fn an_unreadable_start_is_named() {
        let bytes = metadata().to_bytes();
        assert_eq!(parse_fixed(&[]), Err(HeaderError::Empty));
        assert_eq!(parse_fixed(b"hello"), Err(HeaderError::Foreign));
        assert_eq!(parse_fixed(&MAGIC[..5]), Err(HeaderError::Cut(5)));
        assert_eq!(parse_fixed(&bytes[..23]), Err(HeaderError::Cut(23)));
        for magic in PACKET_CAPTURES {
            assert_eq!(parse_fixed(&magic), Err(HeaderError::PacketCapture));
        }
        let mut newer = bytes.clone();
        newer[8] = 7;
        assert_eq!(parse(&newer), Err(HeaderError::Newer(7)));
        // A newer version may lay out the rest differently: the version alone decides.
        assert_eq!(parse_fixed(&newer[..10]), Err(HeaderError::Newer(7)));
    }

    #[test]
    fn every_flipped_bit_of_the_header_is_detected() {
        let bytes = metadata().to_bytes();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(
                parse_fixed(&damaged[..FILE_HEADER])
                    .and_then(|(_, crc)| parse_metadata(&damaged[FILE_HEADER..], crc))
                    .is_err(),
                "byte {at}"
            );
        }
    }

    #[test]
    fn records_of_another_layout_are_refused() {
        let mut other = metadata();
        other.groups[0][0].1 = 4;
        other.writer = "tcpstate 9".into();
        assert_eq!(
            parse(&other.to_bytes()),
            Err(HeaderError::Layout("tcpstate 9".into()))
        );
    }
}
