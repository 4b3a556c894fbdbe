//! JSON, one object a line: the fields that all lines share, and the last line.

use std::{
    borrow::Cow,
    io::{self, Write},
    net::IpAddr,
};

use serde::{Serialize, Serializer};
use serde_json::ser::{CompactFormatter, Formatter};
use tcpstate_common::State;

use super::time::Rfc3339;
use tcpstate_core::escape::is_harmful;
use tcpstate_core::{
    books::{Accounting, Cost, FilteredByReason, LostByReason, RejectedByReason, Selection},
    cause::Cause,
    model::Books,
    owner::How,
    service::Role,
    view::End,
};

/// Writes lines.
#[derive(Debug, Default)]
pub struct Lines {
    // Kept, so that a line costs no allocation; whole, so that no half line is left in the output.
    line: Vec<u8>,
}

impl Lines {
    /// Writes a line.
    pub fn write(&mut self, value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
        self.line.clear();
        let mut serializer = serde_json::Serializer::with_formatter(&mut self.line, Harmless);
        value.serialize(&mut serializer)?;
        self.line.push(b'\n');
        out.write_all(&self.line)
    }
}

/// The compact form, with every harmful character as `\u....`: JSON itself only wants that of the
/// first 32.
struct Harmless;

impl Formatter for Harmless {
    #[expect(
        clippy::string_slice,
        reason = "before and after a character that is there"
    )]
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        // Nearly all of it, the names of the fields included.
        if fragment.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return CompactFormatter.write_string_fragment(writer, fragment);
        }
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|&(_, c)| is_harmful(c)) {
            CompactFormatter.write_string_fragment(writer, &rest[..at])?;
            // All of them have four digits or fewer.
            write!(writer, "\\u{:04x}", u32::from(c))?;
            rest = &rest[at + c.len_utf8()..];
        }
        CompactFormatter.write_string_fragment(writer, rest)
    }
}

/// A state: its name, or its number where it has none.
pub fn state<S: Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
    match state.name() {
        Some(name) => serializer.serialize_str(name),
        None => serializer.serialize_u8(state.0),
    }
}

/// A state by its name, where a function does not fit.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StateName(#[serde(serialize_with = "state")] pub State);

/// A process's name; what is no UTF-8 in it becomes U+FFFD.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// A name of these bytes, without their padding.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The name as the process chose it.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

impl Serialize for Name<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(self.0))
    }
}

/// What every line about a socket carries.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Common<'a> {
    /// Wall-clock time.
    pub ts: Rfc3339<'a>,
    /// Monotonic time.
    pub ts_ns: u64,
    /// The socket's cookie.
    pub cookie: Option<u64>,
    /// Inode number of the network namespace.
    pub netns: Option<u32>,
    /// `ipv4` or `ipv6`: what travels on the wire.
    pub family: &'static str,
    /// Local address.
    pub laddr: IpAddr,
    /// Local port; 0 is none yet.
    pub lport: u16,
    /// Remote address.
    pub raddr: IpAddr,
    /// Remote port; 0 is none yet.
    pub rport: u16,
    /// The port a person means.
    pub service_port: Option<u16>,
    /// `client` or `server`.
    pub role: Option<&'static str>,
    /// Whom it belongs to.
    pub owner: Option<Owner<'a>>,
    /// The user it belongs to.
    pub uid: Option<u32>,
    /// Path of its cgroup.
    pub cgroup: Option<&'a str>,
    /// Id of its cgroup.
    pub cgroup_id: Option<u64>,
}

/// Whom a connection belongs to.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Owner<'a> {
    /// Process id.
    pub pid: Option<u32>,
    /// Process name.
    pub comm: Option<Name<'a>>,
    /// How we know: `exact`, `listener`, `seeded`.
    pub how: &'static str,
}

impl<'a> Owner<'a> {
    /// The owner, if it is known.
    pub fn new(owner: &'a tcpstate_core::owner::Owner) -> Option<Self> {
        (owner.how != How::Unknown).then(|| Self {
            pid: owner.pid,
            comm: owner.comm.as_ref().map(|comm| Name(comm.as_bytes())),
            how: owner.how.name(),
        })
    }
}

/// The role's name, if it is known.
pub fn role(role: Role) -> Option<&'static str> {
    (role != Role::Unknown).then(|| role.name())
}

/// The cause's name, if it is known.
pub fn cause(cause: Option<Cause>) -> Option<Cow<'static, str>> {
    cause
        .filter(|&cause| cause != Cause::Unknown)
        .map(Cause::name)
}

/// The family's name in JSON and CSV.
pub const fn family(is_ipv4: bool) -> &'static str {
    if is_ipv4 { "ipv4" } else { "ipv6" }
}

