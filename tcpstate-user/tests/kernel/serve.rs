//! `tcpstate serve` under real connections, scraped over the loopback of the namespace that both are in.
//!
//! The oracle is the test itself, which makes a known number of connections, and Prometheus' own `promtool`.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    need::{Need, trial},
    net::{Netns, PATIENCE, await_that, listen, unused_port},
    process::{BINARY, Tcpstate},
};

pub fn add(trials: &mut Vec<Trial>) {
    let needs = [Need::Btf];
    trials.push(trial("serve::counts_what_was_made", &needs, || {
        count(Clients::None)
    }));
    trials.push(trial("serve::beside_slow_clients", &needs, || {
        count(Clients::Slow)
    }));
    trials.push(trial(
        "serve::promtool",
        &[Need::Btf, Need::Program("promtool")],
        promtool,
    ));
    trials.push(trial(
        "serve::drops_by_listener",
        &[Need::Btf, Need::Program("ss")],
        drops_by_listener,
    ));
}

/// The clients of the server, beside the one that scrapes.
#[derive(Clone, Copy, PartialEq)]
enum Clients {
    None,
    /// They send half a request, or none, or do not read the answer, or do not speak HTTP.
    Slow,
}

/// Connections that are made. Each has its two ends here, and ends in order.
const CONNECTIONS: u32 = 200;

/// The ends of [`connections`]: two of each, and that of the one that is refused.
pub const ENDS: u64 = 2 * CONNECTIONS as u64 + 1;

fn count(clients: Clients) -> Result<()> {
    let served = Served::start(&["--json"])?;
    let slow = match clients {
        Clients::None => Vec::new(),
        Clients::Slow => served.netns.run(|| slow_clients(served.http))?,
    };
    served.netns.run(|| connections(served.port))?;
    let scrape = await_ends(&served, ENDS)?;
    let port = format!("port=\"{}\"", served.port);
    if let Some(scrape) = &scrape {
        let transitions = |from: &str, to: &str| {
            let name = "tcpstate_transitions_total";
            scrape.sum(
                name,
                &[&format!("from=\"{from}\""), &format!("to=\"{to}\""), &port],
            )
        };
        let made = u64::from(CONNECTIONS);
        for (from, to, expected) in [
            ("CLOSE", "LISTEN", 1),
            ("LISTEN", "CLOSE", 1),
            ("CLOSE", "SYN_SENT", made + 1),
            ("SYN_SENT", "ESTABLISHED", made),
            ("SYN_SENT", "CLOSE", 1),
            ("LISTEN", "SYN_RECV", made),
            ("SYN_RECV", "ESTABLISHED", made),
            ("ESTABLISHED", "CLOSE_WAIT", made),
            ("LAST_ACK", "CLOSE", made),
        ] {
            let counted = transitions(from, to);
            ensure!(
                counted == expected,
                "{from} -> {to}: {counted}, {expected} were made"
            );
        }
        let closed = |cause: &str, role: &str| {
            let labels = [
                &*format!("cause=\"{cause}\""),
                &format!("role=\"{role}\""),
                &port,
            ];
            scrape.sum("tcpstate_connections_closed_total", &labels)
        };
        ensure!(closed("fin", "client") == made && closed("fin", "server") == made);
        ensure!(closed("refused", "client") == 1);
        let name = "tcpstate_handshake_duration_seconds_count";
        ensure!(scrape.sum(name, &["role=\"client\"", &port]) == made);
        let name = "tcpstate_connection_duration_seconds_bucket";
        let longest = scrape.sum(name, &["role=\"server\"", &port, "le=\"+Inf\""]);
        ensure!(
            longest == made,
            "{longest} server's connections have a duration"
        );
        scrape.check_books()?;
        let (status, _) = served.get("/healthz")?;
        ensure!(status == 200, "/healthz: {status}");
    }
    drop(slow);
    kill_process(Pid::from_child(&served.tcpstate.child), Signal::TERM)?;
    let (lines, summary) = served.tcpstate.finish()?.json()?;
    ensure!(lines.is_empty(), "{lines:?}");
    // A transition that was not shown to the program makes another attempt.
    let scrape = scrape.context("not all ends were seen")?;
    let accounting = &summary["accounting"];
    for (name, metric) in [
        ("seen", "tcpstate_events_seen_total"),
        ("received", "tcpstate_events_received_total"),
    ] {
        let (last, scraped) = (accounting[name].as_u64(), scrape.sum(metric, &[]));
        // The scrapes' own connections come on top.
        ensure!(
            last >= Some(scraped),
            "{name}: {last:?}, and before {scraped}"
        );
    }
    Ok(())
}

