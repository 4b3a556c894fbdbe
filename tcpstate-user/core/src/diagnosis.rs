//! Diagnosis: from the states of sockets to findings, by pure rules over a [`Snapshot`].
//!
//! ```text
//! inventory or tracker ─> Survey ──┐
//! events ──────────────> Observed ─┼─> Snapshot ─> each Rule of RULES ─> Findings, the worst first
//! counters, settings ──> NetnsFacts┘
//! ```
//!
//! A rule has a file of its own in `rules`: its text, which `explain` and the docs show too, the inputs that it needs,
//! and the check. All figures that decide are [`Thresholds`].
//!
//! A rule reads groups, never single sockets, so that a check costs the same with a million connections.

mod facts;
mod finding;
mod links;
mod look;
mod observed;
mod rules;
#[cfg(test)]
mod sample;
mod share;
mod survey;
mod thresholds;
mod top;

use std::{cmp::Reverse, collections::BTreeMap};

use crate::{netns, units::Counted};

pub use self::{
    facts::{COUNTERS, Counters, NetnsFacts, SETTINGS, Settings},
    finding::{Amount, Evidence, Figure, Finding, FindingText, Place, Severity},
    links::{LINKS, Link},
    look::{Look, Looks},
    observed::{Cases, Ending, ListenerEnd, Observed, Service, ServiceKey, Trouble},
    rules::RULES,
    survey::{Example, Group, GroupKey, ListenerNow, Ports, Route, RouteKey, Survey, WorkloadKey},
    thresholds::{Threshold, Thresholds, Unit, UnknownThreshold},
    top::Top,
};

/// All that the rules know of a host: now, at an earlier look, and in between.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// Monotonic time, nanoseconds.
    pub now_ns: u64,
    /// The sockets at the latest look; `None`: there was none yet.
    pub sockets: Option<&'a Survey>,
    /// The sockets at the first look; `None`: there was no other one.
    pub earlier: Option<&'a Survey>,
    /// The events since the start of the run. Empty at the first look.
    pub observed: &'a Observed,
    /// The counters and settings of each network namespace now, in the order of [`netns::sort`]; empty: they are not known, as
    /// of a recording.
    pub facts: &'a [NetnsFacts],
    /// The same at the first look; empty: there was no other one, so that nothing is known to have risen.
    pub earlier_facts: &'a [NetnsFacts],
    /// The figures that decide.
    pub thresholds: &'a Thresholds,
}

/// A kind of input of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Input {
    /// The sockets at a moment, with their states.
    Sockets,
    /// Their queues and timers, and whether a process has them open: a recording has none.
    Queues,
    /// The kernel's counters of two moments.
    Counters,
    /// The kernel's present numbers and settings.
    Settings,
    /// The events of some time.
    Events,
}

impl Input {
    /// The reason why a snapshot without it says nothing, for people.
    pub const fn missing(self) -> &'static str {
        match self {
            Self::Sockets => "the sockets could not be listed",
            Self::Queues => "a recording has no queues and no timers",
            Self::Counters => {
                "the kernel's counters are not known, as in a recording, or only of one moment"
            }
            Self::Settings => "the kernel's numbers and settings are not known, as in a recording",
            Self::Events => "no event was seen",
        }
    }
}

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// The text about its findings.
    pub text: FindingText,
    /// The inputs without which it says nothing.
    pub needs: &'static [Input],
    check: fn(&Snapshot<'_>) -> Vec<Finding>,
}

impl Rule {
    /// The findings in this snapshot, one for each place.
    pub fn check(&self, snapshot: &Snapshot<'_>) -> Vec<Finding> {
        (self.check)(snapshot)
    }

    /// The first of its inputs that this snapshot does not have.
    pub fn missing(&self, snapshot: &Snapshot<'_>) -> Option<Input> {
        let mut needs = self.needs.iter().copied();
        needs.find(|&input| !snapshot.has(input))
    }
}

