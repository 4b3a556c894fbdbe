//! Listeners whose accept queue is full.

use tcpstate_common::State;

use super::super::{
    Evidence, Figure, Finding, FindingText, Input, ListenerNow, Place, Rule, ServiceKey, Severity,
    Snapshot, Survey,
};
use crate::{
    service::Role,
    setting::Setting,
    units::{Count, PerSecond, Span},
};

/// The shortest time that tells a process that accepts slowly from one that hangs, nanoseconds.
const WATCHED_NS: u64 = 5_000_000_000;

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "accept_queue_full",
        side: Role::Server,
        title: "a listener's accept queue is full",
        is: "More connections wait to be accepted than the listener's backlog allows. The kernel drops further ones without an \
             answer.",
        why: "Clients wait in SYN_SENT, repeat their SYN after 1, 3, 7 seconds, and give up.",
        signal: "Recv-Q of a listener above its Send-Q, or `ListenOverflows` rising.",
        advice: &[
            "Accept faster: look at what the process does between two calls of accept(). One that hangs shows the same.",
            "Where bursts are normal, raise the backlog in listen(), and `somaxconn`, which limits it. It takes effect when \
             the listener is opened again.",
        ],
        settings: &[
            Setting {
                path: "net/core/somaxconn",
                effect: "limits the backlog that listen() asks for",
            },
            Setting {
                path: "net/ipv4/tcp_abort_on_overflow",
                effect: "with 1, a client whose handshake ends when the queue is full gets a RST; SYNs that come later are dropped all the same",
            },
        ],
        commands: &[
            "tcpstate ls state listening 'sport = :{port}'",
            "ss -tlnp 'sport = :{port}'",
            "nstat -az TcpExtListenOverflows TcpExtListenDrops",
        ],
        told_from: &[
            "a flood of SYNs: there the half-open connections are many, and Recv-Q is small; the kernel's log says \
             \"possible SYN flooding\" for both",
            "TCP_DEFER_ACCEPT: connections stay half-open until data comes, and do not count in Recv-Q",
        ],
        states: &[State::LISTEN, State::SYN_SENT],
        sources: &[
            "sk_acceptq_is_full",
            "tcp_conn_request",
            "tcp_v4_syn_recv_sock",
        ],
    },
    needs: &[Input::Sockets, Input::Queues],
    check,
};

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let Some(sockets) = snapshot.sockets else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for listener in &sockets.listeners {
        let (Some(waiting), Some(backlog)) = (listener.waiting, listener.backlog) else {
            continue;
        };
        // The kernel takes one more than the backlog.
        if waiting == 0 || waiting < backlog {
            continue;
        }
        let overflows = snapshot.risen(listener.netns, "ListenOverflows");
        let severity = if waiting > backlog || overflows.is_some_and(|overflows| overflows > 0) {
            Severity::Critical
        } else {
            Severity::Warning
        };
        let place = Place::service(Some(listener.netns), Role::Server, Some(listener.port));
        let summary = format!(
            "{} to be accepted, the backlog is {}",
            match waiting {
                1 => "1 connection waits".to_owned(),
                more => format!("{} connections wait", Count(more.into())),
            },
            Count(backlog.into())
        );
        let mut finding = Finding::new(&RULE.text, severity, place, summary);
        finding.owners = listener
            .owner
            .map(|owner| (owner, u64::from(waiting)))
            .into_iter()
            .collect();
        finding.figures = vec![
            Figure::count("waiting", waiting.into(), Evidence::Sampled),
            Figure::count("backlog", backlog.into(), Evidence::Sampled),
        ];
        finding
            .figures
            .extend(overflows.map(|count| Figure::count("overflows", count, Evidence::Counted)));
        finding.here.extend(speed(snapshot, listener));
        if snapshot.setting(listener.netns, "net/core/somaxconn") == Some(u64::from(backlog)) {
            finding.here.push(format!(
                "The backlog is limited by somaxconn, which is {backlog} here."
            ));
        }
        findings.push(finding);
    }
    for facts in snapshot.facts {
        let netns = facts.netns;
        let is_found = |finding: &Finding| finding.place.netns == Some(netns);
        let overflows = snapshot.risen(netns, "ListenOverflows").unwrap_or(0);
        if overflows > 0 && !findings.iter().any(is_found) {
            findings.push(overflowed(sockets, netns, overflows));
        }
    }
    findings
}

