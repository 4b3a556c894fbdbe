//! Dumps of the TCP sockets of a network namespace (`NETLINK_SOCK_DIAG`).
//!
//! - [`wire`], [`bytecode`]: the bytes; pure.
//! - here: the conversation with the kernel, which can be interrupted, broken off or refused.
//!
//! An ordinary user can dump the namespace that the process is in. A dump has sockets that the tracepoint
//! does not show: request sockets (half-open connections, as `SYN_RECV`) and minisockets (`TIME_WAIT`, and
//! orphans in `FIN_WAIT2`), with the cookies that the tracepoint has.
//!
//! A dump is not a snapshot: the kernel sends it in pieces while sockets come and go. It has every socket that was
//! there all the time. One that moved can be in it twice ([`tcpstate_core::inventory::keep_latest`]); one that
//! came or went may be missing.

pub mod bytecode;
#[cfg(test)]
pub(super) mod testing;
pub mod wire;

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    os::fd::OwnedFd,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType,
    netlink::{self, SocketAddrNetlink},
    sockopt,
};
use tcpstate_common::{State, record::AF_INET6};

pub use self::wire::MalformedError;
use tcpstate_core::{
    expression::{DumpCondition, EndCondition},
    filter::{StateMask, StateSet},
    inventory::{DumpStats, Socket},
};

use super::{
    clock::monotonic_ns,
    netns::{Namespace, NetnsError},
};

/// Bytes that one `recv` takes: as much as the kernel ever sends at once.
const RECEIVE_BYTES: usize = 32 << 10;
/// Attempts at a dump before an inconsistent one is taken, or the dump fails.
const ATTEMPTS: u32 = 8;

/// The sockets to dump.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Sockets in these states.
    pub states: StateMask,
    /// IPv6 only: without sockets of `AF_INET`. There is no such option for IPv4, which travels on sockets
    /// of both families.
    pub ipv6_only: bool,
    /// Sockets with such ends, where the kernel checks them; else with any. `None`: with any.
    pub ends: Option<&'a EndCondition>,
    /// With [`Socket::info`], which makes the dump several times as expensive.
    pub with_info: bool,
    /// With [`Socket::drops`] of listeners.
    pub with_drops: bool,
}

impl Request<'_> {
    /// All sockets in one of these states. [`StateSet::ALL`] includes those that this version does not know.
    pub const fn of(states: StateSet) -> Self {
        Self {
            states: StateMask::of(states),
            ipv6_only: false,
            ends: None,
            with_info: false,
            with_drops: false,
        }
    }

    /// The same, with [`Socket::info`].
    #[must_use]
    pub const fn with_info(self) -> Self {
        Self {
            with_info: true,
            ..self
        }
    }

    /// The same, with [`Socket::drops`].
    #[must_use]
    pub const fn with_drops(self) -> Self {
        Self {
            with_drops: true,
            ..self
        }
    }

    /// The requests to the kernel, one after the other. It would add the drops to every socket, so listeners are a part of
    /// their own; it walks through no table twice.
    fn parts(self) -> impl Iterator<Item = Self> {
        const LISTENERS: StateSet = StateSet::of(State::LISTEN);
        let listeners = Self {
            states: self.states.within(StateMask::of(LISTENERS)),
            ..self
        };
        let others = Self {
            states: self.states.within(StateMask::outside(LISTENERS)),
            with_drops: false,
            ..self
        };
        let parts = if self.with_drops {
            [Some(listeners), Some(others)]
        } else {
            [Some(self), None]
        };
        let is_any = |part: &Self| part.states.bits() != 0;
        parts.into_iter().flatten().filter(is_any)
    }
}

impl<'a> From<&'a DumpCondition> for Request<'a> {
    fn from(condition: &'a DumpCondition) -> Self {
        Self {
            states: condition.states,
            ipv6_only: condition.ipv6_only,
            ends: Some(&condition.ends),
            with_info: false,
            with_drops: false,
        }
    }
}

/// Why there is no dump.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The namespace cannot be found or entered.
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
        /// The operation.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// No attempt gave a complete dump.
    #[error("the kernel broke off its list of TCP sockets {ATTEMPTS} times")]
    BrokenOff,
}

impl DumpError {
    /// Whether the kernel does not understand the request.
    fn is_invalid(&self) -> bool {
        matches!(self, Self::Refused(error) if error.raw_os_error() == Some(libc::EINVAL))
    }

    /// Advice for the user; `None` where there is none.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Netns(error) => error.remedy(),
            Self::NoSockDiag(_) => Some(
                "Listing takes CONFIG_INET_DIAG and CONFIG_INET_TCP_DIAG; if they are modules: `modprobe tcp_diag`.",
            ),
            Self::BrokenOff => Some(
                "The kernel was short of memory for the answers. Ask for fewer states with --state.",
            ),
            Self::Refused(_) | Self::Link { .. } => None,
        }
    }
}

