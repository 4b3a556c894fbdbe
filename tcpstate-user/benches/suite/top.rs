//! `top`: the cost of its screens.
//!
//! On a terminal of its own, as a process beside `rates`: the CPU at 10,000 connections a second, and without any. A million
//! sockets are more than a host of this size makes, so what holds and shows them is measured in memory: the same
//! publisher, the same recorder of the last minutes, the same screens, with the terminal replaced by a buffer. Not in it: the looks at the
//! host's sockets, as a million of them are listed (`bench diagnose` has the rest of a look).

use std::{
    env,
    process::Command,
    sync::Arc,
    task::{Context as TaskContext, Waker},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use jiff::tz::TimeZone;
use ratatui::{Terminal, backend::TestBackend};
use tcpstate::top::{LONGEST, LastMinutes, published};
use tcpstate_core::{
    event::Event,
    expression::NoNames,
    model::{By, Limits, Tracker},
    origin::Origin,
    present::{Publisher, Subscriber},
    view::View as _,
};
use tcpstate_text::format::text::Columns;
use tcpstate_top::{App, Input, LookUp, Theme, Then, terminal::Keeper};

use crate::{
    Options,
    generator::{Churn, PORTS},
    ingest::{memory::resident, stream::Stream},
    process::{Ready, Running, TCPSTATE},
    report::{Row, ratios},
};

const SECOND_NS: u64 = 1_000_000_000;

/// The beginning of the stream of events.
const STARTED_NS: u64 = SECOND_NS;

const RATES: &str = "tcpstate rates";
const TOP: &str = "tcpstate top";

pub fn run(options: &Options) -> Result<Vec<Row>> {
    // First: those connections leave sockets in TIME_WAIT, which are listed for a minute.
    let mut rows = idle(options)?;
    rows.extend(paced(options)?);
    rows.extend(keys(options)?);
    rows.extend(memory(options)?);
    Ok(rows)
}

/// Starts `top`, which needs a terminal, or `rates`.
fn start(name: &str, arguments: &[&str]) -> Result<Running> {
    let mut command = Command::new(TCPSTATE);
    if name == TOP {
        command.args(["top", "--verbose"]).args(arguments);
        Running::start_on_terminal(name, command, Ready::Runs)
    } else {
        command.args(["rates", "--verbose"]).args(arguments);
        Running::start(name, command, Ready::Runs)
    }
}

/// The CPU time at 10,000 connections a second, in turns.
fn paced(options: &Options) -> Result<Vec<Row>> {
    const PER_SECOND: u32 = 10_000;
    let connections = u64::from(PER_SECOND) * options.pick(10, 1);
    let churn = Churn::new()?;
    churn.run(connections / 10, None)?;
    let ports = format!("{}-{}", PORTS.start(), PORTS.end());
    let mut percent = [Vec::new(), Vec::new()];
    for _ in 0..options.rounds(5) {
        for (name, percent) in [RATES, TOP].into_iter().zip(&mut percent) {
            let running = start(name, &["-P", &ports])?;
            let work = || churn.run(connections, Some(PER_SECOND));
            percent.push(running.percent_during(work)?.0);
            let ended = running.end()?;
            ensure!(
                number(&ended.errors, "+ lost ")? == 0,
                "{name} has lost events: {}",
                ended.errors
            );
            ensure!(
                number(&ended.errors, "= passed ")? >= connections,
                "{name} has missed connections: {}",
                ended.errors
            );
        }
    }
    let figure = "CPU of its process at 10,000 connections/s, % of a core";
    let [rates, top] = percent;
    Ok(vec![
        Row::new(RATES, figure, &rates),
        Row::new(TOP, figure, &top)
            .ratio(RATES, &ratios(&top, &rates))
            .note("nothing lost"),
    ])
}

/// The number behind these words at the end of a run.
fn number(errors: &str, words: &str) -> Result<u64> {
    let (_, rest) = errors
        .split_once(words)
        .with_context(|| format!("no `{words}` in {errors:.500}"))?;
    let digits = rest
        .chars()
        .take_while(|one| one.is_ascii_digit() || *one == ',');
    let digits: String = digits.filter(|&one| one != ',').collect();
    Ok(digits.parse()?)
}

/// The CPU time without events, at the same time.
fn idle(options: &Options) -> Result<Vec<Row>> {
    let duration = options.pick(Duration::from_secs(30), Duration::from_secs(2));
    let names = [RATES, TOP];
    let running = names
        .iter()
        .map(|name| start(name, &["--netns", "self"]))
        .collect::<Result<Vec<_>>>()?;
    for running in &running {
        running.await_quiet()?;
    }
    // The start of the last one has woken the other.
    thread::sleep(Duration::from_millis(500));
    let cpu = || running.iter().map(Running::cpu).collect::<Result<Vec<_>>>();
    let before = cpu()?;
    thread::sleep(duration);
    let spent = cpu()?.into_iter().zip(before);
    let percent = spent.map(|(now, before)| {
        100.0 * now.saturating_sub(before).as_secs_f64() / duration.as_secs_f64()
    });
    Ok(names
        .iter()
        .zip(percent)
        .map(|(name, percent)| Row::new(*name, "CPU without events, % of a core", &[percent]))
        .collect())
}

/// A run with many connections, and the one who looks at it.
struct Host {
    publisher: Publisher,
    subscriber: Subscriber,
    last_minutes: LastMinutes,
    /// Nobody asks for a recording here.
    _keeper: Box<dyn Keeper>,
    app: App,
    terminal: Terminal<TestBackend>,
    now_ns: u64,
}

fn origin() -> Origin {
    Origin {
        host: "bench".to_owned(),
        kernel: String::new(),
        attach: "btf".to_owned(),
        wall_at_monotonic_zero_ns: 0,
        started_ns: STARTED_NS,
        filters: String::new(),
        live: true,
        sample_interval_ns: None,
    }
}

impl Host {
    fn new() -> Result<Self> {
        let mut publisher = Publisher::new(&published(SECOND_NS, By::Port, Limits::default()));
        publisher.start(&origin(), &mut std::io::sink())?;
        let (mut last_minutes, keeper) = LastMinutes::new();
        last_minutes.start(&origin());
        let app = App::new(tcpstate_top::Options {
            theme: Theme {
                colour: true,
                unicode: true,
            },
            zone: TimeZone::UTC,
            several_netns: false,
            columns: Columns::Usual,
            by: By::Port,
            interval_ns: SECOND_NS,
            filter: String::new(),
            longest: LONGEST,
            names: LookUp(Arc::new(NoNames)),
            is_played: false,
        });
        Ok(Self {
            subscriber: publisher.subscribe(),
            publisher,
            last_minutes,
            _keeper: keeper,
            app,
            terminal: Terminal::new(TestBackend::new(80, 24))?,
            now_ns: STARTED_NS,
        })
    }

    /// Opens this number of connections and closes none. Returns the memory of the generator.
    fn fill(&mut self, connections: usize) -> Result<usize> {
        let mut stream = Stream::new(connections, 1_000);
        for event in open(&mut stream, connections) {
            let event = event?;
            self.now_ns = self.now_ns.max(event.ts_ns());
            self.publisher.event(&event, &mut std::io::sink())?;
            self.last_minutes.event(&event);
        }
        Ok(stream.memory())
    }

    /// An interval ends, and is shown.
    fn tick(&mut self) -> Result<()> {
        self.now_ns += SECOND_NS;
        self.last_minutes.tick(self.now_ns);
        self.publisher.tick(self.now_ns, &mut std::io::sink())?;
        self.show()
    }

    /// Shows the latest snapshot.
    fn show(&mut self) -> Result<()> {
        let snapshot = self.subscriber.latest().context("no snapshot")?;
        self.app.update(Input::Snapshot(snapshot));
        self.draw()
    }

    fn draw(&mut self) -> Result<()> {
        self.terminal.draw(|frame| self.app.draw(frame))?;
        Ok(())
    }

    /// Presses a key, and waits for all that it leads to.
    fn press(&mut self, code: KeyCode) -> Result<()> {
        let key = KeyEvent::new(code, KeyModifiers::NONE);
        match self.app.update(Input::Key(key)) {
            Then::GroupBy(by) => {
                self.draw()?;
                self.publisher.asker().group_by(by);
                let cx = TaskContext::from_waker(Waker::noop());
                while self.publisher.poll_asked(&cx).is_ready() {}
                self.show()
            }
            Then::Write => {
                ensure!(self.app.written().is_some(), "nothing to be written");
                self.draw()
            }
            _ => self.draw(),
        }
    }
}

/// The events of connections that open.
fn open(stream: &mut Stream, connections: usize) -> impl Iterator<Item = Result<Event>> {
    // To ESTABLISHED.
    (0..2 * connections).map(move |at| {
        let record = stream.advance(at / 2);
        Event::try_from(record)
            .ok()
            .context("a record of this benchmark")
    })
}

/// The time of a snapshot, and from each key to the frame, with many live connections.
fn keys(options: &Options) -> Result<Vec<Row>> {
    let connections = options.pick(1_000_000, 100_000);
    let mut host = Host::new()?;
    host.fill(connections)?;
    host.tick()?;
    let mut ticks = Vec::new();
    for _ in 0..options.rounds(9) {
        let begin = Instant::now();
        host.tick()?;
        ticks.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    let what = format!("{connections} live connections");
    let mut rows = vec![Row::new(&what, "a snapshot, and its frame, ms", &ticks)];
    let groupings = "b".repeat(By::ALL.len());
    for (name, keys, pressed) in [
        ("overview", "1", "jkGg"),
        ("services", "2", "jkGgsSlh"),
        ("services, another grouping", "2", groupings.as_str()),
        ("connections", "3", "jkGgsssssS"),
        ("connections, a filter", "3/", "dport = 80 and dwell > 1s\n"),
        ("machine", "4", "jklh"),
        ("dwell", "5", "lhpP"),
        ("written as JSON", "3", "w"),
    ] {
        for key in keys.chars() {
            host.press(code(key))?;
        }
        let mut times = Vec::new();
        for key in pressed.chars() {
            let begin = Instant::now();
            host.press(code(key))?;
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        let row = Row::new(
            format!("{what}: {name}"),
            "from a key to its frame, ms",
            &times,
        );
        rows.push(row);
        host.press(KeyCode::Esc)?;
    }
    Ok(rows)
}

fn code(key: char) -> KeyCode {
    match key {
        '\n' => KeyCode::Enter,
        letter => KeyCode::Char(letter),
    }
}

/// The command whose memory is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Held {
    Rates,
    Top,
}

/// The memory with many live connections, each in a process of its own.
fn memory(options: &Options) -> Result<Vec<Row>> {
    let connections: u64 = options.pick(1_000_000, 100_000);
    let measure = |held: &str| -> Result<f64> {
        let output = Command::new(env::current_exe()?)
            .args(["--top-memory", held])
            .args(["--live-connections", &connections.to_string()])
            .output()?;
        ensure!(
            output.status.success(),
            "measuring {held}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let (rates, top) = (measure("rates")?, measure("top")?);
    let figure = "peak resident memory, MiB";
    let what = |name: &str| format!("{name}, {connections} live connections");
    Ok(vec![
        Row::new(what(RATES), figure, &[rates]),
        Row::new(what(TOP), figure, &[top]).ratio(RATES, &[top / rates]),
    ])
}

/// The main function of such a process: prints the figure.
pub fn measure_here(held: Held, connections: usize) -> Result<()> {
    let own = match held {
        Held::Rates => {
            let mut tracker = Tracker::new(Limits::default()).without_histograms();
            let mut stream = Stream::new(connections, 1_000);
            for event in open(&mut stream, connections) {
                tracker.apply(&event?);
            }
            tracker.tick(2 * SECOND_NS);
            ensure!(
                tracker.books().live == connections as u64,
                "not all are live"
            );
            stream.memory()
        }
        Held::Top => {
            let mut host = Host::new()?;
            let own = host.fill(connections)?;
            for key in ['1', '2', '3', '4', '5'] {
                host.tick()?;
                host.press(KeyCode::Char(key))?;
            }
            let latest = host.subscriber.latest().context("no snapshot")?;
            ensure!(
                latest.tracker.books.live == connections as u64,
                "not all are live"
            );
            own
        }
    };
    let peak = (resident("VmHWM")? - own) as f64 / f64::from(1 << 20);
    println!("{peak}");
    Ok(())
}
