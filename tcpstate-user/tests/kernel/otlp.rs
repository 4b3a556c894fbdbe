//! `tcpstate serve --otlp`: metrics that are pushed to a collector, made here of the protocol's own messages.
//!
//! Only IPv4 is watched, and scrapes and pushes are IPv6, so that neither changes what is counted. A push between two scrapes has
//! counts between theirs, and where these are equal, the same.

mod secure;

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use flate2::read::GzDecoder;
use libtest_mimic::Trial;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{KeyValue, any_value},
    metrics::v1::{HistogramDataPoint, NumberDataPoint, metric::Data, number_data_point},
};
use prost::Message as _;
use rustix::process::{Pid, Signal, kill_process};
use tcpstate_serve::{
    metrics::{Kind, tables},
    otlp::named,
};

use crate::{
    need::{Need, trial},
    net::{Netns, PATIENCE, await_that, joined, unused_port},
    process::{Tcpstate, has_result},
    serve::{Scrape, Served},
};

pub fn add(trials: &mut Vec<Trial>) {
    trials.push(trial(
        "otlp::has_what_a_scrape_has",
        &[Need::Btf],
        has_what_a_scrape_has,
    ));
    trials.push(trial("otlp::collector_away", &[Need::Btf], collector_away));
    trials.push(trial("otlp::over_tls", &[Need::Btf], secure::over_tls));
}

/// The memory that a run may take besides while the collector is away.
const MEMORY_BYTES: u64 = 4 << 20;

fn has_what_a_scrape_has() -> Result<()> {
    let address = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), unused_port());
    let (served, collector) = start(address, "http", &[], plain)?;
    served.connect()?;
    compare(&served, &collector)?;
    kill_process(Pid::from_child(&served.tcpstate.child), Signal::TERM)?;
    let output = served.tcpstate.finish()?;
    ensure!(has_result(output.status), "{output:?}");
    let pushes = collector.end()?;
    for push in &pushes {
        let resource = push.resource_metrics[0]
            .resource
            .as_ref()
            .context("no resource")?;
        let resource = attributes(&resource.attributes)?;
        ensure!(resource["service.name"] == "tcpstate", "{resource:?}");
    }
    check_times(&pushes)
}

/// Away is a collector to which nobody can connect, and one that takes connections and does not answer.
fn collector_away() -> Result<()> {
    let address = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), unused_port());
    let (served, collector) = start(address, "http", &[], plain)?;
    let mut sent = Vec::new();
    collector.await_pushes(2)?;
    let before = served.tcpstate.resident()?;
    sent.extend(collector.end()?);
    beside(&served, "unavailable", 3)?;
    let deaf = Collector::start(&served.netns, address, |stream| receive(stream))?;
    beside(&served, "unanswered", 1)?;
    sent.extend(deaf.end()?);
    let now = served.tcpstate.resident()?;
    ensure!(
        now <= before + MEMORY_BYTES,
        "{before} bytes before, {now} now"
    );
    let collector = Collector::start(&served.netns, address, plain)?;
    compare(&served, &collector)?;
    kill_process(Pid::from_child(&served.tcpstate.child), Signal::TERM)?;
    let output = served.tcpstate.finish()?;
    ensure!(has_result(output.status), "{output:?}");
    let said = |text: &str| {
        output
            .stderr
            .lines()
            .filter(|line| line.contains(text))
            .count()
    };
    ensure!(
        said("cannot push metrics to http://[::1]:") == 1,
        "{output:?}"
    );
    ensure!(
        said("metrics are pushed to http://[::1]:") == 1,
        "{output:?}"
    );
    // Over the whole run, whatever became of each.
    sent.extend(collector.end()?);
    check_times(&sent)
}

/// A run that pushes each second by this scheme, with these words besides, and its collector, which was there before.
fn start(
    collector: SocketAddr,
    scheme: &str,
    besides: &[&str],
    take: impl Fn(&TcpStream) -> Result<Option<ExportMetricsServiceRequest>> + Send + 'static,
) -> Result<(Served, Collector)> {
    let netns = Netns::new()?;
    let url = format!("{scheme}://{collector}");
    let collector = Collector::start(&netns, collector, take)?;
    let (http, port) = (
        SocketAddr::new(Ipv6Addr::LOCALHOST.into(), unused_port()),
        unused_port(),
    );
    let (listen, label) = (http.to_string(), port.to_string());
    let words = [
        ["--listen", &listen],
        ["--ports", &label],
        ["--netns", "self"],
        ["--otlp", &url],
        ["--otlp-interval", "1s"],
    ];
    let words = [&["serve", "-4"][..], &words.concat(), besides].concat();
    let tcpstate = netns.run(|| Tcpstate::start(&words))?;
    Ok((Served::await_ready(netns, tcpstate, http, port)?, collector))
}

