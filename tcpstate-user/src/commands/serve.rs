//! `tcpstate serve`.

mod configuration;
mod privileges;
mod web;

use std::{
    cell::{Cell, OnceCell},
    io::{self, Write},
    process::ExitCode,
    rc::Rc,
    sync::Arc,
};

use anyhow::Context as _;
use serde::Serialize;
use tcpstate::{
    sandbox,
    systemd::{self, Notify},
};
use tcpstate_capture::procfs;
use tcpstate_cli::Output;
use tcpstate_core::{
    books::RunBooks,
    census::Census,
    error::chain,
    event::Event,
    expression::{Change, Lookup, Moment, NoNames},
    filter::{CgroupTree, PortSet},
    model::{Books, By, Connections, Include, Limits},
    names::Names,
    options::Format,
    origin::Origin,
    present::{self, Publisher, Subscriber},
    recalled::Recalled,
    view::{End, Flow, View},
};
use tcpstate_serve::{
    Feed, Listener, Server, Workloads, api,
    otlp::{self, Collector, TrustError},
};
use tcpstate_text::{
    books::Changes,
    format::units::{Count, Counted},
    printer::{Finish, Printer},
};

use self::{
    configuration::{Checked, Configuration},
    privileges::Privileges,
    web::{Protection, unprotected},
};
use crate::{
    commands::diagnose::thresholds,
    looks::{Background, Last, Looker, Pace},
    message::{BadUsage, note, say},
    selection::{Selection, names},
    watch::{Service, settings, watch, watch_as_service},
};

/// The time from one snapshot to the next.
const INTERVAL_NS: u64 = 1_000_000_000;

/// Where Linux has its first ephemeral port. Below are those of services.
const USUAL_FIRST_EPHEMERAL: u16 = 32_768;

pub(crate) fn run(given: tcpstate_cli::Serve) -> anyhow::Result<ExitCode> {
    let (mut configuration, read) = Configuration::of_process(given.config)?;
    let mut web = Protection::read(read.arguments.web_config_file.as_deref())?;
    let collector = collector(&read)?;
    if given.check_config {
        note(given.watch.output, "the configuration is valid");
        return Ok(ExitCode::SUCCESS);
    }
    if given.print_config {
        configuration.print().context("cannot write the output")?;
        return Ok(ExitCode::SUCCESS);
    }
    let arguments = &read.arguments;
    let watched = &arguments.watch;
    let selection = Selection::of("serve", Moment::Always, watched)?;
    let settings = settings(watched, arguments.bounds, None);
    let limits = Limits {
        // 32 bits fit on every machine that this runs on.
        max_histogram_groups: usize::try_from(arguments.histogram_ports).unwrap_or(usize::MAX),
        ..settings.limits
    };
    let mut publisher = publisher(arguments, limits);
    if watched.explain_filter {
        let mut view = Served::new(publisher, Feed::default(), settings.format, Rc::default());
        return watch(watched, &selection, limits, &mut view);
    }
    let thresholds = thresholds(arguments.rules.as_deref())?;
    let workloads = Workloads::new(&arguments.labels, arguments.max_workloads);
    let mut looker = Looker::new(watched, &selection, &thresholds);
    if let Some(workloads) = &workloads {
        looker = looker.with_workloads(workloads.takes_comm());
    }
    let first = looker.look(&[]);
    let (looks, look) = Background::waiting(looker, Last::Latest, Pace::LEFT_ON);
    publisher = publisher.diagnosing(thresholds, first, Some(Box::new(looks)));
    let notify = Rc::new(service_manager());
    let listener = listener(arguments, &configuration)?;
    let address = listener.address();
    let serving = format!("serving on {}://{address}/metrics", web.scheme());
    let options = tcpstate_serve::Options {
        buckets: read.buckets,
        ring_bytes: watched.capture.ring_bytes,
        names: Arc::new(RequestNames(names(true))),
        feed: Feed::default(),
        workloads: workloads
            .as_ref()
            .map(Workloads::counts)
            .unwrap_or_default(),
        web: web.web().clone(),
    };
    let subscriber = publisher.subscribe();
    let mut view = Served::new(
        publisher,
        options.feed.clone(),
        settings.format,
        Rc::clone(&notify),
    );
    view.workloads = workloads;
    // Until the end of the run.
    let server = OnceCell::new();
    let privileges = Privileges::of(arguments, &selection, web.web().files());
    let collector = collector.map(|collector| otlp::Options {
        collector,
        interval: arguments.otlp_interval,
        port: address.port(),
    });
    // Until the server has it.
    let pusher = Cell::new(None);
    let to_push = subscriber.clone();
    // The order is that of `sandbox`.
    let enter = || {
        pusher.set(privileges.enter(collector)?);
        Ok(())
    };
    let listen = || {
        // Its thread looks at other processes.
        look()?;
        privileges.confine()?;
        let mut started =
            Server::start(&options, listener, subscriber, sandbox::drop_capabilities)?;
        if let Some(pusher) = pusher.take() {
            started.push(pusher, to_push);
        }
        note(watched.output, &serving);
        if let Some(warning) = unprotected(address, &options.web) {
            note(watched.output, warning);
        }
        // It is called once.
        let _ = server.set(started);
        notify.ready(&serving);
        Ok(())
    };
    let is_reloaded = arguments.config.is_some() || arguments.web_config_file.is_some();
    let mut reload = || {
        notify.reloading();
        if arguments.config.is_some() {
            reload(&mut configuration, server.get(), watched.output);
        }
        web.reload(server.get(), watched.output);
        notify.ready(&serving);
    };
    let service = Service {
        enter,
        listen,
        reload: is_reloaded.then_some(&mut reload),
    };
    watch_as_service(watched, &selection, limits, &mut view, service)
}

