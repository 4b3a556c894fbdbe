//! What recordings cost: bytes, write time and read time per event, for streams of known traffic.
//!
//! `cargo bench --bench recording`. Times are CPU time of the thread that does the work, the best of
//! five, so that other work on the machine does not count. Compared with the plainest format there
//! could be: the records as they are, in blocks of the same size, under the same compressor.

#[path = "../tests/support/stream.rs"]
mod stream;

use std::{
    fs::File,
    future::poll_fn,
    hint::black_box,
    io::{self, Read},
    path::Path,
};

use rustix::time::{ClockId, clock_gettime};
use tcpstate_common::Record;
use tcpstate_user::{
    event::Event,
    recording::{Options, Reader, Writer},
    source::{Accounting, EventSource, Origin},
};

use self::stream::Traffic;

const EVENTS: usize = 1_000_000;
const ROUNDS: usize = 5;

/// CPU time of this process, seconds: the reader works in a thread of its own.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    #[expect(
        clippy::cast_precision_loss,
        reason = "a benchmark does not run for years"
    )]
    let (seconds, nanoseconds) = (time.tv_sec as f64, time.tv_nsec as f64);
    seconds + nanoseconds * 1e-9
}

/// The shortest of five, nanoseconds an event.
fn measure(mut work: impl FnMut()) -> f64 {
    let times = (0..ROUNDS).map(|_| {
        let start = cpu_seconds();
        work();
        cpu_seconds() - start
    });
    #[expect(clippy::cast_precision_loss, reason = "a million")]
    let events = EVENTS as f64;
    times.fold(f64::INFINITY, f64::min) * 1e9 / events
}

fn write(path: &Path, events: &[Event], block_records: usize) {
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
    let options = Options {
        block_records,
        ..Options::default()
    };
    let mut writer = Writer::create(path, &origin, options).expect("the file can be created");
    for event in events {
        writer
            .append(std::slice::from_ref(event), event.ts_ns())
            .expect("there is room");
    }
    writer
        .finish(Some(&Accounting::default()), None)
        .expect("there is room");
}

fn read(path: &Path) {
    let mut reader = Reader::open(path).expect("it has just been written");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("no drivers");
    let mut batch = Vec::new();
    while runtime
        .block_on(poll_fn(|cx| reader.poll_next(cx, &mut batch)))
        .expect("it reads")
    {
        black_box(&mut batch).clear();
    }
}

fn write_plain(path: &Path, events: &[Event], block_records: usize) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut compressor = zstd::bulk::Compressor::new(1)?;
    let mut records = Vec::new();
    for block in events.chunks(block_records) {
        records.clear();
        for event in block {
            records.extend_from_slice(&event.record().to_bytes());
        }
        let stored = compressor.compress(&records)?;
        let crc = crc32c::crc32c(&stored);
        io::Write::write_all(
            &mut file,
            &u32::try_from(stored.len()).unwrap_or(0).to_le_bytes(),
        )?;
        io::Write::write_all(&mut file, &crc.to_le_bytes())?;
        io::Write::write_all(&mut file, &stored)?;
    }
    Ok(())
}

fn read_plain(path: &Path, block_records: usize) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut decompressor = zstd::bulk::Decompressor::new()?;
    let (mut stored, mut records) = (Vec::new(), vec![0; block_records * Record::SIZE]);
    let mut events = Vec::new();
    let mut head = [0; 8];
    while file.read_exact(&mut head).is_ok() {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        stored.resize(length as usize, 0);
        file.read_exact(&mut stored)?;
        black_box(crc32c::crc32c(&stored));
        let length = decompressor.decompress_to_buffer(&stored, &mut records[..])?;
        events.clear();
        for record in records[..length].chunks_exact(Record::SIZE) {
            events.extend(Event::decode(record));
        }
        black_box(&mut events);
    }
    Ok(())
}

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("bench.rec");
    println!(
        "{:<10} {:<8} {:>8} {:>10} {:>10} {:>10} {:>12} {:>12}",
        "traffic", "format", "block", "bytes/ev", "write ns", "read ns", "write M/s", "read M/s"
    );
    for traffic in [Traffic::Churn, Traffic::WebServer, Traffic::Noise] {
        let events = stream::events(traffic, EVENTS, 1);
        for (format, block_records) in [
            ("plain", 16_384),
            ("packed", 4_096),
            ("packed", 16_384),
            ("packed", 65_536),
        ] {
            let (write_ns, read_ns) = if format == "plain" {
                (
                    measure(|| write_plain(&path, &events, block_records).expect("it writes")),
                    measure(|| read_plain(&path, block_records).expect("it reads")),
                )
            } else {
                (
                    measure(|| write(&path, &events, block_records)),
                    measure(|| read(&path)),
                )
            };
            #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
            let bytes = path.metadata().map_or(0, |metadata| metadata.len()) as f64 / EVENTS as f64;
            println!(
                "{:<10} {format:<8} {block_records:>8} {bytes:>10.2} {write_ns:>10.0} \
                 {read_ns:>10.0} {:>12.1} {:>12.1}",
                format!("{traffic:?}"),
                1e3 / write_ns,
                1e3 / read_ns,
            );
        }
    }
}
