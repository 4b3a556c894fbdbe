//! `play`: jumps in a long recording that is played: the first pass to its end, and then to random positions.
//!
//! A jump is over when its snapshot is there, with all connections and histograms in it.

use std::{
    future::Future as _,
    io,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use tcpstate::run::{self, Interrupt, Interrupts, Outputs, Playing};
use tcpstate_core::{
    event::Event,
    model::{By, Include, Limits},
    origin::Origin,
    play::{Command, Controls, controls},
    present::{self, Publisher, Subscriber},
};
use tcpstate_recording::{Options as Format, Reader, Writer};
use tokio::sync::oneshot;

use crate::{
    Options,
    recording::stream::{self, Random, Traffic},
    report::Row,
};

/// Jumps of a round.
const JUMPS: usize = 40;
/// Events that are generated at a time. Their connections that are open at its end stay so.
const PIECE: usize = 1_000_000;

pub fn run(options: &Options) -> Result<Vec<Row>> {
    let count = options.pick(10_000_000, 600_000);
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("bench.rec");
    eprintln!("play: writing {count} events");
    let (begin_ns, end_ns) = write(&path, count)?;
    let (mut passes, mut slowest, mut middle) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..options.rounds(3) {
        let mut random = Random::new(round as u64);
        let positions: Vec<u64> = (0..JUMPS)
            .map(|_| begin_ns + random.below(end_ns - begin_ns))
            .collect();
        let (pass, mut jumps) = jump(&path, &positions, count as u64)?;
        jumps.sort_by(f64::total_cmp);
        passes.push(pass);
        slowest.push(*jumps.last().context("there are jumps")?);
        middle.push(jumps[jumps.len() / 2]);
    }
    let what = options.pick("10 million events", "600,000 events");
    Ok(vec![
        Row::new(what, "the first jump, to the end, ms", &passes),
        Row::new(what, "the slowest of 40 later ones, ms", &slowest),
        Row::new(what, "their median, ms", &middle),
    ])
}

/// Writes a recording of so many events. Returns when it begins and ends.
fn write(path: &Path, count: usize) -> Result<(u64, u64)> {
    let first = stream::events(Traffic::WebServer, 1, 0);
    let begin_ns = first.first().map_or(0, Event::ts_ns);
    let origin = Origin {
        host: String::new(),
        kernel: String::new(),
        attach: "btf".to_owned(),
        wall_at_monotonic_zero_ns: 0,
        started_ns: begin_ns,
        filters: String::new(),
        live: false,
        sample_interval_ns: None,
    };
    let mut writer = Writer::create(path, &origin, Format::default())?;
    let (mut after_ns, mut end_ns) = (0, begin_ns);
    for (number, first) in (0_u64..).zip((0..count).step_by(PIECE)) {
        let piece = stream::events(Traffic::WebServer, PIECE.min(count - first), number);
        for event in piece {
            let mut record = *event.record();
            record.ts_ns += after_ns;
            record.skaddr ^= number << 40;
            if record.cookie != 0 {
                record.cookie += number << 32;
            }
            let event = Event::try_from(record).ok().context("it was an event")?;
            end_ns = end_ns.max(event.ts_ns());
            writer.append(&[event], event.ts_ns())?;
        }
        after_ns = end_ns - begin_ns;
    }
    writer.finish(None, None)?;
    Ok((begin_ns, end_ns))
}

/// The milliseconds of the first jump, to the end, and of those to these positions.
fn jump(path: &Path, positions: &[u64], count: u64) -> Result<(f64, Vec<f64>)> {
    let mut source = Reader::open(path)?;
    let mut view = Publisher::new(&present::Options {
        interval_ns: 1_000_000_000,
        by: By::Port,
        include: Include::ALL,
        in_kernel: false,
        limits: Limits::default(),
    });
    let mut subscriber = view.subscribe();
    let (controls, inbox) = controls();
    let (stop, stops) = oneshot::channel();
    let mut interrupts = Stops(Some(stops));
    let outputs = Outputs {
        out: &mut io::sink(),
        err: &mut io::sink(),
    };
    let options = run::Options::default();
    let playing = Playing::new(inbox, None);
    let jumps = async {
        let mut times = Vec::new();
        let begin = Instant::now();
        let events = obeyed(&controls, &mut subscriber, Command::Pause).await;
        ensure!(events == Some(0), "nothing at the begin: {events:?}");
        let events = obeyed(&controls, &mut subscriber, Command::SeekTo(u64::MAX)).await;
        ensure!(events == Some(count), "{events:?} events of {count}");
        let pass = begin.elapsed().as_secs_f64() * 1e3;
        for &position_ns in positions {
            let begin = Instant::now();
            let events = obeyed(&controls, &mut subscriber, Command::SeekTo(position_ns)).await;
            times.push(begin.elapsed().as_secs_f64() * 1e3);
            ensure!(events <= Some(count), "{events:?} events");
        }
        drop(stop);
        Ok((pass, times))
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let played = run::play(
            &mut source,
            &mut view,
            outputs,
            &mut interrupts,
            &options,
            playing,
        );
        let (ended, jumps) = tokio::join!(played, jumps);
        ended?;
        jumps
    })
}

/// Sends a command. Returns the events of the snapshot that it leads to.
async fn obeyed(controls: &Controls, subscriber: &mut Subscriber, command: Command) -> Option<u64> {
    let number = controls.send(command);
    loop {
        let snapshot = subscriber.next().await?;
        let position = controls.position()?;
        if position.obeyed >= number && !position.is_seeking {
            return Some(snapshot.tracker.books.events);
        }
    }
}

/// Stops the run when its sender is dropped.
struct Stops(Option<oneshot::Receiver<()>>);

impl Interrupts for Stops {
    fn poll_interrupt(&mut self, cx: &mut Context<'_>) -> Poll<Interrupt> {
        let Some(stop) = &mut self.0 else {
            return Poll::Pending;
        };
        Pin::new(stop).poll(cx).map(|_| {
            self.0 = None;
            Interrupt::Stop
        })
    }
}