/// A socket to the kernel. Each receive gives one or more whole messages.
trait Link {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Drops the socket and opens another.
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

    /// Begins a conversation, and calls `f` in the namespace too.
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
            // Nobody else can guess the numbers of its requests.
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the lower half is random too"
            )]
            sequence: RandomState::new().hash_one(0) as u32,
            buffer: vec![0; RECEIVE_BYTES].into(),
        };
        Ok((this, value))
    }

    /// The namespace.
    pub const fn namespace(&self) -> &Namespace {
        &self.link.namespace
    }

    /// Appends the requested sockets to `sockets`.
    ///
    /// *Errors:* `sockets` is then unchanged.
    pub fn dump(
        &mut self,
        request: Request<'_>,
        sockets: &mut Vec<Socket>,
    ) -> Result<DumpStats, DumpError> {
        let netns = self.link.namespace.inode();
        self.dumper().append(netns, request, sockets)
    }

    /// Gives `sink` all sockets in one of these states, of both families.
    pub fn dump_into(
        &mut self,
        states: StateSet,
        sink: &mut impl Sink,
    ) -> Result<DumpStats, DumpError> {
        let request = Request::of(states);
        let query = Query {
            request,
            program: None,
        };
        self.dumper().dump(query, sink)
    }

    fn dumper(&mut self) -> Dumper<'_, Netlink> {
        Dumper {
            link: &mut self.link,
            sequence: &mut self.sequence,
            buffer: &mut self.buffer,
        }
    }
}

/// Takes the entries of a dump.
pub trait Sink {
    /// An attempt begins, from the first entry on. Entries of an attempt before were true then.
    fn restart(&mut self);
    /// These entries come next. The kernel began to write them at `written_ns`, monotonic nanoseconds; one datagram takes
    /// it less than a millisecond.
    fn expect<'a>(&mut self, _entries: impl Iterator<Item = &'a [u8]>, _written_ns: u64) {}
    /// Takes an entry, which [`wire::socket`] and [`wire::brief`] decode.
    fn take(&mut self, bytes: &[u8]) -> Result<(), MalformedError>;
}

/// Appends decoded entries to sockets that are there already.
struct Append<'a> {
    sockets: &'a mut Vec<Socket>,
    start: usize,
    netns: u32,
}

impl Sink for Append<'_> {
    fn restart(&mut self) {
        self.sockets.truncate(self.start);
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), MalformedError> {
        self.sockets.push(wire::socket(bytes, self.netns)?);
        Ok(())
    }
}

/// One request to the kernel: for the sockets that the program accepts.
#[derive(Clone, Copy)]
struct Query<'a> {
    request: Request<'a>,
    program: Option<&'a [u8]>,
}

impl Query<'_> {
    fn message(self, sequence: u32) -> Vec<u8> {
        let Self { request, program } = self;
        let states = request.states.bits();
        let extensions = wire::Extensions {
            info: request.with_info,
            memory: request.with_drops,
        };
        if request.ipv6_only {
            wire::request(AF_INET6, states, extensions, program, sequence)
        } else {
            wire::request_of_both_families(states, extensions, program, sequence)
        }
    }
}

#[derive(Debug)]
struct Netlink {
    namespace: Namespace,
    socket: OwnedFd,
}

/// The kernel's address.
const KERNEL: SocketAddrNetlink = SocketAddrNetlink::new(0, 0);

/// A socket to the kernel in the namespace of this thread.
///
/// Whoever owns a namespace may send messages to every port in it, and a namespace can belong to an ordinary user. A
/// connected socket takes none but the kernel's.
pub(crate) fn connected() -> rustix::io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    rustix::net::connect(&socket, &KERNEL)?;
    Ok(socket)
}

fn socket() -> Result<OwnedFd, DumpError> {
    let socket = connected().map_err(|errno| match errno {
        rustix::io::Errno::PROTONOSUPPORT => DumpError::NoSockDiag(errno.into()),
        errno => DumpError::Link {
            what: "open",
            source: errno.into(),
        },
    })?;
    // Room for answers that arrive faster than they are read; less will do too.
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
        // The kernel writes the first part of its answer before `send` returns and the next part before `recv`
        // does. If there is none, none will come, and a blocking call would wait for ever.
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        loop {
            let (_, length, from) = rustix::io::retry_on_intr(|| {
                rustix::net::recvfrom(&self.socket, &mut *buffer, flags)
            })?;
            // Others' messages may have come before the socket was connected.
            if !from.is_some_and(is_kernel) {
                continue;
            }
            if length > buffer.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            return Ok(length);
        }
    }

    fn reopen(&mut self) -> Result<(), DumpError> {
        self.socket = self.namespace.within(socket)??;
        Ok(())
    }
}

fn is_kernel(from: SocketAddrAny) -> bool {
    SocketAddrNetlink::try_from(from).is_ok_and(|from| from.pid() == KERNEL.pid())
}

