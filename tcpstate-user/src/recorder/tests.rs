mod parts;

use std::{
    fs,
    future::poll_fn,
    path::Path,
    task::{Context, Poll},
};

use tcpstate_common::{State, record};
use tcpstate_core::options::Until;
use tcpstate_core::{
    books::{Accounting, Cost, Selection},
    expression::Expression,
    origin::Evidence,
    source::{EventSource, Step},
};
use tcpstate_recording::Reader;
use tcpstate_text::{
    life::{self, Life},
    settings::Settings,
};

use super::*;
use crate::run::{Interrupt, Interrupts, Options as RunOptions, Outcome, Outputs, drive};

/// The books of a recording may have any numbers.
#[test]
fn books_of_any_numbers_are_copied_without_a_panic() {
    const MAX: u64 = u64::MAX;
    let mut end = End {
        now_ns: 0,
        accounting: Accounting {
            filtered: MAX,
            received: MAX,
            ..Accounting::default()
        },
        selection: Selection::default(),
        damaged: false,
        verbose: false,
        part: None,
        evidence: Evidence::Kernel,
        packets: None,
        cost: Cost::default(),
    };
    end.accounting.filtered_by_reason.settled = MAX;
    end.selection.settled.filtered = MAX;
    end.selection.settled.undecided = 1;
    let books = books_of_file(&end);
    assert_eq!((books.filtered, books.received), (MAX, 0));
}

fn origin() -> Origin {
    Origin {
        host: "h".into(),
        kernel: "k".into(),
        attach: "btf".into(),
        wall_at_monotonic_zero_ns: 0,
        started_ns: 0,
        filters: String::new(),
        live: true,
        sample_interval_ns: None,
    }
}

fn event(ts_ns: u64) -> Event {
    let record = tcpstate_common::Record {
        ts_ns,
        oldstate: State::CLOSE,
        newstate: State::SYN_SENT,
        family: record::AF_INET,
        ..Default::default()
    };
    Event::try_from(record).unwrap()
}

fn end(received: u64) -> End {
    End {
        now_ns: 10,
        accounting: Accounting {
            seen: received,
            submitted: received,
            received,
            ..Accounting::default()
        },
        selection: Selection::default(),
        cost: Cost::default(),
        damaged: false,
        verbose: false,
        part: None,
        evidence: Evidence::Kernel,
        packets: None,
    }
}

fn view(path: &Path, format: Format, to: To) -> Record {
    let mut view = Record::new(Options {
        path: path.to_owned(),
        format,
        to,
    });
    view.start(&origin(), &mut io::sink()).unwrap();
    view
}

fn to_file() -> To {
    To::File(WriterOptions::default())
}

fn feed(view: &mut Record, times: std::ops::Range<u64>) {
    for ts_ns in times {
        assert_eq!(
            view.event(&event(ts_ns), &mut io::sink()).unwrap(),
            Flow::Continue
        );
    }
}

/// The times of a file's events, and its books.
fn read(path: &Path) -> (Vec<u64>, Accounting) {
    let mut reader = Reader::open(path).unwrap();
    let mut events = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    while runtime
        .block_on(poll_fn(|cx| reader.poll_step(cx, &mut events)))
        .unwrap()
        != Step::End
    {}
    (
        events.iter().map(Event::ts_ns).collect(),
        reader.accounting().unwrap(),
    )
}

/// Ends a run: standard output, standard error, and the result.
fn finish(view: &mut Record, received: u64) -> (String, String, io::Result<()>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let result = view.finish(&end(received), &mut out, &mut err);
    (
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
        result,
    )
}

#[test]
fn every_interval_brings_the_events_to_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let mut view = view(&path, Format::Text, to_file());
    assert!(!view.takes_usr1());
    feed(&mut view, 0..3);
    assert!(read(&path).0.is_empty());
    assert_eq!(view.tick(3, &mut io::sink()).unwrap(), Flow::Continue);
    assert_eq!(read(&path).0, [0, 1, 2]);
    feed(&mut view, 3..5);
    let (out, err, result) = finish(&mut view, 5);
    result.unwrap();
    assert_eq!(read(&path), (vec![0, 1, 2, 3, 4], end(5).accounting));
    assert_eq!(out, "");
    let bytes = fs::metadata(&path).unwrap().len();
    let told = format!(
        "5 events in {}, {}; none known to be lost\n",
        path.display(),
        Bytes(bytes)
    );
    assert_eq!(err, told);
}

/// Never interrupts.
struct Undisturbed;

impl Interrupts for Undisturbed {
    fn poll_interrupt(&mut self, _cx: &mut Context<'_>) -> Poll<Interrupt> {
        Poll::Pending
    }
}

fn life() -> Life {
    Life::new(&life::Options {
        settings: Settings::plain(Format::Text),
        live: true,
        until: Until::Close,
        expression: Expression::default(),
        states: None,
        causes: None,
        longer_than: None,
        count: None,
        columns: tcpstate_text::format::text::Columns::Usual,
        time: false,
        timestamp: false,
        reset_reason: false,
    })
}