/// The collector to push to, with whom it is trusted by: inside the sandbox no file of authorities can be read.
fn collector(read: &Checked) -> Result<Option<Collector>, TrustError> {
    let authorities = read.arguments.otlp_certificate.as_deref();
    let endpoint = read.otlp.clone();
    let collector = endpoint.map(|endpoint| Collector::new(endpoint, authorities));
    collector.transpose()
}

/// The service manager, where there is one.
fn service_manager() -> Notify {
    Notify::of_process().unwrap_or_else(|error| {
        say(&format!(
            "cannot reach the service manager (NOTIFY_SOCKET): {error}"
        ));
        Notify::default()
    })
}

/// A publisher with labels for these ports.
fn publisher(arguments: &tcpstate_cli::Serve, limits: Limits) -> Publisher {
    let publisher = Publisher::new(&present::Options {
        interval_ns: INTERVAL_NS,
        by: By::Port,
        include: Include {
            connections: Connections::None,
            histograms: true,
        },
        in_kernel: false,
        limits,
    })
    .with_connections_on_request(api::MOST_CONNECTIONS);
    if let Some(ports) = &arguments.ports {
        return publisher.with_ports(ports);
    }
    let publisher = publisher.with_probation();
    match service_ports(arguments) {
        Some(ports) => publisher.with_ports(&ports),
        None => publisher,
    }
}

/// The socket of the service manager, or else one of its own.
fn listener(
    arguments: &tcpstate_cli::Serve,
    configuration: &Configuration,
) -> anyhow::Result<Listener> {
    Ok(match systemd::passed_listener()? {
        Some(_) if configuration.is_given("listen") => {
            let why = "the service manager passed a socket (LISTEN_FDS), so leave --listen out";
            return Err(BadUsage(why.to_owned()).into());
        }
        Some(listener) => Listener::passed(listener)?,
        None => Listener::bind(arguments.listen)?,
    })
}

