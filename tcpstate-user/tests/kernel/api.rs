//! The API of `tcpstate serve` under real connections.
//!
//! The oracles are the kernel's own list of sockets, and other runs of tcpstate that know nothing of the server.

use std::{
    fs,
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tcpstate_common::State;

use crate::{
    ls::list,
    need::{Need, trial},
    net::{PATIENCE, allow_open_files, await_that, joined},
    process::Tcpstate,
    serve::{ENDS, Scrape, Served, connections},
    views::sockets,
};

pub fn add(trials: &mut Vec<Trial>) {
    let needs = [Need::Btf];
    trials.push(trial(
        "api::connections_are_those_of_ls",
        &needs,
        same_as_ls,
    ));
    trials.push(trial(
        "api::events_are_those_of_trace",
        &needs,
        same_as_trace,
    ));
    trials.push(trial("api::beside_broken_clients", &needs, broken_clients));
}

/// Clients whose connections stay, in several states.
const CLIENTS: usize = 12;

/// The body of an answer with status 200.
fn json(served: &Served, path: &str) -> Result<Value> {
    let (status, body) = served.get(path)?;
    ensure!(status == 200, "{path}: {status}: {body}");
    serde_json::from_str(&body).with_context(|| body)
}

/// The cookie, the ports, the state, the owner and the user of a connection.
type Seen = (u64, u64, u64, String, Value, Value);

fn seen(line: &Value, state: &Value) -> Result<Seen> {
    let number = |name: &str| {
        line[name]
            .as_u64()
            .with_context(|| format!("{name}: {line}"))
    };
    Ok((
        number("cookie")?,
        number("lport")?,
        number("rport")?,
        state.as_str().context("no state")?.to_owned(),
        line["owner"]["pid"].clone(),
        line["uid"].clone(),
    ))
}

fn present(one: &Value) -> &Value {
    let states = one["states"].as_array();
    states
        .and_then(|states| states.last())
        .map_or(&Value::Null, |stay| &stay["state"])
}

/// All connections at a port, page by page.
fn pages(served: &Served, query: &str) -> Result<Vec<Seen>> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/v1/connections?{query}&limit=5{cursor}");
        let answer = json(served, &path)?;
        let page = answer["connections"].as_array().context("no list")?;
        ensure!(page.len() <= 5, "{answer}");
        for one in page {
            all.push(seen(one, present(one))?);
        }
        match answer["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(all),
        }
    }
}

fn same_as_ls() -> Result<()> {
    let served = Served::start(&[])?;
    let port = served.port;
    // Some that were there before a request, in three states on either side.
    let (_listener, clients, _servers) = served.netns.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let mut servers = Vec::new();
        let mut clients = Vec::new();
        for at in 0..CLIENTS {
            let client = TcpStream::connect(listener.local_addr()?)?;
            servers.push(listener.accept()?.0);
            if at % 3 == 0 {
                client.shutdown(Shutdown::Write)?;
            }
            clients.push(client);
        }
        Ok((listener, clients, servers))
    })?;
    let query = format!("port={port}");
    // The list is that of the last full second.
    let mut both = (Vec::new(), Vec::new());
    let same = await_that("the API lists what ls lists", || {
        both.0 = pages(&served, &query)?;
        both.0.sort_by_key(|one| one.0);
        let (lines, _) = served
            .netns
            .run(|| list(&[&format!("service = :{port}")]))?;
        let lines = lines.iter().filter(|line| line["state"] != "LISTEN");
        let mut listed: Vec<Seen> = lines
            .map(|line| seen(line, &line["state"]))
            .collect::<Result<_>>()?;
        listed.sort_by_key(|one| one.0);
        both.1 = listed;
        Ok(both.0 == both.1 && both.0.len() == 2 * CLIENTS)
    });
    same.with_context(|| format!("{both:#?}"))?;
    // As the kernel itself lists them.
    for (name, state, expected) in [
        (
            "ESTABLISHED",
            State::ESTABLISHED,
            2 * (CLIENTS - CLIENTS / 3),
        ),
        ("FIN_WAIT2", State::FIN_WAIT2, CLIENTS / 3),
        ("CLOSE_WAIT", State::CLOSE_WAIT, CLIENTS / 3),
    ] {
        let kernel = served.netns.run(|| sockets(state))?;
        let is_here = |ports: &&(u16, u16)| ports.0 == port || ports.1 == port;
        let mut kernel: Vec<(u64, u64)> = kernel
            .iter()
            .filter(is_here)
            .map(|&(local, remote)| (local.into(), remote.into()))
            .collect();
        let mut ours: Vec<(u64, u64)> = pages(&served, &format!("{query}&state={name}"))?
            .into_iter()
            .map(|one| (one.1, one.2))
            .collect();
        kernel.sort_unstable();
        ours.sort_unstable();
        ensure!(
            ours == kernel && ours.len() == expected,
            "{name}: {ours:?}, {kernel:?}"
        );
    }
    let filtered = pages(
        &served,
        &format!(
            "filter=state%20fin-wait-2%20and%20pid%20{}&order=newest",
            std::process::id()
        ),
    )?;
    ensure!(filtered.len() == CLIENTS / 3, "{filtered:#?}");
    let snapshot = json(&served, "/api/v1/snapshot")?;
    let ports = snapshot["rates"]["ports"].as_array().context("no ports")?;
    let held: u64 = ports
        .iter()
        .filter(|one| one["service_port"] == port)
        .filter_map(|one| one["states"]["ESTABLISHED"].as_u64())
        .sum();
    ensure!(held == 2 * (CLIENTS - CLIENTS / 3) as u64, "{snapshot}");
    let past = json(&served, &format!("/api/v1/history?port={port}"))?;
    let opened: u64 = past["intervals"]
        .as_array()
        .context("no intervals")?
        .iter()
        .flat_map(|one| one["ports"].as_array().into_iter().flatten())
        .filter_map(|one| one["opened"].as_u64())
        .sum();
    ensure!(opened == 2 * CLIENTS as u64, "{opened} opened: {past}");
    let findings = json(&served, "/api/v1/findings")?;
    ensure!(findings["findings"].is_array(), "{findings}");
    drop(clients);
    served.tcpstate.stop()?;
    Ok(())
}

