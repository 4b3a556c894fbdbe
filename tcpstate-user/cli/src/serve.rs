//! Arguments of `tcpstate serve`.

use std::{fs, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use clap::{Arg, Args};
use tcpstate_core::{
    expression::Moment,
    filter::PortSet,
    options::{ResolveOwners, WorkloadLabel},
};

use crate::{
    bounds::Bounds,
    choice::{Choices, choice},
    conflict::Conflict,
    expression::language_of,
    headings::{CAPTURE, MEMORY, OUTPUT},
    quantity::parse_duration,
    watch::Watch,
};

/// Arguments of `tcpstate serve`.
#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    pub watch: Watch,
    /// Take settings from this file: options without the dashes, such as `max-ports = 64`; an option that is given wins
    #[arg(long, value_name = "FILE", help_heading = None::<&str>)]
    pub config: Option<PathBuf>,
    /// Check the options and the files of --config, --web.config.file and --otlp-certificate, then end
    #[arg(long, help_heading = None::<&str>)]
    pub check_config: bool,
    /// Print all settings with their origins, as a file for --config, then end
    #[arg(long, conflicts_with = "check_config", help_heading = None::<&str>)]
    pub print_config: bool,
    /// Listen on this address; without --web.config.file there is neither TLS nor a password
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9716",
        help_heading = None::<&str>,
        value_parser = parse_address
    )]
    pub listen: SocketAddr,
    /// Take TLS, certificates of clients, passwords and headers from this file, as the exporters of Prometheus do
    #[arg(long = "web.config.file", value_name = "FILE", help_heading = None::<&str>)]
    pub web_config_file: Option<PathBuf>,
    /// Push the same metrics to this OpenTelemetry collector too, over OTLP/HTTP
    ///
    /// A URL such as `http://localhost:4318` or `https://collector.example`, to whose path `/v1/metrics` is added.
    #[arg(long, value_name = "URL", help_heading = None::<&str>)]
    pub otlp: Option<String>,
    /// Trust only a collector whose certificate is of an authority in this file, at an https:// URL of --otlp
    ///
    /// Certificates in PEM, as in `OTEL_EXPORTER_OTLP_CERTIFICATE`. By default the authorities that this host trusts. The file is
    /// read once, at the start.
    #[arg(long, value_name = "FILE", help_heading = None::<&str>)]
    pub otlp_certificate: Option<PathBuf>,
    /// The time from one push of --otlp to the next, from 1s to 1h
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "60s",
        value_parser = parse_otlp_interval,
        help_heading = None::<&str>
    )]
    pub otlp_interval: Duration,
    /// Become this user once everything is attached: a name in /etc/passwd, or UID:GID
    ///
    /// With or without it, capabilities that the run does not take are dropped, and system calls that it does not make are
    /// forbidden; SECURITY.md has the list.
    #[arg(long, value_name = "USER", value_parser = parse_user, help_heading = None::<&str>)]
    pub user: Option<UserArg>,
    /// Label only these service ports, such as 80,443,8000-8100; the rest is `other`
    ///
    /// By default all but the ephemeral ports of this host.
    #[arg(long, value_name = "LIST", help_heading = OUTPUT)]
    pub ports: Option<PortSet>,
    /// Count sockets, state changes and ends also by what a connection belongs to, in metrics of their own
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = choice(LABELS),
        help_heading = OUTPUT
    )]
    pub labels: Vec<WorkloadLabel>,
    /// Upper bounds of the buckets of histograms, such as 100us,1ms,10ms,1s,65s
    ///
    /// By default 10us, 50us, 250us, 1ms, 5ms, 25ms, 100ms, 500ms, 2s, 10s, 30s, 65s, 5m and 1h. A bucket never has a longer
    /// duration; it may lack some that are up to 1 % shorter.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = parse_duration,
        help_heading = OUTPUT
    )]
    pub buckets: Vec<Duration>,
    /// Change the figures that decide what is a finding: a file of lines such as `close_wait_age = "2m"`
    #[arg(long, value_name = "FILE", help_heading = CAPTURE)]
    pub rules: Option<PathBuf>,
    #[command(flatten)]
    pub bounds: Bounds,
    /// Keep histograms of at most this many service ports, which make a scrape long; those of the rest are `other`. A port
    /// counts once in each role
    #[arg(
        long,
        value_name = "N",
        default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(..=32_768),
        help_heading = MEMORY
    )]
    pub histogram_ports: u32,
    /// Count at most this many combinations of --labels separately, the rest as `other`. One without an event or a socket for
    /// an hour loses its place to a new one
    #[arg(
        long,
        value_name = "N",
        default_value_t = 128,
        value_parser = clap::value_parser!(u32).range(1..=16_384),
        help_heading = MEMORY
    )]
    pub max_workloads: u32,
}

