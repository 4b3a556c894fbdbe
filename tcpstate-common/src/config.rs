//! The configuration that user space sets before it loads the BPF programs, and the names of their globals,
//! maps and programs.
//!
//! The configuration consists of read-only globals (`.rodata`). The verifier knows their values, so an offset
//! costs no more than a constant, and a branch that is switched off is removed from the program.

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
/// The per-CPU array map with one [`crate::PerCpu`].
pub const COUNTERS: &str = "COUNTERS";
/// The array map with one `u32`: 1 while the reader sleeps and waits for a wakeup.
pub const READER_SLEEPS: &str = "READER_SLEEPS";

/// The per-CPU array map with one buffer of [`SCRATCH_BYTES`] for a copy of a socket's members.
pub const SCRATCH: &str = "SCRATCH";

/// The per-CPU hash map from [`Listener`] to its number of retransmitted SYN-ACKs, a `u64`.
pub const SYNACK_RETRANSMITS: &str = "SYNACK_RETRANSMITS";
/// Maximum number of listeners counted separately there; all others share [`Listener::OTHER`].
pub const MAX_LISTENERS: u32 = 4096;

/// The array map with a [`crate::tally::PlaceSet`] for each hash value.
pub const PLACES: &str = "PLACES";
/// The array map with the [`crate::tally::RowsByPort`] of each [`crate::tally::side`].
pub const ROWS_BY_PORT: &str = "ROWS_BY_PORT";
/// The queue map with the numbers of the free rows, each a `u32`.
pub const FREE_ROWS: &str = "FREE_ROWS";
/// The array map with the [`crate::tally::service`] of each row, a `u32`.
pub const SERVICES: &str = "SERVICES";
/// The array map of [`crate::tally::Row`]s: [`Config::rows`] for each CPU.
pub const ROWS: &str = "ROWS";
/// The array map of [`crate::tally::Times`]: one for each state of each CPU.
pub const TIMES: &str = "TIMES";
/// The per-CPU hash map from [`crate::tally::Failure`] to its count, a `u64`.
pub const ERRORS: &str = "ERRORS";

/// The array map of [`crate::tally::Note`]s.
pub const NOTES: &str = "NOTES";

/// The BTF tracepoint program that streams the RSTs of this kernel.
pub const PROGRAM_RESET: &str = "reset_btf";
/// The BTF tracepoint program that counts them, beside [`PROGRAM_TALLY`].
pub const PROGRAM_TALLY_RESET: &str = "tally_reset_btf";
/// The BTF tracepoint program that counts retransmitted SYN-ACKs.
pub const PROGRAM_SYNACK: &str = "synack_btf";
/// The BTF tracepoint program that counts in the kernel.
pub const PROGRAM_TALLY: &str = "tally_btf";
/// The second program beside [`PROGRAM_TALLY`], for what interrupts it.
pub const PROGRAM_TALLY_NESTED: &str = "tally_nested";
/// The BTF tracepoint program that streams records.
pub const PROGRAM_BTF: &str = "tcpstate_btf";
/// The second program beside [`PROGRAM_BTF`], for what interrupts it.
pub const PROGRAM_BTF_NESTED: &str = "tcpstate_nested";
/// The classic tracepoint program for records with `skaddr` at [`TP_BASE`].
pub const PROGRAM_TRACEPOINT: &str = "tcpstate_tp";
/// The classic tracepoint program for records with `skaddr` at [`TP_BASE_LAZY`].
pub const PROGRAM_TRACEPOINT_LAZY: &str = "tcpstate_tp_lazy";
/// A BTF tracepoint program that counts its runs and reads the clock: the floor for one that timestamps.
pub const PROGRAM_CLOCK: &str = "clock_btf";
/// A BTF tracepoint program that does nothing: the floor against which costs are measured.
pub const PROGRAM_EMPTY_BTF: &str = "empty_btf";
/// A classic tracepoint program that does nothing: the floor against which costs are measured.
pub const PROGRAM_EMPTY_TRACEPOINT: &str = "empty_tp";

