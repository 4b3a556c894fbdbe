//! `diagnose`: the time to group all sockets of a host, and to check all rules over the groups.
//!
//! A million connections over a thousand service ports are built as a look at the host has them: half of them of 500
//! listeners here, the others of clients to 500 ports at 20 addresses each. One in a hundred is in some trouble. Listing
//! them is not part of the time: that is the kernel's, and is done in a thread of its own.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use tcpstate_common::{State, record::AF_INET};
use tcpstate_core::{
    diagnosis::{self, Counters, NetnsFacts, Observed, SETTINGS, Snapshot, Survey, Thresholds},
    event::Process,
    inventory::{DumpStats, DumpedNetns, Inventory, Listening, Socket, TcpInfo, Timer, TimerKind},
};

use crate::{Options, report::Row};

const NETNS: u32 = 4_026_531_840;
/// Service ports of each side.
const PORTS: u32 = 500;
const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

pub fn run(options: &Options) -> Vec<Row> {
    let connections: u32 = options.pick(1_000_000, 100_000);
    let inventory = inventory(connections);
    let facts = [facts()];
    let thresholds = Thresholds::default();
    let (mut surveys, mut checks, mut both) = (Vec::new(), Vec::new(), Vec::new());
    let rounds = options.rounds(9);
    let earlier = Survey::of(&inventory, &thresholds);
    let mut observed = Observed::default();
    observed.begin(1);
    for _ in 0..rounds {
        let begin = Instant::now();
        let survey = Survey::of(black_box(&inventory), &thresholds);
        let grouped = begin.elapsed();
        let snapshot = Snapshot {
            now_ns: 1,
            sockets: Some(&survey),
            earlier: Some(&earlier),
            observed: &observed,
            facts: &facts,
            earlier_facts: &facts,
            thresholds: &thresholds,
        };
        let begin = Instant::now();
        let findings = diagnosis::check(black_box(&snapshot));
        let checked = begin.elapsed();
        // There is something to find, so that the rules do all of their work.
        assert!(!findings.is_empty());
        let sockets: u64 = survey.groups.values().map(|group| group.count).sum();
        assert_eq!(sockets, u64::from(connections));
        surveys.push(grouped.as_secs_f64() * 1e3);
        checks.push(checked.as_secs_f64() * 1e3);
        both.push((grouped + checked).as_secs_f64() * 1e3);
    }
    let of = format!("{connections} connections, {} ports", 2 * PORTS);
    vec![
        Row::new(format!("group the sockets: {of}"), "ms", &surveys),
        Row::new(format!("check all rules: {of}"), "ms", &checks),
        Row::new(format!("both: {of}"), "ms", &both),
    ]
}

fn inventory(connections: u32) -> Inventory {
    let listeners = (0..PORTS).map(|number| Socket {
        rport: 0,
        raddr: Ipv4Addr::UNSPECIFIED.into(),
        laddr: Ipv4Addr::UNSPECIFIED.into(),
        wqueue: 4_096,
        info: None,
        ..socket(number, State::LISTEN, port_of(number), 0)
    });
    let all = (0..connections).map(|number| {
        let state = match number % 1_000 {
            0..2 => State::CLOSE_WAIT,
            2..5 => State::FIN_WAIT2,
            5..8 => State::LAST_ACK,
            8..10 => State::SYN_SENT,
            10..60 => State::TIME_WAIT,
            _ => State::ESTABLISHED,
        };
        let service = number / 2 % PORTS;
        let cookie = PORTS + number;
        let ephemeral = 32_768 + u16::try_from(number / 1_000 % 28_000).unwrap_or(0);
        if number % 2 == 0 && state != State::SYN_SENT {
            socket(cookie, state, port_of(service), ephemeral)
        } else {
            let server = Ipv4Addr::from(0x0a01_0000 + number / 2 / PORTS % 20);
            Socket {
                raddr: server.into(),
                ..socket(cookie, state, ephemeral, 1_000 + port_of(service))
            }
        }
    });
    let sockets: Vec<Socket> = listeners.chain(all).collect();
    let listening = Listening::new(&sockets, [(NETNS, 32_768..=60_999)], |socket| {
        socket.age(true)
    });
    let holders = sockets.iter().filter_map(|socket| {
        let process = Process {
            pid: 1_000 + u32::from(socket.lport) % 64,
            comm: *b"server\0\0\0\0\0\0\0\0\0\0",
        };
        Some((socket.inode?, vec![process]))
    });
    Inventory {
        namespaces: vec![DumpedNetns {
            netns: NETNS,
            name: "host".to_owned(),
            ts_ns: 1,
            wall_ns: 1,
            took_ns: 0,
            never_deferred: true,
            dump: DumpStats::default(),
        }],
        listening,
        holders: Some(holders.collect()),
        sockets,
        ..Inventory::default()
    }
}

fn port_of(number: u32) -> u16 {
    8_000 + u16::try_from(number % PORTS).unwrap_or(0)
}

fn socket(number: u32, state: State, lport: u16, rport: u16) -> Socket {
    let is_minisocket = state == State::TIME_WAIT;
    let timer = match (state, number % 100) {
        (State::TIME_WAIT, _) => Some((TimerKind::TimeWait, 0)),
        (State::LAST_ACK | State::SYN_SENT, _) | (State::ESTABLISHED, 0) => {
            Some((TimerKind::Retransmit, 6))
        }
        _ => None,
    };
    Socket {
        netns: NETNS,
        cookie: u64::from(number),
        family: AF_INET,
        state,
        laddr: HERE.into(),
        lport,
        raddr: IpAddr::from(Ipv4Addr::from(0xc000_0200 + number % 50_000)),
        rport,
        interface: None,
        timer: timer.map(|(kind, retransmits)| Timer {
            kind,
            expires_ms: 900,
            retransmits,
        }),
        rqueue: 0,
        wqueue: 0,
        uid: Some(0),
        inode: (!is_minisocket && state != State::LAST_ACK).then_some(number + 1),
        cgroup: None,
        shutdown: None,
        v6only: None,
        drops: None,
        info: (!is_minisocket).then_some(TcpInfo {
            last_sent_ms: Some(100_000),
            last_received_ms: Some(100_000),
            last_ack_received_ms: Some(100_000),
            timeout_us: Some(12_800_000),
            backoffs: Some(6),
            ..TcpInfo::default()
        }),
    }
}

fn facts() -> NetnsFacts {
    let value = |path: &str| match path {
        "net/ipv4/ip_local_port_range" => "32768 60999".to_owned(),
        _ => "2".to_owned(),
    };
    NetnsFacts {
        netns: NETNS,
        name: "host".to_owned(),
        counters: Counters::default(),
        settings: SETTINGS.iter().map(|&path| (path, value(path))).collect(),
    }
}
