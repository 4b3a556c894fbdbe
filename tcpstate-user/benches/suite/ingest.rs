//! `ingest`: the rate at which events are processed, and the memory of a live connection.
//!
//! A stream of complete connections of clients and servers is generated as the bytes of its records, a block
//! at a time, as a reader of recordings unpacks them; generating is not part of the time. The cases alternate,
//! with more and more parts of the tracker. Then the same stream is read from a recording: with reading
//! only, and into the complete tracker.

pub mod memory;
pub mod stream;

use std::{
    future::poll_fn,
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tcpstate::run::LOOK_AHEAD;
use tcpstate_common::Record;
use tcpstate_core::{
    books::Accounting,
    event::Event,
    model::{Limits, Tracker},
    origin::Origin,
    source::{EventSource as _, Step},
};
use tcpstate_recording::{Options as Format, Reader, Writer};

use self::stream::Stream;
use crate::{
    Options,
    report::{Row, ratios},
};

/// Number of events in a block.
const BLOCK: usize = 16_384;
/// Number of events passed to the tracker at a time.
const BATCH: usize = 1_024;

/// Makes a tracker with some of its parts.
type Make = fn() -> Tracker;

/// A stream, and the parts of the tracker that process it.
struct Case {
    name: String,
    live: usize,
    ports: usize,
    /// `None` if events are only decoded.
    make: Option<Make>,
}

pub fn run(options: &Options) -> Result<Vec<Row>> {
    let events = options.pick(10_000_000, 300_000);
    let cases = cases(options);
    let mut per_second: Vec<Vec<f64>> = cases.iter().map(|_| Vec::new()).collect();
    let rounds = options.rounds(5);
    for round in 1..=rounds {
        eprintln!("ingest: round {round} of {rounds}");
        for (case, per_second) in cases.iter().zip(&mut per_second) {
            let took = case.run(events)?;
            per_second.push(events as f64 / took.as_secs_f64());
        }
    }
    let mut rows: Vec<Row> = cases
        .iter()
        .zip(&per_second)
        .map(|(case, values)| {
            Row::new(&case.name, "events/s of CPU time", values)
                .ratio("decode", &ratios(values, &per_second[0]))
        })
        .collect();
    rows.extend(from_recording(events, rounds)?);
    rows.extend(memory::run(options)?);
    Ok(rows)
}

fn whole() -> Tracker {
    Tracker::new(Limits::default())
}

/// The first is the floor.
fn cases(options: &Options) -> Vec<Case> {
    let parts: [(&str, Option<Make>); 5] = [
        ("decode", None),
        (
            "decode, connections",
            Some(|| whole().without_rates().without_histograms()),
        ),
        (
            "decode, connections, rates",
            Some(|| whole().without_histograms()),
        ),
        (
            "decode, connections, histograms",
            Some(|| whole().without_rates()),
        ),
        ("all parts", Some(whole)),
    ];
    let mut cases: Vec<Case> = parts
        .into_iter()
        .map(|(name, make)| Case {
            name: format!("{name}; 10,000 live"),
            live: 10_000,
            ports: 100,
            make,
        })
        .collect();
    let sizes: &[(&str, usize, usize)] = options.pick(
        &[
            ("1,000", 1_000, 20),
            ("100,000", 100_000, 300),
            ("1,000,000", 1_000_000, 1_000),
        ],
        &[("1,000", 1_000, 20)],
    );
    cases.extend(sizes.iter().map(|&(count, live, ports)| Case {
        name: format!("all parts; {count} live, {ports} ports"),
        live,
        ports,
        make: Some(whole),
    }));
    cases
}

impl Case {
    /// Processes the whole stream once, batch after batch, as the program does.
    fn run(&self, events: usize) -> Result<Duration> {
        let mut tracker = self.make.map(|make| make());
        let mut stream = Stream::new(self.live, self.ports);
        let mut bytes = Vec::new();
        let mut batch = Vec::with_capacity(BATCH);
        let (mut taken, mut took) = (0, Duration::ZERO);
        while taken < events {
            let block = BLOCK.min(events - taken);
            stream.fill(&mut bytes, block);
            taken += block;
            let start = cpu_time();
            for bytes in bytes.chunks(BATCH * Record::SIZE) {
                batch.clear();
                for record in bytes.chunks_exact(Record::SIZE) {
                    batch.extend(Event::decode(record));
                }
                match &mut tracker {
                    None => {
                        black_box(&batch);
                    }
                    Some(tracker) => apply(tracker, &batch),
                }
            }
            took += cpu_time().saturating_sub(start);
        }
        if let Some(tracker) = tracker {
            check(&tracker, events)?;
        }
        Ok(took)
    }
}

fn apply(tracker: &mut Tracker, batch: &[Event]) {
    // Like the program.
    for events in batch.chunks(LOOK_AHEAD) {
        tracker.look_ahead(events);
        for event in events {
            black_box(tracker.apply(event).dwell_ns);
        }
    }
}

/// Checks that the tracker did its work: doing nothing would be fast.
fn check(tracker: &Tracker, events: usize) -> Result<()> {
    let books = tracker.books();
    ensure!(
        books.events == events as u64,
        "{} events of {events}",
        books.events
    );
    ensure!(
        (books.gaps, books.superseded, books.evicted) == (0, 0, 0),
        "wrong books of the tracker: {books:?}"
    );
    Ok(())
}

/// The CPU time of this thread, because the machine may have other work.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

/// The same stream from a file, timed by the wall clock because reading has a thread of its own.
fn from_recording(events: usize, rounds: usize) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("ingest.rec");
    write(&path, events)?;
    let (mut read, mut processed) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let took = read_all(&path, events, |_| ())?;
        read.push(events as f64 / took.as_secs_f64());
        let mut tracker = whole();
        let took = read_all(&path, events, |batch| apply(&mut tracker, batch))?;
        check(&tracker, events)?;
        processed.push(events as f64 / took.as_secs_f64());
    }
    let name = |what| format!("{what}; 10,000 live");
    let figure = "events/s, wall clock";
    Ok(vec![
        Row::new(name("recording, reading only"), figure, &read),
        Row::new(name("recording, all parts"), figure, &processed)
            .ratio("reading only", &ratios(&processed, &read)),
    ])
}

