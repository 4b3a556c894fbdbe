//! The packets of a capture, from a stream of bytes: pcap and pcapng, perhaps compressed.
//!
//! Total: any bytes give packets, notices and an end, or a [`FormatError`] before the first packet. Only the stream
//! itself can fail. The memory is bounded for any file.
//!
//! The parser is ours. Of the kept libraries, pcap-parser 0.17 takes no time resolution that is a power of two, reads
//! `if_tsoffset` as little-endian in every section, knows no byte-swapped modified pcap and no obsolete packet
//! block, and allocates for each packet that has options (`pcapng/time.rs`, `pcap/header.rs`, `pcapng/block.rs` there).

mod pcap;
mod pcapng;

use std::{
    io::{self, Read},
    time::Duration,
};

use tcpstate_core::source::Notice;

use crate::window::Window;

/// The largest record or block that is taken for one, bytes. The largest packets of Linux (BIG TCP) have 512 KiB.
const MAX_BLOCK: usize = 16 << 20;

/// Damaged places that are reported one by one; further ones are counted.
const NAMED_PLACES: u64 = 20;

/// One packet of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Its number, from 1 on.
    pub number: u64,
    /// When it was captured: nanoseconds since 1970. Of a packet without a time, that of the one before.
    pub time_ns: u64,
    /// The kind of its first header, as `LINKTYPE_` numbers it.
    pub link: u16,
    /// Its length on the wire, bytes; at least as long as `bytes`.
    pub wire_len: u32,
    /// As much of it as was captured.
    pub bytes: &'a [u8],
}

/// The reason why a stream is no capture that can be read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It has no bytes.
    #[error("is empty")]
    Empty,
    /// Its first bytes are not those of a format that is known.
    #[error("is no packet capture (neither pcap nor pcapng)")]
    Magic,
    /// It ends within its header.
    #[error("ends within its header")]
    Header,
}

/// Where a packet is in the window, and the facts about it.
#[derive(Clone, Copy)]
struct Place {
    time_ns: u64,
    link: u16,
    wire_len: u32,
    /// Bytes before it that belong to its record.
    skip: usize,
    captured: usize,
    /// Length of its record or block.
    record: usize,
}

enum Format {
    Pcap(pcap::Header),
    Pcapng(pcapng::Section),
}

/// The result of looking for the next packet.
enum Next {
    Packet(Place),
    /// A block without a packet, of this length.
    Skip(u64),
    /// A block that is not as it should be; the next one can be found.
    Damaged(&'static str, u64),
    /// The stream ends here, or what comes cannot be told.
    End,
    /// It is cut or damaged here, for this reason.
    Stop(String),
}

/// The steps back in time from one packet to the next.
#[derive(Clone, Copy, Default)]
struct StepsBack {
    count: u64,
    /// The number of the packet after the longest one.
    longest_at: u64,
    longest_ns: u64,
}

impl StepsBack {
    #[cold]
    fn take(&mut self, number: u64, by_ns: u64) {
        self.count = self.count.saturating_add(1);
        if by_ns > self.longest_ns {
            (self.longest_at, self.longest_ns) = (number, by_ns);
        }
    }