/// Follows the events of a server.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn follow(served: &Served, query: &str) -> Result<Self> {
        served.netns.run(|| {
            let mut stream = TcpStream::connect(served.http)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write!(
                stream,
                "GET /api/v1/events?{query} HTTP/1.0\r\nHost: localhost\r\n\r\n"
            )?;
            let mut this = Self(BufReader::new(stream));
            while this.line()? != ": from now on" {}
            Ok(this)
        })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.0.read_line(&mut line)? > 0, "the stream has ended");
        Ok(line.trim_end().to_owned())
    }

    /// The next event that is no sign of life.
    fn event(&mut self) -> Result<(String, Value)> {
        loop {
            if let Some(name) = self.line()?.strip_prefix("event: ") {
                let data = self.line()?;
                let data = data.strip_prefix("data: ").context("no data")?;
                return Ok((name.to_owned(), serde_json::from_str(data)?));
            }
        }
    }

    /// All transitions up to the end of the run.
    fn rest(mut self) -> Result<Vec<Value>> {
        let mut lines = Vec::new();
        loop {
            match self.event()? {
                (name, line) if name == "transition" => lines.push(line),
                (name, _) if name == "end" => return Ok(lines),
                other => bail!("{other:?}"),
            }
        }
    }
}

fn same_as_trace() -> Result<()> {
    let served = Served::start(&[])?;
    let port = served.port;
    let all = Stream::follow(&served, "")?;
    let some = Stream::follow(&served, &format!("filter=port%20=%20:{port}"))?;
    let words = format!("port = :{port}");
    let arguments = ["trace", "--json", "--netns", "self", &words];
    let trace = served.netns.run(|| Tcpstate::start(&arguments))?;
    served.netns.run_until_quiet(|| connections(port))?;
    let (mut traced, _) = trace.stop()?.transitions()?;
    kill_process(Pid::from_child(&served.tcpstate.child), Signal::TERM)?;
    let (mut some, all) = (some.rest()?, all.rest()?);
    served.tcpstate.finish()?;
    for lines in [&mut traced, &mut some] {
        for line in lines.iter_mut() {
            without_times(line)?;
        }
        // The order of two CPUs is each program's own.
        lines.sort_by_key(|line| line["cookie"].as_u64());
    }
    ensure!(traced.len() > 1_000, "{} lines", traced.len());
    ensure!(
        traced == some,
        "{} lines of trace, {} events; the first that differ: {:#?}",
        traced.len(),
        some.len(),
        traced.iter().zip(&some).find(|(one, other)| one != other)
    );
    // The requests to the server are in the other stream.
    ensure!(all.len() >= some.len(), "{} of all", all.len());
    Ok(())
}

/// Leaves out what each of two programs measures for itself; of durations it remains whether they are known.
fn without_times(line: &mut Value) -> Result<()> {
    let fields = line.as_object_mut().context("no object")?;
    fields.remove("ts");
    fields.remove("ts_ns");
    for name in ["dwell_ns", "handshake_ns"] {
        let is_known = !fields.get(name).context("no duration")?.is_null();
        fields.insert(name.to_owned(), is_known.into());
    }
    Ok(())
}

/// Clients that break off, or never end, or do not read, or do not speak HTTP.
const BROKEN: usize = 10_000;

/// Those that are looked after between two pauses.
const AT_ONCE: usize = 50;

/// The memory that it may take beside them: eight answers of a megabyte, the ring of events, the heads, and what is known of their
/// connections, which are watched as all others.
const ROOM: u64 = 128 << 20;

/// The files that it may have open: 64 connections, eight streams, and its own.
const FILES: usize = 200;