const LABELS: Choices<WorkloadLabel> = &[
    (
        WorkloadLabel::Unit,
        WorkloadLabel::Unit.name(),
        "The systemd unit",
    ),
    (
        WorkloadLabel::Container,
        WorkloadLabel::Container.name(),
        "The container: its name, or the first 12 digits of its id",
    ),
    (
        WorkloadLabel::Pod,
        WorkloadLabel::Pod.name(),
        "The Kubernetes pod: its name, or its UID",
    ),
    (
        WorkloadLabel::Namespace,
        WorkloadLabel::Namespace.name(),
        "The namespace of the pod",
    ),
    (
        WorkloadLabel::Comm,
        WorkloadLabel::Comm.name(),
        "The name of the process that it belongs to",
    ),
];

/// Options of other commands that watch which make no sense here.
const OTHERS: [&str; 7] = [
    "read",
    "from",
    "to",
    "last",
    "count",
    "csv",
    "verify_checksums",
];

/// Hides the options that [`Serve::check`] refuses.
pub(crate) fn hide_others(argument: Arg) -> Arg {
    if OTHERS.contains(&argument.get_id().as_str()) {
        argument.hide(true)
    } else {
        argument
    }
}

/// A user and its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserArg {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Reads the name of a user, or two numbers. It must not be root, which would keep its files.
fn parse_user(text: &str) -> Result<UserArg, String> {
    let numbers = |uid: &str, gid: &str| {
        Some(UserArg {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        })
    };
    let user = if let Some((uid, gid)) = text.split_once(':') {
        numbers(uid, gid)
    } else {
        // Not getpwnam: it would load shared libraries into a program that is meant to be one file.
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        users.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            match fields.as_slice() {
                [name, _, uid, gid, ..] if *name == text => numbers(uid, gid),
                _ => None,
            }
        })
    };
    match user {
        Some(user) if user.uid == 0 => Err("root is no user to become".to_owned()),
        // -1 stands for no change.
        Some(user) if user.uid != u32::MAX && user.gid != u32::MAX => Ok(user),
        _ => Err(format!(
            "`{text}` is neither a user in /etc/passwd nor two numbers, such as 65534:65534"
        )),
    }
}

/// Reads the time between two pushes. There is something new each second.
fn parse_otlp_interval(text: &str) -> Result<Duration, String> {
    const RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);
    let interval = parse_duration(text).map_err(|error| error.to_string())?;
    if RANGE.contains(&interval) {
        Ok(interval)
    } else {
        Err("it is from 1s to 1h".to_owned())
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "not an address and a port, such as 127.0.0.1:9716, [::1]:9716 or 0.0.0.0:9716".to_owned()
    })
}

impl Serve {
    /// Refuses what all other commands that watch take.
    pub(crate) fn check(&self) -> Result<(), Conflict> {
        let why = if self.watch.read.is_some() {
            "-r: it shows the present of this host"
        } else if self.watch.count.is_some() {
            "--count: it has no lines"
        } else if self.watch.output.csv {
            "--csv: its output is that of its metrics"
        } else if self.watch.capture.sample_interval.is_zero() {
            "--sample-interval 0: how many sockets are in TIME_WAIT and SYN_RECV is only known from samples"
        } else if self.labels.contains(&WorkloadLabel::Comm)
            && self.watch.capture.resolve_owners == ResolveOwners::No
        {
            "--labels comm with --resolve-owners no: it would know the process of few sockets"
        } else {
            return Ok(());
        };
        Err(Conflict(format!("serve does not take {why}")))
    }
}

pub(crate) const ABOUT: &str = "\
Serves metrics for Prometheus and an API over HTTP, for as long as it runs: state changes, the time in each state, sockets in each \
state, handshakes, ends by cause, accept queues, ages, by service port; what `tcpstate diagnose` finds; and its own books, \
so that a loss is seen.

  /metrics   Prometheus text or OpenMetrics, as the client asks; docs/metrics.md has every metric
  /healthz   200, or 503 with the reason: events are not read, or some were lost in the last minute
  /readyz    200, or 503 with the reason: the sockets that exist are not known yet,
             or events are not read
  /api/v1/snapshot, /api/v1/connections, /api/v1/findings, /api/v1/history, /api/v1/events
             the last second, the open connections, what is wrong, the last hour and day, and each
             change as it happens, as JSON; docs/api.md has the parameters

Metrics are those of the last full second; those of accept queues and ages, and findings, of the latest look at all sockets, \
every 10 s or less often: looks take a hundredth of a core. Neither a scrape nor a slow client holds up the reading of events.

--otlp URL pushes the same metrics to an OpenTelemetry collector too, every --otlp-interval.

Only this host can reach it unless --listen names another address. --web.config.file adds TLS, certificates of clients and \
passwords, in the form that the exporters of Prometheus have; docs/deploy.md has the keys. On a loopback address without \
TLS and passwords it answers only requests for localhost or a loopback address (the Host header).

