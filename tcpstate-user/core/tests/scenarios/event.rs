//! Events in scenario files.

use std::net::IpAddr;

use libtest_mimic::Failed;
use serde::Deserialize;
use tcpstate_common::{
    Record,
    record::{AF_INET, AF_INET6, flags},
};
use tcpstate_core::event::Event;

use crate::text::{parse_state, parse_time};

/// An event, or the defaults of all.
#[derive(Deserialize, Default, Clone)]
#[serde(deny_unknown_fields)]
pub struct EventSpec {
    at: Option<String>,
    change: Option<String>,
    cookie: Option<u64>,
    address: Option<u64>,
    laddr: Option<IpAddr>,
    lport: Option<u16>,
    raddr: Option<IpAddr>,
    rport: Option<u16>,
    netns: Option<u32>,
    cgroup: Option<u64>,
    uid: Option<u32>,
    process: Option<String>,
    error: Option<u16>,
    flags: Option<Vec<String>>,
    /// The fields of the socket are not known, as in attach mode `tracepoint`.
    bare: Option<bool>,
    bytes_sent: Option<u64>,
    bytes_received: Option<u64>,
    retransmits: Option<u32>,
    srtt_us: Option<u32>,
}

impl EventSpec {
    /// The event for the tracker.
    pub fn event(&self, defaults: &Self) -> Result<Event, Failed> {
        macro_rules! field {
            ($name:ident) => {
                self.$name.clone().or(defaults.$name.clone())
            };
        }
        let change = field!(change).ok_or("an event without `change`")?;
        let (old, new) = change
            .split_once(" -> ")
            .ok_or(format!("{change}: not `OLD -> NEW`"))?;
        let mut flag = 0;
        for name in field!(flags).unwrap_or_default() {
            flag |= match name.as_str() {
                "dead" => flags::DEAD,
                "done" => flags::DONE,
                "rcv_shutdown" => flags::RCV_SHUTDOWN,
                "send_shutdown" => flags::SEND_SHUTDOWN,
                other => return Err(format!("no flag is called {other}").into()),
            };
        }
        let cookie = self.cookie.or(defaults.cookie);
        // 0: there is none, although the defaults have one.
        let cookie = cookie.filter(|&cookie| cookie != 0);
        if cookie.is_some() {
            flag |= flags::COOKIE;
        }
        if !field!(bare).unwrap_or(false) {
            flag |= flags::SOCKET;
        }
        let (mut pid, mut comm) = (0, [0; 16]);
        if let Some(process) = field!(process) {
            let (name, number) = process
                .split_once('/')
                .ok_or(format!("{process}: not `comm/pid`"))?;
            pid = number.parse()?;
            comm.get_mut(..name.len())
                .ok_or("a comm is too long")?
                .copy_from_slice(name.as_bytes());
            flag |= flags::PROCESS;
        }
        let traffic = (
            field!(bytes_sent),
            field!(bytes_received),
            field!(retransmits),
            field!(srtt_us),
        );
        if traffic != (None, None, None, None) {
            flag |= flags::TCP;
        }
        let (laddr, raddr) = (field!(laddr), field!(raddr));
        let is_v6 = laddr.or(raddr).is_some_and(|addr| addr.is_ipv6());
        Ok(Event::try_from(Record {
            ts_ns: parse_time(&field!(at).ok_or("an event without `at`")?)?,
            cookie: cookie.unwrap_or(0),
            skaddr: field!(address).unwrap_or(0),
            cgroup: field!(cgroup).unwrap_or(0),
            bytes_sent: traffic.0.unwrap_or(0),
            bytes_received: traffic.1.unwrap_or(0),
            laddr: wire(laddr, is_v6),
            raddr: wire(raddr, is_v6),
            netns: field!(netns).unwrap_or(0),
            uid: field!(uid).unwrap_or(0),
            pid,
            srtt_us: traffic.3.unwrap_or(0),
            retransmits: traffic.2.unwrap_or(0),
            lport: field!(lport).unwrap_or(0),
            rport: field!(rport).unwrap_or(0),
            error: field!(error).unwrap_or(0),
            cpu: 0,
            oldstate: parse_state(old)?,
            newstate: parse_state(new)?,
            family: if is_v6 { AF_INET6 } else { AF_INET },
            flags: flag,
            comm,
        })?)
    }
}

fn wire(addr: Option<IpAddr>, is_v6: bool) -> [u8; 16] {
    match addr {
        None if is_v6 => [0; 16],
        None => wire(Some(IpAddr::from([0; 4])), false),
        Some(IpAddr::V4(addr)) => addr.to_ipv6_mapped().octets(),
        Some(IpAddr::V6(addr)) => addr.octets(),
    }
}
