//! JSON, one object a line: records from the catalogue, and the last line.

mod nested;
mod records;
mod summary;
mod write;

pub use self::{records::Records, summary::Summary, write::Lines};
