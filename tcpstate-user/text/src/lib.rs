//! The line views: the output of `trace` and its packets, `life`, `rates`, `hist`, `ls`, `explain`, `diagnose` and `doctor`, as text, JSON or CSV.
//!
//! A view takes events, or a listing, and writes; it knows neither the kernel nor the command line. The
//! fields of its records come from [`tcpstate_core::catalogue`]. [`mod@format`] writes values, [`books`] the
//! end that all views share.

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

pub mod books;
pub mod diagnose;
pub mod doctor;
pub mod explain;
pub mod format;
pub mod group;
pub mod hist;
pub mod life;
pub mod ls;
mod order;
pub mod packets;
pub mod printer;
pub mod rates;
pub mod settings;
pub mod trace;
