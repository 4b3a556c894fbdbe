//! A finding, and the text about its kind.

use std::net::IpAddr;

use tcpstate_common::State;

use super::Top;
use crate::{event::Process, explain::Setting, inventory::Age, service::Role};

/// The weight of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing, and harmless.
    Note,
    /// It will fail, or makes some connections fail or wait.
    Warning,
    /// Connections fail now.
    Critical,
}

impl Severity {
    /// The name in JSON and text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// The evidence for a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Each one was an event.
    Seen,
    /// The kernel's counters and settings have it.
    Counted,
    /// The kernel's list of sockets had it at one moment.
    Sampled,
    /// It follows from others.
    Inferred,
}

impl Evidence {
    /// The name in JSON and text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Counted => "counted",
            Self::Sampled => "sampled",
            Self::Inferred => "inferred",
        }
    }
}

/// A value with its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// A number of things.
    Count(u64),
    /// A duration, nanoseconds.
    Time(u64),
    /// A lower bound of a duration, nanoseconds.
    TimeAtLeast(u64),
    /// A rate per second.
    PerSecond(f64),
    /// A part of a whole, from 0 to 1.
    Share(f64),
}

/// A figure of a finding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Its name, in words that end with the unit where it has one: `sockets`, `oldest_ns`.
    pub name: &'static str,
    /// Its value.
    pub amount: Amount,
    /// The evidence for it.
    pub evidence: Evidence,
}

impl Figure {
    /// A count.
    pub const fn count(name: &'static str, count: u64, evidence: Evidence) -> Self {
        Self {
            name,
            amount: Amount::Count(count),
            evidence,
        }
    }

    /// An age.
    pub const fn age(name: &'static str, age: Age) -> Self {
        Self {
            name,
            amount: if age.is_exact {
                Amount::Time(age.at_least_ns)
            } else {
                Amount::TimeAtLeast(age.at_least_ns)
            },
            evidence: Evidence::Sampled,
        }
    }
}

/// Where a finding is. With the name of its kind it is its identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Inode number of the network namespace; `None` is unknown, or the whole host.
    pub netns: Option<u32>,
    /// The side of the connections.
    pub role: Role,
    /// The service port; `None`: it is about none.
    pub port: Option<u16>,
    /// The remote address, where it is about one.
    pub peer: Option<IpAddr>,
}

impl Place {
    /// The whole of a network namespace.
    pub const fn netns(netns: u32) -> Self {
        Self {
            netns: Some(netns),
            role: Role::Unknown,
            port: None,
            peer: None,
        }
    }

    /// A service port on one side.
    pub const fn service(netns: Option<u32>, role: Role, port: Option<u16>) -> Self {
        Self {
            netns,
            role,
            port,
            peer: None,
        }
    }
}

/// The text about a kind of finding: it is the same wherever it occurs.
#[derive(Debug)]
pub struct FindingText {
    /// Its name: lower case, with `_`.
    pub name: &'static str,
    /// The side that it is about; unknown: either.
    pub side: Role,
    /// The same in a few words, as a heading.
    pub title: &'static str,
    /// The event itself, in one or two sentences.
    pub is: &'static str,
    /// Why it matters: what users of the service notice.
    pub why: &'static str,
    /// The evidence for it.
    pub signal: &'static str,
    /// The remedies, the most likely first. `{port}` and `{netns}` stand for the place.
    pub advice: &'static [&'static str],
    /// The settings that have to do with it.
    pub settings: &'static [Setting],
    /// The commands that show it by hand. `{port}` and `{filter}` stand for the place.
    pub commands: &'static [&'static str],
    /// Look-alikes that are not meant, each with what tells it apart.
    pub told_from: &'static [&'static str],
    /// The states that it shows in, for `explain STATE`.
    pub states: &'static [State],
    /// Where this is from.
    pub sources: &'static [&'static str],
}

impl FindingText {
    /// A command of [`FindingText::commands`] for no place in particular.
    pub fn command(&self, template: &str) -> String {
        let filter = match self.side {
            Role::Client => "dport = :PORT",
            Role::Server | Role::Unknown => "sport = :PORT",
        };
        template
            .replace("{port}", "PORT")
            .replace("{filter}", filter)
    }
}

