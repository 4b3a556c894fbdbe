//! The network namespace of the benchmarks, with no other traffic and settings of its own.

use std::{fs, io, os::fd::AsRawFd as _};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    net::{AddressFamily, SocketType},
    thread::UnshareFlags,
};

/// Moves this thread, and the threads and processes that it starts from now on, into a new network
/// namespace, and sets its loopback up.
pub fn enter_own_namespace() -> Result<()> {
    // SAFETY: NEWNET separates nothing from other threads that could become inconsistent. The call could
    // separate file descriptors (NEWFILES), but does not.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .context("make a network namespace (requires root)")?;
    set_up_loopback()?;
    // Allows many connections from one address, and limits TIME_WAIT, so that the connections of the first
    // rounds do not slow down the last.
    set("ip_local_port_range", "10000 65000")?;
    set("tcp_max_tw_buckets", "16384")
}

/// Writes a setting of the namespace.
fn set(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/{name}");
    fs::write(&path, value).with_context(|| format!("write {value} to {path}"))
}

fn set_up_loopback() -> Result<()> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let mut ifreq = [0u8; size_of::<libc::ifreq>()];
    ifreq[..2].copy_from_slice(b"lo");
    let up = libc::c_short::try_from(libc::IFF_UP)?.to_ne_bytes();
    ifreq[libc::IFNAMSIZ..][..up.len()].copy_from_slice(&up);
    // SAFETY: the request reads one `struct ifreq`, whose size `ifreq` has.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, ifreq.as_ptr()) };
    ensure!(
        result == 0,
        "set the loopback up: {}",
        io::Error::last_os_error()
    );
    Ok(())
}