/// Byte offsets inside the kernel's structures, read from its BTF.
///
/// `sk_*` are offsets in `struct sock`, `inet_*` and `tcp_*` in `struct tcp_sock`, `skb_*` in `struct sk_buff` (of an
/// error that ICMP reported, whose place is 0 if it is not known), `net_*` in `struct net`,
/// `cgroup_*` in `struct cgroup`, `css_*` in `struct cgroup_subsys_state`, `kn_*` in `struct kernfs_node`, and
/// `task_*` in `struct task_struct`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub struct Offsets {
    pub sk_family: u32,
    pub sk_state: u32,
    pub sk_num: u32,
    pub sk_dport: u32,
    pub sk_daddr: u32,
    pub sk_rcv_saddr: u32,
    pub sk_v6_daddr: u32,
    pub sk_v6_rcv_saddr: u32,
    pub sk_net: u32,
    pub sk_protocol: u32,
    pub sk_err: u32,
    pub sk_err_soft: u32,
    pub sk_error_first: u32,
    pub sk_error_qlen: u32,
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
    pub tcp_segs_out: u32,
    pub tcp_write_seq: u32,
    pub skb_errno: u32,
    pub net_inum: u32,
    pub cgroup_kn: u32,
    pub cgroup_parent: u32,
    pub css_cgroup: u32,
    pub kn_id: u32,
    pub task_comm: u32,
    pub task_tgid: u32,
    pub task_flags: u32,
    pub task_group_leader: u32,
}

/// The key by which retransmitted SYN-ACKs are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Listener {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Local port, host byte order.
    pub lport: u16,
    /// Always 0.
    pub padding: u16,
}

impl Listener {
    /// All listeners for which the map had no room.
    pub const OTHER: Self = Self {
        netns: 0,
        lport: 0,
        padding: 0,
    };
}

/// A range of bytes of a `struct tcp_sock` that `tracepoint` mode copies with one call of
/// `bpf_probe_read_kernel`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Span {
    /// Offset in the socket, bytes.
    pub from: u32,
    /// Offset in the copy ([`SCRATCH`]), bytes.
    pub to: u32,
    /// Length in bytes; 0: the span is not used.
    pub bytes: u32,
}

/// Maximum number of spans that `tracepoint` mode copies of a socket.
pub const MAX_SPANS: usize = 4;
/// Size of the buffer for all spans together, bytes.
pub const SCRATCH_BYTES: usize = 2048;

/// The copy that `tracepoint` mode makes of a socket: the spans to copy, and the members' offsets in the copy.
/// The members are those of [`Offsets`].
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
    pub tcp_segs_out: u32,
    pub tcp_write_seq: u32,
}

/// Maximum number of cgroups that the kernel side checks on the path from a socket's cgroup to the root.
/// Sockets in deeper ones are kept, and user space decides.
pub const MAX_CGROUP_DEPTH: usize = 16;

/// Maximum number of prefixes that the kernel side compares addresses with.
pub const MAX_PREFIXES: usize = 8;

/// A prefix of addresses, and what a filter says of it. A default one is no condition.
///
/// The prefixes of a filter are conditions on a socket, joined into clauses: in a clause one of them is true, and all
/// clauses are true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Prefix {
    /// The address, IPv4 as v4-mapped; bits outside of the mask are 0.
    /// *Layout:* two words in memory order, as addresses are in a [`Record`](crate::Record).
    pub address: [u64; 2],
    /// The bits that must agree, in the same order.
    pub mask: [u64; 2],
    /// The bits of [`prefix_flags`]; 0: the end of the prefixes.
    pub flags: u32,
    /// Always 0.
    pub padding: u32,
}

/// The bits of [`Prefix::flags`].
pub mod prefix_flags {
    /// The local address has the prefix.
    pub const LOCAL: u32 = 1;
    /// The remote address has it; with [`LOCAL`], either of them.
    pub const REMOTE: u32 = 1 << 1;
    /// The contrary: neither of these addresses has it.
    pub const NOT: u32 = 1 << 2;
    /// The last one of its clause.
    pub const LAST: u32 = 1 << 3;
}

