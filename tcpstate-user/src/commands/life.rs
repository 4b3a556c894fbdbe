//! `tcpstate life`.

use std::process::ExitCode;

use tcpstate_text::life::{LAYOUT, Life, Options};

use crate::watch::{columns, settings, watch};

pub(crate) fn run(arguments: &tcpstate_cli::Life) -> anyhow::Result<ExitCode> {
    let settings = settings(&arguments.watch, arguments.bounds, arguments.times.time);
    let limits = settings.limits;
    let mut view = Life::new(&Options {
        settings,
        live: arguments.live,
        until: arguments.until,
        states: arguments.state,
        causes: arguments.cause.clone(),
        longer_than: arguments.longer_than,
        count: arguments.watch.count,
        columns: columns(&LAYOUT, &arguments.columns),
        time: arguments.times.time.is_some(),
        timestamp: arguments.times.timestamp,
        reset_reason: arguments.reset_reason,
    });
    watch(&arguments.watch, limits, &mut view)
}
