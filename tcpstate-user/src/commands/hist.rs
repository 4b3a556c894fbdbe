//! `tcpstate hist`.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use jiff::tz::TimeZone;
use tcpstate_text::{
    format::{bar::wants_unicode, text::wants_colour},
    hist::{Hist, Options},
};

use crate::{
    message::say,
    watch::{limits, watch},
};

pub(crate) fn run(arguments: &tcpstate_cli::Hist) -> anyhow::Result<ExitCode> {
    let limits = limits(arguments.bounds);
    let mut view = Hist::new(&Options {
        format: arguments.watch.output.format(),
        of: arguments.of,
        states: arguments.state,
        causes: arguments.cause.clone(),
        interval: arguments.interval,
        count: arguments.watch.count,
        limits,
        colour: wants_colour(&io::stdout()),
        unicode: wants_unicode(&io::stdout()),
        zone: TimeZone::system(),
    });
    let watched = &arguments.watch;
    if watched.read.is_none()
        && watched.duration.is_none()
        && arguments.interval.is_none()
        && io::stderr().is_terminal()
    {
        // Nothing is printed until then.
        say("watching; Ctrl-C shows the histograms");
    }
    watch(watched, limits, &mut view)
}
