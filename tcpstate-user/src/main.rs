//! The binary `tcpstate`: parse, run, turn an error into a message and an exit code.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use jiff::tz::TimeZone;
use tcpstate_user::{
    capture::{self, CaptureError, Live, live, loader::Mode, probe},
    cli::{self, Attach, Capture, Cli, Command, Watch},
    filter::Filter,
    format::{bar, text, units::Bytes},
    recording::Reader,
    run::{self, Outcome, Outputs, View, signals, stdout},
    source::EventSource,
    view::{self, hist, life, trace},
};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Trace(arguments) => {
            let mut view = trace::Trace::new(&trace::Options {
                format: arguments.watch.output.format(),
                states: arguments.states.set,
                count: arguments.watch.count,
                time: arguments.time,
                timestamp: arguments.timestamp,
                colour: text::wants_colour(&io::stdout()),
                zone: TimeZone::system(),
            });
            watch(&arguments.watch, &mut view).map(|()| ExitCode::SUCCESS)
        }
        Command::Life(arguments) => {
            let mut view = life::Life::new(&life::Options {
                format: arguments.watch.output.format(),
                live: arguments.live,
                states: arguments.state,
                longer_than: arguments.longer_than,
                role: arguments.role.map(Into::into),
                count: arguments.watch.count,
                time: arguments.time,
                colour: text::wants_colour(&io::stdout()),
                zone: TimeZone::system(),
            });
            watch(&arguments.watch, &mut view).map(|()| ExitCode::SUCCESS)
        }
        Command::Hist(arguments) => hist(&arguments),
        Command::Doctor(arguments) => doctor(arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            explain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Feeds a view until it ends.
fn watch(arguments: &Watch, view: &mut dyn View) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Before the source, which takes a while to start and would leave a Ctrl-C unheard.
        let reader_gone = stdout::reader_gone().context("cannot watch standard output")?;
        let mut interrupts = signals::Process::install(view.takes_usr1(), reader_gone)
            .context("cannot handle signals")?;
        let options = run::Options {
            duration: arguments.duration,
            filter: arguments.sockets.filter(),
            interactive: stdout::is_terminal(),
        };
        let mut source = open(arguments, &options.filter)?;
        let mut out = stdout::open().context("cannot open standard output")?;
        let outputs = Outputs {
            out: &mut out,
            err: &mut io::stderr(),
        };
        match run::drive(source.as_mut(), view, outputs, &mut interrupts, &options).await? {
            // A closed pipe ends quietly: whoever closed it has seen enough.
            Outcome::Finished | Outcome::ReaderGone => Ok(()),
        }
    })
}

fn open(arguments: &Watch, filter: &Filter) -> anyhow::Result<Box<dyn EventSource>> {
    if let Some(path) = &arguments.read {
        return Ok(Box::new(Reader::open(path)?));
    }
    let Capture {
        attach,
        ring_bytes,
        bpf_log,
    } = arguments.capture;
    let live = Live::start(&capture::Options {
        attach: match attach {
            Attach::Auto => live::Attach::Auto,
            Attach::Btf => live::Attach::Only(Mode::Btf),
            Attach::Tracepoint => live::Attach::Only(Mode::Tracepoint),
        },
        ring_bytes,
        filter: filter.kernel(),
        filters: filter.to_string(),
        bpf_log,
        bpf_stats: false,
    })?;
    for note in live.notes() {
        say(note);
    }
    if arguments.verbose {
        let origin = live.origin();
        let filters = if filter.wants_all() {
            "none"
        } else {
            &origin.filters
        };
        say(&format!(
            "attached to the kernel ({}) in {} mode, {} instructions; ring buffer {}; filters: \
             {filters}",
            origin.kernel,
            origin.attach,
            live.program_instructions()
                .map_or_else(|| "-".to_owned(), |count| count.to_string()),
            Bytes(ring_bytes.into()),
        ));
    }
    Ok(Box::new(live))
}

fn hist(arguments: &cli::Hist) -> anyhow::Result<ExitCode> {
    if let Err(error) = arguments.check() {
        error.exit();
    }
    let mut view = hist::Hist::new(&hist::Options {
        format: arguments.watch.output.format(),
        of: arguments.of,
        states: arguments.state,
        role: arguments.role.map(Into::into),
        interval: arguments.interval,
        count: arguments.watch.count,
        colour: text::wants_colour(&io::stdout()),
        unicode: bar::wants_unicode(&io::stdout()),
        zone: TimeZone::system(),
    });
    let watched = &arguments.watch;
    if watched.read.is_none()
        && watched.duration.is_none()
        && arguments.interval.is_none()
        && io::stderr().is_terminal()
    {
        // Nothing is printed until then.
        say("watching; Ctrl-C shows the histograms");
    }
    watch(watched, &mut view).map(|()| ExitCode::SUCCESS)
}

fn doctor(arguments: cli::Doctor) -> anyhow::Result<ExitCode> {
    let report = probe::probe(arguments.ring_bytes);
    let mut out = stdout::open().context("cannot open standard output")?;
    let written = if arguments.json {
        view::doctor::write_json(&report, &mut out)
    } else {
        view::doctor::write_text(&report, text::wants_colour(&io::stdout()), &mut out)
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

/// What was tried, why it failed, and what to do about it.
fn explain(error: &anyhow::Error) {
    say(&format!("{error:#}"));
    let remedy = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<CaptureError>()?.remedy());
    if let Some(remedy) = remedy {
        say(&remedy);
    }
}

/// Says something on standard error. If nobody listens there, there is nobody to tell.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "tcpstate: {text}");
}
