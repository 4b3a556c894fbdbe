//! `tcpstate life`.

use std::{io, process::ExitCode};

use jiff::tz::TimeZone;
use tcpstate_text::{
    format::text::wants_colour,
    life::{Life, Options},
};

use crate::watch::{limits, watch};

pub(crate) fn run(arguments: &tcpstate_cli::Life) -> anyhow::Result<ExitCode> {
    let limits = limits(arguments.bounds);
    let mut view = Life::new(&Options {
        format: arguments.watch.output.format(),
        live: arguments.live,
        until: arguments.until,
        states: arguments.state,
        causes: arguments.cause.clone(),
        longer_than: arguments.longer_than,
        count: arguments.watch.count,
        time: arguments.time,
        limits,
        colour: wants_colour(&io::stdout()),
        zone: TimeZone::system(),
    });
    watch(&arguments.watch, limits, &mut view)
}