fn broken_clients() -> Result<()> {
    let served = Served::start(&["--json"])?;
    beside(&served, &BEGINS, |path| served.get(path))?;
    kill_process(Pid::from_child(&served.tcpstate.child), Signal::TERM)?;
    // The books balance, and nothing is lost.
    let (_, summary) = served.tcpstate.finish()?.json()?;
    let accounting = &summary["accounting"];
    ensure!(
        accounting["rejected"] == 0 && accounting["lost_by_reason"]["ring_full"] == 0,
        "{summary}"
    );
    Ok(())
}

/// Beside broken clients that begin like this, connections are counted, a good client is answered, and memory is bounded.
pub fn beside(
    served: &Served,
    begins: &[&[u8]],
    get: impl Fn(&str) -> Result<(u16, String)>,
) -> Result<()> {
    // Each has a descriptor here.
    allow_open_files(BROKEN as u64 + 1_000)?;
    let id = served.tcpstate.id();
    let before = served.tcpstate.resident()?;
    let (all_are_there, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let annoy = || {
            served
                .netns
                .run(|| annoy(served.http, begins, (&all_are_there, &stop)))
        };
        let broken = scope.spawn(annoy);
        let work = || -> Result<()> {
            await_that("all broken clients are there", || {
                // Whatever ended them, it is reported below.
                Ok(all_are_there.load(Ordering::Relaxed) || broken.is_finished())
            })?;
            connect_beside(served, &get)?;
            let query = format!("/api/v1/connections?port={}", served.port);
            await_that("it answers beside them", || {
                // It asks again here as well.
                Ok(get(&query).is_ok_and(|(status, _)| status == 200))
            })?;
            let after = served.tcpstate.resident()?;
            ensure!(
                after < before + ROOM,
                "{before} bytes before, {after} after"
            );
            let files = fs::read_dir(format!("/proc/{id}/fd"))?.count();
            ensure!(files < FILES, "{files} files are open");
            Ok(())
        };
        let worked = work();
        stop.store(true, Ordering::Relaxed);
        joined(broken.join()).and(worked)
    })
}

/// Makes connections, and scrapes until their ends are counted.
///
/// The thousands of clients make the kernel miss transitions now and then, mostly of their own. So an end that is not
/// counted must be among the misses that the books have meanwhile.
fn connect_beside(served: &Served, get: impl Fn(&str) -> Result<(u16, String)>) -> Result<()> {
    let port = format!("port=\"{}\"", served.port);
    let counts = || {
        // One too many may close this one as well; it asks again, as a client does.
        let (_, text) = get("/metrics").ok().filter(|(status, _)| *status == 200)?;
        let scrape = Scrape(text);
        let misses = scrape.sum("tcpstate_events_lost_total", &[])
            + scrape.sum("tcpstate_transitions_missing_total", &[]);
        let ends = scrape.sum("tcpstate_connections_closed_total", &[&port]);
        Some((ends, misses))
    };
    let mut misses_before = None;
    await_that("a scrape beside them", || {
        misses_before = counts().map(|(_, misses)| misses);
        Ok(misses_before.is_some())
    })?;
    served.connect()?;
    let mut ends = 0;
    await_that("what was made is counted beside them", || {
        let Some((counted, misses)) = counts() else {
            return Ok(false);
        };
        ends = counted;
        let since = misses - misses_before.unwrap_or(misses);
        // Most of the misses are others', so that they cannot stand for all.
        Ok(ends >= ENDS / 2 && ends + since >= ENDS)
    })?;
    ensure!(ends <= ENDS, "{ends} ends are counted, {ENDS} were made");
    Ok(())
}

/// The beginnings of broken clients.
const BEGINS: [&[u8]; 8] = [
    b"",
    b"GET /metrics HT",
    b"GET /api/v1/snapshot HTTP/1.1\r\nA: ",
    b"GET /api/v1/connections?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /api/v1/history HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    // A head that is longer than any.
    &[b'A'; 64 << 10],
];

/// Keeps so many broken clients at the server: each that it closes comes again.
fn annoy(
    http: SocketAddr,
    begins: &[&[u8]],
    (all_are_there, stop): (&AtomicBool, &AtomicBool),
) -> Result<()> {
    let connect = |at: usize| -> Result<TcpStream> {
        let mut stream = TcpStream::connect(http)?;
        stream.set_nonblocking(true)?;
        // The server may have closed it already, for a later one, or not read yet.
        let _ = stream.write(begins[at % begins.len()]);
        Ok(stream)
    };
    let mut clients: Vec<TcpStream> = (0..BROKEN).map(connect).collect::<Result<_>>()?;
    all_are_there.store(true, Ordering::Relaxed);
    let chunks = (0..BROKEN).step_by(AT_ONCE).cycle();
    for first in chunks.take_while(|_| !stop.load(Ordering::Relaxed)) {
        for (at, client) in clients.iter_mut().enumerate().skip(first).take(AT_ONCE) {
            // Those that send a head never end it; the others send more than was asked for. None reads.
            let closed = match client.write(b"A: b\r\nC: ") {
                Err(error) => error.kind() != ErrorKind::WouldBlock,
                Ok(_) => false,
            };
            if closed {
                *client = connect(at)?;
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
