//! `tcpstate trace`.

use std::{io, process::ExitCode};

use jiff::tz::TimeZone;
use tcpstate_text::{
    format::text::wants_colour,
    trace::{Options, Trace},
};

use crate::watch::{limits, watch};

pub(crate) fn run(arguments: &tcpstate_cli::Trace) -> anyhow::Result<ExitCode> {
    let limits = limits(arguments.bounds);
    let mut view = Trace::new(&Options {
        format: arguments.watch.output.format(),
        states: arguments.states.set,
        count: arguments.watch.count,
        time: arguments.time,
        timestamp: arguments.timestamp,
        limits,
        colour: wants_colour(&io::stdout()),
        zone: TimeZone::system(),
    });
    watch(&arguments.watch, limits, &mut view)
}
