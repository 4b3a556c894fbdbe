//! Commands that watch: a source, the driver, and the command's view.

use std::{
    future::Future,
    io::{self, Write as _},
    ops::ControlFlow,
    path::Path,
    pin::Pin,
    process::ExitCode,
    task::{Context, Poll},
};

use anyhow::Context as _;
use tcpstate::run::{
    self, Interrupt, Interrupts, Outcome, Outputs, Playing, descriptors, ending,
    progress::{self, WithProgress},
    signals, stderr, stdout,
};
use tcpstate_capture::{self, Live, netns};
use tcpstate_cli::{Bounds, Capture, Cli, ColumnArgs, Watch};
use tcpstate_core::{
    escape::Printable,
    model::Limits,
    netns::NetnsSelector,
    options::{ResolveOwners, TimeForm},
    origin::Evidence,
    outlet::Outlet,
    play::Inbox,
    source::EventSource,
    tally::TallySize,
    view::View,
};
use tcpstate_text::{
    format::{
        text::{Columns, Layout, wants_colour},
        units::Bytes,
    },
    settings::Settings,
};

use crate::{
    INCOMPLETE, input,
    message::{BadUsage, note, say},
    part,
    selection::Selection,
    unwatched::Unwatched,
    zone,
};

/// The settings that all views share.
pub(crate) fn settings(watch: &Watch, bounds: Bounds, time: Option<TimeForm>) -> Settings {
    // 32 bits fit on every machine that this runs on.
    let number = |number| usize::try_from(number).unwrap_or(usize::MAX);
    Settings {
        format: watch.output.format(),
        limits: Limits {
            max_connections: number(bounds.max_connections),
            max_ports: number(bounds.max_ports),
            ..Limits::default()
        },
        colour: wants_colour(&rustix::stdio::stdout()),
        width: stdout::width(),
        several_netns: watch.sockets.netns.inode.is_none() && stdout::is_terminal() && {
            match &watch.read {
                Some(path) => input::may_have_several_netns(path),
                None => has_several_netns(),
            }
        },
        // Views know it when they start.
        evidence: Evidence::Kernel,
        zone: zone::system(),
        time_form: time.unwrap_or_default(),
    }
}

