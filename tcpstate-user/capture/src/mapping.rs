//! BPF maps as memory.

use std::{io, os::fd::BorrowedFd, ptr::NonNull, sync::atomic::AtomicU32};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Memory of a BPF map, shared with the kernel; the mapping is undone when this is dropped.
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes of a map, from an offset that is a multiple of the page size.
    pub(super) fn new(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        prot: ProtFlags,
    ) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                prot,
                MapFlags::SHARED,
                fd,
                offset,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, len })
    }

    /// Other memory in the role of a mapping. Must not be dropped, unless `munmap` may undo it.
    #[cfg(test)]
    pub(super) const fn of(start: NonNull<u8>, len: usize) -> Self {
        Self { start, len }
    }

    /// The mapping as 32-bit words, without a partial one at the end.
    pub(super) const fn words(&self) -> &[AtomicU32] {
        // SAFETY: the mapping begins at a page, is of this length, and lives as long as `self`; both sides
        // read and write it in whole words.
        unsafe {
            std::slice::from_raw_parts(
                self.start.as_ptr().cast(),
                self.len / size_of::<AtomicU32>(),
            )
        }
    }

    /// Its first byte.
    pub(super) const fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this length, and nothing borrows from it any more. It
        // cannot fail for a whole mapping; if it did, the memory would stay mapped.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}
