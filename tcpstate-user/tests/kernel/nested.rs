//! Transitions that an interrupt makes while the program runs on that CPU for another one.
//!
//! Delayed ACKs that expire together complete many connections in one interrupt. A storm on the same CPU makes
//! the interrupt meet the program. The oracle is ftrace, which the kernel never skips.

use std::{
    collections::BTreeMap,
    env,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd as _, OwnedFd},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Failed, Trial};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::Value;
use tcpstate_common::State;

use crate::{
    ftrace::{Ftrace, Seen},
    need::{Need, trial},
    net::{Netns, PATIENCE, joined, shutdown_write, socket, state_of, unused_port},
    oracle::{attempts, by_states, difference, recursion_misses, surplus},
    process::{BINARY, Tcpstate, multiset, nested, state},
    traffic::churn_at,
};

/// The variable that asks for the long comparison: the number of transitions in each row.
const TRANSITIONS: &str = "TCPSTATE_ORACLE_TRANSITIONS";

pub fn add(trials: &mut Vec<Trial>) {
    let needs = [Need::Btf, Need::Tracefs];
    trials.push(trial("btf::nested_are_caught", &needs, streamed));
    trials.push(trial("in_kernel::nested_are_caught", &needs, counted));
    let wanted = env::var(TRANSITIONS);
    if wanted.is_err() {
        eprintln!("same_as_ftrace: skipped: `cargo xtask oracle` runs it");
    }
    for row in ROWS {
        let wanted = wanted.clone();
        // Not a `trial`, whose time limit would end it.
        let run = move || {
            let wanted = wanted?.parse()?;
            compare(row, wanted).map_err(|error| Failed::from(format!("{error:#}")))
        };
        let name = format!("same_as_ftrace::{row:?}");
        trials.push(Trial::test(name, run).with_ignored_flag(env::var(TRANSITIONS).is_err()));
    }
}

/// Makes the kernel skip the program while the second stands by, and fails if that loses a transition each time.
fn streamed() -> Result<()> {
    let caught = attempts(|| {
        let port = unused_port();
        let ftrace = Ftrace::start(port, 8 << 10)?;
        let tcpstate = Tcpstate::start(&[
            "trace",
            "--json",
            "--attach",
            "btf",
            "-P",
            &port.to_string(),
        ])?;
        let before = make_skipped(&tcpstate, port)?;
        let (lines, summary) = tcpstate.stop()?.transitions()?;
        let (oracle, ours) = (ftrace.stop()?, multiset(&lines)?);
        let (missing, nested) = (surplus(&oracle.visible, &ours), nested(&summary)?);
        ensure!(
            missing <= nested && surplus(&ours, &oracle.all()) == 0,
            "{nested} nested; {}",
            difference(&oracle.all(), &ours)
        );
        Ok((nested <= before).then_some(()))
    })?;
    caught.context("each attempt lost what the second program should have caught")
}

/// The same for the program that counts.
fn counted() -> Result<()> {
    let caught = attempts(|| {
        let port = unused_port();
        let ftrace = Ftrace::start(port, 8 << 10)?;
        let tcpstate = Tcpstate::start(&[
            "rates",
            "1h",
            "--json",
            "--in-kernel",
            "-P",
            &port.to_string(),
        ])?;
        let before = make_skipped(&tcpstate, port)?;
        let (lines, summary) = tcpstate.stop()?.json()?;
        let (oracle, ours) = (ftrace.stop()?, transitions(&lines)?);
        let nested = nested(&summary)?;
        let difference = Difference::new(&oracle, &ours);
        ensure!(
            difference.missing <= nested && difference.invented == 0,
            "{nested} nested; {difference:?}: {ours:?}"
        );
        Ok((nested <= before).then_some(()))
    })?;
    caught.context("each attempt lost what the second program should have caught")
}