/// Whether there is a network namespace beside our own.
fn has_several_netns() -> bool {
    let mut found = 0;
    let searched = netns::visit(&NetnsSelector::All, |_| {
        found += 1;
        if found > 1 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    searched.is_ok() && found > 1
}

/// The columns that the arguments choose. One that does not exist ends the process, as other bad usage does, and so does
/// `help`, which lists them.
pub(crate) fn columns<R>(layout: &Layout<R>, arguments: &ColumnArgs) -> Columns<R> {
    if arguments.columns == ["help"] {
        let mut out = stdout::open();
        let mut names = layout.names().into_iter();
        let told = names
            .try_for_each(|name| writeln!(out, "{name}"))
            .and_then(|()| out.flush());
        std::process::exit(told.is_err().into());
    }
    layout
        .columns(arguments.wide, &arguments.columns)
        .unwrap_or_else(|error| Cli::refuse(layout.command, &error.to_string()))
}

/// Runs a view of the selected sockets on the source that the arguments name.
pub(crate) fn watch(
    arguments: &Watch,
    selection: &Selection,
    limits: Limits,
    view: &mut dyn View,
) -> anyhow::Result<ExitCode> {
    watch_or_count(arguments, selection, limits, None, view)
}

/// The parts of a run that go on in the background.
#[cfg(feature = "serve")]
pub(crate) struct Service<'a, E, L> {
    /// Called when everything is attached, and before there is a second thread: to give up privileges.
    pub(crate) enter: E,
    /// Called once the capture has started.
    pub(crate) listen: L,
    /// Called at each SIGHUP; without it, SIGHUP ends the run.
    pub(crate) reload: Option<&'a mut dyn FnMut()>,
}

/// The same, as a service.
#[cfg(feature = "serve")]
pub(crate) fn watch_as_service<E, L>(
    arguments: &Watch,
    selection: &Selection,
    limits: Limits,
    view: &mut dyn View,
    service: Service<'_, E, L>,
) -> anyhow::Result<ExitCode>
where
    E: FnOnce() -> io::Result<()>,
    L: FnOnce() -> anyhow::Result<()>,
{
    let live = |view: &dyn View| -> anyhow::Result<Box<dyn EventSource>> {
        let live = start_inside(arguments, selection, None, view, service.enter)?;
        (service.listen)()?;
        Ok(Box::new(live))
    };
    let ways = Ways {
        reload: service.reload,
        ..Ways::none()
    };
    run_view_until(arguments, selection, limits, view, live, ways)
}

/// The same; where the host cannot be watched, without events.
pub(crate) fn watch_or_not(
    arguments: &Watch,
    selection: &Selection,
    limits: Limits,
    view: &mut dyn View,
) -> anyhow::Result<ExitCode> {
    run_view(arguments, selection, limits, view, |view| {
        match start(arguments, selection, None, view) {
            Ok(live) => Ok(Box::new(live)),
            Err(error) => {
                let text = format!(
                    "changes are not watched, so that some things are not found: {error:#}"
                );
                note(arguments.output, &text);
                Ok(Box::new(Unwatched::new()))
            }
        }
    })
}

/// The same as [`watch`]; with a `tally`, the kernel counts instead of streaming.
pub(crate) fn watch_or_count(
    arguments: &Watch,
    selection: &Selection,
    limits: Limits,
    tally: Option<TallySize>,
    view: &mut dyn View,
) -> anyhow::Result<ExitCode> {
    run_view(arguments, selection, limits, view, |view| {
        Ok(Box::new(start(arguments, selection, tally, view)?))
    })
}

/// The same as [`watch`], until somebody else wants it to end; a recording is played if somebody controls that.
#[cfg(feature = "top")]
pub(crate) fn watch_until(
    arguments: &Watch,
    selection: &Selection,
    limits: Limits,
    view: &mut dyn View,
    playing: Option<Inbox>,
    until: impl Future<Output = ()> + 'static,
) -> anyhow::Result<ExitCode> {
    let live = |view: &dyn View| -> anyhow::Result<Box<dyn EventSource>> {
        Ok(Box::new(start(arguments, selection, None, view)?))
    };
    let ways = Ways {
        playing,
        until: Box::pin(until),
        reload: None,
    };
    run_view_until(arguments, selection, limits, view, live, ways)
}

/// Runs the view on the file that the arguments name, or on what `live` starts.
fn run_view(
    arguments: &Watch,
    selection: &Selection,
    limits: Limits,
    view: &mut dyn View,
    live: impl FnOnce(&dyn View) -> anyhow::Result<Box<dyn EventSource>>,
) -> anyhow::Result<ExitCode> {
    run_view_until(arguments, selection, limits, view, live, Ways::none())
}

/// Somebody else's ways to a run.
struct Ways<'a> {
    /// Commands, for a recording that is played.
    playing: Option<Inbox>,
    /// The end of the run.
    until: Pin<Box<dyn Future<Output = ()>>>,
    /// Called at each SIGHUP; without it, SIGHUP ends the run.
    reload: Option<&'a mut dyn FnMut()>,
}

impl Ways<'_> {
    fn none() -> Self {
        Self {
            playing: None,
            until: Box::pin(std::future::pending()),
            reload: None,
        }
    }
}

