//! The command line of tcpstate: commands, arguments, help. Definitions only.
//!
//! It knows every command, whatever the binary was built with, so that help and manual do not vary. Each
//! command has a struct, here or in a file of its own; [`Watch`] has the arguments of all that watch.

#![expect(
    missing_docs,
    reason = "the doc comment of an argument is its help; groups of them have theirs at their type"
)]
// Bad input is reported; it never ends the process.
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

mod choice;
mod hist;
mod life;
mod ls;
mod owner_args;
pub mod quantity;
mod rates;
mod record;

use crate::choice::{Choices, choice};
use std::{path::PathBuf, time::Duration};
use tcpstate_core::{
    mode::{Attach, Mode},
    options::Format,
};

use clap::{Args, Parser, Subcommand};

pub use self::{
    hist::Hist, life::Life, ls::Ls, owner_args::OwnerArgs, rates::Rates, record::Record,
};
use crate::quantity::{parse_bytes, parse_duration};
use tcpstate_core::filter::{Family, Filter, PortSet, StateSet};
use tcpstate_core::netns::{NetnsSelector, SELF_PATH};

/// Help is wrapped at the terminal's width, and at this many columns at most.
pub const HELP_WIDTH: usize = 100;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "tcpstate",
    version,
    about = "Shows every TCP state change of this host, and how long connections spent in each state",
    long_about = "Shows every TCP state change of this host as it happens, and how long connections \
        spent in each state.\n\n\
        Data goes to standard output, everything else to standard error. Ctrl-C ends a run with its \
        summary. Exit status: 0 done, 1 failed, 2 bad usage.",
    after_help = "`tcpstate COMMAND --help` explains a command and gives examples.\n\
        Watching the live kernel takes root, or CAP_BPF and CAP_PERFMON.",
    max_term_width = HELP_WIDTH,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print a line per state change
    #[command(long_about = ABOUT_TRACE, after_help = EXAMPLES_TRACE)]
    Trace(Trace),
    /// Print a line per connection when it ends: the time in each state, why it ended, its bytes
    #[command(long_about = life::ABOUT, after_help = life::EXAMPLES)]
    Life(Life),
    /// Print histograms of the times in each state, by service port
    #[command(
        long_about = hist::ABOUT,
        after_help = hist::EXAMPLES,
        mut_arg("count", |count| count.help("End after this many intervals").requires("interval"))
    )]
    Hist(Hist),
    /// Count state changes, and show their rates every interval
    #[command(
        long_about = rates::ABOUT,
        after_help = rates::EXAMPLES,
        mut_arg("count", |arg| arg.help("End after this many intervals, as COUNT"))
    )]
    Rates(Rates),
    /// Write the events to a file, for any command to read with -r
    #[command(
        long_about = record::ABOUT,
        after_help = record::EXAMPLES,
        mut_arg("count", |arg| arg.help("End after this many events")),
        mut_arg("json", |arg| arg.help("Write the summary as JSON on standard output")),
        mut_arg("csv", |arg| arg.hide(true))
    )]
    Record(Record),
    /// List the sockets there are now
    #[command(long_about = ls::ABOUT, after_help = ls::EXAMPLES)]
    Ls(Ls),
    /// Try what this host allows, and say what is missing
    #[command(long_about = ABOUT_DOCTOR)]
    Doctor(Doctor),
}

/// Arguments of `tcpstate trace`.
#[derive(Debug, Args)]
pub struct Trace {
    /// Begin each line with the local time of day, HH:MM:SS
    #[arg(short = 'T', long, conflicts_with_all = ["json", "csv"], help_heading = OUTPUT)]
    pub time: bool,
    /// Begin each line with the seconds since the start
    #[arg(short = 't', long, conflicts_with_all = ["json", "csv"], help_heading = OUTPUT)]
    pub timestamp: bool,
    #[command(flatten)]
    pub bounds: Bounds,
    #[command(flatten)]
    pub watch: Watch,
    #[command(flatten)]
    pub states: States,
}

const ABOUT_TRACE: &str = "\
Prints a line per TCP state change of this host.

MS is the time that the socket spent in OLDSTATE, in milliseconds: known from the second change on \
that was seen of a socket. PID and COMM are the process that the connection belongs to: the one that \
opened it or acts on it at this change, else the one that listens where it came in. What merely ran on \
the CPU is not shown. CAUSE is why the connection ended, at the change to CLOSE. `-` is unknown, or not chosen yet.

The summary at the end says where every state change went: seen = filtered + submitted + lost, and \
submitted = received + rejected. With --json it is the last line; else it goes to standard error.";

