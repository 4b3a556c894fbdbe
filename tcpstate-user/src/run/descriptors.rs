//! Checks before a run that this process may open the files that the run needs: an error later could name
//! only the file that was not opened.

use std::io;

use rustix::event::{EventfdFlags, eventfd};

/// The maximum number of open files of a run (maps, programs, those of the runtime), and a reserve.
const NEEDED: usize = 32;

/// Too few file descriptors are left.
#[derive(Debug, thiserror::Error)]
#[error(
    "this process cannot open the {NEEDED} files that a run takes; raise its limit: `ulimit -n 1024`"
)]
pub struct TooFewDescriptors(#[from] io::Error);

/// Opens the number of files that a run needs, and closes them.
pub fn check() -> Result<(), TooFewDescriptors> {
    // An eventfd needs no file system, and the reader of the ring needs one anyway.
    let open = |_| eventfd(0, EventfdFlags::CLOEXEC).map_err(io::Error::from);
    let opened = (0..NEEDED).map(open).collect::<io::Result<Vec<_>>>();
    Ok(opened.map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_may_open_enough_files() {
        check().unwrap();
    }
}
