//! `tcpstate doctor`.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use tcpstate::run::stdout;
use tcpstate_capture::probe;
use tcpstate_text::{doctor, format::text::wants_colour};

pub(crate) fn run(arguments: tcpstate_cli::Doctor) -> anyhow::Result<ExitCode> {
    let report = probe::probe(arguments.ring_bytes);
    let mut out = stdout::open();
    let written = if arguments.json {
        doctor::write_json(&report, &mut out)
    } else {
        let colour = wants_colour(&rustix::stdio::stdout());
        doctor::write_text(&report, colour, stdout::width(), &mut out)
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the output")
        }
        _ => Ok(if report.attach.is_some() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }),
    }
}
