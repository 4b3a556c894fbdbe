//! The two protocols between a service manager, such as systemd, and a service: notifications, and a socket that it passes.
//!
//! *Source:* `sd_notify(3)` and `sd_listen_fds(3)`.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    net::TcpListener,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    process,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    net::{
        AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send,
        socket_with, sockopt,
    },
};

use tcpstate_capture::clock::monotonic_ns;

/// The way to the service manager; without one, nothing is sent.
#[derive(Debug, Default)]
pub struct Notify {
    socket: Option<OwnedFd>,
    /// Whether it ends a service that gives no sign of life.
    watches: bool,
}

impl Notify {
    /// That of this process, as its environment names it.
    ///
    /// Open it before privileges are given up: whoever is connected needs none.
    ///
    /// *Errors:* the environment names a socket that cannot be reached.
    pub fn of_process() -> io::Result<Self> {
        let for_this = |pid: OsString| pid == *process::id().to_string();
        let watches = env::var_os("WATCHDOG_USEC").is_some()
            && env::var_os("WATCHDOG_PID").is_none_or(for_this);
        match env::var_os("NOTIFY_SOCKET") {
            Some(name) if !name.is_empty() => Self::to(&name, watches),
            _ => Ok(Self::default()),
        }
    }

    /// That at a path, or with `@` at an abstract name.
    ///
    /// *Errors:* it cannot be reached.
    pub fn to(name: &OsStr, watches: bool) -> io::Result<Self> {
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddrUnix::new_abstract_name(name)?,
            None => SocketAddrUnix::new(name)?,
        };
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        connect(&socket, &address)?;
        Ok(Self {
            socket: Some(socket),
            watches,
        })
    }

    /// It serves, now or again, and this is what it does.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// The configuration is being read again; [`Notify::ready`] ends that.
    pub fn reloading(&self) {
        let now_us = monotonic_ns() / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now_us}"));
    }

    /// It has begun to end.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Its present work, in a line.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}"));
    }

    /// A sign of life, if one is wanted.
    pub fn alive(&self) {
        if self.watches {
            self.send("WATCHDOG=1");
        }
    }

    fn send(&self, text: &str) {
        if let Some(socket) = &self.socket {
            // A manager that does not read must not hold anything up, and one that is away cannot be told so.
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let _ = send(socket, text.as_bytes(), flags);
        }
    }
}

/// Why a socket of the service manager is not used.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// There are several.
    #[error("the service manager passed {0} sockets (LISTEN_FDS); serve takes one")]
    Several(String),
    /// It is something else.
    #[error("the socket of the service manager (LISTEN_FDS) is not a TCP socket that listens")]
    NoListener,
    /// It is not there, or refuses what every socket can.
    #[error("cannot use the socket of the service manager (LISTEN_FDS)")]
    Unusable(#[from] io::Error),
}

/// The first descriptor that a service manager passes. *Source:* `SD_LISTEN_FDS_START`.
const FIRST: i32 = 3;

/// The listening TCP socket that the service manager passed to this process; `None`: it passed none.
///
/// Only the first call gets it.
pub fn passed_listener() -> Result<Option<TcpListener>, ActivationError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number = match (env::var("LISTEN_PID"), env::var("LISTEN_FDS")) {
        (Ok(pid), Ok(number)) if pid == process::id().to_string() => number,
        _ => return Ok(None),
    };
    match &*number {
        "0" => return Ok(None),
        "1" => {}
        _ => return Err(ActivationError::Several(number)),
    }
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(None);
    }
    // SAFETY: the manager opened this descriptor for this process and says so. Nothing here was opened as that number,
    // since it was taken, and only this call takes it over.
    let socket = unsafe { OwnedFd::from_raw_fd(FIRST) };
    listener(socket).map(Some)
}

/// This socket as a listener.
fn listener(socket: OwnedFd) -> Result<TcpListener, ActivationError> {
    let facts = || -> rustix::io::Result<bool> {
        // It is the manager's: programs that we start, if ever, have no part in it.
        fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
        let family = sockopt::socket_domain(&socket)?;
        Ok(sockopt::socket_acceptconn(&socket)?
            && sockopt::socket_type(&socket)? == SocketType::STREAM
            && [AddressFamily::INET, AddressFamily::INET6].contains(&family))
    };
    match facts() {
        Ok(true) => Ok(socket.into()),
        Ok(false) | Err(rustix::io::Errno::NOTSOCK) => Err(ActivationError::NoListener),
        Err(errno) => Err(ActivationError::Unusable(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        os::{
            linux::net::SocketAddrExt as _,
            unix::net::{SocketAddr, UnixDatagram},
        },
    };

    use tempfile::TempDir;

    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut text = [0; 200];
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_is_told() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::to(path.as_os_str(), true).unwrap();
        notify.ready("serving");
        assert_eq!(received(&manager), "READY=1\nSTATUS=serving");
        notify.alive();
        assert_eq!(received(&manager), "WATCHDOG=1");
        notify.reloading();
        let reloading = received(&manager);
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        assert!(time.unwrap().parse::<u64>().unwrap() > 0);
        // One that does not read holds nothing up.
        for _ in 0..10_000 {
            notify.status("busy");
        }
        // Nor does one that is gone.
        drop(manager);
        notify.stopping();
        assert!(Notify::to(folder.path().join("none").as_os_str(), false).is_err());
    }

    #[test]
    fn signs_of_life_are_sent_where_they_are_wanted() {
        let name = format!("tcpstate-test-{}", process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let notify = Notify::to(OsStr::new(&format!("@{name}")), false).unwrap();
        notify.alive();
        notify.stopping();
        assert_eq!(received(&manager), "STOPPING=1");
    }

    #[test]
    fn only_a_listener_is_taken() {
        let passed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = passed.local_addr().unwrap();
        let taken = listener(passed.into()).unwrap();
        assert_eq!(taken.local_addr().unwrap(), address);
        let connected = std::net::TcpStream::connect(address).unwrap();
        let datagrams = UnixDatagram::unbound().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for other in [connected.into(), datagrams.into(), OwnedFd::from(file)] {
            let error = listener(other).unwrap_err();
            assert!(matches!(error, ActivationError::NoListener), "{error}");
        }
    }
}
