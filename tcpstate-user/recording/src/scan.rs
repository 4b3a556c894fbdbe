//! The scanner: reads a recording from any stream of bytes, block by block, and skips what is damaged.
//!
//! Total: any bytes give events, notices and an end, or a [`HeaderError`] before the first block.
//! Only the stream itself can fail. The format's limits bound the memory for any file, and the work is
//! proportional to its length, however it is damaged.

// A file may have any numbers.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

use std::io::{self, Read};

use tcpstate_core::{
    books::{Accounting, CaptureCost},
    census::Census,
    event::Event,
    recalled::Recalled,
    source::Notice,
};

use crate::{
    block::{BLOCK_HEADER, BLOCK_MAGIC, BlockHeader, Decoder, EndReason, Footer, Kind, MAX_FOOTER},
    header::{self, FILE_HEADER, HeaderError, Metadata},
    names::{self, Cgroups},
};

/// Damaged places that are reported one by one; further ones are counted.
const NAMED_PLACES: u64 = 20;

/// Bytes of payloads that may turn out to be damaged, beyond as many as were skipped: enough for the largest
/// block, which may begin anywhere.
const VAIN_BYTES: u64 = 16 << 20;

/// Bytes that are read from the stream at a time.
const READ_BYTES: usize = 256 * 1024;

/// A window into a stream of bytes, with its offset.
struct Window<R> {
    stream: R,
    /// `buffer[start..end]` has been read and not been processed.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset of `buffer[start]` in the stream.
    offset: u64,
}

impl<R: Read> Window<R> {
    /// A window whose stream begins at this offset.
    const fn new(stream: R, offset: u64) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            offset,
        }
    }

    /// Reads until `length` bytes are there or the stream has ended. It does not wait for a pipe beyond
    /// that.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "start <= end <= the length of the buffer, and `length` is within the format's bounds"
    )]
    fn fill(&mut self, length: usize) -> io::Result<()> {
        while self.end - self.start < length {
            if self.buffer.len() - self.start < length {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
                // `length` is within the format's bounds, so this is too.
                self.buffer
                    .resize(self.buffer.len().max(length + READ_BYTES), 0);
            }
            match self.stream.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The bytes that have been read and not been processed.
    #[expect(
        clippy::indexing_slicing,
        reason = "start <= end <= the length of the buffer"
    )]
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn skip(&mut self, length: usize) {
        let length = length.min(self.bytes().len());
        self.start = self.start.saturating_add(length);
        self.offset = self.offset.saturating_add(length as u64);
    }
}

/// The books at the end of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    /// The capture's books, where the file has them.
    pub(crate) accounting: Option<Accounting>,
    /// The cost of the capture.
    pub(crate) cost: CaptureCost,
    /// Records that are no events.
    pub(crate) malformed: u64,
    /// When the capture ended, where the file says so.
    pub(crate) end_ns: Option<u64>,
}

/// The result of a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scanned {
    /// There may be more.
    More,
    /// The file has ended.
    End,
}

/// A recording that is being read.
pub(crate) struct Scanner<R> {
    window: Window<R>,
    decoder: Decoder,
    metadata: Metadata,
    /// The number of the event that should come next.
    next_event: u64,
    read_events: u64,
    /// The census after the events of the last step.
    census: Option<Census>,
    /// A part of the history before the file, if the last step read one.
    recalled: Option<Recalled>,
    books: Books,
    footer: Option<Footer>,
    cgroups: Cgroups,
    damage: Option<Damage>,
    damaged_places: u64,
    /// The bytes of payloads that may still be read in vain. Headers can overlap, and each may announce
    /// megabytes: without a bound, every byte of a damaged file could cost a checksum over all of the rest.
    vain_bytes: u64,
    #[cfg(test)]
    read_in_vain: u64,
    notices: Vec<Notice>,
}

/// A place between two steps, with all that the steps after it need to know of those before.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    next_event: u64,
    read_events: u64,
    malformed: u64,
    damage: Option<Damage>,
    damaged_places: u64,
    vain_bytes: u64,
}

/// A damaged place whose end has not been found yet.
#[derive(Clone, Copy)]
struct Damage {
    offset: u64,
    what: &'static str,
}

