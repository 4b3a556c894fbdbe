//! The consumer of a BPF ring buffer.
//!
//! It maps the ring itself instead of using the loader's reader, for two reasons: it publishes the consumer
//! position once per batch instead of once per record, and it sees how many bytes wait in the ring, including
//! records still being written, which the reader needs to know before it sleeps.
//!
//! *Source:* `kernel/bpf/ringbuf.c`; the layout is described in `Documentation/bpf/ringbuf.rst`: one
//! page with the consumer's position, one with the producer's, then the data, mapped twice in a row
//! so that a record never wraps.

use std::{
    io,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use rustix::mm::ProtFlags;

use super::mapping::Mapping;

/// Bit 31 of a record's length: it is still being written.
const BUSY: u32 = 1 << 31;
/// Bit 30 of a record's length: it was discarded.
const DISCARD: u32 = 1 << 30;
/// Bytes before each record: its length and an offset for the kernel's own use.
const HEADER: usize = 8;

/// The consumer's end of a BPF ring buffer.
pub struct Ring {
    consumer: Mapping,
    producer: Mapping,
    page_bytes: usize,
    /// Size of the ring; a power of two.
    bytes: usize,
    /// The position up to which we have read, published or not.
    position: u64,
    high_water_bytes: u64,
    /// The same of the latest drain.
    found_bytes: u64,
}

// SAFETY: the mappings belong to this value alone, and they may be used from any one thread.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps the ring buffer map `fd` of `ring_bytes` bytes.
    pub fn new(fd: BorrowedFd<'_>, ring_bytes: u32) -> io::Result<Self> {
        let page_bytes = rustix::param::page_size();
        let consumer = Mapping::new(fd, 0, page_bytes, ProtFlags::READ | ProtFlags::WRITE)?;
        let len = page_bytes + 2 * ring_bytes as usize;
        let producer = Mapping::new(fd, page_bytes as u64, len, ProtFlags::READ)?;
        let mut ring = Self {
            consumer,
            producer,
            page_bytes,
            bytes: ring_bytes as usize,
            position: 0,
            high_water_bytes: 0,
            found_bytes: 0,
        };
        ring.position = ring.consumer_position().load(Ordering::Acquire);
        Ok(ring)
    }

    fn consumer_position(&self) -> &AtomicU64 {
        // SAFETY: the mapping is page-aligned, at least 8 bytes long, lives as long as `self`, and
        // both sides use it atomically.
        unsafe { self.consumer.start().cast().as_ref() }
    }

    fn producer_position(&self) -> u64 {
        // SAFETY: as for the consumer's position; the kernel writes it atomically.
        let position: &AtomicU64 = unsafe { self.producer.start().cast().as_ref() };
        position.load(Ordering::Acquire)
    }

    /// The number of bytes that the kernel has written since the ring was made, up to which it has been read.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Bytes in the ring that have not been read, records still being written included.
    pub fn waiting_bytes(&self) -> u64 {
        self.producer_position().wrapping_sub(self.position)
    }

    /// The most bytes that [`Ring::drain`] has found waiting.
    pub const fn high_water_bytes(&self) -> u64 {
        self.high_water_bytes
    }

    /// The bytes that the latest [`Ring::drain`] has found waiting.
    pub const fn found_bytes(&self) -> u64 {
        self.found_bytes
    }

    /// Calls `each` with the bytes of every finished record, `max` at most, and gives their room
    /// back to the kernel. Returns how many there were.
    pub fn drain(&mut self, max: usize, mut each: impl FnMut(&[u8])) -> usize {
        let producer = self.producer_position();
        self.found_bytes = producer.wrapping_sub(self.position);
        self.high_water_bytes = self.high_water_bytes.max(self.found_bytes);
        let start = self.position;
        // A reader that is behind frees space in steps, so that the kernel need not wait for a whole batch.
        let step = self.bytes as u64 / 8;
        let mut published = start;
        let mut records = 0;
        while self.position != producer && records < max {
            let Some(length) = self.length_at(self.position) else {
                break;
            };
            if length & DISCARD == 0 {
                each(self.payload_at(self.position, length as usize));
                records += 1;
            }
            let length = u64::from(length & !DISCARD);
            self.position += (HEADER as u64 + length).next_multiple_of(8);
            if self.position - published > step {
                self.consumer_position()
                    .store(self.position, Ordering::Release);
                published = self.position;
            }
        }
        if self.position != published {
            // The kernel reads it with acquire before it writes over what we have read.
            self.consumer_position()
                .store(self.position, Ordering::Release);
        }
        records
    }

    /// The length and the discard bit of the record at `position`; `None` while it is being written.
    fn length_at(&self, position: u64) -> Option<u32> {
        // SAFETY: `offset` is inside the data and a multiple of 8; the kernel writes the header
        // atomically, with release once the record is complete.
        let header: &AtomicU32 = unsafe { self.data(position).cast().as_ref() };
        let length = header.load(Ordering::Acquire);
        (length & BUSY == 0).then_some(length)
    }

    fn payload_at(&self, position: u64, length: usize) -> &[u8] {
        // No record is longer than the ring; the second mapping holds what goes past its end.
        let length = length.min(self.bytes - HEADER);
        // SAFETY: the header and the payload lie in the two mappings of the data.
        let payload = unsafe { self.data(position).add(HEADER) };
        // SAFETY: the data is mapped twice in a row, so `length` bytes from any position in the
        // first mapping are mapped; the kernel leaves them alone until we publish a position beyond.
        unsafe { std::slice::from_raw_parts(payload.as_ptr(), length) }
    }

    fn data(&self, position: u64) -> NonNull<u8> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the low bits are what is wanted"
        )]
        let offset = self.page_bytes + (position as usize & (self.bytes - 1));
        // SAFETY: below the end of the first of the two data mappings.
        unsafe { self.producer.start().add(offset) }
    }
}
