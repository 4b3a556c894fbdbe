//! The command line of tcpstate: commands, arguments, help.
//!
//! It parses them, and looks up what they name: a network namespace's inode number, a user's number in
//! `/etc/passwd`. It runs no command.
//!
//! It knows every command, whatever the binary was built with, so that help and man pages do not vary.
//! Each command has a file of its own; [`Watch`] holds the arguments that all commands that watch share.

#![expect(
    missing_docs,
    reason = "the doc comment of an argument is its help; a flattened group has its docs at its type"
)]
// Bad input is reported; it never ends the process.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::string_slice,
        clippy::unwrap_used
    )
)]

mod bounds;
mod capture;
mod choice;
mod column_args;
pub mod config;
mod conflict;
mod diagnose;
mod doctor;
mod explain;
mod expression;
pub mod filter;
mod grouping;
mod headings;
mod help;
mod hist;
mod life;
mod listed;
mod lookup;
mod ls;
mod owner_args;
mod part_args;
pub mod quantity;
mod rates;
mod record;
mod serve;
pub mod settings_file;
mod sockets;
mod time_args;
mod top;
mod trace;
mod watch;

use std::{env, ffi::OsString, os::unix::ffi::OsStrExt as _};

use clap::{Arg, CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use tcpstate_core::escape::Printable;

use self::conflict::Conflict;
pub use self::{
    bounds::Bounds,
    capture::Capture,
    column_args::ColumnArgs,
    diagnose::Diagnose,
    doctor::Doctor,
    explain::Explain,
    expression::parse_expression,
    grouping::Grouping,
    help::Help,
    hist::Hist,
    life::Life,
    lookup::HostNames,
    ls::Ls,
    owner_args::{CommArg, OwnerArgs},
    part_args::{Moment, PartArgs},
    rates::Rates,
    record::Record,
    serve::{Serve, UserArg},
    sockets::{EndpointArgs, NetnsArg, Sockets},
    time_args::TimeArgs,
    top::Top,
    trace::{States, Trace},
    watch::{Output, Watch},
};

/// The widest line of help. On a narrower terminal, help is wrapped at the terminal's width.
pub const HELP_WIDTH: usize = 100;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "tcpstate",
    version,
    about = "Shows every TCP state change on this host, and how long connections spent in each state",
    long_about = "Shows every TCP state change on this host as it happens, and how long connections \
        spent in each state.\n\n\
        Data goes to standard output, everything else to standard error. Ctrl-C ends a run with its \
        summary.\n\n\
        Exit status: 0 success; 1 failure; 2 usage error; 3 incomplete, which means that the command has \
        done its work, but that something is missing from the result: changes were lost, a recording is cut or \
        damaged, or sockets could not be listed. The summary says what.",
    after_help = "`tcpstate COMMAND --help` explains a command and gives examples.\n\
        Watching the live kernel requires root, or CAP_BPF and CAP_PERFMON.",
    max_term_width = HELP_WIDTH,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The command line of this process. Help, the version and bad usage end the process.
    pub fn of_process() -> Self {
        Self::of(&env::args_os().collect::<Vec<_>>()).unwrap_or_else(|error| error.exit())
    }

    /// Reads a command line. The error is harmless, whatever the arguments are.
    fn of(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let parse = |arguments| Self::try_parse_from(arguments).and_then(Self::checked);
        let error = match parse(arguments) {
            Ok(cli) => return Ok(cli),
            Err(error) => error,
        };
        // Its text has lines of its own and quotes arguments: so the arguments are made printable, and fail again.
        let printable = |argument: &OsString| Printable(argument.as_bytes()).to_string().into();
        let printable: Vec<OsString> = arguments.iter().map(printable).collect();
        if printable == arguments {
            return Err(error);
        }
        Err(parse(&printable).err().unwrap_or_else(|| {
            let why = "an argument has characters that cannot stand there";
            Self::command().error(error.kind(), why)
        }))
    }

    /// Ends the process as bad usage of this command does.
    pub fn refuse(command: &str, why: &str) -> ! {
        Self::error_of(command, ErrorKind::InvalidValue, why).exit()
    }

    fn error_of(command: &str, kind: ErrorKind, why: &str) -> clap::Error {
        let mut cli = Self::command();
        // Otherwise the usage line would lack the name of the program.
        cli.build();
        match cli.find_subcommand_mut(command) {
            Some(command) => command.error(kind, why),
            None => cli.error(kind, why),
        }
    }

    /// The same, if its arguments can be combined.
    ///
    /// *Errors:* a conflict that clap cannot express.
    pub fn checked(self) -> Result<Self, clap::Error> {
        let (name, checked) = match &self.command {
            Command::Diagnose(diagnose) => ("diagnose", diagnose.check()),
            Command::Hist(hist) => ("hist", hist.check()),
            Command::Rates(rates) => ("rates", rates.check()),
            Command::Record(record) => ("record", record.check()),
            Command::Top(top) => ("top", top.check()),
            Command::Serve(serve) => ("serve", serve.check()),
            _ => return Ok(self),
        };
        match checked {
            Ok(()) => Ok(self),
            Err(Conflict(why)) => Err(Self::error_of(name, ErrorKind::ArgumentConflict, &why)),
        }
    }
}

