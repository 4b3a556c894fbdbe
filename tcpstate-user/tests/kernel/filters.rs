//! The filters on transitions, compared with the same selection from the transitions that bpftrace saw at
//! the same time.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use tcpstate_common::State;

use crate::{
    need::{ATTACH_MODES, Need, attach_needs, trial},
    net::{Netns, await_fin, unused_port},
    oracle::{self, Oracle, difference},
    process::{Tcpstate, multiset},
    transitions::{Multiset, Transition},
};

pub fn add(trials: &mut Vec<Trial>) {
    for mode in ATTACH_MODES {
        let needs = [&oracle::NEEDS, attach_needs(mode)].concat();
        trials.push(trial(format!("{mode}::filters"), &needs, move || {
            filters(mode)
        }));
    }
}

/// Whether a filter keeps a transition.
type Keeps = fn(&Transition, u16) -> bool;

fn filters(mode: &str) -> Result<()> {
    let port = unused_port();
    let netns = Netns::new()?;
    let (server_port, inode) = (port.to_string(), netns.inode()?.to_string());
    let mut cases: Vec<(Vec<&str>, Keeps)> = vec![
        (vec!["-4", "-P", &server_port], |it, _| is_ipv4(it)),
        (vec!["-6", "-P", &server_port], |it, _| !is_ipv4(it)),
        (vec!["-L", &server_port], |it, port| it.local.port() == port),
        (vec!["-D", &server_port], |it, port| {
            it.remote.port() == port
        }),
        // A client's first transition comes before the kernel has chosen its port.
        (vec!["-L", "32768-60999", "-D", &server_port], |it, port| {
            it.remote.port() == port
        }),
        (vec!["-L", "1", "-D", &server_port], |_, _| false),
        (
            vec!["--state", "CLOSE_WAIT,LISTEN", "-P", &server_port],
            |it, _| {
                [State::CLOSE_WAIT, State::LISTEN]
                    .iter()
                    .any(|state| [it.oldstate, it.newstate].contains(state))
            },
        ),
    ];
    // In both modes the namespace is read from the socket at an offset from BTF.
    if Need::Btf.missing().is_none() {
        cases.push((vec!["--netns", &inode], |_, _| true));
        cases.push((vec!["--netns", "self", "-P", &server_port], |_, _| false));
    }

    let oracle = Oracle::start(port, 10_000)?;
    let started = cases.into_iter().map(|(arguments, keeps)| {
        let all = [&["trace", "--json", "--attach", mode], &arguments[..]].concat();
        Ok((Tcpstate::start(&all)?, arguments, keeps))
    });
    let started = started.collect::<Result<Vec<_>>>()?;
    netns.run_until_quiet(|| clients_of_every_family(port))?;
    let outputs = started.into_iter().map(|(tcpstate, arguments, keeps)| {
        Ok((tcpstate.stop()?.transitions()?, arguments, keeps))
    });
    let outputs = outputs.collect::<Result<Vec<_>>>()?;
    let (seen, _) = oracle.stop()?;
    let unknown_births: u64 = seen
        .iter()
        .filter(|(transition, _)| is_birth_of_unknown(transition))
        .map(|(_, count)| count)
        .sum();
    for ((lines, _), arguments, keeps) in outputs {
        let mut expected: Multiset = seen
            .iter()
            .filter(|(transition, _)| keeps(transition, port))
            .map(|(transition, count)| (*transition, *count))
            .collect();
        let mut ours = multiset(&lines).with_context(|| arguments.join(" "))?;
        // If a child gets its addresses only after its first transition, the oracle cannot attribute that
        // transition. `tcpstate` attributes it by the child's next one, so this number of them is kept.
        expected.retain(|transition, _| !is_birth_of_unknown(transition));
        let births: u64 = ours
            .extract_if(.., |transition, _| is_birth_of_unknown(transition))
            .map(|(_, count)| count)
            .sum();
        let known_later: u64 = seen
            .iter()
            .filter(|(transition, _)| transition.oldstate == State::SYN_RECV && unknown_births > 0)
            .filter(|(child, _)| keeps(&birth_of(child), port))
            .map(|(_, count)| count)
            .sum();
        ensure!(
            births == known_later,
            "{}: {births} births of {known_later}: {ours:?}",
            arguments.join(" ")
        );
        ensure!(
            expected == ours,
            "{}: {}",
            arguments.join(" "),
            difference(&expected, &ours)
        );
    }
    Ok(())
}

/// Whether it is the first transition of a child that has no peer yet.
fn is_birth_of_unknown(transition: &Transition) -> bool {
    transition.oldstate == State::LISTEN
        && transition.newstate == State::SYN_RECV
        && transition.remote.port() == 0
}

/// The transition that created a child, with the addresses of the child's next one.
fn birth_of(child: &Transition) -> Transition {
    Transition {
        oldstate: State::LISTEN,
        newstate: State::SYN_RECV,
        ..*child
    }
}

fn is_ipv4(transition: &Transition) -> bool {
    transition.local.is_ipv4() || transition.remote.is_ipv4()
}

/// A dual-stack listener, with a client by IPv6, by IPv4, and by IPv4 from an IPv6 socket.
fn clients_of_every_family(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    for addr in [
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port)),
    ] {
        let client = TcpStream::connect(addr)?;
        let (server, _) = listener.accept()?;
        drop(client);
        await_fin(&server)?;
    }
    Ok(())
}
