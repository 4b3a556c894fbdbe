//! The answers of the API, from a publisher whose events the tests make.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use serde_json::Value;
use tcpstate_common::{
    Record, State,
    record::{AF_INET, flags},
};
use tcpstate_core::{
    diagnosis::{Look, Thresholds},
    event::Event,
    expression::NoNames,
    names::{Cgroup, Names, Naming},
    present::{Publisher, RunSnapshot},
    view::View as _,
};

use super::openapi::tests::check;
use super::*;
use crate::{
    metrics::tests::{publisher, tick},
    tests::{get, serve},
};

const SECOND: u64 = 1_000_000_000;

/// A publisher that hands out connections and findings.
pub(crate) fn whole() -> Publisher {
    publisher()
        .with_connections_on_request(MOST_CONNECTIONS)
        .diagnosing(Thresholds::default(), Look::default(), None)
}

/// A change of a client's connection from port `cookie` to a port of 192.0.2.1.
pub(crate) fn change(
    publisher: &mut Publisher,
    (cookie, ts_ns): (u64, u64),
    rport: u16,
    (oldstate, newstate): (State, State),
) {
    publisher
        .event(
            &event((cookie, ts_ns), rport, (oldstate, newstate)),
            &mut io::sink(),
        )
        .unwrap();
}

pub(crate) fn event(
    (cookie, ts_ns): (u64, u64),
    rport: u16,
    (oldstate, newstate): (State, State),
) -> Event {
    Event::try_from(record((cookie, ts_ns), rport, (oldstate, newstate))).expect("AF_INET")
}

fn record((cookie, ts_ns): (u64, u64), rport: u16, (oldstate, newstate): (State, State)) -> Record {
    let mapped = |last| {
        let mut address = [0; 16];
        address[10..12].fill(0xff);
        address[12..].copy_from_slice(&[192, 0, 2, last]);
        address
    };
    let lport = if newstate == State::SYN_SENT {
        0
    } else {
        u16::try_from(cookie).unwrap()
    };
    Record {
        ts_ns,
        cookie,
        skaddr: cookie,
        lport,
        rport,
        laddr: mapped(2),
        raddr: mapped(1),
        oldstate,
        newstate,
        family: AF_INET,
        flags: flags::COOKIE,
        ..Record::default()
    }
}

/// Opens connections, each a second after the one before. Those with an even cookie go on to `CLOSE_WAIT` in the
/// order of their cookies.
fn open(publisher: &mut Publisher, cookies: std::ops::RangeInclusive<u64>) {
    for cookie in cookies {
        let at = cookie * SECOND;
        let opens = (State::CLOSE, State::SYN_SENT);
        change(publisher, (cookie, at), 443, opens);
        let established = (State::SYN_SENT, State::ESTABLISHED);
        change(publisher, (cookie, at + 1_000), 443, established);
        if cookie % 2 == 0 {
            let half_closed = (State::ESTABLISHED, State::CLOSE_WAIT);
            change(publisher, (cookie, at + 2_000), 443, half_closed);
        }
    }
}

/// A snapshot with connections.
fn snapshot(publisher: &mut Publisher, second: u64) -> Arc<RunSnapshot> {
    let subscriber = publisher.subscribe();
    subscriber.want_connections();
    tick(publisher, second, 0);
    subscriber.latest().unwrap()
}

fn connections(snapshot: &RunSnapshot, query: &str) -> Value {
    let request = Request::parse("/api/v1/connections", query, &NoNames).unwrap();
    let Request::Connections(wanted) = request else {
        panic!("{query}: {request:?}");
    };
    let text = connections::write(snapshot, &wanted).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Names whose lookups are counted.
#[derive(Default)]
struct Counting(AtomicU64);

impl Naming for Counting {
    fn cgroup(&self, id: u64) -> Option<Arc<Cgroup>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Some(Arc::new(Cgroup::of(format!("/{id}"))))
    }
}

