//! Arguments of every command that watches.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use tcpstate_core::options::Format;

use crate::{
    capture::Capture,
    headings::{FILTERS, OUTPUT},
    part_args::PartArgs,
    quantity::parse_duration,
    sockets::Sockets,
};

/// Arguments that all commands that watch have in common.
#[derive(Debug, Args)]
pub struct Watch {
    /// Read a recording or a packet capture instead of the live kernel; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub read: Option<PathBuf>,
    #[command(flatten)]
    pub part: PartArgs,
    /// End after this time, such as 500ms, 10s, 5m or 1h; a plain number is seconds
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// End after this many lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Report on standard error how the capture was set up and, at the end, the books in full and the cost
    #[arg(short, long)]
    pub verbose: bool,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub sockets: Sockets,
    #[command(flatten)]
    pub capture: Capture,
    /// Print which part of the filter the kernel decides and which is left to user space, then end
    #[arg(long, help_heading = FILTERS)]
    pub explain_filter: bool,
    /// Only sockets for which this is true, in the language of ss(8): see below
    #[arg(value_name = "FILTER", help_heading = FILTERS)]
    pub expression: Vec<String>,
}

/// The output format, and whether it comes alone.
#[derive(Clone, Copy, Debug, Args)]
pub struct Output {
    /// Write JSON, one object per line
    #[arg(long, conflicts_with = "csv", help_heading = OUTPUT)]
    pub json: bool,
    /// Write CSV with a header line
    #[arg(long, help_heading = OUTPUT)]
    pub csv: bool,
    /// Write no notes and no summary on standard error, unless something is lost or wrong
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
}

impl Output {
    /// The chosen format.
    pub const fn format(self) -> Format {
        match self {
            Self { json: true, .. } => Format::Json,
            Self { csv: true, .. } => Format::Csv,
            Self { .. } => Format::Text,
        }
    }
}
