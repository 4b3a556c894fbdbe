//! Whether this process may open as many files as a run takes, asked before one begins: whoever meets
//! the limit later can only say what it was that it could not open.

use std::io;

use rustix::event::{EventfdFlags, eventfd};

/// Files that a run has open at most, and some to spare: maps, programs, the runtime's own.
const NEEDED: usize = 32;

/// There are not enough left.
#[derive(Debug, thiserror::Error)]
#[error(
    "this process cannot open the {NEEDED} files that a run takes; raise its limit: `ulimit -n 1024`"
)]
pub struct TooFewDescriptors(#[from] io::Error);

/// Opens as many, and closes them again.
pub fn check() -> Result<(), TooFewDescriptors> {
    // An eventfd: it needs no file system, and the reader of the ring will want one anyway.
    let open = |_| eventfd(0, EventfdFlags::CLOEXEC).map_err(io::Error::from);
    let opened = (0..NEEDED).map(open).collect::<io::Result<Vec<_>>>();
    Ok(opened.map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_may_open_as_many() {
        check().unwrap();
    }
}
