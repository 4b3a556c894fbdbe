//! Standard output with large writes, and a notification when its reader has closed it.

use std::{
    future::{Future, pending},
    io::{self, BufWriter, IsTerminal},
};

use rustix::{
    fs::{FileType, fstat},
    stdio::stdout,
};
use tcpstate_core::outlet::Outlet;
use tcpstate_text::format::text::wants_colour;
use tokio::io::{Interest, unix::AsyncFd};

use super::stream::Stream;

/// Size of the write buffer.
const BUFFER: usize = 64 << 10;

/// Opens standard output without the line buffer of the standard library, which would cost a system call
/// per line. Nothing harmful passes it.
pub fn open() -> Outlet<BufWriter<Stream>> {
    let styled = wants_colour(&stdout());
    Outlet::new(BufWriter::with_capacity(BUFFER, Stream::stdout()), styled)
}

/// Whether standard output is a terminal.
pub fn is_terminal() -> bool {
    stdout().is_terminal()
}

/// The columns of the terminal that standard output is; `None` if it is none.
pub fn width() -> Option<usize> {
    /// Of a terminal that does not say.
    const USUAL: usize = 80;
    let size = rustix::termios::tcgetwinsize(stdout()).ok()?;
    Some(match size.ws_col {
        0 => USUAL,
        columns => columns.into(),
    })
}

/// Completes when standard output is a pipe or a socket whose reader has closed it; otherwise never.
///
/// A write would fail too, but on a quiet host the next write may be far away: so `tcpstate trace | head
/// -3` ends when `head` does.
///
/// *Errors:* the operating system refuses to watch it, or the caller is not inside a runtime.
pub fn reader_gone() -> io::Result<impl Future<Output = ()> + 'static> {
    let fd = stdout().try_clone_to_owned()?;
    let kind = FileType::from_raw_mode(fstat(&fd)?.st_mode);
    let watched = if matches!(kind, FileType::Fifo | FileType::Socket) {
        // SAFETY: the `AsyncFd` is the only owner of the `OwnedFd`, which stays open and unchanged until it
        // is dropped.
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