/// Changes one argument of a command. Unlike `mut_arg`, it leaves it in its place.
fn change(id: &str, change: impl Fn(Arg) -> Arg) -> impl FnMut(Arg) -> Arg {
    move |argument| {
        if argument.get_id() == id {
            change(argument)
        } else {
            argument
        }
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print a line per state change
    #[command(long_about = trace::ABOUT, after_help = trace::epilogue())]
    Trace(Trace),
    /// Print a line per closed connection: time in each state, cause, bytes
    #[command(long_about = life::ABOUT, after_help = life::epilogue())]
    Life(Life),
    /// Print histograms of the time in each state, by service port
    #[command(
        long_about = hist::ABOUT,
        after_help = hist::epilogue(),
        mut_args(change("count", |count| {
            count.help("End after this many intervals").requires("interval")
        }))
    )]
    Hist(Hist),
    /// Count state changes, and print their rates every interval
    #[command(
        long_about = rates::ABOUT,
        after_help = rates::epilogue(),
        mut_args(change("count", |count| {
            count.help("End after this many intervals, the same as COUNT")
        }))
    )]
    Rates(Rates),
    /// Write the events to a file, for other commands to read with -r
    #[command(
        long_about = record::ABOUT,
        after_help = record::epilogue(),
        mut_args(change("count", |count| count.help("End after this many events"))),
        mut_args(change("json", |json| {
            json.help(
                "Write the summary as JSON on standard output; with `-w -`, it still goes to standard \
                    error as text",
            )
        })),
        mut_args(change("csv", |csv| csv.hide(true)))
    )]
    Record(Record),
    /// List the sockets that exist now
    #[command(long_about = ls::ABOUT, after_help = ls::epilogue())]
    Ls(Ls),
    /// Say what is wrong with connections, whose they are, and what to do
    #[command(
        long_about = diagnose::ABOUT,
        after_help = diagnose::epilogue(),
        mut_args(change("count", |count| {
            count.help("End after this many lines about findings").requires("follow")
        })),
        mut_args(change("csv", |csv| csv.hide(true)))
    )]
    Diagnose(Diagnose),
    /// Show rates, states, findings, services and connections in a terminal, live
    #[command(
        long_about = top::ABOUT,
        after_help = top::epilogue(),
        mut_args(change("count", |count| count.help("End after this many intervals"))),
        mut_args(change("json", |json| json.hide(true))),
        mut_args(change("csv", |csv| csv.hide(true)))
    )]
    Top(Top),
    /// Serve metrics for Prometheus and the health of the run, over HTTP
    #[command(
        long_about = serve::ABOUT,
        after_help = serve::epilogue(),
        mut_args(change("json", |json| json.help("Write the summary as JSON on standard output"))),
        mut_args(change("max_ports", |max| {
            max.default_value("128").help(
                "Label at most this many service ports; the rest is `other`. Without --ports, a port gets its label when it has \
                lasted or is frequent, and keeps it (docs/metrics.md)",
            )
        })),
        mut_args(serve::hide_others)
    )]
    Serve(Serve),
    /// Explain a TCP state, a cause, a finding or a field; without one, draw the state diagram
    #[command(long_about = explain::ABOUT, after_help = explain::EXAMPLES)]
    Explain(Explain),
    /// Test what this host allows, and report what is missing
    #[command(long_about = doctor::ABOUT)]
    Doctor(Doctor),
    /// Explain a command, or the filter expressions: `tcpstate help filter`
    Help(Help),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses arguments of `tcpstate trace`.
    pub(crate) fn trace(arguments: &[&str]) -> Result<Trace, clap::Error> {
        let words = ["tcpstate", "trace"].iter().chain(arguments);
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Trace(trace) => trace,
            _ => unreachable!("the words say trace"),
        })
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_conflict_shows_the_usage_of_its_command() {
        for (words, usage) in [
            (
                &["hist", "--cause", "fin"][..],
                "Usage: tcpstate hist [OPTIONS]",
            ),
            (
                &["rates", "--in-kernel", "--by", "comm"],
                "Usage: tcpstate rates [OPTIONS]",
            ),
            (
                &["record", "--csv", "-w", "a"],
                "Usage: tcpstate record [OPTIONS] --write <FILE>",
            ),
        ] {
            let words = ["tcpstate"].iter().chain(words);
            let error = Cli::try_parse_from(words)
                .and_then(Cli::checked)
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ArgumentConflict);
            assert!(error.to_string().contains(usage), "{error}");
        }
    }

    /// The lines below the heading `Examples:` of each command.
    fn examples() -> Vec<String> {
        let cli = Cli::command();
        let epilogues = cli
            .get_subcommands()
            .filter_map(|command| command.get_after_help());
        epilogues
            .flat_map(|epilogue| {
                let epilogue = epilogue.to_string();
                let examples = epilogue.lines().skip_while(|line| *line != "Examples:");
                let lines: Vec<_> = examples.skip(1).map(str::to_owned).collect();
                lines
            })
            .collect()
    }

    /// The arguments of each `tcpstate` in an example, which its caption follows after a gap.
    fn command_lines(example: &str) -> impl Iterator<Item = &str> {
        example.split(" | ").filter_map(|command| {
            let (_, words) = command.split_once("tcpstate ")?;
            words.split("  ").next()
        })
    }

    #[test]
    fn examples_are_valid_command_lines() {
        let examples = examples();
        let lines: Vec<_> = examples
            .iter()
            .flat_map(|line| command_lines(line))
            .collect();
        // Each command but `doctor` has several.
        assert!(lines.len() > 30, "{lines:?}");
        for line in lines {
            let words = ["tcpstate"].into_iter().chain(line.split_whitespace());
            let parsed = Cli::try_parse_from(words);
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
        }
    }

    /// A wrapped example could not be copied, and its caption would not line up.
    #[test]
    fn examples_fit_80_columns() {
        for line in examples() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
