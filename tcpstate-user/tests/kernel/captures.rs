//! The states that are rebuilt from a capture are the kernel's: `trace` watches a namespace while tcpdump captures the
//! same traffic.

mod loopback;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    need::{Need, trial},
    net::{Netns, await_that, unused_port},
    process::{BINARY, Running, Tcpstate, await_exit, interrupt, run},
    wire::Wire,
};

/// Has the figures of these tests in a table.
const DOCUMENT: &str = include_str!("../../../docs/captures.md");

pub fn add(trials: &mut Vec<Trial>) {
    let needs = [Need::Cookie, Need::Program("tcpdump")];
    trials.push(trial("packets::live_truth", &needs, live_truth));
    let needs = [&needs[..], &[Need::Tun]].concat();
    trials.push(trial("packets::live_truth_on_a_wire", &needs, on_a_wire));
}

/// Traffic of one kind.
struct Situation<F> {
    /// Its name in the document.
    name: &'static str,
    /// Makes it, to a server at a port.
    run: F,
    /// Whether packets leave the order open in which the server's end sent and received what closes a connection.
    leaves_order: bool,
}

impl<F> Situation<F> {
    /// Packets tell all of it.
    const fn new(name: &'static str, run: F) -> Self {
        let leaves_order = false;
        Self {
            name,
            run,
            leaves_order,
        }
    }

    const fn seen(&self, port: u16) -> Seen {
        Seen {
            name: self.name,
            port,
            leaves_order: self.leaves_order,
        }
    }
}

/// A situation that was made, with the port of its server.
struct Seen {
    name: &'static str,
    port: u16,
    leaves_order: bool,
}

/// The last packet of a capture.
const BELL: &[u8] = b"this is the last packet of the capture";

/// tcpdump that writes what is on a device of the calling thread's namespace to a file.
struct Writing {
    child: Running,
    bell: UdpSocket,
    /// An address to which packets go by that device.
    to: SocketAddr,
}

impl Writing {
    /// Returns when it captures.
    fn start(device: &str, to: Ipv4Addr, path: &Path) -> Result<Self> {
        let (bell, to) = (UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?, (to, 9).into());
        let mut command = Command::new("tcpdump");
        command
            .args(["-i", device, "-s", "96", "-B", "16384", "-U", "-Z", "root"])
            .args(["--immediate-mode", "-w"])
            .arg(path)
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = Running::new(&mut command)?;
        let stderr = child.stderr.take().context("tcpdump without a stderr")?;
        let mut messages = BufReader::new(stderr).lines();
        while !messages
            .next()
            .context("tcpdump ended before it captured")??
            .contains("listening on")
        {}
        // Drains the rest of its messages, so that it never blocks.
        thread::spawn(move || messages.by_ref().for_each(drop));
        Ok(Self { child, bell, to })
    }

    /// Ends it when it has written all packets up to now.
    fn stop(mut self, path: &Path) -> Result<()> {
        self.bell.send_to(BELL, self.to)?;
        await_that("tcpdump writes the last packet", || {
            let file = fs::read(path)?;
            Ok(file.windows(BELL.len()).any(|bytes| bytes == BELL))
        })?;
        interrupt(&self.child)?;
        let status = await_exit(&mut self.child)?;
        ensure!(status.success(), "tcpdump: {status}");
        Ok(())
    }
}

/// A socket's transitions, in order.
type Way = Vec<String>;

/// The ways of all sockets but listeners, by local and remote port.
fn ways(lines: &[Value]) -> BTreeMap<(u64, u64), Vec<Way>> {
    let mut by_cookie: BTreeMap<u64, Vec<&Value>> = BTreeMap::new();
    for line in lines {
        let cookie = line["cookie"].as_u64().unwrap_or(0);
        by_cookie.entry(cookie).or_default().push(line);
    }
    let mut ways: BTreeMap<_, Vec<Way>> = BTreeMap::new();
    for lines in by_cookie.into_values() {
        let last = lines.last().expect("each has a line");
        let port = |name: &str| last[name].as_u64().unwrap_or(0);
        if port("rport") == 0 {
            continue;
        }
        let ports = (port("lport"), port("rport"));
        let way = lines.iter().map(|line| step(line)).collect();
        ways.entry(ports).or_default().push(way);
    }
    // The same ports again are in no order: the cookies are not the kernel's.
    for of_ports in ways.values_mut() {
        of_ports.sort_unstable();
    }
    ways
}

/// The states of a transition, with the cause where packets can tell it: an orphan's socket goes when its FIN is
/// acknowledged, and what then ends the connection is not seen in the kernel.
fn step(line: &Value) -> String {
    let (old, new) = (&line["oldstate"], &line["newstate"]);
    if old == "FIN_WAIT2" {
        return format!("{old} {new}");
    }
    format!("{old} {new} {}", line["cause"])
}

