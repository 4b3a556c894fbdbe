//! Network namespaces and the sockets in them.
//!
//! Knows nothing of `tcpstate`.

use std::{
    fs::{self, File},
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    num::NonZeroU32,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::{self, net::UnixListener},
    },
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    net::{AddressFamily, Protocol, Shutdown, SocketFlags, SocketType, sockopt},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{LinkNameSpaceType, UnshareFlags},
};
use tcpstate_common::State;

/// The limit for every wait, far longer than any wait takes: it turns a hang into a message.
pub const PATIENCE: Duration = Duration::from_mins(3);

/// A namespace with a name in `ip netns`, deleted when this is dropped.
pub struct Named(pub String);

impl Named {
    pub fn new() -> Result<Self> {
        let name = format!("tcpstate-test-{}", unused_port());
        ip(&["netns", "add", &name])?;
        Ok(Self(name))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // An error cannot be reported here.
        let _ = ip(&["netns", "del", &self.0]);
    }
}

/// A network namespace with its loopback up, deleted when this handle is dropped.
pub struct Netns {
    file: File,
}

impl Netns {
    pub fn new() -> Result<Self> {
        // On a thread of its own, because a namespace belongs to a thread; this thread ends here.
        let made = thread::spawn(|| -> Result<Self> {
            // SAFETY: NEWNET separates nothing from other threads that could become inconsistent. The
            // call could separate file descriptors (NEWFILES), but does not.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.context("unshare")?;
            Interface::named("lo")?.up()?;
            Ok(Self {
                file: File::open("/proc/thread-self/ns/net")?,
            })
        });
        joined(made.join())
    }

    /// Runs `f` on a thread in this namespace. Sockets and threads that it makes stay in the namespace.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                rustix::thread::move_into_link_name_space(
                    self.file.as_fd(),
                    Some(LinkNameSpaceType::Network),
                )
                .context("setns")?;
                f()
            });
            joined(inside.join())
        })
    }

    /// The namespace's inode number, by which the kernel names it.
    pub fn inode(&self) -> Result<u64> {
        Ok(rustix::fs::fstat(&self.file)?.st_ino)
    }

    /// A path to it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Runs `f` in this namespace, then waits until every socket that it made is gone.
    ///
    /// The kernel decrements `sockets: used` when it frees a socket, which is after its last transition: when
    /// the count is as before, no further transition follows.
    pub fn run_until_quiet<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let before = self.sockets_used()?;
        let value = self.run(f)?;
        await_that("the sockets of the test are freed", || {
            Ok(self.sockets_used()? <= before)
        })?;
        Ok(value)
    }

    fn sockets_used(&self) -> Result<u64> {
        self.run(|| {
            let text = fs::read_to_string("/proc/thread-self/net/sockstat")?;
            let used = text
                .lines()
                .find_map(|line| line.strip_prefix("sockets: used "));
            Ok(used
                .context("no `sockets: used` in sockstat")?
                .trim()
                .parse()?)
        })
    }
}

