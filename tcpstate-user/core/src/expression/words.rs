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
    /// The moments at which its field is known.
    pub known: &'static [Moment],
    /// The kind of its value.
    pub(super) kind: Kind,
}

/// The moment at which a socket is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// In a list of the sockets that there are: `ls`, and that of `top`.
    List,
    /// At a transition: `trace`.
    Change,
    /// At the end of a connection: `life`.
    End,
    /// At every event, for all of the socket's: `hist`, `rates`, `record`.
    Always,
    /// In a list of the connections that are open and followed: that of `serve`.
    Present,
}

impl Moment {
    /// The command that judges at this moment, if it is the only one.
    pub(super) const fn command(self) -> Option<&'static str> {
        match self {
            Self::List => Some("ls"),
            Self::Change => Some("trace"),
            Self::End => Some("life"),
            Self::Always | Self::Present => None,
        }
    }
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
    OldState,
    NewState,
    Cause,
    Role,
    Netns,
    User,
    Cgroup,
    Unit,
    Container,
    Pod,
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
        known: &[
            Moment::List,
            Moment::Change,
            Moment::End,
            Moment::Always,
            Moment::Present,
        ],
        kind,
    }
}

impl Word {
    const fn at(self, known: &'static [Moment]) -> Self {
        Self { known, ..self }
    }

    /// Whether its field is known then.
    pub fn is_known(&self, moment: Moment) -> bool {
        self.known.contains(&moment)
    }
}

const ALL_BUT_ALWAYS: &[Moment] = &[Moment::List, Moment::Change, Moment::End];
/// Those at which there is one state, or several that a condition may be about.
const IN_STATES: &[Moment] = &[Moment::List, Moment::Change, Moment::End, Moment::Present];
const ENDS: &[Moment] = &[Moment::Change, Moment::End];

const HOST: &str = "[=] ADDRESS[/BITS][:PORT]";
const PORT: &str = "[OP] PORT|LIST";
const LIST: &str = "[=] LIST";
const GLOBS: &str = "[=] GLOB[,GLOB]";
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
        "[OP] PORT",
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
    )
    .at(IN_STATES),
    word("exclude", LIST, "all states but these", Kind::State).at(IN_STATES),
    word(
        "oldstate",
        LIST,
        "the state before the change",
        Kind::OldState,
    )
    .at(&[Moment::Change]),
    word(
        "newstate",
        LIST,
        "the state after the change",
        Kind::NewState,
    )
    .at(&[Moment::Change]),
    word(
        "cause",
        LIST,
        "the cause of the connection's end",
        Kind::Cause,
    )
    .at(ENDS),
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
        GLOBS,
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
        "unit",
        GLOBS,
        "the systemd unit; `.service` may be left out",
        Kind::Unit,
    ),
    word(
        "container",
        GLOBS,
        "the container: its id, 12 of its digits or more, or its name",
        Kind::Container,
    ),
    word(
        "pod",
        GLOBS,
        "the Kubernetes pod: namespace/name, its name alone, or its UID",
        Kind::Pod,
    ),
    word(
        "dwell",
        DURATION,
        "the time in the present state",
        Kind::Duration(super::Field::Dwell),
    )
    .at(&[Moment::List, Moment::Change, Moment::Present]),
    word(
        "lifetime",
        DURATION,
        "the time from the first transition to the last, at the end",
        Kind::Duration(super::Field::Lifetime),
    )
    .at(ENDS),
    word(
        "handshake",
        DURATION,
        "the time to establish; of a server, the first round trip",
        Kind::Duration(super::Field::Handshake),
    )
    .at(ENDS),
    word(
        "bytes_sent",
        SIZE,
        "payload sent, retransmissions included",
        Kind::Bytes(super::Field::BytesSent),
    )
    .at(ALL_BUT_ALWAYS),
    word(
        "bytes_received",
        SIZE,
        "payload received",
        Kind::Bytes(super::Field::BytesReceived),
    )
    .at(ALL_BUT_ALWAYS),
    word(
        "retransmits",
        NUMBER,
        "segments retransmitted",
        Kind::Count(super::Field::Retransmits),
    )
    .at(ALL_BUT_ALWAYS),
    word(
        "srtt",
        DURATION,
        "the smoothed round-trip time",
        Kind::Duration(super::Field::Srtt),
    )
    .at(ALL_BUT_ALWAYS),
];

/// Words of ss(8) that are refused.
pub(super) const REFUSED: [&str; 3] = ["dev", "fwmark", "autobound"];
