//! The bytes of `NETLINK_SOCK_DIAG`: requests made, answers taken apart.
//!
//! Pure and total: any bytes give messages, sockets or an error, and nothing panics. Numbers are in
//! the host's byte order, addresses and ports in the network's.
//!
//! Not based on `netlink-packet-sock-diag`: that crate drops the timer of `TIME_WAIT` (`idiag_expires`), does not
//! know the cgroup, refuses a socket for one odd attribute, and allocates some kilobytes for each.
//!
//! *Source:* `include/uapi/linux/{netlink,sock_diag,inet_diag}.h`, `net/ipv4/{inet,tcp}_diag.c`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tcpstate_common::{
    State,
    record::{AF_INET, AF_INET6},
};
use tcpstate_core::inventory::{Socket, TcpInfo, Timer, TimerKind};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
/// The older request: for both families at once.
const TCPDIAG_GETSOCK: u16 = 18;
const SOCK_DIAG_BY_FAMILY: u16 = 20;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;

/// `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
/// `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// `struct inet_diag_req`.
const OLD_REQUEST: usize = 60;
/// `struct inet_diag_msg`.
pub(super) const ANSWER: usize = 72;

/// The attribute of a request with a program (`INET_DIAG_REQ_BYTECODE`).
const BYTECODE: u16 = 1;
/// `struct nlattr`.
const ATTRIBUTE: usize = 4;

/// The attributes that are read.
mod attribute {
    pub const INFO: u16 = 2;
    pub const SKMEMINFO: u16 = 7;
    pub const SHUTDOWN: u16 = 8;
    pub const SKV6ONLY: u16 = 11;
    /// *Since:* Linux 5.9.
    pub const CGROUP_ID: u16 = 21;
}

/// The place of `SK_MEMINFO_DROPS` in the attribute `SKMEMINFO`, an array of 32-bit numbers.
const DROPS: usize = 8;

/// Attributes that the kernel adds to a socket only where they are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// `TCP_INFO`, for [`Socket::info`].
    pub info: bool,
    /// Memory and drops, for [`Socket::drops`].
    pub memory: bool,
}

impl Extensions {
    const fn bits(self) -> u8 {
        (self.info as u8) << (attribute::INFO - 1)
            | (self.memory as u8) << (attribute::SKMEMINFO - 1)
    }
}

/// A request for the TCP sockets of a family that are in one of these states (a bit for each) and that the program accepts;
/// `None`: all of them.
pub fn request(
    family: u8,
    states: u32,
    extensions: Extensions,
    program: Option<&[u8]>,
    sequence: u32,
) -> Vec<u8> {
    // Everything not set here is 0: any address, any port, any interface, the kernel's process id.
    let mut body = [0; REQUEST];
    #[expect(clippy::cast_possible_truncation, reason = "6")]
    let head = [family, libc::IPPROTO_TCP as u8, extensions.bits(), 0];
    body[..4].copy_from_slice(&head);
    body[4..8].copy_from_slice(&states.to_ne_bytes());
    framed(SOCK_DIAG_BY_FAMILY, &body, program, sequence)
}

/// The same for both families: one walk through the kernel's table instead of two. The table has the sockets of all network
/// namespaces, so that the walk is most of what it costs where a namespace has few.
pub fn request_of_both_families(
    states: u32,
    extensions: Extensions,
    program: Option<&[u8]>,
    sequence: u32,
) -> Vec<u8> {
    let mut body = [0; OLD_REQUEST];
    body[3] = extensions.bits();
    body[52..56].copy_from_slice(&states.to_ne_bytes());
    framed(TCPDIAG_GETSOCK, &body, program, sequence)
}

fn framed(kind: u16, body: &[u8], program: Option<&[u8]>, sequence: u32) -> Vec<u8> {
    // A longer one than an attribute takes does not exist: its jumps would be too long.
    let program = program.and_then(|program| {
        let length = u16::try_from(ATTRIBUTE + program.len()).ok()?;
        Some((program, length))
    });
    let attribute = program.map_or(0, |(_, length)| usize::from(length));
    #[expect(clippy::cast_possible_truncation, reason = "76 and 64 KiB at most")]
    let length = (HEADER + body.len() + attribute) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    // The kernel's process id.
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(body);
    if let Some((program, length)) = program {
        bytes.extend(length.to_ne_bytes());
        bytes.extend(BYTECODE.to_ne_bytes());
        bytes.extend(program);
    }
    bytes
}

/// A message of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Which request it answers.
    pub sequence: u32,
    /// The kernel noticed that its sockets changed during the dump.
    pub interrupted: bool,
    /// Its content.
    pub content: Content<'a>,
}

/// The content of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// A socket: for [`socket`].
    Socket(&'a [u8]),
    /// The end of a dump; with an errno, the kernel broke it off.
    Done(Option<i32>),
    /// The request failed with this errno; 0 is none, an acknowledgement.
    Error(i32),
    /// Messages were lost.
    Overrun,
    /// Nothing of interest.
    Other,
}

