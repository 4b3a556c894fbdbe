//! The files that somebody has named: read whole, and bounded.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

/// The most bytes of a file.
const MOST_BYTES: u64 = 1 << 20;

/// The contents of a file. A run must not wait for whoever writes to a pipe.
pub(crate) fn contents(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut contents = Vec::new();
    let file = File::open(path)?;
    file.take(MOST_BYTES + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > MOST_BYTES {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    Ok(contents)
}
