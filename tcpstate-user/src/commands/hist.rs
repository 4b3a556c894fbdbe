//! `tcpstate hist`.

use std::{io::IsTerminal as _, process::ExitCode};

use tcpstate_core::expression::Moment;
use tcpstate_text::{
    format::bar::wants_unicode,
    hist::{Hist, Options},
};

use crate::{
    message::note,
    selection::Selection,
    watch::{settings, watch},
};

pub(crate) fn run(arguments: &tcpstate_cli::Hist) -> anyhow::Result<ExitCode> {
    let selection = Selection::of("hist", Moment::Always, &arguments.watch)?;
    let settings = settings(
        &arguments.watch,
        arguments.bounds,
        Some(arguments.grouping.time),
    );
    let limits = settings.limits;
    let mut view = Hist::new(&Options {
        settings,
        of: arguments.of,
        by: arguments.grouping.by,
        states: arguments.state,
        causes: arguments.cause.clone(),
        interval: arguments.interval,
        count: arguments.watch.count,
        unicode: wants_unicode(&rustix::stdio::stdout()),
    });
    let watched = &arguments.watch;
    if watched.read.is_none()
        && watched.duration.is_none()
        && arguments.interval.is_none()
        && !watched.explain_filter
        && rustix::stdio::stderr().is_terminal()
    {
        // Nothing is printed until then.
        note(watched.output, "watching; Ctrl-C shows the histograms");
    }
    watch(watched, &selection, limits, &mut view)
}
