//! A second reader of recordings, written from `docs/recording-format.md` alone, without code of the
//! first: where the two agree, the document is right.

use std::collections::BTreeMap;

use serde_json::Value;

/// A block according to its header.
#[derive(Clone, Debug)]
pub struct Block {
    pub offset: usize,
    pub kind: u8,
    pub coding: u8,
    pub count: usize,
    pub stored_bytes: usize,
    pub unpacked_bytes: usize,
    pub first_event: u64,
    pub first_ts_ns: u64,
    pub last_ts_ns: u64,
}

impl Block {
    pub const HEADER: usize = 52;

    pub fn end(&self) -> usize {
        self.offset + Self::HEADER + self.stored_bytes
    }

    pub fn stored<'a>(&self, file: &'a [u8]) -> &'a [u8] {
        &file[self.offset + Self::HEADER..self.end()]
    }

    pub fn unpacked(&self, file: &[u8]) -> Vec<u8> {
        let bytes = match self.coding {
            0 => self.stored(file).to_vec(),
            1 => zstd::decode_all(self.stored(file)).expect("a zstd frame"),
            other => panic!("coding {other}"),
        };
        assert_eq!(bytes.len(), self.unpacked_bytes);
        bytes
    }
}

/// A whole recording.
pub struct Document {
    pub metadata_bytes: usize,
    pub metadata: Value,
    pub blocks: Vec<Block>,
    pub footer: Value,
}

/// A record: its fields by name, as numbers or bytes.
pub type Fields = BTreeMap<String, Vec<u8>>;

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Reads a whole file; panics on anything that the document does not allow.
pub fn read(file: &[u8]) -> Document {
    assert_eq!(file[..8], *b"\x89TCPST\r\n");
    assert_eq!(u16_at(file, 8), 1);
    assert_eq!(u16_at(file, 10), 0);
    let metadata_bytes = u32_at(file, 12) as usize;
    assert_eq!(u32_at(file, 20), crc32c::crc32c(&file[..20]));
    let json = &file[24..24 + metadata_bytes];
    assert_eq!(u32_at(file, 16), crc32c::crc32c(json));
    let metadata = serde_json::from_slice(json).expect("JSON");

    let mut blocks = Vec::new();
    let mut at = 24 + metadata_bytes;
    let footer = loop {
        let header = &file[at..at + Block::HEADER];
        assert_eq!(header[..4], *b"\xb5BLK");
        assert_eq!(u16_at(header, 6), 0);
        assert_eq!(u32_at(header, 48), crc32c::crc32c(&header[..48]));
        let block = Block {
            offset: at,
            kind: header[4],
            coding: header[5],
            count: u32_at(header, 8) as usize,
            stored_bytes: u32_at(header, 12) as usize,
            unpacked_bytes: u32_at(header, 16) as usize,
            first_event: u64_at(header, 24),
            first_ts_ns: u64_at(header, 32),
            last_ts_ns: u64_at(header, 40),
        };
        assert_eq!(u32_at(header, 20), crc32c::crc32c(block.stored(file)));
        at = block.end();
        if block.kind == 2 {
            let footer = serde_json::from_slice(&block.unpacked(file)).expect("JSON");
            blocks.push(block);
            break footer;
        }
        assert!(matches!(block.kind, 1 | 4 | 5 | 6), "kind {}", block.kind);
        blocks.push(block);
    };
    assert_eq!(at, file.len(), "nothing comes after the footer");
    Document {
        metadata_bytes,
        metadata,
        blocks,
        footer,
    }
}

impl Document {
    /// The paths of cgroups in front of the block at this offset.
    pub fn cgroups_before(&self, file: &[u8], offset: usize) -> BTreeMap<String, String> {
        let before = self.blocks.iter().filter(|block| block.offset < offset);
        let mut all = BTreeMap::new();
        for block in before.filter(|block| block.kind == 4) {
            assert_eq!((block.coding, block.count), (0, 0));
            let names: Value = serde_json::from_slice(&block.unpacked(file)).expect("JSON");
            for (id, path) in names["cgroups"].as_object().expect("an object") {
                all.insert(id.clone(), path.as_str().expect("text").to_owned());
            }
        }
        all
    }

    /// The blocks with events.
    pub fn event_blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(|block| block.kind == 1)
    }

    /// The blocks with what was known before the file begins.
    pub fn recalled_blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(|block| block.kind == 5)
    }

    /// The records of a block, and the meaning of each run of its unpacked bytes.
    pub fn records(&self, file: &[u8], block: &Block) -> (Vec<Fields>, Vec<(usize, String)>) {
        let groups: Vec<Vec<(String, usize)>> =
            serde_json::from_value(self.metadata["groups"].clone()).expect("name and size");
        let bytes = block.unpacked(file);
        let mut pieces = Vec::new();
        let mut at = 0;
        let mut take = |length: usize, what: String| {
            pieces.push((length, what));
            at += length;
            bytes[at - length..at].to_vec()
        };
        let mut ts_ns = 0_u64;
        let mut records: Vec<Fields> = Vec::new();
        for index in 0..block.count {
            let mask = u16_at(&take(2, format!("record {index}: mask")), 0);
            let back = usize::from(u16_at(&take(2, "back".into()), 0));
            let elapsed = if mask >> 15 == 1 {
                u64_at(&take(8, "elapsed".into()), 0)
            } else {
                u64::from(u32_at(&take(4, "elapsed".into()), 0))
            };
            ts_ns = ts_ns.wrapping_add(elapsed);
            let mut record = if back == 0 {
                let zeros = groups.iter().flatten();
                zeros
                    .map(|(name, size)| (name.clone(), vec![0; *size]))
                    .collect()
            } else {
                records[index - back].clone()
            };
            record.insert("ts_ns".into(), ts_ns.to_le_bytes().to_vec());
            for (bit, group) in groups.iter().enumerate() {
                if mask >> bit & 1 == 1 {
                    for (name, size) in group {
                        record.insert(name.clone(), take(*size, format!("bit {bit}: {name}")));
                    }
                }
            }
            records.push(record);
        }
        assert_eq!(at, bytes.len());
        (records, pieces)
    }
}
