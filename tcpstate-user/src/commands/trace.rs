//! `tcpstate trace`.

use std::process::ExitCode;

use tcpstate_core::{expression::Moment, options::PacketOrder};
use tcpstate_text::{
    packets::{self, Packets},
    trace::{LAYOUT, Options, Trace},
};

use crate::{
    input,
    selection::Selection,
    watch::{columns, settings, watch},
};

pub(crate) fn run(arguments: &tcpstate_cli::Trace) -> anyhow::Result<ExitCode> {
    let selection = Selection::of("trace", Moment::Change, &arguments.watch)?;
    let settings = settings(&arguments.watch, arguments.bounds, arguments.times.time);
    let limits = settings.limits;
    if let Some(order) = arguments.packets {
        // A pipe may have no end: a connection would not be shown before it.
        let is_file = arguments.watch.read.as_deref().is_some_and(input::is_file);
        let order = order.unwrap_or(if is_file {
            PacketOrder::ByConnection
        } else {
            PacketOrder::Interleaved
        });
        let mut view = Packets::new(&packets::Options { settings, order });
        return watch(&arguments.watch, &selection, limits, &mut view);
    }
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
