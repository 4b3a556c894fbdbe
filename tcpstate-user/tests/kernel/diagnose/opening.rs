//! Findings about connections that do not come about.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::OwnedFd,
    process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use super::{Diagnosis, closing::await_timers, ensure_at, ensure_owner, set};
use crate::{
    need::{Need, trial},
    net::{Netns, await_that, drop_incoming, joined, listen, socket, unused_port},
    process::run,
    traffic::start_connecting,
};

pub fn add(trials: &mut Vec<Trial>) {
    let needs = [
        Need::Btf,
        Need::Cookie,
        Need::Program("nft"),
        Need::Program("ss"),
    ];
    let all: [(&str, Test); 8] = [
        ("connect_hangs", connect_hangs),
        ("connect_to_a_full_listener", connect_to_a_full_listener),
        ("connect_refused", connect_refused),
        ("syn_flood_without_cookies", || {
            syn_flood("0", "syn_flood_without_cookies")
        }),
        ("syn_flood_with_cookies", || {
            syn_flood("1", "syn_flood_with_cookies")
        }),
        ("deferred_accept", deferred_accept),
        ("synack_retransmits", synack_retransmits),
        ("reset_before_accept", reset_before_accept),
    ];
    for (name, test) in all {
        trials.push(trial(format!("diagnose::{name}"), &needs, test));
    }
}

/// A test.
type Test = fn() -> Result<()>;

/// SYNs are dropped on the way.
fn connect_hangs() -> Result<()> {
    Netns::new()?.run(|| {
        let port = unused_port();
        let _listener = listen(port, 16)?;
        drop_incoming(&[&format!("tcp dport {port}")])?;
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let _clients = (0..3)
            .map(|_| start_connecting(None, to))
            .collect::<Result<Vec<_>>>()?;
        await_timers("syn-sent", "on", 3, 2)?;
        let diagnosis = Diagnosis::of("1s", "syn_sent_age = \"1500ms\"", || Ok(()))?;
        let finding = diagnosis.only("connect_hangs")?;
        ensure_at(finding, "client", port)?;
        ensure_owner(finding, process::id())?;
        ensure!(finding["peer"] == "127.0.0.1", "{finding}");
        ensure!(finding["figures"]["hanging"]["value"] == 3, "{finding}");
        ensure!(
            finding["since_at_least_ns"].as_u64() > Some(1_900_000_000),
            "{finding}"
        );
        diagnosis.is("connect_hangs")
    })
}

/// The server is here, and its accept queue is full: that is said, beside the finding about the queue.
fn connect_to_a_full_listener() -> Result<()> {
    Netns::new()?.run(|| {
        let port = unused_port();
        let _listener = listen(port, 2)?;
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let _waiting = (0..3)
            .map(|_| Ok(TcpStream::connect(to)?))
            .collect::<Result<Vec<_>>>()?;
        let _hanging = start_connecting(None, to)?;
        await_timers("syn-sent", "on", 1, 2)?;
        let diagnosis = Diagnosis::of("1s", "syn_sent_age = \"1500ms\"", || Ok(()))?;
        diagnosis.only("accept_queue_full")?;
        let finding = diagnosis.only("connect_hangs")?;
        let advice = finding["advice"][0].to_string();
        ensure!(advice.contains("The server is this host"), "{finding}");
        ensure!(
            finding["see"][0]["name"] == "accept_queue_full",
            "{finding}"
        );
        diagnosis.is("connect_to_a_full_listener")
    })
}

/// A port at which nobody listens answers at once.
fn connect_refused() -> Result<()> {
    Netns::new()?.run(|| {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, unused_port()));
        let diagnosis = Diagnosis::of("2s", "syn_sent_age = \"500ms\"", || {
            for _ in 0..5 {
                ensure!(TcpStream::connect(to).is_err(), "somebody listens");
            }
            Ok(())
        })?;
        diagnosis.is("connect_refused")
    })
}

/// Sends SYNs with forged addresses.
struct Forger(OwnedFd);

impl Forger {
    fn new() -> Result<Self> {
        // IPPROTO_RAW: with a header of IP.
        let raw = rustix::net::Protocol::from_raw(255.try_into()?);
        let socket = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(raw),
        );
        Ok(Self(socket.context("a raw socket")?))
    }

    fn syn(&self, from: SocketAddrV4, to: SocketAddrV4) -> Result<()> {
        let mut tcp = [0; 20];
        tcp[..2].copy_from_slice(&from.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
        // A length of five words, SYN, and a window.
        tcp[12..16].copy_from_slice(&[0x50, 2, 0xff, 0]);
        let ends = [from.ip().octets(), to.ip().octets()].concat();
        let pseudo = [&ends[..], &[0, 6, 0, 20], &tcp].concat();
        let words = pseudo.chunks(2);
        let sum: u32 = words
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16))?;
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
        // The kernel fills in the length, the identification and the checksum.
        let ip = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0];
        let packet = [&ip[..], &ends, &tcp].concat();
        rustix::net::sendto(&self.0, &packet, SendFlags::empty(), &SocketAddr::from(to))?;
        Ok(())
    }
}

