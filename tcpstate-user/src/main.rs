//! The binary `tcpstate`: parse, run, turn an error into a message and an exit code.

#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unwrap_used
    )
)]

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Parser;
use jiff::tz::TimeZone;
use tcpstate_common::State;
use tcpstate_user::{
    capture::{
        self, CaptureError, Live,
        cgroups::{self, CgroupError},
        inventory::Inventory,
        live,
        loader::{Mode, TallySize},
        netns::Wanted,
        probe,
        sockdiag::{DumpError, Request},
    },
    cli::{self, Attach, Capture, Cli, Command, Watch, Whose},
    filter::{CgroupTree, Family, OwnerFilter, StateSet},
    format::{bar, text, units::Bytes},
    model::{self, Limits},
    recording::{self, FlightOptions, Reader, WriteError},
    run::{
        self, Outcome, Outputs, View, descriptors, nanoseconds,
        progress::{self, WithProgress},
        signals, stdout,
    },
    source::EventSource,
    view::{self, hist, life, rates, record, trace},
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
                limits: limits(arguments.bounds),
                colour: text::wants_colour(&io::stdout()),
                zone: TimeZone::system(),
            });
            watch(&arguments.watch, limits(arguments.bounds), &mut view).map(|()| ExitCode::SUCCESS)
        }
        Command::Life(arguments) => {
            let mut view = life::Life::new(&life::Options {
                format: arguments.watch.output.format(),
                live: arguments.live,
                until: arguments.until,
                states: arguments.state,
                causes: arguments.cause,
                longer_than: arguments.longer_than,
                count: arguments.watch.count,
                time: arguments.time,
                limits: limits(arguments.bounds),
                colour: text::wants_colour(&io::stdout()),
                zone: TimeZone::system(),
            });
            watch(&arguments.watch, limits(arguments.bounds), &mut view).map(|()| ExitCode::SUCCESS)
        }
        Command::Hist(arguments) => hist(&arguments),
        Command::Rates(mut arguments) => {
            if let Err(error) = arguments.check() {
                error.exit();
            }
            let mut view = rates::Rates::new(&rates::Options {
                format: arguments.watch.output.format(),
                interval_ns: nanoseconds(arguments.interval),
                by: match arguments.by {
                    cli::By::Port => model::By::Port,
                    cli::By::Role => model::By::Role,
                    cli::By::Comm => model::By::Comm,
                    cli::By::Cgroup => model::By::Cgroup,
                },
                in_kernel: arguments.in_kernel,
                limits: if arguments.in_kernel {
                    // The bound is that of the kernel's table; here it would cut what lists say is there.
                    Limits {
                        max_connections: usize::MAX,
                        ..limits(arguments.bounds)
                    }
                } else {
                    limits(arguments.bounds)
                },
                colour: text::wants_colour(&io::stdout()),
                zone: TimeZone::system(),
            });
            arguments.watch.duration = arguments.duration();
            let tally = arguments.tally();
            watch_or_count(&arguments.watch, limits(arguments.bounds), tally, &mut view)
                .map(|()| ExitCode::SUCCESS)
        }
        Command::Record(arguments) => record(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Ls(arguments) => ls(&arguments).map(|()| ExitCode::SUCCESS),
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

fn record(arguments: &cli::Record) -> anyhow::Result<()> {
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
        Some(keep) => record::To::Memory(FlightOptions {
            keep_ns: nanoseconds(keep),
            memory_bytes: arguments.ring_memory,
            files,
            ..FlightOptions::default()
        }),
        None => record::To::File(recording::Options {
            max_bytes: arguments.max_bytes,
            files,
            ..recording::Options::default()
        }),
    };
    let mut view = record::Record::new(record::Options {
        path: arguments.write.clone(),
        format: arguments.watch.output.format(),
        to,
    });
    if let Some(count) = arguments.watch.count {
        view = view.ending_after(count);
    }
    watch(&arguments.watch, Limits::default(), &mut view)
}

fn limits(bounds: cli::Bounds) -> Limits {
    // 32 bits fit on every machine that this runs on.
    let number = |number| usize::try_from(number).unwrap_or(usize::MAX);
    Limits {
        max_connections: number(bounds.max_connections),
        max_ports: number(bounds.max_ports),
        ..Limits::default()
    }
}

/// Feeds a view until it ends.
fn watch(arguments: &Watch, limits: Limits, view: &mut dyn View) -> anyhow::Result<()> {
    watch_or_count(arguments, limits, None, view)
}

/// The same, or with so much counted in the kernel instead.
fn watch_or_count(
    arguments: &Watch,
    limits: Limits,
    tally: Option<TallySize>,
    view: &mut dyn View,
) -> anyhow::Result<()> {
    // The runtime panics where it meets the limit itself.
    descriptors::check()?;
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
            owner: owner_filter(&arguments.sockets.whose, arguments.read.is_none())?,
            limits,
            interactive: stdout::is_terminal(),
        };
        let mut source = open(arguments, &options, tally, view)?;
        if progress::is_wanted(source.as_ref(), view) {
            source = Box::new(WithProgress::new(source));
        }
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

/// The filter on owners. A cgroup must be there, if it is one of this host.
fn owner_filter(whose: &Whose, is_here: bool) -> anyhow::Result<OwnerFilter> {
    let find = |path: &PathBuf| -> Result<CgroupTree, CgroupError> {
        if is_here {
            let (path, id) = cgroups::Mount::find()?.find_cgroup(path)?;
            return Ok(CgroupTree { path, id: Some(id) });
        }
        let path = cgroups::path_elsewhere(path)?;
        Ok(CgroupTree { path, id: None })
    };
    Ok(whose.filter(whose.cgroup.as_ref().map(find).transpose()?))
}

