//! All TCP sockets of a network namespace, as the kernel lists them (`NETLINK_SOCK_DIAG`).
//!
//! - [`wire`]: the bytes; pure.
//! - [`listening`]: what the listening sockets of a list tell about the others.
//! - here: the conversation with the kernel, which can be interrupted, broken off or refused.
//!
//! It works as an ordinary user, in the namespace that one is in. What is in the list beyond what the
//! tracepoint shows: request sockets (half-open connections, as `SYN_RECV`), and minisockets
//! (`TIME_WAIT`, and orphans in `FIN_WAIT2`), under the same cookies that the tracepoint has.
//!
//! A list is no snapshot: the kernel gives it in pieces while sockets come and go. What was there all
//! the time is in it. What moved can be in it twice ([`keep_latest`]), what came or went may be
//! missing.

pub mod listening;
pub mod wire;

use std::{io, net::IpAddr, os::fd::OwnedFd};

use hashbrown::HashMap;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};
use tcpstate_common::{
    State,
    record::{AF_INET, AF_INET6},
};

use self::listening::half_open_age_ms;
pub use self::wire::MalformedError;
use super::netns::{Namespace, NetnsError};
use crate::{census::TIME_WAIT_NS, filter::StateSet};

/// Bytes that one `recv` takes: as much as the kernel ever sends at once.
const RECEIVE_BYTES: usize = 32 << 10;
/// How often a list is asked for before what is there is taken, or given up.
const ATTEMPTS: u32 = 8;

/// A TCP socket as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Inode number of the network namespace that was asked.
    pub netns: u32,
    /// The socket's cookie, unique until the next boot; the tracepoint gives the same.
    pub cookie: u64,
    /// The socket's address family, `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// Its state. A request socket is in `SYN_RECV`; a socket that is only bound is in `CLOSE`.
    pub state: State,
    /// Local address; v4-mapped ones are IPv4.
    pub laddr: IpAddr,
    /// Local port.
    pub lport: u16,
    /// Remote address; v4-mapped ones are IPv4.
    pub raddr: IpAddr,
    /// Remote port; 0 is none.
    pub rport: u16,
    /// Index of the interface that it is bound to.
    pub interface: Option<u32>,
    /// The timer that runs.
    pub timer: Option<Timer>,
    /// Bytes received that the application has not read. Of a listener: connections that wait to be
    /// accepted.
    pub rqueue: u32,
    /// Bytes sent or to be sent that are not acknowledged. Of a listener: its backlog.
    pub wqueue: u32,
    /// The user it belongs to. Minisockets do not know theirs.
    pub uid: Option<u32>,
    /// The inode by which `/proc/PID/fd` names it; `None` if no process holds it: not accepted yet,
    /// already closed, or a minisocket.
    pub inode: Option<u32>,
    /// Id of its cgroup. *Since:* Linux 5.9.
    pub cgroup: Option<u64>,
    /// `sk_shutdown`: 1 receiving and 2 sending is shut down, 3 both.
    pub shutdown: Option<u8>,
    /// Of a socket of `AF_INET6`: that it does without IPv4.
    pub v6only: Option<bool>,
    /// What `TCP_INFO` says, where that was asked for and the socket has it.
    pub info: Option<TcpInfo>,
}

impl Socket {
    /// Whether the addresses are IPv4 or v4-mapped: what travels on the wire.
    pub fn is_ipv4(&self) -> bool {
        self.family == AF_INET || self.laddr.is_ipv4() || self.raddr.is_ipv4()
    }

    /// For how long it has been in its state, nanoseconds, where a timer was set when that began: of a
    /// half-open connection, and in `TIME_WAIT` (since the peer's FIN came the last time).
    pub fn age_ns(&self) -> Option<u64> {
        const MS: u64 = 1_000_000;
        match (self.state, self.timer) {
            (State::SYN_RECV, _) => half_open_age_ms(self).map(|ms| ms * MS),
            (
                State::TIME_WAIT,
                Some(Timer {
                    kind: TimerKind::TimeWait,
                    expires_ms,
                    ..
                }),
            ) => TIME_WAIT_NS.checked_sub(u64::from(expires_ms) * MS),
            _ => None,
        }
    }

    /// Whether it is one that no process has: a request socket or a minisocket.
    pub fn is_small(&self) -> bool {
        let kind = self.timer.map(|timer| timer.kind);
        kind == Some(TimerKind::TimeWait) || (self.state == State::SYN_RECV && self.inode.is_none())
    }

