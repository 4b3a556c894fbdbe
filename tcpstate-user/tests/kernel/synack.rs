//! Retransmitted SYN-ACKs, compared with the namespace's count of retransmitted segments.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use tcpstate_capture::{
    host::Host,
    loader::{self, Job, Plan},
    synack::{SynackRetransmit, SynackRetransmits},
};
use tcpstate_core::filter::Filter;
use tcpstate_core::mode::Mode;

use crate::{
    need::{ATTACH_MODES, Need, attach_needs, trial},
    net::{Netns, await_that, drop_incoming, unused_port},
    oracle::attempts,
};

pub fn add(trials: &mut Vec<Trial>) {
    for mode in [Mode::Btf, Mode::Tracepoint] {
        let needs = [attach_needs(name(mode)), &[Need::Btf, Need::Program("nft")]].concat();
        trials.push(trial(
            format!("{mode}::synack_retransmits"),
            &needs,
            move || synack_retransmits(mode),
        ));
    }
}

/// Its name on the command line.
fn name(mode: Mode) -> &'static str {
    ATTACH_MODES[usize::from(mode == Mode::Tracepoint)]
}

fn synack_retransmits(mode: Mode) -> Result<()> {
    let port = unused_port();
    let filter = Filter::default();
    let plan = Plan {
        mode,
        ring_bytes: 1 << 16,
        filter: filter.kernel(),
        bpf_log: false,
        job: Job::Stream,
    };
    let mut loaded = loader::load(&Host::read(), &plan)?;
    let counts = loaded.take_synack_retransmits()?;
    // A timer sends a SYN-ACK again, during whatever task runs there. Some machines show no BPF program what happens
    // during some of their tasks, and count that nowhere.
    attempts(|| attempt(&counts, port))?.context("some were not shown in every attempt")
}

/// Compares the counts in a new namespace. `None`: fewer were shown to the program.
fn attempt(counts: &SynackRetransmits, port: u16) -> Result<Option<()>> {
    let netns = Netns::new()?;
    let inode = u32::try_from(netns.inode()?)?;
    let ours = || -> Result<Vec<SynackRetransmit>> {
        let mut all = counts.read()?;
        // Other namespaces may have counts of their own.
        all.retain(|listener| listener.netns == inode);
        Ok(all)
    };
    ensure!(
        ours()?.is_empty(),
        "counted before there was any: {:?}",
        ours()?
    );
    netns.run(|| {
        drop_incoming(&[&format!("tcp dport {port} tcp flags & (syn|ack) == ack")])?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        // The clients are established, but the listener never gets their ACK.
        let _clients = [0; 3]
            .iter()
            .map(|_| Ok(TcpStream::connect(listener.local_addr()?)?))
            .collect::<Result<Vec<_>>>()?;
        await_that("the SYN-ACKs were retransmitted twice", || {
            Ok(retransmitted()? >= 6)
        })?;
        // There are no other retransmissions, because no client has data to send. The kernel counts one just before
        // it shows it to the program.
        let sent = retransmitted()?;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            let ours = ours()?;
            let is_of_listener = |count: &&SynackRetransmit| count.lport == port;
            let shown: u64 = ours.iter().filter(is_of_listener).map(|it| it.count).sum();
            ensure!(
                ours.iter().all(|count| is_of_listener(&count)) && shown <= retransmitted()?,
                "{sent} were sent: {ours:?}"
            );
            if shown >= sent {
                return Ok(Some(()));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(None)
    })
}

/// The number of retransmitted segments in the namespace of the calling thread: `TcpRetransSegs` of
/// `nstat`.
fn retransmitted() -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut tcp = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (tcp.next(), tcp.next());
    let at = names
        .and_then(|names| names.split(' ').position(|name| name == "RetransSegs"))
        .context("no RetransSegs")?;
    let value = values.and_then(|values| values.split(' ').nth(at));
    Ok(value.context("no value")?.parse()?)
}
