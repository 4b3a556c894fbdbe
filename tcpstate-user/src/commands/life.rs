//! `tcpstate life`.

use std::process::ExitCode;

use tcpstate_core::expression::{Expression, Moment};
use tcpstate_text::life::{LAYOUT, Life, Options};

use crate::{
    selection::Selection,
    watch::{columns, settings, watch},
};

pub(crate) fn run(arguments: &tcpstate_cli::Life) -> anyhow::Result<ExitCode> {
    let mut selection = Selection::of("life", Moment::End, &arguments.watch)?;
    // The view judges what is only known at the end.
    selection.before_view = selection.whole.lasting();
    let expression = if selection.before_view == selection.whole {
        Expression::default()
    } else {
        selection.whole.clone()
    };
    let settings = settings(&arguments.watch, arguments.bounds, arguments.times.time);
    let limits = settings.limits;
    let mut view = Life::new(&Options {
        settings,
        live: arguments.live,
        until: arguments.until,
        expression,
        states: arguments.state,
        causes: arguments.cause.clone(),
        longer_than: arguments.longer_than,
        count: arguments.watch.count,
        columns: columns(&LAYOUT, &arguments.columns),
        time: arguments.times.time.is_some(),
        timestamp: arguments.times.timestamp,
        reset_reason: arguments.reset_reason,
    });
    watch(&arguments.watch, &selection, limits, &mut view)
}
