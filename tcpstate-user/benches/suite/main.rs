//! The measurements of `cargo xtask bench`: what tcpstate costs, beside what others cost.
//!
//! Each module measures one thing and gives [`report::Row`]s. Every comparison is made in turns within
//! one run, because only the ratio of two things measured side by side means something on a machine
//! that has its own pace. Counts are asserted (what the generator made is what was seen, or said to be
//! lost), times never.
//!
//! ```text
//! cargo xtask bench [WHAT ...] [--quick] [--rounds N] [--json FILE] [--write-docs]
//! ```

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "figures of this size fit"
)]

mod churn;
mod docs;
mod generator;
mod holder;
mod idle;
mod ingest;
mod latency;
mod machine;
mod net;
mod probe;
mod process;
mod recording;
mod report;
mod start;
mod storm;
mod tool;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};

use self::report::{Report, Row};

/// What is measured, in the order in which it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// Connections per second on loopback with each tool, beside untraced
    Churn,
    /// One run of each BPF program, beside an empty one
    Probe,
    /// As many transitions as the machine can make: rate, and where loss begins
    Storm,
    /// Decoding, tracker, rates, histograms: events per second, bytes per connection
    Ingest,
    /// Recordings: bytes per event, time to write and to read
    Recording,
    /// From exec to the first line, with few and many sockets there
    Start,
    /// CPU and wakeups of each view where nothing happens
    Idle,
    /// From the kernel's timestamp to the line on a pipe
    Latency,
}

impl Which {
    const fn name(self) -> &'static str {
        match self {
            Self::Churn => "churn",
            Self::Probe => "probe",
            Self::Storm => "storm",
            Self::Ingest => "ingest",
            Self::Recording => "recording",
            Self::Start => "start",
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
            Self::Recording => recording::run(options),
            Self::Start => start::run(options),
            Self::Idle => idle::run(options),
            Self::Latency => latency::run(options),
        }
    }

    const fn needs_the_kernel(self) -> bool {
        !matches!(self, Self::Ingest | Self::Recording)
    }
}

#[derive(Parser)]
#[command(bin_name = "cargo xtask bench")]
struct Options {
    /// What to measure; nothing named: all
    which: Vec<Which>,
    /// Short, for its counts: what CI runs. Its times mean little
    #[arg(long)]
    quick: bool,
    /// Interleaved rounds of each comparison
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Write the rows to this file as well, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Put the tables into docs/overhead.md in place of those that are there
    #[arg(long)]
    write_docs: bool,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
    /// A part of `ingest` that wants a process of its own
    #[arg(long, hide = true, value_name = "CONNECTIONS")]
    live_memory: Option<usize>,
    /// A part of `start`, likewise
    #[arg(long, hide = true, value_name = "NUMBER")]
    hold_sockets: Option<u8>,
}

impl Options {
    /// Rounds of a comparison that is this many by default.
    fn rounds(&self, usual: usize) -> usize {
        self.rounds
            .unwrap_or(if self.quick { 1 } else { usual })
            .max(1)
    }

    /// The second where it is to be quick, the first otherwise.
    const fn pick<T: Copy>(&self, usual: T, quick: T) -> T {
        if self.quick { quick } else { usual }
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(connections) = options.live_memory {
        return ingest::memory::measure_here(connections);
    }
    if let Some(number) = options.hold_sockets {
        return holder::hold_here(number);
    }
    let which = if options.which.is_empty() {
        Which::value_variants()
    } else {
        &options.which
    };
    let mut head = machine::head()?;
    if which.iter().any(|which| which.needs_the_kernel()) {
        head.versions.extend(tool::versions());
    }
    let mut report = Report::new(head, options.quick);
    for which in which {
        eprintln!("== {}", which.name());
        if which.needs_the_kernel() {
            // A new one for each: no connection in TIME_WAIT is left from the one before. All that is
            // started from here on is in it too.
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
