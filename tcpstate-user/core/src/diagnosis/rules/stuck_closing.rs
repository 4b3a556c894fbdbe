//! Sockets that are stuck while closing: in `FIN_WAIT1`, `LAST_ACK` or `CLOSING`, whose FIN nobody acknowledges.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

use tcpstate_common::State;

use super::super::{
    Evidence, Figure, Finding, FindingText, Input, Place, Rule, Severity, Snapshot, Top,
    share::Share,
};
use crate::{
    event::Process,
    inventory::Age,
    service::Role,
    setting::Setting,
    units::{Count, Counted, Span},
};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "stuck_closing",
        side: Role::Unknown,
        title: "sockets stuck while closing",
        is: "This side has closed, and the peer does not acknowledge its FIN. Either the peer is silent: it crashed, or the path \
             to it is cut. Or it lives and does not read, so that the FIN waits behind data for which it has no room.",
        why: "Each keeps the memory of what it has not sent. Too many make the kernel abort connections \
              (`tcp_max_orphans`).",
        signal: "Sockets in FIN_WAIT1, LAST_ACK or CLOSING without progress for `closing_age`. Their timer tells the two cases \
                 apart: it repeats what was sent to a silent peer (`on` in ss), and probes the window of one that does not \
                 read (`persist`).",
        advice: &[
            "For silent peers: look at the path to them, and for a firewall that forgets connections before they are closed.",
            "For peers that do not read: look at their application. It is busy, stopped, or waits for something else.",
            "In the application, set TCP_USER_TIMEOUT: it ends both cases, before close() and after it.",
        ],
        settings: &[
            Setting {
                path: "net/ipv4/tcp_orphan_retries",
                effect: "ends closed sockets whose peer is silent; 0 acts as 8",
            },
            Setting {
                path: "net/ipv4/tcp_retries2",
                effect: "ends sockets that a process has open and whose peer is silent",
            },
            Setting {
                path: "net/ipv4/tcp_max_orphans",
                effect: "the number of closed sockets from which on the kernel aborts some",
            },
        ],
        commands: &[
            "tcpstate ls --state FIN_WAIT1,LAST_ACK,CLOSING '{filter}'",
            "ss -tano state fin-wait-1 state last-ack state closing '{filter}'",
        ],
        told_from: &[
            "FIN_WAIT2: there the peer has acknowledged the FIN",
            "a large answer to a slow client: it makes progress, so that no time-out expires twice",
        ],
        states: &[State::FIN_WAIT1, State::LAST_ACK, State::CLOSING],
        sources: &[
            "tcp_write_timeout",
            "tcp_probe_timer",
            "tcp_orphan_retries",
            "RFC 9293, section 3.6",
        ],
    },
    needs: &[Input::Sockets],
    check,
};

