//! Floods of SYNs.

use std::fmt::Write as _;

use tcpstate_common::State;

use super::{
    super::{Evidence, Figure, Finding, FindingText, Input, Place, Rule, Severity, Snapshot},
    half_open::HalfOpen,
};
use crate::{service::Role, setting::Setting, units::Count};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "syn_flood",
        side: Role::Server,
        title: "a flood of SYNs",
        is: "Many addresses have sent a SYN, and do not acknowledge the SYN-ACK. Their half-open connections take the listener's \
             whole backlog. Nearly always the addresses are forged.",
        why: "Without SYN cookies, SYNs of real clients are dropped. With them, real clients still connect; they lose some TCP \
              options, and each SYN costs time.",
        signal: "Half-open connections near the listener's backlog, from `flood_sources` addresses or more, while its accept \
                 queue is nearly empty; `TCPReqQFullDoCookies`, `TCPReqQFullDrop` or `ListenDrops` rises.",
        advice: &[
            "`tcp_syncookies` must be 1, so that SYNs are answered without keeping anything.",
            "Raise the backlog in listen(), with `somaxconn` and `tcp_max_syn_backlog`. Lower `tcp_synack_retries` to 2: \
             half-open connections then end after 7 s.",
            "Have the flood dropped before it arrives: at the provider, the load balancer, or a firewall in front (SYNPROXY).",
        ],
        settings: &[
            Setting {
                path: "net/ipv4/tcp_syncookies",
                effect: "with 1, the kernel answers with cookies when the backlog is full; with 0, it drops",
            },
            Setting {
                path: "net/ipv4/tcp_max_syn_backlog",
                effect: "without cookies, the most half-open connections of a listener, less a quarter",
            },
            Setting {
                path: "net/core/somaxconn",
                effect: "limits the backlog that listen() asks for",
            },
            Setting {
                path: "net/ipv4/tcp_synack_retries",
                effect: "ends a half-open connection: 5 after 64 s, 2 after 7 s",
            },
        ],
        commands: &[
            "tcpstate ls state syn-recv 'sport = :{port}'",
            "ss -tan state syn-recv 'sport = :{port}'",
            "nstat -az 'TcpExtTCPReqQFull*' TcpExtListenDrops",
        ],
        told_from: &[
            "a slow accept(): there Recv-Q of the listener is full first; the kernel's log says \"possible SYN flooding\" too",
            "TCP_DEFER_ACCEPT: these clients have acknowledged; no SYN-ACK is sent again, `TCPDeferAcceptDrop` rises",
            "a path that loses SYN-ACKs: few addresses, each with several SYNs",
        ],
        states: &[State::SYN_RECV, State::LISTEN],
        sources: &[
            "tcp_conn_request",
            "inet_csk_reqsk_queue_is_full",
            "tcp_syn_flood_action",
            "RFC 4987",
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
        if HalfOpen::of(listener, snapshot) != HalfOpen::Flood {
            continue;
        }
        let risen = |counter| snapshot.risen(listener.netns, counter);
        let dropped = dropped(risen);
        let cookies = risen("TCPReqQFullDoCookies");
        let severity = if dropped.is_some_and(|dropped| dropped > 0) {
            Severity::Critical
        } else {
            Severity::Warning
        };
        let place = Place::service(Some(listener.netns), Role::Server, Some(listener.port));
        let mut summary = format!(
            "{} half-open connections from {} addresses or more, the backlog is {}",
            Count(listener.half_open),
            Count(listener.half_open_peers.keys() as u64),
            Count(listener.backlog.unwrap_or(0).into())
        );
        for (count, case) in [
            (dropped, "SYNs dropped"),
            (cookies, "SYNs answered with cookies"),
        ] {
            if let Some(count) = count.filter(|&count| count > 0) {
                // Writing to a string does not fail.
                let _ = write!(summary, ", {} {case}", Count(count));
            }
        }
        let mut finding = Finding::new(&RULE.text, severity, place, summary)
            .with_peers(&listener.half_open_peers);
        finding.owners = listener
            .owner
            .map(|owner| (owner, listener.half_open))
            .into_iter()
            .collect();
        finding.figures = vec![
            Figure::count("half_open", listener.half_open, Evidence::Sampled),
            Figure::count(
                "sources",
                listener.half_open_peers.keys() as u64,
                Evidence::Sampled,
            ),
        ];
        for (name, count) in [("dropped", dropped), ("cookies", cookies)] {
            finding
                .figures
                .extend(count.map(|count| Figure::count(name, count, Evidence::Counted)));
        }
        let cookies = snapshot.setting(listener.netns, "net/ipv4/tcp_syncookies");
        finding.here.extend(cookies.map(|cookies| match cookies {
            0 => "tcp_syncookies is 0 here: SYNs of real clients are dropped.".to_owned(),
            _ => format!(
                "tcp_syncookies is {cookies} here already: real clients connect. This ends when the flood does."
            ),
        }));
        findings.push(finding);
    }
    findings
}

/// The number of SYNs for which there was no room. Without cookies the kernel drops them from three quarters of
/// `tcp_max_syn_backlog` on, and counts them only with all that a listener drops.
///
/// *Source:* `tcp_conn_request`.
fn dropped(risen: impl Fn(&'static str) -> Option<u64>) -> Option<u64> {
    let all = risen("ListenDrops");
    let others = all.zip(risen("ListenOverflows"));
    let dropped = others.map(|(all, overflows)| all.saturating_sub(overflows));
    dropped.max(risen("TCPReqQFullDrop"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::sample::{Sample, addresses, listener};

    fn flooded(cookies: &str, counters: [(&'static str, u64); 2]) -> Sample {
        let mut one = listener(64);
        one.half_open = 64;
        one.resent = 40;
        one.half_open_peers = addresses(40);
        Sample::default()
            .with_listener(one)
            .set(&[("net/ipv4/tcp_syncookies", cookies)])
            .counting(&counters)
    }

    const DROPS: &str = "TCPReqQFullDrop";
    const COOKIES: &str = "TCPReqQFullDoCookies";

    #[test]
    fn a_flood_is_critical_where_syns_are_dropped() {
        let before = flooded("0", [(DROPS, 5), (COOKIES, 0)]);
        let found = flooded("0", [(DROPS, 12), (COOKIES, 0)])
            .after(before)
            .found(&RULE);
        assert_eq!(found[0].severity, Severity::Critical);
        assert_eq!(
            found[0].summary,
            "64 half-open connections from 40 addresses or more, the backlog is 64, 7 SYNs dropped"
        );
        assert!(found[0].here[0].starts_with("tcp_syncookies is 0 here:"));
        let found = flooded("1", [(DROPS, 5), (COOKIES, 9)]).found(&RULE);
        assert_eq!(found[0].severity, Severity::Warning);
        assert!(found[0].here[0].starts_with("tcp_syncookies is 1 here already:"));
    }
}
