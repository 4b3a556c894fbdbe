//! An output whose reader may stop reading: a pipe, a FIFO, a socket or a terminal.
//!
//! A write waits for the reader, as long as it takes; but when the run has been told to end, and the reader takes
//! nothing, it fails (`ending`). A file or a device is written like any other.

use std::{
    io::{self, IsTerminal as _, Write},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FileType, Mode, OFlags, fstat},
    io::Errno,
    time::Timespec,
};

use super::ending;

/// The most bytes that a pipe or a socket with any room takes without waiting: a page, which is 4 KiB or more.
const PIECE: usize = 4096;

/// The time after which a write that waits asks whether the run has been told to end, nanoseconds.
const RECHECK_NS: i64 = 50_000_000;

/// The output.
pub struct Stream {
    output: Output,
    /// Whether a write of it might wait in the kernel for the reader, and has to ask first.
    asks: bool,
    written_bytes: u64,
}

enum Output {
    Own(OwnedFd),
    Standard(BorrowedFd<'static>),
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(fd) => fd.as_fd(),
            Self::Standard(fd) => *fd,
        }
    }
}

impl Stream {
    /// Standard output.
    pub fn stdout() -> Self {
        Self::standard(rustix::stdio::stdout())
    }

    /// Standard error.
    pub fn stderr() -> Self {
        let fd = rustix::stdio::stderr();
        if fd.is_terminal() {
            return Self::standard(fd);
        }
        // It takes few bytes, which are not worth a descriptor.
        Self::new(Output::Standard(fd), true)
    }

    fn standard(fd: BorrowedFd<'static>) -> Self {
        let kind = fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let waits = fd.is_terminal() || matches!(kind, Ok(FileType::Fifo | FileType::Socket));
        // Its flags belong also to the processes that share it: opened again, it has its own.
        let again = waits.then(|| open(Path::new(&format!("/proc/self/fd/{}", fd.as_raw_fd()))));
        match again {
            Some(Ok(own)) => Self::new(Output::Own(own), false),
            // It is a socket, or somebody else's terminal.
            Some(Err(_)) => Self::new(Output::Standard(fd), true),
            None => Self::new(Output::Standard(fd), false),
        }
    }

    /// Opens an output that exists.
    ///
    /// *Errors:* [`io::ErrorKind::NotConnected`]: a FIFO that no program has open for reading.
    pub fn open(path: &Path) -> io::Result<Self> {
        match open(path) {
            Ok(own) => Ok(Self::new(Output::Own(own), false)),
            Err(Errno::NXIO) => Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "no program has it open for reading",
            )),
            Err(error) => Err(error.into()),
        }
    }

    const fn new(output: Output, asks: bool) -> Self {
        Self {
            output,
            asks,
            written_bytes: 0,
        }
    }

    /// Whether it takes bytes now, or within this time.
    fn is_ready(&self, within_ns: i64) -> bool {
        let within = Timespec {
            tv_sec: 0,
            tv_nsec: within_ns,
        };
        // An error is one of the write too, which reports it; a signal is looked for next.
        let mut asked = [PollFd::new(&self.output, PollFlags::OUT)];
        !matches!(poll(&mut asked, Some(&within)), Ok(0) | Err(Errno::INTR))
    }
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = bytes.get(..PIECE).filter(|_| self.asks).unwrap_or(bytes);
        let mut since_ns = None;
        loop {
            if !self.asks || self.is_ready(0) {
                match rustix::io::write(&self.output, piece) {
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    written => {
                        let written = written?;
                        self.written_bytes += written as u64;
                        return Ok(written);
                    }
                }
            }
            let since_ns = *since_ns.get_or_insert_with(ending::now_ns);
            self.is_ready(RECHECK_NS);
            if ending::gives_up(since_ns) {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!(
                        "its reader does not read on; the first {} bytes were written, the rest is lost",
                        self.written_bytes
                    ),
                ));
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
