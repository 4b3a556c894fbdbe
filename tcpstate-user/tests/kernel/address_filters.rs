//! Addresses that the BPF programs choose by, compared with the same choice made here from the records of a capture
//! without a filter.
//!
//! Records have the address of the socket in the kernel, so that all of a socket's are known in both attach modes, its
//! first among them, which has no port or no address yet.

use std::{
    collections::{BTreeMap, HashMap},
    future::poll_fn,
    net::SocketAddr,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use tcpstate_common::{State, transition::opens};
use tcpstate_core::{
    event::Event,
    source::{EventSource as _, Step},
};
use tcpstate_recording::Reader;

use crate::{
    need::{ATTACH_MODES, Need, attach_needs, trial},
    net::Netns,
    process::{Tcpstate, nested},
    selections::{Ends, traffic, v4, v6},
};

pub fn add(trials: &mut Vec<Trial>) {
    for mode in ATTACH_MODES {
        // In either mode the namespace is read from the socket, at an offset from BTF.
        let needs = [attach_needs(mode), &[Need::Btf, Need::Program("ip")]].concat();
        trials.push(trial(
            format!("{mode}::address_filters"),
            &needs,
            move || as_chosen_here(mode),
        ));
    }
}

/// Whether a socket with these ends is wanted.
type Wants = fn(&Ends) -> bool;

/// Expressions that the programs decide, with the same in Rust.
const CASES: [(&str, Wants); 16] = [
    ("src 127.0.1.0/24", |ends| v4(ends.local.ip(), 1)),
    ("dst 127.0.1.0/24", |ends| v4(ends.remote.ip(), 1)),
    ("host 127.0.1.1", |ends| {
        let both = [ends.local.ip(), ends.remote.ip()];
        both.iter().any(|ip| ip.to_string() == "127.0.1.1")
    }),
    ("not src 127.0.1.0/24", |ends| !v4(ends.local.ip(), 1)),
    ("not dst 127.0.1.0/24", |ends| !v4(ends.remote.ip(), 1)),
    ("not host 127.0.2.0/24", |ends| {
        !v4(ends.local.ip(), 2) && !v4(ends.remote.ip(), 2)
    }),
    // Of sockets of either family: the addresses on the wire are IPv4.
    ("src [::ffff:127.0.1.0]/120", |ends| v4(ends.local.ip(), 1)),
    ("not src 127.0.0.0/8", |ends| {
        ends.local.is_ipv6() || ends.local.ip().is_unspecified()
    }),
    ("src [fd00:1::]/32", |ends| v6(ends.local.ip(), 1)),
    ("dst [fd00:1::]/32", |ends| v6(ends.remote.ip(), 1)),
    ("not dst [fd00:1::]/32", |ends| !v6(ends.remote.ip(), 1)),
    // All of IPv6, without the v4-mapped addresses.
    ("dst [::]/0", |ends| ends.remote.is_ipv6()),
    (
        "src 127.0.2.0/24 or dst 127.0.2.0/24 or host [fd00:2::]/32",
        |ends| {
            let both = [ends.local.ip(), ends.remote.ip()];
            both.iter().any(|&ip| v4(ip, 2) || v6(ip, 2))
        },
    ),
    ("src 127.0.1.0/24 and dst 127.0.2.0/24", |ends| {
        v4(ends.local.ip(), 1) && v4(ends.remote.ip(), 2)
    }),
    // A client's first change comes before the kernel has chosen its port.
    ("dst 127.0.1.0/24 and sport >= 32768", |ends| {
        v4(ends.remote.ip(), 1) && ends.local.port() >= 32_768
    }),
    (
        "( dst [::1] or dst 127.0.3.0/24 ) and not sport < 32768",
        |ends| {
            (ends.remote.ip().to_string() == "::1" || v4(ends.remote.ip(), 3))
                && ends.local.port() >= 32_768
        },
    ),
];

fn as_chosen_here(mode: &str) -> Result<()> {
    let netns = Netns::new()?;
    let inode = netns.inode()?.to_string();
    let folder = tempfile::tempdir()?;
    let file = |number: usize| folder.path().join(number.to_string());
    let start = |number: usize, expression: &str| {
        let path = file(number);
        let fixed = [
            "record", "--json", "--attach", mode, "--netns", &inode, "-w",
        ];
        let path = path.to_str().context("no text")?;
        let words = expression.split(' ').filter(|word| !word.is_empty());
        Tcpstate::start(
            &fixed
                .into_iter()
                .chain([path])
                .chain(words)
                .collect::<Vec<_>>(),
        )
    };
    let whole = start(CASES.len(), "")?;
    let cases = CASES.iter().enumerate();
    let started = cases.map(|(number, (expression, _))| start(number, expression));
    let started = started.collect::<Result<Vec<_>>>()?;
    netns.run_until_quiet(traffic)?;
    let stopped = started.into_iter().map(|recorder| recorder.stop()?.json());
    let stopped = stopped.collect::<Result<Vec<_>>>()?;
    let (_, summary) = whole.stop()?.json()?;
    ensure!(
        summary["accounting"]["filtered_by_reason"]["address"].is_null(),
        "without a filter: {summary}"
    );
    let whole = sockets(&file(CASES.len()))?;
    ensure!(whole.len() > 15, "{} sockets", whole.len());
    for ((number, (expression, wants)), (_, summary)) in CASES.iter().enumerate().zip(stopped) {
        let wanted = whole.iter().filter(|socket| wants(&socket.ends));
        let expected = counted(wanted.clone());
        let found = sockets(&file(number))?;
        let found = counted(found.iter());
        ensure!(
            expected == found,
            "{expression}: expected {expected:#?}, found {found:#?}; {summary}"
        );
        let kept = wanted.count();
        ensure!(
            (1..whole.len()).contains(&kept),
            "{expression} selects {kept} of {}",
            whole.len()
        );
        decided_in_kernel(&summary).with_context(|| (*expression).to_owned())?;
    }
    Ok(())
}

/// Checks that the programs have left out all that was not wanted, but for first changes that they could not decide.
fn decided_in_kernel(summary: &Value) -> Result<()> {
    let by_address = summary["accounting"]["filtered_by_reason"]["address"].as_u64();
    ensure!(by_address > Some(0), "not filtered by address: {summary}");
    // Where a socket's next change has been skipped, the one after it may settle the first.
    ensure!(
        summary["selection"]["filtered"] == 0 || nested(summary)? > 0,
        "left to user space: {summary}"
    );
    Ok(())
}

/// A socket: its ends as they are once all is known, and its changes.
struct Socket {
    ends: Ends,
    changes: Vec<(State, State)>,
}

/// The count of such changes of a socket with such ends.
fn counted<'a>(sockets: impl Iterator<Item = &'a Socket>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for socket in sockets {
        let Ends { local, remote } = socket.ends;
        for (old, new) in &socket.changes {
            *counts
                .entry(format!("{local} {remote} {old} {new}"))
                .or_default() += 1;
        }
    }
    counts
}

/// The sockets of a recording.
fn sockets(path: &Path) -> Result<Vec<Socket>> {
    let mut sockets: Vec<Socket> = Vec::new();
    let mut latest = HashMap::new();
    for event in events(path)? {
        let change = (event.oldstate(), event.newstate());
        let address = event.record().skaddr;
        let begins = opens(change.0, change.1) || change.1 == State::LISTEN;
        let known = latest.get(&address).filter(|_| !begins).copied();
        let number = known.unwrap_or(sockets.len());
        let ends = Ends {
            local: SocketAddr::new(event.laddr(), event.lport()),
            remote: SocketAddr::new(event.raddr(), event.rport()),
        };
        latest.insert(address, number);
        match sockets.get_mut(number) {
            Some(socket) => {
                socket.ends = ends;
                socket.changes.push(change);
            }
            None => sockets.push(Socket {
                ends,
                changes: vec![change],
            }),
        }
    }
    Ok(sockets)
}

fn events(path: &Path) -> Result<Vec<Event>> {
    let mut reader = Reader::open(path)?;
    let mut events = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        while poll_fn(|cx| reader.poll_step(cx, &mut events)).await? != Step::End {}
        Ok(events)
    })
}