/// The result of one attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Complete,
    /// Complete, but the kernel says that its sockets changed during the dump.
    Inconsistent,
    BrokenOff,
}

/// Makes dumps, and repeats attempts that fail.
struct Dumper<'a, L> {
    link: &'a mut L,
    sequence: &'a mut u32,
    buffer: &'a mut [u8],
}

impl<L: Link> Dumper<'_, L> {
    fn append(
        &mut self,
        netns: u32,
        request: Request<'_>,
        sockets: &mut Vec<Socket>,
    ) -> Result<DumpStats, DumpError> {
        let before = sockets.len();
        let mut dump = DumpStats::default();
        let mut program = request.ends.and_then(bytecode::compile);
        for request in request.parts() {
            let mut sink = Append {
                start: sockets.len(),
                sockets,
                netns,
            };
            let mut query = Query {
                request,
                program: program.as_deref(),
            };
            let mut one = self.dump(query, &mut sink);
            if program.is_some() && one.as_ref().is_err_and(DumpError::is_invalid) {
                // All sockets contain those that are wanted.
                query.program = None;
                one = self.dump(query, &mut sink);
                program = None;
            }
            match one {
                Ok(one) => dump.add(&one),
                Err(error) => {
                    sockets.truncate(before);
                    return Err(error);
                }
            }
        }
        Ok(dump)
    }

    fn dump(&mut self, query: Query<'_>, sink: &mut impl Sink) -> Result<DumpStats, DumpError> {
        let mut repeats = 0;
        loop {
            sink.restart();
            let mut dump = DumpStats::default();
            let outcome = self.attempt(query, sink, &mut dump)?;
            dump.repeats = repeats;
            repeats += 1;
            match outcome {
                Outcome::Complete => return Ok(dump),
                Outcome::Inconsistent if repeats == ATTEMPTS => {
                    dump.inconsistent = true;
                    return Ok(dump);
                }
                Outcome::Inconsistent => {}
                Outcome::BrokenOff if repeats == ATTEMPTS => return Err(DumpError::BrokenOff),
                // The kernel may still hold the old conversation, and starts no new one until it ends.
                Outcome::BrokenOff => self.link.reopen()?,
            }
        }
    }

    fn attempt(
        &mut self,
        query: Query<'_>,
        sink: &mut impl Sink,
        dump: &mut DumpStats,
    ) -> Result<Outcome, DumpError> {
        *self.sequence = self.sequence.wrapping_add(1);
        let message = query.message(*self.sequence);
        let mut written_ns = monotonic_ns();
        self.link.send(&message).map_err(|source| DumpError::Link {
            what: "write to",
            source,
        })?;
        let mut outcome = Outcome::Complete;
        loop {
            let receiving_ns = monotonic_ns();
            let length = match self.link.receive(self.buffer) {
                Ok(length) => length,
                Err(error) if is_broken_off(&error) => return Ok(Outcome::BrokenOff),
                Err(source) => {
                    return Err(DumpError::Link {
                        what: "read from",
                        source,
                    });
                }
            };
            // An end of file, which netlink does not have.
            let Some(bytes) = self.buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
                return Ok(Outcome::BrokenOff);
            };
            let entries = wire::messages(bytes).filter_map(|message| match message.ok()?.content {
                wire::Content::Socket(bytes) => Some(bytes),
                _ => None,
            });
            sink.expect(entries, written_ns);
            // The kernel wrote the next ones while it handed out these.
            written_ns = receiving_ns;
            for message in wire::messages(bytes) {
                let Ok(message) = message else {
                    return Ok(Outcome::BrokenOff);
                };
                if message.sequence != *self.sequence {
                    continue;
                }
                if message.interrupted {
                    outcome = Outcome::Inconsistent;
                }
                match message.content {
                    wire::Content::Socket(bytes) => {
                        dump.answers += 1;
                        dump.malformed += u64::from(sink.take(bytes).is_err());
                    }
                    wire::Content::Done(None) => return Ok(outcome),
                    wire::Content::Overrun => return Ok(Outcome::BrokenOff),
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
        // Messages were dropped, or there is none where one must be.
        Some(libc::ENOBUFS | libc::EAGAIN | libc::ENOMEM)
    ) || error.kind() == io::ErrorKind::InvalidData
}

fn refused(errno: i32) -> Result<Outcome, DumpError> {
    let error = io::Error::from_raw_os_error(errno);
    match errno {
        // EBUSY: the conversation before this one is not over.
        libc::ENOBUFS | libc::ENOMEM | libc::EBUSY | libc::EINTR => Ok(Outcome::BrokenOff),
        libc::ENOENT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT => {
            Err(DumpError::NoSockDiag(error))
        }
        _ => Err(DumpError::Refused(error)),
    }
}

#[cfg(test)]
mod tests;
