//! The sums of rates, and recordings of real events, under a churn of connections, compared with the
//! connections that the test made.

use std::{
    fs,
    future::Future as _,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    pin::Pin,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tcpstate::{
    recorder,
    run::{self, Interrupt, Interrupts, Outputs},
};
use tcpstate_capture::{self, Live};
use tcpstate_common::State;
use tcpstate_core::{
    event::Event,
    expression::Expression,
    filter::Filter,
    options::{Format, ResolveOwners},
    origin::Origin,
    view::{End, Flow, View},
};
use tcpstate_core::{mode::Attach, netns::NetnsSelector};
use tcpstate_text::{settings::Settings, trace};
use tokio::sync::oneshot;

use crate::{
    dwell::moment,
    need::{Need, trial},
    net::{Netns, await_fin, await_that, joined, unused_port},
    privileges::{as_user, copy_of_the_binary},
    process::{BINARY, Output, Tcpstate, has_result, run},
    ss,
    traffic::{on_loopback, storm},
};

pub fn add(trials: &mut Vec<Trial>) {
    trials.push(trial("rates::sum_to_received", &[], sum_to_received));
    trials.push(trial(
        "rates::match_the_connections_made",
        &[],
        match_the_connections_made,
    ));
    trials.push(trial(
        "rates::are_in_their_intervals_after_a_stop",
        &[],
        in_their_intervals_after_a_stop,
    ));
    trials.push(trial(
        "rates::minisockets_there_before_have_their_port",
        &[Need::Cookie],
        minisockets_there_before_have_their_port,
    ));
    trials.push(trial("record::shows_what_live_showed", &[], same_as_live));
    trials.push(trial("record::on_sigusr1", &[], on_sigusr1));
    trials.push(trial(
        "record::is_read_without_privileges",
        &[Need::Program("setpriv")],
        read_without_privileges,
    ));
}

/// Connects and closes, one connection after the other, while `goes_on` returns true; the client closes
/// first. Returns the number of connections.
pub fn churn(port: u16, mut goes_on: impl FnMut(u64) -> bool) -> Result<u64> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(addr)?;
    // The port may be 0.
    let addr = listener.local_addr()?;
    let mut made = 0;
    while goes_on(made) {
        let client = TcpStream::connect(addr)?;
        let (server, _) = listener.accept()?;
        drop(client);
        await_fin(&server)?;
        made += 1;
    }
    Ok(made)
}

fn count(line: &Value) -> Result<u64> {
    let transitions = line["transitions"].as_array().context("no transitions")?;
    let counts = transitions.iter().map(|transition| &transition["count"]);
    counts.map(|count| count.as_u64().context("no count")).sum()
}

/// The number of transitions of all intervals. Checks that it is the sum over all groups, and that the
/// intervals are contiguous.
fn total(lines: &[Value], groups: &str) -> Result<u64> {
    let mut total = 0;
    let mut end_ns = None;
    for line in lines {
        ensure!(line["type"] == "rates", "{line}");
        let all = count(line)?;
        let groups = line[groups].as_array().context("no groups")?;
        let of_groups = groups.iter().map(count).sum::<Result<u64>>()?;
        ensure!(
            all == of_groups,
            "{all}, but {of_groups} in the groups: {line}"
        );
        let ts_ns = line["ts_ns"].as_u64().context("no ts_ns")?;
        let interval_ns = line["interval_ns"].as_u64().context("no interval_ns")?;
        ensure!(
            end_ns.is_none_or(|end_ns| end_ns == ts_ns - interval_ns),
            "it does not begin at the end of the one before: {line}"
        );
        end_ns = Some(ts_ns);
        total += all;
    }
    Ok(total)
}

/// Connections that are made while `tcpstate` is stopped, as by Ctrl-Z, are in the intervals in which they were made.
fn in_their_intervals_after_a_stop() -> Result<()> {
    let port = unused_port();
    let tcpstate = Tcpstate::start(&["rates", "250ms", "--json", "-P", &port.to_string()])?;
    let signal = |signal| kill_process(Pid::from_child(&tcpstate.child), signal);
    let netns = Netns::new()?;
    signal(Signal::STOP)?;
    let mut bursts = Vec::new();
    for _ in 0..3 {
        bursts.push(moment(|| netns.run(|| churn(port, |made| made < 20)))?.0);
        thread::sleep(Duration::from_secs(1));
    }
    signal(Signal::CONT)?;
    await_that("the intervals of these three seconds are shown", || {
        Ok(tcpstate.written()?.lines().count() >= 12)
    })?;
    let (lines, _) = tcpstate.stop()?.json()?;
    let mut by_burst = [0; 3];
    for line in &lines {
        let end_ns = line["ts_ns"].as_u64().context("no ts_ns")?;
        let begin_ns = end_ns - line["interval_ns"].as_u64().context("no interval_ns")?;
        let happened = count(line)?;
        let burst = bursts
            .iter()
            .position(|burst| burst.is_in(begin_ns, end_ns));
        match burst {
            Some(burst) => by_burst[burst] += happened,
            None => ensure!(happened == 0, "{happened} in none of {bursts:?}: {line}"),
        }
    }
    // A listener that opens and closes, and both ends of 20 connections with five transitions each.
    ensure!(
        by_burst == [202; 3],
        "{by_burst:?} in {bursts:?}: {lines:?}"
    );
    Ok(())
}

