//! `tcpstate record`.

use std::process::ExitCode;

use anyhow::bail;
use tcpstate::recorder::{self, Record, To};
use tcpstate_core::{duration::nanoseconds, model::Limits};
use tcpstate_recording::{self as recording, FlightOptions};

use crate::watch::watch;

pub(crate) fn run(arguments: &tcpstate_cli::Record) -> anyhow::Result<ExitCode> {
    if let Some(read) = &arguments.watch.read
        && recording::are_same_file(read, &arguments.write)
    {
        bail!(
            "{} is what is being read: name another file with -w",
            arguments.write.display()
        );
    }
    let files = arguments.rotate.unwrap_or(1);
    let to = match arguments.ring {
        Some(keep) => To::Memory(FlightOptions {
            keep_ns: nanoseconds(keep),
            memory_bytes: arguments.ring_memory,
            files,
            ..FlightOptions::default()
        }),
        None => To::File(recording::Options {
            max_bytes: arguments.max_bytes,
            files,
            ..recording::Options::default()
        }),
    };
    let mut view = Record::new(recorder::Options {
        path: arguments.write.clone(),
        format: arguments.watch.output.format(),
        to,
    });
    if let Some(count) = arguments.watch.count {
        view = view.ending_after(count);
    }
    watch(&arguments.watch, Limits::default(), &mut view)
}