/// The same, until the one who has these ways ends it.
fn run_view_until(
    arguments: &Watch,
    selection: &Selection,
    limits: Limits,
    view: &mut dyn View,
    live: impl FnOnce(&dyn View) -> anyhow::Result<Box<dyn EventSource>>,
    ways: Ways<'_>,
) -> anyhow::Result<ExitCode> {
    if arguments.explain_filter {
        explain(arguments, selection).context("cannot write the output")?;
        return Ok(ExitCode::SUCCESS);
    }
    // The runtime would panic at the limit.
    descriptors::check()?;
    // Before signals are handled: opening a FIFO may take for ever, and until then there is nothing to end well.
    let options = input::Options {
        max_connections: limits.max_connections,
        packets: view.wants_packets(),
        verify_checksums: arguments.capture.verify_checksums,
    };
    let open = |path: &Path| input::open(path, options);
    let file = arguments.read.as_deref().map(open).transpose()?;
    let part = match (&file, &arguments.read) {
        (Some(file), Some(path)) => {
            refuse_unknown(file.as_ref(), path, selection)?;
            part::choose(&arguments.part, path, file.origin(), &zone::system())?
        }
        _ => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Before the source, which takes a while to start: a Ctrl-C must not be lost meanwhile.
        let watched = view
            .ends_with_reader()
            .then(stdout::reader_gone)
            .transpose()
            .context("cannot watch standard output")?;
        let reader_gone = async move {
            match watched {
                Some(gone) => gone.await,
                None => std::future::pending().await,
            }
        };
        let signals = signals::Wanted {
            usr1: view.takes_usr1(),
            hangups: ways.reload.is_some(),
        };
        let mut interrupts = Combined {
            signals: signals::Process::install(signals, reader_gone)
                .context("cannot handle signals")?,
            until: Some(ways.until),
            reload: ways.reload,
        };
        let options = run::Options {
            duration: arguments.duration,
            expression: selection.before_view.clone(),
            limits,
            interactive: stdout::is_terminal(),
            verbose: arguments.verbose,
            quiet: arguments.output.quiet,
            part,
        };
        let mut source: Box<dyn EventSource> = match file {
            Some(file) => file,
            None => live(view)?,
        };
        if !arguments.output.quiet && progress::is_wanted(source.as_ref(), view) {
            source = Box::new(WithProgress::new(source));
        }
        let mut out = stdout::open();
        let mut err = stderr::open();
        let source = source.as_mut();
        let ended = if let (Some(inbox), Some(path)) = (ways.playing, &arguments.read) {
            let playing = Playing::new(inbox, input::end_of(path)?);
            // Messages about the recording come when the screen is gone.
            let mut held = Outlet::new(Vec::new(), false);
            let outputs = Outputs {
                out: &mut out,
                err: &mut held,
            };
            let ended = run::play(source, view, outputs, &mut interrupts, &options, playing).await;
            for line in held.into_inner().split_inclusive(|&byte| byte == b'\n') {
                // Nobody reads it where standard error is closed.
                let _ = err.write_all(line);
            }
            ended?
        } else {
            let outputs = Outputs {
                out: &mut out,
                err: &mut err,
            };
            run::drive(source, view, outputs, &mut interrupts, &options).await?
        };
        match ended {
            // A closed pipe ends quietly: whoever closed it has seen enough.
            Outcome::Finished | Outcome::ReaderGone => Ok(ExitCode::SUCCESS),
            Outcome::Incomplete => Ok(ExitCode::from(INCOMPLETE)),
        }
    })
}

/// Refuses a filter on a field that the file can never have: nothing would be shown, as if nothing matched.
fn refuse_unknown(
    file: &dyn EventSource,
    path: &Path,
    selection: &Selection,
) -> anyhow::Result<()> {
    match selection.whole.only_in_kernel() {
        Some(field) if file.origin().evidence() == Evidence::Packets => {
            let name = Printable(path.as_os_str().as_encoded_bytes());
            Err(BadUsage(format!(
                "`{field}` cannot be a filter of {name}: it was made from packets, and they do not tell it"
            ))
            .into())
        }
        _ => Ok(()),
    }
}

/// The signals of the process, and somebody else's ways to the run.
struct Combined<'a> {
    signals: signals::Process,
    /// `None`: it has ended it.
    until: Option<Pin<Box<dyn Future<Output = ()>>>>,
    reload: Option<&'a mut dyn FnMut()>,
}

