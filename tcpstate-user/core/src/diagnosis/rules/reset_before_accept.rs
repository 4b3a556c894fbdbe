//! Handshakes that clients break off: port checks and scans.

use tcpstate_common::State;

use super::super::{
    Amount, Evidence, Figure, Finding, FindingText, Input, Place, Rule, Severity, Snapshot,
};
use crate::{
    service::Role,
    units::{Counted, PerSecond},
};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "reset_before_accept",
        side: Role::Server,
        title: "handshakes that clients break off",
        is: "A SYN came, was answered, and the client sent a RST instead of the last packet of the handshake. So do port checks \
             of load balancers and monitoring, and scans. No connection comes about, so that there is no transition.",
        why: "It is harmless. It explains `AttemptFails` in nstat and netstat.",
        signal: "`EmbryonicRsts` and `AttemptFails` rise together.",
        advice: &[
            "Nothing, if a load balancer or monitoring checks ports here.",
            "If you do not know of one: the tcpdump line shows the RSTs, and who sends them.",
        ],
        settings: &[],
        commands: &[
            "nstat -az TcpExtEmbryonicRsts TcpAttemptFails",
            "tcpdump -ni any 'tcp[tcpflags] & tcp-rst != 0'",
        ],
        told_from: &[
            "connects of this host that fail: `AttemptFails` rises alone, and there is a transition SYN_SENT -> CLOSE",
            "health checks that connect and then reset: those make transitions",
            "an overflowing listener with `tcp_abort_on_overflow`: `EmbryonicRsts` rises alone",
        ],
        states: &[State::SYN_RECV],
        sources: &["tcp_check_req", "RFC 9293, section 3.10.7.4"],
    },
    needs: &[Input::Counters],
    check,
};

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for facts in snapshot.facts {
        let risen = |counter| snapshot.risen(facts.netns, counter).unwrap_or(0);
        // A RST on a half-open connection raises both, and nothing else does.
        let broken_off = risen("EmbryonicRsts").min(risen("AttemptFails"));
        if broken_off == 0 {
            continue;
        }
        let place = Place::netns(facts.netns);
        let summary = format!("{} broken off", Counted(broken_off, "handshake"));
        let mut finding = Finding::new(&RULE.text, Severity::Note, place, summary);
        finding.figures = vec![Figure::count("broken_off", broken_off, Evidence::Counted)];
        let looks = snapshot.sockets.zip(snapshot.earlier);
        let interval_ns = looks.map(|(now, earlier)| now.ts_ns.saturating_sub(earlier.ts_ns));
        let rate = interval_ns.and_then(|interval_ns| {
            PerSecond {
                count: broken_off,
                interval_ns,
            }
            .value()
        });
        finding.figures.extend(rate.map(|rate| Figure {
            name: "per_second",
            amount: Amount::PerSecond(rate),
            evidence: Evidence::Counted,
        }));
        findings.push(finding);
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::sample::Sample;

    fn counted(embryonic: u64, fails: u64) -> Sample {
        Sample::default().counting(&[("EmbryonicRsts", embryonic), ("AttemptFails", fails)])
    }

    #[test]
    fn a_reset_handshake_raises_both_counters_and_is_a_note() {
        let found = counted(9, 12).after(counted(4, 4)).found(&RULE);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].severity, Severity::Note);
        assert_eq!(found[0].summary, "5 handshakes broken off");
    }

    #[test]
    fn one_counter_alone_is_something_else() {
        for (embryonic, fails) in [(4, 9), (9, 4), (4, 4)] {
            let found = counted(embryonic, fails).after(counted(4, 4)).found(&RULE);
            assert!(found.is_empty(), "{embryonic} {fails}");
        }
        assert!(counted(9, 9).found(&RULE).is_empty());
    }
}
