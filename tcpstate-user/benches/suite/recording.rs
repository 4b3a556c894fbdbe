//! `recording`: bytes, write time and read time per event of recordings, for streams of known traffic.
//!
//! They are compared with the simplest possible format: the records themselves, in blocks of the same
//! size, with the same compressor. Times are CPU time of this process, because the reader has a thread of
//! its own.

#[path = "../../tests/support/stream.rs"]
pub mod stream;

use std::{
    fs::File,
    future::poll_fn,
    hint::black_box,
    io::{ErrorKind, Read as _, Write as _},
    path::Path,
    slice,
};

use anyhow::{Context as _, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use tcpstate_common::Record;
use tcpstate_core::{
    books::Accounting,
    event::Event,
    origin::Origin,
    source::{EventSource as _, Step},
};
use tcpstate_recording::{FlightOptions, FlightRing, Options as Format, Reader, Writer};

use self::stream::Traffic;
use crate::{
    Options,
    report::{Row, ratios},
};

/// Number of events in a block: the default of recordings.
const BLOCK: usize = 16_384;

/// A file format for events.
struct Way {
    write: fn(&Path, &[Event]) -> Result<()>,
    read: fn(&Path) -> Result<usize>,
}

const OURS: Way = Way { write, read };
const PLAIN: Way = Way {
    write: write_plain,
    read: read_plain,
};

/// One of the figures.
type Figure = fn(&Taken) -> f64;

/// The figures of a format in one round.
struct Taken {
    bytes: f64,
    write_ns: f64,
    read_ns: f64,
}

pub fn run(options: &Options) -> Result<Vec<Row>> {
    let count = options.pick(1_000_000, 50_000);
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("bench.rec");
    let mut rows = Vec::new();
    for (name, traffic) in [
        ("churn", Traffic::Churn),
        ("a web server", Traffic::WebServer),
        ("noise", Traffic::Noise),
    ] {
        eprintln!("recording: {name}");
        let events = stream::events(traffic, count, 1);
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        let (mut rotating, mut flying) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds(5) {
            rotating.push(cost_of(|| write_files(&path, &events, 2), count)?);
            flying.push(cost_of(|| fly(&path, &events), count)?);
            plain.push(PLAIN.measure(&path, &events)?);
            ours.push(OURS.measure(&path, &events)?);
        }
        let figures: [(&str, Figure); 3] = [
            ("bytes per event", |taken| taken.bytes),
            ("write, ns per event", |taken| taken.write_ns),
            ("read, ns per event", |taken| taken.read_ns),
        ];
        for (figure, of) in figures {
            let values: Vec<f64> = ours.iter().map(of).collect();
            let plain: Vec<f64> = plain.iter().map(of).collect();
            rows.push(
                Row::new(name, figure, &values)
                    .ratio("plain records with zstd", &ratios(&values, &plain)),
            );
        }
        let plain_write: Vec<f64> = ours.iter().map(|taken| taken.write_ns).collect();
        for (figure, values) in [
            ("write, ready to rotate, ns per event", rotating),
            ("flight recorder, ns per event", flying),
        ] {
            rows.push(
                Row::new(name, figure, &values)
                    .ratio("writing one file", &ratios(&values, &plain_write)),
            );
        }
    }
    Ok(rows)
}

impl Way {
    fn measure(&self, path: &Path, events: &[Event]) -> Result<Taken> {
        let start = cpu_ns();
        (self.write)(path, events)?;
        let written = cpu_ns();
        let read = (self.read)(path)?;
        let end = cpu_ns();
        ensure!(read == events.len(), "{read} events of {}", events.len());
        let each = |sum: f64| sum / events.len() as f64;
        Ok(Taken {
            bytes: each(path.metadata()?.len() as f64),
            write_ns: each(written - start),
            read_ns: each(end - written),
        })
    }
}

/// CPU time per event.
fn cost_of(write: impl FnOnce() -> Result<()>, count: usize) -> Result<f64> {
    let start = cpu_ns();
    write()?;
    Ok((cpu_ns() - start) / count as f64)
}

/// CPU time of this process in nanoseconds.
fn cpu_ns() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn origin() -> Origin {
    Origin {
        host: String::new(),
        kernel: String::new(),
        attach: "btf".to_owned(),
        wall_at_monotonic_zero_ns: 0,
        started_ns: 0,
        filters: String::new(),
        live: false,
        sample_interval_ns: None,
    }
}

fn write(path: &Path, events: &[Event]) -> Result<()> {
    write_files(path, events, 1)
}

/// With more than one file it follows what the next one would begin with.
fn write_files(path: &Path, events: &[Event], files: u32) -> Result<()> {
    let format = Format {
        block_records: BLOCK,
        files,
        ..Format::default()
    };
    let mut writer = Writer::create(path, &origin(), format)?;
    for event in events {
        writer.append(slice::from_ref(event), event.ts_ns())?;
    }
    writer.finish(Some(&Accounting::default()), None)?;
    Ok(())
}

/// Keeps a fifth of the events in memory.
fn fly(path: &Path, events: &[Event]) -> Result<()> {
    let times = events.first().zip(events.last());
    let span_ns = times.map_or(0, |(first, last)| last.ts_ns() - first.ts_ns());
    let options = FlightOptions {
        keep_ns: span_ns / 5,
        ..FlightOptions::default()
    };
    let mut ring = FlightRing::new(&origin(), options)?;
    for event in events {
        ring.append(slice::from_ref(event))?;
    }
    let (_, failure) = ring.finish(path, Some(&Accounting::default()), None);
    failure.map_or(Ok(()), |error| Err(error.into()))
}

fn read(path: &Path) -> Result<usize> {
    let mut reader = Reader::open(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (mut batch, mut read) = (Vec::new(), 0);
    while runtime.block_on(poll_fn(|cx| reader.poll_step(cx, &mut batch)))? != Step::End {
        read += batch.len();
        black_box(&mut batch).clear();
    }
    Ok(read)
}

fn write_plain(path: &Path, events: &[Event]) -> Result<()> {
    let mut file = File::create(path)?;
    let mut compressor = zstd::bulk::Compressor::new(1)?;
    let mut records = Vec::new();
    for block in events.chunks(BLOCK) {
        records.clear();
        for event in block {
            records.extend_from_slice(&event.record().to_bytes());
        }
        let stored = compressor.compress(&records)?;
        file.write_all(&u32::try_from(stored.len())?.to_le_bytes())?;
        file.write_all(&crc32c::crc32c(&stored).to_le_bytes())?;
        file.write_all(&stored)?;
    }
    Ok(())
}

fn read_plain(path: &Path) -> Result<usize> {
    let mut file = File::open(path)?;
    let mut decompressor = zstd::bulk::Decompressor::new()?;
    let (mut stored, mut records) = (Vec::new(), vec![0; BLOCK * Record::SIZE]);
    let (mut events, mut read) = (Vec::new(), 0);
    let mut head = [0; 8];
    loop {
        match file.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(read),
            outcome => outcome?,
        }
        let [a, b, c, d, crc @ ..] = head;
        stored.resize(u32::from_le_bytes([a, b, c, d]) as usize, 0);
        file.read_exact(&mut stored)?;
        ensure!(
            crc32c::crc32c(&stored) == u32::from_le_bytes(crc),
            "a damaged block"
        );
        let length = decompressor.decompress_to_buffer(&stored, &mut records[..])?;
        events.clear();
        for record in records[..length].chunks_exact(Record::SIZE) {
            events.push(Event::decode(record).context("a record of this benchmark")?);
        }
        read += black_box(&events).len();
    }
}