#[test]
fn the_times_so_far_of_a_recording_are_those_of_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let in_memory = To::Memory(FlightOptions::default());
    for (name, to) in [("file", to_file()), ("memory", in_memory)] {
        let path = dir.path().join(name);
        let (mut record, mut live) = (view(&path, Format::Text, to), life());
        let mut shown_live = Vec::new();
        live.start(&origin(), &mut shown_live).unwrap();
        feed(&mut record, 0..3);
        for ts_ns in 0..3 {
            live.event(&event(ts_ns), &mut shown_live).unwrap();
        }
        // The last transition was at 2 ns, the end of the run is at 10 ns.
        live.finish(&end(3), &mut shown_live, &mut io::sink())
            .unwrap();
        finish(&mut record, 3).2.unwrap();

        let (mut read, mut shown) = (life(), Vec::new());
        let mut reader = Reader::open(&path).unwrap();
        let outputs = Outputs {
            out: &mut shown,
            err: &mut io::sink(),
        };
        let options = RunOptions::default();
        let mut undisturbed = Undisturbed;
        let run = drive(&mut reader, &mut read, outputs, &mut undisturbed, &options);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        assert_ne!(runtime.block_on(run).unwrap(), Outcome::ReaderGone);
        let text = |shown| String::from_utf8(shown).unwrap();
        let (shown_live, shown) = (text(shown_live), text(shown));
        assert!(shown_live.contains("SYN_SENT 8 ns so far"), "{shown_live}");
        assert_eq!(shown, shown_live, "{name}");
    }
}

#[test]
fn json_has_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let mut view = view(&path, Format::Json, to_file());
    feed(&mut view, 0..5);
    let (out, err, result) = finish(&mut view, 5);
    result.unwrap();
    assert_eq!(err, "");
    let line: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(line["type"], "summary");
    assert_eq!(line["file"], path.to_str().unwrap());
    assert_eq!(line["events"], 5);
    assert_eq!(line["bytes"], fs::metadata(&path).unwrap().len());
    assert_eq!(line["accounting"]["received"], 5);
}

#[test]
fn the_signal_writes_what_is_in_memory_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let to = To::Memory(FlightOptions {
        keep_ns: 1_000,
        ..FlightOptions::default()
    });
    let mut view = view(&path, Format::Text, to);
    assert!(view.takes_usr1());
    feed(&mut view, 0..3);
    view.tick(3, &mut io::sink()).unwrap();
    assert!(!path.exists());
    let mut err = Vec::new();
    assert_eq!(
        view.usr1(3, &mut io::sink(), &mut err).unwrap(),
        Flow::Continue
    );
    let err = String::from_utf8(err).unwrap();
    assert!(
        err.starts_with(&format!("3 events in {}, ", path.display())),
        "{err}"
    );
    let (times, books) = read(&path);
    assert_eq!(times, [0, 1, 2]);
    assert!(books.partial);

    feed(&mut view, 5_000..5_002);
    finish(&mut view, 5).2.unwrap();
    let (times, books) = read(&path);
    assert_eq!(times, [5_000, 5_001]);
    assert_eq!(books.rejected_by_reason.not_in_file, 3);
}

#[test]
fn a_signal_that_fails_is_told_as_all_else_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("a.rec");
    let to = To::Memory(FlightOptions::default());
    let mut view = view(&path, Format::Text, to);
    feed(&mut view, 0..3);
    fs::remove_dir(&folder).unwrap();
    let mut err = Vec::new();
    let flow = view.usr1(3, &mut io::sink(), &mut err).unwrap();
    assert_eq!(flow, Flow::Continue);
    let err = String::from_utf8(err).unwrap();
    assert!(
        err.starts_with("tcpstate: cannot write ") && err.contains("still in memory"),
        "{err}"
    );

    fs::create_dir(&folder).unwrap();
    finish(&mut view, 3).2.unwrap();
    assert_eq!(read(&path).0, [0, 1, 2]);
}

#[test]
fn a_file_that_cannot_be_written_ends_the_run_in_good_order() {
    let path = Path::new("/dev/full");
    let failed = Record::new(Options {
        path: path.into(),
        format: Format::Text,
        to: to_file(),
    })
    .start(&origin(), &mut io::sink())
    .unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::StorageFull);

    // A pipe whose other end goes away after the header.
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let other_end = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&pipe)
        .unwrap();
    let mut view = view(&pipe, Format::Text, to_file());
    drop(other_end);
    feed(&mut view, 0..3);
    assert_eq!(view.tick(3, &mut io::sink()).unwrap(), Flow::Done);
    let (_, err, result) = finish(&mut view, 3);
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert!(err.contains("3 events found no room\nseen 3 = "), "{err}");
}

/// A pipe whose reader has gone.
struct Broken;

impl Write for Broken {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn nobody_who_reads_the_messages_loses_no_event() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    let mut view = view(&path, Format::Text, To::Memory(FlightOptions::default()));
    assert!(!view.ends_with_reader());
    feed(&mut view, 1..4);
    let flow = view.usr1(5, &mut io::sink(), &mut Broken).unwrap();
    assert_eq!(flow, Flow::Continue);
    feed(&mut view, 6..8);
    view.finish(&end(5), &mut io::sink(), &mut Broken).unwrap();
    assert_eq!(read(&path).0, [1, 2, 3, 6, 7]);
}

#[test]
fn a_recording_on_standard_output_ends_with_its_reader() {
    let to_stdout = Record::new(Options {
        path: "-".into(),
        format: Format::Text,
        to: to_file(),
    });
    assert!(to_stdout.ends_with_reader());
}
