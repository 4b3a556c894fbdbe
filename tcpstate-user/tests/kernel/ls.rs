//! `tcpstate ls`, compared with `ss`: the same sockets in the same states, in a namespace at rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::net::AddressFamily;
use serde_json::Value;
use tcpstate_capture::host::Host;
use tcpstate_common::State;

use crate::{
    every_state::{NO_ACK, ONE_OF_EACH, OPEN, drop_packets, one_of_each},
    need::{Need, trial},
    net::{Netns, allow_open_files, socket},
    process::{BINARY, Output, has_result, run, state},
    ss::{Line, await_states, by_state, compare},
};

pub fn add(trials: &mut Vec<Trial>) {
    let (ss, nft) = (Need::Program("ss"), Need::Program("nft"));
    let ip = Need::Program("ip");
    trials.push(trial("ls::every_state", &[ss, nft, ip], every_state));
    trials.push(trial("ls::half_open", &[ss, nft, ip], half_open));
    trials.push(trial("ls::many", &[ss, ip], many));
    trials.push(trial("ls::bound_only", &[ip], bound_only));
}

/// Whether a filter selects the line.
type NetnsSelector = fn(&Line) -> bool;

/// Runs `tcpstate ls --json` in the namespace of the calling thread, and on it unless another one is given. Returns
/// its lines and the summary.
pub fn list(args: &[&str]) -> Result<(Vec<Value>, Value)> {
    let here: &[&str] = if args.contains(&"--netns") {
        &[]
    } else {
        &["--netns", "self"]
    };
    read_list(&run(BINARY, &[&["ls", "--json"], here, args].concat())?)
}

/// Reads the lines and the summary, and checks the books.
pub fn read_list(output: &Output) -> Result<(Vec<Value>, Value)> {
    ensure!(
        has_result(output.status) && output.stderr.is_empty(),
        "{}: {}",
        output.status,
        output.stderr
    );
    let lines = output
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()));
    let mut lines = lines.collect::<Result<Vec<Value>>>()?;
    let summary = lines.pop().context("no output at all")?;
    ensure!(summary["type"] == "summary", "no summary: {summary}");
    let is_complete = output.status.success();
    ensure!(
        summary["complete"] == is_complete,
        "{}: {summary}",
        output.status
    );
    let of = |name: &str| {
        let value = summary["accounting"][name].as_u64();
        value.with_context(|| format!("no {name} in {summary}"))
    };
    let gone = of("filtered")? + of("superseded")?;
    ensure!(
        of("rejected")? == 0 && of("seen")? == lines.len() as u64 + gone,
        "{summary}"
    );
    for line in &lines {
        ensure!(line["type"] == "socket", "not a socket: {line}");
    }
    Ok((lines, summary))
}

/// The part of each line that is compared with `ss`.
pub fn lines(values: &[Value]) -> Result<Vec<Line>> {
    let mut lines = values
        .iter()
        .map(|value| {
            let end = |addr: &str, port: &str| -> Result<SocketAddr> {
                let addr: IpAddr = value[addr].as_str().context("no address")?.parse()?;
                Ok((
                    addr,
                    u16::try_from(value[port].as_u64().context("no port")?)?,
                )
                    .into())
            };
            let (local, remote) = (end("laddr", "lport")?, end("raddr", "rport")?);
            Ok((state(&value["state"])?, local, remote))
        })
        .collect::<Result<Vec<_>>>()?;
    lines.sort_unstable();
    Ok(lines)
}

