//! The benchmarks of `cargo xtask bench`: the costs of tcpstate, beside those of other tools.
//!
//! Each module is one benchmark and returns [`report::Row`]s. Every comparison alternates its cases
//! within one run: since machines are differently fast, only ratios of cases measured side by side are
//! meaningful. Counts are asserted (every transition that the generator made was seen or reported lost),
//! times never.
//!
//! ```text
//! cargo xtask bench [WHICH ...] [--quick] [--rounds N] [--json FILE] [--write-docs]
//! ```

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "figures of this size fit"
)]

mod captures;
mod churn;
mod diagnose;
mod docs;
mod generator;
mod holder;
mod idle;
mod ingest;
mod latency;
mod list;
mod machine;
mod net;
mod play;
mod probe;
mod process;
mod recording;
mod report;
mod scale;
mod second;
#[cfg(feature = "serve")]
mod serve;
mod start;
mod storm;
mod tool;
#[cfg(feature = "top")]
mod top;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};

use self::report::{Report, Row};

/// The benchmarks, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// Connections per second on loopback with each tool, and untraced
    Churn,
    /// Cost of one run of each BPF program, and of an empty one
    Probe,
    /// Maximum rate of transitions, and the rate at which loss begins
    Storm,
    /// Decoding, tracker, rates, histograms: events per second, bytes per connection
    Ingest,
    /// All rules of `diagnose` over a million sockets
    Diagnose,
    /// Recordings: bytes per event, time to write and to read
    Recording,
    /// Packets per second of captures, beside tshark and tcptrace, and bytes per connection
    Captures,
    /// Jumps in a recording of ten million events that is played
    Play,
    /// `serve` beside traffic and scraped: what is kept and lost, CPU; a scrape of a thousand service ports; a day's history
    #[cfg(feature = "serve")]
    Serve,
    /// The screens of `top`: CPU at 10,000 connections/s and idle; with a million live ones, keys and memory
    #[cfg(feature = "top")]
    Top,
    /// Time from exec to the first line, with few and many existing sockets
    Start,
    /// Time of a list, with a filter that the kernel decides and one that it does not
    List,
    /// Very many listeners, cgroups and network namespaces: start, memory, open files, sampling
    Scale,
    /// CPU and wakeups of each view without events
    Idle,
    /// Time from the kernel's timestamp to the line on a pipe
    Latency,
}

impl Which {
    const fn name(self) -> &'static str {
        match self {
            Self::Churn => "churn",
            Self::Probe => "probe",
            Self::Storm => "storm",
            Self::Ingest => "ingest",
            Self::Diagnose => "diagnose",
            Self::Recording => "recording",
            Self::Captures => "captures",
            Self::Play => "play",
            #[cfg(feature = "serve")]
            Self::Serve => "serve",
            #[cfg(feature = "top")]
            Self::Top => "top",
            Self::Start => "start",
            Self::List => "list",
            Self::Scale => "scale",
            Self::Idle => "idle",
            Self::Latency => "latency",
        }
    }

    fn run(self, options: &Options) -> Result<Vec<Row>> {
        match self {
            Self::Churn => churn::run(options),
            Self::Probe => probe::run(options),
            Self::Storm => storm::run(options),
            Self::Ingest => ingest::run(options),
            Self::Diagnose => Ok(diagnose::run(options)),
            Self::Recording => recording::run(options),
            Self::Captures => captures::run(options),
            Self::Play => play::run(options),
            #[cfg(feature = "serve")]
            Self::Serve => serve::run(options),
            #[cfg(feature = "top")]
            Self::Top => top::run(options),
            Self::Start => start::run(options),
            Self::List => list::run(options),
            Self::Scale => scale::run(options),
            Self::Idle => idle::run(options),
            Self::Latency => latency::run(options),
        }
    }

    const fn needs_the_kernel(self) -> bool {
        !matches!(
            self,
            Self::Ingest | Self::Diagnose | Self::Recording | Self::Captures | Self::Play
        )
    }
}

