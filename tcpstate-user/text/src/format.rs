//! The formats: text, JSON and CSV, times and units. Fields come from [`tcpstate_core::catalogue`].
//!
//! Nothing here knows a subcommand. In all formats:
//! - Unknown is `-` in text, `null` in JSON, empty in CSV; it is never 0.
//! - A port 0 is not an unknown one: the kernel has not chosen one (`CLOSE -> SYN_SENT`), or there is none
//!   (a listener's remote port). JSON and CSV carry the 0, so that they can be compared with the output of
//!   other tools; text, for people, shows `-`.
//! - An address is shown as the kernel has it, so `0.0.0.0` and `::` are possible; a v4-mapped one is
//!   shown as IPv4.
//! - Names that others chose (a process's `comm`) go through [`tcpstate_core::escape`]. In text a name that could be
//!   taken for a word of ours, or that ends in blanks, is in quotes.

pub mod bar;
pub mod csv;
pub mod json;
pub mod text;
pub mod time;
pub use tcpstate_core::units;
pub(crate) mod value;
