//! Arguments of `tcpstate life`.

use crate::choice::{Choices, choice};
use std::time::Duration;
use tcpstate_core::options::Until;

use clap::Args;

use super::{Bounds, FILTERS, OUTPUT, Watch};
use crate::quantity::parse_duration;
use tcpstate_core::filter::{CauseSet, StateSet};

/// Arguments of `tcpstate life`.
#[derive(Debug, Args)]
pub struct Life {
    /// Begin each line with the local time of day, HH:MM:SS
    #[arg(short = 'T', long, conflicts_with_all = ["json", "csv"], help_heading = OUTPUT)]
    pub time: bool,
    /// When to print a connection
    #[arg(long, value_name = "WHEN", default_value = "close", value_parser = choice(UNTIL), help_heading = OUTPUT)]
    pub until: Until,
    /// At the end also print the connections that are still open, with their times so far
    #[arg(long, help_heading = OUTPUT)]
    pub live: bool,
    /// Only connections that lived longer than this; with --state, that were in one of those states
    /// longer than this
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = FILTERS)]
    pub longer_than: Option<Duration>,
    /// Only connections that were in one of these states.
    #[arg(
        long,
        value_name = "LIST",
        help_heading = FILTERS,
        help = "Only connections that were in one of these states, such as CLOSE_WAIT,LAST_ACK"
    )]
    pub state: Option<StateSet>,
    /// Only connections that ended for one of these causes.
    #[arg(
        long,
        value_name = "LIST",
        help_heading = FILTERS,
        help = "Only connections that ended for one of these causes, such as reset_by_peer,timed_out"
    )]
    pub cause: Option<CauseSet>,
    #[command(flatten)]
    pub bounds: Bounds,
    #[command(flatten)]
    pub watch: Watch,
}

const UNTIL: Choices<Until> = &[
    (
        Until::Close,
        "close",
        "At its change to CLOSE, with what the kernel keeps of it from then on",
    ),
    (
        Until::Gone,
        "gone",
        "When the kernel keeps nothing of it any more: with the whole time in FIN_WAIT2 and TIME_WAIT",
    ),
];

pub(super) const ABOUT: &str = "\
Prints a line per TCP connection when it ends: whose it is, which side it is, how long it lived, why it \
ended, how many bytes went over it, and the time in each state that it went through.

PID and COMM are the process that opened the connection, or that listens where it came in. Bytes are \
as the kernel counts them: SENT includes what was sent again. After `then` stands the state in which the \
kernel keeps what is left of the connection, unseen. `-` is unknown: the beginning was not seen, or changes \
in between were lost.

With --until gone a connection is printed when nothing is left of it, so that its time in FIN_WAIT2 and \
TIME_WAIT is whole. What ends such a time makes no event: the kernel is asked every --sample-interval, and \
`~` marks what is as exact as that.

With --live, connections that are still open at the end of the run come last, as (open); their lifetime \
and the time in their last state are those so far, and `-` for those that were there before it began.

--longer-than shows what is known to be longer. The summary says of how many connections that is not known.";

pub(super) const EXAMPLES: &str = "\
Examples:
  tcpstate life                                   every connection that ends, until Ctrl-C
  tcpstate life -L 443 --longer-than 1s -T        our web server's that lived longer than 1 s
  tcpstate life --state CLOSE_WAIT --longer-than 30s --live --duration 5m
                                                  who leaks sockets: closed by the peer, not by us
  tcpstate life --role client --cause refused,timed_out,unreachable
                                                  what cannot be reached, and who tries
  tcpstate life --json --role client | jq -c 'select(.cause != \"fin\") | [.raddr, .rport, .cause]'
  tcpstate life --until gone --state FIN_WAIT2 --longer-than 5s
                                                  whose peers do not close their side
  tcpstate life -r FILE --csv                     what was recorded, one column for each state";
