//! Packet captures as a source of events: the states of both ends of each connection, rebuilt from the packets.
//!
//! ```text
//! bytes ─> format::Packets ─> decode::decode ─> machine::Machine ─> events ─> source::Capture (an EventSource)
//! ```
//!
//! From the bottom up; a module uses only those above it:
//!
//! - `bytes`, `window`: numbers in bytes; a window into a stream.
//! - [`segment`]: the part of a packet that matters.
//! - [`mod@format`]: pcap and pcapng.
//! - [`decode`]: from a packet to its segment.
//! - [`machine`]: from segments to transitions.
//! - [`source`]: all of that as a source.

// Any bytes can be in a file.
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

mod bytes;
pub mod decode;
pub mod format;
pub mod machine;
pub mod segment;
pub mod source;
mod window;
#[cfg(test)]
mod written;
