//! Facts that only `/proc` has: which process holds a socket, the kernel's counters of listeners and of
//! activity, and the ephemeral ports. Those of a network namespace are read from inside it.

use std::{ffi::OsStr, fs, io, mem::MaybeUninit, ops::RangeInclusive, path::Path};

use hashbrown::{HashMap, HashSet};
use rustix::fs::{CWD, Mode, OFlags, RawDir, openat, readlinkat_raw};
use tcpstate_core::{event::Process, owner::Comm};

/// Whether a name below `/proc` is a process's number.
pub(super) fn is_process(name: &OsStr) -> bool {
    pid(name).is_some()
}

fn pid(name: &OsStr) -> Option<u32> {
    name.to_str()?.parse().ok()
}

/// The processes that hold sockets, by the socket's inode.
#[derive(Debug, Default)]
pub struct Owners {
    /// Of each socket, the one that it belongs to first: see [`Owners::look_up`].
    pub by_inode: HashMap<u32, Vec<Process>>,
    /// Processes whose open files this process may not see.
    pub hidden_processes: u64,
}

/// A process, and what decides which of several holders comes first.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    process: Process,
    /// It opens sockets for services, and passes them on: process 1, or systemd.
    is_manager: bool,
    /// Clock ticks since boot at its start.
    started: u64,
}

impl Owners {
    /// Reads the open files of all processes, once. It takes a while: some microseconds for
    /// each open file of the host.
    ///
    /// Of several processes that hold a socket, the oldest comes first: that is the one that made the others,
    /// such as workers. A service manager, which passes its listeners on to services, comes last.
    ///
    /// *Errors:* `/proc` cannot be read. Processes that may not be read are counted.
    pub fn look_up(inodes: &HashSet<u32>) -> io::Result<Self> {
        let mut owners = Self::default();
        if inodes.is_empty() {
            return Ok(owners);
        }
        let mut found = HashMap::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = pid(&entry.file_name()) else {
                continue;
            };
            match sockets_of(&entry.path(), inodes) {
                Ok(held) if held.is_empty() => {}
                // Without a name it has ended in the meantime.
                Ok(held) => {
                    if let Some(candidate) = Candidate::read(pid, &entry.path()) {
                        for inode in held {
                            let all: &mut Vec<Candidate> = found.entry(inode).or_default();
                            all.push(candidate);
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    owners.hidden_processes += 1;
                }
                // It has ended in the meantime.
                Err(_) => {}
            }
        }
        let sorted = found.into_iter().map(|(inode, all)| (inode, in_order(all)));
        owners.by_inode = sorted.collect();
        Ok(owners)
    }
}

impl Candidate {
    fn read(pid: u32, path: &Path) -> Option<Self> {
        let comm = comm(path)?.0;
        Some(Self {
            process: Process { pid, comm },
            is_manager: pid == 1 || comm.starts_with(b"systemd\0"),
            started: started(&fs::read(path.join("stat")).ok()?)?,
        })
    }
}

/// The processes, the one that the socket belongs to first.
fn in_order(mut all: Vec<Candidate>) -> Vec<Process> {
    all.sort_by_key(|one| (one.is_manager, one.started, one.process.pid));
    all.into_iter().map(|one| one.process).collect()
}

/// The time of a process's start in the text of `/proc/PID/stat`, whose second field is a name in parentheses
/// that may contain anything.
fn started(stat: &[u8]) -> Option<u64> {
    const FIELD: usize = 22;
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 2;
    let rest = std::str::from_utf8(stat.get(after_name..)?).ok()?;
    rest.split(' ').nth(FIELD - 3)?.parse().ok()
}

/// Which of these sockets the process holds.
fn sockets_of(process: &Path, inodes: &HashSet<u32>) -> io::Result<HashSet<u32>> {
    // All of the host are read, a million perhaps: so links are read from the open folder, which saves the kernel the way
    // to it, and nothing is allocated for them.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, process.join("fd"), flags, Mode::empty())?;
    let mut entries = [MaybeUninit::uninit(); ENTRIES_BYTES];
    let mut files = RawDir::new(&folder, &mut entries);
    let mut held = HashSet::new();
    // The process may end in the meantime.
    while let Some(Ok(file)) = files.next() {
        let mut target = [MaybeUninit::uninit(); LONGEST_SOCKET];
        // So may a file be closed, and the folder itself is no link.
        let Ok((target, _)) = readlinkat_raw(&folder, file.file_name(), &mut target) else {
            continue;
        };
        if let Some(inode) = socket_inode(target)
            && inodes.contains(&inode)
        {
            held.insert(inode);
        }
    }
    Ok(held)
}

/// The room for entries of a folder that are read at a time.
const ENTRIES_BYTES: usize = 8 << 10;

/// More bytes than `socket:[4294967295]` has: a name that is cut is none of a socket.
const LONGEST_SOCKET: usize = 32;

/// The number in `socket:[4711]`.
fn socket_inode(target: &[u8]) -> Option<u32> {
    let number = target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    str::from_utf8(number).ok()?.parse().ok()
}

fn comm(process: &Path) -> Option<Comm> {
    let text = fs::read(process.join("comm")).ok()?;
    let name = text.strip_suffix(b"\n").unwrap_or(&text);
    let mut comm = Comm::default();
    // Kernel threads have longer names, and no sockets.
    let room = comm.0.len() - 1;
    for (to, from) in comm.0.iter_mut().zip(name.iter().take(room)) {
        *to = *from;
    }
    Some(comm)
}

/// The kernel's counters of listeners, and of connections on their way to one, since the namespace was made.
/// `None` where the kernel has no such counter.
///
/// *Source:* `TcpExt` in `/proc/net/netstat`; `net/ipv4/proc.c`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenCounters {
    /// Connections that the accept queue had no room for.
    pub overflows: Option<u64>,
    /// SYNs and handshakes that were dropped, for any reason.
    pub drops: Option<u64>,
    /// SYNs that were dropped because the SYN queue was full and cookies are off.
    pub request_queue_full_drops: Option<u64>,
    /// SYNs that were answered with a cookie because the SYN queue was full.
    pub request_queue_full_cookies: Option<u64>,
    /// SYN cookies sent.
    pub cookies_sent: Option<u64>,
    /// SYN cookies that came back.
    pub cookies_received: Option<u64>,
    /// SYN cookies that came back and were none of ours.
    pub cookies_failed: Option<u64>,
    /// ACKs that made no connection yet, because the listener waits for data (`TCP_DEFER_ACCEPT`).
    pub deferred: Option<u64>,
}

