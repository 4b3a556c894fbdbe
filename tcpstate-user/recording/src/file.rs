//! A file that is read in several places, each with a position of its own.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
    sync::Arc,
};

/// The bytes of a file from an offset on. The file's own position is neither used nor changed: a thread that still
/// reads elsewhere in it does no harm.
pub(crate) struct FileFrom {
    file: Arc<File>,
    offset: u64,
}

impl FileFrom {
    pub(crate) const fn new(file: Arc<File>, offset: u64) -> Self {
        Self { file, offset }
    }
}

impl Read for FileFrom {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(bytes, self.offset)?;
        self.offset = self.offset.saturating_add(read as u64);
        Ok(read)
    }
}