/// The thread that answers may not be allowed to look for them.
#[test]
fn names_are_looked_up_before_a_request_is_answered() {
    let names = Arc::new(Counting::default());
    let mut publisher = whole();
    publisher.set_names(Names::new(names.clone()));
    for cookie in 1..=2 {
        let opens = (State::CLOSE, State::SYN_SENT);
        let mut record = record((cookie, cookie * SECOND), 443, opens);
        record.cgroup = cookie;
        let event = Event::try_from(record).expect("AF_INET");
        publisher.event(&event, &mut io::sink()).unwrap();
    }
    let snapshot = snapshot(&mut publisher, 3);
    assert_eq!(names.0.load(Ordering::Relaxed), 2);
    let answer = connections(&snapshot, "");
    assert_eq!(answer["connections"][0]["cgroup"], "/1");
}

fn cookies(answer: &Value) -> Vec<u64> {
    let list = answer["connections"].as_array().unwrap();
    list.iter()
        .map(|one| one["cookie"].as_u64().unwrap())
        .collect()
}

fn mistake(path: &str, query: &str) -> Value {
    Request::parse(path, query, &NoNames).unwrap_err().json()
}

#[test]
fn connections_are_chosen_and_ordered() {
    let mut publisher = whole();
    open(&mut publisher, 1..=6);
    let snapshot = snapshot(&mut publisher, 10);
    for (query, expected) in [
        ("", &[1, 2, 3, 4, 5, 6][..]),
        ("order=newest", &[6, 5, 4, 3, 2, 1]),
        ("state=CLOSE-WAIT", &[2, 4, 6]),
        ("filter=state+established+and+dwell+%3E+6s", &[1, 3]),
        ("filter=not%20(%20state%20close-wait%20)", &[1, 3, 5]),
        ("filter=sport%20=%20:4%20or%20sport%20=%205", &[4, 5]),
        ("filter=dst%20192.0.2.0/24&port=443", &[1, 2, 3, 4, 5, 6]),
        ("port=80", &[]),
        ("limit=2", &[1, 2]),
    ] {
        let answer = connections(&snapshot, query);
        assert_eq!(cookies(&answer), expected, "{query}");
    }
    let answer = connections(&snapshot, "state=CLOSE_WAIT&limit=1");
    assert_eq!(answer["type"], "connections");
    assert_eq!(answer["ts"], "1970-01-01T00:00:10.000000000Z");
    assert_eq!(
        (&answer["matching"], &answer["left_out"]),
        (&3.into(), &0.into())
    );
    let one = &answer["connections"][0];
    assert_eq!(
        (&one["type"], &one["service_port"]),
        (&"connection".into(), &443.into())
    );
    let present = one["states"].as_array().unwrap().last().unwrap();
    assert_eq!(present["state"], "CLOSE_WAIT");
    assert_eq!(present["dwell_ns"], 8 * SECOND - 2_000);
    // Nobody is known to own them.
    let answer = connections(&snapshot, "filter=comm%20nginx");
    assert_eq!(
        (cookies(&answer), &answer["undecided"]),
        (vec![], &6.into())
    );
}

#[test]
fn pages_go_on_where_the_one_before_ended_whatever_comes_and_goes() {
    for order in ["oldest", "newest"] {
        let mut publisher = whole();
        open(&mut publisher, 1..=9);
        let mut second = 20;
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let snapshot = snapshot(&mut publisher, second);
            let answer = connections(&snapshot, &format!("order={order}&limit=2{cursor}"));
            seen.extend(cookies(&answer));
            let Some(next) = answer["next"].as_str() else {
                break;
            };
            cursor = format!("&cursor={next}");
            // One that was given ends, and a new one comes.
            let ended = *seen.last().unwrap();
            let state = if ended % 2 == 0 {
                State::CLOSE_WAIT
            } else {
                State::ESTABLISHED
            };
            let end = (state, State::CLOSE);
            change(&mut publisher, (ended, second * SECOND), 443, end);
            open(&mut publisher, second + 1..=second + 1);
            second += 2;
        }
        let mut old: Vec<u64> = seen.into_iter().filter(|&cookie| cookie < 10).collect();
        if order == "newest" {
            old.reverse();
        }
        assert_eq!(old, (1..=9).collect::<Vec<_>>(), "{order}");
    }
}