    /// Whether it is one of these states, by the state's name or by what it is: a socket that is bound
    /// and no more is `BOUND_INACTIVE` too.
    pub const fn is_in(&self, states: StateSet) -> bool {
        states.contains(self.state)
            || (self.state.0 == State::CLOSE.0 && states.contains(State::BOUND_INACTIVE))
    }
}

/// A running timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    /// What it is for.
    pub kind: TimerKind,
    /// Until it expires, milliseconds.
    pub expires_ms: u32,
    /// How often it has expired in vain.
    pub retransmits: u8,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerKind {
    /// Sending again; of a request socket: the SYN-ACK.
    Retransmit,
    /// Keepalive; of an orphan in `FIN_WAIT2`: its end.
    Keepalive,
    /// A minisocket's end.
    TimeWait,
    /// Probing a closed window.
    Probe,
    /// Something that this version does not know.
    Other(u8),
}

impl TimerKind {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retransmit => "retransmit",
            Self::Keepalive => "keepalive",
            Self::TimeWait => "timewait",
            Self::Probe => "probe",
            Self::Other(_) => "other",
        }
    }
}

/// What `TCP_INFO` says of a connection; each where the kernel sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Smoothed round trip time in microseconds; `None` if none was ever measured.
    pub srtt_us: Option<u32>,
    /// Segments retransmitted.
    pub retransmits: Option<u32>,
    /// Payload bytes received in order.
    pub bytes_received: Option<u64>,
    /// Payload bytes sent, retransmissions included.
    pub bytes_sent: Option<u64>,
    /// Since data was last sent, or since the beginning, milliseconds.
    pub last_sent_ms: Option<u32>,
    /// Since data was last received, or since the beginning, milliseconds.
    pub last_received_ms: Option<u32>,
}

/// What to ask for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Sockets in these states. [`StateSet::ALL`] asks for those too that this version does not know.
    pub states: StateSet,
    /// IPv6 only: sockets of `AF_INET` are not asked for. There is no such thing for IPv4, which
    /// travels on sockets of both families.
    pub ipv6_only: bool,
    /// With [`Socket::info`]. It costs a few times as much.
    pub with_info: bool,
}

impl Request {
    fn families(self) -> &'static [u8] {
        if self.ipv6_only {
            &[AF_INET6]
        } else {
            &[AF_INET, AF_INET6]
        }
    }

    /// A bit for each state.
    fn bits(self) -> u32 {
        if self.states == StateSet::ALL {
            return u32::MAX;
        }
        let bits = u32::from(self.states.bits());
        // In CLOSE the kernel lists only what is bound, and that by this bit. Since: Linux 6.8.
        if self.states.contains(State::CLOSE) {
            bits | 1 << State::BOUND_INACTIVE.0
        } else {
            bits
        }
    }
}

/// How the conversation went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// Sockets that the kernel described, those that could not be read included.
    pub answers: u64,
    /// Descriptions that could not be read.
    pub malformed: u64,
    /// Lists that were asked for again because the kernel said that they were inconsistent, or broke
    /// them off.
    pub repeats: u32,
    /// The last try was inconsistent too: the kernel said that sockets may be missing.
    pub inconsistent: bool,
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The namespace cannot be had.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The kernel has no `sock_diag`, or not for TCP.
    #[error("this kernel cannot list its TCP sockets (no sock_diag)")]
    NoSockDiag(#[source] io::Error),
    /// The kernel answered with an error.
    #[error("the kernel refused to list its TCP sockets")]
    Refused(#[source] io::Error),
    /// The socket to the kernel failed.
    #[error("cannot {what} a sock_diag socket")]
    Link {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// No try gave a whole list.
    #[error("the kernel broke off its list of TCP sockets {ATTEMPTS} times")]
    BrokenOff,
}

impl DumpError {
    /// What the user can do about it; `None` where nobody can.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Netns(error) => error.remedy(),
            Self::NoSockDiag(_) => Some(
                "It takes CONFIG_INET_DIAG and CONFIG_INET_TCP_DIAG, as modules: `modprobe tcp_diag`.",
            ),
            Self::BrokenOff => Some(
                "The kernel was short of memory for the answers. Ask for fewer states with --state.",
            ),
            Self::Refused(_) | Self::Link { .. } => None,
        }
    }
}

/// A way to talk to the kernel. What a `recv` gives is one or several whole messages.
trait Link {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Forgets the conversation and begins a new one.
    fn reopen(&mut self) -> Result<(), DumpError>;
}

/// A conversation with the kernel about the sockets of one namespace.
#[derive(Debug)]
pub struct SockDiag {
    link: Netlink,
    sequence: u32,
    buffer: Box<[u8]>,
}

impl SockDiag {
    /// Begins a conversation about this namespace.
    pub fn open(namespace: Namespace) -> Result<Self, DumpError> {
        Self::open_and(namespace, || ()).map(|(this, ())| this)
    }

