//! Pushes to a collector that is made here, of the protocol's own messages.

mod secure;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    sync::mpsc::{self, Receiver},
    thread,
};

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
    },
    common::v1::{KeyValue, any_value},
    metrics::v1::{AggregationTemporality, Metric, metric::Data, number_data_point},
};
use prost::Message as _;
use tcpstate_core::present::Publisher;

use super::*;
use crate::{
    Buckets, Server,
    metrics::tests::{publisher, tick, transition},
    tests::{get, serve},
};

/// A request that came.
struct Received {
    head: String,
    message: ExportMetricsServiceRequest,
}

fn listener() -> (TcpListener, Collector) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let collector = Collector::new(Endpoint::new(&url).unwrap(), None).unwrap();
    (listener, collector)
}

/// Takes a request, and answers it.
fn receive(listener: &TcpListener, answer: &[u8]) -> Received {
    let (stream, _) = listener.accept().unwrap();
    receive_from(stream, answer)
}

fn receive_from(mut stream: impl Read + Write, answer: &[u8]) -> Received {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    let mut unpacked = Vec::new();
    GzDecoder::new(&*body).read_to_end(&mut unpacked).unwrap();
    stream.write_all(answer).unwrap();
    Received {
        head,
        message: ExportMetricsServiceRequest::decode(&*unpacked).unwrap(),
    }
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn ok() -> Vec<u8> {
    answer("200 OK", b"")
}

fn partial(points: i64) -> Vec<u8> {
    let response = ExportMetricsServiceResponse {
        partial_success: Some(ExportMetricsPartialSuccess {
            rejected_data_points: points,
            error_message: "too many".to_owned(),
        }),
    };
    answer("200 OK", &response.encode_to_vec())
}

/// The values of a metric: its attributes in order, and the value.
fn numbers(metric: &Metric) -> Vec<(Vec<(&str, &str)>, number_data_point::Value)> {
    let points = match metric.data.as_ref().unwrap() {
        Data::Sum(sum) => &sum.data_points,
        Data::Gauge(gauge) => &gauge.data_points,
        other => panic!("{other:?}"),
    };
    let points = points.iter();
    points
        .map(|point| (attributes(&point.attributes), point.value.unwrap()))
        .collect()
}

fn attributes(attributes: &[KeyValue]) -> Vec<(&str, &str)> {
    let attributes = attributes.iter().map(|attribute| {
        let value = attribute.value.as_ref().unwrap().value.as_ref().unwrap();
        match value {
            any_value::Value::StringValue(text) => (&*attribute.key, &**text),
            other => panic!("{other:?}"),
        }
    });
    attributes.collect()
}

fn metrics(message: &ExportMetricsServiceRequest) -> &[Metric] {
    &message.resource_metrics[0].scope_metrics[0].metrics
}

fn metric<'a>(message: &'a ExportMetricsServiceRequest, name: &str) -> &'a Metric {
    let mut metrics = metrics(message).iter();
    metrics.find(|metric| metric.name == name).unwrap()
}

/// The times of a push, which are those of all its values.
fn times(message: &ExportMetricsServiceRequest) -> (u64, u64) {
    let Some(Data::Sum(seen)) = &metric(message, "tcpstate.events_seen").data else {
        panic!("it is a counter");
    };
    let point = &seen.data_points[0];
    (point.start_time_unix_nano, point.time_unix_nano)
}