/// Of connections that were there before only the minisockets of the clients are left. They count at their service
/// port.
fn minisockets_there_before_have_their_port() -> Result<()> {
    let port = unused_port();
    on_loopback(|| {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = TcpListener::bind(addr)?;
        let mut servers = Vec::new();
        for _ in 0..3 {
            drop(TcpStream::connect(addr)?);
            let (server, _) = listener.accept()?;
            await_fin(&server)?;
            servers.push(server);
        }
        // The servers may delay their acknowledgements of the FINs.
        let clients = ["dport", &format!("= :{port}")];
        await_that("the clients are in FIN_WAIT2", || {
            Ok(ss::by_state(&ss::oracle(&clients)?) == [(State::FIN_WAIT2, 3)].into())
        })?;
        let port_filter = port.to_string();
        let arguments = [
            "rates",
            "1h",
            "--json",
            "--netns",
            "self",
            "-P",
            &port_filter,
        ];
        let (lines, _) = Tcpstate::start(&arguments)?.stop()?.json()?;
        let line = lines.last().context("no interval")?;
        ensure!(line["states"]["FIN_WAIT2"] == 3, "{line}");
        let ports = line["ports"].as_array().context("no ports")?;
        let clients = ports
            .iter()
            .find(|of| of["service_port"] == port && of["role"] == "client");
        ensure!(
            clients.is_some_and(|clients| clients["states"]["FIN_WAIT2"] == 3),
            "{line}"
        );
        Ok(())
    })
}

/// Five intervals hold every event that was received, or that the filter let through, while the
/// connections come and go all the time.
fn sum_to_received() -> Result<()> {
    let port = unused_port();
    let filtered = ["rates", "1", "5", "--json", "-P", &port.to_string()];
    let netns = Netns::new()?;
    let ended = AtomicBool::new(false);
    let (all, filtered, made) = thread::scope(|scope| {
        // The churn begins before the runs start and ends after them, so that their start-up time does not
        // matter.
        let churn = scope.spawn(|| netns.run(|| churn(port, |_| !ended.load(Ordering::Relaxed))));
        let all = Tcpstate::start(&["rates", "1", "5", "--json", "--by", "comm"]);
        let filtered = Tcpstate::start(&filtered);
        let outputs = (
            all.and_then(Tcpstate::finish),
            filtered.and_then(Tcpstate::finish),
        );
        ended.store(true, Ordering::Relaxed);
        let made = joined(churn.join());
        (outputs.0, outputs.1, made)
    });
    let made = made?;
    for (output, groups) in [(all?, "comms"), (filtered?, "ports")] {
        let (lines, summary) = output.json()?;
        ensure!(lines.len() == 5, "{} intervals", lines.len());
        for line in &lines {
            ensure!(line["interval_ns"] == 1_000_000_000, "{line}");
        }
        let total = total(&lines, groups)?;
        ensure!(
            summary["selection"]["passed"] == total,
            "{total} in the intervals: {summary}"
        );
        if groups == "comms" {
            ensure!(
                summary["accounting"]["received"] == total,
                "{total} in the intervals: {summary}"
            );
        }
        ensure!(
            summary["transitions"] == total && summary["intervals"] == 5,
            "{summary}"
        );
        ensure!(total > 0, "no event of {made} connections");
    }
    Ok(())
}

