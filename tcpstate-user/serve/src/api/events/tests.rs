//! Clients that follow the events, over real connections.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpStream},
};

use serde_json::Value;
use tcpstate_common::State;
use tcpstate_core::{expression::NoNames, present::Publisher};

use super::*;
use crate::{
    Feed, Server, Web,
    api::{
        MOST_STREAMS,
        openapi::tests::check,
        tests::{event, whole},
    },
    metrics::tests::tick,
    tests::{connect, get, serve_feed},
};

/// Hands a change of a client's connection on, as a run does.
fn push_change(
    publisher: &mut Publisher,
    feed: &Feed,
    cookie: u64,
    rport: u16,
    states: (State, State),
) {
    let event = event((cookie, cookie), rport, states);
    publisher.event_then(&event, |applied| {
        if feed.is_wanted() {
            feed.push(Change::new(&event, applied, 0, None));
        }
    });
}

fn opens(publisher: &mut Publisher, feed: &Feed, cookie: u64, rport: u16) {
    push_change(
        publisher,
        feed,
        cookie,
        rport,
        (State::CLOSE, State::SYN_SENT),
    );
}

fn established(publisher: &mut Publisher, feed: &Feed, cookie: u64, rport: u16) {
    let states = (State::SYN_SENT, State::ESTABLISHED);
    push_change(publisher, feed, cookie, rport, states);
}

/// A client that follows.
struct Client(BufReader<TcpStream>);

impl Client {
    fn ask(server: &Server, query: &str) -> Self {
        let mut stream = connect(server);
        write!(
            stream,
            "GET /api/v1/events{query} HTTP/1.0\r\nHost: localhost\r\n\r\n"
        )
        .unwrap();
        Self(BufReader::new(stream))
    }

    /// Follows from now on.
    fn follow(server: &Server, query: &str) -> Self {
        let mut client = Self::ask(server, query);
        client.await_line(": from now on");
        client
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(
            self.0.read_line(&mut line).unwrap() > 0,
            "the stream has ended"
        );
        line.trim_end().to_owned()
    }

    fn await_line(&mut self, wanted: &str) {
        while self.line() != wanted {}
    }

    /// The next event.
    fn event(&mut self) -> (String, Value) {
        loop {
            if let Some(name) = self.line().strip_prefix("event: ") {
                let data = self.line();
                let data = data.strip_prefix("data: ").unwrap();
                return (name.to_owned(), serde_json::from_str(data).unwrap());
            }
        }
    }
}

fn ready(publisher: &mut Publisher, server: &Server) {
    tick(publisher, 1, 0);
    while !get(server, "/readyz", "*/*").contains(" 200 ") {}
}

#[test]
fn changes_are_filtered_and_those_that_wait_for_a_port_come_in_order() {
    let (mut publisher, feed) = (whole(), Feed::default());
    let server = serve_feed(&publisher, &feed);
    ready(&mut publisher, &server);
    assert!(!feed.is_wanted());
    let mut all = Client::follow(&server, "");
    let mut some = Client::follow(&server, "?filter=sport%20=%20:7%20or%20dport%20=%20:80");
    // Neither is known to be wanted before its port is.
    opens(&mut publisher, &feed, 7, 443);
    opens(&mut publisher, &feed, 8, 443);
    opens(&mut publisher, &feed, 9, 80);
    established(&mut publisher, &feed, 8, 443);
    established(&mut publisher, &feed, 7, 443);
    feed.end();
    let cookies = |client: &mut Client| {
        let mut cookies = Vec::new();
        loop {
            match client.event() {
                (kind, line) if kind == "transition" => {
                    check("Transition", &line);
                    cookies.push(line["cookie"].as_u64().unwrap());
                }
                (kind, _) => {
                    assert_eq!(kind, "end");
                    let mut rest = Vec::new();
                    client.0.read_to_end(&mut rest).unwrap();
                    return cookies;
                }
            }
        }
    };
    assert_eq!(cookies(&mut all), [7, 8, 9, 8, 7]);
    assert_eq!(cookies(&mut some), [9, 7, 7]);
}