#[derive(Parser)]
#[command(bin_name = "cargo xtask bench")]
struct Options {
    /// Benchmarks to run [default: all]
    which: Vec<Which>,
    /// Short, to check the counts, as CI does. The times mean little
    #[arg(long)]
    quick: bool,
    /// Number of interleaved rounds of each comparison
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Also write the rows to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Replace the tables in docs/overhead-notebook.md
    #[arg(long)]
    write_docs: bool,
    /// Passed by cargo to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
    /// The part of `ingest` that needs a process of its own
    #[arg(long, hide = true, value_name = "CONNECTIONS")]
    live_memory: Option<usize>,
    /// The part of `serve` that needs a process of its own
    #[cfg(feature = "serve")]
    #[arg(long, hide = true, value_name = "SECONDS")]
    keep_history: Option<u64>,
    /// The parts of `top` that need a process of their own
    #[cfg(feature = "top")]
    #[arg(long, hide = true, value_enum, requires = "live_connections")]
    top_memory: Option<top::Held>,
    /// Its number of live connections
    #[cfg(feature = "top")]
    #[arg(long, hide = true, value_name = "CONNECTIONS")]
    live_connections: Option<usize>,
    /// The part of `start` that needs a process of its own
    #[arg(long, hide = true, value_name = "NUMBER")]
    hold_sockets: Option<u8>,
    /// The part of `scale` that needs a process of its own
    #[arg(long, hide = true, value_enum, requires = "crowd_size")]
    hold_crowd: Option<scale::Kind>,
    /// Its number
    #[arg(long, hide = true, value_name = "NUMBER", requires = "crowd_listeners")]
    crowd_size: Option<usize>,
    /// The number of listeners in it
    #[arg(long, hide = true, value_name = "NUMBER")]
    crowd_listeners: Option<usize>,
}

impl Options {
    /// The number of rounds of a comparison whose default is `usual`.
    fn rounds(&self, usual: usize) -> usize {
        self.rounds
            .unwrap_or(if self.quick { 1 } else { usual })
            .max(1)
    }

    /// Returns `quick` in a quick run, `usual` otherwise.
    const fn pick<T: Copy>(&self, usual: T, quick: T) -> T {
        if self.quick { quick } else { usual }
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(connections) = options.live_memory {
        return ingest::memory::measure_here(connections);
    }
    #[cfg(feature = "serve")]
    if let Some(seconds) = options.keep_history {
        return serve::past::measure_here(seconds);
    }
    #[cfg(feature = "top")]
    if let Some((held, connections)) = options.top_memory.zip(options.live_connections) {
        return top::measure_here(held, connections);
    }
    if let Some(number) = options.hold_sockets {
        return holder::hold_here(number);
    }
    let crowd = options.hold_crowd.zip(options.crowd_size);
    if let Some(((kind, number), listeners)) = crowd.zip(options.crowd_listeners) {
        return scale::hold_here(kind, number, listeners);
    }
    let which = if options.which.is_empty() {
        Which::value_variants()
    } else {
        &options.which
    };
    let mut head = machine::head()?;
    if which.iter().any(|which| which.needs_the_kernel()) {
        head.versions.extend(tool::versions(&tool::PACKAGES));
    }
    if which.contains(&Which::Captures) {
        head.versions.extend(tool::versions(&captures::PACKAGES));
    }
    let mut report = Report::new(head, options.quick);
    for which in which {
        eprintln!("== {}", which.name());
        if which.needs_the_kernel() {
            // A new namespace for each benchmark has no connections in TIME_WAIT left from the one before.
            // Processes started from here on are in it too.
            net::enter_own_namespace()?;
        }
        let rows = which
            .run(&options)
            .with_context(|| format!("bench {}", which.name()))?;
        report.add(which.name(), rows);
    }
    println!("{}", report.markdown());
    if let Some(path) = &options.json {
        std::fs::write(path, report.json()?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    if options.write_docs {
        docs::write(&report)?;
    }
    Ok(())
}
