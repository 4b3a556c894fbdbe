//! What user space fixes before the BPF programs are loaded.
//!
//! All of it lands in read-only globals. The verifier knows their values, so an offset costs what a
//! constant costs and a branch that is switched off is not even in the program.

/// Words in a [`PortBitmap`].
pub const PORT_WORDS: usize = 65_536 / 64;

/// A set of ports: bit `port % 64` of word `port / 64`.
pub type PortBitmap = [u64; PORT_WORDS];

/// The global that holds the [`Config`].
pub const CONFIG: &str = "CONFIG";
/// The global with the local ports to keep, a [`PortBitmap`]; used if [`Filter::lport`] is 1.
pub const LOCAL_PORTS: &str = "LOCAL_PORTS";
/// The global with the remote ports to keep, a [`PortBitmap`]; used if [`Filter::rport`] is 1.
pub const REMOTE_PORTS: &str = "REMOTE_PORTS";
/// The global with the ports to keep on either side, a [`PortBitmap`]; used if [`Filter::port`] is 1.
pub const PORTS: &str = "PORTS";

/// The ring buffer map of [`crate::Record`]s.
pub const RING: &str = "RING";
/// The per-CPU array map with one [`crate::Counters`].
pub const COUNTERS: &str = "COUNTERS";
/// The array map with one `u32`: 1 while the reader sleeps until it is woken.
pub const READER_SLEEPS: &str = "READER_SLEEPS";

/// The per-CPU array map with room for a copy of a socket's members, [`SCRATCH_BYTES`] long.
pub const SCRATCH: &str = "SCRATCH";

/// The per-CPU hash map from [`Listener`] to the number of SYN-ACKs that were sent again, a `u64`.
pub const SYNACK_RETRANSMITS: &str = "SYNACK_RETRANSMITS";
/// Listeners that are told apart there at most; what comes after is counted under [`Listener::OTHER`].
pub const MAX_LISTENERS: u32 = 4096;

/// The array map with a [`crate::tally::PlaceSet`] for each value of the hash function.
pub const PLACES: &str = "PLACES";
/// The array map with the [`crate::tally::RowsByPort`] of each [`crate::tally::side`].
pub const ROWS_BY_PORT: &str = "ROWS_BY_PORT";
/// The queue map with the numbers of the rows that are free, each a `u32`.
pub const FREE_ROWS: &str = "FREE_ROWS";
/// The array map with the [`crate::tally::service`] of each row, a `u32`.
pub const SERVICES: &str = "SERVICES";
/// The array map of [`crate::tally::Row`]s: [`Config::rows`] for each CPU.
pub const ROWS: &str = "ROWS";
/// The array map of [`crate::tally::Times`]: one a state for each CPU.
pub const TIMES: &str = "TIMES";
/// The per-CPU hash map from [`crate::tally::Failure`] to how often, a `u64`.
pub const ERRORS: &str = "ERRORS";

/// The program that counts SYN-ACKs that are sent again, for a BTF tracepoint.
pub const PROGRAM_SYNACK: &str = "synack_btf";
/// The program for the BTF tracepoint that counts in the kernel.
pub const PROGRAM_TALLY: &str = "tally_btf";
/// The program for the BTF tracepoint.
pub const PROGRAM_BTF: &str = "tcpstate_btf";
/// The program for the classic tracepoint whose record has `skaddr` at [`TP_BASE`].
pub const PROGRAM_TRACEPOINT: &str = "tcpstate_tp";
/// The program for the classic tracepoint whose record has `skaddr` at [`TP_BASE_LAZY`].
pub const PROGRAM_TRACEPOINT_LAZY: &str = "tcpstate_tp_lazy";
/// A BTF tracepoint program that counts and reads the clock: the least that one takes that says when.
pub const PROGRAM_CLOCK: &str = "clock_btf";
/// A BTF tracepoint program that does nothing: the floor that costs are measured against.
pub const PROGRAM_EMPTY_BTF: &str = "empty_btf";
/// A classic tracepoint program that does nothing: the floor that costs are measured against.
pub const PROGRAM_EMPTY_TRACEPOINT: &str = "empty_tp";