    fn notice(self) -> Option<Notice> {
        let at = self.longest_at;
        let by = Duration::from_nanos(self.longest_ns).as_secs_f64();
        let text = match self.count {
            0 => return None,
            1 => format!("times go back at packet {at} by {by} s"),
            count => {
                format!("times go back at packet {at} by {by} s, the most of {count} such places")
            }
        };
        Some(Notice::new(text))
    }
}

/// The packets of a stream.
pub struct Packets<R> {
    window: Window<R>,
    format: Format,
    number: u64,
    last_ns: u64,
    steps_back: StepsBack,
    current: Option<Place>,
    notices: Vec<Notice>,
    damaged_places: u64,
    has_ended: bool,
}

/// Whether a file that begins with these bytes may be a capture: they are the magic of pcap or pcapng, or of what compresses
/// them.
pub fn is_capture(first: &[u8]) -> bool {
    pcap::Layout::of(first).is_some()
        || pcapng::is_section(first)
        || Compression::of(first).is_some()
}

/// The compressions that are known.
#[derive(Clone, Copy)]
enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    fn of(first: &[u8]) -> Option<Self> {
        match first {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Reads up to four bytes.
fn peek(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut first = Vec::with_capacity(4);
    stream.take(4).read_to_end(&mut first)?;
    Ok(first)
}

impl Packets<Box<dyn Read + Send>> {
    /// Reads a capture that may be compressed, which its first bytes tell.
    ///
    /// *Errors:* the stream fails; the inner error says that it is no capture.
    pub fn open(mut stream: impl Read + Send + 'static) -> io::Result<Result<Self, FormatError>> {
        let first = peek(&mut stream)?;
        let compression = Compression::of(&first);
        let stream = io::Cursor::new(first).chain(stream);
        Self::new(match compression {
            None => Box::new(stream),
            Some(Compression::Gzip) => Box::new(flate2::read::MultiGzDecoder::new(stream)),
            Some(Compression::Zstd) => Box::new(zstd::stream::read::Decoder::new(stream)?),
        })
    }
}

impl<R: Read> Packets<R> {
    /// Reads a capture that is not compressed.
    ///
    /// *Errors:* the stream fails; the inner error says that it is no capture.
    pub fn new(stream: R) -> io::Result<Result<Self, FormatError>> {
        let mut window = Window::new(stream);
        let format = match Self::header(&mut window) {
            Ok(Ok(format)) => format,
            Ok(Err(reason)) => return Ok(Err(reason)),
            Err(error) if is_cut(&error) => return Ok(Err(FormatError::Header)),
            Err(error) => return Err(error),
        };
        Ok(Ok(Self {
            window,
            format,
            number: 0,
            last_ns: 0,
            steps_back: StepsBack::default(),
            current: None,
            notices: Vec::new(),
            damaged_places: 0,
            has_ended: false,
        }))
    }

    fn header(window: &mut Window<R>) -> io::Result<Result<Format, FormatError>> {
        if !window.fill(4)? {
            return Ok(Err(if window.bytes().is_empty() {
                FormatError::Empty
            } else {
                FormatError::Magic
            }));
        }
        if pcapng::is_section(window.bytes()) {
            // The section's header is its first block.
            return Ok(Ok(Format::Pcapng(pcapng::Section::default())));
        }
        if pcap::Layout::of(window.bytes()).is_none() {
            return Ok(Err(FormatError::Magic));
        }
        window.fill(pcap::HEADER)?;
        let Some(header) = pcap::Header::parse(window.bytes()) else {
            return Ok(Err(FormatError::Header));
        };
        window.consume(pcap::HEADER);
        Ok(Ok(Format::Pcap(header)))
    }

    /// Goes to the next packet. Returns whether there is one; [`Packets::packet`] is then that.
    ///
    /// *Errors:* the stream fails.
    #[inline]
    pub fn advance(&mut self) -> io::Result<bool> {
        if let Some(place) = self.current.take() {
            self.window.consume(place.record);
        }
        while !self.has_ended {
            let next = match &mut self.format {
                Format::Pcap(header) => header.next(&mut self.window),
                Format::Pcapng(section) => section.next(&mut self.window, self.last_ns),
            };
            match next {
                Ok(Next::Packet(place)) => {
                    self.number = self.number.saturating_add(1);
                    if place.time_ns < self.last_ns {
                        let by_ns = self.last_ns - place.time_ns;
                        self.steps_back.take(self.number, by_ns);
                    }
                    self.last_ns = place.time_ns;
                    self.current = Some(place);
                    return Ok(true);
                }
                other => self.pass_over(other)?,
            }
        }
        Ok(false)
    }

    /// Handles whatever is no packet.
    #[cold]
    fn pass_over(&mut self, next: io::Result<Next>) -> io::Result<()> {
        match next {
            Ok(Next::Packet(_)) => {}
            Ok(Next::Skip(length)) => self.skip(length)?,
            Ok(Next::Damaged(reason, length)) => {
                self.damaged_places = self.damaged_places.saturating_add(1);
                if self.damaged_places <= NAMED_PLACES {
                    let offset = self.window.offset();
                    let text = format!("damaged at byte {offset}: {reason}; it is left out");
                    self.notices.push(Notice::damage(text));
                }
                self.skip(length)?;
            }
            Ok(Next::End) => self.end(None),
            Ok(Next::Stop(reason)) => self.end(Some(reason)),
            Err(error) if is_cut(&error) => {
                let read = self.window.offset();
                self.end(Some(format!(
                    "its compressed data is cut or damaged after {read} bytes of the capture"
                )));
            }
            Err(error) => {
                self.end(None);
                return Err(error);
            }
        }
        Ok(())
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        let offset = self.window.offset();
        match self.window.skip(length) {
            Ok(true) => {}
            Ok(false) => self.end(Some(cut(offset))),
            Err(error) => self.pass_over(Err(error))?,
        }
        Ok(())
    }

    fn end(&mut self, damage: Option<String>) {
        self.has_ended = true;
        self.notices.extend(damage.map(Notice::damage));
        self.notices.extend(self.steps_back.notice());
        let more = self.damaged_places.saturating_sub(NAMED_PLACES);
        if more > 0 {
            let text = format!("{more} more damaged places are left out");
            self.notices.push(Notice::damage(text));
        }
        if let Format::Pcapng(section) = &self.format {
            let dropped = section.dropped();
            if dropped > 0 {
                let text = format!(
                    "whoever captured it says that {dropped} packets were dropped, so that changes may be missing"
                );
                self.notices.push(Notice::damage(text));
            }
        }
    }

    /// The packet that [`Packets::advance`] went to.
    #[inline]
    pub fn packet(&self) -> Option<Packet<'_>> {
        let place = self.current?;
        let bytes = self.window.bytes().get(place.skip..)?;
        Some(Packet {
            number: self.number,
            time_ns: place.time_ns,
            link: place.link,
            wire_len: place.wire_len,
            bytes: bytes.get(..place.captured)?,
        })
    }

    /// Whether the next packet is in memory, so that going to it does not wait for the stream; it may say no where one is.
    #[inline]
    pub fn has_more_at_hand(&self) -> bool {
        let used = self.current.map_or(0, |place| place.record);
        let rest = self.window.bytes().get(used..).unwrap_or_default();
        match &self.format {
            Format::Pcap(header) => header.is_whole(rest),
            Format::Pcapng(section) => section.is_whole(rest),
        }
    }

    /// The messages about it since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Bytes used so far, of the decompressed stream.
    pub const fn offset(&self) -> u64 {
        self.window.offset()
    }
}

/// Whether a stream's failure is that of compressed data, which says nothing about the disk.
fn is_cut(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
    ) || (error.kind() == io::ErrorKind::Other && error.raw_os_error().is_none())
}

/// The notice of a stream that ends within a record.
fn cut(offset: u64) -> String {
    format!("cut: what begins at byte {offset} is not all there; it is left out")
}

#[cfg(test)]
mod tests;
