//! Messages to the user, on standard error.

use std::{
    error::Error,
    fmt,
    io::{self, Write as _},
};

use tcpstate::run::stderr;
use tcpstate_capture::{CaptureError, sockdiag::DumpError};
use tcpstate_cli::Output;
use tcpstate_core::{error::chain, source::SourceError};
use tcpstate_recording::WriteError;

/// Arguments that cannot be combined, which shows only when the command runs: the exit status is that of bad usage.
#[derive(Debug)]
pub(crate) struct BadUsage(pub(crate) String);

impl fmt::Display for BadUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for BadUsage {}

/// Writes an error with its causes, and its remedy.
pub(crate) fn explain(error: &anyhow::Error) {
    let message = message(error);
    if error.chain().any(has_log) {
        say_lines(&message);
    } else {
        // A line feed in it came with a name.
        say(&message);
    }
    let remedy = error.chain().find_map(remedy);
    if let Some(remedy) = remedy {
        // It may have a command line of its own to be copied.
        say_lines(&remedy);
    }
}

/// Whether it has the verifier's log, which has many lines and no name of others.
fn has_log(cause: &(dyn Error + 'static)) -> bool {
    matches!(
        cause.downcast_ref(),
        Some(CaptureError::Load { .. } | CaptureError::NoMode { .. })
    )
}

/// Writes a text that has lines of its own.
fn say_lines(text: &str) {
    for (at, line) in text.lines().enumerate() {
        if at == 0 {
            say(line);
        } else {
            let _ = writeln!(stderr::open(), "{line}");
        }
    }
}

fn remedy(cause: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = cause.downcast_ref::<SourceError>() {
        return remedy(error.get_ref());
    }
    let capture = || cause.downcast_ref::<CaptureError>()?.remedy();
    let dump = || Some(cause.downcast_ref::<DumpError>()?.remedy()?.to_owned());
    capture().or_else(dump)
}

/// An error and its causes.
fn message(error: &anyhow::Error) -> String {
    let recording = error.chain().find_map(|cause| {
        let cause: &io::Error = cause.downcast_ref()?;
        cause.get_ref().filter(|inner| inner.is::<WriteError>())
    });
    if let Some(error) = recording {
        // Its text has everything.
        return error.to_string();
    }
    chain(error.as_ref())
}

/// Writes a line to standard error, whatever is in the text. A failure is ignored: there is no other place to report it.
pub(crate) fn say(text: &str) {
    let _ = writeln!(stderr::open(), "tcpstate: {text}");
}

/// Says something that a user who wants no notes need not know.
pub(crate) fn note(output: Output, text: &str) {
    if !output.quiet {
        say(text);
    }
}
