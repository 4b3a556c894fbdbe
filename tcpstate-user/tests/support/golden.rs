//! Shared by the golden tests of all views: a run on a host where everything happens once, and the
//! comparison with the files in `tests/golden`.

use std::{env, fs, net::IpAddr, path::Path, sync::Arc};

use tcpstate_common::{
    Record, State,
    record::{AF_INET, AF_INET6, flags},
};
use tcpstate_core::{
    books::{
        Accounting, CaptureCost, Cost, FilteredByReason, LostByReason, RejectedByReason, Selection,
        Settled,
    },
    event::Event,
    names::{NameBook, Names},
    origin::{Evidence, Origin},
    view::End,
};

/// Compares the output with the file of this name, or writes the file.
pub fn compare(name: &str, written: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if env::var_os("TCPSTATE_BLESS").is_some() {
        fs::write(&path, written).unwrap();
        return;
    }
    let golden = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; TCPSTATE_BLESS=1 writes it", path.display()));
    assert!(
        golden == written,
        "{} differs from the output:\n{written}",
        path.display()
    );
}

const STARTED_NS: u64 = 5_000_000_000_000;

/// The origin of the run.
pub fn origin() -> Origin {
    Origin {
        host: "web-1".into(),
        kernel: "6.18.0".into(),
        attach: "btf".into(),
        wall_at_monotonic_zero_ns: 1_769_857_896_000_000_000,
        started_ns: STARTED_NS,
        filters: String::new(),
        live: false,
        sample_interval_ns: None,
    }
}

/// The name of the run's cgroup.
pub fn names() -> Names {
    let book = NameBook::default();
    book.add_paths([(CGROUP, "/system.slice/nginx.service")]);
    Names::new(Arc::new(book))
}

/// The run's cgroup.
pub const CGROUP: u64 = 4_242;

/// A socket with a sequence of events.
struct Socket(Record);