const EXAMPLES_TRACE: &str = "\
Examples:
  tcpstate trace                        everything, until Ctrl-C
  tcpstate trace -L 80,443 -T           connections to our web server, with the time of day
  tcpstate trace --state CLOSE_WAIT     who leaves connections half closed, and for how long
  tcpstate trace -4 -D 5432 --json | jq -c 'select(.newstate == \"CLOSE\") | [.raddr, .cause]'
  tcpstate trace --count 10             the next ten changes, then the summary
  tcpstate trace -r FILE --csv          what was recorded, as CSV";

/// The bounds of what is kept in memory: the same for every view that tracks connections.
// No `next_help_heading`: it would go on to what is flattened after this.
#[derive(Clone, Copy, Debug, Args)]
pub struct Bounds {
    /// Keep at most this many open connections; the ones longest without a change are forgotten
    #[arg(
        long,
        value_name = "N",
        help_heading = MEMORY,
        default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub max_connections: u32,
    /// Tell at most this many service ports (or names, or cgroups) apart; the rest is `other`
    #[arg(
        long,
        value_name = "N",
        help_heading = MEMORY,
        default_value_t = 1_024,
        value_parser = clap::value_parser!(u32).range(1..=16_384)
    )]
    pub max_ports: u32,
}

const OUTPUT: &str = "Output";
const MEMORY: &str = "Memory";
const FILTERS: &str = "Filters";
const CAPTURE: &str = "Capture";

/// Arguments of `tcpstate doctor`.
#[derive(Clone, Copy, Debug, Args)]
pub struct Doctor {
    /// Write JSON, one object a line
    #[arg(long)]
    pub json: bool,
    /// Size of the ring buffer to try, such as 64K or 8M
    #[arg(long, value_name = "N", default_value = "8M", value_parser = ring_bytes)]
    pub ring_bytes: u32,
}

const ABOUT_DOCTOR: &str = "\
Tries what this host allows: the kernel, its type information, privileges, tracefs, the ring buffer and \
both ways to attach. Says of each whether it is there, what its absence costs, and what to do.

Exit status 0 if `tcpstate trace` can run here, else 1.";

/// What all subcommands that watch have in common.
#[derive(Debug, Args)]
pub struct Watch {
    /// Read a recording instead of the kernel; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub read: Option<PathBuf>,
    /// End after this long, such as 500ms, 10s, 5m, 1h; a plain number is seconds
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// End after this many lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Say on standard error how the capture was set up
    #[arg(short, long)]
    pub verbose: bool,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub sockets: Sockets,
    #[command(flatten)]
    pub capture: Capture,
}

/// In which format to write.
#[derive(Clone, Copy, Debug, Args)]
pub struct Output {
    /// Write JSON, one object a line
    #[arg(long, conflicts_with = "csv", help_heading = OUTPUT)]
    pub json: bool,
    /// Write CSV with a header line
    #[arg(long, help_heading = OUTPUT)]
    pub csv: bool,
}

impl Output {
    /// The one format.
    pub const fn format(self) -> Format {
        match self {
            Self { json: true, .. } => Format::Json,
            Self { csv: true, .. } => Format::Csv,
            Self { .. } => Format::Text,
        }
    }
}

/// Which sockets.
#[derive(Debug, Args)]
#[command(next_help_heading = FILTERS)]
pub struct Sockets {
    #[command(flatten)]
    pub endpoints: EndpointArgs,
    /// Only this network namespace: `self`, a name of `ip netns`, a path such as /proc/PID/ns/net, or
    /// an inode number
    #[arg(long, value_name = "NETNS", value_parser = netns)]
    pub netns: Option<NetnsArg>,
    #[command(flatten)]
    pub owner: OwnerArgs,
}

impl Sockets {
    /// The filter that these arguments make.
    pub fn filter(&self) -> Filter {
        Filter {
            netns: self.netns.as_ref().map(|one| one.inode),
            ..self.endpoints.filter()
        }
    }
}

/// Which sockets, by their addresses and ports.
#[derive(Debug, Args)]
#[command(next_help_heading = FILTERS)]
pub struct EndpointArgs {
    /// Only IPv4, v4-mapped addresses included
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// Only IPv6
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// Only these local ports: numbers and ranges, such as 80,443,8000-8100
    #[arg(short = 'L', long, value_name = "LIST")]
    pub lport: Option<PortSet>,
    /// Only these remote ports
    #[arg(short = 'D', long, value_name = "LIST")]
    pub rport: Option<PortSet>,
    /// Only these ports, on either side
    #[arg(short = 'P', long, value_name = "LIST")]
    pub port: Option<PortSet>,
}

impl EndpointArgs {
    /// The filter that these arguments make.
    pub fn filter(&self) -> Filter {
        let family = match (self.ipv4, self.ipv6) {
            (true, _) => Some(Family::Ipv4),
            (false, true) => Some(Family::Ipv6),
            (false, false) => None,
        };
        Filter {
            family,
            lport: self.lport.clone(),
            rport: self.rport.clone(),
            port: self.port.clone(),
            netns: None,
        }
    }
}

