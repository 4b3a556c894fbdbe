//! The counters and settings of a network namespace, as far as a rule uses them.

use std::{collections::BTreeMap, ops::RangeInclusive};

/// The counters that are read: of `Tcp` in `/proc/net/snmp`, of `TcpExt` in `/proc/net/netstat`, and, with the prefix
/// `sockstat.`, of `TCP` in `/proc/net/sockstat`, which are no counters but present numbers.
pub const COUNTERS: &[&str] = &[
    "ActiveOpens",
    "PassiveOpens",
    "AttemptFails",
    "EstabResets",
    "OutRsts",
    "RetransSegs",
    "OutSegs",
    "EmbryonicRsts",
    "ListenDrops",
    "ListenOverflows",
    "SyncookiesSent",
    "SyncookiesRecv",
    "SyncookiesFailed",
    "TCPAbortFailed",
    "TCPAbortOnClose",
    "TCPAbortOnData",
    "TCPAbortOnMemory",
    "TCPAbortOnTimeout",
    "TCPDeferAcceptDrop",
    "TCPReqQFullDoCookies",
    "TCPReqQFullDrop",
    "TCPSynRetrans",
    "TCPTimeWaitOverflow",
    "TW",
    "sockstat.inuse",
    "sockstat.orphan",
    "sockstat.tw",
    "sockstat.alloc",
    "sockstat.mem",
];

/// The settings that are read, as paths below `/proc/sys`.
pub const SETTINGS: &[&str] = &[
    "net/core/somaxconn",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/tcp_abort_on_overflow",
    "net/ipv4/tcp_fin_timeout",
    "net/ipv4/tcp_keepalive_time",
    "net/ipv4/tcp_max_orphans",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_max_tw_buckets",
    "net/ipv4/tcp_orphan_retries",
    "net/ipv4/tcp_retries2",
    "net/ipv4/tcp_syn_retries",
    "net/ipv4/tcp_synack_retries",
    "net/ipv4/tcp_syncookies",
    "net/ipv4/tcp_tw_reuse",
];

/// A network namespace at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetnsFacts {
    /// Its inode number.
    pub netns: u32,
    /// Its name for people.
    pub name: String,
    /// Its counters.
    pub counters: Counters,
    /// Its settings.
    pub settings: Settings,
}

/// Counters by name. One that this kernel does not have is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    /// The value of this counter.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }
}

impl FromIterator<(&'static str, u64)> for Counters {
    fn from_iter<I: IntoIterator<Item = (&'static str, u64)>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

/// Settings by path. One that this kernel does not have is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<&'static str, String>);

impl Settings {
    /// The text of this setting.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// The number that this setting is.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// The local ports that the kernel chooses from.
    pub fn local_ports(&self) -> Option<RangeInclusive<u16>> {
        let (first, last) = self.text("net/ipv4/ip_local_port_range")?.split_once(' ')?;
        Some(first.parse().ok()?..=last.parse().ok()?)
    }
}

impl FromIterator<(&'static str, String)> for Settings {
    fn from_iter<I: IntoIterator<Item = (&'static str, String)>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}
