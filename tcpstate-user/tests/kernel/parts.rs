//! The later files of a rotation, and what a flight recorder kept: they show what live showed of their time, and
//! they know who was there.

use std::{
    io::{self, Read as _, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::{
    net::sockopt,
    process::{Pid, Signal, kill_process},
};
use serde_json::Value;
use tcpstate::{
    recorder::{self, Record, To},
    run::{self, Outputs},
};
use tcpstate_capture::Live;
use tcpstate_common::State;
use tcpstate_core::{
    census::Census,
    event::Event,
    expression::Expression,
    filter::Filter,
    mode::Attach,
    model::By,
    names::Names,
    netns::NetnsSelector,
    options::{Format, HistogramOf, ResolveOwners, Until},
    origin::Origin,
    view::{End, Flow, View},
};
use tcpstate_recording::{FlightOptions, Options as FileOptions};
use tcpstate_text::{hist, life, rates, settings::Settings, trace};
use tokio::sync::oneshot;

use crate::{
    need::{Need, trial},
    net::{Netns, await_that, joined},
    process::{BINARY, Tcpstate, has_result, run},
    rates::{WhenDone, churn},
    ss,
};

pub fn add(trials: &mut Vec<Trial>) {
    trials.push(trial(
        "record::files_show_what_live_showed",
        &[Need::Cookie],
        files_show_what_live_showed,
    ));
    trials.push(trial(
        "record::a_dump_knows_who_was_there",
        &[Need::Cookie, Need::Program("ss")],
        dump_knows_who_was_there,
    ));
}

const INTERVAL: Duration = Duration::from_millis(20);

/// A live view, with the command that shows the same of a file, and what it showed.
struct Shown {
    view: Box<dyn View>,
    command: &'static [&'static str],
    out: Vec<u8>,
}

/// Passes a stream to views and recorders.
struct Together {
    shown: Vec<Shown>,
    recorders: Vec<Record>,
}

impl Together {
    fn each(
        &mut self,
        mut step: impl FnMut(&mut dyn View, &mut dyn Write) -> io::Result<Flow>,
    ) -> io::Result<Flow> {
        for shown in &mut self.shown {
            step(&mut *shown.view, &mut shown.out)?;
        }
        for recorder in &mut self.recorders {
            step(recorder, &mut io::sink())?;
        }
        Ok(Flow::Continue)
    }
}

impl View for Together {
    fn set_names(&mut self, names: Names) {
        for shown in &mut self.shown {
            shown.view.set_names(names.clone());
        }
        for recorder in &mut self.recorders {
            recorder.set_names(names.clone());
        }
    }

    fn start(&mut self, origin: &Origin, _out: &mut dyn Write) -> io::Result<()> {
        self.each(|view, out| view.start(origin, out).map(|()| Flow::Continue))?;
        Ok(())
    }

    fn event(&mut self, event: &Event, _out: &mut dyn Write) -> io::Result<Flow> {
        self.each(|view, out| view.event(event, out))
    }

    fn census(&mut self, census: &Census, _out: &mut dyn Write) -> io::Result<Flow> {
        self.each(|view, out| view.census(census, out))
    }

    fn wants_samples(&self) -> bool {
        true
    }

    fn interval_ns(&self) -> Option<u64> {
        u64::try_from(INTERVAL.as_nanos()).ok()
    }

    fn tick(&mut self, now_ns: u64, _out: &mut dyn Write) -> io::Result<Flow> {
        self.each(|view, out| view.tick(now_ns, out))
    }

    fn finish(&mut self, end: &End, _out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
        self.each(|view, out| view.finish(end, out, err).map(|()| Flow::Continue))?;
        Ok(())
    }
}

fn shown(view: impl View + 'static, command: &'static [&'static str]) -> Shown {
    Shown {
        view: Box::new(view),
        command,
        out: Vec::new(),
    }
}

fn views() -> Vec<Shown> {
    let settings = || Settings::plain(Format::Json);
    let life = |until| {
        life::Life::new(&life::Options {
            settings: settings(),
            live: true,
            until,
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
    };
    let rates = |by| {
        rates::Rates::new(&rates::Options {
            settings: settings(),
            interval_ns: u64::try_from(INTERVAL.as_nanos()).unwrap_or(u64::MAX),
            by,
            in_kernel: false,
        })
    };
    let hist = |of| {
        hist::Hist::new(&hist::Options {
            settings: settings(),
            of,
            by: By::Port,
            states: None,
            causes: None,
            interval: Some(INTERVAL),
            count: None,
            unicode: false,
        })
    };
    let trace = trace::Trace::new(&trace::Options {
        settings: settings(),
        states: None,
        count: None,
        columns: tcpstate_text::format::text::Columns::Usual,
        time: false,
        timestamp: false,
        reset_reason: false,
    });
    vec![
        shown(trace, &["trace"]),
        shown(life(Until::Close), &["life", "--live"]),
        shown(life(Until::Gone), &["life", "--live", "--until", "gone"]),
        shown(rates(By::Port), &["rates", "20ms"]),
        shown(rates(By::Comm), &["rates", "20ms", "--by", "comm"]),
        shown(hist(HistogramOf::Dwell), &["hist", "--interval", "20ms"]),
        shown(
            hist(HistogramOf::Lifetime),
            &["hist", "--interval", "20ms", "--of", "lifetime"],
        ),
    ]
}

/// The sockets that the test keeps open, on both sides.
#[derive(Default)]
struct Kept(Vec<TcpStream>);

impl Kept {
    fn connect(&mut self, listener: &TcpListener, count: usize) -> Result<()> {
        for _ in 0..count {
            self.0.push(TcpStream::connect(listener.local_addr()?)?);
            self.0.push(listener.accept()?.0);
        }
        Ok(())
    }
}

fn listener() -> Result<TcpListener> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
}

/// Makes connections, one after the other. Most are reset, because a minute of minisockets would find no room
/// in files as small as these.
fn resets(count: u32) -> Result<()> {
    let listener = listener()?;
    for made in 0..count {
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        if !made.is_multiple_of(100) {
            sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
        }
        drop(client);
        // The end of the stream, or a reset.
        let _ = server.read(&mut [0]);
    }
    Ok(())
}

fn older(path: &Path, number: u32) -> PathBuf {
    format!("{}.{number}", path.display()).into()
}

/// A recorder with a rotation, and a flight recorder.
fn recorders(rotated: &Path, flight: &Path) -> Vec<Record> {
    let rotation = To::File(FileOptions {
        block_records: 64,
        max_bytes: Some(32 << 10),
        files: 1_000,
        ..FileOptions::default()
    });
    let memory = To::Memory(FlightOptions {
        keep_ns: 20_000_000,
        block_records: 64,
        ..FlightOptions::default()
    });
    let recorder = |path: &Path, to| {
        Record::new(recorder::Options {
            path: path.to_owned(),
            format: Format::Text,
            to,
        })
    };
    vec![recorder(rotated, rotation), recorder(flight, memory)]
}

/// Views run live beside a recorder with a rotation and a flight recorder: what each file shows of its time is, byte
/// for byte, what they showed. Connections and listeners were there before, open and end in between, and stay.
fn files_show_what_live_showed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let rotated = folder.path().join("rotated");
    let flight = folder.path().join("flight");
    let netns = Netns::new()?;
    let filter = Filter {
        netns: Some(u32::try_from(netns.inode()?)?),
        ..Filter::default()
    };
    let (before, mut kept) = netns.run(|| {
        let (before, mut kept) = (listener()?, Kept::default());
        kept.connect(&before, 6)?;
        Ok((before, kept))
    })?;
    let mut live = Live::start(&tcpstate_capture::Options {
        attach: Attach::Auto,
        ring_bytes: 8 << 20,
        namespaces: NetnsSelector::File(netns.path()),
        filter: filter.kernel(),
        filters: filter.to_string(),
        prompt: true,
        verbose: false,
        bpf_log: false,
        sample_interval: Some(Duration::from_millis(50)),
        half_open_only: false,
        resolve_owners: ResolveOwners::Yes,
        bpf_stats: false,
        tally: None,
    })?;
    let mut together = Together {
        shown: views(),
        recorders: recorders(&rotated, &flight),
    };
    let (done, receiver) = oneshot::channel();
    let netns = &netns;
    let (err, kept) = thread::scope(|scope| {
        let traffic = scope.spawn(move || {
            let made = netns.run(move || {
                let during = listener()?;
                kept.connect(&during, 3)?;
                resets(700)?;
                // Its connections stay.
                drop(before);
                kept.connect(&during, 2)?;
                // One ends, one is half-closed.
                kept.0.drain(..2);
                kept.0[0].shutdown(std::net::Shutdown::Write)?;
                resets(700)?;
                drop(during);
                kept.0.drain(2..4);
                resets(700)?;
                Ok(kept)
            });
            // The receiver is gone if the run has failed.
            let _ = done.send(());
            made
        });
        let mut err = Vec::new();
        let outputs = Outputs {
            out: &mut io::sink(),
            err: &mut err,
        };
        let options = run::Options {
            expression: Expression::from(&filter),
            ..run::Options::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut interrupts = WhenDone::new(receiver);
        runtime.block_on(run::drive(
            &mut live,
            &mut together,
            outputs,
            &mut interrupts,
            &options,
        ))?;
        Ok::<_, anyhow::Error>((err, joined(traffic.join())?))
    })?;
    drop(kept);
    let err = String::from_utf8(err)?;
    let mut files: Vec<PathBuf> = (1..1_000)
        .map(|number| older(&rotated, number))
        .take_while(|path| path.exists())
        .collect();
    files.reverse();
    ensure!(files.len() >= 2, "{} files: {err}", files.len());
    ensure!(err.contains("older events had left the memory"), "{err}");
    for shown in &together.shown {
        let live = lines(&shown.out)?;
        ensure!(!live.is_empty());
        for file in files.iter().chain([&rotated, &flight]) {
            let is_last = !files.contains(file);
            compare(shown.command, &live, file, is_last)
                .with_context(|| format!("{:?} of {}", shown.command, file.display()))?;
        }
    }
    Ok(())
}

/// The lines of a view, without its summary.
fn lines(out: &[u8]) -> Result<Vec<String>> {
    let mut lines: Vec<String> = std::str::from_utf8(out)?
        .lines()
        .map(str::to_owned)
        .collect();
    let summary = lines.pop().context("no summary")?;
    ensure!(summary.contains("\"summary\""), "{summary}");
    Ok(lines)
}

fn compare(command: &[&str], live: &[String], file: &Path, is_last: bool) -> Result<()> {
    let mut arguments = command.to_vec();
    if !is_last {
        // Other connections were open at the end of the file than at the end of the run.
        arguments.retain(|&argument| argument != "--live");
    }
    let file = file.to_str().context("not UTF-8")?;
    arguments.extend(["--json", "-r", file]);
    let output = run(BINARY, &arguments)?;
    ensure!(has_result(output.status), "{}", output.stderr);
    ensure!(!output.stderr.contains("not known"), "{}", output.stderr);
    let mut part = lines(output.stdout.as_bytes())?;
    // The last ones have at least what stays open.
    ensure!(
        !part.is_empty() || !arguments.contains(&"--live"),
        "nothing"
    );
    if is_last && !has_intervals(command) {
        let from = live.len().saturating_sub(part.len());
        let differs = live[from..].iter().zip(&part).find(|(a, b)| a != b);
        ensure!(
            live.ends_with(&part),
            "{} lines, {} live; the first difference: {differs:#?}",
            part.len(),
            live.len()
        );
        return Ok(());
    }
    if has_intervals(command) {
        // The file may begin and end within an interval.
        let (Some(first), Some(last)) = (part.first(), part.last()) else {
            return Ok(());
        };
        // The run's last interval is cut by its end, which a file that is read forwards has behind its last sample.
        let live_ns = ends_at(live.last().context("nothing live")?)?;
        let (begin_ns, end_ns) = (ends_at(first)?, live_ns.min(ends_at(last)?));
        let mut whole = Vec::new();
        for line in part {
            let at_ns = ends_at(&line)?;
            if at_ns > begin_ns && at_ns < end_ns {
                whole.push(line);
            }
        }
        part = whole;
    } else if command.contains(&"gone") {
        // At its end it shows those that are not gone yet.
        part.retain(|line| !line.contains("\"goes_on\":\""));
    }
    let missing = part.iter().find(|line| !live.contains(line));
    ensure!(missing.is_none(), "not shown live: {missing:?}");
    Ok(())
}

fn has_intervals(command: &[&str]) -> bool {
    ["rates", "hist"].contains(&command[0])
}

fn ends_at(line: &str) -> Result<u64> {
    let line: Value = serde_json::from_str(line)?;
    line["ts_ns"].as_u64().context("no ts_ns")
}

/// A flight recorder's file lists the sockets that `ss` lists, although their events had left its memory, and
/// knows their owner and role.
fn dump_knows_who_was_there() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("recording");
    let file = path.to_str().context("not UTF-8")?;
    let netns = Netns::new()?;
    netns.run(|| {
        let (before, mut kept) = (listener()?, Kept::default());
        kept.connect(&before, 2)?;
        let namespace = netns.path();
        let namespace = namespace.to_str().context("not UTF-8")?;
        let arguments = ["record", "--ring", "1s", "-w", file, "--netns", namespace];
        let recorder = Tcpstate::start(&arguments)?;
        let pid = Pid::from_child(&recorder.child);
        let read = |arguments: &[&str]| -> Result<Vec<Value>> {
            let output = run(BINARY, &[arguments, &["--json", "-r", file]].concat())?;
            let parsed = lines(output.stdout.as_bytes())?
                .iter()
                .map(|line| serde_json::from_str(line))
                .collect::<Result<_, _>>()?;
            Ok(parsed)
        };
        let dumps = || -> Result<bool> {
            kill_process(pid, Signal::USR1)?;
            Ok(path.exists())
        };
        await_that("it knows who was there before", || {
            Ok(dumps()? && read(&["life", "--live"])?.len() == 4)
        })?;
        let during = listener()?;
        kept.connect(&before, 2)?;
        kept.connect(&during, 2)?;
        kept.0[0].shutdown(std::net::Shutdown::Write)?;
        drop(during);
        await_that("all events have left the memory", || {
            churn(0, |made| made < 5)?;
            if !dumps()? {
                return Ok(false);
            }
            let ports: Vec<u64> = kept
                .0
                .iter()
                .filter_map(|socket| Some(socket.local_addr().ok()?.port().into()))
                .collect();
            let is_of_kept = |line: &Value| {
                let port = line["lport"].as_u64();
                port.is_some_and(|port| ports.contains(&port))
            };
            Ok(!read(&["trace"])?.iter().any(is_of_kept))
        })?;
        let output = recorder.stop()?;
        ensure!(has_result(output.status), "{output:?}");
        let open = read(&["life", "--live"])?;
        let open: Vec<&Value> = open.iter().filter(|line| line["cause"].is_null()).collect();
        let mut found = Vec::new();
        let me = u64::from(std::process::id());
        for line in &open {
            let end = |side: &str| -> Result<std::net::SocketAddr> {
                let addr = line[format!("{side}addr")].as_str().context("no address")?;
                let port = line[format!("{side}port")].as_u64().context("no port")?;
                Ok((addr.parse::<std::net::IpAddr>()?, u16::try_from(port)?).into())
            };
            let states = line["states"].as_array().context("no states")?;
            let state = states.last().context("no state")?["state"].as_str();
            let state = state.and_then(State::from_name).context("no such state")?;
            found.push((state, end("l")?, end("r")?));
            ensure!(line["owner"]["pid"] == me, "{line}");
            ensure!(line["role"] != "unknown", "{line}");
        }
        found.sort_unstable();
        let is_open = |(state, ..): &ss::Line| ![State::LISTEN, State::TIME_WAIT].contains(state);
        let oracle: Vec<_> = ss::oracle(&[])?.into_iter().filter(is_open).collect();
        ensure!(oracle.len() == 12, "{oracle:?}");
        ensure!(found == oracle, "{found:?}, but {oracle:?}");
        let rates = read(&["rates", "1h"])?;
        let states = &rates.last().context("no interval")?["states"];
        ensure!(states["LISTEN"] == 1, "{states}");
        drop(kept);
        Ok(())
    })
}