impl ListenCounters {
    /// Reads those of the namespace that this thread is in.
    pub fn read_here() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/thread-self/net/netstat")?;
        Ok(Self::parse(&text))
    }

    /// Takes them out of the file's text.
    pub fn parse(text: &str) -> Self {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
        let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
        let pairs: HashMap<_, _> = names
            .split_ascii_whitespace()
            .zip(values.split_ascii_whitespace())
            .collect();
        let counter = |name| pairs.get(name)?.parse().ok();
        Self {
            overflows: counter("ListenOverflows"),
            drops: counter("ListenDrops"),
            request_queue_full_drops: counter("TCPReqQFullDrop"),
            request_queue_full_cookies: counter("TCPReqQFullDoCookies"),
            cookies_sent: counter("SyncookiesSent"),
            cookies_received: counter("SyncookiesRecv"),
            cookies_failed: counter("SyncookiesFailed"),
            deferred: counter("TCPDeferAcceptDrop"),
        }
    }
}

/// Whether anything has happened in a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// TCP segments that came in since the namespace was made.
    pub in_segments: Option<u64>,
    /// Number of minisockets.
    pub minisockets: Option<u64>,
}

impl Activity {
    /// Reads that of the namespace that this thread is in.
    pub fn read_here() -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        Self::parse(
            &read("snmp").unwrap_or_default(),
            &read("sockstat").unwrap_or_default(),
        )
    }

    fn parse(snmp: &str, sockstat: &str) -> Self {
        let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp:"));
        let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
        let mut pairs = names
            .split_ascii_whitespace()
            .zip(values.split_ascii_whitespace());
        let mut words = sockstat
            .lines()
            .find_map(|line| line.strip_prefix("TCP:"))
            .unwrap_or("")
            .split_ascii_whitespace();
        Self {
            in_segments: pairs
                .find(|&(name, _)| name == "InSegs")
                .and_then(|(_, value)| value.parse().ok()),
            minisockets: words
                .find(|&word| word == "tw")
                .and_then(|_| words.next()?.parse().ok()),
        }
    }
}