/// Reads the configuration again. Whatever is in it, the run goes on.
fn reload(configuration: &mut Configuration, server: Option<&Server>, output: Output) {
    let reloaded = match configuration.reload() {
        Ok(reloaded) => reloaded,
        Err(error) => {
            let error = chain(error.as_ref());
            say(&format!("the configuration stays as it was: {error}"));
            return;
        }
    };
    if let Some(server) = server {
        server.set_buckets(reloaded.buckets);
    }
    for (name, why) in &reloaded.refused {
        say(&format!("`{name}` stays as it was until a restart: {why}"));
    }
    let changed = match reloaded.changed.as_slice() {
        [] => "nothing has changed".to_owned(),
        changed => format!("now in force: {}", changed.join(", ")),
    };
    note(
        output,
        &format!("the configuration was read again; {changed}"),
    );
}

/// All ports but the ephemeral ones of this namespace; `None`: it is not known which these are.
fn service_ports(arguments: &tcpstate_cli::Serve) -> Option<PortSet> {
    let ephemeral = procfs::ephemeral_ports_here()?;
    let (first, last) = (*ephemeral.start(), *ephemeral.end());
    if first < USUAL_FIRST_EPHEMERAL {
        let text = format!(
            "ports from {first} to {last} are ephemeral on this host and labelled `other`; --ports names those of services"
        );
        note(arguments.watch.output, &text);
    }
    all_but(first, last)
}

/// The ports below and above this range; `None` where there are none.
fn all_but(first: u16, last: u16) -> Option<PortSet> {
    let below = (first > 1).then(|| format!("1-{}", first - 1));
    let above = (last < u16::MAX).then(|| format!("{}-65535", last + 1));
    let parts: Vec<String> = below.into_iter().chain(above).collect();
    parts.join(",").parse().ok()
}

/// The meaning of names in the filters of requests: whoever asks makes this process look at no file but `/etc/services`.
struct RequestNames<L>(L);

impl<L: Lookup> Lookup for RequestNames<L> {
    fn service(&self, name: &str) -> Option<u16> {
        self.0.service(name)
    }

    fn user(&self, name: &str) -> Result<u32, String> {
        NoNames.user(name)
    }

    fn netns(&self, name: &str) -> Result<u32, String> {
        NoNames.netns(name)
    }

    fn cgroup(&self, path: &str) -> Result<CgroupTree, String> {
        NoNames.cgroup(path)
    }
}

/// The ticks from one status for the service manager to the next.
const STATUS_TICKS: u64 = 10;

/// A publisher that ends with a summary, and tells the service manager how it goes.
struct Served {
    publisher: Publisher,
    notify: Rc<Notify>,
    ticks: u64,
    /// For their number.
    latest: Subscriber,
    /// For the clients that follow the events.
    feed: Feed,
    /// Counts by the labels that somebody chose.
    workloads: Option<Workloads>,
    names: Names,
    origin: Option<Origin>,
    printer: Printer<(), (), ()>,
}

impl Served {
    fn new(publisher: Publisher, feed: Feed, format: Format, notify: Rc<Notify>) -> Self {
        Self {
            notify,
            ticks: 0,
            latest: publisher.subscribe(),
            publisher,
            feed,
            workloads: None,
            names: Names::default(),
            origin: None,
            printer: match format {
                Format::Json => Printer::Json(()),
                Format::Text | Format::Csv => Printer::Text(()),
            },
        }
    }

    /// Shows the counts by labels, before the snapshot with the same events: a reader that is not a tick late shows both
    /// together.
    fn publish_workloads(&mut self) {
        if let Some(workloads) = &mut self.workloads {
            let latest = self.latest.latest();
            workloads.publish(latest.and_then(|latest| latest.survey.clone()).as_deref());
        }
    }
}

impl View for Served {
    fn set_names(&mut self, names: Names) {
        self.publisher.set_names(names.clone());
        if let Some(workloads) = &mut self.workloads {
            workloads.set_names(names.clone());
        }
        self.names = names;
    }