--labels counts by systemd unit, container, pod, namespace of the pod, or process name as well, in metrics of their own.

Labels are bounded: a port is a service port of --ports, or one of the first --max-ports that last or are frequent, or \
`other`; never a client's port, an address or a pid. With the defaults, and with 1,000 ports, a scrape is below 4 MiB.

--config takes the settings from a file, in which they have the names of the options; an option that is given wins. SIGHUP \
reads the file again: what can change does, and the rest is named with the reason.

SIGTERM or Ctrl-C ends it with the summary.";

/// The language of filters, and examples.
pub(crate) fn epilogue() -> String {
    language_of(Moment::Always) + "\n" + EXAMPLES
}

const EXAMPLES: &str = "\
Examples:
  tcpstate serve                          on 127.0.0.1:9716
  tcpstate serve --ports 80,443,5432      labels for these ports only
  tcpstate serve --listen 10.0.0.5:9716   for the Prometheus of this network
  tcpstate serve --listen [::]:9716 --web.config.file web.yml    with TLS
  tcpstate serve --otlp http://localhost:4318    to a collector too
  tcpstate serve --otlp https://otel.example --otlp-certificate ca.pem    by TLS
  tcpstate serve --netns self not src 127.0.0.0/8    without containers and lo
  tcpstate serve --buckets 1ms,10ms,100ms,1s    few buckets
  tcpstate serve --labels namespace,pod   counts by Kubernetes pod
  tcpstate serve --print-config > serve.toml    a file with all settings
  tcpstate serve --config serve.toml            and with its changes";

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{Cli, Command};

    fn serve(arguments: &[&str]) -> Result<Serve, clap::Error> {
        let words = ["tcpstate", "serve"].iter().chain(arguments);
        Cli::try_parse_from(words)
            .and_then(Cli::checked)
            .map(|cli| match cli.command {
                Command::Serve(serve) => serve,
                _ => unreachable!("the words say serve"),
            })
    }

    #[test]
    fn it_is_local_unless_it_is_told_otherwise() {
        let usual = serve(&[]).unwrap();
        assert!(usual.listen.ip().is_loopback());
        assert_eq!(usual.bounds.max_ports, 128);
        assert!(usual.ports.is_none() && usual.buckets.is_empty());
        assert_eq!(usual.histogram_ports, 256);
        assert!(usual.labels.is_empty() && usual.max_workloads == 128);
        let by_pod = serve(&["--labels", "namespace,pod"]).unwrap().labels;
        assert_eq!(by_pod, [WorkloadLabel::Namespace, WorkloadLabel::Pod]);
        assert!(usual.otlp.is_none() && usual.otlp_certificate.is_none());
        assert_eq!(usual.otlp_interval, Duration::from_mins(1));
        let open = serve(&["--listen", "[::]:80", "--max-ports", "2"]).unwrap();
        assert!(open.listen.ip().is_unspecified());
        assert_eq!(open.bounds.max_ports, 2);
    }

    #[test]
    fn a_user_has_a_group() {
        let user = |text| serve(&["--user", text]).map(|serve| serve.user.unwrap());
        assert_eq!(user("7:8").unwrap(), UserArg { uid: 7, gid: 8 });
        // Linux has it, with a group of its own in some distributions.
        assert_eq!(user("nobody").unwrap().uid, 65_534);
    }

    #[test]
    fn what_it_cannot_do_is_refused() {
        for (arguments, reason) in [
            (&["-r", "x"][..], "serve does not take -r"),
            (&["--csv"], "serve does not take --csv"),
            (&["--count", "1"], "serve does not take --count"),
            (
                &["--sample-interval", "0"],
                "serve does not take --sample-interval 0",
            ),
            (&["--listen", "9716"], "not an address and a port"),
            (&["--listen", "localhost:9716"], "not an address and a port"),
            (&["--user", "root"], "root is no user to become"),
            (&["--user", "0:0"], "root is no user to become"),
            (
                &["--user", "1:"],
                "`1:` is neither a user in /etc/passwd nor",
            ),
            (&["--user", "no such"], "`no such` is neither"),
            (&["--user", "4294967295:1"], "is neither a user"),
            (&["--ports", "http"], "`http` is not a port"),
            (&["--otlp-interval", "999ms"], "it is from 1s to 1h"),
            (&["--otlp-interval", "61m"], "it is from 1s to 1h"),
            (&["--otlp-interval", "soon"], "`soon` is not a duration"),
            (&["--buckets", "1ms,soon"], "`soon` is not a duration"),
            (&["--labels", "unit,pid"], "invalid value 'pid'"),
            (&["--max-workloads", "0"], "0 is not in 1..=16384"),
        ] {
            let error = serve(arguments).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(reason), "{arguments:?}: {error}");
        }
    }
}
