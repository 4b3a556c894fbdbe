//! The beginning of a file: blocks of what is known.

use std::io;

use tcpstate_core::{
    census::{Census, PART, Scope},
    event::Event,
};

use super::{
    Memory,
    entry::{Entry, FoundIn, HeldIn, Life, Piece},
};
use crate::block::{BLOCK_HEADER, BlockHeader, Encoder, Kind};

/// The part of a block that is filled with events.
const BLOCK_EVENTS: usize = 16_384;

/// Blocks, each with its payload.
type Encoded = Vec<(BlockHeader, Box<[u8]>)>;

/// The beginning of a file.
#[derive(Default)]
pub(crate) struct Beginning {
    pub(crate) blocks: Encoded,
    /// The cgroups in them, with repetitions.
    pub(crate) cgroups: Vec<Option<u64>>,
    /// The sockets that were there and are not in them.
    pub(crate) left_out: u64,
}

impl Beginning {
    /// Bytes of the blocks in a file.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks
            .iter()
            .map(|(_, payload)| BLOCK_HEADER + payload.len())
            .sum()
    }
}

impl Memory {
    /// The blocks for the beginning of a file, at most so many bytes of them: sockets beyond are left out, the
    /// minisockets first and the listeners last.
    ///
    /// *Errors:* the compressor is out of memory.
    pub(crate) fn encode(&self, max_bytes: Option<usize>) -> io::Result<Beginning> {
        let is_needed = self.needed_listeners();
        let ended = self.ended_listeners.iter().zip(is_needed);
        let mut entries: Vec<&Entry> = self.open.values().chain(self.others.values()).collect();
        entries.extend(ended.filter_map(|(entry, is_needed)| is_needed.then_some(entry)));
        entries.sort_by_key(|entry| {
            let rank = match entry.life {
                Life::Listener => 0,
                Life::Connection => 1,
                Life::Minisocket { .. } => 2,
            };
            (rank, entry.items.first().map(|item| item.position))
        });
        let mut encoder = Encoder::new()?;
        let mut kept = entries.len();
        let mut beginning = loop {
            let chosen = entries.get(..kept).unwrap_or_default();
            let beginning = self.begin_with(chosen, &mut encoder)?;
            let bytes = beginning.bytes();
            match max_bytes {
                Some(max_bytes) if bytes > max_bytes => {
                    if kept == 0 {
                        // Not even the samples.
                        break Beginning::default();
                    }
                    // Their bytes differ, so a little less than in proportion.
                    kept = kept * (max_bytes / 10 * 9) / bytes;
                }
                _ => break beginning,
            }
        };
        let minis: u64 = self.minis_left_out.iter().map(|&(_, count)| count).sum();
        beginning.left_out = self.left_out + minis + (entries.len() - kept) as u64;
        Ok(beginning)
    }

    fn begin_with(&self, entries: &[&Entry], encoder: &mut Encoder) -> io::Result<Beginning> {
        let mut stream: Vec<(u64, Part<'_>)> = entries
            .iter()
            .flat_map(|entry| &entry.items)
            .map(|item| (item.position, Part::Item(&item.piece)))
            .collect();
        let samples = self.samples.values();
        stream.extend(samples.map(|(position, sample)| (*position, Part::Sample(sample))));
        // Of a census its sockets come first; that it was a sample ends it.
        stream.sort_by_key(|(position, part)| {
            let rank = match part {
                Part::Item(Piece::Event(_) | Piece::Entry(_)) => 0,
                Part::Item(Piece::Held(_)) => 1,
                Part::Sample(_) => 2,
            };
            (*position, rank)
        });
        let mut blocks = Blocks::new(encoder);
        let mut cgroups = Vec::new();
        for (_, part) in stream {
            match part {
                Part::Item(Piece::Event(event)) => {
                    cgroups.push(event.cgroup());
                    blocks.event(event)?;
                }
                Part::Item(Piece::Entry(entry)) => {
                    cgroups.push(entry.found.cgroup);
                    blocks.entry(entry)?;
                }
                Part::Item(Piece::Held(of)) => blocks.held(of)?,
                Part::Sample(sample) => {
                    let requests = self.requests.get(&sample.netns).into_iter().flatten();
                    blocks.sample(Census {
                        requests: requests.map(|(_, request)| *request).collect(),
                        ..sample.clone()
                    })?;
                }
            }
        }
        Ok(Beginning {
            blocks: blocks.finish()?,
            cgroups,
            left_out: 0,
        })
    }
}

/// A part of the stream that is written.
enum Part<'a> {
    Item(&'a Piece),
    Sample(&'a Census),
}

/// The blocks that are being filled.
struct Blocks<'a> {
    encoder: &'a mut Encoder,
    done: Encoded,
    events: Vec<Event>,
    census: Option<Census>,
}

impl<'a> Blocks<'a> {
    const fn new(encoder: &'a mut Encoder) -> Self {
        Self {
            encoder,
            done: Vec::new(),
            events: Vec::new(),
            census: None,
        }
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        self.end_census()?;
        self.events.push(*event);
        if self.events.len() >= BLOCK_EVENTS {
            self.end_events()?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &FoundIn) -> io::Result<()> {
        self.end_events()?;
        let is_of_another = |census: &Census| {
            (census.netns, census.begin_ns) != (entry.netns, entry.begin_ns)
                || census.found.len() >= PART
        };
        if self.census.as_ref().is_some_and(is_of_another) {
            self.end_census()?;
        }
        self.census
            .get_or_insert_with(|| Census {
                netns: entry.netns,
                begin_ns: entry.begin_ns,
                previous_ns: entry.previous_ns,
                // Other sockets may be there.
                scope: Scope::Some,
                ..Census::default()
            })
            .found
            .push(entry.found.clone());
        Ok(())
    }

    fn held(&mut self, of: &HeldIn) -> io::Result<()> {
        self.end_events()?;
        self.end_census()?;
        self.keep_census(&Census {
            netns: of.netns,
            begin_ns: of.begin_ns,
            held: vec![of.held.clone()],
            // It is no sample.
            more: true,
            ..Census::default()
        })
    }

    fn sample(&mut self, sample: Census) -> io::Result<()> {
        self.end_events()?;
        self.end_census()?;
        for part in sample.into_parts() {
            self.keep_census(&part)?;
        }
        Ok(())
    }

    fn end_events(&mut self) -> io::Result<()> {
        if !self.events.is_empty() {
            let (header, payload) = self.encoder.encode(&self.events, 0)?;
            self.done
                .push((header.of_kind(Kind::RECALLED_EVENTS), payload.into()));
            self.events.clear();
        }
        Ok(())
    }

    fn end_census(&mut self) -> io::Result<()> {
        match self.census.take() {
            Some(census) => self.keep_census(&census),
            None => Ok(()),
        }
    }

    fn keep_census(&mut self, census: &Census) -> io::Result<()> {
        if let Some((header, payload)) = self.encoder.encode_census(census)? {
            self.done
                .push((header.of_kind(Kind::RECALLED_CENSUS), payload.into()));
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<Encoded> {
        self.end_events()?;
        self.end_census()?;
        Ok(self.done)
    }
}
