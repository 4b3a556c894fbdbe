//! What one run of the BPF program costs, beside the floor: an empty program on the same tracepoint.
//!
//! The kernel measures (`BPF_ENABLE_STATS`); the floor contains what its measuring costs. Rounds are
//! interleaved, so that a machine that changes its pace changes it for both; the median of the
//! ratios counts.
//!
//! `cargo bench -p tcpstate-user --bench probe`, as root.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread,
};

use anyhow::{Context as _, Result};
use tcpstate_user::{
    capture::{
        host::Host,
        loader::{self, Loaded, Mode, Plan},
        ring::Ring,
    },
    filter::{Filter, PortSet},
};

const ROUNDS: usize = 11;
const STORM: usize = 50_000;
const CHURN: usize = 2_000;

/// One thing to measure.
struct Case {
    name: &'static str,
    mode: Mode,
    empty: bool,
    filter: Filter,
}

fn main() -> Result<()> {
    let host = Host::read();
    let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime).context("measure (as root?)")?;
    let elsewhere = |port: &str| Filter {
        port: Some(port.parse::<PortSet>().expect("a port")),
        ..Filter::default()
    };
    let case = |name, mode, empty, filter| Case {
        name,
        mode,
        empty,
        filter,
    };
    let cases = [
        case("empty, btf", Mode::Btf, true, Filter::default()),
        case("full record, btf", Mode::Btf, false, Filter::default()),
        case(
            "filter that passes, btf",
            Mode::Btf,
            false,
            elsewhere("1-65535"),
        ),
        case("filter that drops, btf", Mode::Btf, false, elsewhere("1")),
        case(
            "empty, tracepoint",
            Mode::Tracepoint,
            true,
            Filter::default(),
        ),
        case(
            "full record, tracepoint",
            Mode::Tracepoint,
            false,
            Filter::default(),
        ),
        case(
            "filter that drops, tracepoint",
            Mode::Tracepoint,
            false,
            elsewhere("1"),
        ),
    ];
    println!(
        "kernel {}; {ROUNDS} interleaved rounds; ns per run, ratio to empty (median, min-max)",
        host.kernel
    );
    for (load, run) in [("storm", storm as fn() -> Result<()>), ("churn", churn)] {
        let mut costs = vec![Vec::new(); cases.len()];
        for _ in 0..ROUNDS {
            for (case, costs) in cases.iter().zip(&mut costs) {
                costs.push(measure(&host, case, run)?);
            }
        }
        let mut floor = 0;
        for (index, case) in cases.iter().enumerate() {
            if case.empty {
                floor = index;
            }
            let ratios: Vec<f64> = costs[index]
                .iter()
                .zip(&costs[floor])
                .map(|(cost, floor)| cost / floor)
                .collect();
            let (cost, _, _) = spread(&costs[index]);
            let (ratio, low, high) = spread(&ratios);
            println!(
                "{load:6} {:32} {cost:7.1} ns  {ratio:5.2} x ({low:.2}-{high:.2})",
                case.name
            );
        }
    }
    Ok(())
}

/// Nanoseconds per run of the program under a load.
fn measure(host: &Host, case: &Case, load: fn() -> Result<()>) -> Result<f64> {
    let plan = Plan {
        mode: case.mode,
        ring_bytes: 64 << 20,
        filter: case.filter.kernel(),
        bpf_log: false,
        empty: case.empty,
    };
    let mut loaded: Loaded = loader::load(host, &plan)?;
    let mut ring: Ring = loaded.ring()?;
    loaded.attach()?;
    load()?;
    loaded.detach()?;
    // Nothing is read while it runs: the ring holds it all, and the reader's cost is not the probe's.
    ring.drain(usize::MAX, |_| ());
    let run = loaded.program_run()?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(run.run_ns as f64 / run.run_count as f64)
}

/// `listen` and `shutdown` in turn on one bound socket: transitions without the network.
fn storm() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let fd = listener.as_raw_fd();
    for _ in 0..STORM {
        // SAFETY: the descriptor is open as long as `listener`.
        unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
        // SAFETY: as above.
        unsafe { libc::listen(fd, 16) };
    }
    Ok(())
}

/// Connect, accept, a few bytes, close, on loopback.
fn churn() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let server = thread::spawn(move || -> Result<()> {
        for _ in 0..CHURN {
            let (mut stream, _) = listener.accept()?;
            stream.read_to_end(&mut Vec::new())?;
        }
        Ok(())
    });
    for _ in 0..CHURN {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"hello")?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new())?;
    }
    server.join().expect("the server does not panic")
}

/// Median, minimum and maximum.
fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (
        sorted[sorted.len() / 2],
        sorted[0],
        sorted[sorted.len() - 1],
    )
}
