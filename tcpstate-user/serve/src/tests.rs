//! The server over real connections, with a publisher whose snapshots the tests make.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use tcpstate_core::{expression::NoNames, present::Publisher};

use crate::{
    Buckets, Feed, Listener, Options, ServeError, Server, Web, WorkloadCounts,
    metrics::tests::{publisher, tick, transition},
};

const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) fn options(feed: &Feed) -> Options {
    Options {
        workloads: WorkloadCounts::default(),
        buckets: Buckets::default(),
        ring_bytes: 4_096,
        names: Arc::new(NoNames),
        feed: feed.clone(),
        web: Web::default(),
    }
}

pub(crate) fn serve(publisher: &Publisher) -> Server {
    serve_feed(publisher, &Feed::default())
}

pub(crate) fn serve_feed(publisher: &Publisher, feed: &Feed) -> Server {
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    Server::start(&options(feed), listener, publisher.subscribe(), || Ok(())).unwrap()
}

pub(crate) fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends these bytes and reads to the end.
pub(crate) fn exchange(server: &Server, request: &[u8]) -> String {
    let mut stream = connect(server);
    // A server that refuses the beginning need not read the rest.
    let _ = stream.write_all(request);
    read(&mut stream).unwrap()
}

fn read(stream: &mut TcpStream) -> io::Result<String> {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // The bytes that it sent before are there.
        Err(error) if error.kind() != ErrorKind::ConnectionReset => return Err(error),
        _ => {}
    }
    Ok(String::from_utf8(answer).unwrap())
}

pub(crate) fn get(server: &Server, path: &str, accept: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n");
    exchange(server, request.as_bytes())
}