/// Writes the stream, a block at a time.
fn write(path: &Path, events: usize) -> Result<()> {
    let origin = Origin {
        host: String::new(),
        kernel: String::new(),
        attach: "btf".to_owned(),
        wall_at_monotonic_zero_ns: 0,
        started_ns: 0,
        filters: String::new(),
        live: false,
        sample_interval_ns: None,
    };
    let mut writer = Writer::create(path, &origin, Format::default())?;
    let mut stream = Stream::new(10_000, 100);
    let (mut bytes, mut batch) = (Vec::new(), Vec::new());
    let mut written = 0;
    while written < events {
        let block = BLOCK.min(events - written);
        stream.fill(&mut bytes, block);
        batch.clear();
        for record in bytes.chunks_exact(Record::SIZE) {
            batch.push(Event::decode(record).context("a record of this benchmark")?);
        }
        let now_ns = batch.last().map_or(0, Event::ts_ns);
        writer.append(&batch, now_ns)?;
        written += block;
    }
    writer.finish(Some(&Accounting::default()), None)?;
    Ok(())
}

/// Reads it to its end.
fn read_all(path: &Path, events: usize, mut take: impl FnMut(&[Event])) -> Result<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let start = Instant::now();
    let mut reader = Reader::open(path)?;
    let (mut batch, mut read) = (Vec::new(), 0);
    while runtime.block_on(poll_fn(|cx| reader.poll_step(cx, &mut batch)))? != Step::End {
        read += batch.len();
        take(&batch);
        batch.clear();
    }
    let took = start.elapsed();
    ensure!(read == events, "{read} events of {events}");
    Ok(took)
}