/// Something that was found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The text about its kind.
    pub text: &'static FindingText,
    /// Its weight here.
    pub severity: Severity,
    /// Where it is.
    pub place: Place,
    /// The situation, in one sentence without a full stop, with the figures that decide.
    pub summary: String,
    /// Its age, as far as is known.
    pub since: Option<Age>,
    /// The figures, the most important first.
    pub figures: Vec<Figure>,
    /// The remote addresses with the most of it, each with its number.
    pub peers: Vec<(IpAddr, u64)>,
    /// The number of further remote addresses, at least.
    pub more_peers: usize,
    /// The processes with the most of it, each with its number.
    pub owners: Vec<(Process, u64)>,
    /// Advice for this host, beyond the general advice: it comes first.
    pub here: Vec<String>,
    /// Of a client: whether most of these connections go to a server in its own network namespace.
    pub is_to_here: bool,
    /// The findings that explain it, each by its kind and its place ([`Finding::identity`]): to be read first.
    pub see: Vec<(&'static str, Place)>,
}

/// Addresses and processes that are named.
const NAMED: usize = 3;

impl Finding {
    /// A finding without figures.
    pub const fn new(
        text: &'static FindingText,
        severity: Severity,
        place: Place,
        summary: String,
    ) -> Self {
        Self {
            text,
            severity,
            place,
            summary,
            since: None,
            figures: Vec::new(),
            peers: Vec::new(),
            more_peers: 0,
            owners: Vec::new(),
            here: Vec::new(),
            is_to_here: false,
            see: Vec::new(),
        }
    }

    /// Its identity at two checks: its kind and its place.
    pub const fn identity(&self) -> (&'static str, Place) {
        (self.text.name, self.place)
    }

    /// With the remote addresses that have the most of it.
    #[must_use]
    pub fn with_peers(mut self, peers: &Top<IpAddr>) -> Self {
        self.peers = peers.first(NAMED);
        self.more_peers = peers.keys().saturating_sub(self.peers.len());
        self
    }

    /// With the processes that have the most of it.
    #[must_use]
    pub fn with_owners(mut self, owners: &Top<Process>) -> Self {
        self.owners = owners.first(NAMED);
        self
    }

    /// The first figure, by which findings of the same severity are ordered.
    pub(super) fn weight(&self) -> u64 {
        match self.figures.first().map(|figure| figure.amount) {
            Some(Amount::Count(count)) => count,
            _ => 0,
        }
    }

    /// A command of [`FindingText::commands`] for this place.
    ///
    /// It works in the network namespace of the place, whose name is `netns`: `self`, a name of `ip netns`, or a path.
    pub fn command(&self, template: &str, netns: Option<&str>) -> String {
        let port = self.place.port.map(|port| port.to_string());
        let filter = match (self.place.role, &port) {
            (Role::Server, Some(port)) => format!("sport = :{port}"),
            (Role::Client, Some(port)) => format!("dport = :{port}"),
            (Role::Unknown, Some(port)) => format!("port {port}"),
            (_, None) => String::new(),
        };
        let text = template
            .replace("{port}", port.as_deref().unwrap_or("PORT"))
            .replace("{filter}", &filter)
            // Where there is no port, there is no filter.
            .replace(" ''", "");
        let text = text.trim_end();
        // Another name would have to be quoted.
        let is_plain = |name: &&str| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
            *name != "self" && name.bytes().all(is_plain)
        };
        let Some(netns) = netns.filter(is_plain) else {
            return text.to_owned();
        };
        let ours = text.strip_prefix("tcpstate ");
        if let Some((command, rest)) = ours.and_then(|text| text.split_once(' ')) {
            format!("tcpstate {command} --netns {netns} {rest}")
        } else if netns.contains('/') {
            format!("nsenter --net={netns} {text}")
        } else {
            format!("ip netns exec {netns} {text}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::RULES, *};

    #[test]
    fn a_command_works_where_the_finding_is() {
        let place = Place::service(Some(7), Role::Client, Some(443));
        let finding = Finding::new(&RULES[0].text, Severity::Note, place, String::new());
        let (ours, other) = ("tcpstate ls '{filter}'", "ss -tan '{filter}'");
        for (netns, template, expected) in [
            (None, ours, "tcpstate ls 'dport = :443'"),
            (Some("self"), other, "ss -tan 'dport = :443'"),
            (Some("web"), ours, "tcpstate ls --netns web 'dport = :443'"),
            (
                Some("web"),
                other,
                "ip netns exec web ss -tan 'dport = :443'",
            ),
            (
                Some("/proc/7/ns/net"),
                other,
                "nsenter --net=/proc/7/ns/net ss -tan 'dport = :443'",
            ),
            (Some("a b"), other, "ss -tan 'dport = :443'"),
        ] {
            assert_eq!(finding.command(template, netns), expected);
        }
    }
}
