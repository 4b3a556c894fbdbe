//! The line views: the output of `trace`, `life`, `rates`, `hist`, `ls` and `doctor`, as text, JSON or CSV.
//!
//! A view gets events, or what was taken before, and writes; it knows neither the kernel nor the command line. [`mod@format`] has
//! how values are written, [`books`] the end that all views share.

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

pub mod books;
pub mod doctor;
pub mod format;
pub mod hist;
pub mod life;
pub mod ls;
mod order;
pub mod rates;
pub mod trace;
