//! Standard output as a view wants it: large writes, and a word when its reader has gone.

use std::{
    fs::File,
    future::{Future, pending},
    io::{self, BufWriter, IsTerminal, Write},
    os::fd::AsFd,
};

use rustix::fs::{FileType, fstat};
use tokio::io::{Interest, unix::AsyncFd};

/// Bytes gathered before they are written.
const BUFFER: usize = 64 << 10;

/// Standard output without the line buffer of the standard library, which would cost a system call a
/// line.
pub fn open() -> io::Result<impl Write> {
    Ok(BufWriter::with_capacity(BUFFER, File::from(duplicate()?)))
}

/// Whether a person looks at it.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Ends when standard output is a pipe or a socket that nobody reads any more; else never.
///
/// A write would tell as well, but on a quiet host the next one is far away: `tcpstate trace | head
/// -3` ends when `head` does.
///
/// *Errors:* the operating system refuses to watch it, or this is not called inside a runtime.
pub fn reader_gone() -> io::Result<impl Future<Output = ()> + 'static> {
    let fd = duplicate()?;
    let kind = FileType::from_raw_mode(fstat(&fd)?.st_mode);
    let watched = if matches!(kind, FileType::Fifo | FileType::Socket) {
        // SAFETY: an `OwnedFd` that nobody else has stays open, and the same, until the `AsyncFd` that
        // owns it is dropped.
        Some(unsafe { AsyncFd::register_with_interest(fd, Interest::ERROR) }?)
    } else {
        None
    };
    Ok(async move {
        match &watched {
            Some(fd) if fd.ready(Interest::ERROR).await.is_ok() => {}
            _ => pending().await,
        }
    })
}

fn duplicate() -> io::Result<std::os::fd::OwnedFd> {
    io::stdout().as_fd().try_clone_to_owned()
}
