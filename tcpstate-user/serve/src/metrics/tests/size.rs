//! The size of a scrape with many ports. The time is measured by `cargo xtask bench serve`.

use tcpstate_core::census::{Census, Found, Gone, Kind};

use super::*;

const NETNS: u32 = 1;
const PORTS: u16 = 1_000;
const CLIENTS: u64 = 1 << 32;

/// The most bytes of a scrape with 1,000 ports.
const MOST: usize = 4 << 20;

/// A connection with both its ends on this host, through all states of an orderly end; the client's then remains in
/// `TIME_WAIT`.
fn connection(publisher: &mut Publisher, port: u16) {
    let at = u64::from(port);
    let server = [
        State::LISTEN,
        State::SYN_RECV,
        State::ESTABLISHED,
        State::CLOSE_WAIT,
        State::LAST_ACK,
        State::CLOSE,
    ];
    let client = [
        State::CLOSE,
        State::SYN_SENT,
        State::ESTABLISHED,
        State::FIN_WAIT1,
        State::FIN_WAIT2,
        State::CLOSE,
    ];
    for (states, cookie, ports) in [
        (server, at, (port, 40_000)),
        (client, CLIENTS + at, (40_000, port)),
    ] {
        for (step, pair) in (0..).zip(states.windows(2)) {
            let goes_on = pair == [State::FIN_WAIT2, State::CLOSE];
            let event = Event::try_from(Record {
                // The durations of each port are its own: they fill more of the tracker's buckets.
                ts_ns: at * 10_000 + step * (20_000 + at * 1_000_000),
                cookie,
                netns: NETNS,
                lport: ports.0,
                rport: ports.1,
                oldstate: pair[0],
                newstate: pair[1],
                family: AF_INET,
                flags: flags::COOKIE
                    | flags::SOCKET
                    | flags::TCP
                    | if goes_on { flags::DONE } else { 0 },
                srtt_us: 25,
                ..Record::default()
            });
            publisher
                .event(&event.expect("AF_INET"), &mut io::sink())
                .unwrap();
        }
    }
}

/// A sample.
fn sample(publisher: &mut Publisher, begin_ns: u64, found: Vec<Found>, gone: Vec<Gone>) {
    let census = Census {
        netns: NETNS,
        begin_ns,
        previous_ns: Some(begin_ns - SECOND),
        found,
        gone,
        ..Census::default()
    };
    publisher.census(&census, &mut io::sink()).unwrap();
}

#[test]
fn a_scrape_of_a_thousand_ports_is_bounded() {
    // The limits of `tcpstate serve --max-ports 1000`.
    let mut publisher = with(Limits {
        max_ports: PORTS.into(),
        max_histogram_groups: 256,
        ..Limits::default()
    });
    for port in 1..=PORTS {
        connection(&mut publisher, port);
    }
    let cookie = |port: u16| CLIENTS + u64::from(port);
    let found = |port| Found {
        cookie: cookie(port),
        state: State::TIME_WAIT,
        kind: Kind::Minisocket,
        since_ns: Some(10 * SECOND),
        there_ns: None,
        family: 2,
        laddr: [127, 0, 0, 1].into(),
        lport: 40_000,
        raddr: [127, 0, 0, 1].into(),
        rport: port,
        role: tcpstate_core::service::Role::Client,
        uid: None,
        cgroup: None,
        owner: tcpstate_core::owner::Owner::UNKNOWN,
    };
    let gone = |port| Gone {
        cookie: cookie(port),
        at_ns: 70 * SECOND,
    };
    let (begin, end) = (11 * SECOND, 71 * SECOND);
    let ports = 1..=PORTS;
    sample(
        &mut publisher,
        begin,
        ports.clone().map(found).collect(),
        Vec::new(),
    );
    sample(
        &mut publisher,
        end,
        Vec::new(),
        ports.clone().map(gone).collect(),
    );
    tick(&mut publisher, 72, 0);
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let text = text(&publisher, format);
        // Each port has its counts, ...
        for port in ports.clone() {
            let line = format!("from=\"LAST_ACK\",to=\"CLOSE\",port=\"{port}\"}} 1\n");
            assert!(text.contains(&line), "{line}");
        }
        // ... and none of the durations is missing.
        for (state, name) in [
            ("TIME_WAIT", "state_duration"),
            ("LAST_ACK", "state_duration"),
        ] {
            let begin = format!("tcpstate_{name}_seconds_count{{state=\"{state}\",");
            let lines = text.lines().filter(|line| line.starts_with(&begin));
            let counts: Vec<u64> = lines
                .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
                .collect();
            assert_eq!(counts.iter().sum::<u64>(), u64::from(PORTS), "{state}");
            assert_eq!(counts.len(), 129, "{state}");
        }
        assert!(text.len() <= MOST, "{}", text.len());
    }
}
