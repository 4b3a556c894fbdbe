//! Arguments of `tcpstate doctor`.

use clap::Args;

use crate::{
    headings::{CAPTURE, OUTPUT},
    quantity::parse_ring_bytes,
};

/// Arguments of `tcpstate doctor`.
#[derive(Clone, Copy, Debug, Args)]
pub struct Doctor {
    /// Write JSON, one object per line
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
    /// Size of the ring buffer to try, such as 64K or 8M: a power of two, at least one page
    #[arg(long, value_name = "N", default_value = "8M", value_parser = parse_ring_bytes, help_heading = CAPTURE)]
    pub ring_bytes: u32,
}

pub(crate) const ABOUT: &str = "\
Tests what this host allows: the kernel, its type information (BTF), privileges, tracefs, the ring \
buffer, sock_diag and both attach modes. Reports for each whether it works and, if not, what that costs \
and what to do.

Exit status: 0 if `tcpstate trace` can run here, otherwise 1.";