impl<'a> Snapshot<'a> {
    /// Whether it has this input.
    pub fn has(&self, input: Input) -> bool {
        match input {
            Input::Sockets => self.sockets.is_some(),
            Input::Queues => self.sockets.is_some_and(|sockets| sockets.has_queues),
            Input::Counters => !self.earlier_facts.is_empty(),
            Input::Settings => !self.facts.is_empty(),
            Input::Events => self.observed.is_running(),
        }
    }

    /// The counters and settings of this namespace.
    pub fn facts_of(&self, netns: u32) -> Option<&'a NetnsFacts> {
        netns::find(self.facts, netns, |facts| facts.netns)
    }

    /// By how much a counter of this namespace has risen since the first look; `None`: that is not known.
    pub fn risen(&self, netns: u32, counter: &str) -> Option<u64> {
        let earlier = netns::find(self.earlier_facts, netns, |facts| facts.netns)?;
        let now = self.facts_of(netns)?;
        let (now, earlier) = (now.counters.get(counter)?, earlier.counters.get(counter)?);
        Some(now.saturating_sub(earlier))
    }

    /// The value of a setting of this namespace, by its path below `/proc/sys`.
    pub fn setting(&self, netns: u32, path: &str) -> Option<u64> {
        self.facts_of(netns)?.settings.number(path)
    }

    /// The group of the first look; `None`: there was no other look, or no socket in it.
    pub fn earlier_group(&self, key: &GroupKey) -> Option<&'a Group> {
        self.earlier?.groups.get(key)
    }
}

/// The findings of all rules, the worst first. Of each severity, those that others explain come last, and else those with
/// the larger figure first.
pub fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let rules = RULES.iter();
    let rules = rules.filter(|rule| rule.missing(snapshot).is_none());
    let mut findings: Vec<Finding> = rules.flat_map(|rule| rule.check(snapshot)).collect();
    findings.sort_by_key(|finding| (Reverse(finding.severity), Reverse(finding.weight())));
    let mut findings = bounded(findings);
    links::link(&mut findings);
    findings.sort_by_key(|finding| (Reverse(finding.severity), !finding.see.is_empty()));
    findings
}

/// The most places of each kind of finding that are named.
const PLACES: usize = 20;

/// The first findings of each kind, and one for all others of it.
fn bounded(findings: Vec<Finding>) -> Vec<Finding> {
    let mut places: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut others: BTreeMap<&'static str, Finding> = BTreeMap::new();
    let mut kept = Vec::with_capacity(findings.len());
    for finding in findings {
        let name = finding.text.name;
        let number = places.entry(name).or_default();
        *number += 1;
        if *number <= PLACES {
            kept.push(finding);
        } else {
            // The worst of them comes first.
            others.entry(name).or_insert(Finding::new(
                finding.text,
                finding.severity,
                Place::default(),
                String::new(),
            ));
        }
    }
    for (name, mut finding) in others {
        let more = places.get(name).map_or(0, |&number| number - PLACES) as u64;
        finding.summary = format!("the same at {}", Counted(more, "more place"));
        finding.figures = vec![Figure::count("places", more, Evidence::Inferred)];
        kept.push(finding);
    }
    kept.sort_by_key(|finding| Reverse(finding.severity));
    kept
}

/// The rules that could not be checked, each with the reason.
pub fn unchecked(snapshot: &Snapshot<'_>) -> Vec<(&'static Rule, Input)> {
    let rules = RULES.iter().copied();
    rules
        .filter_map(|rule| Some((rule, rule.missing(snapshot)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Role;

    #[test]
    fn the_places_of_a_kind_are_bounded() {
        let at = |port| {
            let place = Place::service(Some(1), Role::Client, Some(port));
            Finding::new(&RULES[0].text, Severity::Warning, place, String::new())
        };
        let kept = bounded((1..=1_000).map(at).collect());
        assert_eq!(kept.len(), PLACES + 1);
        let last = kept.last().unwrap();
        assert_eq!(last.summary, "the same at 980 more places");
        assert_eq!(last.place, Place::default());
        assert_eq!(bounded((1..=20).map(at).collect()).len(), 20);
    }
}
