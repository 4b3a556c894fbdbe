//! `serve` beside traffic, scraped each second, and `rates` in the same rounds.
//!
//! Both count the same connections, by the same filter, which leaves out the scrapes: these are connections too.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

use super::scrape;
use crate::{
    Options,
    churn::{check, rate},
    generator::Churn,
    process::{PATIENCE, Running},
    report::{Row, ratios},
    tool::{self, Counted, SERVED, Tool, UNTRACED},
};

/// Below the ephemeral ports of the benchmarks' namespace.
const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9_716);

pub fn run(options: &Options) -> Result<Vec<Row>> {
    let churn = Churn::new()?;
    let tools = tool::served(ADDRESS);
    let mut rows = kept(options, &churn, &tools)?;
    for pace in PACES {
        rows.extend(paced(options, &churn, &tools, &pace)?);
    }
    Ok(rows)
}

/// The results of one tool.
#[derive(Default)]
struct Measured {
    per_second: Vec<f64>,
    /// Of the connections that are made untraced.
    kept: Vec<f64>,
    cpu_percent: Vec<f64>,
    lost_percent: Vec<f64>,
    reported_lost: u64,
    scrapes_ms: Vec<f64>,
}

impl Measured {
    /// Runs a tool while these connections are made. Returns their number per second.
    fn measure(
        &mut self,
        tool: &Tool,
        churn: &Churn,
        connections: u64,
        per_second: Option<u32>,
    ) -> Result<f64> {
        let running = Running::start(tool.name, tool.command(), tool.ready)?;
        let scraper = (tool.name == SERVED).then(Scraper::start).transpose()?;
        let work = || churn.run(connections, per_second);
        let (percent, time) = running.percent_during(work)?;
        if let Some(scraper) = scraper {
            self.scrapes_ms.extend(scraper.end()?);
        }
        let ended = running.end()?;
        let counted = tool.count(&ended)?;
        let expected = connections * tool.per_connection;
        check(tool, counted, expected)?;
        let Counted {
            reported,
            reported_lost,
        } = counted;
        let made = connections as f64 / time.as_secs_f64();
        self.per_second.push(made);
        self.cpu_percent.push(percent);
        let missed = expected.saturating_sub(reported);
        self.lost_percent
            .push(100.0 * missed as f64 / expected as f64);
        self.reported_lost += reported_lost;
        Ok(made)
    }

    fn lost(&self, what: impl Into<String>) -> Row {
        Row::new(what, "events missing, %", &self.lost_percent).note(format!(
            "{} reported lost in all rounds",
            self.reported_lost
        ))
    }
}

/// As many connections as can be made, with each tool between two runs without any.
fn kept(options: &Options, churn: &Churn, tools: &[Tool; 2]) -> Result<Vec<Row>> {
    // Some seconds, so that there are scrapes.
    let connections = options.pick(80_000, 1_000);
    // The very first connections run with cold caches.
    churn.run(connections / 4, None)?;
    let rounds = options.rounds(10);
    let mut before = rate(churn, connections)?;
    let mut untraced = vec![before];
    let mut measured = <[Measured; 2]>::default();
    for round in 1..=rounds {
        eprintln!("serve: round {round} of {rounds}");
        // Each goes first in every second round.
        for turn in 0..tools.len() {
            let at = (round + turn) % tools.len();
            let measured = &mut measured[at];
            let traced = measured.measure(&tools[at], churn, connections, None)?;
            let after = rate(churn, connections)?;
            measured.kept.push(traced / f64::midpoint(before, after));
            untraced.push(after);
            before = after;
        }
    }
    let [rates, serve] = &measured;
    let less = serve.kept.iter().zip(&rates.kept);
    let less: Vec<f64> = less.map(|(serve, rates)| serve - rates).collect();
    let mut rows = vec![Row::new(UNTRACED, "connections/s", &untraced)];
    rows.extend(tools.iter().zip(&measured).map(|(tool, measured)| {
        Row::new(tool.name, "connections/s", &measured.per_second).ratio(UNTRACED, &measured.kept)
    }));
    rows.push(Row::new(
        SERVED,
        "its ratio to untraced, less that of rates in the same round",
        &less,
    ));
    rows.push(serve.lost(SERVED));
    Ok(rows)
}

/// A pace, and the names of its figures.
struct Pace {
    per_second: u32,
    words: &'static str,
    reached: &'static str,
    cpu: &'static str,
}

const PACES: [Pace; 2] = [
    Pace {
        per_second: 10_000,
        words: "10,000 connections/s",
        reached: "connections/s, of 10,000",
        cpu: "CPU of its process at 10,000 connections/s, % of a core",
    },
    Pace {
        per_second: 20_000,
        words: "20,000 connections/s",
        reached: "connections/s, of 20,000",
        cpu: "CPU of its process at 20,000 connections/s, % of a core",
    },
];

/// So many connections a second, or as many as can be made.
fn paced(options: &Options, churn: &Churn, tools: &[Tool; 2], pace: &Pace) -> Result<Vec<Row>> {
    let &Pace {
        per_second,
        words,
        reached,
        cpu,
    } = pace;
    let connections = u64::from(per_second) * options.pick(10, 1);
    let rounds = options.rounds(5);
    let mut measured = <[Measured; 2]>::default();
    for round in 1..=rounds {
        eprintln!("serve: {words}, round {round} of {rounds}");
        for (tool, measured) in tools.iter().zip(&mut measured) {
            measured.measure(tool, churn, connections, Some(per_second))?;
        }
    }
    let [rates, serve] = &measured;
    let [rates_name, _] = tools.each_ref().map(|tool| tool.name);
    let ratios = ratios(&serve.cpu_percent, &rates.cpu_percent);
    Ok(vec![
        Row::new(SERVED, reached, &serve.per_second),
        Row::new(rates_name, cpu, &rates.cpu_percent),
        Row::new(SERVED, cpu, &serve.cpu_percent).ratio(rates_name, &ratios),
        serve.lost(format!("{SERVED}, {words}")),
        Row::new(format!("a scrape, {words}"), "ms", &serve.scrapes_ms),
    ])
}

/// Scrapes each second, in a thread of its own.
struct Scraper {
    /// Nothing is sent; dropped, it ends the thread.
    go_on: Sender<()>,
    thread: JoinHandle<Result<Vec<f64>>>,
}

impl Scraper {
    /// Starts when the server answers.
    fn start() -> Result<Self> {
        let begin = Instant::now();
        while let Err(error) = scrape(ADDRESS) {
            if begin.elapsed() > PATIENCE {
                return Err(error.context("no scrape"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        let (go_on, until) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut times = Vec::new();
            loop {
                let begin = Instant::now();
                scrape(ADDRESS)?;
                times.push(begin.elapsed().as_secs_f64() * 1e3);
                if until.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {
                    return Ok(times);
                }
            }
        });
        Ok(Self { go_on, thread })
    }

    /// Ends it. Returns the milliseconds of each scrape.
    fn end(self) -> Result<Vec<f64>> {
        drop(self.go_on);
        let times = self.thread.join();
        times.map_err(|_| anyhow!("the thread that scrapes panicked"))?
    }
}
