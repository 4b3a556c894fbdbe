//! A window into a stream of bytes, with its offset.

use std::io::{self, Read};

/// Bytes that are read from the stream at a time.
const READ_BYTES: usize = 256 * 1024;

/// The bytes of a stream that have been read and not been used.
pub(crate) struct Window<R> {
    stream: R,
    /// `buffer[start..end]` is not used yet.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset of `buffer[start]` in the stream.
    offset: u64,
    has_ended: bool,
}

impl<R: Read> Window<R> {
    pub(crate) const fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            offset: 0,
            has_ended: false,
        }
    }

    /// The offset of the first byte that is not used yet.
    pub(crate) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether `length` bytes are there without reading.
    #[inline]
    pub(crate) const fn has(&self, length: usize) -> bool {
        self.end - self.start >= length
    }

    /// The bytes that are there.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Whether `length` bytes are there; reads until they are, or the stream ends. It does not wait for a pipe beyond that.
    #[inline]
    pub(crate) fn fill(&mut self, length: usize) -> io::Result<bool> {
        if self.has(length) {
            return Ok(true);
        }
        self.read(length)
    }

    #[cold]
    fn read(&mut self, length: usize) -> io::Result<bool> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let wanted = length.max(READ_BYTES);
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        while !self.has(length) && !self.has_ended {
            let room = self.buffer.get_mut(self.end..).unwrap_or_default();
            match self.stream.read(room) {
                Ok(0) => self.has_ended = true,
                Ok(read) => self.end = self.end.saturating_add(read).min(self.buffer.len()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.has_ended = true;
                    return Err(error);
                }
            }
        }
        Ok(self.has(length))
    }

    /// Takes `length` bytes for used; at most those that are there.
    #[inline]
    pub(crate) fn consume(&mut self, length: usize) {
        let length = length.min(self.end - self.start);
        self.start += length;
        self.offset = self.offset.saturating_add(length as u64);
    }

    /// Passes over `length` bytes. Returns whether the stream had so many.
    pub(crate) fn skip(&mut self, mut length: u64) -> io::Result<bool> {
        while length > 0 {
            let there = (self.end - self.start) as u64;
            if there == 0 && !self.fill(1)? {
                return Ok(false);
            }
            let now = length.min((self.end - self.start) as u64);
            self.consume(usize::try_from(now).unwrap_or(usize::MAX));
            length -= now;
        }
        Ok(true)
    }
}
