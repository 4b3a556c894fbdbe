//! Established connections whose peer does not acknowledge any more.

use tcpstate_common::State;

use super::{
    super::{Finding, FindingText, Input, Rule, Severity, Snapshot, share::Share},
    connect_hangs::is_here,
    waiting::Waiting,
};
use crate::{service::Role, setting::Setting};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "silent_peer",
        side: Role::Unknown,
        title: "established connections with a silent peer",
        is: "The kernel sends the same data again and again, and the peer acknowledges nothing. It has crashed, the path to it \
             is cut, or a firewall or load balancer on the way has forgotten the connection.",
        why: "The application waits for an answer that never comes; writes seem to succeed until the send buffer is full.",
        signal: "The retransmit timer of an established connection has expired `backoffs` times without any answer.",
        advice: &[
            "Try a new connection to the peer. If it works, something on the way forgets idle connections: set SO_KEEPALIVE with \
             TCP_KEEPIDLE and TCP_KEEPINTVL below that time. If not, the peer or the path is down.",
            "Set TCP_USER_TIMEOUT in the application: it ends such a connection after that time (30 s, say), and the \
             application can open another one.",
        ],
        settings: &[
            Setting {
                path: "net/ipv4/tcp_retries2",
                effect: "ends such a connection: 15 after 15 minutes or more, 8 after 100 s",
            },
            Setting {
                path: "net/ipv4/tcp_keepalive_time",
                effect: "the idle time after which SO_KEEPALIVE asks the peer",
            },
        ],
        commands: &[
            "tcpstate ls --wide state established '{filter}'",
            "ss -tanopi state established '{filter}'",
        ],
        told_from: &[
            "the loss of a packet or two: the next answer sets the count of time-outs to 0",
            "a peer that does not read: it answers the probes, so that another timer runs (`persist` in ss)",
            "clients that vanish, of which every public server has some: they are few, and of many addresses",
        ],
        states: &[State::ESTABLISHED],
        sources: &[
            "tcp_retransmit_timer",
            "tcp_write_timeout",
            "RFC 9293, section 3.8.3",
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
    for (key, group) in sockets.in_state(State::ESTABLISHED) {
        let silent = group.retransmitting;
        if silent == 0 {
            continue;
        }
        let is_usual = key.role == Role::Server
            && !Share::of(silent, group.count).is_at_least(snapshot.thresholds.silent_share);
        let severity = if is_usual {
            Severity::Note
        } else {
            Severity::Warning
        };
        let waiting = Waiting {
            count: (silent, "silent"),
            longest: (group.longest_silence, "longest_silence_ns"),
            peer: "a silent peer",
            peers: &group.peers,
            owners: &group.owners,
        };
        let mut finding = waiting.finding(&RULE.text, severity, key, group);
        let example = group.example.filter(|_| key.role == Role::Client);
        finding.is_to_here =
            example.is_some_and(|one| is_here(sockets, key, one.local.0, one.remote.0));
        if finding.place.peer.is_some() && silent > 1 {
            finding
                .here
                .push("All of these go to one peer: it is down, or the path to it is.".to_owned());
        }
        findings.push(finding);
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnosis::{
            Group,
            sample::{Sample, addresses, group, key},
        },
        inventory::Age,
    };

    fn silent(role: Role, silent: u64, all: u64, addresses_of: u8) -> Vec<Finding> {
        let group = Group {
            retransmitting: silent,
            longest_silence: Some(Age::at_least(12_000_000_000)),
            peers: addresses(addresses_of),
            ..group(all)
        };
        let sample = Sample::default().with(key(5_432, role, State::ESTABLISHED), group);
        sample.found(&RULE)
    }

    #[test]
    fn a_silent_server_is_a_warning_however_few_of_its_connections_show_it() {
        let found = silent(Role::Client, 2, 1_000, 1);
        assert_eq!(found[0].severity, Severity::Warning);
        assert_eq!(
            found[0].summary,
            "2 of 1,000 established connections have a silent peer, for more than 12.0 s"
        );
        assert_eq!(found[0].place.peer, Some([192, 0, 2, 0].into()));
        assert_eq!(found[0].here.len(), 1);
    }

    #[test]
    fn clients_that_vanish_are_a_note_unless_many_do_at_once() {
        for (count, severity) in [(49, Severity::Note), (50, Severity::Warning)] {
            let found = silent(Role::Server, count, 1_000, 40);
            assert_eq!(found[0].severity, severity, "{count}");
            assert_eq!(found[0].place.peer, None);
        }
    }

    #[test]
    fn answered_connections_are_nothing() {
        assert!(silent(Role::Client, 0, 10, 0).is_empty());
    }

    #[test]
    fn a_client_of_this_host_is_known() {
        let example = |remote: [u8; 4]| crate::diagnosis::Example {
            local: ([127, 0, 0, 1].into(), 40_000),
            remote: (remote.into(), 443),
        };
        for (role, remote, expected) in [
            (Role::Client, [127, 0, 0, 1], true),
            (Role::Client, [192, 0, 2, 0], false),
            (Role::Server, [127, 0, 0, 1], false),
        ] {
            let group = Group {
                retransmitting: 1,
                example: Some(example(remote)),
                ..group(1)
            };
            let sample = Sample::default().with(key(443, role, State::ESTABLISHED), group);
            assert_eq!(sample.found(&RULE)[0].is_to_here, expected);
        }
    }
}
