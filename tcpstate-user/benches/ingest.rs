//! How fast events become answers, and what a live connection costs: `cargo bench --bench ingest`.
//!
//! A stream of clients' and servers' whole lives is made in memory, as the bytes of its records, a
//! block at a time, as a reader of recordings unpacks them; that is not part of the time. Each block
//! is taken in at once. Each line has more of the tracker switched on, and is the median of the runs. At last, in a process of its own for each number,
//! so many connections are opened and none closed.
//!
//! ```text
//! cargo bench -p tcpstate-user --bench ingest -- [--events N] [--live N] [--ports N] [--runs N] [--batch N]
//! ```

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "figures of this size fit"
)]

use std::{env, fs, hint::black_box, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use tcpstate_common::{
    Record, State,
    record::{AF_INET, flags},
};
use tcpstate_user::{
    event::Event,
    model::{Limits, Tracker},
};

/// Events in a block.
const BLOCK: usize = 16_384;

fn main() -> Result<()> {
    let options = Options::parse()?;
    if let Some(connections) = options.memory {
        return measure_memory(connections);
    }
    println!(
        "{} events, {} connections at a time, {} service ports, median of {} runs",
        options.events, options.live, options.ports, options.runs
    );
    let new = || Tracker::new(Limits::default());
    let parts: [(&str, Option<Make>); 5] = [
        ("decode", None),
        (
            "decode + connections",
            Some(Box::new(move || new().without_rates().without_histograms())),
        ),
        (
            "decode + connections + rates",
            Some(Box::new(move || new().without_histograms())),
        ),
        (
            "decode + connections + histograms",
            Some(Box::new(move || new().without_rates())),
        ),
        ("all together", Some(Box::new(new))),
    ];
    println!(
        "{:40} {:>12} {:>10} {:>10}",
        "", "events/s", "ns/event", "best ns"
    );
    for (name, make) in parts {
        measure(name, &options, make.as_deref());
    }
    println!();
    for (live, ports) in [(1_000, 20), (100_000, 300), (1_000_000, 1_000)] {
        let name = format!("all, {live} at a time, {ports} ports");
        measure(
            &name,
            &Options {
                live,
                ports,
                ..options
            },
            Some(&new),
        );
    }
    println!(
        "\n{:>12} {:>14} {:>14} {:>14} {:>12}",
        "connections", "RSS each", "table each", "other bytes", "max RSS MiB"
    );
    for connections in [1_000, 100_000, 1_000_000] {
        let status = Command::new(env::current_exe()?)
            .args(["--memory", &format!("{connections}")])
            .status()?;
        if !status.success() {
            bail!("measuring {connections} connections: {status}");
        }
    }
    Ok(())
}

type Make = Box<dyn Fn() -> Tracker>;

/// Prints a line.
fn measure(name: &str, options: &Options, make: Option<&dyn Fn() -> Tracker>) {
    let mut runs: Vec<Duration> = (0..options.runs).map(|_| run(options, make)).collect();
    runs.sort_unstable();
    let per_event = |run: Duration| run.as_secs_f64() * 1e9 / options.events as f64;
    let (median, best) = (per_event(runs[runs.len() / 2]), per_event(runs[0]));
    println!(
        "{name:40} {:>12.0} {median:>10.1} {best:>10.1}",
        1e9 / median
    );
}

/// Takes the whole stream in once, a batch after the other as the program does.
fn run(options: &Options, make: Option<&dyn Fn() -> Tracker>) -> Duration {
    let mut tracker = make.map(|make| make());
    let mut stream = Stream::new(options.live, options.ports);
    let mut bytes = Vec::new();
    let mut events = Vec::with_capacity(options.batch);
    let (mut taken, mut took) = (0, Duration::ZERO);
    while taken < options.events {
        let block = BLOCK.min(options.events - taken);
        stream.fill(&mut bytes, block);
        taken += block;
        let start = cpu_time();
        for bytes in bytes.chunks(options.batch * Record::SIZE) {
            events.clear();
            for record in bytes.chunks_exact(Record::SIZE) {
                if let Ok(event) = Event::decode(record) {
                    events.push(event);
                }
            }
            match &mut tracker {
                None => {
                    black_box(&events);
                }
                Some(tracker) => {
                    for event in &events {
                        black_box(tracker.apply(event).dwell_ns);
                    }
                }
            }
        }
        took += cpu_time().saturating_sub(start);
    }
    if let Some(tracker) = tracker {
        // A benchmark of something that does nothing would be fast.
        let books = tracker.books();
        assert_eq!(books.events as usize, options.events);
        assert_eq!((books.gaps, books.superseded, books.evicted), (0, 0, 0));
    }
    took
}

/// The time that this thread has run: the machine may have other work.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

/// Opens so many connections and prints what they cost.
fn measure_memory(connections: usize) -> Result<()> {
    let before = resident("VmRSS")?;
    let mut tracker = Tracker::new(Limits::default());
    let mut stream = Stream::new(connections, 300);
    for at in 0..connections {
        // To ESTABLISHED.
        for _ in 0..2 {
            let record = stream.advance(at);
            tracker.apply(&Event::try_from(record).context("a record of this benchmark")?);
        }
    }
    assert_eq!(tracker.books().live as usize, connections);
    let after = resident("VmRSS")?;
    // The benchmark's own lives.
    let own = stream.lives.capacity() * size_of::<Life>();
    let each = |bytes: usize| bytes as f64 / connections as f64;
    println!(
        "{connections:>12} {:>14.1} {:>14.1} {:>14} {:>12.1}",
        each((after - before).saturating_sub(own)),
        each(tracker.memory().connections),
        tracker.memory().total() - tracker.memory().connections,
        (resident("VmHWM")? - own) as f64 / f64::from(1 << 20),
    );
    Ok(())
}

/// A size of this process in bytes, as the kernel counts it.
fn resident(field: &str) -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line
        .and_then(|line| line.split_ascii_whitespace().nth(1))
        .context("/proc/self/status")?;
    Ok(kib.parse::<usize>()? * 1024)
}