/// The pace of `accept()`, where the queue was full at both looks: those that were established in between, and those that
/// waited and do not any more, were accepted.
fn speed(snapshot: &Snapshot<'_>, listener: &ListenerNow) -> Option<String> {
    let full = |listener: &ListenerNow| {
        let queue = listener.waiting.zip(listener.backlog);
        let full = queue.filter(|(waiting, backlog)| waiting >= backlog);
        full.map(|(waiting, _)| u64::from(waiting))
    };
    let is_it = |one: &&ListenerNow| {
        (one.netns, one.laddr, one.port) == (listener.netns, listener.laddr, listener.port)
    };
    let earlier = snapshot.earlier?.listeners.iter().find(is_it)?;
    let interval_ns = snapshot.observed.length_ns();
    let (earlier, now) = (full(earlier)?, full(listener)?);
    if interval_ns < WATCHED_NS {
        return None;
    }
    let service = snapshot.observed.service(&ServiceKey {
        netns: Some(listener.netns),
        port: Some(listener.port),
        role: Role::Server,
    });
    let came = service.map_or(0, |service| service.established);
    let count = came.saturating_add(earlier).saturating_sub(now);
    Some(if count == 0 {
        format!(
            "Nothing was accepted for {}: the process hangs, or waits that long for something else.",
            Span(interval_ns)
        )
    } else {
        let rate = PerSecond { count, interval_ns };
        format!("It accepts about {rate} a second, and more come.")
    })
}

/// A queue was full, and is not any more: the kernel counts it for the namespace, so that only a lonely listener can be
/// named.
fn overflowed(sockets: &Survey, netns: u32, overflows: u64) -> Finding {
    let mut here = sockets.listeners.iter().filter(|one| one.netns == netns);
    let only = here.next().filter(|_| here.next().is_none());
    let port = only.map(|listener| listener.port);
    let place = Place::service(Some(netns), Role::Server, port);
    let summary = format!(
        "{} dropped since the first look, as an accept queue was full; none is now",
        match overflows {
            1 => "1 connection was".to_owned(),
            more => format!("{} connections were", Count(more)),
        }
    );
    let mut finding = Finding::new(&RULE.text, Severity::Critical, place, summary);
    let owner = only.and_then(|listener| listener.owner);
    finding.owners = owner.map(|owner| (owner, overflows)).into_iter().collect();
    finding.figures = vec![Figure::count("overflows", overflows, Evidence::Counted)];
    finding
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::observed::tests::{Host, S, listener, peer},
        *,
    };

    #[test]
    fn a_process_that_hangs_is_told_from_a_slow_one() {
        let full = |waiting| {
            let mut full = listener(80);
            (full.waiting, full.backlog) = (Some(waiting), Some(4));
            let mut sockets = Survey {
                has_queues: true,
                ..Survey::default()
            };
            sockets.listeners.push(full);
            Some(sockets)
        };
        let mut host = Host::new();
        (host.earlier, host.sockets) = (full(5), full(5));
        host.wait(4 * S);
        assert!(host.check(&RULE)[0].here.is_empty());
        host.wait(S);
        let here = &host.check(&RULE)[0].here;
        assert!(
            here[0].starts_with("Nothing was accepted for 5.0"),
            "{here:?}"
        );
        for _ in 0..10 {
            host.accepted(80, peer(1));
        }
        let here = &host.check(&RULE)[0].here;
        assert!(here[0].starts_with("It accepts about 2"), "{here:?}");
        let mut host = Host::new();
        (host.earlier, host.sockets) = (full(5), full(4));
        host.wait(10 * S);
        let here = &host.check(&RULE)[0].here;
        assert!(here[0].starts_with("It accepts about 0.1"), "{here:?}");
        // There was room for all that came at first.
        host.earlier = full(3);
        assert!(host.check(&RULE)[0].here.is_empty());
    }
}
