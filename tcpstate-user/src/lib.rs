//! The library behind the binary `tcpstate`: the driver, the view that records, and the manners of a service.
//!
//! Everything else is in crates of its own: `tcpstate-core` (events, model, filters, contracts),
//! `tcpstate-capture` (the kernel), `tcpstate-recording` (event files), `tcpstate-text` (line views),
//! `tcpstate-cli` (the command line).
//!
//! ```text
//! capture ──┐
//! recording ┴─ EventSource ─> run ─> View ── text, recorder
//! ```

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

pub mod recorder;
pub mod run;
#[cfg(feature = "serve")]
pub mod sandbox;
#[cfg(test)]
#[path = "../tests/support/stream.rs"]
mod stream;
#[cfg(feature = "serve")]
pub mod systemd;
#[cfg(feature = "top")]
pub mod top;
