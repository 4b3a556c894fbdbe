//! The words that begin a condition: the vocabulary, from which the parser, the help and the manual are made.

/// A word that begins a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// The word.
    pub name: &'static str,
    /// The form of the rest.
    pub form: &'static str,
    /// The meaning of the condition.
    pub doc: &'static str,
    /// The kind of its value.
    pub(super) kind: Kind,
}

/// The kinds of conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `ADDRESS[/BITS][:PORT]`.
    Host(Ends),
    /// A comparison with a port.
    Port(Ends),
    /// A range of ports.
    PortRange,
    Family,
    Service,
    State,
    Role,
    Netns,
    User,
    Cgroup,
    Pid,
    Comm,
    Duration(super::Field),
    Count(super::Field),
    Bytes(super::Field),
}

/// Which ends a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    One(super::Side),
    Either,
}

const LOCAL: Ends = Ends::One(super::Side::Local);
const REMOTE: Ends = Ends::One(super::Side::Remote);

const fn word(name: &'static str, form: &'static str, doc: &'static str, kind: Kind) -> Word {
    Word {
        name,
        form,
        doc,
        kind,
    }
}

const HOST: &str = "[=] ADDRESS[/BITS][:PORT]";
const PORT: &str = "[OP] PORT";
const LIST: &str = "[=] LIST";
const NUMBER: &str = "[OP] NUMBER";
const DURATION: &str = "[OP] DURATION";
const SIZE: &str = "[OP] SIZE";

/// All words, in the order of the help.
pub const WORDS: &[Word] = &[
    word("src", HOST, "the local end", Kind::Host(LOCAL)),
    word("dst", HOST, "the remote end", Kind::Host(REMOTE)),
    word("sport", PORT, "the local port", Kind::Port(LOCAL)),
    word("dport", PORT, "the remote port", Kind::Port(REMOTE)),
    word("host", HOST, "either end", Kind::Host(Ends::Either)),
    word(
        "net",
        HOST,
        "either end, as `host`",
        Kind::Host(Ends::Either),
    ),
    word(
        "port",
        PORT,
        "the port of either end",
        Kind::Port(Ends::Either),
    ),
    word(
        "portrange",
        "PORT-PORT",
        "the port of either end is one of these",
        Kind::PortRange,
    ),
    word(
        "service",
        PORT,
        "the service port: of a server the local one, of a client the remote one",
        Kind::Service,
    ),
    word(
        "family",
        "[=] ipv4|ipv6",
        "the protocol on the wire",
        Kind::Family,
    ),
    word(
        "state",
        LIST,
        "the states, or the groups all, connected, synchronized, bucket, big",
        Kind::State,
    ),
    word("exclude", LIST, "all states but these", Kind::State),
    word(
        "role",
        "[=] client|server",
        "the role of this side",
        Kind::Role,
    ),
    word(
        "netns",
        "[=] NETNS",
        "the network namespace: a name, a path or an inode number",
        Kind::Netns,
    ),
    word(
        "pid",
        NUMBER,
        "a process that has to do with the socket",
        Kind::Pid,
    ),
    word(
        "comm",
        "[=] GLOB[,GLOB]",
        "its name; `*` stands for any characters, `?` for one",
        Kind::Comm,
    ),
    word("uid", "[=] USER", "the user, by name or number", Kind::User),
    word("user", "[=] USER", "the same", Kind::User),
    word(
        "cgroup",
        "[=] PATH",
        "the cgroup, or one above it",
        Kind::Cgroup,
    ),
    word(
        "dwell",
        DURATION,
        "the time in the present state",
        Kind::Duration(super::Field::Dwell),
    ),
    word(
        "bytes_sent",
        SIZE,
        "payload sent, retransmissions included",
        Kind::Bytes(super::Field::BytesSent),
    ),
    word(
        "bytes_received",
        SIZE,
        "payload received",
        Kind::Bytes(super::Field::BytesReceived),
    ),
    word(
        "retransmits",
        NUMBER,
        "segments retransmitted",
        Kind::Count(super::Field::Retransmits),
    ),
    word(
        "srtt",
        DURATION,
        "the smoothed round-trip time",
        Kind::Duration(super::Field::Srtt),
    ),
];

/// Words of ss(8) that are refused.
pub(super) const REFUSED: [&str; 3] = ["dev", "fwmark", "autobound"];