/// Why bytes are not what the kernel should have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedError {
    /// Fewer bytes than a message's header.
    #[error("{0} bytes are left, but a message's header takes {HEADER}")]
    Header(usize),
    /// The header gives an impossible length.
    #[error("a message gives its length as {length} bytes, but {left} are left")]
    MessageLength {
        /// The length in the header.
        length: u32,
        /// Bytes that are there.
        left: usize,
    },
    /// An error or an end without its number.
    #[error("a message without its error number")]
    NoErrno,
    /// A socket that is cut off.
    #[error("a socket's description takes at least {ANSWER} bytes, but this one has {0}")]
    Short(usize),
    /// The address family is none that TCP runs on.
    #[error("address family {0} is neither AF_INET (2) nor AF_INET6 (10)")]
    Family(u8),
    /// An attribute that is cut off, or too short for its value.
    #[error("attribute {0} has an impossible length")]
    Attribute(u16),
}

/// Splits the bytes of one `recv` into messages. Ends after an error, which leaves the start of the next message
/// unknown.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = Result<Message<'_>, MalformedError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = message(rest);
        rest = match &message {
            Ok((_, length)) => rest.get(length.next_multiple_of(4)..).unwrap_or(&[]),
            Err(_) => &[],
        };
        Some(message.map(|(message, _)| message))
    })
}

fn message(bytes: &[u8]) -> Result<(Message<'_>, usize), MalformedError> {
    let header: &[u8; HEADER] = bytes
        .first_chunk()
        .ok_or(MalformedError::Header(bytes.len()))?;
    let length = u32_at(header, 0);
    let whole = usize::try_from(length)
        .ok()
        .filter(|&length| length >= HEADER)
        .and_then(|length| bytes.get(..length));
    let Some(whole) = whole else {
        return Err(MalformedError::MessageLength {
            length,
            left: bytes.len(),
        });
    };
    let payload = whole.get(HEADER..).unwrap_or(&[]);
    let content = match u16_at(header, 4) {
        SOCK_DIAG_BY_FAMILY | TCPDIAG_GETSOCK => Content::Socket(payload),
        // An end without a number is one without an error.
        NLMSG_DONE if payload.is_empty() => Content::Done(None),
        NLMSG_DONE => Content::Done(Some(errno(payload)?).filter(|&errno| errno != 0)),
        NLMSG_ERROR => Content::Error(errno(payload)?),
        NLMSG_OVERRUN => Content::Overrun,
        // `NLMSG_NOOP`, and messages of other kinds.
        _ => Content::Other,
    };
    let message = Message {
        sequence: u32_at(header, 8),
        interrupted: u16_at(header, 6) & NLM_F_DUMP_INTR != 0,
        content,
    };
    Ok((message, whole.len()))
}

/// The kernel sends errors negative.
fn errno(payload: &[u8]) -> Result<i32, MalformedError> {
    let number = payload.first_chunk().ok_or(MalformedError::NoErrno)?;
    Ok(i32::from_ne_bytes(*number).saturating_neg())
}

/// The fields by which sampling recognises a socket, without the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brief<'a> {
    /// The socket's cookie.
    pub cookie: u64,
    /// Its state, a request socket's folded.
    pub state: State,
    /// The timer that runs.
    pub timer: Option<Timer>,
    /// Whether a process holds it, or could.
    pub has_inode: bool,
    /// All of it, for [`socket`].
    pub bytes: &'a [u8],
}

/// Decodes just enough of a socket to know it again: a sixth of the work of [`socket`].
pub fn brief(bytes: &[u8]) -> Result<Brief<'_>, MalformedError> {
    let fixed = bytes
        .first_chunk::<ANSWER>()
        .ok_or(MalformedError::Short(bytes.len()))?;
    Ok(Brief {
        cookie: cookie(fixed),
        state: State(fixed[1]).folded(),
        timer: timer(fixed[2], fixed[3], u32_at(fixed, 52)),
        has_inode: u32_at(fixed, 68) != 0,
        bytes,
    })
}

fn cookie(fixed: &[u8; ANSWER]) -> u64 {
    u64::from(u32_at(fixed, 48)) << 32 | u64::from(u32_at(fixed, 44))
}