/// The books of the source. Those of the capture are unknown, not 0, where they are missing.
#[derive(Debug, Serialize)]
struct AccountingFields<'a> {
    seen: Option<u64>,
    filtered: Option<u64>,
    submitted: Option<u64>,
    lost: Option<u64>,
    received: u64,
    rejected: u64,
    filtered_by_reason: Option<&'a FilteredByReason>,
    lost_by_reason: Option<&'a LostByReason>,
    rejected_by_reason: &'a RejectedByReason,
    partial: bool,
}

impl<'a> AccountingFields<'a> {
    fn new(books: &'a Accounting) -> Self {
        let known = (!books.partial).then_some(books);
        Self {
            seen: known.map(|books| books.seen),
            filtered: known.map(|books| books.filtered),
            submitted: known.map(|books| books.submitted),
            lost: known.map(|books| books.lost),
            received: books.received,
            rejected: books.rejected,
            filtered_by_reason: known.map(|books| &books.filtered_by_reason),
            lost_by_reason: known.map(|books| &books.lost_by_reason),
            rejected_by_reason: &books.rejected_by_reason,
            partial: books.partial,
        }
    }
}

/// The last line of a run: the books, and what it cost. `T` is what the view adds.
#[derive(Debug, Serialize)]
pub struct Summary<'a, T> {
    #[serde(rename = "type")]
    kind: &'static str,
    accounting: AccountingFields<'a>,
    selection: &'a Selection,
    #[serde(rename = "self")]
    cost: &'a Cost,
    #[serde(flatten)]
    more: T,
}

impl<'a, T> Summary<'a, T> {
    /// The line for this end.
    pub fn new(end: &'a End, more: T) -> Self {
        Self {
            kind: "summary",
            accounting: AccountingFields::new(&end.accounting),
            selection: &end.selection,
            cost: &end.cost,
            more,
        }
    }
}

/// The tracker's own books, where a view has one: what it did not see of connections, and forgot.
#[derive(Debug, Serialize)]
pub struct Connections {
    /// Open at the end.
    live: u64,
    /// There before their first change.
    first_seen: u64,
    /// Found at the start.
    seeded: u64,
    /// Changes that did not follow on the one before: others in between are missing.
    gaps: u64,
    /// Ended without being seen to: the kernel used the socket for another one.
    superseded: u64,
    /// Forgotten because there were more than are kept.
    evicted: u64,
    /// Listeners not remembered because there were more than are kept.
    listeners_refused: u64,
    /// Beyond their change to CLOSE, and still in `FIN_WAIT2` or `TIME_WAIT` at the end.
    minisockets: u64,
    /// Beyond their change to CLOSE, and nobody knows until when.
    unfollowed: u64,
}

impl Connections {
    /// What these books say.
    pub const fn new(books: &Books) -> Self {
        Self {
            live: books.live,
            first_seen: books.first_seen,
            seeded: books.seeded,
            gaps: books.gaps,
            superseded: books.superseded,
            evicted: books.evicted,
            listeners_refused: books.listeners_refused,
            minisockets: books.minisockets,
            unfollowed: books.unfollowed,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written(value: &impl Serialize) -> String {
        let mut out = Vec::new();
        Lines::default().write(value, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn names_arrive_as_they_were_and_travel_harmlessly() {
        for name in [
            "curl",
            "a\"b\\c",
            "\x1b[2J",
            "\u{9b}31m\u{7f}",
            "\u{202e}gpj",
            "größe\u{200b}",
        ] {
            let line = written(&Name(name.as_bytes()));
            assert!(!line.trim_end().chars().any(is_harmful), "{line}");
            assert_eq!(serde_json::from_str::<String>(&line).unwrap(), name);
        }
        assert_eq!(written(&Name(b"\x9bxyz")), "\"\u{fffd}xyz\"\n");
    }

    #[test]
    fn books_that_are_missing_are_null_and_others_are_whole() {
        let mut books = Accounting {
            seen: 9,
            filtered: 1,
            submitted: 7,
            lost: 1,
            received: 5,
            rejected: 2,
            ..Accounting::default()
        };
        let read = |books: &Accounting| {
            serde_json::from_str::<Value>(&written(&AccountingFields::new(books))).unwrap()
        };
        assert_eq!(read(&books), serde_json::to_value(books).unwrap());

        books.partial = true;
        let mut expected = serde_json::to_value(books).unwrap();
        for name in [
            "seen",
            "filtered",
            "submitted",
            "lost",
            "filtered_by_reason",
            "lost_by_reason",
        ] {
            expected[name] = Value::Null;
        }
        assert_eq!(read(&books), expected);
        assert_eq!(
            (&expected["received"], &expected["rejected"]),
            (&json!(5), &json!(2))
        );
    }

    #[test]
    fn a_state_without_a_name_is_its_number() {
        #[derive(Serialize)]
        struct States(
            #[serde(serialize_with = "state")] State,
            #[serde(serialize_with = "state")] State,
        );
        assert_eq!(
            written(&States(State::CLOSE_WAIT, State(99))),
            "[\"CLOSE_WAIT\",99]\n"
        );
    }
}
