//! Recordings: the format, writing, reading.

mod by_document;
mod format;
mod names;
mod places;
mod read;
#[path = "../../../tests/support/stream.rs"]
mod stream;
mod whole;
mod write;