/// Returns the result of a thread, or resumes its panic.
pub fn joined<T>(result: thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Polls for a condition that the kernel has no event for.
pub fn await_that(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is_so()? {
        ensure!(
            start.elapsed() < PATIENCE,
            "waited {PATIENCE:?} in vain: {what}"
        );
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// A network interface in the namespace of the thread that created this handle.
///
/// Uses `ioctl` instead of netlink: the kernel frees a netlink socket some time after it was closed, and
/// [`Netns::run_until_quiet`] would take it for a socket of the test.
pub struct Interface {
    socket: OwnedFd,
    name: [u8; libc::IFNAMSIZ],
}

impl Interface {
    pub fn named(name: &str) -> Result<Self> {
        let mut bytes = [0; libc::IFNAMSIZ];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        Ok(Self {
            socket,
            name: bytes,
        })
    }

    pub fn up(&self) -> Result<()> {
        self.set(
            libc::SIOCSIFFLAGS,
            &libc::c_short::try_from(libc::IFF_UP)?.to_ne_bytes(),
        )
        .context("set the interface up")
    }

    /// Makes it one end of a point-to-point link.
    pub fn link(&self, local: Ipv4Addr, peer: Ipv4Addr) -> Result<()> {
        self.set(libc::SIOCSIFADDR, &socket_address(local)?)
            .context("set the address")?;
        self.set(libc::SIOCSIFDSTADDR, &socket_address(peer)?)
            .context("set the peer's address")
    }

    /// Calls `ioctl` with a `struct ifreq`: the name, then the value of the request.
    fn set(&self, request: libc::Ioctl, value: &[u8]) -> Result<()> {
        let mut ifreq = [0u8; size_of::<libc::ifreq>()];
        ifreq[..libc::IFNAMSIZ].copy_from_slice(&self.name);
        ifreq[libc::IFNAMSIZ..][..value.len()].copy_from_slice(value);
        // SAFETY: these requests read one `struct ifreq`, whose size `ifreq` has.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), request, ifreq.as_ptr()) };
        ensure!(result == 0, "{}", std::io::Error::last_os_error());
        Ok(())
    }
}

/// The bytes of a `struct sockaddr_in` without a port.
fn socket_address(address: Ipv4Addr) -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&libc::sa_family_t::try_from(libc::AF_INET)?.to_ne_bytes());
    bytes[4..8].copy_from_slice(&address.octets());
    Ok(bytes)
}

/// Runs `ip` in the namespace of the calling thread.
pub fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("ip")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Gives the loopback of this namespace these IPv6 addresses, and waits until they can be connected to.
///
/// The kernel adds the local route of an address a moment after the address. Before, a connect succeeds by the prefix's route,
/// and the next one may fail: the network is unreachable.
pub fn add_ipv6(addresses: &[&str]) -> Result<()> {
    const LOCAL: u32 = 0x8000_0000;
    for address in addresses {
        let prefix = format!("{address}/128");
        ip(&["-6", "address", "add", &prefix, "dev", "lo", "nodad"])?;
    }
    for address in addresses {
        let address: Ipv6Addr = address.parse()?;
        let start = format!("{:032x} 80 ", address.to_bits());
        await_that("an address has its local route", || {
            let routes = fs::read_to_string("/proc/thread-self/net/ipv6_route")?;
            let mut flags = routes
                .lines()
                .filter(|route| route.starts_with(start.as_str()))
                .filter_map(|route| route.split_whitespace().nth(8));
            Ok(flags
                .any(|flags| u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & LOCAL != 0)))
        })?;
    }
    Ok(())
}

/// Drops incoming packets that match these rules.
pub fn drop_incoming(rules: &[&str]) -> Result<()> {
    let rules: String = rules.iter().flat_map(|rule| [rule, " drop;\n"]).collect();
    let script =
        format!("table inet t {{ chain i {{ type filter hook input priority 0;\n{rules}}}\n}}\n");
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    nft.stdin
        .take()
        .context("stdin")?
        .write_all(script.as_bytes())?;
    let status = nft.wait()?;
    ensure!(status.success(), "nft: {status}: {script}");
    Ok(())
}

/// A counter of the kernel for the namespace of the calling thread, of `TcpExt`.
pub fn counter(wanted: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/netstat")?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let names = lines.next().context("no names")?.split_whitespace();
    let values = lines.next().context("no values")?.split_whitespace();
    let mut pairs = names.zip(values);
    let found = pairs.find(|(name, _)| *name == wanted);
    let (_, value) = found.with_context(|| format!("no {wanted}"))?;
    Ok(value.parse()?)
}

/// Raises the number of files that this process may have open.
pub fn allow_open_files(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: limit.maximum.map(|maximum| maximum.max(wanted)),
        };
        setrlimit(Resource::Nofile, raised).context("raise the number of open files")?;
    }
    Ok(())
}

/// A port that no other test on this machine uses at this time: the observers see every namespace, so only
/// the port separates the traffic of tests.
pub fn unused_port() -> u16 {
    // Below the ephemeral ports.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    10_000 + BLOCK.0 * 100 + NEXT.fetch_add(1, Ordering::Relaxed) % 100
}