/// Forged addresses, whose SYN-ACKs get no answer.
fn syn_flood(cookies: &str, situation: &str) -> Result<()> {
    Netns::new()?.run(|| {
        set("ipv4/tcp_syncookies", cookies)?;
        let port = unused_port();
        let _listener = listen(port, 64)?;
        let quiet = listen(unused_port(), 64)?;
        drop_incoming(&[&format!("tcp sport {port}")])?;
        let forger = Forger::new()?;
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let flood = |addresses: std::ops::Range<u8>| -> Result<()> {
            for last in addresses {
                let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, last), 40_000);
                forger.syn(from, to)?;
            }
            Ok(())
        };
        flood(0..100)?;
        await_timers("syn-recv", "on", 40, 1)?;
        // Until the end: the kernel thins out what is left of a flood that is over.
        let is_over = AtomicBool::new(false);
        let diagnosis = thread::scope(|scope| {
            let goes_on = scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    flood(100..200)?;
                    thread::sleep(Duration::from_millis(100));
                }
                anyhow::Ok(())
            });
            let diagnosis = Diagnosis::of("2s", "", || Ok(()));
            is_over.store(true, Ordering::Relaxed);
            joined(goes_on.join())?;
            diagnosis
        })?;
        let finding = diagnosis.only("syn_flood")?;
        ensure_at(finding, "server", port)?;
        ensure_owner(finding, process::id())?;
        let sources = finding["figures"]["sources"]["value"].as_u64();
        ensure!(sources >= Some(60), "{finding}");
        drop(quiet);
        diagnosis.is(situation)
    })
}

/// Connections that a listener with `TCP_DEFER_ACCEPT` keeps half-open, near its backlog and from many addresses.
fn deferred_accept() -> Result<()> {
    Netns::new()?.run(|| {
        let port = unused_port();
        let listener = listen(port, 16)?;
        set_defer_accept(&listener, 120)?;
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let connect = |last| -> Result<TcpStream> {
            let client = socket(AddressFamily::INET, None)?;
            let from = SocketAddr::from((Ipv4Addr::new(127, 0, 1, last), 0));
            rustix::net::bind(&client, &from)?;
            rustix::net::connect(&client, &to)?;
            Ok(client.into())
        };
        let _clients = (1..=16).map(connect).collect::<Result<Vec<_>>>()?;
        let half_open = || -> Result<usize> {
            Ok(run("ss", &["-Htan", "state", "syn-recv"])?
                .stdout
                .lines()
                .count())
        };
        await_that("they are half-open", || Ok(half_open()? >= 16))?;
        // Looks at several moments: the kernel shows only at some that time has passed without a SYN-ACK.
        for _ in 0..3 {
            let diagnosis = Diagnosis::of("1s", "synack_count = 1", || Ok(()))?;
            diagnosis.is("deferred_accept")?;
        }
        ensure!(half_open()? >= 16, "they did not stay half-open");
        Ok(())
    })
}

fn set_defer_accept(listener: &TcpListener, seconds: libc::c_int) -> Result<()> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the kernel reads one `int`, whose length is given.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of::<libc::c_int>().try_into()?,
        )
    };
    ensure!(
        result == 0,
        "TCP_DEFER_ACCEPT: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// The last ACKs of handshakes are lost: few clients, each established for itself.
fn synack_retransmits() -> Result<()> {
    Netns::new()?.run(|| {
        let port = unused_port();
        let _listener = listen(port, 12)?;
        drop_incoming(&[&format!("tcp dport {port} tcp flags & (syn|ack) == ack")])?;
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        // As many as near the backlog.
        let _clients = (0..12)
            .map(|_| Ok(TcpStream::connect(to)?))
            .collect::<Result<Vec<_>>>()?;
        await_timers("syn-recv", "on", 12, 1)?;
        let diagnosis = Diagnosis::of("1s", "", || Ok(()))?;
        let finding = diagnosis.only("synack_retransmits")?;
        ensure_at(finding, "server", port)?;
        ensure_owner(finding, process::id())?;
        ensure!(finding["figures"]["sent_again"]["value"] == 12, "{finding}");
        ensure!(finding["peers"][0]["addr"] == "127.0.0.1", "{finding}");
        diagnosis.is("synack_retransmits")?;
        // Few are what every public address has.
        let diagnosis = Diagnosis::of("1s", "synack_count = 13", || Ok(()))?;
        diagnosis.is("few_synack_retransmits")
    })
}

/// SYNs whose sender resets: its kernel knows nothing of the connection.
fn reset_before_accept() -> Result<()> {
    Netns::new()?.run(|| {
        let port = unused_port();
        let _listener = listen(port, 16)?;
        let forger = Forger::new()?;
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let diagnosis = Diagnosis::of("2s", "", || {
            for last in 1..=7 {
                forger.syn(
                    SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, last), 40_000),
                    to,
                )?;
            }
            thread::sleep(Duration::from_millis(100));
            Ok(())
        })?;
        let finding = diagnosis.only("reset_before_accept")?;
        ensure!(finding["figures"]["broken_off"]["value"] == 7, "{finding}");
        diagnosis.is("reset_before_accept")
    })
}
