//! The binary `tcpstate`: the table of contents. Each command has a file in `commands`.

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

mod commands;
mod input;
mod looks;
mod message;
mod part;
mod selection;
mod unwatched;
mod watch;
mod zone;

use std::process::ExitCode;

use tcpstate_cli::{Cli, Command};

#[cfg(feature = "serve")]
use self::commands::serve;
use self::{
    commands::{diagnose, doctor, explain, help, hist, life, ls, rates, record, top, trace},
    message::BadUsage,
};

/// The exit status of bad usage, as clap has it.
const BAD_USAGE: u8 = 2;
/// The exit status of a command that has done its work, but knows that something is missing from the result.
const INCOMPLETE: u8 = 3;

fn main() -> ExitCode {
    let result = match Cli::of_process().command {
        Command::Trace(arguments) => trace::run(&arguments),
        Command::Life(arguments) => life::run(&arguments),
        Command::Hist(arguments) => hist::run(&arguments),
        Command::Rates(arguments) => rates::run(arguments),
        Command::Record(arguments) => record::run(&arguments),
        Command::Ls(arguments) => ls::run(&arguments),
        Command::Diagnose(arguments) => diagnose::run(arguments),
        Command::Top(arguments) => top::run(arguments),
        #[cfg(feature = "serve")]
        Command::Serve(arguments) => serve::run(arguments),
        #[cfg(not(feature = "serve"))]
        Command::Serve(_) => Err(anyhow::anyhow!(
            "this build of tcpstate has no `serve`: it was left out (feature `serve`)"
        )),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Help(arguments) => help::run(&arguments),
    };
    result.unwrap_or_else(|error| {
        message::explain(&error);
        if error.is::<BadUsage>() {
            ExitCode::from(BAD_USAGE)
        } else {
            ExitCode::FAILURE
        }
    })
}