fn promtool() -> Result<()> {
    let served = Served::start(&["--labels", "unit,container,pod,namespace,comm"])?;
    served.netns.run(|| connections(served.port))?;
    // A loss does not matter here.
    await_ends(&served, 1)?;
    let (_, text) = served.get("/metrics")?;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = promtool.stdin.take().context("stdin")?;
    stdin.write_all(text.as_bytes())?;
    drop(stdin);
    let output = promtool.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said)?;
    ensure!(
        output.status.success() && said.is_empty(),
        "promtool: {said}"
    );
    served.tcpstate.stop()?;
    Ok(())
}

/// SYNs that find no room in an accept queue, as `ss -m` has them.
fn drops_by_listener() -> Result<()> {
    let served = Served::start(&[])?;
    let (full, _waiting) = served.netns.run(|| {
        let full = listen(served.port, 1)?;
        let address = full.local_addr()?;
        let waiting = [TcpStream::connect(address)?, TcpStream::connect(address)?];
        for _ in 0..3 {
            let refused = TcpStream::connect_timeout(&address, Duration::from_millis(100));
            ensure!(refused.is_err(), "the queue has room");
        }
        Ok((full, waiting))
    })?;
    // The clients have given up, so it stays so.
    let dropped = served.netns.run(|| dropped_by_ss(served.port))?;
    ensure!(dropped >= 3, "{dropped}");
    let port = format!("port=\"{}\"", served.port);
    let counted = || -> Result<u64> {
        let scrape = Scrape(served.get("/metrics")?.1);
        Ok(scrape.sum("tcpstate_listener_drops_total", &[&port]))
    };
    await_that("the drops are counted", || Ok(counted()? >= dropped))?;
    ensure!(counted()? == dropped, "{} for {dropped}", counted()?);
    // They stay when the listener is gone.
    drop(full);
    let length = format!("tcpstate_accept_queue_length{{{port}}} ");
    await_that("a look without the listener", || {
        Ok(!served.get("/metrics")?.1.contains(&length))
    })?;
    ensure!(counted()? == dropped, "{} for {dropped}", counted()?);
    served.tcpstate.stop()?;
    Ok(())
}

/// The drops of the listener at this port.
fn dropped_by_ss(port: u16) -> Result<u64> {
    let output = Command::new("ss")
        .args(["-Htlnm", &format!("sport = :{port}")])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    // skmem:(r0,rb131072,t0,tb16384,f0,w0,o0,bl0,d3)
    let memory = text.split_once("skmem:(").context("no skmem")?.1;
    let memory = memory.split_once(')').context("no end")?.0;
    let mut figures = memory.split(',');
    let drops = figures.find_map(|figure| figure.strip_prefix('d'));
    Ok(drops.with_context(|| text.clone())?.parse()?)
}

/// The command with these arguments.
fn tcpstate(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments);
    command
}

/// A way to ask a server in this namespace for a path: the status and the body of its answer.
pub type Get = Box<dyn Fn(SocketAddr, &str) -> Result<(u16, String)> + Send + Sync>;

/// A `tcpstate serve` in a namespace of its own.
pub struct Served {
    pub netns: Netns,
    pub tcpstate: Tcpstate,
    /// Its address.
    pub http: SocketAddr,
    /// The port of the test's connections, which has a label.
    pub port: u16,
    get: Get,
}

impl Served {
    /// Starts it, and returns when it is ready.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), arguments)
    }

    /// The same at another address.
    pub fn start_on(address: IpAddr, arguments: &[&str]) -> Result<Self> {
        Self::start_at(address, arguments, Box::new(get), tcpstate)
    }

    /// The same for one that is asked in another way.
    pub fn start_by(get: Get, arguments: &[&str]) -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), arguments, get, tcpstate)
    }

    /// The same, by the command that is made of these arguments.
    pub fn start_as(
        arguments: &[&str],
        command: impl FnOnce(&[&str]) -> Command + Send,
    ) -> Result<Self> {
        let address = Ipv4Addr::LOCALHOST.into();
        Self::start_at(address, arguments, Box::new(get), command)
    }

    fn start_at(
        address: IpAddr,
        arguments: &[&str],
        get: Get,
        command: impl FnOnce(&[&str]) -> Command + Send,
    ) -> Result<Self> {
        let (http, port) = (SocketAddr::new(address, unused_port()), unused_port());
        let netns = Netns::new()?;
        let (listen, label) = (http.to_string(), port.to_string());
        let own = ["serve", "--listen", &listen, "--ports", &label];
        let own_netns: &[&str] = if arguments.contains(&"--netns") {
            &[]
        } else {
            &["--netns", "self"]
        };
        let arguments = [&own, own_netns, arguments].concat();
        let tcpstate = netns.run(|| Tcpstate::start_command(command(&arguments)))?;
        Self::await_ready_by(get, netns, tcpstate, http, port)
    }

    /// Returns when it is ready.
    pub fn await_ready(
        netns: Netns,
        tcpstate: Tcpstate,
        http: SocketAddr,
        port: u16,
    ) -> Result<Self> {
        Self::await_ready_by(Box::new(get), netns, tcpstate, http, port)
    }

    fn await_ready_by(
        get: Get,
        netns: Netns,
        tcpstate: Tcpstate,
        http: SocketAddr,
        port: u16,
    ) -> Result<Self> {
        let served = Self {
            netns,
            tcpstate,
            http,
            port,
            get,
        };
        await_that("it is ready", || {
            // It listens only after it is attached.
            Ok(served.get("/readyz").is_ok_and(|(status, _)| status == 200))
        })?;
        Ok(served)
    }

    /// Makes connections at the port that has a label.
    pub fn connect(&self) -> Result<()> {
        self.netns.run(|| connections(self.port))
    }

    /// The ports at which somebody listens in its namespace.
    pub fn listening_ports(&self) -> Result<Vec<u16>> {
        let text = self
            .netns
            .run(|| Ok(fs::read_to_string("/proc/thread-self/net/tcp")?))?;
        // The state 0A is LISTEN. *Source:* `Documentation/networking/proc_net_tcp.rst`.
        let listening = text.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (_, port) = fields.get(1)?.split_once(':')?;
            (fields.get(3) == Some(&"0A")).then(|| u16::from_str_radix(port, 16))
        });
        Ok(listening.collect::<Result<_, _>>()?)
    }

    /// The status and the body of an answer.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        self.netns.run(|| (self.get)(self.http, path))
    }
}

