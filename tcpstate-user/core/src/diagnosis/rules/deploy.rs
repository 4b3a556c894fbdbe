//! Processes that were replaced, and the connections that this cost.

use std::collections::BTreeMap;

use tcpstate_common::State;

use super::super::{
    Amount, Ending, Evidence, Figure, Finding, FindingText, Input, ListenerEnd, Place, Rule,
    ServiceKey, Severity, Snapshot, Top,
};
use crate::{
    cause::Cause,
    escape::Printable,
    event::Process,
    inventory::Age,
    owner::Comm,
    service::Role,
    units::{Count, Counted, Span},
};

/// A process that ends closes its sockets in the order of its descriptors, nanoseconds.
const EXIT_NS: u64 = 1_000_000_000;

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "deploy",
        side: Role::Server,
        title: "the process of a service was replaced",
        is: "A listener ended, and another process listens at its port: a deploy, or a restart after a crash.",
        why: "Connections of the old process that were in use are reset, and between the two processes clients are refused. A \
              careful deploy costs none of either.",
        signal: "LISTEN that ends and begins again at the same port by another process, with resets by the old one and \
                 refusals in between.",
        advice: &[
            "Let the old process finish: on SIGTERM it stops accepting, closes idle connections, answers what it has, and ends \
             then. Give it the time (systemd: TimeoutStopSec, Kubernetes: terminationGracePeriodSeconds).",
            "Do not close the listener in between: a socket unit of systemd keeps it open, SO_REUSEPORT lets both processes \
             listen, some servers hand theirs on (nginx: USR2; haproxy: -sf).",
            "Where nobody deployed anything, the process crashed: see its log, and `dmesg`.",
        ],
        settings: &[],
        commands: &[
            "tcpstate ls state listening 'sport = :{port}'",
            "tcpstate life --cause reset_locally --reset-reason {filter}",
        ],
        told_from: &[
            "a listener that does not come back (listener_vanished)",
            "a process that opens its listener again itself",
            "resets that have nothing to do with it: they are not of the old process, or not of that time",
        ],
        states: &[State::LISTEN],
        sources: &["inet_csk_listen_stop", "__tcp_close"],
    },
    needs: &[Input::Events],
    check,
};

/// A replaced process.
struct Replaced<'a> {
    old: &'a ListenerEnd,
    new: &'a ListenerEnd,
}

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let observed = snapshot.observed;
    // When each process began to listen at a port last.
    let mut began = BTreeMap::new();
    for new in observed.listeners_began() {
        let latest_ns = began.entry((new.netns, new.port, new.owner)).or_insert(0);
        *latest_ns = new.at_ns.max(*latest_ns);
    }
    let mut services: BTreeMap<_, Vec<Replaced<'_>>> = BTreeMap::new();
    for new in observed.listeners_began() {
        let Some(process) = new.owner else { continue };
        let is_old = |old: &&ListenerEnd| {
            if (old.netns, old.port) != (new.netns, new.port) {
                return false;
            }
            let is_other = old.owner.is_none_or(|owner| owner.pid != process.pid);
            // One that began later replaced this one.
            let latest_ns = began.get(&(old.netns, old.port, old.owner));
            let is_later = old.owner.is_some() && latest_ns.is_some_and(|&ns| ns > new.at_ns);
            is_other && !is_later
        };
        let ended = observed.listeners_ended().filter(is_old);
        if let Some(old) = ended.min_by_key(|old| old.at_ns.abs_diff(new.at_ns)) {
            let place = (new.netns, new.port);
            services
                .entry(place)
                .or_default()
                .push(Replaced { old, new });
        }
    }
    services
        .into_values()
        .filter_map(|replaced| find(snapshot, &replaced))
        .collect()
}