    /// Begins a conversation and does something else in the namespace while there.
    pub fn open_and<T: Send>(
        namespace: Namespace,
        f: impl FnOnce() -> T + Send,
    ) -> Result<(Self, T), DumpError> {
        let (socket, value) = namespace.within(|| (socket(), f()))?;
        let link = Netlink {
            socket: socket?,
            namespace,
        };
        let this = Self {
            link,
            sequence: 0,
            buffer: vec![0; RECEIVE_BYTES].into(),
        };
        Ok((this, value))
    }

    /// The namespace.
    pub const fn namespace(&self) -> &Namespace {
        &self.link.namespace
    }

    /// Appends all sockets that were asked for.
    ///
    /// *Errors:* then `sockets` is as it was.
    pub fn dump(&mut self, request: Request, sockets: &mut Vec<Socket>) -> Result<Dump, DumpError> {
        let netns = self.link.namespace.inode();
        self.lister().describe(netns, request, sockets)
    }

    /// Gives `sink` all sockets in one of these states, of both families.
    pub fn survey(&mut self, states: StateSet, sink: &mut impl Sink) -> Result<Dump, DumpError> {
        self.lister().list(Ask::Both(states), sink)
    }

    fn lister(&mut self) -> Lister<'_, Netlink> {
        Lister {
            link: &mut self.link,
            sequence: &mut self.sequence,
            buffer: &mut self.buffer,
        }
    }
}

/// What takes the sockets of a list.
pub trait Sink {
    /// The list begins, perhaps anew: all that is there is taken once more. What was taken before was there then.
    fn restart(&mut self);
    /// Takes one, as [`wire::socket`] and [`wire::brief`] read it.
    fn take(&mut self, bytes: &[u8]) -> Result<(), MalformedError>;
}

/// Sockets with all that is said of them, behind those that were there.
struct Described<'a> {
    sockets: &'a mut Vec<Socket>,
    start: usize,
    netns: u32,
}

impl Sink for Described<'_> {
    fn restart(&mut self) {
        self.sockets.truncate(self.start);
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), MalformedError> {
        self.sockets.push(wire::socket(bytes, self.netns)?);
        Ok(())
    }
}

/// What is asked for in one go.
#[derive(Clone, Copy)]
enum Ask {
    /// Sockets of a family.
    Family(u8, Request),
    /// Sockets in these states, of both families.
    Both(StateSet),
}

impl Ask {
    fn message(self, sequence: u32) -> Vec<u8> {
        match self {
            Self::Family(family, request) => {
                wire::request(family, request.bits(), request.with_info, sequence).to_vec()
            }
            Self::Both(states) => {
                wire::request_of_both_families(u32::from(states.bits()), sequence).to_vec()
            }
        }
    }
}

impl Dump {
    fn add(&mut self, more: &Self) {
        self.answers += more.answers;
        self.malformed += more.malformed;
        self.repeats += more.repeats;
        self.inconsistent |= more.inconsistent;
    }
}

/// Leaves one description of each cookie: the last, which is the newest.
///
/// A request socket and the connection that it becomes, a connection and its minisocket have the same
/// cookie, and a list can hold both.
#[expect(clippy::indexing_slicing, reason = "kept <= index < the length")]
pub fn keep_latest(sockets: &mut Vec<Socket>) {
    let mut places: HashMap<(u32, u64), usize> = HashMap::with_capacity(sockets.len());
    let mut kept = 0;
    for index in 0..sockets.len() {
        let key = (sockets[index].netns, sockets[index].cookie);
        if let Some(&place) = places.get(&key) {
            sockets.swap(place, index);
        } else {
            places.insert(key, kept);
            sockets.swap(kept, index);
            kept += 1;
        }
    }
    sockets.truncate(kept);
}

#[derive(Debug)]
struct Netlink {
    namespace: Namespace,
    socket: OwnedFd,
}

/// A socket to the kernel in the namespace of this thread.
fn socket() -> Result<OwnedFd, DumpError> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    );
    let socket = socket.map_err(|errno| match errno {
        rustix::io::Errno::PROTONOSUPPORT => DumpError::NoSockDiag(errno.into()),
        errno => DumpError::Link {
            what: "open",
            source: errno.into(),
        },
    })?;
    // Room for answers in front of which we are not fast enough; less will do as well.
    let _ = sockopt::set_socket_recv_buffer_size(&socket, 32 * RECEIVE_BYTES);
    Ok(socket)
}