/// Makes connections and scrapes until there were so many pushes with this result. Each scrape is answered.
fn beside(served: &Served, result: &str, wanted: u64) -> Result<()> {
    let label = format!("result=\"{result}\"");
    served.connect()?;
    await_that("pushes fail", || {
        let (status, text) = served.get("/metrics")?;
        ensure!(status == 200, "/metrics: {status}: {text}");
        thread::sleep(Duration::from_millis(100));
        Ok(Scrape(text).sum("tcpstate_otlp_pushes_total", &[&label]) >= wanted)
    })
}

/// Compares a push with the scrapes before and after it, once nothing changes but what always does.
fn compare(served: &Served, collector: &Collector) -> Result<()> {
    await_that("a push between equal scrapes", || {
        let before = scrape(served)?;
        // One may be under way already.
        let count = collector.pushes().len();
        collector.await_pushes(count + 2)?;
        let pushed = values(&collector.pushes()[count + 1])?;
        let after = scrape(served)?;
        for (series, value) in &before {
            let pushed = pushed.get(series);
            let pushed = pushed.with_context(|| format!("not pushed: {series:?}"))?;
            let after = after.get(series).context("a series vanished")?;
            let is_count = tables()
                .filter(|metric| matches!(metric.kind, Kind::Counter | Kind::Histogram))
                .any(|metric| series.name.starts_with(&metric.name()));
            // A sum of seconds is written with fewer digits.
            let rounding = 1e-6 * after.abs();
            ensure!(
                !is_count || (value - rounding..=after + rounding).contains(pushed),
                "{series:?}: {value} before, {pushed} pushed, {after} after"
            );
        }
        for series in pushed.keys() {
            ensure!(after.contains_key(series), "not in /metrics: {series:?}");
        }
        let transitions = |of: &Values| {
            let series = of.iter();
            let wanted = |series: &Series| series.name == "tcpstate_transitions_total";
            let counts = series.filter(|(series, _)| wanted(series));
            counts.map(|(_, count)| *count).sum::<f64>()
        };
        Ok(transitions(&before) > 1_000.0 && transitions(&before) >= transitions(&after))
    })
}

/// A series of a scrape.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
}

type Values = BTreeMap<Series, f64>;

/// The values of a scrape.
fn scrape(served: &Served) -> Result<Values> {
    let (status, text) = served.get("/metrics")?;
    ensure!(status == 200, "/metrics: {status}: {text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let values = lines.map(|line| {
        let (series, value) = line.rsplit_once(' ').context("no value")?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.trim_end_matches('}').split(',');
        let labels = labels.filter_map(|label| {
            let (name, value) = label.split_once('=')?;
            let value = value.trim_matches('"');
            // Bounds are numbers, in whatever form.
            let bound: Option<f64> = value.parse().ok().filter(|_| name == "le");
            let value = bound.map_or_else(|| value.to_owned(), |bound| bound.to_string());
            Some((name.to_owned(), value))
        });
        let series = Series {
            name: name.to_owned(),
            labels: labels.collect(),
        };
        Ok((series, value.parse()?))
    });
    values.collect()
}

/// The values of a push, under the names of a scrape.
fn values(push: &ExportMetricsServiceRequest) -> Result<Values> {
    let mut values = Values::new();
    let mut add = |name: String, labels: &BTreeMap<String, String>, value: f64| {
        let labels = labels.clone();
        let twice = values.insert(Series { name, labels }, value);
        ensure!(twice.is_none(), "a series is twice in a push");
        Ok(())
    };
    for metric in &push.resource_metrics[0].scope_metrics[0].metrics {
        let here = tables().find(|here| named(here).name == metric.name);
        let here = here.with_context(|| format!("no metric is {}", metric.name))?;
        ensure!(metric.description == here.meaning, "{metric:?}");
        let numbers: &[NumberDataPoint] = match metric.data.as_ref().context("no data")? {
            Data::Sum(sum) => &sum.data_points,
            Data::Gauge(gauge) => &gauge.data_points,
            Data::Histogram(histogram) => {
                for point in &histogram.data_points {
                    let labels = labels(&point.attributes)?;
                    let name = here.name();
                    add(format!("{name}_count"), &labels, count(point.count))?;
                    add(format!("{name}_sum"), &labels, point.sum.context("no sum")?)?;
                    for (bound, at_most) in buckets(point) {
                        let mut labels = labels.clone();
                        labels.insert("le".to_owned(), bound.to_string());
                        add(format!("{name}_bucket"), &labels, count(at_most))?;
                    }
                }
                continue;
            }
            other => anyhow::bail!("{other:?}"),
        };
        for point in numbers {
            let value = match point.value.context("no value")? {
                number_data_point::Value::AsInt(value) => count(u64::try_from(value)?),
                number_data_point::Value::AsDouble(value) => value,
            };
            add(here.name(), &labels(&point.attributes)?, value)?;
        }
    }
    Ok(values)
}

/// The buckets of a scrape: upper bounds, and what is not above.
fn buckets(point: &HistogramDataPoint) -> impl Iterator<Item = (f64, u64)> {
    let bounds = point.explicit_bounds.iter().copied();
    let bounds = bounds.chain([f64::INFINITY]);
    let mut sum = 0;
    let counts = point.bucket_counts.iter().map(move |count| {
        sum += count;
        sum
    });
    bounds.zip(counts)
}