fn find(snapshot: &Snapshot<'_>, replaced: &[Replaced<'_>]) -> Option<Finding> {
    let Replaced { old, new } = replaced.last()?;
    let key = |role| ServiceKey {
        netns: new.netns,
        port: Some(new.port),
        role,
    };
    let endings = |role| {
        let service = snapshot.observed.service(&key(role));
        service.into_iter().flat_map(|service| &service.endings)
    };
    let is_reset = |ending: &&Ending| {
        ending.cause == Cause::ResetLocally
            && replaced.iter().any(|Replaced { old, .. }| {
                let until_ns = old.at_ns.saturating_add(snapshot.thresholds.deploy_time);
                let is_of_old = ending.owner.zip(old.owner);
                (old.at_ns.saturating_sub(EXIT_NS)..=until_ns).contains(&ending.at_ns)
                    && is_of_old.is_none_or(|(one, other)| one.pid == other.pid)
            })
    };
    let is_refused = |ending: &&Ending| {
        ending.cause == Cause::Refused
            && replaced
                .iter()
                .any(|Replaced { old, new }| (old.at_ns..new.at_ns).contains(&ending.at_ns))
    };
    let mut peers = Top::default();
    let (mut reset, mut refused) = (0, 0);
    for ending in endings(Role::Server).filter(is_reset) {
        reset += 1;
        peers.add(ending.peer);
    }
    for ending in endings(Role::Client).filter(is_refused) {
        refused += 1;
        peers.add(ending.peer);
    }
    let severity = if reset + refused > 0 {
        Severity::Warning
    } else {
        Severity::Note
    };
    let gap_ns = new.at_ns.saturating_sub(old.at_ns);
    let times = match replaced.len() {
        1 => "once".to_owned(),
        more => format!("{} times", Count(more as u64)),
    };
    let summary = format!(
        "replaced {times}: {} reset, {} refused; {}",
        Counted(reset, "connection"),
        Count(refused),
        if gap_ns > 0 {
            format!("nothing listened for {}", Span(gap_ns))
        } else {
            "there was always a listener".to_owned()
        }
    );
    let place = Place::service(new.netns, Role::Server, Some(new.port));
    let mut finding = Finding::new(&RULE.text, severity, place, summary).with_peers(&peers);
    finding.since = Some(Age::exactly(
        snapshot.now_ns.saturating_sub(new.at_ns.max(old.at_ns)),
    ));
    finding.figures = vec![
        Figure::count("reset", reset, Evidence::Seen),
        Figure::count("refused", refused, Evidence::Seen),
        Figure::count("times", replaced.len() as u64, Evidence::Seen),
        Figure {
            name: "gap_ns",
            amount: Amount::Time(gap_ns),
            evidence: Evidence::Seen,
        },
    ];
    finding.owners = new.owner.map(|owner| (owner, 1)).into_iter().collect();
    let name = |process: Option<Process>| {
        process.map_or_else(
            || "a process that is not known".to_owned(),
            |Process { pid, comm }| format!("{} {pid}", Printable(Comm(comm).as_bytes())),
        )
    };
    finding.here.push(format!(
        "{} was replaced by {}.",
        name(old.owner),
        name(new.owner)
    ));
    Some(finding)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{
        super::super::observed::tests::{Host, MS, S, only, peer},
        *,
    };

    /// Process 7 is replaced by this one, after this time. So many of its connections are reset.
    fn host(reset: u64, gap_ns: u64, pid: u32, refused: u64) -> Host {
        let mut host = Host::new();
        let mut listener = host.listens(80, 7);
        let lives: Vec<_> = (0..reset).map(|_| host.accepted(80, peer(1))).collect();
        host.wait(20 * S);
        host.goes(&mut listener, 0, State::CLOSE);
        for mut life in lives {
            life.resets();
            host.goes(&mut life, MS, State::CLOSE);
        }
        for _ in 0..refused {
            host.fails(Ipv4Addr::LOCALHOST.into(), 80, 111);
        }
        host.wait(gap_ns);
        host.listens(80, pid);
        host
    }

    #[test]
    fn resets_and_refusals_are_its_cost() {
        let finding = only(host(2, S, 8, 1).check(&RULE), Severity::Warning);
        assert_eq!(
            finding.summary,
            "replaced once: 2 connections reset, 1 refused; nothing listened for 1.00 s"
        );
        assert_eq!(finding.here, ["a 7 was replaced by a 8."]);
        assert_eq!(finding.owners[0].0.pid, 8);
        assert_eq!(
            (finding.place.role, finding.place.port),
            (Role::Server, Some(80))
        );
    }

    #[test]
    fn without_failures_it_is_a_note() {
        only(host(0, S, 8, 0).check(&RULE), Severity::Note);
    }

    #[test]
    fn the_new_one_may_listen_first() {
        let mut host = Host::new();
        let mut old = host.listens(80, 7);
        host.listens(80, 8);
        host.goes(&mut old, S, State::CLOSE);
        let finding = only(host.check(&RULE), Severity::Note);
        assert!(finding.summary.ends_with("there was always a listener"));
    }

    #[test]
    fn the_same_process_or_another_port_is_no_deploy() {
        assert!(host(2, S, 7, 0).check(&RULE).is_empty());
        let mut host = Host::new();
        let mut listener = host.listens(80, 7);
        host.goes(&mut listener, S, State::CLOSE);
        host.listens(81, 8);
        assert!(host.check(&RULE).is_empty());
    }

    #[test]
    fn resets_of_another_time_or_process_do_not_count() {
        let mut host = Host::new();
        let mut listener = host.listens(80, 7);
        let mut early = host.accepted(80, peer(1));
        let mut late = host.accepted(80, peer(1));
        for life in [&mut early, &mut late] {
            life.resets();
        }
        host.goes(&mut early, S, State::CLOSE);
        host.goes(&mut listener, 5 * S, State::CLOSE);
        host.listens(80, 8);
        let mut others = host.accepted(80, peer(1));
        others.resets();
        host.goes(&mut others, S, State::CLOSE);
        host.goes(&mut late, 20 * S, State::CLOSE);
        only(host.check(&RULE), Severity::Note);
    }

    #[test]
    fn a_crash_loop_is_counted() {
        let mut host = Host::new();
        for pid in 7..11 {
            let mut listener = host.listens(80, pid);
            host.goes(&mut listener, S, State::CLOSE);
        }
        host.listens(80, 11);
        let finding = only(host.check(&RULE), Severity::Note);
        assert!(
            finding.summary.starts_with("replaced 4 times"),
            "{}",
            finding.summary
        );
    }
}