/// Ctrl-C in the middle of an interval: the counts are those of the connections that were made.
fn match_the_connections_made() -> Result<()> {
    const MADE: u64 = 3_000;
    let port = unused_port();
    let tcpstate = Tcpstate::start(&["rates", "1h", "--json", "-P", &port.to_string()])?;
    on_loopback(|| churn(port, |made| made < MADE))?;
    let (lines, summary) = tcpstate.stop()?.json()?;
    let [line] = lines.as_slice() else {
        anyhow::bail!("expected one interval, cut short: {lines:?}");
    };
    let mut found: Vec<(String, u64)> = Vec::new();
    for transition in line["transitions"].as_array().context("no transitions")? {
        let state = |name: &str| transition[name].as_str().unwrap_or_default().to_owned();
        let count = transition["count"].as_u64().context("no count")?;
        found.push((format!("{} {}", state("from"), state("to")), count));
    }
    found.sort();
    let mut expected: Vec<(String, u64)> = [
        "CLOSE SYN_SENT",
        "SYN_SENT ESTABLISHED",
        "ESTABLISHED FIN_WAIT1",
        "FIN_WAIT1 FIN_WAIT2",
        "FIN_WAIT2 CLOSE",
        "LISTEN SYN_RECV",
        "SYN_RECV ESTABLISHED",
        "ESTABLISHED CLOSE_WAIT",
        "CLOSE_WAIT LAST_ACK",
        "LAST_ACK CLOSE",
    ]
    .map(|transition| (transition.to_owned(), MADE))
    .to_vec();
    expected.push(("CLOSE LISTEN".to_owned(), 1));
    expected.push(("LISTEN CLOSE".to_owned(), 1));
    expected.sort();
    ensure!(found == expected, "{found:?}");
    ensure!(
        ["opened", "established", "closed"].map(|name| line[name].as_u64()) == [Some(2 * MADE); 3]
            && line["failed"] == 0,
        "{line}"
    );
    let ports = line["ports"].as_array().context("no ports")?;
    for (role, listener) in [("client", 0), ("server", 2)] {
        let group = ports.iter().find(|group| group["role"] == role);
        let group = group.with_context(|| format!("no {role}: {line}"))?;
        ensure!(
            group["service_port"] == port && count(group)? == 5 * MADE + listener,
            "{group}"
        );
    }
    ensure!(ports.len() == 2, "{line}");
    for (state, now) in line["states"].as_object().context("no states")? {
        // A socket in CLOSE is not a connection. Sampled states are known only with cookies.
        let is_sampled = ["FIN_WAIT2", "TIME_WAIT", "SYN_RECV"].contains(&state.as_str());
        let is_known = state != "CLOSE" && !(is_sampled && Need::Cookie.missing().is_some());
        ensure!(now.as_u64() == is_known.then_some(0), "{state}: {now}");
    }
    ensure!(
        summary["selection"]["passed"] == total(&lines, "ports")?,
        "{summary}"
    );
    Ok(())
}

/// A view that passes its events to two views.
struct Tee<'a> {
    trace: trace::Trace,
    record: &'a mut recorder::Record,
}

impl View for Tee<'_> {
    fn start(&mut self, origin: &Origin, out: &mut dyn Write) -> io::Result<()> {
        self.trace.start(origin, out)?;
        self.record.start(origin, &mut io::sink())
    }

    fn event(&mut self, event: &Event, out: &mut dyn Write) -> io::Result<Flow> {
        self.trace.event(event, out)?;
        self.record.event(event, &mut io::sink())
    }

    fn interval_ns(&self) -> Option<u64> {
        self.record.interval_ns()
    }

    fn tick(&mut self, now_ns: u64, _out: &mut dyn Write) -> io::Result<Flow> {
        self.record.tick(now_ns, &mut io::sink())
    }

    fn finish(&mut self, end: &End, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
        self.trace.finish(end, out, err)?;
        self.record.finish(end, &mut io::sink(), err)
    }
}

/// Stops a run when the other end says so.
pub struct WhenDone(Option<oneshot::Receiver<()>>);

impl WhenDone {
    pub const fn new(receiver: oneshot::Receiver<()>) -> Self {
        Self(Some(receiver))
    }
}

impl Interrupts for WhenDone {
    fn poll_interrupt(&mut self, cx: &mut Context<'_>) -> Poll<Interrupt> {
        let Some(receiver) = &mut self.0 else {
            return Poll::Pending;
        };
        let done = Pin::new(receiver).poll(cx);
        if done.is_ready() {
            self.0 = None;
        }
        done.map(|_| Interrupt::Stop)
    }
}

/// `trace -r` prints a recording as `trace` printed the kernel's events while they were recorded, byte for
/// byte.
fn same_as_live() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("recording");
    let port = unused_port();
    let filter = Filter {
        port: Some(port.to_string().parse()?),
        ..Filter::default()
    };
    let live = run_tee(&path, port, &filter)?;
    let recorded = run(
        BINARY,
        &[
            "trace".as_ref(),
            "--json".as_ref(),
            "-r".as_ref(),
            path.as_os_str(),
        ],
    )?;
    let (lines, summary) = recorded.transitions()?;
    ensure!(lines.len() == 10 * 1_000 + 2, "{} lines", lines.len());
    ensure!(
        summary["accounting"]["rejected"] == 0,
        "the file does not contain the whole capture: {summary}"
    );
    let without_summary = |text: &str| {
        let end = text.trim_end().rfind('\n').unwrap_or_default();
        text[..end].to_owned()
    };
    let (live, recorded) = (without_summary(&live), without_summary(&recorded.stdout));
    let difference = live.lines().zip(recorded.lines()).find(|(a, b)| a != b);
    ensure!(live == recorded, "the first difference: {difference:?}");
    Ok(())
}

