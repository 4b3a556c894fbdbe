//! Standard error, for messages: nothing harmful passes.

use std::io::Write;

use tcpstate_core::outlet::Outlet;

use super::stream::Stream;

/// Opens it.
pub fn open() -> impl Write {
    Outlet::new(Stream::stderr(), false)
}
