//! Arguments of `tcpstate rates`.

use std::{num::ParseIntError, time::Duration};

use clap::Args;
use tcpstate_core::{
    expression::Moment,
    mode::{Attach, Mode},
    model::By,
    tally::TallySize,
};

use crate::{
    bounds::Bounds, conflict::Conflict, expression::language_of, grouping::Grouping,
    headings::CAPTURE, quantity::parse_interval, watch::Watch,
};

/// Arguments of `tcpstate rates`.
#[derive(Debug, Args)]
pub struct Rates {
    /// Length of an interval, such as 500ms, 1s or 5m; a plain number is seconds
    #[arg(value_name = "INTERVAL", default_value = "1s", value_parser = first_word)]
    pub first: First,
    /// End after this many intervals; by default, run until Ctrl-C
    #[arg(value_name = "COUNT")]
    pub second: Option<String>,
    #[command(flatten)]
    pub watch: Watch,
    #[command(flatten)]
    pub grouping: Grouping,
    /// Count in the kernel instead of streaming each transition.
    #[arg(
        long,
        help = "Count in the kernel and stream nothing, for hosts where even streaming costs too much; \
            connections are not attributed to processes",
        help_heading = CAPTURE,
        conflicts_with_all = ["read", "ring_bytes", "resolve_owners", "bpf_log"]
    )]
    pub in_kernel: bool,
    #[command(flatten)]
    pub bounds: Bounds,
}

impl Rates {
    /// The most sockets whose state-entry time the kernel can keep: they take 1.5 GiB.
    const MAX_IN_KERNEL: u32 = 1 << 26;

    /// Refuses arguments that counting in the kernel cannot honour.
    pub(crate) fn check(&self) -> Result<(), Conflict> {
        let wrong = |why: &str| Err(Conflict(format!("[COUNT] {why}")));
        match (self.intervals(), self.watch.count) {
            (Some(Ok(1..)), None) | (None, _) => {}
            (Some(Ok(0)), _) => return wrong("of 0: give at least 1"),
            (Some(Err(_)), _) => return wrong("is too large"),
            (Some(Ok(_)), Some(_)) => {
                return wrong("cannot be used with --count: they are the same");
            }
        }
        if !self.in_kernel {
            return Ok(());
        }
        let capture = &self.watch.capture;
        let why = if !matches!(self.grouping.by, By::Port | By::Role) {
            format!(
                "--by {}: the kernel counts by port and role only",
                self.grouping.word()
            )
        } else if self.watch.sockets.owner.is_given() {
            "--pid, --comm, --uid, --cgroup or --role: they select events, and none are streamed"
                .to_owned()
        } else if capture.attach == Attach::Only(Mode::Tracepoint) {
            "--attach tracepoint: it requires the BTF tracepoint, which reads the socket itself"
                .to_owned()
        } else if capture.sample_interval.is_zero() {
            "--sample-interval 0: only dumps show how many sockets are in each state".to_owned()
        } else if self.bounds.max_connections > Self::MAX_IN_KERNEL {
            format!("--max-connections above {}", Self::MAX_IN_KERNEL)
        } else {
            return Ok(());
        };
        Err(Conflict(format!("--in-kernel cannot be used with {why}")))
    }

    /// The length of an interval.
    pub const fn interval(&self) -> Duration {
        match self.first {
            First::Interval(interval) => interval,
            First::Word(_) => Duration::from_secs(1),
        }
    }

    /// The number of intervals, where the second word is one.
    fn intervals(&self) -> Option<Result<u64, ParseIntError>> {
        match &self.first {
            First::Interval(_) => self.second.as_deref().filter(|word| is_number(word)),
            First::Word(_) => None,
        }
        .map(str::parse)
    }

    /// The words of the filter expression.
    pub fn words(&self) -> Vec<String> {
        let first = match &self.first {
            First::Interval(_) => None,
            First::Word(word) => Some(word),
        };
        let second = self.second.iter().filter(|_| self.intervals().is_none());
        let words = first.into_iter().chain(second);
        words.chain(&self.watch.expression).cloned().collect()
    }

    /// The room for counting in the kernel, with `--in-kernel`.
    pub fn tally(&self) -> Option<TallySize> {
        self.in_kernel.then_some(TallySize {
            services: self.bounds.max_ports,
            sockets: self.bounds.max_connections,
        })
    }

    /// The length of the run: the intervals to show, or `--duration` if that is shorter.
    ///
    /// The run ends by the clock, not by counting intervals, so that the last interval includes the events
    /// that are still on their way (`run`).
    pub fn duration(&self) -> Option<Duration> {
        let intervals = self.intervals().and_then(Result::ok).or(self.watch.count);
        let intervals = intervals.map(|count| {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            self.interval().saturating_mul(count)
        });
        intervals.into_iter().chain(self.watch.duration).min()
    }
}

/// The first word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    /// It is the length of an interval.
    Interval(Duration),
    /// It belongs to the filter expression.
    Word(String),
}

/// Reads the first word: no condition begins with a digit.
fn first_word(text: &str) -> Result<First, String> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return parse_interval(text).map(First::Interval);
    }
    Ok(First::Word(text.to_owned()))
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit())
}

pub(crate) const ABOUT: &str = "\
Counts TCP state changes (transitions), and shows their rates every INTERVAL, in the manner of vmstat.

A block shows how many connections were opened, established, closed and failed (ended before they were \
established) per second; how many sockets are in each state now; why connections ended, unless all ended \
with FIN; each transition with its count and rate; and the busiest service ports (or what --by says), each with its \
share of all transitions. Zeros are left out. The service port is the local port of a server and the \
remote port of a client, never an ephemeral port.

