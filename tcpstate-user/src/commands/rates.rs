//! `tcpstate rates`.

use std::process::ExitCode;

use tcpstate_core::duration::nanoseconds;
use tcpstate_text::rates::{Options, Rates};

use crate::watch::{settings, watch_or_count};

pub(crate) fn run(mut arguments: tcpstate_cli::Rates) -> anyhow::Result<ExitCode> {
    let settings = settings(
        &arguments.watch,
        arguments.bounds,
        Some(arguments.grouping.time),
    );
    let limits = settings.limits;
    let mut view = Rates::new(&Options {
        settings,
        interval_ns: nanoseconds(arguments.interval),
        by: arguments.grouping.by,
        in_kernel: arguments.in_kernel,
    });
    arguments.watch.duration = arguments.duration();
    watch_or_count(&arguments.watch, limits, arguments.tally(), &mut view)
}