fn open(
    arguments: &Watch,
    options: &run::Options,
    tally: Option<TallySize>,
    view: &dyn View,
) -> anyhow::Result<Box<dyn EventSource>> {
    let filter = &options.filter;
    if let Some(path) = &arguments.read {
        return Ok(Box::new(Reader::open(path)?));
    }
    let Capture {
        attach,
        ring_bytes,
        sample_interval,
        resolve_owners,
        bpf_log,
        bpf_stats,
    } = arguments.capture;
    if view.wants_samples() && sample_interval.is_zero() {
        say(NOT_SAMPLED);
    }
    let live = Live::start(&capture::Options {
        attach: match attach {
            Attach::Auto => live::Attach::Auto,
            Attach::Btf => live::Attach::Only(Mode::Btf),
            Attach::Tracepoint => live::Attach::Only(Mode::Tracepoint),
        },
        ring_bytes,
        namespaces: arguments
            .sockets
            .netns
            .as_ref()
            .map_or(Wanted::All, |one| one.wanted.clone()),
        filter: filter
            .kernel()
            .in_cgroup(options.owner.cgroup.as_ref().and_then(|tree| tree.id)),
        filters: [filter.to_string(), options.owner.to_string()]
            .join(" ")
            .trim()
            .to_owned(),
        sample_interval: Some(sample_interval)
            .filter(|interval| view.wants_samples() && !interval.is_zero()),
        // Else nothing that was there before, and nothing that comes in at such a listener, would match.
        resolve_owners: resolve_owners || arguments.sockets.whose.needs_process(),
        bpf_log,
        bpf_stats,
        tally,
    })?;
    for note in live.notes() {
        say(note);
    }
    if arguments.verbose {
        let origin = live.origin();
        let filters = if origin.filters.is_empty() {
            "none"
        } else {
            &origin.filters
        };
        say(&format!(
            "attached to the kernel ({}) in {} mode, {} instructions; {}; filters: {filters}",
            origin.kernel,
            origin.attach,
            live.program_instructions()
                .map_or_else(|| "-".to_owned(), |count| count.to_string()),
            match tally {
                Some(_) => "counts there".to_owned(),
                None => format!("ring buffer {}", Bytes(ring_bytes.into())),
            },
        ));
    }
    Ok(Box::new(live))
}

/// What `--sample-interval 0` costs.
const NOT_SAMPLED: &str = "--sample-interval 0: what makes no event is unknown: TIME_WAIT, how long closed \
    sockets stay in FIN_WAIT2, and half-open connections";

fn hist(arguments: &cli::Hist) -> anyhow::Result<ExitCode> {
    if let Err(error) = arguments.check() {
        error.exit();
    }
    let mut view = hist::Hist::new(&hist::Options {
        format: arguments.watch.output.format(),
        of: arguments.of,
        states: arguments.state,
        causes: arguments.cause.clone(),
        interval: arguments.interval,
        count: arguments.watch.count,
        limits: limits(arguments.bounds),
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
    watch(watched, limits(arguments.bounds), &mut view).map(|()| ExitCode::SUCCESS)
}

/// Lists the sockets there are now.
fn ls(arguments: &cli::Ls) -> anyhow::Result<()> {
    let filter = arguments.ends.filter();
    let request = Request {
        // Roles follow from who listens.
        states: arguments
            .state
            .map_or(StateSet::ALL, |set| set.with(StateSet::of(State::LISTEN))),
        ipv6_only: filter.family == Some(Family::Ipv6),
        with_info: arguments.info,
    };
    let owner = owner_filter(&arguments.whose, true)?;
    let resolve_owners = arguments.resolve_owners || arguments.whose.needs_process();
    let inventory = Inventory::take(&arguments.netns, request, resolve_owners)?;
    let options = view::ls::Options {
        format: arguments.output.format(),
        states: arguments.state,
        filter,
        owner,
        columns: view::ls::Columns {
            netns: arguments.netns == Wanted::All,
            owner: resolve_owners,
            info: arguments.info,
        },
        colour: text::wants_colour(&io::stdout()),
    };
    let mut out = stdout::open().context("cannot open standard output")?;
    let written = view::ls::write(
        &inventory,
        &options,
        run::Cost::own,
        &mut out,
        &mut io::stderr(),
    );
    match written.and_then(|()| out.flush()) {
        // A closed pipe ends quietly: whoever closed it has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the output")
        }
        _ => Ok(()),
    }
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
    say(&message(error));
    let remedy = error.chain().find_map(|cause| {
        let capture = || cause.downcast_ref::<CaptureError>()?.remedy();
        let dump = || Some(cause.downcast_ref::<DumpError>()?.remedy()?.to_owned());
        capture().or_else(dump)
    });
    if let Some(remedy) = remedy {
        say(&remedy);
    }
}

/// An error and its causes, each said once: some repeat theirs.
fn message(error: &anyhow::Error) -> String {
    let recording = error.chain().find_map(|cause| {
        let cause: &io::Error = cause.downcast_ref()?;
        cause.get_ref().filter(|inner| inner.is::<WriteError>())
    });
    if let Some(error) = recording {
        // Says itself what could not be written.
        return error.to_string();
    }
    let mut message = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if message.is_empty() {
            message = cause;
        } else if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    message
}

/// Says something on standard error. If nobody listens there, there is nobody to tell.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "tcpstate: {text}");
}