/// Byte offsets inside the kernel's structures, read from its BTF.
///
/// `sk_*` count from `struct sock`, `inet_*` and `tcp_*` from `struct tcp_sock`, `net_*` from `struct net`,
/// `cgroup_*` from `struct cgroup`, `css_*` from `struct cgroup_subsys_state`, `kn_*` from `struct kernfs_node`, `task_*` from
/// `struct task_struct`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub struct Offsets {
    pub sk_family: u32,
    pub sk_num: u32,
    pub sk_dport: u32,
    pub sk_daddr: u32,
    pub sk_rcv_saddr: u32,
    pub sk_v6_daddr: u32,
    pub sk_v6_rcv_saddr: u32,
    pub sk_net: u32,
    pub sk_protocol: u32,
    pub sk_err: u32,
    pub sk_shutdown: u32,
    pub sk_flags: u32,
    pub sk_uid: u32,
    pub sk_cookie: u32,
    pub sk_cgroup: u32,
    pub inet_sport: u32,
    pub tcp_srtt_us: u32,
    pub tcp_bytes_sent: u32,
    pub tcp_bytes_received: u32,
    pub tcp_total_retrans: u32,
    pub net_inum: u32,
    pub cgroup_kn: u32,
    pub cgroup_parent: u32,
    pub css_cgroup: u32,
    pub kn_id: u32,
    pub task_comm: u32,
    pub task_tgid: u32,
}

/// What SYN-ACK retransmits are counted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Listener {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Local port, host byte order.
    pub lport: u16,
    /// 0.
    pub padding: u16,
}

impl Listener {
    /// Those for which there was no more room.
    pub const OTHER: Self = Self {
        netns: 0,
        lport: 0,
        padding: 0,
    };
}

/// A run of bytes of a `struct tcp_sock` that `tracepoint` mode copies at once, with one call of
/// `bpf_probe_read_kernel`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Span {
    /// Where it begins in the socket, bytes.
    pub from: u32,
    /// Where it is copied to in [`SCRATCH`], bytes.
    pub to: u32,
    /// Its length in bytes; 0: there is no such span.
    pub bytes: u32,
}

/// Spans that `tracepoint` mode reads of a socket at most.
pub const MAX_SPANS: usize = 4;
/// Bytes that all spans together have room for.
pub const SCRATCH_BYTES: usize = 2048;

/// How `tracepoint` mode reads a socket: what it copies, and where a member is in the copy. The
/// members are those of [`Offsets`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub struct SocketCopy {
    pub spans: [Span; MAX_SPANS],
    pub sk_net: u32,
    pub sk_err: u32,
    pub sk_shutdown: u32,
    pub sk_flags: u32,
    pub sk_uid: u32,
    pub sk_cgroup: u32,
    pub tcp_srtt_us: u32,
    pub tcp_bytes_sent: u32,
    pub tcp_bytes_received: u32,
    pub tcp_total_retrans: u32,
}

/// How many cgroups the kernel side looks at on the way up from a socket's. What is deeper is kept, and
/// user space decides.
pub const MAX_CGROUP_DEPTH: usize = 16;

/// Which filters run in the kernel. 0 is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Filter {
    /// Keep only what is in this cgroup (its id) or below it, as far as [`MAX_CGROUP_DEPTH`] tells.
    /// `btf` mode only, and only where [`Config::has_cgroup`] is 1.
    pub cgroup: u64,
    /// Keep only this network namespace (inode number). Not where `tracepoint` mode cannot read the
    /// socket.
    pub netns: u32,
    /// Keep only this address family (2 or 10), v4-mapped addresses counted as IPv4.
    pub family: u8,
    /// 1: keep what has its local port in `LOCAL_PORTS`.
    pub lport: u8,
    /// 1: keep what has its remote port in `REMOTE_PORTS`.
    pub rport: u8,
    /// 1: keep what has either port in `PORTS`.
    pub port: u8,
}