impl Interrupts for Combined<'_> {
    fn poll_interrupt(&mut self, cx: &mut Context<'_>) -> Poll<Interrupt> {
        if let Some(until) = &mut self.until
            && until.as_mut().poll(cx).is_ready()
        {
            self.until = None;
            return Poll::Ready(Interrupt::Stop);
        }
        while self.signals.poll_hangup(cx).is_ready() {
            if let Some(reload) = &mut self.reload {
                reload();
            }
        }
        self.signals.poll_interrupt(cx)
    }
}

/// Says what is decided where.
fn explain(arguments: &Watch, selection: &Selection) -> io::Result<()> {
    let mut out = stdout::open();
    writeln!(out, "in the kernel: {}", selection.in_kernel(arguments))?;
    let rest = selection.in_user_space(arguments);
    writeln!(out, "in user space: {rest}")?;
    out.flush()
}

/// Starts the capture.
fn start(
    arguments: &Watch,
    selection: &Selection,
    tally: Option<TallySize>,
    view: &dyn View,
) -> anyhow::Result<Live> {
    start_inside(arguments, selection, tally, view, || Ok(()))
}

/// Whether it is looked up which processes hold sockets.
pub(crate) fn resolves_owners(arguments: &Watch, selection: &Selection) -> ResolveOwners {
    match arguments.capture.resolve_owners {
        // Without it, no older socket and no connection to an older listener would match.
        ResolveOwners::Auto if selection.whole.needs_process() => ResolveOwners::Yes,
        chosen => chosen,
    }
}

/// Starts the capture; when everything is attached, and before there is a second thread, `enter` may give up privileges.
fn start_inside(
    arguments: &Watch,
    selection: &Selection,
    tally: Option<TallySize>,
    view: &dyn View,
    enter: impl FnOnce() -> io::Result<()>,
) -> anyhow::Result<Live> {
    let Capture {
        attach,
        ring_bytes,
        sample_interval,
        bpf_log,
        bpf_stats,
        // Of packets.
        verify_checksums: _,
        resolve_owners: _,
    } = arguments.capture;
    if view.wants_samples() && sample_interval.is_zero() {
        note(arguments.output, NOT_SAMPLED);
    }
    let options = tcpstate_capture::Options {
        attach,
        ring_bytes,
        namespaces: arguments.sockets.netns.wanted.clone(),
        filter: selection.kernel(),
        filters: selection.to_string(),
        sample_interval: Some(sample_interval)
            .filter(|interval| view.wants_half_open() && !interval.is_zero()),
        half_open_only: !view.wants_samples(),
        resolve_owners: match tally {
            // Counts made in the kernel have no owners.
            Some(_) => ResolveOwners::No,
            None => resolves_owners(arguments, selection),
        },
        prompt: view.is_prompt(),
        verbose: arguments.verbose,
        bpf_log,
        bpf_stats,
        tally,
    };
    let live = Live::start_inside(&options, enter)?;
    if let Some(duration) = arguments.duration {
        ending::end_after(duration);
    }
    for text in live.notes() {
        note(arguments.output, text);
    }
    if arguments.verbose {
        let origin = live.origin();
        say(&format!(
            "attached to the kernel ({}) in {} mode, {} instructions; {}; filter in the kernel: {}; in user space: {}",
            origin.kernel,
            origin.attach,
            live.program_instructions()
                .map_or_else(|| "-".to_owned(), |count| count.to_string()),
            match tally {
                Some(_) => "counts there".to_owned(),
                None => format!("ring buffer {}", Bytes(ring_bytes.into())),
            },
            selection.in_kernel(arguments),
            selection.in_user_space(arguments),
        ));
    }
    Ok(live)
}

/// The cost of `--sample-interval 0`.
const NOT_SAMPLED: &str = "--sample-interval 0: TIME_WAIT, half-open connections and the time of closed sockets in \
    FIN_WAIT2 make no event, and stay unknown";
