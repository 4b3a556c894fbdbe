//! Arguments of `tcpstate top`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use tcpstate_core::{expression::Moment, model::By};

use crate::{
    bounds::Bounds, choice::choice, column_args::ColumnArgs, conflict::Conflict,
    expression::language_of, grouping::BY, headings::OUTPUT, quantity::parse_interval,
    watch::Watch,
};

/// Arguments of `tcpstate top`.
// Its options on output come first: those that all commands share are hidden.
#[derive(Debug, Args)]
pub struct Top {
    /// Print one frame as plain text, after one interval or --count of them, and end
    #[arg(long)]
    pub once: bool,
    /// Length of an interval, such as 500ms, 1s or 5m; a plain number is seconds
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval, help_heading = OUTPUT)]
    pub interval: Duration,
    /// Property that the services are grouped by
    #[arg(long, value_name = "WHAT", default_value = "port", value_parser = choice(BY), help_heading = OUTPUT)]
    pub by: By,
    #[command(flatten)]
    pub columns: ColumnArgs,
    #[command(flatten)]
    pub watch: Watch,
    /// Change the figures that decide: a file of lines such as `close_wait_age = "2m"`
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,
    #[command(flatten)]
    pub bounds: Bounds,
}

impl Top {
    /// Refuses the formats that other commands have, and options of screens that are not shown.
    pub(crate) fn check(&self) -> Result<(), Conflict> {
        if self.watch.output.json || self.watch.output.csv {
            return Err(Conflict(
                "top takes neither --json nor --csv; `tcpstate rates --json` has the figures, and `tcpstate diagnose \
                 --json` the findings"
                    .to_owned(),
            ));
        }
        let chooses_columns = self.columns.wide || !self.columns.columns.is_empty();
        if self.once && (self.by != By::Port || chooses_columns) {
            return Err(Conflict(
                "--once prints the overview, which --by, --columns and --wide do not change: leave them out; \
                 `tcpstate rates --by WHAT` groups, and `tcpstate ls --columns LIST` lists"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

pub(crate) const ABOUT: &str = "\
Shows the TCP of this host, live, in a terminal: rates, the sockets in each state, what is wrong and whose it is.

The overview (1) has the rates of the last intervals as lines of bars, the 11 states with the number of their sockets \
now, its change and the time that the oldest has been in it, and the findings of `diagnose`, the worst first. Enter \
opens a finding, or lists the connections in a state. The services (2) are a table by service port, or by what --by \
says: connections a second, sockets in each state, the time in ESTABLISHED (EST) and the length of handshakes (HS), \
and failures by cause; `b` groups them by another property. The connections (3) are listed with those first that have been longest in their state; `/` \
takes an expression as of `ls` that says which, and among the services leaves those that have such, `c` chooses the columns, and Enter shows one. The machine (4) is the state diagram; `h` and `l` go to what stands beside, and `o` makes all screens show only the \
selected state or edge. `?` lists all keys, `e` explains what is selected, and `w` writes what is shown as JSON into a \
file in the current directory: in the lines of `rates`, `hist`, `life`, `diagnose` and `explain`. `W` writes the events of the last \
five minutes there, as a recording that -r reads: they are kept in memory, compressed, in 16 MiB at most, so that on a busy \
host they are fewer; the message says of how long they are. Such a file begins with what is known of the sockets that were there.

Findings come from the events of the last half minute, or minute, and from the kernel's lists of sockets, every five \
seconds; so do the bytes, retransmits and round trips of open connections. Percentiles and causes count from the start of the run, or from when the services were grouped anew; the services \
say since when. TIME_WAIT sockets of before have no known owner, cgroup or address then.

With -r a recording is played. Space pauses, `.` shows the next event and `,` the next interval, `<` and `>` jump 10 s, `t` \
goes to a time, `n` to the next finding, `[` and `]` change the speed.

Without a terminal, --once prints a frame of the overview.";

/// The language of filters, and examples.
pub(crate) fn epilogue() -> String {
    language_of(Moment::Always) + "\n" + EXAMPLES
}

const EXAMPLES: &str = "\
Examples:
  tcpstate top                          all connections of this host
  tcpstate top -L 443                   one service
  tcpstate top dst 10.0.0.0/8           connections to one net
  tcpstate top --by comm                services by the processes that own them
  tcpstate top --once                   a frame of one second, as text
  tcpstate top --once --count 30        the same after half a minute
  tcpstate top -r FILE                  a recording, played
  tcpstate top --once -r FILE           the end of a recording";