#[expect(clippy::cast_precision_loss, reason = "some thousands, and bytes")]
fn count(count: u64) -> f64 {
    count as f64
}

/// Attributes as labels of a scrape.
fn labels(of: &[KeyValue]) -> Result<BTreeMap<String, String>> {
    let mut labels = attributes(of)?;
    if let Some(state) = labels.remove("network.connection.state") {
        let transport = labels.remove("network.transport");
        ensure!(transport.as_deref() == Some("tcp"), "{transport:?}");
        let state = match &*state {
            "closed" => "CLOSE".to_owned(),
            "syn_received" => "SYN_RECV".to_owned(),
            "fin_wait_1" => "FIN_WAIT1".to_owned(),
            "fin_wait_2" => "FIN_WAIT2".to_owned(),
            other => other.to_uppercase(),
        };
        labels.insert("state".to_owned(), state);
    }
    Ok(labels)
}

fn attributes(of: &[KeyValue]) -> Result<BTreeMap<String, String>> {
    let attributes = of.iter().map(|attribute| {
        let value = attribute.value.as_ref().and_then(|any| any.value.as_ref());
        let Some(any_value::Value::StringValue(value)) = value else {
            anyhow::bail!("{attribute:?}");
        };
        Ok((attribute.key.clone(), value.clone()))
    });
    attributes.collect()
}

/// Each push is later than the one before, and all are of one run.
fn check_times(pushes: &[ExportMetricsServiceRequest]) -> Result<()> {
    let mut times = Vec::new();
    for push in pushes {
        for metric in &push.resource_metrics[0].scope_metrics[0].metrics {
            if let Some(Data::Sum(sum)) = &metric.data {
                let point = sum.data_points.first().context("no point")?;
                times.push((point.start_time_unix_nano, point.time_unix_nano));
            }
        }
        // Those of one push are equal.
        times.dedup();
    }
    ensure!(times.len() == pushes.len() && times.len() > 1, "{times:?}");
    ensure!(
        times.is_sorted_by(|a, b| a.0 == b.0 && a.0 < a.1 && a.1 < b.1),
        "{times:?}"
    );
    Ok(())
}

/// A collector, until it is dropped: then nobody can connect to it.
struct Collector {
    pushes: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Collector {
    /// Starts one, which takes what comes over each connection.
    fn start(
        netns: &Netns,
        address: SocketAddr,
        take: impl Fn(&TcpStream) -> Result<Option<ExportMetricsServiceRequest>> + Send + 'static,
    ) -> Result<Self> {
        let listener = netns.run(|| Ok(TcpListener::bind(address)?))?;
        listener.set_nonblocking(true)?;
        let pushes = Arc::new(Mutex::new(Vec::new()));
        let ends = Arc::new(AtomicBool::new(false));
        let (received, is_ended) = (Arc::clone(&pushes), Arc::clone(&ends));
        let thread = thread::spawn(move || {
            let mut open = Vec::new();
            while !is_ended.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false)?;
                        stream.set_read_timeout(Some(PATIENCE))?;
                        if let Some(push) = take(&stream)? {
                            received
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .push(push);
                            open.push(stream);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        thread::sleep(Duration::from_millis(2));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        });
        Ok(Self {
            pushes,
            ends,
            thread: Some(thread),
        })
    }

    /// The messages that it has received.
    fn pushes(&self) -> Vec<ExportMetricsServiceRequest> {
        let pushes = self.pushes.lock();
        pushes.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has so many.
    fn await_pushes(&self, count: usize) -> Result<()> {
        await_that("pushes come", || {
            ensure!(
                self.thread
                    .as_ref()
                    .is_some_and(|thread| !thread.is_finished()),
                "the collector has ended"
            );
            Ok(self.pushes().len() >= count)
        })
    }

    /// Ends it. Returns what it has received.
    fn end(mut self) -> Result<Vec<ExportMetricsServiceRequest>> {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            joined(thread.join())?;
        }
        Ok(self.pushes())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

/// Takes a push without TLS, and answers it.
fn plain(stream: &TcpStream) -> Result<Option<ExportMetricsServiceRequest>> {
    let push = receive(stream)?;
    if push.is_some() {
        answer(stream)?;
    }
    Ok(push)
}

/// A push, whole; `None`: its sender gave it up.
fn receive(mut stream: impl Read) -> Result<Option<ExportMetricsServiceRequest>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_err() {
            return Ok(None);
        }
        head.extend(byte);
    }
    let head = String::from_utf8(head)?;
    ensure!(head.starts_with("POST /v1/metrics HTTP/1.1\r\n"), "{head}");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.context("no length")?.parse()?];
    if stream.read_exact(&mut body).is_err() {
        return Ok(None);
    }
    let mut unpacked = Vec::new();
    GzDecoder::new(&*body).read_to_end(&mut unpacked)?;
    Ok(Some(ExportMetricsServiceRequest::decode(&*unpacked)?))
}

fn answer(mut stream: impl Write) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
}
