//! Answers of the kernel that an ordinary user forges.
//!
//! Whoever owns a network namespace may send messages to each netlink socket in it, and the owner may be an ordinary
//! user, in a user namespace of its own. The kernel shows that user the port of each socket, too.

use std::{
    collections::HashMap,
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpStream},
    os::fd::OwnedFd,
    process::{ChildStdin, ChildStdout, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SendFlags, SocketFlags, SocketType,
        netlink::{self, SocketAddrNetlink},
    },
};
use serde_json::Value;

use super::lists::list;
use crate::{
    need::{Need, trial},
    net::{Connection, Interface, PATIENCE, joined, unused_port},
    privileges::{as_user, copy_of},
    process::{Running, Tcpstate},
    programs::VARIABLE,
};

/// The name of the program that forges.
pub const FORGER: &str = "forger";

/// Forged answers for each command.
const TRIES: u32 = 1_000;

/// Tries at one socket, so that a thousand are at many.
const TRIES_EACH: u32 = 50;

/// Tries between two looks at whether a socket is there.
const AT_ONCE: u32 = 10;

/// The port of the sockets that are not there.
const FORGED: u16 = 1;

pub fn add(trials: &mut Vec<Trial>) {
    let user = Need::UserNamespace;
    trials.push(trial(
        "faults::list_while_answers_are_forged",
        &[user],
        lists,
    ));
    trials.push(trial(
        "faults::watch_while_answers_are_forged",
        &[user, Need::Btf],
        watches,
    ));
}

fn lists() -> Result<()> {
    let mut forger = Forger::start()?;
    let (netns, port) = (forger.netns(), forger.port);
    forger.attack_during(|| {
        let (lines, _) = list(&["--netns", &netns])?;
        ensure!(!has_forged(&lines), "{lines:#?}");
        // An end that comes too early would hide some.
        let held = |state: &str| {
            let found = lines.iter().filter(|line| line["state"] == state);
            found
                .filter(|line| line["lport"] == port || line["rport"] == port)
                .count()
        };
        let found = (held("LISTEN"), held("ESTABLISHED"));
        ensure!(found.0 == 1 && found.1 >= 2, "{lines:#?}");
        Ok(())
    })
}

fn watches() -> Result<()> {
    let mut forger = Forger::start()?;
    let (netns, port) = (forger.netns(), forger.port);
    let often = ["--json", "--netns", &netns, "--sample-interval", "10ms"];
    let life = [&["life", "--live", "--until", "gone"], &often[..]].concat();
    let lines = forger.attack(&life)?;
    let open = lines
        .iter()
        .filter(|line| line["cause"].is_null() && line["owner"]["how"] == "seeded")
        .filter(|line| line["lport"] == port || line["rport"] == port);
    ensure!(open.count() == 2, "{lines:#?}");

    // Each sample comes with a dump of all sockets.
    let rates = [&["rates", "100ms", "--in-kernel"], &often[..]].concat();
    let lines = forger.attack(&rates)?;
    // The states are those of the last dump, and the first interval may have none.
    let mut dumped = lines
        .iter()
        .filter(|line| !line["states"]["LISTEN"].is_null());
    ensure!(
        dumped.all(|line| line["states"]["LISTEN"] == 1),
        "{lines:#?}"
    );
    Ok(())
}

/// Whether a socket is among them that is not there.
fn has_forged(lines: &[Value]) -> bool {
    let ports = ["lport", "rport", "service_port"];
    lines.iter().any(|line| {
        let rows = line["ports"].as_array().into_iter().flatten();
        let mut rows = rows.chain([line]);
        rows.any(|row| ports.iter().any(|&port| row[port] == FORGED))
    })
}

/// The program that forges, as an ordinary user with namespaces of its own. It has a listener there, a connection
/// and, during attacks, further ones that end.
struct Forger {
    child: Running,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    port: u16,
}

impl Forger {
    fn start() -> Result<Self> {
        let (_folder, program) = copy_of(&env::current_exe()?)?;
        let port = unused_port();
        let mut child = Running::new(
            as_user("unshare".as_ref())
                .args(["--user", "--map-root-user", "--net"])
                .arg(program)
                .arg(port.to_string())
                .env(VARIABLE, FORGER)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped()),
        )?;
        let stdin = child.stdin.take().context("no stdin")?;
        let stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut this = Self {
            child,
            stdin,
            stdout,
            port,
        };
        let ready = this.line()?;
        ensure!(ready == "ready", "the forger printed {ready:?}");
        Ok(this)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// The path of its network namespace.
    fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.child.id())
    }

    /// Repeats `list` until the forger has tried often enough.
    fn attack_during(&mut self, mut list: impl FnMut() -> Result<()>) -> Result<()> {
        writeln!(self.stdin)?;
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let attack = scope.spawn(|| {
                let tried = self.line();
                ended.store(true, Ordering::Relaxed);
                tried
            });
            let start = Instant::now();
            while !ended.load(Ordering::Relaxed) {
                ensure!(start.elapsed() < PATIENCE, "too few tries");
                list()?;
            }
            check_tries(&joined(attack.join())?)
        })
    }

    /// Runs a command that watches, until the forger has tried often enough. Returns its lines.
    fn attack(&mut self, command: &[&str]) -> Result<Vec<Value>> {
        let tcpstate = Tcpstate::start(command)?;
        writeln!(self.stdin)?;
        let tried = self.line()?;
        let output = tcpstate.stop()?;
        check_tries(&tried)?;
        let (lines, _) = output.json()?;
        ensure!(!has_forged(&lines), "{lines:#?}");
        Ok(lines)
    }
}