/// Which states.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = FILTERS)]
pub struct States {
    /// Only changes that leave or enter one of these states.
    #[arg(
        id = "state",
        long = "state",
        value_name = "LIST",
        help = "Only changes that leave or enter one of these states, such as CLOSE_WAIT,LAST_ACK"
    )]
    pub set: Option<StateSet>,
}

/// How to capture.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = CAPTURE)]
pub struct Capture {
    /// How to attach to the kernel
    #[arg(
        long,
        value_name = "MODE",
        default_value = "auto",
        value_parser = choice(ATTACH),
        conflicts_with = "read"
    )]
    pub attach: Attach,
    /// Size of the ring buffer between kernel and user space, such as 64K or 8M: a power of two, at
    /// least a page
    #[arg(
        long,
        value_name = "N",
        default_value = "8M",
        value_parser = ring_bytes,
        conflicts_with = "read"
    )]
    pub ring_bytes: u32,
    /// How often to ask the kernel for what makes no event.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1s",
        value_parser = sample_interval,
        help = "How often to ask the kernel for what makes no event (TIME_WAIT, closed sockets in \
            FIN_WAIT2, half-open connections), such as 500ms; 0 is never, and leaves it unknown",
        conflicts_with = "read"
    )]
    pub sample_interval: Duration,
    /// Look up which processes hold the sockets that are there at the start; other users' take root;
    /// --pid and --comm imply it
    #[arg(long, conflicts_with = "read")]
    pub resolve_owners: bool,
    /// Print the debug log of the BPF programs on standard error; slow
    #[arg(long, conflicts_with = "read")]
    pub bpf_log: bool,
    /// Have the kernel measure what the program costs.
    #[arg(
        long,
        help = "Have the kernel measure the run time of BPF programs as long as this runs, and show ours \
            at the end; takes CAP_SYS_ADMIN and makes each run of a program dearer",
        conflicts_with = "read"
    )]
    pub bpf_stats: bool,
}

const ATTACH: Choices<Attach> = &[
    (Attach::Auto, "auto", "The best that this host allows"),
    (
        Attach::Only(Mode::Btf),
        "btf",
        "The BTF tracepoint: cheaper, and knows the socket",
    ),
    (
        Attach::Only(Mode::Tracepoint),
        "tracepoint",
        "The classic tracepoint: costs more, no cookie; needs BTF to read the socket",
    ),
];

/// The shortest interval: shorter ones would show the clock more than the connections.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text).map_err(|error| error.to_string())?;
    if interval < MIN_INTERVAL {
        return Err("an interval cannot be shorter than 10ms".to_owned());
    }
    Ok(interval)
}

/// 0 is never.
fn sample_interval(text: &str) -> Result<Duration, String> {
    // No duration elsewhere.
    if matches!(text.trim(), "0" | "0s" | "0ms") {
        return Ok(Duration::ZERO);
    }
    interval(text).map_err(|error| format!("{error}; 0 is never"))
}

