//! `tcpstate trace`.

use std::process::ExitCode;

use tcpstate_core::expression::Moment;
use tcpstate_text::trace::{LAYOUT, Options, Trace};

use crate::{
    selection::Selection,
    watch::{columns, settings, watch},
};

pub(crate) fn run(arguments: &tcpstate_cli::Trace) -> anyhow::Result<ExitCode> {
    let selection = Selection::of("trace", Moment::Change, &arguments.watch)?;
    let settings = settings(&arguments.watch, arguments.bounds, arguments.times.time);
    let limits = settings.limits;
    let mut view = Trace::new(&Options {
        settings,
        states: arguments.states.set,
        count: arguments.watch.count,
        columns: columns(&LAYOUT, &arguments.columns),
        time: arguments.times.time.is_some(),
        timestamp: arguments.times.timestamp,
        reset_reason: arguments.reset_reason,
    });
    watch(&arguments.watch, &selection, limits, &mut view)
}