/// The stuck sockets of a service, in all three states.
#[derive(Default)]
struct Stuck {
    states: Vec<(State, u64)>,
    count: u64,
    orphans: u64,
    silent: u64,
    silent_orphans: u64,
    blocked: u64,
    blocked_orphans: u64,
    oldest: Option<Age>,
    peers: Top<IpAddr>,
    owners: Top<Process>,
}

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let Some(sockets) = snapshot.sockets else {
        return Vec::new();
    };
    let mut services: BTreeMap<(u32, Role, Option<u16>), Stuck> = BTreeMap::new();
    for state in [State::FIN_WAIT1, State::LAST_ACK, State::CLOSING] {
        for (key, group) in sockets.in_state(state) {
            if group.stale == 0 {
                continue;
            }
            let all = services.entry((key.netns, key.role, key.port)).or_default();
            all.states.push((state, group.stale));
            all.count += group.stale;
            all.orphans += group.orphans;
            all.silent += group.silent;
            all.silent_orphans += group.silent_orphans;
            all.blocked += group.blocked;
            all.blocked_orphans += group.blocked_orphans;
            let oldest = [all.oldest, group.oldest].into_iter().flatten();
            all.oldest = oldest.max_by_key(|age| age.at_least_ns);
            all.peers.extend(&group.peers);
            all.owners.extend(&group.owners);
        }
    }
    let found = services.into_iter();
    found
        .map(|((netns, role, port), all)| {
            let whole = sockets.count_of(netns, role, port);
            let thresholds = snapshot.thresholds;
            let is_many = all.count >= thresholds.closing_count
                && Share::of(all.count, whole).is_at_least(thresholds.closing_share);
            let severity = if is_many {
                Severity::Warning
            } else {
                Severity::Note
            };
            let place = Place::service(Some(netns), role, port);
            let mut finding = Finding::new(&RULE.text, severity, place, summary(&all))
                .with_peers(&all.peers)
                .with_owners(&all.owners);
            finding.since = all.oldest;
            let sampled = |name, count| Figure::count(name, count, Evidence::Sampled);
            finding.figures = vec![sampled("sockets", all.count)];
            if sockets.has_queues {
                finding.figures.extend([
                    sampled("silent", all.silent),
                    sampled("not_reading", all.blocked),
                    sampled("orphans", all.orphans),
                ]);
                finding.here.extend(limits(&all, netns, snapshot));
            }
            finding
                .figures
                .extend(all.oldest.map(|age| Figure::age("oldest_ns", age)));
            if all.states.iter().any(|&(state, _)| state == State::CLOSING) {
                finding.here.push(
                    "CLOSING is rare: both sides closed at the same moment, and the peer has not acknowledged our FIN."
                        .to_owned(),
                );
            }
            finding
        })
        .collect()
}

fn summary(all: &Stuck) -> String {
    let states = all.states.iter();
    let states: Vec<_> = states
        .map(|&(state, count)| format!("{} in {state}", Count(count)))
        .collect();
    let mut text = format!(
        "{} stuck while closing, {}",
        Counted(all.count, "socket"),
        states.join(", ")
    );
    let cases = [
        (all.silent, "the peer is silent"),
        (all.blocked, "the peer lives and does not read"),
    ];
    for (count, case) in cases {
        if count == all.count {
            // Writing to a string does not fail.
            let _ = write!(text, "; {case}");
        } else if count > 0 {
            let _ = write!(text, "; of {} {case}", Count(count));
        }
    }
    text
}

/// The limits of each case, with their values here.
fn limits(all: &Stuck, netns: u32, snapshot: &Snapshot<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    if all.silent_orphans > 0 {
        let retries = snapshot.setting(netns, "net/ipv4/tcp_orphan_retries");
        lines.push(format!(
            "{} closed by the application, with a silent peer: tcp_orphan_retries ends {}{}.",
            are(all.silent_orphans),
            them(all.silent_orphans),
            match retries {
                Some(0) => format!(", which is 0 here and acts as 8: not before {}", timeout(8)),
                Some(retries) =>
                    format!(", which is {retries} here: not before {}", timeout(retries)),
                None => String::new(),
            }
        ));
    }
    let silent_held = all.silent.saturating_sub(all.silent_orphans);
    if silent_held > 0 {
        let retries = snapshot.setting(netns, "net/ipv4/tcp_retries2");
        lines.push(format!(
            "{} still open in a process, with a silent peer: tcp_retries2 ends {}{}.",
            are(silent_held),
            them(silent_held),
            retries.map_or_else(String::new, |retries| format!(
                ", which is {retries} here: not before {}",
                timeout(retries)
            ))
        ));
    }
    if all.blocked_orphans > 0 {
        lines.push(format!(
            "{} closed by the application, with a peer that answers and does not read: the kernel gives up only when its \
             probes are 2 minutes apart, some 5 minutes after they began. No setting shortens that, TCP_USER_TIMEOUT \
             does.",
            are(all.blocked_orphans)
        ));
    }
    let blocked_held = all.blocked.saturating_sub(all.blocked_orphans);
    if blocked_held > 0 {
        lines.push(format!(
            "{} still open in a process, with a peer that answers and does not read: as long as it answers, only \
             TCP_USER_TIMEOUT or close() ends {}.",
            are(blocked_held),
            them(blocked_held)
        ));
    }
    lines
}

