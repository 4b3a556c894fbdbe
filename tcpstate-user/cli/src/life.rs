//! Arguments of `tcpstate life`.

use std::{fmt::Write as _, time::Duration};

use clap::Args;
use tcpstate_core::{
    cause::EXPLAINED,
    expression::Moment,
    filter::{CauseSet, StateSet},
    options::Until,
};

use crate::{
    bounds::Bounds,
    choice::{Choices, choice},
    column_args::ColumnArgs,
    expression::language_of,
    headings::{FILTERS, OUTPUT},
    listed::listed,
    quantity::parse_duration,
    time_args::TimeArgs,
    watch::Watch,
};

/// Arguments of `tcpstate life`.
#[derive(Debug, Args)]
pub struct Life {
    #[command(flatten)]
    pub watch: Watch,
    #[command(flatten)]
    pub times: TimeArgs,
    /// Add a column with the reason for which this kernel reset a connection (Linux 6.10)
    #[arg(long, conflicts_with_all = ["json", "csv"], help_heading = OUTPUT)]
    pub reset_reason: bool,
    /// When to print a connection
    #[arg(long, value_name = "WHEN", default_value = "close", value_parser = choice(UNTIL), help_heading = OUTPUT)]
    pub until: Until,
    /// At the end, also print connections that are still open, with their times so far
    #[arg(long, help_heading = OUTPUT)]
    pub live: bool,
    /// Only connections that were in one of these states.
    #[arg(
        long,
        value_name = "LIST",
        value_parser = listed::<StateSet>(StateSet::words),
        hide_possible_values = true,
        help_heading = FILTERS,
        help = "Only connections that were in one of these states, such as CLOSE_WAIT,LAST_ACK"
    )]
    pub state: Option<StateSet>,
    /// Only connections that ended for one of these causes.
    #[arg(
        long,
        value_name = "LIST",
        value_parser = listed::<CauseSet>(CauseSet::words),
        hide_possible_values = true,
        help_heading = FILTERS,
        help = "Only connections that ended for one of these causes, such as reset_by_peer,timed_out"
    )]
    pub cause: Option<CauseSet>,
    /// Only connections that lived longer than this; with --state, that stayed in one of those states
    /// longer than this
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = FILTERS)]
    pub longer_than: Option<Duration>,
    #[command(flatten)]
    pub columns: ColumnArgs,
    #[command(flatten)]
    pub bounds: Bounds,
}

const UNTIL: Choices<Until> = &[
    (
        Until::Close,
        "close",
        "At its transition to CLOSE, with any state that the kernel keeps it in",
    ),
    (
        Until::Gone,
        "gone",
        "When the kernel keeps nothing of it any more, with all its time in FIN_WAIT2 and TIME_WAIT",
    ),
];

pub(crate) const ABOUT: &str = "\
Prints a line per TCP connection when it ends: its owner, its role, how long it lived, why it ended, \
how many bytes it carried, and the time in each state that it went through.

PID and COMM are the process that opened the connection, or that listens for it. Bytes are as the \
kernel counts them: SENT includes retransmissions. `then` is followed by the state in which the kernel \
keeps what is left of the connection, without further events. `-` means unknown: the beginning was not \
seen, or transitions in between were lost. `..` at the end of STATES: there were more, shorter ones.

A server's connection that was half-open before it had a socket has that time in SYN_RECV if a sample found it \
(--sample-interval), marked with `~`.

With --until gone, a connection is printed when nothing is left of it, so that its time in FIN_WAIT2 \
and TIME_WAIT is complete. These states end without an event, so their end is sampled \
every --sample-interval, and `~` marks a time that is only as exact as that.

With --live, connections still open at the end of the run come last, marked (open). Their lifetime and \
the time in their last state are those so far.

Of connections that existed before the run, the lifetime is `-`, and `>` marks the time that they were in their \
first state at least: since the start of the run, or since the last packet before it. --longer-than compares that \
bound; it shows only connections known to be longer. The summary says for how many this is unknown.";

pub(crate) const EXAMPLES: &str = "\
Examples:
  tcpstate life                         every connection that ends, until Ctrl-C
  tcpstate life -L 443 --longer-than 1s -T
                                        a web server's that lived over 1 s
  tcpstate life --state CLOSE_WAIT --longer-than 30s --live --duration 5m
                                        leaks: closed by the peer, not by us
  tcpstate life --role client --cause refused,timed_out,unreachable,abandoned
                                        what cannot be reached, and who tries
  tcpstate life --json | jq -c 'select(.cause) | [.raddr, .rport, .cause]'
                                        why connections end
  tcpstate life dst 10.0.0.0/8 and retransmits '>' 10
                                        a net that loses packets
  tcpstate life --until gone --state FIN_WAIT2 --longer-than 5s
                                        peers that do not close their side
  tcpstate life -r FILE --csv           a recording, with a column per state";

/// The language of filters, the examples, and the table of causes.
pub(crate) fn epilogue() -> String {
    let mut text = language_of(Moment::End) + "\n" + EXAMPLES + "\n\nCauses:";
    for cause in EXPLAINED {
        // Writing to a string does not fail.
        let _ = write!(text, "\n  {:<15} {}", cause.name, cause.what);
    }
    text
}
