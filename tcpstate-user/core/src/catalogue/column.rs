//! A column of the catalogue, and the value of its field.

use std::fmt;

use std::net::IpAddr;

use tcpstate_common::State;

use crate::{
    cause::Cause,
    handshakes::HalfOpenAt,
    histogram::Histogram,
    model::{Prefix, Stay},
    owner::Holder,
    packet::Notes,
    service::ServicePort,
    transition::TransitionCount,
};

/// The columns of one kind of record.
pub struct Table<R: 'static> {
    /// The kind: `type` in JSON.
    pub name: &'static str,
    /// A sentence that defines one record.
    pub doc: &'static str,
    /// The columns, in order. Kinds share sections, such as [`Common`](super::Common).
    pub sections: &'static [&'static [Column<R>]],
}

impl<R> Table<R> {
    /// The columns, in order.
    pub fn columns(&self) -> impl Iterator<Item = &'static Column<R>> + use<R> {
        self.sections.iter().copied().flatten()
    }

    /// The column of this name.
    ///
    /// # Panics
    ///
    /// If there is none. A text layout is a static, so that this happens at compile time.
    #[expect(
        clippy::indexing_slicing,
        clippy::panic,
        reason = "below the length, and at compile time"
    )]
    pub const fn column(&self, name: &str) -> &'static Column<R> {
        let mut section = 0;
        while section < self.sections.len() {
            let columns = self.sections[section];
            let mut at = 0;
            while at < columns.len() {
                if same(columns[at].name, name) {
                    return &columns[at];
                }
                at += 1;
            }
            section += 1;
        }
        panic!("no column has this name")
    }
}

/// `==`, at compile time.
#[expect(clippy::indexing_slicing, reason = "below the length")]
const fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// One field of a record.
pub struct Column<R: 'static> {
    /// The path in JSON: `owner.pid` is `pid` in the object `owner`. CSV writes `_` for the dot.
    pub name: &'static str,
    /// The type and the unit.
    pub kind: Kind,
    /// Reads the field.
    pub get: for<'a> fn(&'a R) -> Value<'a>,
    /// The meaning, in one sentence.
    pub doc: &'static str,
    /// When it is unknown (`null` in JSON, empty in CSV, `-` in text); empty: never.
    pub unknown: &'static str,
    /// The machine formats that have it.
    pub formats: Formats,
}

impl<R> Column<R> {
    pub(super) const fn new(
        name: &'static str,
        kind: Kind,
        get: for<'a> fn(&'a R) -> Value<'a>,
        doc: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            get,
            doc,
            unknown: "",
            formats: Formats::Both,
        }
    }

    /// With the cases in which it is unknown.
    pub(super) const fn unknown(self, unknown: &'static str) -> Self {
        Self { unknown, ..self }
    }

    /// In one machine format only.
    pub(super) const fn only(self, formats: Formats) -> Self {
        Self { formats, ..self }
    }
}

/// The machine formats that have a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Formats {
    /// JSON and CSV.
    Both,
    /// JSON: a structure that has no place in a cell.
    Json,
    /// CSV: a part of such a structure.
    Csv,
}

/// The type of a field, with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Wall-clock time.
    Time,
    /// A duration, or a monotonic time.
    Nanoseconds,
    /// A duration.
    Microseconds,
    /// A duration.
    Milliseconds,
    /// An amount of data.
    Bytes,
    /// How many or how often.
    Count,
    /// How often per second.
    PerSecond,
    /// A part of a whole, from 0 to 1.
    Share,
    /// A number that names something: a cookie, a process.
    Number,
    /// A port.
    Port,
    /// An IP address.
    Address,
    /// A prefix of IP addresses.
    Prefix,
    /// A TCP state.
    State,
    /// Why a connection ended.
    Cause,
    /// One of a few words.
    Word(&'static [&'static str]),
    /// A name or a path that others chose.
    Name,
    /// Yes or no.
    Bool,
    /// The control bits of a TCP header.
    ControlBits,
    /// A list or a map; the text names its elements.
    Nested(&'static str),
}

