//! `tcpstate rates`.

use std::{io, process::ExitCode};

use jiff::tz::TimeZone;
use tcpstate_core::{duration::nanoseconds, model::Limits};
use tcpstate_text::{
    format::text::wants_colour,
    rates::{Options, Rates},
};

use crate::watch::{limits, watch_or_count};

pub(crate) fn run(mut arguments: tcpstate_cli::Rates) -> anyhow::Result<ExitCode> {
    let limits = limits(arguments.bounds);
    let mut view = Rates::new(&Options {
        format: arguments.watch.output.format(),
        interval_ns: nanoseconds(arguments.interval),
        by: arguments.by,
        in_kernel: arguments.in_kernel,
        limits: if arguments.in_kernel {
            // The bound is that of the kernel's table; here it would hide sockets that a dump has.
            Limits {
                max_connections: usize::MAX,
                ..limits
            }
        } else {
            limits
        },
        colour: wants_colour(&io::stdout()),
        zone: TimeZone::system(),
    });
    arguments.watch.duration = arguments.duration();
    watch_or_count(&arguments.watch, limits, arguments.tally(), &mut view)
}