impl Socket {
    fn new(cookie: u64, laddr: &str, lport: u16, raddr: &str, rport: u16) -> Self {
        let address = |text: &str| match text.parse().unwrap() {
            IpAddr::V4(v4) => (AF_INET, v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => (AF_INET6, v6.octets()),
        };
        let (family, laddr) = address(laddr);
        let (_, raddr) = address(raddr);
        Self(Record {
            cookie,
            skaddr: 0xffff_8881_0000_0000 | cookie << 12,
            cgroup: CGROUP,
            laddr,
            raddr,
            netns: 4_026_531_840,
            uid: 33,
            lport,
            rport,
            family,
            cpu: 1,
            flags: flags::SOCKET | flags::COOKIE | flags::TCP,
            ..Record::default()
        })
    }

    /// The next event, this number of microseconds after the start.
    fn event(&self, us: u64, oldstate: u8, newstate: u8, edit: impl FnOnce(&mut Record)) -> Event {
        let mut record = self.0;
        record.ts_ns = STARTED_NS + us * 1_000 + 789;
        (record.oldstate, record.newstate) = (State(oldstate), State(newstate));
        edit(&mut record);
        Event::try_from(record).unwrap()
    }
}

fn process(pid: u32, name: &[u8]) -> impl FnOnce(&mut Record) {
    move |record| {
        record.flags |= flags::PROCESS;
        record.pid = pid;
        record.comm[..name.len()].copy_from_slice(name);
    }
}

fn plain(_: &mut Record) {}

/// Events that give every kind of line.
pub fn events() -> Vec<Event> {
    let client = Socket::new(4_101, "192.0.2.10", 40_000, "198.51.100.20", 443);
    let listener = Socket::new(12, "::", 80, "::", 0);
    let server = Socket::new(4_102, "::ffff:192.0.2.10", 80, "::ffff:203.0.113.5", 51_515);
    let ipv6 = Socket::new(
        1_234_567_890,
        "2001:db8:aaaa:bbbb:cccc:dddd:eeee:1111",
        65_535,
        "2001:db8:1:2:3:4:5:6",
        22,
    );
    let hostile = Socket::new(4_103, "127.0.0.1", 40_001, "127.0.0.1", 9);
    let formula = Socket::new(4_106, "127.0.0.1", 40_003, "127.0.0.1", 9);
    let bare = Socket::new(4_104, "192.0.2.10", 5_432, "192.0.2.11", 40_002);
    let worker = Socket::new(4_105, "::ffff:192.0.2.10", 80, "::ffff:203.0.113.6", 51_516);
    let without_socket = |record: &mut Record| {
        (
            record.cookie,
            record.cgroup,
            record.netns,
            record.uid,
            record.flags,
        ) = (0, 0, 0, 0, 0);
    };
    let closed = |sent, received, flags| {
        move |record: &mut Record| {
            (record.bytes_sent, record.bytes_received) = (sent, received);
            (record.srtt_us, record.retransmits) = (1_250, 2);
            record.flags |= flags;
        }
    };
    let both = flags::RCV_SHUTDOWN | flags::SEND_SHUTDOWN;
    vec![
        listener.event(10, 7, 10, process(800, b"nginx")),
        client.event(1_000, 7, 2, |record| {
            process(1_234, b"curl")(record);
            (record.laddr, record.lport) = ([0; 16], 0);
            record.laddr[10..12].fill(0xff);
        }),
        client.event(1_040, 2, 1, plain),
        // A fresh clone of its listener has no cookie and no peer.
        server.event(1_500, 10, 3, |record| {
            (record.cookie, record.rport) = (0, 0);
            record.flags = flags::SOCKET;
            (record.laddr, record.raddr) = ([0; 16], [0; 16]);
        }),
        server.event(1_501, 3, 1, |record| record.srtt_us = 28),
        client.event(301_040, 1, 4, |record| {
            process(1_234, b"curl")(record);
            record.flags |= flags::SEND_SHUTDOWN;
        }),
        server.event(301_100, 1, 8, |record| {
            record.flags |= flags::RCV_SHUTDOWN | flags::DONE;
        }),
        client.event(301_110, 4, 5, plain),
        client.event(301_150, 5, 7, closed(1_000, 20_000, both | flags::DEAD)),
        // First seen in the middle of its lifetime; longer addresses widen the columns.
        ipv6.event(400_000, 8, 9, process(77, b"sshd")),
        ipv6.event(60_400_000, 9, 7, closed(1, 2, both)),
        server.event(60_500_000, 8, 7, |record| {
            closed(20_000, 1_000, both)(record);
            record.error = 104;
        }),
        // Accepted by a process other than the one that listens.
        worker.event(60_600_000, 10, 3, |record| {
            (record.cookie, record.flags) = (0, flags::SOCKET);
        }),
        worker.event(60_600_001, 3, 1, plain),
        worker.event(60_600_002, 1, 8, plain),
        worker.event(60_600_003, 8, 9, process(812, b"nginx")),
        worker.event(60_600_004, 9, 7, closed(5, 6, both)),
        // Names with an escape sequence that clears the screen, and with a formula.
        hostile.event(61_000_000, 7, 2, process(4_000, b"\x1b[2J\xff,\"")),
        hostile.event(61_000_020, 2, 7, |record| record.error = 111),
        formula.event(61_000_030, 7, 2, process(4_001, b"=1+1")),
        // The classic tracepoint has few fields.
        bare.event(62_000_000, 1, 8, without_socket),
        bare.event(62_100_000, 8, 9, |record| {
            without_socket(record);
            process(900, b"postgres")(record);
        }),
        // States of a future kernel.
        client.event(63_000_000, 14, 255, plain),
        listener.event(64_000_010, 10, 7, process(800, b"nginx")),
    ]
}

/// The end of the run.
pub fn end() -> End {
    End {
        now_ns: STARTED_NS + 65_000_000_000,
        accounting: Accounting {
            seen: 1_229,
            filtered: 1_200,
            submitted: 26,
            lost: 3,
            received: 25,
            rejected: 1,
            filtered_by_reason: FilteredByReason {
                port: 1_200,
                ..FilteredByReason::default()
            },
            lost_by_reason: LostByReason {
                ring_full: 2,
                nested: Some(1),
            },
            rejected_by_reason: RejectedByReason {
                malformed: 1,
                ..RejectedByReason::default()
            },
            partial: false,
        },
        selection: Selection {
            settled: Settled {
                passed: 24,
                filtered: 0,
                undecided: 1,
            },
            unread: 0,
            earlier: 0,
        },
        cost: Cost {
            cpu_ns: 12_345_678,
            max_rss_bytes: Some(5 << 20),
            capture: CaptureCost {
                bpf_run_ns: Some(306_973),
                bpf_run_count: Some(1_229),
                ring_high_water_bytes: Some(1_224),
            },
        },
        damaged: false,
        verbose: false,
        part: None,
        evidence: Evidence::Kernel,
        packets: None,
    }
}