impl Link for Netlink {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = rustix::io::retry_on_intr(|| {
            rustix::net::send(&self.socket, bytes, SendFlags::empty())
        })?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The kernel writes the first part of its answer before `send` returns and the next one before
        // `recv` does: if nothing is there, nothing will come, and to wait would be for ever.
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        let (_, length) =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut *buffer, flags))?;
        if length > buffer.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(length)
    }

    fn reopen(&mut self) -> Result<(), DumpError> {
        self.socket = self.namespace.within(socket)??;
        Ok(())
    }
}

/// What came of one try.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Try {
    Whole,
    /// Whole, but the kernel says that it changed meanwhile.
    Inconsistent,
    BrokenOff,
}

/// Asks for a list, and again where it must.
struct Lister<'a, L> {
    link: &'a mut L,
    sequence: &'a mut u32,
    buffer: &'a mut [u8],
}

impl<L: Link> Lister<'_, L> {
    fn describe(
        &mut self,
        netns: u32,
        request: Request,
        sockets: &mut Vec<Socket>,
    ) -> Result<Dump, DumpError> {
        let before = sockets.len();
        let mut dump = Dump::default();
        for &family in request.families() {
            let mut sink = Described {
                start: sockets.len(),
                sockets,
                netns,
            };
            match self.list(Ask::Family(family, request), &mut sink) {
                Ok(one) => dump.add(&one),
                Err(error) => {
                    sockets.truncate(before);
                    return Err(error);
                }
            }
        }
        Ok(dump)
    }

    fn list(&mut self, ask: Ask, sink: &mut impl Sink) -> Result<Dump, DumpError> {
        let mut repeats = 0;
        loop {
            sink.restart();
            let mut dump = Dump::default();
            let outcome = self.once(ask, sink, &mut dump)?;
            dump.repeats = repeats;
            repeats += 1;
            match outcome {
                Try::Whole => return Ok(dump),
                Try::Inconsistent if repeats == ATTEMPTS => {
                    dump.inconsistent = true;
                    return Ok(dump);
                }
                Try::Inconsistent => {}
                Try::BrokenOff if repeats == ATTEMPTS => return Err(DumpError::BrokenOff),
                // The kernel may still hold the old conversation, and answers no new one before.
                Try::BrokenOff => self.link.reopen()?,
            }
        }
    }

    fn once(&mut self, ask: Ask, sink: &mut impl Sink, dump: &mut Dump) -> Result<Try, DumpError> {
        *self.sequence = self.sequence.wrapping_add(1);
        let message = ask.message(*self.sequence);
        self.link.send(&message).map_err(|source| DumpError::Link {
            what: "write to",
            source,
        })?;
        let mut outcome = Try::Whole;
        loop {
            let length = match self.link.receive(self.buffer) {
                Ok(length) => length,
                Err(error) if is_broken_off(&error) => return Ok(Try::BrokenOff),
                Err(source) => {
                    return Err(DumpError::Link {
                        what: "read from",
                        source,
                    });
                }
            };
            // The end of the file, which netlink has not got.
            let Some(bytes) = self.buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
                return Ok(Try::BrokenOff);
            };
            for message in wire::messages(bytes) {
                let Ok(message) = message else {
                    return Ok(Try::BrokenOff);
                };
                if message.sequence != *self.sequence {
                    continue;
                }
                if message.interrupted {
                    outcome = Try::Inconsistent;
                }
                match message.content {
                    wire::Content::Socket(bytes) => {
                        dump.answers += 1;
                        dump.malformed += u64::from(sink.take(bytes).is_err());
                    }
                    wire::Content::Done(None) => return Ok(outcome),
                    wire::Content::Overrun => return Ok(Try::BrokenOff),
                    wire::Content::Done(Some(errno)) | wire::Content::Error(errno @ 1..) => {
                        return refused(errno);
                    }
                    wire::Content::Error(_) | wire::Content::Other => {}
                }
            }
        }
    }
}

fn is_broken_off(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        // Messages were dropped; nothing is there where something must be.
        Some(libc::ENOBUFS | libc::EAGAIN | libc::ENOMEM)
    ) || error.kind() == io::ErrorKind::InvalidData
}

fn refused(errno: i32) -> Result<Try, DumpError> {
    let error = io::Error::from_raw_os_error(errno);
    match errno {
        // EBUSY: the conversation before this one is not over.
        libc::ENOBUFS | libc::ENOMEM | libc::EBUSY | libc::EINTR => Ok(Try::BrokenOff),
        libc::ENOENT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT => {
            Err(DumpError::NoSockDiag(error))
        }
        _ => Err(DumpError::Refused(error)),
    }
}

#[cfg(test)]
#[path = "sockdiag/tests.rs"]
mod tests;
