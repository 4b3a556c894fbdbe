//! The figures of the overview and of the services, in every grouping, beside those that `rates` and `ss` have at the same moment.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tcpstate_common::State;

use super::terminal::{Top, await_that};
use crate::{
    process::{BINARY, Tcpstate, has_result, run},
    ss::{Line, by_state, oracle},
};

/// The groupings in the order of their key, from that by port and role on: as `top` names each, and as `rates` does.
const GROUPINGS: [(&str, &str); 12] = [
    ("process name", "comm"),
    ("unit", "unit"),
    ("container", "container"),
    ("pod", "pod"),
    ("remote address", "raddr"),
    ("remote prefix", "prefix"),
    ("netns", "netns"),
    ("process", "pid"),
    ("cgroup", "cgroup"),
    ("role", "role"),
    ("cause", "cause"),
    ("port and role", "port"),
];

/// Sockets in ESTABLISHED and in `CLOSE_WAIT`, by the name of their group. The sockets in other states of a group come and go by
/// themselves.
type Groups = BTreeMap<String, [u64; 2]>;

/// The counts of the overview are those of `rates` and of `ss`.
pub fn ensure_states(top: &Top) -> Result<()> {
    let of = |counts: &BTreeMap<State, usize>, state| counts.get(&state).copied().unwrap_or(0);
    let is_so = || {
        let ss = by_state(&oracle(&[])?);
        let rates = rates("port")?;
        let is_same = |state: &State| {
            let of_rates = rates["states"][state.to_string()].as_u64();
            let (count, shown) = (of(&ss, *state), top.count(*state));
            of_rates.unwrap_or(0) == count as u64 && shown.unwrap_or(0) == count
        };
        // Nothing shows those that are merely bound.
        let mut states = State::ALL
            .iter()
            .filter(|state| !matches!(**state, State::CLOSE | State::BOUND_INACTIVE));
        Ok(states.all(is_same))
    };
    await_that("the states of top, rates and ss are the same", is_so)
        .with_context(|| format!("the screen:\n{}", top.contents()))
}

/// The services by each property are those of `rates` and `ss`. They are by port and role before and afterwards.
pub fn ensure_groups(top: &mut Top, port: u16) -> Result<()> {
    // Of several remote addresses, two of which have a prefix in common.
    let to = |c, d| TcpStream::connect((Ipv4Addr::new(127, 0, c, d), port));
    let _more = [to(1, 1)?, to(1, 2)?, to(2, 1)?];
    top.press("2")?;
    top.await_text("by port and role since")?;
    for (shown, by) in GROUPINGS {
        top.press("b")?;
        top.await_text(&format!("by {shown} since"))?;
        let sum = |groups: &Groups| {
            let all = groups.values();
            all.fold([0, 0], |sum, one| [sum[0] + one[0], sum[1] + one[1]])
        };
        let ss = of_ss(|_| String::new())?;
        top.await_screen("as many as in ss", |screen| {
            sum(&sockets(screen)) == sum(&ss)
        })
        .with_context(|| format!("{ss:?} by {by}"))?;
        let wanted = match by {
            "raddr" => Some(of_ss(|addr| addr.to_string())?),
            "prefix" => Some(of_ss(prefix)?),
            _ => None,
        };
        let of_rates = match by {
            "raddr" => of_rates(by, "raddrs", |group| name(&group["raddr"]))?,
            "prefix" => of_rates(by, "prefixes", |group| name(&group["prefix"]))?,
            "role" => of_rates(by, "roles", |group| name(&group["role"]))?,
            "port" => of_rates(by, "ports", |group| {
                format!("{} {}", name(&group["service_port"]), name(&group["role"]))
            })?,
            _ => continue,
        };
        ensure!(
            wanted.as_ref().is_none_or(|wanted| *wanted == of_rates),
            "ss: {wanted:?}; rates: {of_rates:?}"
        );
        top.await_screen("the groups of rates", |screen| sockets(screen) == of_rates)
            .with_context(|| format!("rates: {of_rates:?}"))?;
        if by == "prefix" {
            ensure_refused(top)?;
        }
    }
    Ok(())
}