fn ring_bytes(text: &str) -> Result<u32, String> {
    let bytes = parse_bytes(text).map_err(|error| error.to_string())?;
    let page_bytes = rustix::param::page_size() as u64;
    match u32::try_from(bytes) {
        Ok(size) if size.is_power_of_two() && bytes.is_multiple_of(page_bytes) => Ok(size),
        _ => Err(format!(
            "a ring buffer must be a power of two, at least a page ({page_bytes} bytes) and at most \
             2G; try {}",
            bytes.clamp(page_bytes, 1 << 31).next_power_of_two()
        )),
    }
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetnsArg {
    /// Its inode number, by which the kernel names it.
    pub inode: u32,
    /// How it was named: only so can one be found that is no process's.
    pub wanted: NetnsSelector,
}

/// A network namespace, however it is named.
fn netns(text: &str) -> Result<NetnsArg, String> {
    let Ok(wanted) = text.parse();
    let path = match &wanted {
        &NetnsSelector::Inode(inode) => return Ok(NetnsArg { inode, wanted }),
        NetnsSelector::Own => PathBuf::from(SELF_PATH),
        NetnsSelector::File(path) => path.clone(),
        NetnsSelector::All => return Err("it is one; all are watched without --netns".to_owned()),
    };
    let inode = rustix::fs::stat(&path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?
        .st_ino;
    let inode = u32::try_from(inode)
        .map_err(|_| format!("{} is not a network namespace", path.display()))?;
    Ok(NetnsArg { inode, wanted })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    fn trace(arguments: &[&str]) -> Result<Trace, clap::Error> {
        let words = ["tcpstate", "trace"].iter().chain(arguments);
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Trace(trace) => trace,
            _ => unreachable!("the words say trace"),
        })
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_arguments_everything_is_wanted() {
        let trace = trace(&[]).unwrap();
        assert!(trace.watch.sockets.filter().wants_all());
        assert_eq!(trace.watch.output.format(), Format::Text);
        assert_eq!(trace.watch.capture.attach, Attach::Auto);
        assert_eq!(trace.watch.capture.ring_bytes, 8 << 20);
        assert_eq!(trace.states.set, None);
        assert_eq!((trace.watch.duration, trace.watch.count), (None, None));
    }

    #[test]
    fn what_tracks_is_bounded_alike() {
        let bounds = |words: &[&str]| match Cli::try_parse_from(words).unwrap().command {
            Command::Trace(Trace { bounds, .. })
            | Command::Life(Life { bounds, .. })
            | Command::Hist(Hist { bounds, .. })
            | Command::Rates(Rates { bounds, .. }) => (bounds.max_connections, bounds.max_ports),
            _ => unreachable!("the words say something else"),
        };
        for command in ["trace", "life", "hist", "rates"] {
            assert_eq!(bounds(&["tcpstate", command]), (1_000_000, 1_024));
            let words = ["tcpstate", command, "--max-connections=5", "--max-ports=2"];
            assert_eq!(bounds(&words), (5, 2));
        }
    }

    #[test]
    fn filters_say_what_was_given() {
        let trace = trace(&[
            "-4", "-L80", "--rport", "1-1023", "-P", "443", "--netns", "7",
        ])
        .unwrap();
        assert_eq!(
            trace.watch.sockets.filter().to_string(),
            "-4 --lport 80 --rport 1-1023 --port 443 --netns 7"
        );
    }

    #[test]
    fn a_namespace_is_found_by_all_its_names() {
        let expected =
            u32::try_from(rustix::fs::stat("/proc/self/ns/net").unwrap().st_ino).unwrap();
        for name in ["self", "/proc/self/ns/net", &expected.to_string()] {
            let found = netns(name).map(|one| one.inode);
            assert_eq!(found, Ok(expected), "{name}");
        }
        assert!(netns("all").is_err());
        let error = netns("no-such-namespace").unwrap_err();
        assert!(error.contains("/run/netns/no-such-namespace"), "{error}");
    }

    #[test]
    fn a_ring_is_a_power_of_two_of_pages() {
        let page = u32::try_from(rustix::param::page_size()).unwrap();
        assert_eq!(ring_bytes("64K"), Ok(65_536));
        assert_eq!(ring_bytes(&page.to_string()), Ok(page));
        assert_eq!(ring_bytes("2G"), Ok(1 << 31));
        for text in ["0", "1", "3M", "4G", "12345678901G"] {
            assert!(ring_bytes(text).is_err(), "{text}");
        }
        let message = ring_bytes("3M").unwrap_err();
        assert!(message.ends_with("try 4194304"), "{message}");
    }

    #[test]
    fn sampling_can_be_turned_off() {
        let interval = |text| trace(&["--sample-interval", text]).map(|trace| trace.watch.capture);
        assert_eq!(interval("0").unwrap().sample_interval, Duration::ZERO);
        let short = interval("500ms").unwrap().sample_interval;
        assert_eq!(short, Duration::from_millis(500));
        let error = interval("1ms").unwrap_err().to_string();
        assert!(error.contains("shorter than 10ms; 0 is never"), "{error}");
    }

    #[test]
    fn contradictions_are_refused() {
        for arguments in [
            ["--json", "--csv"],
            ["-4", "-6"],
            ["-T", "--json"],
            ["--csv", "-t"],
            ["-rfile", "--bpf-log"],
            ["--attach=auto", "-r-"],
        ] {
            let error = trace(&arguments).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ArgumentConflict, "{arguments:?}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn bad_values_are_refused_with_the_reason() {
        for (arguments, reason) in [
            (["--lport", "80,http"], "`http` is not a port"),
            (
                ["--rport", "90-80"],
                "the range `90-80` ends before it begins",
            ),
            (["--port", "80,"], "an empty item"),
            (["--state", "OPEN"], "`OPEN` is not a TCP state"),
            (["--duration", "10w"], "`10w` is not a duration"),
            (["--count", "0"], "0 is not in 1.."),
            (["--ring-bytes", "3M"], "must be a power of two"),
            (
                ["--attach", "kprobe"],
                "possible values: auto, btf, tracepoint",
            ),
        ] {
            let error = trace(&arguments).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{arguments:?}");
            assert!(error.to_string().contains(reason), "{arguments:?}: {error}");
        }
    }
}