/// The ephemeral ports in the namespace of this thread; `None` if they cannot be read.
pub fn ephemeral_ports_here() -> Option<RangeInclusive<u16>> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    parse_range(&text)
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    Some(first.parse().ok()?..=last.trim().parse().ok()?)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd as _};

    use super::*;

    #[test]
    fn the_process_that_holds_a_socket_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let inode = socket_inode(link.as_os_str().as_encoded_bytes()).unwrap();
        let owners = Owners::look_up(&HashSet::from_iter([inode, u32::MAX])).unwrap();
        let [process] = owners.by_inode[&inode][..] else {
            panic!("not one: {:?}", owners.by_inode[&inode]);
        };
        assert_eq!(process.pid, std::process::id());
        let name = fs::read("/proc/self/comm").unwrap();
        assert_eq!(Comm(process.comm).as_bytes(), name.trim_ascii_end());
        assert!(!owners.by_inode.contains_key(&u32::MAX));
    }

    #[test]
    fn of_several_holders_the_oldest_is_first_and_a_service_manager_last() {
        let candidate = |pid, is_manager, started| Candidate {
            process: Process {
                pid,
                comm: [b'x'; 16],
            },
            is_manager,
            started,
        };
        let order = |all: &[Candidate]| {
            let all = in_order(all.to_vec());
            all.iter().map(|process| process.pid).collect::<Vec<_>>()
        };
        let (init, master) = (candidate(1, true, 0), candidate(9, false, 5));
        let workers = [candidate(3, false, 6), candidate(10, false, 6)];
        assert_eq!(order(&[workers[1], master, workers[0]]), [9, 3, 10]);
        assert_eq!(order(&[init, workers[1], master]), [9, 10, 1]);
        assert_eq!(order(&[init]), [1]);
    }

    #[test]
    fn the_start_of_a_process_is_found_behind_any_name() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        for name in ["sh", "a) b", "((", ""] {
            let stat = format!("7 ({name}) {fields}\n");
            assert_eq!(started(stat.as_bytes()), Some(4711), "{name}");
        }
        for stat in ["", "7 (x", "7 (x)", "7 (x) S 1 2"] {
            assert_eq!(started(stat.as_bytes()), None, "{stat}");
        }
        let own = fs::read("/proc/self/stat").unwrap();
        assert!(started(&own).unwrap() > 0);
    }

    #[test]
    fn only_sockets_have_an_inode() {
        for (target, inode) in [
            ("socket:[4711]", Some(4711)),
            ("socket:[4294967295]", Some(u32::MAX)),
            ("socket:[4294967296]", None),
            ("socket:[]", None),
            ("socket:[-1]", None),
            ("socket:[1", None),
            ("pipe:[4711]", None),
            ("/dev/null", None),
            ("", None),
        ] {
            assert_eq!(socket_inode(target.as_bytes()), inode, "{target}");
        }
    }

    #[test]
    fn counters_are_found_by_their_names() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops Odd\n\
                    TcpExt: 3 5 18446744073709551615 x\n\
                    IpExt: ListenDrops\n\
                    IpExt: 1\n";
        assert_eq!(
            ListenCounters::parse(text),
            ListenCounters {
                cookies_sent: Some(3),
                overflows: Some(5),
                drops: Some(u64::MAX),
                ..ListenCounters::default()
            }
        );
        for text in [
            "",
            "TcpExt:",
            "TcpExt: ListenDrops",
            "TcpExt: ListenDrops\nTcpExt: -1\n",
        ] {
            assert_eq!(
                ListenCounters::parse(text),
                ListenCounters::default(),
                "{text}"
            );
        }
        assert!(ListenCounters::read_here().unwrap().overflows.is_some());
    }

    #[test]
    fn activity_is_found_by_its_names() {
        let snmp = "Ip: InSegs\nIp: 9\nTcp: RtoMin InSegs OutSegs\nTcp: 200 17 18\n";
        let sockstat = "sockets: used 4\nTCP: inuse 4 orphan 0 tw 23 alloc 5 mem 272\n";
        assert_eq!(
            Activity::parse(snmp, sockstat),
            Activity {
                in_segments: Some(17),
                minisockets: Some(23)
            }
        );
        for text in ["", "Tcp:", "TCP: tw", "TCP: tw x", "Tcp: InSegs\n"] {
            assert_eq!(Activity::parse(text, text), Activity::default(), "{text}");
        }
        let here = Activity::read_here();
        assert!(here.in_segments.is_some() && here.minisockets.is_some());
    }

    #[test]
    fn the_range_of_ports_is_two_numbers() {
        assert_eq!(parse_range("32768\t60999\n"), Some(32_768..=60_999));
        for text in ["", "1", "1 x", "1 70000", "a b"] {
            assert_eq!(parse_range(text), None, "{text}");
        }
        assert!(ephemeral_ports_here().is_some());
    }
}
