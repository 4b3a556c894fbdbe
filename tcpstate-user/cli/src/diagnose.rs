//! Arguments of `tcpstate diagnose`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use tcpstate_core::expression::Moment;

use crate::{
    bounds::Bounds, conflict::Conflict, expression::language_of, headings::OUTPUT, watch::Watch,
};

/// Arguments of `tcpstate diagnose`.
#[derive(Debug, Args)]
pub struct Diagnose {
    #[command(flatten)]
    pub watch: Watch,
    /// Go on until Ctrl-C; print a finding when it appears, changes or ends
    #[arg(long)]
    pub follow: bool,
    /// Change the figures that decide: a file of lines such as `close_wait_age = "2m"`
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,
    /// Also list what was looked for and not found, and what could not be looked for
    #[arg(long, help_heading = OUTPUT)]
    pub all: bool,
    #[command(flatten)]
    pub bounds: Bounds,
}

impl Diagnose {
    /// The time that events are watched together: the whole run, or a window of `--follow`.
    pub fn window(&self) -> Duration {
        const USUAL: Duration = Duration::from_secs(30);
        match self.watch.duration {
            Some(duration) if !self.follow => duration,
            _ => USUAL,
        }
    }

    /// Refuses `--csv`, which all other commands that watch have.
    pub(crate) fn check(&self) -> Result<(), Conflict> {
        if self.watch.output.csv {
            return Err(Conflict(
                "diagnose does not take --csv; a finding has lists in it: --json has them"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

pub(crate) const ABOUT: &str = "\
Says what is wrong with the connections of this host, whose they are, since when, why it matters and what to do.

It looks at all sockets at once, so that trouble that began before is found within seconds, and then \
watches for 30 s (--duration) what happens. Findings come last, the worst first. `critical`: connections fail now; \
`warning`: some fail or wait, or will; `note`: worth knowing, and harmless.

With -r FILE, a recording is diagnosed. It has neither queues nor counters, so that some things cannot be \
found in it: --all lists them.

Exit status: 0 nothing was found but notes; 3 something was, or the result is incomplete; 1 failure; 2 usage error.";

/// The language of filters, and examples.
pub(crate) fn epilogue() -> String {
    language_of(Moment::Always) + "\n" + EXAMPLES
}

const EXAMPLES: &str = "\
Examples:
  tcpstate diagnose                         after 30 s: what is wrong
  tcpstate diagnose --duration 5m -L 443    one service, for five minutes
  tcpstate diagnose --follow                as it happens, until Ctrl-C
  tcpstate diagnose --all                   also what is well
  tcpstate diagnose -r FILE                 a recording
  tcpstate diagnose --json | jq -r '[.severity, .name, .summary] | @tsv'
                                            one line each";