#[test]
fn one_that_does_not_read_is_told_what_it_missed_and_holds_nobody_up() {
    const CHANGES: u64 = 120_000;
    let (mut publisher, feed) = (whole(), Feed::default());
    let server = serve_feed(&publisher, &feed);
    ready(&mut publisher, &server);
    let mut client = Client::follow(&server, "");
    for _ in 0..CHANGES {
        opens(&mut publisher, &feed, 1, 80);
    }
    feed.end();
    let (mut received, mut missed) = (0, 0);
    loop {
        match client.event() {
            (kind, line) if kind == "missed" => {
                check("Missed", &line);
                missed += line["missed"].as_u64().unwrap();
            }
            (kind, _) if kind == "transition" => received += 1,
            _ => break,
        }
    }
    assert_eq!(received + missed, CHANGES);
    assert!(
        missed > 0 && received > 1_000,
        "{missed} missed, {received} received"
    );
}

/// The password by which a client came in may be no longer good.
#[test]
fn another_protection_ends_streams_and_they_come_again() {
    let (mut publisher, feed) = (whole(), Feed::default());
    let server = serve_feed(&publisher, &feed);
    ready(&mut publisher, &server);
    for _ in 0..2 {
        let mut client = Client::follow(&server, "");
        server.set_web(Web::default());
        let mut rest = Vec::new();
        client.0.read_to_end(&mut rest).unwrap();
    }
    assert!(get(&server, "/readyz", "*/*").contains(" 200 "));
}

#[test]
fn clients_are_bounded_and_make_room_when_they_go() {
    let (mut publisher, feed) = (whole(), Feed::default());
    let server = serve_feed(&publisher, &feed);
    ready(&mut publisher, &server);
    let mut clients: Vec<Client> = (0..MOST_STREAMS)
        .map(|_| Client::follow(&server, ""))
        .collect();
    let refused = get(&server, "/api/v1/events", "*/*");
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(
        refused.contains("8 clients follow the events already"),
        "{refused}"
    );
    // Any number of other clients takes the place of none of them.
    let silent: Vec<TcpStream> = (0..200).map(|_| connect(&server)).collect();
    assert!(get(&server, "/readyz", "*/*").contains(" 200 "));
    opens(&mut publisher, &feed, 1, 80);
    for client in &mut clients {
        assert_eq!(client.event().0, "transition");
    }
    drop(silent);
    let gone = clients.pop().unwrap();
    gone.0.get_ref().shutdown(Shutdown::Both).unwrap();
    drop(gone);
    // It is noticed when something is sent.
    let mut late = loop {
        opens(&mut publisher, &feed, 1, 80);
        let mut client = Client::ask(&server, "");
        if client.line().contains(" 200 ") {
            break client;
        }
    };
    late.await_line(": from now on");
    drop((clients, late));
    // Nothing is kept for nobody.
    while feed.is_wanted() {
        opens(&mut publisher, &feed, 1, 80);
        std::thread::yield_now();
    }
}

#[test]
fn changes_that_nothing_decides_are_bounded() {
    let feed = Feed::default();
    let mut publisher = whole();
    let mut follower = feed.follow().unwrap();
    let mut filter = Filter {
        expression: Expression::parse("sport = :1", &NoNames).unwrap(),
        held: HashMap::new(),
    };
    for cookie in 1..=50_000 {
        opens(&mut publisher, &feed, cookie, 80);
        for change in follower.take(AT_ONCE).changes {
            let [held, now] = filter.pass(&change);
            assert!(held.is_none() && now.is_none());
        }
        assert!(filter.held.len() <= MOST_HELD);
    }
}

#[test]
fn a_child_without_a_cookie_is_decided_by_its_next_change() {
    let feed = Feed::default();
    let mut publisher = whole();
    let mut follower = feed.follow().unwrap();
    let mut filter = Filter {
        expression: Expression::parse("dport = :40000", &NoNames).unwrap(),
        held: HashMap::new(),
    };
    let states = [
        (State::LISTEN, State::SYN_RECV),
        (State::SYN_RECV, State::ESTABLISHED),
    ];
    let mut passed = Vec::new();
    for (at, states) in states.into_iter().enumerate() {
        let mut record = *event((7, 1), 0, states).record();
        record.skaddr = 0x1234;
        if at == 0 {
            // The kernel has copied neither yet.
            (record.cookie, record.flags) = (0, 0);
        } else {
            record.rport = 40_000;
        }
        let event = Event::try_from(record).unwrap();
        publisher.event_then(&event, |applied| {
            feed.push(Change::new(&event, applied, 0, None));
        });
        for change in follower.take(AT_ONCE).changes {
            passed.extend(filter.pass(&change).into_iter().flatten());
        }
    }
    let passed: Vec<State> = passed.iter().map(|one| one.row.newstate).collect();
    assert_eq!(passed, [State::SYN_RECV, State::ESTABLISHED]);
}
