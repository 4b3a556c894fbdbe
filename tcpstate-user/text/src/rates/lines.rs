//! The rates as JSON and CSV.

use std::{
    fmt::Display,
    io::{self, Write},
};

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use tcpstate_common::State;

use super::{
    Group, length_ns, share,
    unseen::{Place, Unseen},
};
use crate::format::{
    csv::{OrEmpty, Rows},
    json::{self, Name, state},
    time::Rfc3339,
    units::PerSecond,
};
use tcpstate_core::{
    cause::Cause,
    census::ListenFigures,
    escape::Cell,
    histogram::Histogram,
    model::{By, Figures, GroupKey, Interval},
    service::ServicePort,
};

/// A line of JSON.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    /// The end of the interval.
    ts: Rfc3339<'a>,
    ts_ns: u64,
    interval_ns: u64,
    /// How often what no transition shows was asked for.
    sample_interval_ns: Option<u64>,
    #[serde(flatten)]
    all: Numbers<'a>,
    /// How long connections were in the states that they left in the interval.
    dwell: Dwell<'a>,
    /// Handshakes under way, by where they came in; sampled.
    half_open: Option<Vec<Place>>,
    /// What happened to listeners.
    listen: &'a ListenFigures,
    #[serde(flatten)]
    groups: Groups<'a>,
}

impl<'a> Line<'a> {
    pub(super) fn new(
        interval: &'a Interval,
        groups: &'a [Group<'a>],
        by: By,
        unseen: &'a Unseen,
        ts: Rfc3339<'a>,
    ) -> Self {
        let interval_ns = length_ns(interval);
        let sampled = unseen.sample_interval_ns.is_some();
        Self {
            kind: "rates",
            ts,
            ts_ns: interval.end_ns,
            interval_ns,
            sample_interval_ns: unseen.sample_interval_ns,
            all: Numbers::new(&interval.all, interval_ns, sampled),
            dwell: Dwell(&interval.dwell),
            half_open: unseen.half_open(),
            listen: unseen.listen(),
            groups: Groups {
                interval,
                all: groups,
                by,
                sampled,
            },
        }
    }
}

/// What a line says over all, and again of each group.
#[derive(Serialize)]
struct Numbers<'a> {
    transitions: Vec<Transition>,
    states: States<'a>,
    opened: u64,
    established: u64,
    closed: u64,
    failed: u64,
    per_second: Rates,
    causes: Causes<'a>,
}

#[derive(Serialize)]
struct Transition {
    #[serde(serialize_with = "state")]
    from: State,
    #[serde(serialize_with = "state")]
    to: State,
    count: u64,
    /// Per second.
    rate: Option<f64>,
}

#[derive(Serialize)]
struct Rates {
    opened: Option<f64>,
    established: Option<f64>,
    closed: Option<f64>,
    failed: Option<f64>,
}

impl<'a> Numbers<'a> {
    fn new(figures: &'a Figures, interval_ns: u64, sampled: bool) -> Self {
        let rate = |count| PerSecond { count, interval_ns }.value();
        let transitions = figures.transitions.iter();
        Self {
            transitions: transitions
                .map(|transition| Transition {
                    from: transition.from,
                    to: transition.to,
                    count: transition.count,
                    rate: rate(transition.count),
                })
                .collect(),
            states: States {
                now: &figures.states,
                sampled,
            },
            opened: figures.opened,
            established: figures.established,
            closed: figures.closed,
            failed: figures.failed,
            per_second: Rates {
                opened: rate(figures.opened),
                established: rate(figures.established),
                closed: rate(figures.closed),
                failed: rate(figures.failed),
            },
            causes: Causes(&figures.causes),
        }
    }
}

/// How many sockets are in each state: all 11, and others that occur by their number.
struct States<'a> {
    now: &'a [(State, u64)],
    /// What no transition shows was asked for.
    sampled: bool,
}

impl States<'_> {
    /// How many are in it if none is known to be; `None`: nothing tells.
    const fn least(&self, state: State) -> Option<u64> {
        match state {
            // Who enters it is a connection no more.
            State::CLOSE => None,
            State::TIME_WAIT | State::FIN_WAIT2 | State::SYN_RECV if !self.sampled => None,
            _ => Some(0),
        }
    }
}

impl Serialize for States<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for wanted in State::ALL {
            let now = self.now.iter().find(|&&(state, _)| state == wanted);
            let now = now.map(|&(_, count)| count).or(self.least(wanted));
            map.serialize_entry(wanted.name().unwrap_or_default(), &now)?;
        }
        for (state, count) in self.now {
            if !State::ALL.contains(state) {
                map.serialize_entry(&state.to_string(), count)?;
            }
        }
        map.end()
    }
}

/// The times in each state that was left, where they are known.
struct Dwell<'a>(&'a [(State, Histogram)]);

impl Serialize for Dwell<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(state, times)| {
            let quantiles = Quantiles {
                count: times.count(),
                p50_ns: times.quantile(0.5),
                p90_ns: times.quantile(0.9),
                p99_ns: times.quantile(0.99),
            };
            (state.to_string(), quantiles)
        }))
    }
}

#[derive(Serialize)]
struct Quantiles {
    count: u64,
    p50_ns: Option<u64>,
    p90_ns: Option<u64>,
    p99_ns: Option<u64>,
}

/// How many connections ended of which cause.
struct Causes<'a>(&'a [(Cause, u64)]);

impl Serialize for Causes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(cause, count)| (cause.name(), count)))
    }
}

