//! The thread that pushes metrics, with `serve --otlp`: it can connect to its collector, and the other threads cannot.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::mpsc::channel,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::CapabilitySet;
use tcpstate::sandbox::{self, Sockets};
use tcpstate_capture::host::Host;

use super::{bpf_map, executable, run};
use crate::net::joined;

/// The program of a collector with an address.
pub const BY_ADDRESS: &str = "pushing_by_address";

/// The program of a collector with a name.
pub const BY_NAME: &str = "pushing_by_name";

pub(super) fn pushes() -> Result<()> {
    run(BY_ADDRESS)?;
    run(BY_NAME)
}

/// Tries, in this process, which is the caller's own, what each thread may.
pub fn attempt_pushing(by_name: bool) -> Result<()> {
    let listening = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let collector = listening.local_addr()?;
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let other = other.local_addr()?;
    let sockets = if by_name {
        Sockets::TcpByName
    } else {
        Sockets::Tcp
    };
    ensure!(
        sandbox::enter(None, CapabilitySet::DAC_READ_SEARCH, sockets)?,
        "this kernel has no seccomp"
    );
    let (go_on, others_are_confined) = channel();
    let pusher = thread::spawn(move || -> Result<()> {
        let has_landlock = sandbox::confine_to(collector.port(), by_name, &["/proc".into()])?;
        others_are_confined.recv()?;
        TcpStream::connect(collector).context("its collector")?;
        // Landlock knows of TCP from Linux 6.7 on.
        if has_landlock && Host::read().kernel_version() >= Some((6, 7)) {
            is_refused("another port", &TcpStream::connect(other))?;
            is_refused("listen", &TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        }
        let datagram = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0));
        if by_name {
            datagram.context("a datagram")?;
            File::open("/proc/self/status").context("what it reads itself")?;
        } else {
            is_refused("a datagram", &datagram)?;
        }
        if has_landlock {
            is_refused("a file", &File::open("/etc/passwd"))?;
        }
        is_refused("exec", &Command::new("/bin/true").status())?;
        is_refused("make memory executable", &executable())?;
        is_refused("make a BPF map", &bpf_map())?;
        let left = rustix::thread::capabilities(None)?;
        ensure!(left.permitted.is_empty(), "{left:?}");
        Ok(())
    });
    sandbox::forbid_sockets()?;
    let refused = connected_by_another_thread(collector);
    go_on.send(())?;
    joined(pusher.join())?;
    is_refused("another thread", &refused)?;
    is_refused("this thread", &TcpStream::connect(collector))?;
    is_refused("its datagram", &UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))?;
    File::open("/etc/passwd").context("a file, in this thread")?;
    // So the list cannot be left behind, and nobody else is asked about a call.
    ensure!(sandbox::forbid_sockets().is_err(), "another list");
    Ok(())
}

/// A connection of a thread that starts from now on.
fn connected_by_another_thread(collector: SocketAddr) -> io::Result<TcpStream> {
    joined(thread::spawn(move || TcpStream::connect(collector)).join())
}

fn is_refused<T: std::fmt::Debug>(name: &str, result: &io::Result<T>) -> Result<()> {
    ensure!(
        result
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied),
        "{name}: {result:?}"
    );
    Ok(())
}
