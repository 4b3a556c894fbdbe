//! Filter expressions, compared with `ss`, whose language they are: the same expression selects the same sockets, and the
//! kernel lists no others.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use tcpstate_common::State;

use crate::{
    ls::{lines, list},
    need::{Need, trial},
    net::{Netns, add_ipv6, allow_open_files, shutdown_write},
    ss::{Line, await_states, oracle},
};

pub fn add(trials: &mut Vec<Trial>) {
    let programs = [Need::Program("ss"), Need::Program("ip")];
    trials.push(trial("expressions::as_in_ss", &programs, as_in_ss));
}

/// Number of expressions that are made, beside those that are given.
const MADE: usize = 170;

/// The examples of ss's manual, and one of each form. With one state alone, ss leaves out the column.
const GIVEN: &[&str] = &[
    "state established state closing ( dport = :ssh or sport = :ssh )",
    "state fin-wait-2 state closing ( sport = :http or sport = :https ) dst 127.0.2/24",
    "src 127.0.0.1",
    "src [::1]",
    "src = [::1]:443",
    "dst 127.0.1.0/24:443",
    "dst [fd00:1::/32]",
    "dst *:22",
    "src :https",
    "sport = :443",
    "sport == 443",
    "sport eq https",
    "sport 443",
    "dport != :443",
    "dport ne 443",
    "dport neq 443",
    "dport < 1024",
    "dport lt 1024",
    "dport <= :443",
    "dport le 443",
    "sport > 1024",
    "sport gt :1024",
    "sport >= 443",
    "sport ge :443",
    "not sport = :443",
    "! ( dst 127.0.1.0/24 )",
    "src 127.0.0.0/8 and dst 127.0.2.0/24",
    "src 127.0.0.0/8 && dport = :22",
    "src 127.0.0.0/8 & dport = :22",
    "src 127.0.0.0/8 dport = :22",
    "sport = :22 | sport = :80",
    "sport = :22 || sport = :80",
    "state listening state closing",
    "state all exclude listening exclude established",
    "exclude close-wait src 127.0.0.0/8",
    "state connected sport = :22",
    "state big dport = :22",
    "state synchronized not dport = :22",
];

const PORTS: [u16; 4] = [22, 80, 443, 8080];

fn as_in_ss() -> Result<()> {
    allow_open_files(3_000)?;
    Netns::new()?.run(|| {
        let (sockets, expected) = sockets()?;
        await_states("all sockets are in their last state", |count| {
            count.values().sum::<usize>() == expected
                && count.len() == 4
                && !count.contains_key(&State::CLOSING)
        })?;
        let all = oracle(&[])?.len();
        ensure!(
            all == expected && all > 2_000,
            "{all} of {expected} sockets"
        );
        let listeners = oracle(&["state", "listening", "state", "closing"])?;
        let made = Made { seed: 1 }.take(MADE);
        let (mut some, mut number) = (0, 0);
        for expression in GIVEN.iter().map(|&given| given.to_owned()).chain(made) {
            let words: Vec<&str> = expression.split(' ').collect();
            let theirs = oracle(&words).with_context(|| expression.clone())?;
            let ours = list(&words).and_then(|(values, _)| lines(&values));
            let ours = ours.with_context(|| expression.clone())?;
            ensure!(
                ours == theirs,
                "{expression}: {} sockets here, {} in ss; only in one: {:?}",
                ours.len(),
                theirs.len(),
                ours.iter()
                    .filter(|line| !theirs.contains(line))
                    .chain(theirs.iter().filter(|line| !ours.contains(line)))
                    .take(10)
                    .collect::<Vec<_>>()
            );
            lists_no_others(&words, &theirs, &listeners).with_context(|| expression.clone())?;
            number += 1;
            some += usize::from(!ours.is_empty() && ours.len() < all);
        }
        // Most select some and leave some out.
        ensure!(number > 200 && some * 2 > number, "{some} of {number}");
        drop(sockets);
        Ok(())
    })
}

/// Of connections, the kernel lists those that the expression selects, and no others; and all listeners, or those of
/// IPv6 where nothing else can match.
fn lists_no_others(words: &[&str], selected: &[Line], listeners: &[Line]) -> Result<()> {
    let connected = [
        &["--resolve-owners=no", "state", "connected", "("],
        words,
        &[")"],
    ]
    .concat();
    let (lines, summary) = list(&connected)?;
    let selected = selected
        .iter()
        .filter(|(state, ..)| *state != State::LISTEN);
    let expected = selected.count();
    ensure!(lines.len() == expected, "{} of {expected}", lines.len());
    let seen = summary["accounting"]["seen"].as_u64().context("no seen")?;
    let of_ipv6 = listeners.iter().filter(|(_, local, _)| local.is_ipv6());
    let listed = [listeners.len(), of_ipv6.count()].map(|others| (expected + others) as u64);
    ensure!(listed.contains(&seen), "{seen} listed, not {listed:?}");
    Ok(())
}