/// Makes the kernel skip the program until the second stands by, which it may not do in the storm before, and again
/// then. Returns the number of those before.
fn make_skipped(tcpstate: &Tcpstate, port: u16) -> Result<u64> {
    let netns = Netns::new()?;
    until_skipped(tcpstate, &netns, port)?;
    // Few transitions, over more than one review.
    netns.run_until_quiet(|| {
        for _ in 0..10 {
            thread::sleep(Duration::from_millis(100));
            drop(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?);
        }
        Ok(())
    })?;
    let before = recursion_misses(tcpstate.id())?;
    until_skipped(tcpstate, &netns, port)?;
    Ok(before)
}

/// Makes batches until an interrupt has met the program: when it does is a matter of luck.
fn until_skipped(tcpstate: &Tcpstate, netns: &Netns, port: u16) -> Result<()> {
    let before = recursion_misses(tcpstate.id())?;
    let start = Instant::now();
    // Before Linux 6.1 nothing is skipped.
    while recursion_misses(tcpstate.id())? == before && start.elapsed() < PATIENCE / 6 {
        netns.run_until_quiet(|| batches(port, 20, 3))?;
    }
    Ok(())
}

/// Makes batches of connections whose delayed ACKs expire together, on one CPU, with a storm on another port.
fn batches(port: u16, size: usize, count: u32) -> Result<()> {
    let mut allowed = sched_getaffinity(None)?;
    let first = (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu));
    let first = first.context("no CPU")?;
    allowed.clear();
    allowed.set(first);
    sched_setaffinity(None, &allowed)?;

    let storm = socket(rustix::net::AddressFamily::INET, None)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(address)?;
    for _ in 0..count {
        let mut pairs = Vec::with_capacity(size);
        for _ in 0..size {
            let client = TcpStream::connect(address)?;
            let (server, _) = listener.accept()?;
            shutdown_write(&client)?;
            pairs.push((client, server));
        }
        await_acks(&pairs, &storm)?;
    }
    Ok(())
}

/// Makes transitions until the last FIN has been acknowledged.
fn await_acks(pairs: &[(TcpStream, TcpStream)], storm: &OwnedFd) -> Result<()> {
    let start = Instant::now();
    for (client, _) in pairs {
        while state_of(client.as_fd())? == State::FIN_WAIT1 {
            for _ in 0..200 {
                rustix::net::listen(storm, 1)?;
                rustix::net::shutdown(storm, rustix::net::Shutdown::Read)?;
            }
            ensure!(start.elapsed() < PATIENCE, "a FIN is not acknowledged");
        }
    }
    Ok(())
}

/// The counts of a `rates --json` run, by states.
fn transitions(lines: &[Value]) -> Result<ByStates> {
    let mut all = ByStates::new();
    for line in lines {
        let transitions = line["transitions"].as_array();
        for one in transitions.into_iter().flatten() {
            let key = (state(&one["from"])?, state(&one["to"])?);
            *all.entry(key).or_default() += one["count"].as_u64().context("no count")?;
        }
    }
    Ok(all)
}

type ByStates = BTreeMap<(State, State), u64>;

/// The difference between tcpstate and ftrace, in transitions.
#[derive(Debug, Default)]
struct Difference {
    /// Those that only ftrace saw, without those that no BPF program is shown.
    missing: u64,
    /// Those that only tcpstate saw.
    invented: u64,
}

impl Difference {
    fn new(oracle: &Seen, ours: &ByStates) -> Self {
        let surplus = |these: &ByStates, others: &ByStates| -> u64 {
            let other = |key| others.get(key).copied().unwrap_or(0);
            these
                .iter()
                .map(|(key, count)| count.saturating_sub(other(key)))
                .sum()
        };
        Self {
            missing: surplus(&by_states(&oracle.visible), ours),
            invented: surplus(ours, &by_states(&oracle.all())),
        }
    }
}

/// The situations of the long comparison.
#[derive(Clone, Copy, Debug)]
#[expect(non_camel_case_types, reason = "the names of tests")]
enum Row {
    quiet,
    churn,
    delayed_acks,
    others_come_and_go,
}

