//! `tcpstate serve` scraped by a Prometheus, each second, beside a churn of connections.
//!
//! The churn is IPv4, and only that is watched. Prometheus and the test itself speak IPv6, so that a scrape does not change
//! what is counted, and the counters in Prometheus must be those of the tool's last line.
//!
//! It has the rules of `deploy/`. There is trouble all the time, so that every query of these rules and of the dashboard has an
//! answer: an alert's is the value that it compares.

#[path = "../support/queries.rs"]
mod queries;

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    diagnose::set,
    need::{Need, trial},
    net::{Netns, PATIENCE, allow_open_files, await_that, listen, shutdown_write, unused_port},
    process::Running,
    serve::{Scrape, Served, get},
};

/// The time of the churn.
const CHURN: Duration = Duration::from_mins(1);

/// Connections between two pauses.
const BATCH: u64 = 50;

pub fn add(trials: &mut Vec<Trial>) {
    let needs = [Need::Btf, Need::Program("prometheus")];
    trials.push(trial("prometheus::has_what_was_counted", &needs, scraped));
}

fn scraped() -> Result<()> {
    let address = IpAddr::from(Ipv6Addr::LOCALHOST);
    let served = Served::start_on(address, &["-4", "--json", "--bpf-stats"])?;
    let prometheus = Prometheus::start(&served.netns, served.http)?;
    prometheus.await_value("up", 1.0)?;
    let trouble = served.netns.run(Trouble::make)?;
    let (made, refused) = served.netns.run(|| churn(served.port))?;
    // The last ones are shown a second later, and scraped another second later.
    let mut counted = 0;
    await_that("what was made is counted", || {
        let (_, text) = served.get("/metrics")?;
        let scrape = Scrape(text);
        let ends = scrape.sum("tcpstate_connections_closed_total", &[]);
        let missing = scrape.sum("tcpstate_events_lost_total", &[])
            + scrape.sum("tcpstate_transitions_missing_total", &[]);
        counted = scrape.sum("tcpstate_events_received_total", &[]);
        // Each connection has two ends here, and one that is refused has one.
        Ok(ends == 2 * made + refused || missing > 0)
    })?;
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let received = counted as f64;
    prometheus.await_value("tcpstate_events_received_total", received)?;
    prometheus.await_value("sum(tcpstate_transitions_total)", received)?;
    prometheus.await_value("min_over_time(up[15s])", 1.0)?;
    prometheus.await_value("count(tcpstate_connections)", 11.0)?;
    prometheus.await_value("tcpstate_build_info", 1.0)?;
    for query in [
        "sum(rate(tcpstate_transitions_total[5m]))",
        "histogram_quantile(0.5, sum by (le) (rate(tcpstate_state_duration_seconds_bucket{state=\"ESTABLISHED\"}[5m])))",
        "histogram_quantile(0.99, sum by (le) (rate(tcpstate_connection_duration_seconds_bucket{role=\"client\"}[5m])))",
        "sum(rate(tcpstate_handshake_duration_seconds_sum[5m])) / sum(rate(tcpstate_handshake_duration_seconds_count[5m]))",
        "sum(rate(tcpstate_connections_closed_total{cause=\"fin\"}[5m]))",
        "tcpstate_connections{state=\"TIME_WAIT\"}",
        "tcpstate_ring_bytes",
        "rate(process_cpu_seconds_total[5m])",
    ] {
        let value = prometheus.value(query)?;
        ensure!(
            value.is_some_and(|value| value > 0.0 && value.is_finite()),
            "{query}: {value:?}"
        );
    }
    prometheus.await_all_answers()?;
    kill_process(Pid::from_child(&served.tcpstate.child), Signal::TERM)?;
    let (_, summary) = served.tcpstate.finish()?.json()?;
    let last = summary["accounting"]["received"].as_u64();
    ensure!(
        last == Some(counted),
        "received {last:?}, in Prometheus {counted}"
    );
    drop(trouble);
    // Its absence shows too.
    prometheus.await_value("up", 0.0)
}

/// Makes connections for some time, and tries some where nobody listens. Returns the numbers of both.
fn churn(port: u16) -> Result<(u64, u64)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let nobody = (Ipv4Addr::LOCALHOST, unused_port());
    let (mut made, mut refused, begin) = (0, 0, Instant::now());
    while begin.elapsed() < CHURN {
        for _ in 0..BATCH {
            let client = TcpStream::connect(listener.local_addr()?)?;
            let (mut server, _) = listener.accept()?;
            drop(client);
            server.read_to_end(&mut Vec::new())?;
        }
        made += BATCH;
        ensure!(TcpStream::connect(nobody).is_err(), "somebody listens");
        refused += 1;
        thread::sleep(Duration::from_millis(50));
    }
    Ok((made, refused))
}

/// Connections in trouble. None of them ends before this does.
struct Trouble {
    _listeners: Vec<TcpListener>,
    _connections: Vec<TcpStream>,
}

