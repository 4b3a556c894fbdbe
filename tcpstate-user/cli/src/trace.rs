//! Arguments of `tcpstate trace`.

use clap::Args;
use tcpstate_core::{expression::Moment, filter::StateSet, options::PacketOrder};

use crate::{
    bounds::Bounds,
    choice::{Choices, choice},
    column_args::ColumnArgs,
    expression::language_of,
    headings::{FILTERS, OUTPUT},
    listed::listed,
    time_args::TimeArgs,
    watch::Watch,
};

/// Arguments of `tcpstate trace`.
#[derive(Debug, Args)]
pub struct Trace {
    #[command(flatten)]
    pub watch: Watch,
    #[command(flatten)]
    pub times: TimeArgs,
    /// Add a column with the reason for which this kernel reset a connection (Linux 6.10)
    #[arg(long, conflicts_with_all = ["json", "csv"], help_heading = OUTPUT)]
    pub reset_reason: bool,
    /// Show the packets of a capture, between the states of client and server
    #[arg(
        long,
        value_name = "ORDER",
        num_args = 0..=1,
        require_equals = true,
        value_parser = choice(ORDERS),
        requires = "read",
        conflicts_with_all = ["csv", "time", "timestamp", "reset_reason", "wide", "columns", "state", "count"],
        help_heading = OUTPUT
    )]
    // Twice: with and without a value.
    pub packets: Option<Option<PacketOrder>>,
    #[command(flatten)]
    pub columns: ColumnArgs,
    #[command(flatten)]
    pub states: States,
    #[command(flatten)]
    pub bounds: Bounds,
}

const ORDERS: Choices<PacketOrder> = &[
    (
        PacketOrder::ByConnection,
        "connection",
        "one connection after the other; the default for a file",
    ),
    (
        PacketOrder::Interleaved,
        "interleaved",
        "as they were captured; the default for a pipe",
    ),
];

/// The states whose transitions are shown.
// A group of its own, so that help lists it behind the other filters.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = FILTERS)]
pub struct States {
    /// Only transitions from or to one of these states.
    #[arg(
        id = "state",
        long = "state",
        value_name = "LIST",
        value_parser = listed::<StateSet>(StateSet::words),
        hide_possible_values = true,
        help = "Only transitions from or to one of these states, such as CLOSE_WAIT,LAST_ACK"
    )]
    pub set: Option<StateSet>,
}

pub(crate) const ABOUT: &str = "\
Prints a line per TCP state change (transition) on this host.

DWELL is the time that the socket spent in OLDSTATE; it is known from the second transition seen of \
that socket. `~` marks the time that a server's connection was half-open before it had a socket, \
as samples found it. PID and COMM are the process that owns the connection: the one that \
opened it or acts on it at this transition, otherwise the one that listens for it. A process that \
merely happened to be on the CPU is not shown. CAUSE, at the transition to CLOSE, is why the connection \
ended. `-` means unknown, or not chosen yet.

The summary at the end says whether any transition was lost. With -v, and whenever one was, it accounts for \
all of them: seen = filtered + submitted + lost, submitted = received + rejected, and received = passed + \
filtered + undecided + unread. With --json it is the last line, otherwise it goes to standard error.";

/// The language of filters, and examples.
pub(crate) fn epilogue() -> String {
    language_of(Moment::Change) + "\n" + EXAMPLES
}

const EXAMPLES: &str = "\
Examples:
  tcpstate trace                        everything, until Ctrl-C
  tcpstate trace -L 80,443 -T           a web server's, with the time of day
  tcpstate trace --time=full            with the date and microseconds
  tcpstate trace --state CLOSE_WAIT     who is slow to close, and how slow
  tcpstate trace -4 -D 5432 --json | jq -c 'select(.cause) | [.raddr, .cause]'
                                        why connections to PostgreSQL end
  tcpstate trace dst 10.0.0.0/8 and not dport = :443
                                        to one net, but not https
  tcpstate trace newstate close-wait or dwell '>' 1m
                                        single changes
  tcpstate trace --count 10             ten transitions, then the summary
  tcpstate trace -r FILE --csv          a recording, as CSV
  tcpstate trace -r FILE.pcap --packets each packet, and the states after it
  tcpstate trace -r FILE --from 14:02 --to 14:05
                                        three minutes of it";

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;
    use tcpstate_core::{
        mode::Attach,
        options::{Format, PacketOrder, TimeForm},
    };

    use crate::tests::trace;

    #[test]
    fn without_arguments_everything_is_selected() {
        let trace = trace(&[]).unwrap();
        assert!(trace.watch.sockets.filter().wants_all());
        assert_eq!(trace.watch.output.format(), Format::Text);
        assert_eq!(trace.watch.capture.attach, Attach::Auto);
        assert_eq!(trace.watch.capture.ring_bytes, 8 << 20);
        assert_eq!(trace.states.set, None);
        assert_eq!((trace.watch.duration, trace.watch.count), (None, None));
    }

    #[test]
    fn times_have_a_form() {
        let times = |words: &[&str]| trace(words).map(|trace| trace.times);
        assert_eq!(times(&[]).unwrap().time, None);
        for (words, form) in [
            (&["-T"][..], TimeForm::Seconds),
            (&["-Tt"], TimeForm::Seconds),
            (&["--time"], TimeForm::Seconds),
            (&["--time=us"], TimeForm::Microseconds),
            (&["-T=full"], TimeForm::Full),
        ] {
            assert_eq!(times(words).unwrap().time, Some(form), "{words:?}");
        }
        assert!(times(&["-Tt"]).unwrap().timestamp);
    }

    #[test]
    fn packets_have_an_order() {
        let packets = |words: &[&str]| trace(words).map(|trace| trace.packets);
        assert_eq!(packets(&[]).unwrap(), None);
        assert_eq!(packets(&["-rx", "--packets"]).unwrap(), Some(None));
        let interleaved = packets(&["--packets=interleaved", "-rx"]).unwrap();
        assert_eq!(interleaved, Some(Some(PacketOrder::Interleaved)));
        let missing = packets(&["--packets"]).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::MissingRequiredArgument);
        for other in ["--csv", "-T", "--wide", "--count=1", "--state=CLOSE"] {
            let error = packets(&["-rx", "--packets", other]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ArgumentConflict, "{other}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for arguments in [
            ["--json", "--csv"],
            ["-4", "-6"],
            ["-T", "--json"],
            ["--csv", "-t"],
            ["-rfile", "--bpf-log"],
            ["--attach=auto", "-r-"],
        ] {
            let error = trace(&arguments).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ArgumentConflict, "{arguments:?}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn bad_values_are_refused_with_the_reason() {
        for (arguments, reason) in [
            (["--lport", "80,http"], "`http` is not a port"),
            (
                ["--rport", "90-80"],
                "the range `90-80` ends before it begins",
            ),
            (["--port", "80,"], "an empty item"),
            (["--state", "OPEN"], "`OPEN` is not a TCP state"),
            (["--duration", "10w"], "`10w` is not a duration"),
            (["--count", "0"], "0 is not in 1.."),
            (["--ring-bytes", "3M"], "must be a power of two"),
            (
                ["--attach", "kprobe"],
                "possible values: auto, btf, tracepoint",
            ),
        ] {
            let error = trace(&arguments).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{arguments:?}");
            assert!(error.to_string().contains(reason), "{arguments:?}: {error}");
        }
    }
}
