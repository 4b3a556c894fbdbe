//! Arguments of `tcpstate rates`.

use crate::choice::{Choices, choice};
use std::time::Duration;
use tcpstate_core::model::By;

use clap::{Args, CommandFactory as _, error::ErrorKind};

use super::{Bounds, CAPTURE, Cli, OUTPUT, Sockets, Watch, interval};
use tcpstate_core::mode::{Attach, Mode};
use tcpstate_core::tally::TallySize;

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
    #[arg(long, value_name = "WHAT", default_value = "port", value_parser = choice(BY), help_heading = OUTPUT)]
    pub by: By,
    /// Count in the kernel instead of streaming each change.
    #[arg(
        long,
        help = "Count in the kernel, and stream nothing: for hosts where even that is too much. Nobody knows \
            then whose a connection is",
        help_heading = CAPTURE,
        conflicts_with_all = ["read", "ring_bytes", "resolve_owners", "bpf_log"]
    )]
    pub in_kernel: bool,
    #[command(flatten)]
    pub bounds: Bounds,
    #[command(flatten)]
    pub watch: Watch,
}

impl Rates {
    /// Connections whose times the kernel can remember at most: 1.5 GiB of it.
    const MAX_IN_KERNEL: u32 = 1 << 26;

    /// Refuses what counting in the kernel cannot give.
    pub fn check(&self) -> Result<(), clap::Error> {
        if !self.in_kernel {
            return Ok(());
        }
        let Sockets { owner, .. } = &self.watch.sockets;
        let capture = &self.watch.capture;
        let unknown = "whose a connection is, nobody knows then";
        let why = if !matches!(self.by, By::Port | By::Role) {
            format!("--by comm and --by cgroup: {unknown}")
        } else if owner.is_given() {
            format!("--pid, --comm, --uid, --cgroup and --role: {unknown}")
        } else if capture.attach == Attach::Only(Mode::Tracepoint) {
            "--attach tracepoint: it takes the BTF tracepoint, which reads the socket itself"
                .to_owned()
        } else if capture.sample_interval.is_zero() {
            "--sample-interval 0: how many are in which state is known from lists only".to_owned()
        } else if self.bounds.max_connections > Self::MAX_IN_KERNEL {
            format!("--max-connections above {}", Self::MAX_IN_KERNEL)
        } else {
            return Ok(());
        };
        Err(Cli::command().error(
            ErrorKind::ArgumentConflict,
            format!("--in-kernel cannot be used with {why}"),
        ))
    }

    /// How much to count in the kernel, if it is to be counted there.
    pub fn tally(&self) -> Option<TallySize> {
        self.in_kernel.then_some(TallySize {
            services: self.bounds.max_ports,
            sockets: self.bounds.max_connections,
        })
    }

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

const BY: Choices<By> = &[
    (By::Port, "port", "Service port, and role: client or server"),
    (By::Role, "role", "Role: client or server"),
    (
        By::Comm,
        "comm",
        "Name of the process that the connection belongs to",
    ),
    (
        By::Cgroup,
        "cgroup",
        "Cgroup of the socket, by its path as in /proc/PID/cgroup; its number where it has no path",
    ),
];

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

--in-kernel counts where the changes happen, and reads the counts at the end of each interval: a change \
costs less than streaming it, and this process is left with listing all sockets every --sample-interval \
(as far as a fiftieth of a core allows), which is what `now` then counts. OwnerArgs a connection is, nobody \
knows. It takes 25 MB of memory of the kernel, in which half a million connections have room for sure \
(--max-connections, by default a million), and a megabyte for each CPU that there can be (--max-ports: \
each a port in one role).

With --json a line an interval, with all groups; with --csv a row for each interval, group and \
transition.";

pub(super) const EXAMPLES: &str = "\
Examples:
  tcpstate rates                        every second, until Ctrl-C
  tcpstate rates 5 12                   twelve times five seconds
  tcpstate rates 10 --by comm           which programs make the connections
  tcpstate rates -D 5432 --by cgroup    which containers connect to PostgreSQL
  tcpstate rates --in-kernel 10         on a host that has no time to lose
  tcpstate rates 1m -r FILE --csv       what was recorded, minute by minute, as CSV
  tcpstate rates --json | jq -c '[.ts, .states.CLOSE_WAIT]'";

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
    fn what_the_kernel_cannot_count_is_refused() {
        for (arguments, reason) in [
            (&["--by", "comm"][..], "--by comm"),
            (&["--by", "cgroup"], "--by cgroup"),
            (&["--pid", "1"], "--pid"),
            (&["--uid", "0"], "--uid"),
            (&["--comm", "a"], "--comm"),
            (&["--cgroup", "/"], "--cgroup"),
            (&["--role", "client"], "--role"),
            (&["--attach", "tracepoint"], "--attach tracepoint"),
            (&["--sample-interval", "0"], "--sample-interval 0"),
            (
                &["--max-connections", "67108865"],
                "--max-connections above",
            ),
        ] {
            let with = [&["--in-kernel"], arguments].concat();
            let error = rates(&with).unwrap().check().unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(reason), "{arguments:?}: {error}");
            rates(arguments).unwrap().check().unwrap();
        }
        for arguments in [&["--by", "role"][..], &["-D", "443"], &["--netns", "self"]] {
            let with = [&["--in-kernel"], arguments].concat();
            rates(&with).unwrap().check().unwrap();
        }
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
            (&["--in-kernel", "-r", "x"], "cannot be used with"),
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
