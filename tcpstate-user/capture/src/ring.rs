//! The consumer of a BPF ring buffer.
//!
//! It maps the ring itself instead of using the loader's reader, for two reasons: it publishes the consumer
//! position once per batch instead of once per record, and it sees how many bytes wait in the ring, including
//! records still being written, which the reader needs to know before it sleeps.
//!
//! *Source:* `kernel/bpf/ringbuf.c`; the layout is described in `Documentation/bpf/ringbuf.rst`: one
//! page with the consumer's position, one with the producer's, then the data, mapped twice in a row
//! so that a record never wraps.
//!
//! # Memory ordering
//!
//! Three words are shared, and each pair of a store with release and a load with acquire orders what the other words
//! and the bytes of the records, which are plain memory, must not overtake. On `x86_64` the processor itself keeps loads in
//! order, and stores; on arm64 these pairs alone keep a record whole.
//!
//! - *The producer's position.* `__bpf_ringbuf_reserve` writes the length of a record with its busy bit, and then
//!   publishes the position beyond: `smp_store_release(&rb->producer_pos, new_prod_pos)`, which "pairs with consumer's
//!   `smp_load_acquire()`", ours in `producer_position`. So below that position no length is one of an earlier round.
//! - *A record's length.* `bpf_ringbuf_commit` takes the busy bit away by `xchg(&hdr->len, new_len)`, in the kernel a
//!   full barrier: "update record header with correct final size prefix". The load with acquire in `length_at` pairs with
//!   it. So a record that is not busy has all its bytes.
//! - *The consumer's position.* `publish` stores it with release after the bytes were read;
//!   `__bpf_ringbuf_reserve` reads it by `smp_load_acquire(&rb->consumer_pos)` before it gives the room away. So the next
//!   round does not write into bytes that are still being read.
//!
//! Nothing else is needed: a position that is read too early is too small, on either side, which costs a record until
//! the next drain, or the kernel some room for a moment. The kernel has the same protocol as litmus tests, which its
//! memory model decides (`Documentation/litmus-tests/bpf-rb/`); here Miri does (`cargo xtask miri`), which reports any
//! read of the records' bytes that no such pair orders.

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
        Ok(Self::of(
            consumer,
            producer,
            page_bytes,
            ring_bytes as usize,
        ))
    }

    fn of(consumer: Mapping, producer: Mapping, page_bytes: usize, bytes: usize) -> Self {
        let mut ring = Self {
            consumer,
            producer,
            page_bytes,
            bytes,
            position: 0,
            high_water_bytes: 0,
            found_bytes: 0,
        };
        // Written by consumers alone: the one before this.
        ring.position = ring.consumer_position().load(Ordering::Acquire);
        ring
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

    /// Gives the room up to our position back to the kernel.
    fn publish(&self) {
        self.consumer_position()
            .store(self.position, Ordering::Release);
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
                self.publish();
                published = self.position;
            }
        }
        if self.position != published {
            self.publish();
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

#[cfg(test)]
mod tests {
    use std::{mem::ManuallyDrop, thread};

    use super::*;

    const PAGE: usize = 4096;
    /// Room for four records, so that each round follows closely on the one before.
    const BYTES: usize = 4 * RECORD;
    const RECORD: usize = 32;
    /// The words of a record behind its header.
    const WORDS: usize = (RECORD - HEADER) / size_of::<u64>();
    const RECORDS: u64 = if cfg!(miri) { 200 } else { 50_000 };

    /// The memory of a ring: its two positions, and its data.
    #[derive(Clone, Copy)]
    struct Memory(NonNull<u8>);

    // SAFETY: the threads share the memory as the protocol under test says.
    unsafe impl Send for Memory {}

    impl Memory {
        fn at(self, offset: usize) -> NonNull<u8> {
            // SAFETY: every offset here is inside the memory, because the size of a record divides the ring's.
            unsafe { self.0.add(offset) }
        }

        /// A word of the positions, in the kernel's role.
        fn position<'a>(self, offset: usize) -> &'a AtomicU64 {
            // SAFETY: aligned, and freed at the test's end; both sides use it atomically.
            unsafe { self.at(offset).cast().as_ref() }
        }

        /// Writes a record in the kernel's role, once there is room: `__bpf_ringbuf_reserve` and `bpf_ringbuf_commit`.
        fn produce(self, number: u64) {
            let (consumer, producer) = (self.position(0), self.position(PAGE));
            let begin = producer.load(Ordering::Relaxed);
            while begin + RECORD as u64 - consumer.load(Ordering::Acquire) > BYTES as u64 {
                thread::yield_now();
            }
            let record = 2 * PAGE + usize::try_from(begin).unwrap() % BYTES;
            // SAFETY: aligned, and freed at the test's end; both sides use it atomically.
            let length: &AtomicU32 = unsafe { self.at(record).cast().as_ref() };
            let bytes = u32::try_from(RECORD - HEADER).unwrap();
            length.store(bytes | BUSY, Ordering::Relaxed);
            producer.store(begin + RECORD as u64, Ordering::Release);
            for word in 0..WORDS {
                let place = self.at(record + HEADER + word * size_of::<u64>()).cast();
                // SAFETY: aligned, and inside the record, which is the producer's until it is committed.
                unsafe { place.write(number) };
            }
            let discard = if number.is_multiple_of(5) { DISCARD } else { 0 };
            length.swap(bytes | discard, Ordering::AcqRel);
        }
    }

    /// A thread in the kernel's role, and the ring. Any processor and compiler may run it; Miri also finds an order that
    /// neither of these happens to need, since it reports plain memory that two threads use without a pair of release
    /// and acquire in between.
    #[test]
    fn records_are_whole_and_in_order_beside_a_producer() {
        let mut words = vec![0_u64; (2 * PAGE + 2 * BYTES) / size_of::<u64>()];
        let memory = Memory(NonNull::from(words.as_mut_slice()).cast());
        let consumer = Mapping::of(memory.at(0), PAGE);
        let producer = Mapping::of(memory.at(PAGE), PAGE + 2 * BYTES);
        // Its mappings would unmap memory of the allocator.
        let mut ring = ManuallyDrop::new(Ring::of(consumer, producer, PAGE, BYTES));
        let kernel = thread::spawn(move || {
            let memory = memory;
            for number in 1..=RECORDS {
                memory.produce(number);
            }
        });
        let mut expected = (1..=RECORDS).filter(|number| !number.is_multiple_of(5));
        let mut left = RECORDS - RECORDS / 5;
        while left > 0 {
            let records = ring.drain(usize::MAX, |bytes| {
                let number = expected.next().unwrap().to_ne_bytes();
                assert_eq!(bytes, number.repeat(WORDS));
            });
            left -= records as u64;
            if records == 0 {
                thread::yield_now();
            }
        }
        kernel.join().unwrap();
        assert_eq!(expected.next(), None);
    }
}