impl Trouble {
    /// Makes it in the namespace of the calling thread.
    fn make() -> Result<Self> {
        // Of these ports more than four fifths are taken towards one destination; towards others each is free.
        set("ipv4/ip_local_port_range", "30000 33999")?;
        allow_open_files(16_384)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, unused_port()))?;
        let mut connections = Vec::new();
        for _ in 0..3_300 {
            connections.push(TcpStream::connect(listener.local_addr()?)?);
            connections.push(listener.accept()?.0);
        }
        // One in CLOSE_WAIT: its peer has closed, and it has not.
        shutdown_write(&connections[0])?;
        // One in FIN_WAIT1: its peer has no room for what comes before the FIN.
        let (mut stuck, data) = (&connections[2], vec![0; 65_536]);
        stuck.set_nonblocking(true)?;
        while stuck.write(&data).is_ok() {}
        shutdown_write(stuck)?;
        // One more waits to be accepted than may.
        let full = listen(unused_port(), 2)?;
        for _ in 0..3 {
            connections.push(TcpStream::connect(full.local_addr()?)?);
        }
        Ok(Self {
            _listeners: vec![listener, full],
            _connections: connections,
        })
    }
}

/// A running Prometheus, with its data in a folder of its own.
struct Prometheus<'a> {
    netns: &'a Netns,
    address: SocketAddr,
    _running: Running,
    folder: TempDir,
}

impl<'a> Prometheus<'a> {
    /// Starts one that scrapes this server in its namespace, and returns when it answers.
    fn start(netns: &'a Netns, scraped: SocketAddr) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (config, data) = (
            folder.path().join("prometheus.yml"),
            folder.path().join("data"),
        );
        let text = format!(
            "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  evaluation_interval: 1s\n\
             rule_files: [recording.yml, alerts.yml]\n\
             scrape_configs:\n- job_name: tcpstate\n  static_configs:\n  - targets: ['{scraped}']\n"
        );
        fs::write(&config, text)?;
        fs::write(folder.path().join("recording.yml"), queries::RECORDING)?;
        fs::write(folder.path().join("alerts.yml"), queries::ALERTS)?;
        let address = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), unused_port());
        let log = fs::File::create(folder.path().join("log"))?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let running = netns.run(|| Running::new(&mut command))?;
        let this = Self {
            netns,
            address,
            _running: running,
            folder,
        };
        await_that("Prometheus is ready", || {
            let answer = this.netns.run(|| get(address, "/-/ready"));
            Ok(answer.is_ok_and(|(status, _)| status == 200))
        })
        .with_context(|| this.log())?;
        Ok(this)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The answer of its API at this path.
    fn answer(&self, path: &str) -> Result<Value> {
        let (status, body) = self.netns.run(|| get(self.address, path))?;
        ensure!(status == 200, "{path}: {status}: {body}");
        Ok(serde_json::from_str(&body)?)
    }

    /// The series that answer a query.
    fn series(&self, query: &str) -> Result<Vec<Value>> {
        let mut path = String::from("/api/v1/query?query=");
        for byte in query.bytes() {
            write!(path, "%{byte:02x}")?;
        }
        let mut answer = self.answer(&path).with_context(|| query.to_owned())?;
        match answer["data"]["result"].take() {
            Value::Array(series) => Ok(series),
            other => bail!("{query}: no list of series: {other}"),
        }
    }

    /// The value of a query that has one; `None`: it has none yet.
    fn value(&self, query: &str) -> Result<Option<f64>> {
        let series = self.series(query)?;
        ensure!(series.len() <= 1, "{query} has several values: {series:?}");
        let Some(series) = series.first() else {
            return Ok(None);
        };
        let text = series["value"][1].as_str().context("no value")?;
        Ok(Some(text.parse()?))
    }

    /// Waits until there is data for every query of the dashboard and of the rules.
    fn await_all_answers(&self) -> Result<()> {
        let mut queries = queries::of_dashboard();
        let answer = self.answer("/api/v1/rules")?;
        let groups = answer["data"]["groups"].as_array().context("no groups")?;
        let rules = groups.iter().filter_map(|group| group["rules"].as_array());
        for rule in rules.flatten() {
            let word = |name: &str| rule[name].as_str().context("no word").map(str::to_owned);
            ensure!(rule["health"] == "ok", "{rule}");
            let query = word("query")?;
            match &*word("type")? {
                "alerting" => queries.push(queries::compared(&query).to_owned()),
                "recording" => queries.extend([query, word("name")?]),
                other => bail!("a rule of type {other}"),
            }
        }
        ensure!(queries.len() > 60, "{} queries", queries.len());
        queries.iter().try_for_each(|query| {
            await_that(query, || Ok(!self.series(query)?.is_empty())).with_context(|| self.log())
        })
    }

    /// Waits until a query has this value.
    fn await_value(&self, query: &str, wanted: f64) -> Result<()> {
        let mut last = None;
        await_that(query, || {
            last = self.value(query)?;
            Ok(last.is_some_and(|value| (value - wanted).abs() < 0.5))
        })
        .with_context(|| {
            format!(
                "{wanted} wanted, {last:?} after {PATIENCE:?}; {}",
                self.log()
            )
        })
    }
}
