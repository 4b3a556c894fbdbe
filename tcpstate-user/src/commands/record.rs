//! `tcpstate record`.

use std::{
    fs, io,
    os::unix::fs::FileTypeExt as _,
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tcpstate::{
    recorder::{self, Record, To},
    run::stream::Stream,
};
use tcpstate_cli::Watch;
use tcpstate_core::{duration::nanoseconds, expression::Moment, model::Limits};
use tcpstate_recording::{self as recording, FlightOptions};

use crate::{message::note, selection::Selection, watch::watch};

/// Interval at which a FIFO is tried: no event tells of a reader that waits for its writer.
const RETRY: Duration = Duration::from_millis(50);

pub(crate) fn run(arguments: &tcpstate_cli::Record) -> anyhow::Result<ExitCode> {
    let files = arguments.rotate.unwrap_or(1);
    if let Some(read) = &arguments.watch.read
        && let Some(path) = recording::overwrites(read, &arguments.write, files)
    {
        bail!(
            "{} is what is being read: name another file with -w",
            path.display()
        );
    }
    let selection = Selection::of("record", Moment::Always, &arguments.watch)?;
    // It stays open until the recording has it open too.
    let _reader = match arguments.ring {
        None if !arguments.watch.explain_filter => {
            await_reader(&arguments.write, &arguments.watch)?
        }
        _ => None,
    };
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
    })
    .quietly(arguments.watch.output.quiet);
    if let Some(count) = arguments.watch.count {
        view = view.ending_after(count);
    }
    watch(&arguments.watch, &selection, Limits::default(), &mut view)
}

/// Waits until a FIFO has a reader, at most for the time of the run. Nothing is attached yet, and signals have their usual
/// effect.
fn await_reader(path: &Path, watched: &Watch) -> anyhow::Result<Option<Stream>> {
    if !fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
        return Ok(None);
    }
    let (begun, longest) = (Instant::now(), watched.duration);
    let mut has_said = false;
    loop {
        match Stream::open(path) {
            Ok(stream) => return Ok(Some(stream)),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot create {}", path.display()));
            }
        }
        if longest.is_some_and(|longest| begun.elapsed() >= longest) {
            bail!(
                "no program has opened {} for reading: nothing was recorded",
                path.display()
            );
        }
        if !has_said {
            let text = format!("waiting for a reader of {}", path.display());
            note(watched.output, &text);
            has_said = true;
        }
        thread::sleep(RETRY);
    }
}