/// The filters that run in the kernel. 0 switches a filter off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Filter {
    /// Keep only sockets in this cgroup (its id) or below it, within [`MAX_CGROUP_DEPTH`] levels.
    /// `btf` mode only, and only where [`Config::has_cgroup`] is 1.
    pub cgroup: u64,
    /// Keep only this network namespace (inode number). No effect where `tracepoint` mode cannot read the
    /// socket.
    pub netns: u32,
    /// Keep only this address family (2 or 10), v4-mapped addresses counted as IPv4.
    pub family: u8,
    /// 1: keep only sockets whose local port is in `LOCAL_PORTS`.
    pub lport: u8,
    /// 1: keep only sockets whose remote port is in `REMOTE_PORTS`.
    pub rport: u8,
    /// 1: keep only sockets with either port in `PORTS`.
    pub port: u8,
    /// 1: keep listeners whatever these filters say of a family, of an address or of a remote port: the owners of
    /// their connections are found by them.
    pub listeners: u8,
    /// Always 0.
    pub padding: [u8; 7],
    /// Keep only sockets whose addresses agree with these conditions.
    pub prefixes: [Prefix; MAX_PREFIXES],
}

/// Everything that is fixed at load time, except the sets of ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// The filters.
    pub filter: Filter,
    /// Offsets in the kernel's structures. In `tracepoint` mode only if [`Config::reads_socket`] is 1.
    pub offsets: Offsets,
    /// The copy that `tracepoint` mode makes of a socket, if [`Config::reads_socket`] is 1.
    pub copy: SocketCopy,
    /// Wake the reader once this many bytes wait in the ring buffer.
    pub wake_bytes: u32,
    /// A CPU checks the fill level of the ring when its count of submitted records has none of these bits set.
    /// One less than a power of two.
    pub look_mask: u32,
    /// Counting in the kernel: rows per CPU.
    pub rows: u32,
    /// Counting in the kernel: one less than the number of place sets, a power of two.
    pub place_mask: u32,
    /// Counting in the kernel: the number of CPUs that are possible.
    pub cpus: u32,
    /// Counting in the kernel: the first ephemeral port; 0 if not known.
    pub ephemeral_first: u16,
    /// Counting in the kernel: the last ephemeral port; 0 if not known.
    pub ephemeral_last: u16,
    /// 1: the kernel lets a tracing program call `bpf_get_socket_cookie`. *Since:* Linux 5.12.
    pub has_cookie: u8,
    /// 1: the kernel has `bpf_get_current_task_btf`. *Since:* Linux 5.11.
    pub has_task_btf: u8,
    /// 1: `sk_cgroup` points at a `struct cgroup`. *Since:* Linux 5.15.
    pub has_cgroup: u8,
    /// 1: at least one filter of [`Config::filter`] is on.
    pub has_filter: u8,
    /// 1: `tracepoint` mode reads the socket that its record points to.
    pub reads_socket: u8,
    /// 1: the tracepoint `tcp_send_reset` gives the reason. *Since:* Linux 6.10.
    pub has_reset_reason: u8,
    /// Always 0.
    pub padding: [u8; 2],
}

const _: () = {
    assert!(size_of::<Offsets>() == 144);
    assert!(size_of::<Listener>() == 8);
    assert!(size_of::<SocketCopy>() == 96);
    assert!(size_of::<Prefix>() == 40);
    assert!(size_of::<Filter>() == 24 + MAX_PREFIXES * 40);
    assert!(size_of::<Config>() == 616 && align_of::<Config>() == 8);
};

/// Offset of `skaddr` in the classic tracepoint's record on nearly every kernel.
pub const TP_BASE: u32 = 8;
/// Offset of `skaddr` where the common header also has `common_preempt_lazy_count`.
pub const TP_BASE_LAZY: u32 = 16;

/// The classic tracepoint's record after its common header, as of Linux 5.6.
///
/// *Source:* `include/trace/events/sock.h`, `TRACE_EVENT(inet_sock_set_state)`. The layout of the running
/// kernel, in `events/sock/inet_sock_set_state/format`, is compared with this one at start.
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
    /// Name, offset from `skaddr` and size of each field, in order. *Units:* bytes.
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
