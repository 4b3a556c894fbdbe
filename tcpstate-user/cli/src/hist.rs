//! Arguments of `tcpstate hist`.

use crate::choice::{Choices, choice};
use std::time::Duration;
use tcpstate_core::options::HistogramOf;

use clap::{Args, CommandFactory, error::ErrorKind};

use super::{Bounds, Cli, FILTERS, OUTPUT, Watch, interval};
use tcpstate_core::filter::{CauseSet, StateSet};

/// Arguments of `tcpstate hist`.
#[derive(Debug, Args)]
pub struct Hist {
    /// Histograms of what
    #[arg(long, value_name = "WHAT", default_value = "dwell", value_parser = choice(OF), help_heading = OUTPUT)]
    pub of: HistogramOf,
    /// Print every so often, and begin anew each time
    #[arg(long, value_name = "TIME", value_parser = interval, help_heading = OUTPUT)]
    pub interval: Option<Duration>,
    /// Only these states; transitions that leave or enter one of them.
    #[arg(
        long,
        value_name = "LIST",
        help_heading = FILTERS,
        help = "Only these states, such as CLOSE_WAIT,LAST_ACK; of transitions, those that leave or \
                enter one of them"
    )]
    pub state: Option<StateSet>,
    /// With --of lifetime: only connections that ended for one of these causes.
    #[arg(
        long,
        value_name = "LIST",
        help_heading = FILTERS,
        help = "With --of lifetime: only connections that ended for one of these causes, such as \
                refused,timed_out"
    )]
    pub cause: Option<CauseSet>,
    #[command(flatten)]
    pub bounds: Bounds,
    #[command(flatten)]
    pub watch: Watch,
}

impl Hist {
    /// Refuses what clap cannot: a choice of states or causes where there are none to choose from.
    pub fn check(&self) -> Result<(), clap::Error> {
        if self.cause.is_some() && self.of != HistogramOf::Lifetime {
            return Err(Cli::command().error(
                ErrorKind::ArgumentConflict,
                "--cause chooses whole connections, and only --of lifetime is of whole ones",
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
        Err(Cli::command().error(
            ErrorKind::ArgumentConflict,
            format!("--state chooses nothing with --of {of}: a {of} is not of one state"),
        ))
    }
}

const OF: Choices<HistogramOf> = &[
    (HistogramOf::Dwell, "dwell", "The time in each state"),
    (
        HistogramOf::Lifetime,
        "lifetime",
        "From the first state change of a connection to its end",
    ),
    (
        HistogramOf::Handshake,
        "handshake",
        "Until it is established; of a server, the first round trip",
    ),
    (
        HistogramOf::Transitions,
        "transitions",
        "How often each state change happened",
    ),
];

pub(super) const ABOUT: &str = "\
Prints, at the end of the run, a histogram of the times that connections spent in each state: one for each \
state, service port and role, the busiest port first. The service port is the port of the server, on \
whichever side it is.

A time counts when it is over: a state that a connection is still in is in no histogram yet. Percentiles \
are within 1 % from 1 microsecond to 1 day; max is exact. A row of the chart spans a power of two; buckets \
in JSON are 128 times as fine.

A server's handshake is over before the kernel has a socket for it: --of handshake shows the first round \
trip time that it measured instead.";

pub(super) const EXAMPLES: &str = "\
Examples:
  tcpstate hist --duration 1m                     a minute of everything
  tcpstate hist -P 443 --state ESTABLISHED        how long connections to port 443 last
  tcpstate hist --of handshake --role client      how long it takes to connect, by port
  tcpstate hist --of lifetime --cause timed_out   after how long connections are given up
  tcpstate hist --of transitions --interval 5s    what happens, every five seconds
  tcpstate hist -r FILE --json | jq -c '[.service_port, .state, .count, .p99_ns]'";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::Command;

    fn hist(arguments: &[&str]) -> Result<Hist, clap::Error> {
        let words = ["tcpstate", "hist"].iter().chain(arguments);
        Cli::try_parse_from(words).and_then(|cli| match cli.command {
            Command::Hist(hist) => hist.check().map(|()| hist),
            _ => unreachable!("the words say hist"),
        })
    }

    #[test]
    fn what_has_no_state_cannot_be_chosen_by_state() {
        for of in ["lifetime", "handshake"] {
            assert!(hist(&["--of", of]).is_ok());
            let error = hist(&["--of", of, "--state", "CLOSE_WAIT"]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ArgumentConflict);
        }
        assert!(hist(&["--of", "transitions", "--state", "CLOSE_WAIT"]).is_ok());
    }

    #[test]
    fn what_is_not_a_whole_connection_has_no_cause() {
        let lifetimes = hist(&["--of", "lifetime", "--cause", "fin,refused"]).unwrap();
        assert!(lifetimes.cause.is_some());
        for of in ["dwell", "handshake", "transitions"] {
            let error = hist(&["--of", of, "--cause", "fin"]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ArgumentConflict);
        }
    }

    #[test]
    fn only_intervals_can_be_counted_in_hist() {
        assert_eq!(
            hist(&["--count", "3"]).unwrap_err().kind(),
            ErrorKind::MissingRequiredArgument
        );
        let hist = hist(&["--count", "3", "--interval", "1s"]).unwrap();
        assert_eq!(hist.watch.count, Some(3));
    }

    #[test]
    fn an_interval_that_no_one_could_follow_is_refused() {
        for interval in ["1ns", "9999us"] {
            let error = hist(&["--interval", interval]).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let message = error.to_string();
            assert!(message.contains("cannot be shorter than 10ms"), "{message}");
        }
        assert!(hist(&["--interval", "10ms"]).is_ok());
    }
}