/// One connection of the stream.
#[derive(Clone, Copy, Default)]
struct Life {
    number: u64,
    server: bool,
    step: u8,
    port: u16,
}

/// Lives in random order, each of them whole and in its own order.
struct Stream {
    lives: Vec<Life>,
    /// Ports that are served, the first ones much more than the last.
    ports: usize,
    /// Whose turn it was.
    at: usize,
    next: u64,
    ts_ns: u64,
    random: u64,
}

const CLIENT: [State; 6] = [
    State::CLOSE,
    State::SYN_SENT,
    State::ESTABLISHED,
    State::FIN_WAIT1,
    State::FIN_WAIT2,
    State::CLOSE,
];
const SERVER: [State; 6] = [
    State::LISTEN,
    State::SYN_RECV,
    State::ESTABLISHED,
    State::CLOSE_WAIT,
    State::LAST_ACK,
    State::CLOSE,
];

impl Stream {
    fn new(live: usize, ports: usize) -> Self {
        let mut stream = Self {
            lives: Vec::new(),
            ports,
            at: 0,
            next: 1,
            ts_ns: 1_000_000_000,
            random: 1,
        };
        stream.lives = (0..live).map(|_| stream.begin()).collect();
        stream
    }

    /// Puts the next so many records in place of what is there.
    fn fill(&mut self, bytes: &mut Vec<u8>, events: usize) {
        bytes.clear();
        for _ in 0..events {
            // A listener's child is established at once.
            if !(self.lives[self.at].server && self.lives[self.at].step == 1) {
                self.at = (self.random() >> 32) as usize % self.lives.len();
            }
            bytes.extend_from_slice(&self.advance(self.at).to_bytes());
        }
    }

    fn begin(&mut self) -> Life {
        let random = self.random();
        // Cubed, so that half of all go to an eighth of the ports.
        let share = (random & 0xffff) as f64 / 65_536.0;
        let port = (share * share * share * self.ports as f64) as u16 + 1;
        self.next += 1;
        Life {
            number: self.next,
            server: random >> 63 == 1,
            step: 0,
            port,
        }
    }

