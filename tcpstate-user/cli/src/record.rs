//! Arguments of `tcpstate record`.

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args};
use tcpstate_core::expression::Moment;

use crate::{
    conflict::Conflict,
    expression::language_of,
    quantity::{parse_bytes, parse_duration},
    watch::Watch,
};

/// Arguments of `tcpstate record`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("many").args(["max_bytes", "ring"]))]
pub struct Record {
    /// File to write; an existing file is overwritten; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    pub write: PathBuf,
    /// End when the file reaches this size, such as 100M or 2G; with --rotate, continue in a new file
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, conflicts_with = "ring")]
    pub max_bytes: Option<u64>,
    /// Keep this many files: FILE is the newest, FILE.1 the one before it, and so on
    #[arg(
        long,
        value_name = "N",
        requires = "many",
        value_parser = clap::value_parser!(u32).range(2..=10_000)
    )]
    pub rotate: Option<u32>,
    /// Keep the events of the last TIME, such as 5m, in memory; write them on SIGUSR1 and at the end
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub ring: Option<Duration>,
    /// Memory limit for the compressed events of --ring; beyond it, the oldest are evicted early
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "256M",
        value_parser = parse_bytes,
        requires = "ring"
    )]
    pub ring_memory: u64,
    #[command(flatten)]
    pub watch: Watch,
}

impl Record {
    /// Refuses `--csv`, which all other commands that watch have.
    pub(crate) fn check(&self) -> Result<(), Conflict> {
        if self.watch.output.csv {
            return Err(Conflict(
                "record does not take --csv; `tcpstate trace -r FILE --csv` prints a recording as CSV"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

pub(crate) const ABOUT: &str = "\
Writes the events to a file. Every command that watches can read it with -r FILE, on any host and as \
any user, and shows what it would have shown live.

The file holds whole events, compressed, in blocks with checksums; the clock, the host and the filters \
at its beginning, the accounting at its end. A file cut short by a full disk or a power failure can be \
read up to that point: at most about two seconds are lost.

With --ring it is a flight recorder: nothing is written until SIGUSR1 (`kill -USR1 PID`) or the end, \
and then the events of the last TIME, up to the signal. Leave it running, and send SIGUSR1 when \
something has happened. The next SIGUSR1 overwrites the file; --rotate keeps several.

Such a file, and each but the first of --max-bytes with --rotate, begins with what was known then of the \
sockets that were there: their owners, roles, states and times.

With -r FILE it copies a recording, or the part that the filters, --from, --to and --last select.";

/// The language of filters, and examples.
pub(crate) fn epilogue() -> String {
    language_of(Moment::Always) + "\n" + EXAMPLES
}

const EXAMPLES: &str = "\
Examples:
  tcpstate record -w FILE --duration 1m     one minute
  tcpstate record -w FILE -P 443            one service, until Ctrl-C
  tcpstate record -w FILE --max-bytes 100M --rotate 5
                                            the last 500 MB at most, in 5 files
  tcpstate record -w FILE host 10.0.0.7     one peer's connections
  tcpstate record --ring 5m -w FILE         the last 5 minutes, on SIGUSR1
  ssh HOST sudo tcpstate record -w - | tcpstate life -r -
                                            another host's events, live
  tcpstate record -r FILE -P 443 -w SMALLER
                                            a part of a recording";

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{Cli, Command};

    fn record(arguments: &[&str]) -> Result<Record, clap::Error> {
        let words = ["tcpstate", "record"].iter().chain(arguments);
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Record(record) => record,
            _ => unreachable!("the words say record"),
        })
    }

    #[test]
    fn recordings_are_bounded_as_asked() {
        let plain = record(&["-w", "a"]).unwrap();
        assert_eq!(
            (plain.max_bytes, plain.rotate, plain.ring),
            (None, None, None)
        );
        let many = record(&["-w", "a", "--max-bytes", "1G", "--rotate", "5"]).unwrap();
        assert_eq!((many.max_bytes, many.rotate), (Some(1 << 30), Some(5)));
        let ring = record(&["--ring", "5m", "-w", "a", "--rotate", "3"]).unwrap();
        assert_eq!(ring.ring, Some(Duration::from_mins(5)));
        assert_eq!(ring.ring_memory, 256 << 20);
    }

    #[test]
    fn malformed_recording_arguments_are_refused() {
        for (arguments, reason) in [
            (&[][..], "--write <FILE>"),
            (&["-w", "a", "--rotate", "5"], "--max-bytes <SIZE>"),
            (&["-wa", "--max-bytes=1M", "--rotate=1"], "1 is not in 2.."),
            (
                &["-wa", "--ring=5m", "--max-bytes=1M"],
                "cannot be used with",
            ),
            (&["-wa", "--ring-memory=1M"], "--ring <TIME>"),
        ] {
            let error = record(arguments).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(reason), "{arguments:?}: {error}");
        }
    }
}