#[test]
fn a_message_has_all_values_in_the_forms_of_the_protocol() {
    let mut publisher = publisher();
    for cookie in 1..=3 {
        transition(&mut publisher, cookie);
    }
    tick(&mut publisher, 2, 4);
    let present = Present::new(Buckets::default(), 65_536);
    present.take(publisher.subscribe().latest().unwrap());
    let exposed = present.exposed().unwrap();
    let at = Times {
        start_ns: 5,
        now_ns: 7,
    };
    let message = message::request(&exposed, 9_716, at).unwrap();
    let resource = message.resource_metrics[0].resource.as_ref().unwrap();
    assert_eq!(
        attributes(&resource.attributes),
        [
            ("service.name", "tcpstate"),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.instance.id", "host:9716"),
            ("host.name", "host"),
        ]
    );
    let transitions = metric(&message, "tcpstate.transitions");
    let labels = vec![("from", "CLOSE"), ("to", "SYN_SENT"), ("port", "80")];
    let three = number_data_point::Value::AsInt(3);
    assert_eq!(numbers(transitions), [(labels, three)]);
    let Some(Data::Sum(sum)) = &transitions.data else {
        panic!("it is a counter");
    };
    let cumulative = AggregationTemporality::Cumulative;
    assert!(sum.is_monotonic && sum.aggregation_temporality() == cumulative);
    assert_eq!(times(&message), (5, 7));

    let connections = metric(&message, "system.network.connection.count");
    assert_eq!(connections.unit, "{connection}");
    let labels = vec![
        ("network.connection.state", "syn_sent"),
        ("network.transport", "tcp"),
    ];
    assert!(numbers(connections).contains(&(labels, three)));
    assert_eq!(numbers(connections).len(), 11);
    assert!(matches!(&connections.data, Some(Data::Sum(sum)) if !sum.is_monotonic));

    let ring = metric(&message, "tcpstate.ring");
    assert_eq!(ring.unit, "By");
    let size = number_data_point::Value::AsInt(65_536);
    assert_eq!(numbers(ring), [(vec![], size)]);
    let build = metric(&message, "tcpstate.build_info");
    let version = vec![("version", env!("CARGO_PKG_VERSION"))];
    let one = number_data_point::Value::AsInt(1);
    assert_eq!(numbers(build), [(version, one)]);
    let cpu = metric(&message, "process.cpu.time");
    assert_eq!(
        numbers(cpu),
        [(vec![], number_data_point::Value::AsDouble(0.0))]
    );
    // An unknown figure is left out.
    let names: Vec<&str> = metrics(&message).iter().map(|one| &*one.name).collect();
    assert!(!names.contains(&"tcpstate.bpf_runs"), "{names:?}");
}

#[test]
fn a_histogram_has_its_buckets() {
    let mut publisher = publisher();
    crate::metrics::tests::refused(&mut publisher, [80, 80]);
    tick(&mut publisher, 60, 0);
    let present = Present::new(
        Buckets::new(&[Duration::from_micros(100), Duration::from_millis(10)]).unwrap(),
        65_536,
    );
    present.take(publisher.subscribe().latest().unwrap());
    let at = Times {
        start_ns: 5,
        now_ns: 7,
    };
    let message = message::request(&present.exposed().unwrap(), 1, at).unwrap();
    let durations = metric(&message, "tcpstate.state_duration");
    assert_eq!(durations.unit, "s");
    let Some(Data::Histogram(histogram)) = &durations.data else {
        panic!("it is a histogram");
    };
    let [point] = &*histogram.data_points else {
        panic!("{histogram:?}");
    };
    let labels = [("state", "SYN_SENT"), ("port", "80")];
    assert_eq!(attributes(&point.attributes), labels);
    assert_eq!(point.explicit_bounds, [0.000_1, 0.01]);
    assert_eq!(point.bucket_counts, [0, 2, 0]);
    assert_eq!((point.count, point.sum), (2, Some(0.002)));
    assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (5, 7));
}

/// One push of nothing.
fn push(collector: &Collector) -> Result<Option<Refused>, Failure> {
    let body = post::body(&ExportMetricsServiceRequest::default()).unwrap();
    runtime().unwrap().block_on(post::post(collector, body))
}

/// The result of one push to a collector that answers with these bytes, its part in the schedule, and its verdict.
fn result(bytes: Vec<u8>) -> (Result<Option<Refused>, String>, Last, Verdict) {
    let (listener, collector) = listener();
    let thread = thread::spawn(move || receive(&listener, &bytes));
    let result = push(&collector);
    let received = thread.join().unwrap();
    assert!(received.head.starts_with("POST /v1/metrics HTTP/1.1\r\n"));
    for header in [
        "content-type: application/x-protobuf",
        "content-encoding: gzip",
    ] {
        assert!(received.head.contains(&format!("\r\n{header}\r\n")));
    }
    let (last, verdict) = match &result {
        Ok(None) => (Last::Answered, Verdict::Accepted),
        Ok(Some(_)) => (Last::Answered, Verdict::PartlyAccepted),
        Err(failure) => (failure.last(), failure.verdict()),
    };
    (result.map_err(|error| error.to_string()), last, verdict)
}