/// The status and the body of an answer of an HTTP server in this namespace.
pub fn get(server: SocketAddr, path: &str) -> Result<(u16, String)> {
    let stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    ask(stream, path, "")
}

/// The same over a connection that there is, with these headers.
pub fn ask(mut stream: impl Read + Write, path: &str, headers: &str) -> Result<(u16, String)> {
    // An answer without parts of its own.
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("no end of the head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// The metrics of one scrape.
pub struct Scrape(pub String);

impl Scrape {
    /// The sum of the values of this name that have all these labels.
    pub fn sum(&self, name: &str, labels: &[&str]) -> u64 {
        let values = self.0.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (of, all) = series.split_once('{').unwrap_or((series, ""));
            let is_wanted = of == name && labels.iter().all(|label| all.contains(label));
            is_wanted.then(|| value.parse::<u64>().ok())?
        });
        values.sum()
    }

    /// The books balance in every scrape.
    fn check_books(&self) -> Result<()> {
        let of = |name: &str| self.sum(&format!("tcpstate_events_{name}_total"), &[]);
        ensure!(
            of("seen") == of("filtered") + of("submitted") + of("lost"),
            "{}",
            self.0
        );
        // Some may be in the ring.
        ensure!(
            of("submitted") >= of("received") + of("rejected"),
            "{}",
            self.0
        );
        let passed = self.sum("tcpstate_events_decided_total", &["decision=\"passed\""]);
        let transitions = self.sum("tcpstate_transitions_total", &[]);
        ensure!(
            passed == transitions,
            "{passed} passed, {transitions} counted"
        );
        Ok(())
    }
}

/// Scrapes until this many connections at the test's port have ended. `None`: some are missing, as their ends were not
/// shown to the program.
fn await_ends(served: &Served, wanted: u64) -> Result<Option<Scrape>> {
    let port = format!("port=\"{}\"", served.port);
    let mut scraped = None;
    await_that("the connections are counted", || {
        let (status, text) = served.get("/metrics")?;
        if status != 200 {
            bail!("/metrics: {status}: {text}");
        }
        let scrape = Scrape(text);
        let has_all = scrape.sum("tcpstate_connections_closed_total", &[&port]) >= wanted;
        let misses = scrape.sum("tcpstate_events_lost_total", &[])
            + scrape.sum("tcpstate_transitions_missing_total", &[])
            > 0;
        if has_all {
            scraped = Some(scrape);
        }
        Ok(has_all || misses)
    })?;
    Ok(scraped)
}

/// Makes connections that the client closes first, and one that is refused.
pub fn connections(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    for _ in 0..CONNECTIONS {
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        drop(client);
        server.read_to_end(&mut Vec::new())?;
    }
    drop(listener);
    let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    ensure!(refused.is_err(), "somebody listens at port {port}");
    Ok(())
}

/// Clients that the server cannot finish with, more than it keeps at a time.
fn slow_clients(http: SocketAddr) -> Result<Vec<TcpStream>> {
    let begins = [
        &b""[..],
        b"GET /metrics HTTP/1.1\r\nHost: ",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ];
    let clients = (0..400).map(|at| {
        let mut stream = TcpStream::connect(http)?;
        // The server may have closed it already, for a later one.
        let _ = stream.write_all(begins[at % begins.len()]);
        Ok(stream)
    });
    clients.collect()
}