`now` counts the sockets that existed at the start, updated by the transitions seen since. TIME_WAIT, \
FIN_WAIT2 of closed sockets and half-open connections (SYN_RECV) make no event: they are sampled every \
--sample-interval. `half-open` shows the local addresses with the most half-open connections, \
`listeners` the overflows, drops, SYN cookies and retransmitted SYN-ACKs of the interval, which the \
kernel counts by network namespace: filters on ports, addresses and owners do not apply to them. The last \
interval is shown even if Ctrl-C cuts it short, so that the counts of all intervals add up to all \
transitions received.

--in-kernel counts where transitions happen, and reads the counts at the end of each interval. That \
costs less than streaming each transition, but connections are not attributed to processes, and a FILTER \
may have only what the kernel can decide (--explain-filter says what that is). This \
process only dumps the kernel's sockets every --sample-interval, less often if that would take more \
than 2 % of a core, and `now` counts the sockets of the last dump. It takes 25 MB of kernel memory for \
the default --max-connections of a million, which is sure to hold half a million connections, and 1 MB \
per possible CPU for the default --max-ports, where a port counts once in each role.

With --json, a line per interval with all groups; with --csv, a row per interval, group and transition.";

/// The language of filters, and examples.
pub(crate) fn epilogue() -> String {
    language_of(Moment::Always) + "\n" + EXAMPLES
}

const EXAMPLES: &str = "\
Examples:
  tcpstate rates                        every second, until Ctrl-C
  tcpstate rates 5 12                   twelve intervals of five seconds
  tcpstate rates 10 --by comm           which programs make the connections
  tcpstate rates -D 5432 --by pod       which pods connect to PostgreSQL
  tcpstate rates --by raddr -L 443      which clients a web server has
  tcpstate rates 5 dst 10.0.0.0/8       connections to one net
  tcpstate rates --in-kernel 10         on a busy host
  tcpstate rates --in-kernel 10 not dst 10.0.0.0/8    without one net
  tcpstate rates 1m -r FILE --csv       a recording, minute by minute, as CSV
  tcpstate rates --json | jq -c 'select(.states) | [.ts, .states.CLOSE_WAIT]'";

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{Cli, Command};

    fn rates(arguments: &[&str]) -> Result<Rates, clap::Error> {
        let words = ["tcpstate", "rates"].iter().chain(arguments);
        Cli::try_parse_from(words)
            .and_then(Cli::checked)
            .map(|cli| match cli.command {
                Command::Rates(rates) => rates,
                _ => unreachable!("the words say rates"),
            })
    }

    #[test]
    fn arguments_that_the_kernel_cannot_honour_are_refused() {
        for (arguments, reason) in [
            (&["--by", "comm"][..], "--by comm"),
            (&["--by", "cgroup"], "--by cgroup"),
            (&["--by", "pod"], "--by pod"),
            (&["--by", "pid"], "--by pid"),
            (&["--by", "netns"], "--by netns"),
            (&["--by", "raddr"], "--by raddr"),
            (&["--by", "cause"], "--by cause"),
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
            let error = rates(&with).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(reason), "{arguments:?}: {error}");
            rates(arguments).unwrap();
        }
        for arguments in [&["--by", "role"][..], &["-D", "443"], &["--netns", "self"]] {
            let with = [&["--in-kernel"], arguments].concat();
            rates(&with).unwrap();
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
            assert_eq!(Some(rates.interval()), seconds(interval), "{arguments:?}");
            assert_eq!(rates.duration(), duration, "{arguments:?}");
        }
        let forever = rates(&["1h", "18446744073709551615"]).unwrap().duration();
        assert!(forever.unwrap() > Duration::from_hours(1_000_000));
    }

    #[test]
    fn the_words_behind_interval_and_count_are_a_filter() {
        for (arguments, interval, intervals, words) in [
            (&["dst", "10.0.0.0/8"][..], 1, None, "dst 10.0.0.0/8"),
            (&["5", "dst", "::1"], 5, None, "dst ::1"),
            (&["5", "12", "dst", "::1"], 5, Some(12), "dst ::1"),
            (&["5", "12"], 5, Some(12), ""),
            // A number behind a word is not COUNT.
            (&["sport", "80"], 1, None, "sport 80"),
            (&["sport", "80", "--count", "3"], 1, Some(3), "sport 80"),
            (&["5", "(", "sport", "80", ")"], 5, None, "( sport 80 )"),
        ] {
            let rates = rates(arguments).unwrap();
            assert_eq!(rates.interval().as_secs(), interval, "{arguments:?}");
            assert_eq!(rates.words().join(" "), words, "{arguments:?}");
            let length = intervals.map(|count| Duration::from_secs(interval * count));
            assert_eq!(rates.duration(), length, "{arguments:?}");
        }
    }

    #[test]
    fn malformed_intervals_are_refused() {
        for (arguments, reason) in [
            (&["1ms"][..], "cannot be shorter than 10ms"),
            (&["1often"], "`1often` is not a duration"),
            (&["1", "0"], "[COUNT] of 0"),
            (&["1", "99999999999999999999"], "[COUNT] is too large"),
            (&["1", "5", "--count=5"], "cannot be used with"),
            (&["--in-kernel", "-r", "x"], "cannot be used with"),
            (
                &["--by", "uid"],
                "possible values: port, role, comm, pid, cgroup, unit, container, pod, netns, raddr, prefix, cause",
            ),
            (&["--max-ports", "0"], "0 is not in 1..=16384"),
        ] {
            let error = rates(arguments).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(reason), "{arguments:?}: {error}");
        }
    }
}
