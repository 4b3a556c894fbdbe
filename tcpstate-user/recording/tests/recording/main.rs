//! Recordings: the format, writing, reading.

mod by_document;
mod crafted;
mod format;
mod names;
mod places;
mod read;
#[path = "../../../tests/support/repair.rs"]
mod repair;
mod seek;
#[path = "../../../tests/support/stream.rs"]
mod stream;
mod whole;
mod write;
