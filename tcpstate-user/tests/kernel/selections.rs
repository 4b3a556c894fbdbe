//! Filter expressions of `trace`, compared with the same choice made here, of the connections that an unfiltered
//! `trace` showed at the same time.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::net::{AddressFamily, bind, connect};
use serde_json::Value;
use tcpstate_recording::Reader;

use tcpstate_core::source::EventSource as _;

use crate::{
    need::{Need, trial},
    net::{Netns, add_ipv6, await_fin, socket, unused_port},
    process::{BINARY, Tcpstate, run},
};

pub fn add(trials: &mut Vec<Trial>) {
    let needs = [Need::Btf, Need::Cookie, Need::Program("ip")];
    trials.push(trial("selections::as_chosen_here", &needs, as_chosen_here));
    trials.push(trial("selections::recorded", &needs, recorded));
}

/// The ends of a connection, or of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// Whether a line of a socket with these ends is wanted.
type Wants = fn(&Ends, &Value) -> bool;

/// The ports of the listeners, and one that a client binds.
#[derive(Clone, Copy)]
struct Ports {
    dual: u16,
    ipv4: u16,
    bound: u16,
}

/// `127.0.N.0/24`.
pub fn v4(address: IpAddr, third: u8) -> bool {
    matches!(address, IpAddr::V4(address) if address.octets()[..3] == [127, 0, third])
}

/// `fd00:N::/32`.
pub fn v6(address: IpAddr, second: u16) -> bool {
    matches!(address, IpAddr::V6(address) if address.segments()[..2] == [0xfd00, second])
}

/// Expressions, with the same in Rust. The ports are those of [`Ports`], put in by name.
const CASES: [(&str, Wants); 12] = [
    ("dst 127.0.1.0/24", |ends, _| v4(ends.remote.ip(), 1)),
    ("not dst 127.0.1.0/24", |ends, _| !v4(ends.remote.ip(), 1)),
    ("src [::ffff:127.0.1.0]/120", |ends, _| {
        v4(ends.local.ip(), 1)
    }),
    ("not src 127.0.0.0/8", |ends, _| ends.local.is_ipv6()),
    ("dst [fd00:1::]/32", |ends, _| v6(ends.remote.ip(), 1)),
    ("not src [fd00:1::]/32", |ends, _| !v6(ends.local.ip(), 1)),
    (
        "src 127.0.2.0/24 or dst 127.0.2.0/24 or host [fd00:2::]/32",
        |ends, _| {
            let both = [ends.local.ip(), ends.remote.ip()];
            both.iter().any(|&ip| v4(ip, 2) || v6(ip, 2))
        },
    ),
    // A client's first transition comes before the kernel has chosen its port.
    ("sport >= 32768 and not dst 127.0.3.0/24", |ends, _| {
        ends.local.port() >= 32_768 && !v4(ends.remote.ip(), 3)
    }),
    ("sport < 32768", |ends, _| ends.local.port() < 32_768),
    ("dst 127.0.0.0/8 and not port 1-1023", |ends, _| {
        ends.remote.is_ipv4()
            && ends.remote.ip() != IpAddr::from(Ipv4Addr::UNSPECIFIED)
            && !(1..=1023).contains(&ends.local.port())
            && !(1..=1023).contains(&ends.remote.port())
    }),
    (
        "family ipv4 newstate close-wait,established",
        |ends, line| {
            (ends.local.is_ipv4() || ends.remote.is_ipv4())
                && (line["newstate"] == "CLOSE_WAIT" || line["newstate"] == "ESTABLISHED")
        },
    ),
    (
        "cause refused or not ( src 127.0.0.0/8 or src [::]/0 )",
        |_, line| line["cause"] == "refused",
    ),
];

fn as_chosen_here() -> Result<()> {
    let netns = Netns::new()?;
    let inode = netns.inode()?.to_string();
    let start = |expression: &str| {
        let words = ["trace", "--json", "--netns", &inode];
        Tcpstate::start(
            &words
                .into_iter()
                .chain(expression.split(' ').filter(|word| !word.is_empty()))
                .collect::<Vec<_>>(),
        )
    };
    let whole = start("")?;
    let started = CASES.map(|(expression, wants)| Ok((start(expression)?, expression, wants)));
    let started = started.into_iter().collect::<Result<Vec<_>>>()?;
    netns.run_until_quiet(traffic)?;
    let outputs = started.into_iter().map(|(tcpstate, expression, wants)| {
        Ok((tcpstate.stop()?.transitions()?.0, expression, wants))
    });
    let outputs = outputs.collect::<Result<Vec<_>>>()?;
    let (whole, _) = whole.stop()?.transitions()?;
    let ends = ends(&whole)?;
    ensure!(ends.len() > 15, "{} sockets", ends.len());
    for (lines, expression, wants) in outputs {
        let expected = chosen(&whole, &ends, wants)?;
        let found = sorted(lines.iter());
        ensure!(
            expected == found,
            "{expression}: expected {expected:#?}, found {found:#?}"
        );
        ensure!(found.len() < whole.len(), "{expression} selects all");
    }
    Ok(())
}