/// The block of 100 ports of this process, as several may run at the same time: a number below 200, and the name in the
/// kernel that claims it until this process ends.
static BLOCK: LazyLock<(u16, Option<UnixListener>)> = LazyLock::new(claim_block);

/// Claims the ports of this process. Called outside of the tests' namespaces: such names belong to a namespace.
pub fn claim_ports() {
    LazyLock::force(&BLOCK);
}

fn claim_block() -> (u16, Option<UnixListener>) {
    let first = u16::try_from(std::process::id() % 200).unwrap_or_default();
    let blocks = (0..200).map(|more| (first + more) % 200);
    let claim = |block: u16| {
        let name =
            unix::net::SocketAddr::from_abstract_name(format!("tcpstate-test-ports-{block}"));
        UnixListener::bind_addr(&name.ok()?).ok()
    };
    let claimed = blocks.map(|block| (block, claim(block)));
    claimed
        .into_iter()
        .find(|(_, claim)| claim.is_some())
        .unwrap_or((first, None))
}

/// A listener at the loopback with this backlog.
pub fn listen(port: u16, backlog: i32) -> Result<TcpListener> {
    let listener = socket(AddressFamily::INET, None)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    rustix::net::bind(&listener, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    rustix::net::listen(&listener, backlog)?;
    Ok(listener.into())
}

/// A listener and the two ends of one connection to it.
pub struct Connection {
    pub listener: TcpListener,
    pub client: TcpStream,
    pub server: TcpStream,
}

impl Connection {
    /// Connects to `addr`, in the namespace of the calling thread.
    pub fn new(addr: impl Into<SocketAddr>) -> Result<Self> {
        let addr = addr.into();
        let listener = TcpListener::bind(addr).with_context(|| format!("listen on {addr}"))?;
        let client = TcpStream::connect(addr).with_context(|| format!("connect to {addr}"))?;
        let (server, _) = listener.accept().context("accept")?;
        Ok(Self {
            listener,
            client,
            server,
        })
    }
}

/// A stream socket from `socket(2)`. Programs that other tests start do not inherit it, because they would
/// keep it open long after the test.
pub fn socket(family: AddressFamily, protocol: Option<Protocol>) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let stream = SocketType::STREAM;
    Ok(rustix::net::socket_with(family, stream, flags, protocol)?)
}

/// Closes a socket so that the kernel sends a reset.
pub fn reset(socket: impl Into<OwnedFd>) -> Result<()> {
    let socket = socket.into();
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    Ok(())
}

/// Waits until the socket has read the peer's FIN.
pub fn await_fin(socket: impl AsFd) -> Result<()> {
    let mut byte = [0; 1];
    let (read, _) = rustix::net::recv(socket, &mut byte, rustix::net::RecvFlags::empty())?;
    ensure!(read == 0, "expected the end of the stream, got a byte");
    Ok(())
}

/// Waits until the socket is in `state`, by `TCP_INFO`.
pub fn await_state(socket: impl AsFd, state: State) -> Result<()> {
    await_that(&format!("a socket reaches {state}"), || {
        Ok(state_of(socket.as_fd())? == state)
    })
}

/// Calls `shutdown(2)` for the sending half.
pub fn shutdown_write(socket: impl AsFd) -> Result<()> {
    Ok(rustix::net::shutdown(socket, Shutdown::Write)?)
}

/// The state of a socket, by `getsockopt(TCP_INFO)`.
pub fn state_of(socket: BorrowedFd<'_>) -> Result<State> {
    // `tcpi_state` is the first byte of `struct tcp_info`, which the kernel truncates to the given length.
    let mut state = 0u8;
    let mut len: libc::socklen_t = 1;
    // SAFETY: the kernel writes at most `len` bytes, which is 1, to `state`, and sets `len`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut len,
        )
    };
    ensure!(result == 0, "TCP_INFO: {}", std::io::Error::last_os_error());
    Ok(State(state))
}

/// `IPPROTO_MPTCP`.
pub fn mptcp_protocol() -> Protocol {
    const { Protocol::from_raw(NonZeroU32::new(262).expect("262 is not 0")) }
}