/// The groups under the name of what they are, the busiest first.
struct Groups<'a> {
    interval: &'a Interval,
    all: &'a [Group<'a>],
    by: By,
    sampled: bool,
}

impl Serialize for Groups<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let &Self {
            interval,
            all: groups,
            by,
            sampled,
        } = self;
        let total = interval.all.total();
        let groups: Vec<GroupFields<'_>> = groups
            .iter()
            .map(|group| GroupFields {
                key: Key::new(by, group),
                share: share(group.figures.total(), total),
                numbers: Numbers::new(group.figures, length_ns(interval), sampled),
            })
            .collect();
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(plural(by), &groups)?;
        map.end()
    }
}

const fn plural(by: By) -> &'static str {
    match by {
        By::Port => "ports",
        By::Role => "roles",
        By::Comm => "comms",
        By::Cgroup => "cgroups",
    }
}

#[derive(Serialize)]
struct GroupFields<'a> {
    #[serde(flatten)]
    key: Key<'a>,
    /// Part of all transitions of the interval.
    share: Option<f64>,
    #[serde(flatten)]
    numbers: Numbers<'a>,
}

/// What names a group. `other`: what came after the bound of how many are told apart.
#[derive(Serialize)]
#[serde(untagged)]
enum Key<'a> {
    Port {
        service_port: Option<u16>,
        role: Option<&'static str>,
        other: bool,
    },
    Role {
        role: Option<&'static str>,
    },
    Comm {
        comm: Option<Name<'a>>,
        other: bool,
    },
    Cgroup {
        cgroup: Option<&'a str>,
        cgroup_id: Option<u64>,
        other: bool,
    },
}

impl<'a> Key<'a> {
    fn new(by: By, group: &'a Group<'a>) -> Self {
        let key = group.key;
        let other = matches!(key, GroupKey::Other | GroupKey::Port(ServicePort::Other, _));
        match (by, key) {
            (By::Port, GroupKey::Port(port, role)) => Self::Port {
                service_port: match port {
                    ServicePort::Port(port) => Some(*port),
                    ServicePort::Other | ServicePort::Unknown => None,
                },
                role: json::role(*role),
                other,
            },
            (By::Role, GroupKey::Role(role)) => Self::Role {
                role: json::role(*role),
            },
            (By::Comm, GroupKey::Comm(comm)) => Self::Comm {
                comm: comm.as_ref().map(|comm| Name::new(comm.as_bytes())),
                other,
            },
            (By::Cgroup, &GroupKey::Cgroup(cgroup_id)) => Self::Cgroup {
                cgroup: group.path.as_deref(),
                cgroup_id,
                other,
            },
            // `other`, which has no name. Ports and roles have none that is not above.
            (By::Port, _) => Self::Port {
                service_port: None,
                role: None,
                other,
            },
            (By::Role, _) => Self::Role { role: None },
            (By::Comm, _) => Self::Comm { comm: None, other },
            (By::Cgroup, _) => Self::Cgroup {
                cgroup: None,
                cgroup_id: None,
                other,
            },
        }
    }
}

/// Rows of CSV: one for each interval, group and transition. What did not happen has none.
pub(super) struct Csv {
    by: By,
    rows: Rows,
}

impl Csv {
    pub(super) fn new(by: By) -> Self {
        Self {
            by,
            rows: Rows::default(),
        }
    }

    pub(super) fn titles(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let key: &[&str] = match self.by {
            By::Port => &["service_port", "role", "other"],
            By::Role => &["role"],
            By::Comm => &["comm", "other"],
            By::Cgroup => &["cgroup", "cgroup_id", "other"],
        };
        let titles = [
            &["ts", "ts_ns", "interval_ns"][..],
            key,
            &["from", "to", "count", "rate"],
        ]
        .concat();
        let titles: Vec<&dyn Display> = titles.iter().map(|title| title as &dyn Display).collect();
        self.rows.row(&titles, out)
    }

    pub(super) fn rows(
        &mut self,
        interval: &Interval,
        groups: &[Group<'_>],
        ts: Rfc3339<'_>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let interval_ns = length_ns(interval);
        for group in groups {
            let key = Key::new(self.by, group);
            for transition in &group.figures.transitions {
                let count = transition.count;
                let rate = OrEmpty(PerSecond { count, interval_ns }.value());
                let mut fields: Vec<&dyn Display> = vec![&ts, &interval.end_ns, &interval_ns];
                let (port, role, comm, cgroup, id);
                match &key {
                    Key::Port {
                        service_port,
                        role: of,
                        other,
                    } => {
                        (port, role) = (OrEmpty(*service_port), OrEmpty(*of));
                        fields.extend([&port as &dyn Display, &role, other]);
                    }
                    Key::Role { role: of } => {
                        role = OrEmpty(*of);
                        fields.push(&role);
                    }
                    Key::Comm { comm: of, other } => {
                        comm = OrEmpty(of.map(|name| Cell(name.as_bytes())));
                        fields.extend([&comm as &dyn Display, other]);
                    }
                    Key::Cgroup {
                        cgroup: of,
                        cgroup_id,
                        other,
                    } => {
                        cgroup = OrEmpty(of.map(|path| Cell(path.as_bytes())));
                        id = OrEmpty(*cgroup_id);
                        fields.extend([&cgroup as &dyn Display, &id, other]);
                    }
                }
                fields.extend([
                    &transition.from as &dyn Display,
                    &transition.to,
                    &count,
                    &rate,
                ]);
                self.rows.row(&fields, out)?;
            }
        }
        Ok(())
    }
}
