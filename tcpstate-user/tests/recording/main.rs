//! Recordings: the format, writing, reading.

mod by_document;
mod format;
mod read;
mod stream;
mod whole;
mod write;