#[test]
fn an_answer_decides_what_is_next() {
    let answered = |head: &str| result(answer(head, b"some words"));
    assert_eq!(result(ok()).0, Ok(None));
    assert_eq!(answered("202 Accepted").0, Ok(None));
    let refused = Refused {
        points: 7,
        reason: "too many".to_owned(),
    };
    assert_eq!(result(partial(7)).0, Ok(Some(refused)));
    // A hint about something that was accepted.
    assert_eq!(result(partial(0)).0, Ok(None));
    assert_eq!(result(partial(-1)).0, Ok(None));
    for status in ["429", "502", "503", "504"] {
        let (_, last, verdict) = answered(&format!("{status} Later"));
        assert_eq!((last, verdict), (Last::Failed(None), Verdict::Unavailable));
    }
    let (error, last, _) = answered("503 Later\r\nRetry-After: 17");
    assert_eq!(last, Last::Failed(Some(Duration::from_secs(17))));
    assert_eq!(error, Err("it answered 503 Service Unavailable".to_owned()));
    let date = "429 Later\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT";
    assert_eq!(answered(date).1, Last::Failed(None));
    for status in ["301", "400", "401", "404", "413", "500"] {
        let (_, last, verdict) = answered(&format!("{status} No"));
        assert_eq!((last, verdict), (Last::Answered, Verdict::Refused));
    }
    for broken in [&b""[..], b"HTTP/1.1 2", b"SSH-2.0-OpenSSH\r\n"] {
        let (error, last, verdict) = result(broken.to_vec());
        assert!(error.is_err());
        assert_eq!((last, verdict), (Last::Failed(None), Verdict::Unanswered));
    }
}

#[test]
fn a_collector_that_is_not_there_gets_nothing() {
    let (listener, collector) = listener();
    drop(listener);
    let failure = push(&collector).unwrap_err();
    assert!(matches!(failure, Failure::Connect(_)), "{failure}");
    assert_eq!(failure.verdict(), Verdict::Unavailable);
}

/// A server that pushes to a collector here, and the news.
fn pushing(publisher: &Publisher, collector: Collector) -> (Server, Receiver<News>) {
    let (news, told) = mpsc::channel();
    let options = Options {
        collector,
        interval: Duration::from_secs(1),
        port: 1,
    };
    let tell = move |what| news.send(what).unwrap();
    let pusher = Pusher::start(options, || Ok(()), tell).unwrap();
    let mut server = serve(publisher);
    server.push(pusher, publisher.subscribe());
    (server, told)
}

fn seen(message: &ExportMetricsServiceRequest) -> number_data_point::Value {
    numbers(metric(message, "tcpstate.events_seen"))[0].1
}

#[test]
fn each_push_is_newer_than_the_one_before() {
    let mut publisher = publisher();
    let (listener, collector) = listener();
    let (server, told) = pushing(&publisher, collector);
    let mut pushed = Vec::new();
    // Of all these answers only the first, the fourth and the fifth say that it works.
    let answers = [
        ok(),
        answer("503 Later", b""),
        Vec::new(),
        ok(),
        ok(),
        partial(3),
    ];
    for (second, answer) in (1..).zip(answers) {
        tick(&mut publisher, second, second);
        pushed.push(receive(&listener, &answer).message);
    }
    // The last answer has been read when it is told.
    let said: Vec<News> = (0..3)
        .map(|_| told.recv_timeout(Duration::from_mins(1)).unwrap())
        .collect();
    // Told to end, it pushes what came meanwhile.
    tick(&mut publisher, 100, 100);
    let collector = thread::spawn(move || receive(&listener, &ok()).message);
    let text = get(&server, "/metrics", "*/*");
    drop(server);
    pushed.push(collector.join().unwrap());
    let values: Vec<_> = pushed.iter().map(seen).collect();
    let expected = [11, 12, 13, 14, 15, 16, 110];
    assert_eq!(values, expected.map(number_data_point::Value::AsInt));
    let times: Vec<_> = pushed.iter().map(times).collect();
    assert!(
        times.is_sorted_by(|a, b| a.0 == b.0 && a.1 < b.1),
        "{times:?}"
    );
    let [
        News::Fails(Failure::Status { .. }),
        News::Works,
        News::RefusesPart(_),
        ..,
    ] = &*said
    else {
        panic!("{said:?}");
    };
    for (result, count) in [("accepted", 3), ("unavailable", 1), ("unanswered", 1)] {
        let line = format!("\ntcpstate_otlp_pushes_total{{result=\"{result}\"}} {count}\n");
        assert!(text.contains(&line), "{line}: {text}");
    }
}

#[test]
fn a_pusher_without_a_server_ends() {
    let (_listener, collector) = listener();
    let options = Options {
        collector,
        interval: Duration::from_secs(1),
        port: 1,
    };
    let failed = || Err(io::Error::other("no"));
    assert!(Pusher::start(options.clone(), failed, |_| ()).is_err());
    let pusher = Pusher::start(options, || Ok(()), |_| ()).unwrap();
    drop(pusher);
}