#[test]
fn pages_without_cookies_show_no_address_and_miss_nothing() {
    let mut publisher = whole();
    // All at the same time: their addresses alone tell them apart.
    for address in [
        0xffff_8880_1234_0000,
        0xffff_8880_1234_4000,
        0xffff_8880_1234_8000,
    ] {
        let event = event((1, SECOND), 443, (State::CLOSE, State::SYN_SENT));
        let record = Record {
            skaddr: address,
            cookie: 0,
            flags: 0,
            ..*event.record()
        };
        publisher
            .event(&Event::try_from(record).unwrap(), &mut io::sink())
            .unwrap();
    }
    let snapshot = snapshot(&mut publisher, 2);
    let (mut pages, mut cursor) = (0, String::new());
    loop {
        let answer = connections(&snapshot, &format!("limit=1{cursor}"));
        assert_eq!(answer["connections"].as_array().unwrap().len(), 1);
        pages += 1;
        let Some(next) = answer["next"].as_str() else {
            break;
        };
        assert_eq!(next, format!("{SECOND}-n{pages}"));
        cursor = format!("&cursor={next}");
    }
    assert_eq!(pages, 3);
}

#[test]
fn every_path_that_is_listed_is_known() {
    for endpoint in ENDPOINTS {
        assert!(Request::parse(endpoint.path, "", &NoNames).is_ok());
    }
    assert!(Request::parse("/api/v1/other", "", &NoNames).is_err());
}

#[test]
fn mistakes_are_said_with_their_place() {
    let path = "/api/v1/connections";
    let error = mistake(path, "filter=state%20close-wiat&limit=5");
    assert_eq!(error["parameter"], "filter");
    let shown = error["shown"].as_str().unwrap();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[1..], ["    state close-wiat", "          ^^^^^^^^^^"]);
    assert_eq!((&error["from"], &error["to"]), (&6.into(), &16.into()));
    assert_eq!(error["message"], lines[0]);
    for (query, message) in [
        (
            "stat=LISTEN",
            "unknown parameter `stat` of /api/v1/connections; did you mean `state`?",
        ),
        (
            "x=1",
            "unknown parameter `x` of /api/v1/connections; they are filter, state, port, order, limit, cursor",
        ),
        ("limit=1&limit=2", "`limit` is given twice"),
        ("limit=0", "`0` is not a number from 1 to 1000"),
        ("limit=1001", "`1001` is not a number from 1 to 1000"),
        ("order=age", "`age` is not one of oldest, newest"),
        ("cursor=7", "`7` is not the `next` of an answer"),
        ("filter=%ff", "the query is not UTF-8"),
        (
            "state=TIME_WAIT",
            "sockets in TIME_WAIT are not listed here: they are counted (/api/v1/snapshot); `tcpstate ls` lists them",
        ),
    ] {
        assert_eq!(mistake(path, query)["message"], message, "{query}");
    }
    // Only the end of a connection knows it, and the API looks at no file.
    for query in [
        "filter=lifetime%20%3E%201s",
        "filter=bytes_sent%20%3E%201",
        "filter=user%20root",
        "filter=netns%20blue",
    ] {
        let error = mistake(path, query);
        assert_eq!(error["parameter"], "filter", "{query}: {error}");
    }
    let error = mistake("/api/v1/findings", "limit=1");
    assert_eq!(
        error["message"],
        "unknown parameter `limit` of /api/v1/findings; it has none"
    );
}

