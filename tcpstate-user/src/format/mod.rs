//! How things are written: text, JSON and CSV, times and units.
//!
//! Nothing here knows a subcommand. Unknown is `-` in text, `null` in JSON, empty in CSV.

pub mod units;