/// Decodes a socket of this network namespace.
pub fn socket(bytes: &[u8], netns: u32) -> Result<Socket, MalformedError> {
    let (fixed, attributes) = bytes
        .split_first_chunk::<ANSWER>()
        .ok_or(MalformedError::Short(bytes.len()))?;
    let family = fixed[0];
    let address = |at: usize| -> Result<IpAddr, MalformedError> {
        match family {
            AF_INET => Ok(Ipv4Addr::from(bytes_at::<4>(fixed, at)).into()),
            AF_INET6 => Ok(Ipv6Addr::from(bytes_at::<16>(fixed, at)).to_canonical()),
            other => Err(MalformedError::Family(other)),
        }
    };
    let uid = u32_at(fixed, 64);
    let inode = Some(u32_at(fixed, 68)).filter(|&inode| inode != 0);
    let mut socket = Socket {
        netns,
        family,
        state: State(fixed[1]).folded(),
        timer: timer(fixed[2], fixed[3], u32_at(fixed, 52)),
        lport: u16::from_be_bytes(bytes_at(fixed, 4)),
        rport: u16::from_be_bytes(bytes_at(fixed, 6)),
        laddr: address(8)?,
        raddr: address(24)?,
        interface: Some(u32_at(fixed, 40)).filter(|&index| index != 0),
        cookie: cookie(fixed),
        rqueue: u32_at(fixed, 56),
        wqueue: u32_at(fixed, 60),
        // Minisockets have neither, and the kernel writes 0 for both; so it does for sockets that no
        // process holds (before Linux 6.17).
        uid: Some(uid).filter(|&uid| uid != 0 || inode.is_some()),
        inode,
        cgroup: None,
        shutdown: None,
        v6only: None,
        drops: None,
        info: None,
    };
    for attribute in Attributes(attributes) {
        let (kind, value) = attribute?;
        let byte = || value.first().copied();
        let cut = MalformedError::Attribute(kind);
        match kind {
            attribute::SHUTDOWN => socket.shutdown = Some(byte().ok_or(cut)?),
            attribute::SKV6ONLY => socket.v6only = Some(byte().ok_or(cut)? != 0),
            attribute::CGROUP_ID => {
                let id = value.first_chunk().ok_or(cut)?;
                socket.cgroup = Some(u64::from_ne_bytes(*id)).filter(|&id| id != 0);
            }
            attribute::SKMEMINFO => {
                let at = DROPS * size_of::<u32>();
                let drops = value.get(at..).and_then(<[u8]>::first_chunk);
                socket.drops = drops.map(|drops| u32::from_ne_bytes(*drops));
            }
            // It has only ever grown; older kernels send less.
            attribute::INFO => socket.info = Some(tcp_info(value, socket.state)),
            _ => {}
        }
    }
    Ok(socket)
}

fn timer(kind: u8, retransmits: u8, expires_ms: u32) -> Option<Timer> {
    let kind = match kind {
        0 => return None,
        1 => TimerKind::Retransmit,
        2 => TimerKind::Keepalive,
        3 => TimerKind::TimeWait,
        4 => TimerKind::Probe,
        other => TimerKind::Other(other),
    };
    Some(Timer {
        kind,
        expires_ms,
        retransmits,
    })
}

/// *Source:* `struct tcp_info` in `include/uapi/linux/tcp.h`.
/// `state`: a FIN that has come is no payload, but the kernel counts it.
fn tcp_info(bytes: &[u8], state: State) -> TcpInfo {
    let u32_of = |at: usize| {
        bytes
            .get(at..)?
            .first_chunk()
            .map(|b| u32::from_ne_bytes(*b))
    };
    let u64_of = |at: usize| {
        bytes
            .get(at..)?
            .first_chunk()
            .map(|b| u64::from_ne_bytes(*b))
    };
    TcpInfo {
        // 0 is not measured yet.
        srtt_us: u32_of(68).filter(|&us| us != 0),
        retransmits: u32_of(100),
        bytes_received: u64_of(128).map(|bytes| bytes.saturating_sub(fin_of_peer(state))),
        bytes_sent: u64_of(200),
        last_sent_ms: u32_of(44),
        last_received_ms: u32_of(52),
        last_ack_received_ms: u32_of(56),
        timeout_us: u32_of(8),
        backoffs: bytes.get(4).copied(),
    }
}

/// The FIN of the peer in the sequence, where the state shows that it has come.
const fn fin_of_peer(state: State) -> u64 {
    matches!(state, State::CLOSE_WAIT | State::LAST_ACK | State::CLOSING) as u64
}

/// `struct nlattr`s, one behind the other, each at a multiple of 4.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), MalformedError>;

    fn next(&mut self) -> Option<Self::Item> {
        /// Nested, and in network byte order.
        const FLAGS: u16 = 0xC000;
        let bytes = std::mem::take(&mut self.0);
        if bytes.is_empty() {
            return None;
        }
        let Some(header) = bytes.first_chunk::<ATTRIBUTE>() else {
            return Some(Err(MalformedError::Attribute(0)));
        };
        let length = usize::from(u16_at(header, 0));
        let kind = u16_at(header, 2) & !FLAGS;
        match bytes.get(ATTRIBUTE..length) {
            Some(value) => {
                self.0 = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
                Some(Ok((kind, value)))
            }
            None => Some(Err(MalformedError::Attribute(kind))),
        }
    }
}

/// The bytes at an offset that is inside the array by its type.
#[expect(
    clippy::indexing_slicing,
    reason = "callers give constants that the type has room for"
)]
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut copy = [0; N];
    copy.copy_from_slice(&bytes[at..at + N]);
    copy
}

fn u16_at<const M: usize>(bytes: &[u8; M], at: usize) -> u16 {
    u16::from_ne_bytes(bytes_at(bytes, at))
}

fn u32_at<const M: usize>(bytes: &[u8; M], at: usize) -> u32 {
    u32::from_ne_bytes(bytes_at(bytes, at))
}

#[cfg(test)]
mod tests;
