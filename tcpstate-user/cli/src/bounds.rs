//! The bounds of what is kept in memory.

use clap::Args;

use crate::headings::MEMORY;

/// The bounds of what is kept in memory, the same for every command that tracks connections.
// No `next_help_heading`: it would also apply to the groups flattened after this one.
#[derive(Clone, Copy, Debug, Args)]
pub struct Bounds {
    /// Keep at most this many open connections; those without a recent transition are evicted first
    #[arg(
        long,
        value_name = "N",
        help_heading = MEMORY,
        default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub max_connections: u32,
    /// Report at most this many service ports (or other groups, with --by) separately, the rest as `other`;
    /// no effect on trace and life
    #[arg(
        long,
        value_name = "N",
        help_heading = MEMORY,
        default_value_t = 1_024,
        value_parser = clap::value_parser!(u32).range(1..=16_384)
    )]
    pub max_ports: u32,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::{Cli, Command, Hist, Life, Rates, Trace};

    #[test]
    fn every_command_that_tracks_has_the_same_bounds() {
        let bounds = |words: &[&str]| match Cli::try_parse_from(words).unwrap().command {
            Command::Trace(Trace { bounds, .. })
            | Command::Life(Life { bounds, .. })
            | Command::Hist(Hist { bounds, .. })
            | Command::Rates(Rates { bounds, .. }) => (bounds.max_connections, bounds.max_ports),
            _ => unreachable!("the words say something else"),
        };
        for command in ["trace", "life", "hist", "rates"] {
            assert_eq!(bounds(&["tcpstate", command]), (1_000_000, 1_024));
            let words = ["tcpstate", command, "--max-connections=5", "--max-ports=2"];
            assert_eq!(bounds(&words), (5, 2));
        }
    }
}
