//! Recordings: the event stream in a file, from which any view can read it again (`-r FILE`).
//!
//! `docs/recording-format.md` describes the format: blocks with checksums of their own, so that a file that
//! was cut or damaged anywhere gives all of its whole blocks, and the capture's books at the end.
//!
//! - [`Writer`] writes one file, or a rotation of them.
//! - [`FlightRing`] keeps the last minutes in memory and writes them on request.
//! - [`Reader`] is a source of events.
//!
//! Nothing here knows the kernel, views or a clock: time is that of the events.

// Bad input is counted or reported; it never ends the process.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::string_slice,
        clippy::unwrap_used
    )
)]

mod block;
mod census;
mod file;
mod flight;
mod header;
mod look;
mod memory;
mod names;
mod output;
mod packing;
mod reader;
mod scan;
mod writer;

pub use self::{
    block::MAX_BLOCK_RECORDS,
    flight::{FlightOptions, FlightRing},
    header::{HeaderError, MAGIC, VERSION},
    look::{end_of, has_several_netns},
    output::{OpenStream, Stream, WriteError, overwrites},
    reader::{ReadError, Reader},
    writer::{Options, Room, Writer, Written},
};
