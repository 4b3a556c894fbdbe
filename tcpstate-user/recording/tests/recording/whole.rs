//! Helpers of the tests: recordings written and read whole.

use std::{fs, future::poll_fn, io, path::Path};

use tcpstate_core::{
    books::{Accounting, CaptureCost, LostByReason, RejectedByReason},
    event::Event,
    origin::Origin,
    source::{EventSource, Step},
};
use tcpstate_recording::{MAX_BLOCK_RECORDS, Options, ReadError, Reader, Room, Writer, Written};

pub fn origin() -> Origin {
    Origin {
        host: "web-3".into(),
        kernel: "6.12.0".into(),
        attach: "btf".into(),
        wall_at_monotonic_zero_ns: 1_760_000_000_000_000_000,
        started_ns: 86_400_000_000_000,
        filters: "-L 443".into(),
        live: true,
        sample_interval_ns: None,
    }
}

/// The books of a capture that received this many events.
pub fn books(received: u64) -> Accounting {
    Accounting {
        seen: received + 7,
        filtered: 4,
        submitted: received + 1,
        lost: 2,
        received,
        rejected: 1,
        lost_by_reason: LostByReason {
            ring_full: 2,
            nested: Some(0),
        },
        rejected_by_reason: RejectedByReason {
            malformed: 1,
            ..RejectedByReason::default()
        },
        ..Accounting::default()
    }
}

pub const COST: CaptureCost = CaptureCost {
    bpf_run_ns: Some(9),
    bpf_run_count: Some(3),
    ring_high_water_bytes: None,
};

pub fn small_blocks() -> Options {
    Options {
        block_records: 100,
        ..Options::default()
    }
}

/// Writes a whole recording.
pub fn write(path: &Path, events: &[Event], options: Options) -> Written {
    let mut writer = Writer::create(path, &origin(), options).unwrap();
    let now_ns = events.last().map_or(0, Event::ts_ns);
    assert_eq!(writer.append(events, now_ns).unwrap(), Room::Left);
    writer
        .finish(Some(&books(events.len() as u64)), Some(&COST))
        .unwrap()
}

/// The bytes of a whole recording.
pub fn recording(events: &[Event], options: Options) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    write(&path, events, options);
    fs::read(path).unwrap()
}

/// Everything that was read from a source.
pub struct Read {
    pub events: Vec<Event>,
    pub notices: Vec<String>,
    pub accounting: Accounting,
    pub cost: CaptureCost,
}

pub fn drain(mut reader: Reader) -> Read {
    let mut all = Vec::new();
    let mut batch = Vec::new();
    let mut notices = Vec::new();
    loop {
        match next(&mut reader, &mut batch) {
            Step::End => break,
            Step::Notice(notice) => notices.push(notice.text),
            Step::Events
            | Step::Census(_)
            | Step::Recalled(_)
            | Step::Packets(_)
            | Step::Settled => {}
        }
        assert!(batch.len() <= MAX_BLOCK_RECORDS, "a batch is bounded");
        all.append(&mut batch);
    }
    let accounting = reader.accounting().unwrap();
    assert_eq!(
        accounting.seen,
        accounting.filtered + accounting.submitted + accounting.lost
    );
    assert_eq!(
        accounting.submitted,
        accounting.received + accounting.rejected
    );
    assert_eq!(accounting.received, all.len() as u64);
    Read {
        events: all,
        notices,
        accounting,
        cost: reader.cost(),
    }
}

pub fn next(reader: &mut Reader, batch: &mut Vec<Event>) -> Step {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(poll_fn(|cx| reader.poll_step(cx, batch)))
        .unwrap()
}

pub fn open(bytes: &[u8]) -> Result<Reader, ReadError> {
    Reader::new(
        io::Cursor::new(bytes.to_vec()),
        "FILE".into(),
        Some(bytes.len() as u64),
    )
}

pub fn read(bytes: &[u8]) -> Read {
    drain(open(bytes).unwrap())
}

pub fn read_file(path: &Path) -> Read {
    drain(Reader::open(path).unwrap())
}
