//! Established connections that wait for their peer: what findings about them have in common.

use std::net::IpAddr;

use super::super::{
    Amount, Evidence, Figure, Finding, FindingText, Group, GroupKey, Place, Severity, Top,
    share::Share,
};
use crate::{
    event::Process,
    inventory::Age,
    units::{Count, Span},
};

/// Those of a group that wait for the same reason.
pub(super) struct Waiting<'a> {
    /// Their number, and the name of its figure.
    pub count: (u64, &'static str),
    /// The longest time, and the name of its figure.
    pub longest: (Option<Age>, &'static str),
    /// The peer, in words: "a silent peer".
    pub peer: &'static str,
    /// Their remote addresses.
    pub peers: &'a Top<IpAddr>,
    /// Their processes.
    pub owners: &'a Top<Process>,
}

impl Waiting<'_> {
    /// The finding about them. Where they have one peer, it is at that.
    pub fn finding(
        &self,
        text: &'static FindingText,
        severity: Severity,
        key: &GroupKey,
        group: &Group,
    ) -> Finding {
        let (count, longest) = (self.count.0, self.longest.0);
        let mut place = Place::service(Some(key.netns), key.role, key.port);
        if let [(peer, _)] = self.peers.first(2)[..] {
            place.peer = Some(peer);
        }
        let summary = format!(
            "{} of {} established {} {}{}",
            Count(count),
            Count(group.count),
            match group.count {
                1 => "connection has",
                _ => "connections have",
            },
            self.peer,
            longest.map_or_else(String::new, |age| {
                format!(", for more than {}", Span(age.at_least_ns))
            })
        );
        let mut finding = Finding::new(text, severity, place, summary)
            .with_peers(self.peers)
            .with_owners(self.owners);
        finding.since = longest;
        finding.figures = vec![
            Figure::count(self.count.1, count, Evidence::Sampled),
            Figure::count("established", group.count, Evidence::Sampled),
            Share::of(count, group.count).figure("share", Evidence::Sampled),
        ];
        finding.figures.extend(longest.map(|age| Figure {
            name: self.longest.1,
            amount: Amount::TimeAtLeast(age.at_least_ns),
            evidence: Evidence::Inferred,
        }));
        finding
    }
}