/// Every state, in both families and v4-mapped: counts, addresses and ports, and the results of the filters
/// on states and ports.
fn every_state() -> Result<()> {
    Netns::new()?.run(|| {
        drop_packets()?;
        let _v4 = one_of_each(Ipv4Addr::LOCALHOST.into())?;
        let _v6 = one_of_each(Ipv6Addr::LOCALHOST.into())?;
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 2000))?;
        let _client = TcpStream::connect((Ipv4Addr::LOCALHOST, 2000))?;
        let _mapped = listener.accept()?;

        let mut count = BTreeMap::from(ONE_OF_EACH.map(|(state, n)| (state, 2 * n)));
        *count.entry(State::LISTEN).or_default() += 1;
        *count.entry(State::ESTABLISHED).or_default() += 2;
        await_states("all states are reached", |ss| *ss == count)?;
        let all = compare(|| lines(&list(&[])?.0), &[])?;
        ensure!(by_state(&all) == count, "{:?}", by_state(&all));
        let (_, summary) = list(&[])?;
        for (state, n) in &count {
            ensure!(
                summary["states"][state.to_string()] == *n,
                "{state}: {summary}"
            );
        }
        for group in ["all", "connected", "synchronized", "bucket", "big"] {
            compare(|| lines(&list(&["--state", group])?.0), &["state", group])
                .with_context(|| group.to_owned())?;
        }
        let listed = |args: &[&str]| lines(&list(args)?.0);
        let of_all = |wanted: &dyn Fn(&Line) -> bool| -> Vec<Line> {
            all.iter().filter(|line| wanted(line)).copied().collect()
        };
        let filters: [(&[&str], NetnsSelector); 6] = [
            (&["-4"], |(_, local, _)| local.is_ipv4()),
            (&["-6"], |(_, local, _)| local.is_ipv6()),
            (&["-L", "1002,1004"], |(_, local, _)| {
                [1002, 1004].contains(&local.port())
            }),
            (&["-D", "1000-1001"], |(_, _, remote)| {
                (1000..=1001).contains(&remote.port())
            }),
            (&["-P", "1003"], |(_, local, remote)| {
                local.port() == 1003 || remote.port() == 1003
            }),
            (
                &["--state", "fin-wait-1,CLOSING", "-6"],
                |(state, local, _)| {
                    [State::FIN_WAIT1, State::CLOSING].contains(state) && local.is_ipv6()
                },
            ),
        ];
        for (args, wanted) in filters {
            let (ours, expected) = (listed(args)?, of_all(&wanted));
            ensure!(
                !expected.is_empty() && ours == expected,
                "{args:?}: {ours:?}"
            );
        }
        roles(&list(&[])?.0)?;
        // The listeners, from which roles follow, are dumped with any filter.
        for filter in [
            &["dst", "127.0.0.1"][..],
            &["dst", "[::1]"],
            &["state", "established"],
        ] {
            let (selected, _) = list(filter)?;
            ensure!(
                !selected.is_empty() && selected.len() < all.len(),
                "{filter:?}"
            );
            roles(&selected)?;
        }
        Ok(())
    })
}

/// Checks the roles: all listeners still exist, so every role is known, and the service port is below 32768.
fn roles(values: &[Value]) -> Result<()> {
    for value in values {
        let service = |port: u64| port < 32_768 && port != 0;
        let lport = value["lport"].as_u64().context("lport")?;
        let (role, port) = if service(lport) {
            ("server", &value["lport"])
        } else {
            ("client", &value["rport"])
        };
        ensure!(
            value["role"] == role && value["service_port"] == *port,
            "{value}"
        );
    }
    Ok(())
}

