//! The names in a recording: blocks of their own, each before the first block of events that needs it.
//!
//! Names are optional. A file without them is whole, and where there is no room they are left out.

use std::{collections::BTreeMap, sync::Arc};

use hashbrown::HashSet;
use serde::{Deserialize, Serialize};
use tcpstate_core::names::Names;

use crate::{
    block::{BlockHeader, Kind},
    packing::Malformed,
};

/// The most bytes of the JSON in a block of names.
pub(crate) const MAX_NAMES: usize = 1 << 20;
/// Bytes from which on a writer begins the next block. The kernel's paths are shorter than 4,096 bytes,
/// and no byte takes more than six in JSON.
const FULL: usize = MAX_NAMES - 32 * 1024;

/// The cgroups that a [`Namer`] remembers, more than a host has.
const MAX_KNOWN: usize = 1 << 20;

/// Paths of cgroups by their ids.
pub(crate) type Cgroups = BTreeMap<u64, Arc<str>>;

/// The names of cgroups, as JSON.
#[derive(Serialize, Deserialize)]
struct Payload<T> {
    // A newer program may leave them out.
    #[serde(default = "BTreeMap::new")]
    cgroups: BTreeMap<u64, T>,
}

/// Looks up the names of the cgroups in a file's events, each once.
#[derive(Debug, Default)]
pub(crate) struct Namer {
    names: Names,
    /// The ids that have been looked up for this file.
    known: HashSet<u64>,
}

impl Namer {
    pub(crate) fn new(names: Names) -> Self {
        Self {
            names,
            known: HashSet::new(),
        }
    }

    /// The names of those cgroups that are new in this file.
    pub(crate) fn learn(&mut self, cgroups: &[u64]) -> Cgroups {
        let mut found = Cgroups::new();
        if self.names.is_empty() {
            return found;
        }
        if self.known.len() > MAX_KNOWN {
            // A name that comes twice does no harm.
            self.known.clear();
        }
        for &id in cgroups {
            if self.known.insert(id)
                && let Some(path) = self.names.cgroup(Some(id))
            {
                found.insert(id, path);
            }
        }
        found
    }

    /// Begins a new file, which has no names yet.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
    }
}

/// The ids that occur, each once.
pub(crate) fn distinct(ids: impl Iterator<Item = Option<u64>>) -> Vec<u64> {
    let (mut distinct, mut last) = (HashSet::new(), None);
    for id in ids {
        // Nearly always it is the same again.
        if id != last {
            last = id;
            distinct.extend(id);
        }
    }
    distinct.into_iter().collect()
}

/// These names as blocks, in a file where `first_event` events come before them.
pub(crate) fn to_blocks(cgroups: Cgroups, first_event: u64) -> Vec<u8> {
    let mut blocks = Vec::new();
    let mut push = |cgroups: &Cgroups| {
        if !cgroups.is_empty() {
            // It has only numbers and text, which cannot fail to be JSON.
            let cgroups = cgroups.iter().map(|(&id, path)| (id, &**path)).collect();
            let json = serde_json::to_vec(&Payload { cgroups }).unwrap_or_default();
            let header = BlockHeader::plain(Kind::NAMES, &json, first_event);
            blocks.extend_from_slice(&header.to_bytes());
            blocks.extend_from_slice(&json);
        }
    };
    let (mut part, mut bytes) = (Cgroups::new(), 0);
    for (id, path) in cgroups {
        // Quotes, colon, comma and 20 digits.
        let more = 32 + 6 * path.len();
        if bytes + more > FULL {
            push(&part);
            part.clear();
            bytes = 0;
        }
        bytes += more;
        part.insert(id, path);
    }
    push(&part);
    blocks
}

/// The names in a block's payload.
pub(crate) fn from_payload(payload: &[u8]) -> Result<Cgroups, Malformed> {
    if payload.len() > MAX_NAMES {
        return Err(Malformed);
    }
    let payload: Payload<String> = serde_json::from_slice(payload).map_err(|_| Malformed)?;
    let cgroups = payload.cgroups.into_iter();
    Ok(cgroups.map(|(id, path)| (id, path.into())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BLOCK_HEADER;

    fn read(mut blocks: &[u8]) -> (Cgroups, usize) {
        let (mut all, mut count) = (Cgroups::new(), 0);
        while let Some(start) = blocks.first_chunk::<BLOCK_HEADER>() {
            let header = BlockHeader::from_bytes(start).unwrap();
            assert_eq!(
                (header.kind, header.count, header.first_event),
                (Kind::NAMES, 0, 7)
            );
            let length = BLOCK_HEADER + header.stored_bytes as usize;
            let payload = &blocks[BLOCK_HEADER..length];
            assert!(header.matches(payload));
            all.append(&mut from_payload(payload).unwrap());
            blocks = &blocks[length..];
            count += 1;
        }
        (all, count)
    }

    #[test]
    fn any_number_of_names_comes_back() {
        let one = Cgroups::from([(u64::MAX, "/a \"b\"\n\u{1}".into())]);
        assert_eq!(read(&to_blocks(one.clone(), 7)), (one, 1));
        assert_eq!(to_blocks(Cgroups::new(), 7), b"");
        let many: Cgroups = (0..2_000)
            .map(|id| (id, format!("/{id:0>4000}\u{1}").into()))
            .collect();
        let (found, blocks) = read(&to_blocks(many.clone(), 7));
        assert_eq!(found, many);
        assert!(blocks > 8, "{blocks}");
    }

    #[test]
    fn foreign_payloads_are_refused_and_newer_ones_are_read() {
        for payload in [
            &b""[..],
            b"7",
            b"{\"cgroups\":{\"x\":\"/\"}}",
            b"{\"cgroups\":[1]}",
        ] {
            assert!(from_payload(payload).is_err(), "{payload:?}");
        }
        assert_eq!(
            from_payload(b"{\"users\":{\"0\":\"root\"}}"),
            Ok(Cgroups::new())
        );
    }
}
