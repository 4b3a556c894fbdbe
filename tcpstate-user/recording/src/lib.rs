//! Recordings: the event stream in a file, for any view to read again (`-r FILE`).
//!
//! The format is in `docs/recording-format.md`. Blocks with their own checksums, so that a file that
//! was cut or damaged anywhere gives all that is whole; the capture's books at the end.
//!
//! - [`Writer`] writes one file, or a rotation of them.
//! - [`FlightRing`] keeps the last minutes in memory and writes them when asked.
//! - [`Reader`] is a source of events.
//!
//! Knows neither the kernel nor views, and no clock: the times of the events are its time.

// Bad input is counted or reported; it never ends the process.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unwrap_used
    )
)]

mod block;
mod flight;
mod header;
mod names;
mod output;
mod packing;
mod reader;
mod scan;
mod writer;

#[cfg(fuzzing)]
pub use self::reader::read_in_place;
pub use self::{
    block::MAX_BLOCK_RECORDS,
    flight::{FlightOptions, FlightRing},
    header::{MAGIC, VERSION},
    output::{WriteError, are_same_file},
    reader::{ReadError, Reader},
    writer::{Options, Room, Writer, Written},
};