/// Everything that is fixed at load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// What to keep.
    pub filter: Filter,
    /// Where the kernel keeps things. In `tracepoint` mode only if [`Config::reads_socket`] is 1.
    pub offsets: Offsets,
    /// What `tracepoint` mode copies of a socket, if [`Config::reads_socket`] is 1.
    pub copy: SocketCopy,
    /// Wake the reader once this many bytes wait in the ring buffer.
    pub wake_bytes: u32,
    /// A CPU looks how much waits when the records that it has submitted have none of these bits:
    /// one less than a power of two.
    pub look_mask: u32,
    /// Counting in the kernel: rows of a CPU.
    pub rows: u32,
    /// Counting in the kernel: one less than the number of place sets, a power of two.
    pub place_mask: u32,
    /// Counting in the kernel: the first port that the kernel chooses for who connects; 0 where that is not
    /// known.
    pub ephemeral_first: u16,
    /// Counting in the kernel: the last such port; 0 where that is not known.
    pub ephemeral_last: u16,
    /// 1: the kernel lets a tracing program call `bpf_get_socket_cookie`. *Since:* Linux 5.12.
    pub has_cookie: u8,
    /// 1: the kernel has `bpf_get_current_task_btf`. *Since:* Linux 5.11.
    pub has_task_btf: u8,
    /// 1: `sk_cgroup` points at a `struct cgroup`. *Since:* Linux 5.15.
    pub has_cgroup: u8,
    /// 1: some filter of [`Config::filter`] is on.
    pub has_filter: u8,
    /// 1: `tracepoint` mode reads the socket that its record points at.
    pub reads_socket: u8,
    /// Not used.
    pub padding: [u8; 3],
}

const _: () = {
    assert!(size_of::<Offsets>() == 108);
    assert!(size_of::<Listener>() == 8);
    assert!(size_of::<SocketCopy>() == 88);
    assert!(size_of::<Filter>() == 16);
    assert!(size_of::<Config>() == 240 && align_of::<Config>() == 8);
};

/// `skaddr`'s offset in the classic tracepoint's record on nearly every kernel.
pub const TP_BASE: u32 = 8;
/// `skaddr`'s offset where the common header has grown by `common_preempt_lazy_count`.
pub const TP_BASE_LAZY: u32 = 16;

/// The classic tracepoint's record after its common header, as of Linux 5.6.
///
/// *Source:* `include/trace/events/sock.h`, `TRACE_EVENT(inet_sock_set_state)`. What a kernel really
/// has stands in `events/sock/inet_sock_set_state/format` and is compared with this at start.
#[derive(Clone, Copy)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub struct TracepointRecord {
    pub skaddr: u64,
    pub oldstate: i32,
    pub newstate: i32,
    pub sport: u16,
    pub dport: u16,
    pub family: u16,
    pub protocol: u16,
    pub saddr: [u8; 4],
    pub daddr: [u8; 4],
    pub saddr_v6: [u8; 16],
    pub daddr_v6: [u8; 16],
}

impl TracepointRecord {
    /// Field name, offset from `skaddr` and size in bytes, in order.
    pub const FIELDS: [(&'static str, usize, usize); 11] = {
        use core::mem::offset_of;
        [
            ("skaddr", offset_of!(Self, skaddr), 8),
            ("oldstate", offset_of!(Self, oldstate), 4),
            ("newstate", offset_of!(Self, newstate), 4),
            ("sport", offset_of!(Self, sport), 2),
            ("dport", offset_of!(Self, dport), 2),
            ("family", offset_of!(Self, family), 2),
            ("protocol", offset_of!(Self, protocol), 2),
            ("saddr", offset_of!(Self, saddr), 4),
            ("daddr", offset_of!(Self, daddr), 4),
            ("saddr_v6", offset_of!(Self, saddr_v6), 16),
            ("daddr_v6", offset_of!(Self, daddr_v6), 16),
        ]
    };
}