    /// The next transition of this life, or the first of a new one.
    fn advance(&mut self, at: usize) -> Record {
        if usize::from(self.lives[at].step) + 1 == CLIENT.len() {
            self.lives[at] = self.begin();
        }
        let life = self.lives[at];
        self.lives[at].step += 1;
        self.ts_ns += 50 + self.random() % 100;
        let states = if life.server { SERVER } else { CLIENT };
        let (oldstate, newstate) = (
            states[usize::from(life.step)],
            states[usize::from(life.step) + 1],
        );
        let (first, last) = (life.step == 0, newstate == State::CLOSE);
        let mut flag = flags::TCP | flags::SOCKET;
        if !(first && life.server) {
            flag |= flags::COOKIE;
        }
        if tcpstate_common::record::in_process(oldstate, newstate) {
            flag |= flags::PROCESS;
        }
        if last {
            flag |= flags::DEAD | flags::DONE | flags::RCV_SHUTDOWN | flags::SEND_SHUTDOWN;
        }
        let peer = life.number as u32;
        let ephemeral = 32_768 + (life.number % 28_000) as u16;
        let known = !first;
        let (lport, rport) = if life.server {
            (life.port, if known { ephemeral } else { 0 })
        } else {
            (if known { ephemeral } else { 0 }, life.port)
        };
        Record {
            ts_ns: self.ts_ns,
            cookie: if flag & flags::COOKIE == 0 {
                0
            } else {
                life.number
            },
            skaddr: 0xffff_8880_0000_0000 + at as u64 * 2_432,
            cgroup: 1 + u64::from(life.port),
            bytes_sent: 500,
            bytes_received: 20_000,
            laddr: v4([10, 0, 0, 1]),
            raddr: if life.server && first {
                v4([0; 4])
            } else {
                v4(peer.to_be_bytes())
            },
            netns: 4_026_531_840,
            uid: 33,
            pid: if flag & flags::PROCESS == 0 {
                0
            } else {
                1_000 + u32::from(life.port)
            },
            srtt_us: if newstate == State::SYN_SENT {
                0
            } else {
                20 + peer % 1_000
            },
            retransmits: 0,
            lport,
            rport,
            error: 0,
            cpu: (at % 8) as u16,
            oldstate,
            newstate,
            family: AF_INET,
            flags: flag,
            comm: if flag & flags::PROCESS == 0 {
                [0; 16]
            } else {
                *b"nginx\0\0\0\0\0\0\0\0\0\0\0"
            },
        }
    }

    /// `splitmix64`: the same stream every time.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn v4(octets: [u8; 4]) -> [u8; 16] {
    std::net::Ipv4Addr::from(octets).to_ipv6_mapped().octets()
}

#[derive(Clone, Copy)]
struct Options {
    events: usize,
    live: usize,
    ports: usize,
    runs: usize,
    batch: usize,
    /// Measure only what this many connections cost.
    memory: Option<usize>,
}

impl Options {
    fn parse() -> Result<Self> {
        let mut options = Self {
            events: 10_000_000,
            live: 10_000,
            ports: 100,
            runs: 5,
            batch: 1_024,
            memory: None,
        };
        let mut args = env::args().skip(1);
        while let Some(arg) = args.next() {
            // `cargo bench` says so to every benchmark.
            if arg == "--bench" {
                continue;
            }
            let value = args
                .next()
                .and_then(|value| value.parse().ok())
                .filter(|&value| value > 0);
            let value = value.with_context(|| format!("{arg} wants a number above 0"))?;
            match arg.as_str() {
                "--events" => options.events = value,
                "--live" => options.live = value,
                "--ports" => options.ports = value,
                "--runs" => options.runs = value,
                "--batch" => options.batch = value,
                "--memory" => options.memory = Some(value),
                other => bail!("{other} is none of --events --live --ports --runs --batch"),
            }
        }
        Ok(options)
    }
}
