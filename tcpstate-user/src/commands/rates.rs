//! `tcpstate rates`.

use std::process::ExitCode;

use tcpstate_cli::Cli;
use tcpstate_core::{duration::nanoseconds, escape::Printable, expression::Moment};
use tcpstate_text::rates::{Options, Rates};

use crate::{
    selection::Selection,
    watch::{settings, watch_or_count},
};

pub(crate) fn run(mut arguments: tcpstate_cli::Rates) -> anyhow::Result<ExitCode> {
    arguments.watch.duration = arguments.duration();
    arguments.watch.expression = arguments.words();
    let selection = Selection::of("rates", Moment::Always, &arguments.watch)?;
    if arguments.in_kernel
        && !arguments.watch.explain_filter
        && let Some(rest) = selection.not_in_kernel()
    {
        let why = format!(
            "--in-kernel cannot be used with `{}`: the kernel cannot decide it, and no events are streamed",
            Printable(rest.to_string().as_bytes())
        );
        Cli::refuse("rates", &why);
    }
    let settings = settings(
        &arguments.watch,
        arguments.bounds,
        Some(arguments.grouping.time),
    );
    let limits = settings.limits;
    let mut view = Rates::new(&Options {
        settings,
        interval_ns: nanoseconds(arguments.interval()),
        by: arguments.grouping.by,
        in_kernel: arguments.in_kernel,
    });
    let tally = arguments.tally();
    watch_or_count(&arguments.watch, &selection, limits, tally, &mut view)
}
