//! Censuses in scenario files: the results of dumps between two events.

use std::net::IpAddr;

use libtest_mimic::Failed;
use serde::Deserialize;
use tcpstate_common::record::{AF_INET, AF_INET6};
use tcpstate_core::{
    census::{Census, Found, Gone, HalfOpen, Held, Kind, ListenFigures, Request, Scope},
    event::Process,
    owner::Owner,
    service::Role,
};

use crate::text::{parse_state, parse_time};

/// A census. It is taken in before the first event at or after its time.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CensusSpec {
    /// The begin of the dump.
    at: String,
    /// The begin of the dump before.
    previous: Option<String>,
    netns: u32,
    #[serde(default)]
    found: Vec<FoundSpec>,
    #[serde(default)]
    gone: Vec<GoneSpec>,
    #[serde(default)]
    half_open: Vec<HalfOpenSpec>,
    /// The processes that hold listeners.
    #[serde(default)]
    held: Vec<HeldSpec>,
    #[serde(default)]
    requests: Vec<RequestSpec>,
    /// Cookies of half-open connections that are gone.
    #[serde(default)]
    requests_gone: Vec<u64>,
    /// Cookies of further sockets in the dump, which had an event during it.
    #[serde(default)]
    known: Vec<u64>,
    /// `all`, `some`, `vanished`, `out_of_reach`; without it, the census is a sample.
    #[serde(default)]
    scope: Scope,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FoundSpec {
    cookie: u64,
    state: String,
    /// It is a minisocket.
    #[serde(default)]
    mini: bool,
    since: Option<String>,
    /// A time at which it was in its state already.
    there: Option<String>,
    laddr: IpAddr,
    lport: u16,
    raddr: Option<IpAddr>,
    rport: Option<u16>,
    role: Option<String>,
    uid: Option<u32>,
    /// `comm/pid`, as looked up.
    owner: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GoneSpec {
    cookie: u64,
    at: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeldSpec {
    cookie: u64,
    laddr: IpAddr,
    lport: u16,
    /// Each `comm/pid`, the owner first.
    by: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HalfOpenSpec {
    laddr: IpAddr,
    lport: u16,
    count: u64,
}

/// A half-open connection.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestSpec {
    cookie: u64,
    /// Time by which its SYN had come.
    since: String,
    /// By how much earlier it may have come.
    within: Option<String>,
}

impl CensusSpec {
    /// The time at which the tracker gets it.
    pub fn at_ns(&self) -> Result<u64, Failed> {
        parse_time(&self.at)
    }

    /// The census for the tracker.
    pub fn census(&self) -> Result<Census, Failed> {
        Ok(Census {
            netns: self.netns,
            begin_ns: self.at_ns()?,
            previous_ns: self.previous.as_deref().map(parse_time).transpose()?,
            found: self
                .found
                .iter()
                .map(FoundSpec::found)
                .collect::<Result<_, _>>()?,
            gone: self
                .gone
                .iter()
                .map(|gone| {
                    Ok(Gone {
                        cookie: gone.cookie,
                        at_ns: parse_time(&gone.at)?,
                    })
                })
                .collect::<Result<_, Failed>>()?,
            half_open: self
                .half_open
                .iter()
                .map(|half_open| HalfOpen {
                    laddr: half_open.laddr,
                    lport: half_open.lport,
                    count: half_open.count,
                    oldest_ns: None,
                    oldest_at_least_ns: None,
                    synack_retransmits: 0,
                })
                .collect(),
            held: self
                .held
                .iter()
                .map(HeldSpec::held)
                .collect::<Result<_, _>>()?,
            requests: self
                .requests
                .iter()
                .map(|request| {
                    Ok(Request {
                        cookie: request.cookie,
                        since_ns: parse_time(&request.since)?,
                        interval_ns: request.within.as_deref().map(parse_time).transpose()?,
                    })
                })
                .collect::<Result<_, Failed>>()?,
            requests_gone: self.requests_gone.clone(),
            listen: ListenFigures::default(),
            known: self.known.clone(),
            scope: self.scope,
            // No sample is as small as that.
            more: !self.held.is_empty() && self.scope == Scope::Small,
        })
    }
}

impl HeldSpec {
    fn held(&self) -> Result<Held, Failed> {
        let by = self.by.iter().map(|process| parse_process(process));
        Ok(Held {
            cookie: self.cookie,
            laddr: self.laddr,
            lport: self.lport,
            by: by.collect::<Result<_, _>>()?,
        })
    }
}

/// Reads `comm/pid`.
fn parse_process(text: &str) -> Result<Process, Failed> {
    let (name, pid) = text.split_once('/').ok_or("a process is comm/pid")?;
    let mut comm = [0; 16];
    comm.get_mut(..name.len())
        .ok_or("a comm is too long")?
        .copy_from_slice(name.as_bytes());
    Ok(Process {
        pid: pid.parse()?,
        comm,
    })
}

impl FoundSpec {
    fn found(&self) -> Result<Found, Failed> {
        let owner = match &self.owner {
            None => Owner::UNKNOWN,
            Some(owner) => Owner::holding(parse_process(owner)?),
        };
        let any = if self.laddr.is_ipv6() {
            IpAddr::from([0; 16])
        } else {
            IpAddr::from([0; 4])
        };
        Ok(Found {
            cookie: self.cookie,
            state: parse_state(&self.state)?,
            kind: if self.mini {
                Kind::Minisocket
            } else {
                Kind::Socket
            },
            since_ns: self.since.as_deref().map(parse_time).transpose()?,
            there_ns: self.there.as_deref().map(parse_time).transpose()?,
            family: if self.laddr.is_ipv6() {
                AF_INET6
            } else {
                AF_INET
            },
            laddr: self.laddr,
            lport: self.lport,
            raddr: self.raddr.unwrap_or(any),
            rport: self.rport.unwrap_or(0),
            role: match self.role.as_deref() {
                None => Role::Unknown,
                Some("client") => Role::Client,
                Some("server") => Role::Server,
                Some(other) => return Err(format!("no role is called {other}").into()),
            },
            uid: self.uid,
            cgroup: None,
            owner,
        })
    }
}