    fn start(&mut self, origin: &Origin, out: &mut dyn Write) -> io::Result<()> {
        self.origin = Some(origin.clone());
        self.publisher.start(origin, out)
    }

    fn look_ahead(&self, events: &[Event]) {
        self.publisher.look_ahead(events);
    }

    fn event(&mut self, event: &Event, out: &mut dyn Write) -> io::Result<Flow> {
        let is_followed = self.feed.is_wanted();
        let workloads = &mut self.workloads;
        if !is_followed && workloads.is_none() {
            return self.publisher.event(event, out);
        }
        let (feed, names, origin) = (&self.feed, &self.names, self.origin.as_ref());
        self.publisher.event_then(event, |applied| {
            if let Some(workloads) = workloads {
                workloads.count(event, applied);
            }
            if !is_followed {
                return;
            }
            let wall_ns = origin.map_or(0, |origin| origin.wall_ns(event.ts_ns()));
            let cgroup = names.cgroup(event.cgroup());
            feed.push(Change::new(event, applied, wall_ns, cgroup));
        });
        Ok(Flow::Continue)
    }

    fn census(&mut self, census: &Census, out: &mut dyn Write) -> io::Result<Flow> {
        self.publisher.census(census, out)
    }

    fn recall(&mut self, recalled: &Recalled) -> io::Result<Flow> {
        self.publisher.recall(recalled)
    }

    fn wants_samples(&self) -> bool {
        self.publisher.wants_samples()
    }

    fn interval_ns(&self) -> Option<u64> {
        self.publisher.interval_ns()
    }

    fn wants_books(&self) -> bool {
        self.publisher.wants_books()
    }

    fn books(&mut self, books: &RunBooks) {
        self.publisher.books(books);
    }

    fn tick(&mut self, now_ns: u64, out: &mut dyn Write) -> io::Result<Flow> {
        self.publish_workloads();
        let flow = self.publisher.tick(now_ns, out)?;
        // Not from a thread of its own, which would go on where this one stands still.
        self.notify.alive();
        self.ticks += 1;
        if self.ticks.is_multiple_of(STATUS_TICKS)
            && let Some(latest) = self.latest.latest()
        {
            let accounting = &latest.books.accounting;
            let changes = Counted(accounting.received, "change");
            let missed = accounting.missed();
            self.notify
                .status(&format!("{changes} read, {} missed", Count(missed)));
        }
        Ok(flow)
    }

    fn finish(&mut self, end: &End, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
        #[derive(Serialize)]
        struct Totals {
            /// Snapshots that were published.
            snapshots: u64,
            connections: Option<Books>,
        }
        self.notify.stopping();
        self.publish_workloads();
        self.publisher.finish(end, out, err)?;
        self.feed.end();
        let latest = self.latest.latest();
        let snapshots = latest.as_ref().map_or(0, |snapshot| snapshot.number);
        let connections = self.connections();
        let finish = Finish {
            end,
            books: connections.as_ref(),
            totals: Totals {
                snapshots,
                connections,
            },
        };
        let sentence = |err: &mut dyn Write| {
            let snapshots = Counted(snapshots, "snapshot");
            writeln!(err, "{snapshots}; {}", Changes(end, connections.as_ref()))
        };
        self.printer.finish(finish, sentence, out, err)
    }

    /// Nobody reads standard output: the run goes on without it.
    fn ends_with_reader(&self) -> bool {
        false
    }

    fn connections(&self) -> Option<Books> {
        self.publisher.connections()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ephemeral_ports_are_left_out() {
        let members = |first, last| {
            let ports = all_but(first, last).unwrap();
            ports.ranges().collect::<Vec<_>>()
        };
        assert_eq!(members(32_768, 60_999), [(1, 32_767), (61_000, 65_535)]);
        assert_eq!(members(1_024, 65_535), [(1, 1_023)]);
        assert_eq!(members(1, 1_023), [(1_024, 65_535)]);
    }
}