/// A thousand handshakes without their last ACK; then they expire.
fn half_open() -> Result<()> {
    const COUNT: usize = 1000;
    // With a filter on one state, `ss` omits the column.
    const OF_SS: [&str; 4] = ["state", "syn-recv", "state", "listening"];
    Netns::new()?.run(|| {
        drop_packets()?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, NO_ACK));
        let listener = socket(AddressFamily::INET, None)?;
        rustix::net::bind(&listener, &addr)?;
        // The backlog bounds them.
        rustix::net::listen(&listener, 4096)?;
        let before_first = Instant::now();
        let mut clients = vec![TcpStream::connect(addr)?];
        let after_first = Instant::now();
        for _ in 1..COUNT {
            clients.push(TcpStream::connect(addr)?);
        }
        let both = compare(|| lines(&list(&["--state", "syn-recv,listen"])?.0), &OF_SS)?;
        let expected = BTreeMap::from([(State::SYN_RECV, COUNT), (State::LISTEN, 1)]);
        ensure!(by_state(&both) == expected, "{:?}", by_state(&both));
        let ours = || lines(&list(&["--state", "syn-recv", "-L", &NO_ACK.to_string()])?.0);
        ensure!(ours()?.len() == COUNT, "{}", ours()?.len());

        let at_least = after_first.elapsed();
        let (values, _) = list(&[])?;
        let at_most = before_first.elapsed();
        let of_listener = |values: &[Value]| {
            let mut values = values.iter();
            let listening = values.find(|value| value["state"] == "LISTEN");
            listening.cloned().context("no listener")
        };
        let listening = of_listener(&values)?;
        ensure!(listening["half_open"] == COUNT, "{listening}");
        // They are counted, whatever else a filter on the listener leaves out.
        let port = NO_ACK.to_string();
        for filter in [
            &["state", "listening"][..],
            &["sport", "=", &port],
            &["src", "127.0.0.1", "dport", "0"],
            &["not", "dst", "127.0.0.1"],
        ] {
            let listening = of_listener(&list(filter)?.0)?;
            ensure!(listening["half_open"] == COUNT, "{filter:?}: {listening}");
        }
        let ms = |name: &str| listening[name].as_u64().map(u128::from);
        // There is an error of one jiffy, at most 10 ms, at each end.
        match (
            ms("half_open_oldest_ms"),
            ms("half_open_oldest_at_least_ms"),
        ) {
            (Some(oldest_ms), None) => ensure!(
                oldest_ms <= at_most.as_millis() + 20 && oldest_ms + 20 >= at_least.as_millis(),
                "{oldest_ms} ms is not between {at_least:?} and {at_most:?}"
            ),
            // The first of them was sent again meanwhile.
            (None, at_least_ms) => ensure!(
                at_least_ms.is_none_or(|ms| ms <= at_most.as_millis()),
                "{at_least_ms:?} is more than {at_most:?}"
            ),
            both => anyhow::bail!("an age and a bound: {both:?}"),
        }

        fs::write("/proc/sys/net/ipv4/tcp_synack_retries", "0")?;
        await_states("the half-open connections expire", |count| {
            !count.contains_key(&State::SYN_RECV)
        })?;
        let left = ours()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

/// Both ends of ten thousand connections, which are not accepted to save half of the file descriptors.
fn many() -> Result<()> {
    const COUNT: usize = 10_000;
    allow_open_files(COUNT as u64 + 500)?;
    Netns::new()?.run(|| {
        fs::write("/proc/sys/net/core/somaxconn", "20000")?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, OPEN));
        let listener = socket(AddressFamily::INET, None)?;
        rustix::net::bind(&listener, &addr)?;
        rustix::net::listen(&listener, 20_000)?;
        let clients = (0..COUNT).map(|_| TcpStream::connect(addr));
        let _clients = clients.collect::<Result<Vec<_>, _>>()?;
        let expected = BTreeMap::from([(State::ESTABLISHED, 2 * COUNT), (State::LISTEN, 1)]);
        await_states("all are established", |count| *count == expected)?;
        let all = compare(|| lines(&list(&[])?.0), &[])?;
        ensure!(by_state(&all) == expected, "{:?}", by_state(&all));
        let (values, summary) = list(&["--state", "established", "-L", &OPEN.to_string()])?;
        ensure!(values.len() == COUNT, "{summary}");
        let cookies: BTreeSet<_> = values
            .iter()
            .map(|value| value["cookie"].as_u64())
            .collect();
        ensure!(cookies.len() == COUNT, "{} cookies", cookies.len());
        let (values, _) = list(&["--state", "listen"])?;
        ensure!(values[0]["recv_queue"] == COUNT, "{}", values[0]);
        Ok(())
    })
}

/// A socket that is only bound is in `CLOSE`, and only newer kernels list it.
fn bound_only() -> Result<()> {
    Netns::new()?.run(|| {
        let bound = socket(AddressFamily::INET, None)?;
        rustix::net::bind(&bound, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let local = SocketAddr::try_from(rustix::net::getsockname(&bound)?)?;
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let listed = Host::read().kernel_version() >= Some((6, 8));
        let expected = Vec::from_iter(listed.then_some((State::CLOSE, local, any)));
        for args in [
            &[][..],
            &["--state", "close"],
            &["--state", "bound_inactive"],
        ] {
            let ours = lines(&list(args)?.0)?;
            ensure!(ours == expected, "{args:?}: {ours:?}");
        }
        let ours = lines(&list(&["--state", "connected,listen"])?.0)?;
        ensure!(ours.is_empty(), "{ours:?}");
        Ok(())
    })
}