fn are(count: u64) -> String {
    let verb = if count == 1 { "is" } else { "are" };
    format!("{} {verb}", Count(count))
}

const fn them(count: u64) -> &'static str {
    if count == 1 { "it" } else { "them" }
}

/// The time after which a connection has been repeated so often, where its time-out is the shortest; the kernel counts in
/// time, not in repetitions.
///
/// *Source:* `tcp_model_timeout`.
fn timeout(retries: u64) -> Span {
    const SHORTEST_NS: u64 = 200_000_000;
    const LONGEST_NS: u64 = 120_000_000_000;
    let timeouts = (0..=retries.min(255)).map(|retry| {
        let factor = 1_u64.checked_shl(u32::try_from(retry).unwrap_or(u32::MAX));
        SHORTEST_NS
            .saturating_mul(factor.unwrap_or(u64::MAX))
            .min(LONGEST_NS)
    });
    Span(timeouts.sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::{
        Group,
        sample::{Sample, group, key},
    };

    fn closing(state: State, left: u64, all: u64) -> Sample {
        let group = Group {
            stale: left,
            silent: left,
            silent_orphans: left,
            orphans: left,
            ..group(left)
        };
        Sample::default()
            .with(key(80, Role::Server, state), group)
            .with(
                key(80, Role::Server, State::ESTABLISHED),
                self::group(all - left),
            )
            .set(&[("net/ipv4/tcp_orphan_retries", "0")])
    }

    #[test]
    fn many_are_a_warning_and_the_limit_is_told() {
        let found = closing(State::LAST_ACK, 10, 100).found(&RULE);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].severity, Severity::Warning);
        assert_eq!(
            found[0].summary,
            "10 sockets stuck while closing, 10 in LAST_ACK; the peer is silent"
        );
        assert_eq!(
            found[0].here,
            [
                "10 are closed by the application, with a silent peer: tcp_orphan_retries ends them, which is 0 here and \
              acts as 8: not before 1m 42s."
            ]
        );
    }

    #[test]
    fn the_peers_that_vanish_from_every_service_are_a_note() {
        for (stale, all) in [(9, 9), (10, 101)] {
            let found = closing(State::FIN_WAIT1, stale, all).found(&RULE);
            assert_eq!(found[0].severity, Severity::Note, "{stale} of {all}");
        }
    }

    #[test]
    fn closing_in_a_moment_is_nothing() {
        let sample = Sample::default().with(key(80, Role::Server, State::FIN_WAIT1), group(50));
        assert!(sample.found(&RULE).is_empty());
    }

    #[test]
    fn a_peer_that_lives_is_told_from_a_silent_one() {
        let held = Group {
            stale: 3,
            blocked: 2,
            blocked_orphans: 1,
            silent: 1,
            ..group(3)
        };
        let sample = Sample::default().with(key(80, Role::Client, State::CLOSING), held);
        let found = sample.found(&RULE);
        assert_eq!(
            found[0].summary,
            "3 sockets stuck while closing, 3 in CLOSING; of 1 the peer is silent; of 2 the peer lives and does not read"
        );
        let here = &found[0].here;
        assert_eq!(here.len(), 4);
        assert!(here[0].starts_with("1 is still open in a process, with a silent peer"));
        assert!(here[3].starts_with("CLOSING is rare"));
    }

    #[test]
    fn the_default_of_tcp_retries2_is_the_924_seconds_of_the_kernel() {
        assert_eq!(timeout(15), Span(924_600_000_000));
        assert!(timeout(u64::MAX).0 > timeout(15).0);
    }
}