/// Without what an end does from its FIN or its peer's on.
fn without_close(ways: &[Way]) -> Vec<Way> {
    let is_open = |step: &&String| {
        let opens = ["\"CLOSE\"", "\"LISTEN\"", "\"SYN_"];
        opens.iter().any(|state| step.starts_with(state))
    };
    let open = |way: &Way| way.iter().filter(is_open).cloned().collect();
    ways.iter().map(open).collect()
}

/// The sockets of situations, as the kernel shows them and as a capture does.
struct Truth<'a> {
    kernel: &'a [Value],
    path: &'a Path,
    situations: Vec<Seen>,
}

impl Truth<'_> {
    /// Checks that all ways that are rebuilt are the kernel's, and that the document has their numbers.
    fn check(&self) -> Result<()> {
        let path = self.path.to_str().context("a path in UTF-8")?;
        let output = run(BINARY, &["trace", "--json", "-r", path])?;
        let rebuilt = output.stdout.lines().map(serde_json::from_str);
        let mut rebuilt = rebuilt.collect::<Result<Vec<Value>, _>>()?;
        let summary = rebuilt.pop().context("no output")?;
        ensure!(summary["evidence"] == "packets", "{summary}");
        ensure!(summary["complete"] == true, "{summary}");

        let (kernel, packets) = (ways(self.kernel), ways(&rebuilt));
        let mut different = String::new();
        let all: BTreeSet<_> = kernel.keys().chain(packets.keys()).collect();
        for ports in all {
            let of_server = |seen: &&Seen| seen.leaves_order && ports.0 == u64::from(seen.port);
            let leaves_order = self.situations.iter().any(|seen| of_server(&seen));
            let [kernel, packets] = [&kernel, &packets].map(|ways| {
                let ways = ways.get(ports).cloned().unwrap_or_default();
                if leaves_order {
                    without_close(&ways)
                } else {
                    ways
                }
            });
            if kernel != packets {
                writeln!(
                    different,
                    "{ports:?}\nkernel  {kernel:#?}\npackets {packets:#?}"
                )?;
            }
        }
        ensure!(different.is_empty(), "{different}");
        self.situations
            .iter()
            .try_for_each(|seen| seen.check_row(&kernel))
    }
}

impl Seen {
    /// Checks that the document has the numbers of sockets and transitions that were compared.
    fn check_row(&self, kernel: &BTreeMap<(u64, u64), Vec<Way>>) -> Result<()> {
        let port = u64::from(self.port);
        let is_compared =
            |ports: &(u64, u64)| ports.1 == port || ports.0 == port && !self.leaves_order;
        let ways = kernel.iter().filter(|(ports, _)| is_compared(ports));
        let ways: Vec<&Way> = ways.flat_map(|(_, ways)| ways).collect();
        let steps: usize = ways.iter().map(|way| way.len()).sum();
        let row = format!("| {} | {} | {steps} |", self.name, ways.len());
        ensure!(
            DOCUMENT.lines().any(|line| line == row),
            "docs/captures.md has not: {row}"
        );
        Ok(())
    }
}

fn live_truth() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("lo.pcap");
    let netns = Netns::new()?;
    let tcpdump = netns.run(|| Writing::start("lo", Ipv4Addr::LOCALHOST, &path))?;
    let inode = netns.inode()?.to_string();
    let trace = Tcpstate::start(&["trace", "--json", "--netns", &inode])?;
    let mut situations = Vec::new();
    for situation in loopback::ALL {
        let port = unused_port();
        netns
            .run_until_quiet(|| (situation.run)(port))
            .context(situation.name)?;
        situations.push(situation.seen(port));
    }
    let (kernel, _) = trace.stop()?.transitions()?;
    netns.run(|| tcpdump.stop(&path))?;
    Truth {
        kernel: &kernel,
        path: &path,
        situations,
    }
    .check()
}

/// One end captures; both are compared.
fn on_a_wire() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("wire.pcap");
    let (near, far) = (Netns::new()?, Netns::new()?);
    let traces = [&near, &far].map(|netns| {
        let inode = netns.inode()?.to_string();
        Tcpstate::start(&["trace", "--json", "--netns", &inode])
    });
    let wire = Wire::new(&near, &far)?;
    let tcpdump = near.run(|| Writing::start("wire", Wire::SECOND, &path))?;
    let place = wire::Place {
        near: &near,
        far: &far,
        wire: &wire,
    };
    let mut situations = Vec::new();
    for situation in wire::ALL {
        let port = unused_port();
        far.run_until_quiet(|| near.run_until_quiet(|| (situation.run)(&place, port)))
            .context(situation.name)?;
        situations.push(situation.seen(port));
    }
    wire.impair(None);
    let mut kernel = Vec::new();
    for trace in traces {
        kernel.extend(trace?.stop()?.transitions()?.0);
    }
    near.run(|| tcpdump.stop(&path))?;
    Truth {
        kernel: &kernel,
        path: &path,
        situations,
    }
    .check()
}