const ROWS: [Row; 4] = [
    Row::quiet,
    Row::churn,
    Row::delayed_acks,
    Row::others_come_and_go,
];

impl Row {
    /// Makes some transitions.
    fn make(self, port: u16) -> Result<()> {
        const TURN: Duration = Duration::from_millis(500);
        match self {
            Self::quiet => one_by_one(port, TURN),
            Self::churn | Self::others_come_and_go => churn_at(port, TURN, None).map(drop),
            Self::delayed_acks => batches(port, 500, 10),
        }
    }
}

/// Connections one after the other, each closed by its two ends in turn.
fn one_by_one(port: u16, length: Duration) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let start = Instant::now();
    while start.elapsed() < length {
        for _ in 0..100 {
            let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            drop((listener.accept()?, client));
        }
    }
    Ok(())
}

/// Both ways of counting agree with ftrace to the transition, or their books say what is missing.
fn compare(row: Row, wanted: u64) -> Result<()> {
    crate::net::allow_open_files(4_096)?;
    let port = unused_port();
    let ftrace = Ftrace::start(port, 64 << 10)?;
    let of = port.to_string();
    let fixed = ["rates", "1h", "--json", "--attach", "btf", "-P", &of];
    let streamed = Tcpstate::start(&fixed)?;
    let counted = Tcpstate::start(&[&fixed[..], &["--in-kernel"]].concat())?;
    let start = Instant::now();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let others = match row {
            Row::others_come_and_go => Some(scope.spawn(|| come_and_go(&stop))),
            _ => None,
        };
        let make = || -> Result<()> {
            while ftrace.catch_up()? < wanted {
                // Without the `TIME_WAIT` of the turn before.
                Netns::new()?.run_until_quiet(|| row.make(port))?;
            }
            Ok(())
        };
        let result = make();
        stop.store(true, Ordering::Release);
        if let Some(others) = others {
            let times = joined(others.join())?;
            println!("{row:?}: other tools came and went {times} times");
        }
        result
    })?;
    let seconds = start.elapsed().as_secs();
    let skipped = [&streamed, &counted].map(|one| recursion_misses(one.id()));
    let outputs = [streamed.stop()?, counted.stop()?];
    let seen = ftrace.stop()?;
    let (made, hidden): (u64, u64) = (seen.visible.values().sum(), seen.hidden.values().sum());
    for ((name, output), skipped) in ["streamed", "counted"].iter().zip(outputs).zip(skipped) {
        let (lines, summary) = output.json()?;
        let ours = transitions(&lines)?;
        let difference = Difference::new(&seen, &ours);
        let nested = nested(&summary)?;
        let lost = &summary["accounting"]["lost_by_reason"];
        println!(
            "{row:?}, {name}: {made} transitions in {seconds} s, {hidden} hidden; the kernel skipped {} runs, nested {nested}; \
             {difference:?}; lost {lost}",
            skipped?
        );
        let lost = summary["accounting"]["lost"].as_u64().context("lost")?;
        ensure!(
            difference.missing <= lost && difference.invented == 0,
            "{difference:?}, {lost} lost: {summary}"
        );
    }
    Ok(())
}

/// Attaches other tools to the tracepoint and ends them, in a loop. Returns how often.
fn come_and_go(stop: &AtomicBool) -> Result<u32> {
    let mut times = 0;
    while !stop.load(Ordering::Acquire) {
        let mut tcpstates = Command::new("timeout");
        tcpstates.args(["-s", "INT", ".4", "tcpstates"]);
        let mut tcpstate = Command::new(BINARY);
        tcpstate.args(["trace", "--duration", "100ms"]);
        for mut command in [tcpstates, tcpstate] {
            command.stdin(Stdio::null()).stdout(Stdio::null());
            command.stderr(Stdio::null()).status()?;
        }
        times += 1;
    }
    Ok(times)
}
