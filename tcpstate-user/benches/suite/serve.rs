//! `serve`: a scrape of a host with a thousand service ports: its bytes, and the time until a client has them. `load` has it
//! beside traffic, `past` the memory of a day's history.
//!
//! Each port has a server's and a client's connections through all states of an orderly end, with durations over six powers
//! of ten, so that each histogram is there that such a host has. The text is made anew for each scrape, as the first one of
//! a second finds it.

mod load;
pub mod past;

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use tcpstate_common::{
    Record, State,
    record::{AF_INET, flags},
};
use tcpstate_core::{
    books::{Accounting, RunBooks},
    event::Event,
    expression::NoNames,
    model::{By, Connections, Include, Limits},
    origin::Origin,
    present::{self, Publisher},
    view::View as _,
};
use tcpstate_serve::{Buckets, Feed, Listener, Options as Served, Server, Web, WorkloadCounts};

use crate::{Options, report::Row};

const PORTS: u16 = 1_000;
const SECOND: u64 = 1_000_000_000;
/// The most bytes that a scrape may have.
const MOST: usize = 4 << 20;

pub fn run(options: &Options) -> Result<Vec<Row>> {
    let mut rows = load::run(options)?;
    rows.extend(scrapes(options)?);
    rows.extend(past::run(options)?);
    Ok(rows)
}

/// A publisher of a run that has started, with figures of this number of service ports.
fn publisher(ports: u16) -> Result<Publisher> {
    let mut publisher = Publisher::new(&present::Options {
        interval_ns: SECOND,
        by: By::Port,
        include: Include {
            connections: Connections::None,
            histograms: true,
        },
        in_kernel: false,
        limits: Limits {
            max_ports: ports.into(),
            max_histogram_groups: 256,
            ..Limits::default()
        },
    });
    let origin = Origin {
        host: String::new(),
        kernel: String::new(),
        attach: "btf".to_owned(),
        wall_at_monotonic_zero_ns: 0,
        started_ns: 0,
        filters: String::new(),
        live: true,
        sample_interval_ns: Some(SECOND),
    };
    publisher.start(&origin, &mut io::sink())?;
    Ok(publisher)
}

/// Scrapes of a thousand ports.
fn scrapes(options: &Options) -> Result<Vec<Row>> {
    let mut publisher = publisher(PORTS)?;
    for round in 0..options.pick(20, 3) {
        for port in 1..=PORTS {
            connection(&mut publisher, port, round, WHOLE)?;
        }
    }
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let choices = Served {
        buckets: Buckets::default(),
        ring_bytes: 8 << 20,
        names: Arc::new(NoNames),
        feed: Feed::default(),
        workloads: WorkloadCounts::default(),
        web: Web::default(),
    };
    let server = Server::start(&choices, listener, publisher.subscribe(), || Ok(()))?;
    let (mut bytes, mut times, mut ticks) = (Vec::new(), Vec::new(), Vec::new());
    for second in 1..=options.rounds(21) as u64 {
        publisher.books(&RunBooks {
            accounting: Accounting {
                received: second,
                ..Accounting::default()
            },
            ..RunBooks::default()
        });
        let begin = Instant::now();
        publisher.tick(second * SECOND, &mut io::sink())?;
        ticks.push(begin.elapsed().as_secs_f64() * 1e3);
        let wanted = format!("\ntcpstate_events_received_total {second}\n");
        // The server takes the snapshot in its own thread.
        let (text, ms) = loop {
            let begin = Instant::now();
            let text = scrape(server.address())?;
            if text.contains(&wanted) {
                break (text, begin.elapsed().as_secs_f64() * 1e3);
            }
        };
        for name in [
            "tcpstate_transitions_total",
            "tcpstate_connections_closed_total",
        ] {
            let begin = format!("{name}{{");
            let last = format!("port=\"{PORTS}\"");
            let mut lines = text.lines().filter(|line| line.starts_with(&begin));
            ensure!(lines.any(|line| line.contains(&last)), "no {last}");
        }
        ensure!(text.len() <= MOST, "a scrape has {} bytes", text.len());
        bytes.push(text.len() as f64);
        times.push(ms);
    }
    let what = "a scrape with 1,000 ports";
    Ok(vec![
        Row::new(what, "bytes", &bytes),
        Row::new(what, "ms", &times),
        Row::new("its snapshot", "ms", &ticks),
    ])
}

/// The text of the metrics.
fn scrape(server: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(server)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}: {body:.500}");
    Ok(body.to_owned())
}

/// The transitions of each end of a connection.
const WHOLE: usize = 5;

/// A connection of this port with both its ends on this host, and so many transitions of each.
fn connection(publisher: &mut Publisher, port: u16, round: u64, steps: usize) -> Result<()> {
    use State as S;
    let server = [
        S::LISTEN,
        S::SYN_RECV,
        S::ESTABLISHED,
        S::CLOSE_WAIT,
        S::LAST_ACK,
        S::CLOSE,
    ];
    let client = [
        S::CLOSE,
        S::SYN_SENT,
        S::ESTABLISHED,
        S::FIN_WAIT1,
        S::FIN_WAIT2,
        S::CLOSE,
    ];
    let number = round << 16 | u64::from(port);
    for (states, cookie, (lport, rport)) in [
        (server, 2 * number, (port, 40_000)),
        (client, 2 * number + 1, (40_000, port)),
    ] {
        for (step, pair) in (0..).zip(states.windows(2).take(steps)) {
            // 10 us to 10 s.
            let step_ns = 10_000 * 10_u64.pow((u32::from(port) + round as u32) % 7);
            let [oldstate, newstate] = *pair else {
                continue;
            };
            let event = Event::try_from(Record {
                ts_ns: number * 1_000 + step * step_ns,
                cookie,
                lport,
                rport,
                oldstate,
                newstate,
                family: AF_INET,
                flags: flags::COOKIE | flags::TCP,
                srtt_us: 25,
                ..Record::default()
            });
            let event = event.ok().context("it is an event")?;
            publisher.event(&event, &mut io::sink())?;
        }
    }
    Ok(())
}