fn run_tee(path: &Path, port: u16, filter: &Filter) -> Result<String> {
    let mut live = Live::start(&tcpstate_capture::Options {
        attach: Attach::Auto,
        ring_bytes: 8 << 20,
        namespaces: NetnsSelector::All,
        filter: filter.kernel(),
        filters: filter.to_string(),
        prompt: true,
        verbose: false,
        bpf_log: false,
        sample_interval: None,
        half_open_only: false,
        resolve_owners: ResolveOwners::No,
        bpf_stats: false,
        tally: None,
    })?;
    let (done, receiver) = oneshot::channel();
    let traffic = thread::spawn(move || {
        let made = on_loopback(|| churn(port, |made| made < 1_000));
        // The receiver is gone if the run has failed.
        let _ = done.send(());
        made
    });
    let mut record = recorder::Record::new(recorder::Options {
        path: path.to_owned(),
        format: Format::Text,
        to: recorder::To::File(tcpstate_recording::Options::default()),
    });
    let mut tee = Tee {
        trace: trace::Trace::new(&trace::Options {
            settings: Settings::plain(Format::Json),
            states: None,
            count: None,
            columns: tcpstate_text::format::text::Columns::Usual,
            time: false,
            reset_reason: false,
            timestamp: false,
        }),
        record: &mut record,
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let outputs = Outputs {
        out: &mut out,
        err: &mut err,
    };
    let options = run::Options {
        expression: Expression::from(filter),
        ..run::Options::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut interrupts = WhenDone::new(receiver);
    runtime.block_on(run::drive(
        &mut live,
        &mut tee,
        outputs,
        &mut interrupts,
        &options,
    ))?;
    joined(traffic.join())?;
    Ok(String::from_utf8(out)?)
}

/// The flight recorder writes nothing until it gets the signal; then it writes its events, and continues.
fn on_sigusr1() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("recording");
    let file = path.to_str().context("not UTF-8")?;
    let port = unused_port();
    let recorder = [
        "record",
        "--ring",
        "5m",
        "-w",
        file,
        "-P",
        &port.to_string(),
    ];
    let recorder = Tcpstate::start(&recorder)?;
    let lines = || -> Result<usize> {
        let output = run(BINARY, &["trace", "--json", "-r", file])?;
        // What the kernel lost is not known before the end.
        ensure!(has_result(output.status), "{output:?}");
        Ok(output.stdout.lines().count() - 1)
    };
    for storms in 1..=2 {
        on_loopback(|| storm(port, 5))?;
        if storms == 1 {
            ensure!(!path.exists(), "written before the signal");
        }
        let pid = Pid::from_child(&recorder.child);
        await_that("the events are in the file", || {
            // The events may still be pending when it gets the signal.
            kill_process(pid, Signal::USR1)?;
            Ok(path.exists() && lines()? == 10 * storms)
        })?;
    }
    on_loopback(|| storm(port, 5))?;
    let output = recorder.stop()?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(lines()? == 30, "not all written at the end: {output:?}");
    Ok(())
}

/// A user who may read the file can show it with every view.
fn read_without_privileges() -> Result<()> {
    let (folder, binary) = copy_of_the_binary()?;
    let path = folder.path().join("recording");
    let port = unused_port();
    let file = path.to_str().context("not UTF-8")?;
    let recorder = Tcpstate::start(&["record", "-w", file, "-P", &port.to_string()])?;
    on_loopback(|| storm(port, 5))?;
    let output = recorder.stop()?;
    ensure!(output.status.success(), "{output:?}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    for view in ["trace", "life", "rates", "hist"] {
        let output = command(as_user(&binary).args([view, "--json", "-r", file]))?;
        let (_, summary) = output.json()?;
        ensure!(summary["selection"]["passed"] == 10, "{view}: {summary}");
    }
    let copy = as_user(&binary)
        .args(["record", "-r", file, "-w", "-"])
        .output()?;
    ensure!(copy.status.success(), "{copy:?}");
    ensure!(
        copy.stdout.len() > 500,
        "a copy on standard output: {copy:?}"
    );
    Ok(())
}

fn command(command: &mut Command) -> Result<Output> {
    let output = command.output()?;
    Ok(Output {
        status: output.status,
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}
