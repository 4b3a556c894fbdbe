//! The choice of the columns of text.

use clap::Args;

use crate::headings::OUTPUT;

/// The choice of the columns of text.
// No `next_help_heading`: it would also apply to the groups flattened after this one.
#[derive(Clone, Debug, Default, Args)]
pub struct ColumnArgs {
    /// Show all columns, whole.
    #[arg(
        long,
        help = "Show all columns, whole; otherwise a terminal shows those that have room, the most telling \
            first, and cuts long cells (`..`), and a pipe gets the usual ones, whole",
        help_heading = OUTPUT,
        conflicts_with_all = ["json", "csv", "columns"]
    )]
    pub wide: bool,
    /// Show these columns, whole, in this order.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        help = "Show these columns, whole, in this order: titles or fields of JSON, such as \
            pid,remote,cause; `--columns help` lists them",
        help_heading = OUTPUT,
        conflicts_with_all = ["json", "csv"]
    )]
    pub columns: Vec<String>,
}