/// Ticks until the work is done.
pub(crate) fn beside<T: Send>(
    publisher: &mut Publisher,
    mut second: u64,
    work: impl FnOnce() -> T + Send,
) -> T {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let working = scope.spawn(|| {
            let result = work();
            is_done.store(true, Ordering::Relaxed);
            result
        });
        while !is_done.load(Ordering::Relaxed) && !working.is_finished() {
            tick(publisher, second, 0);
            second += 1;
            thread::yield_now();
        }
        working.join().unwrap()
    })
}

/// The chunks of a body, joined: each follows its length, in hexadecimal digits.
fn chunks(mut body: &str) -> String {
    let mut joined = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n").unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return joined;
        }
        joined += &rest[..length];
        body = rest[length..].strip_prefix("\r\n").unwrap();
    }
}

/// The body of an answer with this status.
pub(crate) fn body(answer: &str, status: u16) -> Value {
    let expected = format!("HTTP/1.1 {status} ");
    assert!(answer.starts_with(&expected), "{answer}");
    assert!(
        answer.contains("content-type: application/json\r\n"),
        "{answer}"
    );
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let joined;
    let body = if head.contains("transfer-encoding: chunked") {
        joined = chunks(body);
        &joined
    } else {
        body
    };
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

#[test]
fn answers_come_over_http() {
    let mut publisher = whole();
    let server = serve(&publisher);
    let is_dynamic = |endpoint: &&Endpoint| endpoint.path != "/api/v1/openapi.json";
    for endpoint in ENDPOINTS.iter().filter(is_dynamic) {
        let answer = body(&get(&server, endpoint.path, "*/*"), 503);
        check("Error", &answer);
        assert!(
            answer["message"]
                .as_str()
                .unwrap()
                .starts_with("not ready: "),
            "{answer}"
        );
    }
    open(&mut publisher, 1..=3);
    let (snapshot, findings, connections, history, description) = beside(&mut publisher, 4, || {
        while !get(&server, "/readyz", "*/*").contains(" 200 ") {}
        let of = |path| body(&get(&server, path, "*/*"), 200);
        (
            of("/api/v1/snapshot"),
            of("/api/v1/findings"),
            of("/api/v1/connections?limit=2"),
            of("/api/v1/history?port=443"),
            of("/api/v1/openapi.json"),
        )
    });
    for (name, answer) in [
        ("Snapshot", &snapshot),
        ("Findings", &findings),
        ("Connections", &connections),
        ("History", &history),
    ] {
        check(name, answer);
    }
    assert_eq!(description["openapi"], "3.1.0");
    assert_eq!(snapshot["rates"]["type"], "rates");
    assert_eq!(snapshot["rates"]["states"]["CLOSE_WAIT"], 1);
    assert_eq!(snapshot["rates"]["ports"][0]["states"]["ESTABLISHED"], 2);
    assert_eq!(snapshot["summary"]["type"], "summary");
    assert_eq!(snapshot["summary"]["accounting"]["seen"], 10);
    assert_eq!(snapshot["summary"]["connections"]["live"], 3);
    assert!(findings["findings"].is_array(), "{findings}");
    assert_eq!(cookies(&connections), [1, 2]);
    assert_eq!(connections["matching"], 3);
    let error = body(&get(&server, "/api/v1/connections?filter=dst", "*/*"), 400);
    check("Error", &error);
    assert_eq!(error["type"], "error");
    // The list costs nothing while nobody asks, once those that asked have it.
    for second in 1_000_000..1_000_002 {
        tick(&mut publisher, second, 0);
    }
    assert_eq!(
        publisher
            .subscribe()
            .latest()
            .unwrap()
            .tracker
            .connections
            .len(),
        0
    );
    drop(publisher);
    while get(&server, "/readyz", "*/*").contains(" 200 ") {}
    let ended = body(&get(&server, "/api/v1/connections", "*/*"), 503);
    assert_eq!(ended["message"], "the run has ended");
}