/// The type, with the unit or the words.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.type_name())?;
        match self {
            Self::Word(words) => write!(f, ": {}", words.join(", ")),
            kind if kind.unit().is_empty() => Ok(()),
            kind => write!(f, ", {}", kind.unit()),
        }
    }
}

impl Kind {
    /// The JSON type.
    pub const fn type_name(self) -> &'static str {
        match self {
            Self::Time
            | Self::Address
            | Self::Prefix
            | Self::State
            | Self::Cause
            | Self::Word(_)
            | Self::Name
            | Self::ControlBits => "string",
            Self::Nanoseconds
            | Self::Microseconds
            | Self::Milliseconds
            | Self::Bytes
            | Self::Count
            | Self::PerSecond
            | Self::Share
            | Self::Number
            | Self::Port => "number",
            Self::Bool => "boolean",
            Self::Nested(elements) => elements,
        }
    }

    /// The unit or the notation; empty where there is nothing to say.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Time => "RFC 3339, UTC",
            Self::Nanoseconds => "ns",
            Self::Microseconds => "µs",
            Self::Milliseconds => "ms",
            Self::Bytes => "bytes",
            Self::PerSecond => "1/s",
            Self::State => "state",
            Self::Cause => "cause",
            Self::Address => "IP address",
            Self::Prefix => "CIDR",
            Self::Port => "port",
            Self::ControlBits => "control bits",
            Self::Count
            | Self::Share
            | Self::Number
            | Self::Word(_)
            | Self::Name
            | Self::Bool
            | Self::Nested(_) => "",
        }
    }
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Not known.
    Unknown,
    /// The whole object that the field belongs to is not there: JSON writes `"owner":null`.
    Absent,
    /// A number.
    Number(u64),
    /// Yes or no.
    Bool(bool),
    /// A word of ours.
    Word(&'static str),
    /// Text that others chose: it must be escaped.
    Name(&'a [u8]),
    /// Wall-clock nanoseconds since 1970.
    Time(i64),
    /// The control bits of a TCP header, named by [`CONTROL_BITS`](crate::event::CONTROL_BITS).
    ControlBits(u8),
    /// The notes about a packet.
    Notes(Notes),
    /// An address.
    Address(IpAddr),
    /// A prefix of addresses.
    Prefix(Prefix),
    /// A state.
    State(State),
    /// A cause.
    Cause(Cause),
    /// A service port, or one of all those that have no group of their own.
    ServicePort(ServicePort),
    /// A count per second; unknown where no time has passed.
    PerSecond {
        /// How often.
        count: u64,
        /// In how many nanoseconds.
        interval_ns: u64,
    },
    /// A part of a whole, from 0 to 1.
    Share(f64),
    /// The states that a connection went through.
    Stays(&'a [Stay]),
    /// Those of them whose time was sampled.
    SampledStays(&'a [Stay]),
    /// Transitions.
    Transitions {
        /// How often each happened.
        counts: &'a [TransitionCount],
        /// The interval that they are counted in, where a rate is wanted.
        interval_ns: Option<u64>,
    },
    /// How many sockets are in each state.
    States {
        /// The states that are known to have some.
        now: &'a [(State, u64)],
        /// Whether minisockets and request sockets were sampled.
        sampled: bool,
    },
    /// How many connections ended for each cause.
    Causes(&'a [(Cause, u64)]),
    /// The times in each state.
    Dwell(&'a [(State, Histogram)]),
    /// The buckets of a histogram.
    Buckets(&'a Histogram),
    /// Half-open connections by place.
    HalfOpen(&'a [HalfOpenAt]),
    /// Processes that have to do with a socket.
    Processes(&'a [Holder]),
}

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Value<'_> {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<u16> for Value<'_> {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<u8> for Value<'_> {
    fn from(number: u8) -> Self {
        Self::Number(number.into())
    }
}

impl From<bool> for Value<'_> {
    fn from(yes: bool) -> Self {
        Self::Bool(yes)
    }
}

impl From<State> for Value<'_> {
    fn from(state: State) -> Self {
        Self::State(state)
    }
}

impl From<IpAddr> for Value<'_> {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

impl From<Cause> for Value<'_> {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Unknown => Self::Unknown,
            cause => Self::Cause(cause),
        }
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Unknown, Into::into)
    }
}
