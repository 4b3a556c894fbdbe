//! The library behind the binary `tcpstate`.
//!
//! ```text
//! capture ─┐
//! recording┼─ EventSource ─ run ─ View (uses model, format)
//! (pcap)  ─┘
//! ```
//!
//! - [`event`]: a record's bytes to an [`event::Event`]; pure.
//! - [`census`]: what asking for sockets found, as a part of the stream; pure.
//! - [`source`]: what every source of events offers.
//! - [`capture`]: everything that touches the kernel.
//! - [`recording`]: event files.
//! - [`filter`]: which events are wanted, decided on the event alone.
//! - [`model`]: connections, dwell times, rates; no I/O, no clock.
//! - [`run`]: the one loop that drives a source into a view.
//! - [`view`]: a file per subcommand.
//! - [`format`]: how things are written: text, JSON, CSV, units.

// Input is counted or reported, and never ends the process.
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

pub mod capture;
pub mod census;
pub mod cli;
pub mod event;
pub mod filter;
pub mod format;
pub mod model;
pub mod recording;
pub mod run;
pub mod source;
pub mod view;