impl<R: Read> Scanner<R> {
    /// Reads the header.
    ///
    /// *Errors:* the stream cannot be read, or is no recording that can be read here.
    pub(crate) fn open(stream: R) -> io::Result<Result<Self, HeaderError>> {
        let mut window = Window::new(stream, 0);
        window.fill(FILE_HEADER)?;
        let start = window.bytes();
        let (length, crc) = match header::parse_fixed(start.get(..FILE_HEADER).unwrap_or(start)) {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        window.skip(FILE_HEADER);
        window.fill(length)?;
        let Some(json) = window.bytes().get(..length) else {
            return Ok(Err(HeaderError::Cut(
                FILE_HEADER.saturating_add(window.bytes().len()),
            )));
        };
        let metadata = match header::parse_metadata(json, crc) {
            Ok(metadata) => metadata,
            Err(error) => return Ok(Err(error)),
        };
        window.skip(length);
        let mut notices = Vec::new();
        if metadata.left_out > 0 {
            notices.push(Notice::damage(format!(
                "{} of the sockets that were there when it begins are not known in it: there was no room for more",
                metadata.left_out
            )));
        }
        let place = Place {
            offset: window.offset,
            next_event: metadata.first_event,
            read_events: 0,
            malformed: 0,
            damage: None,
            damaged_places: 0,
            vain_bytes: VAIN_BYTES,
        };
        Ok(Ok(Self {
            notices,
            ..Self::on(window, metadata, &place)?
        }))
    }

    /// Goes on reading at a place, where this stream begins.
    ///
    /// *Errors:* there is no memory for the decompressor.
    pub(crate) fn resume(stream: R, metadata: Metadata, place: &Place) -> io::Result<Self> {
        Self::on(Window::new(stream, place.offset), metadata, place)
    }

    fn on(window: Window<R>, metadata: Metadata, place: &Place) -> io::Result<Self> {
        Ok(Self {
            window,
            decoder: Decoder::new()?,
            next_event: place.next_event,
            metadata,
            read_events: place.read_events,
            census: None,
            recalled: None,
            books: Books {
                malformed: place.malformed,
                ..Books::default()
            },
            footer: None,
            cgroups: Cgroups::new(),
            damage: place.damage,
            damaged_places: place.damaged_places,
            vain_bytes: place.vain_bytes,
            #[cfg(test)]
            read_in_vain: 0,
            notices: Vec::new(),
        })
    }

    /// The place before the next step, once everything of the last one has been taken.
    pub(crate) const fn place(&self) -> Place {
        Place {
            offset: self.window.offset,
            next_event: self.next_event,
            read_events: self.read_events,
            malformed: self.books.malformed,
            damage: self.damage,
            damaged_places: self.damaged_places,
            vain_bytes: self.vain_bytes,
        }
    }

    pub(crate) const fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Bytes of the stream that have been processed.
    pub(crate) const fn offset(&self) -> u64 {
        self.window.offset
    }

    /// The messages for the user since the last call.
    pub(crate) fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// The census that the last step read.
    pub(crate) fn take_census(&mut self) -> Option<Census> {
        self.census.take()
    }

    /// A part of the history before the file, if the last step read one.
    pub(crate) fn take_recalled(&mut self) -> Option<Recalled> {
        self.recalled.take()
    }

    /// The names that were read since the last call. Later events need them.
    pub(crate) fn cgroups(&mut self) -> Cgroups {
        std::mem::take(&mut self.cgroups)
    }

    /// The books of the capture. Call it at the end of the file.
    pub(crate) const fn books(&self) -> Books {
        self.books
    }

    /// Reads one block and appends its events, or skips one damaged place.
    pub(crate) fn step(&mut self, events: &mut Vec<Event>) -> io::Result<Scanned> {
        self.window.fill(BLOCK_HEADER)?;
        let Some(start) = self.window.bytes().first_chunk::<BLOCK_HEADER>() else {
            return Ok(self.end());
        };
        let Some(header) = BlockHeader::from_bytes(start) else {
            self.damaged("no block begins there");
            return self.skip_damage();
        };
        if u64::from(header.stored_bytes) > self.vain_bytes {
            self.damaged("a block's checksum does not match");
            return self.skip_damage();
        }
        self.account_for(&header);
        let length = BLOCK_HEADER.saturating_add(header.stored_bytes as usize);
        self.window.fill(length)?;
        let Some(payload) = self.window.bytes().get(BLOCK_HEADER..length) else {
            return Ok(self.end());
        };
        if !header.matches(payload) {
            return self.skip_block(&header, "a block's checksum does not match");
        }
        match header.kind {
            Kind::EVENTS => {
                let before = events.len();
                let Ok(malformed) = self.decoder.decode(&header, payload, events) else {
                    return self.skip_block(&header, "a block does not unpack");
                };
                self.books.malformed = self.books.malformed.saturating_add(malformed);
                let decoded = events.len().saturating_sub(before) as u64;
                self.read_events = self
                    .read_events
                    .saturating_add(malformed.saturating_add(decoded));
                self.next_event = header.first_event.saturating_add(u64::from(header.count));
            }
            Kind::CENSUS => {
                let Ok(census) = self.decoder.census(&header, payload) else {
                    return self.skip_block(&header, "a census does not unpack");
                };
                self.census = Some(census);
            }
            Kind::RECALLED_EVENTS => {
                // In no book: they are in an earlier file.
                let mut recalled = Vec::new();
                if self
                    .decoder
                    .decode(&header, payload, &mut recalled)
                    .is_err()
                {
                    return self.skip_block(&header, "what was known before does not unpack");
                }
                self.recalled = Some(Recalled::Events(recalled));
            }
            Kind::RECALLED_CENSUS => {
                let Ok(census) = self.decoder.census(&header, payload) else {
                    return self.skip_block(&header, "what was known before does not unpack");
                };
                self.recalled = Some(Recalled::Census(Box::new(census)));
            }
            Kind::NAMES => {
                let Ok(mut cgroups) = names::from_payload(payload) else {
                    return self.skip_block(&header, "names cannot be read");
                };
                self.cgroups.append(&mut cgroups);
            }
            Kind::FOOTER if payload.len() <= MAX_FOOTER => {
                let Ok(footer) = Footer::from_payload(payload) else {
                    return self.skip_block(&header, "the footer cannot be read");
                };
                self.window.skip(length);
                self.books.accounting = footer.accounting;
                self.books.cost = footer.cost.unwrap_or_default();
                self.books.end_ns = footer.end_ns;
                self.footer = Some(footer);
                self.window.fill(1)?;
                return Ok(self.end());
            }
            // A block of a later version. If it could not be left out, the version number would differ.
            _ => {}
        }
        self.window.skip(length);
        Ok(Scanned::More)
    }

    /// Determines how many events are missing before the block that begins here.
    fn account_for(&mut self, header: &BlockHeader) {
        let missing = header.first_event.saturating_sub(self.next_event);
        self.next_event = self.next_event.max(header.first_event);
        self.damage_ends(Some(missing));
    }

    fn damaged(&mut self, what: &'static str) {
        if self.damage.is_none() {
            self.damage = Some(Damage {
                offset: self.window.offset,
                what,
            });
        }
    }

    /// Reports the damaged place, if there is one. `missing` is `None` where no whole block follows.
    fn damage_ends(&mut self, missing: Option<u64>) {
        let Some(Damage { offset, what }) = self.damage.take() else {
            return;
        };
        self.damaged_places = self.damaged_places.saturating_add(1);
        if self.damaged_places > NAMED_PLACES {
            return;
        }
        let skipped = self.window.offset.saturating_sub(offset);
        self.notices.push(Notice::damage(match missing {
            Some(missing) => format!(
                "damaged at byte {offset}: {what}; {skipped} bytes with {missing} events left out"
            ),
            None => format!(
                "damaged at byte {offset}: {what}; nothing whole follows, the last {skipped} bytes \
                 are left out"
            ),
        }));
    }

    /// Skips a block whose payload was read in vain.
    fn skip_block(&mut self, header: &BlockHeader, what: &'static str) -> io::Result<Scanned> {
        let bytes = u64::from(header.stored_bytes);
        self.vain_bytes = self.vain_bytes.saturating_sub(bytes);
        #[cfg(test)]
        {
            self.read_in_vain += bytes;
        }
        self.damaged(what);
        self.skip_damage()
    }

    /// Skips to the next whole header of a block. It does not rely on lengths: the damage may have added
    /// or removed bytes.
    fn skip_damage(&mut self) -> io::Result<Scanned> {
        let from = self.window.offset;
        let scanned = self.find_block();
        let skipped = self.window.offset.saturating_sub(from);
        self.vain_bytes = self.vain_bytes.saturating_add(skipped);
        scanned
    }

    fn find_block(&mut self) -> io::Result<Scanned> {
        self.window.skip(1);
        loop {
            self.window.fill(BLOCK_HEADER)?;
            let bytes = self.window.bytes();
            let found = bytes.windows(BLOCK_HEADER).position(|at| {
                at.first() == BLOCK_MAGIC.first()
                    && at
                        .first_chunk()
                        .is_some_and(|at| BlockHeader::from_bytes(at).is_some())
            });
            if let Some(at) = found {
                self.window.skip(at);
                return Ok(Scanned::More);
            }
            if bytes.len() < BLOCK_HEADER {
                return Ok(self.end());
            }
            let whole = bytes.len().saturating_sub(BLOCK_HEADER - 1);
            self.window.skip(whole);
        }
    }

    /// Ends the recording: the stream has ended, or the footer has been read.
    fn end(&mut self) -> Scanned {
        let left = self.window.bytes().len();
        let damaged = self.damage.is_some();
        if damaged {
            self.window.skip(left);
            self.damage_ends(None);
        }
        if self.damaged_places > NAMED_PLACES {
            let more = self.damaged_places.saturating_sub(NAMED_PLACES);
            self.notices
                .push(Notice::damage(format!("{more} more places are damaged")));
        }
        let read = self.read_events;
        let unknown = "what the capture filtered or lost is unknown";
        match self.footer {
            None if damaged => self.notices.push(Notice::damage(format!(
                "its footer is not readable: {read} events were read, {unknown}"
            ))),
            None => {
                let at = self.window.offset;
                let within = if left > 0 { ", within a block" } else { "" };
                let end = at.saturating_add(left as u64);
                self.notices.push(Notice::damage(format!(
                    "cut at byte {end}{within}: {read} events in whole blocks were read, {unknown}"
                )));
                self.window.skip(left);
            }
            Some(footer) => self.check(&footer, left),
        }
        Scanned::End
    }

    fn check(&mut self, footer: &Footer, left: usize) {
        let read = self.read_events;
        if footer.events != read {
            self.notices.push(Notice::damage(format!(
                "{read} of its {} events could be read",
                footer.events
            )));
        }
        if left > 0 {
            self.notices.push(Notice::damage(format!(
                "more bytes follow the end of the recording at byte {}; they are not read",
                self.window.offset
            )));
        }
        let part = u64::from(self.metadata.part).saturating_add(1);
        match (footer.reason, footer.accounting) {
            (EndReason::Rotated, _) => self.notices.push(Notice::new(format!(
                "it is file {part} of a rotation, which goes on in another: what the capture \
                 filtered or lost stands at the end of the last one"
            ))),
            (EndReason::Snapshot, _) => self.notices.push(Notice::new(
                "it was written while the capture went on: what that filtered or lost is unknown"
                    .to_owned(),
            )),
            (EndReason::WriteError, _) => self.notices.push(Notice::damage(format!(
                "the recording was broken off after {} events: it could not be written any more",
                footer.events
            ))),
            (_, None) => self.notices.push(Notice::new(
                "it has no books: what the capture filtered or lost is unknown".to_owned(),
            )),
            (_, Some(accounting)) if accounting.received > footer.events => {
                self.notices.push(Notice::new(format!(
                    "it holds {} of the {} events of its capture",
                    footer.events, accounting.received
                )));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(blocks: &[Vec<u8>]) -> Vec<u8> {
        let origin = serde_json::json!({
            "host": "", "kernel": "", "attach": "btf", "filters": "", "live": false,
            "wall_at_monotonic_zero_ns": 0, "started_ns": 0,
        });
        let origin = serde_json::from_value(origin).unwrap();
        let mut file = Metadata::new(&origin, 0, 0).to_bytes();
        file.extend(blocks.concat());
        file
    }

    fn names(json: &[u8]) -> Vec<u8> {
        let header = BlockHeader::plain(Kind::NAMES, json, 0);
        [&header.to_bytes()[..], json].concat()
    }

    /// The cgroups of all whole blocks of names, and the bytes of payloads that were read in vain.
    fn scan(file: &[u8]) -> (Vec<u64>, u64) {
        let mut scanner = Scanner::open(file).unwrap().unwrap();
        while scanner.step(&mut Vec::new()).unwrap() == Scanned::More {}
        (
            scanner.cgroups().into_keys().collect(),
            scanner.read_in_vain,
        )
    }

    #[test]
    fn the_work_for_a_damaged_file_is_proportional_to_its_length() {
        // Headers without payloads, each of which announces all that follows: with other checksums, or with the
        // right ones and no sense. A whole block stands at the end.
        let whole = names(b"{\"cgroups\":{\"7\":\"/\"}}");
        let announced = 200_000;
        let wrong = BlockHeader::plain(Kind::NAMES, &vec![1; announced], 0).to_bytes();
        let mut blocks = vec![wrong.to_vec(); 5_000];
        blocks.push(vec![0; announced]);
        blocks.push(whole.clone());
        let crafted = file(&blocks);
        let (found, in_vain) = scan(&crafted);
        assert_eq!(found, [7]);
        assert!(in_vain <= VAIN_BYTES + crafted.len() as u64, "{in_vain}");

        let mut nested = vec![0; 10];
        while nested.len() < 400_000 {
            nested = names(&[&nested[..], &[0; 400]].concat());
        }
        let crafted = file(&[nested, whole]);
        let (found, in_vain) = scan(&crafted);
        assert_eq!(found, [7]);
        assert!(in_vain <= VAIN_BYTES + crafted.len() as u64, "{in_vain}");
    }
}
