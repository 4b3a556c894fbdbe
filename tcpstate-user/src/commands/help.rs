//! `tcpstate help`.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use tcpstate::run::stdout;

pub(crate) fn run(arguments: &tcpstate_cli::Help) -> anyhow::Result<ExitCode> {
    let mut out = stdout::open();
    let text = arguments.text();
    let mut lines = text.lines();
    let written = lines.try_for_each(|line| writeln!(out, "{line}"));
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the output")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