/// Ends of connections are counted as `rates` counts them meanwhile.
fn ensure_refused(top: &mut Top) -> Result<()> {
    const REFUSED: u64 = 7;
    let nobody = TcpListener::bind((Ipv4Addr::new(127, 0, 9, 1), 0))?.local_addr()?;
    let words = ["rates", "1m", "--json", "--by", "prefix", "--netns", "self"];
    let rates = Tcpstate::start(&words)?;
    for _ in 0..REFUSED {
        ensure!(TcpStream::connect(nobody).is_err());
    }
    let (lines, _) = rates.stop()?.json()?;
    let groups = lines.iter().filter_map(|line| line["prefixes"].as_array());
    let of_prefix = groups
        .flatten()
        .filter(|group| group["prefix"] == "127.0.9.0/24");
    let refused = of_prefix.filter_map(|group| group["causes"]["refused"].as_u64());
    let refused: u64 = refused.sum();
    ensure!(refused == REFUSED, "{lines:?}");
    // The columns at the right.
    let right = "l".repeat(20);
    top.press(&right)?;
    top.await_screen("those refused", |screen| {
        let refused = column(screen, "REFUSED");
        refused.get("127.0.9.0/24") == Some(&REFUSED)
    })?;
    top.press(&right.replace('l', "h"))?;
    top.await_text("OPEN/S")
}

/// The last interval of two of `rates`.
fn rates(by: &str) -> Result<Value> {
    let words = [
        "rates", "200ms", "--json", "--by", by, "--netns", "self", "--count", "2",
    ];
    let rates = run(BINARY, &words)?;
    ensure!(has_result(rates.status), "{}", rates.stderr);
    let mut lines = rates.stdout.lines();
    let line = lines.rfind(|line| line.contains("\"states\""));
    Ok(serde_json::from_str(line.context("no interval")?)?)
}

/// The groups of `rates`, in this list of it.
fn of_rates(by: &str, list: &str, name: impl Fn(&Value) -> String) -> Result<Groups> {
    let rates = rates(by)?;
    let groups = rates[list].as_array().context("no groups")?;
    let groups = groups.iter().map(|group| {
        let count = |state: &str| group["states"][state].as_u64().unwrap_or(0);
        (name(group), [count("ESTABLISHED"), count("CLOSE_WAIT")])
    });
    Ok(groups.filter(|(_, counts)| *counts != [0, 0]).collect())
}

/// A value in the name of a group.
fn name(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The sockets of `ss`, grouped by their remote addresses.
fn of_ss(name: impl Fn(IpAddr) -> String) -> Result<Groups> {
    let mut groups = Groups::new();
    for (state, _, remote) in oracle(&[])? as Vec<Line> {
        let place = match state {
            State::ESTABLISHED => 0,
            State::CLOSE_WAIT => 1,
            _ => continue,
        };
        groups.entry(name(remote.ip())).or_default()[place] += 1;
    }
    Ok(groups)
}

/// The prefix of an address of this test.
fn prefix(addr: IpAddr) -> String {
    let text = addr.to_string();
    let begin = text.rsplit_once('.').map_or("", |(begin, _)| begin);
    format!("{begin}.0/24")
}

/// The groups on the screen.
fn sockets(screen: &str) -> Groups {
    let mut groups = Groups::new();
    for (place, title) in ["ESTAB", "CLOSE_W"].into_iter().enumerate() {
        for (name, count) in column(screen, title) {
            groups.entry(name).or_default()[place] = count;
        }
    }
    groups.retain(|_, counts| *counts != [0, 0]);
    groups
}

/// The counts in a column of the services, by the name of the group; none where the column is not seen.
fn column(screen: &str, title: &str) -> BTreeMap<String, u64> {
    const NAME: usize = 22;
    const WIDTH: usize = 8;
    let mut lines = screen
        .lines()
        .skip_while(|line| !line.starts_with(" SERVICE "));
    let titles = lines.next().unwrap_or_default();
    let Some((before, _)) = titles.split_once(title) else {
        return BTreeMap::new();
    };
    let end = before.chars().count() + title.len();
    let part = |line: &str, from: usize, len: usize| {
        let part: String = line.chars().skip(from).take(len).collect();
        part.trim().replace(',', "")
    };
    let rows = lines.take_while(|line| !line.contains("[2 services]"));
    let rows = rows.filter_map(|line| {
        let count = part(line, end - WIDTH, WIDTH).parse().ok()?;
        Some((part(line, 1, NAME), count))
    });
    rows.collect()
}