/// `record` writes what `trace` shows of the same expression, and the expression into the header.
fn recorded() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (all, some) = (folder.path().join("all"), folder.path().join("some"));
    let (all, some) = (
        all.to_str().context("no text")?,
        some.to_str().context("no text")?,
    );
    let netns = Netns::new()?;
    let inode = netns.inode()?.to_string();
    let record = |file: &str, words: &[&str]| {
        let fixed = ["record", "--json", "-w", file, "--netns", &inode];
        Tcpstate::start(&fixed.iter().chain(words).copied().collect::<Vec<_>>())
    };
    let expression = "not dst 127.0.1.0/24 and sport >= 32768";
    let words: Vec<&str> = expression.split(' ').collect();
    let recorders = [record(all, &[])?, record(some, &words)?];
    netns.run_until_quiet(traffic)?;
    for recorder in recorders {
        recorder.stop()?.json()?;
    }
    let read = |file: &str, words: &[&str]| {
        let fixed = ["trace", "--json", "-r", file];
        let words: Vec<&str> = fixed.iter().chain(words).copied().collect();
        run(BINARY, &words)?.transitions()
    };
    let (whole, _) = read(all, &[])?;
    let expected = chosen(&whole, &ends(&whole)?, |ends, _| {
        !v4(ends.remote.ip(), 1) && ends.local.port() >= 32_768
    })?;
    for found in [read(all, &words)?.0, read(some, &[])?.0] {
        let found = sorted(found.iter());
        ensure!(
            expected == found,
            "expected {expected:#?}, found {found:#?}"
        );
    }
    let filters = Reader::open(some.as_ref())?.origin().filters.clone();
    let expected = format!("--netns {inode} not dst 127.0.1.0/24 and sport >= 32768");
    ensure!(filters == expected, "in the header: {filters}");
    Ok(())
}

/// The ends of each socket, as they are once all is known. A child's first line has no cookie on some kernels.
fn ends(lines: &[Value]) -> Result<BTreeMap<u64, Ends>> {
    let mut all = BTreeMap::new();
    for line in lines {
        let end = |address: &str, port: &str| -> Result<SocketAddr> {
            let address: IpAddr = line[address].as_str().context("no address")?.parse()?;
            let port = line[port].as_u64().context("no port")?;
            Ok(SocketAddr::new(address, u16::try_from(port)?))
        };
        let ends = Ends {
            local: end("laddr", "lport")?,
            remote: end("raddr", "rport")?,
        };
        if let Some(cookie) = line["cookie"].as_u64() {
            all.insert(cookie, ends);
        }
    }
    Ok(all)
}

/// A line without what differs from one run to another: a socket and its change. Of a child without a cookie, only the
/// change.
type Line = (Option<u64>, String, String);

fn sorted<'a>(lines: impl Iterator<Item = &'a Value>) -> Vec<Line> {
    let mut lines: Vec<_> = lines
        .map(|line| {
            let word = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            (line["cookie"].as_u64(), word("oldstate"), word("newstate"))
        })
        .collect();
    lines.sort();
    lines
}

/// The lines that are wanted.
fn chosen(lines: &[Value], ends: &BTreeMap<u64, Ends>, wants: Wants) -> Result<Vec<Line>> {
    let mut wanted = Vec::new();
    // A child without a cookie has its next line in the order of the births, as each is served before the next.
    let mut births: Vec<&Value> = Vec::new();
    for line in lines {
        let Some(cookie) = line["cookie"].as_u64() else {
            births.push(line);
            continue;
        };
        let ends = ends.get(&cookie).context("a socket without an end")?;
        if line["oldstate"] == "SYN_RECV" && !births.is_empty() && wants(ends, births.remove(0)) {
            wanted.push((None, "LISTEN".to_owned(), "SYN_RECV".to_owned()));
        }
        if wants(ends, line) {
            wanted.extend(sorted([line].into_iter()));
        }
    }
    wanted.sort();
    Ok(wanted)
}

/// Connections in the thread's namespace by both families, from IPv6 sockets by IPv4, from a chosen port, and one that is
/// refused.
pub fn traffic() -> Result<()> {
    add_ipv6(&["fd00:1::1", "fd00:2::1"])?;
    let ports = Ports {
        dual: unused_port(),
        ipv4: unused_port(),
        bound: unused_port(),
    };
    let dual = TcpListener::bind((Ipv6Addr::UNSPECIFIED, ports.dual))?;
    let ipv4 = TcpListener::bind((Ipv4Addr::new(127, 0, 2, 1), ports.ipv4))?;
    let mapped = |third| Ipv4Addr::new(127, 0, third, 1).to_ipv6_mapped();
    for (listener, address) in [
        (&dual, IpAddr::from(Ipv4Addr::new(127, 0, 1, 1))),
        (&dual, Ipv4Addr::new(127, 0, 3, 1).into()),
        (&dual, mapped(1).into()),
        (&dual, mapped(2).into()),
        (&dual, Ipv6Addr::LOCALHOST.into()),
        (&dual, "fd00:1::1".parse()?),
        (&dual, "fd00:2::1".parse()?),
        (&ipv4, Ipv4Addr::new(127, 0, 2, 1).into()),
    ] {
        let port = listener.local_addr()?.port();
        served(listener, TcpStream::connect((address, port))?)?;
    }
    let bound = socket(AddressFamily::INET, None)?;
    bind(&bound, &SocketAddr::from(([127, 0, 1, 9], ports.bound)))?;
    connect(&bound, &SocketAddr::from(([127, 0, 2, 1], ports.ipv4)))?;
    served(&ipv4, bound.into())?;
    drop((dual, ipv4));
    ensure!(TcpStream::connect(("127.0.1.1", ports.dual)).is_err());
    Ok(())
}

/// The client closes first.
fn served(listener: &TcpListener, client: TcpStream) -> Result<()> {
    let (server, _) = listener.accept()?;
    drop(client);
    await_fin(&server)
}
