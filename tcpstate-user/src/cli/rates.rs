//! Arguments of `tcpstate rates`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Bounds, OUTPUT, Watch, interval};

/// Arguments of `tcpstate rates`.
#[derive(Debug, Args)]
pub struct Rates {
    /// Length of an interval, such as 500ms, 1s, 5m; a plain number is seconds
    #[arg(value_name = "INTERVAL", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    /// End after this many intervals; without, at Ctrl-C
    #[arg(
        value_name = "COUNT",
        conflicts_with = "count",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub intervals: Option<u64>,
    /// What to tell apart: who did how much of it
    #[arg(long, value_enum, value_name = "WHAT", default_value_t, help_heading = OUTPUT)]
    pub by: By,
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "documented at its type; a comment here would become help"
    )]
    pub bounds: Bounds,
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "documented at its type; a comment here would become help"
    )]
    pub watch: Watch,
}

impl Rates {
    /// When to end: after the intervals asked for, or after `--duration` if that is sooner.
    ///
    /// By the clock, not by counting: so the last interval takes what is still on its way (`run`).
    pub fn duration(&self) -> Option<Duration> {
        let intervals = self.intervals.or(self.watch.count).map(|count| {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            self.interval.saturating_mul(count)
        });
        intervals.into_iter().chain(self.watch.duration).min()
    }
}

pub(super) const ABOUT: &str = "\
Counts TCP state changes, and shows every INTERVAL how often each happened, in the manner of vmstat.

A block says how many connections were opened, established, closed, and failed (ended before they \
were established) per second; how many sockets are now in which state; of what connections ended, if \
not all in the orderly way; each transition with its count and rate; and the busiest service ports, \
each with its share of all transitions. What is 0 is left out. The service port is the local port of a \
server and the remote port of a client, never an ephemeral one.

`now` counts the sockets that were there at the start and what was seen to change since. TIME_WAIT, \
FIN_WAIT2 of closed sockets and half-open connections (SYN_RECV) make no event: the kernel is asked for \
them every --sample-interval. `half-open` says where most of them came in, `listeners` what was dropped in \
the interval. The last interval is shown also if Ctrl-C cuts it short, so that the counts \
of all intervals together are all the changes that were received.

With --json a line an interval, with all groups; with --csv a row for each interval, group and \
transition.";

pub(super) const EXAMPLES: &str = "\
Examples:
  tcpstate rates                        every second, until Ctrl-C
  tcpstate rates 5 12                   twelve times five seconds
  tcpstate rates 10 --by comm           which programs make the connections
  tcpstate rates -D 5432 --by cgroup    which containers connect to PostgreSQL
  tcpstate rates 1m -r FILE --csv       what was recorded, minute by minute, as CSV
  tcpstate rates --json | jq -c '[.ts, .states.CLOSE_WAIT]'";

/// What figures are grouped by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Service port, and role: client or server
    #[default]
    Port,
    /// Role: client or server
    Role,
    /// Name of the process that the connection belongs to
    Comm,
    /// Cgroup of the socket, by its path as in /proc/PID/cgroup; its number where it has no path
    Cgroup,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{
        super::{Cli, Command},
        *,
    };

    fn rates(arguments: &[&str]) -> Result<Rates, clap::Error> {
        let words = ["tcpstate", "rates"].iter().chain(arguments);
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Rates(rates) => rates,
            _ => unreachable!("the words say rates"),
        })
    }

    #[test]
    fn rates_end_after_their_intervals_or_their_duration() {
        let seconds = |n| Some(Duration::from_secs(n));
        for (arguments, interval, duration) in [
            (&[][..], 1, None),
            (&["5"], 5, None),
            (&["2", "3"], 2, seconds(6)),
            (&["2", "--count", "3"], 2, seconds(6)),
            (&["2s", "3", "--duration", "5"], 2, seconds(5)),
            (&["--duration", "5"], 1, seconds(5)),
        ] {
            let rates = rates(arguments).unwrap();
            assert_eq!(Some(rates.interval), seconds(interval), "{arguments:?}");
            assert_eq!(rates.duration(), duration, "{arguments:?}");
        }
        let forever = rates(&["1h", "18446744073709551615"]).unwrap().duration();
        assert!(forever.unwrap() > Duration::from_hours(1_000_000));
    }

    #[test]
    fn what_is_no_interval_is_refused() {
        for (arguments, reason) in [
            (&["1ms"][..], "cannot be shorter than 10ms"),
            (&["often"], "`often` is not a duration"),
            (&["1", "0"], "0 is not in 1.."),
            (&["1", "5", "--count=5"], "cannot be used with"),
            (
                &["--by", "uid"],
                "possible values: port, role, comm, cgroup",
            ),
            (&["--max-ports", "0"], "0 is not in 1..=16384"),
        ] {
            let error = rates(arguments).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(reason), "{arguments:?}: {error}");
        }
    }
}
