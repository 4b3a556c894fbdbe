//! Arguments of `tcpstate hist`.

use std::time::Duration;

use clap::Args;
use tcpstate_core::{
    expression::Moment,
    filter::{CauseSet, StateSet},
    model::By,
    options::HistogramOf,
};

use crate::{
    bounds::Bounds,
    choice::{Choices, choice},
    conflict::Conflict,
    expression::language_of,
    grouping::Grouping,
    headings::{FILTERS, OUTPUT},
    listed::listed,
    quantity::parse_interval,
    watch::Watch,
};

/// Arguments of `tcpstate hist`.
#[derive(Debug, Args)]
pub struct Hist {
    #[command(flatten)]
    pub watch: Watch,
    /// Subject of the histograms
    #[arg(long, value_name = "WHAT", default_value = "dwell", value_parser = choice(OF), help_heading = OUTPUT)]
    pub of: HistogramOf,
    /// Print and start over after each interval of this length, such as 500ms, 1s or 5m
    #[arg(long, value_name = "TIME", value_parser = parse_interval, help_heading = OUTPUT)]
    pub interval: Option<Duration>,
    #[command(flatten)]
    pub grouping: Grouping,
    /// Only these states.
    #[arg(
        long,
        value_name = "LIST",
        value_parser = listed::<StateSet>(StateSet::words),
        hide_possible_values = true,
        help_heading = FILTERS,
        help = "Only these states, such as CLOSE_WAIT,LAST_ACK; with --of transitions, only transitions \
            from or to one of them"
    )]
    pub state: Option<StateSet>,
    /// With --of lifetime, only connections that ended for one of these causes.
    #[arg(
        long,
        value_name = "LIST",
        value_parser = listed::<CauseSet>(CauseSet::words),
        hide_possible_values = true,
        help_heading = FILTERS,
        help = "With --of lifetime, only connections that ended for one of these causes, such as \
            reset_by_peer,timed_out"
    )]
    pub cause: Option<CauseSet>,
    #[command(flatten)]
    pub bounds: Bounds,
}

impl Hist {
    /// Refuses states and causes where the histograms have none. clap cannot express that.
    pub(crate) fn check(&self) -> Result<(), Conflict> {
        if self.cause.is_some() && self.of != HistogramOf::Lifetime {
            return Err(Conflict(
                "--cause requires --of lifetime: it selects whole connections".to_owned(),
            ));
        }
        if self.grouping.by == By::Cause
            && !matches!(self.of, HistogramOf::Lifetime | HistogramOf::Transitions)
        {
            return Err(Conflict(
                "--by cause requires --of lifetime or --of transitions: until a connection ends, it has no cause"
                    .to_owned(),
            ));
        }
        let of = match self.of {
            HistogramOf::Lifetime => "lifetime",
            HistogramOf::Handshake => "handshake",
            HistogramOf::Dwell | HistogramOf::Transitions => return Ok(()),
        };
        if self.state.is_none() {
            return Ok(());
        }
        Err(Conflict(format!(
            "--state cannot be used with --of {of}: a {of} does not belong to one state"
        )))
    }
}

const OF: Choices<HistogramOf> = &[
    (HistogramOf::Dwell, "dwell", "Time in each state"),
    (
        HistogramOf::Lifetime,
        "lifetime",
        "Time from a connection's first transition to its last",
    ),
    (
        HistogramOf::Handshake,
        "handshake",
        "Time until established; for a server, the first round-trip time",
    ),
    (
        HistogramOf::Transitions,
        "transitions",
        "How often each transition happened",
    ),
];

pub(crate) const ABOUT: &str = "\
Prints, at the end of the run, histograms of the time that connections spent in each state: one per \
state, service port and role, the busiest port first. The service port is the server's port, local or \
remote. --by groups them by another property than port and role.

A time counts when it is over: no histogram includes the state that a connection is still in. \
Percentiles are within 1 % from 1 microsecond to 1 day; max is exact. Each row of the chart spans a \
power of two; JSON buckets are 128 times as fine.

A server's handshake is over before its connection has a socket, so --of handshake shows the first \
round-trip time that the kernel measured instead.";

/// The language of filters, and examples.
pub(crate) fn epilogue() -> String {
    language_of(Moment::Always) + "\n" + EXAMPLES
}

const EXAMPLES: &str = "\
Examples:
  tcpstate hist --duration 1m                     a minute of everything
  tcpstate hist -P 443 --state ESTABLISHED        time established on port 443
  tcpstate hist --of handshake --role client      time to connect, by port
  tcpstate hist --of lifetime --cause timed_out   time until a timeout
  tcpstate hist --by comm --state CLOSE_WAIT      how soon each program closes
  tcpstate hist dst 10.0.0.0/8 role client        to the servers of one net
  tcpstate hist --of transitions --interval 5s    transitions, every 5 seconds
  tcpstate hist -r FILE --json | jq -c 'select(.of) | [.state, .p99_ns]'";

#[cfg(test)]
mod tests {
    use clap::{Parser as _, error::ErrorKind};

    use super::*;
    use crate::{Cli, Command};

    fn hist(arguments: &[&str]) -> Result<Hist, clap::Error> {
        let words = ["tcpstate", "hist"].iter().chain(arguments);
        Cli::try_parse_from(words)
            .and_then(Cli::checked)
            .map(|cli| match cli.command {
                Command::Hist(hist) => hist,
                _ => unreachable!("the words say hist"),
            })
    }

    #[test]
    fn histograms_without_states_refuse_a_selection_by_state() {
        for of in ["lifetime", "handshake"] {
            assert!(hist(&["--of", of]).is_ok());
            let error = hist(&["--of", of, "--state", "CLOSE_WAIT"]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ArgumentConflict);
        }
        assert!(hist(&["--of", "transitions", "--state", "CLOSE_WAIT"]).is_ok());
    }

    #[test]
    fn only_lifetimes_are_selected_by_cause() {
        let lifetimes = hist(&["--of", "lifetime", "--cause", "fin,refused"]).unwrap();
        assert!(lifetimes.cause.is_some());
        for of in ["dwell", "handshake", "transitions"] {
            let error = hist(&["--of", of, "--cause", "fin"]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ArgumentConflict);
        }
    }

    #[test]
    fn only_what_ends_is_grouped_by_cause() {
        for of in ["lifetime", "transitions"] {
            assert!(hist(&["--by", "cause", "--of", of]).is_ok(), "{of}");
        }
        for of in ["dwell", "handshake"] {
            let error = hist(&["--by", "cause", "--of", of]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ArgumentConflict, "{of}");
        }
        for by in [
            "comm",
            "pid",
            "cgroup",
            "unit",
            "container",
            "pod",
            "netns",
            "raddr",
            "role",
        ] {
            assert!(hist(&["--by", by]).is_ok(), "{by}");
        }
    }

    #[test]
    fn a_count_requires_an_interval() {
        assert_eq!(
            hist(&["--count", "3"]).unwrap_err().kind(),
            ErrorKind::MissingRequiredArgument
        );
        let hist = hist(&["--count", "3", "--interval", "1s"]).unwrap();
        assert_eq!(hist.watch.count, Some(3));
    }

    #[test]
    fn too_short_intervals_are_refused() {
        for interval in ["1ns", "9999us"] {
            let error = hist(&["--interval", interval]).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let message = error.to_string();
            assert!(message.contains("cannot be shorter than 10ms"), "{message}");
        }
        assert!(hist(&["--interval", "10ms"]).is_ok());
    }
}