/// Sockets of both families and v4-mapped ones, in the states that last, and their number.
fn sockets() -> Result<(Vec<TcpStream>, usize)> {
    const CONNECTIONS_EACH: usize = 52;
    add_ipv6(&["fd00:1::1", "fd00:2::1"])?;
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
    let mut streams = Vec::new();
    let mut count = 0;
    let v4 =
        [[127, 0, 0, 1], [127, 0, 1, 1], [127, 0, 2, 1]].map(|to| IpAddr::from(Ipv4Addr::from(to)));
    let v6 = ["::1", "fd00:1::1", "fd00:2::1"].map(|to| to.parse::<Ipv6Addr>().map(IpAddr::from));
    let v6 = v6.into_iter().collect::<Result<Vec<_>, _>>()?;
    for port in PORTS {
        // On 80 it takes IPv4 too.
        let any: IpAddr = if port == 80 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let first = TcpListener::bind((any, port))?;
        let mut listeners = vec![(first, v4.to_vec())];
        for &to in v6.iter().filter(|_| port != 80) {
            listeners.push((TcpListener::bind((to, port))?, vec![to]));
        }
        if let [(_, to)] = &mut listeners[..] {
            to.extend(&v6);
        }
        for (listener, addresses) in &listeners {
            for to in addresses {
                for number in 0..CONNECTIONS_EACH {
                    let client = TcpStream::connect(SocketAddr::from((*to, port)))?;
                    let (server, _) = listener.accept()?;
                    match number % 4 {
                        0 => shutdown_write(&client)?,
                        1 => shutdown_write(&server)?,
                        _ => {}
                    }
                    streams.extend([client, server]);
                    count += 2;
                }
            }
        }
        // Without their listeners, but one of each kind: a listener is a socket too.
        if port == 22 || port == 80 {
            count += listeners.len();
            for (listener, _) in listeners {
                std::mem::forget(listener);
            }
        }
    }
    Ok((streams, count))
}

/// Makes expressions; always the same.
struct Made {
    seed: u64,
}

impl Made {
    fn below(&mut self, bound: usize) -> usize {
        // Knuth's generator; its high bits are good.
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(self.seed >> 33).unwrap_or(0) % bound
    }

    fn one<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }

    fn port(&mut self) -> String {
        let ports = ["22", "80", "443", "8080", "0", "1024", "33000", "45000"];
        let names = [":ssh", ":http", ":https", "ssh"];
        match self.below(3) {
            0 => self.one(&names).to_owned(),
            1 => self.one(&ports).to_owned(),
            _ => format!(":{}", self.one(&ports)),
        }
    }

    fn host(&mut self) -> String {
        // No prefix that begins with zeros: ss compares the bits of different families.
        let addresses = [
            "127.0.0.1",
            "127.0.1.1",
            "127.0.0.0/23",
            "127.0.2.0/24",
            "127.0/16",
            "[::1]",
            "[fd00:1::1]",
            "[fd00:1::/32]",
            "[fd00::/8]",
            "*",
        ];
        let address = self.one(&addresses);
        match self.below(3) {
            0 => format!("{address}:{}", self.one(&["22", "80", "443", "ssh", "*"])),
            _ => address.to_owned(),
        }
    }

    fn condition(&mut self, depth: usize) -> String {
        let inner = depth + 1;
        match self.below(if depth < 3 { 8 } else { 4 }) {
            0 | 1 => {
                let side = self.one(&["src", "dst"]);
                let equals = self.one(&["", "= ", "== ", "eq "]);
                format!("{side} {equals}{}", self.host())
            }
            2 | 3 => {
                let side = self.one(&["sport", "dport"]);
                let operator = self.one(&[
                    "", "= ", "== ", "eq ", "!= ", "ne ", "neq ", "< ", "lt ", "> ", "gt ", "<= ",
                    "le ", "leq ", ">= ", "ge ", "geq ",
                ]);
                format!("{side} {operator}{}", self.port())
            }
            4 => format!("{} {}", self.one(&["not", "!"]), self.condition(inner)),
            5 => format!("( {} )", self.condition(inner)),
            6 => {
                let and = self.one(&[" ", " and ", " & ", " && "]);
                format!(
                    "( {}{and}{} )",
                    self.condition(inner),
                    self.condition(inner)
                )
            }
            _ => {
                let or = self.one(&[" or ", " | ", " || "]);
                format!("( {}{or}{} )", self.condition(inner), self.condition(inner))
            }
        }
    }
}

impl Iterator for Made {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let states = [
            "",
            "",
            "",
            "state established state closing ",
            "state close-wait state listening ",
            "exclude fin-wait-2 ",
            "state connected ",
            "state big exclude close-wait ",
        ];
        Some(format!("{}{}", self.one(&states), self.condition(0)))
    }
}