/// Checks what the forger says of its tries. All of them were at sockets that were there before and afterwards.
///
/// A message arrives between the instant at which a socket gets its port and the one at which it is connected; the
/// kernel refuses all others.
fn check_tries(tried: &str) -> Result<()> {
    let (refused, arrived) = tried.split_once(' ').context("the forger has failed")?;
    let (refused, arrived): (u32, u32) = (refused.parse()?, arrived.parse()?);
    ensure!(
        refused + arrived >= TRIES && refused > arrived,
        "{refused} tries were refused, {arrived} arrived"
    );
    Ok(())
}

/// The program: with each line on its standard input it forges answers for [`TRIES`] requests, then prints how many of
/// these the kernel refused to deliver, and how many it delivered in part.
pub fn forge() -> Result<()> {
    let port: u16 = env::args().nth(1).context("no port")?.parse()?;
    Interface::named("lo")?.up()?;
    let held = Connection::new((Ipv4Addr::LOCALHOST, port))?;
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    // For the first requests of a process, or of a socket.
    let messages = (1..=AT_ONCE).map(forged).collect::<Result<Vec<_>>>()?;
    println!("ready");
    for line in std::io::stdin().lines() {
        line?;
        let (mut refused, mut arrived) = (0, 0);
        let mut tries = HashMap::<Target, u32>::new();
        while refused + arrived < TRIES {
            for target in targets()? {
                let count = tries.entry(target).or_default();
                if *count == 0 {
                    // Something happens, so that the next sample is a dump.
                    drop(TcpStream::connect(held.listener.local_addr()?)?);
                    drop(held.listener.accept()?);
                }
                while *count < TRIES_EACH {
                    let mut came = 0;
                    for message in &messages {
                        came += u32::from(arrives(&socket, target.port, message)?);
                    }
                    // Otherwise it may have been gone before.
                    if !targets()?.contains(&target) {
                        break;
                    }
                    *count += AT_ONCE;
                    arrived += came;
                    refused += AT_ONCE - came;
                }
            }
        }
        println!("{refused} {arrived}");
    }
    Ok(())
}

/// A socket to `sock_diag`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Target {
    port: u32,
    inode: u64,
}

/// The sockets to `sock_diag` in this namespace, but for the kernel's and this process's.
fn targets() -> Result<Vec<Target>> {
    let text = fs::read_to_string("/proc/self/net/netlink")?;
    let rows = text.lines().skip(1).filter_map(|row| {
        let mut words = row.split_whitespace().skip(1);
        let is_sock_diag = words.next()? == "4";
        let (port, inode) = (words.next()?.parse().ok()?, words.last()?.parse().ok()?);
        (is_sock_diag && port != 0 && port != std::process::id()).then_some(Target { port, inode })
    });
    Ok(rows.collect())
}

/// Sockets that are not there and the end of the dump, as the answer to a request.
fn forged(sequence: u32) -> Result<Vec<u8>> {
    const NLMSG_DONE: u16 = 3;
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const STATES: [u8; 3] = [1, 6, 10];
    let mut messages = Vec::new();
    let mut add = |kind: u16, payload: &[u8]| -> Result<()> {
        messages.extend(u32::try_from(16 + payload.len())?.to_ne_bytes());
        messages.extend(kind.to_ne_bytes());
        messages.extend([0; 2]);
        messages.extend(sequence.to_ne_bytes());
        messages.extend([0; 4]);
        messages.extend(payload);
        Ok(())
    };
    for state in STATES {
        // `struct inet_diag_msg`: of `AF_INET`, with its ports and its cookie.
        let mut found = [0; 72];
        found[..2].copy_from_slice(&[2, state]);
        found[4..6].copy_from_slice(&FORGED.to_be_bytes());
        found[6..8].copy_from_slice(&FORGED.to_be_bytes());
        found[44] = state;
        add(SOCK_DIAG_BY_FAMILY, &found)?;
    }
    add(NLMSG_DONE, &[0; 4])?;
    Ok(messages)
}

/// Sends these messages, and returns whether they arrive.
fn arrives(socket: &OwnedFd, port: u32, messages: &[u8]) -> Result<bool> {
    let to = SocketAddrNetlink::new(port, 0);
    match rustix::net::sendto(socket, messages, SendFlags::DONTWAIT, &to) {
        Ok(_) => Ok(true),
        // It takes none, it is gone, or it has no room.
        Err(Errno::CONNREFUSED | Errno::AGAIN | Errno::NOBUFS) => Ok(false),
        Err(error) => Err(error).context("sendto"),
    }
}
