//! The history before a file of a recording: the file may be a later one of a rotation, or hold the last minutes of
//! a flight recorder.

use crate::{census::Census, event::Event};

/// A part of what the capture had shown, before the file begins, of the sockets that were there then. It counts
/// nowhere and is shown nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// Events of these sockets, in the order of the stream.
    Events(Vec<Event>),
    /// Entries of these sockets in a census, which prove no end; or a namespace's last sample, without entries.
    Census(Box<Census>),
}
