//! The packets of a capture, by what became of them.

use serde::{Deserialize, Serialize};

use super::is_zero;

/// The kind of a packet that is no TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTcp {
    /// UDP, but for the tunnels that are followed.
    Udp,
    /// ICMP, of either version.
    Icmp,
    /// ARP.
    Arp,
    /// A fragment other than the first, which has no header.
    Fragment,
    /// Another protocol over IP.
    OtherIp,
    /// Another protocol.
    Other,
}

/// The reason why a packet cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The capture has not enough of it to find the TCP header: its snap length was too short.
    Cut,
    /// Its lengths contradict each other.
    Malformed,
    /// Its first header is of a kind that is not known here.
    LinkType,
    /// The checksum of its IPv4 header is wrong, where checksums are verified.
    IpChecksum,
    /// The checksum of its TCP segment is wrong, where checksums are verified.
    TcpChecksum,
}

/// The packets of a capture: `seen = tcp + not_tcp + unreadable`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packets {
    /// All packets that were read.
    pub seen: u64,
    /// TCP.
    pub tcp: u64,
    /// Something else.
    pub not_tcp: u64,
    /// Not to be read.
    pub unreadable: u64,
    /// Those of `tcp` that were inside a tunnel.
    pub tunnelled: u64,
    /// `not_tcp` by kind.
    pub not_tcp_by_kind: NotTcpByKind,
    /// `unreadable` by reason.
    pub unreadable_by_reason: UnreadableByReason,
}

/// The packets that are no TCP, by kind ([`NotTcp`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the kinds are described there")]
pub struct NotTcpByKind {
    pub udp: u64,
    pub icmp: u64,
    pub arp: u64,
    pub fragment: u64,
    pub other_ip: u64,
    pub other: u64,
}

/// The packets that cannot be read, by reason ([`Unreadable`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the reasons are described there")]
pub struct UnreadableByReason {
    pub cut: u64,
    pub malformed: u64,
    pub link_type: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ip_checksum: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tcp_checksum: u64,
}

impl Packets {
    /// Counts a packet that is no TCP; `seen` is counted apart.
    pub const fn count_not_tcp(&mut self, kind: NotTcp) {
        self.not_tcp += 1;
        let kinds = &mut self.not_tcp_by_kind;
        *match kind {
            NotTcp::Udp => &mut kinds.udp,
            NotTcp::Icmp => &mut kinds.icmp,
            NotTcp::Arp => &mut kinds.arp,
            NotTcp::Fragment => &mut kinds.fragment,
            NotTcp::OtherIp => &mut kinds.other_ip,
            NotTcp::Other => &mut kinds.other,
        } += 1;
    }

    /// Counts a packet that cannot be read; `seen` is counted apart.
    pub const fn count_unreadable(&mut self, reason: Unreadable) {
        self.unreadable += 1;
        let reasons = &mut self.unreadable_by_reason;
        *match reason {
            Unreadable::Cut => &mut reasons.cut,
            Unreadable::Malformed => &mut reasons.malformed,
            Unreadable::LinkType => &mut reasons.link_type,
            Unreadable::IpChecksum => &mut reasons.ip_checksum,
            Unreadable::TcpChecksum => &mut reasons.tcp_checksum,
        } += 1;
    }
}