/// Asks until the answer begins like this.
fn await_status(server: &Server, path: &str, status: &str) -> String {
    loop {
        let answer = get(server, path, "*/*");
        if answer.starts_with(&format!("HTTP/1.1 {status}")) {
            return answer;
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_scrape_is_answered_in_the_format_that_is_asked_for() {
    let mut publisher = publisher();
    let server = serve(&publisher);
    for path in ["/metrics", "/healthz", "/readyz"] {
        let answer = get(&server, path, "*/*");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{path}: {answer}");
        assert!(answer.contains("\r\n\r\nnot ready: "), "{path}: {answer}");
    }
    transition(&mut publisher, 1);
    tick(&mut publisher, 1, 0);
    let text = await_status(&server, "/metrics", "200");
    assert!(text.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert!(
        text.contains("\n# TYPE tcpstate_events_received_total counter\n"),
        "{text}"
    );
    assert!(!text.contains("# EOF"));
    let open = get(&server, "/metrics", "application/openmetrics-text");
    assert!(
        open.contains(
            "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"
        )
    );
    assert!(
        open.contains("\n# TYPE tcpstate_events_received counter\n"),
        "{open}"
    );
    assert!(open.ends_with("\n# EOF\n"));
    for path in ["/healthz", "/readyz"] {
        assert!(get(&server, path, "*/*").ends_with("\r\n\r\nok\n"));
    }
    // The next snapshot makes another text.
    transition(&mut publisher, 2);
    tick(&mut publisher, 2, 0);
    let wanted = "\ntcpstate_transitions_total{from=\"CLOSE\",to=\"SYN_SENT\",port=\"80\"} 2\n";
    while !get(&server, "/metrics", "*/*").contains(wanted) {}
}

#[test]
fn losses_and_the_end_of_the_run_are_said() {
    let mut publisher = publisher();
    let server = serve(&publisher);
    tick(&mut publisher, 1, 0);
    await_status(&server, "/healthz", "200");
    tick(&mut publisher, 2, 7);
    let answer = await_status(&server, "/healthz", "503");
    assert!(
        answer.contains("events were lost 0 s ago, 7 since the start"),
        "{answer}"
    );
    // It still shows the present.
    await_status(&server, "/readyz", "200");
    await_status(&server, "/metrics", "200");
    drop(publisher);
    let answer = await_status(&server, "/metrics", "503");
    assert!(answer.ends_with("the run has ended\n"), "{answer}");
}

#[test]
fn other_requests_are_refused() {
    let mut publisher = publisher();
    let server = serve(&publisher);
    tick(&mut publisher, 1, 0);
    await_status(&server, "/readyz", "200");
    let index = get(&server, "/", "*/*");
    assert!(index.contains("/metrics\n/healthz\n/readyz\n/api/v1/snapshot\n"));
    for (request, status) in [
        (
            &b"GET /debug HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
            "404",
        ),
        (
            b"GET /metrics/../x HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "404",
        ),
        (
            b"DELETE /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "405",
        ),
        (
            b"POST /api/v1/connections HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "405",
        ),
        (
            b"OPTIONS /api/v1/snapshot HTTP/1.1\r\nHost: localhost\r\nOrigin: http://y\r\n\r\n",
            "405",
        ),
        (
            b"GET /api/v1/debug HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "404",
        ),
        (
            b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
            "405",
        ),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            "400",
        ),
        (b"GET /metrics HTTP/1.1\r\nHost x\r\n\r\n", "400"),
    ] {
        let answer = exchange(&server, request);
        let expected = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&expected), "{request:?}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(64 << 10));
    let answer = exchange(&server, long.as_bytes());
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    let many = "A: b\r\n".repeat(1_000);
    let many = format!("GET / HTTP/1.1\r\n{many}\r\n");
    let answer = exchange(&server, many.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // None of them has disturbed it.
    await_status(&server, "/metrics", "200");
}

#[test]
fn whoever_comes_late_is_answered_beside_any_number_of_silent_clients() {
    let mut publisher = publisher();
    let server = serve(&publisher);
    tick(&mut publisher, 1, 0);
    await_status(&server, "/readyz", "200");
    let silent: Vec<TcpStream> = (0..200)
        .map(|at| {
            let mut stream = connect(&server);
            // Nothing, half a request, or a whole one whose answer is never read.
            let begin = [&b""[..], b"GET /met", b"GET /metrics HTTP/1.1\r\n\r\n"];
            let _ = stream.write_all(begin[at % 3]);
            stream
        })
        .collect();
    await_status(&server, "/metrics", "200");
    // The oldest has been closed for the later ones, without an answer.
    let mut oldest = silent.into_iter().next().unwrap();
    assert_eq!(read(&mut oldest).unwrap(), "");
}

#[test]
fn a_client_that_sends_half_a_request_is_closed_after_a_while() {
    let mut publisher = publisher();
    let server = serve(&publisher);
    tick(&mut publisher, 1, 0);
    let mut stream = connect(&server);
    stream.write_all(b"GET /metrics HT").unwrap();
    let answer = read(&mut stream).unwrap();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408 "),
        "{answer}"
    );
    // One that has no more to say is closed at once.
    let stream = &mut connect(&server);
    stream.write_all(b"GET").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let answer = read(stream).unwrap();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
        "{answer}"
    );
}

#[test]
fn an_address_in_use_is_refused_by_name() {
    let publisher = publisher();
    let server = serve(&publisher);
    let error = Listener::bind(server.address()).unwrap_err();
    assert!(matches!(error, ServeError::Listen { .. }));
    assert_eq!(
        error.to_string(),
        format!("cannot listen on {}", server.address())
    );
}

#[test]
fn nothing_is_served_with_privileges_that_were_to_go() {
    let publisher = publisher();
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = listener.address();
    let refused = || Err(io::Error::other("no"));
    let error = Server::start(
        &options(&Feed::default()),
        listener,
        publisher.subscribe(),
        refused,
    )
    .unwrap_err();
    assert!(matches!(error, ServeError::Start(_)));
    let error = TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn nobody_can_connect_before_it_listens() {
    let publisher = publisher();
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let error = TcpStream::connect(listener.address()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let server = Server::start(
        &options(&Feed::default()),
        listener,
        publisher.subscribe(),
        || Ok(()),
    )
    .unwrap();
    assert!(get(&server, "/", "*/*").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_socket_that_listens_already_is_taken() {
    let publisher = publisher();
    let passed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // It waits in the backlog until there is a server.
    let mut early = TcpStream::connect(passed.local_addr().unwrap()).unwrap();
    early
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let listener = Listener::passed(passed).unwrap();
    let _server = Server::start(
        &options(&Feed::default()),
        listener,
        publisher.subscribe(),
        || Ok(()),
    )
    .unwrap();
    assert!(read(&mut early).unwrap().starts_with("HTTP/1.1 200 "));
}

#[test]
fn what_is_dropped_listens_no_more() {
    let publisher = publisher();
    let server = serve(&publisher);
    let address = server.address();
    let silent = connect(&server);
    drop(server);
    let error = TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    drop(silent);
}
